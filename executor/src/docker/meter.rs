//! What a running container uses.
//!
//! Where the engine's cgroups are visible they are read directly: a few small files, a few
//! microseconds, so that even a task of a tenth of a second is metered. Elsewhere (a rootless engine,
//! a node inside a container) the engine's stats stream is asked, which costs the engine work and
//! tells something only once a second, so only for tasks that run longer than that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerStatsResponse;
use bollard::query_parameters::StatsOptionsBuilder;
use futures::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::nameless::Holders;
use crate::host::cgroup::{Mounts, read_number};

/// When a task has run this long without visible cgroups, the engine is asked instead.
const STATS_AFTER: Duration = Duration::from_secs(1);

/// Where engines put a container's cgroup, relative to the hierarchy, `{}` being its id: Docker with
/// either cgroup driver, then Podman likewise.
const PLACES: [&str; 4] = [
    "docker/{}",
    "system.slice/docker-{}.scope",
    "libpod_parent/libpod-{}",
    "machine.slice/libpod-{}.scope",
];

/// The folder of a container's cgroup in the hierarchy mounted at `root`.
pub(super) fn folder_of(root: &Path, id: &str) -> Option<PathBuf> {
    let folders = PLACES
        .iter()
        .map(|place| root.join(place.replace("{}", id)));
    folders.into_iter().find(|folder| folder.is_dir())
}

/// Any folder of a container's cgroup: each lists its processes.
pub(super) fn cgroup_of(mounts: &Mounts, id: &str) -> Option<PathBuf> {
    let roots = [mounts.v1("cpuacct"), mounts.v2()];
    roots
        .into_iter()
        .flatten()
        .find_map(|root| folder_of(root, id))
}

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// When it was true.
    pub at: Instant,
    /// CPU time since the start, in microseconds.
    pub cpu_us: u64,
    /// Memory use, in bytes; 0 when not known.
    pub memory: u64,
    /// Highest memory use so far, in bytes; 0 when not known.
    pub memory_peak: u64,
    /// Processes and threads, without the init process; 0 when not known.
    pub processes: u32,
}

/// The engine's init process stands beside the task's own.
const INIT_PIDS: u64 = 1;

/// The files of one container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Files {
    /// The folders of each controller.
    V1 {
        cpu: PathBuf,
        memory: Option<PathBuf>,
        pids: Option<PathBuf>,
    },
    V2 {
        folder: PathBuf,
    },
}

impl Files {
    fn find(mounts: &Mounts, id: &str) -> Option<Self> {
        let below = |root: &Path| folder_of(root, id);
        if let Some(cpu) = mounts.v1("cpuacct").and_then(below) {
            return Some(Self::V1 {
                cpu,
                memory: mounts.v1("memory").and_then(below),
                pids: mounts.v1("pids").and_then(below),
            });
        }
        let folder = mounts.v2().and_then(below)?;
        folder
            .join("cpu.stat")
            .exists()
            .then_some(Self::V2 { folder })
    }

    /// Makes the highest memory use start again from the present one. False where the kernel can't:
    /// version 2 can't, for all readers.
    fn forget_peak(&self) -> bool {
        match self {
            Self::V1 { memory, .. } => memory.as_deref().is_some_and(|folder| {
                std::fs::write(folder.join("memory.max_usage_in_bytes"), "0").is_ok()
            }),
            Self::V2 { .. } => false,
        }
    }

    /// `None` once the container has ended: its cgroup goes with it.
    fn read(&self) -> Option<Sample> {
        let at = Instant::now();
        let number = |folder: Option<&Path>, name: &str| {
            folder
                .and_then(|folder| read_number(&folder.join(name)))
                .unwrap_or(0)
        };
        let (cpu_us, memory, memory_peak, pids) = match self {
            Self::V1 { cpu, memory, pids } => {
                let memory = memory.as_deref();
                (
                    read_number(&cpu.join("cpuacct.usage"))? / 1_000,
                    number(memory, "memory.usage_in_bytes"),
                    number(memory, "memory.max_usage_in_bytes"),
                    number(pids.as_deref(), "pids.current"),
                )
            }
            Self::V2 { folder } => {
                let stat = std::fs::read_to_string(folder.join("cpu.stat")).ok()?;
                let cpu_us = stat
                    .lines()
                    .find_map(|line| line.strip_prefix("usage_usec "))?;
                let memory = number(Some(folder), "memory.current");
                (
                    cpu_us.trim().parse().ok()?,
                    memory,
                    // `memory.peak` is there since Linux 5.19.
                    read_number(&folder.join("memory.peak")).unwrap_or(memory),
                    number(Some(folder), "pids.current"),
                )
            }
        };
        Some(Sample {
            at,
            cpu_us,
            memory,
            memory_peak,
            processes: processes(pids),
        })
    }
}

/// A count of the kernel's without the init process.
fn processes(pids: u64) -> u32 {
    u32::try_from(pids.saturating_sub(INIT_PIDS)).unwrap_or(u32::MAX)
}

/// Reads one container.
#[derive(Debug)]
pub(super) struct Meter {
    docker: Docker,
    mounts: Mounts,
    id: String,
    started: Instant,
    files: Option<Files>,
    stats: Option<Stats>,
    /// CPU time of those who ran in the container before, in microseconds.
    earlier_us: u64,
    /// Whether the highest memory use is this task's own.
    own_peak: bool,
}

impl Meter {
    pub(super) fn new(docker: Docker, mounts: Mounts, id: String) -> Self {
        Self {
            docker,
            mounts,
            id,
            started: Instant::now(),
            files: None,
            stats: None,
            earlier_us: 0,
            own_peak: true,
        }
    }

    /// Where the container's processes are found.
    pub(super) fn holders(&self) -> Holders {
        Holders::new(self.mounts.clone(), self.id.clone())
    }

    /// Counts from now on, in a container in which others have run before.
    pub(super) fn starting_over(mut self) -> Self {
        self.earlier_us = self.newest().map_or(0, |sample| sample.cpu_us);
        self.own_peak = self.files.as_ref().is_some_and(Files::forget_peak);
        self
    }

    /// The newest reading; `None` while there is none, and once the container has ended.
    pub(super) fn read(&mut self) -> Option<Sample> {
        let sample = self.newest()?;
        Some(Sample {
            cpu_us: sample.cpu_us.saturating_sub(self.earlier_us),
            memory_peak: if self.own_peak { sample.memory_peak } else { 0 },
            ..sample
        })
    }

    fn newest(&mut self) -> Option<Sample> {
        if self.files.is_none() {
            self.files = Files::find(&self.mounts, &self.id);
        }
        if let Some(files) = &self.files {
            return files.read();
        }
        if self.stats.is_none() && self.started.elapsed() >= STATS_AFTER {
            self.stats = Some(Stats::follow(self.docker.clone(), self.id.clone()));
        }
        let stats = self
            .stats
            .as_ref()
            .filter(|stats| !stats.follower.is_finished());
        stats.and_then(|stats| *stats.newest.borrow())
    }
}

/// The engine's stats stream, followed in the background until dropped.
#[derive(Debug)]
struct Stats {
    newest: watch::Receiver<Option<Sample>>,
    follower: JoinHandle<()>,
}

impl Stats {
    fn follow(docker: Docker, id: String) -> Self {
        let (sender, newest) = watch::channel(None);
        let follower = tokio::spawn(async move {
            let options = StatsOptionsBuilder::new().stream(true).build();
            let mut readings = docker.stats(&id, Some(options));
            let mut peak = 0;
            while let Some(Ok(reading)) = readings.next().await {
                if let Some(sample) = sample(&reading, &mut peak) {
                    sender.send_replace(Some(sample));
                }
            }
        });
        Self { newest, follower }
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// `None` for the empty readings that engines send of a container that has just ended.
fn sample(reading: &ContainerStatsResponse, peak: &mut u64) -> Option<Sample> {
    let total_ns = reading
        .cpu_stats
        .as_ref()?
        .cpu_usage
        .as_ref()?
        .total_usage?;
    if total_ns == 0 {
        return None;
    }
    let mut now = 0;
    if let Some(memory) = &reading.memory_stats {
        now = memory.usage.unwrap_or(0);
        *peak = (*peak).max(memory.max_usage.unwrap_or(0)).max(now);
    }
    let pids = reading.pids_stats.as_ref().and_then(|pids| pids.current);
    Some(Sample {
        at: Instant::now(),
        cpu_us: total_ns / 1_000,
        memory: now,
        memory_peak: *peak,
        processes: processes(pids.unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use bollard::models::{
        ContainerCpuStats, ContainerCpuUsage, ContainerMemoryStats, ContainerPidsStats,
    };

    use super::*;

    fn reading(total_ns: u64, memory: u64) -> ContainerStatsResponse {
        ContainerStatsResponse {
            cpu_stats: Some(ContainerCpuStats {
                cpu_usage: Some(ContainerCpuUsage {
                    total_usage: Some(total_ns),
                    ..ContainerCpuUsage::default()
                }),
                ..ContainerCpuStats::default()
            }),
            memory_stats: Some(ContainerMemoryStats {
                usage: Some(memory),
                ..ContainerMemoryStats::default()
            }),
            pids_stats: Some(ContainerPidsStats {
                current: Some(4),
                ..ContainerPidsStats::default()
            }),
            ..ContainerStatsResponse::default()
        }
    }

    #[tokio::test]
    async fn the_engines_readings_keep_the_peak() {
        let mut peak = 0;
        assert_eq!(sample(&reading(5_000, 100), &mut peak).unwrap().cpu_us, 5);
        let later = sample(&reading(9_000, 40), &mut peak).unwrap();
        assert_eq!(
            (later.cpu_us, later.memory, later.memory_peak),
            (9, 40, 100)
        );
        assert_eq!(later.processes, 3, "without the init process");
        assert_eq!(sample(&reading(0, 0), &mut peak), None);
        assert_eq!(sample(&ContainerStatsResponse::default(), &mut peak), None);
    }

    #[tokio::test]
    async fn files_of_both_versions_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let at = dir.path().display();
        write("acct/docker/c1/cpuacct.usage", "7000\n");
        write("mem/docker/c1/memory.max_usage_in_bytes", "4096\n");
        write("mem/docker/c1/memory.usage_in_bytes", "2048\n");
        write("pids/docker/c1/pids.current", "3\n");
        let v1 = Mounts::parse(&format!(
            "1 0 0:1 / {at}/acct rw - cgroup cgroup rw,cpuacct\n\
             2 0 0:2 / {at}/mem rw - cgroup cgroup rw,memory\n\
             3 0 0:3 / {at}/pids rw - cgroup cgroup rw,pids\n"
        ));
        let sample = Files::find(&v1, "c1").unwrap().read().unwrap();
        assert_eq!((sample.cpu_us, sample.memory_peak), (7, 4_096));
        assert_eq!((sample.memory, sample.processes), (2_048, 2));
        assert_eq!(Files::find(&v1, "c2"), None);

        write(
            "two/system.slice/docker-c1.scope/cpu.stat",
            "usage_usec 12\nuser_usec 3\n",
        );
        write("two/system.slice/docker-c1.scope/memory.peak", "8192\n");
        write("two/system.slice/docker-c1.scope/memory.current", "64\n");
        write("two/system.slice/docker-c1.scope/pids.current", "9\n");
        write("mem/docker/c1/memory.max_usage_in_bytes", "5000\n");
        assert!(Files::find(&v1, "c1").unwrap().forget_peak());
        let sample = Files::find(&v1, "c1").unwrap().read().unwrap();
        assert_eq!(sample.memory_peak, 0);

        let v2 = Mounts::parse(&format!("1 0 0:1 / {at}/two rw - cgroup2 cgroup2 rw\n"));
        let sample = Files::find(&v2, "c1").unwrap().read().unwrap();
        assert_eq!((sample.cpu_us, sample.memory_peak), (12, 8_192));
        assert_eq!((sample.memory, sample.processes), (64, 8));
    }
}
