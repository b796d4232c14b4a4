//! Measures what an offer's rules depend on: the time of the week, temperature, battery, and whether
//! somebody uses the machine.
//!
//! Owned by the driver; looks only while the rules ask for it, and decides nothing: the core judges.
//! Reading sensors blocks, so it is done off the async threads and comes back as an input.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use chrono::{Datelike, Local, Timelike};
use p2pnode_executor::host::sensors::{Readings, Sensors};
use p2pnode_protocol::MilliCpus;
use tokio::sync::mpsc;

use super::actor::Internal;
use crate::core::Core;
use crate::core::io::{Conditions, Input, Millis};

/// Time between looks, in milliseconds: what a person who sits down, or a machine that gets hot, can
/// wait for.
const INTERVAL_MS: Millis = 5_000;

/// See the module.
pub(super) struct Watch {
    /// Loaded at the first look.
    meter: Arc<Mutex<Option<Meter>>>,
    cpus: MilliCpus,
    internal: mpsc::Sender<Internal>,
    next: Option<Millis>,
}

/// The sensors, and what this node itself had used at the last look.
struct Meter {
    sensors: Sensors,
    last: Option<(Instant, u64)>,
}

impl Watch {
    /// Looks for the first time at `now`: an earlier life may have left an offer with rules.
    pub(super) fn new(cpus: MilliCpus, internal: mpsc::Sender<Internal>, now: Millis) -> Self {
        Self {
            meter: Arc::default(),
            cpus,
            internal,
            next: Some(now),
        }
    }

    /// When it wants to look again.
    pub(super) const fn next_deadline(&self) -> Option<Millis> {
        self.next
    }

    /// The offer, and perhaps its rules, changed.
    pub(super) fn on_offer(&mut self, now: Millis) {
        self.next = Some(now);
    }

    /// Looks when it is time and the rules ask for it. `tasks_cpu_us` is the CPU time that the tasks
    /// under way have used so far outside this process and its children, in microseconds.
    pub(super) fn on_tick(&mut self, now: Millis, core: &Core, tasks_cpu_us: u64) {
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        let view = core.capacity();
        if !view.offering || !view.rules.is_conditional() {
            self.next = None;
            return;
        }
        self.next = Some(now + INTERVAL_MS);
        let offered: BTreeSet<String> = view.total.gpus.into_iter().map(|gpu| gpu.uuid).collect();
        let (meter, cpus, internal) = (self.meter.clone(), self.cpus, self.internal.clone());
        tokio::task::spawn_blocking(move || {
            let conditions = {
                let mut meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
                let meter = meter.get_or_insert_with(Meter::load);
                meter.measure(cpus, tasks_cpu_us, &offered)
            };
            // The driver is gone only when the node stops.
            let _stopping = internal.blocking_send(Internal::Input(Input::Conditions(conditions)));
        });
    }
}

impl Meter {
    fn load() -> Self {
        Self {
            sensors: Sensors::of_this_machine(),
            last: None,
        }
    }

    fn measure(
        &mut self,
        cpus: MilliCpus,
        tasks_cpu_us: u64,
        offered: &BTreeSet<String>,
    ) -> Conditions {
        let readings = self.sensors.read();
        let now = Instant::now();
        let used_us = tasks_cpu_us.saturating_add(family_cpu_us());
        let before = self.last.replace((now, used_us));
        let own_milli = before.map_or(0, |(at, before_us)| {
            let passed_us = now.saturating_duration_since(at).as_micros().max(1);
            let own_us = u128::from(used_us.saturating_sub(before_us));
            u64::try_from(own_us * 1_000 / passed_us).unwrap_or(u64::MAX)
        });
        conditions(&readings, own_milli, cpus, offered)
    }
}

/// What the core is told. `own_milli` is what this node and its tasks used, in thousandths of a CPU.
fn conditions(
    readings: &Readings,
    own_milli: u64,
    cpus: MilliCpus,
    offered: &BTreeSet<String>,
) -> Conditions {
    let now = Local::now();
    let minutes = now.weekday().num_days_from_monday() * 1_440 + now.hour() * 60 + now.minute();
    let foreign_percent = readings.busy_milli_cpus.map(|busy| {
        let foreign = u64::from(busy).saturating_sub(own_milli);
        foreign * 100 / u64::from(cpus.0.max(1))
    });
    let gpus = readings
        .gpus
        .iter()
        .filter(|gpu| offered.contains(&gpu.uuid));
    let hottest = gpus.filter_map(|gpu| gpu.temperature_c).reduce(f32::max);
    let degrees = |celsius: f32| celsius.round() as i32;
    Conditions {
        minute_of_week: minutes as u16,
        user_idle_ms: readings
            .user_idle
            .map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
        foreign_percent,
        on_battery: readings.on_battery,
        cpu_c: readings.cpu_temperature_c.map(degrees),
        gpu_c: hottest.map(degrees),
    }
}

/// CPU time of this process and its children, dead or alive, in microseconds; 0 where the system does
/// not tell. The WASM workers are such children.
fn family_cpu_us() -> u64 {
    let children = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let listed = children.filter_map(|thread| {
        let path = thread.ok()?.path().join("children");
        std::fs::read_to_string(path).ok()
    });
    let children: u64 = listed
        .flat_map(|list| {
            list.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .filter_map(|pid| cpu_us_of(&pid))
        .fold(0, u64::saturating_add);
    children.saturating_add(cpu_us_of("self").unwrap_or(0))
}

/// utime, stime and those of children that were waited for (fields 14 to 17 of proc(5)'s `stat`).
fn cpu_us_of(process: &str) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is a name in parentheses that may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields = rest.split_whitespace().skip(11).take(4);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(ticks.saturating_mul(1_000_000) / per_second)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use p2pnode_executor::host::sensors::GpuReading;

    use super::*;

    #[test]
    fn readings_become_conditions() {
        let gpu = |uuid: &str, celsius| GpuReading {
            uuid: uuid.to_owned(),
            temperature_c: Some(celsius),
            ..GpuReading::default()
        };
        let readings = Readings {
            cpu_temperature_c: Some(61.6),
            on_battery: Some(true),
            user_idle: Some(Duration::from_secs(7)),
            busy_milli_cpus: Some(3_000),
            gpus: vec![gpu("GPU-mine", 50.0), gpu("GPU-other", 90.0)],
            ..Readings::default()
        };
        let offered = BTreeSet::from(["GPU-mine".to_owned()]);
        let told = conditions(&readings, 1_000, MilliCpus::whole(4), &offered);
        assert_eq!((told.cpu_c, told.gpu_c), (Some(62), Some(50)));
        assert_eq!(
            told.foreign_percent,
            Some(50),
            "two of four CPUs are not ours"
        );
        assert_eq!(told.user_idle_ms, Some(7_000));
        assert_eq!(told.on_battery, Some(true));
        assert!(told.minute_of_week < p2pnode_protocol::offer::MINUTES_OF_WEEK);
        let nothing = conditions(&Readings::default(), 9_000, MilliCpus::whole(4), &offered);
        assert_eq!((nothing.foreign_percent, nothing.gpu_c), (None, None));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_cpu_time() {
        let before = family_cpu_us();
        let started = Instant::now();
        let mut sum = 0_u64;
        while started.elapsed() < Duration::from_millis(200) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(family_cpu_us() > before, "{sum}");
    }
}
