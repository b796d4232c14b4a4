//! The search for a peer that the node wants to be connected to.
//!
//! Owned by [`super::discovery`]. One way after the other is tried: the best of the known addresses,
//! all of them, and what the DHT knows. Nobody is told when all of them fail; whoever wants the peer
//! has a deadline of his own.

use std::collections::HashMap;

use libp2p::kad::{GetClosestPeersError, GetClosestPeersOk, GetClosestPeersResult, QueryId};
use libp2p::{Multiaddr, PeerId};

use super::context::Context;

/// The most searches for single peers at a time; more are refused until some end.
const MAX_WANTED: usize = 256;

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

/// The searches under way.
#[derive(Debug, Default)]
pub(super) struct Seeking {
    wanted: HashMap<PeerId, Wanted>,
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

    fn seek(&mut self, cx: &mut Context<'_>, peer: PeerId) {
        let id = cx.behaviour.kad.get_closest_peers(peer);
        self.queries.insert(id, peer);
        self.wanted.insert(peer, Wanted::Sought);
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
                self.wanted.remove(&peer);
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
    pub(super) fn on_closest(
        &mut self,
        cx: &mut Context<'_>,
        id: QueryId,
        result: GetClosestPeersResult,
    ) {
        let Some(peer) = self.queries.remove(&id) else {
            return;
        };
        let (Ok(GetClosestPeersOk { peers, .. })
        | Err(GetClosestPeersError::Timeout { peers, .. })) = result;
        let addresses = peers
            .into_iter()
            .find(|found| found.peer_id == peer)
            .map(|found| found.addrs)
            .unwrap_or_default();
        self.found(cx, peer, addresses);
    }

    fn found(&mut self, cx: &mut Context<'_>, peer: PeerId, addresses: Vec<Multiaddr>) {
        if self.wanted.get(&peer) != Some(&Wanted::Sought) {
            return;
        }
        if addresses.is_empty() {
            self.wanted.remove(&peer);
        } else {
            self.wanted.insert(peer, Wanted::Found);
            cx.peers.hinted(peer, addresses.iter().cloned());
            cx.dial(peer, addresses);
        }
    }
}
