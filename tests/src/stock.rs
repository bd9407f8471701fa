//! The stock Biscuit library as a second judge: given the ambient facts of `spec/token.md` it must come to the same verdict on scope,
//! limits, TTL, audience, tenant and holder. It knows nothing of revocation and freshness.

use std::time::Duration;

use biscuit_auth::builder::{Fact, Term};
use biscuit_auth::error::{FailedCheck, Logic, Token};
use biscuit_auth::{Algorithm, AuthorizerBuilder, AuthorizerLimits, Biscuit, PublicKey};
use procura_verifier::call::{Call, Value};
use procura_verifier::ids::{Key, UtcMillis};

use crate::fixtures::{ROOT, public};

/// Explicit limits: the default of 1 ms of wall clock denies valid tokens on a busy machine.
pub const LIMITS: AuthorizerLimits = AuthorizerLimits { max_facts: 10_000, max_iterations: 100, max_time: Duration::from_secs(60) };

/// One ambient fact for each thing that a tool knows of a call (`spec/token.md`, ambient facts).
pub fn ambient(call: &Call<'_>, now: UtcMillis, holders: &[Key]) -> Vec<Fact> {
    let text = |s: &str| Term::Str(s.to_owned());
    let fact = |name: &str, terms: Vec<Term>| Fact::new(name.to_owned(), terms);
    let mut facts = vec![
        fact("time", vec![Term::Date(now.secs())]),
        fact("at_tenant", vec![text(call.tenant.as_str())]),
        fact("at_service", vec![text(call.audience.service().as_str())]),
        fact("tool", vec![text(call.tool.as_str())]),
        fact("action", vec![text(call.action.as_str())]),
        fact("resource", vec![Term::Array(call.resource.segments().iter().map(|s| text(s)).collect())]),
        fact("data_class", vec![Term::Integer(call.data_class as i64)]),
    ];
    for (name, value) in call.args.iter() {
        match value {
            Value::Int(n) => facts.push(fact("number", vec![text(name.as_str()), Term::Integer(*n), text("")])),
            Value::Quantity { minor, unit } => facts.push(fact("number", vec![text(name.as_str()), Term::Integer(*minor), text(unit.as_str())])),
            Value::Text(t) => facts.push(fact("text", vec![text(name.as_str()), text(t)])),
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => {}
        }
    }
    facts.extend(holders.iter().map(|k| fact("holder_proof", vec![Term::Bytes(k.as_bytes().to_vec())])));
    facts
}

/// Which kinds of checks failed; all false is an allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Failed {
    /// Tenant.
    pub tenant: bool,
    /// Service.
    pub audience: bool,
    /// A holder's proof.
    pub holder: bool,
    /// Not yet, or no longer.
    pub time: bool,
    /// A capability, a limit, the class of data.
    pub within: bool,
}

/// The root key as the stock library holds it.
pub fn root() -> PublicKey {
    PublicKey::from_bytes(public(ROOT).as_bytes(), Algorithm::Ed25519).unwrap()
}

/// Reads and verifies.
pub fn read(token: &[u8]) -> Biscuit {
    Biscuit::from(token, root()).unwrap()
}

/// Evaluates all checks under `allow if true`. Anything but a verdict (a limit, an engine error) fails the test.
pub fn judge(token: &Biscuit, facts: &[Fact]) -> Failed {
    let builder = facts.iter().try_fold(AuthorizerBuilder::new(), |b, f| b.fact(f.clone())).unwrap();
    let mut authorizer = builder.code("allow if true").unwrap().set_limits(LIMITS).build(token).unwrap();
    let checks = match authorizer.authorize_with_limits(LIMITS) {
        Ok(_) => return Failed::default(),
        Err(Token::FailedLogic(Logic::Unauthorized { checks, .. })) => checks,
        Err(other) => panic!("the stock library gave no verdict: {other}"),
    };
    let mut failed = Failed::default();
    for check in checks {
        let FailedCheck::Block(check) = check else { panic!("a check of the authorizer: there is none") };
        let body = check.rule.strip_prefix("check if ").unwrap_or_else(|| panic!("an unknown kind of check: {}", check.rule));
        let kind = match body.split('(').next().unwrap() {
            "at_tenant" => &mut failed.tenant,
            "at_service" => &mut failed.audience,
            "holder_proof" => &mut failed.holder,
            "time" => &mut failed.time,
            "tool" | "number" | "text" | "data_class" => &mut failed.within,
            other => panic!("a check over `{other}`"),
        };
        *kind = true;
    }
    failed
}

/// True if no check failed.
pub fn allows(token: &Biscuit, facts: &[Fact]) -> bool {
    judge(token, facts) == Failed::default()
}
