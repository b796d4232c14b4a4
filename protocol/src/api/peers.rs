//! Peers as this node knows them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::node::RuntimeStatus;
use crate::offer::Grant;
use crate::resources::Capacity;
use crate::task::RuntimeKind;

/// A peer as this node knows it. `GET /api/v1/peers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerInfo {
    /// Its id.
    pub peer: String,
    /// Its name.
    pub name: String,
    /// The networks in which it is known, in the order of this node's settings.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Addresses known for it.
    pub addresses: Vec<String>,
    /// What it offers; absent until an advert came.
    pub capacity: Option<Capacity>,
    /// What is free of it.
    pub free: Option<Capacity>,
    /// Runtimes that it says it has.
    pub executors: Vec<RuntimeKind>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Round trip, in milliseconds; absent when not connected or not yet measured.
    pub rtt_ms: Option<f64>,
    /// Whether it may run tasks here.
    pub allowed: bool,
    /// Why it takes nothing at the moment although it offers something.
    #[serde(default)]
    pub closed: Option<String>,
    /// Runtimes that it has and that cannot run tasks at the moment, each with why.
    #[serde(default)]
    pub away: Vec<RuntimeStatus>,
    /// Whether a connection is open.
    pub connected: bool,
    /// Whether all open connections go through relays.
    #[serde(default)]
    pub relayed: bool,
    /// When it was last heard of.
    pub last_seen_ms: u64,
}

/// What a peer may do here from now on. Answers `PUT` and `DELETE /api/v1/allowed/{peer}`, where the
/// peer is named by its id or by what selects one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerAccess {
    /// Its id.
    pub peer: String,
    /// Whether it may run tasks here.
    pub allowed: bool,
    /// How much, when it may by name.
    #[serde(default)]
    pub grant: Option<Grant>,
}

/// Whether a peer could run a job. `POST /api/v1/fit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerFit {
    /// The peer.
    pub peer: String,
    /// Its name.
    pub name: String,
    /// How many tasks it could run at the same time now, as its last advert says; 0 when it does not
    /// fit, or fits and is full.
    pub slots: u32,
    /// Why it does not fit; absent when it does. Permission is not known until the peer is asked.
    pub reason: Option<String>,
}
