//! Every fact and check that a token may hold: written and read here, side by side, and nowhere else.
//!
//! A block is read into a value and the value is written again; if the bytes differ, the block is outside the
//! profile (laws 2, 3, 10). So there is no second spelling, no extra fact, no check that says something else than
//! the facts, no symbol that stands for two words, whatever the reader below forgets to look at.
//!
//! The names here are the wire: `spec/token.md` has them as Datalog.

mod datalog;

use biscuit_auth::format::schema;
use schema::{op::Content as OpContent, op_binary::Kind as Bin, term::Content as TermContent};

use crate::card::SignedCard;
use crate::claims::{Block0, Capability, DataClass, Generations, Hops, HumanRef, Limit, Name, Pattern, Possession, Restriction};
use crate::ids::{AgentId, DelegationId, HumanId, Key, Lid, Tid};
use crate::wire::{Canonical as _, Malformed};
use datalog::{Bound, Query, Reader, Terms, Writer, content, decode, decode_facts, operand, predicate_terms, same, small, strs};
pub(crate) use datalog::{OUTSIDE, Symbols};

/// The vocabulary that this code speaks. Another version is malformed (law 10).
pub const VERSION: i64 = 1;

/// Names of the facts that a verifier gives (ambient). None of them may stand as a fact in a token.
pub mod ambient {
    /// `time(date)`: authority UTC.
    pub const TIME: &str = "time";
    /// `at_tenant(text)`: the tenant of the resource.
    pub const TENANT: &str = "at_tenant";
    /// `at_service(text)`: the service that decides.
    pub const SERVICE: &str = "at_service";
    /// `tool(text)`.
    pub const TOOL: &str = "tool";
    /// `action(text)`.
    pub const ACTION: &str = "action";
    /// `resource([text, …])`: its segments.
    pub const RESOURCE: &str = "resource";
    /// `number(argument, integer, unit)`: one for each integer or amount among the arguments; unit `""` for a bare integer.
    pub const NUMBER: &str = "number";
    /// `text(argument, text)`: one for each text among the arguments.
    pub const TEXT: &str = "text";
    /// `data_class(integer)`: 0 public to 3 restricted.
    pub const DATA_CLASS: &str = "data_class";
    /// `holder_proof(key bytes)`: the signer of each verified link, and the key of the call's proof.
    pub const HOLDER_PROOF: &str = "holder_proof";
}

/// What a block after block 0 says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkClaims {
    /// The link's id.
    pub lid: Lid,
    /// The next holder's key.
    pub holder: Key,
    /// How many links may still follow.
    pub depth: u8,
    /// The next holder's card; none for an unregistered key.
    pub card: Option<SignedCard>,
    /// What else it narrows.
    pub restrictions: Vec<Restriction>,
}

/// Writes block 0.
pub(crate) fn write_block0(block: &Block0, symbols: &mut Symbols) -> Vec<u8> {
    let mut w = Writer::new(symbols);
    w.fact("procura", |t| t.int(VERSION));
    w.fact("tenant", |t| t.str(block.tenant.as_str()));
    w.fact("token", |t| t.bytes(block.tid.as_bytes()));
    for ancestor in &block.ancestors {
        w.fact("ancestor", |t| t.bytes(ancestor.as_bytes()));
    }
    w.fact("delegation", |t| t.bytes(block.delegation.as_bytes()));
    w.fact("human", |t| match &block.human {
        HumanRef::Id(id) => t.bytes(id.as_bytes()),
        HumanRef::Pairwise(hash) => t.bytes(hash),
    });
    w.fact("agent", |t| t.bytes(block.agent.as_bytes()));
    w.fact(possession_fact(block.possession), |t| t.bytes(block.holder.as_bytes()));
    for audience in &block.audiences {
        w.fact("audience", |t| t.str(audience.as_str()));
    }
    for (i, capability) in (0_i64..).zip(&block.capabilities) {
        let (segments, below) = pattern_parts(capability.resource());
        w.fact("capability", |t| {
            t.int(i);
            t.str(capability.tool().as_str());
            t.str(capability.action().as_str());
            t.strs(segments.iter().map(|s| &**s));
            t.bool(below);
        });
        for limit in capability.limits() {
            w.fact("limit", |t| {
                t.int(i);
                match limit {
                    Limit::AtMost { arg, max, unit } => {
                        t.str("at_most");
                        t.str(arg.as_str());
                        t.int(*max);
                        t.str(unit.as_str());
                    }
                    Limit::AtLeast { arg, min, unit } => {
                        t.str("at_least");
                        t.str(arg.as_str());
                        t.int(*min);
                        t.str(unit.as_str());
                    }
                    Limit::OneOf { arg, values } => {
                        t.str("one_of");
                        t.str(arg.as_str());
                        t.strs(values.iter().map(String::as_str));
                    }
                }
            });
        }
        if capability.limits().is_empty() {
            w.fact("unlimited", |t| t.int(i));
        }
    }
    w.fact("class_max", |t| t.int(block.class_max as i64));
    w.fact("valid", |t| {
        t.date(block.not_before_secs);
        t.date(block.expires_secs);
    });
    w.fact("links", |t| {
        t.int(block.depth.into());
        t.str(hops_word(block.hops));
    });
    w.fact("fresh_ms", |t| t.int(block.freshness_ms.into()));
    let g = &block.generations;
    // A generation past i64 cannot be written; it saturates, reads back as another number, and the block is refused.
    w.fact("generations", |t| [g.global, g.tenant, g.human, g.agent, g.delegation].map(|n| t.int(i64::try_from(n).unwrap_or(i64::MAX))));

    w.check(|q| {
        q.predicate(ambient::TENANT, |t| t.str(block.tenant.as_str()));
    });
    w.check(|q| {
        q.predicate(ambient::TIME, |t| t.var("time"));
        q.compare("time", Bin::GreaterOrEqual, Bound::Date(block.not_before_secs));
        q.compare("time", Bin::LessThan, Bound::Date(block.expires_secs));
    });
    w.restriction(&Restriction::Audiences(block.audiences.clone()));
    if block.possession == Possession::Proof {
        w.holder_check(&block.holder);
    }
    w.restriction(&Restriction::ClassMax(block.class_max));
    w.restriction(&Restriction::Capabilities(block.capabilities.clone()));
    w.finish()
}

/// Reads block 0: the value of which these bytes are the writing.
pub(crate) fn read_block0(payload: &[u8], symbols: &mut Symbols) -> Result<Block0, Malformed> {
    let facts = decode_facts(payload, symbols)?;
    let mut r = Reader { facts: &facts, symbols };
    if r.next("procura")?.int()? != VERSION {
        return Err(Malformed::new("outside the profile: expected vocabulary version 1"));
    }
    let tenant = r.next("tenant")?.str()?.parse().map_err(|_| OUTSIDE)?;
    let tid = Tid::from_bytes(r.next("token")?.bytes()?);
    let mut ancestors = Vec::new();
    while r.is_next("ancestor") {
        ancestors.push(Tid::from_bytes(r.next("ancestor")?.bytes()?));
    }
    let delegation = DelegationId::from_bytes(r.next("delegation")?.bytes()?);
    let mut human = r.next("human")?;
    let human = match human.peek_bytes()?.len() {
        16 => HumanRef::Id(HumanId::from_bytes(human.bytes()?)),
        _ => HumanRef::Pairwise(human.bytes()?),
    };
    let agent = AgentId::from_bytes(r.next("agent")?.bytes()?);
    let possession = if r.is_next(possession_fact(Possession::Bearer)) { Possession::Bearer } else { Possession::Proof };
    let holder = Key::from_bytes(r.next(possession_fact(possession))?.bytes()?);
    let mut audiences = Vec::new();
    while r.is_next("audience") {
        audiences.push(r.next("audience")?.str()?.parse()?);
    }
    let mut capabilities = Vec::new();
    while r.is_next("capability") {
        let mut f = r.next("capability")?;
        let _index = f.int()?;
        let (tool, action) = (f.str()?.parse()?, f.str()?.parse()?);
        let segments = f.strs()?;
        let resource = Pattern::from_segments(segments.iter().copied(), f.bool()?)?;
        let mut limits = Vec::new();
        while r.is_next("limit") {
            let mut f = r.next("limit")?;
            let _index = f.int()?;
            let (kind, arg) = (f.str()?, f.str()?.parse()?);
            limits.push(match kind {
                "at_most" => Limit::AtMost { arg, max: f.int()?, unit: f.str()?.parse()? },
                "at_least" => Limit::AtLeast { arg, min: f.int()?, unit: f.str()?.parse()? },
                "one_of" => Limit::OneOf { arg, values: f.strs()?.into_iter().map(str::to_owned).collect() },
                _ => return Err(OUTSIDE),
            });
        }
        if limits.is_empty() {
            r.next("unlimited")?;
        }
        capabilities.push(Capability::new(tool, action, resource, limits)?);
    }
    let class_max = DataClass::from_number(r.next("class_max")?.int()?).ok_or(OUTSIDE)?;
    let mut valid = r.next("valid")?;
    let (not_before_secs, expires_secs) = (valid.date()?, valid.date()?);
    let mut links = r.next("links")?;
    let (depth, hops) = (small(links.int()?)?, links.str()?);
    let freshness_ms = small(r.next("fresh_ms")?.int()?)?;
    let mut g = r.next("generations")?;
    let mut generation = || small::<u64>(g.int()?);
    let generations = Generations { global: generation()?, tenant: generation()?, human: generation()?, agent: generation()?, delegation: generation()? };
    let hops = if hops == hops_word(Hops::Any) { Hops::Any } else { Hops::Registered };
    let block = Block0 {
        tenant,
        tid,
        ancestors,
        delegation,
        human,
        agent,
        holder,
        possession,
        audiences,
        capabilities,
        class_max,
        not_before_secs,
        expires_secs,
        depth,
        hops,
        freshness_ms,
        generations,
    };
    block.check()?;
    same(&write_block0(&block, &mut Symbols::default()), payload)?;
    Ok(block)
}

/// Writes a block that only narrows.
pub(crate) fn write_narrow(restrictions: &[Restriction], symbols: &mut Symbols) -> Vec<u8> {
    let mut w = Writer::new(symbols);
    restrictions.iter().for_each(|r| w.restriction(r));
    w.finish()
}

/// Reads a block that only narrows.
pub(crate) fn read_narrow(payload: &[u8], symbols: &mut Symbols) -> Result<Vec<Restriction>, Malformed> {
    let mut before = symbols.clone();
    let proto = decode(payload, symbols)?;
    let restrictions = read_restrictions(&proto.checks, symbols)?;
    if restrictions.is_empty() {
        return Err(OUTSIDE);
    }
    same(&write_narrow(&restrictions, &mut before), payload)?;
    Ok(restrictions)
}

/// Writes a link. Its symbols are its own (Biscuit's third-party blocks).
pub(crate) fn write_link(link: &LinkClaims) -> Vec<u8> {
    let mut symbols = Symbols::default();
    let mut w = Writer::new(&mut symbols);
    w.fact("link", |t| {
        t.bytes(link.lid.as_bytes());
        t.bytes(link.holder.as_bytes());
        t.int(link.depth.into());
    });
    if let Some(card) = &link.card {
        w.fact("card", |t| t.bytes(&card.to_bytes()));
    }
    w.holder_check(&link.holder);
    if let Some(card) = &link.card {
        w.restriction(&Restriction::Until(card.claimed().expires_secs));
    }
    link.restrictions.iter().for_each(|r| w.restriction(r));
    w.finish()
}

/// Reads a link.
pub(crate) fn read_link(payload: &[u8]) -> Result<LinkClaims, Malformed> {
    let mut symbols = Symbols::default();
    let proto = decode(payload, &mut symbols)?;
    let mut r = Reader { facts: &proto.facts, symbols: &symbols };
    let mut f = r.next("link")?;
    let (lid, holder, depth) = (Lid::from_bytes(f.bytes()?), Key::from_bytes(f.bytes()?), small(f.int()?)?);
    let card = if r.is_next("card") { Some(SignedCard::from_bytes(r.next("card")?.peek_bytes()?)?) } else { None };
    let own_checks = 1 + usize::from(card.is_some());
    let restrictions = read_restrictions(proto.checks.get(own_checks..).ok_or(OUTSIDE)?, &symbols)?;
    let link = LinkClaims { lid, holder, depth, card, restrictions };
    same(&write_link(&link), payload)?;
    Ok(link)
}

fn read_restrictions(checks: &[schema::Check], symbols: &Symbols) -> Result<Vec<Restriction>, Malformed> {
    if checks.len() > Restriction::MAX_PER_BLOCK {
        return Err(Malformed::new("outside the profile: expected at most 8 restrictions in a block"));
    }
    checks.iter().map(|c| read_restriction(c, symbols)).collect()
}

fn read_restriction(check: &schema::Check, symbols: &Symbols) -> Result<Restriction, Malformed> {
    let query = check.queries.first().ok_or(OUTSIDE)?;
    let first = query.body.first().ok_or(OUTSIDE)?;
    let restriction = match symbols.find(first.name)? {
        ambient::TIME => match operand(query, 0, 1)? {
            TermContent::Date(d) => Restriction::Until(*d),
            _ => return Err(OUTSIDE),
        },
        ambient::SERVICE => {
            let names = strs(operand(query, 0, 0)?, symbols)?.into_iter().map(str::parse).collect::<Result<Vec<Name>, _>>()?;
            Restriction::Audiences(names)
        }
        ambient::DATA_CLASS => match operand(query, 0, 1)? {
            TermContent::Integer(n) => Restriction::ClassMax(DataClass::from_number(*n).ok_or(OUTSIDE)?),
            _ => return Err(OUTSIDE),
        },
        ambient::TOOL => Restriction::Capabilities(check.queries.iter().map(|q| read_capability(q, symbols)).collect::<Result<_, _>>()?),
        ambient::NUMBER | ambient::TEXT => Restriction::Limit(read_limit(query, 0, 0, symbols)?),
        _ => return Err(OUTSIDE),
    };
    restriction.check()?;
    Ok(restriction)
}

fn read_capability(query: &schema::Rule, symbols: &Symbols) -> Result<Capability, Malformed> {
    let [tool, action, resource, limits @ ..] = query.body.as_slice() else { return Err(OUTSIDE) };
    let word = |p| Terms { terms: predicate_terms(p), symbols }.str();
    let (pattern, used) = match content(resource.terms.first())? {
        exact @ TermContent::Array(_) => (Pattern::from_segments(strs(exact, symbols)?.into_iter(), false)?, 0),
        _ => (Pattern::from_segments(strs(operand(query, 0, 1)?, symbols)?.into_iter(), true)?, 2),
    };
    let limits = (0..limits.len()).map(|i| read_limit(query, 3 + i, used + i, symbols)).collect::<Result<_, _>>()?;
    Capability::new(word(tool)?.parse()?, word(action)?.parse()?, pattern, limits)
}

/// The limit that stands in a query as body predicate `body` and expression `expression`.
fn read_limit(query: &schema::Rule, body: usize, expression: usize, symbols: &Symbols) -> Result<Limit, Malformed> {
    let predicate = query.body.get(body).ok_or(OUTSIDE)?;
    let mut terms = Terms { terms: predicate_terms(predicate), symbols };
    let arg = terms.str()?.parse()?;
    let ops = &query.expressions.get(expression).ok_or(OUTSIDE)?.ops;
    let Some(OpContent::Binary(binary)) = ops.last().and_then(|op| op.content.as_ref()) else { return Err(OUTSIDE) };
    Ok(if binary.kind == Bin::Contains as i32 {
        Limit::OneOf { arg, values: strs(operand(query, expression, 0)?, symbols)?.into_iter().map(str::to_owned).collect() }
    } else {
        let TermContent::Integer(bound) = *operand(query, expression, 1)? else { return Err(OUTSIDE) };
        let _variable = terms.next()?;
        let unit = terms.str()?.parse()?;
        if binary.kind == Bin::LessOrEqual as i32 { Limit::AtMost { arg, max: bound, unit } } else { Limit::AtLeast { arg, min: bound, unit } }
    })
}

impl Writer<'_> {
    fn holder_check(&mut self, holder: &Key) {
        self.check(|q| q.predicate(ambient::HOLDER_PROOF, |t| t.bytes(holder.as_bytes())));
    }

    fn restriction(&mut self, restriction: &Restriction) {
        match restriction {
            Restriction::Until(secs) => self.check(|q| {
                q.predicate(ambient::TIME, |t| t.var("time"));
                q.compare("time", Bin::LessThan, Bound::Date(*secs));
            }),
            Restriction::Audiences(names) => self.check(|q| {
                q.predicate(ambient::SERVICE, |t| t.var("service"));
                q.contains(names.iter().map(Name::as_str), "service");
            }),
            Restriction::ClassMax(class) => self.check(|q| {
                q.predicate(ambient::DATA_CLASS, |t| t.var("class"));
                q.compare("class", Bin::LessOrEqual, Bound::Integer(*class as i64));
            }),
            Restriction::Capabilities(capabilities) => self.any(capabilities.iter().map(|c| move |q: &mut Query<'_>| q.capability(c))),
            Restriction::Limit(limit) => self.check(|q| {
                q.limit_predicate(limit, "0");
                q.limit_expression(limit, "0");
            }),
        }
    }
}

impl Query<'_> {
    /// One capability: all of it in one query, so that no limit is borrowed from another (law 8).
    fn capability(&mut self, capability: &Capability) {
        let (segments, below) = pattern_parts(capability.resource());
        self.predicate(ambient::TOOL, |t| t.str(capability.tool().as_str()));
        self.predicate(ambient::ACTION, |t| t.str(capability.action().as_str()));
        self.predicate(ambient::RESOURCE, |t| if below { t.var("resource") } else { t.strs(segments.iter().map(|s| &**s)) });
        for (limit, var) in capability.limits().iter().zip(LIMIT_VARIABLES) {
            self.limit_predicate(limit, var);
        }
        if below {
            self.expression(|ops| {
                ops.value(|t| t.var("resource"));
                ops.value(|t| t.strs(segments.iter().map(|s| &**s)));
                ops.binary(Bin::Prefix);
            });
            self.expression(|ops| {
                ops.value(|t| t.var("resource"));
                ops.length();
                ops.value(|t| t.int(segments.len() as i64));
                ops.binary(Bin::GreaterThan);
            });
        }
        for (limit, var) in capability.limits().iter().zip(LIMIT_VARIABLES) {
            self.limit_expression(limit, var);
        }
    }

    fn limit_predicate(&mut self, limit: &Limit, var: &str) {
        match limit {
            Limit::AtMost { arg, unit, .. } | Limit::AtLeast { arg, unit, .. } => self.predicate(ambient::NUMBER, |t| {
                t.str(arg.as_str());
                t.var(var);
                t.str(unit.as_str());
            }),
            Limit::OneOf { arg, .. } => self.predicate(ambient::TEXT, |t| {
                t.str(arg.as_str());
                t.var(var);
            }),
        }
    }

    fn limit_expression(&mut self, limit: &Limit, var: &str) {
        match limit {
            Limit::AtMost { max, .. } => self.compare(var, Bin::LessOrEqual, Bound::Integer(*max)),
            Limit::AtLeast { min, .. } => self.compare(var, Bin::GreaterOrEqual, Bound::Integer(*min)),
            Limit::OneOf { values, .. } => self.contains(values.iter().map(String::as_str), var),
        }
    }
}

fn pattern_parts(pattern: &Pattern) -> (&[Box<str>], bool) {
    match pattern {
        Pattern::Exact(r) => (r.segments(), false),
        Pattern::Below(r) => (r.segments(), true),
    }
}

const fn possession_fact(possession: Possession) -> &'static str {
    match possession {
        Possession::Proof => "holder",
        Possession::Bearer => "bearer",
    }
}

const fn hops_word(hops: Hops) -> &'static str {
    match hops {
        Hops::Registered => "registered",
        Hops::Any => "any",
    }
}

const LIMIT_VARIABLES: [&str; 8] = ["0", "1", "2", "3", "4", "5", "6", "7"];
