//! The worker process: compiles and runs WASM for one node.
//!
//! The program calls [`main`] as the very first thing when it is started with its hidden verb. The
//! main thread confines the process and then only reads from the node, so that it notices at once
//! when the node is gone, whatever the guests do: then the process ends, and every task with it.
//! Tasks run on a fixed number of threads, the CPUs that the node offers; one more thread writes to
//! the node and one moves the epoch on.
//!
//! A panic anywhere ends the whole process: a runtime with a bug must not go on running foreign code,
//! and the node knows how to start a new worker.
//!
//! Nothing here may open a file outside the work root, use the network, or write to stdout other
//! than frames.

mod disk;
mod engine;
mod harden;
mod meter;
mod output;
#[cfg(target_os = "linux")]
mod seccomp;
mod serve;
mod sleep;
mod task;
mod ticker;
mod wasi;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;

use super::frame::{self, FrameBuffer, FrameError};
use super::outbox::Outbox;
use super::wire::{FromWorker, Hello, PROTOCOL, ToWorker, path_from_bytes};
use serve::Worker;

/// The most tasks that run at the same time in one worker; more wait. The ledger of a node hands out
/// as many as it has CPUs for, and a task takes at least a thousandth of one; 256 covers 64 CPUs
/// given out by the quarter.
pub const MAX_TASKS: u16 = 256;

/// The most files that one task may have open: the usual soft limit of a Linux process.
pub const MAX_OPEN_FILES: u16 = 1_024;

/// Bytes read from the node at a time: what a pipe holds.
const READ_BYTES: usize = 64 << 10;

/// Threads that compile: one module after another, since each uses all CPUs by itself.
const COMPILE_THREADS: usize = 1;

/// Turns of guests on one thread before it looks at the clock for timeouts. Each may take a tick of
/// 2 ms: with the default of 61, a timeout could come an eighth of a second late.
const TURNS_PER_LOOK: u32 = 7;

/// Why a worker could not start or go on.
#[derive(Debug, thiserror::Error)]
enum WorkerError {
    /// The node did not begin as it should.
    #[error("not started by a node: this verb is p2pnode's own, for running WASM tasks")]
    NoHello,
    /// The node is of another build.
    #[error("the node speaks version {node} of the worker's protocol, this program {PROTOCOL}")]
    Protocol {
        /// The node's version.
        node: u32,
    },
    /// The pipe failed.
    #[error("the pipe to the node failed")]
    Pipe(#[from] std::io::Error),
    /// The node wrote something else.
    #[error("the node wrote {0}")]
    Frame(#[from] FrameError),
}

/// Runs a worker until its node is gone. Must be called before anything else: no thread may run and
/// no file be open.
pub fn main() -> ExitCode {
    harden::close_inherited();
    // The default hook's report goes to stderr, which the node reads.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn work() -> Result<(), WorkerError> {
    // Plain files: the standard library's stdout looks for line ends.
    let stdin = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let stdout = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let mut reader = Reader::new(stdin);
    let Some(ToWorker::Hello(hello)) = reader.read_one()? else {
        return Err(WorkerError::NoHello);
    };
    if hello.protocol != PROTOCOL {
        return Err(WorkerError::Protocol {
            node: hello.protocol,
        });
    }
    let Hello {
        threads, work_root, ..
    } = hello;
    let mut notes = harden::apply(&path_from_bytes(work_root));

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(usize::from(threads.max(1)))
        .max_blocking_threads(COMPILE_THREADS)
        .event_interval(TURNS_PER_LOOK)
        .thread_name("wasm")
        .enable_time()
        .build()?;
    let outbox = Arc::new(Outbox::default());
    let (worker, note) = Worker::start(runtime.handle().clone(), Arc::clone(&outbox))?;
    notes.extend(note);
    outbox.push([FromWorker::Ready {
        protocol: PROTOCOL,
        notes,
    }]);
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("wasm-writer".to_owned())
        .spawn(move || write_all(stdout, &outbox, &handle))?;

    let served = serve(&mut reader, &worker);
    if let Err(error) = &served {
        let _ = writeln!(std::io::stderr(), "{error}");
    }
    // At once, with guests in mid-loop on the other threads: not by returning, which would wait.
    std::process::exit(i32::from(served.is_err()))
}

/// Does what the node says, until it is gone.
fn serve(reader: &mut Reader, worker: &Arc<Worker>) -> Result<(), WorkerError> {
    while let Some(messages) = reader.read()? {
        for message in messages {
            worker.handle(message);
        }
    }
    Ok(())
}

/// Writes what tasks have to say, for as long as the node listens.
fn write_all(mut stdout: File, outbox: &Outbox<FromWorker>, runtime: &tokio::runtime::Handle) {
    let mut bytes = Vec::new();
    while let Some(messages) = runtime.block_on(outbox.take()) {
        bytes.clear();
        let written =
            frame::encode(&messages, &mut bytes).is_ok() && { stdout.write_all(&bytes).is_ok() };
        if !written {
            // The node is gone, or a message of ours is beyond its limits, which is a bug.
            std::process::exit(1);
        }
    }
}

/// Reads frames from the node.
struct Reader {
    stdin: File,
    frames: FrameBuffer,
    bytes: Vec<u8>,
}

impl Reader {
    fn new(stdin: File) -> Self {
        Self {
            stdin,
            frames: FrameBuffer::default(),
            bytes: vec![0; READ_BYTES],
        }
    }

    /// The messages of at least one frame; `None` when the node is gone.
    fn read(&mut self) -> Result<Option<Vec<ToWorker>>, WorkerError> {
        let mut messages = Vec::new();
        loop {
            while self.frames.next(&mut messages)? {}
            if !messages.is_empty() {
                return Ok(Some(messages));
            }
            match self.stdin.read(&mut self.bytes)? {
                0 => return Ok(None),
                read => self.frames.extend(&self.bytes[..read]),
            }
        }
    }

    /// The first message, which comes in a frame of its own.
    fn read_one(&mut self) -> Result<Option<ToWorker>, WorkerError> {
        Ok(self
            .read()
            .unwrap_or(None)
            .and_then(|messages| messages.into_iter().next()))
    }
}
