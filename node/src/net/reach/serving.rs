//! What this node does as a relay, as far as it has to know: whose places hang on which connections, and how
//! much goes on. The work itself is libp2p's, within the limits of [`super::policy`].

use std::collections::{HashMap, HashSet};

use libp2p::{PeerId, relay};

use super::super::context::Context;

/// See the module. Bounded by the limits on places and circuits.
#[derive(Debug, Default)]
pub(super) struct Serving {
    /// Whether others are served.
    pub(super) on: bool,
    /// Nodes that have a place here.
    clients: HashSet<PeerId>,
    /// Circuits by their two ends.
    circuits: HashMap<(PeerId, PeerId), u32>,
}

impl Serving {
    /// Whether `peer` has a place here.
    pub(super) fn has(&self, peer: &PeerId) -> bool {
        self.clients.contains(peer)
    }

    /// How many have a place here.
    pub(super) fn clients(&self) -> u32 {
        self.clients.len() as u32
    }

    /// Connections between others that go through here.
    pub(super) fn circuits(&self) -> u32 {
        self.circuits.values().sum()
    }

    pub(super) fn on_event(&mut self, cx: &Context<'_>, event: &relay::Event) {
        tracing::debug!(?event, "relay");
        let (clients, circuits) = (self.clients(), self.circuits());
        self.note(cx, event);
        // The gauges are shared with the node's other networks.
        let change = |now: u32, before: u32| i64::from(now) - i64::from(before);
        let metrics = cx.metrics;
        metrics
            .relay_clients
            .inc_by(change(self.clients(), clients));
        metrics
            .relay_circuits
            .inc_by(change(self.circuits(), circuits));
    }

    fn note(&mut self, cx: &Context<'_>, event: &relay::Event) {
        match event {
            relay::Event::ReservationReqAccepted { src_peer_id, .. } => {
                self.clients.insert(*src_peer_id);
            }
            // Said of every connection that closes, also of those that no place hung on.
            relay::Event::ReservationClosed { src_peer_id }
                if cx.peers.is_connected(src_peer_id) => {}
            relay::Event::ReservationClosed { src_peer_id }
            | relay::Event::ReservationTimedOut { src_peer_id } => {
                self.clients.remove(src_peer_id);
            }
            relay::Event::CircuitReqAccepted {
                src_peer_id,
                dst_peer_id,
            } => {
                let ends = (*src_peer_id, *dst_peer_id);
                *self.circuits.entry(ends).or_default() += 1;
            }
            relay::Event::CircuitClosed {
                src_peer_id,
                dst_peer_id,
                ..
            } => {
                let ends = (*src_peer_id, *dst_peer_id);
                let left = self.circuits.get(&ends).map_or(0, |count| count - 1);
                if left == 0 {
                    self.circuits.remove(&ends);
                } else {
                    self.circuits.insert(ends, left);
                }
            }
            relay::Event::ReservationReqDenied { .. } | relay::Event::CircuitReqDenied { .. } => {
                cx.metrics.relay_refused.inc();
            }
            _ => {}
        }
    }
}
