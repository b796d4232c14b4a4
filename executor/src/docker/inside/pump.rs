//! Carries a command's output to whoever reads it.
//!
//! While the command runs, who reads slowly slows it down: nothing is read that can't be passed on.
//! Once it has ended its last output is read at once and kept, because engines give up on what is
//! unread two seconds later.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::LogChunk;

/// Chunks on their way to the reader, of 64 KiB at most each.
pub(super) const CHUNKS: usize = 16;

/// The most bytes of a chunk, as [`LogChunk`] promises.
const MAX_CHUNK_BYTES: usize = 64 << 10;

/// Bytes kept of an ended command's output: pipes and engine hold about 2 MiB.
const MOST_LAST_BYTES: usize = 4 << 20;

/// When nothing comes for so long after the command's end, nothing more of it is to come: what it left
/// behind may hold its output open for ever. Docker's engine ends the output itself two seconds after
/// the command; this is for engines that don't, and must not be sooner.
const SILENCE: Duration = Duration::from_secs(3);

/// Passes `frames` on to their end, or until `ended` and silence. When nobody reads they are dropped.
pub(super) async fn pump(
    mut frames: impl Stream<Item = io::Result<LogChunk>> + Unpin,
    reader: &mpsc::Sender<LogChunk>,
    ended: &CancellationToken,
) {
    let mut queue = VecDeque::new();
    let mut last_bytes = 0;
    let mut open = true;
    let mut seen_end = false;
    while open || !queue.is_empty() {
        let may_read = open && (queue.is_empty() || (seen_end && last_bytes < MOST_LAST_BYTES));
        tokio::select! {
            frame = frames.next(), if may_read => match frame {
                Some(Ok(chunk)) => {
                    last_bytes += if seen_end { chunk.bytes.len() } else { 0 };
                    if !reader.is_closed() {
                        enqueue(&mut queue, chunk);
                    }
                    // What others write to it for ever is not the command's.
                    open = last_bytes < MOST_LAST_BYTES;
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "a command's output broke off");
                    open = false;
                }
                None => open = false,
            },
            permit = reader.reserve(), if !queue.is_empty() => match (permit, queue.pop_front()) {
                (Ok(permit), Some(chunk)) => permit.send(chunk),
                _ => queue.clear(),
            },
            () = ended.cancelled(), if !seen_end => seen_end = true,
            () = sleep(SILENCE), if seen_end && may_read => open = false,
        }
    }
}

fn enqueue(queue: &mut VecDeque<LogChunk>, chunk: LogChunk) {
    if chunk.bytes.len() <= MAX_CHUNK_BYTES {
        queue.push_back(chunk);
        return;
    }
    let parts = chunk.bytes.chunks(MAX_CHUNK_BYTES);
    queue.extend(parts.map(|part| LogChunk {
        stream: chunk.stream,
        bytes: part.to_vec(),
    }));
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use p2pnode_protocol::task::Stream as Channel;

    use super::*;

    fn chunk(bytes: usize) -> io::Result<LogChunk> {
        let (stream, bytes) = (Channel::Stdout, vec![0; bytes]);
        Ok(LogChunk { stream, bytes })
    }

    #[tokio::test]
    async fn a_slow_reader_holds_a_running_command_back_but_loses_nothing_of_an_ended_one() {
        let (sender, mut reader) = mpsc::channel(1);
        let ended = CancellationToken::new();
        let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = std::sync::Arc::clone(&taken);
        let frames = stream::iter((0..20).map(move |_| {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            chunk(100_000)
        }));
        let signal = ended.clone();
        let pumping = tokio::spawn(async move { pump(frames, &sender, &ended).await });
        let taken = || taken.load(std::sync::atomic::Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(taken() <= 2, "{}", taken());
        signal.cancel();
        while taken() < 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut bytes = 0;
        while let Some(chunk) = reader.recv().await {
            assert!(chunk.bytes.len() <= MAX_CHUNK_BYTES);
            bytes += chunk.bytes.len();
        }
        assert_eq!(bytes, 2_000_000);
        pumping.await.unwrap();
    }

    #[tokio::test]
    async fn output_that_others_hold_open_ends_with_the_command() {
        let (sender, mut reader) = mpsc::channel(1);
        let ended = CancellationToken::new();
        ended.cancel();
        let frames = Box::pin(stream::iter([chunk(1)]).chain(stream::pending()));
        pump(frames, &sender, &ended).await;
        assert_eq!(reader.recv().await.unwrap().bytes.len(), 1);
        // Nor is a flood of others' waited for.
        let flood = Box::pin(stream::repeat_with(|| chunk(1 << 16)));
        drop(reader);
        pump(flood, &sender, &ended).await;
    }
}
