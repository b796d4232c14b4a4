//! Offers that come in: whether they are taken, and what is made of them.

use p2pnode_protocol::message::{Refusal, Renewal, TaskRequest, TaskResponse};
use p2pnode_protocol::offer::{Grant, OfferRules};
use p2pnode_protocol::task::{Failure, FailureKind, Outcome, RuntimeKind};

use super::fixture;
use super::rig::{Rig, as_reply, ended, hosted, offer_of, task};
use super::seen::{kills, position, records, report, runs};
use crate::core::io::{Effect, Input, OfferTerms, Record, RuntimeFeatures};

fn template() -> p2pnode_protocol::task::TaskTemplate {
    fixture::template(0, 1, 60_000)
}

fn refusal(rig: &mut Rig, request: TaskRequest) -> Refusal {
    let reply = as_reply(&rig.ask(1, request).0);
    assert_eq!(reply.accepted, 0);
    reply.refusal.unwrap()
}

fn one() -> TaskRequest {
    TaskRequest::Offer(offer_of(1, Some(template()), &[(0, 1)]))
}

#[test]
fn refusals_say_what_a_person_can_do() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.ask(1, one()).0,
        TaskResponse::Busy,
        "its runtimes are not known yet"
    );
    rig.input(Input::Runtimes(vec![(
        RuntimeKind::Docker,
        Ok(RuntimeFeatures::default()),
    )]));
    assert_eq!(refusal(&mut rig, one()), Refusal::NotOffering);
    rig.input(Input::Offer(OfferTerms {
        total: fixture::capacity(1),
        allow_any: false,
        ..OfferTerms::default()
    }));
    let Refusal::NotAllowed { submitter } = refusal(&mut rig, one()) else {
        panic!();
    };
    assert_eq!(submitter, fixture::peer(1).to_base58());
    rig.input(Input::Allow {
        peer: fixture::peer(1),
        grant: Some(Grant::default()),
    });
    assert!(matches!(
        refusal(&mut rig, one()),
        Refusal::NoRuntime { .. }
    ));
    let broken = Err("no worker".to_owned());
    rig.input(Input::Runtimes(vec![(RuntimeKind::Wasm, broken)]));
    assert!(refusal(&mut rig, one()).to_string().contains("no worker"));
    rig.input(Input::Runtimes(vec![(
        RuntimeKind::Wasm,
        Ok(RuntimeFeatures::default()),
    )]));
    let mut large = template();
    large.resources = fixture::resources(2);
    let large = TaskRequest::Offer(offer_of(1, Some(large), &[(0, 1)]));
    assert!(
        refusal(&mut rig, large)
            .to_string()
            .contains("needs 2 CPUs, 1 there")
    );
    let mut idle = template();
    idle.resources.cpus = p2pnode_protocol::MilliCpus(0);
    let idle = TaskRequest::Offer(offer_of(1, Some(idle), &[(0, 1)]));
    assert!(matches!(refusal(&mut rig, idle), Refusal::Invalid { .. }));
    let mut root = template();
    root.root = true;
    let root = TaskRequest::Offer(offer_of(1, Some(root), &[(0, 1)]));
    let refused = refusal(&mut rig, root);
    assert!(matches!(refused, Refusal::NotPermitted { .. }));
    assert!(refused.to_string().contains("--allow-root"));
    let unknown = TaskRequest::Offer(offer_of(1, None, &[(0, 1)]));
    assert_eq!(refusal(&mut rig, unknown), Refusal::TemplateNeeded);
    assert_eq!(as_reply(&rig.ask(1, one()).0).accepted, 1);
    assert!(
        rig.core.allowed(rig.now, &fixture::peer(1))
            && !rig.core.allowed(rig.now, &fixture::peer(2))
    );
}

#[test]
fn root_is_given_to_allowed_peers_when_the_owner_says_so() {
    let mut rig = Rig::new();
    rig.input(Input::Runtimes(vec![(
        RuntimeKind::Wasm,
        Ok(RuntimeFeatures::default()),
    )]));
    rig.input(Input::Offer(OfferTerms {
        total: fixture::capacity(1),
        rules: OfferRules {
            allow_root: true,
            ..OfferRules::default()
        },
        ..OfferTerms::default()
    }));
    let mut root = template();
    root.root = true;
    let offer = || TaskRequest::Offer(offer_of(1, Some(root.clone()), &[(0, 1)]));
    assert!(matches!(
        refusal(&mut rig, offer()),
        Refusal::NotAllowed { .. }
    ));
    rig.input(Input::Allow {
        peer: fixture::peer(1),
        grant: Some(Grant::default()),
    });
    assert_eq!(as_reply(&rig.ask(1, offer()).0).accepted, 1);
}

#[test]
fn the_own_node_is_always_allowed() {
    let mut rig = Rig::provider(1);
    rig.input(Input::Offer(OfferTerms {
        total: fixture::capacity(1),
        allow_any: false,
        ..OfferTerms::default()
    }));
    assert_eq!(as_reply(&rig.ask(0, one()).0).accepted, 1);
}

#[test]
fn offers_that_break_the_rules_are_refused_and_leave_nothing() {
    let mut rig = Rig::provider(4);
    let many: Vec<(u32, u32)> = (0..2_049).map(|index| (index, 1)).collect();
    let mut wrong = vec![
        offer_of(1, Some(template()), &many),
        offer_of(1, Some(template()), &[]),
        offer_of(1, Some(template()), &[(0, 0)]),
    ];
    let mut no_values = offer_of(1, Some(template()), &[(0, 1)]);
    no_values.tasks[0].values.clear();
    let mut other_step = offer_of(1, Some(template()), &[(0, 1)]);
    other_step.step = 3;
    let mut no_input = template();
    no_input.inputs.push(p2pnode_protocol::task::InputBinding {
        path: "in".into(),
        source: p2pnode_protocol::task::InputSource::PerTask(0),
    });
    let mut huge = template();
    huge.env.push(("BIG".into(), "x".repeat(2 << 20)));
    wrong.extend([
        no_values,
        other_step,
        offer_of(1, Some(no_input), &[(0, 1)]),
        offer_of(1, Some(huge), &[(0, 1)]),
    ]);
    for offer in wrong {
        assert!(matches!(
            refusal(&mut rig, TaskRequest::Offer(offer)),
            Refusal::Invalid { .. }
        ));
    }
    assert!(rig.core.hosted_jobs().is_empty());
    rig.ask(1, one());
    let mut other = template();
    other.name = "another".into();
    let other = TaskRequest::Offer(offer_of(1, Some(other), &[(1, 1)]));
    assert!(matches!(refusal(&mut rig, other), Refusal::Invalid { .. }));
}

#[test]
fn a_step_is_stored_and_prepared_once_and_runs_as_slots_get_free() {
    let mut rig = Rig::provider(2);
    let offer = TaskRequest::Offer(offer_of(1, Some(template()), &[(0, 1), (1, 1), (2, 1)]));
    let (answer, effects) = rig.ask(1, offer);
    assert_eq!(as_reply(&answer).accepted, 3);
    let stored = position(&effects, |effect| {
        matches!(effect, Effect::Persist(Record::Hosted { .. }))
    });
    assert!(stored < position(&effects, |effect| matches!(effect, Effect::Respond { .. })));
    position(&effects, |effect| matches!(effect, Effect::Prepare { .. }));
    let (_, effects) = rig.ask(1, TaskRequest::Offer(offer_of(1, None, &[(3, 1)])));
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::Prepare { .. }))
    );
    let started = runs(&rig.prepared(1, 1));
    assert_eq!(
        started.iter().map(|run| run.task()).collect::<Vec<_>>(),
        [task(0, 1), task(1, 1)]
    );
    let view = rig.core.capacity();
    assert_eq!((view.running, view.queued, view.free.cpus.0), (2, 2, 0));
    let effects = rig.end(started[0], ended(Outcome::Succeeded));
    assert_eq!(runs(&effects)[0].task(), task(2, 1));
    assert_eq!(rig.core.capacity().queued, 1);
}

#[test]
fn a_repeated_offer_is_recognised() {
    let mut rig = Rig::provider(1);
    let offer = TaskRequest::Offer(offer_of(1, Some(template()), &[(0, 1), (1, 1)]));
    rig.ask(1, offer.clone());
    let first = runs(&rig.prepared(1, 1));
    let (answer, effects) = rig.ask(1, offer.clone());
    assert_eq!(as_reply(&answer).accepted, 2);
    assert!(runs(&effects).is_empty() && rig.core.capacity().queued == 1);
    let effects = rig.end(first[0], ended(Outcome::Succeeded));
    rig.end(runs(&effects)[0], ended(Outcome::Succeeded));
    let (answer, effects) = rig.ask(1, offer);
    assert_eq!(as_reply(&answer).accepted, 2);
    assert!(runs(&effects).is_empty(), "ended and not yet acknowledged");
}

#[test]
fn jobs_take_turns() {
    let mut rig = Rig::provider(1);
    for job in [1, 2] {
        let tasks = [(0, 1), (1, 1), (2, 1)];
        rig.ask(
            1,
            TaskRequest::Offer(offer_of(job, Some(template()), &tasks)),
        );
    }
    let mut running = runs(&rig.prepared(1, 1));
    assert!(runs(&rig.prepared(1, 2)).is_empty());
    let mut order = Vec::new();
    while let Some(run) = running.pop() {
        order.push(run.hosted().job);
        running = runs(&rig.end(run, ended(Outcome::Succeeded)));
    }
    let (a, b) = (fixture::job_id(1), fixture::job_id(2));
    // The second job came when the first had taken its first turn.
    assert_eq!(order, [a, a, b, a, b, b]);
}

#[test]
fn a_large_task_is_not_passed_over_for_ever() {
    let mut rig = Rig::provider(2);
    let mut large = template();
    large.resources = fixture::resources(2);
    let small: Vec<(u32, u32)> = (0..500).map(|index| (index, 1)).collect();
    rig.ask(1, TaskRequest::Offer(offer_of(1, Some(template()), &small)));
    let mut running = runs(&rig.prepared(1, 1));
    rig.ask(1, TaskRequest::Offer(offer_of(2, Some(large), &[(0, 1)])));
    rig.prepared(1, 2);
    for _ in 0..200 {
        rig.now += 1_000;
        let run = running.remove(0);
        running.extend(runs(&rig.end(run, ended(Outcome::Succeeded))));
        let jobs = [1, 2].map(|job| Renewal {
            job: fixture::job_id(job),
            epoch: 0,
        });
        rig.ask(
            1,
            TaskRequest::Heartbeat {
                jobs: jobs.to_vec(),
            },
        );
        if running.iter().any(|run| run.hosted() == hosted(1, 2)) {
            assert_eq!(running.len(), 1, "it has the machine to itself");
            return;
        }
    }
    panic!("the large task never ran");
}

#[test]
fn queues_are_bounded() {
    let mut rig = Rig::provider(1);
    let mut index = 0;
    let mut taken = 0;
    loop {
        let tasks: Vec<(u32, u32)> = (index..index + 1_000).map(|index| (index, 1)).collect();
        let offer = TaskRequest::Offer(offer_of(1, Some(template()), &tasks));
        let reply = as_reply(&rig.ask(1, offer).0);
        taken += reply.accepted;
        index += 1_000;
        if reply.accepted < 1_000 {
            assert_eq!(reply.refusal, Some(Refusal::Full));
            break;
        }
    }
    assert_eq!(taken, 4_096);
    let other = TaskRequest::Offer(offer_of(1, Some(template()), &[(0, 1)]));
    assert_eq!(
        as_reply(&rig.ask(2, other).0).accepted,
        1,
        "others are not locked out"
    );
    for job in 2..=64 {
        rig.ask(
            1,
            TaskRequest::Offer(offer_of(job, Some(template()), &[(0, 1)])),
        );
    }
    let one_more = TaskRequest::Offer(offer_of(65, Some(template()), &[(0, 1)]));
    assert_eq!(refusal(&mut rig, one_more), Refusal::Full);
}

#[test]
fn large_assignments_are_bounded_in_bytes() {
    let mut rig = Rig::provider(1);
    let mut taken = 0;
    for index in 0..20 {
        let mut offer = offer_of(1, Some(template()), &[(index, 1)]);
        offer.tasks[0].values[0] = vec!["x".repeat(1 << 20)];
        taken += as_reply(&rig.ask(1, TaskRequest::Offer(offer)).0).accepted;
    }
    assert_eq!(taken, 15, "16 MiB, and each is a little more than one");
}

#[test]
fn when_preparing_fails_every_waiting_task_ends_that_way_and_the_next_offer_tries_again() {
    let mut rig = Rig::provider(1);
    rig.ask(
        1,
        TaskRequest::Offer(offer_of(1, Some(template()), &[(0, 1), (1, 1)])),
    );
    let effects = rig.input(Input::Prepared {
        hosted: hosted(1, 1),
        step: 0,
        making: 1,
        result: Err(Failure::new(FailureKind::ImageUnavailable, "no such image")),
    });
    let stored = records(&effects)
        .into_iter()
        .filter(|record| matches!(record, Record::Outbox { .. }));
    assert_eq!(stored.count(), 2);
    assert_eq!(report(&effects).1.events.len(), 2);
    assert_eq!(rig.core.capacity().queued, 0);
    let (_, effects) = rig.ask(1, TaskRequest::Offer(offer_of(1, None, &[(0, 2)])));
    position(&effects, |effect| matches!(effect, Effect::Prepare { .. }));
}

#[test]
fn single_attempts_can_be_cancelled() {
    let mut rig = Rig::provider(1);
    rig.ask(
        1,
        TaskRequest::Offer(offer_of(1, Some(template()), &[(0, 1), (1, 1), (2, 1)])),
    );
    let running = runs(&rig.prepared(1, 1));
    let request = TaskRequest::Cancel {
        job: fixture::job_id(1),
        tasks: Some(vec![task(0, 1), task(1, 1), task(9, 9)]),
    };
    let (answer, effects) = rig.ask(1, request);
    assert_eq!(answer, TaskResponse::Done);
    assert_eq!(kills(&effects), [(running[0], FailureKind::Cancelled)]);
    assert_eq!(rig.core.capacity().queued, 1);
    let (call, first) = report(&effects);
    assert_eq!(first.events.len(), 1, "the one that waited");
    let effects = rig.end(
        running[0],
        ended(super::rig::failed(FailureKind::Cancelled)),
    );
    assert_eq!(runs(&effects)[0].task(), task(2, 1));
    let (_, second) = report(&rig.answer(1, call, TaskResponse::Reported { through: 1 }));
    assert_eq!(second.events.len(), 1, "the one that ran");
}

#[test]
fn lists_beyond_the_protocol_change_nothing() {
    let mut rig = Rig::provider(1);
    rig.ask(
        1,
        TaskRequest::Offer(offer_of(1, Some(template()), &[(0, 1)])),
    );
    let tasks = vec![task(0, 1); 2_049];
    let job = fixture::job_id(1);
    rig.ask(
        1,
        TaskRequest::Cancel {
            job,
            tasks: Some(tasks.clone()),
        },
    );
    rig.ask(1, TaskRequest::Collected { job, tasks });
    assert_eq!(rig.core.capacity().queued, 1);
    assert_eq!(rig.core.counters().invalid_messages, 2);
}
