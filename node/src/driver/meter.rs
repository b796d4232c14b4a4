//! Meters around tasks: who runs and what it uses, and what the machine's sensors say meanwhile.
//!
//! Owns the sensors, and the table of runs with the receivers of their live use. Sensors are read about
//! once a second while tasks run, and when somebody looks at the metrics; otherwise not at all. A run is
//! never failed by a sensor, and waits for one at most [`PATIENCE`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use p2pnode_executor::host::sensors::{Readings, Sensors};
use p2pnode_executor::{LiveUsage, TaskEnd, TaskRun};
use p2pnode_protocol::Gpu;
use tokio::sync::watch;

use super::energy::{self, Sample};
use crate::core::io::RunKey;

/// Time between readings while tasks run: short beside tasks whose energy is worth asking for, long
/// beside the milliseconds that a reading takes.
const INTERVAL: Duration = Duration::from_secs(1);

/// The longest age of a sample that a run may begin with: twice the interval, since timers are late on
/// a busy machine.
const FRESH: Duration = Duration::from_secs(2);

/// Runs shorter than this are counted by the rate of the interval before, so that a thousand tiny tasks
/// a second cause no more readings than one.
const SHORT: Duration = Duration::from_millis(200);

/// How long a run waits for a reading, at its begin and at its end. GPU drivers can take a second when
/// they are asked for the first time; then the run has no energy in its receipt.
const PATIENCE: Duration = Duration::from_millis(500);

/// See the module. Clones share all of it.
#[derive(Clone)]
pub(super) struct Meter {
    table: Arc<Mutex<Table>>,
    sensors: Arc<tokio::sync::Mutex<Eyes>>,
}

/// The sensors once they are needed: opening them loads the GPU driver's library.
type Eyes = Option<Sensors>;

#[derive(Default)]
struct Table {
    runs: BTreeMap<RunKey, Metered>,
    last: Option<Arc<Sample>>,
    /// The sample before the last.
    before: Option<Arc<Sample>>,
    readings: Option<(Instant, Readings)>,
    is_sampling: bool,
}

struct Metered {
    gpus: Vec<Gpu>,
    usage: watch::Receiver<LiveUsage>,
}

/// A task that runs, as the metrics show it.
#[derive(Debug, Clone)]
pub(super) struct RunningTask {
    pub(super) run: RunKey,
    /// UUIDs of the GPUs that it has or shares.
    pub(super) gpus: Vec<String>,
    pub(super) usage: LiveUsage,
}

/// A run's place in the table; it goes with this, also when the run's future is dropped.
pub(super) struct Entry {
    meter: Meter,
    run: RunKey,
    gpus: Vec<Gpu>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.meter.table().runs.remove(&self.run);
    }
}

impl Entry {
    /// Waits for the run, which must not have begun before, and adds its energy to what it used.
    pub(super) async fn measure(self, running: impl Future<Output = TaskEnd>) -> TaskEnd {
        let (meter, gpus) = (&self.meter, &self.gpus);
        // What a GPU took before is not this task's; CPUs are shared by time and need no exact begin.
        let old = if gpus.is_empty() {
            FRESH
        } else {
            Duration::ZERO
        };
        let first = meter.sample(old).await;
        let began = Instant::now();
        let mut end = running.await;
        end.usage.energy_mj = match first {
            Some(first) => meter.energy(&first, began, end.usage.cpu_us, gpus).await,
            None => None,
        };
        end
    }
}

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            table: Arc::default(),
            sensors: Arc::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a task that is about to run.
    pub(super) fn enter(&self, run: RunKey, task: &TaskRun) -> Entry {
        let metered = Metered {
            gpus: task.gpus.clone(),
            usage: task.hold.usage.subscribe(),
        };
        let mut table = self.table();
        table.runs.insert(run, metered);
        if !std::mem::replace(&mut table.is_sampling, true) {
            tokio::spawn(self.clone().keep_sampling());
        }
        Entry {
            meter: self.clone(),
            run,
            gpus: task.gpus.clone(),
        }
    }

    async fn energy(
        &self,
        first: &Arc<Sample>,
        began: Instant,
        cpu_us: u64,
        gpus: &[Gpu],
    ) -> Option<u64> {
        if first.cpu_uj.is_none() && gpus.is_empty() {
            return None;
        }
        if !gpus.is_empty() || began.elapsed() >= SHORT {
            let old = if gpus.is_empty() {
                SHORT
            } else {
                Duration::ZERO
            };
            let last = self.sample(old).await?;
            return energy::of_task(first, &last, cpu_us, gpus);
        }
        let (before, last) = {
            let table = self.table();
            (table.before.clone()?, table.last.clone()?)
        };
        let is_recent = last.at.duration_since(before.at) <= FRESH && last.at.elapsed() <= FRESH;
        is_recent.then(|| energy::of_task(&before, &last, cpu_us, gpus))?
    }

    /// What the meters say, at most so old. `None` when they do not answer in time.
    async fn sample(&self, old: Duration) -> Option<Arc<Sample>> {
        let young = |table: &Table| {
            let last = table.last.as_ref()?;
            (last.at.elapsed() <= old).then(|| last.clone())
        };
        if let Some(last) = young(&self.table()) {
            return Some(last);
        }
        let asked = Instant::now();
        tokio::time::timeout(PATIENCE, self.look(asked.checked_sub(old).unwrap_or(asked)))
            .await
            .ok()?;
        self.table().last.clone()
    }

    /// What all sensors say, at most so old.
    pub(super) async fn readings(&self, old: Duration) -> Option<Readings> {
        let asked = Instant::now();
        let since = asked.checked_sub(old).unwrap_or(asked);
        tokio::time::timeout(PATIENCE, self.look(since))
            .await
            .ok()?;
        let table = self.table();
        table
            .readings
            .as_ref()
            .map(|(_, readings)| readings.clone())
    }

    /// Reads the sensors unless somebody did since `since`. One reading at a time; it goes on to its end
    /// when nobody waits for it any more.
    async fn look(&self, since: Instant) {
        let mut sensors = self.sensors.clone().lock_owned().await;
        let is_new = |table: &Table| {
            let (at, _) = table.readings.as_ref()?;
            (*at >= since).then_some(())
        };
        if is_new(&self.table()).is_some() {
            return;
        }
        let table = self.table.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let readings = sensors.get_or_insert_with(Sensors::of_this_machine).read();
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            table.take_in(Instant::now(), readings);
        });
        if reading.await.is_err() {
            tracing::warn!("reading the sensors was interrupted");
        }
    }

    async fn keep_sampling(self) {
        loop {
            self.look(Instant::now()).await;
            tokio::time::sleep(INTERVAL).await;
            let mut table = self.table();
            if table.runs.is_empty() {
                table.is_sampling = false;
                return;
            }
        }
    }

    /// The first `limit` of the tasks that run, in the order of their names.
    pub(super) fn running(&self, limit: usize) -> Vec<RunningTask> {
        let table = self.table();
        let first = table.runs.iter().take(limit);
        let shown = first.map(|(run, metered)| RunningTask {
            run: *run,
            gpus: metered.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
            usage: *metered.usage.borrow(),
        });
        shown.collect()
    }
}

impl Table {
    fn take_in(&mut self, at: Instant, readings: Readings) {
        let gpus = readings.gpus.iter();
        let mut sample = Sample {
            at,
            generation: 0,
            cpu_uj: readings.cpu_energy_uj,
            busy_us: 0,
            gpus: gpus
                .filter_map(|gpu| Some((gpu.uuid.clone(), gpu.energy_mj?)))
                .collect(),
        };
        if let Some(last) = &self.last {
            match readings.busy_milli_cpus {
                Some(milli) => {
                    let passed = at.duration_since(last.at).as_micros();
                    let busy = passed * u128::from(milli) / 1_000;
                    let busy = u64::try_from(busy).unwrap_or(u64::MAX);
                    sample.busy_us = last.busy_us.saturating_add(busy);
                    sample.generation = last.generation;
                }
                None => sample.generation = last.generation + 1,
            }
        }
        self.before = self.last.replace(Arc::new(sample));
        self.readings = Some((at, readings));
    }
}

#[cfg(test)]
mod tests;
