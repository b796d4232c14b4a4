//! Both sides of a transfer over a stream in memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead, AsyncWrite};
use p2pnode_protocol::Digest;
use p2pnode_protocol::manifest::ChunkRef;
use proptest::prelude::*;
use tokio::io::DuplexStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::*;

pub(super) type Side = Compat<DuplexStream>;

/// Two ends of a stream that holds as much as a transport's buffers do.
pub(super) fn pair() -> (Side, Side) {
    let (a, b) = tokio::io::duplex(256 << 10);
    (a.compat(), b.compat())
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Two nodes: one with everything, one with nothing.
pub(super) struct Nodes {
    pub dir: TempDir,
    pub from: Arc<BlobStore>,
    pub to: Arc<BlobStore>,
}

impl Nodes {
    pub(super) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let open = |name| Arc::new(BlobStore::open(&dir.path().join(name), Bytes::gib(4)).unwrap());
        let (from, to) = (open("from"), open("to"));
        Self { dir, from, to }
    }

    fn input(&self, tree: &BTreeMap<Vec<u8>, Thing>) -> FetchItem {
        let input = TempDir::new_in(self.dir.path()).unwrap();
        build(&input.path().join("input"), tree);
        let (blob, _) = ingest(&self.from, &input.path().join("input")).unwrap();
        FetchItem {
            blob,
            owner: owner(),
        }
    }

    /// Serves `from` over one end for as long as the other is open.
    pub(super) fn serving(&self) -> (Side, tokio::task::JoinHandle<Result<Served, ServeError>>) {
        let (ours, mut theirs) = pair();
        let store = Arc::clone(&self.from);
        let serving = tokio::spawn(async move {
            let permits = Arc::clone(&store);
            let authorize = move |job, digest: &Digest| permits.permits(PinScope::Own(job), digest);
            serve(&mut theirs, &store, authorize, |_, _| {}).await
        });
        (ours, serving)
    }
}

pub(super) fn no_progress(_: Progress) {}

fn some_tree() -> BTreeMap<Vec<u8>, Thing> {
    let mut tree = BTreeMap::from([
        (b"dir".to_vec(), Thing::Folder),
        (b"dir/link".to_vec(), Thing::Link(b"../big".to_vec())),
    ]);
    let mut file = |path: &[u8], content| {
        let executable = path.len().is_multiple_of(2);
        tree.insert(
            path.to_vec(),
            Thing::File {
                executable,
                content,
            },
        );
    };
    file(b"big", noise(1, 20_000_000));
    file(b"empty", Vec::new());
    file(b"medium", noise(2, 100_000));
    for number in 0..2_000u32 {
        file(
            format!("dir/{number}").as_bytes(),
            number.to_le_bytes().to_vec(),
        );
    }
    tree
}

#[test]
fn a_tree_arrives_whole_and_is_not_sent_twice() {
    let nodes = Nodes::new();
    let tree = some_tree();
    let item = nodes.input(&tree);
    runtime().block_on(async {
        let (mut stream, serving) = nodes.serving();
        let seen = AtomicU64::new(0);
        let progress = |now: Progress| {
            assert!(now.done <= now.total);
            seen.fetch_max(now.done, Ordering::Relaxed);
        };
        let manifest = fetch(&mut stream, JOB, item, &nodes.to, &progress)
            .await
            .unwrap();
        assert_eq!(seen.load(Ordering::Relaxed), 20_000_000 + 100_000 + 8_000);
        write_outputs(
            &nodes.to,
            &manifest,
            &nodes.dir.path().join("out"),
            Durability::Later,
        )
        .unwrap();
        assert_eq!(snapshot(&nodes.dir.path().join("out")), tree);
        // Again over the same stream: there is nothing left to ask for.
        fetch(&mut stream, JOB, item, &nodes.to, &|now| {
            assert_eq!(now.total, 0)
        })
        .await
        .unwrap();
        drop(stream);
        let served = serving.await.unwrap().unwrap();
        let objects = nodes.from.usage().objects;
        assert_eq!((served.objects, served.refused), (objects, 0));
    });
    // What was fetched is pinned: an owner that lets go frees it.
    assert!(nodes.to.usage().pinned.0 > 20_000_000);
    nodes.to.unpin(owner());
    assert_eq!(nodes.to.usage().pinned.0, 0);
}

#[test]
fn a_request_that_ends_in_an_object_as_large_as_the_window_does_not_hang() {
    let nodes = Nodes::new();
    let objects: Vec<ChunkRef> = [1_000_000, 2_000_000, 20_000_000, 10]
        .into_iter()
        .map(|bytes| ChunkRef {
            digest: nodes.from.put(owner(), &noise(9, bytes)).unwrap(),
            bytes: bytes as u32,
        })
        .collect();
    runtime().block_on(async {
        let (mut stream, serving) = nodes.serving();
        let asking = crate::blobs::transfer::ask(&mut stream, JOB, &objects, &nodes.to, &|_| ());
        let limit = std::time::Duration::from_secs(60);
        let outcome = tokio::time::timeout(limit, asking).await.unwrap().unwrap();
        assert_eq!(outcome.bytes, 23_000_010);
        assert!(outcome.absent.is_empty());
        drop(stream);
        serving.await.unwrap().unwrap();
    });
    for object in &objects {
        assert_eq!(nodes.to.length(&object.digest), Some(object.bytes));
    }
}

#[test]
fn a_second_version_sends_only_what_changed() {
    let nodes = Nodes::new();
    let mut content = noise(5, 30_000_000);
    let mut sent = Vec::new();
    for _ in 0..2 {
        let file = Thing::File {
            executable: false,
            content: content.clone(),
        };
        let item = nodes.input(&BTreeMap::from([(b"big".to_vec(), file)]));
        runtime().block_on(async {
            let (mut stream, serving) = nodes.serving();
            fetch(&mut stream, JOB, item, &nodes.to, &no_progress)
                .await
                .unwrap();
            drop(stream);
            sent.push(serving.await.unwrap().unwrap());
        });
        content.insert(15_000_000, b'!');
    }
    assert!(
        sent[0].objects > 80 && sent[0].bytes >= 30_000_000,
        "{sent:?}"
    );
    // The manifest, and the piece that was changed with at most its neighbour.
    assert!(
        sent[1].objects <= 4 && sent[1].bytes < 2_500_000,
        "{sent:?}"
    );
}

#[test]
fn many_small_blobs_come_in_two_rounds() {
    let nodes = Nodes::new();
    let items: Vec<FetchItem> = (0..500)
        .map(|index| {
            let content = format!("output of {index}").into_bytes();
            let file = Thing::File {
                executable: false,
                content,
            };
            let item = nodes.input(&BTreeMap::from([(b"out.txt".to_vec(), file)]));
            FetchItem {
                owner: attempt(index),
                ..item
            }
        })
        .collect();
    let unknown = FetchItem {
        blob: BlobRef {
            digest: Digest::of(b"unknown"),
            manifest_bytes: 7,
            content_bytes: 0,
        },
        owner: attempt(1_000),
    };
    runtime().block_on(async {
        let (mut stream, serving) = nodes.serving();
        let mut asked = items.clone();
        asked.push(unknown);
        let manifests = fetch_many(&mut stream, JOB, &asked, &nodes.to, &no_progress)
            .await
            .unwrap();
        assert!(manifests[..500].iter().all(Option::is_some));
        assert_eq!(manifests[500], None);
        let error = fetch(&mut stream, JOB, unknown, &nodes.to, &no_progress)
            .await
            .unwrap_err();
        assert!(matches!(error, FetchError::NotThere(_)), "{error}");
        assert!(!error.is_misbehaviour());
        drop(stream);
        assert_eq!(serving.await.unwrap().unwrap().objects, 1_000);
    });
}

#[test]
fn a_peer_reads_nothing_but_what_is_pinned_for_its_job() {
    let nodes = Nodes::new();
    let item = nodes.input(&some_tree());
    runtime().block_on(async {
        let (mut stream, serving) = nodes.serving();
        let other = JobId(*b"otherjob");
        let error = fetch(&mut stream, other, item, &nodes.to, &no_progress)
            .await
            .unwrap_err();
        assert!(matches!(error, FetchError::NotThere(_)), "{error}");
        drop(stream);
        let served = serving.await.unwrap().unwrap();
        assert_eq!(
            served,
            Served {
                refused: 1,
                ..Served::default()
            }
        );
    });
}

/// A stream that breaks after so many bytes were read from it.
struct Breaking<S> {
    stream: S,
    left: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for Breaking<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let most = into.len().min(self.left);
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut into[..most]))?;
        self.left -= read;
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Breaking<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Cut wherever you like: what has arrived is not sent again, and in the end all is there.
    #[test]
    fn a_cut_transfer_resumes_where_it_was(cuts in proptest::collection::vec(1..6_000_000usize, 1..4)) {
        let nodes = Nodes::new();
        let mut tree = BTreeMap::from([(
            b"big".to_vec(),
            Thing::File { executable: false, content: noise(3, 5_000_000) },
        )]);
        for number in 0..300u64 {
            let content = noise(number, 500);
            let file = Thing::File { executable: false, content };
            tree.insert(format!("{number}").into_bytes(), file);
        }
        let item = nodes.input(&tree);
        let sent: u64 = runtime().block_on(async {
            let mut sent = 0;
            for cut in cuts {
                let before = nodes.to.usage().objects;
                let (stream, serving) = nodes.serving();
                let mut stream = Breaking { stream, left: cut };
                match fetch(&mut stream, JOB, item, &nodes.to, &no_progress).await {
                    Ok(_) => {}
                    Err(error) => prop_assert!(error.may_resume(), "{}", error),
                }
                drop(stream);
                // How much the other side had sent when it noticed is up to the buffers between.
                let _ = serving.await.unwrap();
                let after = nodes.to.usage().objects;
                prop_assert!(after >= before);
                sent += after - before;
            }
            let (mut stream, serving) = nodes.serving();
            let manifest = fetch(&mut stream, JOB, item, &nodes.to, &no_progress).await.unwrap();
            prop_assert!(nodes.to.missing(&manifest).is_empty());
            drop(stream);
            Ok(sent + serving.await.unwrap().unwrap().objects)
        })?;
        prop_assert_eq!(sent, nodes.from.usage().objects, "each object was taken once");
    }
}

#[test]
fn what_cannot_fit_is_not_fetched() {
    let nodes = Nodes::new();
    let item = nodes.input(&some_tree());
    let small = Arc::new(BlobStore::open(&nodes.dir.path().join("small"), Bytes::mib(2)).unwrap());
    runtime().block_on(async {
        let (mut stream, serving) = nodes.serving();
        let error = fetch(&mut stream, JOB, item, &small, &no_progress)
            .await
            .unwrap_err();
        assert!(
            matches!(error, FetchError::Store(StoreError::Full { .. })),
            "{error}"
        );
        drop(stream);
        let served = serving.await.unwrap().unwrap();
        assert_eq!(served.objects, 1, "only the manifest");
    });
}
