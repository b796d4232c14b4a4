//! Nodes behind real NATs: processes in network namespaces that these tests make, with routers that
//! translate by nftables. Needs root and the kernel's namespaces, so each test is ignored unless asked for.
//!
//! The Internet is one namespace that routes between addresses that look global; each home is a router with
//! a NAT of its own and one machine behind it; relays stand on the Internet. Nothing leaves the machine.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../harness/mod.rs"]
mod harness;

mod inside;
mod jobs;
mod moves;
mod town;
mod verbs;
mod world;
