//! Between a client that sends and a sandbox that does not read.
//!
//! The SSH library opens a channel's window again as soon as bytes have come, and stops reading the
//! whole connection when a channel's queue is full. That slows the client down, which is meant, but
//! it also keeps the client's own window adjustments from being read: a command that waits for the
//! client to take its output, while the client waits for the command to take its input, would wait
//! for ever. So the inlet, when nothing moves any more, ends the channel that is at fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use russh::{ChannelMsg, ChannelReadHalf};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Packets that wait here, beyond those that wait in the library.
const WAITING: usize = 64;

/// How long a client has to take a last word: one that reads takes it at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// How often a full inlet looks whether it stands in anybody's way.
const LOOK: Duration = Duration::from_secs(10);

/// Looks after which a full inlet ends its channel although only other channels of the connection
/// wait for it (1 min).
const LOOKS_WITH_OTHERS: u32 = 6;

/// Looks after which a full inlet ends its channel in any case (10 min): the connection could not
/// even notice that its client is gone.
const LOOKS: u32 = 60;

/// What a channel's parts know of one another.
#[derive(Debug)]
pub(super) struct Traffic {
    /// Output waits for the client, or for the connection.
    stuck: AtomicBool,
    /// Channels of the connection.
    channels: Arc<AtomicUsize>,
}

impl Traffic {
    pub(super) fn new(channels: Arc<AtomicUsize>) -> Self {
        Self {
            stuck: AtomicBool::new(false),
            channels,
        }
    }

    /// Runs what sends output.
    pub(super) async fn sending<T>(&self, sending: impl Future<Output = T>) -> T {
        self.stuck.store(true, Ordering::Relaxed);
        let sent = sending.await;
        self.stuck.store(false, Ordering::Relaxed);
        sent
    }

    fn is_in_the_way(&self, looks: u32) -> bool {
        self.stuck.load(Ordering::Relaxed)
            || looks >= LOOKS
            || looks >= LOOKS_WITH_OTHERS && self.channels.load(Ordering::Relaxed) > 1
    }
}

/// Why an inlet has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InletEnd {
    /// The client closed the channel, or is gone.
    Closed,
    /// Nothing moved any more.
    Stuck,
}

/// Carries what the client sends to `sink` until the channel closes; other messages go to `other`.
pub(super) async fn carry<W, F>(
    channel: &mut ChannelReadHalf,
    sink: W,
    traffic: &Traffic,
    mut other: impl FnMut(ChannelMsg) -> F,
) -> InletEnd
where
    W: AsyncWrite + Unpin,
    F: Future<Output = ()>,
{
    let (sender, receiver) = mpsc::channel(WAITING);
    let writing = async {
        write_all(receiver, sink).await;
        // What comes after is read and left: the command has closed its stdin.
        std::future::pending::<()>().await;
    };
    let reading = async {
        let mut sender = Some(sender);
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } => {
                    if let Some(open) = &sender
                        && !push(open, data, traffic).await
                    {
                        return InletEnd::Stuck;
                    }
                }
                ChannelMsg::Eof => sender = None,
                ChannelMsg::Close => return InletEnd::Closed,
                message => other(message).await,
            }
        }
        InletEnd::Closed
    };
    tokio::select! {
        end = reading => end,
        () = writing => InletEnd::Closed,
    }
}

/// Hands a packet on; false when nothing moves any more.
async fn push(sender: &mpsc::Sender<Bytes>, data: Bytes, traffic: &Traffic) -> bool {
    let mut looks = 0;
    loop {
        match timeout(LOOK, sender.reserve()).await {
            Ok(Ok(permit)) => {
                permit.send(data);
                return true;
            }
            Ok(Err(_)) => return true,
            Err(_) => {
                looks += 1;
                if traffic.is_in_the_way(looks) {
                    return false;
                }
            }
        }
    }
}

async fn write_all<W: AsyncWrite + Unpin>(mut receiver: mpsc::Receiver<Bytes>, mut sink: W) {
    while let Some(bytes) = receiver.recv().await {
        if sink.write_all(&bytes).await.is_err() {
            return;
        }
        if receiver.is_empty() && sink.flush().await.is_err() {
            return;
        }
    }
    let _ = sink.shutdown().await;
}
