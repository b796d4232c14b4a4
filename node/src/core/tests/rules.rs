//! The owner's rules one by one: when the offer is open, for whom, and for what.

use p2pnode_protocol::message::{Refusal, TaskRequest};
use p2pnode_protocol::offer::{Grant, OfferRules, OnClose};
use p2pnode_protocol::task::{FailureKind, RuntimeKind};

use super::fixture;
use super::rig::{Rig, as_reply, offer_of};
use crate::core::io::{Conditions, Effect, Input, OfferTerms, Record, RuntimeFeatures};

const ON_BATTERY: Conditions = Conditions {
    minute_of_week: 0,
    user_idle_ms: None,
    foreign_percent: None,
    on_battery: Some(true),
    cpu_c: None,
    gpu_c: None,
};

fn provider(rules: OfferRules, allow_any: bool) -> Rig {
    let mut rig = Rig::new();
    rig.input(Input::Runtimes(vec![(
        RuntimeKind::Wasm,
        Ok(RuntimeFeatures::default()),
    )]));
    rig.input(Input::Offer(OfferTerms {
        total: fixture::capacity(4),
        allow_any,
        rules,
    }));
    rig.input(Input::Conditions(Conditions::default()));
    rig
}

fn tasks(count: u32) -> TaskRequest {
    let tasks: Vec<(u32, u32)> = (0..count).map(|index| (index, 1)).collect();
    TaskRequest::Offer(offer_of(1, Some(fixture::template(0, 1, 0)), &tasks))
}

fn refusal(rig: &mut Rig, peer: usize, request: TaskRequest) -> Refusal {
    as_reply(&rig.ask(peer, request).0).refusal.unwrap()
}

fn kills(effects: &[Effect]) -> usize {
    let kill = |effect: &&Effect| matches!(effect, Effect::Kill { why, .. } if why.kind == FailureKind::KilledByOwner);
    effects.iter().filter(kill).count()
}

#[test]
fn a_closed_offer_takes_nothing_from_others_and_says_why() {
    let rules = OfferRules {
        not_on_battery: true,
        ..OfferRules::default()
    };
    let mut rig = provider(rules, true);
    assert_eq!(as_reply(&rig.ask(1, tasks(6)).0).accepted, 6);
    rig.prepared(1, 1);
    assert_eq!(rig.core.capacity().running, 4);
    let effects = rig.input(Input::Conditions(ON_BATTERY));
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Advertise))
    );
    assert_eq!(kills(&effects), 0, "what runs finishes");
    assert_eq!(rig.core.capacity().queued, 0, "what waits goes elsewhere");
    assert!(rig.core.capacity().closed.unwrap().contains("battery"));
    let refused = refusal(&mut rig, 2, tasks(1));
    assert!(matches!(&refused, Refusal::Closed { message } if message.contains("battery")));
    // Its own jobs are its owner's business.
    let own = TaskRequest::Offer(offer_of(2, Some(fixture::template(0, 1, 0)), &[(0, 1)]));
    assert_eq!(as_reply(&rig.ask(0, own).0).accepted, 1);
    rig.input(Input::Conditions(Conditions::default()));
    assert_eq!(rig.core.capacity().closed, None);
    assert_eq!(as_reply(&rig.ask(2, tasks(1)).0).accepted, 1);
}

#[test]
fn what_was_taken_before_is_taken_still_when_it_is_offered_again() {
    let rules = OfferRules {
        not_on_battery: true,
        ..OfferRules::default()
    };
    let mut rig = provider(rules, true);
    assert_eq!(as_reply(&rig.ask(1, tasks(4)).0).accepted, 4);
    rig.prepared(1, 1);
    rig.input(Input::Conditions(ON_BATTERY));
    let again = as_reply(&rig.ask(1, tasks(4)).0);
    assert_eq!((again.accepted, again.refusal), (4, None), "all run here");
    let more = as_reply(&rig.ask(1, tasks(6)).0);
    assert_eq!(more.accepted, 4);
    assert!(
        matches!(more.refusal, Some(Refusal::Closed { .. })),
        "{more:?}"
    );
    let capacity = rig.core.capacity();
    assert_eq!((capacity.running, capacity.queued), (4, 0));
    // Whom the owner does not let in any more has nothing to ask for.
    rig.input(Input::Allow {
        peer: fixture::peer(1),
        grant: None,
    });
    assert_eq!(as_reply(&rig.ask(1, tasks(4)).0).accepted, 0);
}

#[test]
fn an_offer_that_closes_can_stop_what_runs() {
    let rules = OfferRules {
        not_on_battery: true,
        on_close: OnClose::Stop,
        ..OfferRules::default()
    };
    let mut rig = provider(rules, true);
    rig.ask(1, tasks(2));
    rig.prepared(1, 1);
    let effects = rig.input(Input::Conditions(ON_BATTERY));
    assert_eq!(kills(&effects), 2);
    assert_eq!(kills(&rig.input(Input::Conditions(ON_BATTERY))), 0, "once");
}

#[test]
fn rules_are_judged_before_they_are_measured() {
    let mut rig = Rig::new();
    rig.input(Input::Runtimes(vec![(
        RuntimeKind::Wasm,
        Ok(RuntimeFeatures::default()),
    )]));
    rig.input(Input::Offer(OfferTerms {
        total: fixture::capacity(1),
        allow_any: true,
        rules: OfferRules {
            only_when_idle: true,
            ..OfferRules::default()
        },
    }));
    assert!(matches!(
        refusal(&mut rig, 1, tasks(1)),
        Refusal::Closed { .. }
    ));
}

#[test]
fn no_more_tasks_run_than_the_owner_says_and_none_longer() {
    let rules = OfferRules {
        max_tasks: Some(2),
        max_task_ms: Some(60_000),
        runtime: Some("runsc".into()),
        ..OfferRules::default()
    };
    let mut rig = provider(rules, true);
    assert_eq!(as_reply(&rig.ask(1, tasks(4)).0).slots, 2);
    let effects = rig.prepared(1, 1);
    let runs: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Run { limits, .. } => Some(limits.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[0].max_ms, Some(60_000));
    assert_eq!(runs[0].sandbox.as_deref(), Some("runsc"));
    let mut long = fixture::template(0, 1, 0);
    long.timeout_ms = 60_001;
    let long = TaskRequest::Offer(offer_of(2, Some(long), &[(0, 1)]));
    assert!(matches!(
        refusal(&mut rig, 1, long),
        Refusal::NotPermitted { .. }
    ));
}

#[test]
fn a_stranger_waits_for_the_owners_answer_which_can_have_limits() {
    let mut rig = provider(OfferRules::default(), false);
    let (_, effects) = rig.ask(1, tasks(5));
    let asked = effects.iter().any(|effect| {
        matches!(effect, Effect::Persist(Record::Requested { request: Some(asked), .. }) if asked.program == "wasm")
    });
    assert!(asked, "{effects:?}");
    assert_eq!(rig.core.requests().len(), 1);
    let grant = Some(Grant {
        tasks: Some(3),
        until_ms: Some(rig.now + 10_000),
        images: Vec::new(),
    });
    let peer = fixture::peer(1);
    rig.input(Input::Allow { peer, grant });
    assert!(rig.core.requests().is_empty(), "it is answered");
    assert_eq!(as_reply(&rig.ask(1, tasks(5)).0).accepted, 3);
    assert_eq!(rig.core.allowed_peers()[&peer].tasks, Some(0));
    assert!(matches!(
        refusal(&mut rig, 1, tasks(9)),
        Refusal::NotAllowed { .. }
    ));
    // What was taken is not sent away because the number is used up.
    assert_eq!(rig.core.capacity().queued + rig.core.capacity().running, 3);
}

#[test]
fn a_grant_ends_with_its_time() {
    let mut rig = provider(OfferRules::default(), false);
    let peer = fixture::peer(1);
    let grant = Some(Grant {
        until_ms: Some(rig.now + 5_000),
        ..Grant::default()
    });
    rig.input(Input::Allow { peer, grant });
    assert_eq!(as_reply(&rig.ask(1, tasks(1)).0).accepted, 1);
    rig.now += 5_000;
    assert!(matches!(
        refusal(&mut rig, 1, tasks(2)),
        Refusal::NotAllowed { .. }
    ));
}

#[test]
fn members_of_a_private_network_may_run_tasks() {
    let mut rig = provider(OfferRules::default(), false);
    rig.input(Input::Member(fixture::peer(1)));
    rig.disconnect(1);
    rig.connect(1);
    assert_eq!(as_reply(&rig.ask(1, tasks(1)).0).accepted, 1);
    let others = |rig: &mut Rig| refusal(rig, 2, tasks(1));
    assert!(matches!(others(&mut rig), Refusal::NotAllowed { .. }));
    // Members without number push out only those who have nothing here.
    for number in 3..3 + rig.core.config.max_peers {
        rig.input(Input::Member(fixture::peer(number)));
    }
    assert_eq!(as_reply(&rig.ask(1, tasks(2)).0).accepted, 2);
}

#[test]
fn who_is_denied_is_not_everybody() {
    let mut rig = provider(OfferRules::default(), true);
    let peer = fixture::peer(1);
    assert_eq!(as_reply(&rig.ask(1, tasks(1)).0).accepted, 1);
    rig.prepared(1, 1);
    let effects = rig.input(Input::Allow { peer, grant: None });
    assert_eq!(kills(&effects), 1);
    assert!(matches!(
        refusal(&mut rig, 1, tasks(2)),
        Refusal::NotAllowed { .. }
    ));
    assert_eq!(as_reply(&rig.ask(2, tasks(1)).0).accepted, 1);
    assert_eq!(rig.core.allowed_by_name(rig.now).count(), 0);
    let grant = Some(Grant::default());
    rig.input(Input::Allow { peer, grant });
    assert_eq!(as_reply(&rig.ask(1, tasks(3)).0).accepted, 3);
}
