//! What a node offers, under which rules, and who asks for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::node::RuntimeStatus;
use crate::offer::{OfferRules, OnClose};
use crate::resources::{Capacity, Resources};

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
    /// Its rules.
    #[serde(default)]
    pub rules: OfferRules,
    /// Why nothing is taken from others at the moment; absent while tasks are taken.
    #[serde(default)]
    pub closed: Option<String>,
    /// Peers that may run tasks here by name, whether they are known or not.
    #[serde(default)]
    pub allowed: Vec<String>,
    /// Runtimes and why one is missing.
    pub runtimes: Vec<RuntimeStatus>,
    /// Peers that asked and wait for the owner's answer.
    #[serde(default)]
    pub requests: u32,
    /// Tasks that run.
    pub running: u32,
    /// Tasks that wait for a slot.
    pub queued: u32,
}

/// What is to be offered from now on. `PUT /api/v1/offer`.
///
/// What is absent stays as it is. When nothing is offered yet, it is what the setting of the same name
/// says, else a default that leaves the machine usable and permits nothing beyond plain tasks. Where
/// a rule can be absent, the word in parentheses takes it away again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct OfferRequest {
    /// Whether everything is withdrawn; then all else is absent.
    pub none: bool,
    /// CPUs in thousandths, at least 10; default: all but one.
    pub cpus_milli: Option<u32>,
    /// Memory in bytes, at least 6 MiB; default: three quarters.
    pub memory: Option<u64>,
    /// Disk in bytes, at least 1 MiB; default: half of what is free.
    pub disk: Option<u64>,
    /// Part of the machine's CPUs, memory and free disk to offer where no amount is named, in percent.
    pub percent: Option<u8>,
    /// GPUs: a number, `all`, or UUIDs with commas between them; default: none.
    pub gpus: Option<String>,
    /// Whether tasks may share a GPU.
    pub share_gpus: Option<bool>,
    /// Tasks at the same time, at most (0).
    pub max_tasks: Option<u32>,
    /// Longest run of a task, in milliseconds (0).
    pub max_task_ms: Option<u64>,
    /// When it holds, such as `mon-fri 19:00-07:00; sat,sun` (`always`).
    pub schedule: Option<String>,
    /// Whether it holds only while nobody uses the machine.
    pub only_when_idle: Option<bool>,
    /// Whether it does not hold on battery.
    pub not_on_battery: Option<bool>,
    /// The CPU temperature above which it does not hold, in degrees Celsius (0).
    pub max_cpu_c: Option<u16>,
    /// The same of GPUs (0).
    pub max_gpu_c: Option<u16>,
    /// The same for whichever of CPU and GPU this machine can read.
    #[serde(default)]
    pub max_c: Option<u16>,
    /// What becomes of running tasks when it ceases to hold.
    pub on_close: Option<OnClose>,
    /// Patterns of images that may run (an empty list: any).
    pub images: Option<Vec<String>>,
    /// Domains that tasks may reach (an empty list: none).
    pub egress: Option<Vec<String>>,
    /// Whether tasks may be root inside their containers.
    pub allow_root: Option<bool>,
    /// Whether images may be built here.
    pub allow_build: Option<bool>,
    /// The OCI runtime of containers (`default`).
    pub runtime: Option<String>,
    /// Labels that jobs can ask for, besides those of the settings.
    pub labels: Option<BTreeMap<String, String>>,
    /// What people call this node.
    pub name: Option<String>,
    /// Peers to allow from now on, besides those that are allowed already: ids, or what selects one.
    pub allow: Vec<String>,
    /// Whether anyone may run tasks here.
    pub allow_any: Option<bool>,
}

impl OfferRequest {
    /// This request, with what it leaves open taken from `other`.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        let mut allow = self.allow;
        allow.extend(other.allow.iter().cloned());
        // A part of the machine asked for now weighs more than an amount that the settings name.
        let by_amount = self.percent.is_none();
        Self {
            none: self.none,
            cpus_milli: self.cpus_milli.or(other.cpus_milli.filter(|_| by_amount)),
            memory: self.memory.or(other.memory.filter(|_| by_amount)),
            disk: self.disk.or(other.disk.filter(|_| by_amount)),
            percent: self.percent.or(other.percent),
            gpus: self.gpus.or_else(|| other.gpus.clone()),
            share_gpus: self.share_gpus.or(other.share_gpus),
            max_tasks: self.max_tasks.or(other.max_tasks),
            max_task_ms: self.max_task_ms.or(other.max_task_ms),
            schedule: self.schedule.or_else(|| other.schedule.clone()),
            only_when_idle: self.only_when_idle.or(other.only_when_idle),
            not_on_battery: self.not_on_battery.or(other.not_on_battery),
            max_cpu_c: self.max_cpu_c.or(other.max_cpu_c),
            max_gpu_c: self.max_gpu_c.or(other.max_gpu_c),
            max_c: self.max_c.or(other.max_c),
            on_close: self.on_close.or(other.on_close),
            images: self.images.or_else(|| other.images.clone()),
            egress: self.egress.or_else(|| other.egress.clone()),
            allow_root: self.allow_root.or(other.allow_root),
            allow_build: self.allow_build.or(other.allow_build),
            runtime: self.runtime.or_else(|| other.runtime.clone()),
            labels: self.labels.or_else(|| other.labels.clone()),
            name: self.name.or_else(|| other.name.clone()),
            allow,
            allow_any: self.allow_any.or(other.allow_any),
        }
    }
}

/// A peer that asked to run tasks here and was not allowed. `GET /api/v1/requests`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccessRequest {
    /// Its id.
    pub peer: String,
    /// Its name, when it is known.
    pub name: String,
    /// The last job that it asked for.
    pub job: String,
    /// That job's name.
    pub job_name: String,
    /// What it runs: an image, `wasm`, `archive:DIGEST` or `build:DIGEST`.
    pub program: String,
    /// What each of its tasks needs.
    pub resources: Resources,
    /// When it first asked.
    pub first_ms: u64,
    /// When it last asked.
    pub last_ms: u64,
}
