//! Every line of the sandbox, field by field.

use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use p2pnode_protocol::{AttemptKey, Bytes, Gpu, JobId, MilliCpus, PeerId, Resources, TaskKey};

use p2pnode_protocol::task::Isolation;

use super::*;
use crate::Hold;

fn task() -> TaskRun {
    let job = JobId([1; 8]);
    TaskRun {
        submitter: PeerId::random(),
        attempt: AttemptKey {
            task: TaskKey {
                job,
                step: 0,
                index: 3,
            },
            attempt: 2,
        },
        command: vec!["a".into(), "b c".into()],
        env: vec![("X".into(), "1=2".into())],
        work_dir: "/data/tasks/3".into(),
        resources: Resources {
            cpus: MilliCpus(1_500),
            memory: Bytes::mib(64),
            pids: 10,
            ..Resources::default()
        },
        gpus: Vec::new(),
        timeout: Duration::ZERO,
        stall: Duration::ZERO,
        network: NetworkMode::None,
        root: false,
        isolation: Isolation::Task,
        sandbox: None,
        attended: false,
        hold: Hold::default(),
    }
}

const SANDBOX: Sandbox<'_> = Sandbox {
    image: "sha256:abc",
    volumes: &[],
    owner: "peer:life",
    hosts: "/data/docker/hosts",
    user: NOBODY,
    file_size: 1 << 30,
    runtime: None,
};

fn body(task: &TaskRun) -> (ContainerCreateBody, HostConfig) {
    let body = create_body(task, &SANDBOX).unwrap();
    let host = body.host_config.clone().unwrap();
    (body, host)
}

#[test]
fn it_reaches_nothing() {
    let (body, host) = body(&task());
    assert_eq!(body.network_disabled, Some(true));
    assert_eq!(host.network_mode.as_deref(), Some("none"));
    assert_eq!(host.ipc_mode.as_deref(), Some("private"));
    assert_eq!(
        host.cgroupns_mode,
        Some(HostConfigCgroupnsModeEnum::PRIVATE)
    );
    assert_eq!(
        (host.pid_mode, host.uts_mode, host.userns_mode),
        (None, None, None)
    );
    assert_eq!(host.privileged, Some(false));
    assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
    assert_eq!(
        (host.cap_add, host.devices, host.group_add),
        (None, None, None)
    );
    assert_eq!(
        host.security_opt,
        Some(vec!["no-new-privileges".to_owned()])
    );
    assert_eq!(
        (host.binds, host.volumes_from, host.port_bindings),
        (None, None, None)
    );
    assert_eq!(
        (host.extra_hosts, host.links, host.sysctls),
        (None, None, None)
    );
}

#[test]
fn it_writes_only_its_work_directory_and_scratch() {
    let (body, host) = body(&task());
    assert_eq!(host.readonly_rootfs, Some(true));
    let mounts = host.mounts.unwrap();
    let bind = |source: &str, target: &str, read_only| Mount {
        source: Some(source.into()),
        target: Some(target.into()),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        ..Mount::default()
    };
    let expected = [
        bind("/data/tasks/3", "/work", false),
        bind("/data/docker/hosts", "/etc/hosts", true),
    ];
    assert_eq!(mounts, expected);
    let tmpfs = host.tmpfs.unwrap();
    assert_eq!(tmpfs.len(), 1);
    let half = Bytes::mib(32).0;
    assert_eq!(
        tmpfs["/tmp"],
        format!("rw,exec,nosuid,nodev,mode=1777,size={half}")
    );
    assert_eq!(host.shm_size, Some(half as i64));
    assert_eq!(body.working_dir.as_deref(), Some("/work"));
    assert_eq!(body.hostname.as_deref(), Some("p2pnode"));
    assert_eq!(body.user.as_deref(), Some("65534:65534"));
}

#[test]
fn it_has_limits_of_everything() {
    let (_, host) = body(&task());
    assert_eq!(host.memory, Some(64 << 20));
    assert_eq!(host.memory_swap, host.memory);
    assert_eq!(
        (host.cpu_period, host.cpu_quota),
        (Some(100_000), Some(150_000))
    );
    assert_eq!(host.pids_limit, Some(11));
    assert_eq!(host.oom_kill_disable, None);
    let limits: HashMap<_, _> = host
        .ulimits
        .unwrap()
        .into_iter()
        .map(|limit| {
            assert_eq!(limit.soft, limit.hard);
            (limit.name.unwrap(), limit.hard.unwrap())
        })
        .collect();
    let expected = [("core", 0), ("fsize", 1 << 30), ("nofile", MAX_FILES)];
    assert_eq!(
        limits,
        expected
            .map(|(name, limit)| (name.to_owned(), limit))
            .into()
    );
}

/// For the engine 0 means "no limit" in each of these fields.
#[test]
fn nothing_asked_for_is_not_everything() {
    let mut task = task();
    task.resources = Resources {
        cpus: MilliCpus(0),
        memory: Bytes(0),
        pids: 0,
        ..Resources::default()
    };
    let (_, host) = body(&task);
    assert_eq!(host.memory, Some(LEAST_MEMORY as i64));
    assert_eq!(host.cpu_quota, Some(1_000));
    assert_eq!(host.pids_limit, Some(2));
}

#[test]
fn it_is_ours_to_find_and_to_end() {
    let task = task();
    let (body, host) = body(&task);
    assert_eq!(host.init, Some(true));
    assert_eq!(host.auto_remove, Some(false));
    assert_eq!(host.restart_policy, None);
    assert_eq!(host.log_config.unwrap().typ.as_deref(), Some("none"));
    assert_eq!(
        body.healthcheck.unwrap().test,
        Some(vec!["NONE".to_owned()])
    );
    assert_eq!((body.open_stdin, body.tty), (Some(false), Some(false)));
    let labels = body.labels.unwrap();
    assert_eq!(labels["p2pnode.node"], "peer:life");
    assert_eq!(labels["p2pnode.job"], "0101010101010101");
    assert_eq!(labels["p2pnode.task"], "0101010101010101/3");
    assert_eq!(labels["p2pnode.attempt"], "2");
    assert_eq!(labels["p2pnode.submitter"], task.submitter.to_string());
}

#[test]
fn a_command_replaces_the_images_own() {
    let mut task = task();
    let (with, _) = body(&task);
    assert_eq!(
        with.entrypoint,
        Some(vec!["a".to_owned(), "b c".to_owned()])
    );
    assert_eq!(with.cmd, None);
    task.command.clear();
    assert_eq!(body(&task).0.entrypoint, None);
}

#[test]
fn the_environment_has_a_home() {
    let mut task = task();
    assert_eq!(body(&task).0.env.unwrap(), ["HOME=/tmp", "X=1=2"]);
    task.env = vec![("HOME".into(), "/work".into())];
    assert_eq!(body(&task).0.env.unwrap(), ["HOME=/work"]);
    for (name, value) in [("", "v"), ("a=b", "v"), ("a\0", "v"), ("a", "\0")] {
        task.env = vec![(name.into(), value.into())];
        let failure = create_body(&task, &SANDBOX).unwrap_err();
        assert_eq!(failure.kind, FailureKind::BadProgram);
    }
}

#[test]
fn gpus_are_named_by_uuid() {
    let mut task = task();
    assert_eq!(body(&task).1.device_requests, None);
    task.gpus = ["GPU-1", "GPU-2"]
        .map(|uuid| Gpu::whole(uuid.into(), "M".into(), Bytes(1)))
        .into();
    let requests = body(&task).1.device_requests.unwrap();
    assert_eq!(requests.len(), 1);
    assert_eq!(
        requests[0].device_ids,
        Some(vec!["GPU-1".into(), "GPU-2".into()])
    );
    assert_eq!(requests[0].capabilities, Some(vec![vec!["gpu".into()]]));
    assert_eq!(requests[0].count, None);
}

#[test]
fn an_images_volumes_stay_in_memory() {
    let volumes = ["/data".to_owned(), format!("{WORK}/"), "/tmp".into()];
    let sandbox = Sandbox {
        volumes: &volumes,
        ..SANDBOX
    };
    let body = create_body(&task(), &sandbox).unwrap();
    let mounts = body.host_config.unwrap().mounts.unwrap();
    assert_eq!(mounts.len(), 3);
    assert_eq!(mounts[2].target.as_deref(), Some("/data"));
    assert_eq!(mounts[2].typ, Some(MountType::TMPFS));
    assert_eq!(mounts[2].source, None);
}

#[test]
fn it_runs_under_the_runtime_that_was_chosen() {
    assert_eq!(body(&task()).1.runtime, None, "the engine's default");
    let sandbox = Sandbox {
        runtime: Some("runsc"),
        ..SANDBOX
    };
    let body = create_body(&task(), &sandbox).unwrap();
    assert_eq!(body.host_config.unwrap().runtime.as_deref(), Some("runsc"));
}

#[test]
fn users() {
    let choose = |uid, rootless, root| TaskUser::choose((uid, uid), rootless, root);
    let user = |uid, hand_over| TaskUser {
        inside: (uid, uid),
        hand_over,
    };
    assert_eq!(choose(0, false, false), Ok(user(65_534, Some(NOBODY))));
    assert_eq!(choose(0, false, true), Ok(user(0, None)));
    assert_eq!(choose(1_000, false, false), Ok(user(1_000, None)));
    assert_eq!(choose(1_000, true, false), Ok(user(0, None)));
    assert_eq!(
        choose(1_000, false, true).unwrap_err().kind,
        FailureKind::Host
    );
}

#[test]
fn a_work_directory_must_have_a_name_that_json_can_carry() {
    let mut task = task();
    task.work_dir = std::ffi::OsString::from_vec(b"/data/\xff".to_vec()).into();
    assert_eq!(
        create_body(&task, &SANDBOX).unwrap_err().kind,
        FailureKind::Host
    );
}
