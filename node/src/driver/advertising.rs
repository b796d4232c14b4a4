//! Capacity adverts: when they are made and what stands in them.

use std::collections::BTreeMap;

use libp2p::identity::Keypair;
use p2pnode_protocol::advert::Advert;

use crate::config::Config;
use crate::core::Core;
use crate::core::io::Millis;
use crate::net::NetHandle;

/// How long a change is waited on for more changes before it is advertised, in milliseconds: short
/// beside any task that is worth moving, long beside a burst of small ones.
const DEBOUNCE_MS: Millis = 100;

/// Time between adverts when nothing changes, in milliseconds: an advert of half a kilobyte every 20 s
/// from 500 nodes is 12 KiB/s, under the gossip budget of 16 KiB/s.
const INTERVAL_MS: Millis = 20_000;

/// How long an advert holds, in milliseconds: three intervals, so that one lost advert costs nothing.
const TTL_MS: u64 = 3 * INTERVAL_MS;

/// The most images that an advert names.
const MAX_IMAGES: usize = 64;

/// Decides when to publish, and builds the advert.
pub(super) struct Advertiser {
    net: NetHandle,
    keypair: Keypair,
    network: String,
    name: String,
    labels: BTreeMap<String, String>,
    images: Vec<String>,
    next: Millis,
    last_issued: Millis,
}

impl Advertiser {
    pub(super) fn new(net: NetHandle, keypair: Keypair, config: Config, now: Millis) -> Self {
        let Config {
            network,
            name,
            labels,
            ..
        } = config;
        let images = Vec::new();
        Self {
            net,
            keypair,
            network,
            name,
            labels,
            images,
            next: now,
            last_issued: 0,
        }
    }

    /// What is free changed.
    pub(super) fn on_change(&mut self, now: Millis) {
        self.next = self.next.min(now + DEBOUNCE_MS);
    }

    pub(super) fn set_images(&mut self, mut images: Vec<String>) {
        images.truncate(MAX_IMAGES);
        self.images = images;
    }

    pub(super) const fn next_deadline(&self) -> Option<Millis> {
        Some(self.next)
    }

    /// Publishes when it is time.
    pub(super) fn on_tick(&mut self, now: Millis, core: &Core) {
        if now < self.next {
            return;
        }
        self.next = now + INTERVAL_MS;
        // Of two adverts the later counts, so no two may bear the same time.
        self.last_issued = now.max(self.last_issued + 1);
        let capacity = core.capacity();
        let advert = Advert {
            network: self.network.clone(),
            name: self.name.clone(),
            issued_ms: self.last_issued,
            ttl_ms: TTL_MS,
            total: capacity.total,
            free: capacity.free,
            runtimes: capacity.runtimes,
            labels: self.labels.clone(),
            images: self.images.clone(),
            running: capacity.running,
            queued: capacity.queued,
        };
        match advert.sign(&self.keypair) {
            Ok(signed) => {
                let (net, offering) = (self.net.clone(), capacity.offering);
                tokio::spawn(async move {
                    net.publish(signed).await;
                    net.provide(offering).await;
                });
            }
            Err(error) => tracing::error!(%error, "no advert was published"),
        }
    }
}
