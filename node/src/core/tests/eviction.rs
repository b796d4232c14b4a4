//! What is sent away: waiting tasks whose permission is gone, environments that nobody waits for.

use p2pnode_protocol::message::{Phase, Refusal, TaskRequest};
use p2pnode_protocol::offer::{Grant, OfferRules, OnClose};
use p2pnode_protocol::task::{FailureKind, Outcome, Program};

use super::fixture;
use super::rig::{Rig, as_reply, ended, hosted, offer_of, task};
use super::seen::{kills, report, runs};
use crate::core::io::{Conditions, Effect, Input, Meant, OfferTerms};

/// Peer 1 has five tasks here, and none of them runs before the environment is made.
fn preparing(rules: OfferRules) -> Rig {
    let mut rig = Rig::provider(1);
    rig.connect(1);
    rig.input(Input::Offer(OfferTerms {
        total: fixture::capacity(1),
        allow_any: true,
        rules,
    }));
    rig.input(Input::Conditions(Conditions::default()));
    assert_eq!(as_reply(&rig.ask(1, tasks()).0).accepted, 5);
    rig
}

fn tasks() -> TaskRequest {
    let named: Vec<_> = (0..5).map(|index| (index, 1)).collect();
    let template = fixture::template(0, 1, 60_000);
    TaskRequest::Offer(offer_of(1, Some(template), &named))
}

fn stops(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| {
        matches!(effect, Effect::StopPreparing { hosted: of, step: 0 } if *of == hosted(1, 1))
    })
}

fn prepared(rig: &mut Rig, making: u32) -> Vec<Effect> {
    rig.input(Input::Prepared {
        hosted: hosted(1, 1),
        step: 0,
        making,
        result: Ok(()),
    })
}

#[test]
fn what_nobody_waits_for_is_not_made_any_longer() {
    let peer = fixture::peer(1);
    let endings = [
        Input::Kill {
            meant: Meant::Peer(peer),
            reason: String::new(),
        },
        Input::Allow { peer, grant: None },
        Input::Drain(true),
        Input::Conditions(Conditions {
            on_battery: Some(true),
            ..Conditions::default()
        }),
        Input::Offer(OfferTerms {
            allow_any: false,
            total: fixture::capacity(1),
            ..OfferTerms::default()
        }),
        Input::Stop,
    ];
    for ending in endings {
        let mut rig = preparing(OfferRules {
            not_on_battery: true,
            on_close: OnClose::Finish,
            ..OfferRules::default()
        });
        let effects = rig.input(ending.clone());
        assert!(stops(&effects), "{ending:?}: {effects:?}");
        assert!(runs(&prepared(&mut rig, 1)).is_empty(), "{ending:?}");
    }
    let mut rig = preparing(OfferRules::default());
    let some = (0..4).map(|index| task(index, 1)).collect();
    let cancel = |tasks| TaskRequest::Cancel {
        job: fixture::job_id(1),
        tasks: Some(tasks),
    };
    assert!(!stops(&rig.ask(1, cancel(some)).1), "one still waits");
    assert!(stops(&rig.ask(1, cancel(vec![task(4, 1)])).1));
}

#[test]
fn the_end_of_a_making_that_was_stopped_is_not_that_of_the_next() {
    let mut rig = preparing(OfferRules::default());
    rig.input(Input::Kill {
        meant: Meant::All,
        reason: String::new(),
    });
    let again = TaskRequest::Offer(offer_of(1, None, &[(0, 2)]));
    let (_, effects) = rig.ask(1, again);
    let making = effects.iter().find_map(|effect| match effect {
        Effect::Prepare { making, .. } => Some(*making),
        _ => None,
    });
    assert_eq!(making, Some(2));
    assert!(runs(&prepared(&mut rig, 1)).is_empty());
    assert_eq!(runs(&prepared(&mut rig, 2)).len(), 1);
}

#[test]
fn the_lease_of_who_is_denied_is_not_renewed() {
    let mut rig = preparing(OfferRules::default());
    rig.prepared(1, 1);
    rig.input(Input::Allow {
        peer: fixture::peer(1),
        grant: None,
    });
    let heartbeat = TaskRequest::Heartbeat {
        jobs: vec![p2pnode_protocol::message::Renewal {
            job: fixture::job_id(1),
            epoch: 0,
        }],
    };
    rig.pass(30_000);
    rig.ask(1, heartbeat);
    assert_eq!(rig.core.counters().leases_lost, 0);
    rig.pass(30_001);
    assert_eq!(rig.core.counters().leases_lost, 1);
}

#[test]
fn a_permission_that_ends_sends_away_what_waits_and_lets_finish_what_runs() {
    let mut rig = preparing(OfferRules::default());
    let until = rig.now + 5_000;
    rig.input(Input::Allow {
        peer: fixture::peer(1),
        grant: Some(Grant {
            until_ms: Some(until),
            ..Grant::default()
        }),
    });
    let run = runs(&rig.prepared(1, 1))[0];
    let effects = rig.pass(5_000);
    assert!(kills(&effects).is_empty(), "{effects:?}");
    assert_eq!(rig.core.capacity().queued, 0);
    let (_, first) = report(&effects);
    assert_eq!(first.events.len(), 4);
    assert!(format!("{first:?}").contains("is over"), "{first:?}");
    rig.end(run, ended(Outcome::Succeeded));
    assert_eq!(rig.core.allowed_by_name(rig.now).count(), 0);
}

#[test]
fn a_narrower_permission_binds_what_waits() {
    let mut rig = preparing(OfferRules::default());
    // What waits is asked about again: these may run for an hour, and now a minute is the most.
    let rules = OfferRules {
        max_task_ms: Some(60_000),
        ..OfferRules::default()
    };
    let mut long = fixture::template(0, 1, 0);
    long.timeout_ms = 3_600_000;
    rig.ask(2, TaskRequest::Offer(offer_of(2, Some(long), &[(0, 1)])));
    assert_eq!(rig.core.capacity().queued, 6);
    let effects = rig.input(Input::Offer(OfferTerms {
        total: fixture::capacity(1),
        allow_any: true,
        rules,
    }));
    assert_eq!(rig.core.capacity().queued, 5, "{effects:?}");
    assert!(kills(&effects).is_empty());
}

#[test]
fn a_denial_outlives_an_offer_to_everybody() {
    let mut rig = Rig::provider(1);
    let closed = |allow_any| {
        Input::Offer(OfferTerms {
            total: fixture::capacity(1),
            allow_any,
            ..OfferTerms::default()
        })
    };
    rig.input(closed(false));
    rig.input(Input::Allow {
        peer: fixture::peer(1),
        grant: None,
    });
    rig.input(closed(true));
    let refused = as_reply(&rig.ask(1, tasks()).0).refusal;
    assert!(
        matches!(refused, Some(Refusal::NotAllowed { .. })),
        "{refused:?}"
    );
    assert!(as_reply(&rig.ask(2, tasks()).0).refusal.is_none());
}

#[test]
fn what_a_job_brings_must_fit_into_what_is_offered() {
    let mut rig = Rig::provider(1);
    let disk = rig.core.capacity().total.disk.0;
    let mut template = fixture::template(0, 1, 0);
    let mut module = fixture::blob(1);
    module.content_bytes = disk + 1;
    template.program = Program::Wasm { module };
    let offer = TaskRequest::Offer(offer_of(1, Some(template.clone()), &[(0, 1)]));
    let refused = as_reply(&rig.ask(1, offer).0).refusal;
    assert!(
        matches!(&refused, Some(Refusal::TooSmall { message }) if message.contains("task.wasm")),
        "{refused:?}"
    );
    module.content_bytes = disk;
    template.program = Program::Wasm { module };
    let offer = TaskRequest::Offer(offer_of(1, Some(template), &[(0, 1)]));
    assert_eq!(as_reply(&rig.ask(1, offer).0).accepted, 1);
}

#[test]
fn a_build_of_anothers_takes_no_longer_than_a_task_may() {
    for (peer, most) in [(1, Some(60_000)), (0, None)] {
        let mut rig = Rig::provider(1);
        let rules = OfferRules {
            allow_build: true,
            max_task_ms: Some(60_000),
            ..OfferRules::default()
        };
        let features = crate::core::io::RuntimeFeatures::default();
        let docker = p2pnode_protocol::task::RuntimeKind::Docker;
        rig.input(Input::Runtimes(vec![(docker, Ok(features))]));
        rig.input(Input::Offer(OfferTerms {
            total: fixture::capacity(1),
            allow_any: true,
            rules,
        }));
        let mut template = fixture::template(0, 1, 0);
        template.timeout_ms = 1_000;
        template.program = Program::Build {
            context: fixture::blob(1),
            dockerfile: "Dockerfile".into(),
        };
        let offer = TaskRequest::Offer(offer_of(1, Some(template), &[(0, 1)]));
        let (answer, effects) = rig.ask(peer, offer);
        assert_eq!(as_reply(&answer).refusal, None);
        let found = effects.iter().find_map(|effect| match effect {
            Effect::Prepare { leave, .. } => Some(leave.max_ms),
            _ => None,
        });
        assert_eq!(found, Some(most));
    }
}

#[test]
fn the_owner_sees_what_is_made() {
    let mut rig = preparing(OfferRules::default());
    let seen = |rig: &Rig| rig.core.hosted_waiting()[0].3;
    assert_eq!(seen(&rig), Some(Phase::Fetching));
    rig.input(Input::Preparing {
        hosted: hosted(1, 1),
        step: 0,
        phase: Phase::Building,
        done: 1,
        total: 2,
    });
    assert_eq!(seen(&rig), Some(Phase::Building));
    rig.prepared(1, 1);
    assert_eq!(seen(&rig), None, "the rest waits for a slot");
}

#[test]
fn credentials_are_of_use_for_steps_that_are_here_alone() {
    let rig = preparing(OfferRules::default());
    assert!(rig.core.hosts_step(&hosted(1, 1), 0));
    assert!(!rig.core.hosts_step(&hosted(1, 1), 1));
    assert!(!rig.core.hosts_step(&hosted(2, 1), 0));
}

#[test]
fn who_used_up_a_permission_keeps_what_was_taken() {
    let mut rig = preparing(OfferRules::default());
    let peer = fixture::peer(2);
    rig.input(Input::Allow {
        peer,
        grant: Some(Grant {
            tasks: Some(1),
            ..Grant::default()
        }),
    });
    let offer = TaskRequest::Offer(offer_of(2, Some(fixture::template(0, 1, 0)), &[(0, 1)]));
    assert_eq!(as_reply(&rig.ask(2, offer).0).accepted, 1);
    rig.input(Input::Offer(OfferTerms {
        total: fixture::capacity(8),
        allow_any: true,
        ..OfferTerms::default()
    }));
    let effects = rig.prepared(2, 2);
    assert_eq!(runs(&effects).len(), 1, "{:?}", FailureKind::KilledByOwner);
}
