//! The bytes of stored values. bincode has no field names: a type that changes makes every older
//! database unreadable or, worse, readable as something else.

use std::sync::Arc;

use p2pnode_protocol::Digest;
use p2pnode_protocol::message::ReportEvent;

use super::samples::*;
use crate::store::rows::to_blob;

/// Digest of every kind of blob that is stored, made from values with something in every field.
const KNOWN: &str = "e5391f0707e0c6168ef27a0bcf11785807c4c48c1fd0b84f5a4b4d41aac7c94c";

#[test]
fn stored_values_have_not_changed() {
    let event = ReportEvent::Finished {
        task: task_ref(1, 2),
        outcome: outcome(true),
        usage: usage(),
        outputs: Some(blob("outputs")),
        log_bytes: 9,
    };
    let bytes = [
        to_blob(&plan()).unwrap(),
        to_blob(&template(1)).unwrap(),
        to_blob(&vec![task_ref(1, 2)]).unwrap(),
        to_blob(&(outcome(true), usage(), Some(blob("outputs")), 5u64)).unwrap(),
        to_blob(&event).unwrap(),
        to_blob(&p2pnode_protocol::Capacity::default()).unwrap(),
        to_blob(&vec![Arc::<str>::from("a note")]).unwrap(),
    ];
    assert_eq!(
        Digest::of(&bytes.concat()).to_string(),
        KNOWN,
        "a stored type has another layout now: before a release, renew this digest; after one, \
         write a migration that reads the old layout, then renew it"
    );
}
