//! Numbers about the network, for `/metrics` and for tests.
//!
//! Plain counters that every module of `net` holds a clone of; registering them is up to the API.

use p2pnode_protocol::api::AdvertTimes;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::conduct::Misdeed;
use super::protocols::StreamKind;

/// Tells misdeeds apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MisdeedLabel {
    /// [`Misdeed::name`].
    pub kind: String,
}

/// Bytes that went one way and the other.
#[derive(Debug, Clone, Default)]
pub struct ByteCounters {
    /// Bytes sent.
    pub sent: Counter,
    /// Bytes received.
    pub received: Counter,
}

/// What the network counts. Clones share the counters.
#[derive(Debug, Clone, Default)]
pub struct NetMetrics {
    /// Peers that are connected.
    pub peers_connected: Gauge,
    /// Connections that are open; a peer can have several.
    pub connections: Gauge,
    /// Nodes that have a place here, as at a relay.
    pub relay_clients: Gauge,
    /// Connections between others that go through here.
    pub relay_circuits: Gauge,
    /// Places and circuits that this node refused as a relay.
    pub relay_refused: Counter,
    /// Task requests sent.
    pub requests_sent: Counter,
    /// Task requests that had no answer.
    pub requests_failed: Counter,
    /// Task requests received and handed on.
    pub requests_received: Counter,
    /// Task requests answered *busy* without asking the node.
    pub requests_refused: Counter,
    /// Bytes of task messages.
    pub task_bytes: ByteCounters,
    /// Streams opened to peers.
    pub streams_opened: Counter,
    /// Streams accepted from peers.
    pub streams_accepted: Counter,
    /// Streams from peers that were refused.
    pub streams_refused: Counter,
    /// Bytes of streams that carry blobs.
    pub blob_bytes: ByteCounters,
    /// Bytes of other streams.
    pub stream_bytes: ByteCounters,
    /// Own adverts published.
    pub adverts_published: Counter,
    /// Adverts of others that were new and true.
    pub adverts_accepted: Counter,
    /// Adverts of others that were known already or expired.
    pub adverts_stale: Counter,
    /// Adverts of others whose time was over.
    pub adverts_expired: Counter,
    /// Adverts of others that were made too far ahead of this node's clock.
    pub adverts_future: Counter,
    /// Adverts of others that were forged.
    pub adverts_rejected: Counter,
    /// Bytes of adverts exchanged directly.
    pub advert_bytes: ByteCounters,
    /// What peers did wrong.
    pub misdeeds: Family<MisdeedLabel, Counter>,
    /// Peers shut out for it.
    pub peers_shut_out: Counter,
}

impl NetMetrics {
    /// Registers everything under `p2pnode_net`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("p2pnode_net");
        for (name, help, gauge) in self.gauges() {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, counter) in self.counters() {
            registry.register(name, help, counter.clone());
        }
        for (sent, received, what, bytes) in self.byte_counters() {
            for (name, way, counter) in [
                (sent, "sent", &bytes.sent),
                (received, "received", &bytes.received),
            ] {
                let help = format!("Bytes of {what} {way}");
                registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
            }
        }
        registry.register(
            "misdeeds",
            "What peers did wrong, by kind",
            self.misdeeds.clone(),
        );
    }

    /// Adverts of others by how their time fitted this node's clock.
    #[must_use]
    pub fn advert_times(&self) -> AdvertTimes {
        AdvertTimes {
            accepted: self.adverts_accepted.get(),
            future: self.adverts_future.get(),
            expired: self.adverts_expired.get(),
        }
    }

    #[rustfmt::skip]
    fn gauges(&self) -> [(&'static str, &'static str, &Gauge); 4] {
        [
            ("peers_connected", "Connected peers", &self.peers_connected),
            ("connections", "Open connections", &self.connections),
            ("relay_clients", "Nodes with a place at this relay", &self.relay_clients),
            ("relay_circuits", "Connections of others through this relay", &self.relay_circuits),
        ]
    }

    #[rustfmt::skip]
    fn counters(&self) -> [(&'static str, &'static str, &Counter); 15] {
        [
            ("requests_sent", "Task requests sent", &self.requests_sent),
            ("requests_failed", "Task requests without an answer", &self.requests_failed),
            ("requests_received", "Task requests received", &self.requests_received),
            ("requests_refused", "Task requests answered busy", &self.requests_refused),
            ("streams_opened", "Streams opened to peers", &self.streams_opened),
            ("streams_accepted", "Streams accepted from peers", &self.streams_accepted),
            ("streams_refused", "Streams from peers that were refused", &self.streams_refused),
            ("adverts_published", "Own capacity adverts published", &self.adverts_published),
            ("adverts_accepted", "New capacity adverts of others", &self.adverts_accepted),
            ("adverts_stale", "Capacity adverts that were known or expired", &self.adverts_stale),
            ("adverts_expired", "Capacity adverts whose time was over by this node's clock", &self.adverts_expired),
            ("adverts_future", "Capacity adverts from the future of this node's clock", &self.adverts_future),
            ("adverts_rejected", "Capacity adverts that were forged", &self.adverts_rejected),
            ("relay_refused", "Places and circuits that this relay refused", &self.relay_refused),
            ("peers_shut_out", "Peers shut out for misbehaviour", &self.peers_shut_out),
        ]
    }

    #[rustfmt::skip]
    fn byte_counters(&self) -> [(&'static str, &'static str, &'static str, &ByteCounters); 4] {
        [
            ("task_sent", "task_received", "task messages", &self.task_bytes),
            ("blob_sent", "blob_received", "streams that carry blobs", &self.blob_bytes),
            ("stream_sent", "stream_received", "other streams", &self.stream_bytes),
            ("advert_sent", "advert_received", "adverts exchanged directly", &self.advert_bytes),
        ]
    }

    /// The counters of streams of a kind.
    pub(super) const fn bytes_of(&self, kind: StreamKind) -> &ByteCounters {
        match kind {
            StreamKind::Blob => &self.blob_bytes,
            _ => &self.stream_bytes,
        }
    }

    /// The counter of one kind of misdeed.
    #[must_use]
    pub fn misdeed(&self, misdeed: Misdeed) -> Counter {
        let label = MisdeedLabel {
            kind: misdeed.name().to_owned(),
        };
        self.misdeeds.get_or_create(&label).clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn clones_share_and_everything_is_registered() {
        let metrics = NetMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        metrics.clone().misdeed(Misdeed::Garbage).inc();
        metrics.clone().stream_bytes.sent.inc_by(7);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(
            text.contains("p2pnode_net_misdeeds_total{kind=\"garbage\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("p2pnode_net_stream_sent_bytes_total 7"),
            "{text}"
        );
    }
}
