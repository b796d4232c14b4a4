//! The node's metrics as OpenMetrics text.
//!
//! Two kinds: what is counted as it happens ([`counted`], by [`watcher`], which sees every input and
//! effect of the core), and what is so now ([`figures`], gathered when somebody asks, so that nothing
//! of it can be stale or left behind). Labels come from sets that are fixed or bounded: states, reasons
//! and phases by name, GPUs and running tasks up to [`MAX_LABELLED`] each, peers as counts only.

mod counted;
mod figures;
mod names;
mod watcher;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

use super::meter::Meter;
use crate::api::MetricsText;
use crate::blobs::BlobStore;
use crate::command::NodeHandle;
use crate::net::NetMetrics;

use counted::Counted;
use figures::{Figures, OfCore};
pub(super) use watcher::Watcher;

/// The most running tasks, and the most GPUs, that have labels of their own: as many tasks as a large
/// machine runs at a time, and a page of a dashboard shows.
const MAX_LABELLED: usize = 64;

/// The longest age of sensors' readings that are shown: less than any interval between scrapes.
const READINGS_AGE: Duration = Duration::from_secs(2);

/// Everything that is shown, and where it comes from.
pub(super) struct Metrics {
    counted: Counted,
    /// All that is counted, those of the net included.
    registry: Registry,
    started: Instant,
}

impl Metrics {
    pub(super) fn new(net: &NetMetrics) -> Self {
        let counted = Counted::default();
        let mut registry = Registry::default();
        net.register(&mut registry);
        counted.register(&mut registry);
        Self {
            counted,
            registry,
            started: Instant::now(),
        }
    }

    /// What counts as the core goes on.
    pub(super) fn watcher(&self) -> Watcher {
        Watcher::new(self.counted.clone())
    }

    /// What writes the text. It asks the core, so it must not be called by the core's own loop.
    pub(super) fn text(self, node: NodeHandle, blobs: Arc<BlobStore>, meter: Meter) -> MetricsText {
        let metrics = Arc::new(self);
        Arc::new(move || {
            let (metrics, node) = (metrics.clone(), node.clone());
            let (blobs, meter) = (blobs.clone(), meter.clone());
            Box::pin(async move {
                let figures = Figures {
                    peer: node.peer().to_string(),
                    uptime: metrics.started.elapsed(),
                    // A node that stops answers no more; the rest is shown even so.
                    core: node.view(OfCore::of).await.ok(),
                    store: blobs.usage(),
                    readings: meter.readings(READINGS_AGE).await.unwrap_or_default(),
                    running: meter.running(MAX_LABELLED),
                };
                metrics.write(&figures)
            })
        })
    }

    fn write(&self, figures: &Figures) -> String {
        let mut now = Registry::with_prefix("p2pnode");
        figures.register(&mut now);
        let mut text = String::new();
        let written = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &now))
            .and_then(|()| encode_eof(&mut text));
        match written {
            Ok(()) => text,
            Err(error) => {
                tracing::error!(%error, "metrics cannot be written");
                String::new()
            }
        }
    }
}
