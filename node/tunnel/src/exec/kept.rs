//! Bytes that were given to a stream and may have to be given to the next one.
//!
//! Counts them from the session's beginning. What is acknowledged is dropped; after a break,
//! everything since the last byte that arrived goes out again, and nothing else.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use p2pnode_protocol::tunnel::MAX_DATA_BYTES;

/// An acknowledgement of bytes that were never sent, or were acknowledged before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Impossible;

/// What is not acknowledged, in pieces of one kind each.
#[derive(Debug)]
pub(crate) struct Kept<K> {
    /// Bytes acknowledged: the first piece begins there.
    acknowledged: u64,
    pieces: VecDeque<(K, Bytes)>,
    /// How many of `pieces` went to the present stream.
    sent: usize,
    /// Bytes in `pieces`.
    bytes: usize,
    /// Bytes in the first `sent` of `pieces`.
    sent_bytes: usize,
}

impl<K: Copy + PartialEq> Kept<K> {
    pub(crate) fn new() -> Self {
        Self {
            acknowledged: 0,
            pieces: VecDeque::new(),
            sent: 0,
            bytes: 0,
            sent_bytes: 0,
        }
    }

    /// Adds bytes, in pieces that a frame carries.
    pub(crate) fn push(&mut self, kind: K, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(MAX_DATA_BYTES));
            self.bytes += piece.len();
            self.join_or_add(kind, piece);
        }
    }

    /// A key stroke each would cost a frame and an entry each: small pieces that have not gone out yet
    /// become one.
    fn join_or_add(&mut self, kind: K, piece: Bytes) {
        /// Below this, copying is cheaper than another frame.
        const SMALL: usize = 4 << 10;
        let unsent_last = self.pieces.len() > self.sent;
        match self.pieces.back_mut() {
            Some((last_kind, last))
                if unsent_last && *last_kind == kind && last.len() + piece.len() <= SMALL =>
            {
                let mut joined = Vec::with_capacity(last.len() + piece.len());
                joined.extend_from_slice(last);
                joined.extend_from_slice(&piece);
                *last = joined.into();
            }
            _ => self.pieces.push_back((kind, piece)),
        }
    }

    /// Bytes that are kept.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// The next piece to send; it counts as sent.
    pub(crate) fn next(&mut self) -> Option<(K, Bytes)> {
        let (kind, piece) = self.pieces.get(self.sent)?;
        let next = (*kind, piece.clone());
        self.sent += 1;
        self.sent_bytes += next.1.len();
        Some(next)
    }

    /// The other side has all bytes up to `total`, counted from the beginning.
    pub(crate) fn acknowledge(&mut self, total: u64) -> Result<(), Impossible> {
        self.drop_to(total, self.sent_bytes)
    }

    /// A new stream: the other side has the bytes up to `total`, and the rest goes out again.
    pub(crate) fn rewind(&mut self, total: u64) -> Result<(), Impossible> {
        self.drop_to(total, self.bytes)?;
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
        self.bytes -= count;
        self.sent_bytes = self.sent_bytes.saturating_sub(count);
        while count > 0 {
            let Some((_, first)) = self.pieces.front_mut() else {
                return Err(Impossible);
            };
            if first.len() > count {
                first.advance(count);
                break;
            }
            count -= first.len();
            self.pieces.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
        Ok(())
    }
}
