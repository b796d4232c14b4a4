//! Bytes of a log file: a line that says what it is, then entries, each a header and its payload.
//!
//! Integers are little endian. A header carries a check over itself, so that the rest of an entry
//! cut off by a crash, or a position made up by a client, is noticed; payloads carry none.

use p2pnode_protocol::message::TaskRef;
use p2pnode_protocol::task::Stream;

/// How every log file begins. A new layout gets a new number.
pub(super) const MAGIC: &[u8; 12] = b"p2pnode-log1";

/// Bytes of a header: check 4, length 4, offset 8, task 4, attempt 4, step 2, kind 1, zero 1.
pub(super) const HEADER_BYTES: usize = 28;

/// Bytes of the check at its start.
const CHECK_BYTES: usize = 4;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes that a task wrote.
    Output(Stream),
    /// The job's log is full; nothing follows.
    Full,
}

/// What stands before an entry's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Who wrote it; zeros for [`Kind::Full`].
    pub task: TaskRef,
    /// What it is.
    pub kind: Kind,
    /// Position of the payload in the attempt's output.
    pub offset: u64,
    /// Length of the payload, in bytes.
    pub length: u32,
}

impl Header {
    /// The header that ends a full log.
    pub(super) const FULL: Self = Self {
        task: TaskRef {
            step: 0,
            index: 0,
            attempt: 0,
        },
        kind: Kind::Full,
        offset: 0,
        length: 0,
    };

    /// Appends the header's bytes to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; CHECK_BYTES]);
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.task.index.to_le_bytes());
        out.extend_from_slice(&self.task.attempt.to_le_bytes());
        out.extend_from_slice(&self.task.step.to_le_bytes());
        out.push(match self.kind {
            Kind::Output(Stream::Stdout) => 0,
            Kind::Output(Stream::Stderr) => 1,
            Kind::Full => 2,
        });
        out.push(0);
        let check = check(&out[start + CHECK_BYTES..]);
        out[start..start + CHECK_BYTES].copy_from_slice(&check);
    }

    /// Reads a header; `None` when the bytes are not one.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let (found, rest) = bytes.split_first_chunk::<CHECK_BYTES>()?;
        if *found != check(rest) {
            return None;
        }
        let (length, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (index, rest) = rest.split_first_chunk()?;
        let (attempt, rest) = rest.split_first_chunk()?;
        let (step, rest) = rest.split_first_chunk()?;
        let kind = match rest.first()? {
            0 => Kind::Output(Stream::Stdout),
            1 => Kind::Output(Stream::Stderr),
            2 => Kind::Full,
            _ => return None,
        };
        Some(Self {
            task: TaskRef {
                step: u16::from_le_bytes(*step),
                index: u32::from_le_bytes(*index),
                attempt: u32::from_le_bytes(*attempt),
            },
            kind,
            offset: u64::from_le_bytes(*offset),
            length: u32::from_le_bytes(*length),
        })
    }
}

/// The first bytes of BLAKE3: a wrong header passes once in 2^32.
fn check(header: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::hash(header).as_bytes()[..CHECK_BYTES]);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_read_back_and_damage_shows() {
        let header = Header {
            task: TaskRef {
                step: 1,
                index: 70_000,
                attempt: 3,
            },
            kind: Kind::Output(Stream::Stderr),
            offset: 1 << 40,
            length: 17,
        };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        let bytes: [u8; HEADER_BYTES] = bytes.try_into().unwrap();
        assert_eq!(Header::decode(&bytes), Some(header));
        for at in 0..HEADER_BYTES {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert_eq!(Header::decode(&damaged), None, "byte {at}");
        }
        assert_eq!(Header::decode(&[0; HEADER_BYTES]), None);
    }
}
