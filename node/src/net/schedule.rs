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

    /// Whether a walk is due; if so, the next one is scheduled.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        if self.next.is_none_or(|next| next > now) {
            return false;
        }
        let pause = PAUSES[self.done.min(PAUSES.len() - 1)];
        self.done += 1;
        // Up to a quarter more, so that nodes that started together do not walk together for ever.
        self.next = Some(now + pause.mul_f64(1.0 + rand::random::<f64>() / 4.0));
        true
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
        assert!(!walks.take_due(now), "nobody to ask");
        let start = now;
        walks.start(now);
        let mut within_two_seconds = 0;
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            assert!(walks.take_due(now));
            assert!(!walks.take_due(now));
            if now - start < Duration::from_secs(2) {
                within_two_seconds += 1;
            }
            walks.start(now);
            last = walks.deadline().unwrap() - now;
            now = walks.deadline().unwrap();
        }
        assert_eq!(within_two_seconds, 3);
        assert!((300.0..376.0).contains(&last.as_secs_f64()));
        walks.stop();
        assert_eq!(walks.deadline(), None);
    }
}
