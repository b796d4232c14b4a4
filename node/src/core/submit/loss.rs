//! Providers that are lost, and those that come back.

use std::collections::BTreeSet;

use p2pnode_protocol::PeerId;
use p2pnode_protocol::api::Event;
use p2pnode_protocol::message::{MAX_BATCH, TaskRef};
use p2pnode_protocol::task::{Failure, FailureKind, Outcome, Usage};

use super::job::{Ending, Job};
use super::link::At;
use super::task::{Move, Stage};
use crate::core::desk::Cx;

/// What of a provider's tasks is still believed to be there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keep<'a> {
    /// Nothing.
    Nothing,
    /// The offer under way, whose answer will tell.
    Offer,
    /// These, which were taken just now.
    Offered(&'a [TaskRef]),
}

/// How a provider was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// Nothing is heard of it; its tasks may turn out to be still there.
    Away,
    /// It says that it has not got the job's tasks.
    Forgot,
    /// It said goodbye.
    Stopped,
}

impl Lost {
    /// Whose doing it was, and why, for those who have to know why a task moved.
    pub(super) fn failure(self) -> Failure {
        let (kind, why) = match self {
            Self::Away => (
                FailureKind::ProviderLost,
                "the provider was lost: its connection closed, or it answered nothing",
            ),
            Self::Forgot => (
                FailureKind::ProviderLost,
                "the provider was restarted, or gave up the job when it heard nothing of this node",
            ),
            Self::Stopped => (
                FailureKind::ProviderStopping,
                "the provider's owner stopped it",
            ),
        };
        Failure::new(kind, why)
    }
}

impl Job {
    /// What `peer` has of this job is gone; its tasks wait to be handed out again. Those that ended stay
    /// with it while it may still give what they brought: unless it stops, for then it said that it goes.
    pub(super) fn lose(&mut self, cx: &mut Cx, peer: PeerId, keep: Keep, lost: Lost) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        let under_way = link.offer.as_ref().map(|offer| offer.tasks.clone());
        let kept: BTreeSet<At> = match keep {
            Keep::Nothing => BTreeSet::new(),
            Keep::Offer => under_way.iter().flatten().copied().map(At::from).collect(),
            Keep::Offered(tasks) => tasks.iter().copied().map(At::from).collect(),
        };
        let mut gone: Vec<At> = link.held.difference(&kept).copied().collect();
        if matches!(keep, Keep::Nothing) {
            link.offer = None;
        }
        link.taught.clear();
        link.epoch = 0;
        self.all_slots -= u64::from(link.slots.take().unwrap_or(0));
        if lost == Lost::Away {
            self.leave_outputs(cx, &peer);
        }
        if lost != Lost::Stopped {
            gone.retain(|at| !self.is_collecting(*at));
        }
        let failure = lost.failure();
        let mut moved = 0;
        for at in gone {
            let task = self.last_attempt(at);
            let unfinished = self
                .cell(at)
                .is_some_and(|cell| matches!(cell.stage, Stage::Queued | Stage::Running));
            moved += u32::from(self.move_away(cx, &peer, at, &failure));
            let link = self.link(peer);
            if lost == Lost::Away && unfinished && link.stale.len() < 2 * MAX_BATCH {
                link.stale.insert(task);
            }
        }
        self.arm(cx, peer);
        self.on_moved(cx, peer, moved, failure);
    }

    /// So many tasks left a provider because of what became of it.
    pub(super) fn on_moved(&mut self, cx: &mut Cx, peer: PeerId, moved: u32, failure: Failure) {
        if moved > 0 {
            self.on_setback(
                cx,
                peer,
                &Failure::new(FailureKind::ProviderLost, "it was lost again and again"),
            );
            let position = self.known(peer);
            cx.emit(Event::PeerLost {
                job: self.text.clone(),
                peer: self.peer_text(position).to_owned(),
                tasks: moved,
                why: failure.message,
            });
        }
    }

    /// Takes one task out of a provider's hands, and remembers why. When it moved too often it fails
    /// instead. Returns whether it moved.
    pub(super) fn move_away(&mut self, cx: &mut Cx, peer: &PeerId, at: At, why: &Failure) -> bool {
        let was_collecting = self
            .cell(at)
            .is_some_and(|cell| cell.stage == Stage::Collecting);
        if !self.make(cx, at, Move::Lose) {
            return false;
        }
        self.unhold(peer, at);
        if was_collecting && let Some(link) = self.links.get_mut(peer) {
            link.collecting -= 1;
        }
        self.remember_failure(cx, at, why.clone());
        self.count_move(cx, peer, at);
        true
    }

    /// One more move of a task that waits again.
    pub(super) fn count_move(&mut self, cx: &mut Cx, peer: &PeerId, at: At) {
        let most = cx.config.submit.max_moves;
        let Some(cell) = self.cell_mut(at) else {
            return;
        };
        cell.moves = cell.moves.saturating_add(1);
        let (moves, position) = (cell.moves, cell.peer);
        self.counts.moved += 1;
        cx.emit(Event::TaskMoved {
            job: self.text.clone(),
            task: self.task_key(at).to_string(),
            peer: self.peer_text(position).to_owned(),
        });
        if moves > most {
            let kind = FailureKind::ProviderLost;
            let step = self.steps.get(usize::from(at.step));
            let last = step.and_then(|step| step.failures.get(&at.index));
            let last = last.map_or("", |failure| failure.message.as_str());
            let message =
                format!("it left {moves} providers without an end; given up. At the last: {last}");
            let ending = Ending {
                attempt: self.last_attempt(at).attempt,
                outcome: Outcome::Failed(Failure::new(kind, message)),
                usage: Usage::default(),
                outputs: None,
                log_bytes: 0,
                asked: false,
                misses: 0,
            };
            self.fail_for_good(cx, *peer, at, &ending);
        }
    }

    /// The provider is there again: attempts that nobody else has got since are offered to it again,
    /// as the same attempts, so that work which went on meanwhile is not lost; others are cancelled. What
    /// ended there is collected.
    pub(super) fn welcome_back(&mut self, cx: &mut Cx, peer: PeerId) {
        self.resume_collecting(cx, peer);
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        let position = link.peer;
        for task in std::mem::take(&mut link.stale) {
            let at = At::from(task);
            let last = self
                .cell(at)
                .filter(|cell| cell.attempt == task.attempt && cell.peer == position);
            let stage = last.map(|cell| cell.stage);
            if matches!(stage, Some(Stage::Collecting | Stage::Succeeded)) {
                // Its end came before the provider was known to be back: that is what counts.
                continue;
            }
            if stage == Some(Stage::Lost) && self.make(cx, at, Move::Adopt) {
                let link = self.link(peer);
                link.held.insert(at);
                link.resend.insert(at);
                self.waiting.since_ms = None;
            } else {
                self.cancel_at(cx, &peer, task);
            }
        }
        self.arm(cx, peer);
    }

    /// Tells `peer`, as soon as it can be told, that an attempt is not wanted any more.
    pub(super) fn cancel_at(&mut self, cx: &mut Cx, peer: &PeerId, task: TaskRef) {
        let now = cx.now;
        if let Some(link) = self.links.get_mut(peer) {
            if !link.cancels.is_due() && !link.collected.is_due() {
                link.notices_ms = now;
            }
            link.cancels.add(task, 2 * MAX_BATCH);
        }
        self.arm(cx, *peer);
    }
}
