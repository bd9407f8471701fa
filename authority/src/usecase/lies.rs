//! What replay must not accept: receipts of a verifier that lies, leaves of an operator who holds the event key.

use procura_verifier::call::{Arguments, Call, Seed};
use procura_verifier::claims::{Audience, DataClass};
use procura_verifier::decision::ToolPolicy;
use procura_verifier::denials::Denials;
use procura_verifier::feed::message::{Item, genesis_hash};
use procura_verifier::ids::{AgentId, DelegationId, UtcMillis, VerifierId};
use procura_verifier::proof::UnverifiedProof;
use procura_verifier::receipt::{Evidence, Receipt, Relied};
use procura_verifier::token::UnverifiedToken;
use procura_verifier::wire::Canonical as _;

use super::delegate::delegate;
use super::enroll_verifier::enroll_verifier;
use super::fixture::*;
use super::receipts::{Record, take};
use super::revoke::{Target, revoke};
use crate::app::export;
use crate::domain::delegation::tests::terms;
use crate::domain::principal::Principal;
use crate::log::bundle::{Bundle, Limits};
use crate::log::event::{self, Event};
use crate::log::finding::{Finding, FindingClass};
use crate::log::replay::{Summary, replay};
use crate::store::Change;

/// A tool's verifier with key 9, and a token that it may be shown.
struct Scene {
    app: App,
    alice: Principal,
    bot: AgentId,
    grant: DelegationId,
    verifier: VerifierId,
    token: Vec<u8>,
}

async fn scene() -> Scene {
    let app = app().await;
    let (alice, bot, grant) = app.granted().await;
    let verifier = enroll_verifier(&app.ctx, &Principal::LocalOperator, "payments/1".parse().unwrap(), key(9)).await.unwrap().verifier;
    let token = UnverifiedToken::parse(&app.mint(bot, grant).await.unwrap().token).unwrap().seal();
    Scene { app, alice, bot, grant, verifier, token }
}

impl Scene {
    fn relied(&self, seq: u64, hash: [u8; 32], utc: UtcMillis) -> Relied {
        Relied { epoch: 1, seq, hash, utc }
    }

    /// As before the first message of the feed.
    fn nothing_taken(&self, utc: UtcMillis) -> Relied {
        self.relied(0, genesis_hash(&self.app.ctx.tenant, 1), utc)
    }

    /// An honest allow of this moment.
    fn allow(&self, number: u64, relied: Relied) -> Receipt {
        let (ctx, now) = (&self.app.ctx, self.app.ctx.now());
        let verified = UnverifiedToken::parse(&self.token).unwrap().verify(&ctx.keys.load()).unwrap();
        let (audience, tool, action, resource): (Audience, _, _, _) =
            ("payments/1".parse().unwrap(), "payments".parse().unwrap(), "transfer".parse().unwrap(), "acct/eu/7".parse().unwrap());
        let args = Arguments::from_json(br#"{"amount":{"minor":12000,"unit":"EUR"}}"#).unwrap();
        let call =
            Call { tenant: &ctx.tenant, audience: &audience, tool: &tool, action: &action, resource: &resource, args: &args, data_class: DataClass::Public };
        let nonce = [u8::try_from(number).unwrap(); 16];
        let proof = UnverifiedProof::sign(&signing(1), verified.hash(), &call, now, &[7; 16], nonce, Seed::from_bytes([3; 32]));
        let proof = proof.verify(verified.last_holder(), verified.hash(), &call).unwrap();
        let evidence = Evidence {
            from: (self.verifier, [8; 16], number),
            challenge: [7; 16],
            token: (&self.token, &verified),
            proof: Some(&proof),
            policy: &ToolPolicy::STRICT,
            time: now,
            relied: Some(relied),
            key_list_version: self.app.ctx.keys.load().payload().version,
        };
        Receipt::record(&call, &evidence, Ok(()))
    }

    async fn deliver(&self, receipt: &Receipt) {
        let signed = receipt.sign(&signing(9)).to_bytes();
        take(&self.app.ctx, &[Record::Receipt(&signed)]).await.unwrap().remove(0).unwrap();
    }

    /// Whoever holds the event key may write any leaf.
    async fn forge(&self, event: impl Into<Event>, items: Vec<Item>) {
        let leaf = self.app.ctx.leaf(event, self.app.ctx.now()).unwrap();
        self.app.ctx.writer.submit(Change { items, leaves: vec![leaf], ..Change::default() }).await.unwrap();
    }

    async fn replay(&self) -> Result<Summary, Finding> {
        let app = &self.app;
        let bytes = export(&app.ctx, &app.ctx.writer.checkpoint()).await.unwrap();
        replay(&Bundle::read(&bytes, &app.anchors, &app.ctx.tenant, Limits::default()).unwrap())
    }

    async fn found(&self, class: FindingClass, word: &str) {
        let found = self.replay().await.expect_err(word);
        assert!(found.class == class && found.sentence.contains(word), "{found}");
    }

    async fn delegation(&self) -> event::Delegation {
        let is_grant = |e| if let Event::Delegation(d) = e { Some(d) } else { None };
        self.app.events().await.into_iter().find_map(is_grant).unwrap()
    }
}

#[tokio::test]
async fn an_honest_allow_replays() {
    let s = scene().await;
    s.deliver(&s.allow(1, s.nothing_taken(s.app.ctx.now()))).await;
    assert_eq!(s.replay().await.unwrap().allowed, 1);
}

#[tokio::test]
async fn an_allow_on_an_old_head_with_a_new_time_is_found() {
    let s = scene().await;
    revoke(&s.app.ctx, &s.alice, Target::Delegation(s.grant), None, None).await.unwrap();
    s.app.clock.advance_ms(600_000);
    // "My heartbeat of this moment said that nothing was taken back": the feed went on ten minutes ago.
    s.deliver(&s.allow(1, s.nothing_taken(s.app.ctx.now()))).await;
    s.found(FindingClass::Decision, "went on").await;
}

#[tokio::test]
async fn an_allow_with_a_bound_of_its_own_making_is_found() {
    let s = scene().await;
    let old = s.app.ctx.now();
    s.app.clock.advance_ms(1);
    revoke(&s.app.ctx, &s.alice, Target::Delegation(s.grant), None, None).await.unwrap();
    s.app.clock.advance_ms(600_000);
    let mut lie = s.allow(1, s.nothing_taken(old));
    lie.mode = procura_verifier::decision::Mode::Bounded { ms: u32::MAX };
    s.deliver(&lie).await;
    s.found(FindingClass::Decision, "bound").await;
}

#[tokio::test]
async fn an_allow_without_a_time_or_after_its_own_leaf_is_found() {
    for time in [UtcMillis(0), NOW.plus(60_000)] {
        let s = scene().await;
        let mut lie = s.allow(1, s.nothing_taken(NOW));
        lie.time = time;
        // The holder helps: its proof says the same.
        lie.relied = Some(s.nothing_taken(if time.0 == 0 { NOW } else { time }));
        s.deliver(&lie).await;
        s.found(FindingClass::Decision, "allows at").await;
    }
}

#[tokio::test]
async fn numbers_at_the_end_of_their_range_are_findings_and_no_panic() {
    let s = scene().await;
    s.deliver(&s.allow(1, s.nothing_taken(UtcMillis(u64::MAX)))).await;
    s.found(FindingClass::Decision, "allows at").await;

    let s = scene().await;
    let counts = vec![("malformed".to_owned(), u64::MAX), ("signature".to_owned(), 1)];
    let lie = Denials { verifier: s.verifier, run: [1; 16], number: 1, minute: 5, counts }.sign(&signing(9)).to_bytes();
    take(&s.app.ctx, &[Record::Denials(&lie)]).await.unwrap().remove(0).unwrap();
    assert_eq!(s.replay().await.unwrap().counted_denials, u64::MAX);
}

#[tokio::test]
async fn a_decision_on_what_was_not_logged_yet_is_found() {
    let s = scene().await;
    // A receipt from before the revocation that it names: its seq was not given to anything yet.
    let by = procura_verifier::revocation::RevokedBy { what: procura_verifier::revocation::RevokedWhat::DelegationFloor, seq: 1 };
    let mut lie = s.allow(1, s.nothing_taken(s.app.ctx.now()));
    lie.verdict = Err(procura_verifier::decision::Cause::Revoked(by));
    s.deliver(&lie).await;
    revoke(&s.app.ctx, &s.alice, Target::Delegation(s.grant), None, None).await.unwrap();
    s.found(FindingClass::Decision, "does not bear out").await;
}

#[tokio::test]
async fn a_grant_that_widens_or_changes_hands_is_found() {
    let v1 = |d: &event::Delegation| event::Delegation { version: 2, ..d.clone() };
    let s = scene().await;
    s.forge(v1(&s.delegation().await), vec![]).await;
    s.replay().await.expect("the same again is no wider");

    let changes: [fn(&mut event::Delegation); 4] =
        [|d| d.depth += 1, |d| d.ttl_secs += 1, |d| d.bearer = true, |d| d.audiences.push("treasury".parse().unwrap())];
    for change in changes {
        let s = scene().await;
        let mut wider = v1(&s.delegation().await);
        change(&mut wider);
        s.forge(wider, vec![]).await;
        s.found(FindingClass::State, "wider").await;
    }
    let s = scene().await;
    let bob = s.app.person("bob").await.human().unwrap();
    s.forge(event::Delegation { human: bob, ..v1(&s.delegation().await) }, vec![]).await;
    s.found(FindingClass::State, "wider").await;
}

#[tokio::test]
async fn an_agent_that_changes_its_owner_is_found() {
    let s = scene().await;
    let owner = s.app.person("bob").await.human().unwrap();
    s.forge(event::Agent { agent: s.bot, owner, name_salted_hash: event::Digest([0; 32]), key: key(5), generation: 0 }, vec![]).await;
    s.found(FindingClass::State, "owner").await;
}

#[tokio::test]
async fn a_token_for_a_revoked_key_is_found() {
    let s = scene().await;
    let issued = s.app.events().await.into_iter().find_map(|e| if let Event::Issue(i) = e { Some(i) } else { None }).unwrap();
    revoke(&s.app.ctx, &s.alice, Target::HolderKey(key(1)), None, None).await.unwrap();
    s.forge(event::Issue { tid: procura_verifier::ids::Tid::from_bytes([9; 16]), ..issued }, vec![]).await;
    s.found(FindingClass::State, "another agent or key").await;
}

#[tokio::test]
async fn what_replay_does_not_understand_is_found() {
    let s = scene().await;
    s.forge(event::EpochStart { epoch: 2, previous: None, by: event::Actor::LocalOperator }, vec![]).await;
    s.found(FindingClass::Feed, "epoch").await;
}

#[tokio::test]
async fn a_kill_by_somebody_who_never_signed_in_is_found() {
    let s = scene().await;
    let item = Item::HolderKey { key: key(1) };
    let by = event::Actor::Human(procura_verifier::ids::HumanId::from_bytes([99; 16]));
    s.forge(event::Revoke { item: event::Encoded(item.to_bytes()), by, reason_hash: None, delegation: None }, vec![item]).await;
    s.found(FindingClass::State, "never signed in").await;
}

#[tokio::test]
async fn a_grant_after_the_kill_of_a_key_is_for_the_other_keys() {
    let s = scene().await;
    revoke(&s.app.ctx, &s.alice, Target::HolderKey(key(1)), None, None).await.unwrap();
    delegate(&s.app.ctx, &s.alice, s.bot, terms(), None).await.unwrap();
    s.replay().await.unwrap();
}

#[tokio::test]
async fn nothing_is_logged_that_no_auditor_could_open() {
    let s = scene().await;
    s.app.clock.advance_ms(366 * 24 * 3_600_000);
    let refused = revoke(&s.app.ctx, &s.alice, Target::Delegation(s.grant), None, None).await.unwrap_err();
    assert!(refused.to_string().contains("no event key at hand is inside its window"), "{refused}");
}

#[tokio::test]
async fn a_use_of_before_a_root_keys_death_replays_and_one_of_after_it_is_found() {
    use procura_verifier::key_list::{KeyUse, UnverifiedKeyList};

    use super::publish_keys::publish;
    use crate::keys::change::{Wanted, next};
    let kill_the_root = async |s: &Scene| {
        let (ctx, now) = (&s.app.ctx, s.app.ctx.now());
        let new =
            crate::signer::file::make_key(&s.app.folder.join("keys"), KeyUse::Root, &mut <rand::rngs::StdRng as rand::SeedableRng>::from_os_rng()).unwrap();
        let dead = ctx.signer.key_for(KeyUse::Root, now, now).unwrap();
        let wanted = Wanted { new: vec![(KeyUse::Root, new)], dead: vec![dead], valid_ms: 86_400_000_000, ..Wanted::default() };
        let list = next(ctx.keys.load().payload(), &wanted, now).unwrap();
        publish(ctx, &Principal::LocalOperator, &UnverifiedKeyList::sign(&list, &[&signing(ANCHOR)]), &[]).await.unwrap();
    };
    for (late_by, known) in [(0, true), (1_000, true), (600_000, false)] {
        let s = scene().await;
        let honest = s.allow(1, s.nothing_taken(s.app.ctx.now()));
        // Decided after the death, by a verifier that says it had the old list still.
        let mut late = s.allow(2, s.nothing_taken(s.app.ctx.now().plus(late_by)));
        late.time = s.app.ctx.now().plus(late_by);
        kill_the_root(&s).await;
        s.deliver(&honest).await;
        if late_by == 0 {
            assert_eq!(s.replay().await.unwrap().allowed, 1, "decided before, delivered after");
        }
        s.app.clock.advance_ms(late_by);
        s.deliver(&late).await;
        if known {
            assert_eq!(s.replay().await.unwrap().allowed, 2);
        } else {
            s.found(FindingClass::Decision, "the next list was recorded").await;
        }
    }
}

/// Freezes and root keys, issued by hand: what an auditor makes of decisions beside them.
mod stops {
    use procura_verifier::decision::{Cause, Mode};
    use procura_verifier::feed::message::{FloorScope, Freeze};
    use procura_verifier::ids::FreezeId;
    use procura_verifier::revocation::{RevokedBy, RevokedWhat};

    use super::*;

    const ID: FreezeId = FreezeId::from_bytes([6; 16]);

    impl Scene {
        async fn put(&self, item: Item) {
            let by = event::Actor::LocalOperator;
            self.forge(event::Revoke { item: event::Encoded(item.to_bytes()), by, reason_hash: None, delegation: None }, vec![item]).await;
        }

        /// Freezes the agent for an hour, or lifts.
        async fn freeze(&self, version: u64, is_lift: bool) {
            let until = if is_lift { UtcMillis(0) } else { self.app.ctx.now().plus(3_600_000) };
            self.put(Item::Freeze(Freeze { id: ID, scope: FloorScope::Agent(self.bot), from: UtcMillis(0), until, version })).await;
        }

        async fn relied_now(&self) -> Relied {
            let row = self.app.ctx.store.feed_since(1, 0, 256).await.unwrap().pop().unwrap();
            use sha2::Digest as _;
            self.relied(row.seq, sha2::Sha256::digest(&row.payload).into(), self.app.ctx.now())
        }

        fn says(&self, number: u64, relied: Relied, verdict: Result<(), Cause>) -> Receipt {
            let mut receipt = self.allow(number, relied);
            receipt.verdict = verdict;
            receipt
        }
    }

    #[tokio::test]
    async fn a_freeze_denies_and_an_allow_or_another_cause_beside_it_is_found() {
        let frozen = Err(Cause::Frozen { id: ID });
        for (verdict, honest) in
            [(frozen, true), (Ok(()), false), (Err(Cause::Stale), false), (Err(Cause::Frozen { id: FreezeId::from_bytes([7; 16]) }), false)]
        {
            let s = scene().await;
            s.freeze(1, false).await;
            s.app.clock.advance_ms(1);
            let relied = s.relied_now().await;
            s.deliver(&s.says(1, relied, verdict)).await;
            if honest {
                s.replay().await.unwrap();
            } else {
                s.found(FindingClass::Decision, "frozen").await;
            }
        }
        // Before it was frozen, and after it was lifted, an invented freeze is found and an allow is right.
        let s = scene().await;
        let before = s.nothing_taken(s.app.ctx.now());
        s.deliver(&s.says(1, before, frozen)).await;
        s.freeze(1, false).await;
        s.found(FindingClass::Decision, "does not bear out").await;
        let s = scene().await;
        s.freeze(1, false).await;
        s.freeze(2, true).await;
        s.app.clock.advance_ms(1);
        let relied = s.relied_now().await;
        s.deliver(&s.says(1, relied, Ok(()))).await;
        assert_eq!(s.replay().await.unwrap().allowed, 1);
    }

    #[tokio::test]
    async fn what_was_heard_after_the_position_relied_on_may_freeze_and_may_lift() {
        for (first_lift, verdict) in [(false, Err(Cause::Frozen { id: ID })), (true, Ok(()))] {
            let s = scene().await;
            if first_lift {
                s.freeze(1, false).await;
                let relied = s.relied_now().await;
                s.freeze(2, true).await;
                s.app.clock.advance_ms(1);
                s.deliver(&s.says(1, relied, verdict)).await;
            } else {
                let relied = s.nothing_taken(s.app.ctx.now());
                s.freeze(1, false).await;
                s.app.clock.advance_ms(1);
                s.deliver(&s.says(1, relied, verdict)).await;
            }
            s.replay().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_version_that_was_there_before_is_found() {
        let s = scene().await;
        s.freeze(2, true).await;
        s.freeze(2, false).await;
        s.found(FindingClass::State, "version that was there before").await;
    }

    #[tokio::test]
    async fn a_killed_root_key_kills_what_it_signed_and_nothing_else() {
        let root = |s: &Scene| *UnverifiedToken::parse(&s.token).unwrap().verify(&s.app.ctx.keys.load()).unwrap().root();
        let by = RevokedBy { what: RevokedWhat::RootKey, seq: 1 };
        for (is_root, verdict, honest) in
            [(true, Err(Cause::Revoked(by)), true), (true, Ok(()), false), (false, Ok(()), true), (false, Err(Cause::Revoked(by)), false)]
        {
            let s = scene().await;
            let key = if is_root { root(&s) } else { key(77) };
            s.put(Item::RootKey { key }).await;
            s.app.clock.advance_ms(1);
            let relied = s.relied_now().await;
            s.deliver(&s.says(1, relied, verdict)).await;
            if honest {
                s.replay().await.unwrap();
            } else {
                s.found(FindingClass::Decision, "root_key").await;
            }
        }
    }

    #[tokio::test]
    async fn best_effort_that_block_0_does_not_name_is_found() {
        let s = scene().await;
        let mut lie = s.allow(1, s.nothing_taken(s.app.ctx.now()));
        lie.mode = Mode::BestEffort;
        s.deliver(&lie).await;
        s.found(FindingClass::Decision, "best effort").await;
    }
}
