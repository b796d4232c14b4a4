//! The node's metrics as OpenMetrics text.

use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::api::MetricsText;
use crate::net::NetMetrics;

/// Registers everything that counts and returns what writes it out.
pub(super) fn text(net: NetMetrics) -> MetricsText {
    let mut registry = Registry::default();
    net.register(&mut registry);
    Arc::new(move || {
        let mut text = String::new();
        match encode(&mut text, &registry) {
            Ok(()) => text,
            Err(error) => {
                tracing::error!(%error, "metrics cannot be written");
                String::new()
            }
        }
    })
}
