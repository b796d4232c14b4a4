//! A behaviour of libp2p's that may not decide on its own at which addresses this node is.
//!
//! libp2p has every address at which any peer claims to see this node spread among all behaviours: DCUtR
//! offers them for punching, AutoNAT keeps them for ever and asks about all of them. And AutoNAT confirms
//! what its first server says. [`Reined`] keeps both from it: the behaviour inside hears of such addresses
//! only from its owner, [`super::Reach`], and confirms none.

use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ExternalAddrExpired, NewExternalAddrCandidate};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, autonat, dcutr};

/// First wait before reachability is asked for (5 s), so that there are peers to ask.
const FIRST_PROBE: Duration = Duration::from_secs(5);

/// The most addresses that are dialled for a peer that asks whether it can be reached, one after the other
/// and each for up to 10 s: TCP and QUIC, IPv4 and IPv6.
const PROBED_ADDRESSES: usize = 4;

/// How long we wait for the answer (60 s): libp2p's 30 s end before another node has tried all addresses,
/// and a node behind NAT then never learns that it is.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// Time between two questions until the answer is certain (20 s, against libp2p's 90): it takes two peers
/// to confirm an address, and two to say that there is none.
const PROBE_INTERVAL: Duration = Duration::from_secs(20);

/// Makes the behaviour that asks and answers whether a node can be reached.
pub(in super::super) fn autonat(local: PeerId) -> Reined<autonat::Behaviour> {
    let config = autonat::Config {
        boot_delay: FIRST_PROBE,
        retry_interval: PROBE_INTERVAL,
        timeout: PROBE_TIMEOUT,
        max_peer_addresses: PROBED_ADDRESSES,
        ..autonat::Config::default()
    };
    Reined::new(autonat::Behaviour::new(local, config))
}

/// Makes the behaviour that punches holes.
pub(in super::super) fn dcutr(local: PeerId) -> Reined<dcutr::Behaviour> {
    Reined::new(dcutr::Behaviour::new(local))
}

/// See the module.
pub(in super::super) struct Reined<B> {
    inner: B,
}

impl<B> Reined<B> {
    pub(in super::super) const fn new(inner: B) -> Self {
        Self { inner }
    }
}

impl Reined<dcutr::Behaviour> {
    /// This node can perhaps be reached at `addr`, through a hole.
    pub(super) fn offer(&mut self, addr: &Multiaddr) {
        let candidate = NewExternalAddrCandidate { addr };
        self.inner
            .on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
    }
}

impl Reined<autonat::Behaviour> {
    /// What was found out is void: this machine is somewhere else. It is asked anew at once.
    pub(super) fn forget(&mut self) {
        if let Some(addr) = self.inner.public_address().cloned() {
            let expired = ExternalAddrExpired { addr: &addr };
            self.inner
                .on_swarm_event(FromSwarm::ExternalAddrExpired(expired));
        }
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Reined<B> {
    type ConnectionHandler = B::ConnectionHandler;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner
            .handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_outbound_connection(id, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if !matches!(event, FromSwarm::NewExternalAddrCandidate(_)) {
            self.inner.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            match self.inner.poll(cx) {
                Poll::Ready(ToSwarm::ExternalAddrConfirmed(_)) => {}
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::VecDeque;
    use std::convert::Infallible;

    use futures::task::noop_waker_ref;
    use libp2p::swarm::dummy;

    use super::*;

    /// Counts the candidates that it hears of, and says what it is told to say.
    #[derive(Default)]
    struct Gullible {
        heard: usize,
        says: VecDeque<ToSwarm<Infallible, Infallible>>,
    }

    impl NetworkBehaviour for Gullible {
        type ConnectionHandler = dummy::ConnectionHandler;
        type ToSwarm = Infallible;

        fn handle_established_inbound_connection(
            &mut self,
            _: ConnectionId,
            _: PeerId,
            _: &Multiaddr,
            _: &Multiaddr,
        ) -> Result<THandler<Self>, ConnectionDenied> {
            Ok(dummy::ConnectionHandler)
        }

        fn handle_established_outbound_connection(
            &mut self,
            _: ConnectionId,
            _: PeerId,
            _: &Multiaddr,
            _: Endpoint,
            _: PortUse,
        ) -> Result<THandler<Self>, ConnectionDenied> {
            Ok(dummy::ConnectionHandler)
        }

        fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
            self.heard += usize::from(matches!(event, FromSwarm::NewExternalAddrCandidate(_)));
        }

        fn on_connection_handler_event(
            &mut self,
            _: PeerId,
            _: ConnectionId,
            event: THandlerOutEvent<Self>,
        ) {
            match event {}
        }

        fn poll(
            &mut self,
            _: &mut Context<'_>,
        ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
            self.says.pop_front().map_or(Poll::Pending, Poll::Ready)
        }
    }

    #[test]
    fn it_hears_of_no_candidates_and_confirms_nothing() {
        let addr: Multiaddr = "/ip4/9.9.9.9/tcp/1".parse().unwrap();
        let mut reined = Reined::new(Gullible::default());
        let candidate = NewExternalAddrCandidate { addr: &addr };
        reined.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
        assert_eq!(reined.inner.heard, 0);
        reined.inner.says.extend([
            ToSwarm::ExternalAddrConfirmed(addr.clone()),
            ToSwarm::ExternalAddrExpired(addr),
        ]);
        let mut cx = Context::from_waker(noop_waker_ref());
        let said = reined.poll(&mut cx);
        assert!(matches!(said, Poll::Ready(ToSwarm::ExternalAddrExpired(_))));
        assert!(reined.poll(&mut cx).is_pending());
    }
}
