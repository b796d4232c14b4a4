//! What must stand ready on the host before a task's container is made.
//!
//! Everything here touches the disk, so it runs off the async threads, in one go.

use std::io;
use std::path::Path;

use p2pnode_protocol::task::{Failure, FailureKind};

use super::container::TaskUser;
use super::hosts;
use super::watch::Limits;
use super::workdir::{self, Measure};
use crate::TaskRun;

/// The host's side of one run.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    /// uid and gid inside the container.
    pub user: (u32, u32),
    /// What the task must keep to, by what stands in its work directory.
    pub limits: Limits,
    /// The table of names for `/etc/hosts`.
    pub hosts: String,
}

impl Stage {
    /// Gives the work directory to the task's user and measures it. `dir` is the runtime's folder.
    ///
    /// # Errors
    /// When the host can't provide for the task, or the task's inputs are too many to be watched.
    pub(super) async fn set(task: &TaskRun, dir: &Path, rootless: bool) -> Result<Self, Failure> {
        let node = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let user = TaskUser::choose(node, rootless, task.root)?;
        let (work_dir, dir) = (task.work_dir.clone(), dir.to_path_buf());
        let prepared = tokio::task::spawn_blocking(move || -> io::Result<(Measure, String)> {
            Ok((
                workdir::hand_over(&work_dir, user.hand_over)?,
                hosts::ensure(&dir)?,
            ))
        });
        let prepared = prepared.await.unwrap_or_else(|error| Err(error.into()));
        let (measured, hosts) = prepared.map_err(|error| {
            Failure::new(
                FailureKind::Host,
                format!(
                    "the work directory {} cannot be prepared: {error}",
                    task.work_dir.display()
                ),
            )
        })?;
        let Measure::Bytes(inputs) = measured else {
            return Err(Failure::new(
                FailureKind::BadProgram,
                "its inputs hold too many files, or folders nested too deeply, to be watched; pack \
                 them into an archive",
            ));
        };
        let asked = task.resources.disk;
        Ok(Self {
            user: user.inside,
            limits: Limits {
                timeout: task.timeout,
                stall: task.stall,
                work_dir: task.work_dir.clone(),
                disk: inputs.saturating_add(asked.0),
                asked,
            },
            hosts,
        })
    }
}
