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
                "no such task of yours runs here: it does not run yet, has ended, or moved to another provider",
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use p2pnode_executor::inside::{Duplex, Files, InsideError, Session};
    use p2pnode_protocol::AttemptKey;
    use p2pnode_protocol::tunnel::ExecSpec;
    use p2pnode_tunnel::Doors as _;
    use tokio::net::{TcpListener, UdpSocket};

    use super::*;

    /// The inside of nothing.
    #[derive(Debug)]
    struct Empty;

    #[async_trait]
    impl Inside for Empty {
        async fn exec(&self, _command: ExecSpec) -> Result<Session, InsideError> {
            Err(InsideError::Ended)
        }

        async fn connect(&self, port: u16) -> Result<Box<dyn Duplex>, InsideError> {
            Err(InsideError::NobodyListens(port))
        }

        async fn connect_path(&self, _path: &[u8]) -> Result<Box<dyn Duplex>, InsideError> {
            Err(InsideError::Ended)
        }

        async fn datagrams(&self, _port: u16) -> Result<UdpSocket, InsideError> {
            Err(InsideError::Ended)
        }

        async fn listen(&self, _port: u16) -> Result<TcpListener, InsideError> {
            Err(InsideError::Ended)
        }

        async fn files(&self) -> Result<Box<dyn Files>, InsideError> {
            Err(InsideError::Ended)
        }
    }

    fn run(submitter: PeerId, number: u32) -> RunKey {
        let task = TaskKey {
            job: JobId([7; 8]),
            step: 0,
            index: 3,
        };
        RunKey {
            submitter,
            attempt: AttemptKey {
                task,
                attempt: number,
            },
        }
    }

    async fn knock(doors: &Doors, peer: &PeerId) -> Result<Door, TunnelFault> {
        let task = run(*peer, 1).attempt.task;
        let opened = doors.open(peer, task.job, task.step, task.index).await;
        opened.map_err(|refused| refused.kind)
    }

    #[tokio::test]
    async fn only_the_owner_of_a_job_finds_the_door_and_it_shuts_with_the_run() {
        let (owner, other) = (PeerId::random(), PeerId::random());
        let doors = Doors::default();
        let (way, open) = watch::channel::<Option<Arc<dyn Inside>>>(None);
        doors.add(run(owner, 1), RuntimeKind::Docker, open);
        // Its container is still being made: the owner waits, a stranger does not.
        let asking = tokio::spawn({
            let doors = doors.clone();
            async move { knock(&doors, &owner).await }
        });
        assert_eq!(
            knock(&doors, &other).await.err(),
            Some(TunnelFault::NotHere)
        );
        way.send_replace(Some(Arc::new(Empty)));
        let door = asking.await.unwrap().unwrap();
        assert!(!door.gone.is_cancelled());
        assert_eq!(
            knock(&doors, &other).await.err(),
            Some(TunnelFault::NotHere)
        );

        // A later attempt has a door of its own, which the end of the earlier one leaves open.
        let (_way, open) = watch::channel::<Option<Arc<dyn Inside>>>(Some(Arc::new(Empty)));
        doors.add(run(owner, 2), RuntimeKind::Docker, open);
        assert!(door.gone.is_cancelled());
        doors.remove(&run(owner, 1));
        let later = knock(&doors, &owner).await.unwrap();
        doors.remove(&run(owner, 2));
        assert!(later.gone.is_cancelled());
        assert_eq!(
            knock(&doors, &owner).await.err(),
            Some(TunnelFault::NotHere)
        );
    }

    #[tokio::test]
    async fn a_module_has_no_door_and_a_run_that_never_starts_opens_none() {
        let owner = PeerId::random();
        let doors = Doors::default();
        let (way, open) = watch::channel::<Option<Arc<dyn Inside>>>(None);
        doors.add(run(owner, 1), RuntimeKind::Wasm, open.clone());
        assert_eq!(
            knock(&doors, &owner).await.err(),
            Some(TunnelFault::NoWayIn)
        );
        doors.add(run(owner, 2), RuntimeKind::Docker, open);
        drop(way);
        assert_eq!(
            knock(&doors, &owner).await.err(),
            Some(TunnelFault::NotHere)
        );
    }
}
