//! The WASM runtime: WASI preview 1 programs in wasmtime, inside worker processes.
//!
//! The node side ([`WasmRuntime`]) starts worker processes of the same program, gives them modules and
//! tasks over a pipe, and passes their output on. The worker side ([`worker`]) is the only one that
//! ever touches wasmtime: compiling and running foreign code happens where neither the node's key nor
//! its connections are, and an idle node carries no compiler's memory. The node distrusts its own
//! workers, since a bug in the compiler would put foreign code in their place: frames are bounded,
//! every message is checked against what was asked, and a worker that breaks the rules is ended.
//!
//! ```text
//!   node process                                   worker process
//!   pool ── process ── table  ══ frames ══▶  serve ── task (one per run) ── wasi, disk, output
//!      │       └ modules      ◀══ frames ══          └ engine (compiles)
//!      └ run (one per task)
//! ```
//!
//! **One worker per node by default.** Its threads share compiled code and pooled memories, which is
//! what makes a small task cost microseconds; a second process would compile every module again and
//! take its own memory. What a crash costs is what was running: about as many tasks as the node has
//! CPUs, which end as [`FailureKind::Host`] and move elsewhere without counting as a try, while the
//! next task starts a new worker. Guests of different submitters are kept apart by wasmtime alone as
//! long as they share a worker; an owner who offers many CPUs to strangers can have more workers, and
//! then an environment and its tasks stay in one of them.
//!
//! What limits a task: memory by wasmtime's limiter; CPU by its being one future, which runs on one
//! thread; time by the epoch; disk by counting its writes; processes not at all, since there are none;
//! network likewise. Files: its work directory, as `.` and as `/`, and nothing else.
//!
//! The node's core decides how many tasks run at a time; a worker runs all that it is given, in turns
//! when they are more than its threads.

mod frame;
mod modules;
mod outbox;
mod pipe;
mod pool;
mod process;
mod run;
mod table;
mod wire;
pub mod worker;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use p2pnode_protocol::task::{Failure, FailureKind, RuntimeKind, Usage};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    Environment, Features, LogSink, PrepareProgress, ProgramFile, Runtime, RuntimeReport, TaskEnd,
    TaskRun,
};
use modules::{LoadError, ModuleFile};
use pool::Pool;
use process::host;
use run::Run;

/// The version of wasmtime in this program. The engine is asked nothing, since it must not be
/// touched in the node; a test compares this with the lock file.
const WASMTIME: &str = "wasmtime 48.0.8";

/// How long an idle worker stays by default. It takes some 10 ms to start and some 20 MB to keep.
const IDLE_STOP: Duration = Duration::from_secs(30);

/// How often a task that finds its worker being stopped takes the next one. Once happens when the
/// worker was just stopped for idleness; more often never.
const ATTEMPTS: u32 = 5;

/// How a worker process is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program: the node's own.
    pub program: PathBuf,
    /// Arguments that make it call [`worker::main`] before anything else.
    pub args: Vec<OsString>,
}

/// How the runtime works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WasmConfig {
    /// How to start a worker.
    pub worker: WorkerCommand,
    /// The folder in which all work directories are; workers may use files there and nowhere else.
    /// It must exist.
    pub work_root: PathBuf,
    /// Worker processes at most; environments take turns. At least 1.
    pub workers: usize,
    /// Threads of each worker that run tasks: the CPUs that the node offers. At least 1.
    pub threads: usize,
    /// How long a worker without work stays.
    pub idle_stop: Duration,
}

impl WasmConfig {
    /// One worker with a thread for each CPU, stopped after 30 s without work.
    #[must_use]
    pub fn new(worker: WorkerCommand, work_root: PathBuf) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            worker,
            work_root,
            workers: 1,
            threads,
            idle_stop: IDLE_STOP,
        }
    }
}

/// What goes on in a [`WasmRuntime`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WasmStats {
    /// Process ids of living workers.
    pub worker_pids: Vec<u32>,
    /// Tasks given to workers and not yet ended.
    pub running: usize,
}

/// Runs WASM tasks in worker processes.
#[derive(Debug)]
pub struct WasmRuntime {
    pool: Arc<Pool>,
}

impl WasmRuntime {
    /// Starts nothing yet: the first [`Runtime::prepare`] does.
    #[must_use]
    pub fn new(config: WasmConfig) -> Self {
        Self {
            pool: Arc::new(Pool::new(config)),
        }
    }

    /// What goes on.
    #[must_use]
    pub fn stats(&self) -> WasmStats {
        self.pool.stats()
    }
}

#[async_trait]
impl Runtime for WasmRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Wasm
    }

    async fn probe(&self) -> RuntimeReport {
        let program = &self.pool.config().worker.program;
        let version = match tokio::fs::metadata(program).await {
            Ok(_) => Ok(WASMTIME.to_owned()),
            Err(error) => Err(format!(
                "the program {} cannot be started as a WASM worker: {error}; reinstall it",
                program.display()
            )),
        };
        RuntimeReport {
            version,
            images: Vec::new(),
            features: Features::default(),
        }
    }

    async fn prepare(
        &self,
        program: ProgramFile,
        progress: mpsc::Sender<PrepareProgress>,
    ) -> Result<Arc<dyn Environment>, Failure> {
        let ProgramFile::Wasm { path } = program else {
            return Err(Failure::new(
                FailureKind::BadProgram,
                "a container image cannot be run as WASM",
            ));
        };
        let environment = WasmEnvironment {
            pool: Arc::clone(&self.pool),
            place: self.pool.next_place(),
            file: ModuleFile::open(&path).await?,
        };
        for _ in 0..ATTEMPTS {
            let worker = environment.pool.worker(environment.place).await?;
            let file = &environment.file;
            match worker.modules.get(&worker, file, Some(&progress)).await {
                Ok(_) => return Ok(Arc::new(environment)),
                Err(LoadError::Failed(failure)) => return Err(failure),
                Err(LoadError::Gone) => {}
            }
        }
        Err(unsteady())
    }

    async fn remove_leftovers(&self) {
        // Workers end with their node, and leave no files.
    }

    async fn shutdown(&self) {
        self.pool.stop().await;
    }
}

/// A module that some worker has compiled, and that any can compile again.
#[derive(Debug)]
struct WasmEnvironment {
    pool: Arc<Pool>,
    place: usize,
    file: ModuleFile,
}

#[async_trait]
impl Environment for WasmEnvironment {
    async fn run(&self, task: TaskRun, log: LogSink, cancel: CancellationToken) -> TaskEnd {
        let started = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(run::cancelled()),
            started = self.start(task) => started,
        };
        match started {
            Ok(run) => run.finish(log, cancel).await,
            Err(failure) => TaskEnd {
                result: Err(failure),
                usage: Usage::default(),
            },
        }
    }
}

impl WasmEnvironment {
    /// Gives the task to a worker that has the module.
    async fn start(&self, task: TaskRun) -> Result<Run, Failure> {
        let root = &self.pool.config().work_root;
        if !task.work_dir.starts_with(root) {
            return Err(host(format!(
                "the work directory {} is not in {}, where WASM workers may write",
                task.work_dir.display(),
                root.display()
            )));
        }
        let (spec, cost) = run::describe(task)?;
        for _ in 0..ATTEMPTS {
            let worker = self.pool.worker(self.place).await?;
            let module = match worker.modules.get(&worker, &self.file, None).await {
                Ok(module) => module,
                Err(LoadError::Failed(failure)) => return Err(failure),
                Err(LoadError::Gone) => continue,
            };
            if let Ok(run) = Run::start(worker, module, spec.clone(), cost).await {
                return Ok(run);
            }
        }
        Err(unsteady())
    }
}

fn unsteady() -> Failure {
    host("WASM workers end as soon as they have started; see the node's log")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::WASMTIME;

    #[test]
    fn the_version_is_the_one_that_is_built_in() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock");
        let lock = std::fs::read_to_string(path).unwrap();
        let (name, version) = WASMTIME.split_once(' ').unwrap();
        let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        assert!(lock.contains(&entry), "Cargo.lock has another {name}");
    }
}
