//! Watches a running task: its time, whether it still does anything, its disk.
//!
//! [`watch`] returns only when a limit is broken, with the failure; killing is the caller's. Of time
//! and output it knows through [`Pulse`], which the output pump feeds.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::{Failure, FailureKind, Usage};
use tokio::time::{Instant, sleep, sleep_until};

use super::meter::{Meter, Sample};
use super::workdir;

/// First reading of the meter after the start; each pause doubles, so that short tasks are metered
/// and long ones cost next to nothing.
const FIRST_READING: Duration = Duration::from_millis(10);

/// Longest pause between readings: how stale the use of a task that ended may be.
const LAST_READING: Duration = Duration::from_millis(500);

/// A task is busy when it used more than one part in this many of one CPU since the last reading.
/// A program that polls ten times a second stays under 1 %; one that computes is far above.
const BUSY_PART: u32 = 100;

/// Shortest pause between two measurements of the work directory. A task may write past its limit
/// for that long; one file alone is stopped by its size limit at once.
const DISK_PAUSE: Duration = Duration::from_millis(100);

/// Longest such pause, for directories that take long to measure.
const DISK_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A measurement is followed by a pause this many times its own length: at most 5 % of one CPU.
const DISK_REST: u32 = 20;

/// Signs of life of one run, and its last known use.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    wrote: AtomicBool,
    waiting: AtomicBool,
    sample: Mutex<Option<Sample>>,
    began: OnceLock<Instant>,
    ended: OnceLock<Instant>,
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

    /// Whether there was output, or a wait for its reader, since this was last asked.
    pub(super) fn stirred(&self) -> bool {
        self.wrote.swap(false, Ordering::Relaxed) | self.waiting.load(Ordering::Relaxed)
    }

    fn metered(&self, sample: Sample) {
        *self
            .sample
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(sample);
    }

    /// What the task used, as far as it was seen.
    pub(super) fn usage(&self) -> Usage {
        let sample = *self
            .sample
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
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
}

/// Returns when a limit is broken.
pub(super) async fn watch(limits: &Limits, meter: Meter, pulse: &Pulse) -> Failure {
    tokio::select! {
        failure = clock(limits, meter, pulse) => failure,
        failure = disk(limits) => failure,
    }
}

async fn clock(limits: &Limits, mut meter: Meter, pulse: &Pulse) -> Failure {
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
        sleep_until(end.min(Instant::now() + pause)).await;
        pause = (pause * 2).min(longest_pause);
        let sample = meter.read();
        if let Some(sample) = sample {
            pulse.metered(sample);
        }
        let now = Instant::now();
        if now >= end {
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

async fn disk(limits: &Limits) -> Failure {
    let mut pause = DISK_PAUSE;
    loop {
        sleep(pause).await;
        let began = Instant::now();
        if is_over(limits, limits.disk).await {
            return disk_full(limits);
        }
        pause = (began.elapsed() * DISK_REST).clamp(DISK_PAUSE, DISK_PAUSE_MAX);
    }
}

/// Whether the work directory holds more than `limit` bytes.
async fn is_over(limits: &Limits, limit: u64) -> bool {
    let dir = limits.work_dir.clone();
    let measured = tokio::task::spawn_blocking(move || workdir::measure(&dir)).await;
    match measured {
        Ok(Ok(measure)) => measure.is_over(limit),
        // Gone, or the node is shutting down: others notice that.
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Whether a task that failed had run out of its disk: so full that one more block was too many.
pub(super) async fn was_disk_full(limits: &Limits) -> bool {
    is_over(limits, limits.disk.saturating_sub(workdir::ENTRY_BYTES)).await
}

/// The failure of a task that wrote too much.
pub(super) fn disk_full(limits: &Limits) -> Failure {
    Failure::new(
        FailureKind::DiskFull,
        format!(
            "wrote more than its {} of disk (every file and folder counts at least {}), or folders \
             more than {} deep; raise `disk` in [resources] if it needs more",
            limits.asked,
            Bytes(workdir::ENTRY_BYTES),
            workdir::MAX_DEPTH
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stillness_counts_from_the_last_sign_of_life() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let sample = |s: u64, cpu_ms: u64| {
            Some(Sample {
                at: at(s),
                cpu_us: cpu_ms * 1_000,
                memory_peak: 0,
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
}
