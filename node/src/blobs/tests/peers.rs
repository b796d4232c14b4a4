//! Hostile peers, on either side of a transfer.

use std::sync::Arc;

use futures::io::{AsyncReadExt, AsyncWriteExt};
use p2pnode_protocol::Digest;
use p2pnode_protocol::codec;
use p2pnode_protocol::manifest::{ChunkRef, Entry, EntryKind};
use p2pnode_protocol::stream::{BlobReply, BlobWant, MAX_WANT};

use super::transfer::{Nodes, Side, no_progress, pair, runtime};
use super::*;

fn frame<T: bincode::Encode>(value: &T) -> Vec<u8> {
    let bytes = codec::encode(value, 1 << 20).unwrap();
    let mut frame = (bytes.len() as u32).to_be_bytes().to_vec();
    frame.extend(bytes);
    frame
}

async fn read_want(stream: &mut Side) -> BlobWant {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.unwrap();
    let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut bytes).await.unwrap();
    codec::decode(&bytes, 1 << 20).unwrap()
}

/// Fetches from a peer that answers the first request with these bytes and closes.
fn fetch_from(
    answer: Vec<u8>,
    blob: BlobRef,
    store: &Arc<BlobStore>,
) -> Result<Manifest, FetchError> {
    runtime().block_on(async {
        let (mut ours, mut theirs) = pair();
        let hostile = tokio::spawn(async move {
            read_want(&mut theirs).await;
            // The other side may well hang up first.
            let _ = theirs.write_all(&answer).await;
            let _ = theirs.close().await;
            theirs
        });
        let item = FetchItem {
            blob,
            owner: owner(),
        };
        let result = fetch(&mut ours, JOB, item, store, &no_progress).await;
        drop(ours);
        hostile.await.unwrap();
        result
    })
}

#[test]
fn hostile_answers_are_refused_and_told_apart() {
    let (_dir, store) = fresh();
    let store = Arc::new(store);
    let manifest = codec::encode(&Manifest::default(), 100).unwrap();
    let blob = BlobRef {
        digest: Digest::of(&manifest),
        manifest_bytes: manifest.len() as u64,
        content_bytes: 0,
    };
    let reply = |bytes: u32, body: &[u8]| {
        let mut answer = frame(&BlobReply { bytes: Some(bytes) });
        answer.extend_from_slice(body);
        answer
    };
    let length = manifest.len() as u32;
    let fetch = |answer: Vec<u8>| fetch_from(answer, blob, &store).unwrap_err();

    assert!(matches!(
        fetch(reply(length, &vec![9; manifest.len()])),
        FetchError::WrongChunk(_)
    ));
    for claim in [0, length + 1, u32::MAX] {
        assert!(matches!(
            fetch(reply(claim, &[])),
            FetchError::WrongLength { .. }
        ));
    }
    assert!(matches!(fetch(vec![0xff; 64]), FetchError::Protocol(_)));
    assert!(matches!(
        fetch(frame(&BlobReply { bytes: None })),
        FetchError::NotThere(_)
    ));
    for cut in [Vec::new(), vec![0, 0], reply(length, &[])] {
        let error = fetch(cut);
        assert!(error.may_resume() && !error.is_misbehaviour(), "{error}");
    }
    assert_eq!(store.usage().objects, 0, "nothing of it was stored");
    assert!(fetch_from(reply(length, &manifest), blob, &store).is_ok());
}

#[test]
fn hostile_manifests_are_refused() {
    let (_dir, store) = fresh();
    let store = Arc::new(store);
    let fetch = |encoded: &[u8], content_bytes| {
        let blob = BlobRef {
            digest: Digest::of(encoded),
            manifest_bytes: encoded.len() as u64,
            content_bytes,
        };
        let reply = BlobReply {
            bytes: Some(encoded.len() as u32),
        };
        let mut answer = frame(&reply);
        answer.extend_from_slice(encoded);
        fetch_from(answer, blob, &store).unwrap_err()
    };
    let file = |path: &[u8], bytes| {
        let chunks = vec![ChunkRef {
            digest: Digest::of(b"x"),
            bytes,
        }];
        let entry = Entry {
            path: path.to_vec(),
            kind: EntryKind::File {
                executable: false,
                chunks,
            },
        };
        let entries = vec![entry];
        codec::encode(&Manifest { entries }, 1_000).unwrap()
    };
    for (encoded, content) in [
        (file(b"../x", 1), 1),
        (file(b"x", 0), 0),
        (file(b"x", u32::MAX), u64::from(u32::MAX)),
        (file(b"x", 1), 2),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), 0),
    ] {
        let error = fetch(&encoded, content);
        assert!(matches!(error, FetchError::BadManifest { .. }), "{error}");
        assert!(error.is_misbehaviour());
    }
    // Too large a claim is refused before anything is asked for.
    let (mut ours, theirs) = pair();
    drop(theirs);
    let item = FetchItem {
        blob: BlobRef {
            digest: Digest::of(b""),
            manifest_bytes: u64::MAX,
            content_bytes: 0,
        },
        owner: owner(),
    };
    let error = runtime()
        .block_on(super::fetch(&mut ours, JOB, item, &store, &no_progress))
        .unwrap_err();
    assert!(matches!(error, FetchError::ManifestTooLarge(_)), "{error}");
}

#[test]
fn hostile_requests_end_the_stream() {
    let nodes = Nodes::new();
    let ask = |bytes: Vec<u8>| {
        runtime().block_on(async {
            let (mut stream, serving) = nodes.serving();
            stream.write_all(&bytes).await.unwrap();
            stream.close().await.unwrap();
            serving.await.unwrap()
        })
    };
    let many = BlobWant {
        job: JOB,
        digests: vec![Digest::of(b"x"); MAX_WANT + 1],
    };
    let error = ask(frame(&many)).unwrap_err();
    assert!(matches!(error, ServeError::TooMany(_)) && error.is_misbehaviour());
    for garbage in [vec![0xff; 100], vec![0, 0, 0, 1, 0]] {
        let error = ask(garbage).unwrap_err();
        assert!(matches!(error, ServeError::Protocol(_)), "{error}");
    }
    let error = ask(vec![0, 0, 0, 9, 1]).unwrap_err();
    assert!(matches!(error, ServeError::Cut(_)), "{error}");
    assert_eq!(ask(Vec::new()).unwrap(), Served::default());
}
