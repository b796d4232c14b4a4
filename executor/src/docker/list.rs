//! Which containers carry our label.
//!
//! The one request that doesn't go through bollard: its types are Docker's, and Podman lists
//! containers in states that Docker has no name for, upon which nothing at all could be read. What
//! removes strangers' containers after a crash must not hang on that, so only the fields that
//! matter are read here.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::labels;

/// Longest wait for the list: an engine under load has been seen to take seconds for it.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer read: a container takes about 2 KiB, and no machine runs 30,000 of ours.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// A container of p2pnode's, of whichever node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ours {
    /// The engine's id of it.
    pub id: String,
    /// The value of its label [`labels::NODE`].
    pub owner: String,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Names")]
    names: Option<Vec<String>>,
    #[serde(rename = "Labels")]
    labels: Option<HashMap<String, String>>,
}

/// All containers with the label [`labels::NODE`] and the name that goes with it, running or not, of the engine at `address` (a
/// path, `unix://...`, `tcp://...` or `http://...`).
///
/// # Errors
/// When the engine can't be reached or does not answer with a list.
pub(super) async fn ours(address: &str) -> io::Result<Vec<Ours>> {
    let tcp = address
        .strip_prefix("tcp://")
        .or_else(|| address.strip_prefix("http://"));
    let asked = async {
        match tcp {
            Some(host) => ask(TcpStream::connect(host.trim_end_matches('/')).await?).await,
            None => {
                let path = address.strip_prefix("unix://").unwrap_or(address);
                ask(UnixStream::connect(path).await?).await
            }
        }
    };
    parse(&timeout(LIST_TIMEOUT, asked).await??)
}

/// HTTP/1.0: the answer comes in one piece, and its end is the connection's.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<Vec<u8>> {
    // {"label":["p2pnode.node"]}
    let filters = format!("%7B%22label%22%3A%5B%22{}%22%5D%7D", labels::NODE);
    let request = format!(
        "GET /containers/json?all=1&filters={filters} HTTP/1.0\r\nHost: engine\r\n\
         Accept: application/json\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut answer)
        .await?;
    Ok(answer)
}

fn parse(answer: &[u8]) -> io::Result<Vec<Ours>> {
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let blank = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = match blank {
        Some(at) => (&answer[..at], &answer[at + 4..]),
        None => return Err(wrong("the engine's answer is no HTTP".into())),
    };
    let status = head.split(|byte| *byte == b' ').nth(1);
    if status != Some(b"200") {
        let line: String = String::from_utf8_lossy(head).lines().take(1).collect();
        return Err(wrong(format!(
            "the engine does not list its containers: {line}"
        )));
    }
    let listed: Vec<Listed> = serde_json::from_slice(body)?;
    let ours = listed.into_iter().filter_map(|mut container| {
        let owner = container.labels.as_mut()?.remove(labels::NODE)?;
        // A container has its image's labels as well: with the label alone it may be the owner's.
        let names = container.names.unwrap_or_default();
        if !names.iter().any(|name| labels::is_name_of(&owner, name)) {
            return None;
        }
        Some(Ours {
            id: container.id,
            owner,
        })
    });
    Ok(ours.collect())
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn states_of_every_engine_are_read_over() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1_024];
            let count = stream.read(&mut request).await.unwrap();
            let body = r#"[{"Id":"a","Names":["/p2pnode-x-1-7"],"State":"stopped",
                  "Labels":{"p2pnode.node":"x:1","b":"c"}},
                {"Id":"f","Names":["/mine"],"Labels":{"p2pnode.node":"x:1"}},
                {"Id":"g","Names":["/p2pnode-x-1-mine"],"Labels":{"p2pnode.node":"x:1"}},
                {"Id":"h","Names":["/p2pnode-x-2-1"],"Labels":{"p2pnode.node":"x:1"}},
                {"Id":"i","Labels":{"p2pnode.node":"x:1"}},
                {"Id":"d","State":"running","Labels":null},{"Id":"e","Labels":{}}]"#;
            let head = "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n";
            stream
                .write_all(format!("{head}{body}").as_bytes())
                .await
                .unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        };
        let address = format!("unix://{}", socket.display());
        let (listed, request) = tokio::join!(ours(&address), serve);
        let expected = Ours {
            id: "a".into(),
            owner: "x:1".into(),
        };
        assert_eq!(listed.unwrap(), [expected]);
        assert!(
            request.contains("all=1") && request.contains("p2pnode.node"),
            "{request}"
        );
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        for answer in [
            "",
            "HTTP/1.0 200 OK",
            "HTTP/1.0 500 Oops\r\n\r\n[]",
            "HTTP/1.0 200 OK\r\n\r\n{}",
            "HTTP/1.0 200 OK\r\n\r\n[{\"Id\":\"a\"",
        ] {
            assert!(parse(answer.as_bytes()).is_err(), "{answer}");
        }
    }
}
