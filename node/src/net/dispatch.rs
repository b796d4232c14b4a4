//! Which handler gets what.
//!
//! Called by the actor for every event of a behaviour and every request of the node; holds no state.

use libp2p::{PeerId, gossipsub, identify, ping};

use super::behaviour::BehaviourEvent;
use super::conduct::Misdeed;
use super::context::{Context, Handlers};
use super::handle::Request;
use super::peer::{Entry, LinkSnapshot};
use super::reach::{self, Reachability};

/// The node wants something.
pub(super) fn request(handlers: &mut Handlers, cx: &mut Context<'_>, request: Request) {
    match request {
        Request::Call {
            peer,
            request,
            reply,
        } => {
            if let Some(call) = handlers.tasks.call(cx, peer, request, reply) {
                handlers.liveness.on_call(cx.now, peer, call);
            }
        }
        Request::Respond { id, response } => handlers.tasks.answer(cx, id, response),
        Request::Publish(advert) => handlers.capacity.publish(cx, *advert),
        Request::Connect(peer) => handlers.discovery.connect(cx, peer),
        Request::Provide(providing) => {
            let key = cx.protocols.providers.clone();
            handlers.discovery.provide(cx, key, providing);
        }
        Request::FindProviders => handlers.discovery.find_providers(cx),
        Request::Open { peer, kind, reply } => {
            cx.peers.used(&peer, cx.now);
            if cx.behaviour.streams.open(peer, kind, reply) {
                let addresses = cx.preferred(&peer);
                cx.dial(peer, addresses);
            }
        }
        Request::Ping { peer, reply } => handlers.liveness.ping(cx, peer, reply),
        Request::Find { peer, reply } => handlers.discovery.find(cx, peer, reply),
        Request::Links { peer, reply } => {
            let _ = reply.send(links(cx, &peer));
        }
        Request::Trouble { peer, reply } => {
            let _ = reply.send(handlers.discovery.trouble(&peer));
        }
        Request::TcpAddress { peer, reply } => {
            let _ = reply.send(cx.peers.get(&peer).and_then(Entry::tcp_address));
        }
        Request::Reach(reply) => {
            let _ = reply.send(Reachability {
                bootstrap: handlers.discovery.bootstrap(),
                ..handlers.reach.snapshot()
            });
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
            connection,
            result,
        }) => match result {
            Ok(rtt) => cx.peers.measured(&peer, connection, rtt),
            Err(_) => handlers.liveness.doubt(cx, peer),
        },
        BehaviourEvent::Echo(event) => handlers.liveness.on_echo(cx, event),
        BehaviourEvent::Autonat(event) => handlers.reach.on_autonat(cx, event),
        BehaviourEvent::RelayServer(event) => handlers.reach.on_relay_server(cx, &event),
        BehaviourEvent::RelayClient(event) => {
            handlers.reach.on_relay_client(&event);
        }
        BehaviourEvent::Dcutr(event) => {
            if let Some(peer) = reach::on_dcutr(&event) {
                cx.behaviour.streams.expect_no_direct(peer);
            }
        }
        BehaviourEvent::Upnp(event) => handlers.reach.on_upnp(cx, &event),
        BehaviourEvent::Dials(never)
        | BehaviourEvent::Blocked(never)
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

/// The connections to `peer`.
fn links(cx: &Context<'_>, peer: &PeerId) -> Vec<LinkSnapshot> {
    let links = cx.peers.get(peer).map(|entry| entry.links.iter());
    let chosen = cx.behaviour.streams.best(peer);
    links
        .into_iter()
        .flatten()
        .map(|link| {
            let (sent, received) = cx.behaviour.streams.bytes(peer, link.id);
            LinkSnapshot {
                remote: link.circuit.clone().unwrap_or_else(|| link.remote.clone()),
                relay: link.relay(),
                relayed: link.is_relayed(),
                dialled: link.dialled,
                age: cx.now.saturating_duration_since(link.since),
                rtt: link.rtt,
                sent,
                received,
                chosen: chosen == Some(link.id),
            }
        })
        .collect()
}

fn on_identify(handlers: &mut Handlers, cx: &mut Context<'_>, event: identify::Event) {
    // Also what a peer tells by itself when its addresses change. (`Pushed` is what we told.)
    let identify::Event::Received {
        peer_id,
        info,
        connection_id,
    } = event
    else {
        return;
    };
    if !cx.peers.introduces(&peer_id, cx.now) {
        cx.report(peer_id, Misdeed::OutOfPlace);
        return;
    }
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
    handlers
        .reach
        .on_identified(cx, peer_id, connection_id, &info);
}
