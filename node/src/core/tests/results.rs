//! Ends of attempts: accepted once, tried again, collected.

use p2pnode_protocol::api::{Event, JobState, TaskState};
use p2pnode_protocol::message::{MAX_BATCH, Report, ReportEvent, TaskRequest, TaskResponse};
use p2pnode_protocol::task::{FailureKind, Outcome};

use super::fixture;
use super::rig::{Rig, failed, finished, finished_with_outputs, job, plan, task};
use super::seen::{Offered, calls, events, offer, offers, position, records};
use crate::core::io::{CollectFailure, Effect, Input, Record};

/// A job of `tasks` tasks of which the only provider has taken the first offer.
fn taken(slots: u32, tasks: u64, retries: u32) -> (Rig, Offered) {
    let mut rig = Rig::submitter(&[slots]);
    let mut plan = plan(tasks);
    plan.policy.retries = retries;
    let first = offer(&rig.submit(plan));
    rig.take(&first);
    (rig, first)
}

fn collected(
    rig: &mut Rig,
    index: u32,
    attempt: u32,
    result: Result<u64, CollectFailure>,
) -> Vec<Effect> {
    let attempt =
        crate::core::io::RunKey::of(super::rig::hosted(0, super::rig::JOB), task(index, attempt));
    rig.input(Input::Collected {
        attempt: attempt.attempt,
        result,
    })
}

#[test]
fn an_end_is_stored_before_it_is_acknowledged_and_ends_the_job() {
    let (mut rig, _) = taken(1, 1, 0);
    let (answer, effects) = rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    assert_eq!(answer, TaskResponse::Reported { through: 1 });
    let stored = position(&effects, |effect| {
        matches!(
            effect,
            Effect::Persist(Record::TaskEnded {
                collected: true,
                last: true,
                ..
            })
        )
    });
    let acknowledged = position(&effects, |effect| matches!(effect, Effect::Respond { .. }));
    let ended = position(&effects, |effect| {
        matches!(effect, Effect::Persist(Record::JobEnded { .. }))
    });
    let told = position(&effects, |effect| {
        matches!(effect, Effect::Emit(Event::JobFinished { .. }))
    });
    assert!(stored < acknowledged && ended < told);
    position(&effects, |effect| matches!(effect, Effect::JobOver(_)));
    let released = calls(&effects)
        .into_iter()
        .any(|(_, _, request)| request == TaskRequest::Release { job: job() });
    assert!(released);
    let info = rig.core.job(job()).unwrap();
    assert_eq!((info.state, info.tasks.succeeded), (JobState::Succeeded, 1));
    assert_eq!(info.peers.get(&fixture::peer(1).to_base58()), Some(&1));
}

#[test]
fn a_release_is_repeated_until_it_is_answered_or_a_lease_is_over() {
    let (mut rig, _) = taken(1, 1, 0);
    let (_, effects) = rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    let (_, call, _) = calls(&effects).pop().unwrap();
    rig.fail(1, call, crate::core::io::CallFailure::TimedOut);
    let again = calls(&rig.pass(3_000));
    assert_eq!(again[0].2, TaskRequest::Release { job: job() });
    rig.answer(1, again[0].1, TaskResponse::Done);
    assert!(rig.pass(100_000).is_empty());
    let (mut rig, _) = taken(1, 1, 0);
    rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    rig.disconnect(1);
    rig.pass(200_000);
    assert_eq!(rig.core.next_deadline(), None, "it is not tried for ever");
}

#[test]
fn a_repeated_end_counts_once() {
    let (mut rig, _) = taken(2, 3, 0);
    rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    let (answer, effects) = rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    assert_eq!(answer, TaskResponse::Reported { through: 1 });
    assert!(records(&effects).is_empty());
    assert_eq!(rig.core.job(job()).unwrap().tasks.succeeded, 1);
}

#[test]
fn reports_of_strangers_and_of_tasks_that_their_sender_has_not_got_change_nothing() {
    let (mut rig, first) = taken(2, 5, 0);
    assert_eq!(first.tasks(), [(0, 1), (1, 1)]);
    rig.connect(9);
    let (answer, effects) = rig.report(9, 1, finished(task(0, 1), Outcome::Succeeded));
    assert_eq!(
        (answer, records(&effects)),
        (TaskResponse::UnknownJob, vec![])
    );
    for foreign in [task(4, 1), task(0, 2), task(77, 1)] {
        let (answer, effects) = rig.report(1, 1, finished(foreign, Outcome::Succeeded));
        assert_eq!(answer, TaskResponse::Reported { through: 1 });
        assert!(records(&effects).is_empty(), "{effects:?}");
    }
    assert_eq!(rig.core.job(job()).unwrap().tasks.succeeded, 0);
    assert!(rig.core.counters().foreign_reports >= 3);
}

#[test]
fn hostile_reports_are_bounded() {
    let (mut rig, _) = taken(1, 2, 0);
    let mut report = Report {
        job: job(),
        first: u64::MAX,
        events: vec![finished(task(0, 1), Outcome::Succeeded)],
        slots: u32::MAX,
    };
    let (answer, _) = rig.ask(1, TaskRequest::Report(report.clone()));
    assert_eq!(
        answer,
        TaskResponse::Reported {
            through: u64::MAX - 1
        }
    );
    report.events = vec![ReportEvent::Started(task(1, 1)); MAX_BATCH + 1];
    assert_eq!(
        rig.ask(1, TaskRequest::Report(report)).0,
        TaskResponse::UnknownJob
    );
}

#[test]
fn outputs_are_brought_before_a_task_counts() {
    let (mut rig, _) = taken(1, 2, 0);
    let (_, effects) = rig.report(1, 1, finished_with_outputs(task(0, 1)));
    position(&effects, |effect| {
        matches!(
            effect,
            Effect::Persist(Record::TaskEnded {
                collected: false,
                log_bytes: 3,
                ..
            })
        )
    });
    let asked = effects.iter().find_map(|effect| match effect {
        Effect::Collect {
            peer,
            outputs,
            log_bytes,
            ..
        } => Some((*peer, *outputs, *log_bytes)),
        _ => None,
    });
    assert_eq!(asked, Some((fixture::peer(1), Some(fixture::blob(5)), 3)));
    assert_eq!(rig.core.tasks(job(), 0..1)[0].state, TaskState::Collecting);
    assert_eq!(offer(&effects).tasks(), [(1, 1)], "its slot is free");
    let effects = collected(&mut rig, 0, 1, Ok(1_000));
    position(&effects, |effect| {
        matches!(
            effect,
            Effect::Persist(Record::TaskEnded {
                collected: true,
                last: true,
                ..
            })
        )
    });
    let told = calls(&effects).into_iter().any(|(_, _, request)| {
        matches!(request, TaskRequest::Collected { tasks, .. } if tasks == [task(0, 1)])
    });
    assert!(told);
    let info = rig.core.job(job()).unwrap();
    assert_eq!(
        (info.tasks.succeeded, info.usage.bytes_received),
        (1, 1_000)
    );
    assert!(collected(&mut rig, 0, 1, Ok(1_000)).is_empty(), "once");
}

#[test]
fn outputs_that_are_gone_make_the_task_run_again() {
    let (mut rig, _) = taken(1, 1, 0);
    rig.report(1, 1, finished_with_outputs(task(0, 1)));
    let effects = collected(&mut rig, 0, 1, Err(CollectFailure::Lost("gone".into())));
    assert_eq!(offer(&effects).tasks(), [(0, 2)]);
    assert_eq!(rig.core.job(job()).unwrap().tasks.moved, 1);
}

#[test]
fn outputs_at_anothers_path_fail_their_task_and_no_other() {
    let (mut rig, _) = taken(1, 2, 3);
    rig.report(1, 1, finished_with_outputs(task(0, 1)));
    let clash = CollectFailure::Clash("task 1 wrote it".into());
    let effects = collected(&mut rig, 0, 1, Err(clash));
    assert!(offers(&effects).is_empty(), "it would clash again");
    let info = rig.core.job(job()).unwrap();
    assert_eq!((info.state, info.tasks.failed), (JobState::Running, 1));
    assert!(info.notes[0].contains("task 1 wrote it"), "{info:?}");
    let shown = &rig.core.tasks(job(), 0..1)[0];
    assert_eq!(shown.failure.as_ref().unwrap().kind, FailureKind::BadOutput);
}

#[test]
fn bytes_that_went_out_are_counted() {
    let (mut rig, _) = taken(1, 1, 0);
    for bytes in [700, 300] {
        rig.input(Input::Served { job: job(), bytes });
    }
    assert_eq!(rig.core.job(job()).unwrap().usage.bytes_sent, 1_000);
}

#[test]
fn outputs_that_cannot_be_written_end_the_job() {
    let (mut rig, _) = taken(1, 3, 0);
    rig.report(1, 1, finished_with_outputs(task(0, 1)));
    let effects = collected(
        &mut rig,
        0,
        1,
        Err(CollectFailure::Local("disk full".into())),
    );
    let info = rig.core.job(job()).unwrap();
    assert_eq!(info.state, JobState::Failed);
    assert!(info.notes[0].contains("disk full"), "{info:?}");
    let cancelled = calls(&effects)
        .into_iter()
        .any(|(_, _, request)| matches!(request, TaskRequest::Cancel { tasks: None, .. }));
    assert!(cancelled);
}

#[test]
fn a_failure_of_the_tasks_own_uses_up_a_try() {
    let (mut rig, _) = taken(1, 1, 1);
    let (_, effects) = rig.report(1, 1, finished(task(0, 1), failed(FailureKind::Exit(3))));
    let again = offer(&effects);
    assert_eq!(again.tasks(), [(0, 2)]);
    assert!(events(&effects).iter().any(|event| {
        matches!(
            event,
            Event::TaskFinished {
                state: TaskState::Pending,
                ..
            }
        )
    }));
    rig.take(&again);
    let (_, effects) = rig.report(1, 2, finished(task(0, 2), failed(FailureKind::Timeout)));
    assert!(offers(&effects).is_empty());
    let info = rig.core.job(job()).unwrap();
    assert_eq!((info.state, info.tasks.failed), (JobState::Failed, 1));
    assert!(info.notes[0].contains("it broke"), "{info:?}");
    let shown = &rig.core.tasks(job(), 0..9)[0];
    assert_eq!(shown.failure.as_ref().unwrap().kind, FailureKind::Timeout);
}

#[test]
fn a_program_that_runs_nowhere_is_not_tried_again() {
    let (mut rig, _) = taken(1, 1, 5);
    rig.report(1, 1, finished(task(0, 1), failed(FailureKind::BadProgram)));
    assert_eq!(rig.core.job(job()).unwrap().state, JobState::Failed);
}

#[test]
fn other_tasks_of_a_job_go_on_when_one_failed() {
    let (mut rig, _) = taken(1, 2, 0);
    let (_, effects) = rig.report(1, 1, finished(task(0, 1), failed(FailureKind::Exit(1))));
    let next = offer(&effects);
    assert_eq!(next.tasks(), [(1, 1)]);
    rig.take(&next);
    rig.report(1, 2, finished(task(1, 1), Outcome::Succeeded));
    let info = rig.core.job(job()).unwrap();
    assert_eq!(
        (info.state, info.tasks.failed, info.tasks.succeeded),
        (JobState::Failed, 1, 1)
    );
}

#[test]
fn failures_of_the_host_move_the_task_and_rest_the_host() {
    let mut rig = Rig::submitter(&[1]);
    let mut patient = plan(1);
    patient.policy.wait_for_peers_ms = 3_600_000;
    let first = offer(&rig.submit(patient));
    rig.take(&first);
    let (_, effects) = rig.report(1, 1, finished(task(0, 1), failed(FailureKind::Host)));
    let again = offer(&effects);
    assert_eq!(again.tasks(), [(0, 2)], "once may be chance");
    rig.take(&again);
    let (_, effects) = rig.report(1, 2, finished(task(0, 2), failed(FailureKind::Host)));
    assert!(offers(&effects).is_empty(), "twice is not");
    let (seconds, again) = rested(&mut rig);
    assert_eq!((seconds, again.tasks()), (5, vec![(0, 3)]), "after a rest");
    assert_eq!(rig.core.job(job()).unwrap().tasks.moved, 2);
    // That it takes the task again is not yet that it runs it.
    rig.take(&again);
    rig.report(1, 3, finished(task(0, 3), failed(FailureKind::Host)));
    let (seconds, again) = rested(&mut rig);
    assert_eq!(
        (seconds, again.tasks()),
        (10, vec![(0, 4)]),
        "a longer rest"
    );
}

/// Seconds until a provider that answers heartbeats is offered something, and what.
fn rested(rig: &mut Rig) -> (u32, Offered) {
    for second in 1..=600 {
        let mut effects = rig.pass(1_000);
        for (_, call, request) in calls(&effects) {
            if matches!(request, TaskRequest::Heartbeat { .. }) {
                let alive = TaskResponse::Heartbeat { unknown: vec![] };
                effects.extend(rig.answer(1, call, alive));
            }
        }
        if !offers(&effects).is_empty() {
            return (second, offer(&effects));
        }
    }
    panic!("it is never offered anything");
}

#[test]
fn a_task_that_moves_for_ever_fails_in_the_end() {
    let mut rig = Rig::submitter(&[1]);
    let mut patient = plan(1);
    patient.policy.wait_for_peers_ms = 3_600_000;
    let mut next = offer(&rig.submit(patient));
    for attempt in 1..=21 {
        assert_eq!(next.tasks(), [(0, attempt)]);
        rig.take(&next);
        let kind = FailureKind::InputUnavailable;
        let (_, effects) = rig.report(1, attempt.into(), finished(task(0, attempt), failed(kind)));
        if attempt == 21 {
            break;
        }
        next = if offers(&effects).is_empty() {
            rested(&mut rig).1
        } else {
            offer(&effects)
        };
        let info = rig.core.job(job()).unwrap();
        assert_eq!(info.finished_ms, None, "attempt {attempt}: {info:?}");
    }
    let info = rig.core.job(job()).unwrap();
    assert_eq!(info.state, JobState::Failed);
    assert!(info.notes[0].contains("given up"), "{info:?}");
}

#[test]
fn usage_adds_up_below_a_millisecond() {
    let (mut rig, first) = taken(1, 1_000, 0);
    let mut tasks = first.tasks();
    let mut number = 0;
    while let Some((index, attempt)) = tasks.pop() {
        number += 1;
        let event = ReportEvent::Finished {
            task: task(index, attempt),
            outcome: Outcome::Succeeded,
            usage: p2pnode_protocol::task::Usage {
                wall_us: 7,
                cpu_us: 5,
                memory_peak: 0,
                ..p2pnode_protocol::task::Usage::default()
            },
            outputs: None,
            log_bytes: 0,
        };
        let (_, effects) = rig.report(1, number, event);
        let mut more = offers(&effects);
        while let Some(next) = more.pop() {
            tasks.extend(next.tasks());
            more.extend(offers(&rig.take(&next)));
        }
    }
    let info = rig.core.job(job()).unwrap();
    assert_eq!(info.state, JobState::Succeeded);
    assert_eq!((info.usage.task_ms, info.usage.cpu_ms), (7, 5));
}
