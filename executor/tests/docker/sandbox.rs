//! What a task sees, and can't do, from inside.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use bollard::query_parameters::ListVolumesOptions;
use p2pnode_executor::{ProgramFile, Runtime};
use p2pnode_protocol::task::FailureKind;
use p2pnode_protocol::{Bytes, Gpu, MilliCpus};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::contract::{Act, Ended, Trial, clean, within};
use crate::subject::{DockerSubject, ODD_IMAGE};

/// A trial that runs `script` instead of its act.
fn trial<'a>(subject: &'a DockerSubject, script: &str) -> Trial<'a> {
    let mut trial = Trial::new(subject, Act::Exit(0));
    trial.task.command = DockerSubject::shell(script);
    trial
}

async fn shell(subject: &DockerSubject, script: &str) -> String {
    let ended = trial(subject, script).run().await;
    ended.expect_success();
    String::from_utf8(ended.stdout).unwrap()
}

fn failure_text(ended: &Ended) -> String {
    ended.end.result.clone().unwrap_err().message
}

/// The uid that tasks have when these tests run as this user.
fn task_uid() -> u32 {
    let own = rustix::process::getuid();
    if own.is_root() { 65_534 } else { own.as_raw() }
}

#[tokio::test]
#[ignore = "needs docker"]
async fn it_has_no_privileges() {
    let subject = DockerSubject::new().await;
    let status = shell(&subject, "cat /proc/self/status").await;
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default();
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    assert_eq!(field("Seccomp:"), ["2"]);
    assert_eq!(field("Uid:"), vec![task_uid().to_string(); 4]);
    assert_ne!(task_uid(), 0);
    assert_eq!(field("Groups:").len(), 1, "its own group only");
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn it_has_no_network_but_loopback() {
    let subject = DockerSubject::new().await;
    let routes = "tail -n +2 /proc/net/route; grep -v ' lo$' /proc/net/ipv6_route";
    let seen = shell(&subject, &format!("ls /sys/class/net; {routes}; true")).await;
    assert_eq!(seen, "lo\n", "an interface or a route beside loopback");
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn it_sees_only_its_own_processes() {
    let subject = DockerSubject::new().await;
    // The init process, the shell and what counts them.
    let count: usize = shell(&subject, "ls -d /proc/[0-9]* | wc -l")
        .await
        .trim()
        .parse()
        .unwrap();
    assert!(count <= 4, "{count}");
    let name = shell(&subject, "cat /proc/1/comm").await;
    assert!(name.contains("init"), "{name}");
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn it_writes_nowhere_else() {
    let subject = DockerSubject::new().await;
    let script = "for f in /x /etc/x /bin/x /root/x /var/x /dev/x /proc/sys/kernel/hostname \
                  /proc/sysrq-trigger /sys/x /sys/fs/cgroup/x /etc/hosts /etc/resolv.conf; do \
                  (echo 1 > $f) 2>/dev/null && echo wrote $f; done; \
                  echo 1 > /tmp/x && echo 1 > /work/x && echo 1 > /dev/shm/x && pwd";
    assert_eq!(shell(&subject, script).await, "/work\n");
    // Programs may be put into the scratch, but nothing there can raise privileges.
    let script = "cp /bin/busybox /tmp && chmod 4755 /tmp/busybox && /tmp/busybox id -u; grep ' /tmp ' /proc/mounts";
    let seen = shell(&subject, script).await;
    assert!(seen.starts_with(&format!("{}\n", task_uid())), "{seen}");
    assert!(seen.contains("nosuid") && seen.contains("nodev"), "{seen}");
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn no_path_of_the_host_is_mounted_but_its_own() {
    let subject = DockerSubject::new().await;
    let trial = trial(&subject, "cat /proc/self/mountinfo");
    let ended = trial.run().await;
    let mounts = String::from_utf8(ended.expect_success().stdout.clone()).unwrap();
    let engines_own = [
        "/etc/resolv.conf",
        "/etc/hostname",
        "/etc/hosts",
        "/sbin/docker-init",
        "/dev/init",
    ];
    let virtual_kinds = [
        "proc", "tmpfs", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "overlay",
    ];
    let mut from_disk = Vec::new();
    for line in mounts.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let kind = fields[fields.iter().position(|field| *field == "-").unwrap() + 1];
        if !virtual_kinds.contains(&kind) && !engines_own.contains(&fields[4]) {
            from_disk.push((fields[3], fields[4]));
        }
    }
    assert_eq!(from_disk.len(), 1, "{mounts}");
    let (source, target) = from_disk[0];
    assert_eq!(target, "/work");
    // The source is relative to its file system, of which the path here may be a part.
    let dir = trial.work_dir().canonicalize().unwrap();
    assert!(
        dir.ends_with(Path::new(source).strip_prefix("/").unwrap()),
        "{source} {dir:?}"
    );
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn its_limits_are_set() {
    let subject = DockerSubject::new().await;
    let script = "cd /sys/fs/cgroup; \
        cat memory/memory.limit_in_bytes memory.max; echo; \
        cat memory/memory.memsw.limit_in_bytes memory.swap.max; echo; \
        cat pids/pids.max pids.max; echo; \
        cat cpu/cpu.cfs_quota_us cpu.max; echo; \
        ulimit -n; ulimit -c; ulimit -f; df -k /tmp /dev/shm | awk 'NR>1 {print $2}'";
    let mut trial = trial(&subject, &format!("({script}) 2>/dev/null"));
    trial.task.resources.memory = Bytes::mib(64);
    trial.task.resources.cpus = MilliCpus(500);
    trial.task.resources.pids = 20;
    trial.task.resources.disk = Bytes::mib(8);
    let ended = trial.run().await;
    let text = String::from_utf8(ended.expect_success().stdout.clone()).unwrap();
    let parts: Vec<_> = text.split("\n\n").map(str::trim).collect();
    let memory = Bytes::mib(64).0.to_string();
    assert_eq!(parts[0], memory, "{text}");
    // Version 1 counts memory and swap together (and may have no swap accounting).
    assert!(
        parts[1] == memory || parts[1] == "0" || parts[1].is_empty(),
        "{text}"
    );
    assert_eq!(parts[2], "21", "20 and the init process: {text}");
    assert!(["50000", "50000 100000"].contains(&parts[3]), "{text}");
    let rest: Vec<_> = parts[4].lines().collect();
    // `ulimit -f` counts blocks of 512 bytes.
    assert_eq!(rest, ["4096", "0", "16384", "32768", "32768"], "{text}");
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_fork_bomb_hits_its_limit() {
    let subject = DockerSubject::new().await;
    let mut trial = trial(
        &subject,
        "for i in 0 1 2 3 4 5 6 7 8 9; do sleep 100 & done; echo all",
    );
    trial.task.resources.pids = 5;
    let ended = trial.run().await;
    assert!(
        matches!(ended.failure(), FailureKind::Exit(_)),
        "{:?}",
        ended.end
    );
    assert!(String::from_utf8_lossy(&ended.stderr).contains("fork"));
    assert_eq!(ended.stdout, b"");
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn many_small_files_fill_the_disk_too() {
    let subject = DockerSubject::new().await;
    let script =
        "i=0; while :; do i=$((i+1)); dd if=/dev/zero of=f$i bs=65536 count=4 2>/dev/null; done";
    for script in [script, "i=0; while :; do i=$((i+1)); : > f$i; done"] {
        let mut trial = trial(&subject, script);
        trial.task.resources.disk = Bytes::mib(4);
        let ended = trial.run().await;
        assert_eq!(ended.failure(), FailureKind::DiskFull);
        assert!(
            failure_text(&ended).contains("4 MiB"),
            "{}",
            failure_text(&ended)
        );
    }
    clean(&subject).await;
}

/// A limit of disk is for what a task writes, not for what it is given.
#[tokio::test]
#[ignore = "needs docker"]
async fn inputs_do_not_count_as_disk() {
    let subject = DockerSubject::new().await;
    let mut trial = trial(
        &subject,
        "head -c 100000 /dev/zero > out; sleep 0.5; wc -c < in",
    );
    trial.task.resources.disk = Bytes::mib(1);
    std::fs::write(trial.work_dir().join("in"), vec![1; 5 << 20]).unwrap();
    let ended = trial.run().await;
    assert_eq!(ended.expect_success().stdout, b"5242880\n");
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn outputs_are_the_tasks_and_readable_here() {
    let subject = DockerSubject::new().await;
    let trial = trial(
        &subject,
        "mkdir d && echo 1 > d/f && chmod 400 d/f && echo 2 >> given/in",
    );
    std::fs::create_dir(trial.work_dir().join("given")).unwrap();
    std::fs::write(trial.work_dir().join("given/in"), b"").unwrap();
    trial.run().await.expect_success();
    let file = trial.work_dir().join("d/f");
    assert_eq!(std::fs::metadata(&file).unwrap().uid(), task_uid());
    assert_eq!(std::fs::read(&file).unwrap(), b"1\n");
    assert_eq!(
        std::fs::read(trial.work_dir().join("given/in")).unwrap(),
        b"2\n"
    );
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn an_image_cannot_ask_for_more() {
    let subject = DockerSubject::new().await;
    let before = volumes(&subject).await;
    let mut trial = trial(
        &subject,
        "id -u; pwd; echo 1 > /data/x; echo 1 > x; grep -c ' /data tmpfs ' /proc/mounts",
    );
    trial.task.env = vec![("A".into(), "b".into())];
    let environment = prepare(&subject, ODD_IMAGE).await.unwrap();
    let (sink, mut log) = mpsc::channel(16);
    let run = environment.run(trial.task.clone(), sink, CancellationToken::new());
    let collect = async {
        let mut text = Vec::new();
        while let Some(chunk) = log.recv().await {
            text.extend(chunk.bytes);
        }
        String::from_utf8(text).unwrap()
    };
    let (end, text) = within(async { tokio::join!(run, collect) }).await;
    assert_eq!(end.result, Ok(()), "{text}");
    assert_eq!(text, format!("{}\n/work\n1\n", task_uid()));
    assert!(trial.work_dir().join("x").exists());
    // Its own command is run when the task names none, with its own entry point.
    trial.task.command.clear();
    let (sink, _log) = mpsc::channel(16);
    let end = within(environment.run(trial.task.clone(), sink, CancellationToken::new())).await;
    assert_eq!(
        end.result.unwrap_err().kind,
        FailureKind::Exit(1),
        "/bin/false"
    );
    clean(&subject).await;
    assert_eq!(volumes(&subject).await, before);
}

async fn volumes(subject: &DockerSubject) -> usize {
    let listed = subject
        .engine
        .list_volumes(None::<ListVolumesOptions>)
        .await
        .unwrap();
    listed.volumes.unwrap_or_default().len()
}

async fn prepare(
    subject: &DockerSubject,
    image: &str,
) -> Result<std::sync::Arc<dyn p2pnode_executor::Environment>, p2pnode_protocol::task::Failure> {
    let (progress, _) = mpsc::channel(1);
    let reference = image.to_owned();
    within(
        subject
            .runtime
            .prepare(ProgramFile::Image { reference }, progress),
    )
    .await
}

#[tokio::test]
#[ignore = "needs docker"]
async fn an_image_that_cannot_be_had_is_told() {
    let subject = DockerSubject::new().await;
    // Nothing listens on port 1 of this machine, so the pull fails without leaving it.
    let missing = "localhost:1/p2pnode/none:1";
    let failure = prepare(&subject, missing).await.err().unwrap();
    assert_eq!(failure.kind, FailureKind::ImageUnavailable);
    assert!(failure.message.contains(missing), "{}", failure.message);
    let failure = prepare(&subject, "../containers/json").await.err().unwrap();
    assert_eq!(failure.kind, FailureKind::BadProgram);
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_command_that_is_not_there_is_the_jobs_fault() {
    let subject = DockerSubject::new().await;
    let mut trial = trial(&subject, "");
    trial.task.command = vec!["no-such-command".into()];
    let ended = trial.run().await;
    assert_eq!(ended.failure(), FailureKind::BadProgram);
    assert!(failure_text(&ended).contains("`no-such-command`"));
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_gpu_that_the_engine_cannot_give_is_the_hosts_fault() {
    let subject = DockerSubject::new().await;
    let mut trial = trial(&subject, "true");
    trial.task.gpus = vec![Gpu {
        uuid: "GPU-00000000-0000-0000-0000-000000000000".into(),
        model: "none".into(),
        memory: Bytes(0),
    }];
    let ended = trial.run().await;
    assert_eq!(ended.failure(), FailureKind::Host);
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn root_inside_still_has_no_privileges() {
    let subject = DockerSubject::new().await;
    let mut trial = trial(
        &subject,
        "id -u; grep CapEff /proc/self/status; echo 1 > /work/x; echo 1 > /x",
    );
    trial.task.root = true;
    let ended = trial.run().await;
    if !rustix::process::getuid().is_root() {
        assert_eq!(ended.failure(), FailureKind::Host);
        return;
    }
    assert_eq!(
        ended.failure(),
        FailureKind::Exit(1),
        "the root is read-only"
    );
    assert_eq!(ended.stdout, b"0\nCapEff:\t0000000000000000\n");
    assert!(trial.work_dir().join("x").exists());
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn the_probe_tells_version_and_images() {
    let subject = DockerSubject::new().await;
    let report = subject.runtime.probe().await;
    assert!(!report.version.unwrap().is_empty());
    assert!(
        report.images.contains(&ODD_IMAGE.to_owned()),
        "{:?}",
        report.images
    );
    assert!(report.images.len() <= 64);
}

/// A short task is metered too, where the engine's cgroups can be seen.
#[tokio::test]
#[ignore = "needs docker"]
async fn memory_use_is_metered() {
    let subject = DockerSubject::new().await;
    let mut trial = trial(&subject, "head -c 20000000 /dev/zero > /tmp/x; sleep 1000");
    trial.task.timeout = Duration::from_millis(1_500);
    let end = trial.run().await.end;
    assert!(end.usage.memory_peak >= 20_000_000, "{:?}", end.usage);
    clean(&subject).await;
}
