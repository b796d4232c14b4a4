//! What one job knows of one provider: where they stand with each other, the offer under way, and how
//! much more the provider should have in hand.
//!
//! A link is made when the job first offers to a peer and lives as long as the job. It decides
//! nothing about single tasks.

use std::collections::BTreeSet;

use p2pnode_protocol::id::{StepIndex, TaskIndex};
use p2pnode_protocol::message::{MAX_BATCH, TaskRef};

use crate::core::config::{SubmitConfig, doubled};
use crate::core::desk::Notices;
use crate::core::io::{CallId, Millis};

/// A task's place within its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) step: StepIndex,
    pub(super) index: TaskIndex,
}

impl From<TaskRef> for At {
    fn from(task: TaskRef) -> Self {
        Self {
            step: task.step,
            index: task.index,
        }
    }
}

/// Whether a provider may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stand {
    /// Yes.
    Open,
    /// Not until something changes there.
    Refused {
        /// In words.
        why: String,
        /// Not even after a new advert before this.
        until: Millis,
        /// It has not got the image that the job needs.
        no_image: bool,
    },
    /// Not for a while.
    Resting {
        /// Until then.
        until: Millis,
        /// In words.
        why: String,
    },
}

/// An offer that was sent, or is about to be sent again, and has no final answer.
#[derive(Debug)]
pub(super) struct SentOffer {
    pub(super) step: StepIndex,
    pub(super) tasks: Vec<TaskRef>,
    /// Under way; otherwise it is sent (again) at `again_ms`.
    pub(super) call: Option<CallId>,
    pub(super) with_template: bool,
    pub(super) since_ms: Millis,
    pub(super) again_ms: Millis,
    pub(super) repeats: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    /// Its provider's position in the job's list of peers.
    pub(super) peer: u32,
    pub(super) stand: Stand,
    /// One task at a time, until one succeeds.
    pub(super) probing: bool,
    /// The provider may know the job, so it has to be told its end.
    pub(super) used: bool,
    /// Its first answer was told to who watches.
    pub(super) answered: bool,
    /// The [`p2pnode_protocol::message::OfferReply::epoch`] under which it holds tasks; 0: none.
    pub(super) epoch: u64,
    /// Steps whose template it has.
    pub(super) taught: BTreeSet<StepIndex>,
    pub(super) offer: Option<SentOffer>,
    /// Tasks that are out at it, the offer's among them.
    pub(super) held: BTreeSet<At>,
    /// Those of `held` whose outputs are on the way.
    pub(super) collecting: u32,
    /// Until then it is left what it has of outputs although it is lost.
    pub(super) left_until_ms: Option<Millis>,
    /// When outputs that did not come are asked for again.
    pub(super) ask_ms: Option<Millis>,
    /// Those of `held` that have to be offered again under the attempt that they have.
    pub(super) resend: BTreeSet<At>,
    /// Attempts given up while it was away, which may still be there.
    pub(super) stale: BTreeSet<TaskRef>,
    /// Attempts to be dropped there.
    pub(super) cancels: Notices,
    /// Attempts whose outputs are here.
    pub(super) collected: Notices,
    pub(super) notices_ms: Millis,
    /// How many tasks it says it can run at once.
    pub(super) slots: Option<u32>,
    /// Failures of the host in a row.
    pub(super) setbacks: u32,
    /// Rests in a row.
    pub(super) rests: u32,
}

/// What the size of an offer depends on beside the link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    /// Mean run time of the step's tasks, in microseconds; `None`: not known yet.
    pub(super) mean_us: Option<u64>,
    /// Tasks handed out together, when the job says.
    pub(super) hand_out: Option<u32>,
    /// Tasks of the step that wait.
    pub(super) pending: u32,
    /// Slots of all providers of the job together.
    pub(super) all_slots: u64,
    /// What the advert says can run at once.
    pub(super) advertised: u32,
}

impl Link {
    pub(super) fn new(peer: u32) -> Self {
        Self {
            peer,
            stand: Stand::Open,
            probing: false,
            used: false,
            answered: false,
            epoch: 0,
            taught: BTreeSet::new(),
            offer: None,
            held: BTreeSet::new(),
            collecting: 0,
            left_until_ms: None,
            ask_ms: None,
            resend: BTreeSet::new(),
            stale: BTreeSet::new(),
            cancels: Notices::default(),
            collected: Notices::default(),
            notices_ms: 0,
            slots: None,
            setbacks: 0,
            rests: 0,
        }
    }

    /// Tasks at the provider that have not ended.
    pub(super) fn outstanding(&self) -> u32 {
        (self.held.len() as u32).saturating_sub(self.collecting)
    }

    /// How many tasks to offer now.
    pub(super) fn room(&self, config: &SubmitConfig, demand: &Demand) -> u32 {
        let out = self.outstanding();
        if self.collecting >= config.max_collecting || demand.pending == 0 {
            return 0;
        }
        if self.probing {
            return 1_u32.saturating_sub(out);
        }
        let most = MAX_BATCH as u32;
        let slots = self.slots.unwrap_or(demand.advertised).clamp(1, most);
        if let Some(chunk) = demand.hand_out {
            let chunk = chunk.max(1);
            let target = slots.div_ceil(chunk).saturating_mul(chunk);
            let room = target.saturating_sub(out);
            return if room < chunk { 0 } else { chunk.min(most) };
        }
        let each = demand.mean_us.map_or(1, |mean| {
            config.ahead_ms * 1_000 / mean.max(config.least_mean_us)
        });
        let each = each.clamp(1, u64::from(most)) as u32;
        // While there is plenty, one more than can run lies ready: the next starts while the last
        // one's end is still on its way.
        let plenty = demand.mean_us.is_some() && u64::from(demand.pending) > demand.all_slots;
        let target = slots
            .saturating_mul(each)
            .saturating_add(plenty.into())
            .min(most);
        let room = target.saturating_sub(out);
        // Small offers cost as many messages as large ones: a quarter at least.
        if room < (target / 4).max(1) {
            return 0;
        }
        // Towards the end everyone gets a share of half of what is left, so that all end together.
        let all = demand.all_slots.max(u64::from(slots));
        let half = (u64::from(demand.pending) * u64::from(slots)).div_ceil(2 * all) as u32;
        room.min(half.max(slots.saturating_sub(out)))
    }

    /// Lets the provider rest, longer each time.
    pub(super) fn rest(&mut self, config: &SubmitConfig, now: Millis, why: String) {
        let until = now + doubled(config.rest_ms, self.rests, config.max_rest_ms);
        self.rests += 1;
        self.probing = true;
        self.stand = Stand::Resting { until, why };
    }

    /// Lets the provider rest because its owner killed tasks of the job: longer, and once for all
    /// that were killed together.
    pub(super) fn rest_for_owner(&mut self, config: &SubmitConfig, now: Millis, why: String) {
        let least = now + config.killed_rest_ms.min(config.max_rest_ms);
        match self.stand {
            Stand::Refused { .. } => return,
            Stand::Resting { until, .. } if until >= least => return,
            Stand::Resting { .. } | Stand::Open => {}
        }
        let first = config.killed_rest_ms.min(config.max_rest_ms);
        let until = now + doubled(first, self.rests, config.max_rest_ms);
        self.rests += 1;
        self.probing = true;
        self.stand = Stand::Resting { until, why };
    }

    /// Lets the provider have a moment, because it is full.
    pub(super) fn pause(&mut self, config: &SubmitConfig, now: Millis, why: String) {
        let until = now + doubled(config.retry_ms, self.rests, config.max_retry_ms);
        self.rests += 1;
        self.stand = Stand::Resting { until, why };
    }

    /// Asks no more until something changes there.
    pub(super) fn refuse(
        &mut self,
        config: &SubmitConfig,
        now: Millis,
        why: String,
        no_image: bool,
    ) {
        let until = now + doubled(config.refused_ms, self.rests, config.max_rest_ms);
        self.rests += 1;
        self.probing = true;
        self.stand = Stand::Refused {
            why,
            until,
            no_image,
        };
    }

    /// Something changed there: it may be asked again. `news` is whether what changed is of
    /// substance, which needs no waiting.
    pub(super) fn reconsider(&mut self, now: Millis, news: bool) {
        match &self.stand {
            Stand::Refused { until, .. } if news || now >= *until => self.stand = Stand::Open,
            Stand::Resting { until, .. } if now >= *until => self.stand = Stand::Open,
            _ => {}
        }
    }

    /// It did well.
    pub(super) fn on_success(&mut self) {
        self.setbacks = 0;
        if !matches!(self.stand, Stand::Refused { .. }) {
            self.rests = 0;
            self.probing = false;
            self.stand = Stand::Open;
        }
    }

    /// When something has to be done next without anything happening.
    pub(super) fn deadline(&self) -> Option<Millis> {
        let offer = self.offer.as_ref().filter(|offer| offer.call.is_none());
        let notices = self.cancels.is_due() || self.collected.is_due();
        let resting = match self.stand {
            Stand::Resting { until, .. } => Some(until),
            _ => None,
        };
        [
            offer.map(|offer| offer.again_ms),
            notices.then_some(self.notices_ms),
            resting,
            self.left_until_ms,
            self.ask_ms,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
