//! SIGINT, SIGTERM, and the end of a node that this process runs: what ends a verb before its time.

use std::future::{Future, pending};
use std::pin::Pin;
use std::task::{Context, Waker};

use p2pnode_node::driver::Node;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Failure;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGINT or SIGTERM.
    Signal,
    /// This process's own node was told to stop, or ended by a fault.
    Stopped,
}

/// From when it is made, signals no longer end the process by themselves.
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Interrupts {
    /// Listens for signals from now on: to be made before anything that must be cleaned up.
    pub fn listen() -> Result<Self, Failure> {
        let to = |kind: SignalKind| {
            signal(kind)
                .map_err(|error| Failure::internal(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            interrupt: to(SignalKind::interrupt())?,
            terminate: to(SignalKind::terminate())?,
            stopped: Box::pin(pending()),
        })
    }

    /// Listens for the end of `node`, too.
    pub fn watch(&mut self, node: &Node) {
        self.stopped = Box::pin(node.stop_asked());
    }

    /// Takes no notice of the signals up to now: somebody else has answered them.
    pub fn forget(&mut self) {
        let mut nobody = Context::from_waker(Waker::noop());
        for signal in [&mut self.interrupt, &mut self.terminate] {
            while signal.poll_recv(&mut nobody).is_ready() {}
        }
    }

    /// Returns at the next of them. A node that was stopped is told of once. Safe to drop and call
    /// again.
    pub async fn next(&mut self) -> Cause {
        tokio::select! {
            _ = self.interrupt.recv() => Cause::Signal,
            _ = self.terminate.recv() => Cause::Signal,
            () = &mut self.stopped => {
                self.stopped = Box::pin(pending());
                Cause::Stopped
            }
        }
    }
}
