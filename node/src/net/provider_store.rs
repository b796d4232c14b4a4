//! What the DHT stores here: who offers capacity, and nothing else.
//!
//! libp2p's own store answers with the same first providers to everyone who asks; this one with
//! others each time, so that seekers spread over the network. It holds no values, so nobody can leave
//! any here. What goes in is checked by [`super::discovery`].

use std::borrow::Cow;
use std::cell::Cell;
use std::iter;

use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};

/// The most providers stored. The nodes near the key store them for the whole network, which seldom
/// has more; each takes some 500 bytes with its addresses.
const MAX_PROVIDERS: usize = 2_048;

/// The store of one node.
#[derive(Debug)]
pub(super) struct ProviderStore {
    local: PeerId,
    /// The only key there is.
    key: RecordKey,
    providers: Vec<ProviderRecord>,
    /// Where the next answer begins.
    turn: Cell<usize>,
}

impl ProviderStore {
    pub(super) fn new(local: PeerId, key: RecordKey) -> Self {
        Self {
            local,
            key,
            providers: Vec::new(),
            turn: Cell::new(0),
        }
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
        if record.key != self.key {
            return Err(Error::MaxProvidedKeys);
        }
        let known = self
            .providers
            .iter_mut()
            .find(|known| known.provider == record.provider);
        match known {
            Some(known) => *known = record,
            None => {
                if self.providers.len() >= MAX_PROVIDERS {
                    // The one that ends first; our own never does.
                    let first = self
                        .providers
                        .iter()
                        .enumerate()
                        .filter(|(_, known)| known.provider != self.local)
                        .min_by_key(|(_, known)| known.expires)
                        .map(|(place, _)| place);
                    if let Some(place) = first {
                        self.providers.swap_remove(place);
                    }
                }
                self.providers.push(record);
            }
        }
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        if *key != self.key || self.providers.is_empty() {
            return Vec::new();
        }
        let start = self.turn.get() % self.providers.len();
        // The caller takes the first 20.
        self.turn.set(start + libp2p::kad::K_VALUE.get());
        let mut all = self.providers.clone();
        all.rotate_left(start);
        all
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.providers
            .iter()
            .filter(|known| known.provider == self.local)
            .map(Cow::Borrowed)
            .collect::<Vec<_>>()
            .into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if *key == self.key {
            self.providers.retain(|known| known.provider != *provider);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;
    use std::time::{Duration, Instant};

    use super::*;

    fn record(provider: PeerId, seconds: u64) -> ProviderRecord {
        ProviderRecord {
            key: RecordKey::new(&"key"),
            provider,
            expires: Some(Instant::now() + Duration::from_secs(seconds)),
            addresses: Vec::new(),
        }
    }

    #[test]
    fn answers_go_round_and_the_store_is_bounded() {
        let (local, key) = (PeerId::random(), RecordKey::new(&"key"));
        let mut store = ProviderStore::new(local, key.clone());
        store
            .add_provider(ProviderRecord::new(key.clone(), local, Vec::new()))
            .unwrap();
        for seconds in 0..MAX_PROVIDERS as u64 + 5 {
            store
                .add_provider(record(PeerId::random(), seconds))
                .unwrap();
        }
        assert_eq!(store.providers.len(), MAX_PROVIDERS);
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
        assert!(store.providers(&RecordKey::new(&"other")).is_empty());
        assert!(
            store
                .add_provider(ProviderRecord::new(
                    RecordKey::new(&"other"),
                    local,
                    Vec::new()
                ))
                .is_err()
        );
        store.remove_provider(&key, &local);
        assert_eq!(store.provided().count(), 0);
    }
}
