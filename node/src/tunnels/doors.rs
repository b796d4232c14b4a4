//! Tasks that run here, and the way into each: for whoever owns the job, and for nobody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use p2pnode_executor::inside::Inside;
use p2pnode_protocol::id::{StepIndex, TaskIndex};
use p2pnode_protocol::task::RuntimeKind;
use p2pnode_protocol::tunnel::{TunnelFault, TunnelRefusal};
use p2pnode_protocol::{JobId, PeerId, TaskKey};
use p2pnode_tunnel::Door;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::core::io::RunKey;

/// How long somebody waits at the door of a task whose container is being made (30 s): as long as a
/// loaded engine may take.
const OPENING: Duration = Duration::from_secs(30);

type Way = watch::Receiver<Option<Arc<dyn Inside>>>;

/// A run, and the way into it.
#[derive(Debug, Clone)]
struct Held {
    run: RunKey,
    runtime: RuntimeKind,
    way: Way,
    /// Cancelled when the run has ended.
    gone: CancellationToken,
}

/// Runs by the task and the peer that owns it. The driver adds and removes; tunnels look. Clones are
/// the same doors. As many as there are runs, which the core bounds.
#[derive(Debug, Clone, Default)]
pub struct Doors(Arc<Mutex<HashMap<(PeerId, TaskKey), Held>>>);

impl Doors {
    fn table(&self) -> MutexGuard<'_, HashMap<(PeerId, TaskKey), Held>> {
        // Nothing that is done under the lock can leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run begins. A later attempt takes the place of an earlier one, which is about to end.
    pub(crate) fn add(&self, run: RunKey, runtime: RuntimeKind, way: Way) {
        let held = Held {
            run,
            runtime,
            way,
            gone: CancellationToken::new(),
        };
        let key = (run.submitter, run.attempt.task);
        if let Some(earlier) = self.table().insert(key, held) {
            earlier.gone.cancel();
        }
    }

    /// A run has ended.
    pub(crate) fn remove(&self, run: &RunKey) {
        let mut table = self.table();
        let key = (run.submitter, run.attempt.task);
        if table.get(&key).is_some_and(|held| held.run == *run)
            && let Some(held) = table.remove(&key)
        {
            held.gone.cancel();
        }
    }

    fn find(&self, peer: &PeerId, task: TaskKey) -> Option<Held> {
        self.table().get(&(*peer, task)).cloned()
    }
}

#[async_trait]
impl p2pnode_tunnel::Doors for Doors {
    /// The way into a task of `peer`'s. This is the one check of permission: a door is found under the
    /// identity that the connection's handshake has proven, so that tasks of others are not refused
    /// but are not there.
    async fn open(
        &self,
        peer: &PeerId,
        job: JobId,
        step: StepIndex,
        index: TaskIndex,
    ) -> Result<Door, TunnelRefusal> {
        let task = TaskKey { job, step, index };
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
        let Some(mut held) = self.find(peer, task) else {
            return Err(gone());
        };
        if held.runtime == RuntimeKind::Wasm {
            return Err(refuse(
                TunnelFault::NoWayIn,
                "this is a WASM task, which nobody can enter: shells and ports need a container",
            ));
        }
        match timeout(OPENING, held.way.wait_for(Option::is_some)).await {
            Ok(Ok(open)) => {
                let inside = open.clone().ok_or_else(gone)?;
                let gone = held.gone.clone();
                Ok(Door { inside, gone })
            }
            // Its sender went with the run.
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(refuse(
                TunnelFault::Host,
                "the task's container is still being started; try again",
            )),
        }
    }
}
