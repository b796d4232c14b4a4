//! What the node may ask of the network.

use std::net::SocketAddr;
use std::sync::Arc;

use libp2p::{Multiaddr, PeerId};
use p2pnode_protocol::advert::SignedAdvert;
use p2pnode_protocol::message::{TaskRequest, TaskResponse};
use tokio::sync::{mpsc, oneshot, watch};

use super::conduct::Misdeed;
use super::error::{CallError, OpenError};
use super::liveness::{EchoReply, Echoed};
use super::metrics::NetMetrics;
use super::peer::{LinkSnapshot, PeerSnapshot};
use super::protocols::StreamKind;
use super::reach::Reachability;
use super::seeking::FoundReply;
use super::streams::NetStream;
use super::tasks::{self, InboundId, Reply};

/// Commands that wait for the actor. It takes each in microseconds, so this only evens out bursts.
pub(super) const COMMAND_QUEUE: usize = 256;

/// What the node tells the actor.
#[derive(Debug)]
pub(super) enum Command {
    Ask(Request),
    Disconnect(PeerId),
    Shutdown(oneshot::Sender<()>),
}

/// What one of the handlers can do.
#[derive(Debug)]
pub(super) enum Request {
    Call {
        peer: PeerId,
        request: Vec<u8>,
        reply: Reply,
    },
    Respond {
        id: InboundId,
        response: Vec<u8>,
    },
    Publish(Box<SignedAdvert>),
    Connect(PeerId),
    Provide(bool),
    FindProviders,
    Open {
        peer: PeerId,
        kind: StreamKind,
        reply: oneshot::Sender<Result<NetStream, OpenError>>,
    },
    Ping {
        peer: PeerId,
        reply: EchoReply,
    },
    Find {
        peer: PeerId,
        reply: FoundReply,
    },
    Links {
        peer: PeerId,
        reply: oneshot::Sender<Vec<LinkSnapshot>>,
    },
    Trouble {
        peer: PeerId,
        reply: oneshot::Sender<Option<String>>,
    },
    TcpAddress {
        peer: PeerId,
        reply: oneshot::Sender<Option<SocketAddr>>,
    },
    Reach(oneshot::Sender<Reachability>),
    Peers(oneshot::Sender<Vec<PeerSnapshot>>),
    NetworkSize(oneshot::Sender<usize>),
    Report {
        peer: PeerId,
        misdeed: Misdeed,
    },
}

/// Where this node is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Listened on; wildcards are resolved to the addresses of the interfaces.
    pub listen: Vec<Multiaddr>,
    /// Confirmed from outside, and places at relays.
    pub external: Vec<Multiaddr>,
}

/// The node's hand on the network. Clones are cheap; the network ends when the last is dropped, or by
/// [`NetHandle::shutdown`].
#[derive(Debug, Clone)]
pub struct NetHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    commands: mpsc::Sender<Command>,
    local: PeerId,
    network: String,
    addresses: watch::Receiver<Addresses>,
    metrics: NetMetrics,
}

impl NetHandle {
    pub(super) fn new(
        commands: mpsc::Sender<Command>,
        local: PeerId,
        network: String,
        addresses: watch::Receiver<Addresses>,
        metrics: NetMetrics,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                commands,
                local,
                network,
                addresses,
                metrics,
            }),
        }
    }

    /// This node's id.
    #[must_use]
    pub fn local_peer_id(&self) -> PeerId {
        self.shared.local
    }

    /// The network's name.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.shared.network
    }

    /// The addresses that this node listens on, as of now.
    #[must_use]
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.shared.addresses.borrow().listen.clone()
    }

    /// The addresses that others have confirmed, as of now.
    #[must_use]
    pub fn external_addresses(&self) -> Vec<Multiaddr> {
        self.shared.addresses.borrow().external.clone()
    }

    /// Counters.
    #[must_use]
    pub fn metrics(&self) -> &NetMetrics {
        &self.shared.metrics
    }

    async fn ask(&self, request: Request) -> bool {
        self.send(Command::Ask(request)).await
    }

    async fn send(&self, command: Command) -> bool {
        self.shared.commands.send(command).await.is_ok()
    }

    /// Asks `peer` and waits for the answer, 20 seconds at the most. Dials it when it is not
    /// connected. Encoding is done here, on the caller's task.
    ///
    /// # Errors
    /// Why there is no answer. [`CallError::TooMany`] and [`CallError::TooLarge`] are found before
    /// anything is sent; after any other error the peer may or may not have got the request.
    pub async fn request(
        &self,
        peer: PeerId,
        request: &TaskRequest,
    ) -> Result<TaskResponse, CallError> {
        let request = tasks::encode_request(request)?;
        let (reply, answer) = oneshot::channel();
        let call = Request::Call {
            peer,
            request,
            reply,
        };
        if !self.ask(call).await {
            return Err(CallError::Stopped);
        }
        answer.await.unwrap_or(Err(CallError::Stopped))
    }

    /// Answers a request. When the peer has gone or given up meanwhile, nothing happens.
    ///
    /// # Errors
    /// [`CallError::TooLarge`], [`CallError::Stopped`].
    pub async fn respond(&self, id: InboundId, response: &TaskResponse) -> Result<(), CallError> {
        let response = tasks::encode_response(response)?;
        if self.ask(Request::Respond { id, response }).await {
            Ok(())
        } else {
            Err(CallError::Stopped)
        }
    }

    /// Tells everybody what this node can give, now and whenever somebody connects. The advert must
    /// be this node's own, for this network, and newer than the last.
    pub async fn publish(&self, advert: SignedAdvert) {
        self.ask(Request::Publish(Box::new(advert))).await;
    }

    /// Connects to `peer`: at the addresses known for it, then at those that the DHT knows. Success
    /// shows as [`super::NetEvent::Connected`]; does nothing when it is connected already.
    pub async fn connect(&self, peer: PeerId) {
        self.ask(Request::Connect(peer)).await;
    }

    /// Closes all connections to `peer`. It may connect again.
    pub async fn disconnect(&self, peer: PeerId) {
        self.send(Command::Disconnect(peer)).await;
    }

    /// Whether this node can be found through the DHT as one that offers capacity.
    pub async fn provide(&self, providing: bool) {
        self.ask(Request::Provide(providing)).await;
    }

    /// Looks in the DHT for nodes that offer capacity, and connects to them; their adverts follow.
    pub async fn find_providers(&self) {
        self.ask(Request::FindProviders).await;
    }

    /// Opens a stream to `peer`, dialling it when it is not connected. When this returns, the stream
    /// waits in the peer's queue or was taken from it.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open_stream(
        &self,
        peer: PeerId,
        kind: StreamKind,
    ) -> Result<NetStream, OpenError> {
        let (reply, stream) = oneshot::channel();
        if !self.ask(Request::Open { peer, kind, reply }).await {
            return Err(OpenError::Stopped);
        }
        // The reply is dropped with the connection that was to open the stream.
        stream.await.unwrap_or(Err(OpenError::Unreachable))
    }

    /// How long a round trip to `peer` takes on the connection that data would take, 6 seconds at the most;
    /// `None` when there is no connection, or it closes meanwhile. Does not dial.
    pub async fn ping(&self, peer: PeerId) -> Option<Echoed> {
        let (reply, echoed) = oneshot::channel();
        self.ask(Request::Ping { peer, reply }).await;
        echoed.await.ok()
    }

    /// Where the DHT says that `peer` is, 20 seconds at the most; empty when it does not know.
    pub async fn find(&self, peer: PeerId) -> Vec<Multiaddr> {
        let (reply, found) = oneshot::channel();
        self.ask(Request::Find { peer, reply }).await;
        found.await.unwrap_or_default()
    }

    /// The open connections to `peer`.
    pub async fn links(&self, peer: PeerId) -> Vec<LinkSnapshot> {
        let (reply, links) = oneshot::channel();
        self.ask(Request::Links { peer, reply }).await;
        links.await.unwrap_or_default()
    }

    /// Why `peer` could not be reached when that was last tried, in words; `None` when it could, or nobody
    /// tried.
    pub async fn trouble(&self, peer: PeerId) -> Option<String> {
        let (reply, trouble) = oneshot::channel();
        self.ask(Request::Trouble { peer, reply }).await;
        trouble.await.ok()?
    }

    /// Where a TCP connection of one's own to `peer` is likely to come about; `None` unless a direct
    /// connection stands.
    pub async fn tcp_address(&self, peer: PeerId) -> Option<SocketAddr> {
        let (reply, address) = oneshot::channel();
        self.ask(Request::TcpAddress { peer, reply }).await;
        address.await.ok()?
    }

    /// Whether and how others can reach this node.
    pub async fn reachability(&self) -> Reachability {
        let (reply, reach) = oneshot::channel();
        self.ask(Request::Reach(reply)).await;
        reach.await.unwrap_or_default()
    }

    /// Everything known about other nodes: for people, and to be stored for the next start. Empty
    /// after the end.
    pub async fn peers(&self) -> Vec<PeerSnapshot> {
        let (reply, peers) = oneshot::channel();
        self.ask(Request::Peers(reply)).await;
        peers.await.unwrap_or_default()
    }

    /// About how many nodes there are, this one included: those whose adverts are known, or those that
    /// are connected. For [`super::advert_interval`].
    pub async fn network_size(&self) -> usize {
        let (reply, size) = oneshot::channel();
        self.ask(Request::NetworkSize(reply)).await;
        size.await.unwrap_or(1)
    }

    /// Writes down that a peer did what a correct peer never does. Past a limit it is disconnected and
    /// shut out for some minutes.
    pub async fn report_misbehaviour(&self, peer: PeerId, misdeed: Misdeed) {
        self.ask(Request::Report { peer, misdeed }).await;
    }

    /// Closes every connection and ends, within half a second. Returns when that is done.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.send(Command::Shutdown(reply)).await {
            let _ = done.await;
        }
    }
}
