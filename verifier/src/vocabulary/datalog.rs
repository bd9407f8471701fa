//! Biscuit's wire structs as the vocabulary writes and reads them: symbols, facts, checks, terms. No words of ours here.

use biscuit_auth::format::schema;
use prost::Message as _;
use schema::{op::Content as OpContent, op_binary::Kind as Bin, term::Content as TermContent};

use crate::wire::Malformed;

/// The symbol table as blocks build it up: Biscuit's 28 default symbols, then those of the blocks in order.
#[derive(Clone, Default)]
pub(crate) struct Symbols {
    own: Vec<String>,
}

impl Symbols {
    const OFFSET: usize = 1024;

    pub(super) fn insert(&mut self, text: &str) -> u64 {
        if let Some(i) = DEFAULT_SYMBOLS.iter().position(|s| *s == text) {
            return i as u64;
        }
        let i = self.own.iter().position(|s| s == text).unwrap_or_else(|| {
            self.own.push(text.to_owned());
            self.own.len() - 1
        });
        (Self::OFFSET + i) as u64
    }

    pub(super) fn find(&self, index: u64) -> Result<&str, Malformed> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let found = match index.checked_sub(Self::OFFSET) {
            None => DEFAULT_SYMBOLS.get(index).copied(),
            Some(i) => self.own.get(i).map(String::as_str),
        };
        found.ok_or(OUTSIDE)
    }
}

/// Decodes a block and adds its symbols to the table.
pub(super) fn decode(payload: &[u8], symbols: &mut Symbols) -> Result<schema::Block, Malformed> {
    let mut proto = schema::Block::decode(payload).map_err(|_| OUTSIDE)?;
    symbols.own.append(&mut proto.symbols);
    if symbols.own.len() > MAX_SYMBOLS || proto.facts.len() > MAX_FACTS || proto.checks.len() > MAX_CHECKS || !proto.rules.is_empty() {
        return Err(OUTSIDE);
    }
    Ok(proto)
}

pub(super) fn same(written: &[u8], payload: &[u8]) -> Result<(), Malformed> {
    if written == payload { Ok(()) } else { Err(OUTSIDE) }
}

pub(super) struct Writer<'s> {
    symbols: &'s mut Symbols,
    known: usize,
    facts: Vec<schema::Fact>,
    checks: Vec<schema::Check>,
}

impl<'s> Writer<'s> {
    pub(super) fn new(symbols: &'s mut Symbols) -> Self {
        Self { known: symbols.own.len(), symbols, facts: Vec::new(), checks: Vec::new() }
    }

    pub(super) fn fact<R>(&mut self, name: &str, terms: impl FnOnce(&mut TermWriter<'_>) -> R) {
        let predicate = predicate(self.symbols, name, terms);
        self.facts.push(schema::Fact { predicate });
    }

    pub(super) fn check(&mut self, query: impl FnOnce(&mut Query<'_>)) {
        self.any([query]);
    }

    /// A check that one of several queries must satisfy.
    pub(super) fn any<F: FnOnce(&mut Query<'_>)>(&mut self, queries: impl IntoIterator<Item = F>) {
        let queries = queries.into_iter().map(|fill| {
            let mut q = Query { symbols: self.symbols, body: Vec::new(), expressions: Vec::new() };
            fill(&mut q);
            let head = schema::Predicate { name: q.symbols.insert("query"), terms: Vec::new() };
            schema::Rule { head, body: q.body, expressions: q.expressions, scope: Vec::new() }
        });
        let queries = queries.collect();
        self.checks.push(schema::Check { queries, kind: None });
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let symbols = self.symbols.own.get(self.known..).unwrap_or_default().to_vec();
        // Datalog 3.3 always: so a stock library gives every block signature version 1 (law 3).
        schema::Block { symbols, context: None, version: Some(6), facts: self.facts, rules: vec![], checks: self.checks, scope: vec![], public_keys: vec![] }
            .encode_to_vec()
    }
}

pub(super) struct Query<'s> {
    pub(super) symbols: &'s mut Symbols,
    body: Vec<schema::Predicate>,
    expressions: Vec<schema::Expression>,
}

impl Query<'_> {
    pub(super) fn predicate<R>(&mut self, name: &str, terms: impl FnOnce(&mut TermWriter<'_>) -> R) {
        let predicate = predicate(self.symbols, name, terms);
        self.body.push(predicate);
    }

    pub(super) fn expression(&mut self, ops: impl IntoIterator<Item = OpContent>) {
        self.expressions.push(schema::Expression { ops: ops.into_iter().map(|c| schema::Op { content: Some(c) }).collect() });
    }

    pub(super) fn var(&mut self, name: &str) -> OpContent {
        value(variable(self.symbols, name))
    }

    pub(super) fn compare(&mut self, var: &str, kind: Bin, bound: TermContent) {
        let var = self.var(var);
        self.expression([var, value(bound), binary(kind)]);
    }

    pub(super) fn contains<'a>(&mut self, texts: impl Iterator<Item = &'a str>, var: &str) {
        let list = array(self.symbols, texts);
        let var = self.var(var);
        self.expression([value(list), var, binary(Bin::Contains)]);
    }
}

pub(super) struct TermWriter<'s> {
    symbols: &'s mut Symbols,
    terms: Vec<schema::Term>,
}

impl TermWriter<'_> {
    pub(super) fn push(&mut self, content: TermContent) {
        self.terms.push(schema::Term { content: Some(content) });
    }
    pub(super) fn int(&mut self, n: i64) {
        self.push(TermContent::Integer(n));
    }
    pub(super) fn bool(&mut self, b: bool) {
        self.push(TermContent::Bool(b));
    }
    pub(super) fn date(&mut self, secs: u64) {
        self.push(TermContent::Date(secs));
    }
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.push(TermContent::Bytes(bytes.to_vec()));
    }
    pub(super) fn str(&mut self, text: &str) {
        let index = self.symbols.insert(text);
        self.push(TermContent::String(index));
    }
    pub(super) fn var(&mut self, name: &str) {
        let content = variable(self.symbols, name);
        self.push(content);
    }
    pub(super) fn strs<'a>(&mut self, texts: impl Iterator<Item = &'a str>) {
        let content = array(self.symbols, texts);
        self.push(content);
    }
}

pub(super) fn predicate<R>(symbols: &mut Symbols, name: &str, fill: impl FnOnce(&mut TermWriter<'_>) -> R) -> schema::Predicate {
    let name = symbols.insert(name);
    let mut w = TermWriter { symbols, terms: Vec::new() };
    fill(&mut w);
    schema::Predicate { name, terms: w.terms }
}

pub(super) fn variable(symbols: &mut Symbols, name: &str) -> TermContent {
    // The table holds at most `MAX_SYMBOLS` above the offset: the index fits.
    TermContent::Variable(u32::try_from(symbols.insert(name)).unwrap_or(u32::MAX))
}

pub(super) fn array<'a>(symbols: &mut Symbols, texts: impl Iterator<Item = &'a str>) -> TermContent {
    let array = texts.map(|s| schema::Term { content: Some(TermContent::String(symbols.insert(s))) }).collect();
    TermContent::Array(schema::Array { array })
}

pub(super) const fn value(content: TermContent) -> OpContent {
    OpContent::Value(schema::Term { content: Some(content) })
}

pub(super) const fn binary(kind: Bin) -> OpContent {
    OpContent::Binary(schema::OpBinary { kind: kind as i32, ffi_name: None })
}

/// Facts in the order in which they are written.
pub(super) struct Reader<'a> {
    pub(super) facts: &'a [schema::Fact],
    pub(super) symbols: &'a Symbols,
}

impl<'a> Reader<'a> {
    pub(super) fn is_next(&self, name: &str) -> bool {
        self.facts.first().is_some_and(|f| self.symbols.find(f.predicate.name) == Ok(name))
    }

    pub(super) fn next(&mut self, name: &str) -> Result<Terms<'a>, Malformed> {
        if !self.is_next(name) {
            return Err(OUTSIDE);
        }
        let (first, rest) = self.facts.split_first().ok_or(OUTSIDE)?;
        self.facts = rest;
        Ok(Terms { terms: predicate_terms(&first.predicate), symbols: self.symbols })
    }
}

pub(super) struct Terms<'a> {
    pub(super) terms: &'a [schema::Term],
    pub(super) symbols: &'a Symbols,
}

impl<'a> Terms<'a> {
    pub(super) fn next(&mut self) -> Result<&'a TermContent, Malformed> {
        let (first, rest) = self.terms.split_first().ok_or(OUTSIDE)?;
        self.terms = rest;
        content(Some(first))
    }
    pub(super) fn int(&mut self) -> Result<i64, Malformed> {
        if let TermContent::Integer(n) = self.next()? { Ok(*n) } else { Err(OUTSIDE) }
    }
    pub(super) fn bool(&mut self) -> Result<bool, Malformed> {
        if let TermContent::Bool(b) = self.next()? { Ok(*b) } else { Err(OUTSIDE) }
    }
    pub(super) fn date(&mut self) -> Result<u64, Malformed> {
        if let TermContent::Date(d) = self.next()? { Ok(*d) } else { Err(OUTSIDE) }
    }
    pub(super) fn str(&mut self) -> Result<&'a str, Malformed> {
        if let TermContent::String(i) = self.next()? { self.symbols.find(*i) } else { Err(OUTSIDE) }
    }
    pub(super) fn strs(&mut self) -> Result<Vec<&'a str>, Malformed> {
        strs(self.next()?, self.symbols)
    }
    pub(super) fn peek_bytes(&self) -> Result<&'a [u8], Malformed> {
        if let TermContent::Bytes(b) = content(self.terms.first())? { Ok(b) } else { Err(OUTSIDE) }
    }
    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.peek_bytes()?;
        self.next()?;
        bytes.try_into().map_err(|_| OUTSIDE)
    }
}

pub(super) fn predicate_terms(predicate: &schema::Predicate) -> &[schema::Term] {
    &predicate.terms
}

pub(super) fn content(term: Option<&schema::Term>) -> Result<&TermContent, Malformed> {
    term.and_then(|t| t.content.as_ref()).ok_or(OUTSIDE)
}

/// Operand `op` of expression `expression`.
pub(super) fn operand(query: &schema::Rule, expression: usize, op: usize) -> Result<&TermContent, Malformed> {
    match query.expressions.get(expression).and_then(|e| e.ops.get(op)).and_then(|op| op.content.as_ref()) {
        Some(OpContent::Value(term)) => content(Some(term)),
        _ => Err(OUTSIDE),
    }
}

pub(super) fn strs<'a>(term: &'a TermContent, symbols: &'a Symbols) -> Result<Vec<&'a str>, Malformed> {
    let TermContent::Array(array) = term else { return Err(OUTSIDE) };
    let text = |t| match content(Some(t))? {
        TermContent::String(i) => symbols.find(*i),
        _ => Err(OUTSIDE),
    };
    array.array.iter().map(text).collect()
}

pub(super) fn small<T: TryFrom<i64>>(n: i64) -> Result<T, Malformed> {
    T::try_from(n).map_err(|_| OUTSIDE)
}

/// The one answer to everything that is not of the profile.
pub(crate) const OUTSIDE: Malformed = Malformed::new("outside the profile: expected a block in the one form of `spec/token.md`");

const MAX_FACTS: usize = 128;

const MAX_CHECKS: usize = 16;

const MAX_SYMBOLS: usize = 256;

/// Biscuit's default symbols, format version 3 to 6.
const DEFAULT_SYMBOLS: [&str; 28] = [
    "read",
    "write",
    "resource",
    "operation",
    "right",
    "time",
    "role",
    "owner",
    "tenant",
    "namespace",
    "user",
    "team",
    "service",
    "admin",
    "email",
    "group",
    "member",
    "ip_address",
    "client",
    "client_ip",
    "domain",
    "path",
    "version",
    "cluster",
    "node",
    "hostname",
    "nonce",
    "query",
];
