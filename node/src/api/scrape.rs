//! A second address that serves the metrics and nothing else, for a Prometheus on another machine.
//!
//! No token guards it, so it must never answer anything but `/metrics`, and what stands there names no
//! other peer and no file. It takes few connections, each for one short request, so that whoever can reach
//! the address can keep others from the metrics and the node from nothing.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::CONNECTION;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::MetricsText;
use super::node::METRICS_TYPE;

/// Connections at a time: some Prometheus servers and somebody with a browser.
const MAX_CONNECTIONS: usize = 16;

/// The longest life of a connection; Prometheus gives up after 10 s.
const MAX_LIFE: Duration = Duration::from_secs(15);

/// How long a text is given again, so that whoever asks all the time costs the node no more than one
/// that asks every second.
const KEPT: Duration = Duration::from_secs(1);

/// The metrics, and what they were a moment ago.
#[derive(Clone)]
struct Page {
    metrics: MetricsText,
    last: Arc<Mutex<Option<(Instant, String)>>>,
}

/// Answers scrapes on `listener` until `stop` is cancelled.
///
/// # Errors
/// When the listener fails.
pub async fn serve_metrics(
    listener: TcpListener,
    metrics: MetricsText,
    stop: CancellationToken,
) -> io::Result<()> {
    let app = Router::new()
        .route("/metrics", get(answer))
        .layer(DefaultBodyLimit::max(0))
        .with_state(Page {
            metrics,
            last: Arc::default(),
        });
    let listener = Few {
        inner: listener,
        slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        life: MAX_LIFE,
    };
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn answer(State(page): State<Page>) -> impl IntoResponse {
    let headers = [METRICS_TYPE, (CONNECTION, "close")];
    (headers, page.text().await)
}

impl Page {
    /// Others who ask meanwhile wait for the same text.
    async fn text(&self) -> String {
        let mut last = self.last.lock().await;
        if let Some((at, text)) = last.as_ref()
            && at.elapsed() < KEPT
        {
            return text.clone();
        }
        let text = (self.metrics)().await;
        *last = Some((Instant::now(), text.clone()));
        text
    }
}

/// Accepts a few connections at a time; others wait in the system's queue.
struct Few {
    inner: TcpListener,
    slots: Arc<Semaphore>,
    life: Duration,
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
                    let short = Short {
                        stream,
                        life: Box::pin(tokio::time::sleep(self.life)),
                        _slot: slot,
                    };
                    return (short, address);
                }
                Err(error) => {
                    // Out of descriptors, or a connection that is gone already.
                    tracing::debug!(%error, "a scrape was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// A connection that ends when its life is over, whatever it waits for.
struct Short {
    stream: TcpStream,
    life: Pin<Box<Sleep>>,
    _slot: OwnedSemaphorePermit,
}

impl Short {
    fn over(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
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
        Pin::new(&mut self.stream).poll_read(cx, buf)
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

    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Serves `text`, and says where.
    async fn serving(text: &'static str) -> (SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let metrics: MetricsText = Arc::new(move || Box::pin(async move { text.to_owned() }));
        tokio::spawn(serve_metrics(listener, metrics, stop.clone()));
        (address, stop)
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // Ends because the server closes it.
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn nothing_but_the_metrics_is_served_and_only_to_be_read() {
        let (address, _stop) = serving("figures\n").await;
        let whole = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(whole.starts_with("HTTP/1.1 200 "), "{whole}");
        assert!(whole.contains("application/openmetrics-text"), "{whole}");
        assert!(whole.ends_with("\r\n\r\nfigures\n"), "{whole}");
        for request in [
            "GET / HTTP/1.0\r\n\r\n",
            "GET /api/v1/status HTTP/1.0\r\n\r\n",
            "GET /api/v1/jobs HTTP/1.0\r\nAuthorization: Bearer x\r\n\r\n",
        ] {
            let answer = ask(address, request).await;
            assert!(answer.starts_with("HTTP/1.0 404 "), "{answer}");
        }
        let post = "POST /metrics HTTP/1.0\r\nContent-Length: 0\r\n\r\n";
        let answer = ask(address, post).await;
        assert!(answer.starts_with("HTTP/1.0 405 "), "{answer}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn asking_all_the_time_asks_the_node_once_a_second() {
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let metrics: MetricsText = Arc::new(move || {
            let number = count.fetch_add(1, Ordering::Relaxed) + 1;
            Box::pin(async move { number.to_string() })
        });
        let page = Page {
            metrics,
            last: Arc::default(),
        };
        for _ in 0..1_000 {
            page.text().await;
        }
        assert!(asked.load(Ordering::Relaxed) < 10, "{asked:?}");
        tokio::time::sleep(KEPT).await;
        assert_ne!(page.text().await, "1");
    }

    #[tokio::test]
    async fn connections_that_say_nothing_end_and_make_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut few = Few {
            inner: listener,
            slots: Arc::new(Semaphore::new(1)),
            life: Duration::from_millis(50),
        };
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
}
