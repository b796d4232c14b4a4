//! Who may go in, and how many at once.
//!
//! [`Doors`] is the one check before every kind of tunnel; [`Places`] counts those that are open.
//! Called by `serve` and by nothing else.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use p2pnode_executor::inside::{Inside, InsideError};
use p2pnode_protocol::id::{JobId, PeerId, StepIndex, TaskIndex};
use p2pnode_protocol::tunnel::{TunnelFault, TunnelRefusal};
use tokio_util::sync::CancellationToken;

/// Tunnels that one task may have at a time: a hundred SSH sessions fit, each a connection of its own.
pub const MAX_TUNNELS_PER_TASK: usize = 128;

/// Tunnels that one peer may have here at a time, over all of its tasks.
pub const MAX_TUNNELS_PER_PEER: usize = 256;

/// The way into one task.
#[derive(Debug, Clone)]
pub struct Door {
    /// Its sandbox.
    pub inside: Arc<dyn Inside>,
    /// Cancelled once the task has ended: every tunnel into it ends then.
    pub gone: CancellationToken,
}

/// The permission check: whoever knows which tasks run here and whose they are.
#[async_trait]
pub trait Doors: Send + Sync + 'static {
    /// The way into the task, for `peer`.
    ///
    /// # Errors
    /// [`TunnelFault::NotHere`] unless `peer` owns the job and the task runs here: a task of somebody
    /// else's must not be told from none. [`TunnelFault::NoWayIn`] when its sandbox has no inside.
    async fn open(
        &self,
        peer: &PeerId,
        job: JobId,
        step: StepIndex,
        index: TaskIndex,
    ) -> Result<Door, TunnelRefusal>;
}

/// A task, as places are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TaskKey {
    pub(crate) peer: PeerId,
    pub(crate) job: JobId,
    pub(crate) step: StepIndex,
    pub(crate) index: TaskIndex,
}

/// How many of something there may be at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Of what, for people.
    pub(crate) what: &'static str,
    pub(crate) of_task: usize,
    /// Over all of its tasks.
    pub(crate) of_peer: usize,
    /// Over all peers.
    pub(crate) of_all: usize,
}

/// Tunnels; each holds a file descriptor or two.
pub(crate) const TUNNELS: Limits = Limits {
    what: "tunnels",
    of_task: MAX_TUNNELS_PER_TASK,
    of_peer: MAX_TUNNELS_PER_PEER,
    of_all: 1_024,
};

/// How many of something are open.
#[derive(Debug)]
pub(crate) struct Places {
    limits: Limits,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    tasks: HashMap<TaskKey, usize>,
    peers: HashMap<PeerId, usize>,
}

/// The place of one that is open; dropped, the place is free.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    task: TaskKey,
}

impl Places {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            counts: Mutex::default(),
        })
    }

    /// Takes a place, if there is one.
    pub(crate) fn take(self: &Arc<Self>, task: TaskKey) -> Result<Place, TunnelRefusal> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_task = counts.tasks.get(&task).copied().unwrap_or(0);
        let of_peer = counts.peers.get(&task.peer).copied().unwrap_or(0);
        let Limits { what, .. } = self.limits;
        let full = |said: String| Err(refusal(TunnelFault::TooMany, said));
        if of_task >= self.limits.of_task {
            return full(format!("this task has {of_task} {what} already: close one"));
        }
        if of_peer >= self.limits.of_peer {
            return full(format!(
                "your tasks here have {of_peer} {what} already: close one"
            ));
        }
        if counts.all >= self.limits.of_all {
            return full(format!(
                "this node has {} {what} already: try again later",
                counts.all
            ));
        }
        counts.all += 1;
        counts.tasks.insert(task, of_task + 1);
        counts.peers.insert(task.peer, of_peer + 1);
        drop(counts);
        Ok(Place {
            places: Arc::clone(self),
            task,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let counts = self.places.counts.lock();
        let mut counts = counts.unwrap_or_else(PoisonError::into_inner);
        counts.all = counts.all.saturating_sub(1);
        release(&mut counts.tasks, self.task);
        release(&mut counts.peers, self.task.peer);
    }
}

/// One less; nothing is kept for those that have none, so the tables stay as small as what is open.
fn release<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// A refusal whose text keeps to the protocol's limit.
pub(crate) fn refusal(kind: TunnelFault, message: impl Into<String>) -> TunnelRefusal {
    /// What the protocol allows for a refusal's text.
    const MAX_TEXT_BYTES: usize = 1 << 10;
    let mut message: String = message.into();
    let mut end = message.len().min(MAX_TEXT_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    TunnelRefusal { kind, message }
}

/// What a sandbox said, as a refusal.
pub(crate) fn refused_by(error: &InsideError) -> TunnelRefusal {
    let kind = match error {
        InsideError::Ended => TunnelFault::NotHere,
        InsideError::NoCommand(_) => TunnelFault::NoCommand,
        InsideError::NobodyListens(_) => TunnelFault::NobodyListens,
        InsideError::Unsupported(_) => TunnelFault::NoWayIn,
        InsideError::TooMany(_) => TunnelFault::TooMany,
        InsideError::Paused | InsideError::Io(_) => TunnelFault::Host,
    };
    refusal(kind, error.to_string())
}
