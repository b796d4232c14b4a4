//! From a task to the container that runs it: one pure function.
//!
//! Everything that keeps a task in its sandbox is said here and nowhere else, so that it can be read
//! in one place and tested field by field. It talks to no engine and must never pass on a host path
//! but the task's own work directory and the one constant file that names loopback.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigLogConfig, Mount, MountTmpfsOptions, MountType, ResourcesUlimits,
};
use p2pnode_protocol::task::{Failure, FailureKind, NetworkMode};

use super::labels;
use crate::TaskRun;

/// Where the work directory stands in the container; also the current folder of the task.
pub const WORK: &str = "/work";

/// Where the scratch stands. Programs that want a home get this one: the root is read-only.
pub const SCRATCH: &str = "/tmp";

/// Where the table of names stands in the container.
pub const HOSTS: &str = "/etc/hosts";

/// The name of every task's machine: it says nothing about the host.
pub const HOSTNAME: &str = "p2pnode";

/// uid and gid that a root node runs tasks as: `nobody`, who owns nothing on the host.
pub const NOBODY: (u32, u32) = (65_534, 65_534);

/// The least memory that Docker accepts for a container, in bytes; also keeps 0 from meaning "no
/// limit".
const LEAST_MEMORY: u64 = 6 << 20;

/// The least CPU that Docker accepts, in thousandths; also keeps 0 from meaning "no limit".
const LEAST_CPU_MILLI: u32 = 10;

/// The kernel's default period for CPU quotas, in microseconds.
const CPU_PERIOD_US: i64 = 100_000;

/// The process that reaps zombies stands in the container beside the task's own.
const INIT_PIDS: i64 = 1;

/// Open files per process: the kernel's own default for the hard limit. An engine that may not raise
/// limits (a rootless one, one without `CAP_SYS_RESOURCE`) fails to start a container with a limit
/// above its own, which is at least this.
const MAX_FILES: i64 = 4_096;

/// When the whole host runs out of memory, tasks end before the node does (range -1000 to 1000).
const OOM_SCORE: i64 = 500;

/// Who a task runs as, and what that makes of its work directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskUser {
    /// uid and gid inside the container.
    pub inside: (u32, u32),
    /// To whom the work directory is given first; `None` leaves it to the node's own user.
    pub hand_over: Option<(u32, u32)>,
}

impl TaskUser {
    /// `node` is the node's own uid and gid, `rootless` whether the engine runs as that user, `root`
    /// whether the task asks for root and may have it.
    ///
    /// # Errors
    /// When root is asked for and could not use its work directory.
    pub fn choose(node: (u32, u32), rootless: bool, root: bool) -> Result<Self, Failure> {
        let (inside, hand_over) = match (node.0 == 0, rootless, root) {
            // Root inside is the node's own unprivileged user outside; any other uid inside would be
            // one that cannot write what the node owns.
            (false, true, _) | (true, _, true) => ((0, 0), None),
            (true, _, false) => (NOBODY, Some(NOBODY)),
            (false, false, false) => (node, None),
            (false, false, true) => {
                return Err(Failure::new(
                    FailureKind::Host,
                    "this node does not run as root, so it cannot run a task as root: its owner can \
                     run the node as root or use a rootless engine",
                ));
            }
        };
        Ok(Self { inside, hand_over })
    }
}

/// What a container needs beside its task.
#[derive(Debug, Clone, Copy)]
pub struct Sandbox<'a> {
    /// The image's id.
    pub image: &'a str,
    /// Folders that the image declares as volumes.
    pub volumes: &'a [String],
    /// The value of the label `p2pnode.node`.
    pub owner: &'a str,
    /// A file of the node's with nothing in it but the names of loopback.
    pub hosts: &'a str,
    /// uid and gid.
    pub user: (u32, u32),
    /// The largest file that the task may write, in bytes.
    pub file_size: u64,
    /// The OCI runtime; absent: the engine's default.
    pub runtime: Option<&'a str>,
}

/// The body of the request that creates the task's container.
///
/// # Errors
/// When the task can't be expressed: its work directory's name is not UTF-8, or a name or value holds
/// what a process can't be given.
pub fn create_body(task: &TaskRun, sandbox: &Sandbox<'_>) -> Result<ContainerCreateBody, Failure> {
    let (uid, gid) = sandbox.user;
    Ok(ContainerCreateBody {
        image: Some(sandbox.image.to_owned()),
        // The whole command as the entry point: it takes the place of the image's own entry point
        // and arguments, in every engine.
        entrypoint: (!task.command.is_empty()).then(|| task.command.clone()),
        env: Some(environment(task)?),
        user: Some(format!("{uid}:{gid}")),
        hostname: Some(HOSTNAME.to_owned()),
        // Together with the mode `none`: a network namespace with loopback only, in which the engine
        // has no part. That halves the time to start a container.
        network_disabled: Some(match task.network {
            NetworkMode::None | NetworkMode::Egress { .. } => true,
        }),
        working_dir: Some(WORK.to_owned()),
        labels: Some(labels::of_task(sandbox.owner, task)),
        attach_stdin: Some(false),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(false),
        tty: Some(false),
        // An image's health check would run beside the task, outside its command.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".into()]),
            ..HealthConfig::default()
        }),
        host_config: Some(host_config(task, sandbox)?),
        ..ContainerCreateBody::default()
    })
}

fn host_config(task: &TaskRun, sandbox: &Sandbox<'_>) -> Result<HostConfig, Failure> {
    let memory = task.resources.memory.0.max(LEAST_MEMORY);
    let scratch = signed(memory / 2);
    Ok(HostConfig {
        runtime: sandbox.runtime.map(str::to_owned),
        // --- what it can reach
        network_mode: Some(
            match task.network {
                NetworkMode::None | NetworkMode::Egress { .. } => "none",
            }
            .to_owned(),
        ),
        ipc_mode: Some("private".into()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        privileged: Some(false),
        cap_drop: Some(vec!["ALL".into()]),
        // The engine's default seccomp profile applies because none is named.
        security_opt: Some(vec!["no-new-privileges".into()]),
        // --- what it can write
        readonly_rootfs: Some(true),
        mounts: Some(mounts(task, sandbox, scratch)?),
        tmpfs: Some(HashMap::from([(
            SCRATCH.to_owned(),
            format!("rw,exec,nosuid,nodev,mode=1777,size={scratch}"),
        )])),
        shm_size: Some(scratch),
        // --- how much of everything
        memory: Some(signed(memory)),
        memory_swap: Some(signed(memory)),
        cpu_period: Some(CPU_PERIOD_US),
        cpu_quota: Some(cpu_quota(task.resources.cpus.0)),
        pids_limit: Some(i64::from(task.resources.pids.max(1)) + INIT_PIDS),
        ulimits: Some(vec![
            ulimit("nofile", MAX_FILES),
            ulimit("core", 0),
            ulimit("fsize", signed(sandbox.file_size)),
        ]),
        oom_score_adj: Some(OOM_SCORE),
        device_requests: gpus(task),
        // --- how it lives and ends
        init: Some(true),
        auto_remove: Some(false),
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".into()),
            config: None,
        }),
        ..HostConfig::default()
    })
}

/// The task's environment, with a home that can be written to unless the job names another.
///
/// # Errors
/// When the command, a name or a value holds what a process can't be given.
pub(super) fn environment(task: &TaskRun) -> Result<Vec<String>, Failure> {
    let bad = |what: String| Err(Failure::new(FailureKind::BadProgram, what));
    if task.command.iter().any(|argument| argument.contains('\0')) {
        return bad("the command holds a NUL character, which no process can be given".into());
    }
    let mut all = Vec::with_capacity(task.env.len() + 1);
    if !task.env.iter().any(|(name, _)| name == "HOME") {
        all.push(format!("HOME={SCRATCH}"));
    }
    for (name, value) in &task.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return bad(format!(
                "the environment variable `{}` cannot be set: a name must not be empty or hold `=`, \
                 and neither name nor value may hold a NUL character",
                name.escape_debug()
            ));
        }
        all.push(format!("{name}={value}"));
    }
    Ok(all)
}

fn mounts(task: &TaskRun, sandbox: &Sandbox<'_>, scratch: i64) -> Result<Vec<Mount>, Failure> {
    let Some(work_dir) = task.work_dir.to_str() else {
        return Err(Failure::new(
            FailureKind::Host,
            format!(
                "the work directory {} has a name that is not UTF-8: the owner must choose another \
                 data directory",
                task.work_dir.display()
            ),
        ));
    };
    let mut mounts = vec![
        bind(work_dir, WORK, false),
        // Without a network the engine makes none, and `localhost` would mean nothing.
        bind(sandbox.hosts, HOSTS, true),
    ];
    // Left alone, the engine would make a volume of each on the host's disk, beyond every limit.
    for volume in sandbox.volumes {
        if [WORK, SCRATCH].contains(&volume.trim_end_matches('/')) {
            continue;
        }
        mounts.push(Mount {
            target: Some(volume.clone()),
            typ: Some(MountType::TMPFS),
            tmpfs_options: Some(MountTmpfsOptions {
                size_bytes: Some(scratch),
                mode: Some(0o1777),
                ..MountTmpfsOptions::default()
            }),
            ..Mount::default()
        });
    }
    Ok(mounts)
}

fn bind(source: &str, target: &str, read_only: bool) -> Mount {
    Mount {
        target: Some(target.to_owned()),
        source: Some(source.to_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

fn gpus(task: &TaskRun) -> Option<Vec<DeviceRequest>> {
    (!task.gpus.is_empty()).then(|| {
        vec![DeviceRequest {
            device_ids: Some(task.gpus.iter().map(|gpu| gpu.uuid.clone()).collect()),
            capabilities: Some(vec![vec!["gpu".into()]]),
            ..DeviceRequest::default()
        }]
    })
}

/// Microseconds of CPU time per period. A quota, unlike Docker's `--cpus`, may be above what the
/// machine has, as when an owner offers more than there is.
fn cpu_quota(milli: u32) -> i64 {
    i64::from(milli.max(LEAST_CPU_MILLI)) * CPU_PERIOD_US / 1_000
}

fn ulimit(name: &str, limit: i64) -> ResourcesUlimits {
    ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(limit),
        hard: Some(limit),
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
