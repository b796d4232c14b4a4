//! Streams that peers open: they fetch blobs, and send logs.
//!
//! A peer gets blobs of a job only when it has to do with the job: as a provider that the job was
//! offered to, or as its submitter. Logs are taken only from providers of the job.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use futures::{AsyncReadExt, AsyncWriteExt};
use p2pnode_protocol::message::TaskRequest;
use p2pnode_protocol::stream::{LogAck, LogFrame, LogHello, LogWelcome};
use p2pnode_protocol::{Digest, JobId, PeerId};
use tokio::sync::mpsc;
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::actor::Internal;
use super::loghub::LogHub;
use crate::blobs::{self, BlobStore, PinScope};
use crate::core::io::Input;
use crate::frames::{self, FrameError};
use crate::net::{Misdeed, NetHandle, NetStream, StreamKind};

/// Log frames between acknowledgements.
const ACK_EVERY: u64 = 16;

/// Providers of each of this node's own jobs.
type Providers = Arc<RwLock<HashMap<JobId, HashSet<PeerId>>>>;

/// See the module.
pub(super) struct Inbound {
    net: NetHandle,
    blobs: Arc<BlobStore>,
    hub: LogHub,
    providers: Providers,
    internal: mpsc::Sender<Internal>,
}

impl Inbound {
    pub(super) fn new(
        net: NetHandle,
        blobs: Arc<BlobStore>,
        hub: LogHub,
        internal: mpsc::Sender<Internal>,
    ) -> Self {
        Self {
            internal,
            net,
            blobs,
            hub,
            providers: Providers::default(),
        }
    }

    /// An offer makes its receiver a provider of the job.
    pub(super) fn note_call(&self, peer: PeerId, request: &TaskRequest) {
        let job = match request {
            TaskRequest::Offer(offer) => offer.job,
            _ => return,
        };
        let known = is_provider(&self.providers, job, &peer);
        if !known {
            let mut providers = self
                .providers
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            providers.entry(job).or_default().insert(peer);
        }
    }

    /// Restores what [`Inbound::note_call`] had noted before a restart.
    pub(super) fn restore(&self, job: JobId, peers: impl IntoIterator<Item = PeerId>) {
        let mut providers = self
            .providers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        providers.entry(job).or_default().extend(peers);
    }

    pub(super) fn on_job_over(&self, job: JobId) {
        self.providers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&job);
    }

    /// Serves a stream in a task of its own. The net bounds how many streams a peer may open.
    pub(super) fn on_stream(&self, peer: PeerId, kind: StreamKind, stream: NetStream) {
        match kind {
            StreamKind::Blob => self.serve_blobs(peer, stream),
            StreamKind::Log => self.receive_log(peer, stream),
        }
    }

    fn serve_blobs(&self, peer: PeerId, stream: NetStream) {
        let mut stream = stream.compat();
        let (store, providers) = (self.blobs.clone(), self.providers.clone());
        let (net, internal) = (self.net.clone(), self.internal.clone());
        tokio::spawn(async move {
            // Either the job is ours and the peer works for it, or it is the peer's and hosted here.
            let may_read = |job: JobId, digest: &Digest| {
                store.permits(PinScope::Hosted(peer, job), digest)
                    || (is_provider(&providers, job, &peer)
                        && store.permits(PinScope::Own(job), digest))
            };
            let told = |job, bytes| {
                if is_provider(&providers, job, &peer) {
                    let served = Input::Served { job, bytes };
                    // A full queue: the count is for people to look at, and nobody waits for it.
                    let _busy = internal.try_send(Internal::Input(served));
                }
            };
            if let Err(error) = blobs::serve(&mut stream, &store, may_read, told).await {
                tracing::debug!(%peer, %error, "blob stream ended");
                if error.is_misbehaviour() {
                    net.report_misbehaviour(peer, Misdeed::Garbage).await;
                }
            }
        });
    }

    fn receive_log(&self, peer: PeerId, stream: NetStream) {
        let (hub, providers, net) = (self.hub.clone(), self.providers.clone(), self.net.clone());
        tokio::spawn(async move {
            match receive(peer, stream, &hub, &providers).await {
                Ok(()) => {}
                Err(error @ (FrameError::Codec(_) | FrameError::Refused(_))) => {
                    tracing::debug!(%peer, %error, "bad log stream");
                    net.report_misbehaviour(peer, Misdeed::Garbage).await;
                }
                Err(error) => tracing::debug!(%peer, %error, "log stream ended"),
            }
        });
    }
}

fn is_provider(providers: &Providers, job: JobId, peer: &PeerId) -> bool {
    let providers = providers.read().unwrap_or_else(PoisonError::into_inner);
    providers
        .get(&job)
        .is_some_and(|peers| peers.contains(peer))
}

async fn receive(
    peer: PeerId,
    stream: NetStream,
    hub: &LogHub,
    providers: &Providers,
) -> Result<(), FrameError> {
    let (mut reader, mut writer) = stream.compat().split();
    let hello: LogHello = frames::read(&mut reader).await?;
    let accepted = is_provider(providers, hello.job, &peer);
    frames::write(&mut writer, &LogWelcome { accepted }).await?;
    writer.flush().await?;
    if !accepted {
        return Ok(());
    }
    let mut count: u64 = 0;
    loop {
        let frame: LogFrame = frames::read(&mut reader).await?;
        // The job may have ended meanwhile.
        if !is_provider(providers, hello.job, &peer) {
            return Ok(());
        }
        hub.take(hello.job, frame)
            .map_err(|error| FrameError::Refused(error.to_string()))?;
        count += 1;
        if count.is_multiple_of(ACK_EVERY) {
            frames::write(&mut writer, &LogAck { frames: count }).await?;
            writer.flush().await?;
        }
    }
}
