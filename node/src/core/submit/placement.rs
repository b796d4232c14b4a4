//! Which peers fit a job, in which order they are asked, and why the others do not fit.
//!
//! Pure questions; nothing here changes anything. Asked by [`super::pump`] before an offer, by
//! [`super::waiting`] for people, and by the API's `fit`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use p2pnode_protocol::PeerId;
use p2pnode_protocol::advert::Advert;
use p2pnode_protocol::job::JobPlan;
use p2pnode_protocol::message::{MAX_BATCH, Refusal};
use p2pnode_protocol::resources::Shortage;
use p2pnode_protocol::task::{NetworkMode, Program, RuntimeKind, TaskTemplate};

use super::job::Job;
use super::link::Stand;
use super::watch::Watch;
use crate::core::peers::{Peers, offers, printable};

/// Why a peer is not asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// The job names others.
    #[error("the job names other peers (placement.peers)")]
    NotNamed,
    /// Nothing is known of it.
    #[error("nothing was heard of it in this network yet; check its id and that it runs")]
    Unheard,
    /// It offers nothing.
    #[error("{}", Refusal::NotOffering)]
    NotOffering,
    /// A label is missing.
    #[error("its label {key} is not \"{wanted}\" (placement.labels)")]
    Label {
        /// The label.
        key: String,
        /// What it should be.
        wanted: String,
    },
    /// It has not got the runtime.
    #[error("it cannot run {0} tasks")]
    Runtime(RuntimeKind),
    /// Its runtime is away.
    #[error("its {0} runtime is away: {1}")]
    RuntimeAway(RuntimeKind, String),
    /// What it offers is closed for the moment.
    #[error("its offer is closed at the moment: {0}")]
    Closed(String),
    /// It has not got what the job insists on.
    #[error("{0}")]
    Lacks(String),
    /// It is too small.
    #[error("too small: {0}")]
    TooSmall(#[from] Shortage),
    /// It refused, or rests.
    #[error("{0}")]
    Stands(String),
    /// No connection, or it does not answer.
    #[error("it cannot be reached at the moment")]
    Away,
}

/// Whether this node's plan could run at a peer with `advert`, `labels` being the peer's.
fn fits_advert(
    plan: &JobPlan,
    advert: &Advert,
    labels: &BTreeMap<String, String>,
    mut wanted: impl FnMut(usize) -> bool,
) -> Result<(), Unfit> {
    if !offers(&advert.total) {
        return Err(Unfit::NotOffering);
    }
    for (key, value) in &plan.placement.labels {
        if labels.get(key) != Some(value) {
            return Err(Unfit::Label {
                key: key.clone(),
                wanted: value.clone(),
            });
        }
    }
    if let Some(why) = &advert.closed {
        return Err(Unfit::Closed(printable(why)));
    }
    let mut problem = None;
    for (position, step) in plan.steps.iter().enumerate() {
        if !wanted(position) {
            continue;
        }
        match fits_step(advert, &step.template) {
            Ok(()) => return Ok(()),
            Err(unfit) => problem = problem.or(Some(unfit)),
        }
    }
    problem.map_or(Ok(()), Err)
}

fn fits_step(advert: &Advert, template: &TaskTemplate) -> Result<(), Unfit> {
    let runtime = template.program.runtime();
    if !advert.runtimes.contains(&runtime) {
        let away = advert.away.iter().find(|(kind, _)| *kind == runtime);
        return Err(match away {
            Some((_, why)) => Unfit::RuntimeAway(runtime, printable(why)),
            None => Unfit::Runtime(runtime),
        });
    }
    let features = &advert.features;
    let lacks = |what: &str| Err(Unfit::Lacks(what.to_owned()));
    if let Some(wanted) = &template.sandbox
        && !features.sandboxes.contains(wanted)
    {
        return lacks(&format!("it has no OCI runtime {wanted} (task.runtime)"));
    }
    if matches!(template.network, NetworkMode::Egress { .. }) && !features.egress {
        return lacks(
            "its tasks cannot reach anything (network.mode); its owner permits that with `p2pnode offer --egress`",
        );
    }
    if matches!(template.program, Program::Build { .. }) && !features.build {
        return lacks(
            "it builds no images (task.build); its owner permits that with `p2pnode offer --allow-build`",
        );
    }
    Ok(advert.total.check(&template.resources)?)
}

fn is_named(plan: &JobPlan, peer: &PeerId) -> bool {
    plan.placement.peers.is_empty() || plan.placement.peers.contains(peer)
}

/// How many tasks of the first step fit into what is free at a peer, or why it does not fit.
pub(super) fn fit(plan: &JobPlan, peers: &Peers, peer: &PeerId) -> Result<u32, Unfit> {
    if !is_named(plan, peer) {
        return Err(Unfit::NotNamed);
    }
    let advert = peers.advert(peer).ok_or(Unfit::Unheard)?;
    fits_advert(plan, advert, &advert.labels, |_| true)?;
    Ok(plan.steps.first().map_or(0, |step| {
        advert
            .free
            .slots(&step.template.resources, MAX_BATCH as u32)
    }))
}

/// What ranks a peer; smaller is better. A free slot counts most, then an image at hand, then being
/// this node itself (nothing has to travel), then how much is free and how little waits.
type Rank = (bool, bool, bool, Reverse<u32>, u32, PeerId);

impl Job {
    /// Whether tasks may be offered to `peer` now.
    ///
    /// A missing advert must not cost the job, see [`Job::needs_no_advert`].
    pub(super) fn may_offer(
        &self,
        peers: &Peers,
        watch: &Watch,
        peer: &PeerId,
    ) -> Result<(), Unfit> {
        if !is_named(&self.plan, peer) {
            return Err(Unfit::NotNamed);
        }
        match peers.advert(peer) {
            Some(advert) => fits_advert(&self.plan, advert, &advert.labels, |position| {
                self.steps[position].waits_for.is_empty() && self.steps[position].tasks.open() > 0
            })?,
            None if *peer == peers.me => return Err(Unfit::NotOffering),
            None if !self.needs_no_advert(peer) || !peers.is_connected(peer) => {
                return Err(Unfit::Unheard);
            }
            None => {}
        }
        if let Some(link) = self.links.get(peer)
            && let Stand::Refused { why, .. } | Stand::Resting { why, .. } = &link.stand
        {
            return Err(Unfit::Stands(why.clone()));
        }
        if watch.is_usable(peers, peer) {
            Ok(())
        } else {
            Err(Unfit::Away)
        }
    }

    /// Whether the job may use a peer whose advert is lost or expired: one that it names, or that has
    /// worked for it.
    fn needs_no_advert(&self, peer: &PeerId) -> bool {
        self.plan.placement.peers.contains(peer)
            || self.links.get(peer).is_some_and(|link| link.used)
    }

    /// How many tasks the advert says can run at once there.
    pub(super) fn advertised_slots(&self, peers: &Peers, peer: &PeerId, step: usize) -> u32 {
        let needs = self
            .plan
            .steps
            .get(step)
            .map(|step| &step.template.resources);
        match (peers.advert(peer), needs) {
            (Some(advert), Some(needs)) => advert.free.slots(needs, MAX_BATCH as u32),
            _ => 0,
        }
    }

    /// Peers that fit, best first. Those that are only not connected are among them, so that somebody
    /// connects to them.
    pub(super) fn ranked(&self, peers: &Peers, watch: &Watch) -> Vec<PeerId> {
        let candidates: BTreeSet<PeerId> = if self.plan.placement.peers.is_empty() {
            let offering = peers.offering().map(|(peer, _)| peer);
            offering.chain(self.links.keys().copied()).collect()
        } else {
            self.plan.placement.peers.iter().copied().collect()
        };
        let mut ranks: Vec<Rank> = candidates
            .into_iter()
            .filter(|peer| {
                let may = self.may_offer(peers, watch, peer);
                matches!(may, Ok(()) | Err(Unfit::Away | Unfit::Unheard))
            })
            .map(|peer| self.rank(peers, peer))
            .collect();
        ranks.sort_unstable();
        ranks.into_iter().map(|rank| rank.5).collect()
    }

    fn rank(&self, peers: &Peers, peer: PeerId) -> Rank {
        let step = self
            .steps
            .iter()
            .position(|step| step.waits_for.is_empty() && step.tasks.pending() > 0);
        let step = step.unwrap_or(0);
        let free = self.advertised_slots(peers, &peer, step);
        let advert = peers.advert(&peer);
        let program = self.plan.steps.get(step).map(|step| &step.template.program);
        let at_hand = match (program, advert) {
            (Some(Program::Image { reference }), Some(advert)) => advert.images.contains(reference),
            _ => true,
        };
        let load = advert.map_or(0, |advert| advert.running.saturating_add(advert.queued));
        (
            free == 0,
            !at_hand,
            peer != peers.me,
            Reverse(free),
            load,
            peer,
        )
    }
}
