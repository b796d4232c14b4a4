//! When to walk through the DHT again.

use std::time::{Duration, Instant};

/// Pauses between walks. A newcomer's first walk misses those that came at the same moment as it did;
/// the next ones find them well within 2 s. Later ones only mend what time breaks (5 minutes is
/// Kademlia's usual interval).
const PAUSES: [Duration; 8] = [
    Duration::from_millis(250),
    Duration::from_millis(750),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(120),
    Duration::from_secs(300),
];

/// How many of the first walks stay near.
const NEAR_WALKS: usize = 5;

/// How far to walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    /// To the nodes nearest to our own id: some 20 requests, and in a network of up to 20 nodes that
    /// is everybody.
    Near,
    /// Also to distant parts of the network, which fills the routing table: some 20 requests and as many
    /// new connections for each doubling of its size. Nobody is in a hurry for that.
    Far,
}

/// The schedule of walks.
#[derive(Debug, Default)]
pub(super) struct Walks {
    next: Option<Instant>,
    done: usize,
}

impl Walks {
    /// There is somebody to ask. Does nothing when walks are scheduled already.
    pub(super) fn start(&mut self, now: Instant) {
        if self.next.is_none() {
            self.next = Some(now);
            self.done = 0;
        }
    }

    /// There is nobody to ask.
    pub(super) fn stop(&mut self) {
        self.next = None;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// The walk that is due, if one is; then the next one is scheduled.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Walk> {
        if self.next.is_none_or(|next| next > now) {
            return None;
        }
        let walk = if self.done < NEAR_WALKS {
            Walk::Near
        } else {
            Walk::Far
        };
        let pause = PAUSES[self.done.min(PAUSES.len() - 1)];
        self.done += 1;
        // Up to a quarter more, so that nodes that started together do not walk together for ever.
        self.next = Some(now + pause.mul_f64(1.0 + rand::random::<f64>() / 4.0));
        Some(walk)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn walks_begin_at_once_and_become_seldom() {
        let mut walks = Walks::default();
        let mut now = Instant::now();
        assert_eq!(walks.take_due(now), None, "nobody to ask");
        let start = now;
        walks.start(now);
        let mut taken = Vec::new();
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            taken.push((now - start, walks.take_due(now).unwrap()));
            assert_eq!(walks.take_due(now), None);
            walks.start(now);
            last = walks.deadline().unwrap() - now;
            now = walks.deadline().unwrap();
        }
        let soon = |(at, _): &&(Duration, Walk)| *at < Duration::from_secs(2);
        assert_eq!(taken.iter().filter(soon).count(), 3);
        assert_eq!(taken[NEAR_WALKS - 1].1, Walk::Near);
        assert_eq!(taken[NEAR_WALKS].1, Walk::Far);
        assert!((300.0..376.0).contains(&last.as_secs_f64()));
        walks.stop();
        assert_eq!(walks.deadline(), None);
    }
}
