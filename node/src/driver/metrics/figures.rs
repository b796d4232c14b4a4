//! What is so now: gathered for one scrape, written out and forgotten.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use p2pnode_executor::host::{self, sensors::Readings};
use p2pnode_protocol::Capacity;
use p2pnode_protocol::api::{JobState, TaskCounts};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::super::meter::RunningTask;
use super::{MAX_LABELLED, names};
use crate::blobs::StoreUsage;
use crate::core::{CapacityView, Core};

type Float = Gauge<f64, AtomicU64>;

/// Labels of one sample.
type Labels = Vec<(&'static str, String)>;

/// See the module.
pub(super) struct Figures {
    pub(super) peer: String,
    pub(super) uptime: Duration,
    pub(super) core: Option<OfCore>,
    pub(super) store: StoreUsage,
    pub(super) readings: Readings,
    pub(super) running: Vec<RunningTask>,
}

/// What the core knows.
pub(super) struct OfCore {
    pub(super) capacity: CapacityView,
    pub(super) hosted_jobs: usize,
    pub(super) peers_known: u32,
    pub(super) jobs: Vec<(JobState, u64)>,
    /// Of jobs that are not over.
    pub(super) tasks: TaskCounts,
}

impl OfCore {
    pub(super) fn of(core: &Core) -> Self {
        let states = [
            JobState::Waiting,
            JobState::Running,
            JobState::Succeeded,
            JobState::Failed,
            JobState::Cancelled,
        ];
        let all = core.jobs();
        let count = |state| all.iter().filter(|job| job.state == state).count() as u64;
        let mut tasks = TaskCounts::default();
        for job in all.iter().filter(|job| job.finished_ms.is_none()) {
            tasks.pending += job.tasks.pending;
            tasks.queued += job.tasks.queued;
            tasks.running += job.tasks.running;
            tasks.succeeded += job.tasks.succeeded;
            tasks.failed += job.tasks.failed;
            tasks.cancelled += job.tasks.cancelled;
        }
        Self {
            capacity: core.capacity(),
            hosted_jobs: core.hosted_jobs().len(),
            peers_known: core.peers_known(),
            jobs: states.map(|state| (state, count(state))).to_vec(),
            tasks,
        }
    }
}

/// Counts and sizes as Prometheus has them; exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn float(number: u64) -> f64 {
    number as f64
}

/// Registers a value, which is the only one of its name; what cannot be told is left out.
fn one(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>, value: Option<f64>) {
    let Some(value) = value else { return };
    let gauge = Float::default();
    gauge.set(value);
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, gauge),
        None => registry.register(name, help, gauge),
    }
}

/// Registers values that labels tell apart.
fn many(
    registry: &mut Registry,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    samples: impl IntoIterator<Item = (Labels, f64)>,
) {
    let family = Family::<Labels, Float>::default();
    for (labels, value) in samples {
        family.get_or_create(&labels).set(value);
    }
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, family),
        None => registry.register(name, help, family),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct About {
    version: &'static str,
    peer: String,
}

impl Figures {
    /// Registers all of it.
    pub(super) fn register(&self, registry: &mut Registry) {
        let about = About {
            version: env!("CARGO_PKG_VERSION"),
            peer: self.peer.clone(),
        };
        registry.register("node", "What this node is", Info::new(about));
        let uptime = Some(self.uptime.as_secs_f64());
        one(
            registry,
            "uptime",
            "Time since the node started",
            Some(Unit::Seconds),
            uptime,
        );
        let memory = Some(float(host::process_memory().0));
        one(
            registry,
            "process_memory",
            "Memory of the node itself",
            Some(Unit::Bytes),
            memory,
        );
        self.register_core(registry);
        self.register_store(registry);
        self.register_machine(registry);
        self.register_gpus(registry);
        self.register_running(registry);
    }

    #[rustfmt::skip]
    fn register_core(&self, registry: &mut Registry) {
        let Some(core) = &self.core else { return };
        one(registry, "peers_known", "Peers that are connected or whose advert is known", None, Some(core.peers_known.into()));
        let view = &core.capacity;
        let pair = |of: fn(&Capacity) -> f64| {
            [("offered", &view.total), ("free", &view.free)]
                .map(|(part, capacity)| (vec![("part", part.to_owned())], of(capacity)))
        };
        many(registry, "offer_cpus", "CPUs that are offered, and free of them", None, pair(|c| f64::from(c.cpus.0) / 1_000.0));
        many(registry, "offer_memory", "Memory that is offered, and free of it", Some(Unit::Bytes), pair(|c| float(c.memory.0)));
        many(registry, "offer_disk", "Disk that is offered, and free of it", Some(Unit::Bytes), pair(|c| float(c.disk.0)));
        many(registry, "offer_gpus", "GPUs that are offered, and free of them", None, pair(|c| {
            c.gpus.iter().map(|gpu| f64::from(gpu.milli) / 1_000.0).sum()
        }));
        let state = |state: &str, count: u64| (vec![("state", state.to_owned())], float(count));
        let hosted = [state("queued", view.queued.into()), state("running", view.running.into())];
        many(registry, "hosted_tasks", "Tasks of others and of this node that are here", None, hosted);
        one(registry, "hosted_jobs", "Jobs of others and of this node that are here", None, Some(float(core.hosted_jobs as u64)));
        let jobs = core.jobs.iter().map(|(job, count)| state(names::of_job(*job), *count));
        many(registry, "own_jobs", "Own jobs that are remembered", None, jobs);
        let TaskCounts { pending, queued, running, succeeded, failed, cancelled, .. } = core.tasks;
        let tasks = [
            state("pending", pending), state("queued", queued), state("running", running),
            state("succeeded", succeeded), state("failed", failed), state("cancelled", cancelled),
        ];
        many(registry, "own_tasks", "Tasks of own jobs that are not over", None, tasks);
    }

    #[rustfmt::skip]
    fn register_store(&self, registry: &mut Registry) {
        let part = |part: &str, bytes: u64| (vec![("part", part.to_owned())], float(bytes));
        let StoreUsage { used, pinned, quota, objects } = self.store;
        let parts = [part("used", used.0), part("pinned", pinned.0), part("quota", quota.0)];
        many(registry, "blob_store", "Disk that stored chunks take, what jobs need of it, and the most", Some(Unit::Bytes), parts);
        one(registry, "blob_store_objects", "Stored chunks and manifests", None, Some(float(objects)));
    }

    /// Whether somebody sits at the machine is nobody's business, and so not here.
    #[rustfmt::skip]
    fn register_machine(&self, registry: &mut Registry) {
        let now = &self.readings;
        let busy = now.busy_milli_cpus.map(|milli| f64::from(milli) / 1_000.0);
        one(registry, "machine_busy_cpus", "CPUs in use by everything on the machine", None, busy);
        let celsius = now.cpu_temperature_c.map(f64::from);
        one(registry, "machine_cpu_temperature", "The hottest sensor of a CPU", Some(Unit::Celsius), celsius);
        // A counter by nature, but read from the machine and not counted here.
        let joules = now.cpu_energy_uj.map(|uj| float(uj) / 1_000_000.0);
        one(registry, "machine_cpu_energy", "Energy of the CPU packages since the node first looked", Some(Unit::Joules), joules);
        let battery = now.on_battery.map(|battery| f64::from(u8::from(battery)));
        one(registry, "machine_on_battery", "Whether it runs on battery", None, battery);
    }

    #[rustfmt::skip]
    fn register_gpus(&self, registry: &mut Registry) {
        let gpus = || self.readings.gpus.iter().take(MAX_LABELLED);
        let label = |uuid: &String| vec![("gpu", uuid.clone())];
        let busy = gpus().filter_map(|gpu| Some((label(&gpu.uuid), f64::from(gpu.busy_percent?) / 100.0)));
        many(registry, "gpu_busy", "Part of the time in which something ran on the GPU", Some(Unit::Other("ratio".into())), busy);
        let used = gpus().filter_map(|gpu| Some((label(&gpu.uuid), float(gpu.memory_used?))));
        many(registry, "gpu_memory_used", "Memory of the GPU in use", Some(Unit::Bytes), used);
        let celsius = gpus().filter_map(|gpu| Some((label(&gpu.uuid), f64::from(gpu.temperature_c?))));
        many(registry, "gpu_temperature", "The GPU's temperature", Some(Unit::Celsius), celsius);
        let watts = gpus().filter_map(|gpu| Some((label(&gpu.uuid), f64::from(gpu.power_mw?) / 1_000.0)));
        many(registry, "gpu_power", "What the GPU takes now", Some(Unit::Other("watts".into())), watts);
        let joules = gpus().filter_map(|gpu| Some((label(&gpu.uuid), float(gpu.energy_mj?) / 1_000.0)));
        many(registry, "gpu_energy", "Energy of the GPU since its driver was loaded", Some(Unit::Joules), joules);
    }

    #[rustfmt::skip]
    fn register_running(&self, registry: &mut Registry) {
        let tasks = || self.running.iter().take(MAX_LABELLED);
        let label = |task: &RunningTask| {
            let key = task.run.attempt.task;
            vec![("job", key.job.to_string()), ("task", key.to_string())]
        };
        let samples = |value: fn(&RunningTask) -> f64| tasks().map(move |task| (label(task), value(task)));
        many(registry, "task_cpu", "CPU time of a running task so far", Some(Unit::Seconds), samples(|t| float(t.usage.cpu_us) / 1_000_000.0));
        many(registry, "task_memory", "Memory of a running task", Some(Unit::Bytes), samples(|t| float(t.usage.memory)));
        many(registry, "task_memory_peak", "Highest memory of a running task so far", Some(Unit::Bytes), samples(|t| float(t.usage.memory_peak)));
        many(registry, "task_disk", "What a running task has written", Some(Unit::Bytes), samples(|t| float(t.usage.disk)));
        many(registry, "task_network", "What a running task had through the proxy", Some(Unit::Bytes), samples(|t| float(t.usage.network_bytes)));
        many(registry, "task_processes", "Processes and threads of a running task", None, samples(|t| t.usage.processes.into()));
        many(registry, "task_paused", "Whether a running task is frozen", None, samples(|t| u8::from(t.usage.paused).into()));
        let gpus = tasks().flat_map(|task| task.gpus.iter().map(move |gpu| {
            let mut labels = label(task);
            labels.push(("gpu", gpu.clone()));
            (labels, 1.0)
        }));
        many(registry, "task_gpu", "Which GPU a running task has; 1", None, gpus.take(4 * MAX_LABELLED));
    }
}
