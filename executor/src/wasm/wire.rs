//! What a node and its WASM worker say to each other.
//!
//! Used by both ends, which are the same build of the same program. The node trusts nothing that a
//! worker says: a worker compiles and runs foreign code, so whatever comes from it may have been
//! written by that code. Sizes are limited here, meaning is checked where a message is used.
//!
//! Nothing here is a wire format between peers: both ends are replaced together, and [`PROTOCOL`]
//! only catches a program file that was replaced while the node ran.

use bincode::{Decode, Encode};
use p2pnode_protocol::task::{Failure, Stream, Usage};

/// Changes with every change of a message.
pub const PROTOCOL: u32 = 1;

/// Names one run of one worker; never used twice by the same worker.
pub type RunId = u64;

/// Names one compiled module of one worker; never used twice by the same worker.
pub type ModuleId = u32;

/// Output of one task that may be under way between worker and log sink, in bytes. Four chunks, so
/// that a task goes on writing while the node passes on what it wrote, and 256 tasks that nobody
/// reads hold 64 MiB.
pub const WINDOW_BYTES: usize = 256 << 10;

/// The most bytes in one piece of output: the limit of [`crate::LogChunk`].
pub const CHUNK_BYTES: usize = 64 << 10;

/// The least that a piece of output counts against [`WINDOW_BYTES`]: about what its bookkeeping
/// takes in the node's memory, so that a flood of one-byte pieces is bounded too.
pub const CHUNK_COST: usize = 256;

/// How far a task's output may exceed its window: WASI checks for room once for every 4 KiB, and
/// the last piece may therefore begin when one byte is left.
pub const WINDOW_SLACK_BYTES: usize = 8 << 10;

/// The most bytes that the command and environment of one task may take: half of what Linux allows
/// a native process by default (`ARG_MAX`).
pub const MAX_RUN_BYTES: usize = 1 << 20;

/// The largest module, in bytes. CPython for WASI takes 28 MB; this is twice that.
pub const MAX_MODULE_BYTES: u64 = 64 << 20;

/// Bytes of a module in one message: large against a message's cost, small against the pipe's
/// traffic, so that runs of other modules are not held up.
pub const MODULE_PIECE_BYTES: usize = 128 << 10;

/// What a piece of output counts against the window.
pub const fn chunk_cost(bytes: usize) -> usize {
    if bytes < CHUNK_COST {
        CHUNK_COST
    } else {
        bytes
    }
}

/// The first message to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// [`PROTOCOL`] of the node.
    pub protocol: u32,
    /// Threads that run tasks.
    pub threads: u16,
    /// The only folder that the worker may use: all work directories are in it. As bytes of the
    /// system's encoding.
    pub work_root: Vec<u8>,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RunSpec {
    /// Its name in all later messages.
    pub run: RunId,
    /// A module whose [`FromWorker::Compiled`] was good.
    pub module: ModuleId,
    /// Arguments, the first being the command's name.
    pub command: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Its work directory. As bytes of the system's encoding.
    pub work_dir: Vec<u8>,
    /// Limit on linear memory and tables together, in bytes.
    pub memory: u64,
    /// Limit on what it adds to its work directory, in bytes.
    pub disk: u64,
    /// Longest run, in microseconds; 0: no limit.
    pub timeout_us: u64,
    /// Longest time without output and CPU use, in microseconds; 0: no limit.
    pub stall_us: u64,
}

/// From the node to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToWorker {
    /// Comes first and once.
    Hello(Hello),
    /// A module of this many bytes follows.
    Module {
        /// Its name.
        module: ModuleId,
        /// Its length, in bytes.
        bytes: u64,
    },
    /// The next piece of a module; the last one starts the compilation.
    ModulePiece {
        /// Which module.
        module: ModuleId,
        /// At most [`MODULE_PIECE_BYTES`].
        bytes: Vec<u8>,
    },
    /// The module is not needed any more.
    Forget {
        /// Which one.
        module: ModuleId,
    },
    /// Run a task.
    Run(RunSpec),
    /// End a task at once.
    Cancel {
        /// Which one.
        run: RunId,
    },
    /// Output was passed on: so much more may come.
    Credit {
        /// Of which task.
        run: RunId,
        /// How much, in units of [`chunk_cost`].
        cost: u32,
    },
    /// Say something.
    Ping,
}

/// From a worker to the node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FromWorker {
    /// Answers [`ToWorker::Hello`].
    Ready {
        /// [`PROTOCOL`] of the worker.
        protocol: u32,
        /// Which protections could not be had here, in words; empty: all stand.
        notes: Vec<String>,
    },
    /// A module was compiled.
    Compiled {
        /// Which one.
        module: ModuleId,
        /// Or why it cannot be run, in words for whoever made it.
        result: Result<(), String>,
    },
    /// A task wrote something.
    Log {
        /// Which task.
        run: RunId,
        /// On which stream.
        stream: Stream,
        /// At most [`CHUNK_BYTES`].
        bytes: Vec<u8>,
    },
    /// A task ended. The last message about it.
    End {
        /// Which task.
        run: RunId,
        /// Exit code 0, or why not.
        result: Result<(), Failure>,
        /// What it used.
        usage: Usage,
    },
    /// Answers [`ToWorker::Ping`].
    Pong,
}

/// A path as bytes of the system's encoding.
#[cfg(unix)]
pub fn path_to_bytes(path: &std::path::Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().to_vec()
}

/// A path as bytes of the system's encoding.
#[cfg(not(unix))]
pub fn path_to_bytes(path: &std::path::Path) -> Vec<u8> {
    path.to_string_lossy().into_owned().into_bytes()
}

/// The path that [`path_to_bytes`] was given.
#[cfg(unix)]
pub fn path_from_bytes(bytes: Vec<u8>) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes).into()
}

/// The path that [`path_to_bytes`] was given.
#[cfg(not(unix))]
pub fn path_from_bytes(bytes: Vec<u8>) -> std::path::PathBuf {
    String::from_utf8_lossy(&bytes).into_owned().into()
}
