//! The network as its user sees it: real swarms on loopback and within the process.

#![allow(clippy::unwrap_used, missing_docs)]

mod adverts;
mod connections;
mod discovery;
mod listening;
mod misconduct;
mod requests;
mod shortcuts;
mod streams;
mod support;
