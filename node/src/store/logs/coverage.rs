//! Which bytes of one attempt's output have come.
//!
//! Frames come in order but for what was lost and sent again, so this is almost always one range.
//! A peer that leaves gaps on purpose must not make it grow without end.

use std::ops::Range;

/// Gaps that are remembered for one attempt. Each reconnection can leave one; beyond it the oldest
/// gap is given up as lost.
const MAX_GAPS: usize = 64;

/// Sorted, disjoint, not touching ranges of byte positions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Coverage {
    ranges: Ranges,
    received: u64,
}

/// A range beside the heap for the usual case: a million attempts may be remembered at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ranges {
    One(Range<u64>),
    Many(Vec<Range<u64>>),
}

impl Default for Ranges {
    fn default() -> Self {
        Self::One(0..0)
    }
}

impl Coverage {
    /// Bytes that have come, each counted once.
    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    fn ranges(&self) -> &[Range<u64>] {
        match &self.ranges {
            Ranges::One(range) => std::slice::from_ref(range),
            Ranges::Many(ranges) => ranges,
        }
    }

    /// The parts of `wanted` that have not come.
    pub(super) fn missing(&self, wanted: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut from = wanted.start;
        let first = self
            .ranges()
            .partition_point(|range| range.end <= wanted.start);
        for range in &self.ranges()[first..] {
            if range.start >= wanted.end {
                break;
            }
            if range.start > from {
                missing.push(from..range.start);
            }
            from = from.max(range.end);
        }
        if from < wanted.end {
            missing.push(from..wanted.end);
        }
        missing
    }

    /// Notes that `part` has come; it was one of [`Coverage::missing`].
    pub(super) fn add(&mut self, part: Range<u64>) {
        self.received = self.received.saturating_add(part.end - part.start);
        if let Ranges::One(range) = &mut self.ranges {
            if range.is_empty() {
                *range = part;
                return;
            }
            if range.end == part.start {
                range.end = part.end;
                return;
            }
            self.ranges = Ranges::Many(vec![range.clone()]);
        }
        if let Ranges::Many(ranges) = &mut self.ranges {
            insert(ranges, part);
            if ranges.len() > MAX_GAPS + 1 {
                ranges[1].start = ranges[0].start;
                ranges.remove(0);
            }
            if let [only] = ranges.as_slice() {
                self.ranges = Ranges::One(only.clone());
            }
        }
    }
}

/// Puts `part` in its place and joins it with what it touches.
fn insert(ranges: &mut Vec<Range<u64>>, part: Range<u64>) {
    let at = ranges.partition_point(|range| range.end < part.start);
    let until = ranges.partition_point(|range| range.start <= part.end);
    let start = ranges[at..until]
        .first()
        .map_or(part.start, |range| range.start.min(part.start));
    let end = ranges[at..until]
        .last()
        .map_or(part.end, |range| range.end.max(part.end));
    ranges.splice(at..until, std::iter::once(start..end));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn in_order_bytes_stay_one_range() {
        let mut coverage = Coverage::default();
        for at in 0..1_000 {
            let byte = at..at + 1;
            assert_eq!(coverage.missing(byte.clone()), std::slice::from_ref(&byte));
            coverage.add(byte);
        }
        assert_eq!(coverage.ranges, Ranges::One(0..1_000));
        assert!(coverage.missing(0..1_000).is_empty());
    }

    #[test]
    fn gaps_without_end_are_given_up() {
        let mut coverage = Coverage::default();
        for at in 0..10_000 {
            coverage.add(at * 2..at * 2 + 1);
        }
        assert!(coverage.ranges().len() <= MAX_GAPS + 1);
        assert_eq!(coverage.received(), 10_000);
    }

    proptest! {
        /// Against a plain list of bits.
        #[test]
        fn it_agrees_with_a_bitmap(frames in prop::collection::vec((0u64..200, 0u64..40), 0..60)) {
            let mut coverage = Coverage::default();
            let mut bits = [false; 240];
            for (offset, length) in frames {
                let missing = coverage.missing(offset..offset + length);
                let mut shown = [false; 240];
                for part in missing {
                    for at in part.clone() {
                        shown[at as usize] = true;
                    }
                    coverage.add(part);
                }
                for at in offset as usize..(offset + length) as usize {
                    prop_assert_eq!(shown[at], !bits[at]);
                    bits[at] = true;
                }
            }
            prop_assert_eq!(coverage.received(), bits.iter().filter(|bit| **bit).count() as u64);
        }
    }
}
