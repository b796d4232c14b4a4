//! Disk for what is written for others: a manifest may name one chunk a million times, so that what arrived
//! says little about what would be written.
//!
//! Owns what is promised to writers at work, so that many at once do not each find the same free space.
//! What the owner offers is the core's business; here is what the disk has.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use p2pnode_executor::docker::reserve_of;
use p2pnode_executor::host::free_disk;
use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::{Failure, FailureKind};

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct DiskRoom {
    promised: Arc<AtomicU64>,
}

/// Space that is promised to a writer until this is dropped; what it wrote counts as used by then.
#[derive(Debug)]
pub(super) struct Promise {
    room: DiskRoom,
    bytes: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.room.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl DiskRoom {
    /// Promises `bytes` on the filesystem of `folder`, which exists. `what` is to be written.
    ///
    /// # Errors
    /// A failure of this host when the reserve would not be left, or the filesystem cannot be asked.
    pub(super) fn take(&self, folder: &Path, what: &str, bytes: u64) -> Result<Promise, Failure> {
        let host = |message| Failure::new(FailureKind::Host, message);
        let (Some(free), Some(reserve)) = (free_disk(folder), reserve_of(folder)) else {
            return Err(host(
                "the disk of this node does not tell its free space".to_owned(),
            ));
        };
        let usable = free.0.saturating_sub(reserve.0);
        let taken = |promised: u64| {
            let after = promised.checked_add(bytes)?;
            (after <= usable).then_some(after)
        };
        self.promised
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .map_err(|promised| {
                let left = Bytes(usable.saturating_sub(promised));
                let (bytes, reserve) = (Bytes(bytes), reserve);
                host(format!(
                    "{what} is {bytes}, and this node's disk has {left} for it, {reserve} being kept free"
                ))
            })?;
        Ok(Promise {
            room: self.clone(),
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_does_not_fit_beside_what_others_write_is_refused_before_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let room = DiskRoom::default();
        let free = free_disk(folder.path()).unwrap().0;
        let failure = room.take(folder.path(), "an archive", free).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Host);
        assert!(failure.message.contains("being kept free"), "{failure:?}");
        let usable = free - reserve_of(folder.path()).unwrap().0;
        let half = usable / 8 * 5;
        let first = room.take(folder.path(), "an archive", half).unwrap();
        assert!(room.take(folder.path(), "an archive", half).is_err());
        assert!(room.take(folder.path(), "an archive", u64::MAX).is_err());
        drop(first);
        room.take(folder.path(), "an archive", half).unwrap();
    }
}
