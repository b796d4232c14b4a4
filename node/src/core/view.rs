//! What the API and the adverts show of the core. Questions only: nothing here changes anything.

use std::collections::BTreeMap;
use std::ops::Range;

use p2pnode_protocol::advert::{Advert, AdvertFeatures};
use p2pnode_protocol::api::{JobInfo, PeerInfo, RuntimeStatus, TaskInfo};
use p2pnode_protocol::id::StepIndex;
use p2pnode_protocol::job::JobPlan;
use p2pnode_protocol::message::Phase;
use p2pnode_protocol::offer::{Grant, OfferRules};
use p2pnode_protocol::task::RuntimeKind;
use p2pnode_protocol::{Capacity, JobId, PeerId};

use super::desk::Counters;
use super::io::{HostedJob, Meant, Millis, Requested};
use super::peers::{offers, printable};
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
    /// Under which rules.
    pub rules: OfferRules,
    /// Why nothing is taken from others at the moment.
    pub closed: Option<String>,
    /// Runtimes that cannot run tasks at the moment, and why.
    pub away: Vec<(RuntimeKind, String)>,
    /// What containers can have here.
    pub features: AdvertFeatures,
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
            rules: self.host.rules().cloned().unwrap_or_default(),
            closed: self.host.closed().map(str::to_owned),
            away: self.host.away(),
            features: self.host.features(),
            running: self.host.running(),
            queued: self.host.queued(),
        }
    }

    /// Whether the node finishes what it has and takes nothing new.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.host.is_draining()
    }

    /// Hosted jobs with their names, how many of their tasks wait, and, when that is for an environment,
    /// what is done to make it.
    #[must_use]
    pub fn hosted_waiting(&self) -> Vec<(HostedJob, String, u32, Option<Phase>)> {
        self.host.waiting()
    }

    /// Tasks of hosted jobs that wait for a slot and that `meant` means.
    #[must_use]
    pub fn waiting_tasks(&self, meant: &Meant) -> u32 {
        self.host.waiting_tasks(meant)
    }

    /// Whether a peer may run tasks here.
    #[must_use]
    pub fn allowed(&self, now: Millis, peer: &PeerId) -> bool {
        self.host.allows(&self.config, now, peer)
    }

    /// Peers that may run tasks here by name: without those that were denied, have used up what they were
    /// allowed, or whose time is over.
    pub fn allowed_by_name(&self, now: Millis) -> impl Iterator<Item = &PeerId> {
        let allowed = self.host.allowed().iter();
        allowed
            .filter(move |(_, grant)| !grant.is_spent(now))
            .map(|(peer, _)| peer)
    }

    /// Peers that the owner allowed by name, and how much.
    #[must_use]
    pub const fn allowed_peers(&self) -> &BTreeMap<PeerId, Grant> {
        self.host.allowed()
    }

    /// Peers that asked to run tasks here and were not allowed.
    #[must_use]
    pub const fn requests(&self) -> &BTreeMap<PeerId, Requested> {
        self.host.requests()
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

    /// Peers that are connected or whose adverts are known; addresses, ways and round trips are for
    /// the network to fill in.
    #[must_use]
    pub fn known_peers(&self, now: Millis) -> Vec<(PeerId, PeerInfo)> {
        self.peers
            .others()
            .map(|(id, peer)| {
                let advert = peer.advert.as_deref();
                let offered = advert.filter(|advert| offers(&advert.total));
                let info = PeerInfo {
                    peer: id.to_base58(),
                    name: advert.map_or_else(String::new, |advert| advert.name.clone()),
                    networks: Vec::new(),
                    addresses: Vec::new(),
                    capacity: offered.map(|advert| advert.total.clone()),
                    free: offered.map(|advert| advert.free.clone()),
                    executors: advert.map_or_else(Vec::new, |advert| advert.runtimes.clone()),
                    labels: advert
                        .map(|advert| advert.labels.clone())
                        .unwrap_or_default(),
                    rtt_ms: None,
                    allowed: self.allowed(now, id),
                    closed: advert.and_then(|advert| advert.closed.as_deref().map(printable)),
                    away: advert.map_or_else(Vec::new, away),
                    connected: peer.connected,
                    relayed: false,
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

    /// Whether a step of a job is hosted here.
    #[must_use]
    pub fn hosts_step(&self, hosted: &HostedJob, step: StepIndex) -> bool {
        self.host.hosts_step(hosted, step)
    }

    /// Jobs of others (and of this node) that are hosted here.
    #[must_use]
    pub fn hosted_jobs(&self) -> Vec<HostedJob> {
        self.host.hosted_jobs()
    }
}

/// Runtimes that an advert says are away, as the API shows them.
fn away(advert: &Advert) -> Vec<RuntimeStatus> {
    let shown = advert.away.iter().map(|(runtime, why)| RuntimeStatus {
        runtime: *runtime,
        version: None,
        problem: Some(printable(why)),
    });
    shown.collect()
}
