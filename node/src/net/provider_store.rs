//! What this node's part of the DHT stores here: who offers capacity, who relays, and where nodes are
//! that the DHT itself does not lead to.
//!
//! libp2p's own store answers with the same first providers to everyone who asks; this one with
//! others each time, so that seekers spread over the network. It holds no values, so nobody can leave
//! any here. What goes in is checked by [`super::dht`].

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::iter;

use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};

use super::protocols::Protocols;

/// The most providers stored under one of the two keys that many share. The nodes near a key store them
/// for the whole network, which seldom has more; each takes some 500 bytes with its addresses.
const MAX_PROVIDERS: usize = 2_048;

/// The most nodes whose whereabouts are stored: 4,096 of 500 bytes are 2 MiB. Each node stores those of
/// the nodes near itself, some 20 in a large network.
const MAX_WHEREABOUTS: usize = 4_096;

/// All records under one key.
#[derive(Debug)]
struct Shelf {
    key: RecordKey,
    records: Vec<ProviderRecord>,
    /// Where the next answer begins.
    turn: Cell<usize>,
}

impl Shelf {
    const fn new(key: RecordKey) -> Self {
        Self {
            key,
            records: Vec::new(),
            turn: Cell::new(0),
        }
    }

    fn add(&mut self, local: PeerId, record: ProviderRecord) {
        let known = self
            .records
            .iter_mut()
            .find(|known| known.provider == record.provider);
        if let Some(known) = known {
            *known = record;
            return;
        }
        if self.records.len() >= MAX_PROVIDERS {
            // The one that ends first; our own never does.
            let first = self
                .records
                .iter()
                .enumerate()
                .filter(|(_, known)| known.provider != local)
                .min_by_key(|(_, known)| known.expires)
                .map(|(place, _)| place);
            if let Some(place) = first {
                self.records.swap_remove(place);
            }
        }
        self.records.push(record);
    }

    fn answer(&self) -> Vec<ProviderRecord> {
        if self.records.is_empty() {
            return Vec::new();
        }
        let start = self.turn.get() % self.records.len();
        // The caller takes the first 20.
        self.turn.set(start + libp2p::kad::K_VALUE.get());
        let mut all = self.records.clone();
        all.rotate_left(start);
        all
    }
}

/// The store of one node.
#[derive(Debug)]
pub(super) struct ProviderStore {
    local: PeerId,
    protocols: Protocols,
    /// Those that offer capacity, and those that relay.
    shelves: [Shelf; 2],
    /// Where nodes are, each under a key of its own.
    whereabouts: HashMap<RecordKey, ProviderRecord>,
}

impl ProviderStore {
    pub(super) fn new(local: PeerId, protocols: &Protocols) -> Self {
        Self {
            local,
            protocols: protocols.clone(),
            shelves: [
                Shelf::new(protocols.providers.clone()),
                Shelf::new(protocols.relays.clone()),
            ],
            whereabouts: HashMap::new(),
        }
    }

    /// Whether such a record belongs here: under a key that many share, or a node's own.
    pub(super) fn takes(&self, key: &RecordKey, provider: &PeerId) -> bool {
        self.shelves.iter().any(|shelf| shelf.key == *key)
            || *key == self.protocols.whereabouts(provider)
    }

    fn locate(&mut self, record: ProviderRecord) {
        let full = self.whereabouts.len() >= MAX_WHEREABOUTS;
        if full && !self.whereabouts.contains_key(&record.key) {
            let local = self.local;
            let others = self.whereabouts.iter();
            let first = others
                .filter(|(_, known)| known.provider != local)
                .min_by_key(|(_, known)| known.expires)
                .map(|(key, _)| key.clone());
            if let Some(key) = first {
                self.whereabouts.remove(&key);
            }
        }
        self.whereabouts.insert(record.key.clone(), record);
    }
}

impl RecordStore for ProviderStore {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::vec::IntoIter<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        if !self.takes(&record.key, &record.provider) {
            return Err(Error::MaxProvidedKeys);
        }
        let local = self.local;
        let mut shelves = self.shelves.iter_mut();
        match shelves.find(|shelf| shelf.key == record.key) {
            Some(shelf) => shelf.add(local, record),
            None => self.locate(record),
        }
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        match self.shelves.iter().find(|shelf| shelf.key == *key) {
            Some(shelf) => shelf.answer(),
            None => self.whereabouts.get(key).cloned().into_iter().collect(),
        }
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        let shared = self.shelves.iter().flat_map(|shelf| &shelf.records);
        shared
            .chain(self.whereabouts.values())
            .filter(|known| known.provider == self.local)
            .map(Cow::Borrowed)
            .collect::<Vec<_>>()
            .into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if let Some(shelf) = self.shelves.iter_mut().find(|shelf| shelf.key == *key) {
            shelf.records.retain(|known| known.provider != *provider);
        } else {
            self.whereabouts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;
    use std::time::{Duration, Instant};

    use super::*;

    fn record(key: &RecordKey, provider: PeerId, seconds: u64) -> ProviderRecord {
        ProviderRecord {
            key: key.clone(),
            provider,
            expires: Some(Instant::now() + Duration::from_secs(seconds)),
            addresses: Vec::new(),
        }
    }

    #[test]
    fn answers_go_round_and_the_store_is_bounded() {
        let protocols = Protocols::new("test").unwrap();
        let (local, key) = (PeerId::random(), protocols.providers.clone());
        let mut store = ProviderStore::new(local, &protocols);
        store
            .add_provider(ProviderRecord::new(key.clone(), local, Vec::new()))
            .unwrap();
        for seconds in 0..MAX_PROVIDERS as u64 + 5 {
            store
                .add_provider(record(&key, PeerId::random(), seconds))
                .unwrap();
        }
        assert_eq!(store.shelves[0].records.len(), MAX_PROVIDERS);
        assert_eq!(store.provided().count(), 1);
        let first = |store: &ProviderStore| -> HashSet<PeerId> {
            store
                .providers(&key)
                .iter()
                .take(20)
                .map(|record| record.provider)
                .collect()
        };
        assert!(first(&store).is_disjoint(&first(&store)));
        assert!(store.providers(&protocols.relays).is_empty());
        assert!(store.providers(&RecordKey::new(&"other")).is_empty());
        assert!(
            store
                .add_provider(record(&RecordKey::new(&"other"), PeerId::random(), 1))
                .is_err()
        );
        store.remove_provider(&key, &local);
        assert_eq!(store.provided().count(), 0);
    }

    #[test]
    fn a_node_says_where_it_is_under_its_own_key_and_no_other() {
        let protocols = Protocols::new("test").unwrap();
        let (local, peer) = (PeerId::random(), PeerId::random());
        let mut store = ProviderStore::new(local, &protocols);
        let key = protocols.whereabouts(&peer);
        store.add_provider(record(&key, peer, 9)).unwrap();
        assert!(
            store
                .add_provider(record(&key, PeerId::random(), 9))
                .is_err(),
            "another's key"
        );
        for seconds in 10..MAX_WHEREABOUTS as u64 + 20 {
            let peer = PeerId::random();
            let key = protocols.whereabouts(&peer);
            store.add_provider(record(&key, peer, seconds)).unwrap();
        }
        assert_eq!(store.whereabouts.len(), MAX_WHEREABOUTS);
        assert!(store.providers(&key).is_empty(), "it ended first");
    }
}
