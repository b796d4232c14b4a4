//! Finds peers and addresses: bootstrap nodes, remembered peers, mDNS, and walks through the DHT.
//!
//! Owns the schedule of all dials that nobody asked for, the search for a peer that the node wants
//! to talk to, and what goes into the routing table. Called by the actor; it touches the swarm only
//! through [`Context`], and never decides which peers are useful.
//!
//! A node joins by dialling a bootstrap node; identify then names that node's addresses, and a walk
//! (a lookup of the node's own id) dials the nearest nodes one after the other and thereby makes the
//! node known to them. Two nodes that join at the same moment may miss each other, so the walk is repeated,
//! soon at first and seldom later.

use std::collections::HashMap;
use std::time::Instant;

use libp2p::kad::{self, GetProvidersOk, InboundRequest, QueryId, QueryResult, RecordKey};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId, StreamProtocol, mdns};

use super::addresses::{self, Scope};
use super::conduct::Misdeed;
use super::context::Context;
use super::dht;
use super::joining::Joining;
use super::schedule::{Walk, Walks};
use super::seeking::{FoundReply, Seeking};
use super::trouble::Troubles;

/// What a query of ours is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Query {
    Walk,
    /// Nodes that offer capacity.
    Providers,
    /// Nodes that relay.
    Relays,
}

/// The most relays that one search dials: two are needed, and some will be full.
const RELAYS_DIALLED: usize = 6;

/// A query under way.
#[derive(Debug, Clone, Copy)]
struct Running {
    query: Query,
    /// How many more of the peers that it finds are dialled.
    left: usize,
}

/// Peers being found.
#[derive(Debug)]
pub(super) struct Discovery {
    joining: Joining,
    walks: Walks,
    seeking: Seeking,
    troubles: Troubles,
    queries: HashMap<QueryId, Running>,
    /// The keys under which this node can be found.
    provided: Vec<RecordKey>,
    /// Peers beyond which mDNS dials no more.
    comfortable: usize,
}

impl Discovery {
    pub(super) fn new(joining: Joining, comfortable: usize) -> Self {
        Self {
            joining,
            walks: Walks::default(),
            seeking: Seeking::default(),
            troubles: Troubles::default(),
            queries: HashMap::new(),
            provided: Vec::new(),
            comfortable,
        }
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.joining.deadline(), self.walks.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub(super) fn on_deadline(&mut self, cx: &mut Context<'_>) {
        self.joining.on_deadline(cx);
        let Some(walk) = self.walks.take_due(cx.now) else {
            return;
        };
        if self.is_running(Query::Walk) {
            return;
        }
        let query = match walk {
            Walk::Near => Some(cx.behaviour.kad.get_closest_peers(cx.local)),
            Walk::Far => cx.behaviour.kad.bootstrap().ok(),
        };
        match query {
            Some(id) => {
                let query = Query::Walk;
                self.queries.insert(id, Running { query, left: 0 });
            }
            // Nobody to ask; the next peer starts the walks anew.
            None => self.walks.stop(),
        }
    }

    fn is_running(&self, query: Query) -> bool {
        self.queries.values().any(|running| running.query == query)
    }

    /// The node wants to be connected to `peer`.
    pub(super) fn connect(&mut self, cx: &mut Context<'_>, peer: PeerId) {
        self.seeking.connect(cx, peer);
    }

    /// Why `peer` was not reached when that was last tried.
    pub(super) fn trouble(&self, peer: &PeerId) -> Option<String> {
        self.troubles.of(peer).map(str::to_owned)
    }

    /// As [`Joining::bootstrap`].
    pub(super) fn bootstrap(&self) -> Vec<(Multiaddr, Option<String>)> {
        self.joining.bootstrap()
    }

    /// A connection opened.
    pub(super) fn on_connected(&mut self, now: Instant, id: ConnectionId, peer: PeerId) {
        self.seeking.on_connected(&peer);
        self.troubles.on_connected(&peer);
        self.joining.on_connected(now, id, peer);
    }

    /// The last connection to a peer closed.
    pub(super) fn on_disconnected(&mut self, cx: &Context<'_>, peer: PeerId) {
        let connected = cx.peers.connected_count();
        self.joining.on_disconnected(cx.now, peer, connected);
        if connected == 0 {
            // The next peer starts the walks anew, with short pauses.
            self.walks.stop();
        }
    }

    /// A dial failed.
    pub(super) fn on_dial_error(
        &mut self,
        cx: &mut Context<'_>,
        id: ConnectionId,
        peer: Option<PeerId>,
        error: &DialError,
    ) {
        let alone = cx.peers.connected_count() == 0;
        self.joining.on_dial_error(id, error, alone);
        let Some(peer) = peer else {
            return;
        };
        self.troubles.on_dial_error(cx.now, peer, error);
        match error {
            DialError::Transport(failures) => {
                for (address, _) in failures {
                    cx.peers.failed(&peer, address, cx.now);
                }
            }
            DialError::WrongPeerId { address, .. } => cx.peers.mistaken(&peer, address),
            DialError::DialPeerConditionFalse(_) => return,
            _ => {}
        }
        if cx.peers.is_connected(&peer) {
            return;
        }
        if cx.peers.addresses(&peer).is_empty() {
            // Nothing that the DHT could tell others about it is true any more.
            cx.behaviour.kad.remove_peer(&peer);
        }
        self.seeking.next_way(cx, peer);
    }

    /// A peer said who it is, what it speaks and where it listens.
    pub(super) fn on_identified(
        &mut self,
        cx: &mut Context<'_>,
        peer: PeerId,
        claimed: &[Multiaddr],
        speaks: &[StreamProtocol],
    ) {
        let believed = cx.peers.claimed(peer, claimed);
        if !speaks.contains(&cx.protocols.kad) {
            cx.behaviour.kad.remove_peer(&peer);
            return;
        }
        let shareable = dht::shareable(cx, &believed);
        dht::route(cx, peer, &shareable);
        self.walks.start(cx.now);
    }

    /// mDNS found nodes on the LAN. Which network they are of only shows when they are asked.
    pub(super) fn on_mdns(&mut self, cx: &mut Context<'_>, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else {
            return;
        };
        let mut peers: HashMap<PeerId, Vec<Multiaddr>> = HashMap::new();
        for (peer, address) in found {
            peers.entry(peer).or_default().push(address);
        }
        for (peer, mut found) in peers {
            // A loopback address is another machine's, unless nothing else was named.
            let elsewhere =
                |address: &Multiaddr| addresses::scope(address) != Some(Scope::Loopback);
            if found.iter().any(elsewhere) {
                found.retain(elsewhere);
            }
            cx.guard.vouch(peer);
            cx.hinted(peer, found);
            if cx.peers.connected_count() < self.comfortable {
                self.seeking.connect_stranger(cx, peer);
            }
        }
    }

    /// The node wants to know where the DHT says that `peer` is.
    pub(super) fn find(&mut self, cx: &mut Context<'_>, peer: PeerId, reply: FoundReply) {
        self.seeking.find(cx, peer, reply);
    }

    /// Whether this node can be found under `key`.
    pub(super) fn provide(&mut self, cx: &mut Context<'_>, key: RecordKey, providing: bool) {
        self.provided.retain(|provided| *provided != key);
        if providing {
            announce(cx, key.clone());
            self.provided.push(key);
        } else {
            cx.behaviour.kad.stop_providing(&key);
        }
    }

    /// Looks for nodes that offer capacity and dials them.
    pub(super) fn find_providers(&mut self, cx: &mut Context<'_>) {
        let key = cx.protocols.providers.clone();
        self.search(cx, Query::Providers, key);
    }

    /// Looks for nodes that relay and dials some of them.
    pub(super) fn find_relays(&mut self, cx: &mut Context<'_>) {
        let key = cx.protocols.relays.clone();
        self.search(cx, Query::Relays, key);
    }

    fn search(&mut self, cx: &mut Context<'_>, query: Query, key: RecordKey) {
        if !self.is_running(query) {
            let left = match query {
                Query::Relays => RELAYS_DIALLED,
                Query::Providers | Query::Walk => self.comfortable,
            };
            let id = cx.behaviour.kad.get_providers(key);
            self.queries.insert(id, Running { query, left });
        }
    }

    /// The DHT says something. Returns whether a walk ended.
    pub(super) fn on_kad(&mut self, cx: &mut Context<'_>, event: kad::Event) -> bool {
        match event {
            kad::Event::OutboundQueryProgressed {
                id, result, step, ..
            } => {
                match (self.queries.get(&id).copied(), result) {
                    (None, result) => self.seeking.on_answer(cx, id, step.last, result),
                    (Some(running), QueryResult::GetProviders(Ok(found))) => {
                        let left = self.on_providers(cx, running.left, &found);
                        self.queries.insert(id, Running { left, ..running });
                    }
                    (Some(running), _) if step.last && running.query == Query::Walk => {
                        self.queries.remove(&id);
                        self.on_walked(cx);
                        return true;
                    }
                    _ => {}
                }
                if step.last {
                    self.queries.remove(&id);
                }
            }
            kad::Event::InboundRequest {
                request:
                    InboundRequest::AddProvider {
                        record: Some(record),
                    },
            } => dht::store_provider(cx, record),
            kad::Event::InboundRequest {
                request: InboundRequest::PutRecord { source, .. },
            } => cx.report(source, Misdeed::OutOfPlace),
            _ => {}
        }
        false
    }

    /// Dials those that were found, up to `left`; returns how many may follow.
    fn on_providers(
        &mut self,
        cx: &mut Context<'_>,
        mut left: usize,
        found: &GetProvidersOk,
    ) -> usize {
        let GetProvidersOk::FoundProviders { key, providers } = found else {
            return left;
        };
        let strangers = providers
            .iter()
            .filter(|peer| **peer != cx.local && !cx.peers.is_connected(peer));
        let strangers: Vec<PeerId> = strangers.take(left).copied().collect();
        for peer in strangers {
            // The query knows their addresses for as long as it runs, which is not long.
            let addresses = dht::addresses_of(cx, peer, key);
            cx.hinted(peer, addresses);
            if self.seeking.connect_stranger(cx, peer) {
                left -= 1;
            }
        }
        left
    }

    fn on_walked(&mut self, cx: &mut Context<'_>) {
        tracing::debug!(
            connected = cx.peers.connected_count(),
            "walked through the network"
        );
        self.announce_again(cx);
    }

    /// Tells the DHT again where this node is, under all its keys.
    pub(super) fn announce_again(&self, cx: &mut Context<'_>) {
        for key in &self.provided {
            announce(cx, key.clone());
        }
    }
}

/// Tells the DHT that this node is to be found under `key`, at the addresses that are confirmed.
fn announce(cx: &mut Context<'_>, key: RecordKey) {
    if let Err(error) = cx.behaviour.kad.start_providing(key) {
        tracing::warn!(%error, "this node cannot be found through the DHT");
    }
}

#[cfg(test)]
mod tests;
