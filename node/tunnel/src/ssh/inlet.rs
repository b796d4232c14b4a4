//! Between a client that sends and a sandbox that does not read.
//!
//! The SSH library opens a channel's window again as soon as bytes have come, and stops reading the
//! whole connection when a channel's queue is full. That slows the client down, which is meant, but
//! it also keeps the client's own window adjustments from being read: a command that waits for the
//! client to take its output, while its input stands before the adjustment that would let it go on,
//! would wait for ever. So an inlet that is full waits only while output flows. When output is stuck
//! it takes more, out of a store that all connections share, until the adjustment has come; and when
//! even that is used up, it ends the channel that is at fault.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use p2pnode_protocol::PeerId;
use russh::{ChannelMsg, ChannelReadHalf};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Bytes that wait here for a command, beyond those that wait in the library: OpenSSH's window.
const WAITING_BYTES: usize = 2 << 20;

/// What all connections together may keep beyond that, in KiB (512 MiB).
const OVERFLOW_KIB: usize = 512 << 10;

/// What those of one peer may, in KiB (256 MiB): for a hundred commands at a time the 2 MiB that stand, as a
/// rule, before a window adjustment in the buffers of the way.
const OVERFLOW_OF_PEER_KIB: usize = 256 << 10;

/// Output that is not taken for so long is stuck: longer than a busy machine needs, shorter than
/// anybody notices.
const STUCK_AFTER: Duration = Duration::from_millis(5);

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

/// The store that connections share.
#[derive(Debug)]
pub(crate) struct Overflow {
    all: Arc<Semaphore>,
    /// Shares of peers that have connections.
    peers: Mutex<HashMap<PeerId, Weak<Semaphore>>>,
}

impl Default for Overflow {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(OVERFLOW_KIB)),
            peers: Mutex::default(),
        }
    }
}

impl Overflow {
    /// The share of one peer, over all of its connections.
    pub(super) fn of(&self, peer: PeerId) -> OverflowShare {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = peers.get(&peer).and_then(Weak::upgrade);
        let mine = known.unwrap_or_else(|| {
            // As many stay as peers have connections, which are bounded.
            peers.retain(|_, share| share.strong_count() > 0);
            let fresh = Arc::new(Semaphore::new(OVERFLOW_OF_PEER_KIB));
            peers.insert(peer, Arc::downgrade(&fresh));
            fresh
        });
        OverflowShare {
            all: Arc::clone(&self.all),
            mine,
        }
    }
}

/// One peer's share of the store: no other is left without room by it.
#[derive(Debug, Clone)]
pub(super) struct OverflowShare {
    all: Arc<Semaphore>,
    mine: Arc<Semaphore>,
}

/// Room in the store; dropped, it is free.
type Room = [OwnedSemaphorePermit; 2];

impl OverflowShare {
    fn take(&self, bytes: usize) -> Option<Room> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        let take = |from: &Arc<Semaphore>| Arc::clone(from).try_acquire_many_owned(kib).ok();
        Some([take(&self.mine)?, take(&self.all)?])
    }
}

/// What a channel's parts know of one another.
#[derive(Debug)]
pub(super) struct Traffic {
    /// Whether output waits for the client, or for the connection.
    stuck: watch::Sender<bool>,
    /// Channels of the connection.
    channels: Arc<AtomicUsize>,
    /// The client's end was passed on, after all that it sent.
    input_ended: CancellationToken,
    overflow: OverflowShare,
}

impl Traffic {
    pub(super) fn new(channels: Arc<AtomicUsize>, overflow: OverflowShare) -> Self {
        Self {
            stuck: watch::Sender::new(false),
            channels,
            input_ended: CancellationToken::new(),
            overflow,
        }
    }

    /// Waits until the client has sent its last byte, and it was passed on or has nowhere to go.
    pub(super) async fn input_ended(&self) {
        self.input_ended.cancelled().await;
    }

    /// Runs what sends output.
    pub(super) async fn sending<T>(&self, sending: impl Future<Output = T>) -> T {
        tokio::pin!(sending);
        if let Ok(sent) = timeout(STUCK_AFTER, &mut sending).await {
            return sent;
        }
        self.stuck.send_replace(true);
        let sent = sending.await;
        self.stuck.send_replace(false);
        sent
    }

    fn is_stuck(&self) -> bool {
        *self.stuck.borrow()
    }

    fn is_in_the_way(&self, looks: u32) -> bool {
        self.is_stuck()
            || looks >= LOOKS
            || looks >= LOOKS_WITH_OTHERS && self.channels.load(Ordering::Relaxed) > 1
    }
}

/// What waits for a command. Whoever fills it and whoever empties it are polled together, by [`carry`],
/// so neither wakes the other: a task that wakes itself makes the runtime wake another thread for it, and
/// every key would pay for that.
#[derive(Default)]
struct Queue(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    packets: VecDeque<(Bytes, Option<Room>)>,
    bytes: usize,
    /// Somebody waits for room.
    crowded: bool,
    /// Nothing more comes.
    closed: bool,
    /// Nothing more is taken.
    abandoned: bool,
}

impl Queue {
    fn with<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ready once `done` says so; it is asked whenever the other side has done something.
    async fn until<T>(&self, mut done: impl FnMut(&mut Waiting) -> Option<T>) -> T {
        poll_fn(|_| self.with(&mut done).map_or(Poll::Pending, Poll::Ready)).await
    }

    /// Adds a packet if there is room; gives it back if not.
    fn offer(&self, data: Bytes, traffic: &Traffic) -> Result<(), Bytes> {
        self.with(|waiting| {
            if waiting.abandoned {
                return Ok(());
            }
            let extra = if waiting.bytes < WAITING_BYTES {
                None
            } else if traffic.is_stuck()
                && let Some(extra) = traffic.overflow.take(data.len())
            {
                Some(extra)
            } else {
                waiting.crowded = true;
                return Err(data);
            };
            waiting.bytes += data.len();
            waiting.packets.push_back((data, extra));
            Ok(())
        })
    }

    /// Adds a packet; false when nothing moves any more.
    async fn push(&self, mut data: Bytes, traffic: &Traffic) -> bool {
        let mut stuck = traffic.stuck.subscribe();
        let mut looks = 0;
        loop {
            data = match self.offer(data, traffic) {
                Ok(()) => return true,
                Err(data) => data,
            };
            tokio::select! {
                () = self.until(|waiting| (!waiting.crowded).then_some(())) => {}
                _ = stuck.changed() => {}
                () = sleep(LOOK) => {
                    looks += 1;
                    if traffic.is_in_the_way(looks) {
                        return false;
                    }
                }
            }
        }
    }

    /// The next packet; none after the last.
    async fn next(&self) -> Option<Bytes> {
        let next = |waiting: &mut Waiting| match waiting.packets.pop_front() {
            Some((data, _)) => {
                waiting.bytes -= data.len();
                waiting.crowded = false;
                Some(Some(data))
            }
            None if waiting.closed => Some(None),
            None => None,
        };
        self.until(next).await
    }

    fn close(&self) {
        self.with(|waiting| waiting.closed = true);
    }

    /// Leaves what waits, and takes what comes for nothing.
    fn abandon(&self) {
        self.with(|waiting| {
            waiting.abandoned = true;
            waiting.packets.clear();
            waiting.bytes = 0;
            waiting.crowded = false;
        });
    }

    fn is_empty(&self) -> bool {
        self.with(|waiting| waiting.packets.is_empty())
    }

    fn is_crowded(&self) -> bool {
        self.with(|waiting| waiting.crowded)
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
/// What came before the close still goes to `sink`, for `linger` at most.
pub(super) async fn carry<W, F>(
    channel: &mut ChannelReadHalf,
    sink: W,
    traffic: &Traffic,
    linger: Duration,
    mut other: impl FnMut(ChannelMsg) -> F,
) -> InletEnd
where
    W: AsyncWrite + Unpin,
    F: Future<Output = ()>,
{
    let queue = Queue::default();
    let writing = async {
        write_all(&queue, sink).await;
        // What comes after is read and left: the command has closed its stdin, or has it all.
        queue.abandon();
        traffic.input_ended.cancel();
        std::future::pending::<()>().await;
    };
    let reading = async {
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } => {
                    if !queue.push(data, traffic).await {
                        return InletEnd::Stuck;
                    }
                }
                ChannelMsg::Eof => queue.close(),
                ChannelMsg::Close => break,
                message => other(message).await,
            }
        }
        queue.close();
        let _ = timeout(linger, traffic.input_ended()).await;
        InletEnd::Closed
    };
    let (mut reading, mut writing) = (pin!(reading), pin!(writing));
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(end) = reading.as_mut().poll(cx) {
                return Poll::Ready(end);
            }
            let was_crowded = queue.is_crowded();
            if writing.as_mut().poll(cx).is_ready() {
                return Poll::Ready(InletEnd::Closed);
            }
            if !was_crowded || queue.is_crowded() {
                return Poll::Pending;
            }
        }
    })
    .await
}

async fn write_all<W: AsyncWrite + Unpin>(queue: &Queue, mut sink: W) {
    while let Some(bytes) = queue.next().await {
        if sink.write_all(&bytes).await.is_err() {
            return;
        }
        if queue.is_empty() && sink.flush().await.is_err() {
            return;
        }
    }
    let _ = sink.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_leaves_room_for_others() {
        let (store, greedy, other) = (Overflow::default(), PeerId::random(), PeerId::random());
        let share = store.of(greedy);
        let mut taken = Vec::new();
        while let Some(room) = share.take(1 << 20) {
            taken.push(room);
        }
        assert_eq!(taken.len(), OVERFLOW_OF_PEER_KIB >> 10);
        // Another connection of the same peer has the same share, and another peer one of its own.
        assert!(store.of(greedy).take(1).is_none());
        assert!(store.of(other).take(1 << 20).is_some());
        drop((taken, share));
        assert!(store.of(greedy).take(1 << 20).is_some());
        // Nothing is kept of those that are gone.
        store.of(PeerId::random());
        assert_eq!(store.peers.lock().unwrap().len(), 1);
    }
}
