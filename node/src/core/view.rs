//! What the API and the adverts show of the core. Questions only: nothing here changes anything.

use std::ops::Range;

use p2pnode_protocol::api::{JobInfo, PeerInfo, TaskInfo};
use p2pnode_protocol::job::JobPlan;
use p2pnode_protocol::task::RuntimeKind;
use p2pnode_protocol::{Capacity, JobId, PeerId};

use super::desk::Counters;
use super::io::HostedJob;
use super::peers::offers;
use super::{Core, submit};

/// What this node offers and how much of it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapacityView {
    /// Whether anything is offered.
    pub offering: bool,
    /// Everything offered; all zero when nothing is, or when the node stops.
    pub total: Capacity,
    /// What is free of it.
    pub free: Capacity,
    /// Whether anyone may run tasks here.
    pub allow_any: bool,
    /// Runtimes that can run tasks.
    pub runtimes: Vec<RuntimeKind>,
    /// Tasks that run.
    pub running: u32,
    /// Tasks that wait for a slot.
    pub queued: u32,
}

impl Core {
    /// One of this node's own jobs.
    #[must_use]
    pub fn job(&self, job: JobId) -> Option<JobInfo> {
        self.submit.job(job)
    }

    /// All of them, newest first.
    #[must_use]
    pub fn jobs(&self) -> Vec<JobInfo> {
        let ids = self.submit.job_ids();
        ids.into_iter()
            .filter_map(|id| self.submit.job(id))
            .collect()
    }

    /// Their ids, newest first.
    #[must_use]
    pub fn job_ids(&self) -> Vec<JobId> {
        self.submit.job_ids()
    }

    /// Tasks of a job by their positions, counted from 0 through all its steps.
    #[must_use]
    pub fn tasks(&self, job: JobId, range: Range<u32>) -> Vec<TaskInfo> {
        self.submit.tasks(job, range)
    }

    /// Tasks of this node's running jobs that are not done.
    #[must_use]
    pub fn open_tasks(&self) -> u64 {
        self.submit.open_tasks()
    }

    /// What this node offers, for adverts and status.
    #[must_use]
    pub fn capacity(&self) -> CapacityView {
        let offering = self.host.is_offering();
        CapacityView {
            offering,
            total: self.host.total(),
            free: if offering {
                self.host.free().clone()
            } else {
                Capacity::default()
            },
            allow_any: self.host.allows_any(),
            runtimes: self.host.working_runtimes(),
            running: self.host.running(),
            queued: self.host.queued(),
        }
    }

    /// Whether a peer may run tasks here.
    #[must_use]
    pub fn allowed(&self, peer: &PeerId) -> bool {
        self.host.allows(self.config.me, peer)
    }

    /// Peers that the owner allowed by name.
    #[must_use]
    pub fn allowed_peers(&self) -> Vec<PeerId> {
        self.host.allowed().iter().copied().collect()
    }

    /// For every known peer, and every one that `plan` names, how many tasks of the first step would
    /// run there at the same time now, or why none.
    #[must_use]
    pub fn fit(&self, plan: &JobPlan) -> Vec<(PeerId, Result<u32, String>)> {
        submit::fit(plan, &self.peers)
    }

    /// How many peers are connected or have an advert that is known.
    #[must_use]
    pub fn peers_known(&self) -> u32 {
        self.peers.others().count() as u32
    }

    /// What a peer calls itself.
    #[must_use]
    pub fn peer_name(&self, peer: &PeerId) -> Option<&str> {
        self.peers.name(peer)
    }

    /// Peers that are connected or whose adverts are known; addresses and round trips are for the
    /// network to fill in.
    #[must_use]
    pub fn known_peers(&self) -> Vec<(PeerId, PeerInfo)> {
        self.peers
            .others()
            .map(|(id, peer)| {
                let advert = peer.advert.as_deref();
                let offered = advert.filter(|advert| offers(&advert.total));
                let info = PeerInfo {
                    peer: id.to_base58(),
                    name: advert.map_or_else(String::new, |advert| advert.name.clone()),
                    addresses: Vec::new(),
                    capacity: offered.map(|advert| advert.total.clone()),
                    free: offered.map(|advert| advert.free.clone()),
                    executors: advert.map_or_else(Vec::new, |advert| advert.runtimes.clone()),
                    labels: advert
                        .map(|advert| advert.labels.clone())
                        .unwrap_or_default(),
                    rtt_ms: None,
                    allowed: self.allowed(id),
                    connected: peer.connected,
                    last_seen_ms: peer.seen_ms,
                };
                (*id, info)
            })
            .collect()
    }

    /// Things that should not happen, counted since the start.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.desk.counters
    }

    /// Jobs of others (and of this node) that are hosted here.
    #[must_use]
    pub fn hosted_jobs(&self) -> Vec<HostedJob> {
        self.host.hosted_jobs()
    }
}
