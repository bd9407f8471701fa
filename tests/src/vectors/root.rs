//! L1 root, L2 complete.

use biscuit_auth::{Algorithm, KeyPair, PrivateKey};
use procura_verifier::claims::{Block0, Possession};
use procura_verifier::ids::UtcMillis;

use super::{Law, Stage, held, honest, presenting};
use crate::case::Case;
use crate::fixtures::{AGENT, CARD, FOREIGN_ROOT, Held, ROOT, block0, capability, public};
use crate::forge::{Forged, block0_of, source};

pub fn l1() -> Law {
    let mut law = Law::new("L1");
    law.pass("signed_by_the_root_key", "the token of the demo, sealed, with its holder's proof", honest());

    let by = |n| presenting(Forged::root(Forged::of(&held().0).payload(0), n).seal());
    law.forged("root_key_of_another_tenant", "another tenant's root key signs a block 0 that names acme", Stage::Signature, by(FOREIGN_ROOT), honest());
    law.forged("signed_by_the_card_key", "a listed key of another use signs block 0", Stage::Signature, by(CARD), honest());

    let hinted = |hint: Option<u32>| {
        let mut forged = Forged::of(&held().seal());
        forged.proto.root_key_id = hint;
        presenting(forged.open())
    };
    let [a, b, c, d, ..] = *public(CARD).as_bytes();
    law.forged(
        "root_key_id_swapped",
        "the hint is not signed; it names the card key",
        Stage::Signature,
        hinted(Some(u32::from_be_bytes([a, b, c, d]))),
        honest(),
    );
    law.forged("root_key_id_stripped", "the hint is not signed; it is gone", Stage::Signature, hinted(None), honest());

    law.forged("p256_root", "P-256 signatures have two forms; their length alone is outside the profile", Stage::Parse, presenting(p256_root()), honest());

    let window = |from: u64, until: u64| {
        honest().with_keys(|k| {
            (k.keys[0].from, k.keys[0].until) = (UtcMillis(from * 1000), UtcMillis(until * 1000));
        })
    };
    let (from, until) = (block0().not_before_secs, block0().expires_secs);
    law.pass("window_that_just_holds_the_token", "root key valid from not-before to expiry", window(from, until));
    law.fail("not_before_ahead_of_the_root_key", "the token began a second before its root key", window(from + 1, until), "signature");
    law.fail("expiry_beyond_the_root_key", "the token ends a second after its root key, though both still live", window(from, until - 1), "signature");
    law.fail("root_key_dead", "killed by its public key, inside its window", honest().with_keys(|k| k.dead = vec![public(ROOT)]), "signature");
    law.fail("root_key_off_the_list", "a newer list without the key", honest().with_keys(|k| k.keys.retain(|k| k.key != public(ROOT))), "signature");

    let elsewhere = honest().asking(AGENT, |r| r.tenant = "globex".into());
    law.fail("resource_of_another_tenant", "the tool says that the resource is globex's", elsewhere, "tenant");
    let foreign = Held::mint(&Block0 { tenant: "globex".parse().unwrap(), ..block0() }).seal();
    law.fail("block_0_names_another_tenant", "acme's root key signs a block 0 for globex; the resource is acme's", presenting(foreign.clone()), "tenant");
    let foreign = presenting(foreign).asking(AGENT, |r| r.tenant = "globex".into());
    law.fail("list_of_another_tenant", "acme's root key signs for globex and the resource is globex's, but the list is acme's", foreign, "tenant");

    let mut forged = Forged::of(&held().seal());
    *forged.proto.authority.signature.last_mut().unwrap() ^= 1;
    law.forged("signature_changed", "one bit of the root signature", Stage::Signature, presenting(forged.open()), honest());
    law
}

/// Our block 0 under a P-256 root key, by a stock library.
fn p256_root() -> Vec<u8> {
    let pair = |n, algorithm| KeyPair::from(&PrivateKey::from_bytes(&[n; 32], algorithm).unwrap());
    let builder = biscuit_auth::Biscuit::builder().code(source(&held().0, 0)).unwrap();
    let token = builder.build_with_key_pair(&pair(ROOT, Algorithm::Secp256r1), biscuit_auth::datalog::SymbolTable::default(), &pair(200, Algorithm::Ed25519));
    token.unwrap().seal().unwrap().to_vec().unwrap()
}

pub fn l2() -> Law {
    let mut law = Law::new("L2");
    law.pass("everything_said", "scope, limits, life, holder and generations are all there", honest());

    let ttl = block0().expires_secs - block0().not_before_secs;
    law.pass("ttl_at_the_maximum", "exactly the tenant's maximum", honest().with_keys(|k| k.max_ttl_secs = ttl));
    law.fail("ttl_above_the_maximum", "one second above the tenant's maximum", honest().with_keys(|k| k.max_ttl_secs = ttl - 1), "malformed");

    let block = |b: &Block0| presenting(Held::mint(b).seal());
    law.pass(
        "unlimited_said_by_name",
        "a capability without limits carries `unlimited`",
        block(&Block0 { capabilities: vec![capability("payments", "transfer", "acct/eu/*", vec![])], ..block0() }),
    );

    let forged = |payload| presenting(Forged::root(payload, ROOT).seal());
    let unlimited = Held::mint(&Block0 { capabilities: vec![capability("payments", "transfer", "acct/eu/*", vec![])], ..block0() });
    let unsaid = source(&unlimited.0, 0).lines().filter(|l| !l.starts_with("unlimited")).collect::<Vec<_>>().join("\n");
    law.forged("unlimited_not_said", "no limits and no `unlimited`", Stage::Parse, forged(block0_of(&unsaid)), presenting(unlimited.seal()));

    for (fact, about) in [
        ("tenant", "no tenant"),
        ("token", "no token id"),
        ("delegation", "no delegation"),
        ("human", "nobody is accountable"),
        ("agent", "no agent"),
        ("holder", "no holder"),
        ("audience", "no audience"),
        ("capability", "no scope"),
        ("class_max", "no ceiling on the class of data"),
        ("valid", "no life"),
        ("links", "no link depth"),
        ("fresh_ms", "no freshness bound"),
        ("generations", "no generations"),
    ] {
        let without = source(&held().0, 0).lines().filter(|l| !l.starts_with(&format!("{fact}("))).collect::<Vec<_>>().join("\n");
        law.forged(&format!("no_{fact}"), about, Stage::Parse, forged(block0_of(&without)), honest());
    }

    let backwards = source(&held().0, 0).replace("T00:50:00Z", "T00:00:00Z").replace("2029-12-31T23:50:00Z", "2030-01-01T00:00:01Z");
    law.forged("expiry_before_not_before", "valid for less than nothing", Stage::Parse, forged(block0_of(&backwards)), honest());

    let bearer = Block0 { possession: Possession::Bearer, depth: 0, ..block0() };
    let take = |mut case: Case| {
        case.request.proof = None;
        case.tool.bearer = true;
        case
    };
    law.pass("bearer_names_its_holder", "a bearer token at a tool that takes them", take(block(&bearer)));
    let nameless = source(&Held::mint(&bearer).0, 0).lines().filter(|l| !l.starts_with("bearer(")).collect::<Vec<_>>().join("\n");
    law.forged(
        "bearer_without_a_holder",
        "a token without holder and without holder check",
        Stage::Parse,
        take(forged(block0_of(&nameless))),
        take(block(&bearer)),
    );

    let eighth = Block0 { ancestors: (0..8).map(|n| procura_verifier::ids::Tid::from_bytes([n; 16])).collect(), ..block0() };
    law.pass("eight_ancestors", "the eighth re-mint", block(&eighth));
    let nine = source(&Held::mint(&eighth).0, 0).replacen("ancestor(", "ancestor(hex:88888888888888888888888888888888);\nancestor(", 1);
    law.forged("nine_ancestors", "the ninth re-mint, signed by the root key all the same", Stage::Parse, forged(block0_of(&nine)), block(&eighth));

    law.fail("not_yet_valid", "one second before not-before", at(from_secs(block0().not_before_secs - 1)), "not_yet_valid");
    law.pass("first_second", "the first millisecond of not-before", at(from_secs(block0().not_before_secs)));
    law.pass("last_millisecond", "the last millisecond before expiry", at(UtcMillis(block0().expires_secs * 1000 - 1)));
    law.fail("expired", "the first millisecond of the expiry", at(from_secs(block0().expires_secs)), "expired");
    law
}

fn from_secs(secs: u64) -> UtcMillis {
    UtcMillis(secs * 1000)
}

/// The honest presentation at another time.
fn at(now: UtcMillis) -> Case {
    let mut case = honest();
    case.now = now;
    case.arrived = UtcMillis(now.0 - 2);
    case.view.fresh_as_of = Some(UtcMillis(now.0 - 20));
    case.sign(AGENT);
    case
}
