//! The host's own part of its disk: what no task may take.
//!
//! All runtimes keep to it: a system without free space loses more than tasks.

use std::fs::File;
use std::path::Path;

use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::{Failure, FailureKind};
use rustix::fs::{StatVfs, fstatvfs, statvfs};

/// What no task may take of the host's filesystem: 1 GiB, or one part in 20 of a small one. A fast
/// disk takes some 300 MB between two looks, and a system without free space loses more than tasks.
const RESERVE: u64 = 1 << 30;
const RESERVE_PART: u64 = 20;

/// Whether the filesystem of `dir` has less left than its reserve. What cannot be told is no.
pub(crate) fn is_low(dir: &Path) -> bool {
    // By the open folder: the processes that run modules may not ask by path.
    File::open(dir)
        .ok()
        .and_then(|dir| fstatvfs(dir).ok())
        .is_some_and(|space| available(&space) < reserve(&space))
}

/// What tasks leave free on the filesystem of `dir`, in bytes: one that has less takes no task. `None`
/// when the filesystem cannot be asked.
#[must_use]
pub fn reserve_of(dir: &Path) -> Option<Bytes> {
    Some(Bytes(reserve(&statvfs(dir).ok()?)))
}

pub(crate) fn reserve(space: &StatVfs) -> u64 {
    let total = space.f_blocks.saturating_mul(space.f_frsize);
    RESERVE.min(total / RESERVE_PART)
}

/// What an ordinary user can still write, in bytes.
pub(crate) fn available(space: &StatVfs) -> u64 {
    space.f_bavail.saturating_mul(space.f_frsize)
}

/// The failure of a task that would have filled the host's disk.
pub(crate) fn reserve_broken() -> Failure {
    Failure::new(
        FailureKind::Host,
        "this provider's disk is nearly full, and the rest of it is not for tasks: its owner must \
         free space or offer less disk",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(total: u64, free: u64) -> StatVfs {
        let mut space = statvfs("/").unwrap();
        (space.f_frsize, space.f_bsize) = (4_096, 4_096);
        (space.f_blocks, space.f_bavail, space.f_bfree) =
            (total / 4_096, free / 4_096, total / 4_096);
        space
    }

    #[test]
    fn the_reserve_is_a_gibibyte_and_less_on_small_disks() {
        assert_eq!(reserve(&space(1 << 40, 0)), 1 << 30);
        assert_eq!(reserve(&space(20 << 30, 0)), 1 << 30);
        assert_eq!(reserve(&space(20 << 20, 0)), 1 << 20);
        // What is kept for root does not count as free.
        assert_eq!(available(&space(1 << 40, 1 << 20)), 1 << 20);
    }

    #[test]
    fn what_cannot_be_told_is_not_low() {
        assert!(!is_low(Path::new("/no/such/folder")));
    }
}
