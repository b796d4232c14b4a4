//! Tasks that run here, and the way into each: for whoever owns the job, and for nobody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use p2pnode_executor::inside::Inside;
use p2pnode_protocol::task::RuntimeKind;
use p2pnode_protocol::tunnel::{TunnelFault, TunnelRefusal};
use p2pnode_protocol::{PeerId, TaskKey};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::core::io::RunKey;

/// How long somebody waits at the door of a task whose container is being made (30 s): as long as a
/// loaded engine may take.
const OPENING: Duration = Duration::from_secs(30);

type Way = watch::Receiver<Option<Arc<dyn Inside>>>;

/// A run, and the way into it.
#[derive(Debug)]
struct Door {
    run: RunKey,
    runtime: RuntimeKind,
    way: Way,
}

/// Runs by the task and the peer that owns it. The driver adds and removes; tunnels look. Clones are
/// the same doors. As many as there are runs, which the core bounds.
#[derive(Debug, Clone, Default)]
pub struct Doors(Arc<Mutex<HashMap<(PeerId, TaskKey), Door>>>);

impl Doors {
    fn table(&self) -> MutexGuard<'_, HashMap<(PeerId, TaskKey), Door>> {
        // Nothing that is done under the lock can leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run begins. A later attempt takes the place of an earlier one, which is about to end.
    pub(crate) fn add(&self, run: RunKey, runtime: RuntimeKind, way: Way) {
        let door = Door { run, runtime, way };
        self.table()
            .insert((run.submitter, run.attempt.task), door);
    }

    /// A run has ended.
    pub(crate) fn remove(&self, run: &RunKey) {
        let mut table = self.table();
        let key = (run.submitter, run.attempt.task);
        if table.get(&key).is_some_and(|door| door.run == *run) {
            table.remove(&key);
        }
    }

    fn find(&self, peer: &PeerId, task: TaskKey) -> Option<(RuntimeKind, Way)> {
        let table = self.table();
        let door = table.get(&(*peer, task))?;
        Some((door.runtime, door.way.clone()))
    }
}

#[async_trait]
impl p2pnode_tunnel::Doors for Doors {
    /// The way into a task of `peer`'s. This is the one check of permission: a door is found under the
    /// identity that the connection's handshake has proven, so that tasks of others are not refused
    /// but are not there.
    async fn open(&self, peer: &PeerId, task: TaskKey) -> Result<Arc<dyn Inside>, TunnelRefusal> {
        let refuse = |kind, message: &str| TunnelRefusal {
            kind,
            message: message.to_owned(),
        };
        let gone = || {
            refuse(
                TunnelFault::NotHere,
                "no such task of yours runs here: it has ended, or moved to another provider",
            )
        };
        let Some((runtime, mut way)) = self.find(peer, task) else {
            return Err(gone());
        };
        if runtime == RuntimeKind::Wasm {
            return Err(refuse(
                TunnelFault::NoWayIn,
                "this is a WASM task, which nobody can enter: shells and ports need a container",
            ));
        }
        match timeout(OPENING, way.wait_for(Option::is_some)).await {
            Ok(Ok(open)) => open.clone().ok_or_else(gone),
            // Its sender went with the run.
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(refuse(
                TunnelFault::Host,
                "the task's container is still being started; try again",
            )),
        }
    }
}
