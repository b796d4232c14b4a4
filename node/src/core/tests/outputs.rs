//! Outputs whose provider is away: waited for, asked for again, and given up only when they are gone.

use p2pnode_protocol::message::{ReportEvent, TaskRequest, TaskResponse};
use p2pnode_protocol::task::Outcome;

use super::fixture;
use super::rig::{JOB, Rig, finished, finished_with_outputs, hosted, job, plan, task};
use super::seen::{calls, offer, offers, position};
use crate::core::SubmitConfig;
use crate::core::io::{CollectFailure, Effect, Input, RunKey};

/// A job whose one task ended at peer 1 and left outputs there; peer 2 is idle if there is one.
fn ended_at_first(cpus: &[u32]) -> Rig {
    let mut rig = Rig::submitter(cpus);
    let first = offer(&rig.submit(plan(1)));
    assert_eq!(first.peer, fixture::peer(1));
    rig.take(&first);
    let (_, effects) = rig.report(1, 1, after(3_600, finished_with_outputs(task(0, 1))));
    assert_eq!(asked(&effects), 1);
    rig
}

/// The end of a task that ran for so long.
fn after(seconds: u64, mut event: ReportEvent) -> ReportEvent {
    if let ReportEvent::Finished { usage, .. } = &mut event {
        usage.wall_us = seconds * 1_000_000;
    }
    event
}

#[test]
fn outputs_are_waited_for_no_longer_than_it_takes_to_make_them_anew() {
    let mut rig = Rig::submitter(&[2, 1]);
    let first = offer(&rig.submit(plan(1)));
    rig.take(&first);
    rig.report(1, 1, after(3, finished_with_outputs(task(0, 1))));
    rig.disconnect(1);
    rig.pass(2_000);
    rig.advert(2, 1, 1);
    assert!(offers(&rig.pass(2_999)).is_empty());
    assert_eq!(offer(&rig.pass(1)).peer, fixture::peer(2));
}

/// How often the driver is told to bring outputs.
fn asked(effects: &[Effect]) -> usize {
    let asks = |effect: &&Effect| matches!(effect, Effect::Collect { .. });
    effects.iter().filter(asks).count()
}

fn collected(rig: &mut Rig, result: Result<u64, CollectFailure>) -> Vec<Effect> {
    let attempt = RunKey::of(hosted(0, JOB), task(0, 1)).attempt;
    rig.input(Input::Collected { attempt, result })
}

fn away() -> Result<u64, CollectFailure> {
    Err(CollectFailure::Away("the connection closed".into()))
}

fn is_told_to_drop(effects: &[Effect]) -> bool {
    calls(effects).into_iter().any(|(to, _, request)| {
        to == fixture::peer(1) && matches!(request, TaskRequest::Cancel { tasks: Some(_), .. })
    })
}

/// Lets time pass in which peer 1 answers heartbeats.
fn pass_alive(rig: &mut Rig, seconds: u32) -> Vec<Effect> {
    let mut all = Vec::new();
    for _ in 0..seconds {
        let effects = rig.pass(1_000);
        for (_, call, request) in calls(&effects) {
            if matches!(request, TaskRequest::Heartbeat { .. }) {
                let alive = TaskResponse::Heartbeat { unknown: vec![] };
                all.append(&mut rig.answer(1, call, alive));
            }
        }
        all.extend(effects);
    }
    all
}

fn wait_ms() -> u64 {
    SubmitConfig::default().collect_ms
}

#[test]
fn outputs_of_a_lost_provider_are_waited_for_before_their_task_runs_elsewhere() {
    let mut rig = ended_at_first(&[2, 1]);
    rig.disconnect(1);
    let effects = rig.pass(2_000);
    assert_eq!(rig.core.counters().peers_lost, 1);
    assert!(offers(&effects).is_empty());
    assert!(offers(&rig.pass(wait_ms() - 1)).is_empty());
    assert!(offers(&rig.advert(2, 1, 1)).is_empty());
    let effects = rig.pass(1);
    let next = offer(&effects);
    assert_eq!((next.peer, next.tasks()), (fixture::peer(2), vec![(0, 2)]));
    position(&effects, |effect| matches!(effect, Effect::Forsake(_)));
}

#[test]
fn a_short_loss_does_not_disturb_outputs_on_their_way() {
    for cpus in [&[2][..], &[2, 1]] {
        let mut rig = ended_at_first(cpus);
        rig.disconnect(1);
        rig.pass(5_000);
        let mut effects = rig.connect(1);
        effects.append(&mut rig.pass(2_000));
        assert!(offers(&effects).is_empty(), "{effects:?}");
        assert_eq!(asked(&effects), 0, "they are still on their way");
        collected(&mut rig, Ok(1_000));
        let info = rig.core.job(job()).unwrap();
        assert_eq!((info.tasks.succeeded, info.tasks.moved), (1, 0));
    }
}

#[test]
fn outputs_that_broke_off_are_asked_for_again_when_their_provider_is_back() {
    let mut rig = ended_at_first(&[2, 1]);
    rig.disconnect(1);
    rig.pass(3_000);
    let effects = collected(&mut rig, away());
    assert!(offers(&effects).is_empty() && !is_told_to_drop(&effects));
    let effects = rig.pass(20_000);
    assert_eq!((asked(&effects), offers(&effects).len()), (0, 0));
    let effects = rig.connect(1);
    assert_eq!(asked(&effects), 1);
    assert!(offers(&effects).is_empty() && !is_told_to_drop(&effects));
    collected(&mut rig, Ok(1_000));
    assert_eq!(rig.core.job(job()).unwrap().tasks.succeeded, 1);
}

#[test]
fn outputs_are_asked_for_so_often_of_a_provider_that_is_there() {
    let mut rig = ended_at_first(&[1]);
    for _ in 1..SubmitConfig::default().collect_tries {
        let effects = collected(&mut rig, away());
        assert_eq!((asked(&effects), offers(&effects).len()), (0, 0));
        assert_eq!(asked(&pass_alive(&mut rig, 3)), 1, "after a moment");
        rig.advert(1, 1, 1);
    }
    let effects = collected(&mut rig, away());
    assert_eq!(offer(&effects).tasks(), [(0, 2)]);
    assert!(is_told_to_drop(&effects));
}

#[test]
fn outputs_that_nobody_else_brings_are_collected_however_late_their_provider_is_back() {
    let mut rig = ended_at_first(&[2]);
    rig.disconnect(1);
    rig.pass(2_000);
    collected(&mut rig, away());
    rig.pass(wait_ms() + 60_000);
    assert_eq!(rig.core.job(job()).unwrap().tasks.pending, 1);
    let effects = rig.connect(1);
    assert!(offers(&effects).is_empty(), "{effects:?}");
    assert_eq!(asked(&effects), 1);
    collected(&mut rig, Ok(1_000));
    assert_eq!(rig.core.job(job()).unwrap().tasks.succeeded, 1);
}

#[test]
fn a_provider_that_forgot_the_job_may_still_have_outputs_and_says_when_it_has_not() {
    let mut rig = ended_at_first(&[2, 1]);
    let effects = rig.pass(3_000);
    let (_, call, _) = calls(&effects)
        .into_iter()
        .find(|(to, _, _)| *to == fixture::peer(1))
        .unwrap();
    let unknown = vec![job()];
    let effects = rig.answer(1, call, TaskResponse::Heartbeat { unknown });
    assert!(offers(&effects).is_empty());
    let effects = collected(&mut rig, Err(CollectFailure::Lost("gone".into())));
    assert_eq!(offer(&effects).tasks(), [(0, 2)]);
}

#[test]
fn outputs_of_a_provider_that_stops_are_not_waited_for() {
    let mut rig = ended_at_first(&[2, 1]);
    let (_, effects) = rig.ask(1, TaskRequest::Goodbye);
    let next = offer(&effects);
    assert_eq!((next.peer, next.tasks()), (fixture::peer(2), vec![(0, 2)]));
}

/// Silence that heals: the report that waited comes before the answer that tells that the provider is back.
#[test]
fn what_was_reported_before_the_provider_counts_as_back_is_not_cancelled_at_its_return() {
    for outputs in [true, false] {
        let mut rig = Rig::submitter(&[2]);
        let first = offer(&rig.submit(plan(2)));
        rig.take(&first);
        let beats = calls(&rig.pass(3_000));
        let (_, call, _) = beats[0];
        rig.pass(8_000);
        assert_eq!(rig.core.counters().peers_lost, 1);
        let end = if outputs {
            finished_with_outputs(task(0, 1))
        } else {
            finished(task(0, 1), Outcome::Succeeded)
        };
        let (_, effects) = rig.report(1, 1, end);
        assert_eq!(asked(&effects), usize::from(outputs));
        let mut effects = rig.answer(1, call, TaskResponse::Heartbeat { unknown: vec![] });
        effects.append(&mut rig.pass(1_000));
        assert!(!is_told_to_drop(&effects), "{effects:?}");
        assert_eq!(offers(&effects)[0].tasks(), [(1, 1)], "the other goes on");
        if outputs {
            collected(&mut rig, Ok(1_000));
        }
        let counted = rig.core.job(job()).unwrap().tasks;
        assert_eq!((counted.succeeded, counted.queued), (1, 1), "{counted:?}");
    }
}
