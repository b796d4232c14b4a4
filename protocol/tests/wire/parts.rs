//! Values that the tests of the wire are made of.

use std::collections::BTreeMap;

use libp2p_identity::Keypair;
use p2pnode_protocol::advert::{Advert, AdvertFeatures};
use p2pnode_protocol::job::{Array, ArrayKey, JobPlan, Placement, Policy, StepPlan, Values};
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::message::TaskRef;
use p2pnode_protocol::task::{
    FailureKind, InputBinding, InputSource, Isolation, NetworkMode, Program, RuntimeKind,
    TaskTemplate,
};
use p2pnode_protocol::{
    Bytes, Capacity, Digest, Gpu, GpuRequest, JobId, MilliCpus, PeerId, Resources,
};

pub const JOB: JobId = JobId([0x3f, 9, 0xa1, 0xc2, 0xd4, 0xe5, 0xf6, 7]);

pub fn keypair() -> Keypair {
    Keypair::ed25519_from_bytes([7; 32]).unwrap()
}

pub fn blob(content_bytes: u64) -> BlobRef {
    BlobRef {
        digest: Digest::of(b"blob"),
        manifest_bytes: 300,
        content_bytes,
    }
}

pub const TASK: TaskRef = TaskRef {
    step: 0,
    index: 300,
    attempt: 2,
};

pub fn template() -> TaskTemplate {
    TaskTemplate {
        name: "robot".into(),
        step: 0,
        program: Program::Image {
            reference: "blender:4".into(),
        },
        command: vec!["blender".into(), "-f".into(), "{frame}".into()],
        env: vec![("OMP_NUM_THREADS".into(), "8".into())],
        keys: vec!["frame".into()],
        resources: Resources {
            cpus: MilliCpus(1_500),
            memory: Bytes::gib(8),
            disk: Bytes::gib(20),
            gpus: GpuRequest {
                count: 1,
                milli: 500,
                memory: Some(Bytes::gib(12)),
                model: Some("RTX*".into()),
            },
            pids: 512,
        },
        inputs: vec![
            InputBinding {
                path: "scene.blend".into(),
                source: InputSource::Shared(blob(70_000)),
            },
            InputBinding {
                path: "tiles/{frame}.png".into(),
                source: InputSource::PerTask(0),
            },
        ],
        outputs: vec!["out/{frame}.png".into()],
        allow_empty_outputs: false,
        timeout_ms: 1_800_000,
        stall_ms: 600_000,
        prepare_timeout_ms: 3_600_000,
        keep_ms: 3_600_000,
        network: NetworkMode::None,
        root: false,
        isolation: Isolation::Task,
        sandbox: None,
        attended: false,
    }
}

pub fn plan() -> JobPlan {
    let keys = vec![
        ArrayKey {
            name: "scene".into(),
            values: Values::List(vec!["a".into(), "b".into()]),
        },
        ArrayKey {
            name: "frame".into(),
            values: Values::Range {
                first: -1,
                last: 120,
                step: 5,
                width: 4,
            },
        },
    ];
    let step = StepPlan {
        template: template(),
        array: Array {
            keys,
            chunk: Some(40),
        },
        per_task_inputs: vec![vec![blob(1), blob(2)]],
        needs: vec![],
        login: None,
    };
    JobPlan {
        name: "robot".into(),
        steps: vec![step],
        placement: Placement {
            peers: vec![keypair().public().to_peer_id()],
            labels: BTreeMap::from([("site".into(), "lab".into())]),
        },
        policy: Policy {
            retries: 3,
            wait_for_peers_ms: 15_000,
            hand_out: Some(40),
        },
    }
}

pub fn advert(issued_ms: u64) -> Advert {
    let total = Capacity {
        cpus: MilliCpus::whole(8),
        memory: Bytes::gib(16),
        disk: Bytes::gib(100),
        pids: 16_384,
        gpus: vec![Gpu::whole(
            "GPU-1".into(),
            "NVIDIA RTX 4090".into(),
            Bytes::gib(24),
        )],
    };
    Advert {
        network: "public".into(),
        name: "kitchen".into(),
        issued_ms,
        ttl_ms: 60_000,
        free: Capacity {
            cpus: MilliCpus(2_500),
            ..total.clone()
        },
        total,
        runtimes: vec![RuntimeKind::Docker, RuntimeKind::Wasm],
        labels: BTreeMap::from([("site".into(), "lab".into())]),
        images: vec!["debian:12".into()],
        closed: Some("its schedule opens it at mon 19:00".into()),
        away: vec![(RuntimeKind::Docker, "no container engine".into())],
        features: AdvertFeatures {
            sandboxes: vec!["runsc".into()],
            hard_disk: true,
            egress: false,
            build: true,
        },
        running: 3,
        queued: 1,
    }
}

pub const FAILURES: [FailureKind; 15] = [
    FailureKind::Exit(139),
    FailureKind::Timeout,
    FailureKind::Stalled,
    FailureKind::OutOfMemory,
    FailureKind::DiskFull,
    FailureKind::NoOutputs,
    FailureKind::BadOutput,
    FailureKind::BadProgram,
    FailureKind::ImageUnavailable,
    FailureKind::InputUnavailable,
    FailureKind::KilledByOwner,
    FailureKind::Cancelled,
    FailureKind::ProviderStopping,
    FailureKind::ProviderLost,
    FailureKind::Host,
];

/// The peer of [`keypair`].
pub fn peer() -> PeerId {
    keypair().public().to_peer_id()
}
