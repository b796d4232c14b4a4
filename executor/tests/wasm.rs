//! The WASM runtime with real worker processes.
#![allow(clippy::unwrap_used)]

mod wasm_programs;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pnode_executor::wasm::{WasmConfig, WasmRuntime, WorkerCommand};
use p2pnode_executor::{Environment, LogChunk, ProgramFile, Runtime, TaskEnd, TaskRun};
use p2pnode_protocol::task::{Failure, FailureKind, NetworkMode, Stream};
use p2pnode_protocol::{AttemptKey, Bytes, JobId, PeerId, Resources, TaskKey};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wasm_programs::{self as programs, Shelf};

/// The longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program that has the worker in it.
const WORKER: &str = env!("CARGO_BIN_EXE_p2pnode-wasm-worker");

/// A runtime with a folder for its tasks and one for its programs.
struct Bench {
    runtime: WasmRuntime,
    root: TempDir,
    shelf: Shelf,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut WasmConfig)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let command = WorkerCommand {
            program: WORKER.into(),
            args: Vec::new(),
        };
        let mut config = WasmConfig::new(command, root.path().to_owned());
        config.threads = 2;
        change(&mut config);
        Self {
            runtime: WasmRuntime::new(config),
            root,
            shelf: Shelf::new(),
        }
    }

    async fn try_prepare(&self, module: &[u8]) -> Result<Arc<dyn Environment>, Failure> {
        let (progress, _) = mpsc::channel(1);
        let digest = p2pnode_protocol::Digest::of(module).to_string();
        let path = self.shelf.put(&digest, module);
        within(self.runtime.prepare(ProgramFile::Wasm { path }, progress)).await
    }

    async fn prepare(&self, module: &[u8]) -> Arc<dyn Environment> {
        self.try_prepare(module).await.unwrap()
    }

    /// A task with a new, empty work directory.
    fn task(&self) -> TaskRun {
        let work_dir = tempfile::tempdir_in(self.root.path()).unwrap().keep();
        task(&work_dir)
    }

    /// Runs a module in `task` to its end; stdout and stderr together.
    async fn run(&self, module: &[u8], task: TaskRun) -> (TaskEnd, Vec<u8>) {
        let environment = self.prepare(module).await;
        run(&environment, task).await
    }

    fn worker(&self) -> Pid {
        let pids = self.runtime.stats().worker_pids;
        assert_eq!(pids.len(), 1, "{pids:?}");
        Pid::from_raw(pids[0] as i32).unwrap()
    }
}

fn task(work_dir: &Path) -> TaskRun {
    TaskRun {
        submitter: PeerId::random(),
        attempt: AttemptKey {
            task: TaskKey {
                job: JobId([7; 8]),
                step: 0,
                index: 0,
            },
            attempt: 1,
        },
        command: Vec::new(),
        env: Vec::new(),
        work_dir: work_dir.to_owned(),
        resources: Resources::default(),
        gpus: Vec::new(),
        timeout: Duration::ZERO,
        stall: Duration::ZERO,
        network: NetworkMode::None,
        root: false,
    }
}

async fn run(environment: &Arc<dyn Environment>, task: TaskRun) -> (TaskEnd, Vec<u8>) {
    let (mut log, end) = start(environment, task);
    let mut output = Vec::new();
    while let Some(chunk) = within(log.recv()).await {
        output.extend(chunk.bytes);
    }
    (within(end).await.unwrap(), output)
}

fn start(
    environment: &Arc<dyn Environment>,
    task: TaskRun,
) -> (
    mpsc::Receiver<LogChunk>,
    tokio::task::JoinHandle<TaskEnd>,
) {
    let (sink, log) = mpsc::channel(1);
    let environment = Arc::clone(environment);
    let end = tokio::spawn(async move {
        environment
            .run(task, sink, CancellationToken::new())
            .await
    });
    (log, end)
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("did not happen in time")
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn failure(end: &TaskEnd) -> &Failure {
    end.result.as_ref().unwrap_err()
}

/// Whether a process runs; a zombie does not.
fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
}

#[tokio::test]
async fn only_the_work_directory_can_be_reached() {
    let bench = Bench::new();
    std::fs::write(bench.root.path().join("secret"), b"x").unwrap();
    let task = bench.task();
    std::fs::create_dir(task.work_dir.join("sub")).unwrap();
    let secret = bench.root.path().join("secret");
    std::os::unix::fs::symlink(&secret, task.work_dir.join("link")).unwrap();
    std::os::unix::fs::symlink("../secret", task.work_dir.join("sub/link")).unwrap();
    std::os::unix::fs::symlink("..", task.work_dir.join("up")).unwrap();
    let module = programs::break_out(&[
        "../secret",
        "sub/../../secret",
        "/etc/passwd",
        "etc/passwd/../passwd",
        "../../../../../../../../etc/passwd",
        "link",
        "up/secret",
        "up",
        "..",
        "/proc/self/environ",
    ]);
    let (end, _) = bench.run(&module, task.clone()).await;
    assert_eq!(end.result, Ok(()));
    // What is inside can be reached, by both names of the folder: so the above were not denied for
    // another reason. (`sub/link` leads to a file `secret` inside.)
    std::fs::write(task.work_dir.join("secret"), b"x").unwrap();
    for path in ["sub/../secret", "sub/link"] {
        let (end, _) = bench.run(&programs::break_out(&[path]), task.clone()).await;
        assert_eq!(failure(&end).kind, FailureKind::Exit(9), "{path}");
    }
    bench.runtime.shutdown().await;
}

#[tokio::test]
async fn traps_and_exit_codes_are_told_apart() {
    let bench = Bench::new();
    let (end, _) = bench
        .run(&programs::start("unreachable"), bench.task())
        .await;
    let trap = failure(&end);
    assert_eq!(trap.kind, FailureKind::Exit(134));
    assert!(trap.message.contains("unreachable"), "{}", trap.message);
    for code in [1, 125, 126, 200, 255] {
        let (end, _) = bench.run(&programs::exit(code), bench.task()).await;
        assert_eq!(failure(&end).kind, FailureKind::Exit(code as i32));
    }
    let deep = "(func $deep (call $deep)) (func (export \"_start\") (call $deep))";
    let (end, _) = bench.run(&programs::module(deep), bench.task()).await;
    let message = &failure(&end).message;
    assert!(message.contains("stack"), "{message}");
    bench.runtime.shutdown().await;
}

#[tokio::test]
async fn modules_that_cannot_be_run_are_refused() {
    let bench = Bench::new();
    for (module, words) in [
        (b"garbage".to_vec(), "not a WASM module"),
        (Vec::new(), "empty"),
        (b"\0asm\x0d\0\x01\0".to_vec(), "component"),
        (wat::parse_str("(module)").unwrap(), "_start"),
    ] {
        let Err(failure) = bench.try_prepare(&module).await else {
            panic!("was prepared: {words}");
        };
        assert_eq!(failure.kind, FailureKind::BadProgram);
        assert!(failure.message.contains(words), "{}", failure.message);
    }
    let (progress, _) = mpsc::channel(1);
    let image = ProgramFile::Image {
        reference: "debian".into(),
    };
    assert!(bench.runtime.prepare(image, progress).await.is_err());
    // The worker is none the worse for it.
    let (end, _) = bench.run(&programs::noop(), bench.task()).await;
    assert_eq!(end.result, Ok(()));
    bench.runtime.shutdown().await;
}

#[tokio::test]
async fn a_module_that_needs_too_much_memory_says_so() {
    let bench = Bench::new();
    let module = wat::parse_str(
        "(module (memory (export \"memory\") 1024) (func (export \"_start\")))",
    )
    .unwrap();
    let mut task = bench.task();
    task.resources.memory = Bytes::mib(32);
    let (end, _) = bench.run(&module, task).await;
    assert_eq!(failure(&end).kind, FailureKind::OutOfMemory);
    let mut task = bench.task();
    task.resources.memory = Bytes::mib(64);
    let (end, _) = bench.run(&module, task).await;
    assert_eq!(end.result, Ok(()));
    assert_eq!(end.usage.memory_peak, Bytes::mib(64).0);
    bench.runtime.shutdown().await;
}

#[tokio::test]
async fn tasks_that_no_worker_can_run_fail_with_reasons() {
    let bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    let (end, _) = bench.run(&programs::noop(), task(outside.path())).await;
    assert_eq!(failure(&end).kind, FailureKind::Host);
    let mut task = bench.task();
    task.command = vec!["x".repeat(2 << 20)];
    let (end, _) = bench.run(&programs::noop(), task).await;
    assert_eq!(failure(&end).kind, FailureKind::BadProgram);
    let mut task = bench.task();
    task.resources.gpus.count = 1;
    let (end, _) = bench.run(&programs::noop(), task).await;
    assert_eq!(failure(&end).kind, FailureKind::BadProgram);
    let mut task = bench.task();
    std::fs::remove_dir(&task.work_dir).unwrap();
    task.command = vec!["noop".into()];
    let (end, _) = bench.run(&programs::noop(), task).await;
    assert_eq!(failure(&end).kind, FailureKind::Host);
    bench.runtime.shutdown().await;
}

/// Ten thousand tasks at a time; the figure is printed by [`noop_tasks_per_second`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tasks_at_once() {
    let bench = Bench::new();
    let environment = bench.prepare(&programs::noop()).await;
    let task = bench.task();
    many(&environment, &task, 10_000).await;
    assert_eq!(bench.runtime.stats().running, 0);
    bench.runtime.shutdown().await;
}

async fn many(environment: &Arc<dyn Environment>, task: &TaskRun, count: usize) {
    let runs: Vec<_> = (0..count)
        .map(|_| {
            let (environment, task) = (Arc::clone(environment), task.clone());
            let (log, _) = mpsc::channel(1);
            tokio::spawn(async move { environment.run(task, log, CancellationToken::new()).await })
        })
        .collect();
    for run in runs {
        assert_eq!(within(run).await.unwrap().result, Ok(()));
    }
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
        assert_eq!((chunk.stream, chunk.bytes), (Stream::Stdout, b"early\n".to_vec()));
    }
    for task in &tasks {
        std::fs::write(task.work_dir.join("go"), b"").unwrap();
    }
    for (mut log, end) in running {
        let chunk = within(log.recv()).await.unwrap();
        assert_eq!((chunk.stream, chunk.bytes), (Stream::Stderr, b"late\n".to_vec()));
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

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_worker_process_is_confined() {
    // A file that a careless parent left open for its children.
    let leaked = tempfile::NamedTempFile::new().unwrap();
    let inheritable = rustix::io::dup(&leaked).unwrap();
    rustix::io::fcntl_setfd(&inheritable, rustix::io::FdFlags::empty()).unwrap();

    let bench = Bench::new();
    bench.prepare(&programs::noop()).await;
    let process = format!("/proc/{}", bench.worker().as_raw_nonzero());
    let read = |name: &str| std::fs::read_to_string(format!("{process}/{name}")).unwrap();
    assert_eq!(read("environ"), "");
    let status = read("status");
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.unwrap().split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!(line("NoNewPrivs:"), "1");
    assert_eq!(line("Seccomp:"), "2");
    let capabilities = u64::from_str_radix(&line("CapEff:"), 16).unwrap();
    // CAP_DAC_OVERRIDE (1) and CAP_FOWNER (3) at most.
    assert_eq!(capabilities & !0b1010, 0, "{capabilities:x}");
    let limits = read("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core"));
    assert!(core.unwrap().contains(" 0 "), "{limits}");
    for entry in std::fs::read_dir(format!("{process}/fd")).unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap();
        let target = target.to_string_lossy();
        assert!(
            target.starts_with("pipe:") || target.starts_with("/memfd:"),
            "{target}"
        );
    }
    bench.runtime.shutdown().await;
}

/// Landlock holds even where paths do not: a work directory that leads out of the root by a link is
/// no help to a worker. (That such a file can be reached inside is checked above.)
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_worker_cannot_open_files_outside_its_root() {
    let bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), b"x").unwrap();
    let link = bench.root.path().join("link");
    std::os::unix::fs::symlink(outside.path(), &link).unwrap();
    let module = programs::break_out(&["secret", "new"]);
    let (end, _) = bench.run(&module, task(&link)).await;
    assert_eq!(end.result, Ok(()));
    assert!(!outside.path().join("new").exists());
    bench.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: run with --nocapture"]
async fn noop_tasks_per_second() {
    let bench = Bench::new();
    let noop = programs::noop();
    let began = Instant::now();
    let environment = bench.prepare(&noop).await;
    eprintln!("cold prepare (process start and compilation): {:?}", began.elapsed());
    let began = Instant::now();
    bench.prepare(&programs::exit(0)).await;
    eprintln!("warm prepare of another module: {:?}", began.elapsed());
    let task = bench.task();
    many(&environment, &task, 2_000).await;
    let began = Instant::now();
    for _ in 0..1_000 {
        run(&environment, task.clone()).await;
    }
    let each = began.elapsed() / 1_000;
    eprintln!("one at a time: {each:?} each");
    for round in 0..3 {
        let began = Instant::now();
        many(&environment, &task, 50_000).await;
        let rate = 50_000.0 / began.elapsed().as_secs_f64();
        eprintln!("round {round}: {rate:.0} tasks/s");
    }
    bench.runtime.shutdown().await;
}
