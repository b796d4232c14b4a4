//! What is written, and that it stays bounded.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use p2pnode_executor::LiveUsage;
use p2pnode_executor::host::sensors::{GpuReading, Readings};
use p2pnode_protocol::api::{Event, JobState, JobUsage, TaskCounts, TaskState};
use p2pnode_protocol::job::{JobPlan, Placement, Policy};
use p2pnode_protocol::message::{Offer, OfferReply, Refusal, TaskRequest, TaskResponse};
use p2pnode_protocol::task::{Assignment, Failure, FailureKind, Outcome, Usage};
use p2pnode_protocol::{AttemptKey, Bytes, Capacity, Gpu, JobId, MilliCpus, PeerId, TaskKey};

use super::super::meter::RunningTask;
use super::*;
use crate::blobs::StoreUsage;
use crate::core::CapacityView;
use crate::core::io::{Effect, HostedJob, Input, RunEnd, RunKey};

mod openmetrics;

fn run(job: u32, index: u32) -> RunKey {
    let mut id = [0; 8];
    id[..4].copy_from_slice(&job.to_be_bytes());
    RunKey {
        submitter: PeerId::from_bytes(&[0, 1, 7]).unwrap(),
        attempt: AttemptKey {
            task: TaskKey {
                job: JobId(id),
                step: 0,
                index,
            },
            attempt: 1,
        },
    }
}

fn hosted(of: RunKey) -> HostedJob {
    HostedJob {
        submitter: of.submitter,
        job: of.attempt.task.job,
    }
}

/// A node on which everything there is has a value.
fn figures() -> Figures {
    let capacity = |cpus| Capacity {
        cpus: MilliCpus::whole(cpus),
        memory: Bytes::gib(2),
        disk: Bytes::gib(3),
        pids: 100,
        gpus: vec![Gpu::whole("GPU-1".into(), "a".into(), Bytes::gib(8))],
    };
    Figures {
        peer: "12D3KooWx".into(),
        uptime: Duration::from_secs(60),
        core: Some(OfCore {
            capacity: view(capacity(8), capacity(3)),
            hosted_jobs: 2,
            peers_known: 7,
            jobs: vec![(JobState::Running, 1), (JobState::Failed, 2)],
            tasks: TaskCounts {
                running: 5,
                ..TaskCounts::default()
            },
        }),
        store: StoreUsage {
            used: Bytes(10),
            pinned: Bytes(5),
            quota: Bytes(100),
            objects: 3,
        },
        readings: Readings {
            cpu_temperature_c: Some(61.5),
            on_battery: Some(true),
            user_idle: Some(Duration::from_secs(1)),
            busy_milli_cpus: Some(1_500),
            cpu_energy_uj: Some(2_500_000),
            gpus: vec![gpu("GPU-1")],
        },
        running: vec![running(1, 1)],
    }
}

fn view(total: Capacity, free: Capacity) -> CapacityView {
    let core = crate::core::Core::new(
        crate::core::CoreConfig::new(run(0, 0).submitter),
        crate::core::io::Snapshot::default(),
        0,
    );
    CapacityView {
        offering: true,
        total,
        free,
        running: 4,
        queued: 9,
        ..core.0.capacity()
    }
}

fn gpu(uuid: &str) -> GpuReading {
    GpuReading {
        uuid: uuid.into(),
        busy_percent: Some(50),
        memory_used: Some(1),
        temperature_c: Some(70.0),
        power_mw: Some(250_000),
        energy_mj: Some(5_000),
    }
}

fn running(job: u32, index: u32) -> RunningTask {
    RunningTask {
        run: run(job, index),
        gpus: vec!["GPU-1".into()],
        usage: LiveUsage {
            cpu_us: 2_000_000,
            memory: 64,
            ..LiveUsage::default()
        },
    }
}

fn metrics() -> Metrics {
    Metrics::new(&NetMetrics::default())
}

fn empty_plan() -> JobPlan {
    JobPlan {
        name: "empty".into(),
        steps: Vec::new(),
        placement: Placement::default(),
        policy: Policy {
            retries: 0,
            wait_for_peers_ms: 0,
            hand_out: None,
        },
    }
}

/// What its submitter is told of an attempt, with texts that no other has.
fn events(attempt: AttemptKey) -> [Event; 3] {
    [
        Event::PeerAnswered {
            job: attempt.task.job.to_string(),
            peer: attempt.task.job.to_string(),
            accepted: 0,
            refusal: Some(Refusal::Full),
            message: None,
        },
        Event::TaskFinished {
            job: attempt.task.job.to_string(),
            task: attempt.task.to_string(),
            attempt: 1,
            peer: attempt.task.job.to_string(),
            state: TaskState::Pending,
            failure: None,
            decided_by: None,
            usage: Usage::default(),
        },
        Event::JobFinished {
            job: attempt.task.job.to_string(),
            state: JobState::Failed,
            tasks: TaskCounts::default(),
            peers: BTreeMap::new(),
            usage: JobUsage::default(),
            wall_ms: 1,
            out: None,
            notes: vec![attempt.task.job.to_string()],
            no_peer: false,
        },
    ]
}

/// A job of one task from its offer to its end.
fn live(watcher: &mut Watcher, run: RunKey, token: u64) {
    let (hosted, attempt) = (hosted(run), run.attempt);
    watcher.on_input(&Input::Request {
        peer: run.submitter,
        token,
        request: TaskRequest::Offer(Offer {
            job: hosted.job,
            step: 0,
            template: None,
            tasks: vec![Assignment {
                index: attempt.task.index,
                attempt: 1,
                values: Vec::new(),
                inputs: Vec::new(),
            }],
            login: None,
        }),
    });
    let reply = OfferReply {
        accepted: 1,
        refusal: Some(Refusal::NotAllowed {
            submitter: format!("a peer of job {}", hosted.job),
        }),
        slots: 1,
        epoch: 1,
    };
    let response = TaskResponse::Offer(reply);
    watcher.on_effect(&Effect::Respond { token, response });
    watcher.on_input(&Input::Started(run));
    let message = format!("unlike all others: {}", hosted.job);
    let end = RunEnd {
        outcome: Outcome::Failed(Failure::new(FailureKind::Exit(token as i32), message)),
        usage: Usage {
            wall_us: 1_000_000,
            cpu_us: 500_000,
            energy_mj: Some(1_500),
            ..Usage::default()
        },
        outputs: None,
        log_bytes: 0,
    };
    watcher.on_input(&Input::Ended { run, end });
    let (out, plan) = (None, Arc::new(empty_plan()));
    watcher.on_effect(&Effect::Collect {
        peer: run.submitter,
        attempt,
        outputs: None,
        log_bytes: 0,
        plan,
        out,
    });
    watcher.on_input(&Input::Collected {
        attempt,
        result: Ok(10),
    });
    for event in events(attempt) {
        watcher.on_effect(&Effect::Emit(event));
    }
    watcher.on_effect(&Effect::Unhost(hosted));
}

#[test]
fn labels_stay_few_after_thousands_of_jobs() {
    let metrics = metrics();
    let mut watcher = metrics.watcher();
    let mut figures = figures();
    live(&mut watcher, run(0, 0), 0);
    let before = openmetrics::parse(&metrics.write(&figures)).len();
    for job in 1..5_000 {
        live(&mut watcher, run(job, 0), job.into());
    }
    let samples = openmetrics::parse(&metrics.write(&figures));
    assert_eq!(samples.len(), before, "a sample for each job");
    assert_eq!(
        samples["p2pnode_runs_ended_total{outcome=\"exit\"}"],
        5_000.0
    );
    assert_eq!(samples["p2pnode_run_energy_joules_total"], 7_500.0);
    assert_eq!(watcher.timed(), 0, "nothing is left behind");
    // A thousand tasks that run, on a hundred GPUs.
    figures.running = (0..1_000).map(|index| running(1, index)).collect();
    let uuids = (0..100).map(|index| format!("GPU-{index}"));
    figures.readings.gpus = uuids.map(|uuid| gpu(&uuid)).collect();
    let samples = openmetrics::parse(&metrics.write(&figures));
    let of = |name: &str| samples.keys().filter(|key| key.starts_with(name)).count();
    assert_eq!(of("p2pnode_task_memory_bytes{"), MAX_LABELLED);
    assert_eq!(of("p2pnode_task_gpu{"), MAX_LABELLED);
    assert_eq!(of("p2pnode_gpu_busy_ratio{"), MAX_LABELLED);
}

#[test]
fn offers_that_are_never_answered_are_forgotten_at_the_bound() {
    let metrics = metrics();
    let mut watcher = metrics.watcher();
    for job in 0..70_000 {
        let run = run(job, 0);
        watcher.on_effect(&Effect::Collect {
            peer: run.submitter,
            attempt: run.attempt,
            outputs: None,
            log_bytes: 0,
            plan: Arc::new(empty_plan()),
            out: None,
        });
    }
    assert_eq!(watcher.timed(), 65_536);
}

#[test]
fn a_node_shows_what_it_has_and_leaves_out_what_it_cannot_tell() {
    let mut figures = figures();
    let samples = openmetrics::parse(&metrics().write(&figures));
    for (sample, value) in [
        ("p2pnode_offer_cpus{part=\"offered\"}", 8.0),
        ("p2pnode_offer_cpus{part=\"free\"}", 3.0),
        ("p2pnode_hosted_tasks{state=\"queued\"}", 9.0),
        ("p2pnode_own_jobs{state=\"failed\"}", 2.0),
        ("p2pnode_own_tasks{state=\"running\"}", 5.0),
        ("p2pnode_peers_known", 7.0),
        ("p2pnode_blob_store_bytes{part=\"pinned\"}", 5.0),
        ("p2pnode_machine_cpu_temperature_celsius", 61.5),
        ("p2pnode_machine_busy_cpus", 1.5),
        ("p2pnode_machine_cpu_energy_joules", 2.5),
        ("p2pnode_machine_on_battery", 1.0),
        ("p2pnode_gpu_power_watts{gpu=\"GPU-1\"}", 250.0),
        ("p2pnode_gpu_busy_ratio{gpu=\"GPU-1\"}", 0.5),
        (
            "p2pnode_task_cpu_seconds{job=\"0000000100000000\",task=\"0000000100000000/1\"}",
            2.0,
        ),
    ] {
        assert_eq!(samples.get(sample), Some(&value), "{sample}: {samples:#?}");
    }
    assert!(!samples.keys().any(|key| key.contains("idle")), "private");
    figures.readings = Readings::default();
    figures.core = None;
    let samples = openmetrics::parse(&metrics().write(&figures));
    let gone = |key: &String| key.contains("machine") || key.contains("gpu_b");
    assert!(!samples.keys().any(gone), "{samples:#?}");
}

#[test]
fn dashboards_ask_only_for_what_there_is() {
    let metrics = metrics();
    let mut watcher = metrics.watcher();
    live(&mut watcher, run(1, 1), 1);
    let known = openmetrics::families(&metrics.write(&figures()));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker/grafana/dashboards");
    let mut asked = BTreeSet::new();
    for name in ["provider", "submitter"] {
        let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
        let queries = queries(&dashboard);
        assert!(queries.len() >= 8, "{name} has {} queries", queries.len());
        for query in queries {
            let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let names: Vec<&str> = words.filter(|word| word.starts_with("p2pnode_")).collect();
            assert!(!names.is_empty(), "{name}: `{query}` asks for nothing");
            for metric in names {
                assert!(
                    known.contains(metric),
                    "{name}: no `{metric}` in {known:#?}"
                );
                asked.insert(metric.to_owned());
            }
        }
    }
    assert!(asked.len() >= 20, "{asked:?}");
}

/// Every query of a dashboard, those of its variables included.
fn queries(value: &serde_json::Value) -> Vec<String> {
    use serde_json::Value;
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(key, value)| match value {
                Value::String(text) if key == "expr" || key == "definition" => vec![text.clone()],
                value => queries(value),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(queries).collect(),
        _ => Vec::new(),
    }
}
