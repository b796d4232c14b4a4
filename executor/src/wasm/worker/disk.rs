//! Holds one task to its disk limit.
//!
//! A guest can grow its folder only through a handful of WASI calls ([`super::wasi`] passes them by
//! here first), and by no more than what it writes. So writes are counted against an allowance, and
//! only when that is used up is the folder measured: a task that writes less than its limit in all
//! never pays for a measurement, and no task ever exceeds its limit, not even for a moment. Inputs do
//! not count: they changed last before the task started. What was removed while it is open is in no
//! folder and takes its place all the same, so whoever has the folder measured says how much that is.
//!
//! The host's reserve holds here as well, whatever the limit is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2pnode_protocol::Bytes;

use super::meter::Gauge;
use crate::host::space;

/// What a file, folder or link counts beside its content: about an inode and its name, so that a
/// million empty files are not free.
pub const ENTRY_BYTES: u64 = 512;

/// Entries measured before another task gets its turn: well under a millisecond's worth.
const ENTRIES_PER_TURN: usize = 256;

/// Bytes that a task adds between two looks at what the host has left, the first being before its
/// first: little beside the reserve, and far more than a look costs.
const LOOK_BYTES: u64 = 16 << 20;

/// The task was ended because it would have gone over its disk, or into the host's reserve.
#[derive(Debug, thiserror::Error)]
#[error("the disk limit is reached")]
pub struct DiskFull;

/// What one task may still write.
#[derive(Debug)]
pub struct DiskLimit {
    folder: PathBuf,
    limit: u64,
    allowance: u64,
    since: FileTime,
    /// What was added since the host's disk was last looked at.
    unlooked: u64,
    gauge: Arc<Gauge>,
}

/// Seconds and nanoseconds as files carry them.
type FileTime = (i64, i64);

impl DiskLimit {
    /// From now on, no more than `limit` beyond what stands in `folder`.
    pub fn new(folder: PathBuf, limit: Bytes, gauge: Arc<Gauge>) -> Self {
        Self {
            folder,
            limit: limit.0,
            allowance: limit.0,
            since: now(),
            unlooked: LOOK_BYTES,
            gauge,
        }
    }

    /// Whether `bytes` more are within what was left when the folder was last measured.
    pub fn has(&self, bytes: u64) -> bool {
        bytes <= self.allowance
    }

    /// Measures the folder anew. `nameless` bytes are in files that the guest holds open and that
    /// have no name any more.
    pub async fn measure(&mut self, nameless: u64) {
        // A folder that cannot be measured is one in which the guest hides something: names longer
        // than a path may be.
        let used = added_since(&self.folder, self.since).await;
        let used = used.map_or(u64::MAX, |used| used.saturating_add(nameless));
        self.allowance = self.limit.saturating_sub(used);
        self.unlooked = LOOK_BYTES;
    }

    /// Lets the guest add `bytes`.
    ///
    /// # Errors
    /// [`DiskFull`], which ends the task.
    pub fn admit(&mut self, bytes: u64) -> Result<(), DiskFull> {
        self.unlooked = self.unlooked.saturating_add(bytes);
        if self.unlooked >= LOOK_BYTES {
            self.unlooked = 0;
            if space::is_low(&self.folder) {
                self.gauge.set_host_full();
                return Err(DiskFull);
            }
        }
        match self.allowance.checked_sub(bytes) {
            Some(rest) => {
                self.allowance = rest;
                Ok(())
            }
            None => {
                self.gauge.set_disk_full();
                Err(DiskFull)
            }
        }
    }
}

/// Bytes in files and folders of `folder` that changed at or after `since`. What the guest itself
/// does meanwhile is nothing: it waits for this.
async fn added_since(folder: &Path, since: FileTime) -> std::io::Result<u64> {
    let mut total = 0_u64;
    let mut seen = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            // Of the link itself when it is one.
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
            if changed(&metadata) >= since {
                total = total.saturating_add(ENTRY_BYTES + occupied(&metadata));
            }
            seen += 1;
            if seen % ENTRIES_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
    Ok(total)
}

/// Bytes that a file takes: holes are free, and so is what a filesystem reserves ahead.
#[cfg(unix)]
fn occupied(metadata: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // Blocks are of 512 bytes whatever the filesystem's own are.
    metadata.len().min(metadata.blocks().saturating_mul(512))
}

#[cfg(unix)]
fn changed(metadata: &std::fs::Metadata) -> FileTime {
    use std::os::unix::fs::MetadataExt;
    (metadata.ctime(), metadata.ctime_nsec())
}

/// Bytes that a file takes.
#[cfg(not(unix))]
fn occupied(metadata: &std::fs::Metadata) -> u64 {
    metadata.len()
}

/// Everything counts where the time of the last change is the guest's to set.
#[cfg(not(unix))]
fn changed(_metadata: &std::fs::Metadata) -> FileTime {
    (i64::MAX, 0)
}

/// Now, by the clock that stamps files: it runs behind the exact one by up to a timer tick, and a
/// file written in the first tick must not look older than the task.
fn now() -> FileTime {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::RealtimeCoarse;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Realtime;
    let time = rustix::time::clock_gettime(clock);
    (time.tv_sec, time.tv_nsec)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn limit(folder: &Path, limit: u64) -> DiskLimit {
        DiskLimit::new(folder.to_owned(), Bytes(limit), Arc::new(Gauge::default()))
    }

    async fn admit(disk: &mut DiskLimit, bytes: u64) -> Result<(), DiskFull> {
        if !disk.has(bytes) {
            disk.measure(0).await;
        }
        disk.admit(bytes)
    }

    #[tokio::test]
    async fn what_has_no_name_is_not_free() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = limit(folder.path(), 10_000);
        disk.admit(6_000).unwrap();
        disk.measure(6_000).await;
        assert!(disk.has(4_000) && !disk.has(4_001));
        disk.measure(u64::MAX).await;
        assert!(!disk.has(1));
        disk.measure(0).await;
        disk.admit(10_000).unwrap();
        disk.admit(1).unwrap_err();
        assert!(disk.gauge.disk_full() && !disk.gauge.host_full());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_hosts_reserve_holds_whatever_the_limit_is() {
        let folder = tempfile::tempdir().unwrap();
        let options = "size=4m,mode=0755";
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "p2pnode-test"])
            .arg(folder.path())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            return eprintln!("not tested: a small disk takes root");
        }
        let mut disk = limit(folder.path(), u64::MAX);
        let first = disk.admit(1);
        std::fs::write(folder.path().join("file"), vec![1; 4_000_000]).unwrap();
        let unseen = disk.admit(1_000);
        let seen = disk.admit(LOOK_BYTES);
        let late = limit(folder.path(), u64::MAX).admit(1);
        let unmounted = std::process::Command::new("umount")
            .arg(folder.path())
            .status();
        assert!(unmounted.unwrap().success());
        assert!(first.is_ok() && unseen.is_ok());
        assert!(seen.is_err() && late.is_err());
        assert!(disk.gauge.host_full() && !disk.gauge.disk_full());
    }

    #[tokio::test]
    async fn what_was_deleted_may_be_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = limit(folder.path(), 10_000);
        let file = folder.path().join("file");
        for _ in 0..10 {
            admit(&mut disk, 6_000).await.unwrap();
            std::fs::write(&file, vec![1; 6_000]).unwrap();
            std::fs::remove_file(&file).unwrap();
        }
        assert!(!disk.gauge.disk_full());
    }

    #[tokio::test]
    async fn what_stays_counts() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = limit(folder.path(), 10_000);
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        admit(&mut disk, 8_000).await.unwrap();
        std::fs::write(folder.path().join("sub/file"), vec![1; 8_000]).unwrap();
        admit(&mut disk, 3_000).await.unwrap_err();
        assert!(disk.gauge.disk_full());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn inputs_and_holes_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("input"), vec![1; 50_000]).unwrap();
        // Files are stamped in steps; a task that starts in the next one is what is meant here.
        let stamped = now();
        while now() == stamped {
            std::thread::yield_now();
        }
        let mut disk = limit(folder.path(), 10_000);
        admit(&mut disk, 9_000).await.unwrap();
        let sparse = std::fs::File::create(folder.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        admit(&mut disk, 9_000).await.unwrap();
        admit(&mut disk, 9_000).await.unwrap();
    }

    #[tokio::test]
    async fn many_small_entries_count_too() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = limit(folder.path(), 100 * ENTRY_BYTES);
        for index in 0..100 {
            admit(&mut disk, ENTRY_BYTES).await.unwrap();
            std::fs::write(folder.path().join(index.to_string()), b"").unwrap();
        }
        admit(&mut disk, ENTRY_BYTES).await.unwrap_err();
    }
}
