//! The two wasmtime engines of a worker, and compiling modules with them.
//!
//! The *pooled* engine keeps memories, tables and stacks ready: a whole small task takes microseconds
//! and threads do not get in each other's way in the kernel. Modules that do not fit its slots (a
//! memory declared beyond 4 GiB, many tables, tens of thousands of functions in one) get the
//! *roomy* engine, which allocates on demand and is made only when the first such module comes.
//!
//! Compiled code lives in this process and nowhere else. A cache on disk would have been written by a
//! worker, which foreign code may own, and loading compiled code means trusting it entirely: so
//! neither the node nor another worker ever does.

use std::sync::OnceLock;

use wasmtime::{
    Config, Engine, ExternType, InstanceAllocationStrategy, InstancePre, Linker, Module,
    PoolingAllocationConfig, WasmBacktraceDetails,
};

use super::task::TaskState;
use super::{MAX_TASKS, wasi};

/// Largest memory of a pooled task, in bytes: all of a 32-bit guest's. Each slot reserves so much of
/// the address space, a terabyte in all of the 128 that a process has, and none of the machine. (With
/// protection keys slots could lie closer together; addresses are not short, and few processors have
/// them.)
const POOLED_MEMORY_BYTES: usize = 1 << 32;

/// Largest table of a pooled task, in elements: twice what a large program in Go or C# needs. Half a
/// megabyte of addresses per slot.
const POOLED_TABLE_ELEMENTS: usize = 65_536;

/// Tables of one pooled task. Compilers make one; a second comes with reference types.
const POOLED_TABLES: u32 = 2;

/// Stack of a guest's own frames, in bytes; its arrays are in its linear memory. Twice wasmtime's
/// default, so that programs that recurse as deep as natively run.
const GUEST_STACK_BYTES: usize = 1 << 20;

/// Stack for guest and host frames together, in bytes: wasmtime's default.
const STACK_BYTES: usize = 2 << 20;

/// What a module starts with when it is a component and not a core module: the version field says 13
/// and the layer field 1.
const COMPONENT_PREAMBLE: [u8; 8] = [0, b'a', b's', b'm', 13, 0, 1, 0];

/// The engines, ready to compile.
pub struct Engines {
    pooled: Option<EngineSet>,
    roomy: OnceLock<Result<EngineSet, String>>,
}

struct EngineSet {
    engine: Engine,
    linker: Linker<TaskState>,
}

/// A compiled module, linked with WASI.
#[derive(Clone)]
pub struct Program {
    /// Ready to be instantiated.
    pub instance: InstancePre<TaskState>,
}

impl Engines {
    /// Makes the pooled engine. Where it cannot be had (too little address space) the reason is
    /// returned as well, and all modules get the roomy one.
    pub fn new() -> (Self, Option<String>) {
        let pooled = EngineSet::new(Some(pool()));
        let (pooled, note) = match pooled {
            Ok(set) => (Some(set), None),
            Err(error) => (
                None,
                Some(format!("tasks start slower, without a pool: {error}")),
            ),
        };
        let engines = Self {
            pooled,
            roomy: OnceLock::new(),
        };
        (engines, note)
    }

    /// Moves the epoch on: all guests yield soon.
    pub fn tick(&self) {
        if let Some(set) = &self.pooled {
            set.engine.increment_epoch();
        }
        if let Some(Ok(set)) = self.roomy.get() {
            set.engine.increment_epoch();
        }
    }

    /// Compiles a module and links it with WASI. Takes milliseconds to seconds of CPU.
    ///
    /// # Errors
    /// What is wrong with the module and how to mend it, for whoever made it.
    pub fn compile(&self, bytes: &[u8]) -> Result<Program, String> {
        if bytes.starts_with(&COMPONENT_PREAMBLE) {
            return Err(
                "it is a WASM component; build it as a core module with WASI preview 1 \
                 (target wasm32-wasip1)"
                    .to_owned(),
            );
        }
        if let Some(set) = &self.pooled
            && let Ok(module) = Module::new(&set.engine, bytes)
        {
            return set.link(&module);
        }
        let roomy = self
            .roomy
            .get_or_init(|| EngineSet::new(None).map_err(|error| format!("{error:#}")));
        let set = roomy.as_ref().map_err(Clone::clone)?;
        let module = Module::new(&set.engine, bytes)
            .map_err(|error| format!("it is not a WASM module: {error:#}"))?;
        set.link(&module)
    }
}

impl EngineSet {
    fn new(pool: Option<PoolingAllocationConfig>) -> wasmtime::Result<Self> {
        let engine = Engine::new(&config(pool))?;
        let mut linker = Linker::new(&engine);
        wasi::add_to_linker(&mut linker)?;
        Ok(Self { engine, linker })
    }

    fn link(&self, module: &Module) -> Result<Program, String> {
        match module.get_export("_start") {
            Some(ExternType::Func(start))
                if start.params().len() == 0 && start.results().len() == 0 => {}
            Some(_) => return Err("its `_start` is not a function without arguments".to_owned()),
            None => {
                return Err(
                    "it has no `_start`: build it as a program and not as a library \
                     (for example Rust's target wasm32-wasip1, or clang without -mexec-model)"
                        .to_owned(),
                );
            }
        }
        let foreign = module
            .imports()
            .find(|import| import.module() != wasi::MODULE);
        if let Some(import) = foreign {
            return Err(format!(
                "it imports `{}` from `{}`; only WASI preview 1 (`{}`) is there: build it for the \
                 target wasm32-wasip1",
                import.name(),
                import.module(),
                wasi::MODULE
            ));
        }
        let instance = self
            .linker
            .instantiate_pre(module)
            .map_err(|error| format!("it cannot be linked with WASI preview 1: {error:#}"))?;
        Ok(Program { instance })
    }
}

/// Both engines' settings. The determinism that comparing results needs (fixed clocks and
/// randomness, canonical NaNs) will be a third engine and a field of the run.
fn config(pool: Option<PoolingAllocationConfig>) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .async_stack_size(STACK_BYTES)
        // Backtraces of traps name functions, and need no source lines or unwinder for that.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .native_unwind_info(cfg!(windows))
        // Component calls that run side by side; there are no components.
        .concurrency_support(false);
    if let Some(pool) = pool {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

fn pool() -> PoolingAllocationConfig {
    let tasks = u32::from(MAX_TASKS);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(tasks)
        .total_memories(tasks)
        .total_tables(tasks * POOLED_TABLES)
        .total_stacks(tasks)
        .max_memories_per_module(1)
        .max_tables_per_module(POOLED_TABLES)
        .max_memory_size(POOLED_MEMORY_BYTES)
        .table_elements(POOLED_TABLE_ELEMENTS);
    pool
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn error(engines: &Engines, text: &str) -> String {
        match engines.compile(&wat::parse_str(text).unwrap()) {
            Ok(_) => panic!("compiled: {text}"),
            Err(error) => error,
        }
    }

    #[test]
    fn what_is_wrong_with_a_module_is_said() {
        let (engines, note) = Engines::new();
        assert_eq!(note, None);
        for (text, expected) in [
            ("(module)", "has no `_start`"),
            (
                "(module (func (export \"_start\") (param i32)))",
                "without arguments",
            ),
            (
                "(module (import \"env\" \"f\" (func)) (func (export \"_start\")))",
                "imports `f` from `env`",
            ),
            (
                "(module (import \"wasi_snapshot_preview1\" \"nonsense\" (func)) \
                 (func (export \"_start\")))",
                "cannot be linked",
            ),
            ("(component)", "component"),
        ] {
            let error = error(&engines, text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        for bytes in [b"".as_slice(), b"garbage", b"\0asm", b"(module)"] {
            let error = engines.compile(bytes).err().unwrap();
            assert!(error.contains("not a WASM module"), "{error}");
        }
    }

    #[test]
    fn modules_that_do_not_fit_the_pool_are_compiled_all_the_same() {
        let (engines, _) = Engines::new();
        let small = "(module (memory 1) (func (export \"_start\")))";
        engines.compile(&wat::parse_str(small).unwrap()).unwrap();
        assert!(engines.roomy.get().is_none());
        let large = "(module (table 100000 funcref) (func (export \"_start\")))";
        engines.compile(&wat::parse_str(large).unwrap()).unwrap();
        assert!(engines.roomy.get().is_some());
    }
}
