//! The door to a running node: what the API (or a program that embeds the node) may ask of it.
//!
//! A [`NodeHandle`] is cheap to clone. Reading goes through [`NodeHandle::view`], a closure over the
//! core that runs between two inputs, so that an answer never shows half a change; changing goes
//! through [`Command`]s that the driver turns into inputs.

mod owner;
mod reach;

use std::sync::Arc;

use p2pnode_protocol::api::{CreateJob, ErrorCode, Event, NodeStatus, OfferRequest, PeerInfo};
use p2pnode_protocol::offer::Grant;
use p2pnode_protocol::stream::LogFrame;
use p2pnode_protocol::{JobId, PeerId};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use self::owner::{OwnerCommand, PastQuery};
pub use self::reach::ReachCommand;
use crate::core::Core;

/// Why a command failed: what the API's error says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CommandError {
    /// For programs.
    pub code: ErrorCode,
    /// One sentence.
    pub message: String,
    /// One line for each fault.
    pub details: Vec<String>,
}

impl CommandError {
    /// An error without details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Vec::new(),
        }
    }

    /// The node no longer answers.
    #[must_use]
    pub fn stopping() -> Self {
        Self::new(ErrorCode::Unavailable, "the node is stopping")
    }
}

/// Where an answer goes.
pub type Answer<T> = oneshot::Sender<Result<T, CommandError>>;

/// A question about the core's state.
pub type Question = Box<dyn FnOnce(&Core) + Send>;

/// A job that was stored, with a receiver that misses none of its events.
#[derive(Debug)]
pub struct Submitted {
    /// Its id.
    pub job: JobId,
    /// All events of the node from before the job on.
    pub events: EventReceiver,
}

/// Part of a job's log.
#[derive(Debug, Clone, Default)]
pub struct LogPage {
    /// The frames, in order of arrival.
    pub frames: Vec<LogFrame>,
    /// Where to go on reading.
    pub next: u64,
}

/// What a node is asked to do.
pub enum Command {
    /// Look at the core.
    View(Question),
    /// Run a job.
    Submit {
        /// The job.
        job: Box<CreateJob>,
        /// Its id.
        answer: Answer<Submitted>,
    },
    /// Cancel a job; answered at once.
    Cancel {
        /// Which.
        job: JobId,
        /// Done.
        answer: Answer<()>,
    },
    /// Offer capacity.
    Offer {
        /// What.
        request: OfferRequest,
        /// Done.
        answer: Answer<()>,
    },
    /// Allow or no longer allow a peer to run tasks here.
    Allow {
        /// Whom.
        peer: PeerId,
        /// How much; `None`: no longer.
        grant: Option<Grant>,
        /// Done.
        answer: Answer<()>,
    },
    /// The node's status.
    Status {
        /// It.
        answer: Answer<NodeStatus>,
    },
    /// Peers that are known.
    Peers {
        /// They.
        answer: Answer<Vec<PeerInfo>>,
    },
    /// Read a job's log.
    Logs {
        /// Which job.
        job: JobId,
        /// Only this task (step 0), or all.
        task: Option<u32>,
        /// From here; 0 is the beginning.
        from: u64,
        /// The page.
        answer: Answer<LogPage>,
    },
    /// About tasks of others that run here.
    Owner(OwnerCommand),
    /// About ways to peers.
    Reach(ReachCommand),
    /// Stop the node.
    Stop,
}

/// Receives the node's events; a receiver that is too slow misses the oldest.
pub type EventReceiver = broadcast::Receiver<Arc<Event>>;

/// The door to a running node.
#[derive(Clone)]
pub struct NodeHandle {
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<Arc<Event>>,
    peer: PeerId,
    stopping: CancellationToken,
}

impl NodeHandle {
    /// A door to whoever reads `commands`.
    #[must_use]
    pub fn new(
        peer: PeerId,
        commands: mpsc::Sender<Command>,
        events: broadcast::Sender<Arc<Event>>,
    ) -> Self {
        Self {
            commands,
            events,
            peer,
            stopping: CancellationToken::new(),
        }
    }

    /// This node's identity.
    #[must_use]
    pub const fn peer(&self) -> PeerId {
        self.peer
    }

    /// Events from now on.
    #[must_use]
    pub fn events(&self) -> EventReceiver {
        self.events.subscribe()
    }

    /// Runs `question` on the core and returns what it says.
    ///
    /// # Errors
    /// When the node is stopping.
    pub async fn view<T, F>(&self, question: F) -> Result<T, CommandError>
    where
        T: Send + 'static,
        F: FnOnce(&Core) -> T + Send + 'static,
    {
        let (answer, receiver) = oneshot::channel();
        let ask = Box::new(move |core: &Core| {
            // An asker that went away needs no answer.
            let _gone = answer.send(question(core));
        });
        self.send(Command::View(ask)).await?;
        receiver.await.map_err(|_| CommandError::stopping())
    }

    /// Sends the command that `make` builds around an answer's sender, and waits for the answer.
    ///
    /// # Errors
    /// What the command says, or that the node is stopping.
    pub async fn ask<T>(&self, make: impl FnOnce(Answer<T>) -> Command) -> Result<T, CommandError> {
        let (answer, receiver) = oneshot::channel();
        self.send(make(answer)).await?;
        receiver.await.map_err(|_| CommandError::stopping())?
    }

    /// Asks whoever runs the node to end it; returns at once.
    ///
    /// The node itself goes on until its owner, who watches [`NodeHandle::stopping`], winds it up: so
    /// that what has to be done before, such as cancelling a job that ends with the node, can be done.
    pub fn ask_to_stop(&self) {
        self.stopping.cancel();
    }

    /// Cancelled when the node is asked to stop, or ends by itself.
    #[must_use]
    pub const fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    pub(crate) async fn send(&self, command: Command) -> Result<(), CommandError> {
        self.commands
            .send(command)
            .await
            .map_err(|_| CommandError::stopping())
    }
}
