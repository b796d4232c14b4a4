//! Ports of this machine that lead into tasks.

use serde::{Deserialize, Serialize};

/// Opens a port. `POST /api/v1/forwards`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateForward {
    /// The task: what selects a job, and `/INDEX` unless it is task 0.
    pub task: String,
    /// Where to listen: `PORT`, which is on the loopback, or `ADDRESS:PORT`; port 0: any that is free.
    pub listen: String,
    /// The port in the task.
    pub port: u16,
    /// UDP in place of TCP.
    #[serde(default)]
    pub udp: bool,
    /// Somebody will listen on the port later: it is opened although nobody does now.
    #[serde(default)]
    pub later: bool,
}

/// An open port. `GET /api/v1/forwards`; closed with `DELETE /api/v1/forwards/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ForwardInfo {
    /// Names it on this node.
    pub id: u32,
    /// The task, `JOB/INDEX`.
    pub task: String,
    /// Where this node listens, `ADDRESS:PORT`.
    pub listen: String,
    /// The port in the task.
    pub port: u16,
    /// Whether it is UDP in place of TCP.
    pub udp: bool,
    /// Connections that are open, or for UDP sources that were heard lately.
    pub connections: u32,
    /// Why the last connection came to nothing, when it did.
    pub trouble: Option<String>,
    /// Since when.
    pub since_ms: u64,
}
