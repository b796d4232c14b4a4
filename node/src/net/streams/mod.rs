//! Byte streams between nodes: `blob/1` and `log/1`.
//!
//! A behaviour of our own, because libp2p-stream drops inbound streams without a word when nobody
//! takes them quickly, knows no limits per peer, and may choose a relayed connection where a direct
//! one stands. Here every stream is answered with one byte before it counts as open: the opener
//! knows that the stream waits in the other node's queue, or that it was refused. That byte is the
//! first one on the wire from the accepting side; everything after it belongs to the user of the
//! stream.
//!
//! [`behaviour`] chooses the connection and keeps those that wait for one, [`handler`] opens and
//! accepts on one connection, [`path`] says how good that is, [`upgrade`] negotiates, [`stream`] is what the user gets, and [`slots`]
//! counts.

pub(super) mod behaviour;
mod handler;
mod path;
mod slots;
mod stream;
mod upgrade;

pub(super) use behaviour::Behaviour;
pub use stream::NetStream;
