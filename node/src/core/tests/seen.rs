//! What stands in the effects of a core.

use p2pnode_protocol::PeerId;
use p2pnode_protocol::api::Event;
use p2pnode_protocol::message::{Offer, Report, TaskRequest};
use p2pnode_protocol::task::FailureKind;

use crate::core::io::{CallId, Effect, Record, RunKey};

/// An offer that was sent.
#[derive(Debug, Clone)]
pub struct Offered {
    pub peer: PeerId,
    pub call: CallId,
    pub offer: Offer,
}

impl Offered {
    /// Indices and attempts of its tasks.
    pub fn tasks(&self) -> Vec<(u32, u32)> {
        let tasks = self.offer.tasks.iter();
        tasks.map(|task| (task.index, task.attempt)).collect()
    }
}

pub fn calls(effects: &[Effect]) -> Vec<(PeerId, CallId, TaskRequest)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Call {
                peer,
                call,
                request,
            } => Some((*peer, *call, request.clone())),
            _ => None,
        })
        .collect()
}

pub fn offers(effects: &[Effect]) -> Vec<Offered> {
    calls(effects)
        .into_iter()
        .filter_map(|(peer, call, request)| match request {
            TaskRequest::Offer(offer) => Some(Offered { peer, call, offer }),
            _ => None,
        })
        .collect()
}

/// The one offer among `effects`.
pub fn offer(effects: &[Effect]) -> Offered {
    let mut offers = offers(effects);
    assert_eq!(offers.len(), 1, "{effects:?}");
    offers.remove(0)
}

/// The one report among `effects`.
pub fn report(effects: &[Effect]) -> (CallId, Report) {
    let mut reports: Vec<(CallId, Report)> = calls(effects)
        .into_iter()
        .filter_map(|(_, call, request)| match request {
            TaskRequest::Report(report) => Some((call, report)),
            _ => None,
        })
        .collect();
    assert_eq!(reports.len(), 1, "{effects:?}");
    reports.remove(0)
}

pub fn records(effects: &[Effect]) -> Vec<Record> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Persist(record) => Some(record.clone()),
            _ => None,
        })
        .collect()
}

pub fn events(effects: &[Effect]) -> Vec<Event> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Emit(event) => Some(event.clone()),
            _ => None,
        })
        .collect()
}

pub fn runs(effects: &[Effect]) -> Vec<RunKey> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Run { run, .. } => Some(*run),
            _ => None,
        })
        .collect()
}

pub fn kills(effects: &[Effect]) -> Vec<(RunKey, FailureKind)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Kill { run, why } => Some((*run, why.kind)),
            _ => None,
        })
        .collect()
}

/// The first position at which an effect is such that.
pub fn position(effects: &[Effect], is: impl Fn(&Effect) -> bool) -> usize {
    effects
        .iter()
        .position(is)
        .unwrap_or_else(|| panic!("missing in {effects:?}"))
}
