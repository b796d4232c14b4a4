//! A runtime with its folders, and running tasks in it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pnode_executor::wasm::{WasmConfig, WasmRuntime, WorkerCommand};
use p2pnode_executor::{Environment, Hold, LogChunk, ProgramFile, Runtime, TaskEnd, TaskRun};
use p2pnode_protocol::task::{Failure, Isolation, NetworkMode};
use p2pnode_protocol::{AttemptKey, Digest, JobId, PeerId, Resources, TaskKey};
use rustix::process::Pid;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::programs::Shelf;

/// The longest that a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program that has the worker in it.
pub const WORKER: &str = env!("CARGO_BIN_EXE_p2pnode-wasm-worker");

/// A runtime with a folder for its tasks and one for its programs.
pub struct Bench {
    pub runtime: WasmRuntime,
    /// Work directories are here.
    pub root: TempDir,
    shelf: Shelf,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut WasmConfig)) -> Self {
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

    pub async fn try_prepare(&self, module: &[u8]) -> Result<Arc<dyn Environment>, Failure> {
        let (progress, _) = mpsc::channel(1);
        let digest = Digest::of(module).to_string();
        let path = self.shelf.put(&digest, module);
        within(self.runtime.prepare(ProgramFile::Wasm { path }, progress)).await
    }

    pub async fn prepare(&self, module: &[u8]) -> Arc<dyn Environment> {
        self.try_prepare(module).await.unwrap()
    }

    /// A task with a new, empty work directory.
    pub fn task(&self) -> TaskRun {
        let work_dir = tempfile::tempdir_in(self.root.path()).unwrap().keep();
        task(&work_dir)
    }

    /// Runs a module in `task` to its end; stdout and stderr together.
    pub async fn run(&self, module: &[u8], task: TaskRun) -> (TaskEnd, Vec<u8>) {
        let environment = self.prepare(module).await;
        run(&environment, task).await
    }

    pub fn worker(&self) -> Pid {
        let pids = self.runtime.stats().worker_pids;
        assert_eq!(pids.len(), 1, "{pids:?}");
        Pid::from_raw(pids[0] as i32).unwrap()
    }
}

pub fn task(work_dir: &Path) -> TaskRun {
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
        isolation: Isolation::Task,
        sandbox: None,
        attended: false,
        hold: Hold::default(),
    }
}

pub async fn run(environment: &Arc<dyn Environment>, task: TaskRun) -> (TaskEnd, Vec<u8>) {
    let (mut log, end) = start(environment, task);
    let mut output = Vec::new();
    while let Some(chunk) = within(log.recv()).await {
        output.extend(chunk.bytes);
    }
    (within(end).await.unwrap(), output)
}

pub fn start(
    environment: &Arc<dyn Environment>,
    task: TaskRun,
) -> (mpsc::Receiver<LogChunk>, tokio::task::JoinHandle<TaskEnd>) {
    let (sink, log) = mpsc::channel(1);
    let environment = Arc::clone(environment);
    let end =
        tokio::spawn(async move { environment.run(task, sink, CancellationToken::new()).await });
    (log, end)
}

pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("did not happen in time")
}

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn failure(end: &TaskEnd) -> &Failure {
    end.result.as_ref().unwrap_err()
}

/// Whether a process runs; a zombie does not.
pub fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
}

/// Runs so many tasks, all given out at once.
pub async fn many(environment: &Arc<dyn Environment>, task: &TaskRun, count: usize) {
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
