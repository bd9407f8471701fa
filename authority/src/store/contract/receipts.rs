//! Whose receipts there are.

use super::*;

fn delivered(n: u8, delegation: Option<DelegationId>) -> Change {
    let row = Row::Receipt(Delivered { slot: ReceiptSlot([n; 32]), after: None, hash: [n; 32], delegation });
    Change { rows: vec![row], leaves: vec![vec![n; 4]], ..Change::default() }
}

pub(super) async fn receipts_are_read_newest_first_by_whose_authority_they_show(store: Arc<dyn Store>) {
    let other = DelegationId::from_bytes([33; 16]);
    one(&*store, 1, registered()).await.unwrap();
    // Of her delegation; of nobody's; of one that there is not; not a receipt.
    store.commit(&batch(2, vec![delivered(1, Some(DELEGATION)), delivered(2, None), delivered(3, Some(other)), leaf(9)])).await.unwrap();
    store.commit(&batch(3, vec![delivered(4, Some(DELEGATION))])).await.unwrap();
    let read = async |of, places, limit| -> Vec<u8> { store.receipts(of, places, limit).await.unwrap().iter().map(|(_, leaf)| leaf[0]).collect() };
    assert_eq!(read(None, 0..u64::MAX, 10).await, [4, 3, 2, 1]);
    assert_eq!(read(Some(HUMAN), 0..u64::MAX, 10).await, [4, 1]);
    assert_eq!(read(Some(HUMAN), 0..u64::MAX, 1).await, [4]);
    assert_eq!(read(Some(HumanId::from_bytes([99; 16])), 0..u64::MAX, 10).await, [0; 0]);
    let newest = store.receipts(None, 0..u64::MAX, 1).await.unwrap()[0].0;
    assert_eq!(store.leaves(newest, 1).await.unwrap(), [vec![4; 4]]);
    assert_eq!(read(None, 0..newest, 10).await, [3, 2, 1]);
    assert_eq!(read(Some(HUMAN), 0..newest, 10).await, [1]);
    assert_eq!(read(None, newest..u64::MAX, 10).await, [4]);
    assert_eq!(read(Some(HUMAN), newest..u64::MAX, 10).await, [4]);
    assert_eq!(read(None, newest..newest, 10).await, [0; 0]);
}
