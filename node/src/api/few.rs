//! Connections to the addresses that this node serves HTTP on: so many at a time, and none for long that
//! says nothing.
//!
//! Everybody on the machine reaches the local API's address, and everybody who can reach it the metrics'.
//! Neither may cost the node its file descriptors.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// For how long a connection may keep its place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    /// No longer than this, whatever it does.
    Life(Duration),
    /// Its first request must have come to the end of its header by then. Who has shown the token may
    /// stay, and who has not is sent away with the answer.
    Header(Duration),
}

/// Accepts a few connections at a time; others wait in the system's queue.
pub(super) struct Few {
    inner: TcpListener,
    slots: Arc<Semaphore>,
    limit: Limit,
}

impl Few {
    /// At most `places` connections at a time.
    pub(super) fn new(inner: TcpListener, places: usize, limit: Limit) -> Self {
        Self {
            inner,
            slots: Arc::new(Semaphore::new(places)),
            limit,
        }
    }
}

impl axum::serve::Listener for Few {
    type Io = Short;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // Never closed; were it, nobody would be let in.
            let Ok(slot) = self.slots.clone().acquire_owned().await else {
                std::future::pending().await
            };
            match self.inner.accept().await {
                Ok((stream, address)) => {
                    // Small answers must not wait for a full segment.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "no TCP_NODELAY on a connection");
                    }
                    let (life, header) = match self.limit {
                        Limit::Life(life) => (life, None),
                        Limit::Header(life) => (life, Some(Header::default())),
                    };
                    let short = Short {
                        stream,
                        life: Box::pin(tokio::time::sleep(life)),
                        header,
                        _slot: slot,
                    };
                    return (short, address);
                }
                Err(error) => {
                    // Out of descriptors, or a connection that is gone already.
                    tracing::debug!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// How far the first request's header is.
#[derive(Debug, Default)]
struct Header {
    /// Something other than the end of a line came: empty lines before a request are none of it.
    is_begun: bool,
    /// The last character was the end of a line.
    at_line_end: bool,
    is_whole: bool,
}

impl Header {
    /// An empty line ends it.
    fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => {
                    self.is_whole |= self.is_begun && self.at_line_end;
                    self.at_line_end = true;
                }
                b'\r' => {}
                _ => {
                    self.is_begun = true;
                    self.at_line_end = false;
                }
            }
        }
    }
}

/// A connection that ends when its life is over, whatever it waits for.
pub(super) struct Short {
    stream: TcpStream,
    life: Pin<Box<Sleep>>,
    /// Of a connection that may stay once its first header came.
    header: Option<Header>,
    _slot: OwnedSemaphorePermit,
}

impl Short {
    fn over(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.header.as_ref().is_some_and(|header| header.is_whole) {
            return Ok(());
        }
        match self.life.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Short {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.over(cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(header) = &mut self.header
            && !header.is_whole
        {
            header.read(buf.filled().get(before..).unwrap_or_default());
        }
        read
    }
}

impl AsyncWrite for Short {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.over(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.over(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn connections_that_say_nothing_end_and_make_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut few = Few::new(listener, 1, Limit::Life(Duration::from_millis(50)));
        let _silent = TcpStream::connect(address).await.unwrap();
        let _waiting = TcpStream::connect(address).await.unwrap();
        let (mut first, _) = axum::serve::Listener::accept(&mut few).await;
        let mut second = std::pin::pin!(axum::serve::Listener::accept(&mut few));
        let early = tokio::time::timeout(Duration::from_millis(20), &mut second).await;
        assert!(early.is_err(), "one at a time");
        let ended = first.read_u8().await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        drop(first);
        let limit = Duration::from_secs(20);
        assert!(tokio::time::timeout(limit, second).await.is_ok());
    }

    #[tokio::test]
    async fn who_has_sent_a_header_may_stay_and_who_sends_none_may_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let life = Duration::from_millis(100);
        let mut few = Few::new(listener, 2, Limit::Header(life));
        let mut speaks = TcpStream::connect(address).await.unwrap();
        let (mut stays, _) = axum::serve::Listener::accept(&mut few).await;
        let mut drips = TcpStream::connect(address).await.unwrap();
        let (mut goes, _) = axum::serve::Listener::accept(&mut few).await;
        speaks
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        drips
            .write_all(b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n")
            .await
            .unwrap();
        let mut read = [0; 64];
        assert_eq!(stays.read(&mut read).await.unwrap(), 27);
        assert_eq!(goes.read(&mut read).await.unwrap(), 29);
        let ended = goes.read_u8().await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        tokio::time::sleep(life).await;
        speaks.write_all(b"x").await.unwrap();
        assert_eq!(stays.read_u8().await.unwrap(), b'x');
    }
}
