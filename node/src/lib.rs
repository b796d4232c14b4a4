//! The p2pnode overlay node as a library.
//!
//! [`core`] decides and touches nothing; [`net`], [`blobs`], [`store`], [`exec`] and [`api`] do one
//! kind of work each and never use one another; they meet in [`driver`], which turns what happens
//! into inputs of the core and performs the effects it answers with.

pub mod api;
pub mod blobs;
pub mod command;
pub mod config;
pub mod core;
pub mod driver;
pub mod exec;
mod frames;
pub mod home;
pub mod jobfile;
pub mod net;
pub mod networks;
pub mod store;
pub mod tunnels;
