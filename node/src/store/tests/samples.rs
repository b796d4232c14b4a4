//! Records with something in every field, made from small numbers.

use std::sync::Arc;

use libp2p::identity::{Keypair, ed25519};
use p2pnode_protocol::api::JobState;
use p2pnode_protocol::id::TaskIndex;
use p2pnode_protocol::job::{Array, ArrayKey, JobPlan, Placement, Policy, StepPlan, Values};
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::message::{ReportEvent, TaskRef};
use p2pnode_protocol::task::{
    Failure, FailureKind, InputBinding, InputSource, Isolation, NetworkMode, Outcome, Program,
    TaskTemplate, Usage,
};
use p2pnode_protocol::{Digest, JobId, PeerId, Resources};

use crate::core::io::{HostedJob, Record};

pub(super) fn job_id(number: u64) -> JobId {
    JobId(number.to_be_bytes())
}

pub(super) fn peer(number: u64) -> PeerId {
    let mut secret = [1; 32];
    secret[..8].copy_from_slice(&number.to_be_bytes());
    let secret = ed25519::SecretKey::try_from_bytes(secret).unwrap();
    let key: Keypair = ed25519::Keypair::from(secret).into();
    key.public().to_peer_id()
}

pub(super) fn hosted(number: u64) -> HostedJob {
    HostedJob {
        submitter: peer(number),
        job: job_id(number),
    }
}

pub(super) const fn task_ref(index: TaskIndex, attempt: u32) -> TaskRef {
    TaskRef {
        step: 0,
        index,
        attempt,
    }
}

pub(super) fn blob(name: &str) -> BlobRef {
    BlobRef {
        digest: Digest::of(name.as_bytes()),
        manifest_bytes: 100,
        content_bytes: 1 << 20,
    }
}

pub(super) fn template(step: u16) -> TaskTemplate {
    TaskTemplate {
        name: "robot".into(),
        step,
        program: Program::Wasm {
            module: blob("module"),
        },
        command: vec!["render".into(), "{frame}".into()],
        env: vec![("THREADS".into(), "8".into())],
        keys: vec!["frame".into()],
        resources: Resources::default(),
        inputs: vec![InputBinding {
            path: "scene".into(),
            source: InputSource::Shared(blob("scene")),
        }],
        outputs: vec!["out/**".into()],
        allow_empty_outputs: false,
        timeout_ms: 1,
        stall_ms: 2,
        prepare_timeout_ms: 3,
        keep_ms: 4,
        network: NetworkMode::None,
        root: false,
        isolation: Isolation::Task,
        sandbox: None,
        attended: false,
    }
}

pub(super) fn plan() -> JobPlan {
    JobPlan {
        name: "robot".into(),
        steps: vec![StepPlan {
            template: template(0),
            array: Array {
                keys: vec![ArrayKey {
                    name: "frame".into(),
                    values: Values::Range {
                        first: 1,
                        last: 20,
                        step: 2,
                        width: 4,
                    },
                }],
                chunk: Some(2),
            },
            per_task_inputs: vec![vec![blob("input")]],
            needs: vec![],
            login: None,
        }],
        placement: Placement {
            peers: vec![peer(3)],
            labels: [("site".into(), "lab".into())].into(),
        },
        policy: Policy {
            retries: 3,
            wait_for_peers_ms: 15_000,
            hand_out: Some(40),
        },
    }
}

pub(super) fn job_record(number: u64) -> Record {
    Record::Job {
        job: job_id(number),
        plan: Arc::new(plan()),
        out: number.is_multiple_of(2).then(|| "/tmp/out".into()),
        created_ms: number.min(1 << 40),
    }
}

pub(super) fn hosted_record(number: u64, step: u16) -> Record {
    Record::Hosted {
        hosted: hosted(number),
        template: Arc::new(template(step)),
    }
}

/// An end of the attempt; odd attempts fail.
pub(super) fn ended(job: u64, index: TaskIndex, attempt: u32, collected: bool) -> Record {
    let failed = attempt.is_multiple_of(2);
    Record::TaskEnded {
        job: job_id(job),
        task: task_ref(index, attempt),
        peer: peer(2),
        outcome: outcome(failed),
        usage: usage(),
        outputs: (!failed).then(|| blob("outputs")),
        log_bytes: 77,
        collected,
        last: !failed,
    }
}

pub(super) fn outcome(failed: bool) -> Outcome {
    if failed {
        Outcome::Failed(Failure::new(FailureKind::Exit(3), "exit code 3"))
    } else {
        Outcome::Succeeded
    }
}

pub(super) const fn usage() -> Usage {
    Usage {
        wall_us: 1_000,
        cpu_us: 900,
        memory_peak: 1 << 20,
        network_bytes: 5,
        energy_mj: Some(6),
    }
}

/// An event that leaves outputs here.
pub(super) fn outbox(number: u64, event: u64, index: TaskIndex) -> Record {
    Record::Outbox {
        hosted: hosted(number),
        number: event,
        event: ReportEvent::Finished {
            task: task_ref(index, 1),
            outcome: Outcome::Succeeded,
            usage: usage(),
            outputs: Some(blob("outputs")),
            log_bytes: 12,
        },
    }
}

/// A whole small job from submit to end.
pub(super) fn finished(number: u64) -> Vec<Record> {
    vec![
        job_record(number),
        Record::Dispatched {
            job: job_id(number),
            peer: peer(2),
            tasks: vec![task_ref(0, 1)],
        },
        ended(number, 0, 1, true),
        Record::JobEnded {
            job: job_id(number),
            state: JobState::Failed,
            finished_ms: 5,
            notes: vec!["why".into()],
        },
    ]
}
