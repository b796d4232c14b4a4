//! An open stream, as its user sees it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::swarm::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use super::super::metrics::ByteCounters;
use super::super::protocols::StreamKind;
use super::slots::Slot;

/// A stream to or from a peer: tokio's `AsyncRead` and `AsyncWrite`, with back-pressure from end to
/// end. Shutting it down tells the peer that no more comes; dropping it before that resets it.
#[derive(Debug)]
pub struct NetStream {
    inner: Box<Compat<Stream>>,
    peer: PeerId,
    kind: StreamKind,
    bytes: ByteCounters,
    _slot: Slot,
}

impl NetStream {
    pub(super) fn new(
        stream: Stream,
        peer: PeerId,
        kind: StreamKind,
        bytes: ByteCounters,
        slot: Slot,
    ) -> Self {
        Self {
            inner: Box::new(stream.compat()),
            peer,
            kind,
            bytes,
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
}

impl AsyncRead for NetStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.bytes
            .received
            .inc_by((buf.filled().len() - before) as u64);
        polled
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
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
