//! Bytes that were given to a stream and may have to be given to the next one.
//!
//! Counts them from the session's beginning. What is acknowledged is dropped; after a break,
//! everything since the last byte that arrived goes out again, and nothing else.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use p2pnode_protocol::tunnel::MAX_DATA_BYTES;

use super::{ACKNOWLEDGE_EVERY, MAX_KEPT_BYTES};

/// Runs that are kept at most (2 MiB): more than there can be bytes before the other side acknowledges
/// some, and nobody waits for that.
const MAX_RUNS: usize = ACKNOWLEDGE_EVERY as usize + 1;

/// An acknowledgement of bytes that were never sent, or were acknowledged before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Impossible;

/// What is not acknowledged: the bytes in one row, and runs of one kind each. A run costs 8 bytes however
/// short it is, so many small pieces cost little more than a few large ones.
#[derive(Debug)]
pub(crate) struct Kept<K> {
    /// Bytes acknowledged: the first run begins there.
    acknowledged: u64,
    bytes: BytesMut,
    /// Kind and length; the first is what is left of it.
    runs: VecDeque<(K, u32)>,
    /// How many of `runs` went to the present stream.
    sent: usize,
    /// Bytes in the first `sent` of `runs`.
    sent_bytes: usize,
}

impl<K: Copy + PartialEq> Kept<K> {
    pub(crate) fn new() -> Self {
        Self {
            acknowledged: 0,
            bytes: BytesMut::new(),
            runs: VecDeque::new(),
            sent: 0,
            sent_bytes: 0,
        }
    }

    /// Adds bytes, in runs that a frame carries.
    pub(crate) fn push(&mut self, kind: K, bytes: &[u8]) {
        for piece in bytes.chunks(MAX_DATA_BYTES) {
            self.bytes.extend_from_slice(piece);
            let length = piece.len() as u32;
            let unsent_last = self.runs.len() > self.sent;
            match self.runs.back_mut() {
                Some(last) if unsent_last && fit(last, (kind, length)) => last.1 += length,
                _ => self.runs.push_back((kind, length)),
            }
        }
    }

    /// Bytes that are kept.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is room for more.
    pub(crate) fn has_room(&self) -> bool {
        self.len() < MAX_KEPT_BYTES && self.runs.len() < MAX_RUNS
    }

    /// Whether there is room for the last that comes: for as much as was kept before, and all that can be on its
    /// way.
    pub(crate) fn has_last_room(&self) -> bool {
        self.len() < 4 * MAX_KEPT_BYTES && self.runs.len() < 4 * MAX_RUNS
    }

    /// The next run to send; it counts as sent.
    pub(crate) fn next(&mut self) -> Option<(K, Vec<u8>)> {
        let (kind, length) = *self.runs.get(self.sent)?;
        let from = self.sent_bytes;
        self.sent_bytes += length as usize;
        let bytes = self.bytes.get(from..self.sent_bytes)?.to_vec();
        // What has gone out need not be told apart any more.
        match self
            .sent
            .checked_sub(1)
            .and_then(|before| self.runs.get_mut(before))
        {
            Some(before) if fit(before, (kind, length)) => {
                before.1 += length;
                self.runs.remove(self.sent);
            }
            _ => self.sent += 1,
        }
        Some((kind, bytes))
    }

    /// The other side has all bytes up to `total`, counted from the beginning.
    pub(crate) fn acknowledge(&mut self, total: u64) -> Result<(), Impossible> {
        self.drop_to(total, self.sent_bytes)
    }

    /// A new stream: the other side has the bytes up to `total`, and the rest goes out again.
    pub(crate) fn rewind(&mut self, total: u64) -> Result<(), Impossible> {
        self.drop_to(total, self.bytes.len())?;
        self.sent = 0;
        self.sent_bytes = 0;
        Ok(())
    }

    fn drop_to(&mut self, total: u64, at_most: usize) -> Result<(), Impossible> {
        let count = total.checked_sub(self.acknowledged).ok_or(Impossible)?;
        let mut count = usize::try_from(count).map_err(|_| Impossible)?;
        if count > at_most {
            return Err(Impossible);
        }
        self.acknowledged = total;
        self.bytes.advance(count);
        self.sent_bytes = self.sent_bytes.saturating_sub(count);
        while count > 0 {
            let Some((_, first)) = self.runs.front_mut() else {
                return Err(Impossible);
            };
            if *first as usize > count {
                *first -= count as u32;
                break;
            }
            count -= *first as usize;
            self.runs.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
        Ok(())
    }
}

/// Whether two runs that follow one another are one that a frame carries.
fn fit<K: PartialEq>(first: &(K, u32), second: (K, u32)) -> bool {
    first.0 == second.0 && (first.1 + second.1) as usize <= MAX_DATA_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(kept: &mut Kept<u8>) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some((_, piece)) = kept.next() {
            all.extend_from_slice(&piece);
        }
        all
    }

    #[test]
    fn what_was_not_acknowledged_goes_out_again_and_nothing_else() {
        let mut kept = Kept::new();
        kept.push(1, b"hello ");
        assert_eq!(sent(&mut kept), b"hello ");
        kept.push(1, b"wor");
        kept.push(1, b"ld");
        assert_eq!(kept.next(), Some((1, b"world".to_vec())));
        kept.acknowledge(3).unwrap();
        assert_eq!(kept.len(), 8);
        kept.rewind(4).unwrap();
        assert_eq!(sent(&mut kept), b"o world");
        kept.acknowledge(11).unwrap();
        assert_eq!((kept.len(), kept.next()), (0, None));
    }

    #[test]
    fn kinds_stay_apart_and_pieces_fit_a_frame() {
        let mut kept = Kept::new();
        kept.push(1, b"a");
        kept.push(2, b"b");
        kept.push(2, &vec![0; MAX_DATA_BYTES + 1]);
        let lengths: Vec<_> = std::iter::from_fn(|| kept.next())
            .map(|(kind, piece)| (kind, piece.len()))
            .collect();
        // What follows a run of its own kind fills a frame with it.
        assert_eq!(lengths, [(1, 1), (2, 1), (2, MAX_DATA_BYTES), (2, 1)]);
    }

    #[test]
    fn nobody_acknowledges_what_was_not_sent_or_takes_back() {
        let mut kept = Kept::new();
        kept.push(1, b"hello");
        assert_eq!(kept.acknowledge(1), Err(Impossible));
        kept.next().unwrap();
        kept.acknowledge(3).unwrap();
        assert_eq!(kept.acknowledge(2), Err(Impossible));
        assert_eq!(kept.acknowledge(u64::MAX), Err(Impossible));
        assert_eq!(kept.rewind(6), Err(Impossible));
        assert_eq!(kept.len(), 2);
    }

    #[test]
    fn many_small_pieces_cost_little() {
        let mut kept = Kept::new();
        for _ in 0..100_000 {
            kept.push(1, b"x");
            kept.next().unwrap();
        }
        assert_eq!((kept.len(), kept.runs.len()), (100_000, 2));
        let mut kept = Kept::new();
        let mut count = 0;
        while kept.has_room() {
            kept.push(count % 2, b"x");
            kept.next().unwrap();
            count += 1;
        }
        assert!(kept.runs.len() <= MAX_RUNS && kept.len() as u64 >= ACKNOWLEDGE_EVERY);
    }
}
