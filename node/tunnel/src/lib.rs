//! What the owner of a job does inside its running tasks.
//!
//! One protocol ([`p2pnode_protocol::tunnel`]), one check ([`Doors`]), and behind it commands, SSH,
//! files and ports. The provider hands every stream that a peer opens to [`Tunnels::serve`]; the
//! owner's side is [`client`]. Nothing here knows how streams come about or how a sandbox is entered:
//! a stream is anything that reads and writes, a sandbox is an
//! [`Inside`](p2pnode_executor::inside::Inside).

pub mod client;
mod doors;
mod exec;
mod files;
pub mod frames;
mod ports;
mod serve;
mod shortcut;
mod ssh;
pub mod ssh_keys;

pub use doors::{Door, Doors, MAX_TUNNELS_PER_PEER, MAX_TUNNELS_PER_TASK};
pub use serve::{HELLO_TIMEOUT, Tunnels};
