//! Bytes of the wire: bincode 2 with a limit on every decode.
//!
//! Safe on hostile bytes because the limit is checked before anything is allocated, no wire type is
//! recursive, no collection holds zero-sized items, and trailing bytes are refused.

use bincode::config::{self, Config};
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
    Malformed(#[from] bincode::error::DecodeError),
    /// Bytes after the value.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// The value cannot be encoded.
    #[error("cannot be encoded")]
    Encode(#[from] bincode::error::EncodeError),
}

/// The largest limit that any caller uses, in bytes: a manifest.
const LARGEST: usize = crate::manifest::MAX_MANIFEST_BYTES as usize;

/// bincode counts claimed container lengths against this limit before it allocates. In-memory items
/// can be larger than their bytes, so each decode of `n` bytes may claim up to [`CLAIM_FACTOR`] `n`.
fn limited() -> impl Config {
    config::standard().with_limit::<{ LARGEST * CLAIM_FACTOR }>()
}

/// How much larger than its bytes a decoded value may be. A `TaskRef` of 3 bytes takes 12; an entry
/// of a manifest of 3 bytes takes 56.
const CLAIM_FACTOR: usize = 24;

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
/// # Errors
/// [`CodecError::TooLarge`], [`CodecError::Malformed`] or [`CodecError::Trailing`].
pub fn decode<T: Decode<()>>(bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    if bytes.len() > limit {
        return Err(CodecError::TooLarge {
            bytes: bytes.len(),
            limit,
        });
    }
    let (value, used) = bincode::decode_from_slice(bytes, limited())?;
    if used != bytes.len() {
        return Err(CodecError::Trailing(bytes.len() - used));
    }
    Ok(value)
}
