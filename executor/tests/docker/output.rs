//! Output of containers where engines make it hard.

use std::time::Duration;

use crate::contract::{Act, Trial, clean};
use crate::subject::DockerSubject;

/// Engines give up on output that is unread two seconds after the process ended. A reader that is
/// slower than that gets every byte all the same, wherever in the pipes the end of it was stuck.
#[tokio::test]
#[ignore = "needs docker"]
async fn a_slow_reader_gets_the_last_words() {
    let subject = DockerSubject::new().await;
    let mut running = Vec::new();
    for kib in (100..2_600).step_by(125) {
        let mut trial = Trial::new(&subject, Act::Exit(0));
        let bytes: u64 = kib * 1_024;
        trial.task.command = DockerSubject::shell(&format!("head -c {bytes} /dev/zero"));
        let task = trial.start().await;
        running.push((bytes, task, trial));
    }
    // Longer than the engine's patience: the lateness itself is what is tested.
    tokio::time::sleep(Duration::from_secs(4)).await;
    for (bytes, task, _trial) in running {
        let (count, end) = task.count_zeros().await;
        assert_eq!((count, end.result), (bytes, Ok(())));
    }
    clean(&subject).await;
}
