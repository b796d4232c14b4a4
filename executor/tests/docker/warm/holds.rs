//! The owner's hold on a task in a warm container.

use std::time::Duration;

use p2pnode_executor::Hold;
use tokio::sync::watch;

use super::with_rooms;

/// How long a task may take that was held for a moment.
const LONGEST: Duration = Duration::from_secs(60);

/// A container that is frozen while the engine starts a process in it is lost, and so is whoever asks
/// the engine about it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_hold_at_any_moment_is_only_a_hold() {
    with_rooms(async |job| {
        job.text("true").await;
        for moment in 0..40 {
            let mut trial = job.trial("sleep 0.05; echo done");
            let (pause, wanted) = watch::channel(false);
            trial.task.hold = Hold {
                pause: wanted,
                ..Hold::default()
            };
            let running = job.start(&trial);
            tokio::time::sleep(Duration::from_millis(moment * 4)).await;
            // It may be over already.
            let _ended_already = pause.send(true);
            tokio::time::sleep(Duration::from_millis(150)).await;
            let _ended_already = pause.send(false);
            let ended = tokio::time::timeout(LONGEST, running.finish()).await;
            let ended = ended.unwrap_or_else(|_| panic!("held after {} ms it hangs", moment * 4));
            ended.expect_success();
            assert_eq!(ended.stdout, b"done\n");
        }
    })
    .await;
}
