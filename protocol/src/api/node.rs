//! The node itself: its status and what it offers.

use serde::{Deserialize, Serialize};

use crate::resources::Capacity;
use crate::task::RuntimeKind;

/// Who this node is and what it does. `GET /api/v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeStatus {
    /// Its peer id.
    pub peer: String,
    /// Its name.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// The network it is in.
    pub network: String,
    /// Addresses it listens on, each with `/p2p/<peer>` at the end: what others join with.
    pub listen: Vec<String>,
    /// Addresses that others have seen or that are confirmed.
    pub external: Vec<String>,
    /// Since when it runs.
    pub started_ms: u64,
    /// Its data directory.
    pub data_dir: String,
    /// Peers with an open connection.
    pub peers_connected: u32,
    /// Peers whose adverts are known.
    pub peers_known: u32,
    /// What it offers; absent when it offers nothing.
    pub offer: Option<OfferStatus>,
    /// Tasks of its own jobs that are not done.
    pub own_tasks_open: u64,
    /// Whether it finishes what it has and takes nothing new.
    #[serde(default)]
    pub draining: bool,
    /// Resident memory of the node's process, in bytes; 0 where the system does not tell.
    pub memory: u64,
}

/// What a node offers and what of it is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OfferStatus {
    /// Everything offered.
    pub total: Capacity,
    /// What is free.
    pub free: Capacity,
    /// Whether anyone may run tasks here.
    pub allow_any: bool,
    /// Whether tasks may be root inside their containers when they ask for it.
    #[serde(default)]
    pub allow_root: bool,
    /// Peers that may run tasks here by name, whether they are known or not.
    #[serde(default)]
    pub allowed: Vec<String>,
    /// Runtimes and why one is missing.
    pub runtimes: Vec<RuntimeStatus>,
    /// Tasks that run.
    pub running: u32,
    /// Tasks that wait for a slot.
    pub queued: u32,
}

/// One runtime of this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RuntimeStatus {
    /// Which.
    pub runtime: RuntimeKind,
    /// Its version; absent when it is not there.
    pub version: Option<String>,
    /// Why it is not there.
    pub problem: Option<String>,
}

/// What is to be offered from now on. `PUT /api/v1/offer`.
///
/// What is absent stays as it is. When nothing is offered yet, it is what the setting of the same name
/// says, else a default that leaves the machine usable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OfferRequest {
    /// Whether everything is withdrawn; then all else is absent.
    #[serde(default)]
    pub none: bool,
    /// CPUs in thousandths, at least 10; default: all but one.
    pub cpus_milli: Option<u32>,
    /// Memory in bytes, at least 6 MiB; default: three quarters.
    pub memory: Option<u64>,
    /// Disk in bytes, at least 1 MiB; default: half of what is free.
    pub disk: Option<u64>,
    /// How many GPUs; default: none.
    pub gpus: Option<u16>,
    /// Peers to allow from now on, besides those that are allowed already: ids, or what selects one.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Whether anyone may run tasks here.
    #[serde(default)]
    pub allow_any: Option<bool>,
}
