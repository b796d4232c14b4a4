//! Which tasks share a container, how fast that is, and when containers go.

use std::time::{Duration, Instant};

use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::{FailureKind, Isolation};

use super::{WarmSubject, with_rooms};
use crate::contract::{Act, PATIENCE, Subject, Trial, clean};
use crate::life::until;
use crate::subject::DockerSubject;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn tasks_of_a_job_follow_one_another_in_one_container() {
    with_rooms(async |job| {
        let first = job.text("echo mine > out; pwd; ls").await;
        assert_eq!(first, "/work\nout\n");
        let room = job.room().await;
        for turn in 0..5 {
            let trial = job.trial("cat given; ls; echo $NUMBER > out; exit $NUMBER");
            std::fs::write(trial.work_dir().join("given"), format!("{turn}\n")).unwrap();
            let mut trial = trial;
            trial.task.env = vec![("NUMBER".into(), turn.to_string())];
            let ended = job.start(&trial).finish().await;
            assert_eq!(ended.stdout, format!("{turn}\ngiven\n").as_bytes());
            let result = ended.end.result.map_err(|failure| failure.kind);
            assert_eq!(
                result.err(),
                (turn > 0).then_some(FailureKind::Exit(turn)),
                "an exit code is the task's own affair"
            );
            let out = std::fs::read_to_string(trial.work_dir().join("out")).unwrap();
            assert_eq!(out, format!("{turn}\n"));
            assert_eq!(job.room().await, room, "the container was replaced");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_container_is_replaced_after_anything_but_an_exit() {
    with_rooms(async |job| {
        job.text("true").await;
        let room = job.room().await;
        // Out of time.
        let mut trial = job.trial("sleep 1000");
        trial.task.timeout = Duration::from_millis(300);
        let ended = job.start(&trial).finish().await;
        assert_eq!(ended.failure(), FailureKind::Timeout);
        assert!(job.subject.rooms().await.is_empty());
        // Out of memory.
        let mut trial = job.trial("tail /dev/zero");
        trial.task.resources.memory = Bytes::mib(32);
        let ended = job.start(&trial).finish().await;
        assert_eq!(ended.failure(), FailureKind::OutOfMemory);
        assert!(job.subject.rooms().await.is_empty());
        // Cancelled.
        let trial = job.trial("echo started; sleep 1000");
        let mut running = job.start(&trial);
        running.until_stdout("started\n").await;
        trial.cancel.cancel();
        assert_eq!(running.finish().await.failure(), FailureKind::Cancelled);
        assert!(job.subject.rooms().await.is_empty());
        job.text("true").await;
        assert_ne!(job.room().await, room);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_container_that_died_while_it_waited_costs_nobody_a_try() {
    with_rooms(async |job| {
        job.text("true").await;
        let room = job.room().await;
        job.subject
            .0
            .engine
            .kill_container(&room, None)
            .await
            .unwrap();
        assert_eq!(job.text("echo well").await, "well\n");
        assert_ne!(job.room().await, room);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn only_tasks_of_the_same_job_and_limits_share() {
    with_rooms(async |job| {
        job.text("true").await;
        let mut others = Vec::new();
        for change in 0..4 {
            let mut trial = job.trial("true");
            let task = &mut trial.task;
            match change {
                0 => task.attempt.task.job = p2pnode_protocol::JobId([9; 8]),
                1 => task.submitter = p2pnode_protocol::PeerId::random(),
                2 => task.resources.memory = Bytes::mib(100),
                _ => task.resources.pids += 1,
            }
            others.push(trial);
        }
        for (count, trial) in others.iter().enumerate() {
            job.start(trial).finish().await.expect_success();
            assert_eq!(job.subject.rooms().await.len(), count + 2);
        }
        // Root is never shared, and leaves nothing.
        let mut trial = job.trial("id -u");
        trial.task.root = true;
        let ended = job.start(&trial).finish().await;
        assert_eq!(ended.expect_success().stdout, b"0\n");
        assert_eq!(job.subject.rooms().await.len(), others.len() + 1);
    })
    .await;
}

/// Two tasks at once have a container each.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_container_holds_one_task_at_a_time() {
    with_rooms(async |job| {
        let trials =
            [(); 3].map(|()| job.trial("echo early; while [ ! -e go ]; do sleep 0.05; done"));
        let mut running = Vec::new();
        for trial in &trials {
            let mut task = job.start(trial);
            task.until_stdout("early\n").await;
            running.push(task);
        }
        assert_eq!(job.subject.rooms().await.len(), trials.len());
        for trial in &trials {
            std::fs::write(trial.work_dir().join("go"), b"").unwrap();
        }
        for task in running {
            task.finish().await.expect_success();
        }
        assert_eq!(job.subject.rooms().await.len(), trials.len());
    })
    .await;
}

/// The engine's own processes must fit beside the task's: where they would not, nothing is shared.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_small_limit_of_processes_holds() {
    let subject = WarmSubject::new().await;
    let mut trial = Trial::new(&subject, Act::Exit(0));
    trial.task.command =
        DockerSubject::shell("for i in 0 1 2 3 4 5 6 7 8 9; do sleep 100 & done; echo all");
    trial.task.resources.pids = 5;
    let ended = trial.run().await;
    assert!(
        matches!(ended.failure(), FailureKind::Exit(_)),
        "{:?}",
        ended.end
    );
    assert!(String::from_utf8_lossy(&ended.stderr).contains("fork"));
    trial.task.resources.pids = 1;
    trial.task.command = vec!["/bin/true".into()];
    trial.run().await.expect_success();
    clean(&subject).await;
}

/// The promise of `isolation = "job"`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn it_is_at_least_twice_as_fast() {
    with_rooms(async |job| {
        const TASKS: u32 = 20;
        let mut times = [Vec::new(), Vec::new()];
        // Turn by turn, so that whatever else the machine does meets both alike.
        for _ in 0..TASKS {
            for (isolation, times) in [Isolation::Task, Isolation::Job]
                .into_iter()
                .zip(&mut times)
            {
                let mut trial = job.trial("true");
                trial.task.isolation = isolation;
                let start = Instant::now();
                job.start(&trial).finish().await.expect_success();
                times.push(start.elapsed());
            }
        }
        let [own, shared] = times.map(|mut times| {
            times.sort();
            times[times.len() / 2]
        });
        let ratio = own.as_secs_f64() / shared.as_secs_f64();
        eprintln!(
            "a task of its own {own:?}, in a warm container {shared:?}: {ratio:.1} times as fast"
        );
        assert!(ratio >= 2.0, "{own:?} and {shared:?}: {ratio:.1}");
    })
    .await;
}

/// Nobody has to drop anything: what nobody uses goes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_container_that_nobody_uses_is_removed() {
    with_rooms(async |job| {
        job.text("true").await;
        job.room().await;
        until(PATIENCE, async || job.subject.rooms().await.is_empty()).await;
        job.text("true").await;
    })
    .await;
}

/// The node's stop, its end, and its next start: no container and no mount is left.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn waiting_containers_end_with_the_runtime() {
    with_rooms(async |job| {
        job.text("true").await;
        job.room().await;
        let mounted = || {
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            mounts.contains(&job.subject.0.incarnation)
        };
        assert!(mounted());
        job.subject.runtime().shutdown().await;
        assert!(job.subject.rooms().await.is_empty());
        assert!(!mounted());
        until(PATIENCE, async || job.subject.leftovers().await.is_empty()).await;
    })
    .await;
}
