//! The DHT as this network uses it: its settings, and what may be told or stored there.
//!
//! Set up once by [`super::behaviour`], used by [`super::discovery`]. Addresses are told to others only
//! as far as they reach, and nothing is stored but who offers capacity, who relays, and where nodes behind NAT are.

use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::kad::store::RecordStore;
use libp2p::kad::{self, ProviderRecord, RecordKey};
use libp2p::swarm::{ConnectionId, NetworkBehaviour};
use libp2p::{Multiaddr, PeerId};

use super::addresses;
use super::conduct::Misdeed;
use super::context::Context;
use super::peer::MAX_ADDRESSES;
use super::protocols::Protocols;
use super::provider_store::ProviderStore;

/// How long a walk or a search may take (20 s): a dead peer costs a dial's 10 s, and a query goes
/// around a few of them.
const QUERY_TIMEOUT: Duration = Duration::from_secs(20);

/// Requests of one query under way at a time. Twice Kademlia's α, for a walk is mostly waiting.
const QUERY_PARALLELISM: usize = 6;

/// A provider record is valid for this long (30 minutes); it is renewed after every walk, at least
/// every 5 minutes.
const PROVIDER_TTL: Duration = Duration::from_secs(1_800);

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
    let store = ProviderStore::new(local, protocols);
    let mut kademlia = kad::Behaviour::with_config(local, store, config);
    kademlia.set_mode(Some(kad::Mode::Server));
    kademlia
}

/// Those of a peer's addresses that the DHT may tell others. A node that the whole Internet can ask
/// tells only addresses that the whole Internet can dial.
pub(super) fn shareable(cx: &Context<'_>, believed: &[Multiaddr]) -> Vec<Multiaddr> {
    addresses::preferred(believed)
        .into_iter()
        .filter(|address| !(cx.public && addresses::is_near(address)))
        .collect()
}

/// Puts `peer` into the routing table at these addresses, in the place of those that are there: the table
/// itself only ever adds, without a bound. Nothing happens when there are none, or none that are new.
pub(super) fn route(cx: &mut Context<'_>, peer: PeerId, addresses: &[Multiaddr]) {
    if addresses.is_empty() {
        return;
    }
    let known = routed(cx, peer);
    let is_known = |address: &Multiaddr| {
        let mut known = known.iter();
        known.any(|known| addresses::without_peer(known, peer).as_ref() == Some(address))
    };
    if addresses.iter().all(is_known) && known.len() <= MAX_ADDRESSES {
        return;
    }
    cx.behaviour.kad.remove_peer(&peer);
    for address in addresses.iter().take(MAX_ADDRESSES) {
        cx.behaviour.kad.add_address(&peer, address.clone());
    }
}

/// The addresses of `peer` in the routing table, with its id.
fn routed(cx: &mut Context<'_>, peer: PeerId) -> Vec<Multiaddr> {
    let Some(bucket) = cx.behaviour.kad.kbucket(peer) else {
        return Vec::new();
    };
    let mut entries = bucket.iter();
    let entry = entries.find(|entry| entry.node.key.preimage() == &peer);
    let known = entry.map(|entry| entry.node.value.iter().cloned());
    known.into_iter().flatten().collect()
}

/// Somebody offers capacity, relays, or is behind NAT, and wants us to tell others.
pub(super) fn store_provider(cx: &mut Context<'_>, mut record: ProviderRecord) {
    let peer = record.provider;
    if !cx.behaviour.kad.store_mut().takes(&record.key, &peer) {
        cx.report(peer, Misdeed::OutOfPlace);
        return;
    }
    cx.peers.claimed(peer, &record.addresses);
    let known = cx.peers.addresses(&peer);
    record.addresses = shareable(cx, &known);
    // Places at relays first: who has them is seldom reached otherwise.
    record
        .addresses
        .sort_by_key(|address| !addresses::is_relayed(address));
    record.addresses.truncate(MAX_RECORD_ADDRESSES);
    if let Err(error) = cx.behaviour.kad.store_mut().add_provider(record) {
        tracing::debug!(%peer, %error, "a provider record was not stored");
    }
}

/// Where the DHT says that `peer` is: what the queries under way have brought, and what is stored here
/// under `key`.
pub(super) fn addresses_of(cx: &mut Context<'_>, peer: PeerId, key: &RecordKey) -> Vec<Multiaddr> {
    // The only way to what queries have learned: the behaviour tells it when a peer is about to be dialled.
    let mut found = cx
        .behaviour
        .kad
        .handle_pending_outbound_connection(
            ConnectionId::new_unchecked(0),
            Some(peer),
            &[],
            Endpoint::Dialer,
        )
        .unwrap_or_default();
    let stored = cx.behaviour.kad.store_mut().providers(key);
    found.extend(
        stored
            .into_iter()
            .filter(|record| record.provider == peer)
            .flat_map(|record| record.addresses),
    );
    found.retain(|address| addresses::scope(address).is_some());
    found.sort_unstable();
    found.dedup();
    found.truncate(MAX_ADDRESSES);
    found
}

#[cfg(test)]
mod tests;
