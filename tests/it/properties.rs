//! Properties over random tokens.

use procura_tests::fixtures::key_list;
use procura_tests::random::{Asked, Token, asked, restriction, rng, token};
use procura_verifier::claims::Restriction;
use procura_verifier::decision::{in_time, within};
use procura_verifier::token::{UnverifiedToken, VerifiedToken};

/// Scope, limits, time and audience: all that a block can narrow.
fn permits(token: &VerifiedToken, asked: &Asked) -> bool {
    let service = asked.audience.service();
    let listed =
        token.block0().audiences.contains(service) && token.narrowings().iter().all(|r| !matches!(r, Restriction::Audiences(a) if !a.contains(service)));
    listed && in_time(token, asked.now).is_ok() && within(token, &asked.call()).is_ok()
}

fn verified(bytes: &[u8]) -> VerifiedToken {
    UnverifiedToken::parse(bytes).unwrap().verify(&key_list()).unwrap()
}

#[test]
fn narrowing_never_widens() {
    let mut r = rng(2);
    let (mut before_only, mut both) = (0, 0);
    for _ in 0..300 {
        let parent = token(&mut r);
        let added: Vec<Restriction> = (0..2).map(|_| restriction(&mut r, &parent.block0)).collect();
        let (before, after) = (verified(&parent.held.0), verified(&parent.held.narrow(&added).0));
        for _ in 0..20 {
            let call = asked(&mut r, &parent);
            let (was, is) = (permits(&before, &call), permits(&after, &call));
            assert!(was || !is, "{added:?} allows what was refused: {call:?}");
            both += usize::from(was && is);
            before_only += usize::from(was && !is);
        }
        assert!(after.expires_secs() <= before.expires_secs() && after.class_max() <= before.class_max());
    }
    assert!(before_only > 500 && both > 500, "{before_only} refused by narrowing, {both} still allowed: no test of anything");
}

#[test]
fn a_link_never_widens() {
    let mut r = rng(3);
    let mut linked = 0;
    for _ in 0..300 {
        let child = token(&mut r);
        let Some(link) = child.links.first() else { continue };
        linked += 1;
        let parent = verified(&procura_tests::fixtures::Held::mint(&child.block0).0);
        let child_token = verified(&child.held.0);
        assert!(child_token.expires_secs() <= parent.expires_secs());
        assert!(link.card.as_ref().is_none_or(|c| child_token.expires_secs() <= c.claimed().expires_secs));
        for _ in 0..10 {
            let call = asked(&mut r, &child);
            assert!(permits(&parent, &call) || !permits(&child_token, &call), "{call:?}");
        }
    }
    assert!(linked > 50);
}

#[test]
fn what_is_written_is_read_and_nothing_else() {
    let mut r = rng(4);
    for _ in 0..500 {
        let Token { held, block0, restrictions, links, .. } = token(&mut r);
        let read = UnverifiedToken::parse(&held.0).unwrap();
        assert_eq!(*read.claimed(), block0);
        assert!(read.claimed_restrictions().eq(&restrictions), "{restrictions:?}");
        assert!(read.claimed_links().eq(&links));
        assert_eq!(UnverifiedToken::parse(&read.seal()).unwrap().claimed(), &block0);
        assert_eq!(UnverifiedToken::parse(&read.seal()).unwrap().seal(), read.seal(), "sealing a sealed token changes nothing");
        assert!(UnverifiedToken::parse(&read.seal()).unwrap().narrow(&[Restriction::Until(1)], [1; 32]).is_err());
    }
}
