//! What the host sees of a running container: its processes, and its files as they are in there.
//!
//! Shared by whatever reaches into containers: rooms that are emptied between two tasks, and the way
//! in for a job's owner. Needs a node that is root on the engine's own machine. Everything here blocks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::super::container::WORK;
use super::super::meter;
use crate::host::cgroup::Mounts;

/// A running container, seen from the host.
#[derive(Debug)]
pub(in crate::docker) struct View {
    /// Its first process, which neither the task nor anybody in it can have replaced: its end is the
    /// container's.
    init: Pid,
    /// The container's id, which its processes' cgroup paths hold.
    id: String,
    /// Its root folder, in its own mount namespace.
    root: OwnedFd,
    /// The list of its processes.
    procs: PathBuf,
}

impl View {
    /// Looks at the started container `id`, in which nothing runs but its first process.
    ///
    /// # Errors
    /// Why this host can't see into its containers.
    pub(in crate::docker) fn of_waiting(mounts: &Mounts, id: &str) -> Result<Self, String> {
        let procs = procs_of(mounts, id)?;
        match list(&procs).map_err(|error| format!("{}: {error}", procs.display()))?[..] {
            [Some(init)] => Self::look(procs, id, init),
            _ => Err("this node does not see the engine's processes".into()),
        }
    }

    /// Looks at the started container `id`, whose first process is `init` by the engine's word, and
    /// whose work directory is the folder `work_dir` of this host.
    ///
    /// # Errors
    /// Why this host can't see into its containers.
    pub(super) fn of_running(
        mounts: &Mounts,
        id: &str,
        init: i64,
        work_dir: &Path,
    ) -> Result<Self, String> {
        let init = i32::try_from(init).ok().and_then(Pid::from_raw);
        let init = init.ok_or("the task has no process")?;
        let view = Self::look(procs_of(mounts, id)?, id, init)?;
        // With another OCI runtime those processes would be its own, and not the task's.
        match view.shows(work_dir) {
            Ok(true) => Ok(view),
            _ => Err("this node does not see the files of its containers".into()),
        }
    }

    fn look(procs: PathBuf, id: &str, init: Pid) -> Result<Self, String> {
        let path = format!("/proc/{}/root", init.as_raw_nonzero());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty())
            .map_err(|error| format!("this node cannot look into its containers: {error}"))?;
        let view = Self {
            init,
            id: id.to_owned(),
            root,
            procs,
        };
        // Asked last: then it has been the container's all along.
        if !view.lives() {
            return Err("the container ended at once, or its processes are not seen here".into());
        }
        Ok(view)
    }

    /// Its first process.
    pub(in crate::docker) fn init(&self) -> Pid {
        self.init
    }

    /// Its root folder.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Whether its first process is there.
    pub(in crate::docker) fn lives(&self) -> bool {
        self.processes()
            .is_ok_and(|all| all.contains(&Some(self.init)))
    }

    /// Its processes; `None` for those that this process's namespace has no number of.
    ///
    /// # Errors
    /// When it has ended.
    pub(in crate::docker) fn processes(&self) -> io::Result<Vec<Option<Pid>>> {
        list(&self.procs)
    }

    /// A handle of one of its processes; `None` when that is not, or no longer, one of its own.
    pub(in crate::docker) fn process(&self, pid: i64) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // Numbers are used again: the handle is of whatever had it a moment ago.
        self.holds(pid).then_some(handle)
    }

    fn holds(&self, pid: Pid) -> bool {
        let path = format!("/proc/{}/cgroup", pid.as_raw_nonzero());
        std::fs::read_to_string(path).is_ok_and(|text| text.contains(&self.id))
    }

    /// Whether the work directory at [`WORK`] is the folder `dir` of the host.
    ///
    /// # Errors
    /// When either can't be opened.
    pub(in crate::docker) fn shows(&self, dir: &Path) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let shown = self.open(WORK, flags)?;
        let shown = std::fs::File::from(shown).metadata()?;
        let wanted = std::fs::metadata(dir)?;
        Ok((shown.dev(), shown.ino()) == (wanted.dev(), wanted.ino()))
    }

    /// Opens a path as the container resolves it: links and `..` end at its root.
    ///
    /// # Errors
    /// As the system says.
    pub(in crate::docker) fn open(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(
            self.root.as_fd(),
            path,
            flags,
            Mode::empty(),
            resolve,
        )?)
    }

    /// Whether there is a program at `path`.
    pub(super) fn has_program(&self, path: &str) -> bool {
        use std::os::unix::fs::MetadataExt;
        let file = self.open(path, OFlags::PATH | OFlags::CLOEXEC);
        let stat = file.and_then(|file| std::fs::File::from(file).metadata());
        stat.is_ok_and(|stat| stat.is_file() && stat.mode() & 0o111 != 0)
    }
}

/// The list of the processes of a container.
fn procs_of(mounts: &Mounts, id: &str) -> Result<PathBuf, String> {
    let below = |root: &Path| meter::folder_of(root, id);
    let v1 = ["pids", "memory"].iter();
    let folder = v1
        .filter_map(|controller| mounts.v1(controller))
        .chain(mounts.v2())
        .find_map(below);
    let folder = folder.ok_or("this node does not see the engine's control groups")?;
    Ok(folder.join("cgroup.procs"))
}

/// The processes in a `cgroup.procs`; `None` for those that this process's namespace has no number of.
fn list(procs: &Path) -> io::Result<Vec<Option<Pid>>> {
    let text = std::fs::read_to_string(procs)?;
    let pids = text
        .lines()
        .map(|line| line.parse().ok().and_then(Pid::from_raw));
    Ok(pids.collect())
}
