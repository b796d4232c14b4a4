//! Trees go in and come out the same, on both sides.

use std::os::unix::net::UnixListener;

use p2pnode_protocol::Digest;
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

pub(super) fn out(path: &Path) -> Folder {
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
