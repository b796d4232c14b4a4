//! Waking up with what was stored.

use p2pnode_protocol::api::{JobState, TaskState};
use p2pnode_protocol::message::{Renewal, ReportEvent, TaskRequest, TaskResponse};
use p2pnode_protocol::task::{FailureKind, Outcome, RuntimeKind};

use super::fixture;
use super::rig::{
    JOB, Rig, as_reply, ended, failed, finished, finished_with_outputs, hosted, job, offer_of,
    plan, task,
};
use super::seen::{Offered, offer, offers, position, records, report, runs};
use crate::core::io::{Effect, Input, Record, RunEnd, RuntimeFeatures, Snapshot};

/// Folds what a node stored.
fn fold(snapshot: &mut Snapshot, effects: &[Effect]) {
    for record in records(effects) {
        snapshot.apply(record.clone());
        // Stored twice is stored once.
        snapshot.apply(record);
    }
}

/// A job whose first offer was taken, and what is on disk.
fn submitted(slots: u32, tasks: u64) -> (Rig, Snapshot, Offered) {
    let mut snapshot = Snapshot::default();
    let mut rig = Rig::submitter(&[slots]);
    let mut plan = plan(tasks);
    plan.policy.retries = 1;
    let effects = rig.submit(plan);
    fold(&mut snapshot, &effects);
    let first = offer(&effects);
    fold(&mut snapshot, &rig.take(&first));
    (rig, snapshot, first)
}

#[test]
fn what_was_out_is_offered_again_to_the_same_peer_as_the_same_attempt() {
    let (_, snapshot, first) = submitted(2, 3);
    let (mut rig, effects) = Rig::wake(snapshot);
    position(
        &effects,
        |effect| matches!(effect, Effect::Connect(peer) if *peer == fixture::peer(1)),
    );
    assert!(offers(&effects).is_empty());
    let again = offer(&rig.connect(1));
    assert_eq!(
        (again.peer, again.tasks()),
        (fixture::peer(1), first.tasks())
    );
    assert!(again.offer.template.is_some());
    let effects = rig.take(&again);
    assert!(records(&effects).is_empty(), "it is stored already");
}

#[test]
fn a_provider_that_does_not_come_back_loses_its_tasks() {
    let (_, snapshot, _) = submitted(1, 1);
    let (mut rig, _) = Rig::wake(snapshot);
    rig.connect(2);
    rig.advert(2, 1, 1);
    assert!(offers(&rig.pass(9_000)).is_empty());
    let next = offer(&rig.pass(2_000));
    assert_eq!((next.peer, next.tasks()), (fixture::peer(2), vec![(0, 2)]));
}

#[test]
fn results_and_tries_are_remembered() {
    let (mut rig, mut snapshot, _) = submitted(3, 4);
    for (number, event) in [
        finished(task(0, 1), Outcome::Succeeded),
        finished(task(1, 1), failed(FailureKind::Exit(1))),
    ]
    .into_iter()
    .enumerate()
    {
        let (_, effects) = rig.report(1, number as u64 + 1, event);
        fold(&mut snapshot, &effects);
    }
    let (mut rig, _) = Rig::wake(snapshot.clone());
    let info = rig.core.job(job()).unwrap();
    assert_eq!((info.state, info.tasks.succeeded), (JobState::Running, 1));
    assert_eq!(info.peers.get(&fixture::peer(1).to_base58()), Some(&1));
    let again = offer(&rig.connect(1));
    assert_eq!(again.tasks(), [(2, 1), (3, 1)]);
    rig.take(&again);
    let (_, mut effects) = rig.report(1, 3, finished(task(2, 1), Outcome::Succeeded));
    let (_, more) = rig.report(1, 4, finished(task(3, 1), Outcome::Succeeded));
    effects.extend(more);
    let next = offer(&effects);
    assert_eq!(next.tasks(), [(1, 2)]);
    let shown = rig.core.tasks(job(), 0..2);
    assert_eq!(
        (shown[0].state, shown[1].attempt),
        (TaskState::Succeeded, 2)
    );
    let (_, effects) = rig.report(
        1,
        9,
        finished(task(1, shown[1].attempt), failed(FailureKind::Exit(1))),
    );
    position(&effects, |effect| {
        matches!(
            effect,
            Effect::Persist(Record::TaskEnded { last: true, .. })
        )
    });
}

#[test]
fn what_had_ended_and_was_not_collected_is_collected_when_its_provider_is_there() {
    let (mut rig, mut snapshot, _) = submitted(1, 1);
    let (_, effects) = rig.report(1, 1, finished_with_outputs(task(0, 1)));
    fold(&mut snapshot, &effects);
    let (mut rig, effects) = Rig::wake(snapshot);
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::Collect { .. }))
    );
    let effects = rig.connect(1);
    position(&effects, |effect| {
        matches!(effect, Effect::Collect { log_bytes: 3, .. })
    });
    assert!(offers(&effects).is_empty());
}

#[test]
fn jobs_that_are_over_are_still_shown() {
    let (mut rig, mut snapshot, _) = submitted(1, 1);
    let (_, effects) = rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    fold(&mut snapshot, &effects);
    let (mut rig, effects) = Rig::wake(snapshot.clone());
    assert!(effects.is_empty(), "{effects:?}");
    let before = rig.core.job(job()).unwrap();
    assert_eq!(
        (before.state, before.tasks.succeeded),
        (JobState::Succeeded, 1)
    );
    assert_eq!(rig.core.job_ids(), [job()]);
    let (answer, _) = rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    assert_eq!(
        answer,
        TaskResponse::UnknownJob,
        "so its provider forgets it"
    );
    // A job that ended without a last word ends at once.
    snapshot.jobs[0].ended = None;
    let (_, effects) = Rig::wake(snapshot);
    position(&effects, |effect| {
        matches!(effect, Effect::Persist(Record::JobEnded { .. }))
    });
}

#[test]
fn newest_jobs_come_first() {
    let mut rig = Rig::new();
    for number in 1..=3 {
        rig.now += 1;
        rig.input(Input::Submit {
            job: fixture::job_id(number),
            plan: std::sync::Arc::new(plan(1)),
            out: None,
        });
    }
    assert_eq!(rig.core.job_ids(), [3, 2, 1].map(fixture::job_id));
    assert_eq!((rig.core.jobs().len(), rig.core.open_tasks()), (3, 3));
}

/// A provider's disk with one task that ended well with outputs, one that failed, one that runs.
fn hosted_before() -> Snapshot {
    let mut snapshot = Snapshot::default();
    let mut rig = Rig::new();
    let terms = crate::core::io::OfferTerms {
        total: fixture::capacity(3),
        allow_any: true,
        ..Default::default()
    };
    fold(&mut snapshot, &rig.input(Input::Offer(terms)));
    rig.input(Input::Runtimes(vec![(
        RuntimeKind::Wasm,
        Ok(RuntimeFeatures::default()),
    )]));
    let template = fixture::template(0, 1, 60_000);
    let tasks = [(0, 1), (1, 1), (2, 1)];
    let (_, effects) = rig.ask(1, TaskRequest::Offer(offer_of(JOB, Some(template), &tasks)));
    fold(&mut snapshot, &effects);
    let started = runs(&rig.prepared(1, JOB));
    let mut end = ended(Outcome::Succeeded);
    end.outputs = Some(fixture::blob(1));
    fold(&mut snapshot, &rig.end(started[0], end));
    fold(
        &mut snapshot,
        &rig.end(started[1], ended(failed(FailureKind::Exit(1)))),
    );
    snapshot
}

fn woken(snapshot: Snapshot) -> (Rig, Vec<Effect>) {
    let (mut rig, effects) = Rig::wake(snapshot);
    rig.input(Input::Runtimes(vec![(
        RuntimeKind::Wasm,
        Ok(RuntimeFeatures::default()),
    )]));
    (rig, effects)
}

#[test]
fn ends_are_reported_again_and_the_epoch_tells_that_runs_are_gone() {
    let (mut rig, effects) = woken(hosted_before());
    assert!(rig.core.capacity().offering, "the offer was remembered");
    let (call, again) = report(&effects);
    assert_eq!((again.first, again.events.len()), (1, 2));
    let jobs = vec![Renewal {
        job: job(),
        epoch: 1_000,
    }];
    let (answer, _) = rig.ask(1, TaskRequest::Heartbeat { jobs });
    assert_eq!(
        answer,
        TaskResponse::Heartbeat {
            unknown: vec![job()]
        }
    );
    let (answer, effects) = rig.ask(
        1,
        TaskRequest::Offer(offer_of(JOB, None, &[(0, 1), (2, 1)])),
    );
    assert_eq!(as_reply(&answer).accepted, 2);
    position(&effects, |effect| matches!(effect, Effect::Prepare { .. }));
    // What was offered again is told again: the submitter may have forgotten that it was told.
    let (call, told) = report(&rig.answer(1, call, TaskResponse::Reported { through: 2 }));
    assert_eq!((told.first, told.events.len()), (3, 1), "numbers go on");
    let started = runs(&rig.prepared(1, JOB));
    assert_eq!(
        started.iter().map(|run| run.task()).collect::<Vec<_>>(),
        [task(2, 1)],
        "not what ended"
    );
    rig.end(started[0], ended(Outcome::Succeeded));
    let (_, next) = report(&rig.answer(1, call, TaskResponse::Reported { through: 3 }));
    assert_eq!(next.first, 4);
}

#[test]
fn a_submitter_that_forgot_an_end_hears_it_again() {
    let mut rig = Rig::provider(1);
    let offer = |template| TaskRequest::Offer(offer_of(JOB, template, &[(0, 1)]));
    rig.ask(1, offer(Some(fixture::template(0, 1, 0))));
    let run = runs(&rig.prepared(1, JOB))[0];
    let mut end = ended(Outcome::Succeeded);
    end.outputs = Some(fixture::blob(1));
    let (call, first) = report(&rig.end(run, end));
    rig.answer(1, call, TaskResponse::Reported { through: 1 });
    let (answer, effects) = rig.ask(1, offer(None));
    assert_eq!(as_reply(&answer).accepted, 1);
    let (_, again) = report(&effects);
    assert_eq!((again.first, again.events), (2, first.events));
}

#[test]
fn an_end_that_both_sides_forgot_is_run_anew() {
    let mut snapshot = hosted_before();
    snapshot.apply(Record::Acknowledged {
        hosted: hosted(1, JOB),
        through: 2,
    });
    let (mut rig, _) = woken(snapshot);
    let (_, effects) = rig.ask(1, TaskRequest::Offer(offer_of(JOB, None, &[(0, 1)])));
    position(&effects, |effect| matches!(effect, Effect::DropOutputs(_)));
    assert_eq!(runs(&rig.prepared(1, JOB))[0].task(), task(0, 1));
}

#[test]
fn outputs_that_are_kept_are_remembered() {
    let mut snapshot = hosted_before();
    assert_eq!(snapshot.hosted[0].kept.len(), 1);
    snapshot.apply(Record::Acknowledged {
        hosted: hosted(1, JOB),
        through: 2,
    });
    assert!(snapshot.hosted[0].outbox.is_empty());
    let (mut rig, effects) = woken(snapshot);
    assert!(super::seen::calls(&effects).is_empty());
    let tasks = vec![task(0, 1)];
    let (_, effects) = rig.ask(1, TaskRequest::Collected { job: job(), tasks });
    position(&effects, |effect| matches!(effect, Effect::DropOutputs(_)));
}

#[test]
fn a_hosted_job_of_which_nothing_is_left_is_forgotten() {
    let mut snapshot = Snapshot::default();
    snapshot.apply(Record::Hosted {
        hosted: hosted(1, JOB),
        template: std::sync::Arc::new(fixture::template(0, 1, 0)),
    });
    let (rig, effects) = Rig::wake(snapshot);
    position(&effects, |effect| matches!(effect, Effect::Unhost(_)));
    assert_eq!(records(&effects), [Record::Unhosted(hosted(1, JOB))]);
    assert!(rig.core.hosted_jobs().is_empty());
}

#[test]
fn events_whose_numbers_have_gaps_are_reported_in_parts() {
    let mut snapshot = hosted_before();
    snapshot.hosted[0].outbox[1].0 = 7;
    let (mut rig, effects) = woken(snapshot);
    let (call, first) = report(&effects);
    assert_eq!((first.first, first.events.len()), (1, 1));
    let (_, second) = report(&rig.answer(1, call, TaskResponse::Reported { through: 1 }));
    assert_eq!((second.first, second.events.len()), (7, 1));
    assert!(matches!(second.events[0], ReportEvent::Finished { .. }));
}

#[test]
fn this_nodes_own_work_goes_on_after_a_restart() {
    let mut snapshot = Snapshot::default();
    let mut rig = Rig::new();
    rig.input(Input::Runtimes(vec![(
        RuntimeKind::Wasm,
        Ok(RuntimeFeatures::default()),
    )]));
    let terms = crate::core::io::OfferTerms {
        total: fixture::capacity(1),
        allow_any: false,
        ..Default::default()
    };
    fold(&mut snapshot, &rig.input(Input::Offer(terms)));
    let effects = rig.submit(plan(1));
    fold(&mut snapshot, &effects);
    assert_eq!(offer(&effects).peer, fixture::peer(0));
    let (_, effects) = Rig::wake(snapshot);
    let again = offer(&effects);
    assert_eq!(
        (again.peer, again.tasks()),
        (fixture::peer(0), vec![(0, 1)])
    );
}

#[test]
fn ends_with_only_a_log_keep_it_until_it_is_collected() {
    let mut rig = Rig::provider(1);
    let template = fixture::template(0, 1, 0);
    rig.ask(
        1,
        TaskRequest::Offer(offer_of(JOB, Some(template), &[(0, 1)])),
    );
    let run = runs(&rig.prepared(1, JOB))[0];
    let end = RunEnd {
        log_bytes: 9,
        ..ended(Outcome::Succeeded)
    };
    let (call, _) = report(&rig.end(run, end));
    rig.answer(1, call, TaskResponse::Reported { through: 1 });
    let (answer, effects) = rig.ask(1, TaskRequest::Offer(offer_of(JOB, None, &[(0, 1)])));
    assert_eq!(as_reply(&answer).accepted, 1);
    assert!(
        runs(&effects).is_empty(),
        "known until its log was collected"
    );
}
