//! Bytes from hostile peers: refused, never a panic.

use p2pnode_protocol::Digest;
use p2pnode_protocol::codec;
use p2pnode_protocol::manifest::{ChunkRef, Entry, EntryKind, MAX_MANIFEST_BYTES, is_inner_path};
use proptest::prelude::*;

use super::*;
use crate::blobs::store::decode_manifest;

fn blob_of(encoded: &[u8]) -> BlobRef {
    BlobRef {
        digest: Digest::of(encoded),
        manifest_bytes: encoded.len() as u64,
        content_bytes: 0,
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("a".to_owned()),
        Just("b".to_owned()),
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just(String::new()),
        Just("c\0".to_owned()),
    ]
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(name(), 0..4).prop_map(|names| names.join("/").into_bytes())
}

fn entry() -> impl Strategy<Value = Entry> {
    let chunk = any::<u32>().prop_map(|bytes| ChunkRef {
        digest: Digest([7; 32]),
        bytes,
    });
    let kind = prop_oneof![
        Just(EntryKind::Folder),
        path().prop_map(|target| EntryKind::Symlink { target }),
        (any::<bool>(), proptest::collection::vec(chunk, 0..2))
            .prop_map(|(executable, chunks)| EntryKind::File { executable, chunks }),
    ];
    (path(), kind).prop_map(|(path, kind)| Entry { path, kind })
}

proptest! {
    #[test]
    fn noise_is_no_manifest_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_manifest(&blob_of(&bytes), &bytes);
    }

    /// What passes the check stays inside, judged by other means than the check's own.
    #[test]
    fn what_passes_stays_inside(
        entries in proptest::collection::vec(entry(), 0..5),
        sorted in any::<bool>(),
    ) {
        let mut manifest = Manifest { entries };
        if sorted {
            manifest.entries.sort_by(|a, b| a.path.cmp(&b.path));
            manifest.entries.dedup_by(|a, b| a.path == b.path);
        }
        let encoded = codec::encode(&manifest, MAX_MANIFEST_BYTES as usize).unwrap();
        let decoded: Manifest = codec::decode(&encoded, MAX_MANIFEST_BYTES as usize).unwrap();
        prop_assert_eq!(&decoded, &manifest);
        if manifest.check().is_err() {
            return Ok(());
        }
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        for entry in &manifest.entries {
            prop_assert!(entry.path.is_empty() || is_inner_path(&entry.path));
            let path = root.join(path_of(&entry.path));
            match &entry.kind {
                EntryKind::Folder => std::fs::create_dir(&path).unwrap(),
                EntryKind::Symlink { target } => {
                    std::os::unix::fs::symlink(path_of(target), &path).unwrap();
                }
                EntryKind::File { .. } if entry.path.is_empty() => {}
                EntryKind::File { .. } => std::fs::write(&path, b"").unwrap(),
            }
        }
        // The system resolves every link, through links, and none leads out.
        let root = root.canonicalize().unwrap();
        for entry in &manifest.entries {
            if let Ok(real) = root.join(path_of(&entry.path)).canonicalize() {
                prop_assert!(real.starts_with(&root), "{:?}", entry);
            }
        }
    }
}

#[test]
fn promises_about_a_manifest_are_checked() {
    let encoded = codec::encode(&Manifest::default(), 100).unwrap();
    let blob = blob_of(&encoded);
    assert!(decode_manifest(&blob, &encoded).is_ok());
    let longer = BlobRef {
        manifest_bytes: blob.manifest_bytes + 1,
        ..blob
    };
    assert!(decode_manifest(&longer, &encoded).is_err());
    let larger = BlobRef {
        content_bytes: 1,
        ..blob
    };
    assert!(decode_manifest(&larger, &encoded).is_err());
}
