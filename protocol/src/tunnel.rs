//! The byte streams `tunnel/2`: whatever a job's owner does inside a task that runs elsewhere.
//!
//! The opener speaks first: a [`TunnelHello`], answered by a [`TunnelWelcome`], both framed as all
//! streams are (see [`stream`](crate::stream)). What follows depends on the [`Purpose`]: frames for
//! commands, length-prefixed datagrams for UDP, bare bytes for everything else. One check stands
//! before all of them: the task must run here, and the peer that opened the stream must own its job.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::id::{JobId, StepIndex, TaskIndex};
use crate::task::Stream;

/// The most bytes in one [`ToTask::Input`] or [`FromTask::Output`] (64 KiB, a pipe's buffer).
pub const MAX_DATA_BYTES: usize = 64 << 10;

/// The largest encoded hello or frame, in bytes: data, and room for what stands around it.
pub const MAX_TUNNEL_FRAME_BYTES: usize = MAX_DATA_BYTES + (4 << 10);

/// The most bytes of a command, its arguments and its environment together (32 KiB).
pub const MAX_COMMAND_BYTES: usize = 32 << 10;

/// The largest datagram that a UDP tunnel carries, in bytes: what IPv4 and IPv6 both allow at most.
pub const MAX_DATAGRAM_BYTES: usize = 65_507;

/// Bytes in an Ed25519 public key.
pub const PUBLIC_KEY_LEN: usize = 32;

/// What a TCP connection begins with that is a shortcut; 32 bytes follow that a [`ShortcutKey`] leads to. No connection of libp2p
/// begins so: the first byte of multistream-select is 19.
pub const SHORTCUT_GREETING: [u8; 16] = *b"p2pnode-shortcut";

/// What the opener says on the tunnel's stream, one byte, when it was offered a shortcut and does not take
/// it; what follows belongs to the tunnel.
pub const SHORTCUT_LEFT: u8 = 0;

/// Names the tunnel that goes on over a TCP connection of its own. Random, made by the provider, good for
/// one connection; whoever else learns it gets to an SSH server that knows one key and no other. It is never
/// sent in clear: the opener shows 32 bytes that follow from it (BLAKE3's `derive_key` with the context
/// `p2pnode 2026 tunnel shortcut question`), and a provider that knows it answers with 32 others (`p2pnode
/// 2026 tunnel shortcut answer`); what comes after them belongs to the tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct ShortcutKey(pub [u8; 32]);

impl std::fmt::Debug for ShortcutKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShortcutKey(..)")
    }
}

/// First frame of a tunnel stream.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TunnelHello {
    /// The job, which must be the opener's own.
    pub job: JobId,
    /// The step.
    pub step: StepIndex,
    /// The task, which must run at the provider now.
    pub index: TaskIndex,
    /// What for.
    pub purpose: Purpose,
}

/// What a tunnel is for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Purpose {
    /// A command in the task's sandbox; [`ToTask`] and [`FromTask`] frames follow.
    Exec(ExecSpec),
    /// To go on with a command whose stream broke; frames follow.
    Resume {
        /// Which, as [`Opened::session`] said.
        session: SessionId,
        /// Bytes of its output that have come so far, both streams counted together.
        received: u64,
    },
    /// An SSH connection; its bytes follow bare.
    Ssh {
        /// The Ed25519 key that the client will show: no other is let in.
        client_key: [u8; PUBLIC_KEY_LEN],
        /// Whether the opener could reach the provider over a TCP connection of its own.
        shortcut: bool,
    },
    /// The SFTP protocol, version 3; its bytes follow bare.
    Files,
    /// A TCP connection to a port of the sandbox's loopback; its bytes follow bare.
    Tcp {
        /// Which.
        port: u16,
    },
    /// Datagrams to and from a UDP port of the sandbox's loopback, each after its length in 2 bytes,
    /// big endian.
    Udp {
        /// Which.
        port: u16,
    },
}

/// Names a running command of a tunnel. Random, made by the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct SessionId(pub [u8; 16]);

/// A command to run beside a task, as its user and under its limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecSpec {
    /// Command and arguments; empty: a shell.
    pub command: Vec<String>,
    /// Environment beside the task's own.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// The terminal that it runs in; absent: three pipes.
    #[serde(default)]
    pub terminal: Option<Terminal>,
}

/// A terminal for a command.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Terminal {
    /// The value of `TERM`.
    pub term: String,
    /// Its size.
    pub size: WindowSize,
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WindowSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// Signals that may be sent to a command, those of RFC 4254, section 6.10.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum TaskSignal {
    /// Abort.
    Abrt,
    /// Alarm clock.
    Alrm,
    /// Floating point exception.
    Fpe,
    /// The terminal is gone.
    Hup,
    /// Illegal instruction.
    Ill,
    /// Interrupt.
    Int,
    /// Kill.
    Kill,
    /// Broken pipe.
    Pipe,
    /// Quit.
    Quit,
    /// Segmentation fault.
    Segv,
    /// Terminate.
    Term,
    /// The first for users.
    Usr1,
    /// The second for users.
    Usr2,
}

/// The provider's answer to a [`TunnelHello`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum TunnelWelcome {
    /// What follows may come.
    Open(Opened),
    /// Nothing follows.
    Refused(TunnelRefusal),
}

/// What the opener of a tunnel is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct Opened {
    /// For [`Purpose::Ssh`]: the Ed25519 key that the task's server will show.
    pub host_key: Option<[u8; PUBLIC_KEY_LEN]>,
    /// For [`Purpose::Ssh`] with a shortcut: what to show there.
    pub shortcut: Option<ShortcutKey>,
    /// For [`Purpose::Exec`]: what to name when the stream breaks.
    pub session: Option<SessionId>,
    /// For [`Purpose::Resume`]: bytes of input that the command was given so far.
    pub taken: u64,
}

/// Why there is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[error("{message}")]
pub struct TunnelRefusal {
    /// In a word.
    pub kind: TunnelFault,
    /// For people: one sentence, at most 1 KiB.
    pub message: String,
}

/// Kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum TunnelFault {
    /// No such task of the opener's runs here. Tasks of others are no different from none.
    NotHere,
    /// The task runs in a sandbox that nobody can enter: a WASM task.
    NoWayIn,
    /// The command can't be started: it is not in the image, or there is no shell.
    NoCommand,
    /// Nobody listens on that port.
    NobodyListens,
    /// No such session, or no longer.
    NoSession,
    /// More tunnels than the provider holds for one task or one peer.
    TooMany,
    /// What was asked for breaks a rule.
    Invalid,
    /// The provider's own fault.
    Host,
}

/// From the owner to the command.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToTask {
    /// For its stdin, at most [`MAX_DATA_BYTES`].
    Input(Vec<u8>),
    /// Its stdin ends.
    InputEnd,
    /// Its terminal has another size.
    Resize(WindowSize),
    /// A signal for it.
    Signal(TaskSignal),
    /// So many bytes of output have come since the session's beginning: they need not be kept.
    Received(u64),
}

/// From the command to its owner.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FromTask {
    /// What it wrote, at most [`MAX_DATA_BYTES`]. Everything from a terminal is stdout.
    Output {
        /// On which stream.
        stream: Stream,
        /// What.
        bytes: Vec<u8>,
    },
    /// So many bytes of input were given to it since the session's beginning.
    Taken(u64),
    /// It has ended, and all of its output was sent; nothing follows.
    Ended(ExecEnd),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ExecEnd {
    /// By itself; 128 and the signal's number when a signal ended it.
    Exited(i32),
    /// The task, or the way to it, is gone: one sentence for people.
    Lost(String),
}
