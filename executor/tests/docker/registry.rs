//! A registry of one image on loopback, to pull from. Engines take plain HTTP from loopback. It can
//! want credentials, in the two ways that registries do.

use std::collections::HashMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const NAME: &str = "p2pnode-test/pulled";
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Whom the registry serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// Who sends [`USER`] and [`PASSWORD`] with every request.
    Basic,
    /// Who has fetched a token with them.
    Token,
}

pub const USER: &str = "somebody";
pub const PASSWORD: &str = "p4ssw0rd-of-somebody";
/// The two as a header has them.
const BASIC: &str = "Basic c29tZWJvZHk6cDRzc3cwcmQtb2Ytc29tZWJvZHk=";
const TOKEN: &str = "token-of-the-test";

/// What stands under each path: content type and bytes.
struct Files {
    gate: Gate,
    address: String,
    by_path: HashMap<String, (&'static str, Vec<u8>)>,
    layers: AtomicUsize,
    requests: AtomicUsize,
}

/// Serves until dropped.
pub struct Registry {
    /// The image's name, to be pulled.
    pub reference: String,
    /// Bytes of its one layer.
    pub layer_bytes: u64,
    /// The image's id.
    pub id: String,
    files: Arc<Files>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Registry {
    pub async fn start() -> Self {
        Self::behind(Gate::Open).await
    }

    /// How often the layer was given away.
    pub fn layers(&self) -> usize {
        self.files.layers.load(Ordering::SeqCst)
    }

    /// How often somebody connected to it.
    pub fn requests(&self) -> usize {
        self.files.requests.load(Ordering::SeqCst)
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.files.address
    }

    pub async fn behind(gate: Gate) -> Self {
        Self::serving(gate, random_layer()).await
    }

    /// Of an image whose one layer is this archive.
    pub async fn serving(gate: Gate, layer: Vec<u8>) -> Self {
        let layer_bytes = layer.len() as u64;
        let (id, by_path) = published(layer);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let reference = format!("{address}/{NAME}");
        let files = Arc::new(Files {
            gate,
            address,
            by_path,
            layers: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        });
        let served = Arc::clone(&files);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                served.requests.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer(stream, Arc::clone(&served)));
            }
        });
        Self {
            reference,
            layer_bytes,
            id,
            files,
            server,
        }
    }
}

/// What a registry has of an image with one layer: the image's id, and what stands at which path.
fn published(layer: Vec<u8>) -> (String, HashMap<String, (&'static str, Vec<u8>)>) {
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
    let blob = |bytes: &[u8]| format!("/v2/{NAME}/blobs/{}", digest(bytes));
    let id = digest(&config);
    let by_path = HashMap::from([
        ("/v2/".to_owned(), ("application/json", b"{}".to_vec())),
        (blob(&config), ("application/octet-stream", config)),
        (blob(&layer), ("application/octet-stream", layer)),
        (
            format!("/v2/{NAME}/manifests/{}", digest(&manifest)),
            (MANIFEST, manifest.clone()),
        ),
        (format!("/v2/{NAME}/manifests/latest"), (MANIFEST, manifest)),
    ]);
    (id, by_path)
}

/// Random enough not to be compressed on the way, so that progress counts its bytes; and another each
/// time.
fn random_layer() -> Vec<u8> {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut state = (u64::from(std::process::id()) << 20) + serial;
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
    layer.into_inner().unwrap()
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
    let (mut line, mut shown) = (String::new(), String::new());
    while stream.read_line(&mut line).await? > 2 {
        if let Some((name, value)) = line.trim().split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            value.clone_into(&mut shown);
        }
        line.clear();
    }
    let mut words = request.split(' ');
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let for_token = path.starts_with("/token");
    let wanted = match files.gate {
        Gate::Open => None,
        Gate::Token if !for_token => Some(format!("Bearer {TOKEN}")),
        Gate::Basic | Gate::Token => Some(BASIC.to_owned()),
    };
    if wanted.is_some_and(|wanted| wanted != shown) {
        let how = match files.gate {
            Gate::Token => format!(
                "Bearer realm=\"http://{}/token\",service=\"test\"",
                files.address
            ),
            _ => "Basic realm=\"test\"".to_owned(),
        };
        let refusal = format!(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {how}\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
        return stream.write_all(refusal.as_bytes()).await;
    }
    let token = (
        "application/json",
        format!("{{\"token\":\"{TOKEN}\"}}").into_bytes(),
    );
    let found = if for_token {
        Some(&token)
    } else {
        files.by_path.get(path)
    };
    let Some((kind, body)) = found else {
        let missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(missing).await;
    };
    if method == "GET" && body.len() > 1 << 20 {
        files.layers.fetch_add(1, Ordering::SeqCst);
    }
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
