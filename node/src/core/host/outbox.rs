//! What a submitter has to be told about one of its jobs.
//!
//! Ends of attempts are numbered when they happen and stored; starts and preparations are news that a
//! later event makes worthless, so they get numbers only when a report takes them along, behind all
//! ends, and are not stored. One report is under way at a time and is repeated unchanged, so an
//! acknowledgement never covers an event that the submitter has not seen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use p2pnode_protocol::id::StepIndex;
use p2pnode_protocol::message::{MAX_BATCH, ReportEvent, TaskRef};

use crate::core::io::CallId;
use crate::core::sizes;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// The last number given.
    last: u64,
    ends: VecDeque<(u64, ReportEvent)>,
    started: BTreeSet<TaskRef>,
    preparing: BTreeMap<StepIndex, ReportEvent>,
    sent: Option<Sent>,
    /// Failures in a row.
    pub(super) failures: u32,
}

/// A report that has no answer yet.
#[derive(Debug)]
struct Sent {
    first: u64,
    through: u64,
    /// Events behind the ends.
    news: Vec<ReportEvent>,
    call: Option<CallId>,
}

impl Outbox {
    /// As a restart finds it.
    pub(super) fn restore(acknowledged: u64, ends: Vec<(u64, ReportEvent)>) -> Self {
        let last = ends.last().map_or(acknowledged, |(number, _)| *number);
        Self {
            last: last.max(acknowledged),
            ends: ends.into(),
            ..Self::default()
        }
    }

    /// An attempt ended; returns the event's number.
    pub(super) fn push_end(&mut self, task: TaskRef, event: ReportEvent) -> u64 {
        self.started.remove(&task);
        self.last += 1;
        self.ends.push_back((self.last, event));
        self.last
    }

    /// An attempt started.
    pub(super) fn push_start(&mut self, task: TaskRef) {
        self.started.insert(task);
    }

    /// A preparation went on.
    pub(super) fn push_preparing(&mut self, step: StepIndex, event: ReportEvent) {
        self.preparing.insert(step, event);
    }

    /// Ends that are not acknowledged.
    pub(super) fn ends(&self) -> impl Iterator<Item = &ReportEvent> {
        self.ends.iter().map(|(_, event)| event)
    }

    /// Starts that nobody needs to hear of any more.
    pub(super) fn forget_news(&mut self) {
        self.started.clear();
        self.preparing.clear();
    }

    /// The next report as its first number and its events, when none is under way.
    pub(super) fn next(&mut self, max_bytes: usize) -> Option<(u64, Vec<ReportEvent>)> {
        match &self.sent {
            Some(sent) if sent.call.is_some() => return None,
            Some(_) => {}
            None => self.sent = Some(self.compose(max_bytes)?),
        }
        let sent = self.sent.as_ref()?;
        let ends = self
            .ends
            .iter()
            .take_while(|(number, _)| *number <= sent.through);
        let mut events: Vec<ReportEvent> = ends.map(|(_, event)| event.clone()).collect();
        events.extend(sent.news.iter().cloned());
        Some((sent.first, events))
    }

    fn compose(&mut self, max_bytes: usize) -> Option<Sent> {
        let first = self
            .ends
            .front()
            .map_or(self.last + 1, |(number, _)| *number);
        let mut through = first - 1;
        let (mut count, mut bytes) = (0, 0);
        for (number, event) in &self.ends {
            bytes += sizes::event(event);
            // After a restart numbers may be missing, which a report cannot show.
            if *number != through + 1 || count == MAX_BATCH || (bytes > max_bytes && count > 0) {
                break;
            }
            through = *number;
            count += 1;
        }
        let mut news = Vec::new();
        if count == self.ends.len() {
            while count + news.len() < MAX_BATCH {
                let event = match self.preparing.pop_first() {
                    Some((_, event)) => Some(event),
                    None => self.started.pop_first().map(ReportEvent::Started),
                };
                let Some(event) = event else { break };
                news.push(event);
            }
            self.last += news.len() as u64;
            through += news.len() as u64;
        }
        (through >= first).then_some(Sent {
            first,
            through,
            news,
            call: None,
        })
    }

    /// The report is under way.
    pub(super) fn on_sent(&mut self, call: CallId) {
        if let Some(sent) = &mut self.sent {
            sent.call = Some(call);
        }
    }

    /// Whether `call` carries the report that is under way.
    pub(super) fn is_sent_as(&self, call: CallId) -> bool {
        self.sent
            .as_ref()
            .is_some_and(|sent| sent.call == Some(call))
    }

    /// There was no answer: the same report is to be sent again.
    pub(super) fn on_failure(&mut self) {
        self.failures += 1;
        if let Some(sent) = &mut self.sent {
            sent.call = None;
        }
    }

    /// The report was answered: everything up to `through` is stored there. Returns the last number
    /// that counts as acknowledged and the ends up to it.
    pub(super) fn on_acknowledged(&mut self, through: u64) -> (u64, Vec<ReportEvent>) {
        self.failures = 0;
        let Some(sent) = self.sent.take() else {
            return (0, Vec::new());
        };
        // No more than what was sent, whatever the answer claims.
        let through = through.min(sent.through);
        let mut ends = Vec::new();
        while let Some((_, event)) = self.ends.pop_front_if(|(number, _)| *number <= through) {
            ends.push(event);
        }
        (through, ends)
    }

    /// Whether a report waits to be sent again.
    pub(super) fn waits(&self) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.call.is_none()) && self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use p2pnode_protocol::task::{Outcome, Usage};

    use super::*;

    const BYTES: usize = 1 << 20;

    fn task(index: u32) -> TaskRef {
        TaskRef {
            step: 0,
            index,
            attempt: 1,
        }
    }

    fn end(index: u32) -> ReportEvent {
        ReportEvent::Finished {
            task: task(index),
            outcome: Outcome::Succeeded,
            usage: Usage::default(),
            outputs: None,
            log_bytes: 0,
        }
    }

    #[test]
    fn news_come_behind_ends_and_numbers_go_on() {
        let mut outbox = Outbox::default();
        assert!(outbox.next(BYTES).is_none());
        outbox.push_start(task(1));
        outbox.push_start(task(2));
        assert_eq!(outbox.push_end(task(1), end(1)), 1);
        let (first, events) = outbox.next(BYTES).unwrap();
        assert_eq!(
            (first, events),
            (1, vec![end(1), ReportEvent::Started(task(2))])
        );
        outbox.on_sent(5);
        assert!(outbox.next(BYTES).is_none(), "one at a time");
        assert_eq!(outbox.push_end(task(3), end(3)), 3, "2 is the start's");
        assert_eq!(outbox.on_acknowledged(2).1, [end(1)]);
        assert_eq!(outbox.next(BYTES).unwrap(), (3, vec![end(3)]));
    }

    #[test]
    fn a_repeat_is_the_same_and_what_came_meanwhile_waits() {
        let mut outbox = Outbox::default();
        outbox.push_end(task(1), end(1));
        outbox.push_start(task(2));
        let before = outbox.next(BYTES).unwrap();
        outbox.on_sent(1);
        outbox.on_failure();
        outbox.push_end(task(2), end(2));
        assert!(outbox.waits());
        assert_eq!(outbox.next(BYTES).unwrap(), before);
        outbox.on_sent(2);
        assert!(outbox.is_sent_as(2) && !outbox.is_sent_as(1));
        assert_eq!(outbox.on_acknowledged(99), (2, vec![end(1)]));
        assert_eq!(outbox.next(BYTES).unwrap(), (3, vec![end(2)]));
    }

    #[test]
    fn a_partial_acknowledgement_leaves_the_rest() {
        let mut outbox = Outbox::default();
        for index in 1..=3 {
            outbox.push_end(task(index), end(index));
        }
        outbox.next(BYTES).unwrap();
        outbox.on_sent(1);
        assert_eq!(outbox.on_acknowledged(1).1.len(), 1);
        assert_eq!(outbox.next(BYTES).unwrap(), (2, vec![end(2), end(3)]));
    }

    #[test]
    fn reports_are_bounded_in_events_and_bytes() {
        let mut outbox = Outbox::default();
        for index in 0..3_000 {
            outbox.push_end(task(index), end(index));
        }
        assert_eq!(outbox.next(BYTES).unwrap().1.len(), MAX_BATCH);
        outbox.on_sent(1);
        outbox.on_acknowledged(MAX_BATCH as u64);
        let few = outbox.next(1_000).unwrap().1.len();
        assert!((1..20).contains(&few), "{few}");
    }
}
