//! The vocabulary of p2pnode and its bytes.
//!
//! Three families of types live here, joined by conversions: the job file ([`job`], serde over
//! TOML), the wire ([`message`], [`advert`], [`manifest`]: bincode through [`codec`]) and the local
//! API ([`api`], JSON). Everything that crosses a process or a machine boundary is named here and
//! nowhere else.
//!
//! This crate must never do I/O, read a clock or start a task: it is what `core` may depend on, and
//! a seed must reproduce a run.

pub mod advert;
pub mod api;
pub mod codec;
pub mod gpu;
pub mod id;
pub mod job;
pub mod manifest;
pub mod message;
pub mod offer;
pub mod resources;
pub mod stream;
pub mod task;
pub mod text;
pub mod tunnel;
pub mod units;

pub use gpu::{Gpu, GpuRequest, WHOLE_GPU};
pub use id::{AttemptKey, Digest, JobId, PeerId, TaskKey, parse_peer};
pub use resources::{Capacity, Resources};
pub use units::{Bytes, MilliCpus};
