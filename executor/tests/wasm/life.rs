//! Workers come and go.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use p2pnode_executor::{ProgramFile, Runtime};
use p2pnode_protocol::task::FailureKind;
use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

use crate::bench::{Bench, WORKER, failure, is_alive, run, start, until, within};
use crate::programs::{self, Shelf};

#[tokio::test]
async fn a_killed_worker_costs_its_tasks_and_nothing_else() {
    let bench = Bench::new();
    let spin = bench.prepare(&programs::spin()).await;
    let (mut log, end) = start(&spin, bench.task());
    within(log.recv()).await.unwrap();
    let first = bench.worker();
    kill_process(first, Signal::KILL).unwrap();
    let end = within(end).await.unwrap();
    assert_eq!(failure(&end).kind, FailureKind::Host);
    let message = &failure(&end).message;
    assert!(message.contains("the worker crashed"), "{message}");
    assert!(!is_alive(first));
    // The environment outlives its worker.
    let mut task = bench.task();
    task.timeout = Duration::from_millis(50);
    let (end, output) = run(&spin, task).await;
    assert_eq!(failure(&end).kind, FailureKind::Timeout);
    assert_eq!(output, b"started\n");
    assert_ne!(bench.worker(), first);
    bench.runtime.shutdown().await;
}

/// Nobody can look into a module's memory: there is no way in.
#[tokio::test]
async fn a_running_module_shows_no_way_in() {
    let bench = Bench::new();
    let spin = bench.prepare(&programs::spin()).await;
    let mut task = bench.task();
    task.timeout = Duration::from_millis(300);
    let shown = task.hold.inside.subscribe();
    let (end, output) = run(&spin, task).await;
    assert_eq!(failure(&end).kind, FailureKind::Timeout);
    assert_eq!(output, b"started\n");
    assert!(!shown.has_changed().unwrap_or(false) && shown.borrow().is_none());
    bench.runtime.shutdown().await;
}

#[tokio::test]
async fn an_idle_worker_is_stopped_and_comes_back() {
    let bench = Bench::with(|config| config.idle_stop = Duration::from_millis(100));
    assert_eq!(bench.runtime.stats().worker_pids, [0_u32; 0]);
    let environment = bench.prepare(&programs::noop()).await;
    let worker = bench.worker();
    until("idle worker stops", || !is_alive(worker)).await;
    until("worker is forgotten", || {
        bench.runtime.stats().worker_pids.is_empty()
    })
    .await;
    let (end, _) = run(&environment, bench.task()).await;
    assert_eq!(end.result, Ok(()));
    bench.runtime.shutdown().await;
    assert_eq!(bench.runtime.stats().worker_pids, [0_u32; 0]);
}

#[tokio::test]
async fn no_worker_outlives_its_node() {
    let shelf = Shelf::new();
    let module = shelf.put("spin", &programs::spin());
    let root = tempfile::tempdir().unwrap();
    let mut node = Command::new(WORKER)
        .arg("node")
        .arg(module)
        .arg(root.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(node.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let worker = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    assert!(is_alive(worker));
    node.kill().unwrap();
    node.wait().unwrap();
    until("worker ends", || !is_alive(worker)).await;
}

#[tokio::test]
async fn a_program_that_is_no_worker_is_reported() {
    for (program, words) in [
        ("/nonexistent/p2pnode", "cannot be started"),
        ("/bin/true", "did not start"),
        ("/bin/cat", "did not start"),
    ] {
        let bench = Bench::with(|config| config.worker.program = program.into());
        let Err(failure) = bench.try_prepare(&programs::noop()).await else {
            panic!("{program} served");
        };
        assert_eq!(failure.kind, FailureKind::Host);
        assert!(failure.message.contains(words), "{}", failure.message);
        let works = bench.runtime.probe().await.version.is_ok();
        assert_eq!(works, program != "/nonexistent/p2pnode");
        bench.runtime.shutdown().await;
    }
}

/// A worker in whose place foreign code speaks.
#[tokio::test]
async fn a_worker_that_breaks_the_rules_is_ended() {
    // Says that it is ready; then, once it is given something, speaks of a task that it never had;
    // then of a frame that is far too long.
    for rogue in [
        "\\004\\000\\000\\000\\002\\011\\000\\000",
        "\\377\\377\\377\\377",
    ] {
        let script = format!(
            "printf '\\003\\000\\000\\000\\000\\001\\000'; head -c 100 >/dev/null; \
             printf '{rogue}'; exec cat >/dev/null"
        );
        let bench = Bench::with(|config| {
            config.worker.program = "/bin/sh".into();
            config.worker.args = vec!["-c".into(), script.into()];
        });
        let failed = bench.try_prepare(&programs::spin()).await.err().unwrap();
        assert_eq!(failed.kind, FailureKind::Host);
        assert!(failed.message.contains("crashed"), "{}", failed.message);
        until("it is gone", || {
            bench.runtime.stats().worker_pids.is_empty()
        })
        .await;
    }
}

/// A worker that does not react any more, as if all its threads hung.
#[tokio::test]
async fn a_worker_that_cannot_end_a_task_is_ended() {
    let bench = Bench::new();
    let spin = bench.prepare(&programs::spin()).await;
    let (mut log, other) = start(&spin, bench.task());
    within(log.recv()).await.unwrap();
    let worker = bench.worker();
    kill_process(worker, Signal::STOP).unwrap();
    let (log, _unread) = tokio::sync::mpsc::channel(1);
    // Not cancelled before it is given out, or it would never be.
    let cancel = CancellationToken::new();
    let run = spin.run(bench.task(), log, cancel.clone());
    let stop = async {
        until("both are given out", || bench.runtime.stats().running == 2).await;
        cancel.cancel();
    };
    let (end, ()) = within(async { tokio::join!(run, stop) }).await;
    assert_eq!(failure(&end).kind, FailureKind::Cancelled);
    assert_eq!(
        failure(&within(other).await.unwrap()).kind,
        FailureKind::Host
    );
    assert!(!is_alive(worker));
    let (end, _) = bench.run(&programs::noop(), bench.task()).await;
    assert_eq!(end.result, Ok(()));
    bench.runtime.shutdown().await;
}

/// A worker keeps so many modules; those that it forgot are compiled again.
#[tokio::test]
async fn forgotten_modules_come_back() {
    let bench = Bench::new();
    let mut environments = Vec::new();
    for code in 0..40 {
        environments.push(bench.prepare(&programs::exit(code)).await);
    }
    for (code, environment) in environments.iter().enumerate() {
        let (end, _) = run(environment, bench.task()).await;
        match end.result {
            Ok(()) => assert_eq!(code, 0),
            Err(failure) => assert_eq!(failure.kind, FailureKind::Exit(code as i32)),
        }
    }
    bench.runtime.shutdown().await;
}

#[tokio::test]
async fn a_module_that_was_changed_is_not_run() {
    let bench = Bench::with(|config| config.idle_stop = Duration::from_millis(50));
    let path = bench.root.path().join("module");
    std::fs::write(&path, programs::noop()).unwrap();
    let (progress, _ignored) = tokio::sync::mpsc::channel(1);
    let program = ProgramFile::Wasm { path: path.clone() };
    let environment = within(bench.runtime.prepare(program, progress))
        .await
        .unwrap();
    std::fs::write(&path, programs::spin()).unwrap();
    until("the worker that has it stops", || {
        bench.runtime.stats().worker_pids.is_empty()
    })
    .await;
    let (end, _) = run(&environment, bench.task()).await;
    assert_eq!(failure(&end).kind, FailureKind::Host);
    assert!(failure(&end).message.contains("changed"));
    bench.runtime.shutdown().await;
}
