//! Writing trees out: nothing goes through a link or out of its folder, whatever manifests say.

use p2pnode_protocol::Digest;
use p2pnode_protocol::manifest::{Entry, EntryKind};

use super::trees::out;
use super::*;
use crate::blobs::folder::Folder;

fn file_of(store: &BlobStore, path: &[u8], content: &[u8]) -> Entry {
    let digest = store.put(owner(), content).unwrap();
    let chunk = p2pnode_protocol::manifest::ChunkRef {
        digest,
        bytes: content.len() as u32,
    };
    Entry {
        path: path.to_vec(),
        kind: EntryKind::File {
            executable: false,
            chunks: vec![chunk],
        },
    }
}

fn folder_of(path: &[u8]) -> Entry {
    Entry {
        path: path.to_vec(),
        kind: EntryKind::Folder,
    }
}

fn link_of(path: &[u8], target: &[u8]) -> Entry {
    Entry {
        path: path.to_vec(),
        kind: EntryKind::Symlink {
            target: target.to_vec(),
        },
    }
}

#[test]
fn inputs_do_not_write_through_each_other() {
    let (dir, store) = fresh();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let work = dir.path().join("work");
    let root = out(&work);
    let put = |entries: Vec<Entry>, at: &[u8]| {
        materialize(&store, &Manifest { entries }, &root, at, options())
    };
    put(vec![folder_of(b"sub"), link_of(b"trap", b"sub")], b"in").unwrap();
    put(vec![file_of(&store, b"x", b"1")], b"in").unwrap();
    // Below the link, over the file, over the link.
    for (entry, at) in [
        (file_of(&store, b"", b"2"), &b"in/trap/y"[..]),
        (file_of(&store, b"", b"2"), b"in/x"),
        (file_of(&store, b"", b"2"), b"in/trap"),
        (file_of(&store, b"y", b"2"), b"in/x"),
        (folder_of(b"trap"), b"in"),
    ] {
        let error = put(vec![entry], at).unwrap_err();
        assert!(
            matches!(error, MaterializeError::Collision { .. }),
            "{error}"
        );
    }
    for at in [&b"../x"[..], b"/etc/x", b"", b"a//b", b"a/./b"] {
        let error = put(vec![file_of(&store, b"", b"2")], at).unwrap_err();
        assert!(matches!(error, MaterializeError::Place(_)), "{error}");
    }
    // A link that is already there and leads out, whoever made it.
    std::os::unix::fs::symlink(&outside, work.join("exit")).unwrap();
    assert!(put(vec![file_of(&store, b"x", b"3")], b"exit").is_err());
    assert!(put(vec![file_of(&store, b"", b"3")], b"exit/x").is_err());
    assert!(snapshot(&outside).is_empty());
    assert_eq!(std::fs::read(work.join("in/x")).unwrap(), b"1");
}

#[test]
fn a_bomb_of_repeated_chunks_is_not_written() {
    let (dir, store) = fresh();
    let mut entry = file_of(&store, b"bomb", &noise(1, 1_000_000));
    if let EntryKind::File { chunks, .. } = &mut entry.kind {
        *chunks = vec![chunks[0]; 10_000];
    }
    let manifest = Manifest {
        entries: vec![entry],
    };
    let work = dir.path().join("work");
    let options = MaterializeOptions {
        max_bytes: 1 << 30,
        owner: None,
    };
    let error = materialize(&store, &manifest, out(&work), b"in", options).unwrap_err();
    assert!(
        matches!(error, MaterializeError::TooLarge { .. }),
        "{error}"
    );
    assert!(snapshot(&work).is_empty());
}

#[test]
fn a_missing_chunk_is_named() {
    let (dir, store) = fresh();
    let mut entry = file_of(&store, b"a", b"here");
    let EntryKind::File { chunks, .. } = &mut entry.kind else {
        unreachable!()
    };
    chunks[0].digest = Digest::of(b"gone");
    // One that is here, with another length than the manifest says.
    let mut wrong = file_of(&store, b"a", b"here");
    if let EntryKind::File { chunks, .. } = &mut wrong.kind {
        chunks[0].bytes = 1;
    }
    for entry in [entry, wrong] {
        let manifest = Manifest {
            entries: vec![entry],
        };
        assert_eq!(store.missing(&manifest).len(), 1);
        let work = TempDir::new_in(dir.path()).unwrap();
        let root = Folder::open(work.path()).unwrap();
        let error = materialize(&store, &manifest, &root, b"in", options()).unwrap_err();
        assert!(matches!(error, MaterializeError::Missing { .. }), "{error}");
        let error = write_outputs(&store, &manifest, work.path(), Durability::Later).unwrap_err();
        assert!(matches!(error, DeliverError::Missing { .. }), "{error}");
        assert!(!work.path().join("a").exists());
        assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 1);
    }
}

#[test]
fn outputs_never_leave_their_folder() {
    let (dir, store) = fresh();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("x"), b"precious").unwrap();
    let into = dir.path().join("out");
    std::fs::create_dir(&into).unwrap();
    std::os::unix::fs::symlink(&outside, into.join("dir")).unwrap();
    std::os::unix::fs::symlink(outside.join("x"), into.join("file")).unwrap();
    let write =
        |entries: Vec<Entry>| write_outputs(&store, &Manifest { entries }, &into, Durability::Each);
    // A folder that is a link is not entered.
    let error = write(vec![folder_of(b"dir"), file_of(&store, b"dir/x", b"evil")]).unwrap_err();
    assert!(matches!(error, DeliverError::NotAFolder { .. }), "{error}");
    assert!(error.to_string().contains("out/dir"), "{error}");
    // A file that is a link is replaced, not written through.
    write(vec![file_of(&store, b"file", b"good")]).unwrap();
    assert_eq!(std::fs::read(outside.join("x")).unwrap(), b"precious");
    assert_eq!(std::fs::read(into.join("file")).unwrap(), b"good");
    // A manifest that brings the link along is refused before anything is written.
    for entries in [
        vec![
            link_of(b"a", b"../outside"),
            file_of(&store, b"a/x", b"evil"),
        ],
        vec![link_of(b"a", b"/tmp")],
        vec![
            folder_of(b"d"),
            link_of(b"d/up", b".."),
            link_of(b"z", b"d/up/../x"),
        ],
        vec![file_of(&store, b"../x", b"evil")],
        vec![file_of(&store, b"/tmp/x", b"evil")],
        vec![file_of(&store, b"", b"evil")],
        vec![file_of(&store, b".p2pnode-part-1", b"evil")],
    ] {
        let error = write(entries).unwrap_err();
        assert!(error.is_misbehaviour(), "{error}");
    }
    assert_eq!(snapshot(&outside).len(), 1);
    assert_eq!(snapshot(&into).len(), 2);
}

#[test]
fn a_folder_in_the_way_is_a_clear_error_and_a_file_is_replaced() {
    let (dir, store) = fresh();
    let into = dir.path().join("new/out");
    let write =
        |entries: Vec<Entry>| write_outputs(&store, &Manifest { entries }, &into, Durability::Each);
    let written = write(vec![file_of(&store, b"a", b"old")]).unwrap();
    assert_eq!(written, Delivered { files: 1, bytes: 3 });
    write(vec![file_of(&store, b"a", b"new")]).unwrap();
    assert_eq!(std::fs::read(into.join("a")).unwrap(), b"new");
    std::fs::create_dir(into.join("d")).unwrap();
    let error = write(vec![file_of(&store, b"d", b"x")]).unwrap_err();
    assert!(
        matches!(error, DeliverError::FolderInTheWay { .. }),
        "{error}"
    );
    let error = write(vec![folder_of(b"a"), file_of(&store, b"a/b", b"x")]).unwrap_err();
    assert!(matches!(error, DeliverError::NotAFolder { .. }), "{error}");
    assert_eq!(snapshot(&into).len(), 2, "no temporary file is left");
}

#[test]
fn temporary_files_of_an_earlier_life_are_swept() {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir_all(dir.path().join("sub")).unwrap();
    // No system has so many processes; this one is alive.
    let (dead, alive) = (i32::MAX as u32, std::process::id());
    for maker in [dead, alive] {
        let name = format!("sub/.p2pnode-part-{maker}-2");
        std::fs::write(dir.path().join(name), b"half").unwrap();
    }
    std::fs::write(dir.path().join("sub/kept"), b"whole").unwrap();
    sweep_leftovers(dir.path()).unwrap();
    let names: Vec<_> = snapshot(dir.path()).into_keys().collect();
    let of_alive = format!("sub/.p2pnode-part-{alive}-2").into_bytes();
    assert_eq!(names, [b"sub".to_vec(), of_alive, b"sub/kept".to_vec()]);
    sweep_leftovers(&dir.path().join("not there")).unwrap();
}
