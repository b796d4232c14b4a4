//! Moves the engines' epoch on while tasks run.
//!
//! A guest looks at the epoch at every loop and call; when it has moved on, the guest yields, and the
//! worker can end it or let another one run. One thread does the moving, and only while there is
//! somebody to yield: an idle worker never wakes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::wasm::outbox::lock;

/// How often a guest yields: how long a cancelled or expired task may go on, and the time slice when
/// more tasks run than there are threads. A yield costs some microseconds, so a thousandth of it.
const TICK: Duration = Duration::from_millis(2);

/// Ticks without a task before the thread sleeps: a fifth of a second, so that a stream of tiny
/// tasks does not pay for waking it again and again.
const LINGER_TICKS: u32 = 100;

/// Counts running tasks and wakes the thread that ticks for them.
#[derive(Debug, Default)]
pub struct Ticker {
    running: AtomicUsize,
    asleep: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

/// One running task; dropping it says that it has ended.
#[derive(Debug)]
pub struct Running<'a>(&'a Ticker);

impl Ticker {
    /// Starts the thread, which calls `tick` while tasks run, for the life of the process.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(tick: impl Fn() + Send + 'static) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self::default());
        let shared = Arc::clone(&ticker);
        std::thread::Builder::new()
            .name("wasm-ticker".to_owned())
            .spawn(move || shared.work(&tick))?;
        Ok(ticker)
    }

    /// Says that a task runs.
    pub fn enter(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            // The lock makes sure that the thread waits, or has not looked yet.
            let _held = lock(&self.lock);
            self.wake.notify_one();
        }
        Running(self)
    }

    fn work(&self, tick: &dyn Fn()) {
        let mut idle_ticks = 0;
        loop {
            std::thread::sleep(TICK);
            if self.running.load(Ordering::SeqCst) > 0 {
                idle_ticks = 0;
                tick();
                continue;
            }
            idle_ticks += 1;
            if idle_ticks > LINGER_TICKS {
                self.sleep();
                idle_ticks = 0;
            }
        }
    }

    fn sleep(&self) {
        let held = lock(&self.lock);
        self.asleep.store(true, Ordering::SeqCst);
        let held = self
            .wake
            .wait_while(held, |()| self.running.load(Ordering::SeqCst) == 0);
        self.asleep.store(false, Ordering::SeqCst);
        drop(held);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Instant;

    use super::*;

    /// Waits until `condition` holds.
    fn until(condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(30), "did not happen");
            std::thread::yield_now();
        }
    }

    #[test]
    fn it_ticks_while_tasks_run_and_sleeps_in_between() {
        let ticks = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&ticks);
        let ticker = Ticker::start(move || {
            seen.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
        for _ in 0..2 {
            let before = ticks.load(Ordering::SeqCst);
            let (one, two) = (ticker.enter(), ticker.enter());
            until(|| ticks.load(Ordering::SeqCst) > before + 3);
            drop(one);
            let before = ticks.load(Ordering::SeqCst);
            until(|| ticks.load(Ordering::SeqCst) > before + 3);
            drop(two);
            until(|| ticker.asleep.load(Ordering::SeqCst));
        }
    }
}
