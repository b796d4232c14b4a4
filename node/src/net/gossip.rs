//! How gossipsub is set up for one quiet topic.
//!
//! Called once, by [`super::behaviour`]. What is gossiped is up to [`super::capacity`].

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libp2p::gossipsub::{
    self, ConfigBuilder, MessageAuthenticity, PeerScoreParams, PeerScoreThresholds,
    TopicScoreParams, ValidationMode, score_parameter_decay,
};
use libp2p::identity::Keypair;

use super::error::NetError;
use super::protocols::Protocols;

/// The largest gossip message on the wire, in bytes: an advert of 8 KiB, or 16 KiB of control
/// messages (gossipsub's own bound), with room to spare.
const MAX_GOSSIP_BYTES: usize = 32 << 10;

/// Messages that wait for a slow peer. Adverts replace one another, so that a few rounds' worth are
/// enough; the default of 5,000 is made for block chains.
const QUEUE_PER_PEER: usize = 256;

/// The first heartbeat comes soon, so that a mesh stands soon. (The default is 5 s.)
const FIRST_HEARTBEAT: Duration = Duration::from_millis(200);

/// Peers behind one address that are not suspicious: a laboratory or a student house behind one NAT.
/// (The default is 10.)
const PEERS_PER_ADDRESS: f64 = 256.0;

/// Bad messages are held against a peer for this long.
const MEMORY_OF_BAD_MESSAGES: Duration = Duration::from_secs(600);

/// The behaviour, subscribed to the network's topic.
///
/// # Errors
/// Only when libp2p changes what it takes for a sound configuration.
pub(super) fn behaviour(
    keypair: &Keypair,
    protocols: &Protocols,
) -> Result<gossipsub::Behaviour, NetError> {
    let config = ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .flood_publish(true)
        .heartbeat_initial_delay(FIRST_HEARTBEAT)
        .max_transmit_size(MAX_GOSSIP_BYTES)
        .connection_handler_queue_len(QUEUE_PER_PEER)
        .build()?;
    let setup = |text: &str| NetError::Gossip(text.to_owned());
    let authenticity = MessageAuthenticity::Signed(keypair.clone());
    let mut behaviour = gossipsub::Behaviour::new(authenticity, config).map_err(setup)?;
    behaviour
        .with_peer_score(score(protocols), PeerScoreThresholds::default())
        .map_err(|text| setup(&text))?;
    behaviour
        .subscribe(&protocols.topic)
        .map_err(|error| setup(&error.to_string()))?;
    Ok(behaviour)
}

/// Scores punish forged messages and nothing else about deliveries: the topic is quiet (an advert a
/// minute from each node), and the default expectation of 20 messages per decay interval would make
/// every honest peer look lazy.
fn score(protocols: &Protocols) -> PeerScoreParams {
    let topic = TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.0,
        first_message_deliveries_weight: 0.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        // The square of their number counts: 3 bad messages are below the graylist's -80.
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: score_parameter_decay(MEMORY_OF_BAD_MESSAGES),
        ..TopicScoreParams::default()
    };
    PeerScoreParams {
        topics: [(protocols.topic.hash(), topic)].into(),
        ip_colocation_factor_threshold: PEERS_PER_ADDRESS,
        ip_colocation_factor_whitelist: HashSet::from([
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ]),
        retain_score: MEMORY_OF_BAD_MESSAGES,
        ..PeerScoreParams::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_configuration_is_sound() {
        let protocols = Protocols::new("test").unwrap();
        assert!(score(&protocols).validate().is_ok());
        assert!(behaviour(&Keypair::generate_ed25519(), &protocols).is_ok());
    }
}
