//! What an engine says of itself, fit for use or not.
//!
//! For people who look for what is wrong: `p2pnode doctor` calls [`look`]. Nothing is ever run on the
//! strength of it; that an engine is fit is for `engine` to tell.

use bollard::models::{SystemInfo, SystemInfoCgroupVersionEnum};

use super::engine::{self, EngineError};
use super::fitness;

/// Names that are told at most of one kind, each of at most [`MAX_NAME_BYTES`].
const MAX_NAMES: usize = 32;

/// The longest name that is told, in bytes: a GPU's name in the Container Device Interface has some 60.
const MAX_NAME_BYTES: usize = 128;

/// An engine, as it describes itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineFacts {
    /// Where it is, in the form of `DOCKER_HOST`.
    pub address: String,
    /// Its version.
    pub version: String,
    /// Whether it runs as an ordinary user.
    pub rootless: bool,
    /// The version of control groups that it uses, when it tells.
    pub cgroup_version: Option<u8>,
    /// Who makes control groups for it: `cgroupfs`, `systemd` or `none`; empty when it does not tell.
    pub cgroup_driver: String,
    /// Whether it can limit memory.
    pub memory: Option<bool>,
    /// Whether it can limit swap. Without that a task's memory can go to swap.
    pub swap: Option<bool>,
    /// Whether it can limit CPU time.
    pub cpu: Option<bool>,
    /// Whether it can limit processes.
    pub pids: Option<bool>,
    /// Its OCI runtimes, sorted.
    pub runtimes: Vec<String>,
    /// Devices that it found by the Container Device Interface.
    pub devices: Vec<String>,
    /// Why no sandbox may be run on it, with the mend.
    pub unfit: Option<String>,
}

impl EngineFacts {
    fn of(address: &str, info: SystemInfo) -> Self {
        let version = info.cgroup_version.and_then(|version| match version {
            SystemInfoCgroupVersionEnum::_1 => Some(1),
            SystemInfoCgroupVersionEnum::_2 => Some(2),
            SystemInfoCgroupVersionEnum::EMPTY => None,
        });
        let devices = info.discovered_devices.iter().flatten();
        let devices = devices.filter_map(|device| device.id.clone());
        Self {
            unfit: fitness::check(&info).err(),
            rootless: fitness::has_option(&info, "rootless"),
            cgroup_version: version,
            cgroup_driver: info
                .cgroup_driver
                .map_or_else(String::new, |driver| driver.to_string()),
            memory: info.memory_limit,
            swap: info.swap_limit,
            cpu: info.cpu_cfs_quota,
            pids: info.pids_limit,
            devices: names(devices),
            runtimes: names(info.runtimes.unwrap_or_default().into_keys()),
            address: address.to_owned(),
            version: info.server_version.unwrap_or_default(),
        }
    }
}

fn names(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = all.filter(|name| name.len() <= MAX_NAME_BYTES).collect();
    names.sort_unstable();
    names.truncate(MAX_NAMES);
    names
}

/// Asks the engine at `socket`, or the first default one that answers; see
/// [`DockerConfig::socket`](super::DockerConfig::socket).
///
/// # Errors
/// Why there is none that answers, with the mend.
pub async fn look(socket: Option<&str>) -> Result<EngineFacts, EngineError> {
    engine::first(socket, async |address| {
        let (_docker, info) = engine::ask(address).await?;
        Ok(EngineFacts::of(address, info))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bollard::models::{DeviceInfo, Runtime};

    use super::*;

    #[test]
    fn an_unfit_engine_is_described_too() {
        let runtimes = ["runc", "nvidia", &"x".repeat(MAX_NAME_BYTES + 1)];
        let runtimes = runtimes.map(|name| (name.to_owned(), Runtime::default()));
        let device = DeviceInfo {
            id: Some("nvidia.com/gpu=0".into()),
            ..DeviceInfo::default()
        };
        let facts = EngineFacts::of(
            "/run/x.sock",
            SystemInfo {
                security_options: Some(vec!["name=seccomp,profile=default".into()]),
                cgroup_version: Some(SystemInfoCgroupVersionEnum::_2),
                pids_limit: Some(false),
                swap_limit: Some(true),
                runtimes: Some(HashMap::from(runtimes)),
                discovered_devices: Some(vec![device, DeviceInfo::default()]),
                ..SystemInfo::default()
            },
        );
        assert!(facts.unfit.unwrap().contains("process limits"));
        assert_eq!((facts.pids, facts.swap), (Some(false), Some(true)));
        assert_eq!(facts.cgroup_version, Some(2));
        assert_eq!(facts.runtimes, ["nvidia", "runc"]);
        assert_eq!(facts.devices, ["nvidia.com/gpu=0"]);
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_told_with_its_address() {
        let error = look(Some("/no/such/docker.sock")).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/docker.sock"));
    }
}
