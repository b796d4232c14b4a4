//! What a task uses: CPU time, memory, progress.
//!
//! Written by the thread that runs the guest, read by the one that decides about it; a task moves
//! between threads but runs on one at a time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use p2pnode_protocol::Bytes;
use rustix::time::{ClockId, clock_gettime};
use wasmtime::ResourceLimiter;

use super::output::Output;

/// What counts as CPU use when a task is suspected to stand still: a tick of the kernel's accounting.
/// Less than that is what our own looking at it costs.
const STILL: Duration = Duration::from_millis(10);

/// Bytes that one element of a table takes in wasmtime.
const TABLE_ELEMENT_BYTES: usize = 8;

/// What one task has used.
#[derive(Debug, Default)]
pub struct Gauge {
    cpu_ns: AtomicU64,
    memory_peak: AtomicU64,
    memory_denied: AtomicBool,
    disk_full: AtomicBool,
    host_full: AtomicBool,
}

impl Gauge {
    /// CPU time until the last time it stopped running, in microseconds.
    pub fn cpu_us(&self) -> u64 {
        self.cpu_ns.load(Ordering::Relaxed) / 1_000
    }

    /// Most linear memory and tables so far, in bytes.
    pub fn memory_peak(&self) -> u64 {
        self.memory_peak.load(Ordering::Relaxed)
    }

    /// Whether it asked for more memory than its limit.
    pub fn memory_denied(&self) -> bool {
        self.memory_denied.load(Ordering::Relaxed)
    }

    /// Whether it was ended because its disk was full.
    pub fn disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Relaxed)
    }

    /// Says that its disk is full.
    pub fn set_disk_full(&self) {
        self.disk_full.store(true, Ordering::Relaxed);
    }

    /// Whether it was ended because the host's disk was nearly full.
    pub fn host_full(&self) -> bool {
        self.host_full.load(Ordering::Relaxed)
    }

    /// Says that the host's disk is nearly full.
    pub fn set_host_full(&self) {
        self.host_full.store(true, Ordering::Relaxed);
    }
}

/// Holds a store to its memory limit.
#[derive(Debug)]
pub struct MemoryLimit {
    limit: u64,
    used: u64,
    gauge: Arc<Gauge>,
}

impl MemoryLimit {
    /// A limit on linear memories and tables together, in bytes.
    pub fn new(limit: Bytes, gauge: Arc<Gauge>) -> Self {
        Self {
            limit: limit.0,
            used: 0,
            gauge,
        }
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let more = desired.saturating_sub(current) as u64;
        let total = self.used.saturating_add(more);
        if total > self.limit {
            self.gauge.memory_denied.store(true, Ordering::Relaxed);
            return false;
        }
        self.used = total;
        self.gauge.memory_peak.fetch_max(total, Ordering::Relaxed);
        true
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = |elements: usize| elements.saturating_mul(TABLE_ELEMENT_BYTES);
        Ok(self.grow(bytes(current), bytes(desired)))
    }
}

/// A guest's call: counts the CPU time of whichever thread polls it, and hands on the guest's output
/// each time it stops running.
#[derive(Debug)]
pub struct Metered<F> {
    call: Pin<Box<F>>,
    gauge: Arc<Gauge>,
    output: Arc<Output>,
}

impl<F: Future> Metered<F> {
    /// Wraps `call`.
    pub fn new(call: F, gauge: Arc<Gauge>, output: Arc<Output>) -> Self {
        Self {
            call: Box::pin(call),
            gauge,
            output,
        }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let before = thread_cpu_ns();
        let polled = self.call.as_mut().poll(context);
        let used = thread_cpu_ns().saturating_sub(before);
        self.gauge.cpu_ns.fetch_add(used, Ordering::Relaxed);
        if polled.is_pending() {
            // At the end it goes together with the news of the end.
            self.output.flush();
        }
        polled
    }
}

/// CPU time of this thread, in nanoseconds.
fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}

/// Finds out whether a task stands still: no output, and no CPU time worth the name. A guest that
/// sleeps stands still; one that waits for its submitter to read its output does not.
#[derive(Debug)]
pub struct Progress {
    cpu_us: u64,
    written: u64,
    since: tokio::time::Instant,
    limit: Duration,
}

impl Progress {
    /// From now on, no standing still longer than `limit`.
    pub fn new(limit: Duration) -> Self {
        Self {
            cpu_us: 0,
            written: 0,
            since: tokio::time::Instant::now(),
            limit,
        }
    }

    /// When to look next. Four looks within the limit: a task is caught within 5/4 of it.
    pub fn next_look(&self) -> tokio::time::Instant {
        tokio::time::Instant::now() + self.limit / 4
    }

    /// Looks; true when the task has stood still for the whole limit.
    pub fn is_stalled(&mut self, gauge: &Gauge, output: &Output) -> bool {
        let (cpu_us, written) = (gauge.cpu_us(), output.written());
        let busy = Duration::from_micros(cpu_us.saturating_sub(self.cpu_us)) >= STILL;
        if busy || written != self.written || output.is_waiting() {
            self.cpu_us = cpu_us;
            self.written = written;
            self.since = tokio::time::Instant::now();
        }
        self.since.elapsed() >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_over_all_memories_and_tables() {
        let gauge = Arc::new(Gauge::default());
        let mut limit = MemoryLimit::new(Bytes(1_000), Arc::clone(&gauge));
        assert!(limit.grow(0, 600));
        assert!(limit.grow(0, 300));
        assert!(!gauge.memory_denied());
        assert!(!limit.grow(300, 500), "1,100 bytes in all");
        assert!(gauge.memory_denied());
        assert!(limit.grow(300, 400));
        assert_eq!(gauge.memory_peak(), 1_000);
        assert!(!limit.table_growing(0, 1, None).is_ok_and(|grown| grown));
    }

    #[test]
    fn cpu_time_moves_only_with_work() {
        let before = thread_cpu_ns();
        let mut sum = 0_u64;
        while thread_cpu_ns() - before < 1_000_000 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        assert!(thread_cpu_ns() > before);
    }
}
