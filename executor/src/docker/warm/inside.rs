//! What the host knows of a waiting container: its processes, its kills for memory, its files.
//!
//! A container may be used again only when nothing of a task is left in it, and nothing in it can be
//! asked to say so. So the host looks, as root: at the container's control group for processes, and
//! through its first process, which is our own program, at its files and namespaces. What can't be
//! seen counts as dirty. Everything here blocks.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::super::container::WORK;
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
    /// Its first process, ours.
    init: Pid,
    /// The container's id, which its processes' cgroup paths hold.
    id: String,
    /// Its root folder, in its own mount namespace.
    root: OwnedFd,
    /// The list of its processes.
    procs: PathBuf,
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
        let (procs, kills) = if let Some(folder) = ["pids", "memory"]
            .iter()
            .find_map(|controller| mounts.v1(controller).and_then(below))
        {
            let memory = mounts.v1("memory").and_then(below);
            (
                folder,
                memory.map(|folder| folder.join("memory.oom_control")),
            )
        } else {
            let folder = mounts.v2().and_then(below);
            let folder = folder.ok_or("this node does not see the engine's control groups")?;
            (folder.clone(), Some(folder.join("memory.events")))
        };
        let procs = procs.join("cgroup.procs");
        let init = match list(&procs).map_err(|error| format!("{}: {error}", procs.display()))?[..]
        {
            [Some(init)] => init,
            _ => return Err("this node does not see the engine's processes".into()),
        };
        let path = format!("/proc/{}/root", init.as_raw_nonzero());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty())
            .map_err(|error| format!("this node cannot look into its containers: {error}"))?;
        let inside = Self {
            init,
            id: id.to_owned(),
            root,
            procs,
            kills,
        };
        if !inside.lives() {
            return Err("the container ended at once".into());
        }
        Ok(inside)
    }

    /// Its first process.
    pub(super) fn init(&self) -> Pid {
        self.init
    }

    /// Whether its first process is there.
    pub(super) fn lives(&self) -> bool {
        list(&self.procs).is_ok_and(|all| all.contains(&Some(self.init)))
    }

    /// How often the kernel has killed in it for memory; `None` when that can't be told.
    pub(super) fn memory_kills(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.kills.as_deref()?).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line?.trim().parse().ok()
    }

    /// A handle of one of its processes; `None` when that is not, or no longer, one of its own.
    pub(super) fn process(&self, pid: i64) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // Numbers are used again: the handle is of whatever had it a moment ago.
        self.holds(pid).then_some(handle)
    }

    fn holds(&self, pid: Pid) -> bool {
        let path = format!("/proc/{}/cgroup", pid.as_raw_nonzero());
        std::fs::read_to_string(path).is_ok_and(|text| text.contains(&self.id))
    }

    /// Kills every process but the first. True when none is left.
    pub(super) fn clear_processes(&self) -> bool {
        for pause_ms in DYING_MS {
            std::thread::sleep(Duration::from_millis(pause_ms));
            let Ok(all) = list(&self.procs) else {
                return false;
            };
            if all == [Some(self.init)] {
                return true;
            }
            if all.len() > MOST_PROCESSES || !all.contains(&Some(self.init)) {
                return false;
            }
            for pid in all.into_iter().flatten().filter(|pid| *pid != self.init) {
                if let Some(process) = self.process(i64::from(pid.as_raw_nonzero().get())) {
                    // It may have ended meanwhile.
                    let _ = pidfd_send_signal(&process, Signal::KILL);
                }
            }
        }
        false
    }

    /// Whether the work directory at [`WORK`] is the folder `dir` of the host.
    pub(super) fn shows(&self, dir: &Path) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let shown = self.open(WORK, flags)?;
        let shown = std::fs::File::from(shown).metadata()?;
        let wanted = std::fs::metadata(dir)?;
        Ok((shown.dev(), shown.ino()) == (wanted.dev(), wanted.ino()))
    }

    /// Opens a path as the container resolves it: links and `..` end at its root.
    pub(super) fn open(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(
            self.root.as_fd(),
            path,
            flags,
            Mode::empty(),
            resolve,
        )?)
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
        emptied && enter::has_no_shared_memory(self.init).unwrap_or(false)
    }
}

/// The processes in a `cgroup.procs`; `None` for those that this process's namespace has no number of.
fn list(procs: &Path) -> io::Result<Vec<Option<Pid>>> {
    let text = std::fs::read_to_string(procs)?;
    let pids = text
        .lines()
        .map(|line| line.parse().ok().and_then(Pid::from_raw));
    Ok(pids.collect())
}
