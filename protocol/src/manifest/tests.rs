//! Manifests from friends and from hostile peers.

use super::*;

fn file(path: &str) -> Entry {
    let chunks = vec![ChunkRef {
        digest: Digest::of(b"x"),
        bytes: 1,
    }];
    Entry {
        path: path.into(),
        kind: EntryKind::File {
            executable: false,
            chunks,
        },
    }
}

fn folder(path: &str) -> Entry {
    Entry {
        path: path.into(),
        kind: EntryKind::Folder,
    }
}

fn link(path: &str, target: &str) -> Entry {
    Entry {
        path: path.into(),
        kind: EntryKind::Symlink {
            target: target.into(),
        },
    }
}

fn check(entries: Vec<Entry>) -> Result<(), ManifestError> {
    Manifest { entries }.check()
}

#[test]
fn ordinary_trees_pass() {
    assert_eq!(check(vec![file("")]), Ok(()));
    assert_eq!(
        check(vec![
            folder("a"),
            file("a/b"),
            link("a/c", "../a/b"),
            file("d")
        ]),
        Ok(())
    );
}

#[test]
fn hostile_trees_are_refused() {
    for path in ["/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\0b"] {
        assert!(
            matches!(check(vec![file(path)]), Err(ManifestError::Path(_))),
            "{path}"
        );
    }
    assert!(matches!(
        check(vec![file("a"), file("a")]),
        Err(ManifestError::Order(_))
    ));
    assert!(matches!(
        check(vec![file("b"), file("a")]),
        Err(ManifestError::Order(_))
    ));
    assert!(matches!(
        check(vec![file("a/b")]),
        Err(ManifestError::NotInFolder(_))
    ));
    // A link that a later entry would write through.
    assert!(matches!(
        check(vec![link("a", "b"), file("a/x")]),
        Err(ManifestError::NotInFolder(_))
    ));
    assert!(matches!(
        check(vec![file(""), file("b")]),
        Err(ManifestError::Path(_))
    ));
    assert!(matches!(
        check(vec![link("", "b")]),
        Err(ManifestError::Path(_))
    ));
}

fn refused_as_a_link(entries: Vec<Entry>) -> bool {
    matches!(check(entries), Err(ManifestError::LinkEscapes { .. }))
}

#[test]
fn links_out_of_the_tree_are_refused() {
    let long = "x/".repeat(MAX_PATH_BYTES);
    for target in [
        "/etc",
        "/",
        "//x",
        "..",
        "./..",
        ".//..",
        "../x",
        "a\0b",
        "",
        &long,
        // Inside by its text, and out of the tree when `b` is a link to a folder near the top.
        "b/..",
        "b/../x",
        "b/../../x",
        "./b/./../x",
    ] {
        assert!(refused_as_a_link(vec![link("a", target)]), "{target}");
    }
    for target in ["../..", "../../x", "../b/..", ".././../x"] {
        let entries = vec![folder("d"), link("d/a", target)];
        assert!(refused_as_a_link(entries), "{target}");
    }
    for target in [
        "x",
        "x/y",
        "./x",
        "..",
        "../",
        "./../x/./y",
        "..//x",
        "...",
        "..x",
        "x..",
    ] {
        let entries = vec![folder("d"), link("d/a", target)];
        assert_eq!(check(entries), Ok(()), "{target}");
    }
}

#[test]
fn links_that_climb_through_links_are_refused() {
    // `d/up` leads to the root, so `d/up/../x` leads out of it, while its text stays inside.
    let chain = vec![folder("d"), link("d/up", ".."), link("z", "d/up/../x")];
    assert!(refused_as_a_link(chain));
    // The same in more steps, each of them one folder up.
    let chain = vec![
        folder("d"),
        folder("d/e"),
        link("d/e/one", ".."),
        link("d/e/two", "one/../.."),
    ];
    assert!(refused_as_a_link(chain));
    // A link in a link's folder would be counted from the wrong depth.
    let below = vec![folder("d"), link("d/up", ".."), link("d/up/x", "../..")];
    assert!(matches!(check(below), Err(ManifestError::NotInFolder(_))));
    // Links to links are fine as long as each stays inside.
    let fine = vec![
        folder("d"),
        link("d/one", "../z"),
        link("d/two", "one/x"),
        link("z", "d"),
    ];
    assert_eq!(check(fine), Ok(()));
}

#[test]
fn names_need_not_be_text() {
    let mut entries = vec![link("a", "x"), file("b")];
    entries[1].path = b"b\xff".to_vec();
    for (target, inside) in [
        (&b"\xff\xfe"[..], true),
        (b"\xc0\xae\xc0\xae/x", true), // `..` in overlong UTF-8 is a name like any other
        (b"\xff/../x", false),
        (b"../\xff", false),
    ] {
        entries[0].kind = EntryKind::Symlink {
            target: target.to_vec(),
        };
        assert_eq!(check(entries.clone()).is_ok(), inside, "{target:?}");
    }
    // Names that differ in case only, or in how an accent is written, are different names.
    assert_eq!(check(vec![file("A"), file("a")]), Ok(()));
    assert_eq!(check(vec![file("e\u{301}"), file("\u{e9}")]), Ok(()));
}

#[test]
fn what_is_too_deep_is_refused() {
    let nested = |levels: usize| {
        let folders = (1..=levels).map(|level| folder(&"d/".repeat(level)[..2 * level - 1]));
        check(folders.collect())
    };
    assert_eq!(nested(MAX_DEPTH + 1), Ok(()));
    assert!(matches!(
        nested(MAX_DEPTH + 2),
        Err(ManifestError::TooDeep(_))
    ));
}

#[test]
fn hostile_names_do_not_reach_a_terminal() {
    assert_eq!(shown(b"a\x1b[2Jb\xff"), "a\\u{1b}[2Jb\u{fffd}");
    assert_eq!(shown(&[b'x'; 5_000]).len(), 200);
}

#[test]
fn empty_and_oversized_chunks_are_refused() {
    for bytes in [0, MAX_CHUNK_BYTES + 1] {
        let chunks = vec![ChunkRef {
            digest: Digest::of(b""),
            bytes,
        }];
        let entry = Entry {
            path: b"a".to_vec(),
            kind: EntryKind::File {
                executable: true,
                chunks,
            },
        };
        assert!(matches!(
            check(vec![entry]),
            Err(ManifestError::ChunkSize { .. })
        ));
    }
}
