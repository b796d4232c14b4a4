//! Watches the disk under a running task: how much it has written, and how much the host has left.
//!
//! Where the work directory is a filesystem of its own (`disk`), this is the second guard, and the
//! one with the words. Elsewhere it is the guard: a task can be over its limit for as long as a
//! measurement is apart from the next. Called by `watch` and, for what a failed task ran into, by
//! `exit`. It must never follow anything of the task's: `workdir` sees to that.

use std::path::Path;
use std::time::Duration;

use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::{Failure, FailureKind};
use rustix::fs::{StatVfs, statvfs};
use tokio::time::{Instant, sleep};

use super::watch::{Limits, Pulse};
use super::workdir::{self, Measure};

/// Shortest pause between two measurements of the work directory, and the pause between two looks at
/// the host's free space. A task may write past its limit for that long; one file alone is stopped
/// by its size limit at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest such pause, for directories that take long to measure.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A measurement is followed by a pause this many times its own length: at most 5 % of one CPU.
const REST: u32 = 20;

/// What no task may take of the host's filesystem: 1 GiB, or one part in 20 of a small one. A fast
/// disk takes some 300 MB between two looks, and a system without free space loses more than tasks.
const RESERVE: u64 = 1 << 30;
const RESERVE_PART: u64 = 20;

/// A filesystem of a task's own counts as full when less than one part in this many is free, and a
/// few blocks: the last ones hold what the filesystem needs for itself.
const FULL_PART: u64 = 64;
const FULL_BYTES: u64 = 64 << 10;

/// Returns when the task has written too much, or the host has too little left for what it writes.
pub(super) async fn watch(limits: &Limits, pulse: &Pulse) -> Failure {
    let mut due = Instant::now() + PAUSE;
    let mut last = limits.inputs();
    loop {
        sleep(PAUSE).await;
        let overdue = Instant::now() >= due;
        let (low, measured) = look(limits, overdue).await;
        let Some((measured, took)) = measured else {
            continue;
        };
        if measured.is_over(limits.disk) {
            return disk_full(limits);
        }
        due = Instant::now() + (took * REST).clamp(PAUSE, PAUSE_MAX);
        if let Measure::Bytes(bytes) = measured {
            pulse.set_disk(bytes.saturating_sub(limits.inputs()));
            // Whoever writes nothing is not to blame, and its end would free little.
            if low && bytes > last {
                return reserve_broken();
            }
            last = bytes;
        }
    }
}

/// Whether the host runs low, and, when it does or `overdue`, what the work directory holds and how
/// long it took to see that.
async fn look(limits: &Limits, overdue: bool) -> (bool, Option<(Measure, Duration)>) {
    let (dir, host) = (limits.work_dir.clone(), limits.host.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let low = is_low(&host);
        let began = Instant::now();
        // Gone: others notice that.
        let measured = (overdue || low).then(|| workdir::measure(&dir).ok());
        (
            low,
            measured
                .flatten()
                .map(|measured| (measured, began.elapsed())),
        )
    });
    // The node is going down.
    looked.await.unwrap_or((false, None))
}

/// Whether the filesystem of `dir` has less left than its reserve. What cannot be told is no.
pub(super) fn is_low(dir: &Path) -> bool {
    statvfs(dir).is_ok_and(|space| available(&space) < reserve(&space))
}

/// What tasks leave free on the filesystem of `dir`, in bytes: one that has less takes no task. `None`
/// when the filesystem cannot be asked.
#[must_use]
pub fn reserve_of(dir: &Path) -> Option<Bytes> {
    Some(Bytes(reserve(&statvfs(dir).ok()?)))
}

fn reserve(space: &StatVfs) -> u64 {
    let total = space.f_blocks.saturating_mul(space.f_frsize);
    RESERVE.min(total / RESERVE_PART)
}

/// What an ordinary user can still write, in bytes.
pub(super) fn available(space: &StatVfs) -> u64 {
    space.f_bavail.saturating_mul(space.f_frsize)
}

/// Whether a task that failed had run out of its disk: so full that one more block was too many.
pub(super) async fn was_disk_full(limits: &Limits) -> bool {
    let limits = limits.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let measured = workdir::measure(&limits.work_dir);
        let almost = limits.disk.saturating_sub(workdir::ENTRY_BYTES);
        let is_over = measured.is_ok_and(|measured| measured.is_over(almost));
        is_over || (limits.hard && is_full(&limits.work_dir))
    });
    looked.await.unwrap_or(false)
}

/// Whether the filesystem at `dir`, which is the task's own, has no room for another file.
fn is_full(dir: &Path) -> bool {
    statvfs(dir).is_ok_and(|space| {
        let total = space.f_blocks.saturating_mul(space.f_frsize);
        available(&space) < total / FULL_PART + FULL_BYTES || space.f_favail == 0
    })
}

/// The failure of a task that wrote too much.
pub(super) fn disk_full(limits: &Limits) -> Failure {
    Failure::new(
        FailureKind::DiskFull,
        format!(
            "wrote more than its {} of disk (every file and folder counts at least {}), or folders \
             more than {} deep; raise `disk` in [resources] if it needs more",
            limits.asked,
            Bytes(workdir::ENTRY_BYTES),
            workdir::MAX_DEPTH
        ),
    )
}

/// The failure of a task that would have filled the host's disk.
pub(super) fn reserve_broken() -> Failure {
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
