//! Effects on this node's own jobs: outputs come here and are written to their folder.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::{AttemptKey, JobId, PeerId};
use tokio::sync::mpsc;

use super::actor::Internal;
use super::fetching::Fetcher;
use super::loghub::LogHub;
use crate::blobs::{self, BlobStore, Durability, PinOwner, PinScope};
use crate::core::io::{CollectFailure, Input};

/// How long the rest of a log is waited for once its task ended: far more than a round trip, little
/// enough that a job with a broken log stream still ends.
const LOG_GRACE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Clone)]
pub(super) struct Collecting {
    blobs: Arc<BlobStore>,
    fetcher: Fetcher,
    hub: LogHub,
    internal: mpsc::Sender<Internal>,
}

impl Collecting {
    pub(super) const fn new(
        blobs: Arc<BlobStore>,
        fetcher: Fetcher,
        hub: LogHub,
        internal: mpsc::Sender<Internal>,
    ) -> Self {
        Self {
            blobs,
            fetcher,
            hub,
            internal,
        }
    }

    pub(super) fn collect(
        &self,
        peer: PeerId,
        attempt: AttemptKey,
        outputs: Option<BlobRef>,
        log_bytes: u64,
        out: Option<String>,
    ) {
        let this = self.clone();
        tokio::spawn(async move {
            let (result, ()) = tokio::join!(
                this.bring(peer, attempt, outputs, out),
                this.hub.wait_for(attempt, log_bytes, LOG_GRACE),
            );
            let input = Input::Collected { attempt, result };
            // The driver is gone only when the node stops.
            let _stopping = this.internal.send(Internal::Input(input)).await;
        });
    }

    async fn bring(
        &self,
        peer: PeerId,
        attempt: AttemptKey,
        outputs: Option<BlobRef>,
        out: Option<String>,
    ) -> Result<u64, CollectFailure> {
        let Some(blob) = outputs else { return Ok(0) };
        let job = attempt.task.job;
        let owner = PinOwner::attempt(PinScope::Own(job), attempt);
        let manifest = self
            .fetcher
            .fetch(peer, job, blob, owner, None)
            .await
            .map_err(|error| CollectFailure::Lost(error.to_string()))?;
        let Some(out) = out.map(PathBuf::from) else {
            return Ok(blob.content_bytes);
        };
        let store = self.blobs.clone();
        let writing = tokio::task::spawn_blocking(move || {
            blobs::write_outputs(&store, &manifest, &out, Durability::Each)
                .map_err(|error| error.to_string())
        });
        let written = writing.await;
        // They stand in their folder now.
        self.blobs.unpin(owner);
        match written {
            Ok(Ok(_)) => Ok(blob.content_bytes),
            Ok(Err(message)) => Err(CollectFailure::Local(message)),
            Err(_) => Err(CollectFailure::Local(
                "writing the outputs was interrupted".into(),
            )),
        }
    }

    /// The job's inputs and outputs may go when room is needed.
    pub(super) fn on_job_over(&self, job: JobId) {
        self.blobs.unpin_scope(PinScope::Own(job));
    }

    /// Streams to a peer that is gone are of no use.
    pub(super) fn on_disconnected(&self, peer: PeerId) {
        self.fetcher.on_disconnected(peer);
    }
}
