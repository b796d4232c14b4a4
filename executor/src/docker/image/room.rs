//! Room on the engine's disk: what may come there, and when to stop.
//!
//! Engines fill the disk that they are given to the last byte, and a full disk stops every container
//! on the machine. So what is about to come is measured first where it can be, and the free space is
//! watched while it comes. An engine on another machine tells nothing of its disk; there its owner
//! has to see to it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::{Failure, FailureKind};

/// What is left free: enough for the node's own database and logs, and for the engine to work.
const RESERVE: u64 = 1 << 30;

/// Pause between two looks. A fast disk takes some 2 GB/s, so a quarter of a second is well within
/// the reserve.
const LOOK: Duration = Duration::from_millis(250);

/// The engine's disk.
#[derive(Debug, Clone)]
pub(super) struct Room(Option<PathBuf>);

impl Room {
    /// Where the engine keeps its images, when that is a folder of this machine.
    pub(super) async fn of(docker: &Docker) -> Self {
        let info = docker.info().await.ok();
        let root = info.and_then(|info| info.docker_root_dir);
        Self(root.map(PathBuf::from).filter(|root| root.is_dir()))
    }

    /// Bytes that may still come; `None` when nobody knows.
    pub(super) fn left(&self) -> Option<u64> {
        free(self.0.as_deref()?).map(|free| free.saturating_sub(RESERVE))
    }

    /// Whether `bytes` more fit.
    ///
    /// # Errors
    /// [`FailureKind::ImageUnavailable`] with both sizes.
    pub(super) fn check(&self, what: &str, bytes: u64) -> Result<(), Failure> {
        match self.left() {
            Some(left) if left < bytes => Err(too_large(what, &Bytes(bytes).to_string(), left)),
            _ => Ok(()),
        }
    }

    /// Does `work` unless the disk fills up meanwhile; then it is dropped, which must stop it.
    ///
    /// # Errors
    /// [`FailureKind::ImageUnavailable`] when there is no room left.
    pub(super) async fn watched<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let full = async {
            loop {
                tokio::time::sleep(LOOK).await;
                if self.left() == Some(0) {
                    return;
                }
            }
        };
        tokio::select! {
            done = work => done,
            () = full => Err(Failure::new(
                FailureKind::ImageUnavailable,
                format!(
                    "{what} does not fit on this machine: the disk of its container engine has less \
                     than {} free, which must stay so. Its owner can make room there",
                    Bytes(RESERVE)
                ),
            )),
        }
    }
}

/// The words for an image that is larger than the room for it.
pub(super) fn too_large(what: &str, size: &str, left: u64) -> Failure {
    Failure::new(
        FailureKind::ImageUnavailable,
        format!(
            "{what} takes {size} on the disk of this machine's container engine, and {} may be used \
             there. Its owner can make room, or another provider has more",
            Bytes(left)
        ),
    )
}

fn free(root: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(root).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_is_refused_with_both_sizes() {
        let room = Room(Some("/".into()));
        let failure = room.check("the image x", u64::MAX).unwrap_err();
        assert_eq!(failure.kind, FailureKind::ImageUnavailable);
        assert!(
            failure.message.contains("takes 16384.0 PiB")
                && failure.message.contains("may be used"),
            "{failure:?}"
        );
        assert!(room.check("the image x", 0).is_ok());
        let unknown = Room(None);
        assert!(unknown.check("the image x", u64::MAX).is_ok());
        let done = unknown.watched("x", async { Ok(7) }).await;
        assert_eq!(done.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_disk_without_room_stops_the_work() {
        // Nothing is free where processes are listed.
        let room = Room(Some("/proc".into()));
        let never = std::future::pending::<Result<(), Failure>>();
        let failure = room.watched("the image x", never).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::ImageUnavailable);
    }
}
