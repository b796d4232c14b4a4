//! At which addresses the whole Internet reaches this node, as far as peers have confirmed them.
//!
//! Owned by [`super::Reach`]. What the settings name and what a router forwards (UPnP) is none of its
//! business, and never taken back here.

use libp2p::{Multiaddr, upnp};

use super::super::context::{Action, Context};

/// The most addresses that a router forwards: TCP and QUIC on two routers and some that changed.
const MAX_FORWARDED: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct External {
    /// From the settings.
    fixed: Vec<Multiaddr>,
    /// Forwarded by the router.
    forwarded: Vec<Multiaddr>,
    /// Confirmed by peers.
    confirmed: Vec<Multiaddr>,
}

impl External {
    pub(super) fn new(fixed: Vec<Multiaddr>) -> Self {
        Self {
            fixed,
            ..Self::default()
        }
    }

    /// What peers have confirmed.
    pub(super) fn confirmed(&self) -> &[Multiaddr] {
        &self.confirmed
    }

    fn is_known_otherwise(&self, address: &Multiaddr) -> bool {
        self.fixed.contains(address) || self.forwarded.contains(address)
    }

    /// Peers confirm these, and no others any more.
    pub(super) fn set(&mut self, cx: &mut Context<'_>, confirmed: Vec<Multiaddr>) {
        let old = std::mem::replace(&mut self.confirmed, confirmed);
        for address in &self.confirmed {
            if !old.contains(address) && !self.is_known_otherwise(address) {
                tracing::info!(%address, "peers reach this node from outside");
                cx.actions.push(Action::Confirm(address.clone()));
            }
        }
        for address in old {
            if !self.confirmed.contains(&address) && !self.is_known_otherwise(&address) {
                tracing::info!(%address, "this address does not count any more as reached from outside");
                cx.actions.push(Action::Withdraw(address));
            }
        }
    }

    /// The router says something.
    pub(super) fn on_upnp(&mut self, cx: &mut Context<'_>, event: &upnp::Event) {
        match event {
            upnp::Event::NewExternalAddr { external_addr, .. } => {
                tracing::info!(address = %external_addr, "the router forwards a port to this node");
                if !self.forwarded.contains(external_addr) {
                    if self.forwarded.len() >= MAX_FORWARDED {
                        self.forwarded.remove(0);
                    }
                    self.forwarded.push(external_addr.clone());
                }
            }
            upnp::Event::ExpiredExternalAddr { external_addr, .. } => {
                tracing::debug!(address = %external_addr, "the router forwards this no more");
                self.forwarded.retain(|address| address != external_addr);
                // The swarm has taken it back already, whoever else stands for it.
                if self.fixed.contains(external_addr) || self.confirmed.contains(external_addr) {
                    cx.actions.push(Action::Confirm(external_addr.clone()));
                }
            }
            event => tracing::debug!(?event, "upnp"),
        }
    }
}
