//! Many tasks, and much output.

use std::time::Instant;

use p2pnode_executor::Runtime;
use p2pnode_protocol::task::Stream;

use crate::bench::{Bench, many, run, start, until, within};
use crate::programs;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tasks_at_once() {
    let bench = Bench::new();
    let environment = bench.prepare(&programs::noop()).await;
    let task = bench.task();
    many(&environment, &task, 10_000).await;
    assert_eq!(bench.runtime.stats().running, 0);
    bench.runtime.shutdown().await;
}

#[tokio::test]
async fn more_tasks_than_threads_run_side_by_side() {
    let bench = Bench::new();
    let environment = bench.prepare(&programs::converse()).await;
    let tasks: Vec<_> = (0..40).map(|_| bench.task()).collect();
    let mut running: Vec<_> = tasks
        .iter()
        .map(|task| start(&environment, task.clone()))
        .collect();
    for (log, _) in &mut running {
        let chunk = within(log.recv()).await.unwrap();
        assert_eq!(
            (chunk.stream, chunk.bytes),
            (Stream::Stdout, b"early\n".to_vec())
        );
    }
    for task in &tasks {
        std::fs::write(task.work_dir.join("go"), b"").unwrap();
    }
    for (mut log, end) in running {
        let chunk = within(log.recv()).await.unwrap();
        assert_eq!(
            (chunk.stream, chunk.bytes),
            (Stream::Stderr, b"late\n".to_vec())
        );
        assert_eq!(within(end).await.unwrap().result, Ok(()));
    }
    bench.runtime.shutdown().await;
}

/// A guest that computes for ever on every thread leaves the others their turns.
#[tokio::test]
async fn busy_guests_do_not_starve_others() {
    let bench = Bench::new();
    let spin = bench.prepare(&programs::spin()).await;
    let mut spinning = Vec::new();
    for _ in 0..4 {
        let (mut log, end) = start(&spin, bench.task());
        within(log.recv()).await.unwrap();
        spinning.push(end);
    }
    let (end, _) = bench.run(&programs::noop(), bench.task()).await;
    assert_eq!(end.result, Ok(()));
    assert_eq!(bench.runtime.stats().running, 4);
    for end in spinning {
        end.abort();
    }
    until("cancelled tasks end", || bench.runtime.stats().running == 0).await;
    bench.runtime.shutdown().await;
}

#[tokio::test]
async fn output_comes_whole_and_in_order_before_the_end() {
    let bench = Bench::new();
    let module = programs::module(
        r#"(data (i32.const 1024) "one\n") (data (i32.const 1040) "two\n")
           (func (export "_start") (local $left i32)
             (local.set $left (i32.const 1000))
             (loop $more
               (call $write (i32.const 1) (i32.const 1024) (i32.const 4))
               (call $write (i32.const 2) (i32.const 1040) (i32.const 4))
               (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))"#,
    );
    let environment = bench.prepare(&module).await;
    for _ in 0..5 {
        let (end, output) = run(&environment, bench.task()).await;
        assert_eq!(end.result, Ok(()));
        assert!(output == b"one\ntwo\n".repeat(1_000), "{}", output.len());
    }
    bench.runtime.shutdown().await;
}

/// A task whose output nobody reads waits, and the others go on.
#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_only_its_own_task() {
    let bench = Bench::new();
    let flood = bench.prepare(&programs::flood(8 << 10)).await;
    let stuck: Vec<_> = (0..4).map(|_| start(&flood, bench.task())).collect();
    let (end, output) = run(&flood, bench.task()).await;
    assert_eq!(end.result, Ok(()));
    assert_eq!(output.len(), 8 << 20);
    for (mut log, end) in stuck {
        assert!(!end.is_finished());
        let mut read = 0;
        while let Some(chunk) = within(log.recv()).await {
            read += chunk.bytes.len();
        }
        assert_eq!(read, 8 << 20);
        assert_eq!(within(end).await.unwrap().result, Ok(()));
    }
    bench.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: run with --nocapture"]
async fn noop_tasks_per_second() {
    const COUNT: usize = 50_000;
    let bench = Bench::new();
    let noop = programs::noop();
    let began = Instant::now();
    let environment = bench.prepare(&noop).await;
    eprintln!(
        "cold prepare (process and compilation): {:?}",
        began.elapsed()
    );
    let worker = bench.worker().as_raw_nonzero().to_string();
    for code in 0..3 {
        let began = Instant::now();
        bench.prepare(&programs::exit(code)).await;
        eprintln!("warm prepare of another module: {:?}", began.elapsed());
    }
    let began = Instant::now();
    bench.prepare(&noop).await;
    eprintln!("warm prepare of the same module: {:?}", began.elapsed());
    let task = bench.task();
    many(&environment, &task, 2_000).await;
    let began = Instant::now();
    for _ in 0..1_000 {
        run(&environment, task.clone()).await;
    }
    eprintln!("one at a time: {:?} each", began.elapsed() / 1_000);
    for round in 0..3 {
        let before = (cpu_us("self"), cpu_us(&worker));
        let began = Instant::now();
        many(&environment, &task, COUNT).await;
        let rate = COUNT as f64 / began.elapsed().as_secs_f64();
        let each = |before: usize, now: usize| (now - before) as f64 / COUNT as f64;
        eprintln!(
            "round {round}: {rate:.0} tasks/s; CPU time each: {:.1} us node, {:.1} us worker",
            each(before.0, cpu_us("self")),
            each(before.1, cpu_us(&worker)),
        );
    }
    let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    let resident = status.lines().find(|line| line.starts_with("VmRSS"));
    eprintln!("worker's memory: {}", resident.unwrap());
    bench.runtime.shutdown().await;
}

/// CPU time of a process, in microseconds, to a hundredth of a second.
fn cpu_us(process: &str) -> usize {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // From the state on, which follows the name: user and system time are the 12th and 13th.
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = |index: usize| fields[index].parse::<usize>().unwrap();
    (ticks(11) + ticks(12)) * 10_000
}
