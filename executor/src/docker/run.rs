//! One task in one container, from creation to removal.
//!
//! The order matters: the reaper runs before the container is there; the output is attached before
//! the process starts, so that not a byte is missed; the container is removed before the end is told.
//! The work runs in a task of its own that outlives the caller's future: whoever drops that future
//! cancels the run, and the container is removed all the same.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bollard::Docker;
use bollard::container::AttachContainerResults;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, StartContainerOptions,
};
use p2pnode_protocol::task::{Failure, FailureKind, Usage};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::container::Sandbox;
use super::disk::Disk;
use super::disk::Disks;
use super::engine::Engine;
use super::hold::Freezer;
use super::image::{Image, Images};
use super::inside::{self, Attendance, Place};
use super::meter::Meter;
use super::output;
use super::reaper::Reaper;
use super::remove::{self, Lost};
use super::stage::Stage;
use super::stopped;
use super::watch::{self, Limits, Pulse};
use super::{ending, exit};
use crate::egress::Gate;
use crate::host::cgroup::Mounts;
use crate::{LogSink, TaskEnd, TaskRun};

/// What all runs of one runtime share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The value of the label `p2pnode.node`.
    pub label: String,
    /// What containers' names begin with.
    pub name_prefix: String,
    pub engine: Engine,
    pub images: Images,
    /// The runtime's own folder.
    pub dir: PathBuf,
    pub reaper: Reaper,
    /// The owner's choice of an OCI runtime.
    pub sandbox: Option<String>,
    /// Tasks' own filesystems.
    pub disks: Disks,
    pub mounts: Mounts,
    /// Bounds how many containers are being started at once.
    pub starts: Semaphore,
    /// The runtime is shutting down.
    pub stopping: CancellationToken,
    /// The runs under way.
    pub tracker: TaskTracker,
    /// Containers that a lost engine may still have.
    pub lost: Lost,
    /// Makes containers' names unique.
    pub serial: AtomicU64,
    /// Where tasks with a way out may go.
    pub gate: Arc<Gate>,
    /// Whether this host may look for its containers' processes and files.
    pub sees_containers: bool,
}

impl Shared {
    /// The name of the next container.
    pub(super) fn next_name(&self) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        format!("{}-{serial}", self.name_prefix)
    }
}

/// The ways in which a run is ended from outside.
#[derive(Debug, Clone)]
pub(super) struct Stops {
    pub cancel: CancellationToken,
    pub stopping: CancellationToken,
    /// The caller has dropped the run.
    pub abandoned: CancellationToken,
}

impl Stops {
    pub(super) async fn stopped(&self) -> Failure {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => {
                Failure::new(FailureKind::ProviderStopping, "the provider is shutting down")
            }
            () = self.cancel.cancelled() => Failure::new(FailureKind::Cancelled, "cancelled"),
            () = self.abandoned.cancelled() => Failure::new(FailureKind::Cancelled, "abandoned"),
        }
    }

    /// Fails when nobody will be there to look at outputs. Whoever cancels does not lose what is done.
    pub(super) fn leaves(&self) -> Result<(), Failure> {
        let leaves = self.stopping.is_cancelled() || self.abandoned.is_cancelled();
        if leaves { self.check() } else { Ok(()) }
    }

    pub(super) fn check(&self) -> Result<(), Failure> {
        futures::FutureExt::now_or_never(self.stopped()).map_or(Ok(()), Err)
    }
}

/// Runs one task in a container of `image`.
pub(super) async fn run(
    shared: Arc<Shared>,
    image: Image,
    task: TaskRun,
    log: LogSink,
    cancel: CancellationToken,
) -> TaskEnd {
    let abandoned = CancellationToken::new();
    let _guard = abandoned.clone().drop_guard();
    let stops = Stops {
        cancel,
        stopping: shared.stopping.clone(),
        abandoned,
    };
    let run = Run {
        name: shared.next_name(),
        shared: Arc::clone(&shared),
        image,
        task,
        stops,
        pulse: Pulse::default(),
    };
    let name = run.name.clone();
    match shared.tracker.spawn(run.into_end(log)).await {
        Ok(end) => end,
        Err(error) => {
            // A fault of ours, or the async runtime is going down.
            if let Ok(engine) = shared.engine.connect().await {
                shared.lost.remove(&engine.docker, &name).await;
            }
            let why = format!("the run of this task broke off: {error}");
            TaskEnd {
                result: Err(Failure::new(FailureKind::Host, why)),
                usage: Usage::default(),
            }
        }
    }
}

struct Run {
    shared: Arc<Shared>,
    image: Image,
    task: TaskRun,
    stops: Stops,
    pulse: Pulse,
    /// The container's name, known before the engine has answered.
    name: String,
}

impl Run {
    async fn into_end(self, log: LogSink) -> TaskEnd {
        let result = self.contained(&log).await;
        if let Err(failure) = &result {
            tracing::debug!(attempt = %self.task.attempt, container = self.name, ?failure, "task failed");
        }
        TaskEnd {
            result,
            usage: self.pulse.usage(),
        }
    }

    /// Makes the container, lets the task live in it, removes it.
    async fn contained(&self, log: &LogSink) -> Result<(), Failure> {
        self.stops.check()?;
        let engine = self.shared.engine.connect().await;
        let engine = engine.map_err(|error| Failure::new(FailureKind::Host, error.to_string()))?;
        let reaper = self.shared.reaper.ensure(&engine.address).await;
        reaper.map_err(|error| {
            let why = "the reaper cannot be started, without which no container may be";
            Failure::new(FailureKind::Host, format!("{why}: {error}"))
        })?;
        let starting = tokio::select! {
            permit = self.shared.starts.acquire() => permit,
            failure = self.stops.stopped() => return Err(failure),
        };
        let (owners, tasks) = (self.shared.sandbox.as_deref(), self.task.sandbox.as_deref());
        let runtime = engine.sandboxes.choose(owners, tasks)?;
        let mut stage = Stage::set(&self.task, &self.name, &self.shared, engine.rootless).await?;
        let sandbox = Sandbox {
            image: &self.image.id,
            volumes: &self.image.volumes,
            owner: &self.shared.label,
            hosts: &stage.hosts,
            user: stage.user,
            file_size: stage.limits.disk,
            runtime: runtime.as_deref(),
        };
        let body = inside::body(&self.shared, &self.task, &stage, &sandbox).await?;
        let place = Place::own(&self.shared, &engine, &self.task, &stage, &sandbox).await?;
        let door = place.door.clone();
        let name = CreateContainerOptionsBuilder::new()
            .name(&self.name)
            .build();
        let docker = &engine.docker;
        let result = match docker.create_container(Some(name), body).await {
            Err(error) => Err(ending::of_create(&error)),
            Ok(created) => {
                let started = self.start(docker, &created.id).await;
                drop(starting);
                match started {
                    Err(failure) => Err(failure),
                    Ok(attached) => {
                        self.live(docker, created.id, attached, &stage.limits, log, place)
                            .await
                    }
                }
            }
        };
        // Also after a failed creation: the engine may have made it before its answer was lost.
        self.shared.lost.remove(docker, &self.name).await;
        // Outputs are read next: nobody may write them any more.
        door.close().await;
        let result = match stage.disk.take() {
            Some(disk) => {
                let result = result.and_then(|()| self.stops.leaves());
                let kept = put_away(&self.shared, &self.task, disk, result.is_ok()).await;
                result.and(kept)
            }
            None => result,
        };
        if matches!(&result, Err(failure) if failure.kind == FailureKind::Host) {
            // It may have been restarted with another version or other limits.
            self.shared.engine.forget().await;
        }
        result
    }

    async fn start(&self, docker: &Docker, id: &str) -> Result<AttachContainerResults, Failure> {
        self.stops.check()?;
        let options = AttachContainerOptionsBuilder::new()
            .stream(true)
            .stdout(true)
            .stderr(true)
            .build();
        let attached = docker
            .attach_container(id, Some(options))
            .await
            .map_err(|error| ending::of_loss("the task's output cannot be read", &error))?;
        self.pulse.begins();
        docker
            .start_container(id, None::<StartContainerOptions>)
            .await
            .map_err(|error| ending::of_start(&error))?;
        Ok(attached)
    }

    /// Waits for the end of the started task, whoever brings it about.
    async fn live(
        &self,
        docker: &Docker,
        id: String,
        attached: AttachContainerResults,
        limits: &Limits,
        log: &LogSink,
        place: Place,
    ) -> Result<(), Failure> {
        let meter = Meter::new(docker.clone(), self.shared.mounts.clone(), id.clone());
        let AttachContainerResults { output, input } = attached;
        drop(input);
        let freezer = Freezer::new(docker, &id, place.apart.clone());
        let mut pump = Box::pin(output::pump(output, log, &self.pulse, &freezer));
        let mut holding = Box::pin(freezer.follow(&self.task.hold, &self.pulse));
        let attendance = place.attendance.clone();
        let presence = place.show(&self.task.hold, docker, &id);
        let mut ended = pin!(end(docker, &id, attendance.as_deref()));
        let mut watch = pin!(watch::watch(limits, meter, &self.pulse, &self.task.hold));
        let mut pumped = None;
        let exited = loop {
            tokio::select! {
                code = &mut ended => break code,
                result = &mut pump, if pumped.is_none() => pumped = Some(result),
                failure = &mut watch => break Err(failure),
                never = &mut holding => match never {},
                failure = self.stops.stopped() => break Err(failure),
            }
        };
        // It may be in the midst of freezing, for which the output, or the end, would wait.
        drop(holding);
        drop(presence);
        self.pulse.ends();
        let code = match exited {
            Ok(code) => code,
            Err(failure) => {
                let output = pumped.is_none().then_some(pump);
                stopped::end(docker, &id, &freezer, output, failure.kind).await;
                return Err(failure);
            }
        };
        if attendance.is_some() {
            // What is left is the program that waits.
            remove::kill(docker, &id).await;
        }
        // The process is gone, its last output may still be on its way to a slow reader.
        let pumped = match pumped {
            Some(result) => result,
            // That program writes nothing.
            None if attendance.is_some() => Ok(Vec::new()),
            None => tokio::select! {
                result = &mut pump => result,
                failure = self.stops.stopped() => return Err(failure),
            },
        };
        let head =
            pumped.map_err(|error| ending::of_loss("part of the task's output was lost", &error));
        exit::judge(docker, &id, code, limits, &head?, &self.task).await
    }
}

/// Waits for the exit code of a task: its container's, or that of the command that is the task when
/// somebody attends to it.
///
/// # Errors
/// When it was lost, or nobody attended to it.
async fn end(docker: &Docker, id: &str, attendance: Option<&Attendance>) -> Result<i64, Failure> {
    let container = async {
        let code = exit::wait(docker, id).await;
        code.map_err(|error| ending::of_loss("the task was lost", &error))
    };
    match attendance {
        None => container.await,
        Some(attendance) => tokio::select! {
            biased;
            code = attendance.end() => code,
            code = container => code,
        },
    }
}

/// Keeps the disk of a task whose outputs are `wanted`, and takes away another's: what a task that has
/// failed wrote is looked at by nobody.
///
/// # Errors
/// When it is lost.
pub(super) async fn put_away(
    shared: &Arc<Shared>,
    task: &TaskRun,
    disk: Disk,
    wanted: bool,
) -> Result<(), Failure> {
    let (shared, work_dir) = (Arc::clone(shared), task.work_dir.clone());
    let done = tokio::task::spawn_blocking(move || match wanted {
        true => shared.disks.keep(&work_dir, disk),
        false => disk.close(),
    });
    if done.await.is_err() {
        tracing::warn!(attempt = %task.attempt, "putting away a task's disk was interrupted");
        return Err(Failure::new(FailureKind::Host, "the task's disk was lost"));
    }
    Ok(())
}
