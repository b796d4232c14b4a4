//! The bearer token: whoever can read the node's data directory may use its API.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use p2pnode_protocol::Digest;
use p2pnode_protocol::api::ErrorCode;

use super::error::Refused;

/// The digest of the right token. Comparing digests takes the same time wherever two tokens differ.
#[derive(Clone)]
pub(super) struct Token(Arc<Digest>);

impl Token {
    pub(super) fn new(token: &str) -> Self {
        Self(Arc::new(Digest::of(token.as_bytes())))
    }
}

/// Lets a request pass that carries the token.
pub(super) async fn require(State(token): State<Token>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(|given| Digest::of(given.as_bytes()));
    if given == Some(*token.0) {
        return next.run(request).await;
    }
    let refused = Refused::new(
        ErrorCode::Unauthorized,
        "send the header `Authorization: Bearer TOKEN`; the token is in the file `token` of the node's data directory",
    );
    // Whoever has no token gets no place to stay in.
    ([(CONNECTION, "close")], refused).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;

    use crate::api::{MetricsText, serve};
    use crate::command::NodeHandle;
    use crate::net::NetConfig;
    use crate::tunnels::{Doors, Tunnels};

    /// Every route with its methods; the test counts them in the source, so none can be left out.
    const ROUTES: [(&str, &[&str]); 33] = [
        ("/api/v1/jobs", &["GET", "POST"]),
        ("/api/v1/jobs/last", &["GET"]),
        ("/api/v1/jobs/last/tasks", &["GET"]),
        ("/api/v1/jobs/last/logs", &["GET"]),
        ("/api/v1/jobs/last/cancel", &["POST"]),
        ("/api/v1/jobs/last/events", &["GET"]),
        ("/api/v1/jobs/last/tunnel", &["POST"]),
        ("/api/v1/forwards", &["GET", "POST"]),
        ("/api/v1/forwards/1", &["DELETE"]),
        ("/api/v1/peers/x/ping", &["POST"]),
        ("/api/v1/peers/x/path", &["GET"]),
        ("/api/v1/peers/x/find", &["GET"]),
        ("/api/v1/find", &["POST"]),
        ("/api/v1/hosted", &["GET"]),
        ("/api/v1/hosted/kill", &["POST"]),
        ("/api/v1/hosted/pause", &["POST"]),
        ("/api/v1/hosted/resume", &["POST"]),
        ("/api/v1/drain", &["GET", "PUT"]),
        ("/api/v1/history", &["GET"]),
        ("/api/v1/usage", &["GET"]),
        ("/api/v1/status", &["GET"]),
        ("/api/v1/peers", &["GET"]),
        ("/api/v1/offer", &["PUT"]),
        ("/api/v1/fit", &["POST"]),
        ("/api/v1/allowed", &["GET"]),
        ("/api/v1/allowed/x", &["PUT", "DELETE"]),
        ("/api/v1/requests", &["GET"]),
        ("/api/v1/stop", &["POST"]),
        ("/api/v1/events", &["GET"]),
        ("/api/v1/openapi.json", &["GET"]),
        ("/metrics", &["GET"]),
        // No routes, and nobody without a token learns that.
        ("/", &["GET"]),
        ("/api/v1/none", &["GET"]),
    ];

    async fn ask(address: std::net::SocketAddr, method: &str, path: &str, with: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{with}Content-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // Who is refused is sent away, so the answer has an end.
        let read = stream.read_to_string(&mut answer);
        let read = tokio::time::timeout(Duration::from_secs(20), read).await;
        read.expect("the connection is kept").unwrap();
        answer
    }

    #[tokio::test]
    async fn every_route_refuses_who_has_no_token_or_a_wrong_one() {
        let routes = include_str!("mod.rs").matches(".route(").count();
        assert_eq!(ROUTES.len(), routes + 2, "a route is not asked here");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (commands, mut asked) = tokio::sync::mpsc::channel(8);
        let events = tokio::sync::broadcast::channel(8).0;
        let node = NodeHandle::new(p2pnode_protocol::PeerId::random(), commands, events);
        let metrics: MetricsText = std::sync::Arc::new(|| Box::pin(async { "x".to_owned() }));
        let token = "0123456789abcdef".repeat(4);
        let stop = CancellationToken::new();
        let key = libp2p::identity::Keypair::generate_ed25519();
        let net = crate::net::start(NetConfig::in_memory(key, "test")).await;
        let (net, _events) = crate::networks::Networks::one(net.unwrap());
        let tunnels = Tunnels::new(net, Doors::default(), [0; 32], false);
        let serving = serve(
            listener,
            node.clone(),
            tunnels,
            token.clone(),
            metrics,
            stop,
        );
        tokio::spawn(serving);
        let wrong = [
            String::new(),
            "Authorization: Bearer \r\n".to_owned(),
            format!("Authorization: Bearer {}\r\n", "0".repeat(64)),
            format!("Authorization: Bearer {}\r\n", &token[..63]),
            format!("Authorization: Bearer {token}0\r\n"),
            format!("Authorization: Basic {token}\r\n"),
            format!("Cookie: token={token}\r\n"),
        ];
        for (path, methods) in ROUTES {
            for method in methods {
                for with in &wrong {
                    let answer = ask(address, method, path, with).await;
                    assert!(
                        answer.starts_with("HTTP/1.1 401 "),
                        "{method} {path}: {answer}"
                    );
                    assert!(!answer.contains(&token));
                }
            }
        }
        let in_query = format!("/api/v1/status?token={token}");
        let answer = ask(address, "GET", &in_query, "").await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(asked.try_recv().is_err(), "the node was asked");
        assert!(!node.stopping().is_cancelled());
        let right = format!("Authorization: Bearer {token}\r\nConnection: close\r\n");
        let answer = ask(address, "GET", "/metrics", &right).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}
