//! Runs tasks in containers of any engine that speaks Docker's API (Docker, Podman).
//!
//! [`DockerRuntime`] is what the node holds. Within: [`engine`] finds an engine and refuses one that
//! can't hold a sandbox, `image` has images ready, [`container`] says what a sandbox is, `run` takes
//! one task from creation to removal (`stage` and `disk` before it, `output`, `hold`, `watch`, `space`
//! and `meter` beside it, `exit` or `stopped` after it), `warm` one task after another in a container
//! that waits (`pause` is what it does meanwhile, `enter` visits its namespaces, `way_out` is a task's
//! proxy in it), `inside` lets a job's owner into a running task, and [`reaper`] is the process that
//! cleans up after a node that was killed.
//!
//! It must never start a container without the reaper, hand it a host path but the task's own work
//! directory, or let one outlive its run.

pub mod container;
mod disk;
mod ending;
pub mod engine;
mod enter;
mod exit;
pub mod facts;
mod fitness;
mod freeze;
mod hold;
mod hosts;
mod image;
mod inside;
pub mod labels;
mod leftovers;
mod list;
mod meter;
mod nameless;
mod output;
mod pause;
pub mod reaper;
mod remove;
mod run;
mod sandboxes;
mod space;
mod stage;
mod stopped;
mod warm;
mod watch;
mod way_out;
mod workdir;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use p2pnode_protocol::task::{Failure, FailureKind, RuntimeKind};
use p2pnode_protocol::{Bytes, PeerId};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::disk::Disks;
use self::engine::{Connected, Engine};
use self::image::{Images, Wanted};
use self::labels::Owner;
use self::reaper::Reaper;
pub use self::reaper::ReaperCommand;
use self::remove::Lost;
use self::run::Shared;

use self::warm::Warm;
use crate::egress::Gate;
use crate::host::cgroup::Mounts;
pub use crate::host::space::reserve_of;
use crate::{
    Environment, Features, LogSink, PrepareProgress, ProgramFile, Runtime, RuntimeReport, TaskEnd,
    TaskRun,
};

/// Containers being started at once, for each CPU: starting is mostly work of the engine's, and more
/// at once only makes each slower.
const STARTS_PER_CPU: usize = 2;

/// What the runtime is told by the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerConfig {
    /// The node's identity.
    pub node: PeerId,
    /// Random, new with every start of the node: tells its containers from those of its earlier
    /// lives. At least 8 letters and digits.
    pub incarnation: String,
    /// How to start the reaper.
    pub reaper: ReaperCommand,
    /// A folder for this runtime's own use, made when it is missing. The engine must see it at the
    /// same path, as it must the tasks' work directories.
    pub dir: PathBuf,
    /// The engine: a socket's path, `unix://...` or `tcp://...`. Without one, what `DOCKER_HOST`
    /// names, or the first default socket of Docker or Podman that answers.
    pub socket: Option<String>,
    /// The OCI runtime that tasks run under, such as `runsc`; absent: the engine's default. A job may
    /// insist on a stronger one, never on a weaker.
    pub sandbox: Option<String>,
    /// Whether every task's work directory is a filesystem of its own that ends at its limit. It
    /// takes root and loop devices, and costs some 60 ms a task; without them disk is watched.
    pub hard_disk: bool,
    /// The most that images brought by this node (pulled, loaded, built) may take together while no
    /// environment uses them; none: no limit. The owner's own images are never counted or removed.
    pub image_cache: Option<Bytes>,
}

/// The runtime for container images.
#[derive(Debug)]
pub struct DockerRuntime {
    owner: Owner,
    shared: Arc<Shared>,
}

impl DockerRuntime {
    /// Connects to nothing and starts nothing yet: the engine may come later, and a node that never
    /// runs a container needs no reaper.
    #[must_use]
    pub fn new(config: DockerConfig) -> Self {
        Self::with_gate(config, Gate::default())
    }

    /// The same with other rules for tasks' ways out: for tests.
    #[must_use]
    pub fn with_gate(config: DockerConfig, gate: Gate) -> Self {
        let owner = Owner {
            node: config.node,
            incarnation: config.incarnation,
        };
        let label = owner.label();
        let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
        let shared = Shared {
            name_prefix: labels::name_prefix(&label),
            engine: Engine::new(config.socket),
            reaper: Reaper::new(config.reaper, label.clone(), config.dir.clone()),
            sandbox: config.sandbox,
            disks: Disks::new(config.hard_disk, &config.dir, &label),
            label,
            images: Images::new(&config.dir, config.image_cache),
            dir: config.dir,
            mounts: Mounts::of_this_process(),
            starts: Semaphore::new(cpus * STARTS_PER_CPU),
            stopping: CancellationToken::new(),
            tracker: TaskTracker::new(),
            lost: Lost::default(),
            serial: AtomicU64::new(1),
            gate: Arc::new(gate),
            sees_containers: true,
        };
        Self {
            owner,
            shared: Arc::new(shared),
        }
    }

    /// The same as if its containers' processes and files were out of this host's sight, like those of an
    /// engine on another machine: for tests of what is left then. To be called before anything runs.
    #[must_use]
    pub fn without_sight(mut self) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.sees_containers = false;
        }
        self
    }

    /// What this machine and this engine can do beyond the least.
    async fn features(&self, engine: &Connected) -> Features {
        Features {
            sandboxes: engine.sandboxes.on_offer(self.shared.sandbox.as_deref()),
            hard_disk: !engine.rootless && self.shared.disks.are_on().await,
            egress: Some(warm::may_reach_out(&self.shared, engine.rootless)),
            pause: engine.can_pause,
        }
    }

    /// Where the engine is, its version and the images at hand.
    async fn look(&self) -> Result<(Arc<Connected>, Vec<String>), String> {
        let engine = self
            .shared
            .engine
            .connect()
            .await
            .map_err(|error| error.to_string())?;
        match self.shared.images.list(&engine.docker).await {
            Ok(images) => {
                if self.shared.images.is_due() {
                    let (shared, docker) = (Arc::clone(&self.shared), engine.docker.clone());
                    let trim = async move { shared.images.trim(&docker).await };
                    self.shared.tracker.spawn(trim);
                }
                if !self.shared.lost.is_empty() {
                    let shared = Arc::clone(&self.shared);
                    let docker = engine.docker.clone();
                    let retry = async move { shared.lost.retry(&docker).await };
                    self.shared.tracker.spawn(retry);
                }
                Ok((engine, images))
            }
            Err(error) => {
                self.shared.engine.forget().await;
                Err(format!(
                    "the container engine at {} has stopped answering: {}",
                    engine.address,
                    words(&error)
                ))
            }
        }
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Docker
    }

    async fn probe(&self) -> RuntimeReport {
        match self.look().await {
            Ok((engine, images)) => RuntimeReport {
                version: Ok(engine.version.clone()),
                images,
                features: self.features(&engine).await,
            },
            Err(why) => RuntimeReport {
                version: Err(why),
                images: Vec::new(),
                features: Features::default(),
            },
        }
    }

    async fn prepare(
        &self,
        program: ProgramFile,
        progress: mpsc::Sender<PrepareProgress>,
    ) -> Result<Arc<dyn Environment>, Failure> {
        let wanted = match program {
            ProgramFile::Image {
                reference,
                credentials,
                local_registry,
            } => Wanted::Reference {
                reference,
                credentials,
                local_registry,
            },
            ProgramFile::Archive { path, digest } => Wanted::Archive { path, digest },
            ProgramFile::Build {
                context,
                dockerfile,
                digest,
                resources,
                local_registry,
            } => Wanted::Build {
                context,
                dockerfile,
                digest,
                resources,
                local_registry,
            },
            ProgramFile::Wasm { .. } => {
                let why = "a WASM module cannot run in a container";
                return Err(Failure::new(FailureKind::BadProgram, why));
            }
        };
        let image = image::prepare(&self.shared, wanted, &progress).await?;
        Ok(Arc::new(DockerEnvironment {
            shared: Arc::clone(&self.shared),
            warm: Warm::new(Arc::clone(&self.shared), image),
        }))
    }

    async fn remove_leftovers(&self) {
        let pick = |label: &str| self.owner.is_earlier_life(label);
        let dir = &self.shared.dir;
        // Without an engine there is nothing that runs.
        let swept = match self.shared.engine.connect().await {
            Ok(engine) => {
                image::remove_leftovers(&engine.docker, pick).await;
                remove::sweep(&engine.docker, &engine.address, dir, pick).await
            }
            Err(_) => Ok(disk::sweep(dir, pick)),
        };
        match swept {
            Ok(0) => {}
            Ok(count) => {
                tracing::info!(count, "removed what an earlier life of this node left")
            }
            Err(error) => {
                tracing::warn!(
                    error = words(&error),
                    "cannot look for an earlier life's containers"
                );
                return;
            }
        }
        let (dir, names) = (self.shared.dir.clone(), self.shared.name_prefix.clone());
        let swept = tokio::task::spawn_blocking(move || warm::sweep(&dir, &names)).await;
        if let Err(error) = swept {
            tracing::warn!(%error, "cannot look for an earlier life's mounts");
        }
    }

    async fn shutdown(&self) {
        self.shared.stopping.cancel();
        self.shared.tracker.close();
        self.shared.tracker.wait().await;
        self.shared.disks.close();
        self.shared
            .reaper
            .dismiss(self.shared.lost.is_empty())
            .await;
    }
}

/// An image at hand.
#[derive(Debug)]
struct DockerEnvironment {
    shared: Arc<Shared>,
    warm: Warm,
}

#[async_trait]
impl Environment for DockerEnvironment {
    async fn run(&self, task: TaskRun, log: LogSink, cancel: CancellationToken) -> TaskEnd {
        self.warm.run(task, log, cancel).await
    }

    async fn release(&self, work_dir: &Path) {
        if !self.shared.disks.holds(work_dir) {
            return;
        }
        let (shared, work_dir) = (Arc::clone(&self.shared), work_dir.to_path_buf());
        let released = tokio::task::spawn_blocking(move || shared.disks.release(&work_dir));
        if released.await.is_err() {
            tracing::warn!("releasing a task's disk was interrupted");
        }
    }
}

/// An error with all its causes, for people: libraries tend to say only "error" at the top.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
