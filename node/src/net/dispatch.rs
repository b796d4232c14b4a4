//! Which handler gets what.
//!
//! Called by the actor for every event of a behaviour and every request of the node; holds no state.

use libp2p::{gossipsub, identify, ping};

use super::behaviour::BehaviourEvent;
use super::conduct::Misdeed;
use super::context::{Context, Handlers};
use super::handle::Request;
use super::reach;

/// The node wants something.
pub(super) fn request(handlers: &mut Handlers, cx: &mut Context<'_>, request: Request) {
    match request {
        Request::Call {
            peer,
            request,
            reply,
        } => handlers.tasks.call(cx, peer, request, reply),
        Request::Respond { id, response } => handlers.tasks.answer(cx, id, response),
        Request::Publish(advert) => handlers.capacity.publish(cx, *advert),
        Request::Connect(peer) => handlers.discovery.connect(cx, peer),
        Request::Provide(providing) => handlers.discovery.provide(cx, providing),
        Request::FindProviders => handlers.discovery.find_providers(cx),
        Request::Open { peer, kind, reply } => {
            cx.peers.used(&peer, cx.now);
            if cx.behaviour.streams.open(peer, kind, reply) {
                let addresses = cx.preferred(&peer);
                cx.dial(peer, addresses);
            }
        }
        Request::Peers(reply) => {
            let _ = reply.send(cx.peers.snapshot());
        }
        Request::NetworkSize(reply) => {
            let others = handlers.capacity.len().max(cx.peers.connected_count());
            let _ = reply.send(others + 1);
        }
        Request::Report { peer, misdeed } => cx.report(peer, misdeed),
    }
}

/// A behaviour says something.
pub(super) fn event(handlers: &mut Handlers, cx: &mut Context<'_>, event: BehaviourEvent) {
    match event {
        BehaviourEvent::Tasks(event) => handlers.tasks.on_event(cx, event),
        BehaviourEvent::Exchange(event) => {
            handlers
                .exchange
                .on_event(cx, &mut handlers.capacity, event);
        }
        BehaviourEvent::Gossipsub(event) => on_gossip(handlers, cx, event),
        BehaviourEvent::Identify(event) => on_identify(handlers, cx, event),
        BehaviourEvent::Kad(event) => {
            if handlers.discovery.on_kad(cx, event) {
                handlers.exchange.ask_somebody(cx, &handlers.capacity);
            }
        }
        BehaviourEvent::Mdns(event) => handlers.discovery.on_mdns(cx, event),
        BehaviourEvent::Ping(ping::Event {
            peer,
            result: Ok(rtt),
            ..
        }) => cx.peers.measured(&peer, rtt),
        BehaviourEvent::Ping(_) => {}
        BehaviourEvent::Autonat(event) => handlers.reach.on_autonat(cx, &event),
        BehaviourEvent::RelayServer(event) => reach::on_relay_server(&event),
        BehaviourEvent::RelayClient(event) => reach::on_relay_client(&event),
        BehaviourEvent::Dcutr(event) => reach::on_dcutr(&event),
        BehaviourEvent::Upnp(event) => reach::on_upnp(&event),
        BehaviourEvent::Blocked(never)
        | BehaviourEvent::ConnectionLimits(never)
        | BehaviourEvent::MemoryLimit(never)
        | BehaviourEvent::Streams(never) => match never {},
    }
}

fn on_gossip(handlers: &mut Handlers, cx: &mut Context<'_>, event: gossipsub::Event) {
    match event {
        gossipsub::Event::Message {
            propagation_source,
            message_id,
            message,
        } => handlers
            .capacity
            .on_gossip(cx, propagation_source, &message_id, &message),
        gossipsub::Event::Subscribed { peer_id, .. } => {
            handlers.capacity.on_subscribed(cx);
            handlers
                .exchange
                .on_subscribed(cx, &handlers.capacity, peer_id);
        }
        event => tracing::trace!(?event, "gossip"),
    }
}

fn on_identify(handlers: &mut Handlers, cx: &mut Context<'_>, event: identify::Event) {
    let identify::Event::Received { peer_id, info, .. } = event else {
        return;
    };
    cx.peers.identified(peer_id, &info.agent_version);
    if !info.protocols.contains(&cx.protocols.task) {
        let other_version = info
            .protocols
            .iter()
            .any(|protocol| cx.protocols.is_other_version(protocol));
        let misdeed = if other_version {
            Misdeed::UnknownVersion
        } else {
            Misdeed::OtherNetwork
        };
        cx.report(peer_id, misdeed);
        return;
    }
    handlers
        .discovery
        .on_identified(cx, peer_id, &info.listen_addrs, &info.protocols);
    handlers.reach.on_identified(cx, peer_id, &info.protocols);
}
