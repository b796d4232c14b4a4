//! What hostile tasks do, each alone. `together` lets them loose at once.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use p2pnode_executor::host::process_memory;
use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::FailureKind;

use crate::contract::{Trial, clean};
use crate::sandbox::{task_uid, trial};
use crate::subject::DockerSubject;

/// How long a task with a limit of some seconds may take from before its container is made to after that is
/// removed: 0.6 s more than its limit when idle.
const END_WITHIN: Duration = Duration::from_secs(60);

/// How long a flood is left unread. Not a synchronisation: a longer watch only catches more.
const UNREAD: Duration = Duration::from_secs(5);

#[tokio::test]
#[ignore = "needs docker"]
async fn a_task_that_ignores_signals_ends_in_time() {
    let subject = DockerSubject::new().await;
    // Its children, too, and they are not in its session.
    let script = "trap '' TERM INT HUP QUIT PIPE; (trap '' TERM; setsid sleep 1000 &); \
                  echo started; while :; do sleep 0.1; done";
    let mut trial = trial(&subject, script);
    trial.task.timeout = Duration::from_secs(5);
    let began = Instant::now();
    let ended = trial.run().await;
    assert_eq!(ended.failure(), FailureKind::Timeout);
    assert_eq!(ended.stdout, b"started\n");
    assert!(began.elapsed() < END_WITHIN, "{:?}", began.elapsed());
    clean(&subject).await;
}

/// Three hundred orphans under a limit of thirty processes, of a task that never waits for any: only
/// reaped ones make room.
#[tokio::test]
#[ignore = "needs docker"]
async fn zombies_do_not_pile_up() {
    let subject = DockerSubject::new().await;
    // A shell that cannot fork ends, so the reaper is given a moment after every ten; and the count is
    // taken until it is none, or has been something for ten seconds.
    let script = "(sleep 0.3; i=0; while [ $i -lt 300 ]; do i=$((i+1)); (true &) || exit 3; \
                  [ $((i % 10)) = 0 ] && sleep 0.1; done; i=0; n=1; \
                  while [ $n != 0 ] && [ $i -lt 100 ]; do i=$((i+1)); sleep 0.1; \
                  n=$(grep -l '^State:.Z' /proc/[0-9]*/status | wc -l); done; \
                  echo $n > zombies) & \
                  exec sh -c 'while [ ! -s zombies ]; do i=0; while [ $i -lt 9999 ]; do \
                  i=$((i+1)); done; done'";
    let mut trial = trial(&subject, script);
    trial.task.resources.pids = 30;
    trial.task.timeout = Duration::from_secs(30);
    trial.run().await.expect_success();
    let zombies = std::fs::read_to_string(trial.work_dir().join("zombies")).unwrap();
    assert_eq!(zombies, "0\n");
    clean(&subject).await;
}

/// What a task leaves behind when it ends goes with it.
#[tokio::test]
#[ignore = "needs docker"]
async fn what_runs_on_in_the_background_ends_with_the_task() {
    let subject = DockerSubject::new().await;
    let marker = format!("98{}", std::process::id());
    let script = format!("setsid sleep {marker} & (setsid sleep {marker} &); echo done");
    let ended = trial(&subject, &script).run().await;
    assert_eq!(ended.expect_success().stdout, b"done\n");
    let lives = |process: std::fs::DirEntry| {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|argument| argument == marker.as_bytes())
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    assert_eq!(processes.map(lives).filter(|lives| *lives).count(), 0);
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_full_scratch_is_full_and_no_more() {
    let subject = DockerSubject::new().await;
    for place in ["/tmp", "/dev/shm"] {
        // Half of 64 MiB: the write that is too much fails, and the task goes on.
        let script = format!(
            "dd if=/dev/zero of={place}/x bs=1M 2>/dev/null; wc -c < {place}/x; rm {place}/x; \
             echo x > {place}/y"
        );
        let mut trial = trial(&subject, &script);
        trial.task.resources.memory = Bytes::mib(64);
        let ended = trial.run().await;
        let text = String::from_utf8(ended.expect_success().stdout.clone()).unwrap();
        let bytes: u64 = text.trim().parse().unwrap();
        assert_eq!(bytes, Bytes::mib(32).0, "{place}");
    }
    // Both at once are more than the task's memory.
    let mut trial = trial(
        &subject,
        "for x in /tmp/x /dev/shm/x; do head -c 16777216 /dev/zero > $x || exit 4; done; echo fit",
    );
    trial.task.resources.memory = Bytes::mib(32);
    let ended = trial.run().await;
    assert_eq!(ended.failure(), FailureKind::OutOfMemory);
    clean(&subject).await;
}

/// Links, device files and set-user-id bits in the work directory.
#[tokio::test]
#[ignore = "needs docker"]
async fn what_it_makes_in_its_work_directory_has_no_power() {
    let subject = DockerSubject::new().await;
    let outside = tempfile::tempdir().unwrap();
    let canary = outside.path().join("canary");
    std::fs::write(&canary, b"the host's").unwrap();
    let canary_text = canary.display();
    let script = format!(
        "mknod c c 1 3 2>/dev/null && echo made c; mknod b b 7 0 2>/dev/null && echo made b; \
         mkfifo fifo && echo made fifo; ln -s {canary_text} soft && echo made link; \
         ln -s ../../../../../../etc/passwd up && echo made up; \
         ln {canary_text} hard 2>/dev/null && echo made hard; cat soft 2>/dev/null; \
         echo x > ../../../../../../tmp/x; cp /bin/busybox busybox && chmod 6755 busybox && ./busybox id -u; \
         chown 0 busybox 2>/dev/null && echo given away; true"
    );
    for root in [false, true] {
        let mut trial = trial(&subject, &script);
        trial.task.root = root;
        if root && !rustix::process::getuid().is_root() {
            continue;
        }
        let ended = trial.run().await;
        let seen = String::from_utf8(ended.expect_success().stdout.clone()).unwrap();
        let uid = if root { 0 } else { task_uid() };
        // Root may give its own file to itself.
        let given = if root { "given away\n" } else { "" };
        let expected = format!("made fifo\nmade link\nmade up\n{uid}\n{given}");
        assert_eq!(seen, expected, "root: {root}");
        let suid = std::fs::metadata(trial.work_dir().join("busybox")).unwrap();
        assert_eq!(suid.uid(), uid);
        second_task_in(&subject, &trial).await;
        assert_eq!(std::fs::read(&canary).unwrap(), b"the host's");
        let meta = std::fs::metadata(&canary).unwrap();
        assert_eq!(
            (meta.uid(), meta.nlink()),
            (rustix::process::getuid().as_raw(), 1)
        );
    }
    clean(&subject).await;
}

/// The host's own steps on such a directory (giving it away, measuring it) follow nothing in it.
async fn second_task_in(subject: &DockerSubject, first: &Trial<'_>) {
    let mut second = trial(subject, "true");
    second.task.work_dir = first.task.work_dir.clone();
    second.run().await.expect_success();
}

#[tokio::test]
#[ignore = "needs docker"]
async fn names_may_be_any_bytes() {
    let subject = DockerSubject::new().await;
    let script = r#"n=$(printf '\377\376\001'); : > "$n"; mkdir "d$n"; : > "d$n/a b"; : > "
"; ls | wc -l"#;
    let trial = trial(&subject, script);
    trial.run().await.expect_success();
    let names: Vec<_> = std::fs::read_dir(trial.work_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect();
    assert!(names.contains(&b"\xff\xfe\x01".to_vec()), "{names:?}");
    assert!(names.contains(&b"\n".to_vec()), "{names:?}");
    second_task_in(&subject, &trial).await;
    clean(&subject).await;
}

/// Within its limit a task may have many files: they are watched in time, and counted when too many.
#[tokio::test]
#[ignore = "needs docker"]
async fn a_hundred_thousand_small_files() {
    let subject = DockerSubject::new().await;
    let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); : > $i; done; ls | wc -l";
    let mut trial = trial(&subject, script);
    trial.task.resources.disk = Bytes::mib(512);
    let before = process_memory().0;
    let ended = trial.run().await;
    assert_eq!(ended.expect_success().stdout, b"100000\n");
    let grown = process_memory().0.saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes for the names of files");
    std::fs::remove_dir_all(trial.work_dir()).unwrap();
    std::fs::create_dir(trial.work_dir()).unwrap();
    // 100,000 of them are 400 MiB, at a block each.
    trial.task.command = DockerSubject::shell(&format!("{script}; sleep 100"));
    trial.task.resources.disk = Bytes::mib(128);
    assert_eq!(trial.run().await.failure(), FailureKind::DiskFull);
    clean(&subject).await;
}

/// Folders that nobody may enter, at any depth, neither hide files from the watcher nor stop it.
#[tokio::test]
#[ignore = "needs docker"]
async fn closed_folders_hide_nothing() {
    let subject = DockerSubject::new().await;
    let script = "mkdir -p a/b && i=0 && while :; do i=$((i+1)); \
                  head -c 100000 /dev/zero > a/b/f$i; chmod 0 a/b; sleep 0.05; chmod 700 a/b; done";
    let mut trial = trial(&subject, script);
    trial.task.resources.disk = Bytes::mib(2);
    assert_eq!(trial.run().await.failure(), FailureKind::DiskFull);
    let folder = trial.work_dir().join("a/b");
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    clean(&subject).await;
}

/// 300 MB on stdout, or as many bytes as `P2PNODE_FLOOD` says: nobody keeps them, and whoever reads them
/// gets them all. 10 GB took four minutes on a busy machine.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn endless_output_takes_no_memory() {
    let flood = std::env::var("P2PNODE_FLOOD").ok();
    let bytes: u64 = flood.map_or(300_000_000, |text| text.parse().unwrap());
    let subject = DockerSubject::new().await;
    let trial = trial(&subject, &format!("exec head -c {bytes} /dev/zero"));
    let before = process_memory().0;
    let grown = || process_memory().0.saturating_sub(before);
    let began = Instant::now();
    let running = trial.start().await;
    // Nobody reads for longer than it would take to fill the memory: it is frozen meanwhile.
    tokio::time::sleep(UNREAD).await;
    assert!(grown() < 32 << 20, "{} bytes were kept, unread", grown());
    let (count, end) = running.count_zeros().await;
    assert_eq!((count, end.result), (bytes, Ok(())));
    assert!(grown() < 64 << 20, "{} bytes were kept", grown());
    eprintln!("{bytes} bytes in {:?}", began.elapsed());
    clean(&subject).await;
}
