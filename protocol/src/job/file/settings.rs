//! Reads `[resources]`, `[placement]`, `[policy]` and `[network]`.

use std::collections::BTreeMap;

use super::reader::{Faults, Item, Section};
use super::task::ProgramSpec;
use crate::gpu::GpuRequest;
use crate::id::parse_peer;
use crate::job::limits::MAX_DOMAINS;
use crate::job::plan::Placement;
use crate::offer::domain_fault;
use crate::resources::Resources;
use crate::task::NetworkMode;

/// The most tries again that a file may ask for.
const MAX_RETRIES: u32 = 1_000;

/// The most labels that a file may ask for, and the longest name or value of one, in bytes: what an
/// advert has room for.
const MAX_LABELS: usize = 32;
/// See [`MAX_LABELS`].
const MAX_LABEL_BYTES: usize = 128;

/// The most peers that a file may name.
const MAX_PEERS: usize = 10_000;

/// `[policy]` as the file says it, what is left out filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePolicy {
    /// How often a task is tried again after a failure that was its own doing.
    pub retries: u32,
    /// Longest run of one task, in milliseconds; 0 is no limit.
    pub timeout_ms: u64,
    /// Longest time without output and CPU use, in milliseconds; 0 is no limit.
    pub stall_ms: u64,
    /// How long a provider keeps finished outputs when the submitter is gone, in milliseconds.
    pub keep_ms: u64,
    /// Longest preparation of the environment, in milliseconds.
    pub prepare_timeout_ms: u64,
    /// Whether a task whose patterns match nothing succeeds all the same.
    pub allow_empty_outputs: bool,
    /// How long the job waits for a first peer that fits, in milliseconds; absent: as long as the
    /// node's settings say.
    pub wait_for_peers_ms: Option<u64>,
}

impl Default for FilePolicy {
    /// Three tries again (a crash of the moment passes, a broken command is told soon); an hour to keep
    /// outputs (a laptop's closed lid) and to pull an image (10 GB at 25 Mbit/s).
    fn default() -> Self {
        Self {
            retries: 3,
            timeout_ms: 0,
            stall_ms: 0,
            keep_ms: 3_600_000,
            prepare_timeout_ms: 3_600_000,
            allow_empty_outputs: false,
            wait_for_peers_ms: None,
        }
    }
}

pub(super) fn resources(root: &Section<'_>, faults: &mut Faults<'_>) -> Resources {
    let mut resources = Resources::default();
    let Some(section) = root.section(faults, "resources") else {
        return resources;
    };
    let before = faults.list.len();
    if let Some(item) = section.get(faults, "cpus") {
        resources.cpus = item.quantity(faults).unwrap_or(resources.cpus);
    }
    if let Some(item) = section.get(faults, "memory") {
        resources.memory = item.quantity(faults).unwrap_or(resources.memory);
    }
    if let Some(item) = section.get(faults, "disk") {
        resources.disk = item.quantity(faults).unwrap_or(resources.disk);
    }
    if let Some(item) = section.get(faults, "pids") {
        resources.pids = item.count(faults, u32::MAX).unwrap_or(resources.pids);
    }
    if let Some(item) = section.get(faults, "gpus") {
        resources.gpus = gpus(&item, faults);
    }
    let noted: Vec<String> = faults.list[before..]
        .iter()
        .map(|fault| fault.key.clone())
        .collect();
    for fault in resources.faults() {
        let key = format!("resources.{}", fault.key);
        if noted.contains(&key) {
            continue;
        }
        let top = fault.key.split('.').next().unwrap_or_default();
        let spot = section
            .get(faults, top)
            .map_or(section.spot, |item| item.spot);
        faults.add(spot, &key, fault.message);
    }
    resources
}

fn gpus(item: &Item<'_>, faults: &mut Faults<'_>) -> GpuRequest {
    let mut request = GpuRequest::default();
    let Some(section) = item.as_table() else {
        if let Some(share) = item.as_fraction() {
            request.count = 1;
            request.milli = share_milli(share);
            return request;
        }
        let count = item.count(faults, u16::MAX.into()).unwrap_or(0);
        request.count = u16::try_from(count).unwrap_or(u16::MAX);
        return request;
    };
    section.check_keys(faults, "resources.gpus");
    request.count = 1;
    if let Some(item) = section.get(faults, "count") {
        let count = item.count(faults, u16::MAX.into()).unwrap_or(1);
        request.count = u16::try_from(count).unwrap_or(u16::MAX);
    }
    if let Some(item) = section.get(faults, "share") {
        match item.as_fraction() {
            Some(share) => request.milli = share_milli(share),
            None if item.as_whole() == Some(1) => {}
            None => item.fault(faults, "is a part of a GPU, such as 0.5"),
        }
    }
    if let Some(item) = section.get(faults, "memory") {
        request.memory = item.quantity(faults);
    }
    if let Some(model) = section.text(faults, "model") {
        request.model = Some(model.text);
    }
    request
}

/// Thousandths of a GPU; what is no part of one becomes 0, which is refused.
fn share_milli(share: f64) -> u16 {
    let milli = (share * 1_000.0).round();
    if (1.0..=1_000.0).contains(&milli) {
        milli as u16
    } else {
        0
    }
}

pub(super) fn placement(root: &Section<'_>, faults: &mut Faults<'_>) -> Placement {
    let mut placement = Placement::default();
    let Some(section) = root.section(faults, "placement") else {
        return placement;
    };
    if let Some(item) = section.get(faults, "peers") {
        let texts = item.texts(faults, "[\"12D3KooW...\"]").unwrap_or_default();
        if texts.len() > MAX_PEERS {
            item.fault(faults, format!("has more than {MAX_PEERS} peers"));
        }
        for text in texts {
            match parse_peer(text.text.trim()) {
                Ok(peer) if placement.peers.contains(&peer) => {}
                Ok(peer) => placement.peers.push(peer),
                Err(_) => {
                    let shown: String = text.text.chars().take(80).collect();
                    faults.list.push(text.fault(format!(
                        "`{shown}` is not a peer id: write what `p2pnode id` prints on that machine"
                    )));
                }
            }
        }
    }
    if let Some(item) = section.get(faults, "labels") {
        placement.labels = labels(&item, faults);
    }
    placement
}

fn labels(item: &Item<'_>, faults: &mut Faults<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let Some(section) = item.table(faults) else {
        return labels;
    };
    for item in section.items(faults) {
        let Some(value) = item.text_like(faults) else {
            continue;
        };
        let longest = item.name.len().max(value.len());
        if item.name.is_empty() || value.is_empty() || longest > MAX_LABEL_BYTES {
            let message =
                format!("a label's name and value must have 1 to {MAX_LABEL_BYTES} bytes each");
            item.fault(faults, message);
        }
        labels.insert(item.name.to_owned(), value);
    }
    if labels.len() > MAX_LABELS {
        item.fault(faults, format!("has more than {MAX_LABELS} labels"));
    }
    labels
}

pub(super) fn policy(root: &Section<'_>, faults: &mut Faults<'_>) -> FilePolicy {
    let mut policy = FilePolicy::default();
    let Some(section) = root.section(faults, "policy") else {
        return policy;
    };
    if let Some(item) = section.get(faults, "retries") {
        policy.retries = item.count(faults, MAX_RETRIES).unwrap_or(policy.retries);
    }
    let mut wait = u64::MAX;
    // The last column: whether a time of nothing makes sense.
    let times = [
        ("timeout", &mut policy.timeout_ms, false),
        ("stall", &mut policy.stall_ms, false),
        ("keep", &mut policy.keep_ms, true),
        ("prepare_timeout", &mut policy.prepare_timeout_ms, false),
        ("wait_for_peers", &mut wait, true),
    ];
    for (key, value, may_be_zero) in times {
        let Some(item) = section.get(faults, key) else {
            continue;
        };
        match item.time_ms(faults) {
            Some(0) if !may_be_zero => {
                item.fault(
                    faults,
                    "is no time at all: write a longer one, or leave it out",
                );
            }
            Some(time) => *value = time,
            None => {}
        }
    }
    policy.wait_for_peers_ms = (wait != u64::MAX).then_some(wait);
    policy.allow_empty_outputs = section.flag(faults, "allow_empty_outputs");
    policy
}

/// `sandbox`: whether the job insists on an OCI runtime.
pub(super) fn network(
    root: &Section<'_>,
    program: &ProgramSpec,
    sandbox: bool,
    faults: &mut Faults<'_>,
) -> NetworkMode {
    let Some(section) = root.section(faults, "network") else {
        return NetworkMode::None;
    };
    let domains = section.get(faults, "domains");
    let mode = section.text(faults, "mode");
    match mode.as_ref().map(|mode| mode.text.as_str()) {
        Some("egress") if matches!(program, ProgramSpec::Wasm(_)) => {
            let fault = "is for containers: a WASM module has no network";
            faults.list.extend(mode.map(|mode| mode.fault(fault)));
            NetworkMode::None
        }
        Some("egress") if sandbox => {
            let fault = "does not go with task.runtime: containers under a runtime of one's own have no \
                         way out; remove one of them";
            faults.list.extend(mode.map(|mode| mode.fault(fault)));
            NetworkMode::None
        }
        Some("egress") => {
            let Some(item) = domains else {
                let mode = mode.map(|mode| {
                    mode.fault(
                        "needs the names to be reached: write domains = [\"pypi.org\"] below it",
                    )
                });
                faults.list.extend(mode);
                return NetworkMode::None;
            };
            NetworkMode::Egress {
                domains: read_domains(&item, faults),
            }
        }
        Some("none") | None => {
            if let Some(item) = domains {
                item.fault(
                    faults,
                    "goes with mode = \"egress\": write that too, or remove it",
                );
            }
            NetworkMode::None
        }
        Some(other) => {
            let shown: String = other.chars().take(40).collect();
            let message = format!("`{shown}` is no mode: write \"none\" or \"egress\"");
            faults.list.extend(mode.map(|mode| mode.fault(message)));
            NetworkMode::None
        }
    }
}

fn read_domains(item: &Item<'_>, faults: &mut Faults<'_>) -> Vec<String> {
    let texts = item.texts(faults, "[\"pypi.org\"]").unwrap_or_default();
    if texts.is_empty() || texts.len() > MAX_DOMAINS {
        item.fault(faults, format!("must name 1 to {MAX_DOMAINS} domains"));
    }
    for text in &texts {
        if let Some(fault) = domain_fault(&text.text, false) {
            faults.list.push(text.fault(fault));
        }
    }
    texts.into_iter().map(|text| text.text).collect()
}
