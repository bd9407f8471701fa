//! A filter as PostgreSQL's SQL.

use std::fmt::Write as _;

use super::table::{Condition, Table};
use super::{Filter, Op, Operand, Path};

/// The condition whose first parameter is `$first`.
pub fn condition(filter: &Filter, table: &Table, first: usize) -> Condition {
    let mut out = Writer { sql: String::new(), binds: Vec::new(), first, lists: 0, table };
    out.filter(filter, &At::Document);
    Condition { sql: out.sql, binds: out.binds }
}

/// What paths begin at.
enum At {
    Document,
    Element(usize),
    Member(&'static str),
}

struct Writer<'a> {
    sql: String,
    binds: Vec<Operand>,
    first: usize,
    lists: usize,
    table: &'a Table,
}

impl Writer<'_> {
    fn filter(&mut self, filter: &Filter, at: &At) {
        match filter {
            Filter::All(all) => self.joined(all, " AND ", at),
            Filter::Any(any) => self.joined(any, " OR ", at),
            Filter::Not(inner) => {
                // Absent is NULL, and NOT NULL would be no answer.
                self.sql.push_str("NOT ((");
                self.filter(inner, at);
                self.sql.push_str(") IS TRUE)");
            }
            Filter::Present(path) => {
                let value = self.value(path, at, None);
                self.put(&[&value, " IS NOT NULL"]);
            }
            Filter::Test(path, op, operand) => {
                let value = self.value(path, at, Some(operand));
                let p = self.bind(operand);
                match op {
                    Op::Equal => self.put(&[&value, " = ", &p]),
                    Op::Contains => self.put(&["strpos(", &value, ", ", &p, ") > 0"]),
                    Op::StartsWith => self.put(&["starts_with(", &value, ", ", &p, ")"]),
                    Op::EndsWith => self.put(&["right(", &value, ", length(", &p, ")) = ", &p]),
                    Op::Greater => self.put(&[&value, " > ", &p]),
                    Op::GreaterOrEqual => self.put(&[&value, " >= ", &p]),
                    Op::Less => self.put(&[&value, " < ", &p]),
                    Op::LessOrEqual => self.put(&[&value, " <= ", &p]),
                }
            }
            Filter::Element(path, inner) => match (self.table.members, path.as_slice()) {
                (Some((from, column)), ["members"]) => {
                    self.put(&["EXISTS (SELECT 1 FROM ", from, " AND ("]);
                    self.filter(inner, &At::Member(column));
                    self.sql.push_str("))");
                }
                _ => {
                    self.lists += 1;
                    let n = self.lists;
                    let list = format!("jsonb_array_elements({} #> '{}') AS e{n}(v)", self.table.document, json_path(path));
                    self.put(&["EXISTS (SELECT 1 FROM ", &list, " WHERE "]);
                    self.filter(inner, &At::Element(n));
                    self.sql.push(')');
                }
            },
        }
    }

    fn joined(&mut self, filters: &[Filter], word: &str, at: &At) {
        for (n, filter) in filters.iter().enumerate() {
            self.sql.push_str(if n == 0 { "(" } else { word });
            self.filter(filter, at);
        }
        self.sql.push(')');
    }

    fn value(&self, path: &Path, at: &At, as_of: Option<&Operand>) -> String {
        // Bytes order text, whatever the database's locale.
        let text = |value: String| match as_of {
            Some(Operand::Text(_)) => format!("({value}) COLLATE \"C\""),
            Some(Operand::Bool(_)) => format!("({value})::boolean"),
            Some(Operand::Moment(_)) => format!("({value})::bigint"),
            None => value,
        };
        match at {
            At::Document => match self.table.columns.iter().find(|(p, _)| *p == path.as_slice()) {
                Some((_, column)) => (*column).to_owned(),
                None if self.table.members.is_some() && path.as_slice() == ["members"] => {
                    let from = self.table.members.map_or("", |(from, _)| from);
                    format!("(SELECT 1 FROM {from} LIMIT 1)")
                }
                None => text(format!("{} #>> '{}'", self.table.document, json_path(path))),
            },
            At::Element(n) => text(format!("e{n}.v #>> '{}'", json_path(path))),
            At::Member(column) if path.as_slice() == ["value"] => (*column).to_owned(),
            At::Member(_) => text("NULL::text".into()),
        }
    }

    fn bind(&mut self, operand: &Operand) -> String {
        self.binds.push(operand.clone());
        format!("${}", self.first + self.binds.len() - 1)
    }

    fn put(&mut self, parts: &[&str]) {
        self.sql.extend(parts.iter().copied());
    }
}

/// Names of the schema, none of which holds a quote.
fn json_path(path: &[&str]) -> String {
    let mut out = String::from("{");
    for (n, name) in path.iter().enumerate() {
        let _ = write!(out, "{}\"{name}\"", if n == 0 { "" } else { "," });
    }
    out + "}"
}
