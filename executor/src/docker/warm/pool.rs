//! The rooms that are free, and their end.
//!
//! A room is in the pool or with one task, never both. Rooms leave the pool for a task, for having
//! waited too long, or because the environment or the runtime ends; the keeper, one background task
//! for each pool that has ever had a room, sees to the latter two.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::super::run::Shared;
use super::room::{Key, Room};

/// How long a free room waits for a task. A provider asks for the next tasks of a job within seconds;
/// a waiting container costs some megabytes of the engine's memory and half a second of its time to
/// make again.
const IDLE: Duration = Duration::from_secs(30);

/// How often the keeper looks: a room may wait this much longer.
const LOOK: Duration = Duration::from_secs(5);

/// Free rooms of one environment. As many are in use at once as the node has slots, which is seldom
/// more.
const MOST_FREE: usize = 64;

/// The free rooms of one environment.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    /// The environment is gone.
    closed: CancellationToken,
    free: Mutex<Free>,
    unfit: OnceLock<String>,
}

#[derive(Debug, Default)]
struct Free {
    rooms: Vec<(Room, Instant)>,
    kept: bool,
    closed: bool,
}

impl Pool {
    /// An empty one. `closed` ends it.
    pub(super) fn new(shared: Arc<Shared>, closed: CancellationToken) -> Self {
        Self {
            shared,
            closed,
            free: Mutex::default(),
            unfit: OnceLock::new(),
        }
    }

    /// Rooms can't be had here: they are not tried again.
    pub(super) fn give_up(&self, why: String) {
        let _known = self.unfit.set(why);
    }

    /// Whether rooms can be had, for all that is known.
    pub(super) fn is_fit(&self) -> bool {
        self.unfit.get().is_none()
    }

    /// A free room for tasks of this kind, in which files of `file_size` bytes can be written. The one
    /// that was used last: the others may then grow old.
    pub(super) fn take(&self, key: &Key, file_size: u64) -> Option<Room> {
        let mut free = self.free();
        let found = free
            .rooms
            .iter()
            .rposition(|(room, _)| room.key == *key && room.file_size >= file_size)?;
        Some(free.rooms.remove(found).0)
    }

    /// Takes a room in, or returns it, or an older one in its place, to be removed.
    pub(super) fn give_back(self: &Arc<Self>, room: Room) -> Option<Room> {
        let mut free = self.free();
        if free.closed || self.closed.is_cancelled() || self.shared.stopping.is_cancelled() {
            return Some(room);
        }
        free.rooms.push((room, Instant::now()));
        if !free.kept {
            free.kept = true;
            self.shared.tracker.spawn(keep(Arc::clone(self)));
        }
        (free.rooms.len() > MOST_FREE).then(|| free.rooms.remove(0).0)
    }

    fn expired(&self) -> Vec<Room> {
        let now = Instant::now();
        let old = |since: Instant| now.saturating_duration_since(since) >= IDLE;
        let mut free = self.free();
        let expired = free.rooms.extract_if(.., |(_, since)| old(*since));
        expired.map(|(room, _)| room).collect()
    }

    fn close(&self) -> Vec<Room> {
        let mut free = self.free();
        free.closed = true;
        let rooms = std::mem::take(&mut free.rooms);
        rooms.into_iter().map(|(room, _)| room).collect()
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn keep(pool: Arc<Pool>) {
    loop {
        let ends = tokio::select! {
            () = pool.closed.cancelled() => true,
            () = pool.shared.stopping.cancelled() => true,
            () = sleep(LOOK) => false,
        };
        let rooms = if ends { pool.close() } else { pool.expired() };
        futures::future::join_all(rooms.into_iter().map(Room::remove)).await;
        if ends {
            return;
        }
    }
}
