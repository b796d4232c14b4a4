//! Environments: images at hand, pulled, loaded from an archive, or built.
//!
//! Owns how a program becomes an image id. Tasks run by that id, so that a tag which moves between
//! two tasks of a job changes nothing. [`prepare`] is the only way in: the same thing asked for twice
//! is made once (`flight`), and what this node brought is remembered (`ledger`) and removed again when
//! it is too much (`cache`). `pull` has references, `archive` has archives, `build` has Dockerfiles;
//! `room` keeps the disk from filling up.
//!
//! It must never let the engine see a name that a stranger chose for an image, nor give one
//! submitter's image to another that could not have it himself.

mod access;
mod archive;
mod body;
mod build;
mod cache;
mod flight;
mod ledger;
mod list;
mod pull;
mod reference;
mod registry;
mod room;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ImageInspect;
use p2pnode_protocol::task::{Failure, FailureKind};
use p2pnode_protocol::{Bytes, Resources};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use self::access::Arriving;
use self::cache::{Cache, Lease};
use self::flight::{Flights, Steps};
use super::engine::Connected;
use super::run::Shared;
use crate::{Credentials, PrepareProgress};

/// Builds at once: each has a job's limits to itself, beside the tasks that run.
const BUILDS_AT_ONCE: usize = 1;

/// Archives being read and loaded at once: it is the disk's work, and more only makes each slower.
const LOADS_AT_ONCE: usize = 2;

/// Longest wait for the engine's first word about an image that is sent to it: it speaks only when it
/// has all of it. The job's own limit for the preparation ends it sooner.
const SENDING: Duration = Duration::from_secs(24 * 3_600);

/// An image as its tasks need it. While one of its copies lives, it is not removed.
#[derive(Debug, Clone)]
pub(super) struct Image {
    /// The engine's id of it.
    pub id: String,
    /// Folders that it declares as volumes.
    pub volumes: Vec<String>,
    _lease: Arc<Lease>,
}

/// What an environment is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// An image by reference.
    Reference {
        reference: String,
        credentials: Option<Credentials>,
        local_registry: bool,
    },
    /// An image in an archive.
    Archive { path: PathBuf, digest: String },
    /// An image to be built.
    Build {
        context: PathBuf,
        dockerfile: String,
        digest: String,
        resources: Resources,
        local_registry: bool,
    },
}

/// What makes two of [`Wanted`] the same. Content is the same wherever it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    Reference(String, Option<Credentials>, bool),
    Archive(String),
    Build(String, bool),
}

impl Wanted {
    fn key(&self) -> Key {
        match self {
            Self::Reference {
                reference,
                credentials,
                local_registry,
            } => {
                let name = reference::canonical(reference);
                Key::Reference(name, credentials.clone(), *local_registry)
            }
            Self::Archive { digest, .. } => Key::Archive(digest.clone()),
            Self::Build {
                dockerfile,
                digest,
                local_registry,
                ..
            } => Key::Build(build::name(digest, dockerfile), *local_registry),
        }
    }
}

/// All images of one runtime.
#[derive(Debug)]
pub(super) struct Images {
    flights: Flights<Key, Result<Image, Failure>>,
    cache: Arc<Cache>,
    loads: Semaphore,
    builds: Semaphore,
    arriving: Arriving,
}

impl Images {
    /// `dir` is the runtime's folder; `quota` bounds what this node brings.
    pub(super) fn new(dir: &Path, quota: Option<Bytes>) -> Self {
        Self {
            flights: Flights::default(),
            cache: Cache::new(dir, quota),
            loads: Semaphore::new(LOADS_AT_ONCE),
            builds: Semaphore::new(BUILDS_AT_ONCE),
            arriving: Arriving::default(),
        }
    }

    /// Names of the images at hand, newest first.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) async fn list(&self, docker: &Docker) -> Result<Vec<String>, Error> {
        list::list(docker, &self.cache).await
    }

    /// Whether [`trim`](Self::trim) may have something to do.
    pub(super) fn is_due(&self) -> bool {
        self.cache.is_due()
    }

    /// Removes what is unused and over the quota.
    pub(super) async fn trim(&self, docker: &Docker) {
        self.cache.trim(docker).await;
    }
}

/// Removes what an interrupted build of an earlier life left.
pub(super) async fn remove_leftovers(docker: &Docker, is_earlier_life: impl Fn(&str) -> bool) {
    build::sweep(docker, is_earlier_life).await;
}

/// The image for `wanted`, made ready by whoever asks first and shared by all who ask meanwhile.
///
/// # Errors
/// A failure whose kind says whether another provider may do better.
pub(super) async fn prepare(
    shared: &Arc<Shared>,
    wanted: Wanted,
    progress: &mpsc::Sender<PrepareProgress>,
) -> Result<Image, Failure> {
    let place = (&shared.tracker, &shared.stopping);
    let flights = &shared.images.flights;
    let start = |steps, stop| {
        let shared = Arc::clone(shared);
        let wanted = wanted.clone();
        async move {
            let engine = shared.engine.connect().await;
            let engine =
                engine.map_err(|error| Failure::new(FailureKind::Host, error.to_string()))?;
            let work = Work {
                shared,
                engine,
                steps,
                stop,
            };
            work.make(wanted).await
        }
    };
    // The archive and the context are the caller's, and go with him.
    let own = !matches!(wanted, Wanted::Reference { .. });
    let shared = flights.share((wanted.key(), own), place, progress, start);
    shared.await.unwrap_or_else(|| {
        Err(Failure::new(
            FailureKind::Host,
            "the preparation of this image broke off by a fault of the provider's",
        ))
    })
}

/// One preparation under way.
#[derive(Debug)]
struct Work {
    shared: Arc<Shared>,
    engine: Arc<Connected>,
    steps: Steps,
    /// Nobody waits for it any more, or the runtime is shutting down.
    stop: CancellationToken,
}

impl Work {
    fn docker(&self) -> &Docker {
        &self.engine.docker
    }

    /// A client that waits while the engine takes in much.
    fn patient(&self) -> Docker {
        self.engine.docker.clone().with_timeout(SENDING)
    }

    fn cache(&self) -> &Arc<Cache> {
        &self.shared.images.cache
    }

    fn stopped(&self) -> Failure {
        if self.shared.stopping.is_cancelled() {
            Failure::new(
                FailureKind::ProviderStopping,
                "the provider is shutting down",
            )
        } else {
            Failure::new(FailureKind::Cancelled, "cancelled")
        }
    }

    /// Does `act` unless it is stopped meanwhile; then it is dropped.
    async fn unless_stopped<T>(
        &self,
        act: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(self.stopped()),
            done = act => done,
        }
    }

    async fn make(&self, wanted: Wanted) -> Result<Image, Failure> {
        // Twice: what was at hand may have been removed as too much before it was held.
        let mut held = None;
        for _ in 0..2 {
            let found = self.find(&wanted).await?;
            let id = found.id.clone().unwrap_or_default();
            let lease = self.cache().lease(&id).await;
            if pull::inspect(self.docker(), &id).await?.is_some() {
                held = Some((found, id, lease));
                break;
            }
        }
        let Some((found, id, lease)) = held else {
            let why = "the image was removed from the engine as soon as it was there";
            return Err(Failure::new(FailureKind::Host, why));
        };
        self.cache().touch(&id).await;
        self.cache().trim(self.docker()).await;
        Ok(Image {
            id,
            volumes: found
                .config
                .and_then(|config| config.volumes)
                .unwrap_or_default(),
            _lease: Arc::new(lease),
        })
    }

    async fn find(&self, wanted: &Wanted) -> Result<ImageInspect, Failure> {
        match wanted {
            Wanted::Reference {
                reference,
                credentials,
                local_registry,
            } => pull::resolve(self, reference, credentials.as_ref(), *local_registry).await,
            Wanted::Archive { path, digest } => archive::load(self, path, digest).await,
            Wanted::Build {
                context,
                dockerfile,
                digest,
                resources,
                local_registry,
            } => {
                let wanted = build::Wanted {
                    context,
                    dockerfile,
                    digest,
                    resources,
                    local_registry: *local_registry,
                };
                build::build(self, &wanted).await
            }
        }
    }
}

/// A content's digest as part of a name; `None` when it is not one.
fn name_part(digest: &str) -> Option<String> {
    let fits = (16..=128).contains(&digest.len());
    let hex = digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    (fits && hex).then(|| digest.to_ascii_lowercase())
}
