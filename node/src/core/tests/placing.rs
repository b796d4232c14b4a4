//! Whom a job asks, how much it hands out, and what it makes of the answers.

use p2pnode_protocol::Capacity;
use p2pnode_protocol::api::{Event, JobState};
use p2pnode_protocol::message::{
    MAX_BATCH, Refusal, Report, ReportEvent, TaskRequest, TaskResponse,
};
use p2pnode_protocol::task::{Outcome, Usage};

use super::fixture;
use super::rig::{JOB, Rig, as_reply, finished, job, plan, reply, task};
use super::seen::{calls, events, offer, offers, position, records};
use crate::core::io::{CallFailure, Effect, Input, OfferTerms, Record, RuntimeFeatures};

#[test]
fn what_is_offered_is_stored_before() {
    let mut rig = Rig::submitter(&[4]);
    let effects = rig.submit(plan(2));
    let stored = position(
        &effects,
        |effect| matches!(effect, Effect::Persist(Record::Dispatched { tasks, .. }) if tasks.len() == 2),
    );
    let job_stored = position(&effects, |effect| {
        matches!(effect, Effect::Persist(Record::Job { .. }))
    });
    let sent = position(&effects, |effect| matches!(effect, Effect::Call { .. }));
    assert!(job_stored < stored && stored < sent);
    assert_eq!(offer(&effects).tasks(), [(0, 1), (1, 1)]);
    assert!(offer(&effects).offer.template.is_some());
}

#[test]
fn the_peer_with_most_free_slots_comes_first_and_the_others_get_the_rest() {
    let mut rig = Rig::submitter(&[1, 3, 2]);
    let effects = rig.submit(plan(5));
    let asked: Vec<_> = offers(&effects)
        .iter()
        .map(|offer| (offer.peer, offer.tasks().len()))
        .collect();
    assert_eq!(asked, [(fixture::peer(2), 3), (fixture::peer(3), 2)]);
}

#[test]
fn this_node_comes_first_when_it_offers() {
    let mut rig = Rig::submitter(&[4]);
    rig.input(Input::Runtimes(vec![(
        p2pnode_protocol::task::RuntimeKind::Wasm,
        Ok(RuntimeFeatures::default()),
    )]));
    rig.input(Input::Offer(OfferTerms {
        total: fixture::capacity(1),
        allow_any: false,
        ..OfferTerms::default()
    }));
    let effects = rig.submit(plan(2));
    let asked: Vec<_> = offers(&effects).iter().map(|offer| offer.peer).collect();
    assert_eq!(asked, [fixture::peer(0), fixture::peer(1)]);
}

#[test]
fn only_named_peers_are_asked_even_without_an_advert() {
    let mut rig = Rig::submitter(&[8]);
    rig.connect(2);
    let mut named = plan(1);
    named.placement.peers = vec![fixture::peer(2)];
    assert_eq!(offer(&rig.submit(named)).peer, fixture::peer(2));
}

#[test]
fn a_peer_that_is_not_connected_is_called_first() {
    let mut rig = Rig::new();
    rig.advert(1, 2, 2);
    let effects = rig.submit(plan(1));
    assert!(offers(&effects).is_empty());
    position(
        &effects,
        |effect| matches!(effect, Effect::Connect(peer) if *peer == fixture::peer(1)),
    );
    assert_eq!(offer(&rig.connect(1)).peer, fixture::peer(1));
}

#[test]
fn peers_that_do_not_fit_are_not_asked_and_it_is_said_why() {
    let mut rig = Rig::submitter(&[1]);
    rig.connect(2);
    rig.advert_of(2, Capacity::default(), Capacity::default());
    let mut large = plan(1);
    large.steps[0].template.resources = fixture::resources(2);
    assert!(offers(&rig.submit(large)).is_empty());
    let events = events(&rig.pass(1_000));
    let [Event::JobWaiting { reasons, .. }] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(
        reasons[0].contains("node-1") && reasons[0].contains("needs 2 CPUs, 1 there"),
        "{reasons:?}"
    );
}

#[test]
fn labels_must_match() {
    let mut rig = Rig::submitter(&[1]);
    let mut labelled = plan(1);
    labelled
        .placement
        .labels
        .insert("site".into(), "lab".into());
    assert!(offers(&rig.submit(labelled.clone())).is_empty());
    let fits = rig.core.fit(&labelled);
    assert!(fits[0].1.as_ref().unwrap_err().contains("site"), "{fits:?}");
    assert_eq!(rig.core.fit(&plan(1)), [(fixture::peer(1), Ok(1))]);
}

#[test]
fn a_template_travels_once_and_again_when_it_is_asked_for() {
    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(3)));
    rig.take(&first);
    let (_, effects) = rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    let second = offer(&effects);
    assert!(second.offer.template.is_none());
    let needed = reply(0, Some(Refusal::TemplateNeeded), 1);
    let again = offer(&rig.answer(1, second.call, needed));
    assert_eq!(again.tasks(), second.tasks(), "the same attempts");
    assert!(again.offer.template.is_some());
}

#[test]
fn tasks_that_were_not_taken_wait_and_a_full_peer_is_asked_again() {
    let mut rig = Rig::submitter(&[3]);
    let first = offer(&rig.submit(plan(3)));
    let mut full = as_reply(&reply(1, Some(Refusal::Full), 1));
    full.slots = 3;
    rig.answer(1, first.call, TaskResponse::Offer(full));
    let info = rig.core.job(job()).unwrap();
    assert_eq!((info.tasks.queued, info.tasks.pending), (1, 2));
    assert_eq!(info.state, JobState::Running);
    assert!(offers(&rig.pass(99)).is_empty());
    assert_eq!(offer(&rig.pass(1)).tasks(), [(1, 2), (2, 2)]);
}

#[test]
fn a_peer_that_refused_is_not_asked_until_something_changes() {
    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(1)));
    let refusal = Refusal::NotAllowed {
        submitter: "me".into(),
    };
    let effects = rig.answer(1, first.call, reply(0, Some(refusal), 0));
    let said = events(&effects).into_iter().find_map(|event| match event {
        Event::PeerAnswered {
            accepted: 0,
            message,
            ..
        } => message,
        _ => None,
    });
    assert!(said.unwrap().contains("p2pnode allow me"));
    assert!(offers(&rig.pass(1_500)).is_empty());
    assert!(
        offers(&rig.advert(1, 1, 1)).is_empty(),
        "too soon, and nothing changed"
    );
    assert_eq!(
        offer(&rig.advert(1, 2, 2)).tasks(),
        [(0, 2)],
        "it offers more now"
    );
}

#[test]
fn a_peer_that_refused_is_asked_again_after_a_reconnect_or_a_later_advert() {
    for reconnects in [true, false] {
        let mut rig = Rig::submitter(&[1]);
        let first = offer(&rig.submit(plan(1)));
        rig.answer(1, first.call, reply(0, Some(Refusal::NotOffering), 0));
        let effects = if reconnects {
            rig.disconnect(1);
            rig.connect(1)
        } else {
            rig.pass(2_000);
            rig.advert(1, 1, 1)
        };
        offer(&effects);
    }
}

#[test]
fn an_offer_without_an_answer_is_repeated_unchanged_and_given_up_in_the_end() {
    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(1)));
    let mut call = first.call;
    let mut failure = CallFailure::TimedOut;
    for _ in 0..3 {
        assert!(offers(&rig.fail(1, call, failure)).is_empty());
        failure = CallFailure::Unreachable;
        let again = offer(&rig.pass(900));
        assert_eq!(again.offer, first.offer);
        call = again.call;
    }
    assert!(offers(&rig.answer(1, call, TaskResponse::Busy)).is_empty());
    // Something else is answered, so the peer is not lost; the offer alone never is.
    for _ in 0..20 {
        let effects = rig.pass(3_000);
        for (_, call, request) in calls(&effects) {
            match request {
                TaskRequest::Heartbeat { .. } => {
                    rig.answer(1, call, TaskResponse::Heartbeat { unknown: vec![] });
                }
                TaskRequest::Offer(offer) if offer.tasks[0].attempt > 1 => {
                    assert_eq!(offer.tasks[0].attempt, 2);
                    return;
                }
                _ => {
                    rig.fail(1, call, CallFailure::TimedOut);
                }
            }
        }
    }
    panic!("never given up");
}

#[test]
fn a_peer_of_another_protocol_is_left_alone() {
    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(1)));
    rig.fail(1, first.call, CallFailure::Protocol);
    assert!(offers(&rig.pass(10_000)).is_empty());
    let info = rig.core.job(job()).unwrap();
    assert!(info.notes[0].contains("does not speak"), "{info:?}");
}

/// Reports that the tasks of an offer took so long, in microseconds, and returns what follows.
fn all_done(rig: &mut Rig, tasks: &[(u32, u32)], wall_us: u64) -> Vec<Effect> {
    let usage = Usage {
        wall_us,
        ..Usage::default()
    };
    let events = tasks.iter().map(|(index, attempt)| ReportEvent::Finished {
        task: task(*index, *attempt),
        outcome: Outcome::Succeeded,
        usage,
        outputs: None,
        log_bytes: 0,
    });
    let report = Report {
        job: fixture::job_id(JOB),
        first: 1,
        events: events.collect(),
        slots: 2,
    };
    rig.ask(1, TaskRequest::Report(report)).1
}

#[test]
fn offers_grow_with_short_tasks_up_to_the_batch_and_never_beyond() {
    let mut rig = Rig::submitter(&[2]);
    let first = offer(&rig.submit(plan(100_000)));
    assert_eq!(first.tasks().len(), 2, "as many as there are slots");
    rig.take(&first);
    let second = offer(&all_done(&mut rig, &first.tasks(), 10));
    assert_eq!(second.tasks().len(), MAX_BATCH);
    let mut slow = Rig::submitter(&[2]);
    let first = offer(&slow.submit(plan(100_000)));
    slow.take(&first);
    let second = offer(&all_done(&mut slow, &first.tasks(), 100_000));
    assert_eq!(
        second.tasks().len(),
        21,
        "a second of work for two slots, and one that lies ready"
    );
}

#[test]
fn a_fixed_chunk_is_handed_out_together() {
    let mut rig = Rig::submitter(&[2]);
    let mut chunked = plan(100);
    chunked.policy.hand_out = Some(7);
    let first = offer(&rig.submit(chunked));
    assert_eq!(first.tasks().len(), 7);
    rig.take(&first);
    assert!(offers(&all_done(&mut rig, &first.tasks()[..6], 10)).is_empty());
    assert_eq!(
        offer(&all_done(&mut rig, &first.tasks()[6..], 10))
            .tasks()
            .len(),
        7
    );
}

#[test]
fn an_offer_stays_within_what_a_message_holds() {
    let mut rig = Rig::submitter(&[1_000]);
    let mut heavy = plan(1);
    let large: Vec<String> = (0..100).map(|_| "x".repeat(100_000)).collect();
    heavy.steps[0].array.keys[0].values = p2pnode_protocol::job::Values::List(large);
    let first = offer(&rig.submit(heavy));
    let bytes = p2pnode_protocol::codec::encode(
        &TaskRequest::Offer(first.offer.clone()),
        p2pnode_protocol::message::MAX_MESSAGE_BYTES,
    );
    assert!(
        bytes.is_ok() && first.tasks().len() > 20,
        "{}",
        first.tasks().len()
    );
}

#[test]
fn a_task_too_large_for_any_offer_fails_with_the_reason() {
    let mut rig = Rig::submitter(&[1]);
    let mut heavy = plan(1);
    let large = vec!["x".repeat(4 << 20)];
    heavy.steps[0].array.keys[0].values = p2pnode_protocol::job::Values::List(large);
    rig.submit(heavy);
    rig.pass(1);
    let info = rig.core.job(job()).unwrap();
    assert_eq!(info.state, JobState::Failed);
    assert!(info.notes[0].contains("smaller chunks"), "{info:?}");
}

#[test]
fn a_later_step_waits_for_the_one_it_needs() {
    let mut rig = Rig::submitter(&[4]);
    let mut two = plan(1);
    two.steps
        .push(fixture::step(fixture::template(1, 1, 0), 1, vec![0]));
    let first = offer(&rig.submit(two));
    assert_eq!(first.offer.step, 0);
    rig.take(&first);
    let (_, effects) = rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    let second = offer(&effects);
    assert_eq!(
        (second.offer.step, second.offer.template.is_some()),
        (1, true)
    );
    assert!(
        !records(&effects)
            .iter()
            .any(|record| matches!(record, Record::JobEnded { .. }))
    );
}

#[test]
fn a_peer_that_works_for_a_job_needs_no_fresh_advert() {
    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(2)));
    rig.take(&first);
    for _ in 0..30 {
        for (_, call, _) in calls(&rig.pass(3_000)) {
            rig.answer(1, call, TaskResponse::Heartbeat { unknown: vec![] });
        }
    }
    assert_eq!(
        rig.core.peer_name(&fixture::peer(1)),
        None,
        "its advert is over"
    );
    let (_, effects) = rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    assert_eq!(offer(&effects).tasks(), [(1, 1)]);
}
