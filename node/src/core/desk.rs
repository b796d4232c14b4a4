//! What every part of the core writes to: calls under way, deadlines, counters, effects.
//!
//! Owned by [`super::Core`], lent to the parts as [`Cx`] for the length of one input, so that no part
//! needs another one to say something to the world.

use std::collections::{BTreeMap, BTreeSet};

use p2pnode_protocol::api::Event;
use p2pnode_protocol::message::{TaskRef, TaskRequest, TaskResponse};
use p2pnode_protocol::{JobId, PeerId};

use super::config::CoreConfig;
use super::io::{Breach, CallId, Effect, HostedJob, Millis, Record, RequestToken};

/// What a call was about, so that its answer finds its way.
#[derive(Debug, Clone)]
pub(super) enum CallKind {
    /// Tasks of a job.
    Offer(JobId),
    /// With the epochs that were named.
    Heartbeat(Vec<(JobId, u64)>),
    /// Stale attempts are to be dropped.
    Cancel(JobId),
    /// Outputs are here.
    Collected(JobId),
    /// A job is over.
    Close(JobId),
    /// Events of a hosted job.
    Report(HostedJob),
    /// This node stops.
    Goodbye,
}

/// Things that have a deadline; each has at most one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The node stops, come what may.
    Stop,
    /// A provider: heartbeat, or lost.
    Provider(PeerId),
    /// An own job that waits.
    Job(JobId),
    /// What an own job has to say to a provider.
    Link(JobId, PeerId),
    /// A provider has to be told that a job is over.
    Close(JobId, PeerId),
    /// A hosted job's lease, or the time that its outputs are kept.
    Lease(HostedJob),
    /// A report is sent again.
    Report(HostedJob),
    /// What the owner allowed somebody ends.
    Permission,
    /// An advert expires.
    Advert(PeerId),
}

/// Deadlines in order.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_timer: BTreeMap<Timer, Millis>,
    by_time: BTreeSet<(Millis, Timer)>,
}

impl Timers {
    /// Sets the deadline of `timer`, in place of the one that it had.
    pub(super) fn set(&mut self, timer: Timer, at: Millis) {
        match self.by_timer.insert(timer, at) {
            Some(before) if before == at => return,
            Some(before) => {
                self.by_time.remove(&(before, timer));
            }
            None => {}
        }
        self.by_time.insert((at, timer));
    }

    /// Takes the deadline of `timer` away.
    pub(super) fn clear(&mut self, timer: Timer) {
        if let Some(at) = self.by_timer.remove(&timer) {
            self.by_time.remove(&(at, timer));
        }
    }

    /// The next one.
    pub(super) fn next(&self) -> Option<Millis> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_time.len()
    }

    /// Takes out one that is due.
    pub(super) fn due(&mut self, now: Millis) -> Option<Timer> {
        let (at, timer) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.by_time.remove(&(at, timer));
        self.by_timer.remove(&timer);
        Some(timer)
    }
}

/// Things that should not happen, counted for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// State transitions that are not allowed, and did not take place.
    pub illegal_transitions: u64,
    /// Results of attempts that had been given up.
    pub stale_results: u64,
    /// Reports about jobs or tasks that their sender does not hold.
    pub foreign_reports: u64,
    /// Messages that break the protocol's rules.
    pub invalid_messages: u64,
    /// Providers that were lost.
    pub peers_lost: u64,
    /// Leases that ended because their submitter was lost.
    pub leases_lost: u64,
}

/// The core's memory of what it said.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) calls: BTreeMap<CallId, (PeerId, CallKind)>,
    next_call: CallId,
    pub(super) timers: Timers,
    pub(super) counters: Counters,
}

/// The desk, the time and the sheet for effects, for one input.
pub(super) struct Cx<'a> {
    pub(super) now: Millis,
    pub(super) config: &'a CoreConfig,
    pub(super) desk: &'a mut Desk,
    pub(super) out: &'a mut Vec<Effect>,
}

impl Cx<'_> {
    pub(super) fn call(&mut self, peer: PeerId, kind: CallKind, request: TaskRequest) -> CallId {
        self.desk.next_call += 1;
        let call = self.desk.next_call;
        self.desk.calls.insert(call, (peer, kind));
        self.out.push(Effect::Call {
            peer,
            call,
            request,
        });
        call
    }

    pub(super) fn persist(&mut self, record: Record) {
        self.out.push(Effect::Persist(record));
    }

    pub(super) fn emit(&mut self, event: Event) {
        self.out.push(Effect::Emit(event));
    }

    pub(super) fn respond(&mut self, token: RequestToken, response: TaskResponse) {
        self.out.push(Effect::Respond { token, response });
    }

    pub(super) fn set(&mut self, timer: Timer, at: Millis) {
        self.desk.timers.set(timer, at);
    }

    pub(super) fn clear(&mut self, timer: Timer) {
        self.desk.timers.clear(timer);
    }

    /// Counts a breach of the rules; what one's own node does is a fault of the program.
    pub(super) fn blame(&mut self, peer: PeerId, breach: Breach) {
        let counters = self.counters();
        match breach {
            Breach::TooLong => counters.invalid_messages += 1,
            Breach::OutOfPlace => counters.foreign_reports += 1,
        }
        if peer != self.config.me {
            self.out.push(Effect::Blame(peer, breach));
        }
    }

    pub(super) fn counters(&mut self) -> &mut Counters {
        &mut self.desk.counters
    }
}

/// Attempts that a peer is to be told of, one message at a time until it is answered.
#[derive(Debug, Default)]
pub(super) struct Notices {
    waiting: BTreeSet<TaskRef>,
    sent: Option<(CallId, Vec<TaskRef>)>,
}

impl Notices {
    /// Adds one; when `most` wait already it is left out.
    pub(super) fn add(&mut self, task: TaskRef, most: usize) {
        if self.waiting.len() < most {
            self.waiting.insert(task);
        }
    }

    /// The next message, when none is under way.
    pub(super) fn take(&mut self, most: usize) -> Option<Vec<TaskRef>> {
        if self.sent.is_some() || self.waiting.is_empty() {
            return None;
        }
        Some(self.waiting.iter().take(most).copied().collect())
    }

    /// The message that was taken is under way.
    pub(super) fn on_sent(&mut self, call: CallId, tasks: Vec<TaskRef>) {
        self.sent = Some((call, tasks));
    }

    /// The answer came, or none did.
    pub(super) fn on_answer(&mut self, call: CallId, done: bool) {
        if let Some((_, tasks)) = self.sent.take_if(|(sent, _)| *sent == call)
            && done
        {
            for task in tasks {
                self.waiting.remove(&task);
            }
        }
    }

    /// Whether something waits and nothing is under way.
    pub(super) fn is_due(&self) -> bool {
        self.sent.is_none() && !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn task(index: u32) -> TaskRef {
        TaskRef {
            step: 0,
            index,
            attempt: 1,
        }
    }

    #[test]
    fn a_timer_has_one_deadline() {
        let mut timers = Timers::default();
        let job = Timer::Job(JobId([1; 8]));
        timers.set(job, 50);
        timers.set(Timer::Stop, 40);
        timers.set(job, 30);
        assert_eq!((timers.len(), timers.next()), (2, Some(30)));
        assert_eq!(timers.due(29), None);
        assert_eq!(timers.due(45), Some(job));
        assert_eq!(timers.due(45), Some(Timer::Stop));
        assert_eq!(timers.due(45), None);
        timers.set(job, 60);
        timers.clear(job);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn notices_go_one_message_at_a_time_until_they_arrive() {
        let mut notices = Notices::default();
        for index in 0..5 {
            notices.add(task(index), 4);
        }
        let first = notices.take(3).unwrap();
        assert_eq!(first, [task(0), task(1), task(2)]);
        notices.on_sent(1, first);
        assert!(!notices.is_due() && notices.take(3).is_none());
        notices.on_answer(9, true);
        notices.on_answer(1, false);
        assert!(notices.is_due(), "no answer: again");
        let again = notices.take(3).unwrap();
        notices.on_sent(2, again);
        notices.on_answer(2, true);
        assert_eq!(
            notices.take(3).unwrap(),
            [task(3)],
            "the fifth was too many"
        );
    }
}
