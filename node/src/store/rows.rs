//! How values look in columns. Used by [`super::record`] to write and by [`super::load`] to read,
//! so that the two cannot differ.
//!
//! Small values have columns of their own; whatever has structure is one bincode blob. Numbers are
//! SQLite's signed 64 bits: larger ones (no honest peer or clock makes them) are stored as the
//! largest, so that a peer cannot stop this node with one.

use p2pnode_protocol::api::JobState;
use p2pnode_protocol::codec::{self, CodecError};
use p2pnode_protocol::id::{DIGEST_LEN, JOB_ID_LEN};
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::message::TaskRef;
use p2pnode_protocol::task::{Outcome, Usage};
use p2pnode_protocol::{Digest, JobId, PeerId};

use super::error::Damage;

/// The largest stored value, in bytes (128 MiB): the plan of a job of the most tasks, a million, with
/// some 120 bytes of values or per-task inputs each. SQLite itself could hold 1 GB in a row, and the
/// codec decodes no more than twice this.
pub const MAX_VALUE_BYTES: usize = 128 << 20;

/// What an attempt's row holds in one blob: how it ended, what it used, its outputs and the length
/// of its log.
pub(super) type EndRest = (Outcome, Usage, Option<BlobRef>, u64);

/// Encodes a value for a blob column.
pub(super) fn to_blob<T: bincode::Encode>(value: &T) -> Result<Vec<u8>, CodecError> {
    codec::encode(value, MAX_VALUE_BYTES)
}

/// Decodes a blob column.
pub(super) fn from_blob<T: bincode::Decode<()>>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, Damage> {
    codec::decode(bytes, MAX_VALUE_BYTES).map_err(|source| Damage::Value {
        what,
        source: Some(source),
    })
}

/// A number as SQLite holds it, the largest standing for all that are larger.
pub(super) fn to_integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that [`to_integer`] or a narrower type made.
pub(super) fn from_integer<T: TryFrom<i64>>(what: &'static str, number: i64) -> Result<T, Damage> {
    T::try_from(number).map_err(|_| Damage::Value { what, source: None })
}

/// The peer in a column.
pub(super) fn peer(bytes: &[u8]) -> Result<PeerId, Damage> {
    PeerId::from_bytes(bytes).map_err(|_| Damage::Value {
        what: "peer id",
        source: None,
    })
}

/// The job id in a column.
pub(super) fn job(bytes: &[u8]) -> Result<JobId, Damage> {
    let bytes: [u8; JOB_ID_LEN] = bytes.try_into().map_err(|_| Damage::Value {
        what: "job id",
        source: None,
    })?;
    Ok(JobId(bytes))
}

/// The attempt in three columns.
pub(super) fn task(step: i64, index: i64, attempt: i64) -> Result<TaskRef, Damage> {
    Ok(TaskRef {
        step: from_integer("step", step)?,
        index: from_integer("task", index)?,
        attempt: from_integer("attempt", attempt)?,
    })
}

/// Names an offer by its content, so that it is stored once.
pub(super) fn offer_digest(peer: &[u8], tasks: &[u8]) -> [u8; DIGEST_LEN] {
    Digest::of(&[peer, tasks].concat()).0
}

/// The number that stands for a state.
pub(super) const fn state_code(state: JobState) -> i64 {
    match state {
        JobState::Waiting => 0,
        JobState::Running => 1,
        JobState::Succeeded => 2,
        JobState::Failed => 3,
        JobState::Cancelled => 4,
    }
}

/// The state that a number stands for.
pub(super) fn state(code: i64) -> Result<JobState, Damage> {
    [
        JobState::Waiting,
        JobState::Running,
        JobState::Succeeded,
        JobState::Failed,
        JobState::Cancelled,
    ]
    .into_iter()
    .find(|state| state_code(*state) == code)
    .ok_or(Damage::Value {
        what: "job state",
        source: None,
    })
}
