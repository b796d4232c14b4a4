//! The WASM runtime as a subject of the contract: small programs written as text.

use async_trait::async_trait;
use p2pnode_executor::wasm::{WasmConfig, WasmRuntime, WorkerCommand};
use p2pnode_executor::{ProgramFile, Runtime};

use crate::bench::WORKER;
use crate::contract::{ARGUMENTS, Act, FLOOD_BYTES, Script, Subject};
use crate::programs::{self, Shelf};

/// A runtime of its own for each check. The contract makes its work directories in the system's
/// folder for temporary files.
pub struct WasmSubject {
    runtime: WasmRuntime,
    shelf: Shelf,
}

impl WasmSubject {
    /// A fresh one.
    pub async fn new() -> Self {
        let worker = WorkerCommand {
            program: WORKER.into(),
            args: Vec::new(),
        };
        Self {
            runtime: WasmRuntime::new(WasmConfig::new(worker, std::env::temp_dir())),
            shelf: Shelf::new(),
        }
    }
}

#[async_trait]
impl Subject for WasmSubject {
    fn runtime(&self) -> &dyn Runtime {
        &self.runtime
    }

    fn script(&self, act: Act) -> Script {
        let module = match act {
            Act::Exit(code) => programs::exit(u32::from(code)),
            Act::Converse => programs::converse(),
            Act::Echo => programs::echo(),
            Act::Copy => programs::copy(),
            Act::Stdin => programs::stdin(),
            Act::Spin => programs::spin(),
            Act::Idle => programs::idle(),
            Act::MemoryBomb => programs::memory_bomb(),
            Act::Flood => programs::flood(FLOOD_BYTES >> 10),
            Act::FillDisk => programs::fill_disk(),
            Act::Binary => programs::binary(),
        };
        let path = self.shelf.put(&format!("{act:?}"), &module);
        let mut command = vec!["program".to_owned()];
        if act == Act::Echo {
            command.extend(ARGUMENTS.map(str::to_owned));
        }
        Script {
            program: ProgramFile::Wasm { path },
            command,
        }
    }

    /// Workers stay for the next task; what they were given must have ended.
    async fn leftovers(&self) -> Vec<String> {
        let running = self.runtime.stats().running;
        if running == 0 {
            Vec::new()
        } else {
            vec![format!("{running} tasks run")]
        }
    }
}
