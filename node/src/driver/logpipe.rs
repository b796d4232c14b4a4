//! The log of one hosted job on its way to the submitter: one stream per job and provider.
//!
//! Frames wait in a bounded queue; when the submitter reads slowly the tasks are slowed down. Frames
//! that were not acknowledged are sent again on the next stream.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt, stream};
use p2pnode_protocol::PeerId;
use p2pnode_protocol::stream::{LogAck, LogFrame, LogHello, LogWelcome};
use tokio::sync::mpsc;
use tokio_util::compat::TokioAsyncReadCompatExt;
use tokio_util::sync::CancellationToken;

use super::loghub::LogHub;
use crate::core::io::HostedJob;
use crate::frames::{self, FrameError};
use crate::net::{NetHandle, StreamKind};

/// Frames that wait for the stream.
const QUEUE: usize = 64;

/// The most unacknowledged frames; the receiver acknowledges at least every 16.
const MAX_UNACKNOWLEDGED: usize = 256;

/// First and longest wait before the stream is opened anew.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Where logs go.
#[derive(Clone)]
pub(super) struct LogTarget {
    pub(super) me: PeerId,
    pub(super) net: NetHandle,
    /// For jobs that this node submitted to itself.
    pub(super) hub: LogHub,
}

/// The near end of a job's log stream.
#[derive(Clone)]
pub(super) struct LogPipe {
    frames: mpsc::Sender<LogFrame>,
    over: CancellationToken,
}

impl LogPipe {
    /// Starts the pipe; it ends when `over` is cancelled.
    pub(super) fn open(hosted: HostedJob, target: LogTarget, over: CancellationToken) -> Self {
        let (frames, queue) = mpsc::channel(QUEUE);
        let pump = Pump {
            hosted,
            target,
            queue,
            unacknowledged: VecDeque::new(),
        };
        let until = over.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = pump.run() => {}
            }
        });
        Self { frames, over }
    }

    /// Sends a frame, waiting while the queue is full; drops it when the job is over.
    pub(super) async fn send(&self, frame: LogFrame) {
        tokio::select! {
            biased;
            () = self.over.cancelled() => {}
            // The pump ends only with the job.
            _ended = self.frames.send(frame) => {}
        }
    }
}

struct Pump {
    hosted: HostedJob,
    target: LogTarget,
    queue: mpsc::Receiver<LogFrame>,
    unacknowledged: VecDeque<LogFrame>,
}

impl Pump {
    async fn run(mut self) {
        if self.hosted.submitter == self.target.me {
            while let Some(frame) = self.queue.recv().await {
                if let Err(error) = self.target.hub.take(self.hosted.job, frame) {
                    tracing::error!(job = %self.hosted.job, %error, "this node's own log frame is bad");
                }
            }
            return;
        }
        let mut wait = RETRY.0;
        // A stream is opened only when there is something to say.
        while let Some(frame) = self.queue.recv().await {
            self.unacknowledged.push_back(frame);
            while !self.unacknowledged.is_empty() {
                match self.stream().await {
                    Ok(()) => wait = RETRY.0,
                    Err(error) => {
                        tracing::debug!(job = %self.hosted.job, %error, "log stream broke");
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(RETRY.1);
                    }
                }
            }
        }
    }

    /// One stream, until it breaks or the job is over.
    async fn stream(&mut self) -> Result<(), FrameError> {
        let opened = self
            .target
            .net
            .open_stream(self.hosted.submitter, StreamKind::Log)
            .await;
        let stream = opened.map_err(|error| FrameError::Open(error.to_string()))?;
        let (reader, mut writer) = stream.compat().split();
        let mut reader = reader;
        frames::write(
            &mut writer,
            &LogHello {
                job: self.hosted.job,
            },
        )
        .await?;
        writer.flush().await?;
        let welcome: LogWelcome = frames::read(&mut reader).await?;
        if !welcome.accepted {
            return Err(FrameError::Open(
                "the submitter does not want this log".into(),
            ));
        }
        for frame in &self.unacknowledged {
            frames::write(&mut writer, frame).await?;
        }
        writer.flush().await?;
        // A read that is cut off half-way would lose bytes; the stream keeps it between polls.
        let acks = stream::unfold(reader, |mut reader| async move {
            Some((frames::read::<LogAck, _>(&mut reader).await, reader))
        });
        let mut acks = std::pin::pin!(acks);
        let mut acknowledged = 0;
        loop {
            let room = self.unacknowledged.len() < MAX_UNACKNOWLEDGED;
            tokio::select! {
                Some(ack) = acks.next() => {
                    let frames = ack?.frames;
                    while acknowledged < frames && self.unacknowledged.pop_front().is_some() {
                        acknowledged += 1;
                    }
                }
                frame = self.queue.recv(), if room => match frame {
                    Some(frame) => {
                        frames::write(&mut writer, &frame).await?;
                        self.unacknowledged.push_back(frame);
                        self.write_waiting(&mut writer).await?;
                    }
                    // The job is over.
                    None => return Ok(()),
                },
            }
        }
    }

    /// Writes what else waits, then flushes once.
    async fn write_waiting<W>(&mut self, writer: &mut W) -> Result<(), FrameError>
    where
        W: futures::AsyncWrite + Unpin,
    {
        while self.unacknowledged.len() < MAX_UNACKNOWLEDGED {
            let Some(Some(frame)) = self.queue.recv().now_or_never() else {
                break;
            };
            frames::write(writer, &frame).await?;
            self.unacknowledged.push_back(frame);
        }
        writer.flush().await?;
        Ok(())
    }
}
