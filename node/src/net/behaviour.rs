//! All protocols of one node, put together.
//!
//! The order of the fields matters: a connection that one behaviour refuses was already accepted by
//! those before it, and some of them would then wait for it for ever; so those that refuse come
//! first. What a connection hands to its last behaviour goes through the fewest layers of the others;
//! so the busiest come last.

use std::time::Duration;

use libp2p::allow_block_list::{self, BlockedPeers};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    autonat, connection_limits, dcutr, gossipsub, identify, mdns, memory_connection_limits, ping,
    relay, upnp,
};

use super::config::NetConfig;
use super::dht::{self, Kademlia};
use super::error::NetError;
use super::events::EventSink;
use super::exchange::{self, ExchangeBehaviour};
use super::guard::{Guard, Meter};
use super::protocols::Protocols;
use super::reach::Reined;
use super::tasks::{self, TaskBehaviour};
use super::{echo, gossip, limits, reach, streams};

/// How often a round trip is measured (30 s). For people; whether a peer lives is found out otherwise.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How often peers are asked again who they are (1 hour). They tell by themselves when their addresses
/// change, and every question would count as use of an idle connection.
const IDENTIFY_INTERVAL: Duration = Duration::from_secs(3_600);

/// Everything the swarm runs.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) dials: Meter,
    pub(super) blocked: allow_block_list::Behaviour<BlockedPeers>,
    pub(super) connection_limits: connection_limits::Behaviour,
    pub(super) memory_limit: Toggle<memory_connection_limits::Behaviour>,
    pub(super) upnp: Toggle<upnp::tokio::Behaviour>,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(super) autonat: Toggle<Reined<autonat::Behaviour>>,
    pub(super) dcutr: Toggle<Reined<dcutr::Behaviour>>,
    pub(super) relay_server: Toggle<relay::Behaviour>,
    pub(super) relay_client: relay::client::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) echo: echo::Behaviour,
    pub(super) exchange: ExchangeBehaviour,
    pub(super) kad: Kademlia,
    pub(super) gossipsub: gossipsub::Behaviour,
    pub(super) streams: streams::Behaviour,
    pub(super) tasks: TaskBehaviour,
}

impl Behaviour {
    /// All protocols as `config` wants them.
    ///
    /// # Errors
    /// When gossip cannot be set up. mDNS that does not work is left out with a warning.
    pub(super) fn new(
        config: &NetConfig,
        protocols: &Protocols,
        relay_client: relay::client::Behaviour,
        guard: &Guard,
        events: EventSink,
    ) -> Result<Self, NetError> {
        let local = config.keypair.public().to_peer_id();
        let wanted = config.reach;
        let identify = identify::Config::new(protocols.identify.clone(), config.keypair.public())
            .with_agent_version(config.agent.clone())
            .with_interval(IDENTIFY_INTERVAL)
            .with_push_listen_addr_updates(true)
            // Which addresses are dialled is decided by `peers` and `discovery`.
            .with_cache_size(0);
        let mut streams =
            streams::Behaviour::new(protocols, &config.limits, events, config.metrics.clone());
        if !wanted.hole_punching {
            streams = streams.without_patience();
        }
        Ok(Self {
            dials: Meter::new(guard.clone()),
            blocked: allow_block_list::Behaviour::default(),
            connection_limits: limits::connections(&config.limits),
            memory_limit: limits::memory(&config.limits),
            identify: identify::Behaviour::new(identify),
            echo: echo::Behaviour::new(protocols.echo.clone()),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL)),
            kad: dht::kademlia(local, protocols),
            mdns: multicast(config).into(),
            gossipsub: gossip::behaviour(&config.keypair, protocols)?,
            tasks: tasks::behaviour(protocols, &config.limits, &config.metrics),
            exchange: exchange::behaviour(protocols, &config.metrics),
            streams,
            relay_client,
            relay_server: wanted
                .relay
                .limits()
                .map(|limits| reach::relay_server(local, limits))
                .into(),
            dcutr: wanted.hole_punching.then(|| reach::dcutr(local)).into(),
            autonat: wanted.autonat.then(|| reach::autonat(local)).into(),
            upnp: wanted.upnp.then(upnp::tokio::Behaviour::default).into(),
        })
    }
}

fn multicast(config: &NetConfig) -> Option<mdns::tokio::Behaviour> {
    if !config.mdns {
        return None;
    }
    let local = config.keypair.public().to_peer_id();
    mdns::tokio::Behaviour::new(mdns::Config::default(), local)
        .inspect_err(|error| {
            tracing::warn!(%error, "no multicast here: peers on the LAN are not found by mDNS");
        })
        .ok()
}
