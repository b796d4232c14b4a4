//! The node's workers: started when there is work, replaced when they die.
//!
//! Each environment belongs to one place; a place has a worker or none. A worker that ended (crashed,
//! idle, told to) leaves its place empty, and the next task that comes starts a new one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use p2pnode_protocol::task::{Failure, FailureKind};

use super::outbox::lock;
use super::process::Worker;
use super::{WasmConfig, WasmStats};

/// How long a failed start counts: tasks that come meanwhile get the same answer, instead of a
/// process each.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// All workers of one runtime.
#[derive(Debug)]
pub struct Pool {
    config: WasmConfig,
    places: Vec<Place>,
    next: AtomicUsize,
    stopping: AtomicBool,
}

#[derive(Debug, Default)]
struct Place {
    worker: Mutex<Option<Arc<Worker>>>,
    /// One start at a time; when and why the last one failed.
    starting: tokio::sync::Mutex<Option<(Instant, Failure)>>,
}

impl Place {
    fn worker(&self) -> Option<Arc<Worker>> {
        lock(&self.worker)
            .as_ref()
            .filter(|worker| worker.is_open())
            .map(Arc::clone)
    }
}

impl Pool {
    /// No process is started yet.
    pub fn new(config: WasmConfig) -> Self {
        Self {
            places: (0..config.workers.max(1))
                .map(|_| Place::default())
                .collect(),
            config,
            next: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    /// The place for the next environment.
    pub fn next_place(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.places.len()
    }

    /// What the pool was made with.
    pub fn config(&self) -> &WasmConfig {
        &self.config
    }

    /// The worker at `place`, started when there is none.
    ///
    /// # Errors
    /// When it cannot be started, or the node is stopping.
    pub async fn worker(&self, place: usize) -> Result<Arc<Worker>, Failure> {
        let place = &self.places[place % self.places.len()];
        if let Some(worker) = place.worker() {
            return Ok(worker);
        }
        let mut last_failure = place.starting.lock().await;
        if self.stopping.load(Ordering::SeqCst) {
            return Err(stopping());
        }
        if let Some(worker) = place.worker() {
            return Ok(worker);
        }
        if let Some((when, failure)) = &*last_failure
            && when.elapsed() < RETRY_PAUSE
        {
            return Err(failure.clone());
        }
        match Worker::start(&self.config).await {
            Ok(worker) => {
                *last_failure = None;
                *lock(&place.worker) = Some(Arc::clone(&worker));
                Ok(worker)
            }
            Err(failure) => {
                *last_failure = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    /// What goes on.
    pub fn stats(&self) -> WasmStats {
        let workers = self
            .places
            .iter()
            .filter_map(|place| lock(&place.worker).clone())
            .filter(|worker| !worker.is_gone());
        let mut stats = WasmStats::default();
        for worker in workers {
            stats.worker_pids.push(worker.pid);
            stats.running += lock(&worker.table).running();
        }
        stats
    }

    /// Ends all workers and refuses new work; returns when their processes are gone.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for place in &self.places {
            // A start that is under way is waited for.
            let starting = place.starting.lock().await;
            let worker = lock(&place.worker).take();
            drop(starting);
            if let Some(worker) = worker {
                worker.kill(stopping());
                worker.gone().await;
            }
        }
    }
}

impl Drop for Pool {
    /// The tasks that serve a worker would keep it until the async runtime ends.
    fn drop(&mut self) {
        for place in &self.places {
            if let Some(worker) = lock(&place.worker).take() {
                worker.kill(stopping());
            }
        }
    }
}

fn stopping() -> Failure {
    Failure::new(
        FailureKind::ProviderStopping,
        "the provider is shutting down",
    )
}
