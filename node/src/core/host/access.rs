//! Who may run tasks here: peers that the owner allowed, with what limits, and peers that asked.
//!
//! Owns both tables. A stranger can fill neither: only the owner allows, and requests are bounded, the
//! oldest giving way.

use std::collections::BTreeMap;

use p2pnode_protocol::PeerId;
use p2pnode_protocol::message::Offer;
use p2pnode_protocol::offer::{Grant, image_matches};
use p2pnode_protocol::task::{Program, TaskTemplate};

use crate::core::io::{Millis, Requested};

/// Peers whose requests are kept: more than an owner reads.
const MAX_REQUESTS: usize = 128;

/// A peer that asks again and again for one job after the other is stored again only when it was quiet
/// for so long, in milliseconds.
const QUIET_MS: Millis = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Access {
    allowed: BTreeMap<PeerId, Grant>,
    requests: BTreeMap<PeerId, Requested>,
}

/// Where a peer stands with the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The owner said nothing about it.
    Unnamed,
    /// It may run tasks.
    Granted,
    /// It brought all tasks that it was allowed; they stay.
    UsedUp,
    /// The time that it was allowed is over: what runs may finish, and nothing begins any more.
    Expired,
    /// It may not, and nothing of it stays.
    Denied,
}

/// A change that has to be stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A request is new, or about another job than the last.
    Requested(PeerId, Requested),
    /// A request is gone.
    Gone(PeerId),
}

impl Access {
    pub(super) fn restore(
        &mut self,
        allowed: Vec<(PeerId, Grant)>,
        requests: Vec<(PeerId, Requested)>,
    ) {
        self.allowed = allowed.into_iter().collect();
        self.requests = requests.into_iter().collect();
    }

    /// Peers that were allowed by name.
    pub(super) const fn allowed(&self) -> &BTreeMap<PeerId, Grant> {
        &self.allowed
    }

    /// Peers that asked and were refused.
    pub(super) const fn requests(&self) -> &BTreeMap<PeerId, Requested> {
        &self.requests
    }

    /// What the owner granted this peer, while it holds.
    pub(super) fn grant(&self, peer: &PeerId, now: Millis) -> Option<&Grant> {
        let grant = self.allowed.get(peer)?;
        (!grant.is_spent(now)).then_some(grant)
    }

    /// What the owner said of this peer, whether it holds or not: its limits bind what was taken before.
    pub(super) fn said(&self, peer: &PeerId) -> Option<&Grant> {
        self.allowed.get(peer)
    }

    /// Where this peer stands.
    pub(super) fn standing(&self, peer: &PeerId, now: Millis) -> Standing {
        match self.allowed.get(peer) {
            None => Standing::Unnamed,
            Some(grant) if grant.is_denial() => Standing::Denied,
            Some(grant) if grant.until_ms.is_some_and(|until| now >= until) => Standing::Expired,
            Some(grant) if grant.is_spent(now) => Standing::UsedUp,
            Some(_) => Standing::Granted,
        }
    }

    /// When the next permission ends that has not ended yet.
    pub(super) fn next_end(&self, now: Millis) -> Option<Millis> {
        let ends = self.allowed.values().filter_map(|grant| grant.until_ms);
        ends.filter(|until| *until > now).min()
    }

    /// The owner decides about a peer. True when a request of it is answered by that.
    pub(super) fn set(&mut self, peer: PeerId, grant: Grant) -> bool {
        self.allowed.insert(peer, grant);
        self.requests.remove(&peer).is_some()
    }

    /// Counts tasks that were taken; returns the grant when that changed it.
    pub(super) fn spend(&mut self, peer: &PeerId, tasks: u32) -> Option<Grant> {
        let grant = self.allowed.get_mut(peer)?;
        let left = grant.tasks?;
        grant.tasks = Some(left.saturating_sub(tasks.into()));
        (tasks > 0).then(|| grant.clone())
    }

    /// A peer that may not was refused. `template` is checked already.
    pub(super) fn ask(
        &mut self,
        now: Millis,
        peer: PeerId,
        offer: &Offer,
        template: &TaskTemplate,
    ) -> Vec<Change> {
        let known = self.requests.get_mut(&peer);
        if let Some(known) = known
            && (known.job == offer.job || now < known.last_ms.saturating_add(QUIET_MS))
        {
            known.last_ms = now;
            return Vec::new();
        }
        let before = self.requests.get(&peer);
        let request = Requested {
            job: offer.job,
            name: template.name.clone(),
            program: program_name(&template.program),
            resources: template.resources.clone(),
            first_ms: before.map_or(now, |before| before.first_ms),
            last_ms: now,
        };
        let mut changes = Vec::new();
        if before.is_none()
            && self.requests.len() >= MAX_REQUESTS
            && let Some(oldest) = self.oldest()
        {
            self.requests.remove(&oldest);
            changes.push(Change::Gone(oldest));
        }
        self.requests.insert(peer, request.clone());
        changes.push(Change::Requested(peer, request));
        changes
    }

    fn oldest(&self) -> Option<PeerId> {
        let oldest = self.requests.iter().min_by_key(|(_, asked)| asked.last_ms);
        oldest.map(|(peer, _)| *peer)
    }
}

/// What a template runs, as rules and people name it.
pub(super) fn program_name(program: &Program) -> String {
    match program {
        Program::Wasm { .. } => "wasm".to_owned(),
        Program::Image { reference } => reference.clone(),
        Program::Archive { archive } => format!("archive:{}", archive.digest),
        Program::Build { context, .. } => format!("build:{}", context.digest),
    }
}

/// Whether rules for images let a program run; WASM modules are not images.
pub(super) fn permits_image(rules: &[String], program: &Program) -> bool {
    rules.is_empty()
        || matches!(program, Program::Wasm { .. })
        || image_matches(rules, &program_name(program))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use p2pnode_protocol::JobId;

    use super::*;
    use crate::core::tests::fixture;

    fn offer(job: u8) -> Offer {
        Offer {
            job: JobId([job; 8]),
            step: 0,
            template: None,
            tasks: Vec::new(),
            login: None,
        }
    }

    #[test]
    fn a_grant_is_spent_by_tasks_and_by_time() {
        let mut access = Access::default();
        let peer = fixture::peer(1);
        assert_eq!(access.grant(&peer, 0), None);
        assert_eq!(access.standing(&peer, 0), Standing::Unnamed);
        access.set(
            peer,
            Grant {
                tasks: Some(3),
                until_ms: Some(100),
                images: Vec::new(),
            },
        );
        assert_eq!(access.next_end(99), Some(100));
        assert_eq!(access.next_end(100), None);
        assert_eq!(access.standing(&peer, 99), Standing::Granted);
        assert_eq!(access.spend(&peer, 2).unwrap().tasks, Some(1));
        assert!(access.grant(&peer, 99).is_some());
        assert!(access.grant(&peer, 100).is_none());
        assert_eq!(access.standing(&peer, 100), Standing::Expired);
        assert_eq!(access.spend(&peer, 5).unwrap().tasks, Some(0));
        assert!(access.grant(&peer, 0).is_none());
        assert_eq!(access.standing(&peer, 0), Standing::UsedUp);
        access.set(peer, Grant::default());
        assert_eq!(access.spend(&peer, 9), None, "nothing is counted");
        access.set(peer, Grant::denial());
        assert_eq!(access.standing(&peer, 0), Standing::Denied);
    }

    #[test]
    fn strangers_cannot_fill_the_list_of_requests() {
        let mut access = Access::default();
        let template = fixture::template(0, 1, 0);
        for number in 0..MAX_REQUESTS {
            let changes = access.ask(number as u64, fixture::peer(number), &offer(1), &template);
            assert_eq!(changes.len(), 1);
        }
        // The same again changes nothing that has to be stored.
        assert_eq!(access.ask(500, fixture::peer(0), &offer(1), &template), []);
        let changes = access.ask(501, fixture::peer(9_999), &offer(1), &template);
        assert_eq!(
            changes[0],
            Change::Gone(fixture::peer(1)),
            "the one not heard of for longest"
        );
        assert_eq!(access.requests().len(), MAX_REQUESTS);
        assert_eq!(
            access.ask(502, fixture::peer(0), &offer(3), &template),
            [],
            "too soon"
        );
        let another = access.ask(20_000, fixture::peer(0), &offer(2), &template);
        assert!(matches!(&another[..], [Change::Requested(_, asked)] if asked.first_ms == 0));
        assert!(access.set(fixture::peer(0), Grant::default()), "answered");
        assert!(!access.set(fixture::peer(0), Grant::denial()), "once");
    }
}
