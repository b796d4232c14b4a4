//! One warm container: made, looked into, used, removed.
//!
//! A room is a container like any task's, with the same walls from the same function
//! ([`create_body`]); only its command is the program that waits, and its work directory a [`Slot`].
//! Whoever drops a room without [`Room::remove`] has it removed in the background all the same.

use std::path::Path;
use std::sync::Arc;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, MountBindOptions, MountBindOptionsPropagationEnum};
use bollard::query_parameters::{CreateContainerOptionsBuilder, StartContainerOptions};
use p2pnode_protocol::task::{Failure, FailureKind, NetworkMode};
use p2pnode_protocol::{Gpu, JobId, PeerId, Resources};

use super::super::container::{Sandbox, WORK, create_body};
use super::super::image::Image;
use super::super::inside::{let_wait, pids_for};
use super::super::pause;
use super::super::run::{Shared, Stops};
use super::super::stage::Stage;
use super::super::watch::Limits;
use super::super::{ending, labels};
use super::inside::Inside;
use super::scratch;
use super::slot::Slot;
use crate::TaskRun;

/// Inputs that every room allows for, in bytes: most tasks have less, and share a room.
const LEAST_INPUTS: u64 = 1 << 20;

/// What two tasks must have in common to follow one another in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    submitter: PeerId,
    job: JobId,
    resources: Resources,
    gpus: Vec<Gpu>,
    network: NetworkMode,
}

impl Key {
    pub(super) fn of(task: &TaskRun) -> Self {
        Self {
            submitter: task.submitter,
            job: task.attempt.task.job,
            resources: task.resources.clone(),
            gpus: task.gpus.clone(),
            network: task.network.clone(),
        }
    }
}

/// Why there is no room.
#[derive(Debug)]
pub(super) enum Refusal {
    /// This host or image can't have one, with the reason: containers of a task each still work.
    Unfit(String),
    /// It failed now.
    Failed(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The host's view and hold of a room, for work off the async threads.
#[derive(Debug)]
pub(super) struct Parts {
    // In this order: what looks into the container is dropped before its folder is taken down.
    pub inside: Inside,
    pub slot: Slot,
    /// Where tasks can write to beside their work directory.
    pub places: Vec<String>,
}

/// A waiting container.
#[derive(Debug)]
pub(super) struct Room {
    pub key: Key,
    pub docker: Docker,
    pub id: String,
    pub parts: Arc<Parts>,
    /// uid and gid of its processes.
    pub user: (u32, u32),
    /// The largest file that can be written in it, in bytes.
    pub file_size: u64,
    /// Whether a second task may find it as the first did.
    pub reusable: bool,
    /// Tasks that have run in it.
    pub tasks: u64,
    keeper: Keeper,
}

/// Sees that a container is removed once.
#[derive(Debug)]
struct Keeper {
    shared: Arc<Shared>,
    docker: Docker,
    name: String,
    removed: bool,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        let (shared, docker) = (Arc::clone(&self.shared), self.docker.clone());
        let name = std::mem::take(&mut self.name);
        // Without an async runtime the node is gone, and the reaper removes it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let removal = async move { shared.lost.remove(&docker, &name).await };
            self.shared.tracker.spawn_on(removal, &runtime);
        }
    }
}

impl Room {
    /// Makes a room for tasks like `task`, and starts it.
    ///
    /// # Errors
    /// Why there is none. Nothing is left of it then.
    pub(super) async fn make(
        shared: &Arc<Shared>,
        image: &Image,
        task: &TaskRun,
        stage: &Stage,
        stops: &Stops,
    ) -> Result<Self, Refusal> {
        fits(&image.volumes)?;
        let engine = shared.engine.connect().await;
        let engine = engine.map_err(|error| Failure::new(FailureKind::Host, error.to_string()))?;
        let reaper = shared.reaper.ensure(&engine.address).await;
        reaper.map_err(|error| {
            let why = "the reaper cannot be started, without which no container may be";
            Failure::new(FailureKind::Host, format!("{why}: {error}"))
        })?;
        let _starting = tokio::select! {
            permit = shared.starts.acquire() => permit,
            failure = stops.stopped() => return Err(failure.into()),
        };
        let name = shared.next_name();
        let (slot, program) = on_disk(shared, &name).await?;
        let sandbox = Sandbox {
            image: &image.id,
            volumes: &image.volumes,
            owner: &shared.label,
            hosts: &stage.hosts,
            user: stage.user,
            file_size: file_size(&stage.limits),
            // Tasks that insist on one have a container of their own.
            runtime: None,
        };
        let body = waiting(task, &sandbox, slot.dir(), &program)?;
        let docker = engine.docker.clone();
        // From here on it is removed whatever happens: the engine may have made it before its answer
        // was lost.
        let keeper = Keeper {
            shared: Arc::clone(shared),
            docker: docker.clone(),
            name,
            removed: false,
        };
        let id = match start(&docker, &keeper.name, body).await {
            Ok(id) => id,
            Err(failure) => {
                keeper.remove().await;
                if failure.kind == FailureKind::Host {
                    shared.engine.forget().await;
                    // Perhaps it takes no shared mounts; a container of a task's own needs none.
                    return Err(Refusal::Unfit(failure.message));
                }
                return Err(failure.into());
            }
        };
        match see(shared, &id, slot, image).await {
            Ok((parts, reusable)) => Ok(Self {
                key: Key::of(task),
                docker,
                id,
                parts: Arc::new(parts),
                user: stage.user,
                file_size: file_size(&stage.limits),
                reusable,
                tasks: 0,
                keeper,
            }),
            Err(why) => {
                keeper.remove().await;
                Err(Refusal::Unfit(why))
            }
        }
    }

    /// Removes it; returns when it is gone, or is left to be removed when the engine is back.
    pub(super) async fn remove(self) {
        let Self { keeper, parts, .. } = self;
        keeper.remove().await;
        // Taking down mounts may wait for the kernel.
        let _ = tokio::task::spawn_blocking(move || drop(parts)).await;
    }
}

impl Keeper {
    async fn remove(mut self) {
        self.shared.lost.remove(&self.docker, &self.name).await;
        self.removed = true;
    }
}

/// The largest file, in bytes, that a room for such a task lets be written. It is fixed for all tasks
/// to come, whose inputs differ in size, and so leaves room for inputs up to twice as large.
fn file_size(limits: &Limits) -> u64 {
    let inputs = limits.disk.saturating_sub(limits.asked.0);
    let inputs = inputs.max(LEAST_INPUTS).checked_next_power_of_two();
    limits.asked.0.saturating_add(inputs.unwrap_or(u64::MAX))
}

/// Whether an image's tasks can live in a room.
fn fits(volumes: &[String]) -> Result<(), Refusal> {
    let below = format!("{WORK}/");
    let bad = volumes.iter().find(|volume| {
        volume.starts_with(&below) && !volume[below.len()..].trim_matches('/').is_empty()
    });
    bad.map_or(Ok(()), |volume| {
        Err(Refusal::Unfit(format!(
            "its image declares a volume within the work directory ({volume})"
        )))
    })
}

/// The room's folder, and the program that waits.
async fn on_disk(shared: &Shared, name: &str) -> Result<(Slot, String), Refusal> {
    let (dir, name) = (shared.dir.clone(), name.to_owned());
    let made = tokio::task::spawn_blocking(move || {
        let program = pause::ensure(&dir).map_err(|error| error.to_string())?;
        let slot = Slot::make(&dir, &name);
        let slot = slot.map_err(|error| format!("this node cannot mount folders: {error}"))?;
        Ok((slot, program))
    });
    let made = made.await.unwrap_or_else(|error| Err(error.to_string()));
    made.map_err(Refusal::Unfit)
}

/// The body of a container that waits: a task's own, with another command and another work directory.
fn waiting(
    task: &TaskRun,
    sandbox: &Sandbox<'_>,
    slot: &Path,
    program: &str,
) -> Result<ContainerCreateBody, Failure> {
    let mut first = TaskRun {
        // Each task brings its own.
        env: Vec::new(),
        work_dir: slot.to_path_buf(),
        ..task.clone()
    };
    first.resources.pids = pids_for(first.resources.pids);
    let mut body = create_body(&first, sandbox)?;
    body.attach_stdout = Some(false);
    body.attach_stderr = Some(false);
    body.labels = Some(labels::of_job(sandbox.owner, task));
    let_wait(&mut body, program);
    let host = body.host_config.get_or_insert_default();
    for mount in host.mounts.get_or_insert_default() {
        if mount.target.as_deref() == Some(WORK) {
            mount.bind_options = Some(MountBindOptions {
                propagation: Some(MountBindOptionsPropagationEnum::RSLAVE),
                ..MountBindOptions::default()
            });
        }
    }
    Ok(body)
}

async fn start(docker: &Docker, name: &str, body: ContainerCreateBody) -> Result<String, Failure> {
    let options = CreateContainerOptionsBuilder::new().name(name).build();
    let created = docker.create_container(Some(options), body).await;
    let created = created.map_err(|error| ending::of_create(&error))?;
    let started = docker.start_container(&created.id, None::<StartContainerOptions>);
    started.await.map_err(|error| ending::of_start(&error))?;
    Ok(created.id)
}

/// Looks into the started container, and whether a second task would find it as the first does.
async fn see(
    shared: &Shared,
    id: &str,
    slot: Slot,
    image: &Image,
) -> Result<(Parts, bool), String> {
    let (mounts, id, places) = (shared.mounts.clone(), id.to_owned(), places(&image.volumes));
    let seen = tokio::task::spawn_blocking(move || {
        let inside = Inside::look(&mounts, &id)?;
        let sees = slot.rehearse(|dir| inside.shows(dir));
        if !sees.map_err(|error| error.to_string())? {
            return Err("its container engine does not see this node's mounts".to_owned());
        }
        let blank = places
            .iter()
            .all(|place| scratch::is_empty(&inside, place).unwrap_or(false));
        let parts = Parts {
            inside,
            slot,
            places,
        };
        Ok((parts, blank))
    });
    seen.await.unwrap_or_else(|error| Err(error.to_string()))
}

fn places(volumes: &[String]) -> Vec<String> {
    let mut places = scratch::places(volumes);
    // A volume there is no volume: the work directory takes its place.
    places.retain(|place| place.trim_end_matches('/') != WORK);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes(paths: &[&str]) -> Vec<String> {
        paths.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn files_may_be_as_large_as_any_task_of_the_kind_needs() {
        let size = |inputs: u64| {
            file_size(&Limits {
                timeout: std::time::Duration::ZERO,
                stall: std::time::Duration::ZERO,
                work_dir: "/x".into(),
                disk: (10 << 20) + inputs,
                asked: p2pnode_protocol::Bytes::mib(10),
                host: "/x".into(),
                hard: false,
            })
        };
        assert_eq!(size(0), 11 << 20);
        assert_eq!(size(1 << 20), 11 << 20);
        assert_eq!(size(3 << 20), 14 << 20);
        assert_eq!(size(u64::MAX >> 1), (10 << 20) + (1 << 63));
    }

    #[test]
    fn a_task_with_few_processes_gets_no_more_than_starting_it_takes() {
        assert_eq!([1, 63, 64, 1_000].map(pids_for), [17, 79, 64, 1_000]);
    }

    #[test]
    fn volumes_within_the_work_directory_do_not_fit() {
        let [slash, below] = ["", "cache"].map(|name| format!("{WORK}/{name}"));
        assert!(fits(&volumes(&[])).is_ok());
        assert!(fits(&volumes(&["/data", WORK, &slash, "/workshop/x"])).is_ok());
        assert!(matches!(
            fits(&volumes(&[&below])),
            Err(Refusal::Unfit(why)) if why.contains(&below)
        ));
        assert!(!places(&volumes(&[&slash])).contains(&slash));
        assert!(places(&volumes(&["/data"])).contains(&"/data".to_owned()));
    }
}
