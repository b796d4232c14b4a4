//! Streams that peers open: they fetch blobs, send logs, and reach into their tasks.
//!
//! A peer gets blobs of a job only when it has to do with the job: as one of its providers, or as its
//! submitter. Logs are taken only from providers, and only of attempts that are theirs. Who that is,
//! [`super::holders`] knows.

use std::sync::Arc;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use p2pnode_protocol::message::{TaskRef, TaskRequest, TaskResponse};
use p2pnode_protocol::stream::{LogAck, LogFrame, LogHello, LogWelcome};
use p2pnode_protocol::{Digest, JobId, PeerId};
use tokio::sync::mpsc;
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::actor::Internal;
use super::holders::Holders;
use super::loghub::LogHub;
use crate::blobs::{self, BlobStore, PinScope};
use crate::core::io::{CallFailure, CallId, Input, StoredEnd};
use crate::frames::{self, FrameError};
use crate::net::{Misdeed, NetStream, StreamKind};
use crate::networks::Networks;
use crate::tunnels::Tunnels;

/// Log frames between acknowledgements.
const ACK_EVERY: u64 = 16;

/// See the module.
pub(super) struct Inbound {
    net: Networks,
    blobs: Arc<BlobStore>,
    hub: LogHub,
    tunnels: Tunnels,
    internal: mpsc::Sender<Internal>,
}

impl Inbound {
    pub(super) fn new(
        net: Networks,
        blobs: Arc<BlobStore>,
        hub: LogHub,
        tunnels: Tunnels,
        internal: mpsc::Sender<Internal>,
    ) -> Self {
        Self {
            internal,
            tunnels,
            net,
            blobs,
            hub,
        }
    }

    /// A call goes out.
    pub(super) fn note_call(&self, peer: PeerId, call: CallId, request: &TaskRequest) {
        // This node itself opens no streams to itself.
        if peer == self.net.local_peer_id() {
            return;
        }
        match request {
            TaskRequest::Offer(offer) => self.hub.holders().on_offer(peer, call, offer),
            TaskRequest::Cancel {
                job,
                tasks: Some(tasks),
            } => self.hub.holders().on_cancel(&peer, *job, tasks),
            _ => {}
        }
    }

    /// A call was answered, or not.
    pub(super) fn note_answer(&self, call: CallId, response: &Result<TaskResponse, CallFailure>) {
        self.hub.holders().on_answer(call, response);
    }

    /// A peer asks or tells something.
    pub(super) fn note_request(&self, peer: PeerId, request: &TaskRequest) {
        if let TaskRequest::Report(report) = request {
            self.hub.holders().on_report(peer, report);
        }
    }

    /// Restores what had been noted of a job before a restart.
    pub(super) fn restore(
        &self,
        job: JobId,
        dispatched: &[(PeerId, Vec<TaskRef>)],
        ends: &[StoredEnd],
    ) {
        let me = self.net.local_peer_id();
        self.hub.holders().restore(&me, job, dispatched, ends);
    }

    pub(super) fn on_job_over(&self, job: JobId) {
        self.hub.holders().on_job_over(job);
    }

    /// Serves a stream in a task of its own. The net bounds how many streams a peer may open.
    pub(super) fn on_stream(&self, peer: PeerId, kind: StreamKind, stream: NetStream) {
        match kind {
            StreamKind::Blob => self.serve_blobs(peer, stream),
            StreamKind::Log => self.receive_log(peer, stream),
            StreamKind::Tunnel => self.tunnels.serve(peer, stream),
        }
    }

    fn serve_blobs(&self, peer: PeerId, stream: NetStream) {
        let mut stream = stream.compat();
        let (store, holders) = (self.blobs.clone(), self.hub.holders().clone());
        let (net, internal) = (self.net.clone(), self.internal.clone());
        tokio::spawn(async move {
            let may_read =
                |job: JobId, digest: &Digest| may_read(&store, &holders, peer, job, digest);
            let told = |job, bytes| {
                if holders.is_provider(job, &peer) {
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
        let (hub, net) = (self.hub.clone(), self.net.clone());
        tokio::spawn(async move {
            match receive(&peer, stream.compat(), &hub).await {
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

/// Whether `peer` gets this chunk of a job: the job is ours and the peer works for it, or it is the
/// peer's own and hosted here.
fn may_read(
    store: &BlobStore,
    holders: &Holders,
    peer: PeerId,
    job: JobId,
    digest: &Digest,
) -> bool {
    store.permits(PinScope::Hosted(peer, job), digest)
        || (holders.is_provider(job, &peer) && store.permits(PinScope::Own(job), digest))
}

async fn receive<S>(peer: &PeerId, stream: S, hub: &LogHub) -> Result<(), FrameError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = stream.split();
    let hello: LogHello = frames::read(&mut reader).await?;
    let accepted = hub.holders().is_provider(hello.job, peer);
    frames::write(&mut writer, &LogWelcome { accepted }).await?;
    writer.flush().await?;
    if !accepted {
        return Ok(());
    }
    let mut count: u64 = 0;
    loop {
        let frame: LogFrame = frames::read(&mut reader).await?;
        let goes_on = hub
            .take_from(peer, hello.job, frame)
            .map_err(|error| FrameError::Refused(error.to_string()))?;
        if !goes_on {
            return Ok(());
        }
        count += 1;
        if count.is_multiple_of(ACK_EVERY) {
            frames::write(&mut writer, &LogAck { frames: count }).await?;
            writer.flush().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use p2pnode_protocol::message::Offer;
    use p2pnode_protocol::task::{Assignment, Stream};
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;
    use crate::blobs::PinOwner;
    use crate::store::JobLogs;

    const JOB: JobId = JobId([7; 8]);

    fn frame(index: u32, text: &str) -> LogFrame {
        LogFrame {
            step: 0,
            index,
            attempt: 1,
            stream: Stream::Stdout,
            offset: 0,
            bytes: text.as_bytes().to_vec(),
        }
    }

    fn offer_to(hub: &LogHub, peer: PeerId, index: u32) {
        let task = Assignment {
            index,
            attempt: 1,
            values: Vec::new(),
            inputs: Vec::new(),
        };
        let offer = Offer {
            job: JOB,
            step: 0,
            template: None,
            tasks: vec![task],
            login: None,
        };
        hub.holders().on_offer(peer, index.into(), &offer);
    }

    /// Sends frames as `peer` does; returns whether they were welcome.
    async fn send(hub: &LogHub, peer: PeerId, sent: Vec<LogFrame>) -> bool {
        let (near, far) = tokio::io::duplex(1 << 20);
        let sending = async move {
            let mut near = near.compat();
            frames::write(&mut near, &LogHello { job: JOB })
                .await
                .unwrap();
            let welcome: LogWelcome = frames::read(&mut near).await.unwrap();
            for frame in sent.iter().filter(|_| welcome.accepted) {
                frames::write(&mut near, frame).await.unwrap();
            }
            welcome.accepted
        };
        tokio::join!(sending, receive(&peer, far.compat(), hub)).0
    }

    #[test]
    fn chunks_of_a_job_go_to_its_providers_and_its_submitter_alone() {
        let folder = tempfile::tempdir().unwrap();
        let logs = JobLogs::open(&folder.path().join("logs")).unwrap();
        let hub = LogHub::new(logs, tokio::sync::broadcast::channel(8).0);
        let blobs = folder.path().join("blobs");
        let store = BlobStore::open(&blobs, p2pnode_protocol::Bytes::gib(1)).unwrap();
        let (provider, refused, submitter) = (PeerId::random(), PeerId::random(), PeerId::random());
        let (stranger, other) = (PeerId::random(), PeerId::random());
        let put = |scope, text: &[u8]| store.put(PinOwner::job(scope), text).unwrap();
        let input = put(PinScope::Own(JOB), b"an input of ours");
        let output = put(
            PinScope::Hosted(submitter, JOB),
            b"an output for its submitter",
        );
        let others = put(
            PinScope::Hosted(other, JOB),
            b"another submitter's, of a job with the same id",
        );
        offer_to(&hub, provider, 1);
        offer_to(&hub, refused, 2);
        let no = p2pnode_protocol::message::OfferReply {
            accepted: 0,
            refusal: None,
            slots: 0,
            epoch: 0,
        };
        hub.holders().on_answer(2, &Ok(TaskResponse::Offer(no)));
        let reads = |peer| {
            let read = |digest| may_read(&store, hub.holders(), peer, JOB, digest);
            [&input, &output, &others].map(read)
        };
        assert_eq!(reads(provider), [true, false, false]);
        assert_eq!(reads(submitter), [false, true, false]);
        assert_eq!(reads(other), [false, false, true]);
        assert_eq!(reads(refused), [false; 3]);
        assert_eq!(reads(stranger), [false; 3]);
        let another = |peer| may_read(&store, hub.holders(), peer, JobId([8; 8]), &input);
        assert!(!another(provider), "for that job only");
        hub.holders().on_job_over(JOB);
        assert_eq!(reads(provider), [false; 3]);
    }

    #[tokio::test]
    async fn a_forged_log_neither_counts_nor_hides_the_true_one() {
        let folder = tempfile::tempdir().unwrap();
        let logs = JobLogs::open(folder.path()).unwrap();
        let hub = LogHub::new(logs, tokio::sync::broadcast::channel(8).0);
        let (honest, forger) = (PeerId::random(), PeerId::random());
        offer_to(&hub, honest, 1);
        offer_to(&hub, forger, 2);
        let forged = vec![frame(1, "forged"), frame(2, "mine"), frame(3, "invented")];
        assert!(send(&hub, forger, forged).await);
        assert!(send(&hub, honest, vec![frame(1, "honest")]).await);
        assert!(!send(&hub, PeerId::random(), Vec::new()).await);
        let page = hub.page(JOB, None, 0).unwrap();
        assert_eq!(page.frames, [frame(2, "mine"), frame(1, "honest")]);
    }
}
