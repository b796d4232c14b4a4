//! Output of containers where engines make it hard.

use std::time::Duration;

use p2pnode_protocol::task::{FailureKind, Isolation};

use crate::contract::{Act, Trial, clean, within};
use crate::sandbox::trial;
use crate::subject::DockerSubject;

/// Engines give up on output that is unread two seconds after the process ended. A reader that is
/// slower than that gets every byte all the same, wherever in the pipes the end of it was stuck.
#[tokio::test]
#[ignore = "needs docker"]
async fn a_slow_reader_gets_the_last_words() {
    let subject = DockerSubject::new().await;
    let mut running = Vec::new();
    // Where in this range it is stuck hangs on the sizes of all buffers on the way.
    for kib in (1_200..2_400).step_by(75) {
        let mut trial = Trial::new(&subject, Act::Exit(0));
        let bytes: u64 = kib * 1_024;
        trial.task.command = DockerSubject::shell(&format!("head -c {bytes} /dev/zero"));
        let mut task = trial.start().await;
        let first = within(task.log.recv()).await.unwrap().bytes.len() as u64;
        running.push((bytes, first, task, trial));
    }
    // Longer than the engine's patience: the lateness itself is what is tested.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut missing = Vec::new();
    for (bytes, first, task, _trial) in running {
        let (rest, end) = task.count_zeros().await;
        assert_eq!(end.result, Ok(()));
        if first + rest != bytes {
            missing.push((bytes, bytes - first - rest));
        }
    }
    assert_eq!(missing, [], "(written, missing)");
    clean(&subject).await;
}

/// What a task wrote before it was ended for its time says why it took so long. A reader that comes a
/// moment after the kill gets all of it, from a container of its own and from a shared one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_stopped_task_has_its_last_words() {
    // More than is on its way to the reader, less than what freezes the task.
    const BYTES: u64 = 200_000;
    let limit = Duration::from_secs(5);
    let subject = DockerSubject::new().await;
    for isolation in [Isolation::Task, Isolation::Job] {
        let script = format!("head -c {BYTES} /dev/zero; exec sleep 1000");
        let mut trial = trial(&subject, &script);
        trial.task.isolation = isolation;
        trial.task.timeout = limit;
        let mut running = trial.start().await;
        let first = within(running.log.recv()).await.unwrap().bytes.len() as u64;
        // The lateness itself is what is tested: it is killed by then, and its words wait for a second.
        tokio::time::sleep(limit + Duration::from_millis(100)).await;
        let (rest, end) = running.count_zeros().await;
        assert_eq!(end.result.unwrap_err().kind, FailureKind::Timeout);
        assert_eq!(first + rest, BYTES, "{isolation:?}");
    }
    clean(&subject).await;
}
