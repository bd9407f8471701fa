use procura_verifier::call::{Arguments, Call, Seed};
use procura_verifier::claims::DataClass;
use procura_verifier::decision::ToolPolicy;
use procura_verifier::denials::Denials;
use procura_verifier::feed::message::{Item, Message};
use procura_verifier::proof::UnverifiedProof;
use procura_verifier::receipt::Evidence;
use procura_verifier::vocabulary::LinkClaims;

use super::super::enroll_verifier::enroll_verifier;
use super::super::fixture::*;
use super::super::receipts::{Record, take};
use super::super::revoke::{RevokeError, Target, revoke};
use super::*;

/// A tool with key 9; Alice's agent with key 1, and a helper with key 2 to whom it may pass on.
struct Scene {
    app: App,
    alice: Principal,
    grant: DelegationId,
    verifier: VerifierId,
    token: Vec<u8>,
    linked: Vec<u8>,
}

const LID: Lid = Lid::from_bytes([5; 16]);

async fn scene() -> Scene {
    let app = app().await;
    let (alice, bot, grant) = app.granted().await;
    let helper = app.register(&alice, "helper", 2).await.unwrap();
    let verifier = enroll_verifier(&app.ctx, &Principal::LocalOperator, "payments/1".parse().unwrap(), key(9)).await.unwrap().verifier;
    let minted = UnverifiedToken::parse(&app.mint(bot, grant).await.unwrap().token).unwrap();
    let link = LinkClaims { lid: LID, holder: key(2), depth: 1, card: Some(helper.card), restrictions: vec![] };
    let linked = UnverifiedToken::parse(&minted.link(&link, &signing(1), [6; 32]).unwrap()).unwrap().seal();
    Scene { app, alice, grant, verifier, token: minted.seal(), linked }
}

impl Scene {
    fn receipt(&self, number: u64, token: &[u8], holder: u8, verdict: Result<(), Cause>) -> Vec<u8> {
        let (ctx, now) = (&self.app.ctx, self.app.ctx.now());
        let verified = UnverifiedToken::parse(token).unwrap().verify(&ctx.keys.load()).unwrap();
        let (audience, tool, action, resource): (Audience, _, _, _) =
            ("payments/1".parse().unwrap(), "payments".parse().unwrap(), "transfer".parse().unwrap(), "acct/eu/7".parse().unwrap());
        let args = Arguments::from_json(br#"{"amount":{"minor":12000,"unit":"EUR"},"memo":"hidden"}"#).unwrap();
        let call =
            Call { tenant: &ctx.tenant, audience: &audience, tool: &tool, action: &action, resource: &resource, args: &args, data_class: DataClass::Public };
        let nonce = [u8::try_from(number).unwrap(); 16];
        let proof = UnverifiedProof::sign(&signing(holder), verified.hash(), &call, now, &[7; 16], nonce, Seed::from_bytes([3; 32]));
        let proof = proof.verify(verified.last_holder(), verified.hash(), &call).unwrap();
        let evidence = Evidence {
            from: (self.verifier, [8; 16], number),
            challenge: [7; 16],
            token: (token, &verified),
            proof: Some(&proof),
            policy: &ToolPolicy::STRICT,
            time: now,
            relied: None,
            key_list_version: 1,
        };
        Receipt::record(&call, &evidence, verdict).sign(&signing(9)).to_bytes()
    }

    async fn deliver(&self, record: Record<'_>) {
        take(&self.app.ctx, &[record]).await.unwrap().remove(0).unwrap();
    }

    async fn used(&self) {
        self.deliver(Record::Receipt(&self.receipt(1, &self.token, 1, Ok(())))).await;
        self.deliver(Record::Receipt(&self.receipt(2, &self.token, 1, Err(Cause::Limit)))).await;
        self.deliver(Record::Receipt(&self.receipt(3, &self.linked, 2, Ok(())))).await;
        let counts = Denials { verifier: self.verifier, run: [8; 16], number: 1, minute: 5, counts: vec![("malformed".into(), 3)] };
        self.deliver(Record::Denials(&counts.sign(&signing(9)).to_bytes())).await;
    }
}

#[tokio::test]
async fn a_delegator_sees_their_own_decisions_and_security_everybodys() {
    let s = scene().await;
    let (bob, sam) = (s.app.person("bob").await, s.app.person("sam").await);
    s.used().await;
    let seen = async |by: &Principal| decisions(&s.app.ctx, by, EVERYWHERE, 10).await.unwrap();
    assert_eq!(seen(&bob).await, []);
    let all = seen(&sam).await;
    assert_eq!((all.len(), &all[0].what), (4, &What::Counted(vec![("malformed".into(), 3)])));
    let hers = seen(&s.alice).await;
    assert_eq!(hers, all[1..], "newest first, without the counts of nobody known");
    let What::One(one) = &hers[0].what else { panic!("{hers:?}") };
    assert_eq!((one.delegation, one.verdict, one.hops.len()), (s.grant, Ok(()), 2));
    assert_eq!((one.hops[1].lid, one.hops[1].key), (Some(LID), key(2)));
    assert_eq!(one.arguments, ["amount 120.00 EUR"], "only what a check read");
    assert_eq!(decisions(&s.app.ctx, &s.alice, 0..hers[0].leaf, 1).await.unwrap(), hers[1..2]);
    assert_eq!(decisions(&s.app.ctx, &Principal::Verifier(s.verifier), EVERYWHERE, 1).await, Err(DecisionsError::Forbidden));
}

#[tokio::test]
async fn uses_and_links_are_those_that_receipts_show() {
    let s = scene().await;
    assert_eq!(uses(&s.app.ctx, &s.alice).await.unwrap(), (HashMap::new(), false));
    s.used().await;
    let (uses, more) = uses(&s.app.ctx, &s.alice).await.unwrap();
    let seen = &uses[&s.grant];
    assert_eq!((uses.len(), more, seen.allowed, seen.denied, seen.last), (1, false, 2, 1, s.app.ctx.now()));
    let [link] = seen.links.as_slice() else { panic!("{seen:?}") };
    assert!(!link.is_revoked);
    assert_eq!((link.path.as_slice(), link.to.key, link.uses), ([LID].as_slice(), key(2), 1));
}

#[tokio::test]
async fn a_token_of_another_root_is_shown_to_nobody_it_names() {
    let s = scene().await;
    let sam = s.app.person("sam").await;
    // The same delegation and human, said by a root key that no list names.
    let verified = UnverifiedToken::parse(&s.token).unwrap().verify(&s.app.ctx.keys.load()).unwrap();
    let forged = procura_verifier::token::mint(verified.block0(), &signing(77), [60; 32]).unwrap();
    let honest = s.receipt(1, &s.token, 1, Ok(()));
    let mut lie = SignedReceipt::from_bytes(&honest).unwrap().claimed().unwrap();
    lie.token = UnverifiedToken::parse(&forged).unwrap().seal();
    s.deliver(Record::Receipt(&lie.sign(&signing(9)).to_bytes())).await;
    assert_eq!(decisions(&s.app.ctx, &s.alice, EVERYWHERE, 10).await.unwrap(), []);
    assert_eq!(decisions(&s.app.ctx, &sam, EVERYWHERE, 10).await.unwrap()[0].what, What::NoToken);
}

#[tokio::test]
async fn a_link_is_taken_back_by_whose_authority_it_passes_on() {
    let s = scene().await;
    s.used().await;
    let bob = s.app.person("bob").await;
    let shown_by = decisions(&s.app.ctx, &s.alice, EVERYWHERE, 1).await.unwrap()[0].leaf;
    let link = Target::Link { lid: LID, shown_by };
    assert_eq!(revoke(&s.app.ctx, &bob, link, None, None).await, Err(RevokeError::Forbidden));
    // Another receipt, another link: neither is shown there.
    let other = Target::Link { lid: LID, shown_by: shown_by - 1 };
    assert_eq!(revoke(&s.app.ctx, &s.alice, other, None, None).await, Err(RevokeError::Forbidden));
    let other = Target::Link { lid: Lid::from_bytes([6; 16]), shown_by };
    assert_eq!(revoke(&s.app.ctx, &s.alice, other, None, None).await, Err(RevokeError::Forbidden));
    revoke(&s.app.ctx, &s.alice, link, None, None).await.unwrap();
    let rows = s.app.ctx.store.feed_since(1, 0, 10).await.unwrap();
    let Message::Batch(batch) = Message::from_bytes(&rows[0].payload).unwrap() else { panic!("a batch") };
    assert!(matches!(batch.items[0].1, Item::Lid { lid, exp_secs } if lid == LID && exp_secs > s.app.ctx.now().secs()), "{:?}", batch.items);
}
