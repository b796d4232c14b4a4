//! The data directory, its secrets, the configuration and the disk.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use p2pnode_executor::docker::reserve_of;
use p2pnode_executor::host::free_disk;
use p2pnode_node::home::DataDir;
use p2pnode_protocol::Bytes;

use super::finding::Finding;
use crate::exit::Failure;

/// Free disk of less than so many reserves is told before it is too little.
const SCARCE_RESERVES: u64 = 5;

/// The data directory as it stands.
#[derive(Debug, Clone, Default)]
struct Folder {
    path: PathBuf,
    /// Permission bits and owner; absent when it is not there.
    is: Option<(u32, u32)>,
    /// Who asks.
    me: u32,
}

/// Looks without making anything.
pub fn look(dir: &DataDir) -> Vec<Finding> {
    let path = dir.path();
    let meta = std::fs::metadata(path).ok();
    let folder = Folder {
        path: path.to_path_buf(),
        is: meta.map(|meta| (meta.mode() & 0o777, meta.uid())),
        me: rustix::process::geteuid().as_raw(),
    };
    let there = nearest(path);
    vec![
        judge_folder(&folder),
        identity(dir),
        judge_disk(&there, free_disk(&there), reserve_of(&there)),
    ]
}

/// What came of reading the settings.
pub fn config(dir: &DataDir, failure: Option<&Failure>) -> Finding {
    let file = dir.config_file();
    let shown = file.display();
    match failure {
        None if file.exists() => Finding::ok("config", shown.to_string()),
        None => Finding::none("config", format!("no {shown}: defaults hold")),
        Some(failure) if failure.details.is_empty() => {
            Finding::fault("config", &failure.message).mend(format!("correct {shown}"))
        }
        Some(failure) => Finding::fault("config", failure.details.join("; "))
            .mend("correct these, then: p2pnode config show"),
    }
}

/// The folder itself, or the first above it that is there.
pub fn nearest(path: &Path) -> PathBuf {
    let there = path.ancestors().find(|folder| folder.is_dir());
    there.unwrap_or(Path::new("/")).to_path_buf()
}

fn judge_folder(folder: &Folder) -> Finding {
    let path = folder.path.display();
    let Some((mode, owner)) = folder.is else {
        return Finding::none("data", format!("{path} is made when a node first starts"));
    };
    let private = format!("chmod 700 '{path}'");
    if owner != folder.me {
        let found = format!(
            "{path} belongs to user {owner}, and this is user {}",
            folder.me
        );
        // Root reads it all the same.
        return if folder.me == 0 {
            Finding::warning("data", found).mend("run the node and this as that user")
        } else {
            Finding::fault("data", found).mend(format!("as root: chown -R {} '{path}'", folder.me))
        };
    }
    if mode & 0o022 != 0 {
        return Finding::fault(
            "data",
            format!("others may write in {path} (mode {mode:03o})"),
        )
        .mend(private);
    }
    if mode & 0o700 != 0o700 {
        return Finding::fault(
            "data",
            format!("its owner cannot use {path} (mode {mode:03o})"),
        )
        .mend(private);
    }
    if mode & 0o055 != 0 {
        return Finding::warning(
            "data",
            format!("others may look into {path} (mode {mode:03o})"),
        )
        .mend(private);
    }
    Finding::ok("data", format!("{path} (mode {mode:03o})"))
}

fn identity(dir: &DataDir) -> Finding {
    let path = dir.paths().identity;
    match path.try_exists() {
        Ok(false) => return Finding::none("identity", "is made when a node first starts"),
        Ok(true) => {}
        Err(error) => {
            return Finding::fault("identity", format!("{}: {error}", path.display()))
                .mend("run this as the user whose node it is");
        }
    }
    // It is there, so nothing is made; what is wrong is told with its mend.
    match dir.identity() {
        Ok(key) => Finding::ok("identity", key.public().to_peer_id().to_string()),
        Err(error) => Finding::fault("identity", error.to_string()),
    }
}

fn judge_disk(path: &Path, free: Option<Bytes>, reserve: Option<Bytes>) -> Finding {
    let at = path.display();
    let (Some(free), Some(reserve)) = (free, reserve) else {
        return Finding::warning(
            "disk",
            format!("the filesystem of {at} does not tell its room"),
        );
    };
    let found = format!("{free} free at {at}; {reserve} is kept in reserve");
    let mend =
        "remove what is not needed (docker image prune), or give the node another --data-dir";
    if free < reserve {
        return Finding::fault("disk", format!("{found}, so no task runs")).mend(mend);
    }
    if free.0 < reserve.0.saturating_mul(SCARCE_RESERVES) {
        return Finding::warning("disk", found).mend(mend);
    }
    Finding::ok("disk", found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::finding::State;
    use super::*;

    fn folder(mode: u32, owner: u32, me: u32) -> Finding {
        judge_folder(&Folder {
            path: PathBuf::from("/data"),
            is: Some((mode, owner)),
            me,
        })
    }

    #[test]
    fn a_folder_of_others_or_open_to_others_is_told_with_the_mend() {
        assert_eq!(folder(0o700, 7, 7).state, State::Ok);
        for (found, state) in [
            (folder(0o755, 7, 7), State::Warning),
            (folder(0o770, 7, 7), State::Fault),
            (folder(0o702, 7, 7), State::Fault),
            (folder(0o500, 7, 7), State::Fault),
        ] {
            assert_eq!(found.state, state, "{found:?}");
            assert_eq!(found.mend.as_deref(), Some("chmod 700 '/data'"));
        }
        assert_eq!(folder(0o700, 8, 7).state, State::Fault);
        assert_eq!(folder(0o700, 8, 0).state, State::Warning);
        assert_eq!(judge_folder(&Folder::default()).state, State::None);
    }

    #[test]
    fn too_little_disk_is_a_fault_and_scarce_disk_a_warning() {
        let judge = |free, reserve| judge_disk(Path::new("/"), free, reserve).state;
        let reserve = Some(Bytes::gib(1));
        assert_eq!(judge(Some(Bytes::gib(9)), reserve), State::Ok);
        assert_eq!(judge(Some(Bytes::gib(4)), reserve), State::Warning);
        assert_eq!(judge(Some(Bytes::mib(900)), reserve), State::Fault);
        assert_eq!(judge(None, reserve), State::Warning);
    }

    #[test]
    fn an_identity_is_read_where_there_is_one_and_never_made() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::at(&root.path().join("me")).unwrap();
        assert_eq!(identity(&dir).state, State::None);
        assert!(look(&dir).iter().all(|found| found.state != State::Fault));
        assert!(!dir.path().exists());
        let key = dir.identity().unwrap().public().to_peer_id();
        assert_eq!(identity(&dir).found, key.to_string());
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(dir.paths().identity, open).unwrap();
        let found = identity(&dir);
        assert_eq!(found.state, State::Fault);
        assert!(found.found.contains("chmod 600"), "{found:?}");
        assert_eq!(nearest(&root.path().join("a/b")), root.path());
    }
}
