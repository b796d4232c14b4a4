//! Frames of a blob stream: 4 bytes of length, big endian, then the encoded frame.
//!
//! Owns the limits that hold before anything is allocated, and the patience with a stream that does not
//! move: each single read and write may take [`STALL`], so a slow peer is waited for and a silent one is
//! not. Used by both sides of a transfer.

use std::io;

use bincode::{Decode, Encode};
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use p2pnode_protocol::codec::{self, CodecError};

use super::STALL;

/// Length of a frame's length, in bytes.
const LENGTH_BYTES: usize = 4;

/// A stream that is of no more use.
#[derive(Debug)]
pub(super) enum StreamError {
    /// It ended within something, or broke.
    Io(io::Error),
    /// It did not move for [`STALL`].
    Stalled,
    /// What came is no frame.
    Codec(CodecError),
}

async fn patiently<T>(step: impl Future<Output = io::Result<T>>) -> Result<T, StreamError> {
    match tokio::time::timeout(STALL, step).await {
        Ok(done) => done.map_err(StreamError::Io),
        Err(_) => Err(StreamError::Stalled),
    }
}

/// Reads a frame of at most `limit` bytes. `None` when the stream ended before it.
pub(super) async fn read<T: Decode<()>>(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<Option<T>, StreamError> {
    let mut length = [0; LENGTH_BYTES];
    let first = patiently(stream.read(&mut length)).await?;
    if first == 0 {
        return Ok(None);
    }
    read_full(stream, &mut length[first..]).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        return Err(StreamError::Codec(CodecError::TooLarge {
            bytes: length,
            limit,
        }));
    }
    let mut bytes = vec![0; length];
    read_full(stream, &mut bytes).await?;
    codec::decode(&bytes, limit)
        .map(Some)
        .map_err(StreamError::Codec)
}

/// Fills `into`.
pub(super) async fn read_full(
    stream: &mut (impl AsyncRead + Unpin),
    into: &mut [u8],
) -> Result<(), StreamError> {
    let mut filled = 0;
    while filled < into.len() {
        match patiently(stream.read(&mut into[filled..])).await? {
            0 => return Err(StreamError::Io(io::ErrorKind::UnexpectedEof.into())),
            more => filled += more,
        }
    }
    Ok(())
}

/// Writes all of `bytes`.
pub(super) async fn write_full(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> Result<(), StreamError> {
    let mut written = 0;
    while written < bytes.len() {
        match patiently(stream.write(&bytes[written..])).await? {
            0 => return Err(StreamError::Io(io::ErrorKind::WriteZero.into())),
            more => written += more,
        }
    }
    Ok(())
}

/// Sends what the stream holds back.
pub(super) async fn flush(stream: &mut (impl AsyncWrite + Unpin)) -> Result<(), StreamError> {
    patiently(stream.flush()).await
}

/// Appends a frame of at most `limit` bytes to `to`.
pub(super) fn append<T: Encode>(
    to: &mut Vec<u8>,
    frame: &T,
    limit: usize,
) -> Result<(), CodecError> {
    let bytes = codec::encode(frame, limit)?;
    // Frames are far below 4 GiB: `limit` is.
    to.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    to.extend_from_slice(&bytes);
    Ok(())
}
