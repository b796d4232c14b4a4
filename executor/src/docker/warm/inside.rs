//! What the host knows of a waiting container: its processes, its kills for memory, its files.
//!
//! A container may be used again only when nothing of a task is left in it, and nothing in it can be
//! asked to say so. So the host looks, as root: at the container's control group for processes, and
//! through its first process, which is our own program, at its files and namespaces. What can't be
//! seen counts as dirty. Everything here blocks.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, pidfd_send_signal};

use super::super::inside::View;
use super::super::{enter, meter};
use super::scratch;
use crate::host::cgroup::Mounts;

/// Pauses between looks at processes that were killed, in milliseconds. Dying takes microseconds; what
/// is still there after all of them is left to the removal of the container.
const DYING_MS: [u64; 6] = [0, 1, 2, 5, 20, 70];

/// Processes looked at in one container; more are not killed one by one.
const MOST_PROCESSES: usize = 4_096;

/// A waiting container, seen from the host.
#[derive(Debug)]
pub(super) struct Inside {
    view: Arc<View>,
    /// The count of its kills for memory.
    kills: Option<PathBuf>,
}

impl Inside {
    /// Looks at the started container `id`, in which nothing runs but its first process.
    ///
    /// # Errors
    /// Why this host can't see into its containers.
    pub(super) fn look(mounts: &Mounts, id: &str) -> Result<Self, String> {
        let below = |root: &Path| meter::folder_of(root, id);
        let kills = match mounts.v1("memory").and_then(below) {
            Some(folder) => Some(folder.join("memory.oom_control")),
            None => mounts
                .v2()
                .and_then(below)
                .map(|folder| folder.join("memory.events")),
        };
        let view = Arc::new(View::of_waiting(mounts, id)?);
        Ok(Self { view, kills })
    }

    /// The same without the room's folder, for whoever may outlive the room.
    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    /// Its first process.
    pub(super) fn init(&self) -> Pid {
        self.view.init()
    }

    /// Whether its first process is there.
    pub(super) fn lives(&self) -> bool {
        self.view.lives()
    }

    /// How often the kernel has killed in it for memory; `None` when that can't be told.
    pub(super) fn memory_kills(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.kills.as_deref()?).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line?.trim().parse().ok()
    }

    /// A handle of one of its processes; `None` when that is not, or no longer, one of its own.
    pub(super) fn process(&self, pid: i64) -> Option<OwnedFd> {
        self.view.process(pid)
    }

    /// Kills every process but the first. True when none is left.
    pub(super) fn clear_processes(&self) -> bool {
        let init = self.init();
        for pause_ms in DYING_MS {
            std::thread::sleep(Duration::from_millis(pause_ms));
            let Ok(all) = self.view.processes() else {
                return false;
            };
            if all == [Some(init)] {
                return true;
            }
            if all.len() > MOST_PROCESSES || !all.contains(&Some(init)) {
                return false;
            }
            for pid in all.into_iter().flatten().filter(|pid| *pid != init) {
                if let Some(process) = self.process(i64::from(pid.as_raw_nonzero().get())) {
                    // It may have ended meanwhile.
                    let _ = pidfd_send_signal(&process, Signal::KILL);
                }
            }
        }
        false
    }

    /// Whether the work directory is the folder `dir` of the host.
    pub(super) fn shows(&self, dir: &Path) -> io::Result<bool> {
        self.view.shows(dir)
    }

    /// Opens a path as the container resolves it: links and `..` end at its root.
    pub(super) fn open(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        self.view.open(path, flags)
    }

    /// Empties what tasks can write to beside their work directory. False when something is left.
    pub(super) fn clear_scratch(&self, places: &[String]) -> bool {
        let emptied = places.iter().all(|place| {
            let cleared = scratch::clear(self, place);
            if let Err(error) = &cleared {
                tracing::debug!(place, %error, "a container's scratch cannot be emptied");
            }
            cleared.is_ok()
        });
        emptied && enter::has_no_shared_memory(self.init()).unwrap_or(false)
    }
}
