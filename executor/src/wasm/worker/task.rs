//! Runs one task: from a compiled module to a [`FromWorker::End`].
//!
//! A task is a future on the worker's threads. It runs on one thread at a time and yields at every
//! tick, so that ending it (cancelled, out of time, standing still) means dropping it at its next
//! yield, whether it computes, sleeps or waits for its output to be read. File calls block the
//! thread: they are the task's own work and take its turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::{Failure, FailureKind, Stream, Usage};
use tokio_util::sync::CancellationToken;
use wasmtime::{Store, Trap, WasmBacktrace};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder};

use super::disk::DiskLimit;
use super::engine::Program;
use super::meter::{Gauge, MemoryLimit, Metered, Progress};
use super::output::{GuestStream, Output};
use super::wasi::Descriptors;
use crate::wasm::wire::{RunSpec, path_from_bytes};

/// How a shell would report a program that died of `SIGABRT`: what a trap is to a native program.
const TRAP_EXIT_CODE: i32 = 134;

/// Frames of a trap's backtrace in its message: enough to see where, few enough to read.
const BACKTRACE_FRAMES: usize = 6;

/// What one WASI call may make the host copy, in bytes. A `poll_oneoff` of as many bytes of
/// subscriptions takes some four times that in the worker. Reads and writes of files are exempt
/// ([`super::wasi`]).
const HOSTCALL_BYTES: usize = 16 << 20;

/// The command's name when the job gives none.
const DEFAULT_NAME: &str = "main.wasm";

/// The folder's names in the guest. wasi-libc resolves relative paths against `/` or `.`, depending
/// on its age.
const WORK_DIR_NAMES: [&str; 2] = [".", "/"];

/// What a guest's calls work on.
pub struct TaskState {
    /// wasmtime's WASI.
    pub wasi: WasiP1Ctx,
    /// The disk limit.
    pub disk: DiskLimit,
    /// What became of its descriptors.
    pub descriptors: Descriptors,
    memory: MemoryLimit,
}

/// Runs a task to its end, whatever that is.
pub async fn run(
    program: Program,
    spec: RunSpec,
    output: Arc<Output>,
    cancel: &CancellationToken,
) -> (Result<(), Failure>, Usage) {
    let start = Instant::now();
    let gauge = Arc::new(Gauge::default());
    let limits = Limits::of(&spec);
    let call = call(program, spec, Arc::clone(&gauge), Arc::clone(&output));
    let call = Metered::new(call, Arc::clone(&gauge), Arc::clone(&output));
    let result = supervise(call, &limits, &gauge, &output, cancel).await;
    let usage = Usage {
        wall_us: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
        cpu_us: gauge.cpu_us(),
        memory_peak: gauge.memory_peak(),
        ..Usage::default()
    };
    (result, usage)
}

/// What ends a task from outside, and what its messages say.
struct Limits {
    timeout: Option<Duration>,
    stall: Option<Duration>,
    memory: Bytes,
    disk: Bytes,
}

impl Limits {
    fn of(spec: &RunSpec) -> Self {
        let some = |us: u64| (us > 0).then(|| Duration::from_micros(us));
        Self {
            timeout: some(spec.timeout_us),
            stall: some(spec.stall_us),
            memory: Bytes(spec.memory),
            disk: Bytes(spec.disk),
        }
    }
}

async fn supervise(
    mut call: Metered<impl Future<Output = wasmtime::Result<()>>>,
    limits: &Limits,
    gauge: &Gauge,
    output: &Output,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let timeout = tokio::time::sleep(limits.timeout.unwrap_or_default());
    tokio::pin!(timeout);
    let mut progress = Progress::new(limits.stall.unwrap_or_default());
    let look = tokio::time::sleep_until(progress.next_look());
    tokio::pin!(look);
    loop {
        tokio::select! {
            biased;
            ended = &mut call => return judge(ended, limits, gauge),
            () = cancel.cancelled() => return Err(cancelled()),
            () = &mut timeout, if limits.timeout.is_some() => {
                return Err(timed_out(limits));
            }
            () = &mut look, if limits.stall.is_some() => {
                if progress.is_stalled(gauge, output) {
                    return Err(stalled(limits));
                }
                look.as_mut().reset(progress.next_look());
            }
        }
    }
}

/// Makes the guest and calls its `_start`.
async fn call(
    program: Program,
    spec: RunSpec,
    gauge: Arc<Gauge>,
    output: Arc<Output>,
) -> wasmtime::Result<()> {
    let state = TaskState::new(spec, gauge, output)?;
    let mut store = Store::new(program.instance.module().engine(), state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(HOSTCALL_BYTES);
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
    let instance = program.instance.instantiate_async(&mut store).await?;
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
    start.call_async(&mut store, ()).await
}

impl TaskState {
    fn new(spec: RunSpec, gauge: Arc<Gauge>, output: Arc<Output>) -> wasmtime::Result<Self> {
        let folder = path_from_bytes(spec.work_dir);
        let mut wasi = WasiCtxBuilder::new();
        wasi.allow_blocking_current_thread(true)
            .stdout(GuestStream::new(Arc::clone(&output), Stream::Stdout))
            .stderr(GuestStream::new(output, Stream::Stderr))
            .envs(&spec.env);
        if spec.command.is_empty() {
            wasi.arg(DEFAULT_NAME);
        } else {
            wasi.args(&spec.command);
        }
        for name in WORK_DIR_NAMES {
            wasi.preopened_dir(&folder, name, FsPerms::ReadWrite)
                .map_err(|error| error.context(WorkDirError))?;
        }
        Ok(Self {
            wasi: wasi.build_p1(),
            disk: DiskLimit::new(folder, Bytes(spec.disk), Arc::clone(&gauge)),
            descriptors: Descriptors::default(),
            memory: MemoryLimit::new(Bytes(spec.memory), gauge),
        })
    }
}

/// The work directory could not be opened, which is no fault of the task's.
#[derive(Debug, thiserror::Error)]
#[error("the task's work directory cannot be opened")]
struct WorkDirError;

/// What a guest's end means.
fn judge(ended: wasmtime::Result<()>, limits: &Limits, gauge: &Gauge) -> Result<(), Failure> {
    let Err(error) = ended else {
        return Ok(());
    };
    let exit = error.downcast_ref::<I32Exit>().map(|exit| exit.0);
    if exit == Some(0) {
        return Ok(());
    }
    if error.is::<WorkDirError>() {
        return Err(Failure::new(FailureKind::Host, format!("{error:#}")));
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        let message = format!("the worker has no room for another task: {error}");
        return Err(Failure::new(FailureKind::Host, message));
    }
    if gauge.host_full() {
        return Err(crate::host::space::reserve_broken());
    }
    if gauge.disk_full() {
        return Err(Failure::new(
            FailureKind::DiskFull,
            format!(
                "the task would have written more than its {} of disk: raise `disk` under \
                 [resources], or let it write less",
                limits.disk
            ),
        ));
    }
    if gauge.memory_denied() {
        let how = exit.map_or_else(|| describe(&error), |code| format!("exit code {code}"));
        return Err(Failure::new(
            FailureKind::OutOfMemory,
            format!(
                "the task asked for more than its {} of memory, then failed ({how}): raise `memory` \
                 under [resources]",
                limits.memory
            ),
        ));
    }
    Err(match exit {
        Some(code) => Failure::new(
            FailureKind::Exit(code),
            format!("the program ended with exit code {code}"),
        ),
        None => Failure::new(
            FailureKind::Exit(TRAP_EXIT_CODE),
            format!("the program was aborted: {}", describe(&error)),
        ),
    })
}

/// The end of a task that the node cancelled.
pub fn cancelled() -> Failure {
    Failure::new(FailureKind::Cancelled, "the task was cancelled")
}

fn timed_out(limits: &Limits) -> Failure {
    let limit = limits.timeout.unwrap_or_default();
    Failure::new(
        FailureKind::Timeout,
        format!("the task ran longer than its {limit:?}: raise `timeout` under [policy]"),
    )
}

fn stalled(limits: &Limits) -> Failure {
    let limit = limits.stall.unwrap_or_default();
    Failure::new(
        FailureKind::Stalled,
        format!(
            "the task neither wrote output nor used the CPU for {limit:?}: raise `stall` under \
             [policy] if it may wait so long"
        ),
    )
}

/// A guest's error in one line: what, and in which functions.
fn describe(error: &wasmtime::Error) -> String {
    let what = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else {
        return what;
    };
    let names: Vec<String> = trace
        .frames()
        .iter()
        .take(BACKTRACE_FRAMES)
        .map(|frame| match frame.func_name() {
            Some(name) => name.to_owned(),
            None => format!("function {}", frame.func_index()),
        })
        .collect();
    if names.is_empty() {
        what
    } else {
        format!("{what} (in {})", names.join(", called by "))
    }
}
