//! Trees copied to a task and back.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use p2pnode_protocol::tunnel::Purpose;
use p2pnode_tunnel::client::files::{CopyError, Progress, Remote};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use crate::rig::Rig;
use crate::ssh::noise;

fn quiet(_: Progress) {}

/// Path, mode, time of change and content, or where a link leads.
fn told(root: &Path) -> Vec<(Vec<u8>, u32, i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec();
            let link = metadata.is_symlink();
            let content = if link {
                fs::read_link(&path)
                    .unwrap()
                    .as_os_str()
                    .as_bytes()
                    .to_vec()
            } else if metadata.is_dir() {
                open.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            let (mode, mtime) = if link {
                (0, 0)
            } else {
                (metadata.mode(), metadata.mtime())
            };
            found.push((name, mode, mtime, content));
        }
    }
    found.sort();
    found
}

fn old(path: &Path) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let times = fs::FileTimes::new().set_modified(time);
    fs::File::open(path).unwrap().set_times(times).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_comes_back_as_it_went() {
    let rig = Rig::new();
    let tree = rig.outside("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("big"), noise(5_000_001)).unwrap();
    fs::write(tree.join("a/empty"), b"").unwrap();
    fs::write(tree.join("a/b/tool"), b"#!/bin/sh\n").unwrap();
    fs::set_permissions(tree.join("a/b/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    // A name that is no UTF-8.
    fs::write(tree.join("a").join(OsStr::from_bytes(b"caf\xe9")), b"bytes").unwrap();
    symlink("b/tool", tree.join("a/link")).unwrap();
    symlink("/nowhere/at/all", tree.join("dangling")).unwrap();
    old(&tree.join("a/b/tool"));
    old(&tree.join("a/b"));
    let remote = Remote::open(rig.open(Purpose::Files).await.unwrap())
        .await
        .unwrap();
    let most = AtomicU64::new(0);
    let on_progress = |progress: Progress| {
        most.fetch_max(progress.bytes, Ordering::Relaxed);
    };
    let up = remote.upload(&tree, b"there", &on_progress).await.unwrap();
    assert_eq!(up.files, 6);
    assert_eq!(up.bytes, 5_000_001 + 10 + 5);
    assert_eq!(most.load(Ordering::Relaxed), up.bytes);
    assert_eq!(told(&rig.inside("there")), told(&tree));
    let back = rig.outside("back");
    let down = remote.download(b"there", &back, &quiet).await.unwrap();
    assert_eq!(down, up);
    assert_eq!(told(&back), told(&tree));
    // Again, over what is there.
    let again = remote.download(b"there", &back, &quiet).await.unwrap();
    assert_eq!(again, up);
    assert_eq!(told(&back), told(&tree));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_with_its_name() {
    let rig = Rig::new();
    let remote = Remote::open(rig.open(Purpose::Files).await.unwrap())
        .await
        .unwrap();
    let error = remote
        .download(b"nothing", &rig.outside("x"), &quiet)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("`nothing`"), "{error}");
    assert!(!rig.outside("x").exists());
    let real = remote.real_path(b"").await.unwrap();
    assert_eq!(
        real,
        rig.folder
            .path()
            .canonicalize()
            .unwrap()
            .as_os_str()
            .as_bytes()
    );
}

/// A provider that lists one file under a name of its choice, and serves it.
async fn lying(name: &'static [u8], mode: u32) -> Remote {
    let (near, mut far) = duplex(1 << 20);
    let attributes = move |mode: u32| {
        let mut bytes = 4_u32.to_be_bytes().to_vec();
        bytes.extend(mode.to_be_bytes());
        bytes
    };
    let string = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
    tokio::spawn(async move {
        let mut listed = false;
        loop {
            let Ok(length) = far.read_u32().await else {
                return;
            };
            let mut packet = vec![0; length as usize];
            far.read_exact(&mut packet).await.unwrap();
            let id = packet[1..5].to_vec();
            let status = |code: u32| {
                let body = [&id[..], &code.to_be_bytes(), &string(b""), &string(b"")].concat();
                (101, body)
            };
            let (kind, body) = match packet[0] {
                1 => (2, 3_u32.to_be_bytes().to_vec()),
                17 => (105, [id.clone(), attributes(0o040_755)].concat()),
                11 | 3 => (102, [id.clone(), string(b"h")].concat()),
                12 if !listed => {
                    listed = true;
                    let one = 1_u32.to_be_bytes().to_vec();
                    let entry = [string(name), string(b""), attributes(mode)].concat();
                    (104, [id.clone(), one, entry].concat())
                }
                5 | 12 => status(1),
                19 => {
                    let one = 1_u32.to_be_bytes().to_vec();
                    let entry = [string(b"/etc"), string(b""), 0_u32.to_be_bytes().to_vec()];
                    (104, [id.clone(), one, entry.concat()].concat())
                }
                _ => status(0),
            };
            let mut answer = ((body.len() + 1) as u32).to_be_bytes().to_vec();
            answer.push(kind);
            answer.extend(body);
            far.write_all(&answer).await.unwrap();
        }
    });
    Remote::open(near).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_out_of_the_folder_are_refused() {
    for name in [&b"../evil"[..], b"/tmp/evil", b"a/b", b""] {
        let rig = Rig::new();
        let remote = lying(name, 0o100_644).await;
        let error = remote
            .download(b"x", &rig.outside("to"), &quiet)
            .await
            .unwrap_err();
        assert!(matches!(error, CopyError::Name(_)), "{error}");
        assert!(!rig.outside("evil").exists());
        assert_eq!(fs::read_dir(rig.outside("to")).unwrap().count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_in_the_destination_are_not_followed_out_of_it() {
    let rig = Rig::new();
    fs::create_dir(rig.outside("to")).unwrap();
    fs::create_dir(rig.outside("private")).unwrap();
    fs::write(rig.outside("private/secret"), b"kept").unwrap();
    symlink(rig.outside("private"), rig.outside("to/folder")).unwrap();
    symlink(rig.outside("private/secret"), rig.outside("to/file")).unwrap();
    let remote = lying(b"folder", 0o040_755).await;
    remote
        .download(b"x", &rig.outside("to"), &quiet)
        .await
        .expect_err("a link, no folder");
    let remote = lying(b"file", 0o100_644).await;
    remote
        .download(b"x", &rig.outside("to"), &quiet)
        .await
        .expect_err("it leads out");
    assert_eq!(fs::read(rig.outside("private/secret")).unwrap(), b"kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_of_files_ends_with_its_task() {
    let rig = Rig::new();
    let remote = Remote::open(rig.open(Purpose::Files).await.unwrap())
        .await
        .unwrap();
    rig.gone.cancel();
    let error = loop {
        if let Err(error) = remote.real_path(b"").await {
            break error;
        }
    };
    assert!(matches!(error, CopyError::Broken), "{error}");
}
