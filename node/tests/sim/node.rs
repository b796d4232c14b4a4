//! One simulated node: a core, the disk that outlives it, and an executor that only pretends.

use std::collections::{BTreeMap, BTreeSet};

use p2pnode_node::core::Core;
use p2pnode_node::core::io::{CallId, HostedJob, Record, RunKey, Snapshot};
use p2pnode_protocol::WHOLE_GPU;
use p2pnode_protocol::{AttemptKey, JobId, PeerId, Resources};

use crate::check::{Books, Truth};

/// An environment.
#[derive(Debug, Clone, Copy)]
pub struct Making {
    /// Which time.
    pub making: u32,
    pub done: bool,
}

/// See the module.
pub struct Node {
    pub id: PeerId,
    pub cpus: u32,
    /// Counts lives: what was meant for an earlier one does not arrive.
    pub life: u32,
    pub core: Option<Core>,
    pub disk: Snapshot,
    /// Everything that was ever stored, in order.
    pub journal: Vec<Record>,
    pub books: Books,
    /// Outputs on disk.
    pub outputs: BTreeSet<RunKey>,
    /// Calls without an answer.
    pub calls: BTreeMap<CallId, usize>,
    /// Open connections by peer, as this node sees them, with their generation.
    pub open: BTreeMap<usize, u32>,
    pub prepared: BTreeMap<(HostedJob, u16), Making>,
    pub running: BTreeMap<RunKey, Resources>,
    /// Of these, those that were told to end.
    pub killed: BTreeSet<RunKey>,
    /// Outputs on their way here, each with the number of its errand.
    pub errands: BTreeMap<AttemptKey, u64>,
    pub advertises: bool,
    pub issued_ms: u64,
    /// Since when it is down.
    pub down_since: Option<u64>,
    /// When the core is looked after next.
    pub wake: Option<u64>,
}

impl Node {
    pub fn new(id: PeerId, cpus: u32) -> Self {
        Self {
            id,
            cpus,
            life: 0,
            core: None,
            disk: Snapshot::default(),
            journal: Vec::new(),
            books: Books::default(),
            outputs: BTreeSet::new(),
            calls: BTreeMap::new(),
            open: BTreeMap::new(),
            prepared: BTreeMap::new(),
            running: BTreeMap::new(),
            killed: BTreeSet::new(),
            errands: BTreeMap::new(),
            advertises: false,
            issued_ms: 0,
            down_since: None,
            wake: None,
        }
    }

    /// The process is gone; the disk stays.
    pub fn die(&mut self, now: u64) {
        self.down_since = Some(now);
        self.life += 1;
        self.core = None;
        self.calls.clear();
        self.open.clear();
        self.prepared.clear();
        self.running.clear();
        self.killed.clear();
        self.errands.clear();
        self.advertises = false;
        self.wake = None;
    }

    /// The power fails: the last `count` records never reached the disk. What an owner decided and
    /// what it was told is stored did. Returns the jobs whose end was forgotten.
    pub fn forget(&mut self, count: usize, truth: &Truth) -> Vec<JobId> {
        let sure = self.journal.iter().rposition(|record| {
            matches!(
                record,
                Record::Offer(_)
                    | Record::Draining(_)
                    | Record::Allowed { .. }
                    | Record::Job { .. }
            )
        });
        let sure = sure.map_or(0, |position| position + 1);
        let left = self.journal.len().saturating_sub(count).max(sure);
        let forgotten = self.journal.split_off(left);
        self.disk = Snapshot::default();
        self.books = Books::default();
        for record in &self.journal {
            // It was checked when it was stored.
            let _checked = self.books.store(self.id, truth, record);
            self.disk.apply(record.clone());
        }
        let ends = forgotten.iter().filter_map(|record| match record {
            Record::JobEnded { job, .. } => Some(*job),
            _ => None,
        });
        ends.collect()
    }

    /// Whether its owner drains it.
    pub fn is_draining(&self) -> bool {
        self.core.as_ref().is_some_and(Core::is_draining)
    }

    /// Thousandths of the one GPU, which all share, that tasks run with.
    fn gpu_used(&self) -> u64 {
        let used = self.running.values().map(|needs| &needs.gpus);
        used.map(|gpus| u64::from(gpus.count) * u64::from(gpus.milli))
            .sum()
    }

    /// Whether what runs fits into what is offered. Returns both, in thousandths of a CPU.
    pub fn check_running(&self) -> Result<(u64, u64), String> {
        let used: u64 = self
            .running
            .values()
            .map(|needs| u64::from(needs.cpus.0))
            .sum();
        let total = u64::from(self.cpus) * 1_000;
        if used > total {
            return Err(format!(
                "a slot was given twice: {used} of {total} thousandths of a CPU run"
            ));
        }
        let gpu = self.gpu_used();
        if gpu > u64::from(WHOLE_GPU) {
            return Err(format!(
                "a slot was given twice: {gpu} thousandths of a GPU run"
            ));
        }
        Ok((used, total))
    }

    /// Whether what runs fits, and the ledger says the same.
    pub fn check_slots(&self) -> Result<(), String> {
        let (used, total) = self.check_running()?;
        let Some(core) = &self.core else {
            return Ok(());
        };
        let view = core.capacity();
        let counted = view.running as usize == self.running.len();
        // Nothing is free of a node that drains.
        let adds_up = match core.is_draining() {
            true => view.free.cpus.0 == 0 && view.queued == 0,
            false => u64::from(view.free.cpus.0) + used == total,
        };
        let taken = self.gpu_used();
        let free: u64 = view.free.gpus.iter().map(|gpu| u64::from(gpu.milli)).sum();
        let gpu_adds_up = core.is_draining() || free + taken == u64::from(WHOLE_GPU);
        if view.offering && !gpu_adds_up {
            return Err(format!(
                "the ledger says {free} thousandths of a GPU are free, and {taken} are used"
            ));
        }
        // Five nodes and the stranger: whoever asks again and again is kept once.
        if core.requests().len() > 6 {
            return Err("more requests than there are peers".to_owned());
        }
        if view.offering && !(adds_up && counted) {
            return Err(format!(
                "the ledger says {} free and {} runs, but {used} of {total} are used by {}",
                view.free.cpus,
                view.running,
                self.running.len()
            ));
        }
        if core.counters().illegal_transitions > 0 {
            return Err("an illegal transition".to_owned());
        }
        Ok(())
    }

    /// Whether nothing runs or is made for a peer that the owner does not let in, but what was killed and
    /// is about to end.
    pub fn check_denied(&self, now: u64) -> Result<(), String> {
        let Some(core) = &self.core else {
            return Ok(());
        };
        let denied = |hosted: &HostedJob| {
            let said = core.allowed_peers().get(&hosted.submitter);
            hosted.submitter != self.id
                && said.map_or(!core.capacity().allow_any, |grant| {
                    grant.is_denial() && !core.allowed(now, &hosted.submitter)
                })
        };
        let making = self.prepared.iter().filter(|(_, made)| !made.done);
        if let Some(((hosted, step), _)) = making.into_iter().find(|((of, _), _)| denied(of)) {
            return Err(format!(
                "step {step} of {hosted:?} is made for who is denied"
            ));
        }
        let mut alive = self
            .running
            .keys()
            .filter(|run| !self.killed.contains(*run));
        match alive.find(|run| denied(&run.hosted())) {
            Some(run) => Err(format!("{run:?} runs on for who is denied")),
            None => Ok(()),
        }
    }

    /// Whether nothing of anybody's job is left here.
    pub fn check_empty(&self) -> Result<(), String> {
        let Some(core) = &self.core else {
            return Err("down".to_owned());
        };
        let hosted = core.hosted_jobs();
        if !hosted.is_empty() || !self.disk.hosted.is_empty() {
            return Err(format!(
                "still hosts {hosted:?}, on disk {}",
                self.disk.hosted.len()
            ));
        }
        if !self.running.is_empty() || !self.outputs.is_empty() {
            let (runs, outputs) = (self.running.len(), self.outputs.len());
            return Err(format!("{runs} runs and {outputs} outputs are left"));
        }
        Ok(())
    }
}
