//! Inputs and outputs: cut into chunks, kept, moved between peers, and written out again.
//!
//! The way of an input: [`ingest_path`] cuts it into the submitter's [`BlobStore`]; a provider
//! [`fetch`](transfer::fetch)es what it lacks over a stream that the submitter [`serve`]s, and
//! [`materialize`](materialize::materialize)s it in a task's work directory. Outputs go the other way:
//! [`ingest_outputs`], fetch, [`write_outputs`]. Everything in between is named by its BLAKE3 digest,
//! and what is there already is neither sent nor stored again.
//!
//! The driver is the only caller. This module knows of no network and no job state: a transfer runs
//! over any `AsyncRead + AsyncWrite`, and who may read what is answered by the caller's `authorize`,
//! with [`BlobStore::permits`] at hand.
//!
//! Invariants:
//! - Nothing that a peer or a task wrote is followed out of the folder it belongs to: every path is
//!   walked one name at a time, and no link is ever followed ([`folder`]).
//! - No chunk enters the store, and none of an earlier life of the node leaves it, without its digest
//!   having been checked by this process.
//! - A manifest is checked ([`Manifest::check`](p2pnode_protocol::manifest::Manifest::check)) before
//!   anything is written by it.
//!
//! All functions but the two sides of a transfer block, on the disk: call them from
//! `tokio::task::spawn_blocking`.

mod cursor;
mod cut;
pub mod deliver;
pub mod folder;
mod gather;
pub mod ingest;
pub mod materialize;
pub mod outputs;
pub mod patterns;
pub mod store;
pub mod transfer;

#[cfg(test)]
mod tests;

pub use cut::{Limits, Progress};
pub use deliver::{
    DeliverError, Delivered, Durability, sweep_leftovers, sync_outputs, write_outputs,
};
pub use ingest::{IngestError, ingest_path, ingest_without};
pub use materialize::{MaterializeError, MaterializeOptions, clone_tree, materialize};
pub use outputs::{OutputError, ingest_outputs};
pub use patterns::{OutputPatterns, PatternError};
pub use store::{BlobStore, PinOwner, PinScope, StoreError, StoreUsage};
pub use transfer::{FetchError, FetchItem, ServeError, Served, fetch, fetch_many, serve};
