//! Blobs from peers: which stream to ask on, and asking again when it broke.
//!
//! Streams are kept open between blobs, so that a thousand small outputs cost no thousand streams. A peer
//! that is not connected is called and waited for; whoever waits, for that or for a moment to pass, holds
//! neither a place nor memory that others could use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use p2pnode_protocol::manifest::{BlobRef, Manifest};
use p2pnode_protocol::task::{Failure, FailureKind};
use p2pnode_protocol::{JobId, PeerId};
use tokio::sync::mpsc;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::manifests::{ManifestRoom, Taken};
use super::slots::{Counted, Slots};
use crate::blobs::{self, BlobStore, FetchItem, PinOwner, Progress, StoreError};
use crate::net::{Misdeed, NetStream, OpenError, StreamKind};
use crate::networks::Networks;

/// A stream as the blobs read it.
type WireStream = Compat<NetStream>;

/// Why a blob did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Transfer(#[from] blobs::FetchError),
    #[error("the transfer goes on over a direct connection")]
    Moved,
    #[error("others wait, and the peer sent next to nothing")]
    MadeWay,
}

impl FetchError {
    /// Whether this node is to blame, and no peer.
    pub(super) const fn is_local(&self) -> bool {
        matches!(
            self,
            Self::Transfer(blobs::FetchError::Store(
                StoreError::Io { .. } | StoreError::Full { .. } | StoreError::Share { .. }
            ))
        )
    }

    /// Whether another try may go on where this one ended: the peer may have what is missing.
    pub(super) fn may_resume(&self) -> bool {
        match self {
            Self::Open(error) => !matches!(error, OpenError::Unsupported | OpenError::Stopped),
            Self::Transfer(error) => error.may_resume(),
            Self::Moved | Self::MadeWay => true,
        }
    }
}

/// A blob that is here.
pub(super) struct Fetched {
    pub(super) manifest: Manifest,
    /// What the manifest takes of memory; to be kept for as long as the manifest is.
    pub(super) memory: Taken,
}

/// What a task fails of when an input cannot be fetched.
pub(super) fn not_arrived(error: &FetchError) -> Failure {
    Failure::new(
        FailureKind::InputUnavailable,
        format!("an input did not arrive: {error}"),
    )
}

/// Idle streams kept for each peer.
const MAX_IDLE_STREAMS: usize = 4;

/// How long a stream is kept idle: less than the 30 s after which the other side closes it.
const MAX_IDLE: Duration = Duration::from_secs(20);

/// Tries at one blob with nothing to show, while the peer is connected. What arrived stays, so each try asks
/// only for the rest.
const TRIES: u32 = 4;

/// Wait before another try.
const RETRY: Duration = Duration::from_millis(500);

/// How long a peer that is not connected is waited for, while nothing arrives (60 s, a lease): then whoever
/// works for the other has given it up.
const AWAY: Duration = Duration::from_secs(60);

/// Time between calls to a peer that is not connected (5 s): in it a dial over QUIC fails.
const CALL_EVERY: Duration = Duration::from_secs(5);

/// How often the writing of a fetched blob is tried when chunks of it are gone or damaged by then. A disk
/// that loses some every time is no use to a task.
pub(super) const WRITES: u32 = 3;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct Fetcher {
    net: Networks,
    store: Arc<BlobStore>,
    peers: Arc<Mutex<HashMap<PeerId, Link>>>,
    slots: Slots,
    manifests: ManifestRoom,
}

/// What is kept for one connected peer.
#[derive(Default)]
struct Link {
    /// Streams that wait, each since when.
    idle: Vec<(WireStream, Instant)>,
}

/// How far the tries at one blob have come.
#[derive(Default)]
struct Tries {
    /// Bytes of whole chunks, in the try that runs.
    done: AtomicU64,
    /// Tries in a row that ended with nothing to show.
    vain: u32,
    /// How long the peer was waited for since anything arrived.
    away: Duration,
}

impl Tries {
    /// A try ended.
    fn on_end(&mut self) {
        if std::mem::take(self.done.get_mut()) > 0 {
            self.vain = 0;
            self.away = Duration::ZERO;
        }
    }
}

impl Fetcher {
    pub(super) fn new(net: Networks, store: Arc<BlobStore>) -> Self {
        Self {
            net,
            store,
            peers: Arc::default(),
            slots: Slots::default(),
            manifests: ManifestRoom::default(),
        }
    }

    /// Memory for lists of files.
    pub(super) const fn manifests(&self) -> &ManifestRoom {
        &self.manifests
    }

    /// Brings `blob` here and pins it for `owner`.
    pub(super) async fn fetch(
        &self,
        peer: PeerId,
        job: JobId,
        blob: BlobRef,
        owner: PinOwner,
        progress: Option<mpsc::Sender<Progress>>,
    ) -> Result<Fetched, FetchError> {
        if peer == self.net.local_peer_id() {
            let memory = self.manifests.take(peer, [blob]).await;
            let manifest = self.own(&blob, owner)?;
            return Ok(Fetched { manifest, memory });
        }
        let mut tries = Tries::default();
        let mut newcomer = true;
        loop {
            let slot = self.slots.take(peer, newcomer).await;
            newcomer = false;
            let memory = self.manifests.take(peer, [blob]).await;
            let tried = self
                .try_fetch(peer, job, &blob, owner, progress.as_ref(), &tries)
                .await;
            let error = match tried {
                Ok(manifest) => return Ok(Fetched { manifest, memory }),
                Err(error) => error,
            };
            drop((memory, slot));
            tries.on_end();
            if !error.may_resume() {
                if matches!(&error, FetchError::Transfer(error) if error.is_misbehaviour()) {
                    self.net
                        .report_misbehaviour(peer, Misdeed::WrongChunk)
                        .await;
                }
                return Err(error);
            }
            if !self.may_try_again(peer, &error, &mut tries).await {
                return Err(error);
            }
        }
    }

    /// Waits until another try is worth it; `false` when none is.
    async fn may_try_again(&self, peer: PeerId, error: &FetchError, tries: &mut Tries) -> bool {
        if matches!(error, FetchError::Moved) {
            // Nothing broke, so this was no try.
            tracing::info!(%peer, "a direct connection stands: a transfer goes on over it");
            return true;
        }
        tracing::debug!(%peer, %error, "blob stream broke, asking again");
        if self.net.is_connected(&peer) {
            tries.vain += 1;
            if tries.vain < TRIES && !matches!(error, FetchError::MadeWay) {
                tokio::time::sleep(RETRY).await;
            }
            return tries.vain < TRIES;
        }
        let since = Instant::now();
        let came = tokio::time::timeout(AWAY.saturating_sub(tries.away), self.reach(peer)).await;
        if came.is_ok() {
            // Also so that one who comes and goes is not waited for any longer.
            tokio::time::sleep(RETRY).await;
        }
        tries.away += since.elapsed();
        came.is_ok()
    }

    /// Calls a peer until it is connected.
    async fn reach(&self, peer: PeerId) {
        let calling = async {
            loop {
                self.net.connect(peer).await;
                tokio::time::sleep(CALL_EVERY).await;
            }
        };
        tokio::select! {
            () = self.net.connected(peer) => {}
            () = calling => {}
        }
    }

    async fn try_fetch(
        &self,
        peer: PeerId,
        job: JobId,
        blob: &BlobRef,
        owner: PinOwner,
        progress: Option<&mpsc::Sender<Progress>>,
        tries: &Tries,
    ) -> Result<Manifest, FetchError> {
        let item = FetchItem { blob: *blob, owner };
        let tell = |at: Progress| {
            tries.done.fetch_max(at.done, Ordering::Relaxed);
            if let Some(progress) = progress {
                // A full queue has newer progress coming.
                let _lagging = progress.try_send(at);
            }
        };
        if let Some(mut stream) = self.take_idle(peer) {
            match self.fetch_on(&mut stream, job, item, &tell).await {
                Ok(manifest) => {
                    self.keep_idle(peer, stream);
                    return Ok(manifest);
                }
                // It may have been closed over there while nobody looked, and the others as well.
                Err(FetchError::Transfer(error)) if error.may_resume() => {
                    self.with(peer, |link| link.idle.clear());
                }
                Err(error) => return Err(error),
            }
        }
        let mut stream = self.net.open_stream(peer, StreamKind::Blob).await?.compat();
        let manifest = self.fetch_on(&mut stream, job, item, &tell).await?;
        self.keep_idle(peer, stream);
        Ok(manifest)
    }

    /// Fetches over one stream, and leaves it when a better connection stands: what arrived stays.
    async fn fetch_on(
        &self,
        stream: &mut WireStream,
        job: JobId,
        item: FetchItem,
        tell: &(dyn Fn(Progress) + Sync),
    ) -> Result<Manifest, FetchError> {
        let better = stream.get_ref().better_way();
        // One that was there when the stream was opened is gone by now, or it would have been taken.
        let was_there = better.is_cancelled();
        let arrived = AtomicU64::new(0);
        let mut counted = Counted {
            stream,
            arrived: &arrived,
        };
        let fetching = blobs::fetch(&mut counted, job, item, &self.store, tell);
        tokio::select! {
            // What is done is done, whatever else holds.
            biased;
            fetched = fetching => Ok(fetched?),
            () = better.cancelled(), if !was_there => Err(FetchError::Moved),
            () = self.slots.make_way(&arrived) => Err(FetchError::MadeWay),
        }
    }

    /// A blob of this node's own, which is here.
    fn own(&self, blob: &BlobRef, owner: PinOwner) -> Result<Manifest, FetchError> {
        let manifest = self.store.manifest(blob).map_err(blobs::FetchError::from)?;
        let manifest = manifest.ok_or(blobs::FetchError::NotThere(blob.digest))?;
        // There is nobody else to ask.
        if let Some(lost) = self.store.missing(&manifest).first() {
            return Err(blobs::FetchError::NotThere(lost.digest).into());
        }
        self.store.pin_blob(owner, blob, &manifest);
        Ok(manifest)
    }

    fn with<T>(&self, peer: PeerId, work: impl FnOnce(&mut Link) -> T) -> T {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        work(peers.entry(peer).or_default())
    }

    fn take_idle(&self, peer: PeerId) -> Option<WireStream> {
        self.with(peer, |link| {
            link.idle.retain(|(stream, since)| {
                let outdone = stream.get_ref().better_way().is_cancelled();
                since.elapsed() < MAX_IDLE && !outdone
            });
            link.idle.pop().map(|(stream, _)| stream)
        })
    }

    fn keep_idle(&self, peer: PeerId, stream: WireStream) {
        self.with(peer, |link| {
            if link.idle.len() < MAX_IDLE_STREAMS {
                link.idle.push((stream, Instant::now()));
            }
        });
    }

    /// Drops what is kept for a peer that is gone.
    pub(super) fn on_disconnected(&self, peer: PeerId) {
        self.peers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&peer);
    }
}

#[cfg(test)]
mod tests;
