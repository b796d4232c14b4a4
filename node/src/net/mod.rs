//! The overlay network: one libp2p swarm, run by one task.
//!
//! [`start`] gives two ends: a [`NetHandle`] to ask things of the network, and [`NetEvents`] to learn
//! what happens there. Used by the driver and by nobody else; it knows nothing of jobs, and decides
//! nothing about them.
//!
//! | Concern | Module |
//! |---|---|
//! | finding peers and addresses | `discovery`, with `joining`, `seeking`, `trouble`, `schedule`, `dht`, `provider_store` |
//! | who can give what | `capacity`, with `exchange` (directly) and `gossip` (to everybody) |
//! | task messages | `tasks`, with `wire` |
//! | byte streams | `streams` |
//! | TCP connections that are not libp2p's | `shortcut` |
//! | ways through NAT | `reach` |
//! | connections that died without a word | `liveness`, with `echo` |
//! | bad peers, too many peers | `conduct`, `limits` |
//! | what is known of others | `peers`, `peer`, `addresses` |
//! | where this node may dial | `guard` |
//! | the swarm itself | `actor`, with `context`, `dispatch`, `behaviour`, `transport`, `listen` |
//! | the node's side | `handle`, `events` |
//!
//! Invariants: nothing here waits for the node; every queue and table is bounded; a peer's
//! misbehaviour is data, never a panic; no advert is handed on that was not checked; a stream that
//! its opener holds as open is never lost.

mod actor;
mod addresses;
mod behaviour;
mod capacity;
mod conduct;
mod config;
mod context;
mod dht;
mod discovery;
mod dispatch;
mod echo;
mod error;
mod events;
mod exchange;
mod gossip;
mod guard;
mod handle;
mod joining;
mod limits;
mod listen;
mod liveness;
mod metrics;
mod peer;
mod peers;
mod protocols;
mod provider_store;
mod quiet;
mod reach;
mod schedule;
mod seeking;
mod shortcut;
mod streams;
mod tasks;
mod transport;
mod trouble;
mod wire;

use std::time::{Duration, Instant};

use libp2p::Swarm;
use tokio::sync::{mpsc, watch};

pub use capacity::advert_interval;
pub use conduct::Misdeed;
pub use config::{NetConfig, NetLimits, ReachConfig, TransportKind, default_listen};
pub use error::{CallError, NetError, OpenError};
pub use events::{NetEvent, NetEvents};
pub use handle::{Addresses, NetHandle};
pub use liveness::Echoed;
pub use metrics::{ByteCounters, MisdeedLabel, NetMetrics};
pub use peer::{LinkSnapshot, PeerSnapshot};
pub use protocols::{MAX_NETWORK_NAME_BYTES, StreamKind};
pub use reach::{ReachState, Reachability, RelayLimits, RelayPolicy};
pub use streams::NetStream;
pub use tasks::InboundId;

use actor::NetActor;
use context::{Common, Handlers};
use protocols::Protocols;

/// How long a connection that nobody uses stays open (10 minutes, the longest life of an advert: until
/// then the peer may choose us). Streams and gossip's mesh count as use.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Starts a node's network and waits until it listens.
///
/// # Errors
/// When the network's name or the key is unusable, or a listen address does not work; a port that is
/// in use is [`NetError::PortInUse`].
pub async fn start(config: NetConfig) -> Result<(NetHandle, NetEvents), NetError> {
    let (actor, handle, events) = prepare(config).await?;
    let network = handle.network().to_owned();
    let running = tokio::spawn(actor.run());
    tokio::spawn(async move {
        // Its events end with it, which ends the node; that says why.
        if let Err(error) = running.await {
            tracing::error!(network, %error, "a network broke; this is a bug, please report it");
        }
    });
    Ok((handle, events))
}

/// A network that listens and does not run yet.
async fn prepare(config: NetConfig) -> Result<(NetActor, NetHandle, NetEvents), NetError> {
    let protocols = Protocols::new(&config.network)?;
    let local = config.keypair.public().to_peer_id();
    let (sink, events) = events::channel(&config.limits);
    // Of a circuit, the relay.
    let bootstrap = config.bootstrap.iter();
    let bootstrap = bootstrap.filter_map(|at| Some((addresses::peers_in(at).next()?, at)));
    // Whom the last run knew near; all others are strangers again.
    let remembered = config.known_peers.iter();
    let remembered = remembered.flat_map(|(peer, known)| known.iter().map(|at| (*peer, at)));
    let remembered = remembered.filter(|(_, at)| addresses::is_near(at));
    let guard = guard::Guard::new(bootstrap.chain(remembered));
    let (transport, relay_client) = transport::build(&config, &guard)?;
    let behaviour =
        behaviour::Behaviour::new(&config, &protocols, relay_client, &guard, sink.clone())?;
    let swarm_config =
        libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE_TIMEOUT);
    let mut swarm = Swarm::new(transport, quiet::Quiet(behaviour), local, swarm_config);
    let early = listen::listen(&mut swarm, &config.listen).await?;
    for address in &config.external {
        swarm.add_external_address(address.clone());
    }

    let mut peers = peers::PeerTable::default();
    for (peer, known) in config.known_peers {
        if peer != local {
            peers.remembered(peer, known);
        }
    }
    let joining = joining::Joining::new(&config.bootstrap, Instant::now());
    let handlers = Handlers {
        tasks: tasks::Tasks::new(&config.limits),
        capacity: capacity::Capacity::default(),
        exchange: exchange::Exchange::default(),
        discovery: discovery::Discovery::new(joining, config.limits.comfortable),
        reach: reach::Reach::new(config.external),
        liveness: liveness::Liveness::default(),
        conduct: conduct::Conduct::default(),
    };
    let common = Common {
        peers,
        guard,
        actions: Vec::new(),
        events: sink,
        metrics: config.metrics.clone(),
        protocols,
        public: false,
        own: Vec::new(),
    };
    let (commands_in, commands) = mpsc::channel(handle::COMMAND_QUEUE);
    let (addresses_in, addresses) = watch::channel(Addresses::default());
    let mut actor = NetActor::new(
        swarm,
        commands,
        handlers,
        common,
        config.limits,
        addresses_in,
    );
    actor.begin(early);
    let handle = NetHandle::new(
        commands_in,
        local,
        config.network,
        addresses,
        config.metrics,
    );
    Ok((actor, handle, events))
}
