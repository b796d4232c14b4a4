//! Frames of a blob stream: 4 bytes of length, big endian, then the encoded frame.
//!
//! Owns the limits that hold before anything is allocated, and the patience with a stream that does not
//! move: each single read and write may take so long, and so may each [`LEAST`] bytes, so a slow peer is
//! waited for, and a silent or dripping one is not. Used by both sides of a transfer.

use std::io;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use p2pnode_protocol::codec::{self, CodecError};

/// Length of a frame's length, in bytes.
const LENGTH_BYTES: usize = 4;

/// A stream that is of no more use.
#[derive(Debug)]
pub(super) enum StreamError {
    /// It ended within something, or broke.
    Io(io::Error),
    /// It did not move.
    Stalled,
    /// What came is no frame.
    Codec(CodecError),
}

/// The least that must move in each span of patience, in bytes (64 KiB: at 30 s, 2 KiB/s). A peer that
/// sends a byte now and then would otherwise keep its place for years.
const LEAST: usize = 64 << 10;

/// A stream that must move.
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Since when `moved` is counted.
    since: Instant,
    moved: usize,
}

impl<S> Patient<S> {
    /// Waits no longer than `patience` for each step, and for every [`LEAST`] bytes.
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            since: Instant::now(),
            moved: 0,
        }
    }

    /// Nothing was asked of the peer until now: its time starts anew.
    pub(super) fn start_over(&mut self) {
        self.since = Instant::now();
        self.moved = 0;
    }

    /// Counts what moved, and gives up on what moves too slowly.
    fn count(&mut self, bytes: usize) -> Result<(), StreamError> {
        self.moved = self.moved.saturating_add(bytes);
        if self.since.elapsed() < self.patience {
            return Ok(());
        }
        let enough = self.moved >= LEAST;
        self.start_over();
        if enough {
            Ok(())
        } else {
            Err(StreamError::Stalled)
        }
    }

    /// The stream itself.
    pub(super) const fn stream(&mut self) -> &mut S {
        &mut self.stream
    }
}

async fn within<T>(
    patience: Duration,
    step: impl Future<Output = io::Result<T>>,
) -> Result<T, StreamError> {
    match tokio::time::timeout(patience, step).await {
        Ok(done) => done.map_err(StreamError::Io),
        Err(_) => Err(StreamError::Stalled),
    }
}

impl<S: AsyncRead + Unpin> Patient<S> {
    /// Reads a frame of at most `limit` bytes. `None` when the stream ended before it.
    pub(super) async fn read_frame<T: Decode<()>>(
        &mut self,
        limit: usize,
    ) -> Result<Option<T>, StreamError> {
        let mut length = [0; LENGTH_BYTES];
        let first = within(self.patience, self.stream.read(&mut length)).await?;
        if first == 0 {
            return Ok(None);
        }
        self.read_full(&mut length[first..]).await?;
        let length = u32::from_be_bytes(length) as usize;
        if length > limit {
            return Err(StreamError::Codec(CodecError::TooLarge {
                bytes: length,
                limit,
            }));
        }
        let mut bytes = vec![0; length];
        self.read_full(&mut bytes).await?;
        codec::decode(&bytes, limit)
            .map(Some)
            .map_err(StreamError::Codec)
    }

    /// Fills `into`.
    pub(super) async fn read_full(&mut self, into: &mut [u8]) -> Result<(), StreamError> {
        let mut filled = 0;
        while filled < into.len() {
            match within(self.patience, self.stream.read(&mut into[filled..])).await? {
                0 => return Err(StreamError::Io(io::ErrorKind::UnexpectedEof.into())),
                more => {
                    filled += more;
                    self.count(more)?;
                }
            }
        }
        Ok(())
    }
}

impl<S: AsyncWrite + Unpin> Patient<S> {
    /// Writes all of `bytes`.
    pub(super) async fn write_full(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        let mut written = 0;
        while written < bytes.len() {
            match within(self.patience, self.stream.write(&bytes[written..])).await? {
                0 => return Err(StreamError::Io(io::ErrorKind::WriteZero.into())),
                more => {
                    written += more;
                    self.count(more)?;
                }
            }
        }
        Ok(())
    }

    /// Sends what the stream holds back.
    pub(super) async fn flush(&mut self) -> Result<(), StreamError> {
        within(self.patience, self.stream.flush()).await
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    #[tokio::test]
    async fn a_silent_peer_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(8);
        let mut stream = Patient::new(ours.compat(), Duration::from_millis(20));
        let read = stream.read_frame::<u32>(10).await;
        assert!(matches!(read, Err(StreamError::Stalled)));
        // Nobody reads what is written either.
        let written = stream.write_full(&[0; 9]).await;
        assert!(matches!(written, Err(StreamError::Stalled)));
    }

    #[tokio::test]
    async fn frames_come_as_they_went_and_end_with_the_stream() {
        let (ours, theirs) = tokio::io::duplex(3);
        let sending = tokio::spawn(async move {
            let mut bytes = Vec::new();
            append(&mut bytes, &7u32, 10).unwrap();
            append(&mut bytes, &"text".to_owned(), 10).unwrap();
            bytes.extend_from_slice(&[0, 0, 0, 11]);
            let mut stream = Patient::new(theirs.compat(), Duration::from_secs(30));
            stream.write_full(&bytes).await.unwrap();
        });
        let mut stream = Patient::new(ours.compat(), Duration::from_secs(30));
        assert_eq!(stream.read_frame::<u32>(10).await.unwrap(), Some(7));
        let text = stream.read_frame::<String>(10).await.unwrap();
        assert_eq!(text.as_deref(), Some("text"));
        let long = stream.read_frame::<u32>(10).await;
        assert!(matches!(
            long,
            Err(StreamError::Codec(CodecError::TooLarge { .. }))
        ));
        sending.await.unwrap();
        assert!(matches!(stream.read_frame::<u32>(10).await, Ok(None)));
    }

    #[tokio::test]
    async fn a_dripping_peer_is_given_up() {
        let (ours, theirs) = tokio::io::duplex(8);
        let mut stream = Patient::new(ours.compat(), Duration::from_millis(50));
        let drip = async {
            let mut theirs = theirs.compat();
            loop {
                if theirs.write_all(&[0]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let mut large = vec![0; 2 * LEAST];
        let read = tokio::select! {
            read = stream.read_full(&mut large) => read,
            () = drip => Ok(()),
        };
        assert!(matches!(read, Err(StreamError::Stalled)));
    }
}
