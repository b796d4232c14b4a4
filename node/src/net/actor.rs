//! The owner of the swarm.
//!
//! One task, one `select!`, every arm one call. It hands events and commands to the handlers, each of
//! which owns its own tables and reaches the swarm only through [`Context`]; what needs the swarm as
//! a whole they ask for by [`Action`]s. It must never wait for anybody: not for the node (events go
//! through [`super::events`], which merges or refuses), nor for a peer.

mod whereabouts;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::ConnectedPoint;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{PeerId, Swarm};
use tokio::sync::{mpsc, oneshot, watch};

use super::behaviour::Behaviour;
use super::conduct::{Misdeed, Verdict};
use super::config::NetLimits;
use super::context::{Action, Common, Handlers};
use super::dispatch;
use super::handle::{Addresses, Command};
use super::limits;
use super::listen::Event;
use super::peer::Link;
use super::quiet::Quiet;

/// How often idle connections of a crowded node are looked at.
const TRIM_INTERVAL: Duration = Duration::from_secs(30);

/// How long connections may take to close at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The actor.
pub(super) struct NetActor {
    swarm: Swarm<Quiet<Behaviour>>,
    commands: mpsc::Receiver<Command>,
    handlers: Handlers,
    common: Common,
    limits: NetLimits,
    addresses: watch::Sender<Addresses>,
    next_trim: Instant,
}

impl NetActor {
    pub(super) fn new(
        swarm: Swarm<Quiet<Behaviour>>,
        commands: mpsc::Receiver<Command>,
        handlers: Handlers,
        common: Common,
        limits: NetLimits,
        addresses: watch::Sender<Addresses>,
    ) -> Self {
        Self {
            swarm,
            commands,
            handlers,
            common,
            limits,
            addresses,
            next_trim: Instant::now() + TRIM_INTERVAL,
        }
    }

    /// Handles what happened before the actor ran, so that whoever starts it finds the addresses.
    pub(super) fn begin(&mut self, early: Vec<Event>) {
        for event in early {
            self.on_event(event);
        }
        self.on_deadline();
    }

    /// Runs until it is told to end, or nobody is left who could tell it.
    pub(super) async fn run(mut self) {
        let ended = loop {
            if let ControlFlow::Break(reply) = self.step().await {
                break reply;
            }
        };
        self.close().await;
        if let Some(reply) = ended {
            let _ = reply.send(());
        }
    }

    /// Waits for the next thing that happens, and handles it. May be dropped while it waits.
    async fn step(&mut self) -> Flow {
        let deadline = self.deadline();
        tokio::select! {
            command = self.commands.recv() => return self.on_command(command),
            event = self.swarm.select_next_some() => self.on_event(event),
            () = tokio::time::sleep_until(deadline.into()) => self.on_deadline(),
        }
        ControlFlow::Continue(())
    }

    fn deadline(&self) -> Instant {
        [
            self.handlers.discovery.deadline(),
            self.handlers.reach.deadline(),
            self.handlers.conduct.deadline(),
            self.handlers.liveness.deadline(),
            self.swarm.behaviour().0.streams.deadline(),
        ]
        .into_iter()
        .flatten()
        .fold(self.next_trim, Instant::min)
    }

    fn on_deadline(&mut self) {
        let mut cx = self.common.context(&mut self.swarm);
        self.handlers.discovery.on_deadline(&mut cx);
        if self.handlers.reach.on_deadline(&mut cx) {
            self.handlers.discovery.find_relays(&mut cx);
        }
        let tasks = &self.handlers.tasks;
        let waits = |call: &_| tasks.waits(call);
        self.handlers.liveness.on_deadline(&mut cx, waits);
        cx.behaviour.streams.on_deadline(cx.now);
        for peer in self.handlers.conduct.released(cx.now) {
            cx.behaviour.blocked.unblock_peer(peer);
        }
        if cx.now >= self.next_trim {
            self.next_trim = cx.now + TRIM_INTERVAL;
            self.trim();
        }
        self.perform();
    }

    fn trim(&mut self) {
        let mesh: HashSet<PeerId> = self
            .swarm
            .behaviour()
            .0
            .gossipsub
            .all_mesh_peers()
            .copied()
            .collect();
        let reach = &self.handlers.reach;
        let surplus = limits::surplus(&self.common.peers, &self.limits, Instant::now(), |peer| {
            mesh.contains(peer) || reach.needs(peer)
        });
        for peer in surplus {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn on_command(&mut self, command: Option<Command>) -> Flow {
        match command {
            None => return ControlFlow::Break(None),
            Some(Command::Shutdown(reply)) => return ControlFlow::Break(Some(reply)),
            Some(Command::Disconnect(peer)) => {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Some(Command::Ask(request)) => {
                let mut cx = self.common.context(&mut self.swarm);
                dispatch::request(&mut self.handlers, &mut cx, request);
            }
        }
        self.perform();
        ControlFlow::Continue(())
    }

    fn on_event(&mut self, event: Event) {
        match event {
            SwarmEvent::Behaviour(event) => {
                let mut cx = self.common.context(&mut self.swarm);
                dispatch::event(&mut self.handlers, &mut cx, event);
            }
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                concurrent_dial_errors,
                ..
            } => {
                for (address, _) in concurrent_dial_errors.unwrap_or_default() {
                    self.common.peers.failed(&peer_id, &address, Instant::now());
                }
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                ..
            } => {
                tracing::debug!(peer = %peer_id, ?cause, "connection closed");
                self.on_disconnected(peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                peer_id,
                error,
            } => {
                tracing::debug!(peer = ?peer_id, %error, "cannot connect");
                let mut cx = self.common.context(&mut self.swarm);
                let discovery = &mut self.handlers.discovery;
                discovery.on_dial_error(&mut cx, connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "an incoming connection failed");
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                reason,
                ..
            } => {
                let mut cx = self.common.context(&mut self.swarm);
                let reach = &mut self.handlers.reach;
                reach.on_listener_closed(&mut cx, listener_id, &reason);
                self.on_addresses();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_moved(&address),
            SwarmEvent::NewListenAddr { .. }
            | SwarmEvent::ExternalAddrConfirmed { .. }
            | SwarmEvent::ExternalAddrExpired { .. } => self.on_addresses(),
            _ => {}
        }
        self.perform();
    }

    fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let mut cx = self.common.context(&mut self.swarm);
        let link = Link {
            id,
            remote: endpoint.get_remote_address().clone(),
            dialled: endpoint.is_dialer(),
            relayed: endpoint.is_relayed(),
            circuit: match endpoint {
                ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => {
                    Some(local_addr.clone())
                }
                _ => None,
            },
            since: cx.now,
            rtt: None,
        };
        cx.metrics.connections.inc();
        if !link.relayed {
            cx.guard.met(peer, &link.remote);
        }
        let first = cx.peers.connected_now(peer, link);
        if first {
            tracing::debug!(%peer, address = %endpoint.get_remote_address(), "connected");
            cx.metrics.peers_connected.inc();
            cx.events.connected(peer);
        }
        let handlers = &mut self.handlers;
        handlers.discovery.on_connected(cx.now, id, peer);
        handlers.reach.on_connected(&cx, peer);
        if !first {
            // A peer that comes again has perhaps lost what stood before, and nobody told us.
            handlers.liveness.doubt(&mut cx, peer);
        }
        if first {
            handlers
                .exchange
                .on_connected(&mut cx, &handlers.capacity, peer);
        }
    }

    fn on_disconnected(&mut self, peer: PeerId, id: ConnectionId) {
        self.handlers.liveness.on_closed(id);
        let cx = self.common.context(&mut self.swarm);
        cx.metrics.connections.dec();
        if cx.peers.disconnected_now(&peer, id) {
            cx.metrics.peers_connected.dec();
            cx.events.disconnected(peer);
            self.handlers.exchange.on_disconnected(&peer);
            self.handlers.discovery.on_disconnected(&cx, peer);
        }
    }

    /// Does what the handlers asked for, and what they ask for because of that.
    fn perform(&mut self) {
        while !self.common.actions.is_empty() {
            for action in std::mem::take(&mut self.common.actions) {
                match action {
                    Action::Dial(options) => self.dial(options),
                    Action::Report(peer, misdeed) => self.report(peer, misdeed),
                    Action::Close(id) => {
                        self.swarm.close_connection(id);
                    }
                    Action::Reserve(relay, circuit) => self.reserve(relay, circuit),
                    Action::Confirm(address) => {
                        self.swarm.add_external_address(address);
                        self.on_addresses();
                    }
                    Action::Withdraw(address) => {
                        self.swarm.remove_external_address(&address);
                        self.on_addresses();
                    }
                }
            }
        }
    }

    fn dial(&mut self, options: DialOpts) {
        let (id, peer) = (options.connection_id(), options.get_peer_id());
        if let Err(error) = self.swarm.dial(options) {
            let mut cx = self.common.context(&mut self.swarm);
            let discovery = &mut self.handlers.discovery;
            discovery.on_dial_error(&mut cx, id, peer, &error);
        }
    }

    fn report(&mut self, peer: PeerId, misdeed: Misdeed) {
        let cx = self.common.context(&mut self.swarm);
        if peer == cx.local {
            return;
        }
        cx.metrics.misdeed(misdeed).inc();
        tracing::debug!(%peer, misdeed = misdeed.name(), "a peer misbehaved");
        if self.handlers.conduct.report(peer, misdeed, cx.now) == Verdict::ShutOut {
            if misdeed == Misdeed::OtherNetwork {
                tracing::debug!(%peer, "of another network");
            } else {
                tracing::info!(%peer, misdeed = misdeed.name(), "shutting a peer out for a while");
            }
            cx.metrics.peers_shut_out.inc();
            cx.behaviour.kad.remove_peer(&peer);
            cx.behaviour.blocked.block_peer(peer);
            cx.events.shut_out(peer, misdeed);
            for peer in self.handlers.conduct.released(cx.now) {
                cx.behaviour.blocked.unblock_peer(peer);
            }
        }
    }

    /// Closes every connection, so that peers notice at once.
    async fn close(&mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let all_closed = async {
            while self.swarm.connected_peers().next().is_some() {
                let event = self.swarm.select_next_some().await;
                self.on_event(event);
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, all_closed)
            .await
            .is_err()
        {
            tracing::debug!("some connections did not close in time");
        }
    }
}

/// Whether to go on; otherwise who wants to know that it ended.
type Flow = ControlFlow<Option<oneshot::Sender<()>>>;

#[cfg(test)]
impl NetActor {
    pub(super) const fn swarm_mut(&mut self) -> &mut Swarm<Quiet<Behaviour>> {
        &mut self.swarm
    }

    /// Lets a test of a handler work with what handlers have.
    pub(super) fn with<T>(
        &mut self,
        work: impl FnOnce(&mut super::context::Context<'_>) -> T,
    ) -> T {
        work(&mut self.common.context(&mut self.swarm))
    }
}

#[cfg(test)]
mod tests;
