//! Providers that are lost, come back, restart, or say goodbye.

use p2pnode_protocol::api::Event;
use p2pnode_protocol::message::{TaskRequest, TaskResponse};
use p2pnode_protocol::task::Outcome;

use super::fixture;
use super::rig::{JOB, Rig, finished, finished_with_outputs, job, plan, reply, task};
use super::seen::{calls, events, offer, offers, position};
use crate::core::io::{CallFailure, CallId, Effect, Input};

/// A job whose one task is at peer 1; peer 2 is smaller and idle.
fn at_one_of_two() -> Rig {
    let mut rig = Rig::submitter(&[2, 1]);
    let first = offer(&rig.submit(plan(1)));
    assert_eq!(first.peer, fixture::peer(1));
    rig.take(&first);
    rig
}

fn heartbeat(effects: &[Effect], peer: usize) -> (CallId, u64) {
    let found = calls(effects)
        .into_iter()
        .find_map(|(to, call, request)| match request {
            TaskRequest::Heartbeat { jobs } if to == fixture::peer(peer) => {
                Some((call, jobs[0].epoch))
            }
            _ => None,
        });
    found.unwrap_or_else(|| panic!("no heartbeat in {effects:?}"))
}

#[test]
fn a_closed_connection_is_called_back_at_once_and_lost_after_two_seconds() {
    let mut rig = at_one_of_two();
    let effects = rig.disconnect(1);
    position(
        &effects,
        |effect| matches!(effect, Effect::Connect(peer) if *peer == fixture::peer(1)),
    );
    assert!(offers(&rig.pass(1_999)).is_empty());
    let effects = rig.pass(1);
    let next = offer(&effects);
    assert_eq!((next.peer, next.tasks()), (fixture::peer(2), vec![(0, 2)]));
    let told = events(&effects);
    assert!(matches!(&told[0], Event::TaskMoved { .. }), "{told:?}");
    assert!(
        matches!(&told[1], Event::PeerLost { tasks: 1, .. }),
        "{told:?}"
    );
    assert_eq!(rig.core.counters().peers_lost, 1);
}

#[test]
fn a_reconnect_in_time_loses_nothing_and_is_followed_by_a_question() {
    let mut rig = at_one_of_two();
    rig.disconnect(1);
    rig.pass(1_500);
    let effects = rig.connect(1);
    heartbeat(&effects, 1);
    assert!(offers(&rig.pass(2_000)).is_empty());
}

#[test]
fn a_silent_provider_is_lost_after_ten_seconds() {
    let mut rig = at_one_of_two();
    let effects = rig.pass(3_000);
    let (call, epoch) = heartbeat(&effects, 1);
    assert_eq!(epoch, 1);
    assert!(
        offers(&rig.pass(6_999)).is_empty(),
        "one heartbeat is under way"
    );
    let effects = rig.pass(1);
    assert_eq!(offer(&effects).peer, fixture::peer(2));
    rig.fail(1, call, CallFailure::TimedOut);
}

#[test]
fn a_provider_that_answers_is_not_lost() {
    let mut rig = at_one_of_two();
    for _ in 0..10 {
        let (call, _) = heartbeat(&rig.pass(3_000), 1);
        assert!(
            offers(&rig.answer(1, call, TaskResponse::Heartbeat { unknown: vec![] })).is_empty()
        );
    }
}

#[test]
fn reports_alone_are_no_sign_of_life() {
    let mut rig = at_one_of_two();
    for second in 0..9 {
        rig.pass(1_000);
        let started = p2pnode_protocol::message::ReportEvent::Started(task(0, 1));
        rig.report(1, second + 1, started);
    }
    assert_eq!(offer(&rig.pass(1_000)).peer, fixture::peer(2));
}

#[test]
fn a_late_result_of_a_task_that_moved_changes_nothing_but_is_acknowledged() {
    let mut rig = at_one_of_two();
    rig.disconnect(1);
    let moved = offer(&rig.pass(2_000));
    rig.take(&moved);
    rig.connect(1);
    let (answer, effects) = rig.report(1, 5, finished_with_outputs(task(0, 1)));
    assert_eq!(answer, TaskResponse::Reported { through: 5 });
    assert_eq!(rig.core.job(job()).unwrap().tasks.succeeded, 0);
    assert_eq!(rig.core.counters().stale_results, 1);
    // What it left there can be dropped.
    let dropped = calls(&effects).into_iter().any(|(to, _, request)| {
        to == fixture::peer(1)
            && matches!(request, TaskRequest::Collected { tasks, .. } if tasks == [task(0, 1)])
    });
    assert!(dropped);
}

#[test]
fn a_late_result_of_a_task_that_still_waits_is_taken() {
    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(1)));
    rig.take(&first);
    rig.disconnect(1);
    rig.pass(2_000);
    assert_eq!(rig.core.job(job()).unwrap().tasks.pending, 1);
    rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    assert_eq!(rig.core.job(job()).unwrap().tasks.succeeded, 1);
}

#[test]
fn a_provider_that_comes_back_goes_on_with_what_nobody_else_got() {
    let mut rig = Rig::submitter(&[2]);
    let first = offer(&rig.submit(plan(2)));
    rig.take(&first);
    rig.disconnect(1);
    rig.pass(3_000);
    let again = offer(&rig.connect(1));
    assert_eq!(again.tasks(), first.tasks(), "under the same attempts");
    assert!(again.offer.template.is_some());
}

#[test]
fn a_provider_that_comes_back_too_late_is_told_to_stop() {
    let mut rig = at_one_of_two();
    rig.disconnect(1);
    let moved = offer(&rig.pass(2_000));
    rig.take(&moved);
    let effects = rig.connect(1);
    let cancelled = calls(&effects).into_iter().any(|(to, _, request)| {
        to == fixture::peer(1)
            && matches!(request, TaskRequest::Cancel { tasks: Some(tasks), .. } if tasks == [task(0, 1)])
    });
    assert!(cancelled, "{effects:?}");
    assert!(offers(&effects).is_empty());
}

#[test]
fn goodbye_moves_its_tasks_at_once() {
    let mut rig = at_one_of_two();
    let (answer, effects) = rig.ask(1, TaskRequest::Goodbye);
    assert_eq!(answer, TaskResponse::Done);
    let next = offer(&effects);
    assert_eq!((next.peer, next.tasks()), (fixture::peer(2), vec![(0, 2)]));
}

#[test]
fn a_provider_that_does_not_know_the_job_any_more_has_lost_its_tasks() {
    let mut rig = at_one_of_two();
    let (call, _) = heartbeat(&rig.pass(3_000), 1);
    let effects = rig.answer(
        1,
        call,
        TaskResponse::Heartbeat {
            unknown: vec![job()],
        },
    );
    let next = offer(&effects);
    assert_eq!(next.tasks(), [(0, 2)]);
    assert!(
        next.offer.template.is_some(),
        "it may have forgotten that too"
    );
}

#[test]
fn an_old_answer_does_not_lose_tasks_taken_under_a_new_epoch() {
    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(2)));
    rig.take(&first);
    let (call, _) = heartbeat(&rig.pass(3_000), 1);
    let (_, effects) = rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    let second = offer(&effects);
    rig.answer(1, second.call, reply(1, None, 50));
    let effects = rig.answer(
        1,
        call,
        TaskResponse::Heartbeat {
            unknown: vec![job()],
        },
    );
    assert!(offers(&effects).is_empty());
    assert_eq!(rig.core.job(job()).unwrap().tasks.queued, 1);
}

#[test]
fn another_epoch_in_an_answer_tells_that_earlier_tasks_are_gone() {
    let mut rig = Rig::submitter(&[2]);
    let first = offer(&rig.submit(plan(3)));
    assert_eq!(first.tasks(), [(0, 1), (1, 1)]);
    rig.take(&first);
    let (_, effects) = rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    let second = offer(&effects);
    assert_eq!(second.tasks(), [(2, 1)]);
    rig.answer(1, second.call, reply(1, None, 99));
    let shown = rig.core.tasks(job(), 0..3);
    assert_eq!(
        (shown[1].attempt, shown[2].attempt),
        (2, 1),
        "the second is out again, the third stays"
    );
    assert_eq!(rig.core.job(job()).unwrap().tasks.moved, 1);
}

#[test]
fn cancel_reaches_every_provider_even_one_that_is_away_for_a_moment() {
    let mut rig = Rig::submitter(&[1, 1]);
    let effects = rig.submit(plan(2));
    for offer in offers(&effects) {
        rig.take(&offer);
    }
    rig.disconnect(2);
    let effects = rig.input(Input::Cancel(fixture::job_id(JOB)));
    let cancel = TaskRequest::Cancel {
        job: job(),
        tasks: None,
    };
    let told: Vec<_> = calls(&effects)
        .into_iter()
        .map(|(to, _, request)| (to, request))
        .collect();
    assert_eq!(told, [(fixture::peer(1), cancel.clone())]);
    let effects = rig.connect(2);
    let told: Vec<_> = calls(&effects)
        .into_iter()
        .map(|(to, _, request)| (to, request))
        .collect();
    assert_eq!(told, [(fixture::peer(2), cancel)]);
}

#[test]
fn a_provider_that_is_lost_again_and_again_is_given_a_rest() {
    let mut rig = Rig::submitter(&[1]);
    let mut next = offer(&rig.submit(plan(1)));
    for epoch in 1..=2 {
        rig.answer(1, next.call, reply(1, None, epoch));
        let (call, _) = heartbeat(&rig.pass(3_000), 1);
        let effects = rig.answer(
            1,
            call,
            TaskResponse::Heartbeat {
                unknown: vec![job()],
            },
        );
        if epoch == 1 {
            next = offer(&effects);
        } else {
            assert!(offers(&effects).is_empty());
        }
    }
    assert!(!offers(&rig.pass(5_000)).is_empty());
}

#[test]
fn a_task_that_an_earlier_life_had_started_and_the_next_does_not_take_is_out_again() {
    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(1)));
    rig.fail(1, first.call, CallFailure::TimedOut);
    let again = offer(&rig.pass(100));
    let started = p2pnode_protocol::message::ReportEvent::Started(task(0, 1));
    rig.report(1, 1, started);
    assert_eq!(rig.core.job(job()).unwrap().tasks.running, 1);
    let full = p2pnode_protocol::message::Refusal::Full;
    rig.answer(1, again.call, reply(0, Some(full), 0));
    assert_eq!(rig.core.job(job()).unwrap().tasks.pending, 1);
}
