//! Nodes for tests, and ways to wait for what they learn.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use p2pnode_node::net::{self, NetConfig, NetEvent, NetEvents, NetHandle, ReachConfig};
use p2pnode_protocol::advert::{Advert, SignedAdvert};
use p2pnode_protocol::message::TaskRequest;

/// Nothing here takes a second on an idle machine; this is for a busy one.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const NETWORK: &str = "test";

/// A node, and all that it was told so far.
pub struct Node {
    pub handle: NetHandle,
    pub events: NetEvents,
    pub log: Vec<NetEvent>,
    pub key: Keypair,
}

/// A configuration that listens on loopback only and asks nobody outside.
pub fn loopback() -> NetConfig {
    NetConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        mdns: false,
        reach: ReachConfig::none(),
        ..NetConfig::new(Keypair::generate_ed25519(), NETWORK)
    }
}

pub fn memory() -> NetConfig {
    NetConfig::in_memory(Keypair::generate_ed25519(), NETWORK)
}

pub async fn start(config: NetConfig) -> Node {
    let key = config.keypair.clone();
    let (handle, events) = net::start(config).await.unwrap();
    Node {
        handle,
        events,
        log: Vec::new(),
        key,
    }
}

/// Starts a node that knows only the address of `other`.
pub async fn start_beside(other: &Node, config: NetConfig) -> Node {
    let bootstrap = other.handle.listen_addresses();
    start(NetConfig {
        bootstrap,
        ..config
    })
    .await
}

/// Two nodes that are connected.
pub async fn pair() -> (Node, Node) {
    let mut a = start(loopback()).await;
    let mut b = start_beside(&a, loopback()).await;
    a.until_connected(b.id()).await;
    b.until_connected(a.id()).await;
    (a, b)
}

impl Node {
    pub fn id(&self) -> PeerId {
        self.handle.local_peer_id()
    }

    pub fn address(&self) -> Multiaddr {
        self.handle.listen_addresses().remove(0)
    }

    /// Takes events until the log fulfils the condition.
    pub async fn until(&mut self, what: &str, condition: impl Fn(&[NetEvent]) -> bool) {
        let id = self.id();
        let waiting = async {
            while !condition(&self.log) {
                let event = self.events.recv().await.expect("the network ended");
                self.log.push(event);
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("{id} waited in vain for {what}; it saw {:?}", self.log);
        }
    }

    pub async fn until_connected(&mut self, peer: PeerId) {
        self.until("a connection", |log| connected(log, peer)).await;
    }

    pub async fn until_advert(&mut self, peer: PeerId, issued_ms: u64) {
        self.until("an advert", |log| last_advert(log, peer) == Some(issued_ms))
            .await;
    }

    /// Takes events until a request comes, and answers nothing.
    pub async fn next_request(&mut self) -> (PeerId, net::InboundId, TaskRequest) {
        loop {
            match tokio::time::timeout(PATIENCE, self.events.recv()).await {
                Ok(Some(NetEvent::Request { peer, id, request })) => return (peer, id, request),
                Ok(Some(event)) => self.log.push(event),
                other => panic!("no request: {other:?}"),
            }
        }
    }

    /// Takes events until a stream comes.
    pub async fn next_stream(&mut self) -> net::NetStream {
        loop {
            match tokio::time::timeout(PATIENCE, self.events.recv()).await {
                Ok(Some(NetEvent::Stream { stream, .. })) => return stream,
                Ok(Some(event)) => self.log.push(event),
                other => panic!("no stream: {other:?}"),
            }
        }
    }

    /// An advert of this node.
    pub fn advert(&self, issued_ms: u64) -> SignedAdvert {
        advert(NETWORK, issued_ms).sign(&self.key).unwrap()
    }
}

/// Whether the last word about `peer` is that it is connected.
pub fn connected(log: &[NetEvent], peer: PeerId) -> bool {
    log.iter()
        .rev()
        .find_map(|event| match event {
            NetEvent::Connected(p) if *p == peer => Some(true),
            NetEvent::Disconnected(p) if *p == peer => Some(false),
            _ => None,
        })
        .unwrap_or(false)
}

pub fn last_advert(log: &[NetEvent], peer: PeerId) -> Option<u64> {
    log.iter().rev().find_map(|event| match event {
        NetEvent::Advert { peer: p, advert } if *p == peer => Some(advert.issued_ms),
        _ => None,
    })
}

pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}

pub fn advert(network: &str, issued_ms: u64) -> Advert {
    Advert {
        network: network.to_owned(),
        name: "node".to_owned(),
        issued_ms,
        ttl_ms: 60_000,
        ..Advert::default()
    }
}

/// Waits until `condition` holds, looking every few milliseconds; for what no event tells.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}
