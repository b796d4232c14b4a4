//! Reads of Linux control groups, version 1 and 2: the limits this process stands under, and where
//! controllers are mounted (the Docker runtime reads its containers' use there).
//!
//! Everything is read-only and optional: elsewhere, or when a file is missing, the answer is `None`.

use std::path::{Path, PathBuf};

/// Quotas of the cgroups that this process is in; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// In thousandths of a CPU.
    pub cpu_milli: Option<u64>,
    /// In bytes.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// One mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    /// The cgroup that stands at the mount point.
    root: String,
    /// Where.
    point: PathBuf,
    /// Version 1: its controllers. Version 2: `None`.
    controllers: Option<Vec<String>>,
}

/// The mounted cgroup hierarchies of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mounts(Vec<Mount>);

impl Mounts {
    /// Those that this process sees; none where there are no cgroups.
    pub(crate) fn of_this_process() -> Self {
        std::fs::read_to_string("/proc/self/mountinfo")
            .map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    /// From the text of `/proc/self/mountinfo`. Mount points with escaped characters are left out.
    pub(crate) fn parse(mountinfo: &str) -> Self {
        Self(mountinfo.lines().filter_map(Mount::parse).collect())
    }

    /// Where a version 1 controller is mounted.
    pub(crate) fn v1(&self, controller: &str) -> Option<&Path> {
        self.0
            .iter()
            .find(|mount| mount.has(controller))
            .map(|mount| mount.point.as_path())
    }

    /// Where version 2 is mounted.
    pub(crate) fn v2(&self) -> Option<&Path> {
        self.0
            .iter()
            .find(|mount| mount.controllers.is_none())
            .map(|mount| mount.point.as_path())
    }

    /// The folders of this process's cgroup and of those above it, for a version 1 controller
    /// (or version 2 for `None`). `cgroup` is the text of `/proc/self/cgroup`.
    fn own_folders(&self, controller: Option<&str>, cgroup: &str) -> Vec<PathBuf> {
        let folders = || {
            let mount = self.0.iter().find(|mount| match controller {
                Some(name) => mount.has(name),
                None => mount.controllers.is_none(),
            })?;
            let path = cgroup.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':');
                let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
                match controller {
                    Some(name) => names.split(',').any(|n| n == name).then_some(path),
                    None => names.is_empty().then_some(path),
                }
            })?;
            // Within a container the hierarchy may be mounted at the container's own group.
            let below = path
                .strip_prefix(mount.root.trim_end_matches('/'))
                .unwrap_or("");
            let folder = mount.point.join(below.trim_start_matches('/'));
            Some(
                folder
                    .ancestors()
                    .take_while(|above| above.starts_with(&mount.point))
                    .map(Path::to_path_buf)
                    .collect(),
            )
        };
        folders().unwrap_or_default()
    }
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, _, options) = (right.next()?, right.next()?, right.next()?);
        let controllers = match kind {
            "cgroup2" => None,
            "cgroup" => Some(options.split(',').map(str::to_owned).collect()),
            _ => return None,
        };
        (!point.contains('\\')).then(|| Self {
            root: root.to_owned(),
            point: PathBuf::from(point),
            controllers,
        })
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers
            .as_ref()
            .is_some_and(|all| all.iter().any(|name| name == controller))
    }
}

impl Limits {
    /// What this process stands under; no limits where there are no cgroups.
    pub(super) fn of_this_process() -> Self {
        let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::find(&Mounts::of_this_process(), &cgroup)
    }

    /// The tightest limit of a group and all above it, in either version.
    fn find(mounts: &Mounts, cgroup: &str) -> Self {
        let cpu_v2 = mounts
            .own_folders(None, cgroup)
            .into_iter()
            .filter_map(|folder| {
                let text = std::fs::read_to_string(folder.join("cpu.max")).ok()?;
                let (quota, period) = text.trim().split_once(' ')?;
                milli(quota.parse().ok()?, period.parse().ok()?)
            });
        let cpu_v1 = mounts
            .own_folders(Some("cpu"), cgroup)
            .into_iter()
            .filter_map(|folder| {
                milli(
                    read_number(&folder.join("cpu.cfs_quota_us"))?,
                    read_number(&folder.join("cpu.cfs_period_us"))?,
                )
            });
        let memory_v2 = mounts
            .own_folders(None, cgroup)
            .into_iter()
            .filter_map(|folder| read_number(&folder.join("memory.max")));
        let memory_v1 = mounts
            .own_folders(Some("memory"), cgroup)
            .into_iter()
            .filter_map(|folder| read_number(&folder.join("memory.limit_in_bytes")));
        let pids = [None, Some("pids")].into_iter().flat_map(|controller| {
            let folders = mounts.own_folders(controller, cgroup).into_iter();
            folders.filter_map(|folder| read_number(&folder.join("pids.max")))
        });
        Self {
            pids: pids.min(),
            cpu_milli: cpu_v2.chain(cpu_v1).min(),
            memory: memory_v2.chain(memory_v1).min(),
        }
    }
}

/// A quota in microseconds of CPU time per period, in thousandths of a CPU.
fn milli(quota_us: u64, period_us: u64) -> Option<u64> {
    (period_us > 0).then(|| quota_us.saturating_mul(1_000) / period_us)
}

/// A file that holds one number. `None` for `max`, for -1 (version 1's "no limit"), and when absent.
pub(crate) fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn version_2_takes_the_tightest_of_all_levels() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(root, "a/cpu.max", "150000 100000\n");
        write(root, "a/b/cpu.max", "max 100000\n");
        write(root, "a/memory.max", "max\n");
        write(root, "a/b/memory.max", "1048576\n");
        let mounts = Mounts::parse(&format!(
            "41 31 0:38 / {} rw - cgroup2 cgroup2 rw\n",
            root.display()
        ));
        let limits = Limits::find(&mounts, "0::/a/b\n");
        assert_eq!(
            limits,
            Limits {
                pids: None,
                cpu_milli: Some(1_500),
                memory: Some(1 << 20)
            }
        );
        assert_eq!(Limits::find(&mounts, "0::/\n"), Limits::default());
    }

    #[test]
    fn version_1_reads_each_controller_where_it_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(root, "cpu/job/cpu.cfs_quota_us", "50000\n");
        write(root, "cpu/job/cpu.cfs_period_us", "100000\n");
        write(root, "cpu/cpu.cfs_quota_us", "-1\n");
        write(root, "cpu/cpu.cfs_period_us", "100000\n");
        write(root, "memory/memory.limit_in_bytes", "2097152\n");
        let at = root.display();
        let mounts = Mounts::parse(&format!(
            "1 0 0:1 / {at}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
             2 0 0:2 /docker/abc {at}/memory rw shared:1 - cgroup cgroup rw,memory\n\
             3 0 0:3 / /proc rw - proc proc rw\n"
        ));
        assert_eq!(mounts.v1("cpuacct"), Some(root.join("cpu").as_path()));
        assert_eq!(mounts.v2(), None);
        let limits = Limits::find(&mounts, "4:cpu,cpuacct:/job\n3:memory:/docker/abc\n0::/\n");
        assert_eq!(
            limits,
            Limits {
                pids: None,
                cpu_milli: Some(500),
                memory: Some(2 << 20)
            }
        );
    }

    #[test]
    fn nonsense_is_no_limit() {
        let mounts = Mounts::parse("x\n - cgroup\n1 2 3 / /nowhere rw - cgroup2 cgroup2 rw\n");
        assert_eq!(
            Limits::find(&mounts, "garbage\n0:\n0::/a\n"),
            Limits::default()
        );
        assert_eq!(milli(1, 0), None);
    }
}
