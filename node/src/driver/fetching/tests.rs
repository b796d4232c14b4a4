//! Fetching from a peer that is away for a while.

#![allow(clippy::unwrap_used)]

use libp2p::Multiaddr;
use libp2p::identity::Keypair;
use p2pnode_protocol::Bytes;
use p2pnode_protocol::manifest::{ChunkRef, Entry, EntryKind};

use super::*;
use crate::blobs::PinScope;
use crate::net::{self, NetConfig};
use crate::networks::{NetworkEvent, NetworkEvents};

const JOB: JobId = JobId([7; 8]);

/// Far longer than any of this takes.
const LIMIT: Duration = Duration::from_secs(40);

async fn node(key: Keypair, bootstrap: Vec<Multiaddr>) -> (Networks, NetworkEvents) {
    let config = NetConfig {
        bootstrap,
        ..NetConfig::in_memory(key, "test")
    };
    Networks::one(net::start(config).await.unwrap())
}

/// A store with one file of some bytes in it.
fn filled(folder: &std::path::Path) -> (Arc<BlobStore>, BlobRef) {
    let store = Arc::new(BlobStore::open(folder, Bytes::gib(1)).unwrap());
    let owner = PinOwner::job(PinScope::Own(JOB));
    let digest = store.put(owner, b"finished").unwrap();
    let file = Entry {
        path: b"out".to_vec(),
        kind: EntryKind::File {
            executable: false,
            chunks: vec![ChunkRef { digest, bytes: 8 }],
        },
    };
    let manifest = Manifest {
        entries: vec![file],
    };
    let blob = store.put_manifest(owner, &manifest).unwrap();
    (store, blob)
}

/// Serves blobs on every stream that comes, but the first `broken`, which it drops.
async fn serve(mut events: NetworkEvents, store: Arc<BlobStore>, mut broken: u32) {
    while let Some(event) = events.recv().await {
        let NetworkEvent::Stream { stream, .. } = event else {
            continue;
        };
        if broken > 0 {
            broken -= 1;
            continue;
        }
        let store = store.clone();
        tokio::spawn(async move {
            let mut stream = stream.compat();
            let _ended = blobs::serve(&mut stream, &store, |_, _| true, |_, _| ()).await;
        });
    }
}

/// Hands out what happens, so that the node is told of it.
async fn listen(mut events: NetworkEvents) {
    while events.recv().await.is_some() {}
}

#[tokio::test]
async fn a_peer_that_is_away_is_waited_for_longer_than_quick_tries_take() {
    let folder = tempfile::tempdir().unwrap();
    let (source, blob) = filled(&folder.path().join("there"));
    let key = Keypair::generate_ed25519();
    let peer = key.public().to_peer_id();
    let (net, events) = node(Keypair::generate_ed25519(), Vec::new()).await;
    let here = net.members()[0].net().listen_addresses();
    tokio::spawn(listen(events));
    let store = Arc::new(BlobStore::open(&folder.path().join("here"), Bytes::gib(1)).unwrap());
    let fetcher = Fetcher::new(net, store.clone());
    let owner = PinOwner::job(PinScope::Own(JOB));
    let fetching = tokio::spawn(async move {
        let fetched = fetcher.fetch(peer, JOB, blob, owner, None).await;
        fetched.map(|fetched| fetched.manifest.entries.len())
    });
    tokio::time::sleep(2 * TRIES * RETRY).await;
    assert!(!fetching.is_finished(), "it waits");
    // And then its first streams break.
    let (_there, events) = node(key, here).await;
    tokio::spawn(serve(events, source, TRIES - 2));
    let fetched = tokio::time::timeout(LIMIT, fetching).await.unwrap();
    assert_eq!(fetched.unwrap().unwrap(), 1);
    assert!(store.length(&blob.digest).is_some());
}

#[tokio::test]
async fn a_peer_that_is_there_and_breaks_every_stream_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (source, blob) = filled(&folder.path().join("there"));
    let (net, events) = node(Keypair::generate_ed25519(), Vec::new()).await;
    let here = net.members()[0].net().listen_addresses();
    tokio::spawn(listen(events));
    let key = Keypair::generate_ed25519();
    let peer = key.public().to_peer_id();
    let (_there, events) = node(key, here).await;
    tokio::spawn(serve(events, source, u32::MAX));
    tokio::time::timeout(LIMIT, net.connected(peer))
        .await
        .unwrap();
    let store = Arc::new(BlobStore::open(&folder.path().join("here"), Bytes::gib(1)).unwrap());
    let fetcher = Fetcher::new(net, store);
    let owner = PinOwner::job(PinScope::Own(JOB));
    let fetching = fetcher.fetch(peer, JOB, blob, owner, None);
    let error = tokio::time::timeout(LIMIT, fetching).await.unwrap();
    assert!(error.err().unwrap().may_resume(), "it may have it still");
}
