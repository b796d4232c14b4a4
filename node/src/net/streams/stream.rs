//! An open stream, as its user sees it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::swarm::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::super::metrics::ByteCounters;
use super::super::protocols::StreamKind;
use super::path::{Path, Way};
use super::slots::Slot;

/// A stream to or from a peer: tokio's `AsyncRead` and `AsyncWrite`, with back-pressure from end to
/// end. Shutting it down tells the peer that no more comes; dropping it before that resets it.
#[derive(Debug)]
pub struct NetStream {
    inner: Box<Compat<Stream>>,
    peer: PeerId,
    kind: StreamKind,
    bytes: ByteCounters,
    path: Way,
    /// The end of the connection, for whoever reads and whoever writes.
    closed: [End; 2],
    _slot: Slot,
}

/// The end of the connection under a stream. Yamux leaves streams asleep when this node closes a connection
/// itself: what was pending would be so for ever.
type End = Pin<Box<WaitForCancellationFutureOwned>>;

/// What a poll came to, unless it waits for something on a connection that is closed.
fn while_open<T>(
    polled: Poll<io::Result<T>>,
    closed: &mut End,
    cx: &mut Context<'_>,
) -> Poll<io::Result<T>> {
    if polled.is_ready() || closed.as_mut().poll(cx).is_pending() {
        return polled;
    }
    let why = "the connection under it is closed";
    Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, why)))
}

impl NetStream {
    pub(super) fn new(
        stream: Stream,
        peer: PeerId,
        kind: StreamKind,
        bytes: ByteCounters,
        slot: Slot,
        path: Arc<Path>,
    ) -> Self {
        let end = || Box::pin(path.closed().clone().cancelled_owned());
        Self {
            closed: [end(), end()],
            inner: Box::new(stream.compat()),
            peer,
            kind,
            bytes,
            path: Way::new(path),
            _slot: slot,
        }
    }

    /// Who is at the other end. Proven by the connection's handshake.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// What it was opened for.
    #[must_use]
    pub fn kind(&self) -> StreamKind {
        self.kind
    }

    /// Whether it goes through a relay.
    #[must_use]
    pub fn is_relayed(&self) -> bool {
        self.path.is_relayed()
    }

    /// Cancelled when it goes through a relay and a direct connection to the peer stands: whoever has much
    /// to read should go on over another stream.
    #[must_use]
    pub fn better_way(&self) -> CancellationToken {
        self.path.better().clone()
    }
}

impl AsyncRead for NetStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let came = buf.filled().len() - before;
        self.bytes.received.inc_by(came as u64);
        self.path.received(came);
        while_open(polled, &mut self.closed[0], cx)
    }
}

impl AsyncWrite for NetStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = polled {
            self.bytes.sent.inc_by(written as u64);
            self.path.sent(written);
        }
        while_open(polled, &mut self.closed[1], cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        while_open(polled, &mut self.closed[1], cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        while_open(polled, &mut self.closed[1], cx)
    }
}
