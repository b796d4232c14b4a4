//! The worker process of this crate's tests, and a node that can be killed: with the arguments
//! `node MODULE WORK_ROOT` it runs one task of the module, passes its output on, and then waits.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use p2pnode_executor::wasm::{WasmConfig, WasmRuntime, WorkerCommand};
use p2pnode_executor::{Hold, ProgramFile, Runtime, TaskRun};
use p2pnode_protocol::task::{Isolation, NetworkMode};
use p2pnode_protocol::{AttemptKey, JobId, PeerId, Resources, TaskKey};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [verb, module, work_root] if verb == "node" => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(node(module.into(), work_root.into()));
            ExitCode::SUCCESS
        }
        _ => p2pnode_executor::wasm::worker::main(),
    }
}

/// Prints the worker's process id once the task has written something, and never ends.
async fn node(module: PathBuf, work_root: PathBuf) {
    let worker = WorkerCommand {
        program: std::env::current_exe().unwrap(),
        args: Vec::new(),
    };
    let runtime = WasmRuntime::new(WasmConfig::new(worker, work_root.clone()));
    let (progress, _) = tokio::sync::mpsc::channel(1);
    let program = ProgramFile::Wasm { path: module };
    let environment = runtime.prepare(program, progress).await.unwrap();
    let task = TaskRun {
        submitter: PeerId::random(),
        attempt: AttemptKey {
            task: TaskKey {
                job: JobId([0; 8]),
                step: 0,
                index: 0,
            },
            attempt: 1,
        },
        command: Vec::new(),
        env: Vec::new(),
        work_dir: work_root,
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
    };
    let (log, mut output) = tokio::sync::mpsc::channel(1);
    let run = environment.run(task, log, CancellationToken::new());
    let watch = async {
        output.recv().await.unwrap();
        println!("{}", runtime.stats().worker_pids[0]);
        std::future::pending::<()>().await;
    };
    tokio::join!(run, watch);
}
