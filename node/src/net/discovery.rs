//! Finds peers and addresses: bootstrap nodes, remembered peers, mDNS, and walks through the DHT.
//!
//! Owns the schedule of all dials that nobody asked for, the search for a peer that the node wants
//! to talk to, and what goes into the routing table. Called by the actor; it touches the swarm only
//! through [`Context`], and never decides which peers are useful.
//!
//! A node joins by dialling a bootstrap node; identify then names that node's addresses, and a walk
//! (Kademlia's own bootstrap) dials the nearest nodes one after the other and thereby makes the node
//! known to them. Two nodes that join at the same moment may miss each other, so the walk is repeated,
//! soon at first and seldom later.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::kad::store::RecordStore;
use libp2p::kad::{
    self, GetClosestPeersError, GetClosestPeersOk, GetProvidersOk, InboundRequest, ProviderRecord,
    QueryId, QueryResult,
};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId, StreamProtocol, mdns};

use super::actor::{Action, Context};
use super::addresses::{self, Scope};
use super::conduct::Misdeed;
use super::joining::Joining;
use super::protocols::Protocols;
use super::provider_store::ProviderStore;
use super::schedule::Walks;

/// How long a walk or a search may take (20 s): a dead peer costs a dial's 10 s, and a query goes
/// around a few of them.
const QUERY_TIMEOUT: Duration = Duration::from_secs(20);

/// Requests of one query under way at a time. Twice Kademlia's α, for a walk is mostly waiting.
const QUERY_PARALLELISM: usize = 6;

/// A provider record is valid for this long (30 minutes); it is renewed after every walk, at least
/// every 5 minutes.
const PROVIDER_TTL: Duration = Duration::from_secs(1_800);

/// The most searches for single peers at a time; more are refused until some end.
const MAX_WANTED: usize = 256;

/// The most addresses stored with a provider record.
const MAX_RECORD_ADDRESSES: usize = 8;

/// The DHT as this network uses it.
pub(super) type Kademlia = kad::Behaviour<ProviderStore>;

/// Makes the DHT behaviour. Its mode is ours to set: server, until found unreachable.
pub(super) fn kademlia(local: PeerId, protocols: &Protocols) -> Kademlia {
    let mut config = kad::Config::new(protocols.kad.clone());
    config
        .set_query_timeout(QUERY_TIMEOUT)
        .set_parallelism(QUERY_PARALLELISM.try_into().unwrap_or(kad::ALPHA_VALUE))
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_caching(kad::Caching::Disabled)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_record_ttl(Some(PROVIDER_TTL))
        .set_provider_publication_interval(None)
        .set_periodic_bootstrap_interval(None);
    let store = ProviderStore::new(local, protocols.providers.clone());
    let mut kademlia = kad::Behaviour::with_config(local, store, config);
    kademlia.set_mode(Some(kad::Mode::Server));
    kademlia
}

/// How far the search for a wanted peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The best addresses are being dialled.
    Preferred,
    /// All addresses are being dialled.
    Everywhere,
    /// The DHT is being asked.
    Sought,
    /// What the DHT said is being dialled.
    Found,
}

/// What a query of ours is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Query {
    Walk,
    Seek(PeerId),
    Providers,
}

/// Peers being found.
#[derive(Debug)]
pub(super) struct Discovery {
    joining: Joining,
    walks: Walks,
    wanted: HashMap<PeerId, Wanted>,
    queries: HashMap<QueryId, Query>,
    providing: bool,
    /// Peers beyond which mDNS dials no more.
    comfortable: usize,
}

impl Discovery {
    pub(super) fn new(joining: Joining, comfortable: usize) -> Self {
        Self {
            joining,
            walks: Walks::default(),
            wanted: HashMap::new(),
            queries: HashMap::new(),
            providing: false,
            comfortable,
        }
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.joining.deadline(), self.walks.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub(super) fn on_deadline(&mut self, cx: &mut Context<'_>) {
        self.joining.on_deadline(cx);
        if self.walks.take_due(cx.now) && !self.is_running(Query::Walk) {
            match cx.behaviour.kad.bootstrap() {
                Ok(id) => {
                    self.queries.insert(id, Query::Walk);
                }
                // Nobody to ask; the next peer starts the walks anew.
                Err(_) => self.walks.stop(),
            }
        }
    }

    fn is_running(&self, query: Query) -> bool {
        self.queries.values().any(|running| *running == query)
    }

    /// The node wants to be connected to `peer`.
    pub(super) fn connect(&mut self, cx: &mut Context<'_>, peer: PeerId) {
        if peer == cx.local || cx.peers.is_connected(&peer) {
            return;
        }
        let busy = matches!(
            self.wanted.get(&peer),
            Some(Wanted::Everywhere | Wanted::Sought | Wanted::Found)
        );
        if busy || (self.wanted.len() >= MAX_WANTED && !self.wanted.contains_key(&peer)) {
            return;
        }
        let preferred = addresses::preferred(&cx.peers.addresses(&peer));
        if preferred.is_empty() {
            self.seek(cx, peer);
        } else {
            self.wanted.insert(peer, Wanted::Preferred);
            dial(cx, peer, preferred);
        }
    }

    fn seek(&mut self, cx: &mut Context<'_>, peer: PeerId) {
        let id = cx.behaviour.kad.get_closest_peers(peer);
        self.queries.insert(id, Query::Seek(peer));
        self.wanted.insert(peer, Wanted::Sought);
    }

    /// A dial to a peer failed; the next way is tried.
    fn next_way(&mut self, cx: &mut Context<'_>, peer: PeerId) {
        match self.wanted.get(&peer) {
            Some(Wanted::Preferred) => {
                let all = cx.peers.addresses(&peer);
                if all.is_empty() {
                    self.seek(cx, peer);
                } else {
                    self.wanted.insert(peer, Wanted::Everywhere);
                    dial(cx, peer, all);
                }
            }
            Some(Wanted::Everywhere) => self.seek(cx, peer),
            Some(Wanted::Found) => {
                self.wanted.remove(&peer);
            }
            // The DHT's own dials fail on the way.
            Some(Wanted::Sought) | None => {}
        }
    }

    /// A connection opened.
    pub(super) fn on_connected(&mut self, now: Instant, id: ConnectionId, peer: PeerId) {
        self.wanted.remove(&peer);
        self.joining.on_connected(now, id, peer);
    }

    /// The last connection to a peer closed.
    pub(super) fn on_disconnected(&mut self, cx: &mut Context<'_>) {
        if cx.peers.connected_count() == 0 {
            self.joining.on_alone(cx.now);
        }
    }

    /// A dial failed.
    pub(super) fn on_dial_error(
        &mut self,
        cx: &mut Context<'_>,
        id: ConnectionId,
        peer: Option<PeerId>,
        error: &DialError,
    ) {
        self.joining.on_dial_error(id, error);
        let Some(peer) = peer else {
            return;
        };
        match error {
            DialError::Transport(failures) => {
                for (address, _) in failures {
                    cx.peers.failed(&peer, address);
                }
            }
            DialError::WrongPeerId { address, .. } => cx.peers.mistaken(&peer, address),
            DialError::DialPeerConditionFalse(_) => return,
            _ => {}
        }
        if cx.peers.is_connected(&peer) {
            return;
        }
        if cx.peers.addresses(&peer).is_empty() {
            // Nothing that the DHT could tell others about it is true any more.
            cx.behaviour.kad.remove_peer(&peer);
        }
        self.next_way(cx, peer);
    }

    /// A peer said who it is, what it speaks and where it listens.
    pub(super) fn on_identified(
        &mut self,
        cx: &mut Context<'_>,
        peer: PeerId,
        claimed: &[Multiaddr],
        speaks: &[StreamProtocol],
    ) {
        let believed = cx.peers.claimed(peer, claimed);
        if !speaks.contains(&cx.protocols.kad) {
            cx.behaviour.kad.remove_peer(&peer);
            return;
        }
        for address in shareable(cx, &believed) {
            cx.behaviour.kad.add_address(&peer, address);
        }
        self.walks.start(cx.now);
    }

    /// mDNS found nodes on the LAN. Which network they are of only shows when they are asked.
    pub(super) fn on_mdns(&mut self, cx: &mut Context<'_>, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else {
            return;
        };
        let mut peers: HashMap<PeerId, Vec<Multiaddr>> = HashMap::new();
        for (peer, address) in found {
            peers.entry(peer).or_default().push(address);
        }
        for (peer, mut found) in peers {
            // A loopback address is another machine's, unless nothing else was named.
            let elsewhere =
                |address: &Multiaddr| addresses::scope(address) != Some(Scope::Loopback);
            if found.iter().any(elsewhere) {
                found.retain(elsewhere);
            }
            cx.peers.hinted(peer, found);
            if cx.peers.connected_count() < self.comfortable {
                self.connect(cx, peer);
            }
        }
    }

    /// Whether this node can be found as one that offers capacity.
    pub(super) fn provide(&mut self, cx: &mut Context<'_>, providing: bool) {
        self.providing = providing;
        if providing {
            self.announce(cx);
        } else {
            let key = cx.protocols.providers.clone();
            cx.behaviour.kad.stop_providing(&key);
        }
    }

    fn announce(&mut self, cx: &mut Context<'_>) {
        let key = cx.protocols.providers.clone();
        if let Err(error) = cx.behaviour.kad.start_providing(key) {
            tracing::warn!(%error, "this node cannot be found through the DHT");
        }
    }

    /// Looks for nodes that offer capacity and dials them.
    pub(super) fn find_providers(&mut self, cx: &mut Context<'_>) {
        if !self.is_running(Query::Providers) {
            let key = cx.protocols.providers.clone();
            let id = cx.behaviour.kad.get_providers(key);
            self.queries.insert(id, Query::Providers);
        }
    }

    pub(super) fn on_kad(&mut self, cx: &mut Context<'_>, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed {
                id, result, step, ..
            } => {
                let query = self.queries.get(&id).copied();
                if step.last {
                    self.queries.remove(&id);
                }
                self.on_progress(cx, query, result, step.last);
            }
            kad::Event::InboundRequest {
                request:
                    InboundRequest::AddProvider {
                        record: Some(record),
                    },
            } => store_provider(cx, record),
            kad::Event::InboundRequest {
                request: InboundRequest::PutRecord { source, .. },
            } => cx.actions.push(Action::Report(source, Misdeed::OutOfPlace)),
            _ => {}
        }
    }

    fn on_progress(
        &mut self,
        cx: &mut Context<'_>,
        query: Option<Query>,
        result: QueryResult,
        last: bool,
    ) {
        match (query, result) {
            (Some(Query::Seek(peer)), QueryResult::GetClosestPeers(result)) => {
                let (Ok(GetClosestPeersOk { peers, .. })
                | Err(GetClosestPeersError::Timeout { peers, .. })) = result;
                let addresses = peers
                    .into_iter()
                    .find(|found| found.peer_id == peer)
                    .map(|found| found.addrs)
                    .unwrap_or_default();
                self.found(cx, peer, addresses);
            }
            (
                Some(Query::Providers),
                QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })),
            ) => {
                for peer in providers {
                    if peer != cx.local && !cx.peers.is_connected(&peer) {
                        // The query knows their addresses for as long as it runs.
                        dial(cx, peer, addresses::preferred(&cx.peers.addresses(&peer)));
                    }
                }
            }
            (Some(Query::Walk), QueryResult::Bootstrap(_)) if last => {
                tracing::debug!(
                    connected = cx.peers.connected_count(),
                    "walked through the network"
                );
                if self.providing {
                    self.announce(cx);
                }
            }
            _ => {}
        }
    }

    fn found(&mut self, cx: &mut Context<'_>, peer: PeerId, addresses: Vec<Multiaddr>) {
        if self.wanted.get(&peer) != Some(&Wanted::Sought) {
            return;
        }
        if addresses.is_empty() {
            self.wanted.remove(&peer);
        } else {
            self.wanted.insert(peer, Wanted::Found);
            cx.peers.hinted(peer, addresses.iter().cloned());
            dial(cx, peer, addresses);
        }
    }
}

fn dial(cx: &mut Context<'_>, peer: PeerId, addresses: Vec<Multiaddr>) {
    let options = DialOpts::peer_id(peer)
        .addresses(addresses)
        .extend_addresses_through_behaviour()
        .build();
    cx.actions.push(Action::Dial(options));
}

/// Those of a peer's addresses that the DHT may tell others. A node that the whole Internet can ask
/// tells only addresses that the whole Internet can dial.
fn shareable(cx: &Context<'_>, believed: &[Multiaddr]) -> Vec<Multiaddr> {
    addresses::preferred(believed)
        .into_iter()
        .filter(|address| {
            let near = matches!(
                addresses::scope(address),
                Some(Scope::Loopback | Scope::Private)
            );
            !(cx.public && near)
        })
        .collect()
}

/// Somebody offers capacity and wants us to tell others.
fn store_provider(cx: &mut Context<'_>, mut record: ProviderRecord) {
    let peer = record.provider;
    if record.key != cx.protocols.providers {
        cx.actions.push(Action::Report(peer, Misdeed::OutOfPlace));
        return;
    }
    cx.peers.claimed(peer, &record.addresses);
    let known = cx.peers.addresses(&peer);
    record.addresses = shareable(cx, &known);
    record.addresses.truncate(MAX_RECORD_ADDRESSES);
    if let Err(error) = cx.behaviour.kad.store_mut().add_provider(record) {
        tracing::debug!(%peer, %error, "a provider record was not stored");
    }
}
