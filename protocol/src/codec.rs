//! Bytes of the wire: bincode 2 with a limit on every decode.
//!
//! Called by whoever sends, receives or stores a value of this crate. It must never read before it
//! has bounded: safe on hostile bytes because what a decode may allocate is in proportion to the bytes
//! that really came, no wire type is recursive (a deep nesting would overflow the stack), no collection
//! holds zero-sized items (a length of 4e9 would cost no bytes but much time), and trailing bytes are
//! refused.

use bincode::config::{self, Config};
use bincode::de::read::Reader;
use bincode::de::{Decoder, DecoderImpl};
use bincode::error::DecodeError;
use bincode::{Decode, Encode};

/// Bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// More than the limit.
    #[error("{bytes} bytes are more than the limit of {limit}")]
    TooLarge {
        /// Length of what came or would go, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// Not a value of the type.
    #[error("not a valid message")]
    Malformed(#[from] DecodeError),
    /// Bytes after the value.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// The value cannot be encoded.
    #[error("cannot be encoded")]
    Encode(#[from] bincode::error::EncodeError),
}

/// How many bytes of memory a decode may claim for each byte that came.
///
/// bincode claims `length * size_of::<Item>()` before it allocates a collection and gives the claim
/// back item by item, so this must be no less than the largest `size_of` of any item divided by the
/// fewest bytes that such an item takes: a [`ReportEvent`](crate::message::ReportEvent) is the worst,
/// 152 bytes in memory and 4 on the wire when it says `Started` (the tests of this module measure it).
const CLAIM_FACTOR: usize = 40;

/// Claimed on top, in bytes, so that the shortest messages need no thought.
const CLAIM_BASE: usize = 4 << 10;

/// The most that one decode may claim, in bytes (256 MiB), however long its input: a manifest of
/// [`MAX_ENTRIES`](crate::manifest::MAX_ENTRIES) entries and 64 MiB claims half of it.
const CLAIM_MAX: usize = 256 << 20;

/// bincode's own limit is a constant of the type. [`decode`] claims the part of it that its input
/// does not deserve beforehand, which leaves the limit that it wants.
fn limited() -> impl Config {
    config::standard().with_limit::<CLAIM_MAX>()
}

/// The most memory that a decode of `bytes` bytes may claim for one level of nested collections, in bytes:
/// what whoever decodes several at once has to reckon with.
#[must_use]
pub const fn budget(bytes: usize) -> usize {
    let wanted = bytes
        .saturating_mul(CLAIM_FACTOR)
        .saturating_add(CLAIM_BASE);
    if wanted < CLAIM_MAX {
        wanted
    } else {
        CLAIM_MAX
    }
}

/// Encodes `value` into at most `limit` bytes.
///
/// # Errors
/// [`CodecError::TooLarge`] or [`CodecError::Encode`].
pub fn encode<T: Encode>(value: &T, limit: usize) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::encode_to_vec(value, config::standard())?;
    if bytes.len() > limit {
        return Err(CodecError::TooLarge {
            bytes: bytes.len(),
            limit,
        });
    }
    Ok(bytes)
}

/// Decodes exactly one value from all of `bytes`, which may be at most `limit` long.
///
/// At no time are more than some 40 times the length of `bytes` allocated for each level of nested
/// collections, and never more than 256 MiB for one.
///
/// # Errors
/// [`CodecError::TooLarge`], [`CodecError::Malformed`] or [`CodecError::Trailing`].
pub fn decode<T: Decode<()>>(bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    if bytes.len() > limit {
        return Err(CodecError::TooLarge {
            bytes: bytes.len(),
            limit,
        });
    }
    let mut decoder = DecoderImpl::new(Rest(bytes), limited(), ());
    decoder.claim_bytes_read(CLAIM_MAX - budget(bytes.len()))?;
    let value = T::decode(&mut decoder)?;
    match decoder.reader().0.len() {
        0 => Ok(value),
        left => Err(CodecError::Trailing(left)),
    }
}

/// The bytes that are not read yet. bincode's own reader does not tell how many are left.
struct Rest<'a>(&'a [u8]);

impl Reader for Rest<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), DecodeError> {
        let Some((head, rest)) = self.0.split_at_checked(bytes.len()) else {
            let additional = bytes.len() - self.0.len();
            return Err(DecodeError::UnexpectedEnd { additional });
        };
        bytes.copy_from_slice(head);
        self.0 = rest;
        Ok(())
    }

    fn peek_read(&mut self, count: usize) -> Option<&[u8]> {
        self.0.get(..count)
    }

    fn consume(&mut self, count: usize) {
        self.0 = self.0.get(count..).unwrap_or_default();
    }
}
