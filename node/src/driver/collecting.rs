//! Effects on this node's own jobs: outputs come here and are written to their folder.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use p2pnode_protocol::job::{JobPlan, render};
use p2pnode_protocol::manifest::{BlobRef, EntryKind, Manifest};
use p2pnode_protocol::{AttemptKey, JobId, PeerId, TaskKey};
use tokio::sync::mpsc;

use super::actor::Internal;
use super::fetching::{Fetched, Fetcher};
use super::loghub::LogHub;
use super::turns::{Turn, Turns};
use crate::blobs::{self, BlobStore, DeliverError, Durability, OutputPatterns, PinOwner, PinScope};
use crate::core::io::{CollectFailure, Input};
use crate::net::Misdeed;
use crate::networks::Networks;
use crate::store::{Claims, Clash, StoreError};

/// How long the rest of a log is waited for once its task ended, while none of it comes (20 s): a dead
/// connection is found out in 10 s, and the provider opens its log stream anew within 5 s of that; little
/// enough that a job with a broken log stream still ends.
const LOG_GRACE: Duration = Duration::from_secs(20);

/// How long a provider that is not connected any more is waited for, because the end of a log is there
/// (60 s): as long as it keeps a task's last words, see [`super::output`].
const LOG_AWAY: Duration = Duration::from_secs(60);

/// How often outputs are fetched whose chunks then cannot be read from this disk.
const TRIES: u32 = 3;

/// One [`Effect::Collect`](crate::core::io::Effect::Collect).
pub(super) struct Errand {
    pub(super) peer: PeerId,
    pub(super) attempt: AttemptKey,
    pub(super) outputs: Option<BlobRef>,
    /// Length of the attempt's whole log, in bytes.
    pub(super) log_bytes: u64,
    pub(super) plan: Arc<JobPlan>,
    /// Where the outputs go.
    pub(super) out: Option<PathBuf>,
}

/// What an attempt's outputs are pinned for on their way.
fn owner(attempt: AttemptKey) -> PinOwner {
    PinOwner::attempt(PinScope::Own(attempt.task.job), attempt)
}

/// See the module.
#[derive(Clone)]
pub(super) struct Collecting {
    pub(super) turns: Turns,
    pub(super) net: Networks,
    pub(super) claims: Arc<Claims>,
    pub(super) blobs: Arc<BlobStore>,
    pub(super) fetcher: Fetcher,
    pub(super) hub: LogHub,
    pub(super) internal: mpsc::Sender<Internal>,
}

impl Collecting {
    pub(super) fn collect(&self, errand: Errand) {
        let this = self.clone();
        let attempt = errand.attempt;
        let turn = this.turns.take(attempt);
        tokio::spawn(async move {
            let log = this.rest_of_log(errand.peer, attempt, errand.log_bytes);
            let log = turn.forsaken.run_until_cancelled(log);
            let (result, _) = tokio::join!(this.bring(errand, &turn), log);
            this.turns.end(&turn);
            if result.is_err() || turn.forsaken.is_cancelled() {
                this.blobs.unpin(owner(attempt));
            }
            if turn.forsaken.is_cancelled() {
                return;
            }
            let input = Input::Collected { attempt, result };
            // The driver is gone only when the node stops.
            let _stopping = this.internal.send(Internal::Input(input)).await;
        });
    }

    /// Waits for the rest of an attempt's log, as long as there is hope.
    async fn rest_of_log(&self, peer: PeerId, attempt: AttemptKey, bytes: u64) {
        let wait = || self.hub.wait_for(&peer, attempt, bytes, LOG_GRACE);
        if wait().await {
            return;
        }
        let is_away = peer != self.net.local_peer_id() && !self.net.is_connected(&peer);
        let back = tokio::time::timeout(LOG_AWAY, self.net.connected(peer));
        if is_away && back.await.is_ok() && wait().await {
            return;
        }
        tracing::info!(%attempt, "its log is not complete");
    }

    /// Nothing of this attempt is written from now on.
    pub(super) fn forsake(&self, attempt: AttemptKey) {
        self.turns.forsake(attempt);
    }

    async fn bring(&self, errand: Errand, turn: &Turn) -> Result<u64, CollectFailure> {
        let Some(blob) = errand.outputs else {
            return Ok(0);
        };
        let (peer, task) = (errand.peer, errand.attempt.task);
        let expected = Expected::of(&errand.plan, errand.attempt).map_err(CollectFailure::Local)?;
        if blob.content_bytes > expected.bytes {
            return Err(self
                .foul(peer, Misdeed::Oversize, "more than the task's disk")
                .await);
        }
        let owner = owner(errand.attempt);
        let mut tried = 0;
        loop {
            tried += 1;
            let fetching = self.fetcher.fetch(peer, task.job, blob, owner, None);
            let Fetched { manifest, memory } =
                match turn.forsaken.run_until_cancelled(fetching).await {
                    Some(Ok(fetched)) => fetched,
                    Some(Err(error)) if error.is_local() => {
                        return Err(CollectFailure::Local(error.to_string()));
                    }
                    Some(Err(error)) if error.may_resume() => {
                        return Err(CollectFailure::Away(error.to_string()));
                    }
                    Some(Err(error)) => return Err(CollectFailure::Lost(error.to_string())),
                    None => return Err(CollectFailure::Lost("it is not wanted any more".into())),
                };
            if let Some(path) = expected.patterns.first_foreign(&manifest) {
                let path = String::from_utf8_lossy(path);
                let why = format!("`{path}`, which no output pattern selects");
                return Err(self.foul(peer, Misdeed::BadPath, &why).await);
            }
            let Some(out) = errand.out.clone() else {
                return Ok(blob.content_bytes);
            };
            let (blobs, claims, turn) = (self.blobs.clone(), self.claims.clone(), turn.clone());
            let writing = tokio::task::spawn_blocking(move || {
                let _memory = memory;
                // One attempt of a task writes at a time, and none that is forsaken by then.
                let _my_turn = turn.writes.lock().unwrap_or_else(PoisonError::into_inner);
                if turn.forsaken.is_cancelled() {
                    return Err(WriteError::Forsaken);
                }
                claim(&claims, task, &manifest)?;
                blobs::write_outputs(&blobs, &manifest, &out, Durability::Each)
                    .map_err(WriteError::Deliver)
            });
            match writing.await {
                // A chunk went bad on this disk.
                Ok(Err(WriteError::Deliver(DeliverError::Missing { .. }))) if tried < TRIES => {}
                written => {
                    // They stand in their folder now, or never will.
                    self.blobs.unpin(owner);
                    return match written {
                        Ok(Ok(_)) => Ok(blob.content_bytes),
                        Ok(Err(error)) => Err(self.failure(peer, error).await),
                        Err(_) => Err(CollectFailure::Local(
                            "writing the outputs was interrupted".into(),
                        )),
                    };
                }
            }
        }
    }

    async fn failure(&self, peer: PeerId, error: WriteError) -> CollectFailure {
        match error {
            WriteError::Deliver(error) if error.is_misbehaviour() => {
                self.foul(peer, Misdeed::BadPath, &error.to_string()).await
            }
            WriteError::Clash(clash) => CollectFailure::Clash(format!(
                "its output `{}` is also one of task {}, which came first; put a value of the task \
                 or {{index}} into the path",
                String::from_utf8_lossy(&clash.path),
                clash.owner
            )),
            // Perhaps another task's, perhaps the owner's: either way this task's paths cannot be.
            WriteError::Deliver(
                error @ (DeliverError::FolderInTheWay { .. } | DeliverError::NotAFolder { .. }),
            ) => CollectFailure::Clash(error.to_string()),
            error => CollectFailure::Local(error.to_string()),
        }
    }

    /// The peer sent what no honest provider sends: its word about this attempt counts for nothing.
    async fn foul(&self, peer: PeerId, misdeed: Misdeed, why: &str) -> CollectFailure {
        self.net.report_misbehaviour(peer, misdeed).await;
        CollectFailure::Lost(format!("the peer sent outputs that are refused: {why}"))
    }

    /// The job's inputs and outputs may go when room is needed.
    pub(super) fn on_job_over(&self, job: JobId) {
        self.blobs.unpin_scope(PinScope::Own(job));
        let under_way = self.turns.forsake_job(job);
        let claims = self.claims.clone();
        tokio::task::spawn_blocking(move || {
            // What is being written now claims before it writes.
            for turn in under_way {
                drop(turn.writes.lock());
            }
            if let Err(error) = claims.forget(job) {
                tracing::warn!(%job, %error, "the list of its outputs stays until the next start");
            }
        });
    }

    /// Streams to a peer that is gone are of no use.
    pub(super) fn on_disconnected(&self, peer: PeerId) {
        self.fetcher.on_disconnected(peer);
    }
}

/// What an attempt may bring.
struct Expected {
    patterns: OutputPatterns,
    /// The most that its files may hold, in bytes.
    bytes: u64,
}

impl Expected {
    fn of(plan: &JobPlan, attempt: AttemptKey) -> Result<Self, String> {
        let task = attempt.task;
        let step = plan
            .steps
            .get(usize::from(task.step))
            .ok_or("the job has no such step")?;
        let assignment = step
            .assignment(task.index, attempt.attempt)
            .ok_or("the job has no such task")?;
        let rendered =
            render(&step.template, &assignment, task.job).map_err(|error| error.to_string())?;
        let globs: Vec<&str> = rendered
            .outputs
            .iter()
            .map(|output| output.glob.as_str())
            .collect();
        Ok(Self {
            patterns: OutputPatterns::new(&globs).map_err(|error| error.to_string())?,
            bytes: step.template.resources.disk.0,
        })
    }
}

/// Why outputs that came are not written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("the attempt is not wanted any more")]
    Forsaken,
    #[error("another task has `{}`", String::from_utf8_lossy(&.0.path))]
    Clash(Clash),
    #[error(transparent)]
    Claims(#[from] StoreError),
    #[error(transparent)]
    Deliver(DeliverError),
}

/// Claims the paths of everything in `manifest` but folders, which tasks may share.
fn claim(claims: &Claims, task: TaskKey, manifest: &Manifest) -> Result<(), WriteError> {
    let files = manifest
        .entries
        .iter()
        .filter(|entry| entry.kind != EntryKind::Folder)
        .map(|entry| entry.path.as_slice());
    claims.claim(task, files)?.map_err(WriteError::Clash)
}

#[cfg(test)]
mod tests;
