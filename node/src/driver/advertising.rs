//! Capacity adverts: when they are made and what stands in them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libp2p::identity::Keypair;
use p2pnode_protocol::Capacity;
use p2pnode_protocol::advert::{Advert, MAX_WHY_BYTES};

use super::clock::wall_ms;
use crate::config::Config;
use crate::core::Core;
use crate::core::io::Millis;
use crate::net::advert_interval;
use crate::networks::Networks;

/// How long a change is waited on for more changes before it is advertised, in milliseconds: short
/// beside any task that is worth moving, long beside a burst of small ones.
const DEBOUNCE_MS: Millis = 100;

/// An advert holds for so many intervals, so that two lost ones cost nothing.
const LIFE: u64 = 3;

/// The most images that an advert names.
const MAX_IMAGES: usize = 64;

fn interval_for(nodes: usize, advert_bytes: usize) -> u64 {
    advert_interval(nodes, advert_bytes).as_millis() as u64
}

/// Decides when to publish, and builds the advert.
pub(super) struct Advertiser {
    net: Networks,
    keypair: Keypair,
    name: String,
    labels: BTreeMap<String, String>,
    images: Vec<String>,
    next: Millis,
    last_issued: Millis,
    /// Time between adverts when nothing changes, in milliseconds; follows the network's size.
    interval_ms: Arc<AtomicU64>,
}

impl Advertiser {
    pub(super) fn new(net: Networks, keypair: Keypair, config: Config, now: Millis) -> Self {
        let Config { name, labels, .. } = config;
        let images = Vec::new();
        Self {
            net,
            keypair,
            name,
            labels,
            images,
            next: now,
            last_issued: 0,
            interval_ms: Arc::new(AtomicU64::new(interval_for(0, 0))),
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
        let interval_ms = self.interval_ms.load(Ordering::Relaxed);
        self.next = now + interval_ms;
        // Others judge it by their own wall clocks, and a machine that slept has lost time on the
        // other one. Of two adverts the later counts, so no two may bear the same time.
        self.last_issued = wall_ms().max(self.last_issued + 1);
        let capacity = core.capacity();
        let mut labels = self.labels.clone();
        labels.extend(capacity.rules.labels);
        let advert = Advert {
            // Filled in for each network.
            network: String::new(),
            name: capacity.rules.name.unwrap_or_else(|| self.name.clone()),
            issued_ms: self.last_issued,
            ttl_ms: LIFE * interval_ms,
            total: capacity.total,
            free: match capacity.closed {
                // Nobody should come for what is not given.
                Some(_) => Capacity::default(),
                None => capacity.free,
            },
            runtimes: capacity.runtimes,
            labels,
            images: self.images.clone(),
            closed: capacity
                .closed
                .map(|why| why.chars().take(MAX_WHY_BYTES / 4).collect()),
            away: capacity.away,
            features: capacity.features,
            running: capacity.running,
            queued: capacity.queued,
        };
        let (net, offering) = (self.net.clone(), capacity.offering);
        let (keypair, interval) = (self.keypair.clone(), self.interval_ms.clone());
        tokio::spawn(async move {
            // The largest network says how often.
            let mut longest = 0;
            for member in net.members() {
                let network = member.name().to_owned();
                let advert = Advert {
                    network,
                    ..advert.clone()
                };
                let signed = match advert.sign(&keypair) {
                    Ok(signed) => signed,
                    Err(error) => {
                        tracing::error!(%error, "no advert was published");
                        continue;
                    }
                };
                let (net, bytes) = (member.net(), signed.advert.len());
                net.publish(signed).await;
                net.provide(offering).await;
                let nodes = net.network_size().await;
                longest = longest.max(interval_for(nodes, bytes));
            }
            if longest > 0 {
                interval.store(longest, Ordering::Relaxed);
            }
        });
    }
}
