//! Limits that the engine or the watcher enforces.

use std::time::Duration;

use p2pnode_protocol::task::FailureKind;
use p2pnode_protocol::{Bytes, MilliCpus};

use crate::contract::clean;
use crate::sandbox::{failure_text, trial};
use crate::subject::DockerSubject;

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

/// A short task is metered too, where the engine's cgroups can be seen.
#[tokio::test]
#[ignore = "needs docker"]
async fn memory_use_is_metered() {
    let subject = DockerSubject::new().await;
    let mut trial = trial(&subject, "head -c 20000000 /dev/zero > /tmp/x; sleep 1000");
    trial.task.timeout = Duration::from_secs(5);
    let end = trial.run().await.end;
    assert!(end.usage.memory_peak >= 20_000_000, "{:?}", end.usage);
    clean(&subject).await;
}

const NO_CGROUPS: &str = "P2PNODE_TEST_NO_CGROUPS";

/// Not a test: the checks that need a meter, in a process that sees no cgroups.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a process that other tests start"]
async fn without_cgroups_process() {
    if std::env::var_os(NO_CGROUPS).is_none() {
        return;
    }
    assert!(!std::path::Path::new("/sys/fs/cgroup/cpuacct").exists());
    assert!(!std::path::Path::new("/sys/fs/cgroup/cgroup.procs").exists());
    let subject = DockerSubject::new().await;
    let mut trial = trial(&subject, "while :; do :; done");
    trial.task.timeout = Duration::from_secs(12);
    trial.task.stall = Duration::from_secs(6);
    let ended = trial.run().await;
    assert_eq!(ended.failure(), FailureKind::Timeout, "it was busy");
    assert!(ended.end.usage.cpu_us > 100_000, "{:?}", ended.end.usage);
    assert!(ended.end.usage.memory_peak > 0, "{:?}", ended.end.usage);
    trial.task.command = DockerSubject::shell("sleep 1000");
    trial.task.timeout = Duration::from_secs(60);
    assert_eq!(trial.run().await.failure(), FailureKind::Stalled);
    clean(&subject).await;
}

/// As for a rootless engine, or a node in a container of its own.
#[test]
#[ignore = "needs docker"]
fn without_visible_cgroups_the_engine_is_asked() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let hide = "umount -R -l /sys/fs/cgroup && exec \"$0\" \"$@\"";
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", hide])
        .arg(std::env::current_exe().unwrap())
        .args([
            "limits::without_cgroups_process",
            "--exact",
            "--include-ignored",
        ])
        .env(NO_CGROUPS, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}
