//! The owner in charge: killing and draining, at the provider and at the submitter.

use p2pnode_protocol::message::{Refusal, Report, ReportEvent, TaskRequest, TaskResponse};
use p2pnode_protocol::task::{Decider, Failure, FailureKind, Outcome};

use super::fixture;
use super::rig::{JOB, Rig, as_reply, ended, finished, hosted, job, offer_of, plan, reply, task};
use super::seen::{calls, kills, offer, offers, position, records, report, runs};
use crate::core::io::{
    Effect, Input, Meant, OfferTerms, Record, RunKey, RuntimeFeatures, Snapshot,
};

/// A provider of one slot, called `desk`, with tasks 0 (which runs) and 1 of job 1 of peer 1, and task
/// 0 of job 2 of peer 2.
fn busy() -> (Rig, RunKey) {
    let mut rig = Rig::named("desk");
    rig.input(Input::Runtimes(vec![(
        p2pnode_protocol::task::RuntimeKind::Wasm,
        Ok(RuntimeFeatures::default()),
    )]));
    rig.input(Input::Offer(OfferTerms {
        total: fixture::capacity(1),
        allow_any: true,
        ..OfferTerms::default()
    }));
    let template = || Some(fixture::template(0, 1, 60_000));
    rig.connect(1);
    rig.connect(2);
    rig.ask(
        1,
        TaskRequest::Offer(offer_of(1, template(), &[(0, 1), (1, 1)])),
    );
    let run = runs(&rig.prepared(1, 1))[0];
    rig.ask(2, TaskRequest::Offer(offer_of(2, template(), &[(0, 1)])));
    rig.prepared(2, 2);
    (rig, run)
}

fn failures(report: &Report) -> Vec<(u32, Failure)> {
    let events = report.events.iter();
    events
        .filter_map(|event| match event {
            ReportEvent::Finished {
                task,
                outcome: Outcome::Failed(failure),
                ..
            } => Some((task.index, failure.clone())),
            _ => None,
        })
        .collect()
}

fn kill(rig: &mut Rig, meant: Meant, reason: &str) -> Vec<Effect> {
    let reason = reason.to_owned();
    rig.input(Input::Kill { meant, reason })
}

fn unrun(effects: &[Effect]) -> usize {
    let counts = effects.iter().map(|effect| match effect {
        Effect::Unrun { tasks, .. } => tasks.len(),
        _ => 0,
    });
    counts.sum()
}

#[test]
fn a_killed_job_loses_what_runs_and_what_waits_and_hears_who_decided() {
    let (mut rig, run) = busy();
    let meant = Meant::Job(hosted(1, 1));
    assert_eq!(rig.core.waiting_tasks(&meant), 1);
    let effects = kill(&mut rig, meant, "it heats\u{7} the room");
    assert_eq!(kills(&effects), [(run, FailureKind::KilledByOwner)]);
    let waited = failures(&report(&effects).1);
    let (1, failure) = &waited[0] else {
        panic!("{waited:?}");
    };
    assert_eq!(waited.len(), 1);
    assert_eq!(
        failure.message,
        "killed by the owner of desk: it heats the room"
    );
    assert_eq!(failure.kind.decider(), Decider::Owner);
    assert!(!failure.kind.is_tasks_fault(), "no try is counted");
    assert_eq!(unrun(&effects), 1, "the history hears of it");
    assert_eq!(rig.core.hosted_waiting().len(), 1, "the other job waits on");
    // The slot goes to the other job when the run has ended.
    let why = effects.iter().find_map(|effect| match effect {
        Effect::Kill { why, .. } => Some(why.clone()),
        _ => None,
    });
    let effects = rig.end(run, ended(Outcome::Failed(why.unwrap())));
    assert_eq!(runs(&effects)[0].hosted(), hosted(2, 2));
}

#[test]
fn one_task_can_be_killed_running_or_waiting() {
    let (mut rig, run) = busy();
    let effects = kill(&mut rig, Meant::Task(hosted(1, 1), 0, 1), "");
    assert!(kills(&effects).is_empty());
    let waited = failures(&report(&effects).1);
    assert_eq!(waited.len(), 1);
    assert_eq!(waited[0].0, 1);
    assert!(
        waited[0].1.message.ends_with("who gave no reason"),
        "{waited:?}"
    );
    let effects = kill(&mut rig, Meant::Task(hosted(1, 1), 0, 0), "x");
    assert_eq!(kills(&effects), [(run, FailureKind::KilledByOwner)]);
    // Nobody's task: nothing happens.
    let effects = kill(&mut rig, Meant::Task(hosted(3, 1), 0, 0), "x");
    assert!(effects.is_empty(), "{effects:?}");
}

#[test]
fn killing_a_peers_tasks_does_not_shut_it_out() {
    let (mut rig, run) = busy();
    let peer = fixture::peer(1);
    let effects = kill(&mut rig, Meant::Peer(peer), "enough");
    assert_eq!(kills(&effects), [(run, FailureKind::KilledByOwner)]);
    assert!(
        records(&effects)
            .iter()
            .all(|record| !matches!(record, Record::Allowed { .. } | Record::Offer(_)))
    );
    let more = TaskRequest::Offer(offer_of(1, None, &[(7, 1)]));
    assert_eq!(as_reply(&rig.ask(1, more).0).accepted, 1);
}

#[test]
fn a_task_that_nobody_wants_any_more_is_not_killed_twice() {
    let (mut rig, run) = busy();
    let over = TaskRequest::Cancel {
        job: fixture::job_id(1),
        tasks: None,
    };
    let (_, effects) = rig.ask(1, over);
    assert_eq!(kills(&effects), [(run, FailureKind::Cancelled)]);
    assert!(kills(&kill(&mut rig, Meant::All, "x")).is_empty());
}

#[test]
fn draining_keeps_what_runs_sends_back_what_waits_and_takes_nothing_new() {
    let (mut rig, run) = busy();
    let effects = rig.input(Input::Drain(true));
    assert_eq!(records(&effects)[0], Record::Draining(true));
    assert!(kills(&effects).is_empty());
    position(&effects, |effect| matches!(effect, Effect::Advertise));
    assert_eq!(unrun(&effects), 2);
    let view = rig.core.capacity();
    assert_eq!((view.running, view.queued), (1, 0));
    assert_eq!(view.free, p2pnode_protocol::Capacity::default());
    assert!(view.offering, "it is not withdrawn");
    for (peer, job) in [(1, 1), (3, 9)] {
        let template = Some(fixture::template(0, 1, 60_000));
        let more = TaskRequest::Offer(offer_of(job, template, &[(8, 1)]));
        let reply = as_reply(&rig.ask(peer, more).0);
        assert_eq!(
            (reply.accepted, reply.refusal),
            (0, Some(Refusal::Draining))
        );
    }
    // What runs is taken again when its submitter asks again, as one that reconnects does.
    let again = TaskRequest::Offer(offer_of(1, None, &[(0, 1)]));
    let reply = as_reply(&rig.ask(1, again).0);
    assert_eq!((reply.accepted, reply.refusal), (1, None));
    rig.end(run, ended(Outcome::Succeeded));
    let view = rig.core.capacity();
    assert_eq!((view.running, view.free.cpus.0), (0, 0));
    let effects = rig.input(Input::Drain(false));
    assert_eq!(records(&effects), [Record::Draining(false)]);
    assert_eq!(rig.core.capacity().free, fixture::capacity(1));
}

#[test]
fn a_drain_survives_a_restart_and_ends_with_a_new_offer() {
    let terms = OfferTerms {
        total: fixture::capacity(1),
        allow_any: true,
        ..OfferTerms::default()
    };
    let mut snapshot = Snapshot::default();
    snapshot.apply(Record::Offer(terms.clone()));
    snapshot.apply(Record::Draining(true));
    let mut rig = Rig::wake(snapshot).0;
    assert!(rig.core.is_draining());
    assert_eq!(rig.core.capacity().free.cpus.0, 0);
    let effects = rig.input(Input::Offer(terms.clone()));
    assert_eq!(
        records(&effects),
        [Record::Offer(terms), Record::Draining(false)]
    );
    assert!(!rig.core.is_draining());
}

/// A failure as a provider's owner causes it.
fn killed() -> Outcome {
    let why = "killed by the owner of desk: too hot";
    Outcome::Failed(Failure::new(FailureKind::KilledByOwner, why))
}

#[test]
fn a_killed_task_moves_elsewhere_without_a_try_and_its_provider_rests() {
    let mut rig = Rig::submitter(&[2, 1]);
    let first = offer(&rig.submit(plan(1)));
    assert_eq!(first.peer, fixture::peer(1));
    rig.take(&first);
    let (_, effects) = rig.report(1, 1, finished(task(0, 1), killed()));
    let next = offer(&effects);
    assert_eq!((next.peer, next.tasks()), (fixture::peer(2), vec![(0, 2)]));
    rig.take(&next);
    // Killed there too: nobody is left, and the job says whose doing that is.
    let (_, effects) = rig.report(2, 1, finished(task(0, 2), killed()));
    assert!(offers(&effects).is_empty());
    let effects = rig.pass(2_000);
    let told = format!("{:?}", super::seen::events(&effects));
    assert!(
        told.contains("killed by the owner of desk: too hot"),
        "{told}"
    );
    assert_eq!(rig.core.job(job()).unwrap().tasks.failed, 0);
}

#[test]
fn a_provider_whose_owner_kills_rests_a_minute_however_many_were_killed() {
    let mut rig = Rig::submitter(&[4]);
    let mut patient = plan(4);
    patient.policy.wait_for_peers_ms = 600_000;
    let first = offer(&rig.submit(patient));
    rig.take(&first);
    let mut number = 0;
    for (index, attempt) in first.tasks() {
        number += 1;
        let (_, effects) = rig.report(1, number, finished(task(index, attempt), killed()));
        assert!(offers(&effects).is_empty());
    }
    // It lives: it answers every heartbeat.
    let mut waited = 0;
    let next = loop {
        let effects = rig.pass(1_000);
        waited += 1;
        let beats = calls(&effects).into_iter();
        let beats: Vec<_> = beats
            .filter(|(_, _, request)| matches!(request, TaskRequest::Heartbeat { .. }))
            .collect();
        for (_, call, _) in beats {
            let unknown = Vec::new();
            rig.answer(1, call, TaskResponse::Heartbeat { unknown });
        }
        if let Some(next) = offers(&effects).pop() {
            break next;
        }
        assert!(waited < 100, "it is never asked again");
    };
    assert_eq!(waited, 60);
    assert_eq!(next.tasks().len(), 1, "one task, to see");
}

#[test]
fn a_draining_provider_is_asked_again_at_its_next_advert() {
    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(1)));
    let draining = reply(0, Some(Refusal::Draining), 1);
    let effects = rig.answer(1, first.call, draining);
    let told = format!("{:?}", super::seen::events(&effects));
    assert!(told.contains("its owner drains it"), "{told}");
    rig.pass(2_500);
    let effects = rig.advert(1, 1, 1);
    assert_eq!(offer(&effects).offer.job, fixture::job_id(JOB));
}

#[test]
fn every_end_says_whose_doing_it_was() {
    let (mut rig, _) = busy();
    let mut said = Vec::new();
    let mut note = |effects: &[Effect]| {
        for effect in effects {
            if let Effect::Kill { why, .. } | Effect::Unrun { failure: why, .. } = effect {
                said.push(why.clone());
            }
        }
    };
    note(&rig.input(Input::Drain(true)));
    note(&rig.input(Input::Allow {
        peer: fixture::peer(1),
        grant: None,
    }));
    note(&rig.input(Input::Offer(OfferTerms {
        total: fixture::capacity(1),
        allow_any: false,
        ..OfferTerms::default()
    })));
    note(&rig.input(Input::Stop));
    assert!(said.len() >= 3, "{said:?}");
    for failure in said {
        assert_eq!(failure.kind.decider(), Decider::Owner, "{failure:?}");
        assert!(failure.message.contains("the owner of desk"), "{failure:?}");
    }
}
