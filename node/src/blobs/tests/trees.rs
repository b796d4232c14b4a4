//! Trees go in and come out the same, on both sides.

use std::os::unix::net::UnixListener;

use p2pnode_protocol::Digest;
use p2pnode_protocol::manifest::{Entry, EntryKind};
use proptest::prelude::*;

use super::*;
use crate::blobs::folder::Folder;

/// Names of every sort that Unix allows.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-c]{1,2}".prop_map(String::into_bytes),
        1 => Just(b"with space".to_vec()),
        1 => Just("Gr\u{fc}n\u{1f333}".as_bytes().to_vec()),
        1 => Just(b"\xff\xfe not text".to_vec()),
        1 => Just(b"-rf".to_vec()),
        1 => Just(b"a-b".to_vec()),
        1 => Just(b"new\nline".to_vec()),
        1 => Just(b"...".to_vec()),
        1 => Just(vec![b'n'; 255]),
    ]
}

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        3 => Just(Thing::Folder),
        4 => (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(executable, content)| Thing::File { executable, content }),
        1 => (any::<bool>(), any::<u64>(), 0..3_000_000usize).prop_map(
            |(executable, seed, length)| Thing::File { executable, content: noise(seed, length) }
        ),
        1 => Just(Thing::Link(b"nowhere/at all".to_vec())),
        1 => Just(Thing::Link(b"./a\xff".to_vec())),
    ]
}

/// Trees of a few levels; what would lie below a file or link is left out.
fn tree() -> impl Strategy<Value = BTreeMap<Vec<u8>, Thing>> {
    let entry = (proptest::collection::vec(name(), 1..5), thing());
    proptest::collection::vec(entry, 0..25).prop_map(|entries| {
        let mut tree: BTreeMap<Vec<u8>, Thing> = BTreeMap::new();
        'entries: for (names, thing) in entries {
            let mut path = Vec::new();
            for (at, name) in names.iter().enumerate() {
                if at > 0 {
                    let above = tree.entry(path.clone()).or_insert(Thing::Folder);
                    if *above != Thing::Folder {
                        continue 'entries;
                    }
                    path.push(b'/');
                }
                path.extend_from_slice(name);
            }
            tree.entry(path).or_insert(thing);
        }
        tree
    })
}

fn out(path: &Path) -> Folder {
    std::fs::create_dir_all(path).unwrap();
    Folder::open(path).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_tree_comes_out_as_it_went_in(tree in tree()) {
        let (dir, store) = fresh();
        let input = dir.path().join("input");
        build(&input, &tree);
        let (blob, manifest) = ingest(&store, &input).unwrap();
        prop_assert_eq!(manifest.check(), Ok(()));
        let stored = store.manifest(&blob).unwrap();
        prop_assert_eq!(stored.as_ref(), Some(&manifest));

        let job = out(&dir.path().join("job"));
        materialize(&store, &manifest, &job, b"deep/er/in", options()).unwrap();
        prop_assert_eq!(&snapshot(&dir.path().join("job/deep/er/in")), &tree);
        let task = out(&dir.path().join("task"));
        clone_tree(&manifest, &job, b"deep/er/in", &task, b"in", options()).unwrap();
        prop_assert_eq!(&snapshot(&dir.path().join("task/in")), &tree);

        let out = dir.path().join("out");
        // Twice: the second time everything is replaced by itself.
        for _ in 0..2 {
            write_outputs(&store, &manifest, &out, Durability::Later).unwrap();
            prop_assert_eq!(&snapshot(&out), &tree);
        }
    }
}

#[test]
fn a_single_file_stands_where_it_is_put() {
    let (dir, store) = fresh();
    for content in [Vec::new(), noise(1, 5_000_000)] {
        let path = dir.path().join("file");
        std::fs::write(&path, &content).unwrap();
        let (blob, manifest) = ingest(&store, &path).unwrap();
        assert_eq!(blob.content_bytes, content.len() as u64);
        assert!(manifest.entries[0].path.is_empty());
        let target = TempDir::new_in(dir.path()).unwrap();
        let root = Folder::open(target.path()).unwrap();
        materialize(&store, &manifest, &root, b"a/b", options()).unwrap();
        clone_tree(&manifest, &root, b"a/b", &root, b"c", options()).unwrap();
        for copy in ["a/b", "c"] {
            assert_eq!(std::fs::read(target.path().join(copy)).unwrap(), content);
        }
    }
}

#[test]
fn a_second_version_adds_only_what_changed() {
    let (dir, store) = fresh();
    let path = dir.path().join("big");
    let mut content = noise(7, 40_000_000);
    std::fs::write(&path, &content).unwrap();
    let (_, first) = ingest(&store, &path).unwrap();
    // One byte changed, ten inserted: everything after them moves.
    content[10_000_000] ^= 1;
    content.splice(20_000_000..20_000_000, *b"ten bytes!");
    std::fs::write(&path, &content).unwrap();
    let (_, second) = ingest(&store, &path).unwrap();
    let before: std::collections::HashSet<_> = first.chunks().collect();
    let new = second
        .chunks()
        .filter(|chunk| !before.contains(chunk))
        .count();
    assert!(before.len() > 100, "{}", before.len());
    assert!((2..=6).contains(&new), "{new} new chunks");
    assert!(second.chunks().all(|chunk| chunk.bytes <= 1 << 20));
    assert_eq!(second.content_bytes(), content.len() as u64);
}

#[test]
fn chunks_are_the_same_in_one_thread_and_in_many() {
    let (dir, store) = fresh();
    // Below and above the size at which threads start, and at every boundary of a block.
    for length in [
        100_000,
        (4 << 20) - 1,
        4 << 20,
        (4 << 20) + 1,
        (8 << 20) + 70_000,
    ] {
        let content = noise(9, length);
        let path = dir.path().join("file");
        std::fs::write(&path, &content).unwrap();
        let (_, manifest) = ingest(&store, &path).unwrap();
        let expected: Vec<_> = fastcdc::v2020::FastCDC::new(&content, 64 << 10, 256 << 10, 1 << 20)
            .map(|cut| Digest::of(&content[cut.offset..cut.offset + cut.length]))
            .collect();
        let found: Vec<_> = manifest.chunks().map(|chunk| chunk.digest).collect();
        assert_eq!(found, expected, "{length}");
    }
}

#[test]
fn inputs_that_cannot_travel_are_named() {
    let (dir, store) = fresh();
    let input = dir.path().join("input");
    let fails = |what: &str| {
        let error = ingest(&store, &input).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        std::fs::remove_dir_all(&input).unwrap();
        std::fs::create_dir_all(input.join("sub")).unwrap();
        error
    };
    let error = ingest(&store, &input).unwrap_err();
    assert!(matches!(error, IngestError::Read { .. }), "{error}");
    std::fs::create_dir_all(input.join("sub")).unwrap();

    let link = input.join("sub/link");
    for target in ["/etc/passwd", "../../x", "a/../../../x", "../in/../x"] {
        std::os::unix::fs::symlink(target, &link).unwrap();
        let error = fails("input/sub/link");
        assert!(matches!(error, IngestError::LinkEscapes { .. }), "{error}");
    }
    let _socket = UnixListener::bind(input.join("sub/socket")).unwrap();
    assert!(matches!(
        fails("input/sub/socket` is a socket"),
        IngestError::Special { .. }
    ));
    make_pipe(&input.join("pipe"));
    assert!(matches!(
        fails("input/pipe` is a named pipe"),
        IngestError::Special { .. }
    ));
    let deep = format!("{}x", "d/".repeat(101));
    std::fs::create_dir_all(input.join(deep)).unwrap();
    assert!(matches!(fails("too deep"), IngestError::TooDeep { .. }));

    // The input itself, too.
    let pipe = dir.path().join("pipe");
    make_pipe(&pipe);
    let error = ingest(&store, &pipe).unwrap_err();
    assert!(matches!(error, IngestError::Special { .. }), "{error}");
}

pub(super) fn make_pipe(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
}

#[test]
fn the_owners_own_link_to_an_input_is_followed() {
    let (dir, store) = fresh();
    std::fs::create_dir(dir.path().join("real")).unwrap();
    std::fs::write(dir.path().join("real/file"), b"x").unwrap();
    std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
    let (_, manifest) = ingest(&store, &dir.path().join("link")).unwrap();
    assert_eq!(manifest.entries.len(), 1);
    let (_, manifest) = ingest(&store, &dir.path().join("link/file")).unwrap();
    assert_eq!(manifest.content_bytes(), 1);
}

#[test]
fn limits_of_inputs_hold_and_stopping_stops() {
    let (dir, store) = fresh();
    let input = dir.path().join("input");
    std::fs::create_dir(&input).unwrap();
    std::fs::write(input.join("a"), noise(1, 6_000_000)).unwrap();
    std::fs::write(input.join("b"), b"b").unwrap();
    let go = |_| ControlFlow::Continue(());
    let limited = |entries, bytes| {
        ingest_path(&store, owner(), &input, Limits { entries, bytes }, &go).map(drop)
    };
    limited(2, 6_000_001).unwrap();
    assert!(matches!(
        limited(1, u64::MAX),
        Err(IngestError::TooManyEntries { .. })
    ));
    assert!(matches!(
        limited(2, 6_000_000),
        Err(IngestError::TooLarge { .. })
    ));
    let stopped = ingest_path(&store, owner(), &input, Limits::default(), &|progress| {
        assert_eq!(progress.total, 6_000_001);
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(IngestError::Stopped)));
}

#[test]
fn a_full_store_ends_an_ingest_of_many_threads() {
    let dir = TempDir::new().unwrap();
    let store = store_in(dir.path(), Bytes::mib(2));
    let path = dir.path().join("big");
    std::fs::write(&path, noise(3, 30_000_000)).unwrap();
    let error = ingest(&store, &path).unwrap_err();
    assert!(
        matches!(error, IngestError::Store(StoreError::Full { .. })),
        "{error}"
    );
    store.unpin(owner());
    assert_eq!(store.usage().pinned, Bytes(0));
}

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
    std::fs::write(dir.path().join("sub/.p2pnode-part-1-2"), b"half").unwrap();
    std::fs::write(dir.path().join("sub/kept"), b"whole").unwrap();
    sweep_leftovers(dir.path()).unwrap();
    let names: Vec<_> = snapshot(dir.path()).into_keys().collect();
    assert_eq!(names, [b"sub".to_vec(), b"sub/kept".to_vec()]);
    sweep_leftovers(&dir.path().join("not there")).unwrap();
}
