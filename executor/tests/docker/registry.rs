//! A registry of one image on loopback, to pull from. Engines take plain HTTP from loopback.

use std::collections::HashMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const NAME: &str = "p2pnode-test/pulled";
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What stands under each path: content type and bytes.
type Files = HashMap<String, (&'static str, Vec<u8>)>;

/// Serves until dropped.
pub struct Registry {
    /// The image's name, to be pulled.
    pub reference: String,
    /// Bytes of its one layer.
    pub layer_bytes: u64,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Registry {
    pub async fn start() -> Self {
        // Random enough not to be compressed on the way, so that progress counts its bytes.
        let mut state = 1_u64;
        let content: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(3 << 20)
        .collect();
        let mut layer = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        layer
            .append_data(&mut header, "data", &content[..])
            .unwrap();
        let layer = layer.into_inner().unwrap();
        let layer_digest = digest(&layer);
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/data"]},
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": config.len(), "digest": digest(&config),
            },
            "layers": [{
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar",
                "size": layer.len(), "digest": layer_digest,
            }],
        });
        let manifest = manifest.to_string().into_bytes();
        let layer_bytes = layer.len() as u64;
        let blob = |bytes: &[u8]| format!("/v2/{NAME}/blobs/{}", digest(bytes));
        let files: Files = HashMap::from([
            ("/v2/".to_owned(), ("application/json", b"{}".to_vec())),
            (blob(&config), ("application/octet-stream", config)),
            (blob(&layer), ("application/octet-stream", layer)),
            (
                format!("/v2/{NAME}/manifests/{}", digest(&manifest)),
                (MANIFEST, manifest.clone()),
            ),
            (format!("/v2/{NAME}/manifests/latest"), (MANIFEST, manifest)),
        ]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let reference = format!("{}/{NAME}", listener.local_addr().unwrap());
        let files = Arc::new(files);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&files)));
            }
        });
        Self {
            reference,
            layer_bytes,
            server,
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    let mut process = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(bytes).unwrap();
    let out = process.wait_with_output().unwrap().stdout;
    format!("sha256:{}", std::str::from_utf8(&out[..64]).unwrap())
}

/// One request per connection.
async fn answer(stream: TcpStream, files: Arc<Files>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request).await?;
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let mut words = request.split(' ');
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let Some((kind, body)) = files.get(path) else {
        let missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(missing).await;
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Docker-Content-Digest: {}\r\nConnection: close\r\n\r\n",
        body.len(),
        digest(body)
    );
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(body).await?;
    }
    stream.shutdown().await
}
