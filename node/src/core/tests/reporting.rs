//! What a provider tells of the jobs that it hosts.

use p2pnode_protocol::message::{Phase, ReportEvent, TaskRequest, TaskResponse};
use p2pnode_protocol::task::{Outcome, Usage};

use super::fixture;
use super::rig::{Rig, ended, failed, hosted, offer_of, task};
use super::seen::{calls, position, records, report, runs};
use crate::core::io::{CallFailure, Effect, Input, Record, RunEnd, RunKey};

/// A provider of which `cpus` tasks of peer 1's job run.
fn running(cpus: u32) -> (Rig, Vec<RunKey>) {
    let mut rig = Rig::provider(cpus);
    let tasks: Vec<(u32, u32)> = (0..cpus).map(|index| (index, 1)).collect();
    let template = fixture::template(0, 1, 60_000);
    rig.ask(1, TaskRequest::Offer(offer_of(1, Some(template), &tasks)));
    let runs = runs(&rig.prepared(1, 1));
    (rig, runs)
}

fn with_outputs() -> RunEnd {
    RunEnd {
        outcome: Outcome::Succeeded,
        usage: Usage::default(),
        outputs: Some(fixture::blob(5)),
        log_bytes: 0,
    }
}

#[test]
fn an_end_is_stored_before_it_is_reported() {
    let (mut rig, runs) = running(1);
    let effects = rig.end(runs[0], ended(Outcome::Succeeded));
    let stored = position(&effects, |effect| {
        matches!(effect, Effect::Persist(Record::Outbox { number: 1, .. }))
    });
    let told = position(&effects, |effect| matches!(effect, Effect::Call { .. }));
    assert!(stored < told);
    assert_eq!(report(&effects).1.first, 1);
}

#[test]
fn one_report_is_under_way_at_a_time_and_the_next_takes_all() {
    let (mut rig, runs) = running(4);
    let (call, first) = report(&rig.end(runs[0], ended(Outcome::Succeeded)));
    assert_eq!((first.first, first.events.len()), (1, 1));
    for run in &runs[1..] {
        assert!(calls(&rig.end(*run, ended(Outcome::Succeeded))).is_empty());
    }
    let effects = rig.answer(1, call, TaskResponse::Reported { through: 1 });
    assert!(records(&effects).contains(&Record::Acknowledged {
        hosted: hosted(1, 1),
        through: 1
    }));
    let (_, second) = report(&effects);
    assert_eq!((second.first, second.events.len()), (2, 3));
}

#[test]
fn a_start_is_left_out_when_its_end_is_reported_with_it() {
    let (mut rig, runs) = running(2);
    let (call, first) = report(&rig.input(Input::Started(runs[0])));
    assert_eq!(first.events, [ReportEvent::Started(task(0, 1))]);
    rig.input(Input::Started(runs[1]));
    rig.end(runs[1], ended(Outcome::Succeeded));
    let effects = rig.answer(1, call, TaskResponse::Reported { through: 1 });
    assert!(
        records(&effects).is_empty(),
        "a start is not stored, so neither is that it was heard"
    );
    let (_, second) = report(&effects);
    assert!(matches!(
        second.events.as_slice(),
        [ReportEvent::Finished { .. }]
    ));
}

#[test]
fn only_the_newest_progress_is_told() {
    let (mut rig, runs) = running(1);
    let (call, _) = report(&rig.input(Input::Started(runs[0])));
    for done in [10, 20, 30] {
        let phase = Phase::Fetching;
        let hosted = hosted(1, 1);
        let effects = rig.input(Input::Preparing {
            hosted,
            step: 0,
            phase,
            done,
            total: 30,
        });
        assert!(calls(&effects).is_empty() && records(&effects).is_empty());
    }
    let (_, next) = report(&rig.answer(1, call, TaskResponse::Reported { through: 1 }));
    assert!(matches!(
        next.events.as_slice(),
        [ReportEvent::Preparing { done: 30, .. }]
    ));
}

#[test]
fn a_report_without_an_answer_is_repeated_as_it_was() {
    let (mut rig, runs) = running(2);
    let (call, first) = report(&rig.end(runs[0], ended(Outcome::Succeeded)));
    assert!(calls(&rig.fail(1, call, CallFailure::TimedOut)).is_empty());
    assert!(calls(&rig.end(runs[1], ended(Outcome::Succeeded))).is_empty());
    let (call, again) = report(&rig.pass(1_000));
    assert_eq!((again.first, &again.events), (1, &first.events));
    assert!(calls(&rig.answer(1, call, TaskResponse::Busy)).is_empty());
    let (_, again) = report(&rig.connect(1));
    assert_eq!(
        again.events, first.events,
        "at once when the submitter is there"
    );
}

#[test]
fn an_acknowledgement_covers_no_more_than_was_sent() {
    let (mut rig, runs) = running(2);
    let (call, _) = report(&rig.end(runs[0], ended(Outcome::Succeeded)));
    rig.end(runs[1], ended(Outcome::Succeeded));
    let effects = rig.answer(1, call, TaskResponse::Reported { through: u64::MAX });
    let (_, second) = report(&effects);
    assert!(
        matches!(second.events.as_slice(), [ReportEvent::Finished { task: of, .. }] if *of == task(1, 1))
    );
}

#[test]
fn outputs_are_kept_until_they_are_collected() {
    let (mut rig, runs) = running(1);
    let (call, _) = report(&rig.end(runs[0], with_outputs()));
    let effects = rig.answer(1, call, TaskResponse::Reported { through: 1 });
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::DropOutputs(_)))
    );
    let collected = TaskRequest::Collected {
        job: fixture::job_id(1),
        tasks: vec![task(0, 1)],
    };
    let (answer, effects) = rig.ask(1, collected.clone());
    assert_eq!(answer, TaskResponse::Done);
    let stored = position(&effects, |effect| {
        matches!(effect, Effect::Persist(Record::OutputsDropped(_)))
    });
    let dropped = position(
        &effects,
        |effect| matches!(effect, Effect::DropOutputs(run) if *run == runs[0]),
    );
    assert!(stored < dropped);
    let (_, effects) = rig.ask(1, collected);
    assert!(records(&effects).is_empty(), "once");
}

#[test]
fn a_job_that_its_submitter_does_not_know_is_forgotten() {
    let (mut rig, runs) = running(2);
    let (call, _) = report(&rig.end(runs[0], with_outputs()));
    let effects = rig.answer(1, call, TaskResponse::UnknownJob);
    assert_eq!(super::seen::kills(&effects).len(), 1);
    assert_eq!(
        rig.core.hosted_jobs().len(),
        1,
        "something of it still runs"
    );
    let effects = rig.end(
        runs[1],
        ended(failed(p2pnode_protocol::task::FailureKind::Cancelled)),
    );
    position(
        &effects,
        |effect| matches!(effect, Effect::DropOutputs(run) if *run == runs[0]),
    );
    let stored = position(&effects, |effect| {
        matches!(effect, Effect::Persist(Record::Unhosted(_)))
    });
    assert!(stored < position(&effects, |effect| matches!(effect, Effect::Unhost(_))));
    assert_eq!(rig.core.capacity().free, fixture::capacity(2));
}

#[test]
fn a_report_stays_within_what_a_message_holds() {
    let mut rig = Rig::provider(1);
    let tasks: Vec<(u32, u32)> = (0..2_048).map(|index| (index, 1)).collect();
    let template = fixture::template(0, 1, 60_000);
    for part in [&tasks[..1_000], &tasks[1_000..]] {
        rig.ask(
            1,
            TaskRequest::Offer(offer_of(1, Some(template.clone()), part)),
        );
    }
    let why = p2pnode_protocol::task::Failure::new(
        p2pnode_protocol::task::FailureKind::Host,
        "x".repeat(10_000),
    );
    let effects = rig.input(Input::Prepared {
        hosted: hosted(1, 1),
        step: 0,
        making: 1,
        result: Err(why),
    });
    let (_, report) = report(&effects);
    assert!(report.events.len() < 2_048);
    let request = TaskRequest::Report(report);
    let most = p2pnode_protocol::message::MAX_MESSAGE_BYTES;
    assert!(p2pnode_protocol::codec::encode(&request, most).is_ok());
}
