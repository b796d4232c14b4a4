//! Blobs from peers: which stream to ask on, and asking again when it broke.
//!
//! Streams are kept open between blobs, so that a thousand small outputs cost no thousand streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use p2pnode_protocol::manifest::{BlobRef, Manifest};
use p2pnode_protocol::{JobId, PeerId};
use tokio::sync::{Semaphore, mpsc};

use crate::blobs::{self, BlobStore, FetchError, PinOwner};
use crate::net::{NetHandle, Stream, StreamKind};

pub(super) use crate::blobs::Progress;

/// Blobs that are fetched at the same time; more streams on one connection do not help.
const MAX_FETCHES: usize = 16;

/// Idle streams kept for each peer.
const MAX_IDLE_STREAMS: usize = 4;

/// Tries at one blob. What arrived stays, so each try asks only for the rest.
const TRIES: u32 = 4;

/// Wait before another try; the peer is counted lost after 2 s, and then nobody waits any more.
const RETRY: Duration = Duration::from_millis(500);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct Fetcher {
    me: PeerId,
    net: NetHandle,
    store: BlobStore,
    idle: Arc<Mutex<HashMap<PeerId, Vec<Stream>>>>,
    slots: Arc<Semaphore>,
}

impl Fetcher {
    pub(super) fn new(me: PeerId, net: NetHandle, store: BlobStore) -> Self {
        let slots = Arc::new(Semaphore::new(MAX_FETCHES));
        Self { me, net, store, idle: Arc::default(), slots }
    }

    /// Brings `blob` here and pins it for `owner`.
    pub(super) async fn fetch(
        &self,
        peer: PeerId,
        job: JobId,
        blob: BlobRef,
        owner: PinOwner,
        progress: Option<mpsc::Sender<Progress>>,
    ) -> Result<Manifest, FetchError> {
        if peer == self.me {
            let manifest = self.store.manifest(&blob)?;
            self.store.pin(owner, &blob, &manifest);
            return Ok(manifest);
        }
        // Never closed, so a permit always comes.
        let _slot = self.slots.acquire().await;
        let mut tried = 0;
        loop {
            tried += 1;
            match self.try_fetch(peer, job, &blob, owner, progress.as_ref()).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) if tried < TRIES && error.is_passing() => {
                    tracing::debug!(%peer, %error, "blob stream broke, asking again");
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => {
                    if error.is_misbehaviour() {
                        self.net.report_misbehaviour(peer, crate::net::Misbehaviour::BadChunk);
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn try_fetch(
        &self,
        peer: PeerId,
        job: JobId,
        blob: &BlobRef,
        owner: PinOwner,
        progress: Option<&mpsc::Sender<Progress>>,
    ) -> Result<Manifest, FetchError> {
        let mut stream = match self.take_idle(peer) {
            Some(stream) => stream,
            None => self
                .net
                .open_stream(peer, StreamKind::Blob)
                .await
                .map_err(|error| FetchError::Open(error.to_string()))?,
        };
        let manifest = blobs::fetch(&mut stream, job, blob, &self.store, owner, progress).await?;
        self.keep_idle(peer, stream);
        Ok(manifest)
    }

    fn take_idle(&self, peer: PeerId) -> Option<Stream> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.get_mut(&peer)?.pop()
    }

    fn keep_idle(&self, peer: PeerId, stream: Stream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let streams = idle.entry(peer).or_default();
        if streams.len() < MAX_IDLE_STREAMS {
            streams.push(stream);
        }
    }

    /// Drops idle streams to a peer that is gone.
    pub(super) fn on_disconnected(&self, peer: PeerId) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).remove(&peer);
    }
}
