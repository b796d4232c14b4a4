//! The search for a peer: to be connected to it, or to say where it is.
//!
//! Owned by [`super::discovery`]. One way after the other is tried: the best of the known addresses,
//! all of them, and what the DHT knows, which is asked twice: for the nodes nearest to the id, as which a
//! node of the DHT is found, and for what the peer itself left there, as which one behind NAT is. Nobody is
//! told when all of them fail; whoever wants the peer has a deadline of his own.

use std::collections::HashMap;

use libp2p::kad::{GetClosestPeersError, GetClosestPeersOk, QueryId, QueryResult};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use super::addresses::without_peer;
use super::context::Context;
use super::dht;
use super::peer::MAX_ADDRESSES;

/// The most searches for single peers at a time; more are refused until some end.
const MAX_WANTED: usize = 256;

/// The most of them for peers that nobody asked for by name, such as those that a search for providers
/// brought: half, so that strangers never stand in the way of a peer that is lost.
const MAX_STRANGERS: usize = MAX_WANTED / 2;

/// Where the answer of a look-up goes.
pub(super) type FoundReply = oneshot::Sender<Vec<Multiaddr>>;

/// How far the search for a wanted peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The best addresses are being dialled.
    Preferred,
    /// All addresses are being dialled.
    Everywhere,
    /// The DHT is being asked.
    Sought,
    /// What the DHT said is being dialled.
    Found,
}

/// The DHT being asked about one peer.
#[derive(Debug, Default)]
struct Lookup {
    /// Queries that have not ended.
    open: usize,
    found: Vec<Multiaddr>,
    replies: Vec<FoundReply>,
}

/// The searches under way.
#[derive(Debug, Default)]
pub(super) struct Seeking {
    wanted: HashMap<PeerId, Wanted>,
    lookups: HashMap<PeerId, Lookup>,
    queries: HashMap<QueryId, PeerId>,
}

impl Seeking {
    /// The node wants to be connected to `peer`.
    pub(super) fn connect(&mut self, cx: &mut Context<'_>, peer: PeerId) {
        if peer == cx.local || cx.peers.is_connected(&peer) {
            return;
        }
        let busy = matches!(
            self.wanted.get(&peer),
            Some(Wanted::Everywhere | Wanted::Sought | Wanted::Found)
        );
        if busy || (self.wanted.len() >= MAX_WANTED && !self.wanted.contains_key(&peer)) {
            return;
        }
        let preferred = cx.preferred(&peer);
        if preferred.is_empty() {
            self.seek(cx, peer);
        } else {
            self.wanted.insert(peer, Wanted::Preferred);
            cx.dial(peer, preferred);
        }
    }

    /// A peer was found that may be of use. Returns whether it is sought.
    pub(super) fn connect_stranger(&mut self, cx: &mut Context<'_>, peer: PeerId) -> bool {
        let room = self.wanted.len() < MAX_STRANGERS;
        if room {
            self.connect(cx, peer);
        }
        room
    }

    /// Asks the DHT where `peer` is, connected or not.
    pub(super) fn find(&mut self, cx: &mut Context<'_>, peer: PeerId, reply: FoundReply) {
        if self.lookups.len() >= MAX_WANTED {
            // The asker sees that nobody looks.
            return;
        }
        self.look_up(cx, peer).replies.push(reply);
    }

    fn seek(&mut self, cx: &mut Context<'_>, peer: PeerId) {
        self.wanted.insert(peer, Wanted::Sought);
        let found = self.look_up(cx, peer).found.clone();
        if !found.is_empty() {
            self.dial_found(cx, peer, found);
        }
    }

    fn look_up(&mut self, cx: &mut Context<'_>, peer: PeerId) -> &mut Lookup {
        let lookup = self.lookups.entry(peer).or_default();
        if lookup.open == 0 {
            let key = cx.protocols.whereabouts(&peer);
            for query in [
                cx.behaviour.kad.get_closest_peers(peer),
                cx.behaviour.kad.get_providers(key),
            ] {
                self.queries.insert(query, peer);
                lookup.open += 1;
            }
        }
        lookup
    }

    /// A dial to a peer failed; the next way is tried.
    pub(super) fn next_way(&mut self, cx: &mut Context<'_>, peer: PeerId) {
        match self.wanted.get(&peer) {
            Some(Wanted::Preferred) => {
                let all = cx.peers.addresses(&peer);
                if all.is_empty() {
                    self.seek(cx, peer);
                } else {
                    self.wanted.insert(peer, Wanted::Everywhere);
                    cx.dial(peer, all);
                }
            }
            Some(Wanted::Everywhere) => self.seek(cx, peer),
            Some(Wanted::Found) => {
                // The other query may know better.
                if self.lookups.contains_key(&peer) {
                    self.wanted.insert(peer, Wanted::Sought);
                } else {
                    self.wanted.remove(&peer);
                }
            }
            // The DHT's own dials fail on the way.
            Some(Wanted::Sought) | None => {}
        }
    }

    /// There is a connection.
    pub(super) fn on_connected(&mut self, peer: &PeerId) {
        self.wanted.remove(peer);
    }

    /// Takes what the DHT says, when it is an answer to one of these searches.
    pub(super) fn on_answer(
        &mut self,
        cx: &mut Context<'_>,
        id: QueryId,
        last: bool,
        result: QueryResult,
    ) {
        let Some(peer) = self.queries.get(&id).copied() else {
            return;
        };
        let mut addresses = match result {
            QueryResult::GetClosestPeers(
                Ok(GetClosestPeersOk { peers, .. })
                | Err(GetClosestPeersError::Timeout { peers, .. }),
            ) => peers
                .into_iter()
                .find(|found| found.peer_id == peer)
                .map(|found| found.addrs)
                .unwrap_or_default(),
            QueryResult::GetProviders(_) => {
                let key = cx.protocols.whereabouts(&peer);
                dht::addresses_of(cx, peer, &key)
            }
            _ => Vec::new(),
        };
        if last {
            self.queries.remove(&id);
        }
        let Some(lookup) = self.lookups.get_mut(&peer) else {
            return;
        };
        // As they are kept everywhere here: without the peer's own name at the end.
        addresses = addresses
            .iter()
            .filter_map(|address| without_peer(address, peer))
            .filter(|address| !lookup.found.contains(address))
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        let room = MAX_ADDRESSES.saturating_sub(lookup.found.len());
        lookup.found.extend(addresses.iter().take(room).cloned());
        lookup.open -= usize::from(last);
        let over = lookup.open == 0;
        if over && let Some(lookup) = self.lookups.remove(&peer) {
            for reply in lookup.replies {
                let _ = reply.send(lookup.found.clone());
            }
        }
        if self.wanted.get(&peer) == Some(&Wanted::Sought) {
            if !addresses.is_empty() {
                self.dial_found(cx, peer, addresses);
            } else if over {
                self.wanted.remove(&peer);
            }
        }
    }

    fn dial_found(&mut self, cx: &mut Context<'_>, peer: PeerId, addresses: Vec<Multiaddr>) {
        self.wanted.insert(peer, Wanted::Found);
        let addresses = cx.hinted(peer, addresses);
        cx.dial(peer, addresses);
    }
}

#[cfg(test)]
impl Seeking {
    /// How many peers are sought.
    pub(super) fn under_way(&self) -> usize {
        self.wanted.len()
    }
}

#[cfg(test)]
mod tests;
