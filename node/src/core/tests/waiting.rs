//! Jobs that nobody works on.

use p2pnode_protocol::api::{Event, JobState};
use p2pnode_protocol::message::Refusal;
use p2pnode_protocol::task::{FailureKind, Outcome};

use super::fixture;
use super::rig::{JOB, Rig, failed, finished, job, plan, reply, task};
use super::seen::{events, offer, offers};
use crate::core::io::{Effect, Input};

#[test]
fn without_any_peer_a_job_fails_after_its_wait() {
    let mut rig = Rig::new();
    let effects = rig.submit(plan(1));
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::FindProviders))
    );
    let waiting = rig.pass(14_999);
    assert!(events(&waiting).iter().any(|event| {
        matches!(event, Event::JobWaiting { reasons, .. } if reasons[0].contains("p2pnode offer"))
    }));
    let ended = events(&rig.pass(1));
    let [
        Event::JobFinished {
            no_peer,
            state,
            notes,
            ..
        },
    ] = ended.as_slice()
    else {
        panic!("{ended:?}");
    };
    assert!(*no_peer && *state == JobState::Failed);
    assert!(notes[0].contains("within 15 s"), "{notes:?}");
    assert!(rig.core.job(job()).unwrap().no_peer);
}

#[test]
fn reasons_are_said_once_until_they_change() {
    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(1)));
    rig.answer(1, first.call, reply(0, Some(Refusal::NotOffering), 0));
    let said = events(&rig.pass(8_000));
    let waiting = said
        .iter()
        .filter(|event| matches!(event, Event::JobWaiting { .. }));
    assert_eq!(waiting.count(), 1, "{said:?}");
}

#[test]
fn a_job_that_ran_waits_longer_for_its_providers() {
    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(2)));
    rig.take(&first);
    rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    rig.disconnect(1);
    rig.pass(2_000);
    assert_eq!(rig.core.job(job()).unwrap().tasks.pending, 1);
    rig.pass(590_000);
    assert_eq!(rig.core.job(job()).unwrap().state, JobState::Running);
    rig.pass(11_000);
    let info = rig.core.job(job()).unwrap();
    assert!(info.state == JobState::Failed && info.no_peer, "{info:?}");
    assert!(info.notes[0].contains("no provider was left"), "{info:?}");
}

#[test]
fn an_image_that_nobody_has_ends_the_job_with_its_message() {
    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(1)));
    rig.take(&first);
    rig.pass(20_000);
    // Heartbeats went unanswered meanwhile, so the provider is lost; its report counts all the same.
    let failure = failed(FailureKind::ImageUnavailable);
    rig.report(1, 1, finished(task(0, 1), failure));
    rig.pass(2_100);
    let info = rig.core.job(job()).unwrap();
    assert_eq!(
        (info.state, info.no_peer),
        (JobState::Failed, false),
        "{info:?}"
    );
    assert!(
        info.notes.iter().any(|note| note.contains("it broke")),
        "{info:?}"
    );
}

#[test]
fn an_image_that_one_peer_lacks_is_looked_for_at_another() {
    let mut rig = Rig::submitter(&[2, 1]);
    let first = offer(&rig.submit(plan(1)));
    rig.take(&first);
    let failure = failed(FailureKind::ImageUnavailable);
    let (_, effects) = rig.report(1, 1, finished(task(0, 1), failure));
    let second = offer(&effects);
    assert_eq!(
        (second.peer, second.tasks()),
        (fixture::peer(2), vec![(0, 2)])
    );
}

#[test]
fn a_plan_that_cannot_be_followed_fails_at_once() {
    let mut rig = Rig::submitter(&[1]);
    let mut none = plan(1);
    none.steps[0].array.keys[0].values = p2pnode_protocol::job::Values::List(vec![]);
    let mut circle = plan(1);
    circle.steps[0].needs = vec![0];
    let mut many = plan(1_000_001);
    many.steps[0].template.step = 0;
    for (wrong, why) in [
        (none, "no tasks"),
        (circle, "needs step 0"),
        (many, "1000000 is the most"),
    ] {
        let mut rig = Rig::submitter(&[1]);
        assert!(offers(&rig.submit(wrong)).is_empty());
        let info = rig.core.job(job()).unwrap();
        assert_eq!(info.state, JobState::Failed);
        assert!(info.notes[0].contains(why), "{info:?}");
    }
    // The same id twice changes nothing.
    rig.submit(plan(1));
    assert!(
        rig.submit(plan(5))
            .iter()
            .all(|effect| !matches!(effect, Effect::Persist(_)))
    );
    assert_eq!(rig.core.job(job()).unwrap().tasks.total, 1);
}

#[test]
fn cancelling_a_waiting_job_ends_it() {
    let mut rig = Rig::new();
    rig.submit(plan(3));
    let effects = rig.input(Input::Cancel(fixture::job_id(JOB)));
    let ended = events(&effects);
    assert!(matches!(
        ended.as_slice(),
        [Event::JobFinished { state: JobState::Cancelled, tasks, .. }] if tasks.cancelled == 3
    ));
    assert!(rig.pass(100_000).is_empty(), "nothing is left to do");
}
