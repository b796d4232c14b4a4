//! The checks themselves. Each takes a fresh subject and leaves nothing behind.

use std::time::Duration;

use p2pnode_executor::TaskEnd;
use p2pnode_executor::host::process_memory;
use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::{FailureKind, Stream};

use super::{ARGUMENTS, Act, FLOOD_BYTES, Subject, Trial, clean, within};

/// How long a task that must not end is watched. Not a synchronisation: a longer watch only makes a
/// faulty runtime more likely to be caught.
const WATCH: Duration = Duration::from_millis(700);

pub async fn exit_code_0_is_success(subject: &dyn Subject) {
    let ended = Trial::new(subject, Act::Exit(0)).run().await;
    ended.expect_success();
    assert_eq!((ended.stdout, ended.stderr), (vec![], vec![]));
    clean(subject).await;
}

pub async fn other_exit_codes_are_told(subject: &dyn Subject) {
    for code in [3, 1, 120] {
        let ended = Trial::new(subject, Act::Exit(code)).run().await;
        assert_eq!(ended.failure(), FailureKind::Exit(i32::from(code)));
    }
    clean(subject).await;
}

pub async fn output_streams_while_it_runs(subject: &dyn Subject) {
    let trial = Trial::new(subject, Act::Converse);
    let mut running = trial.start().await;
    let first = running.until_stdout("early\n").await;
    assert!(first.iter().all(|chunk| chunk.stream == Stream::Stdout));
    assert!(!running.end.is_finished());
    std::fs::write(trial.work_dir().join("go"), b"").unwrap();
    let ended = running.finish().await;
    ended.expect_success();
    assert_eq!(ended.stderr, b"late\n");
    clean(subject).await;
}

pub async fn arguments_and_environment_arrive(subject: &dyn Subject) {
    let mut trial = Trial::new(subject, Act::Echo);
    trial.task.env = vec![("GREETING".into(), "good day = ä".into())];
    let ended = trial.run().await;
    ended.expect_success();
    let expected = format!("{}\ngood day = ä\n", ARGUMENTS.join("\n"));
    assert_eq!(String::from_utf8(ended.stdout).unwrap(), expected);
    clean(subject).await;
}

pub async fn inputs_are_read_and_outputs_seen(subject: &dyn Subject) {
    let trial = Trial::new(subject, Act::Copy);
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    for folder in ["in", "out"] {
        std::fs::create_dir(trial.work_dir().join(folder)).unwrap();
    }
    std::fs::write(trial.work_dir().join("in/data.bin"), &content).unwrap();
    trial.run().await.expect_success();
    let copied = std::fs::read(trial.work_dir().join("out/data.bin")).unwrap();
    assert!(copied == content, "the copy differs");
    clean(subject).await;
}

pub async fn bytes_that_are_not_text_pass(subject: &dyn Subject) {
    let ended = Trial::new(subject, Act::Binary).run().await;
    assert_eq!(ended.expect_success().stdout, [0xff, 0, 0xfe]);
    clean(subject).await;
}

pub async fn stdin_is_empty(subject: &dyn Subject) {
    Trial::new(subject, Act::Stdin).run().await.expect_success();
    clean(subject).await;
}

pub async fn a_timeout_kills(subject: &dyn Subject) {
    let mut trial = Trial::new(subject, Act::Idle);
    trial.task.timeout = Duration::from_millis(500);
    let ended = trial.run().await;
    assert_eq!(ended.failure(), FailureKind::Timeout);
    assert!(ended.end.usage.wall_us >= 500_000, "{:?}", ended.end.usage);
    clean(subject).await;
}

pub async fn a_timeout_kills_a_busy_task(subject: &dyn Subject) {
    let mut trial = Trial::new(subject, Act::Spin);
    trial.task.timeout = Duration::from_millis(500);
    assert_eq!(trial.run().await.failure(), FailureKind::Timeout);
    clean(subject).await;
}

pub async fn a_cancel_kills(subject: &dyn Subject) {
    for act in [Act::Idle, Act::Spin] {
        let trial = Trial::new(subject, act);
        let mut running = trial.start().await;
        running.until_stdout("started\n").await;
        trial.cancel.cancel();
        assert_eq!(running.finish().await.failure(), FailureKind::Cancelled);
    }
    clean(subject).await;
}

pub async fn a_cancelled_task_never_starts(subject: &dyn Subject) {
    let trial = Trial::new(subject, Act::Idle);
    trial.cancel.cancel();
    let ended = trial.run().await;
    assert_eq!(ended.failure(), FailureKind::Cancelled);
    assert_eq!(ended.stdout, b"");
    clean(subject).await;
}

pub async fn a_silent_idle_task_is_stalled(subject: &dyn Subject) {
    let mut trial = Trial::new(subject, Act::Idle);
    trial.task.stall = Duration::from_millis(800);
    assert_eq!(trial.run().await.failure(), FailureKind::Stalled);
    clean(subject).await;
}

pub async fn a_busy_task_is_not_stalled(subject: &dyn Subject) {
    let mut trial = Trial::new(subject, Act::Spin);
    trial.task.stall = Duration::from_secs(4);
    trial.task.timeout = Duration::from_secs(9);
    assert_eq!(trial.run().await.failure(), FailureKind::Timeout);
    clean(subject).await;
}

/// A task that waits for its submitter to read is not to blame for being still.
pub async fn a_reader_that_is_slow_stalls_nobody(subject: &dyn Subject) {
    let mut trial = Trial::new(subject, Act::Flood);
    trial.task.stall = Duration::from_secs(3);
    let mut running = trial.start().await;
    let early = tokio::time::timeout(trial.task.stall * 2, &mut running.end).await;
    assert!(early.is_err(), "ended without a reader: {early:?}");
    let (count, end) = running.count_zeros().await;
    assert_eq!((count, end.result), (FLOOD_BYTES, Ok(())));
    clean(subject).await;
}

pub async fn too_much_memory_ends_the_task(subject: &dyn Subject) {
    let mut trial = Trial::new(subject, Act::MemoryBomb);
    trial.task.resources.memory = Bytes::mib(32);
    let ended = trial.run().await;
    let kind = ended.failure();
    assert!(subject.is_out_of_memory(kind), "{kind:?}");
    clean(subject).await;
}

pub async fn a_flood_is_slowed_down(subject: &dyn Subject) {
    let trial = Trial::new(subject, Act::Flood);
    let before = process_memory().0;
    let mut running = trial.start().await;
    let early = tokio::time::timeout(WATCH, &mut running.end).await;
    assert!(early.is_err(), "ended without a reader: {early:?}");
    let grown = process_memory().0.saturating_sub(before);
    assert!(grown < FLOOD_BYTES / 2, "{grown} bytes were buffered");
    let (count, end) = running.count_zeros().await;
    assert_eq!((count, end.result), (FLOOD_BYTES, Ok(())));
    clean(subject).await;
}

pub async fn a_flood_nobody_reads_can_be_cancelled(subject: &dyn Subject) {
    let trial = Trial::new(subject, Act::Flood);
    let mut running = trial.start().await;
    within(running.log.recv()).await.unwrap();
    // Long enough for everything to be full.
    assert!(tokio::time::timeout(WATCH, &mut running.end).await.is_err());
    trial.cancel.cancel();
    // The receiver stays open and is never read.
    let end: TaskEnd = within(&mut running.end).await.unwrap();
    assert_eq!(end.result.unwrap_err().kind, FailureKind::Cancelled);
    clean(subject).await;
}

pub async fn output_that_nobody_wants_is_dropped(subject: &dyn Subject) {
    let trial = Trial::new(subject, Act::Flood);
    let running = trial.start().await;
    drop(running.log);
    let end = within(running.end).await.unwrap();
    assert_eq!(end.result, Ok(()));
    clean(subject).await;
}

pub async fn too_much_disk_ends_the_task(subject: &dyn Subject) {
    let mut trial = Trial::new(subject, Act::FillDisk);
    trial.task.resources.disk = Bytes::mib(16);
    assert_eq!(trial.run().await.failure(), FailureKind::DiskFull);
    let size = std::fs::metadata(trial.work_dir().join("big")).map_or(0, |file| file.len());
    assert!(size <= Bytes::mib(17).0, "{size} bytes were written");
    clean(subject).await;
}

pub async fn tasks_run_side_by_side(subject: &dyn Subject) {
    let trials: Vec<_> = (0..4).map(|_| Trial::new(subject, Act::Converse)).collect();
    let mut running = Vec::new();
    for trial in &trials {
        running.push(trial.start().await);
    }
    // All have started before any may end.
    for task in &mut running {
        task.until_stdout("early\n").await;
    }
    for trial in &trials {
        std::fs::write(trial.work_dir().join("go"), b"").unwrap();
    }
    for task in running {
        task.finish().await.expect_success();
    }
    clean(subject).await;
}

pub async fn a_dropped_run_leaves_nothing(subject: &dyn Subject) {
    for act in [Act::Idle, Act::Spin] {
        let trial = Trial::new(subject, act);
        let mut running = trial.start().await;
        running.until_stdout("started\n").await;
        running.end.abort();
        clean(subject).await;
    }
    // At any earlier moment, too: while the sandbox is being made.
    for delay_ms in [0, 1, 5, 20, 50, 100] {
        let trial = Trial::new(subject, Act::Idle);
        let running = trial.start().await;
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        running.end.abort();
        let _ = running.end.await;
        clean(subject).await;
    }
}

pub async fn shutdown_ends_running_tasks(subject: &dyn Subject) {
    let trial = Trial::new(subject, Act::Idle);
    let mut running = trial.start().await;
    running.until_stdout("started\n").await;
    within(subject.runtime().shutdown()).await;
    assert!(subject.leftovers().await.is_empty());
    assert_eq!(
        running.finish().await.failure(),
        FailureKind::ProviderStopping
    );
}

pub async fn usage_is_told(subject: &dyn Subject) {
    let mut trial = Trial::new(subject, Act::Spin);
    trial.task.timeout = Duration::from_secs(4);
    let usage = trial.run().await.end.usage;
    assert!(
        (4_000_000..60_000_000).contains(&usage.wall_us),
        "{usage:?}"
    );
    // A machine under load may give the task little; none at all would be a fault.
    assert!(usage.cpu_us > 100_000, "{usage:?}");
    clean(subject).await;
}
