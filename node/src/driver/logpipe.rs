//! The log of one hosted job on its way to the submitter: one stream per job and provider.
//!
//! Frames wait in a bounded queue; when the submitter reads slowly the tasks are slowed down. Frames
//! that were not acknowledged are sent again on the next stream. A submitter that does not want them
//! (its job is over, say) slows nobody down: what waits is dropped.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, FutureExt, StreamExt, stream};
use p2pnode_protocol::PeerId;
use p2pnode_protocol::stream::{LogAck, LogFrame, LogHello, LogWelcome};
use tokio::sync::mpsc;
use tokio_util::compat::TokioAsyncReadCompatExt;
use tokio_util::sync::CancellationToken;

use super::loghub::LogHub;
use crate::core::io::HostedJob;
use crate::frames::{self, FrameError};
use crate::net::StreamKind;
use crate::networks::Networks;

/// Frames that wait for the stream.
pub(super) const QUEUE: usize = 64;

/// The most unacknowledged frames; the receiver acknowledges at least every 16.
const MAX_UNACKNOWLEDGED: usize = 256;

/// First and longest wait before the stream is opened anew.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Where logs go.
#[derive(Clone)]
pub(super) struct LogTarget {
    pub(super) me: PeerId,
    pub(super) net: Networks,
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

    /// A pipe whose far end stands still for as long as the receiver lives.
    #[cfg(test)]
    pub(super) fn unread() -> (Self, mpsc::Receiver<LogFrame>) {
        let (frames, queue) = mpsc::channel(QUEUE);
        let over = CancellationToken::new();
        (Self { frames, over }, queue)
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

/// How a stream ended that did not break.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// With the job.
    Over,
    /// The submitter does not want it.
    Unwanted,
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
                    Ok(Ended::Over) => return,
                    Ok(Ended::Unwanted) => self.discard(RETRY.1).await,
                    Err(error) => {
                        tracing::debug!(job = %self.hosted.job, %error, "log stream broke");
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(RETRY.1);
                        continue;
                    }
                }
                wait = RETRY.0;
            }
        }
    }

    /// Drops what waits and what comes for a while, so that no task waits for a reader that it has
    /// not got. A submitter that was restarted may want later frames again.
    async fn discard(&mut self, pause: Duration) {
        tracing::debug!(job = %self.hosted.job, "its submitter does not want its log");
        self.unacknowledged.clear();
        let dropping = async { while self.queue.recv().await.is_some() {} };
        // The end of the pause, or of the job.
        let _over = tokio::time::timeout(pause, dropping).await;
    }

    /// One stream, until it breaks, is not wanted, or the job is over.
    async fn stream(&mut self) -> Result<Ended, FrameError> {
        let opened = self
            .target
            .net
            .open_stream(self.hosted.submitter, StreamKind::Log)
            .await;
        let stream = opened.map_err(|error| FrameError::Open(error.to_string()))?;
        self.talk(stream.compat()).await
    }

    async fn talk<S>(&mut self, stream: S) -> Result<Ended, FrameError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut reader, mut writer) = stream.split();
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
            return Ok(Ended::Unwanted);
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
                    Some(frame) => self.write_waiting(frame, &mut writer).await?,
                    None => return Ok(Ended::Over),
                },
            }
        }
    }

    /// Writes a frame and what else waits, then flushes once. Each is kept before it is written: a stream
    /// that breaks in the middle of it must not take it along.
    async fn write_waiting<W>(&mut self, first: LogFrame, writer: &mut W) -> Result<(), FrameError>
    where
        W: AsyncWrite + Unpin,
    {
        let mut next = Some(first);
        while let Some(frame) = next.take() {
            self.unacknowledged.push_back(frame);
            if let Some(frame) = self.unacknowledged.back() {
                frames::write(writer, frame).await?;
            }
            if self.unacknowledged.len() < MAX_UNACKNOWLEDGED {
                next = self.queue.recv().now_or_never().flatten();
            }
        }
        writer.flush().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use p2pnode_protocol::JobId;
    use p2pnode_protocol::task::Stream;

    use super::*;
    use crate::net::{self, NetConfig};
    use crate::networks::{NetworkEvent, NetworkEvents};

    const JOB: JobId = JobId([7; 8]);

    fn frame(offset: u64) -> LogFrame {
        LogFrame {
            step: 0,
            index: 0,
            attempt: 1,
            stream: Stream::Stdout,
            offset,
            bytes: vec![b'y'; 10],
        }
    }

    /// A stream that welcomes, and takes no more than the hello.
    struct Torn {
        welcome: futures::io::Cursor<Vec<u8>>,
        room: usize,
    }

    impl AsyncRead for Torn {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            into: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            match Pin::new(&mut self.welcome).poll_read(cx, into) {
                // Acknowledgements never come, nor does the end.
                Poll::Ready(Ok(0)) => Poll::Pending,
                read => read,
            }
        }
    }

    impl AsyncWrite for Torn {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.room == 0 {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn encoded<T: bincode::Encode>(message: &T) -> Vec<u8> {
        let mut bytes = futures::io::Cursor::new(Vec::new());
        frames::write(&mut bytes, message).await.unwrap();
        bytes.into_inner()
    }

    fn target(net: Networks, folder: &tempfile::TempDir) -> LogTarget {
        let logs = crate::store::JobLogs::open(folder.path()).unwrap();
        LogTarget {
            me: net.local_peer_id(),
            net,
            hub: LogHub::new(logs, tokio::sync::broadcast::channel(1).0),
        }
    }

    #[tokio::test]
    async fn a_frame_on_which_the_stream_breaks_is_sent_again() {
        let (net, _events) = node().await;
        let folder = tempfile::tempdir().unwrap();
        let (frames, queue) = mpsc::channel(QUEUE);
        let mut pump = Pump {
            hosted: HostedJob {
                submitter: PeerId::random(),
                job: JOB,
            },
            target: target(net, &folder),
            queue,
            unacknowledged: VecDeque::new(),
        };
        frames.send(frame(0)).await.unwrap();
        frames.send(frame(10)).await.unwrap();
        let hello = encoded(&LogHello { job: JOB }).await;
        for (room, kept) in [(0, 1), (encoded(&frame(10)).await.len(), 2)] {
            let torn = Torn {
                welcome: futures::io::Cursor::new(encoded(&LogWelcome { accepted: true }).await),
                room: hello.len() + room,
            };
            let talk = pump.talk(torn);
            let ended = tokio::time::timeout(Duration::from_secs(20), talk).await;
            assert!(ended.unwrap().is_err());
            let offsets: Vec<u64> = pump.unacknowledged.iter().map(|kept| kept.offset).collect();
            assert_eq!(offsets, [0, 10][..kept]);
        }
    }

    async fn node() -> (Networks, NetworkEvents) {
        let key = libp2p::identity::Keypair::generate_ed25519();
        let started = net::start(NetConfig::in_memory(key, "test")).await;
        Networks::one(started.unwrap())
    }

    /// Says no to the hello of every stream that comes.
    async fn refuse(mut events: NetworkEvents) {
        while let Some(event) = events.recv().await {
            if let NetworkEvent::Stream { stream, .. } = event {
                let mut stream = stream.compat();
                let _hello: LogHello = frames::read(&mut stream).await.unwrap();
                frames::write(&mut stream, &LogWelcome { accepted: false })
                    .await
                    .unwrap();
                stream.flush().await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_submitter_that_does_not_want_the_log_slows_no_task_down() {
        let (submitter, events) = node().await;
        let refusing = tokio::spawn(refuse(events));
        let me = NetConfig {
            bootstrap: submitter.members()[0].net().listen_addresses(),
            ..NetConfig::in_memory(libp2p::identity::Keypair::generate_ed25519(), "test")
        };
        let (net, _events) = Networks::one(net::start(me).await.unwrap());
        while !net.peers().await.iter().any(|(_, peer)| peer.connected) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let hosted = HostedJob {
            submitter: submitter.local_peer_id(),
            job: JOB,
        };
        let folder = tempfile::tempdir().unwrap();
        let target = target(net, &folder);
        let over = CancellationToken::new();
        let pipe = LogPipe::open(hosted, target, over.clone());
        let writing = async {
            for at in 0..4 * QUEUE as u64 {
                pipe.send(frame(at * 10)).await;
            }
        };
        let limit = Duration::from_secs(30);
        assert!(tokio::time::timeout(limit, writing).await.is_ok());
        over.cancel();
        refusing.abort();
    }
}
