//! Tunnels against a sandbox that is none: a test double runs commands as processes of this machine.
//!
//! `ssh` and `forwards` drive OpenSSH's own programs, `exec` breaks streams at random, `files` copies
//! trees, `ports` carries bytes and datagrams, `hostile` sends what nobody should, `shortcuts` leaves the tunnel.

#![allow(clippy::unwrap_used)]

mod exec;
mod files;
mod folder;
mod forwards;
mod hostile;
mod local;
mod ports;
mod rig;
mod screen;
mod shortcuts;
mod ssh;
mod throughput;
