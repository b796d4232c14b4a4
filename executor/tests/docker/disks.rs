//! Limits of disk: the host's reserve, and tasks that have a disk of their own.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use p2pnode_executor::Runtime;
use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::FailureKind;

use crate::contract::{Act, Subject, Trial, clean, within};
use crate::sandbox::{failure_text, trial};
use crate::subject::{DockerSubject, disks};

/// A small filesystem of the test's own, unmounted in the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(bytes: u64) -> Option<Self> {
        if !rustix::process::getuid().is_root() {
            return None;
        }
        let disk = Self(tempfile::tempdir().unwrap());
        let options = format!("size={bytes},mode=0755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "p2pnode-test"])
            .arg(disk.path())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(disk)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A work directory on it.
    fn work_dir(&self, name: &str) -> std::path::PathBuf {
        let dir = self.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    fn free(&self) -> u64 {
        let space = rustix::fs::statvfs(self.path()).unwrap();
        space.f_bavail * space.f_frsize
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status();
    }
}

#[tokio::test]
#[ignore = "needs docker"]
async fn no_task_takes_the_hosts_last_space() {
    let subject = DockerSubject::new().await;
    let Some(disk) = SmallDisk::new(80 << 20) else {
        eprintln!("not tested: a small disk takes root");
        return;
    };
    // Within its own limit, and slow enough for the node to see what the host has left: a twentieth
    // of 80 MiB is kept.
    for (script, is_free_after) in [
        (
            "head -c 62914560 /dev/zero > f; i=0; while :; do head -c 65536 /dev/zero >> g; sleep 0.02; done",
            false,
        ),
        // The same without a name.
        (
            "exec 3>f 4>g; rm f g; head -c 62914560 /dev/zero >&3; \
         while :; do head -c 65536 /dev/zero >&4; sleep 0.02; done",
            true,
        ),
    ] {
        takes_no_last_space(&subject, &disk, script, is_free_after).await;
    }
}

async fn takes_no_last_space(
    subject: &DockerSubject,
    disk: &SmallDisk,
    script: &str,
    is_free_after: bool,
) {
    let mut greedy = trial(subject, script);
    greedy.task.resources.disk = Bytes::mib(1_024);
    greedy.task.timeout = Duration::from_secs(40);
    greedy.task.work_dir = disk.work_dir("greedy");
    let mut quiet = Trial::new(subject, Act::Idle);
    quiet.task.work_dir = disk.work_dir("quiet");
    let mut idle = quiet.start().await;
    idle.until_stdout("started\n").await;

    let ended = greedy.run().await;
    assert_eq!(ended.failure(), FailureKind::Host, "{:?}", ended.end);
    assert!(failure_text(&ended).contains("nearly full"));
    assert!(disk.free() > 0, "it filled the disk");
    // Nothing begins there now, and whoever writes nothing stays.
    let mut late = Trial::new(subject, Act::Exit(0));
    late.task.work_dir = disk.work_dir("late");
    if !is_free_after {
        let ended = late.run().await;
        assert_eq!(ended.failure(), FailureKind::Host);
        assert!(failure_text(&ended).contains("nearly full"));
    }
    let still = tokio::time::timeout(Duration::from_secs(1), &mut idle.end).await;
    assert!(still.is_err(), "{still:?}");
    quiet.cancel.cancel();
    idle.finish().await;
    // With room again, it goes on.
    for dir in ["greedy", "quiet"] {
        std::fs::remove_dir_all(disk.path().join(dir)).unwrap();
    }
    late.run().await.expect_success();
    std::fs::remove_dir_all(disk.path().join("late")).unwrap();
    clean(subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn files_without_a_name_count_like_others() {
    let subject = DockerSubject::new().await;
    let write = "for fd in 3 4 5 6; do head -c 8388608 /dev/zero >&$fd; done";
    let open = "exec 3>a 4>b 5>c 6>d; rm a b c d";
    let mut hidden = trial(&subject, &format!("{open}; {write}; sleep 1000"));
    hidden.task.resources.disk = Bytes::mib(24);
    assert_eq!(hidden.run().await.failure(), FailureKind::DiskFull);
    // Nor may a process beside the first one hold them.
    let mut left = trial(&subject, &format!("{open}; ({write}; sleep 1000) & wait"));
    left.task.resources.disk = Bytes::mib(24);
    assert_eq!(left.run().await.failure(), FailureKind::DiskFull);
    // What was closed is free again.
    let again = format!(
        "for i in 1 2 3; do (exec 3>a; rm a; head -c 16777216 /dev/zero >&3; sleep 0.5); done; {open}"
    );
    let mut honest = trial(&subject, &again);
    honest.task.resources.disk = Bytes::mib(24);
    honest.run().await.expect_success();
    clean(&subject).await;
}

/// Four writers at once, faster than any watcher looks, and a success in the end: the disk ended
/// where the limit is. Under the watcher alone the same task is killed for what it has written.
const GREEDY: &str = "for n in 1 2 3 4; do (i=0; while dd if=/dev/zero of=f$n.$i bs=1M count=4 \
                      2>/dev/null; do i=$((i+1)); done) & done; wait; true";

fn bytes_below(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap().flatten();
    files
        .map(|file| file.metadata().unwrap().blocks() * 512)
        .sum()
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_disk_of_its_own_is_not_overrun_even_for_a_moment() {
    let Some(subject) = DockerSubject::with_hard_disks().await else {
        return;
    };
    let limit = Bytes::mib(24);
    let mut greedy = trial(&subject, GREEDY);
    greedy.task.resources.disk = limit;
    let environment = greedy.prepare().await;
    greedy.run().await.expect_success();
    let written = bytes_below(greedy.work_dir());
    assert!((limit.0 / 2..=limit.0).contains(&written), "{written}");
    within(environment.release(greedy.work_dir())).await;
    assert_eq!(bytes_below(greedy.work_dir()), 0);
    clean(&subject).await;
    // One that says that its disk was full is told so.
    let mut failing = Trial::new(&subject, Act::FillDisk);
    failing.task.resources.disk = limit;
    assert_eq!(failing.run().await.failure(), FailureKind::DiskFull);
    clean(&subject).await;

    let watched = DockerSubject::new().await;
    let mut greedy = trial(&watched, GREEDY.replace("; true", "; sleep 1000").as_str());
    greedy.task.resources.disk = limit;
    assert_eq!(greedy.run().await.failure(), FailureKind::DiskFull);
    clean(&watched).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn inputs_and_outputs_pass_a_disk_of_its_own() {
    let Some(subject) = DockerSubject::with_hard_disks().await else {
        return;
    };
    let script = "cat in/a > out/b; echo more >> in/a; rm in/c; mkdir d; ln -s /etc/passwd d/link; \
                  grep ' /work ' /proc/mounts";
    let mut task = trial(&subject, script);
    task.task.resources.disk = Bytes::mib(2);
    for folder in ["in", "out"] {
        std::fs::create_dir(task.work_dir().join(folder)).unwrap();
    }
    // Larger than the limit: inputs do not count.
    std::fs::write(task.work_dir().join("in/a"), vec![7; 5 << 20]).unwrap();
    std::fs::write(task.work_dir().join("in/c"), b"c").unwrap();
    let environment = task.prepare().await;
    task.task.command = DockerSubject::shell(&script.replace("cat in/a >", "head -c 9 in/a >"));
    let ended = task.run().await;
    ended.expect_success();
    let seen = String::from_utf8(ended.stdout).unwrap();
    assert!(seen.contains("nosuid") && seen.contains("nodev"), "{seen}");
    let at = |name: &str| task.work_dir().join(name);
    assert_eq!(std::fs::read(at("out/b")).unwrap(), [7; 9]);
    assert_eq!(std::fs::metadata(at("in/a")).unwrap().len(), (5 << 20) + 5);
    assert!(!at("in/c").exists() && at("d/link").is_symlink());
    within(environment.release(task.work_dir())).await;
    // What is left is what was given.
    assert!(at("in/c").exists() && !at("d").exists());
    assert_eq!(std::fs::metadata(at("in/a")).unwrap().len(), 5 << 20);
    clean(&subject).await;
    // Nobody looks at what a task that failed wrote, so its disk goes at once.
    let failed = trial(&subject, "echo 1 > x; false");
    assert_eq!(failed.run().await.failure(), FailureKind::Exit(1));
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_shutdown_takes_away_disks_that_nobody_released() {
    let Some(subject) = DockerSubject::with_hard_disks().await else {
        return;
    };
    Trial::new(&subject, Act::Exit(0))
        .run()
        .await
        .expect_success();
    assert!(!disks(&subject.dir, subject.node, &subject.incarnation).is_empty());
    within(subject.runtime.shutdown()).await;
    assert_eq!(subject.leftovers().await, [] as [String; 0]);
}

/// For the figure: `cargo test ... -- --ignored --nocapture what_a_disk`.
#[tokio::test]
#[ignore = "needs docker"]
async fn what_a_disk_of_its_own_costs() {
    let Some(hard) = DockerSubject::with_hard_disks().await else {
        return;
    };
    let soft = DockerSubject::new().await;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..10 {
        for (subject, times) in [&soft, &hard].into_iter().zip(&mut times) {
            let trial = Trial::new(subject, Act::Exit(0));
            let environment = trial.prepare().await;
            let began = std::time::Instant::now();
            trial.run().await.expect_success();
            within(environment.release(trial.work_dir())).await;
            times.push(began.elapsed());
        }
    }
    times.iter_mut().for_each(|times| times.sort_unstable());
    let [soft_ms, hard_ms] = times.map(|times| times[5].as_millis());
    eprintln!("median of a task: {soft_ms} ms, with a disk of its own {hard_ms} ms");
    // Some 50 ms; far more would mean that something grows with the disk's size.
    assert!(hard_ms < soft_ms + 2_000);
    clean(&hard).await;
    clean(&soft).await;
}
