//! What the actor does when the addresses change at which this node listens or is reached.

use libp2p::{Multiaddr, PeerId};

use super::super::addresses::{self, Scope};
use super::super::context::Handlers;
use super::super::handle::Addresses;
use super::NetActor;

impl NetActor {
    /// An address that we listened on is gone: that of an interface, or a place at a relay.
    pub(super) fn on_moved(&mut self, address: &Multiaddr) {
        let gone = matches!(
            addresses::scope(address),
            Some(Scope::Private | Scope::Global)
        );
        if gone {
            tracing::info!(%address, "this machine has lost an address: looking which connections live");
            let mut cx = self.common.context(&mut self.swarm);
            let links = cx.peers.connected().flat_map(|(_, entry)| &entry.links);
            let direct = links.filter(|link| !link.is_relayed());
            cx.guard.moved(direct.map(|link| &link.remote));
            self.handlers.reach.on_moved(&mut cx);
            self.handlers.liveness.doubt_all(&mut cx);
        }
        self.on_addresses();
    }

    /// The addresses that we listen on or are reached at changed.
    pub(super) fn on_addresses(&mut self) {
        let listen: Vec<Multiaddr> = self.swarm.listeners().cloned().collect();
        let external: Vec<Multiaddr> = self.swarm.external_addresses().cloned().collect();
        let direct = |address: &Multiaddr| addresses::scope(address) != Some(Scope::Relayed);
        let reachable = external.iter().any(direct);
        self.common.public = external
            .iter()
            .any(|address| matches!(addresses::scope(address), Some(Scope::Global | Scope::Name)));
        self.common.own = listen
            .iter()
            .filter(|address| direct(address))
            .cloned()
            .collect();
        let own = self.common.own.iter().filter_map(addresses::ip);
        self.common.guard.owns(own.collect());
        let addresses = Addresses { listen, external };
        let changed = *self.addresses.borrow() != addresses;
        self.on_reach(reachable, changed);
        if changed {
            self.common
                .events
                .addresses(addresses.listen.clone(), addresses.external.clone());
            self.addresses.send_replace(addresses);
        }
    }

    /// Whether and where others can reach us may have changed.
    fn on_reach(&mut self, reachable: bool, changed: bool) {
        let has_place = self.swarm.external_addresses().any(addresses::is_relayed);
        let mut cx = self.common.context(&mut self.swarm);
        let Handlers {
            reach, discovery, ..
        } = &mut self.handlers;
        let was_relaying = reach.is_relaying();
        reach.on_external(&mut cx, reachable);
        if reach.is_relaying() != was_relaying {
            let key = cx.protocols.relays.clone();
            discovery.provide(&mut cx, key, reach.is_relaying());
        }
        if changed {
            // Whoever looks for us needs the present addresses.
            discovery.announce_again(&mut cx);
            let key = cx.protocols.whereabouts(&cx.local);
            discovery.provide(&mut cx, key, has_place);
        }
    }

    /// Asks for a place at a relay.
    pub(super) fn reserve(&mut self, relay: PeerId, circuit: Multiaddr) {
        let listener = match self.swarm.listen_on(circuit) {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::debug!(%relay, %error, "not an address of a relay");
                None
            }
        };
        let mut cx = self.common.context(&mut self.swarm);
        let reach = &mut self.handlers.reach;
        reach.on_reserving(&mut cx, relay, listener);
    }
}
