//! Whoever reads of a failure or a refusal reads whose doing it was.

use std::collections::BTreeSet;

use p2pnode_protocol::message::Refusal;
use p2pnode_protocol::task::Decider;

use crate::parts::FAILURES;
use crate::samples;

#[test]
fn tries_are_counted_when_it_was_the_tasks_own_doing_and_only_then() {
    for kind in FAILURES {
        let tasks = kind.decider() == Decider::Task;
        assert_eq!(kind.is_tasks_fault(), tasks, "{kind:?}");
    }
    let words: BTreeSet<&str> = FAILURES.iter().map(|kind| kind.word()).collect();
    assert_eq!(words.len(), FAILURES.len(), "each has a word of its own");
}

#[test]
fn a_refusal_of_the_owners_names_the_owner_and_what_would_lift_it() {
    for (name, refusal) in samples::refusals() {
        let text = refusal.to_string();
        match refusal {
            Refusal::NotAllowed { .. } | Refusal::NotOffering | Refusal::Draining => {
                assert!(text.contains("p2pnode "), "{name}: {text}");
                assert_eq!(refusal.decider(), Decider::Owner);
            }
            Refusal::Stopping => assert!(text.contains("its owner"), "{text}"),
            _ => assert!(!text.is_empty()),
        }
    }
}
