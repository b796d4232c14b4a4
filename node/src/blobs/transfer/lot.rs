//! A stretch of memory that many objects pass through.
//!
//! Both sides of a transfer handle bytes in lots of some megabyte. Making and clearing that memory for
//! each lot, or worse for each object, costs a tenth of the whole transfer in page faults; so a lot is
//! emptied and used again.

/// A buffer with more bytes than it holds.
#[derive(Debug, Default)]
pub(super) struct Lot {
    /// As long as it ever was, so that nothing is cleared twice.
    bytes: Vec<u8>,
    filled: usize,
}

/// A lot that has grown over so many bytes (2.5 MiB) is not kept: only a large manifest, or another
/// node's longer chunks, make it grow beyond the megabyte that is meant and one chunk.
const MOST_KEPT: usize = 5 << 19;

impl Lot {
    /// What it holds.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Its length, in bytes.
    pub(super) const fn len(&self) -> usize {
        self.filled
    }

    /// Room for `bytes` more, to be filled by the caller; what is there before is of no meaning.
    pub(super) fn more(&mut self, bytes: usize) -> &mut [u8] {
        let start = self.filled;
        self.filled += bytes;
        if self.bytes.len() < self.filled {
            self.bytes.resize(self.filled, 0);
        }
        &mut self.bytes[start..self.filled]
    }

    /// Appends `bytes`.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.more(bytes.len()).copy_from_slice(bytes);
    }

    /// Forgets what was added after it held `bytes`.
    pub(super) const fn cut(&mut self, bytes: usize) {
        if bytes < self.filled {
            self.filled = bytes;
        }
    }

    /// Itself, empty.
    pub(super) fn emptied(mut self) -> Self {
        if self.bytes.len() > MOST_KEPT {
            return Self::default();
        }
        self.filled = 0;
        self
    }
}
