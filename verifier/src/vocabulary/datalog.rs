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

/// Decodes the facts of a block that is written again as a whole from them: the checks follow from the facts, and are compared as bytes.
/// Leaving them undecoded spares half the work of a cold block 0.
pub(super) fn decode_facts(payload: &[u8], symbols: &mut Symbols) -> Result<Vec<schema::Fact>, Malformed> {
    let mut proto = SymbolsAndFacts::decode(payload).map_err(|_| OUTSIDE)?;
    symbols.own.append(&mut proto.symbols);
    if symbols.own.len() > MAX_SYMBOLS || proto.facts.len() > MAX_FACTS {
        return Err(OUTSIDE);
    }
    Ok(proto.facts)
}

/// Of [`schema::Block`] what facts need.
#[derive(Clone, PartialEq, prost::Message)]
struct SymbolsAndFacts {
    #[prost(string, repeated, tag = "1")]
    symbols: Vec<String>,
    #[prost(message, repeated, tag = "4")]
    facts: Vec<schema::Fact>,
}

pub(super) fn same(written: &[u8], payload: &[u8]) -> Result<(), Malformed> {
    if written == payload { Ok(()) } else { Err(OUTSIDE) }
}

/// Writes a block as protobuf, straight into bytes: verification writes each block again, so this is on the way of every
/// token that is new to a tool.
pub(super) struct Writer<'s> {
    symbols: &'s mut Symbols,
    known: usize,
    facts: Vec<u8>,
    checks: Vec<u8>,
}

impl<'s> Writer<'s> {
    pub(super) fn new(symbols: &'s mut Symbols) -> Self {
        Self { known: symbols.own.len(), symbols, facts: Vec::with_capacity(512), checks: Vec::with_capacity(512) }
    }

    pub(super) fn fact<R>(&mut self, name: &str, terms: impl FnOnce(&mut TermWriter<'_>) -> R) {
        let symbols = &mut *self.symbols;
        message(&mut self.facts, BLOCK_FACTS, |out| message(out, FACT_PREDICATE, |out| predicate(symbols, out, name, terms)));
    }

    pub(super) fn check(&mut self, query: impl FnOnce(&mut Query<'_>)) {
        self.any([query]);
    }

    /// A check that one of several queries must satisfy.
    pub(super) fn any<F: FnOnce(&mut Query<'_>)>(&mut self, queries: impl IntoIterator<Item = F>) {
        let symbols = &mut *self.symbols;
        message(&mut self.checks, BLOCK_CHECKS, |out| {
            for fill in queries {
                message(out, CHECK_QUERIES, |out| {
                    message(out, RULE_HEAD, |out| varint(out, PREDICATE_NAME, symbols.insert("query")));
                    fill(&mut Query { symbols, out });
                });
            }
        });
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.facts.len() + self.checks.len() + 256);
        for symbol in self.symbols.own.get(self.known..).unwrap_or_default() {
            bytes(&mut out, BLOCK_SYMBOLS, symbol.as_bytes());
        }
        // Datalog 3.3 always: so a stock library gives every block signature version 1 (law 3).
        varint(&mut out, BLOCK_VERSION, 6);
        out.extend_from_slice(&self.facts);
        out.extend_from_slice(&self.checks);
        out
    }
}

/// A query of a check: predicates first, then expressions.
pub(super) struct Query<'s> {
    symbols: &'s mut Symbols,
    out: &'s mut Vec<u8>,
}

impl Query<'_> {
    pub(super) fn predicate<R>(&mut self, name: &str, terms: impl FnOnce(&mut TermWriter<'_>) -> R) {
        let symbols = &mut *self.symbols;
        message(self.out, RULE_BODY, |out| predicate(symbols, out, name, terms));
    }

    pub(super) fn expression(&mut self, ops: impl FnOnce(&mut Ops<'_>)) {
        let symbols = &mut *self.symbols;
        message(self.out, RULE_EXPRESSIONS, |out| ops(&mut Ops { symbols, out }));
    }

    pub(super) fn compare(&mut self, var: &str, kind: Bin, bound: Bound) {
        self.expression(|ops| {
            ops.value(|t| t.var(var));
            ops.value(|t| match bound {
                Bound::Date(secs) => t.date(secs),
                Bound::Integer(n) => t.int(n),
            });
            ops.binary(kind);
        });
    }

    pub(super) fn contains<'a>(&mut self, texts: impl Iterator<Item = &'a str>, var: &str) {
        self.expression(|ops| {
            ops.value(|t| t.strs(texts));
            ops.value(|t| t.var(var));
            ops.binary(Bin::Contains);
        });
    }
}

/// What a variable is compared with.
#[derive(Clone, Copy)]
pub(super) enum Bound {
    Date(u64),
    Integer(i64),
}

/// The operations of an expression, in reverse Polish order.
pub(super) struct Ops<'s> {
    symbols: &'s mut Symbols,
    out: &'s mut Vec<u8>,
}

impl Ops<'_> {
    pub(super) fn value(&mut self, term: impl FnOnce(&mut TermWriter<'_>)) {
        let symbols = &mut *self.symbols;
        message(self.out, OPS, |out| term(&mut TermWriter { symbols, out, field: OP_VALUE }));
    }

    pub(super) fn length(&mut self) {
        message(self.out, OPS, |out| message(out, OP_UNARY, |out| varint(out, OP_KIND, schema::op_unary::Kind::Length as u64)));
    }

    pub(super) fn binary(&mut self, kind: Bin) {
        message(self.out, OPS, |out| message(out, OP_BINARY, |out| varint(out, OP_KIND, kind as u64)));
    }
}

/// Terms of a predicate, or the one of an operation.
pub(super) struct TermWriter<'s> {
    symbols: &'s mut Symbols,
    out: &'s mut Vec<u8>,
    field: u8,
}

impl TermWriter<'_> {
    pub(super) fn int(&mut self, n: i64) {
        // Protobuf's int64: negative numbers as their two's complement.
        message(self.out, self.field, |out| varint(out, TERM_INTEGER, n.cast_unsigned()));
    }
    pub(super) fn bool(&mut self, b: bool) {
        message(self.out, self.field, |out| varint(out, TERM_BOOL, b.into()));
    }
    pub(super) fn date(&mut self, secs: u64) {
        message(self.out, self.field, |out| varint(out, TERM_DATE, secs));
    }
    pub(super) fn bytes(&mut self, value: &[u8]) {
        message(self.out, self.field, |out| bytes(out, TERM_BYTES, value));
    }
    pub(super) fn str(&mut self, text: &str) {
        let index = self.symbols.insert(text);
        message(self.out, self.field, |out| varint(out, TERM_STRING, index));
    }
    pub(super) fn var(&mut self, name: &str) {
        let index = self.symbols.insert(name);
        message(self.out, self.field, |out| varint(out, TERM_VARIABLE, index));
    }
    pub(super) fn strs<'a>(&mut self, texts: impl Iterator<Item = &'a str>) {
        let symbols = &mut *self.symbols;
        message(self.out, self.field, |out| {
            message(out, TERM_ARRAY, |out| {
                for text in texts {
                    let index = symbols.insert(text);
                    message(out, ARRAY_TERMS, |out| varint(out, TERM_STRING, index));
                }
            });
        });
    }
}

fn predicate<R>(symbols: &mut Symbols, out: &mut Vec<u8>, name: &str, terms: impl FnOnce(&mut TermWriter<'_>) -> R) {
    varint(out, PREDICATE_NAME, symbols.insert(name));
    terms(&mut TermWriter { symbols, out, field: PREDICATE_TERMS });
}

/// A nested message under a key, with its length in front: one byte where that is enough, as it mostly is.
fn message<R>(out: &mut Vec<u8>, key: u8, fill: impl FnOnce(&mut Vec<u8>) -> R) {
    out.extend_from_slice(&[key, 0]);
    let start = out.len();
    fill(out);
    let length = out.len() - start;
    match (u8::try_from(length), out.get_mut(start - 1)) {
        (Ok(short @ 0..0x80), Some(place)) => *place = short,
        _ => {
            let mut head = Vec::with_capacity(4);
            number(&mut head, length as u64);
            out.splice(start - 1..start, head);
        }
    }
}

fn bytes(out: &mut Vec<u8>, key: u8, value: &[u8]) {
    out.push(key);
    number(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, key: u8, n: u64) {
    out.push(key);
    number(out, n);
}

fn number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    out.push(n.to_le_bytes()[0]);
}

// Keys of Biscuit's schema: field number and wire type (0 a number, 2 bytes or a message).
const BLOCK_SYMBOLS: u8 = 1 << 3 | 2;
const BLOCK_VERSION: u8 = 3 << 3;
const BLOCK_FACTS: u8 = 4 << 3 | 2;
const BLOCK_CHECKS: u8 = 6 << 3 | 2;
const FACT_PREDICATE: u8 = 1 << 3 | 2;
const PREDICATE_NAME: u8 = 1 << 3;
const PREDICATE_TERMS: u8 = 2 << 3 | 2;
const CHECK_QUERIES: u8 = 1 << 3 | 2;
const RULE_HEAD: u8 = 1 << 3 | 2;
const RULE_BODY: u8 = 2 << 3 | 2;
const RULE_EXPRESSIONS: u8 = 3 << 3 | 2;
const OPS: u8 = 1 << 3 | 2;
const OP_VALUE: u8 = 1 << 3 | 2;
const OP_UNARY: u8 = 2 << 3 | 2;
const OP_BINARY: u8 = 3 << 3 | 2;
const OP_KIND: u8 = 1 << 3;
const TERM_VARIABLE: u8 = 1 << 3;
const TERM_INTEGER: u8 = 2 << 3;
const TERM_STRING: u8 = 3 << 3;
const TERM_DATE: u8 = 4 << 3;
const TERM_BYTES: u8 = 5 << 3 | 2;
const TERM_BOOL: u8 = 6 << 3;
const TERM_ARRAY: u8 = 9 << 3 | 2;
const ARRAY_TERMS: u8 = 1 << 3 | 2;

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
