//! Tests of the whole module, through its public functions and on a real disk.
#![allow(clippy::unwrap_used)]

mod bench;
mod damage;
mod hostile;
mod outputs;
mod peers;
mod store;
mod transfer;
mod trees;
mod writing;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use p2pnode_protocol::manifest::{BlobRef, Manifest};
use p2pnode_protocol::{AttemptKey, Bytes, JobId, TaskKey};
use tempfile::TempDir;

use super::*;

const JOB: JobId = JobId(*b"test-job");

fn owner() -> PinOwner {
    PinOwner::job(PinScope::Own(JOB))
}

/// The owner of one attempt's outputs.
fn attempt(index: u32) -> PinOwner {
    let task = TaskKey {
        job: JOB,
        step: 0,
        index,
    };
    PinOwner::attempt(PinScope::Own(JOB), AttemptKey { task, attempt: 1 })
}

fn store_in(dir: &Path, quota: Bytes) -> BlobStore {
    BlobStore::open(&dir.join("blobs"), quota).unwrap()
}

/// A folder for the test, and a store in it.
fn fresh() -> (TempDir, BlobStore) {
    let dir = TempDir::new().unwrap();
    let store = store_in(dir.path(), Bytes::gib(1));
    (dir, store)
}

fn ingest(store: &BlobStore, path: &Path) -> Result<(BlobRef, Manifest), IngestError> {
    ingest_path(store, owner(), path, Limits::default(), &|_| {
        ControlFlow::Continue(())
    })
}

/// Bytes that do not repeat, always the same for a seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Thing {
    Folder,
    File { executable: bool, content: Vec<u8> },
    Link(Vec<u8>),
}

/// Everything below a folder.
fn snapshot(root: &Path) -> BTreeMap<Vec<u8>, Thing> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            let thing = if metadata.is_dir() {
                waiting.push(path.clone());
                Thing::Folder
            } else if metadata.is_symlink() {
                Thing::Link(
                    std::fs::read_link(&path)
                        .unwrap()
                        .as_os_str()
                        .as_bytes()
                        .to_vec(),
                )
            } else {
                Thing::File {
                    executable: metadata.permissions().mode() & 0o100 != 0,
                    content: std::fs::read(&path).unwrap(),
                }
            };
            let inner = path.strip_prefix(root).unwrap();
            found.insert(inner.as_os_str().as_bytes().to_vec(), thing);
        }
    }
    found
}

/// Makes on disk what [`snapshot`] would find.
fn build(root: &Path, things: &BTreeMap<Vec<u8>, Thing>) {
    std::fs::create_dir_all(root).unwrap();
    for (path, thing) in things {
        let path = root.join(path_of(path));
        match thing {
            Thing::Folder => std::fs::create_dir(&path).unwrap(),
            Thing::Link(target) => std::os::unix::fs::symlink(path_of(target), &path).unwrap(),
            Thing::File {
                executable,
                content,
            } => {
                std::fs::write(&path, content).unwrap();
                let mode = if *executable { 0o755 } else { 0o644 };
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

fn options() -> MaterializeOptions {
    MaterializeOptions {
        max_bytes: u64::MAX,
        owner: None,
    }
}
