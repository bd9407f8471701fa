//! What a filter is turned into SQL for, and into.

use super::Operand;

/// Where resources of a kind are kept. All text in it is ours.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// The column of [`crate::scim::resource::Resource::searched`], with its table's alias.
    pub document: &'static str,
    /// Single values with a column of their own, which has an index: path and column. It holds what the document holds, text
    /// in PostgreSQL under `COLLATE "C"`.
    pub columns: &'static [(&'static [&'static str], &'static str)],
    /// Members in a table of their own: what comes behind `SELECT 1 FROM`, bound to this row, and the column of the id,
    /// which has no upper case.
    pub members: Option<(&'static str, &'static str)>,
}

/// A condition and its parameters, numbered from the one asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Condition {
    /// To stand behind `WHERE ... AND`.
    pub sql: String,
    /// In order.
    pub binds: Vec<Operand>,
}
