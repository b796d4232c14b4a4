//! Carries a container's output to its submitter's sink, and slowness back to the task.
//!
//! Simply not reading would slow the task down, too, but it would lose output: engines give up on
//! what is still unread two seconds after the process has ended, and those are the lines that say
//! why. So this module keeps reading, keeps a little, and when the sink falls behind it freezes the
//! container through a [`Valve`]: a frozen task neither writes nor ends. What is kept is bounded by
//! [`MOST_BYTES`] and what pipes and the engine hold at the moment of freezing, about 2 MiB:
//! [`FROZEN_BYTES`].

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use futures::future::{Either, Fuse, FusedFuture, FutureExt};
use futures::{Stream, StreamExt};
use p2pnode_protocol::task::Stream as Channel;
use tokio::time::{Instant, interval, sleep_until};

use super::watch::Pulse;
use crate::{LogChunk, LogSink};

/// What [`LogChunk`] promises.
const MAX_CHUNK_BYTES: usize = 64 << 10;

/// How much of the start of stderr is kept, to recognise the init process's own message.
const HEAD_BYTES: usize = 64;

/// The task is frozen when this much waits for its reader: a few frames of the engine's, which are of
/// 32 KiB, so that a reader that is merely late freezes nobody.
const HIGH_BYTES: usize = 256 << 10;

/// The task is thawed when no more than this waits.
const LOW_BYTES: usize = 64 << 10;

/// While the task is being frozen no more than this is read: freezing takes some 30 ms, in which a
/// task can write many megabytes.
const FULL_BYTES: usize = 512 << 10;

/// Freezing that takes longer than this may be waiting for the end of a task whose output is unread.
/// So then [`MORE_BYTES`] more are read each time it passes, up to [`MOST_BYTES`]: well within the
/// engine's two seconds that is all that pipes and engine can hold.
const SLOW_FREEZE: Duration = Duration::from_millis(250);
const MORE_BYTES: usize = 1 << 20;
const MOST_BYTES: usize = 5 << 20;

/// What is read of a task that is frozen: [`MOST_BYTES`] and all that pipes and engine can hold, in case
/// it is not frozen after all.
const FROZEN_BYTES: usize = 8 << 20;

/// When an engine that did not freeze or thaw is asked again: it may only have been busy.
const AGAIN: Duration = Duration::from_secs(1);

/// Stops and releases the source of output.
pub(super) trait Valve: Send + Sync {
    /// Makes that nothing new is written. False when it can't be done.
    fn freeze(&self) -> impl Future<Output = bool> + Send;
    /// Lets it go on. False when it stands still yet.
    fn thaw(&self) -> impl Future<Output = bool> + Send;
}

/// Where the task's output stands between flowing and frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Free,
    Freezing,
    Frozen,
    Thawing,
    /// The engine did not freeze it: only not reading holds the task back, until it is asked again.
    Unstoppable,
}

impl Flow {
    /// What comes of freezing or thawing that has been `done`, or not.
    const fn turned(self, done: bool) -> Self {
        match (self, done) {
            (Self::Freezing, true) | (Self::Thawing, false) => Self::Frozen,
            (Self::Freezing, false) => Self::Unstoppable,
            _ => Self::Free,
        }
    }
}

/// Chunks that wait for their reader.
#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<LogChunk>,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, stream: Channel, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.chunks
            .extend(bytes.chunks(MAX_CHUNK_BYTES).map(|part| LogChunk {
                stream,
                bytes: part.to_vec(),
            }));
    }

    fn pop(&mut self) -> Option<LogChunk> {
        let chunk = self.chunks.pop_front()?;
        self.bytes -= chunk.bytes.len();
        Some(chunk)
    }
}

/// Reads `frames` to their end into `sink`. When nobody reads the sink any more, output is dropped
/// and the task goes on. Returns the beginning of stderr.
///
/// # Errors
/// When the engine breaks the stream off: output is missing then.
pub(super) async fn pump(
    mut frames: impl Stream<Item = Result<LogOutput, Error>> + Unpin,
    sink: &LogSink,
    pulse: &Pulse,
    valve: &impl Valve,
) -> Result<Vec<u8>, Error> {
    let mut queue = Queue::default();
    let mut head = Vec::new();
    let mut flow = Flow::Free;
    let mut turning = pin!(Fuse::terminated());
    let mut ended = None;
    let mut full = FULL_BYTES;
    let mut slow = interval(SLOW_FREEZE);
    let mut again = Instant::now();
    loop {
        match flow {
            Flow::Free if queue.bytes >= HIGH_BYTES && ended.is_none() => {
                flow = Flow::Freezing;
                full = FULL_BYTES;
                slow.reset();
                turning.set(Either::Left(valve.freeze()).fuse());
            }
            Flow::Frozen
                if queue.bytes <= LOW_BYTES && ended.is_none() && Instant::now() >= again =>
            {
                flow = Flow::Thawing;
                turning.set(Either::Right(valve.thaw()).fuse());
            }
            Flow::Unstoppable if Instant::now() >= again => {
                flow = Flow::Free;
                // There may be nothing to wait for but that.
                continue;
            }
            _ => {}
        }
        let waits = matches!(flow, Flow::Frozen | Flow::Unstoppable) && Instant::now() < again;
        pulse.set_waiting(!queue.chunks.is_empty());
        let room = if flow == Flow::Frozen {
            FROZEN_BYTES
        } else {
            full
        };
        let may_read = ended.is_none() && queue.bytes < room;
        tokio::select! {
            frame = frames.next(), if may_read => match frame {
                Some(Ok(frame)) => {
                    pulse.wrote();
                    take(frame, &mut queue, &mut head);
                }
                Some(Err(error)) => ended = Some(Err(error)),
                None => ended = Some(Ok(())),
            },
            permit = sink.reserve(), if !queue.chunks.is_empty() => match (permit, queue.pop()) {
                (Ok(permit), Some(chunk)) => permit.send(chunk),
                _ => queue = Queue::default(),
            },
            done = &mut turning, if !turning.is_terminated() => {
                if !done {
                    again = Instant::now() + AGAIN;
                }
                flow = flow.turned(done);
            }
            _ = slow.tick(), if flow == Flow::Freezing => {
                full = MOST_BYTES.min(full + MORE_BYTES);
            }
            () = sleep_until(again), if waits => {}
            else => {}
        }
        if queue.chunks.is_empty()
            && turning.is_terminated()
            && let Some(result) = ended.take()
        {
            return result.map(|()| head);
        }
    }
}

fn take(frame: LogOutput, queue: &mut Queue, head: &mut Vec<u8>) {
    match frame {
        LogOutput::StdErr { message } => {
            let room = HEAD_BYTES.saturating_sub(head.len()).min(message.len());
            head.extend_from_slice(&message[..room]);
            queue.push(Channel::Stderr, &message);
        }
        LogOutput::StdOut { message } | LogOutput::Console { message } => {
            queue.push(Channel::Stdout, &message);
        }
        LogOutput::StdIn { .. } => {}
    }
}

#[cfg(test)]
mod tests;
