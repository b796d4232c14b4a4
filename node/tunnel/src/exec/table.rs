//! Which commands run, and who may go on with them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use p2pnode_executor::inside::{Duplex, Session};
use p2pnode_protocol::tunnel::{SessionId, TunnelFault, TunnelRefusal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::session::{Attach, run};
use crate::doors::{Place, TaskKey, refusal};
use crate::serve::refuse;

/// The table. It holds no more than there are [`Place`]s.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<SessionId, Entry>>);

#[derive(Debug)]
struct Entry {
    task: TaskKey,
    attach: mpsc::Sender<Attach>,
}

/// The way to a running command.
pub(crate) struct Seat {
    id: SessionId,
    attach: mpsc::Sender<Attach>,
}

impl Sessions {
    /// Puts a command that was just started into the table; it leaves by itself.
    pub(crate) fn begin(
        self: &Arc<Self>,
        session: Session,
        task: TaskKey,
        place: Option<Place>,
        gone: CancellationToken,
    ) -> Result<Seat, TunnelRefusal> {
        let id = SessionId(rand::random());
        // One that waits: a newer stream replaces an older one.
        let (attach, attaching) = mpsc::channel(1);
        let entry = Entry {
            task,
            attach: attach.clone(),
        };
        {
            let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if table.contains_key(&id) {
                return Err(refusal(TunnelFault::Host, "the name is taken: try again"));
            }
            table.insert(id, entry);
        }
        let row = Row {
            table: Arc::clone(self),
            id,
        };
        tokio::spawn(async move {
            run(session, attaching, gone).await;
            drop((row, place));
        });
        Ok(Seat { id, attach })
    }

    /// A command of the same peer and task.
    pub(crate) fn find(&self, id: SessionId, task: TaskKey) -> Result<Seat, TunnelRefusal> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match table.get(&id) {
            Some(entry) if entry.task == task => Ok(Seat {
                id,
                attach: entry.attach.clone(),
            }),
            _ => Err(refusal(
                TunnelFault::NoSession,
                "no such command runs, or it was given up: start it again",
            )),
        }
    }
}

/// A command's line in the table, which leaves with it.
struct Row {
    table: Arc<Sessions>,
    id: SessionId,
}

impl Drop for Row {
    fn drop(&mut self) {
        let mut table = self.table.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.remove(&self.id);
    }
}

impl Seat {
    /// Gives the command a stream. `received`: for one that goes on, what came before.
    pub(crate) async fn attach(self, stream: Box<dyn Duplex>, received: Option<u64>) {
        let attach = Attach {
            stream,
            id: self.id,
            received,
        };
        if let Err(mpsc::error::SendError(mut attach)) = self.attach.send(attach).await {
            let ended = refusal(TunnelFault::NoSession, "the command has ended");
            refuse(&mut attach.stream, ended).await;
        }
    }
}
