//! Work that several callers share: who asks for what is under way joins it.
//!
//! Owns who waits for what. The work is a task of its own, so that no caller's end is another's: the
//! first may leave and the rest go on waiting, or, when the work lives on what the first has brought,
//! one of the rest takes over. When nobody is left the work is told to stop, and whoever asks for the
//! same again meanwhile waits until it has cleaned up behind it. Nothing is remembered when the work
//! has ended: that is the cache's business.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::PrepareProgress;

/// What the work tells all who wait. Only the newest is kept.
#[derive(Debug, Clone)]
pub(super) struct Steps(Arc<watch::Sender<PrepareProgress>>);

impl Steps {
    /// How far it is.
    pub(super) fn at(&self, done: u64, total: u64) {
        self.0.send_replace(PrepareProgress { done, total });
    }
}

/// What is under way, by what it is for.
#[derive(Debug)]
pub(super) struct Flights<K, T> {
    under_way: Arc<Mutex<Vec<Flight<K, T>>>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Flight<K, T> {
    key: K,
    serial: u64,
    waiting: usize,
    stop: CancellationToken,
    steps: watch::Receiver<PrepareProgress>,
    outcome: watch::Receiver<Option<T>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self {
            under_way: Arc::default(),
            next: AtomicU64::new(0),
        }
    }
}

impl<K, T> Flights<K, T> {
    fn list(&self) -> MutexGuard<'_, Vec<Flight<K, T>>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller's place in a flight; when the last is given up, the work is told to stop.
struct Seat<'a, K, T> {
    flights: &'a Flights<K, T>,
    serial: u64,
    /// Whether the work ends with this caller.
    vital: bool,
    stop: CancellationToken,
    steps: watch::Receiver<PrepareProgress>,
    outcome: watch::Receiver<Option<T>>,
}

impl<K, T> Drop for Seat<'_, K, T> {
    fn drop(&mut self) {
        let mut list = self.flights.list();
        let flight = list.iter_mut().find(|flight| flight.serial == self.serial);
        if let Some(flight) = flight {
            flight.waiting -= 1;
            let left_early = self.vital && self.outcome.borrow().is_none();
            if flight.waiting == 0 || left_early {
                flight.stop.cancel();
            }
        }
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + PartialEq + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// The outcome of `work` for `key`: of the one that is under way, or of this one, which then runs
    /// in `tracker`. `parent` stops it, too. `own`: the work needs what this caller has brought, and
    /// can't go on without him. `None` when the work broke off by a fault of ours.
    pub(super) async fn share<F>(
        &self,
        (key, own): (K, bool),
        (tracker, parent): (&TaskTracker, &CancellationToken),
        progress: &mpsc::Sender<PrepareProgress>,
        work: impl Fn(Steps, CancellationToken) -> F,
    ) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        loop {
            let mut seat = self.seat((key.clone(), own), tracker, parent, &work);
            let outcome = loop {
                tokio::select! {
                    biased;
                    outcome = seat.outcome.wait_for(Option::is_some) => {
                        break outcome.ok().and_then(|outcome| outcome.clone());
                    }
                    Ok(()) = seat.steps.changed() => {
                        let at = *seat.steps.borrow_and_update();
                        // A full channel is not waited for: the next step tells more.
                        let _ = progress.try_send(at);
                    }
                }
            };
            // It was stopped while this caller waited: whose it was has left.
            if seat.stop.is_cancelled() && !parent.is_cancelled() {
                continue;
            }
            return outcome;
        }
    }

    fn seat<F>(
        &self,
        (key, own): (K, bool),
        tracker: &TaskTracker,
        parent: &CancellationToken,
        work: &impl Fn(Steps, CancellationToken) -> F,
    ) -> Seat<'_, K, T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut list = self.list();
        let same = list.iter_mut().rev().find(|flight| flight.key == key);
        let mut earlier = None;
        if let Some(flight) = same {
            if !flight.stop.is_cancelled() {
                flight.waiting += 1;
                return Seat {
                    flights: self,
                    serial: flight.serial,
                    vital: false,
                    stop: flight.stop.clone(),
                    steps: flight.steps.clone(),
                    outcome: flight.outcome.clone(),
                };
            }
            earlier = Some(flight.outcome.clone());
        }
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        let (say, steps) = watch::channel(PrepareProgress::default());
        let (tell, outcome) = watch::channel(None);
        let stop = parent.child_token();
        let work = work(Steps(Arc::new(say)), stop.clone());
        let landing = Landing(Arc::clone(&self.under_way), serial);
        tracker.spawn(async move {
            let _landing = landing;
            if let Some(mut earlier) = earlier {
                // An error is its end as well.
                let _ = earlier.wait_for(Option::is_some).await;
            }
            tell.send_replace(Some(work.await));
        });
        list.push(Flight {
            key,
            serial,
            waiting: 1,
            stop: stop.clone(),
            steps: steps.clone(),
            outcome: outcome.clone(),
        });
        Seat {
            flights: self,
            serial,
            vital: own,
            stop,
            steps,
            outcome,
        }
    }
}

/// Takes a flight off the list when its work has ended, however it did.
struct Landing<K, T>(Arc<Mutex<Vec<Flight<K, T>>>>, u64);

impl<K, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|flight| flight.serial != self.1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Semaphore;

    use super::*;

    struct Rig {
        flights: Flights<&'static str, usize>,
        tracker: TaskTracker,
        parent: CancellationToken,
        begun: Arc<AtomicUsize>,
        gate: Arc<Semaphore>,
    }

    impl Rig {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                flights: Flights::default(),
                tracker: TaskTracker::new(),
                parent: CancellationToken::new(),
                begun: Arc::default(),
                gate: Arc::new(Semaphore::new(0)),
            })
        }

        /// Work that waits at the gate, or says 0 when it is stopped.
        fn ask(
            self: &Arc<Self>,
            key: &'static str,
            progress: mpsc::Sender<PrepareProgress>,
        ) -> tokio::task::JoinHandle<Option<usize>> {
            let rig = Arc::clone(self);
            tokio::spawn(async move {
                let work = |steps: Steps, stop: CancellationToken| {
                    let (begun, gate) = (Arc::clone(&rig.begun), Arc::clone(&rig.gate));
                    async move {
                        let serial = begun.fetch_add(1, Ordering::SeqCst) + 1;
                        steps.at(1, 2);
                        tokio::select! {
                            permit = gate.acquire() => { permit.unwrap().forget(); serial }
                            () = stop.cancelled() => 0,
                        }
                    }
                };
                let place = (&rig.tracker, &rig.parent);
                let own = key == "own";
                rig.flights.share((key, own), place, &progress, work).await
            })
        }

        async fn settle(&self, begun: usize) {
            while self.begun.load(Ordering::SeqCst) < begun {
                tokio::task::yield_now().await;
            }
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn two_who_ask_for_the_same_share_it_and_the_first_may_leave() {
        let rig = Rig::new();
        let (progress, mut steps) = mpsc::channel(4);
        let first = rig.ask("a", progress.clone());
        rig.settle(1).await;
        let second = rig.ask("a", progress.clone());
        let other = rig.ask("b", progress);
        rig.settle(2).await;
        assert_eq!(rig.begun.load(Ordering::SeqCst), 2, "one for a, one for b");
        first.abort();
        rig.settle(2).await;
        rig.gate.add_permits(2);
        assert_eq!(second.await.unwrap(), Some(1));
        assert_eq!(other.await.unwrap(), Some(2));
        assert_eq!(
            steps.recv().await,
            Some(PrepareProgress { done: 1, total: 2 })
        );
        while !rig.flights.list().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_stops_and_can_be_asked_for_again() {
        let rig = Rig::new();
        let (progress, _steps) = mpsc::channel(4);
        let first = rig.ask("a", progress.clone());
        rig.settle(1).await;
        first.abort();
        assert!(first.await.is_err());
        // Its stop and its successor's start may meet.
        let second = rig.ask("a", progress);
        rig.settle(2).await;
        rig.gate.add_permits(1);
        assert_eq!(second.await.unwrap(), Some(2));
    }

    #[tokio::test]
    async fn work_on_what_one_has_brought_is_taken_over_when_he_leaves() {
        let rig = Rig::new();
        let (progress, _steps) = mpsc::channel(4);
        let first = rig.ask("own", progress.clone());
        rig.settle(1).await;
        let second = rig.ask("own", progress.clone());
        let third = rig.ask("own", progress);
        rig.settle(1).await;
        assert_eq!(rig.begun.load(Ordering::SeqCst), 1);
        first.abort();
        rig.settle(2).await;
        rig.gate.add_permits(1);
        assert_eq!(second.await.unwrap(), Some(2));
        assert_eq!(third.await.unwrap(), Some(2));
    }

    #[tokio::test]
    async fn the_parent_stops_all() {
        let rig = Rig::new();
        let (progress, _steps) = mpsc::channel(4);
        let asked = rig.ask("a", progress);
        rig.settle(1).await;
        rig.parent.cancel();
        assert_eq!(asked.await.unwrap(), Some(0));
    }

    #[tokio::test]
    async fn work_that_panics_is_no_outcome() {
        let rig = Rig::new();
        let (progress, _steps) = mpsc::channel(4);
        let work = |_, _| async { panic!("a fault") };
        let place = (&rig.tracker, &rig.parent);
        let asked = rig.flights.share(("a", false), place, &progress, work);
        let outcome = asked.await;
        assert_eq!(outcome, None);
    }
}
