//! The owner's hold on a task: frozen, and what it uses.

use std::sync::Arc;
use std::time::Duration;

use p2pnode_executor::{Hold, LiveUsage, Runtime};
use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::{Failure, FailureKind};
use tokio::sync::watch;

use crate::contract::{Act, FLOOD_BYTES, PATIENCE, Trial, clean, within};
use crate::life::until;
use crate::sandbox::trial;
use crate::subject::DockerSubject;

/// The owner's end of a hold.
struct Owner {
    pause: watch::Sender<bool>,
    usage: watch::Receiver<LiveUsage>,
}

impl Owner {
    /// Takes hold of a task that has not started.
    fn of(trial: &mut Trial<'_>) -> Self {
        let (pause, wanted) = watch::channel(false);
        let (told, usage) = watch::channel(LiveUsage::default());
        trial.task.hold = Hold {
            pause: wanted,
            usage: Arc::new(told),
            ..Hold::default()
        };
        Self { pause, usage }
    }

    async fn until_paused(&mut self, paused: bool) {
        within(self.usage.wait_for(|usage| usage.paused == paused))
            .await
            .unwrap();
    }
}

/// Prints a line every 50 ms, 20 in all.
const TICKS: &str =
    "echo started; i=0; while [ $i -lt 20 ]; do sleep 0.05; i=$((i+1)); echo t; done";

#[tokio::test]
#[ignore = "needs docker"]
async fn a_held_task_stands_still_and_its_time_with_it() {
    let subject = DockerSubject::new().await;
    assert!(subject.runtime.probe().await.features.pause);
    let mut trial = trial(&subject, TICKS);
    trial.task.timeout = Duration::from_secs(8);
    trial.task.stall = Duration::from_secs(4);
    let mut owner = Owner::of(&mut trial);
    let mut running = trial.start().await;
    running.until_stdout("started\n").await;
    owner.pause.send(true).unwrap();
    owner.until_paused(true).await;
    // What was on its way has arrived, and nothing follows for longer than either limit.
    let mut on_its_way = 0;
    while let Ok(chunk) = tokio::time::timeout(Duration::from_secs(1), running.log.recv()).await {
        assert!(chunk.is_some(), "ended while it was held");
        on_its_way += 1;
        assert!(on_its_way < 20, "it was not held");
    }
    let still = tokio::time::timeout(Duration::from_secs(9), running.log.recv()).await;
    assert!(still.is_err(), "a held task wrote: {still:?}");
    assert!(owner.usage.borrow().paused);
    owner.pause.send(false).unwrap();
    owner.until_paused(false).await;
    running.finish().await.expect_success();
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_held_task_is_ended_like_any_other() {
    let subject = DockerSubject::new().await;
    for abandoned in [false, true] {
        let mut trial = Trial::new(&subject, Act::Spin);
        let mut owner = Owner::of(&mut trial);
        let mut running = trial.start().await;
        running.until_stdout("started\n").await;
        owner.pause.send(true).unwrap();
        owner.until_paused(true).await;
        if abandoned {
            running.end.abort();
        } else {
            trial.cancel.cancel();
            assert_eq!(running.finish().await.failure(), FailureKind::Cancelled);
        }
        clean(&subject).await;
    }
    let mut trial = Trial::new(&subject, Act::Idle);
    let mut owner = Owner::of(&mut trial);
    let mut running = trial.start().await;
    running.until_stdout("started\n").await;
    owner.pause.send(true).unwrap();
    owner.until_paused(true).await;
    within(subject.runtime.shutdown()).await;
    assert_eq!(
        running.finish().await.failure(),
        FailureKind::ProviderStopping
    );
    clean(&subject).await;
}

/// Freezing takes the engine some time, in which the task may be ended or end by itself.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn an_end_in_the_midst_of_freezing_is_an_end() {
    let subject = DockerSubject::new().await;
    for (ends_itself, delay_ms) in (0..32).map(|n| (n % 2 == 0, n)) {
        let mut trial = Trial::new(&subject, Act::Converse);
        let owner = Owner::of(&mut trial);
        let mut running = trial.start().await;
        running.until_stdout("early\n").await;
        if ends_itself {
            std::fs::write(trial.work_dir().join("go"), b"").unwrap();
            tokio::time::sleep(Duration::from_millis(delay_ms * 3)).await;
        }
        let _ended_already = owner.pause.send(true);
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        trial.cancel.cancel();
        let end = running.finish().await.end.result;
        let cancelled = |failure: Failure| failure.kind == FailureKind::Cancelled;
        assert!(end.map_or_else(cancelled, |()| ends_itself));
    }
    clean(&subject).await;
}

/// Engines hear late of what they have just done, all the later the busier they are, and then take a
/// container for frozen that is not, or the other way round.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn holds_that_follow_one_another_quickly_are_only_holds() {
    let subject = DockerSubject::new().await;
    let turns = async || {
        let mut trial = trial(&subject, "exec cat /dev/zero");
        let mut owner = Owner::of(&mut trial);
        let mut running = trial.start().await;
        for _ in 0..40 {
            owner.pause.send(true).unwrap();
            owner.until_paused(true).await;
            owner.pause.send(false).unwrap();
            owner.until_paused(false).await;
            // More than can have been under way.
            for _ in 0..100 {
                assert!(within(running.log.recv()).await.is_some(), "it ended");
            }
        }
        trial.cancel.cancel();
        assert_eq!(running.finish().await.failure(), FailureKind::Cancelled);
    };
    futures::future::join_all((0..6).map(|_| turns())).await;
    clean(&subject).await;
}

/// A task can be held before it has begun; and when nobody is left to let it go, it goes on.
#[tokio::test]
#[ignore = "needs docker"]
async fn a_hold_may_come_early_and_ends_with_its_owner() {
    let subject = DockerSubject::new().await;
    let mut trial = trial(&subject, TICKS);
    let mut owner = Owner::of(&mut trial);
    owner.pause.send(true).unwrap();
    let mut running = trial.start().await;
    owner.until_paused(true).await;
    let early = tokio::time::timeout(Duration::from_secs(2), &mut running.end).await;
    assert!(early.is_err(), "{early:?}");
    drop(owner.pause);
    running.finish().await.expect_success();
    clean(&subject).await;
}

/// Output that nobody reads freezes a task, too. Neither reason lifts the other.
#[tokio::test]
#[ignore = "needs docker"]
async fn a_reader_that_catches_up_does_not_thaw_a_held_task() {
    let subject = DockerSubject::new().await;
    let mut trial = Trial::new(&subject, Act::Flood);
    let mut owner = Owner::of(&mut trial);
    let mut running = trial.start().await;
    let first = within(running.log.recv()).await.unwrap().bytes.len() as u64;
    // Long enough for everything to be full and the container to be frozen for it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    owner.pause.send(true).unwrap();
    owner.until_paused(true).await;
    let mut drained = first;
    while let Ok(chunk) = tokio::time::timeout(Duration::from_secs(2), running.log.recv()).await {
        drained += chunk.unwrap().bytes.len() as u64;
        assert!(drained < FLOOD_BYTES / 2, "it was not held");
    }
    owner.pause.send(false).unwrap();
    let (rest, end) = running.count_zeros().await;
    assert_eq!((drained + rest, end.result), (FLOOD_BYTES, Ok(())));
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn what_a_task_uses_is_told_while_it_runs() {
    let subject = DockerSubject::new().await;
    let script = "head -c 20000000 /dev/zero > /tmp/x; head -c 5000000 /dev/zero > out; \
                  sleep 1000 & sleep 1000 & while :; do :; done";
    let mut trial = trial(&subject, script);
    trial.task.resources.memory = Bytes::mib(128);
    std::fs::write(trial.work_dir().join("input"), vec![1; 3 << 20]).unwrap();
    let owner = Owner::of(&mut trial);
    let running = trial.start().await;
    let mut seen = LiveUsage::default();
    until(PATIENCE, async || {
        seen = *owner.usage.borrow();
        seen.cpu_us > 100_000
            && seen.memory >= 20_000_000
            && seen.memory_peak >= seen.memory
            && seen.disk >= 5_000_000
            && seen.processes >= 3
    })
    .await;
    // Inputs are not what it has written, and the init process is not its own.
    assert!(seen.disk < 6_000_000, "{seen:?}");
    assert_eq!((seen.processes, seen.paused), (3, false), "{seen:?}");
    trial.cancel.cancel();
    assert_eq!(running.finish().await.failure(), FailureKind::Cancelled);
    clean(&subject).await;
}
