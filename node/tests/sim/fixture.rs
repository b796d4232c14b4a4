//! Peers, plans and adverts that the simulation and the tests of single rules are made of.

use std::collections::BTreeMap;

use p2pnode_protocol::advert::Advert;
use p2pnode_protocol::job::array::{Array, ArrayKey, Values};
use p2pnode_protocol::job::{JobPlan, Placement, Policy, StepPlan};
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::task::{Isolation, NetworkMode, Program, RuntimeKind, TaskTemplate};
use p2pnode_protocol::{Bytes, Capacity, Digest, Gpu, JobId, MilliCpus, PeerId, Resources};

/// The peer with this number.
pub fn peer(number: usize) -> PeerId {
    // An identity multihash of four bytes: no key needed.
    let [high, low] = (number as u16).to_be_bytes();
    PeerId::from_bytes(&[0, 4, 0, 0, high, low]).unwrap()
}

pub fn job_id(number: u64) -> JobId {
    JobId(number.to_be_bytes())
}

pub fn blob(number: u64) -> BlobRef {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&number.to_be_bytes());
    BlobRef {
        digest: Digest(digest),
        manifest_bytes: 100,
        content_bytes: 1_000,
    }
}

pub fn resources(cpus: u32) -> Resources {
    Resources {
        cpus: MilliCpus::whole(cpus),
        memory: Bytes::mib(64),
        disk: Bytes::mib(64),
        ..Resources::default()
    }
}

pub fn capacity(cpus: u32) -> Capacity {
    Capacity {
        cpus: MilliCpus::whole(cpus),
        memory: Bytes::gib(64),
        disk: Bytes::gib(64),
        pids: 1 << 20,
        gpus: Vec::new(),
    }
}

/// A GPU that tasks may share.
#[allow(dead_code)]
pub fn shared_gpu() -> Gpu {
    Gpu {
        shared: true,
        ..Gpu::whole("GPU-sim".into(), "pretended".into(), Bytes::gib(8))
    }
}

pub fn template(step: u16, cpus: u32, keep_ms: u64) -> TaskTemplate {
    TaskTemplate {
        name: "simulated".into(),
        step,
        program: Program::Wasm { module: blob(1) },
        command: vec!["run".into(), "{n}".into()],
        env: Vec::new(),
        keys: vec!["n".into()],
        resources: resources(cpus),
        inputs: Vec::new(),
        outputs: vec!["out/**".into()],
        allow_empty_outputs: true,
        timeout_ms: 0,
        stall_ms: 0,
        prepare_timeout_ms: 60_000,
        keep_ms,
        network: NetworkMode::None,
        root: false,
        isolation: Isolation::Task,
        sandbox: None,
        attended: false,
    }
}

pub fn step(template: TaskTemplate, tasks: u64, needs: Vec<u16>) -> StepPlan {
    StepPlan {
        template,
        array: Array {
            keys: vec![ArrayKey {
                name: "n".into(),
                values: Values::Range {
                    first: 1,
                    last: tasks as i64,
                    step: 1,
                    width: 0,
                },
            }],
            chunk: None,
        },
        per_task_inputs: Vec::new(),
        needs,
        login: None,
    }
}

pub fn plan(steps: Vec<StepPlan>, retries: u32, wait_for_peers_ms: u64) -> JobPlan {
    JobPlan {
        name: "simulated".into(),
        steps,
        placement: Placement::default(),
        policy: Policy {
            retries,
            wait_for_peers_ms,
            hand_out: None,
        },
    }
}

pub fn advert(number: usize, total: Capacity, free: Capacity, issued_ms: u64) -> Advert {
    Advert {
        network: "sim".into(),
        name: format!("node-{number}"),
        issued_ms,
        ttl_ms: 60_000,
        total,
        free,
        runtimes: vec![RuntimeKind::Wasm],
        labels: BTreeMap::new(),
        running: 0,
        queued: 0,
        ..Advert::default()
    }
}
