//! What the owner decides: offering, allowing, stopping.

use p2pnode_protocol::message::{Refusal, ReportEvent, TaskRequest, TaskResponse};
use p2pnode_protocol::offer::Grant;
use p2pnode_protocol::task::{FailureKind, Outcome};

use super::fixture;
use super::rig::{Rig, as_reply, ended, failed, finished, offer_of, plan, task};
use super::seen::{calls, kills, offer, position, records, report, runs};
use crate::core::io::{Effect, Input, OfferTerms, Record, RunKey};

fn hosting(peer: usize) -> (Rig, RunKey) {
    let mut rig = Rig::provider(1);
    rig.connect(peer);
    let template = fixture::template(0, 1, 60_000);
    let offer = offer_of(1, Some(template), &[(0, 1), (1, 1)]);
    rig.ask(peer, TaskRequest::Offer(offer));
    let run = runs(&rig.prepared(peer, 1))[0];
    (rig, run)
}

fn kinds(report: &p2pnode_protocol::message::Report) -> Vec<FailureKind> {
    let events = report.events.iter();
    events
        .filter_map(|event| match event {
            ReportEvent::Finished {
                outcome: Outcome::Failed(failure),
                ..
            } => Some(failure.kind),
            _ => None,
        })
        .collect()
}

#[test]
fn decisions_are_stored_and_advertised() {
    let mut rig = Rig::new();
    let terms = OfferTerms {
        total: fixture::capacity(2),
        allow_any: false,
        ..OfferTerms::default()
    };
    let effects = rig.input(Input::Offer(terms.clone()));
    assert_eq!(records(&effects), [Record::Offer(terms)]);
    position(&effects, |effect| matches!(effect, Effect::Advertise));
    let (peer, grant) = (fixture::peer(3), Some(Grant::default()));
    let effects = rig.input(Input::Allow {
        peer,
        grant: grant.clone(),
    });
    assert_eq!(records(&effects), [Record::Allowed { peer, grant }]);
    // A new advert is what makes that peer ask again.
    position(&effects, |effect| matches!(effect, Effect::Advertise));
    assert!(rig.core.allowed_peers().keys().eq([&peer]));
}

#[test]
fn what_is_free_is_advertised_when_it_changes() {
    let (mut rig, run) = hosting(1);
    assert_eq!(rig.core.capacity().free.cpus.0, 0);
    let effects = rig.end(run, ended(Outcome::Succeeded));
    // Another task took the slot at once.
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::Advertise))
    );
    let effects = rig.end(runs(&effects)[0], ended(Outcome::Succeeded));
    position(&effects, |effect| matches!(effect, Effect::Advertise));
}

#[test]
fn a_peer_that_is_denied_loses_what_it_has_here_and_hears_why() {
    let (mut rig, run) = hosting(1);
    rig.input(Input::Allow {
        peer: fixture::peer(1),
        grant: Some(Grant::default()),
    });
    rig.input(Input::Offer(OfferTerms {
        total: fixture::capacity(1),
        allow_any: false,
        ..OfferTerms::default()
    }));
    let effects = rig.input(Input::Allow {
        peer: fixture::peer(1),
        grant: None,
    });
    assert_eq!(kills(&effects), [(run, FailureKind::KilledByOwner)]);
    let (call, first) = report(&effects);
    assert_eq!(
        kinds(&first),
        [FailureKind::KilledByOwner],
        "the one that waited"
    );
    rig.end(run, ended(failed(FailureKind::KilledByOwner)));
    let effects = rig.answer(1, call, TaskResponse::Reported { through: 1 });
    assert_eq!(
        kinds(&report(&effects).1),
        [FailureKind::KilledByOwner],
        "the one that ran"
    );
}

#[test]
fn a_smaller_offer_sends_away_what_does_not_fit_and_lets_run_what_runs() {
    let mut rig = Rig::provider(2);
    let mut template = fixture::template(0, 1, 0);
    template.resources = fixture::resources(2);
    rig.ask(
        1,
        TaskRequest::Offer(offer_of(1, Some(template), &[(0, 1), (1, 1)])),
    );
    let run = runs(&rig.prepared(1, 1))[0];
    let effects = rig.input(Input::Offer(OfferTerms {
        total: fixture::capacity(1),
        allow_any: true,
        ..OfferTerms::default()
    }));
    assert!(kills(&effects).is_empty());
    assert_eq!(kinds(&report(&effects).1), [FailureKind::KilledByOwner]);
    assert_eq!(
        rig.core.capacity().free.cpus.0,
        0,
        "more is taken than is offered"
    );
    rig.end(run, ended(Outcome::Succeeded));
    assert_eq!(rig.core.capacity().free, fixture::capacity(1));
}

#[test]
fn stopping_says_goodbye_kills_and_ends() {
    let (mut rig, run) = hosting(1);
    let effects = rig.input(Input::Stop);
    assert_eq!(kills(&effects), [(run, FailureKind::ProviderStopping)]);
    let said = calls(&effects);
    let [(to, call, TaskRequest::Goodbye)] = said.as_slice() else {
        panic!("{said:?}");
    };
    assert_eq!(*to, fixture::peer(1));
    let refused = TaskRequest::Offer(offer_of(1, None, &[(5, 1)]));
    assert_eq!(
        as_reply(&rig.ask(1, refused).0).refusal,
        Some(Refusal::Stopping)
    );
    assert!(!rig.core.capacity().offering);
    assert!(rig.answer(1, *call, TaskResponse::Done).is_empty());
    let effects = rig.end(run, ended(failed(FailureKind::ProviderStopping)));
    position(&effects, |effect| matches!(effect, Effect::Stopped));
    assert!(rig.connect(5).is_empty(), "nothing happens after that");
}

#[test]
fn stopping_takes_eight_seconds_at_most() {
    let (mut rig, _) = hosting(1);
    rig.input(Input::Stop);
    assert!(
        !rig.pass(7_999)
            .iter()
            .any(|effect| matches!(effect, Effect::Stopped))
    );
    position(&rig.pass(1), |effect| matches!(effect, Effect::Stopped));
}

#[test]
fn stopping_with_nothing_to_do_is_immediate() {
    let effects = Rig::new().input(Input::Stop);
    position(&effects, |effect| matches!(effect, Effect::Stopped));
}

#[test]
fn own_jobs_stay_stored_when_the_node_stops_and_their_providers_are_told() {
    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(2)));
    rig.take(&first);
    let effects = rig.input(Input::Stop);
    assert!(
        !records(&effects)
            .iter()
            .any(|record| matches!(record, Record::JobEnded { .. }))
    );
    assert_eq!(calls(&effects)[0].2, TaskRequest::Goodbye);
    // A result that comes in time counts; nothing more is handed out.
    let (_, effects) = rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    assert_eq!(records(&effects).len(), 1);
    assert!(super::seen::offers(&effects).is_empty());
}

#[test]
fn a_release_under_way_is_waited_for_before_the_node_ends() {
    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(1)));
    rig.take(&first);
    let (_, effects) = rig.report(1, 1, finished(task(0, 1), Outcome::Succeeded));
    let (_, call, _) = calls(&effects).pop().unwrap();
    let effects = rig.input(Input::Stop);
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::Stopped))
    );
    let effects = rig.answer(1, call, TaskResponse::Done);
    position(&effects, |effect| matches!(effect, Effect::Stopped));
}
