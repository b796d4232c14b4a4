//! What must stand ready on the host before a task's container is made.
//!
//! Everything here touches the disk, so it runs off the async threads.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use p2pnode_protocol::task::{Failure, FailureKind};

use super::container::TaskUser;
use super::disk::Disk;
use super::hosts;
use super::run::Shared;
use super::watch::Limits;
use super::workdir::{self, Measure};
use crate::TaskRun;
use crate::host::space;

/// The host's side of one run.
#[derive(Debug)]
pub(super) struct Stage {
    /// uid and gid inside the container.
    pub user: (u32, u32),
    /// What the task must keep to, by what stands in its work directory.
    pub limits: Limits,
    /// The table of names for `/etc/hosts`.
    pub hosts: String,
    /// The work directory's own filesystem, where tasks get one.
    pub disk: Option<Disk>,
}

/// What the blocking part brings.
struct Ground {
    measured: Measure,
    hosts: String,
}

impl Stage {
    /// Gives the work directory to the task's user, measures it and, where tasks get one, puts a
    /// filesystem of its own in its place. `name` is the container's.
    ///
    /// # Errors
    /// When the host can't provide for the task, or the task's inputs are too many to be watched.
    pub(super) async fn set(
        task: &TaskRun,
        name: &str,
        shared: &Arc<Shared>,
        rootless: bool,
    ) -> Result<Self, Failure> {
        let hard = !rootless && shared.disks.are_on().await;
        Self::with_disk(task, name, shared, rootless, hard).await
    }

    async fn with_disk(
        task: &TaskRun,
        name: &str,
        shared: &Arc<Shared>,
        rootless: bool,
        hard: bool,
    ) -> Result<Self, Failure> {
        let node = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let user = TaskUser::choose(node, rootless, task.root)?;
        let (work_dir, dir) = (task.work_dir.clone(), shared.dir.clone());
        let prepared = blocking(&task.work_dir, move || {
            Ok(Ground {
                measured: workdir::hand_over(&work_dir, user.hand_over)?,
                hosts: hosts::ensure(&dir)?,
            })
        });
        let Ground { measured, hosts } = prepared.await?;
        let Measure::Bytes(inputs) = measured else {
            return Err(Failure::new(
                FailureKind::BadProgram,
                "its inputs hold too many files, or folders nested too deeply, to be watched; pack \
                 them into an archive",
            ));
        };
        let asked = task.resources.disk;
        let limits = Limits {
            timeout: task.timeout,
            // Somebody who attends to a task may think for as long as they like.
            stall: match task.attended {
                true => Duration::ZERO,
                false => task.stall,
            },
            work_dir: task.work_dir.clone(),
            disk: inputs.saturating_add(asked.0),
            asked,
            host: (if hard { &shared.dir } else { &task.work_dir }).clone(),
            hard,
        };
        let (kept, name, shared) = (limits.clone(), name.to_owned(), Arc::clone(shared));
        let made = blocking(&task.work_dir, move || {
            if space::is_low(&kept.host) {
                return Ok(Err(space::reserve_broken()));
            }
            let disk = hard.then(|| shared.disks.make(&name, &kept.work_dir, kept.disk));
            Ok(Ok(disk.transpose()?))
        });
        Ok(Self {
            user: user.inside,
            limits,
            hosts,
            disk: made.await??,
        })
    }
}

/// Does what touches the disk off the async threads.
async fn blocking<T: Send + 'static>(
    work_dir: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(error.into()))
        .map_err(|error| {
            let dir = work_dir.display();
            Failure::new(
                FailureKind::Host,
                format!("the work directory {dir} cannot be prepared: {error}"),
            )
        })
}
