//! What a task finds in a container that others used before: nothing of theirs, and the same walls.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use p2pnode_protocol::task::FailureKind;
use tokio::sync::mpsc;

use super::with_rooms;
use crate::contract::Subject;
use crate::sandbox::task_uid;
use crate::subject::ODD_IMAGE;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn nothing_of_one_task_is_left_for_the_next() {
    with_rooms(async |job| {
        job.text("true").await;
        let room = job.room().await;
        let dirty = "mkdir -p /tmp/a/b && echo 1 > /tmp/a/b/c && ln -s /etc/passwd /tmp/link && \
        echo 1 > /dev/shm/x && echo 1 > /tmp/.hidden && chmod 000 /tmp/a/b && echo 1 > $PWD/x && \
        (sleep 1000 & sleep 1000 & setsid sleep 1000 >/dev/null 2>&1 </dev/null &) ; echo done";
        assert_eq!(job.text(dirty).await, "done\n");
        let seen = "find /tmp /dev/shm /dev/mqueue $PWD -mindepth 1; \
        for p in /proc/[0-9]*; do cat $p/comm; done | sort -u | tr '\\n' ' '";
        let seen = job.text(seen).await;
        let mut names: BTreeSet<_> = seen.split_whitespace().collect();
        // The kernel keeps 15 bytes of a name.
        assert!(
            names.remove(".p2pnode-pause") || names.remove("pause"),
            "{seen}"
        );
        for own in ["sh", "cat", "sort", "tr"] {
            names.remove(own);
        }
        assert_eq!(names, BTreeSet::new(), "{seen}");
        assert_eq!(job.room().await, room);
    })
    .await;
}

/// What holds a task's output open does not hold up its end.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn what_a_task_leaves_running_is_killed_at_its_end() {
    with_rooms(async |job| {
        let start = Instant::now();
        assert_eq!(job.text("sleep 1000 & echo started").await, "started\n");
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{:?}",
            start.elapsed()
        );
        // A process that closed its output goes on to its own end.
        let trial = job.trial("exec >/dev/null 2>&1; sleep 0.5; echo 1 > late");
        job.start(&trial).finish().await.expect_success();
        assert!(trial.work_dir().join("late").exists());
    })
    .await;
}

/// Not even what makes new processes faster than they are killed outlives its task.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_bomb_that_is_left_behind_goes_with_the_task() {
    with_rooms(async |job| {
        let bomb = "b() { b | b & }; b 2>/dev/null; \
        (while :; do sleep 1000 & done) 2>/dev/null & echo lit";
        for _ in 0..3 {
            let start = Instant::now();
            assert_eq!(job.text(bomb).await, "lit\n");
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "{:?}",
                start.elapsed()
            );
            // Whichever container it is: nothing of the bomb is in it.
            let count = "n=0; for p in /proc/[0-9]*; do n=$((n+1)); done; echo $n";
            assert_eq!(
                job.text(count).await,
                "2\n",
                "the program that waits and the shell"
            );
        }
    })
    .await;
}

/// Message queues, and a work directory whose own permissions were changed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_work_directory_is_the_tasks_own() {
    with_rooms(async |job| {
        let script = "chmod 777 . && mkdir -p deep/er && touch deep/er/x && chmod 000 deep && \
        cd / && ls $PWD >/dev/null";
        job.text(script).await;
        let room = job.room().await;
        for _ in 0..2 {
            let seen = job
                .text("stat -c %a . ; ls -A; rmdir . 2>/dev/null; mv . .. 2>/dev/null; pwd")
                .await;
            let expected = format!("{}\n/work\n", "755");
            assert_eq!(seen, expected, "as this test's folders are made");
        }
        assert_eq!(job.room().await, room);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn it_is_as_hard_as_a_container_of_its_own() {
    with_rooms(async |job| {
        for _ in 0..2 {
            let status = job
                .text("cat /proc/self/status; ulimit -n; ulimit -c")
                .await;
            for line in [
                "CapInh:\t0000000000000000",
                "CapPrm:\t0000000000000000",
                "CapEff:\t0000000000000000",
                "CapBnd:\t0000000000000000",
                "NoNewPrivs:\t1",
                "Seccomp:\t2",
            ] {
                assert!(status.contains(line), "{line}: {status}");
            }
            let uid = task_uid();
            assert!(
                status.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")),
                "{status}"
            );
            assert!(status.ends_with("4096\n0\n"), "{status}");
        }
        // The program that waits can be neither ended, stopped, nor looked into.
        let script = "kill -9 1; kill -STOP 1; kill -TERM 1; grep State /proc/1/status; \
            cat /proc/1/mem /proc/1/environ 2>/dev/null; \
            ls /proc/1/root/ 2>/dev/null; ls /proc/1/fd 2>/dev/null; \
            (echo 1000 > /proc/1/oom_score_adj) 2>/dev/null && echo wrote; \
            for f in /x /etc/x /dev/x /sys/fs/cgroup/x /.p2pnode-pause /etc/hosts; do \
            (echo 1 > $f) 2>/dev/null && echo wrote $f; done; ls /sys/class/net; hostname";
        assert_eq!(
            job.text(script).await,
            "State:\tS (sleeping)\nlo\np2pnode\n"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn use_is_counted_for_each_task() {
    with_rooms(async |job| {
        let script = "head -c 60000000 /dev/zero > /tmp/x; \
        i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        let busy = job.run(script).await;
        let idle = job.run("sleep 0.3").await;
        let (busy, idle) = (busy.end.usage, idle.end.usage);
        assert!(busy.cpu_us > 100_000, "{busy:?}");
        assert!(idle.cpu_us < busy.cpu_us / 2, "{idle:?} after {busy:?}");
        if std::path::Path::new("/sys/fs/cgroup/memory").exists() {
            assert!(busy.memory_peak > 60_000_000, "{busy:?}");
            assert!((1..40_000_000).contains(&idle.memory_peak), "{idle:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn the_images_own_ways_do_not_matter_here_either() {
    with_rooms(async |mut job| {
        let (progress, _) = mpsc::channel(1);
        let program = p2pnode_executor::ProgramFile::Image {
            reference: ODD_IMAGE.into(),
            credentials: None,
            local_registry: true,
        };
        let runtime = job.subject.runtime();
        job.environment = runtime.prepare(program, progress).await.unwrap();
        for _ in 0..2 {
            let text = job
                .text("pwd; id -u; ls /data /work; echo 1 > /data/x; echo 1 > y")
                .await;
            assert_eq!(text, format!("/work\n{}\n/data:\n\n/work:\n", task_uid()));
        }
        job.room().await;
        // Its own command, when the job has none.
        let mut trial = job.trial("");
        trial.task.command.clear();
        let ended = job.start(&trial).finish().await;
        assert_eq!(ended.failure(), FailureKind::Exit(1), "it is /bin/false");
        // A command that is not there.
        let mut trial = job.trial("");
        trial.task.command = vec!["/no/such/program".into()];
        let ended = job.start(&trial).finish().await;
        assert_eq!(ended.failure(), FailureKind::BadProgram);
        job.room().await;
    })
    .await;
}
