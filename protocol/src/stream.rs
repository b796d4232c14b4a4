//! Headers and frames of the byte streams: `blob/1` and `log/1`.
//!
//! A stream carries length-prefixed bincode frames (4 bytes, big endian, then the frame); chunk bytes
//! follow their frame bare. The opener speaks first.

use bincode::{Decode, Encode};

use crate::id::{AttemptNumber, Digest, JobId, StepIndex, TaskIndex};
use crate::task::Stream;

/// The largest encoded frame, in bytes (1 MiB): 30,000 digests in one request.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// The most chunks asked for in one frame.
pub const MAX_WANT: usize = 4_096;

/// The most log bytes in one frame (64 KiB, a pipe's buffer).
pub const MAX_LOG_BYTES: usize = 64 << 10;

/// First frame of a blob stream, and each later request on it. The side that opened the stream asks;
/// the other answers each digest in order with a [`BlobReply`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BlobWant {
    /// The job that the asker wants them for, which is what permits the request.
    pub job: JobId,
    /// Chunks or encoded manifests, at most [`MAX_WANT`].
    pub digests: Vec<Digest>,
}

/// Answers one digest of a [`BlobWant`]; when `bytes` is there, so many bytes follow.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BlobReply {
    /// Length of what follows, in bytes; `None`: not here, or not for this peer.
    pub bytes: Option<u32>,
}

/// First frame of a log stream, from provider to submitter.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LogHello {
    /// The job whose tasks write.
    pub job: JobId,
}

/// The submitter's answer to a [`LogHello`], before any log frame.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LogWelcome {
    /// Whether frames may follow.
    pub accepted: bool,
}

/// From submitter to provider, now and then: so many frames of this stream are stored. What was not
/// acknowledged is sent again on the next stream; the receiver knows repeats by their offset.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LogAck {
    /// Frames since the hello.
    pub frames: u64,
}

/// Bytes that a task wrote.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LogFrame {
    /// The step.
    pub step: StepIndex,
    /// The task.
    pub index: TaskIndex,
    /// The try.
    pub attempt: AttemptNumber,
    /// Which stream.
    pub stream: Stream,
    /// Position of the first byte within this attempt's output, both streams counted together.
    pub offset: u64,
    /// What was written, at most [`MAX_LOG_BYTES`].
    pub bytes: Vec<u8>,
}
