//! What a task leaves behind, well-meant or not.

use p2pnode_protocol::manifest::EntryKind;

use super::*;

fn take(store: &BlobStore, work: &Path, patterns: &[&str]) -> Result<Vec<String>, OutputError> {
    let limits = Limits {
        entries: 1_000,
        bytes: 10_000_000,
    };
    taken(store, work, patterns, limits).map(|manifest| {
        let entries = manifest.unwrap_or_default().entries;
        entries
            .iter()
            .map(|entry| String::from_utf8_lossy(&entry.path).into_owned())
            .collect()
    })
}

fn taken(
    store: &BlobStore,
    work: &Path,
    patterns: &[&str],
    limits: Limits,
) -> Result<Option<Manifest>, OutputError> {
    let patterns = OutputPatterns::new(patterns).unwrap();
    // As the sandbox hands it over.
    let dir = cap_std::fs::Dir::from_std_file(std::fs::File::open(work).unwrap());
    let found = ingest_outputs(store, attempt(1), &dir, &patterns, limits)?;
    Ok(found.map(|(blob, manifest)| {
        assert_eq!(store.manifest(&blob).unwrap().as_ref(), Some(&manifest));
        manifest
    }))
}

fn work_dir() -> (TempDir, BlobStore, PathBuf) {
    let (dir, store) = fresh();
    let work = dir.path().join("work");
    for folder in ["in/deep", "out/a/b", "out/empty"] {
        std::fs::create_dir_all(work.join(folder)).unwrap();
    }
    for file in [
        "in/big",
        "in/deep/x.png",
        "out/1.png",
        "out/a/b/2.png",
        "log",
    ] {
        std::fs::write(work.join(file), file).unwrap();
    }
    (dir, store, work)
}

#[test]
fn only_what_matches_is_taken_with_its_folders() {
    let (_dir, store, work) = work_dir();
    let take = |patterns: &[&str]| take(&store, &work, patterns).unwrap();
    assert_eq!(
        take(&["out/**"]),
        [
            "out",
            "out/1.png",
            "out/a",
            "out/a/b",
            "out/a/b/2.png",
            "out/empty"
        ]
    );
    assert_eq!(take(&["out"]), take(&["out/**"]));
    assert_eq!(take(&["out/*.png", "log"]), ["log", "out", "out/1.png"]);
    assert_eq!(
        take(&["out/**/2.png"]),
        ["out", "out/a", "out/a/b", "out/a/b/2.png"]
    );
    assert_eq!(
        take(&["out/a"]),
        ["out", "out/a", "out/a/b", "out/a/b/2.png"]
    );
    assert_eq!(take(&["nothing", "out/*.jpg"]), Vec::<String>::new());
    assert_eq!(take(&[]), Vec::<String>::new());
}

#[test]
fn nothing_matched_is_none() {
    let (_dir, store, work) = work_dir();
    let limits = Limits::default();
    assert_eq!(taken(&store, &work, &["*.x"], limits).unwrap(), None);
    assert_eq!(store.usage().objects, 0);
}

#[test]
fn names_that_are_not_text_and_permissions_travel() {
    let (_dir, store, work) = work_dir();
    let odd = work.join(path_of(b"out/\xff\xfe"));
    std::fs::write(&odd, b"x").unwrap();
    std::fs::set_permissions(&odd, std::fs::Permissions::from_mode(0o6755)).unwrap();
    std::os::unix::fs::symlink("../log", work.join("out/link")).unwrap();
    let limits = Limits::default();
    let manifest = taken(&store, &work, &["out/*"], limits).unwrap().unwrap();
    let kind = |path: &[u8]| {
        let found = manifest.entries.iter().find(|entry| entry.path == path);
        found.unwrap().kind.clone()
    };
    assert!(matches!(
        kind(b"out/\xff\xfe"),
        EntryKind::File {
            executable: true,
            ..
        }
    ));
    let target = b"../log".to_vec();
    assert_eq!(kind(b"out/link"), EntryKind::Symlink { target });
    let out = work.join("delivered");
    write_outputs(&store, &manifest, &out, Durability::Later).unwrap();
    let mode = std::fs::metadata(out.join(path_of(b"out/\xff\xfe")))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o6100, 0o100, "executable, and not setuid");
}

#[test]
fn what_must_not_travel_is_the_tasks_fault_and_named() {
    let (_dir, store, work) = work_dir();
    let fails = |name: &str| {
        let error = take(&store, &work, &["out/**"]).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert!(error.is_tasks_fault());
        std::fs::remove_file(work.join(name)).unwrap();
        error
    };
    super::trees::make_pipe(&work.join("out/pipe"));
    assert!(matches!(fails("out/pipe"), OutputError::Special { .. }));
    let _socket = std::os::unix::net::UnixListener::bind(work.join("out/socket")).unwrap();
    assert!(matches!(fails("out/socket"), OutputError::Special { .. }));
    for target in ["/etc/passwd", "../../x", "a/../../../x"] {
        std::os::unix::fs::symlink(target, work.join("out/link")).unwrap();
        assert!(matches!(fails("out/link"), OutputError::LinkEscapes { .. }));
    }
    // Beside what is selected they are nobody's business.
    super::trees::make_pipe(&work.join("in/pipe"));
    assert!(take(&store, &work, &["out/**"]).is_ok());
}

#[test]
fn a_folder_that_is_a_link_is_not_entered() {
    let (dir, store, work) = work_dir();
    let secret = dir.path().join("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("key"), b"secret").unwrap();
    std::fs::remove_dir_all(work.join("out")).unwrap();
    std::os::unix::fs::symlink(&secret, work.join("out")).unwrap();
    assert_eq!(
        take(&store, &work, &["out/**", "out/key"]).unwrap(),
        Vec::<String>::new()
    );
    assert!(take(&store, &work, &["out"]).is_err());
}

#[test]
fn limits_of_outputs_hold() {
    let (_dir, store, work) = work_dir();
    let limited = |entries, bytes| taken(&store, &work, &["out/**"], Limits { entries, bytes });
    assert!(limited(9, 22).is_ok(), "3 at the top, 3 + 1 + 1 below");
    assert!(matches!(
        limited(5, 1_000),
        Err(OutputError::TooManyEntries { limit: 5 })
    ));
    assert!(matches!(
        limited(100, 21),
        Err(OutputError::TooLarge { .. })
    ));
    // A hole counts as what it would be when it is read.
    let sparse = std::fs::File::create(work.join("out/sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    assert!(matches!(
        limited(100, 1 << 30),
        Err(OutputError::TooLarge { .. })
    ));
}

#[test]
fn endless_depth_is_refused() {
    let (_dir, store, work) = work_dir();
    let mut folder = work.join("out");
    for _ in 0..110 {
        folder.push("d");
        std::fs::create_dir(&folder).unwrap();
    }
    let error = take(&store, &work, &["out/**"]).unwrap_err();
    assert!(matches!(error, OutputError::TooDeep { .. }), "{error}");
    assert!(take(&store, &work, &["out/*.png"]).is_ok());
}
