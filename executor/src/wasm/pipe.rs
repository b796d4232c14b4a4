//! The reading ends of a worker's pipes: frames from its stdout, last words from its stderr.
//!
//! Used by [`super::process`]. Reads whatever comes, since a worker that is not read stands still;
//! what it holds is bounded by one frame and by [`LAST_WORDS_BYTES`].

use tokio::io::{AsyncRead, AsyncReadExt};

use super::frame::{FrameBuffer, FrameError};
use super::wire::FromWorker;

/// Bytes read from a worker at a time: what a pipe holds.
const READ_BYTES: usize = 64 << 10;

/// How much of a worker's stderr is kept, in bytes: the report of a panic.
const LAST_WORDS_BYTES: usize = 4 << 10;

/// Why nothing more can be read from a worker.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// It closed its end, most often by dying.
    #[error("it ended by itself")]
    Eof,
    /// The system failed.
    #[error("its pipe failed: {0}")]
    Io(#[from] std::io::Error),
    /// It wrote something else than frames.
    #[error("it wrote {0}")]
    Frame(#[from] FrameError),
}

/// Reads frames from a worker.
#[derive(Debug)]
pub struct Pipe<R> {
    stdout: R,
    frames: FrameBuffer,
    bytes: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Pipe<R> {
    /// Reads frames from `stdout`.
    pub fn new(stdout: R) -> Self {
        Self {
            stdout,
            frames: FrameBuffer::default(),
            bytes: vec![0; READ_BYTES],
        }
    }

    /// Appends the messages of at least one frame. May be dropped at any time without loss.
    ///
    /// # Errors
    /// [`PipeError`]; nothing more can be read.
    pub async fn read(&mut self, messages: &mut Vec<FromWorker>) -> Result<(), PipeError> {
        loop {
            let mut any = false;
            while self.frames.next(messages)? {
                any = true;
            }
            if any {
                return Ok(());
            }
            match self.stdout.read(&mut self.bytes).await? {
                0 => return Err(PipeError::Eof),
                read => self.frames.extend(&self.bytes[..read]),
            }
        }
    }
}

/// Reads `stderr` to its end and returns the last of it.
pub async fn keep_last_words(mut stderr: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut bytes = [0; 1 << 10];
    while let Ok(read @ 1..) = stderr.read(&mut bytes).await {
        kept.extend_from_slice(&bytes[..read]);
        let excess = kept.len().saturating_sub(LAST_WORDS_BYTES);
        kept.drain(..excess);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::wasm::frame;

    #[tokio::test]
    async fn frames_are_read_until_the_end() {
        let mut bytes = Vec::new();
        frame::encode(&[FromWorker::Pong, FromWorker::Pong], &mut bytes).unwrap();
        frame::encode(&[FromWorker::Pong], &mut bytes).unwrap();
        let mut pipe = Pipe::new(bytes.as_slice());
        let mut messages = Vec::new();
        pipe.read(&mut messages).await.unwrap();
        assert_eq!(messages, vec![FromWorker::Pong; 3]);
        let error = pipe.read(&mut messages).await.unwrap_err();
        assert!(matches!(error, PipeError::Eof), "{error}");
    }

    #[tokio::test]
    async fn only_the_last_words_are_kept() {
        let mut text = vec![b'x'; 10 * LAST_WORDS_BYTES];
        text.extend_from_slice(b" the end\n");
        let words = keep_last_words(text.as_slice()).await;
        assert!(words.ends_with("x the end"), "{words}");
        assert_eq!(words.len(), LAST_WORDS_BYTES - 1);
    }
}
