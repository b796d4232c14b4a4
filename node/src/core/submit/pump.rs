//! Handing out: which tasks go to which provider, and the offers that carry them.
//!
//! At most one offer is under way between a job and a provider; what it carries is stored before it
//! is sent and is repeated until it is answered or given up, so that the tasks in it are never at a
//! provider without this node knowing.

use p2pnode_protocol::PeerId;
use p2pnode_protocol::id::StepIndex;
use p2pnode_protocol::job::StepPlan;
use p2pnode_protocol::message::{MAX_BATCH, Offer, TaskRef, TaskRequest};
use p2pnode_protocol::task::{Assignment, Failure, FailureKind, TaskTemplate};

use super::job::Job;
use super::link::{At, Demand, SentOffer};
use super::task::{Move, Stage};
use super::watch::Watch;
use crate::core::desk::{CallKind, Cx, Timer};
use crate::core::io::Record;
use crate::core::peers::Peers;
use crate::core::sizes;

impl Job {
    /// Offers to every peer that fits, best first, as long as tasks wait.
    pub(super) fn place_all(&mut self, cx: &mut Cx, peers: &mut Peers, watch: &mut Watch) {
        let unclear = self
            .links
            .iter()
            .filter(|(_, link)| !link.resend.is_empty());
        let unclear: Vec<PeerId> = unclear.map(|(peer, _)| *peer).collect();
        for peer in unclear {
            self.resend(cx, peers, watch, peer);
        }
        if self.pending() == 0 {
            return;
        }
        for peer in self.ranked(peers, watch) {
            if self.pending() == 0 {
                return;
            }
            if peers.is_connected(&peer) {
                self.place_at(cx, peers, watch, peer);
            } else {
                peers.dial(cx, peer);
            }
        }
    }

    /// Offers to one peer what it should have in hand.
    pub(super) fn place_at(&mut self, cx: &mut Cx, peers: &Peers, watch: &mut Watch, peer: PeerId) {
        if self.resend(cx, peers, watch, peer) {
            return;
        }
        let busy = |job: &Self| {
            job.links
                .get(&peer)
                .is_some_and(|link| link.offer.is_some())
        };
        if self.pending() == 0 || busy(self) {
            return;
        }
        if self.may_offer(peers, watch, &peer).is_err() {
            return;
        }
        let Some(step) = self.step_for(peers, &peer) else {
            return;
        };
        let demand = self.demand(peers, &peer, step);
        let room = self.link(peer).room(&cx.config.submit, &demand);
        if room == 0 {
            return;
        }
        let tasks = self.hand_out(cx, peer, step, room);
        if tasks.is_empty() {
            return;
        }
        cx.persist(Record::Dispatched {
            job: self.id,
            peer,
            tasks: tasks.clone(),
        });
        self.send_offer(cx, watch, peer, step, tasks);
    }

    /// The first step that may run, has tasks that wait, and fits the peer.
    fn step_for(&self, peers: &Peers, peer: &PeerId) -> Option<StepIndex> {
        let advert = peers.advert(peer);
        let position = self.steps.iter().enumerate().position(|(position, step)| {
            let fits = advert.is_none_or(|advert| {
                let needs = &self.plan.steps[position].template.resources;
                advert.total.check(needs).is_ok()
            });
            step.waits_for.is_empty() && step.tasks.pending() > 0 && fits
        })?;
        Some(position as StepIndex)
    }

    fn demand(&self, peers: &Peers, peer: &PeerId, step: StepIndex) -> Demand {
        let state = &self.steps[usize::from(step)];
        Demand {
            mean_us: state.mean_us,
            hand_out: self.plan.policy.hand_out,
            pending: state.tasks.pending(),
            all_slots: self.all_slots,
            advertised: self.advertised_slots(peers, peer, usize::from(step)),
        }
    }

    /// Takes up to `room` tasks that wait and gives them to `peer`.
    fn hand_out(&mut self, cx: &mut Cx, peer: PeerId, step: StepIndex, room: u32) -> Vec<TaskRef> {
        let position = self.known(peer);
        let plan = self.plan.clone();
        let Some(step_plan) = plan.steps.get(usize::from(step)) else {
            return Vec::new();
        };
        let mut bytes = sizes::template(&step_plan.template);
        let mut tasks = Vec::new();
        while tasks.len() < room as usize {
            let Some(index) = self.steps[usize::from(step)].tasks.next_pending() else {
                break;
            };
            let at = At { step, index };
            let attempt = self.last_attempt(at).attempt + 1;
            match sendable(cx, step_plan, index, attempt) {
                Ok(size)
                    if bytes + size > cx.config.submit.max_offer_bytes && !tasks.is_empty() =>
                {
                    break;
                }
                Ok(size) => bytes += size,
                Err(failure) => {
                    self.fail_unsent(cx, at, failure);
                    continue;
                }
            }
            if !self.make(cx, at, Move::HandOut) {
                break;
            }
            if let Some(cell) = self.cell_mut(at) {
                cell.attempt = attempt;
                cell.peer = position;
            }
            self.link(peer).held.insert(at);
            tasks.push(TaskRef {
                step,
                index,
                attempt,
            });
        }
        tasks
    }

    /// Offers again what a restart or a loss left unclear. Returns whether an offer is under way.
    fn resend(&mut self, cx: &mut Cx, peers: &Peers, watch: &mut Watch, peer: PeerId) -> bool {
        let Some(link) = self.links.get(&peer) else {
            return false;
        };
        if link.resend.is_empty() || link.offer.is_some() {
            return false;
        }
        if !watch.is_usable(peers, &peer) {
            return true;
        }
        let Some(step) = link.resend.first().map(|at| at.step) else {
            return false;
        };
        let chosen: Vec<At> = link
            .resend
            .iter()
            .take_while(|at| at.step == step)
            .take(MAX_BATCH)
            .copied()
            .collect();
        let Some(step_plan) = self.plan.steps.get(usize::from(step)) else {
            return false;
        };
        let mut bytes = sizes::template(&step_plan.template);
        let mut tasks = Vec::new();
        for at in chosen {
            let task = self.last_attempt(at);
            let assignment = step_plan.assignment(task.index, task.attempt);
            bytes += assignment.as_ref().map_or(0, sizes::assignment);
            if bytes > cx.config.submit.max_offer_bytes && !tasks.is_empty() {
                break;
            }
            tasks.push(task);
        }
        if let Some(link) = self.links.get_mut(&peer) {
            for task in &tasks {
                link.resend.remove(&At::from(*task));
            }
        }
        self.send_offer(cx, watch, peer, step, tasks);
        true
    }

    fn send_offer(
        &mut self,
        cx: &mut Cx,
        watch: &mut Watch,
        peer: PeerId,
        step: StepIndex,
        tasks: Vec<TaskRef>,
    ) {
        watch.add(cx, peer, self.id);
        self.waiting.since_ms = None;
        let now = cx.now;
        let link = self.link(peer);
        link.used = true;
        link.offer = Some(SentOffer {
            step,
            tasks,
            call: None,
            with_template: false,
            since_ms: now,
            again_ms: now,
            repeats: 0,
        });
        self.send_offered(cx, peer);
    }

    /// Sends the link's offer again, without what was reported as ended meanwhile. What was reported
    /// as started stays: the answer tells under which epoch it is there.
    pub(super) fn repeat_offer(&mut self, cx: &mut Cx, peer: PeerId) {
        let Some(mut offer) = self.links.get_mut(&peer).and_then(|link| link.offer.take()) else {
            return;
        };
        offer.tasks.retain(|task| {
            let stage = self.cell(At::from(*task)).map(|cell| cell.stage);
            self.holds(&peer, *task) && matches!(stage, Some(Stage::Queued | Stage::Running))
        });
        if !offer.tasks.is_empty() {
            self.link(peer).offer = Some(offer);
            self.send_offered(cx, peer);
        }
    }

    fn send_offered(&mut self, cx: &mut Cx, peer: PeerId) {
        let plan = self.plan.clone();
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        let Some(offer) = &mut link.offer else {
            return;
        };
        let Some(step) = plan.steps.get(usize::from(offer.step)) else {
            return;
        };
        let with_template = !link.taught.contains(&offer.step);
        let tasks: Vec<Assignment> = offer
            .tasks
            .iter()
            .filter_map(|task| step.assignment(task.index, task.attempt))
            .collect();
        let request = TaskRequest::Offer(Offer {
            job: self.id,
            step: offer.step,
            template: with_template.then(|| Box::new(TaskTemplate::clone(&step.template))),
            tasks,
            login: None,
        });
        offer.with_template = with_template;
        offer.call = Some(cx.call(peer, CallKind::Offer(self.id), request));
        self.arm(cx, peer);
    }

    /// Sets the deadline of what has to be said to `peer`.
    pub(super) fn arm(&self, cx: &mut Cx, peer: PeerId) {
        let timer = Timer::Link(self.id, peer);
        match self.links.get(&peer).and_then(super::link::Link::deadline) {
            Some(at) => cx.set(timer, at),
            None => cx.clear(timer),
        }
    }

    /// The task cannot be put into an offer: it fails for good.
    fn fail_unsent(&mut self, cx: &mut Cx, at: At, failure: Failure) {
        if self.make(cx, at, Move::Fail) {
            let key = self.task_key(at);
            self.note(|| format!("task {key}: {}", failure.message));
            self.remember_failure(cx, at, failure);
        }
    }
}

/// Estimated bytes of one task in an offer.
fn sendable(cx: &Cx, plan: &StepPlan, index: u32, attempt: u32) -> Result<usize, Failure> {
    let bad = |message: String| Failure::new(FailureKind::BadProgram, message);
    let assignment = plan
        .assignment(index, attempt)
        .ok_or_else(|| bad("the plan has no values or inputs for it".into()))?;
    let bytes = sizes::assignment(&assignment);
    let room = cx.config.submit.max_offer_bytes;
    if bytes + sizes::template(&plan.template) > room {
        return Err(bad(format!(
            "its values and the job's template together are {bytes} bytes and more than the {room} of an offer; use smaller chunks or put them into an input file"
        )));
    }
    Ok(bytes)
}
