//! A second address that serves the metrics and nothing else, for a Prometheus on another machine.
//!
//! No token guards it, so it must never answer anything but `/metrics`, and what stands there names no
//! other peer and no file. It takes few connections, each for one short request, so that whoever can reach
//! the address can keep others from the metrics and the node from nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::CONNECTION;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::MetricsText;
use super::few::{Few, Limit};
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
    let listener = Few::new(listener, MAX_CONNECTIONS, Limit::Life(MAX_LIFE));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

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
}
