//! One `RUN`: a container of ours, and the image that it leaves.
//!
//! The engine's own builder would run it with the capabilities and without the limit of processes that
//! containers have by default. So only the engine's builder's harmless instructions are left to it, and
//! what runs a stranger's program runs here: everything of the tasks' sandbox but the read-only root,
//! which it is there to change, and the user, who is the one that the Dockerfile says. Being root in
//! it means to own the image's files and nothing more.

use std::collections::HashMap;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::models::{
    ContainerConfig, ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigLogConfig, ImageConfig, Mount, MountTmpfsOptions, MountType, ResourcesUlimits,
};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CommitContainerOptionsBuilder, CreateContainerOptionsBuilder,
    InspectContainerOptionsBuilder, StartContainerOptions,
};
use futures::StreamExt;
use p2pnode_protocol::Resources;
use p2pnode_protocol::task::{Failure, FailureKind};

use super::tail::Tail;
use super::{BUILD, Build};
use crate::docker::container::HOSTNAME;
use crate::docker::{exit, labels, words};

/// What root in a build may do: with the image's own files, and become one of its users.
const CAPABILITIES: [&str; 6] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "SETGID",
    "SETUID",
];

/// The least that Docker accepts, as for tasks.
const LEAST_MEMORY: u64 = 6 << 20;
const LEAST_CPU_MILLI: u32 = 10;

/// The kernel's default period for CPU quotas, in microseconds.
const CPU_PERIOD_US: i64 = 100_000;

/// The process that reaps zombies stands beside the step's own.
const INIT_PIDS: i64 = 1;

/// When the whole host runs out of memory, builds end before the node does.
const OOM_SCORE: i64 = 500;

/// Pause between two looks at what a step has written: the engine adds up its files each time.
const LOOK: Duration = Duration::from_secs(2);

/// The exit code of a process that was killed.
const KILLED: i64 = 137;

/// The exit code of a process that wrote beyond the size that a file may have (SIGXFSZ).
const FILE_TOO_LARGE: i64 = 153;

/// What one step is given.
#[derive(Debug)]
pub(super) struct Step<'a> {
    /// The image that it begins with.
    pub image: &'a str,
    /// That image's configuration.
    pub config: &'a ImageConfig,
    /// The whole command.
    pub command: Vec<String>,
    /// Variables for this step.
    pub env: Vec<String>,
    /// For failures: the instruction.
    pub shown: &'a str,
}

fn body(step: &Step<'_>, owner: &str, resources: &Resources) -> ContainerCreateBody {
    let ulimit = |name: &str, limit: i64| ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(limit),
        hard: Some(limit),
    };
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let memory = resources.memory.0.max(LEAST_MEMORY);
    let volumes = step.config.volumes.iter().flatten().map(|volume| Mount {
        // As for tasks: the engine would make a volume of each on the host's disk.
        target: Some(volume.clone()),
        typ: Some(MountType::TMPFS),
        tmpfs_options: Some(MountTmpfsOptions {
            size_bytes: Some(signed(memory / 2)),
            mode: Some(0o1777),
            ..MountTmpfsOptions::default()
        }),
        ..Mount::default()
    });
    let host = HostConfig {
        network_mode: Some("none".into()),
        ipc_mode: Some("private".into()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        privileged: Some(false),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(CAPABILITIES.map(str::to_owned).into()),
        // The engine's default seccomp profile applies because none is named.
        security_opt: Some(vec!["no-new-privileges".into()]),
        mounts: Some(volumes.collect()),
        shm_size: Some(signed(memory / 2)),
        memory: Some(signed(memory)),
        memory_swap: Some(signed(memory)),
        cpu_period: Some(CPU_PERIOD_US),
        cpu_quota: Some(i64::from(resources.cpus.0.max(LEAST_CPU_MILLI)) * CPU_PERIOD_US / 1_000),
        pids_limit: Some(i64::from(resources.pids.max(1)) + INIT_PIDS),
        ulimits: Some(vec![
            ulimit("core", 0),
            ulimit("fsize", signed(resources.disk.0)),
        ]),
        oom_score_adj: Some(OOM_SCORE),
        init: Some(true),
        auto_remove: Some(false),
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".into()),
            config: None,
        }),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(step.image.to_owned()),
        entrypoint: Some(step.command.clone()),
        env: (!step.env.is_empty()).then(|| step.env.clone()),
        hostname: Some(HOSTNAME.to_owned()),
        labels: Some(HashMap::from([(labels::NODE.to_owned(), owner.to_owned())])),
        attach_stdin: Some(false),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(false),
        tty: Some(false),
        // It would run beside the step. Without one there is nothing to turn off, and what is turned
        // off here would be so in the image.
        healthcheck: step.config.healthcheck.as_ref().map(|_| HealthConfig {
            test: Some(vec!["NONE".into()]),
            ..HealthConfig::default()
        }),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

/// The configuration of the image that a step leaves: the one before, not the container's. What is
/// left out the engine takes from the container, so nothing is that may be there.
fn config_after(config: &ImageConfig, mark: &str) -> ContainerConfig {
    let mut labels = config.labels.clone().unwrap_or_default();
    labels.insert(BUILD.to_owned(), mark.to_owned());
    // The container's own label would make whatever runs this image a task of ours.
    labels.insert(labels::NODE.to_owned(), String::new());
    ContainerConfig {
        user: config.user.clone(),
        exposed_ports: config.exposed_ports.clone(),
        env: config.env.clone(),
        cmd: config.cmd.clone(),
        entrypoint: Some(config.entrypoint.clone().unwrap_or_default()),
        healthcheck: config.healthcheck.clone(),
        volumes: config.volumes.clone(),
        working_dir: config.working_dir.clone(),
        stop_signal: config.stop_signal.clone(),
        shell: config.shell.clone(),
        labels: Some(labels),
        ..ContainerConfig::default()
    }
}

/// Runs it and returns the id of the image that it leaves. The container is removed in any case.
///
/// # Errors
/// [`FailureKind::BadProgram`] with its last words when the step fails.
pub(super) async fn run(build: &Build<'_>, step: &Step<'_>) -> Result<String, Failure> {
    let work = build.work;
    let shared = &work.shared;
    let reaper = shared.reaper.ensure(&work.engine.address).await;
    reaper.map_err(|error| {
        let why = "the reaper cannot be started, without which no container may be";
        Failure::new(FailureKind::Host, format!("{why}: {error}"))
    })?;
    let name = build.container_name();
    let options = CreateContainerOptionsBuilder::new().name(&name).build();
    let body = body(step, &shared.label, build.resources);
    let result = match work.docker().create_container(Some(options), body).await {
        Ok(_) => run_in(build, step, &name).await,
        Err(error) => Err(Failure::new(
            FailureKind::Host,
            format!("a step of the build cannot be set up: {}", words(&error)),
        )),
    };
    // Also after a failed creation: the engine may have made it before its answer was lost.
    shared.lost.remove(work.docker(), &name).await;
    result
}

async fn run_in(build: &Build<'_>, step: &Step<'_>, name: &str) -> Result<String, Failure> {
    let work = build.work;
    let docker = work.docker();
    let lost = |what: &str, error: &bollard::errors::Error| {
        let why = format!("{what}: {}", words(error));
        Failure::new(FailureKind::Host, why)
    };
    let options = AttachContainerOptionsBuilder::new()
        .stream(true)
        .stdout(true)
        .stderr(true)
        .build();
    let attached = docker.attach_container(name, Some(options)).await;
    let mut output = attached
        .map_err(|error| lost("the output of a build's step cannot be read", &error))?
        .output;
    let started = docker
        .start_container(name, None::<StartContainerOptions>)
        .await;
    started.map_err(|error| {
        let why = format!("{} cannot be started: {}", step.shown, words(&error));
        Failure::new(FailureKind::BadProgram, why)
    })?;
    let mut tail = Tail::default();
    let listening = async {
        while let Some(Ok(chunk)) = output.next().await {
            if let LogOutput::StdOut { message } | LogOutput::StdErr { message } = chunk {
                tail.push(&message);
            }
        }
    };
    let ending = async {
        let (code, ()) = tokio::join!(exit::wait(docker, name), listening);
        code.map_err(|error| lost("a step of the build was lost", &error))
    };
    let limited = async {
        tokio::select! {
            code = ending => code,
            failure = over_disk(build, step, name) => Err(failure),
        }
    };
    let code = work
        .unless_stopped(build.room.watched(super::WHAT, limited))
        .await?;
    if code != 0 {
        return Err(failed(build, step, name, code, &tail).await);
    }
    let options = CommitContainerOptionsBuilder::new()
        .container(name)
        .pause(false)
        .build();
    let config = config_after(step.config, &build.mark);
    let committed = work.patient().commit_container(options, config).await;
    committed
        .map(|answer| answer.id)
        .map_err(|error| lost("a step of the build cannot be kept", &error))
}

/// Ends when the step has written more than it may.
async fn over_disk(build: &Build<'_>, step: &Step<'_>, name: &str) -> Failure {
    let limit = build.resources.disk;
    loop {
        tokio::time::sleep(LOOK).await;
        let options = InspectContainerOptionsBuilder::new().size(true).build();
        let Ok(found) = build
            .work
            .docker()
            .inspect_container(name, Some(options))
            .await
        else {
            continue;
        };
        let written = found.size_rw.and_then(|bytes| u64::try_from(bytes).ok());
        if written.is_some_and(|written| written > limit.0) {
            let why = format!("{} wrote more than its disk limit of {limit}", step.shown);
            return Failure::new(FailureKind::BadProgram, why);
        }
    }
}

async fn failed(build: &Build<'_>, step: &Step<'_>, name: &str, code: i64, tail: &Tail) -> Failure {
    let inspected = build
        .work
        .docker()
        .inspect_container(name, Some(InspectContainerOptionsBuilder::new().build()))
        .await;
    let state = inspected.ok().and_then(|found| found.state);
    let for_memory = state.and_then(|state| state.oom_killed) == Some(true);
    let why = if for_memory || code == KILLED {
        format!(" (killed; its memory limit is {})", build.resources.memory)
    } else if code == FILE_TOO_LARGE {
        let limit = build.resources.disk;
        format!(" (it wrote a file larger than its disk limit of {limit})")
    } else {
        String::new()
    };
    let said = tail.text();
    let said = if said.is_empty() {
        String::from(" and said nothing")
    } else {
        format!(":\n{said}")
    };
    let text = format!("{} failed with exit code {code}{why}{said}", step.shown);
    Failure::new(FailureKind::BadProgram, text)
}

#[cfg(test)]
mod tests {
    use p2pnode_protocol::{Bytes, MilliCpus};

    use super::*;

    fn image() -> ImageConfig {
        ImageConfig {
            env: Some(vec!["PATH=/bin".into()]),
            volumes: Some(vec!["/data".into()]),
            cmd: Some(vec!["x".into()]),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn a_step_has_the_tasks_sandbox() {
        let config = image();
        let step = Step {
            image: "sha256:a",
            config: &config,
            command: vec!["/bin/sh".into(), "-c".into(), "true".into()],
            env: Vec::new(),
            shown: "RUN true",
        };
        let resources = Resources {
            memory: Bytes(64 << 20),
            disk: Bytes(5 << 20),
            cpus: MilliCpus(1_500),
            pids: 9,
            ..Resources::default()
        };
        let body = body(&step, "owner", &resources);
        assert_eq!(body.labels.unwrap()[labels::NODE], "owner");
        assert_eq!(body.healthcheck, None);
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.cap_drop.as_deref(), Some(&["ALL".to_owned()][..]));
        let added = host.cap_add.unwrap();
        for refused in ["NET_RAW", "MKNOD", "SYS_CHROOT", "SETFCAP", "SYS_ADMIN"] {
            assert!(!added.iter().any(|have| have == refused), "{refused}");
        }
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        assert_eq!(
            (host.memory, host.memory_swap),
            (Some(64 << 20), Some(64 << 20))
        );
        assert_eq!((host.cpu_quota, host.pids_limit), (Some(150_000), Some(10)));
        assert_eq!(host.binds, None);
        let mounts = host.mounts.unwrap();
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].typ, Some(MountType::TMPFS));
        let fsize = host.ulimits.unwrap().pop().unwrap();
        assert_eq!(
            (fsize.name.as_deref(), fsize.hard),
            (Some("fsize"), Some(5 << 20))
        );
    }

    #[test]
    fn a_step_leaves_the_images_configuration() {
        let after = config_after(&image(), "mark");
        assert_eq!(after.entrypoint, Some(Vec::new()), "not the step's own");
        assert_eq!(after.cmd, Some(vec!["x".into()]));
        let labels = after.labels.unwrap();
        assert_eq!(labels[BUILD], "mark");
        assert_eq!(labels[labels::NODE], "");
    }
}
