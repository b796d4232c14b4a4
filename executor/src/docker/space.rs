//! Watches the disk under a running task: how much it has written, and how much the host has left.
//!
//! Where the work directory is a filesystem of its own (`disk`), this is the second guard, and the
//! one with the words. Elsewhere it is the guard: a task can be over its limit for as long as a
//! measurement is apart from the next. What has names is measured by `workdir`, what has none any more
//! by `nameless`, and what neither can see must leave the host its reserve all the same. Called by
//! `watch` and, for what a failed task ran into, by `exit`. It must never follow anything of the
//! task's: `workdir` sees to that.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::{Failure, FailureKind};
use rustix::fs::statvfs;
use tokio::time::{Instant, sleep};

use super::nameless::{Holders, Nameless};
use super::watch::{Limits, Pulse};
use super::workdir::{self, Measure};
use crate::host::space::{available, reserve, reserve_broken};

/// Shortest pause between two measurements of the work directory, and the pause between two looks at
/// the host's free space. A task may write past its limit for that long; one file alone is stopped
/// by its size limit at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest such pause, for directories that take long to measure.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A measurement is followed by a pause this many times its own length: at most 5 % of one CPU.
const REST: u32 = 20;

/// A filesystem of a task's own counts as full when less than one part in this many is free: the last
/// blocks hold what the filesystem needs for itself.
const FULL_PART: u64 = 64;

/// It counts as full, too, when less than this is free. The page cache takes what is written in
/// pieces of up to 2 MiB (its largest folio on x86-64), each wholly or not at all, and until the piece
/// before is on the disk more than its blocks may be held for it. So a write that found no room may
/// leave as much as two pieces.
const FULL_BYTES: u64 = 4 << 20;

/// Of a small disk no more than one part in this many.
const FULL_PART_MOST: u64 = 8;

/// Looks at a disk that nears its end before tasks are ended that cannot be shown to fill it: those
/// that can be are ended at the first one, and should have freed something.
const PATIENCE: u32 = 3;

/// Returns when the task has written too much, or the host has too little left for what it writes.
pub(super) async fn watch(limits: &Limits, holders: Holders, pulse: &Pulse) -> Failure {
    let mut due = Instant::now() + PAUSE;
    let mut last = limits.inputs();
    let mut brink = Brink::default();
    loop {
        sleep(PAUSE).await;
        let overdue = Instant::now() >= due;
        let seen = look(limits, &holders, overdue).await;
        // What ends where its own filesystem ends cannot take the host's.
        if brink.is_reached(&seen) && !limits.hard {
            return reserve_broken();
        }
        let Some((measured, took)) = seen.measured else {
            continue;
        };
        if measured.is_over(limits.disk) {
            return disk_full(limits);
        }
        due = Instant::now() + (took * REST).clamp(PAUSE, PAUSE_MAX);
        if let Measure::Bytes(bytes) = measured {
            pulse.set_disk(bytes.saturating_sub(limits.inputs()));
            // Whoever writes nothing is not to blame, and its end would free little.
            if seen.level > Level::Enough && bytes > last {
                return reserve_broken();
            }
            last = bytes;
        }
    }
}

/// How near the host's disk is to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// More than the reserve is left.
    #[default]
    Enough,
    /// Part of the reserve is gone.
    Low,
    /// Half of it.
    Half,
    /// Three quarters of it.
    Brink,
}

impl Level {
    fn of(free: u64, reserve: u64) -> Self {
        match free {
            _ if free < reserve / 4 => Self::Brink,
            _ if free < reserve / 2 => Self::Half,
            _ if free < reserve => Self::Low,
            _ => Self::Enough,
        }
    }
}

/// What one look brought.
#[derive(Debug, Default)]
struct Seen {
    level: Level,
    /// What the task has written and how long it took to see that, when it was looked at.
    measured: Option<(Measure, Duration)>,
    /// Whether some of it may be where nobody sees it.
    hidden: bool,
}

/// For how many looks the disk has been near its end.
///
/// Whoever grows before everybody's eyes ends at once. When that does not help, somebody holds what
/// cannot be seen: those of whom not everything can be seen end first, and finally all, for a system
/// whose disk is full loses more than tasks.
#[derive(Debug, Default)]
struct Brink {
    half: u32,
    brink: u32,
}

impl Brink {
    fn is_reached(&mut self, seen: &Seen) -> bool {
        let count = |looks: u32, level| if seen.level >= level { looks + 1 } else { 0 };
        self.half = count(self.half, Level::Half);
        self.brink = count(self.brink, Level::Brink);
        self.brink >= PATIENCE || (seen.hidden && self.half >= PATIENCE)
    }
}

/// How much the host has left, and, when that is low or it is `overdue`, what the task has written.
async fn look(limits: &Limits, holders: &Holders, overdue: bool) -> Seen {
    let (limits, holders) = (limits.clone(), holders.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let level = level(&limits.host);
        let began = Instant::now();
        if !overdue && level == Level::Enough {
            return Seen::default();
        }
        // Before the names: what loses its name meanwhile is missed once, not counted twice. A
        // filesystem of the task's own has its own end, and the host's has nothing of it.
        let nameless = match limits.hard {
            true => Nameless::default(),
            false => holders.look(&limits.work_dir),
        };
        // Gone: others notice that.
        let named = workdir::measure(&limits.work_dir, nameless.files).ok();
        Seen {
            level,
            measured: named.map(|named| (named.and(nameless.bytes), began.elapsed())),
            hidden: nameless.hidden,
        }
    });
    // The node is going down.
    looked.await.unwrap_or_default()
}

fn level(dir: &Path) -> Level {
    statvfs(dir).map_or(Level::Enough, |space| {
        Level::of(available(&space), reserve(&space))
    })
}

/// Whether a task that failed had run out of its disk: so full that one more block was too many.
pub(super) async fn was_disk_full(limits: &Limits) -> bool {
    let limits = limits.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let measured = workdir::measure(&limits.work_dir, HashSet::new());
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
        available(&space) < full_below(total) || space.f_favail == 0
    })
}

/// With less than this free a filesystem of `total` bytes counts as full, in bytes.
fn full_below(total: u64) -> u64 {
    FULL_BYTES
        .min(total / FULL_PART_MOST)
        .max(total / FULL_PART)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_when_a_piece_of_a_write_finds_no_room() {
        let mib = |bytes: u64| bytes << 20;
        assert_eq!(full_below(mib(8)), mib(1), "most of a small disk is room");
        assert_eq!(full_below(mib(80)), mib(4));
        assert_eq!(full_below(mib(6400)), mib(100));
    }

    #[test]
    fn at_the_brink_those_that_hide_end_first_and_then_all() {
        let seen = |free: u64, hidden| Seen {
            level: Level::of(free, 100),
            hidden,
            ..Seen::default()
        };
        let ends = |free, hidden| {
            let mut brink = Brink::default();
            (1..=PATIENCE + 2).find(|_| brink.is_reached(&seen(free, hidden)))
        };
        assert_eq!(ends(100, true), None);
        assert_eq!(ends(50, true), None, "there is time yet");
        assert_eq!(ends(49, true), Some(PATIENCE));
        assert_eq!((ends(49, false), ends(25, false)), (None, None));
        assert_eq!(
            (ends(24, false), ends(0, false)),
            (Some(PATIENCE), Some(PATIENCE))
        );
        // Room again: patience begins anew.
        let mut brink = Brink::default();
        assert!(!brink.is_reached(&seen(0, false)));
        assert!(!brink.is_reached(&seen(0, false)));
        assert!(!brink.is_reached(&seen(30, false)));
        assert!(!brink.is_reached(&seen(0, false)));
    }
}
