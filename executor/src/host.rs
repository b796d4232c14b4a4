//! What the machine has: CPUs, memory, disk, GPUs.
//!
//! Owns the detection and nothing else: how much of it is offered is the owner's choice. The node
//! asks once when it starts (and for free disk now and then). Detection must never fail the node: a
//! machine without an NVIDIA driver, or with odd cgroups, is an ordinary machine, so every problem
//! becomes a note and a smaller answer.

pub(crate) mod cgroup;
mod gpu;
pub mod sensors;
pub(crate) mod space;

use std::num::NonZero;
use std::path::{Path, PathBuf};

use p2pnode_protocol::{Bytes, Gpu, MilliCpus};

/// The environment variable that names another NVML library than the system's, for drivers in
/// unusual places and for stand-ins in tests.
pub const NVML_VARIABLE: &str = "P2PNODE_NVML";

/// What a machine has, as far as this process may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInfo {
    /// CPUs this process may run on, cut to its cgroup's quota.
    pub cpus: MilliCpus,
    /// Physical memory or its cgroup's limit, whichever is less, in bytes; 0 when not known.
    pub memory: Bytes,
    /// Processes and threads that this process's system, or its cgroup, can have together.
    pub pids: u32,
    /// GPUs that NVML knows, by UUID.
    pub gpus: Vec<Gpu>,
    /// What could not be found out, and why, for `status` and the log.
    pub notes: Vec<String>,
}

impl HostInfo {
    /// Looks at this machine. `nvml` is the NVML library to load; without it, the one that
    /// [`NVML_VARIABLE`] names, or the system's.
    ///
    /// Blocks: loading a GPU driver's library can take a second. Call it off the async threads.
    #[must_use]
    pub fn detect(nvml: Option<&Path>) -> Self {
        let limits = cgroup::Limits::of_this_process();
        let mut notes = Vec::new();
        let gpus = gpu::detect(nvml_library(nvml).as_deref(), &mut notes);
        let info = Self {
            cpus: cpus(limits.cpu_milli),
            memory: memory(limits.memory),
            pids: pids(limits.pids),
            gpus,
            notes,
        };
        for note in &info.notes {
            tracing::debug!(note, "host detection");
        }
        info
    }
}

/// The NVML library to load: `given`, or the one that [`NVML_VARIABLE`] names; `None` is the system's.
fn nvml_library(given: Option<&Path>) -> Option<PathBuf> {
    given
        .map(Path::to_path_buf)
        .or_else(|| std::env::var_os(NVML_VARIABLE).map(PathBuf::from))
}

/// CPUs that the scheduler lets this process use, cut to `quota_milli`.
fn cpus(quota_milli: Option<u64>) -> MilliCpus {
    let usable = usable_cpus() as u64 * 1_000;
    let milli = quota_milli.map_or(usable, |quota| quota.min(usable));
    MilliCpus(u32::try_from(milli).unwrap_or(u32::MAX))
}

/// The affinity mask counts whole CPUs; the standard library would round a quota down on top.
#[cfg(target_os = "linux")]
fn usable_cpus() -> usize {
    rustix::thread::sched_getaffinity(None)
        .map(|set| set.count() as usize)
        .ok()
        .filter(|count| *count > 0)
        .unwrap_or_else(std_cpus)
}

#[cfg(not(target_os = "linux"))]
fn usable_cpus() -> usize {
    std_cpus()
}

fn std_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Physical memory, cut to `limit`.
fn memory(limit: Option<u64>) -> Bytes {
    let physical = physical_memory();
    Bytes(limit.map_or(physical, |limit| limit.min(physical)))
}

#[cfg(target_os = "linux")]
fn physical_memory() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

#[cfg(not(target_os = "linux"))]
fn physical_memory() -> u64 {
    0
}

/// What systems without a number of their own are taken for: the kernel's default on small machines.
const COMMON_PIDS: u32 = 32_768;

/// The kernel's limit on process ids, cut to `limit`.
fn pids(limit: Option<u64>) -> u32 {
    let kernel = cgroup::read_number(Path::new("/proc/sys/kernel/pid_max"));
    let all = kernel.unwrap_or(COMMON_PIDS.into());
    u32::try_from(limit.map_or(all, |limit| limit.min(all))).unwrap_or(u32::MAX)
}

/// Bytes that an unprivileged user may still write to the file system that holds `path`.
/// `None` when `path` is not there or cannot be asked.
#[must_use]
pub fn free_disk(path: &Path) -> Option<Bytes> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(Bytes(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// Memory of this process that is in RAM, in bytes; 0 where the system has no `/proc/self/statm`.
#[must_use]
pub fn process_memory() -> Bytes {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    Bytes(pages.map_or(0, |pages| pages * rustix::param::page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something() {
        let info = HostInfo::detect(None);
        assert!(info.cpus.0 > 0, "{info:?}");
        assert!(info.memory > Bytes::mib(64), "{info:?}");
        assert!(process_memory() > Bytes::mib(1));
        assert!(free_disk(Path::new("/")).unwrap() > Bytes(0));
        assert_eq!(free_disk(Path::new("/no/such/place")), None);
    }

    #[test]
    fn quotas_cut_but_never_add() {
        let all = cpus(None);
        assert_eq!(cpus(Some(500)), MilliCpus(500));
        assert_eq!(cpus(Some(u64::MAX)), all);
        assert_eq!(pids(Some(100)), 100);
        assert!(pids(None) >= 1_000 && pids(Some(u64::MAX)) == pids(None));
        assert_eq!(memory(Some(1 << 20)), Bytes::mib(1));
        assert_eq!(memory(Some(u64::MAX)), memory(None));
    }

    #[test]
    fn a_library_that_is_not_there_is_a_note() {
        let info = HostInfo::detect(Some(Path::new("/no/such/libnvidia-ml.so")));
        assert_eq!(info.gpus, []);
        assert!(
            info.notes[0].contains("/no/such/libnvidia-ml.so"),
            "{info:?}"
        );
    }

    #[test]
    fn a_library_that_is_no_library_is_a_note() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "not an ELF file").unwrap();
        let info = HostInfo::detect(Some(file.path()));
        assert_eq!(info.gpus, []);
        assert_eq!(info.notes.len(), 1, "{info:?}");
    }
}
