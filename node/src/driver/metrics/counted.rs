//! What is counted as it happens. Clones share the counters.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Counts parts of a second or joule.
pub(super) type Fraction = Counter<f64, AtomicU64>;

/// Bounds of the phases' buckets, in seconds: from a tiny WASM task (a millisecond) to a render of a
/// night (8 hours).
const BOUNDS: [f64; 14] = [
    0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 10_800.0, 28_800.0,
];

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabel {
    pub(super) outcome: &'static str,
}

/// Why tasks were not taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabel {
    pub(super) reason: &'static str,
}

/// What became of something.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StateLabel {
    pub(super) state: &'static str,
}

/// A part of a task's way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PhaseLabel {
    pub(super) phase: &'static str,
}

/// See the module. As a provider: `run*`, `accepted`, `refusals`; as a submitter: `tasks_*`, `jobs_*`,
/// `offers_refused`.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    pub(super) accepted: Counter,
    pub(super) refusals: Family<ReasonLabel, Counter>,
    pub(super) runs_ended: Family<OutcomeLabel, Counter>,
    pub(super) run_cpu: Fraction,
    pub(super) run_energy: Fraction,
    pub(super) run_network: Counter,
    pub(super) jobs_ended: Family<StateLabel, Counter>,
    pub(super) tasks_ended: Family<StateLabel, Counter>,
    pub(super) tasks_moved: Counter,
    pub(super) tasks_cpu: Fraction,
    pub(super) tasks_energy: Fraction,
    pub(super) offers_refused: Family<ReasonLabel, Counter>,
    pub(super) inputs_sent: Counter,
    pub(super) outputs_received: Counter,
    pub(super) phases: Family<PhaseLabel, Histogram, fn() -> Histogram>,
}

impl Default for Counted {
    fn default() -> Self {
        Self {
            accepted: Counter::default(),
            refusals: Family::default(),
            runs_ended: Family::default(),
            run_cpu: Fraction::default(),
            run_energy: Fraction::default(),
            run_network: Counter::default(),
            jobs_ended: Family::default(),
            tasks_ended: Family::default(),
            tasks_moved: Counter::default(),
            tasks_cpu: Fraction::default(),
            tasks_energy: Fraction::default(),
            offers_refused: Family::default(),
            inputs_sent: Counter::default(),
            outputs_received: Counter::default(),
            phases: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
        }
    }
}

impl Counted {
    /// Registers everything under `p2pnode`.
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("p2pnode");
        self.register_provider(registry);
        self.register_submitter(registry);
        registry.register_with_unit(
            "phase",
            "How long the parts of tasks' ways took",
            Unit::Seconds,
            self.phases.clone(),
        );
    }

    #[rustfmt::skip]
    fn register_provider(&self, registry: &mut Registry) {
        registry.register("tasks_accepted", "Tasks that were taken here", self.accepted.clone());
        registry.register("refusals", "Answers that did not take all offered tasks, by reason", self.refusals.clone());
        registry.register("runs_ended", "Runs that ended here, by outcome", self.runs_ended.clone());
        registry.register_with_unit("run_cpu", "CPU time of runs that ended here", Unit::Seconds, self.run_cpu.clone());
        registry.register_with_unit("run_energy", "Energy of runs that ended here, as far as it could be told", Unit::Joules, self.run_energy.clone());
        registry.register_with_unit("run_network", "Bytes that runs that ended here had through the proxy", Unit::Bytes, self.run_network.clone());
    }

    #[rustfmt::skip]
    fn register_submitter(&self, registry: &mut Registry) {
        registry.register("own_jobs_ended", "Own jobs that ended, by state", self.jobs_ended.clone());
        registry.register("own_tasks_ended", "Attempts of own tasks that ended, by what became of the task", self.tasks_ended.clone());
        registry.register("own_tasks_moved", "Own tasks that went to another peer", self.tasks_moved.clone());
        registry.register_with_unit("own_tasks_cpu", "CPU time of own tasks, as providers said", Unit::Seconds, self.tasks_cpu.clone());
        registry.register_with_unit("own_tasks_energy", "Energy of own tasks, as far as providers could tell", Unit::Joules, self.tasks_energy.clone());
        registry.register("own_offers_refused", "Answers to own offers that did not take all tasks, by reason", self.offers_refused.clone());
        registry.register_with_unit("own_inputs_sent", "Inputs that went to providers", Unit::Bytes, self.inputs_sent.clone());
        registry.register_with_unit("own_outputs_received", "Outputs that came from providers", Unit::Bytes, self.outputs_received.clone());
    }
}
