//! Tunnels against a sandbox that is none: a test double runs commands as processes of this machine.
//!
//! `ssh` drives OpenSSH's own programs, `exec` breaks streams at random, `files` copies trees,
//! `ports` forwards, `hostile` sends what nobody should.

mod exec;
mod files;
mod hostile;
mod local;
mod ports;
mod rig;
mod ssh;
mod throughput;
