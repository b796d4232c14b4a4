//! What the machine's sensors say now: temperature, battery, load, energy, GPUs, and whether a person
//! sits at it.
//!
//! Owns the reading of files below `sys/`, `proc/` and `dev/`, and of NVML. The node asks it while
//! tasks run (for receipts and metrics) and while its owner's rules depend on it. It decides nothing,
//! and it never fails: what a machine does not have, or does not let this process read, is absent and
//! never guessed. Every file is read up to a limit, and every listing ends at a bound, because a root
//! other than `/` may hold anything.
//!
//! Where it works: on Linux all of it, as far as the kernel has the drivers; energy of the CPUs is for
//! root alone since Linux 5.10. On macOS only whether a person is there, and GPUs nowhere but with an
//! NVIDIA driver. Elsewhere nothing but GPUs.

mod busy;
mod files;
mod gpus;
mod idle;
mod rapl;
mod supply;
mod temperature;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use files::Root;

/// The environment variable that names another root than `/` in which `sys/`, `proc/` and `dev/`
/// stand: for stand-ins in tests.
pub const SENSORS_VARIABLE: &str = "P2PNODE_SENSORS_ROOT";

/// Reads the machine's sensors. Blocking (files and NVML): call it off the async threads.
///
/// Some readings are differences to the reading before, so one `Sensors` is to be kept and asked
/// again, at least every 15 minutes while its energy counts (a package's counter comes round after
/// 262 kJ, which 290 W take in that time).
pub struct Sensors {
    root: Root,
    busy: busy::Busy,
    energy: rapl::Energy,
    idle: idle::Idle,
    gpus: gpus::Gpus,
}

impl std::fmt::Debug for Sensors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sensors")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// What the sensors say. Whatever is absent could not be read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    /// The hottest sensor of a CPU, in degrees Celsius.
    pub cpu_temperature_c: Option<f32>,
    /// Whether the machine runs on battery; absent when it has none.
    pub on_battery: Option<bool>,
    /// Time since a person last used keyboard, mouse or a terminal, as far as that was watched: it
    /// is never longer than the true time of a terminal, and for keyboards and mice it begins with
    /// the first reading.
    pub user_idle: Option<Duration>,
    /// CPUs in use by everything on the machine since the last reading, in thousandths of a CPU;
    /// absent at the first reading.
    pub busy_milli_cpus: Option<u32>,
    /// Energy that the CPU packages took since the first reading, in microjoules.
    pub cpu_energy_uj: Option<u64>,
    /// GPUs that NVML knows, by UUID; at most 64.
    pub gpus: Vec<GpuReading>,
}

/// What NVML says of one GPU.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GpuReading {
    /// Which.
    pub uuid: String,
    /// Part of the time in which something ran on it lately, in percent.
    pub busy_percent: Option<u8>,
    /// Its memory in use, in bytes.
    pub memory_used: Option<u64>,
    /// Its temperature, in degrees Celsius.
    pub temperature_c: Option<f32>,
    /// What it takes now, in milliwatts.
    pub power_mw: Option<u32>,
    /// Energy since its driver was loaded, in millijoules (since Volta).
    pub energy_mj: Option<u64>,
}

impl Sensors {
    /// Sensors below `root`: `/` on a real machine. `nvml` is as in
    /// [`HostInfo::detect`](super::HostInfo::detect).
    ///
    /// Blocks: loading a GPU driver's library can take a second.
    #[must_use]
    pub fn new(root: &Path, nvml: Option<&Path>) -> Self {
        Self {
            root: Root::new(root),
            busy: busy::Busy::default(),
            energy: rapl::Energy::default(),
            idle: idle::Idle::default(),
            gpus: gpus::Gpus::load(super::nvml_library(nvml).as_deref()),
        }
    }

    /// This machine's, or those below the root that [`SENSORS_VARIABLE`] names.
    ///
    /// Blocks, as [`Sensors::new`].
    #[must_use]
    pub fn of_this_machine() -> Self {
        let named = std::env::var_os(SENSORS_VARIABLE).map(PathBuf::from);
        Self::new(named.as_deref().unwrap_or(Path::new("/")), None)
    }

    /// Asks all of them. Some milliseconds; blocks.
    pub fn read(&mut self) -> Readings {
        Readings {
            cpu_temperature_c: temperature::hottest_cpu(&self.root),
            on_battery: supply::on_battery(&self.root),
            user_idle: self.idle.read(&self.root),
            busy_milli_cpus: self.busy.read(&self.root),
            cpu_energy_uj: self.energy.read(&self.root),
            gpus: self.gpus.read(),
        }
    }
}
