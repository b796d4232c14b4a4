//! Carries a container's output to its submitter's sink.
//!
//! Slowness travels backwards: when the sink is full nothing more is read from the engine, which
//! stops reading the task's pipes, so the task waits in its next write. Nothing here keeps more than
//! one frame.

use bollard::container::LogOutput;
use bollard::errors::Error;
use futures::{Stream, StreamExt};
use p2pnode_protocol::task::Stream as Channel;
use tokio::sync::mpsc::error::TrySendError;

use super::watch::Pulse;
use crate::{LogChunk, LogSink};

/// What [`LogChunk`] promises.
const MAX_CHUNK_BYTES: usize = 64 << 10;

/// How much of the start of stderr is kept, to recognise the init process's own message.
const HEAD_BYTES: usize = 64;

/// Reads `frames` to their end into `sink`. When nobody reads the sink any more, output is dropped
/// and the task goes on. Returns the beginning of stderr.
///
/// # Errors
/// When the engine breaks the stream off: output is missing then.
pub(super) async fn pump(
    mut frames: impl Stream<Item = Result<LogOutput, Error>> + Unpin,
    sink: &LogSink,
    pulse: &Pulse,
) -> Result<Vec<u8>, Error> {
    let mut head = Vec::new();
    while let Some(frame) = frames.next().await {
        let (stream, bytes) = match frame? {
            LogOutput::StdErr { message } => {
                let room = HEAD_BYTES.saturating_sub(head.len()).min(message.len());
                head.extend_from_slice(&message[..room]);
                (Channel::Stderr, message)
            }
            LogOutput::StdOut { message } | LogOutput::Console { message } => {
                (Channel::Stdout, message)
            }
            LogOutput::StdIn { .. } => continue,
        };
        for part in bytes.chunks(MAX_CHUNK_BYTES) {
            let chunk = LogChunk {
                stream,
                bytes: part.to_vec(),
            };
            deliver(chunk, sink, pulse).await;
        }
    }
    Ok(head)
}

async fn deliver(chunk: LogChunk, sink: &LogSink, pulse: &Pulse) {
    pulse.wrote();
    if let Err(TrySendError::Full(chunk)) = sink.try_send(chunk) {
        let _waiting = pulse.waiting();
        // An error only says that the reader left meanwhile.
        let _ = sink.send(chunk).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use tokio::sync::mpsc;

    use super::*;

    fn out(bytes: &[u8]) -> Result<LogOutput, Error> {
        Ok(LogOutput::StdOut {
            message: bytes.to_vec().into(),
        })
    }

    #[tokio::test]
    async fn big_frames_are_cut_and_nothing_is_lost() {
        let (sink, mut log) = mpsc::channel(1);
        let content: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
        let err = LogOutput::StdErr {
            message: vec![b'e'; 100].into(),
        };
        let frames = stream::iter([out(&content), Ok(err)]);
        let pump = tokio::spawn(async move { pump(frames, &sink, &Pulse::default()).await });
        let (mut got, mut chunks) = (Vec::new(), 0);
        while let Some(chunk) = log.recv().await {
            assert!(chunk.bytes.len() <= MAX_CHUNK_BYTES);
            if chunk.stream == Channel::Stdout {
                chunks += 1;
                got.extend(chunk.bytes);
            }
        }
        assert_eq!(chunks, 4);
        assert!(got == content);
        assert_eq!(pump.await.unwrap().unwrap(), [b'e'; HEAD_BYTES]);
    }

    #[tokio::test]
    async fn a_reader_that_left_stops_nothing() {
        let (sink, log) = mpsc::channel(1);
        drop(log);
        let frames = stream::iter((0..100).map(|_| out(b"x")));
        assert_eq!(pump(frames, &sink, &Pulse::default()).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_broken_stream_is_told() {
        let (sink, _log) = mpsc::channel(8);
        let broken = Err(Error::RequestTimeoutError);
        let frames = stream::iter([out(b"x"), broken]);
        assert!(pump(frames, &sink, &Pulse::default()).await.is_err());
    }
}
