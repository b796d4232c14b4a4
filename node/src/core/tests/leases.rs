//! How long a hosted job may count on this node.

use p2pnode_protocol::message::{Renewal, TaskRequest, TaskResponse};
use p2pnode_protocol::task::{FailureKind, Outcome, Usage};

use super::fixture;
use super::rig::{Rig, as_reply, ended, failed, offer_of, task};
use super::seen::{calls, kills, position, report, runs};
use crate::core::io::{CallFailure, Effect, Input, RunEnd, RunKey};

const KEEP_MS: u64 = 60_000;

/// A provider with one run and one waiting task of peer 1's job, and the job's epoch.
fn hosting() -> (Rig, RunKey, u64) {
    let mut rig = Rig::provider(1);
    let template = fixture::template(0, 1, KEEP_MS);
    let offer = offer_of(1, Some(template), &[(0, 1), (1, 1)]);
    let epoch = as_reply(&rig.ask(1, TaskRequest::Offer(offer)).0).epoch;
    let run = runs(&rig.prepared(1, 1))[0];
    (rig, run, epoch)
}

fn heartbeat(rig: &mut Rig, epoch: u64) -> Vec<p2pnode_protocol::JobId> {
    let jobs = vec![Renewal {
        job: fixture::job_id(1),
        epoch,
    }];
    match rig.ask(1, TaskRequest::Heartbeat { jobs }).0 {
        TaskResponse::Heartbeat { unknown } => unknown,
        other => panic!("{other:?}"),
    }
}

#[test]
fn heartbeats_keep_a_lease_alive() {
    let (mut rig, _, epoch) = hosting();
    for _ in 0..50 {
        assert!(kills(&rig.pass(50_000)).is_empty());
        assert!(heartbeat(&mut rig, epoch).is_empty());
    }
}

#[test]
fn without_a_word_runs_are_killed_after_a_minute_and_all_is_forgotten() {
    let (mut rig, run, _) = hosting();
    assert!(kills(&rig.pass(59_999)).is_empty());
    assert_eq!(kills(&rig.pass(1)), [(run, FailureKind::Cancelled)]);
    assert_eq!(rig.core.capacity().queued, 0);
    let effects = rig.end(run, ended(failed(FailureKind::Cancelled)));
    position(&effects, |effect| matches!(effect, Effect::Unhost(_)));
    assert!(calls(&effects).is_empty());
    assert_eq!(rig.core.capacity().free, fixture::capacity(1));
    assert_eq!(rig.core.next_deadline(), None);
}

#[test]
fn results_are_kept_for_a_lost_submitter_and_then_go() {
    let (mut rig, run, _) = hosting();
    rig.pass(60_000);
    // It was done just then.
    let end = RunEnd {
        outcome: Outcome::Succeeded,
        usage: Usage::default(),
        outputs: Some(fixture::blob(1)),
        log_bytes: 0,
    };
    let (call, _) = report(&rig.end(run, end));
    rig.fail(1, call, CallFailure::Unreachable);
    rig.pass(KEEP_MS - 1);
    assert_eq!(rig.core.hosted_jobs().len(), 1);
    let effects = rig.pass(1);
    position(
        &effects,
        |effect| matches!(effect, Effect::DropOutputs(of) if *of == run),
    );
    assert!(rig.core.hosted_jobs().is_empty());
}

#[test]
fn a_submitter_that_comes_back_gets_its_results_and_learns_what_is_gone() {
    let (mut rig, run, epoch) = hosting();
    let end = RunEnd {
        outcome: Outcome::Succeeded,
        usage: Usage::default(),
        outputs: Some(fixture::blob(1)),
        log_bytes: 0,
    };
    let effects = rig.end(run, end);
    let second = runs(&effects)[0];
    let (call, _) = report(&effects);
    rig.fail(1, call, CallFailure::Unreachable);
    rig.pass(70_000);
    rig.end(second, ended(failed(FailureKind::Cancelled)));
    assert_eq!(
        heartbeat(&mut rig, epoch),
        [fixture::job_id(1)],
        "the second task is gone"
    );
    let effects = rig.connect(1);
    let reports: Vec<_> = calls(&effects);
    assert!(reports.len() <= 1);
    let again = offer_of(1, None, &[(1, 1)]);
    let reply = as_reply(&rig.ask(1, TaskRequest::Offer(again)).0);
    assert!(reply.accepted == 1 && reply.epoch > epoch, "{reply:?}");
    assert!(heartbeat(&mut rig, reply.epoch).is_empty());
}

#[test]
fn a_run_that_is_being_killed_and_is_offered_again_is_reported() {
    let (mut rig, run, _) = hosting();
    rig.pass(60_000);
    let again = offer_of(1, None, &[(0, 1)]);
    assert_eq!(
        as_reply(&rig.ask(1, TaskRequest::Offer(again)).0).accepted,
        1
    );
    let effects = rig.end(run, ended(failed(FailureKind::Cancelled)));
    assert_eq!(report(&effects).1.events.len(), 1);
}

#[test]
fn release_and_cancel_forget_a_job_once_nothing_of_it_runs() {
    for request in [
        TaskRequest::Release {
            job: fixture::job_id(1),
        },
        TaskRequest::Cancel {
            job: fixture::job_id(1),
            tasks: None,
        },
    ] {
        let (mut rig, run, epoch) = hosting();
        let (answer, effects) = rig.ask(1, request.clone());
        assert_eq!(answer, TaskResponse::Done);
        assert_eq!(kills(&effects), [(run, FailureKind::Cancelled)]);
        assert_eq!(heartbeat(&mut rig, epoch), [fixture::job_id(1)]);
        let late = offer_of(1, None, &[(5, 1)]);
        assert_eq!(rig.ask(1, TaskRequest::Offer(late)).0, TaskResponse::Busy);
        assert_eq!(rig.ask(1, request).0, TaskResponse::Done, "said twice");
        let effects = rig.end(run, ended(Outcome::Succeeded));
        position(&effects, |effect| matches!(effect, Effect::Unhost(_)));
        assert!(rig.core.hosted_jobs().is_empty());
    }
}

#[test]
fn others_cannot_touch_a_job() {
    let (mut rig, _, _) = hosting();
    let (_, effects) = rig.ask(
        2,
        TaskRequest::Release {
            job: fixture::job_id(1),
        },
    );
    assert!(kills(&effects).is_empty());
    let tasks = Some(vec![task(0, 1)]);
    let (_, effects) = rig.ask(
        2,
        TaskRequest::Cancel {
            job: fixture::job_id(1),
            tasks,
        },
    );
    assert!(kills(&effects).is_empty());
    assert_eq!(rig.core.hosted_jobs().len(), 1);
}

#[test]
fn a_goodbye_leaves_a_restart_ten_seconds() {
    let (mut rig, run, epoch) = hosting();
    rig.ask(1, TaskRequest::Goodbye);
    rig.pass(9_000);
    assert!(heartbeat(&mut rig, epoch).is_empty());
    assert!(kills(&rig.pass(50_000)).is_empty(), "it is back");
    rig.ask(1, TaskRequest::Goodbye);
    assert_eq!(kills(&rig.pass(10_000)), [(run, FailureKind::Cancelled)]);
}

#[test]
fn a_step_that_is_ready_after_its_job_went_runs_nothing() {
    let mut rig = Rig::provider(1);
    let template = fixture::template(0, 1, 0);
    rig.ask(
        1,
        TaskRequest::Offer(offer_of(1, Some(template), &[(0, 1)])),
    );
    rig.ask(
        1,
        TaskRequest::Release {
            job: fixture::job_id(1),
        },
    );
    assert!(rig.prepared(1, 1).is_empty());
    let unknown = Input::Ended {
        run: RunKey::of(super::rig::hosted(1, 1), task(0, 1)),
        end: ended(Outcome::Succeeded),
    };
    assert!(rig.input(unknown).is_empty());
    assert_eq!(rig.core.counters().illegal_transitions, 1);
}
