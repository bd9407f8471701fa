//! What the use cases leave behind, taken together: a log that an auditor's replay accepts.

use procura_verifier::denials::Denials;
use procura_verifier::wire::Canonical as _;

use super::delegate::delegate;
use super::enroll_verifier::enroll_verifier;
use super::fixture::*;
use super::receipts::{Record, take};
use super::retire_verifier::retire_verifier;
use super::revoke::{Target, revoke};
use crate::app::export;
use crate::domain::delegation::tests::terms;
use crate::domain::principal::Principal;
use crate::log::bundle::{Bundle, Limits};
use crate::log::replay::replay;

#[tokio::test]
async fn everything_that_use_cases_do_replays() {
    let app = app().await;
    let (alice, bot, grant) = app.granted().await;
    let (sam, root) = (app.person("sam").await, Principal::LocalOperator);
    let tid = app.mint(bot, grant).await.unwrap().tid;
    let verifier = enroll_verifier(&app.ctx, &root, "payments/1".parse().unwrap(), key(9)).await.unwrap().verifier;
    let denials = Denials { verifier, run: [1; 16], number: 1, minute: 5, counts: vec![("malformed".into(), 3)] }.sign(&signing(9)).to_bytes();
    take(&app.ctx, &[Record::Denials(&denials)]).await.unwrap().remove(0).unwrap();
    let human = alice.human().unwrap();
    for target in [Target::Token(tid), Target::Human(human), Target::Human(human), Target::Delegation(grant), Target::HolderKey(key(7))] {
        revoke(&app.ctx, &sam, target, Some("drill".into()), None).await.unwrap();
    }
    let alice = app.person("alice").await;
    retire_verifier(&app.ctx, &root, verifier, "gone".into()).await.unwrap();
    let anew = delegate(&app.ctx, &alice, bot, terms(), None).await.unwrap().delegation;
    app.mint(bot, anew).await.unwrap();

    let bytes = export(&app.ctx, &app.ctx.writer.checkpoint()).await.unwrap();
    let bundle = Bundle::read(&bytes, &app.anchors, &app.ctx.tenant, Limits::default()).unwrap();
    let summary = replay(&bundle).unwrap();
    assert_eq!((summary.delegations, summary.tokens, summary.revocations, summary.counted_denials), (2, 2, 5, 3));
    assert_eq!(summary.leaves, app.events().await.len() as u64);
}
