//! Frames on a worker's pipe: a length, then that many bytes of messages.
//!
//! A frame carries as many messages as were waiting when it was written, so that ten thousand small
//! tasks cost hundreds of system calls and not tens of thousands. Used by both ends; reads and writes
//! are done by the callers. Nothing here may trust the bytes: a length is checked before it is
//! waited for, and no message may claim more memory than [`MAX_CLAIM_BYTES`].

use bincode::config::{self, Config};
use bincode::{Decode, Encode};

/// The longest frame, in bytes: a task's command and environment and then some.
pub const MAX_FRAME_BYTES: usize = 2 << 20;

/// A frame is closed when it has grown to this, in bytes. Four times a pipe's buffer on Linux: longer
/// frames save nothing.
const FULL_FRAME_BYTES: usize = 256 << 10;

/// The most memory that one message may claim before its bytes are read. An environment of the
/// shortest possible pairs takes 24 times its encoded size.
const MAX_CLAIM_BYTES: usize = 24 * MAX_FRAME_BYTES;

/// Bytes of the length before each frame.
const HEADER_BYTES: usize = 4;

/// Bytes that are not frames of messages.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A length beyond the limit, or none.
    #[error("a frame of {0} bytes, which is not between 1 and {MAX_FRAME_BYTES}")]
    Length(usize),
    /// Not a message.
    #[error("not a message")]
    Malformed(#[from] bincode::error::DecodeError),
    /// A message that cannot be written.
    #[error("a message that cannot be encoded")]
    Encode(#[from] bincode::error::EncodeError),
}

fn limited() -> impl Config {
    config::standard().with_limit::<MAX_CLAIM_BYTES>()
}

/// Bytes that `message` takes within a frame.
///
/// # Errors
/// [`FrameError::Encode`].
pub fn encoded_len<M: Encode>(message: &M) -> Result<usize, FrameError> {
    let mut size = bincode::enc::write::SizeWriter::default();
    bincode::encode_into_writer(message, &mut size, config::standard())?;
    Ok(size.bytes_written)
}

/// Appends `messages` to `out`, as few frames as their sizes allow.
///
/// # Errors
/// [`FrameError::Encode`], or [`FrameError::Length`] when one message alone is too long.
pub fn encode<M: Encode>(messages: &[M], out: &mut Vec<u8>) -> Result<(), FrameError> {
    let mut rest = messages.iter().peekable();
    while rest.peek().is_some() {
        let header = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        while out.len() - header < FULL_FRAME_BYTES
            && let Some(message) = rest.next()
        {
            bincode::encode_into_std_write(message, out, config::standard())?;
        }
        let length = out.len() - header - HEADER_BYTES;
        if length > MAX_FRAME_BYTES {
            return Err(FrameError::Length(length));
        }
        let length = u32::try_from(length).map_err(|_| FrameError::Length(length))?;
        out[header..header + HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    }
    Ok(())
}

/// Puts frames together from bytes as they come.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    used: usize,
}

impl FrameBuffer {
    /// Takes bytes that were read.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends the messages of the next whole frame to `messages`; false when there is none yet.
    ///
    /// # Errors
    /// [`FrameError::Length`] or [`FrameError::Malformed`]; nothing after it can be read.
    pub fn next<M: Decode<()>>(&mut self, messages: &mut Vec<M>) -> Result<bool, FrameError> {
        let bytes = &self.bytes[self.used..];
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(false);
        };
        let length = u32::from_le_bytes(*header) as usize;
        if length == 0 || length > MAX_FRAME_BYTES {
            return Err(FrameError::Length(length));
        }
        let Some(mut payload) = rest.get(..length) else {
            return Ok(false);
        };
        while !payload.is_empty() {
            let (message, read) = bincode::decode_from_slice(payload, limited())?;
            messages.push(message);
            payload = &payload[read..];
        }
        self.used += HEADER_BYTES + length;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use p2pnode_protocol::task::{Stream, Usage};

    use super::*;
    use crate::wasm::wire::{FromWorker, Hello, RunSpec, ToWorker};

    fn log(run: u64, length: usize) -> FromWorker {
        FromWorker::Log {
            run,
            stream: Stream::Stderr,
            bytes: vec![7; length],
        }
    }

    fn decode<M: Decode<()>>(bytes: &[u8], step: usize) -> Result<Vec<M>, FrameError> {
        let mut buffer = FrameBuffer::default();
        let mut messages = Vec::new();
        for piece in bytes.chunks(step) {
            buffer.extend(piece);
            while buffer.next(&mut messages)? {}
        }
        Ok(messages)
    }

    #[test]
    fn messages_survive_any_cutting_of_the_stream() {
        let sent = vec![
            FromWorker::Pong,
            log(1, 0),
            log(2, 300),
            FromWorker::End {
                run: u64::MAX,
                result: Ok(()),
                usage: Usage::default(),
            },
        ];
        let mut bytes = Vec::new();
        encode(&sent, &mut bytes).unwrap();
        for step in [1, 2, 3, 5, 64, bytes.len()] {
            assert_eq!(decode::<FromWorker>(&bytes, step).unwrap(), sent);
        }
    }

    #[test]
    fn small_messages_share_a_frame_and_long_ones_do_not_make_it_too_long() {
        let mut bytes = Vec::new();
        encode(&vec![FromWorker::Pong; 1_000], &mut bytes).unwrap();
        assert_eq!(bytes.len(), HEADER_BYTES + 1_000);

        let many: Vec<_> = (0..100).map(|run| log(run, 64 << 10)).collect();
        bytes.clear();
        encode(&many, &mut bytes).unwrap();
        let first = u32::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        assert!((FULL_FRAME_BYTES / 2..2 * FULL_FRAME_BYTES).contains(&first));
        assert_eq!(decode::<FromWorker>(&bytes, 65_536).unwrap(), many);
    }

    #[test]
    fn the_length_of_a_message_is_known_beforehand() {
        let message = ToWorker::Hello(Hello {
            protocol: 1,
            threads: 300,
            work_root: vec![1; 400],
        });
        let mut bytes = Vec::new();
        encode(std::slice::from_ref(&message), &mut bytes).unwrap();
        assert_eq!(encoded_len(&message).unwrap(), bytes.len() - HEADER_BYTES);
    }

    #[test]
    fn a_message_that_is_too_long_is_refused() {
        let spec = RunSpec {
            run: 0,
            module: 0,
            command: vec!["x".repeat(MAX_FRAME_BYTES)],
            env: Vec::new(),
            work_dir: Vec::new(),
            memory: 0,
            disk: 0,
            timeout_us: 0,
            stall_us: 0,
        };
        let error = encode(&[ToWorker::Run(spec)], &mut Vec::new()).unwrap_err();
        assert!(matches!(error, FrameError::Length(_)), "{error}");
    }

    #[test]
    fn hostile_bytes_are_errors() {
        // Lengths of nothing and of too much are refused before anything is waited for.
        for length in [0, MAX_FRAME_BYTES as u32 + 1, u32::MAX] {
            let error = decode::<FromWorker>(&length.to_le_bytes(), 4).unwrap_err();
            assert!(matches!(error, FrameError::Length(_)), "{error}");
        }
        // A log message (variant 2) of run 0 on stdout that claims 2^40 bytes.
        let mut claim = vec![0, 0, 0, 0, 2, 0, 0, 253];
        claim.extend_from_slice(&(1_u64 << 40).to_le_bytes());
        claim[0] = (claim.len() - HEADER_BYTES) as u8;
        let error = decode::<FromWorker>(&claim, 64).unwrap_err();
        assert!(matches!(error, FrameError::Malformed(_)), "{error}");
        // An unknown variant, and a message cut short by its frame.
        for payload in [[1, 0, 0, 0, 99].as_slice(), &[1, 0, 0, 0, 2]] {
            assert!(decode::<FromWorker>(payload, 64).is_err());
        }
    }
}
