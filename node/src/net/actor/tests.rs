//! What must not end the actor.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures::FutureExt;
use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use libp2p::{Swarm, identify, relay};

use super::super::behaviour::{Behaviour, BehaviourEvent};
use super::super::config::ReachConfig;
use super::super::reach::RelayPolicy;
use super::super::{NetConfig, ReachState, prepare};
use super::*;

/// How long the nodes here wait for a place at a relay.
const PATIENCE: Duration = Duration::from_millis(50);

/// Nothing here takes a second on an idle machine; this is for a busy one.
const LIMIT: Duration = Duration::from_secs(60);

fn config() -> NetConfig {
    NetConfig::in_memory(Keypair::generate_ed25519(), "test")
}

/// A relay's swarm, to be polled by hand: what it says waits while it is not.
async fn relay() -> Swarm<Behaviour> {
    let reach = ReachConfig {
        relay: RelayPolicy::On,
        ..ReachConfig::none()
    };
    let (mut actor, _, _) = prepare(NetConfig { reach, ..config() }).await.unwrap();
    let address = actor.swarm.listeners().next().unwrap().clone();
    actor.swarm.add_external_address(address);
    let server = actor.swarm.behaviour_mut().relay_server.as_mut().unwrap();
    server.set_status(Some(relay::Status::Enable));
    actor.swarm
}

#[tokio::test]
async fn a_place_that_is_given_late_is_a_place_and_no_fault() {
    let mut relay = relay().await;
    let id = *relay.local_peer_id();
    let bootstrap = relay.listeners().cloned().collect();
    let (mut actor, handle, _events) = prepare(NetConfig {
        bootstrap,
        ..config()
    })
    .await
    .unwrap();
    actor.handlers.reach.hide(PATIENCE);
    let running = tokio::spawn(actor.run());

    // The relay says who it is, and then nothing until the request has waited for much longer than we do.
    let introduced = async {
        loop {
            let event = relay.select_next_some().await;
            let sent = matches!(
                event,
                SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Sent { .. }))
            );
            if sent {
                break;
            }
        }
    };
    tokio::time::timeout(LIMIT, introduced).await.unwrap();
    tokio::time::sleep(PATIENCE * 10).await;
    assert!(handle.reachability().await.relays.is_empty());

    let held = async {
        loop {
            while relay.next().now_or_never().is_some() {}
            let reach = handle.reachability().await;
            if reach.relays == [id] {
                break reach.state;
            }
            assert!(!running.is_finished(), "the network has ended");
            tokio::time::sleep(PATIENCE / 10).await;
        }
    };
    let state = tokio::time::timeout(LIMIT, held).await.unwrap();
    assert_eq!(state, ReachState::Relayed);
    handle.shutdown().await;
    running.await.unwrap();
}
