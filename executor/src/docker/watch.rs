//! Watches a running task: its time and whether it still does anything; `space` watches its disk.
//!
//! [`watch`] returns only when a limit is broken, with the failure; killing is the caller's. Of time
//! and output it knows through [`Pulse`], which the output pump feeds. What it reads it also tells
//! whoever holds the task.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::{Failure, FailureKind, Usage};
use tokio::time::{Instant, sleep_until};

use super::meter::{Meter, Sample};
use super::space;
use crate::{Hold, LiveUsage};

/// First reading of the meter after the start; each pause doubles, so that short tasks are metered
/// and long ones cost next to nothing.
const FIRST_READING: Duration = Duration::from_millis(10);

/// Longest pause between readings: how stale the use of a task that ended may be.
const LAST_READING: Duration = Duration::from_millis(500);

/// A task is busy when it used more than one part in this many of one CPU since the last reading.
/// A program that polls ten times a second stays under 1 %; one that computes is far above.
const BUSY_PART: u32 = 100;

/// Signs of life of one run, and its last known use.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    wrote: AtomicBool,
    waiting: AtomicBool,
    sample: Mutex<Option<Sample>>,
    disk: AtomicU64,
    held: Mutex<Held>,
    began: OnceLock<Instant>,
    ended: OnceLock<Instant>,
}

/// How long the owner has held the task.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    since: Option<Instant>,
    before: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pulse {
    /// The task is being started.
    pub(super) fn begins(&self) {
        let _ = self.began.set(Instant::now());
    }

    /// The task has ended, or is about to be ended.
    pub(super) fn ends(&self) {
        let _ = self.ended.set(Instant::now());
    }

    /// The task wrote something.
    pub(super) fn wrote(&self) {
        self.wrote.store(true, Ordering::Relaxed);
    }

    /// Whether the task's output waits for its reader now: then it is not the task that stands still.
    pub(super) fn set_waiting(&self, waiting: bool) {
        if self.waiting.swap(waiting, Ordering::Relaxed) && !waiting {
            // Whoever waited was at it until now.
            self.wrote();
        }
    }

    /// Whether there was output, a wait for its reader, or a hold of its owner's, since this was last
    /// asked.
    pub(super) fn stirred(&self) -> bool {
        self.wrote.swap(false, Ordering::Relaxed)
            | self.waiting.load(Ordering::Relaxed)
            | self.is_held()
    }

    fn metered(&self, sample: Sample) {
        *lock(&self.sample) = Some(sample);
    }

    /// The task has written this much to its work directory, in bytes.
    pub(super) fn set_disk(&self, bytes: u64) {
        self.disk.store(bytes, Ordering::Relaxed);
    }

    /// Whether its owner holds the task, which is frozen then.
    pub(super) fn is_held(&self) -> bool {
        lock(&self.held).since.is_some()
    }

    /// The owner holds the task from now on, or lets it go on.
    pub(super) fn set_held(&self, held: bool) {
        let mut time = lock(&self.held);
        match (time.since, held) {
            (None, true) => time.since = Some(Instant::now()),
            (Some(since), false) => {
                time.before += since.elapsed();
                time.since = None;
                // It could not do anything until now.
                self.wrote();
            }
            _ => {}
        }
    }

    /// How long its owner has held the task, in all.
    fn held_for(&self) -> Duration {
        let held = *lock(&self.held);
        held.before + held.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Tells whoever holds the task what it uses.
    fn tell(&self, hold: &Hold) {
        let sample = *lock(&self.sample);
        hold.usage.send_modify(|usage| {
            *usage = LiveUsage {
                disk: self.disk.load(Ordering::Relaxed),
                paused: self.is_held(),
                ..*usage
            };
            if let Some(sample) = sample {
                usage.cpu_us = sample.cpu_us;
                usage.memory = sample.memory;
                usage.memory_peak = usage.memory_peak.max(sample.memory_peak);
                usage.processes = sample.processes;
            }
        });
    }

    /// What the task used, as far as it was seen.
    pub(super) fn usage(&self) -> Usage {
        let sample = *lock(&self.sample);
        let ended = self.ended.get().copied().unwrap_or_else(Instant::now);
        let wall = self
            .began
            .get()
            .map(|began| ended.saturating_duration_since(*began));
        let wall_us = wall.unwrap_or_default().as_micros();
        Usage {
            wall_us: u64::try_from(wall_us).unwrap_or(u64::MAX),
            cpu_us: sample.map_or(0, |sample| sample.cpu_us),
            memory_peak: sample.map_or(0, |sample| sample.memory_peak),
            ..Usage::default()
        }
    }
}

/// What a task must keep to.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Longest run; zero: none.
    pub timeout: Duration,
    /// Longest stillness; zero: none.
    pub stall: Duration,
    /// The task's work directory.
    pub work_dir: PathBuf,
    /// Bytes that may stand in it, inputs included.
    pub disk: u64,
    /// The part of `disk` that the task asked for, for the message.
    pub asked: Bytes,
    /// A folder on the host's own filesystem that the task's files end up on: its free space is what
    /// no task may use up.
    pub host: PathBuf,
    /// Whether the work directory is a filesystem of its own that ends where the limit is.
    pub hard: bool,
}

impl Limits {
    /// What stood in the work directory before the task began, in bytes.
    pub(super) fn inputs(&self) -> u64 {
        self.disk.saturating_sub(self.asked.0)
    }
}

/// Returns when a limit is broken.
pub(super) async fn watch(limits: &Limits, meter: Meter, pulse: &Pulse, hold: &Hold) -> Failure {
    let holders = meter.holders();
    tokio::select! {
        failure = clock(limits, meter, pulse, hold) => failure,
        failure = space::watch(limits, holders, pulse) => failure,
    }
}

async fn clock(limits: &Limits, mut meter: Meter, pulse: &Pulse, hold: &Hold) -> Failure {
    let started = Instant::now();
    // A year stands for never.
    let deadline = |limit: Duration| {
        if limit.is_zero() {
            Duration::from_secs(31_536_000)
        } else {
            limit
        }
    };
    let end = started + deadline(limits.timeout);
    let longest_pause = LAST_READING.min(deadline(limits.stall) / 4);
    let mut pause = FIRST_READING.min(longest_pause);
    let mut stillness = Stillness::new(started);
    loop {
        let held = pulse.held_for();
        sleep_until((end + held).min(Instant::now() + pause)).await;
        pause = (pause * 2).min(longest_pause);
        let sample = meter.read();
        if let Some(sample) = sample {
            pulse.metered(sample);
        }
        pulse.tell(hold);
        let now = Instant::now();
        if now >= end + pulse.held_for() {
            return Failure::new(
                FailureKind::Timeout,
                format!(
                    "ran longer than {:?} and was ended; raise `timeout` in [policy] if it needs longer",
                    limits.timeout
                ),
            );
        }
        if stillness.since(now, sample, pulse.stirred()) >= deadline(limits.stall) {
            return Failure::new(
                FailureKind::Stalled,
                format!(
                    "neither wrote anything nor used a CPU for {:?} and was ended; raise `stall` in \
                     [policy] if it may be still for longer",
                    limits.stall
                ),
            );
        }
    }
}

/// How long a task has done nothing.
#[derive(Debug)]
struct Stillness {
    active: Instant,
    last: Option<Sample>,
}

impl Stillness {
    fn new(now: Instant) -> Self {
        Self {
            active: now,
            last: None,
        }
    }

    /// `stirred`: it wrote, or waits for its reader. Without a reading of its CPU use nobody can say
    /// that it is idle, so then it is not: it may just have ended.
    fn since(&mut self, now: Instant, sample: Option<Sample>, stirred: bool) -> Duration {
        let busy = match (self.last, sample) {
            (Some(last), Some(sample)) => {
                let passed = sample.at.saturating_duration_since(last.at);
                let used = Duration::from_micros(sample.cpu_us.saturating_sub(last.cpu_us));
                !passed.is_zero() && used >= passed / BUSY_PART
            }
            (None, _) | (_, None) => true,
        };
        self.last = sample.or(self.last);
        if busy || stirred {
            self.active = now;
        }
        now.saturating_duration_since(self.active)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn stillness_counts_from_the_last_sign_of_life() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let sample = |s: u64, cpu_ms: u64| {
            Some(Sample {
                at: at(s),
                cpu_us: cpu_ms * 1_000,
                memory: 0,
                memory_peak: 0,
                processes: 1,
            })
        };
        let seconds = Duration::from_secs;
        let mut still = Stillness::new(start);
        assert_eq!(still.since(at(1), sample(1, 50), false), seconds(0));
        assert_eq!(
            still.since(at(2), sample(2, 52), false),
            seconds(1),
            "2 ms in 1 s is idle"
        );
        assert_eq!(
            still.since(at(3), sample(3, 100), false),
            seconds(0),
            "48 ms in 1 s is busy"
        );
        assert_eq!(still.since(at(5), sample(5, 100), false), seconds(2));
        assert_eq!(
            still.since(at(6), sample(6, 100), true),
            seconds(0),
            "output is life"
        );
        assert_eq!(
            still.since(at(8), sample(6, 100), false),
            seconds(2),
            "an old reading is no life"
        );
        assert_eq!(
            still.since(at(9), sample(6, 100), false),
            seconds(3),
            "nor is an old one"
        );
        assert_eq!(
            still.since(at(10), None, false),
            seconds(0),
            "nobody can tell"
        );
    }

    #[tokio::test]
    async fn without_readings_nobody_is_still() {
        let start = Instant::now();
        let mut still = Stillness::new(start);
        assert_eq!(
            still.since(start + Duration::from_secs(9), None, false),
            Duration::ZERO
        );
    }

    #[test]
    fn waiting_for_the_reader_is_life_until_it_ends_and_once_more() {
        let pulse = Pulse::default();
        assert!(!pulse.stirred());
        pulse.set_waiting(true);
        assert!(pulse.stirred() && pulse.stirred());
        pulse.set_waiting(false);
        assert!(pulse.stirred());
        assert!(!pulse.stirred());
    }

    #[tokio::test]
    async fn a_held_task_is_not_still_and_its_time_stands() {
        let pulse = Pulse::default();
        let moment = Duration::from_millis(20);
        pulse.set_held(true);
        pulse.set_held(true);
        assert!(pulse.stirred() && pulse.stirred());
        sleep(moment).await;
        pulse.set_held(false);
        pulse.set_held(false);
        let held = pulse.held_for();
        assert!(held >= moment, "{held:?}");
        assert!(pulse.stirred(), "nobody could stir until now");
        assert!(!pulse.stirred());
        sleep(moment).await;
        assert_eq!(pulse.held_for(), held);
        pulse.set_held(true);
        sleep(moment).await;
        assert!(pulse.held_for() >= held + moment);
    }

    #[tokio::test]
    async fn what_is_told_leaves_what_others_tell() {
        let hold = Hold::default();
        hold.usage.send_modify(|usage| {
            usage.network_bytes = 9;
            usage.memory_peak = 700;
        });
        let pulse = Pulse::default();
        pulse.set_disk(5);
        pulse.metered(Sample {
            at: Instant::now(),
            cpu_us: 1,
            memory: 2,
            memory_peak: 3,
            processes: 4,
        });
        pulse.tell(&hold);
        let expected = LiveUsage {
            cpu_us: 1,
            memory: 2,
            memory_peak: 700,
            disk: 5,
            network_bytes: 9,
            processes: 4,
            paused: false,
        };
        assert_eq!(*hold.usage.borrow(), expected);
    }
}
