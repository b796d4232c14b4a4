//! Where a task runs, and how it comes to be there: in a container of its own or in a warm one.

use std::sync::Arc;

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use p2pnode_protocol::task::{Failure, FailureKind};
use tokio::sync::OnceCell;

use super::super::container::{Sandbox, create_body, environment};
use super::super::engine::Connected;
use super::super::hold::Apart;
use super::super::pause;
use super::super::run::Shared;
use super::super::stage::Stage;
use super::{Attendance, Door, Entry, Presence, Sight, View, let_wait, own_command, pids_for};
use crate::{Hold, TaskRun};

/// Where a task runs, for those who are let in.
#[derive(Debug)]
pub(in crate::docker) struct Place {
    /// uid and gid of the task.
    pub(super) user: (u32, u32),
    /// The task's environment.
    pub(super) env: Vec<String>,
    pub(super) sight: Sight,
    /// The wait for the command that is the task, when somebody attends to it.
    pub(in crate::docker) attendance: Option<Arc<Attendance>>,
    pub(in crate::docker) door: Door,
    /// Between whoever freezes the container and whoever starts a command in it.
    pub(in crate::docker) apart: Apart,
}

impl Place {
    /// In a container of the task's own.
    ///
    /// # Errors
    /// When the task's environment can't be expressed, or the engine can't show the image.
    pub(in crate::docker) async fn own(
        shared: &Shared,
        engine: &Connected,
        task: &TaskRun,
        stage: &Stage,
        sandbox: &Sandbox<'_>,
    ) -> Result<Self, Failure> {
        let command = match task.attended && task.command.is_empty() {
            true => own_command(&engine.docker, sandbox.image).await?,
            false => task.command.clone(),
        };
        Ok(Self {
            user: stage.user,
            env: environment(task)?,
            sight: sight(shared, engine, task, stage, sandbox.runtime.is_some()),
            attendance: attendance(task, &command),
            door: Door::default(),
            apart: Apart::default(),
        })
    }

    /// In a warm container, with what is set beside the task's own environment. `command` is the
    /// task's, or the image's own.
    ///
    /// # Errors
    /// When the task's environment can't be expressed.
    pub(in crate::docker) fn warm(
        shared: &Shared,
        task: &TaskRun,
        (user, view): ((u32, u32), Arc<View>),
        extra_env: &[String],
        command: &[String],
    ) -> Result<Self, Failure> {
        let mut env = environment(task)?;
        env.extend_from_slice(extra_env);
        let sight = match shared.sees_containers {
            true => Sight::Clear(view),
            false => out_of_sight(),
        };
        Ok(Self {
            user,
            env,
            sight,
            attendance: attendance(task, command),
            door: Door::default(),
            apart: Apart::default(),
        })
    }

    /// The task's process runs: shows the way in to whoever holds the task, until what this returns is
    /// dropped.
    pub(in crate::docker) fn show<'a>(
        self,
        hold: &'a Hold,
        docker: &Docker,
        id: &str,
    ) -> Presence<'a> {
        Presence::begin(hold, Entry::new(docker, id, self, hold))
    }
}

fn attendance(task: &TaskRun, command: &[String]) -> Option<Arc<Attendance>> {
    let attended = || Arc::new(Attendance::new(command.to_vec()));
    task.attended.then(attended)
}

fn out_of_sight() -> Sight {
    Sight::None("this node does not see the engine's processes".to_owned())
}

/// What this host may hope to see of a container of the task's own.
fn sight(
    shared: &Shared,
    engine: &Connected,
    task: &TaskRun,
    stage: &Stage,
    other_runtime: bool,
) -> Sight {
    if !shared.sees_containers {
        return out_of_sight();
    }
    let none = |why: &str| Sight::None(why.to_owned());
    if !rustix::process::geteuid().is_root() {
        return none(
            "this node does not run as root, so it cannot reach into its containers: its owner can run \
             the node as root",
        );
    }
    if engine.rootless {
        return none(
            "the container engine is rootless, so this node cannot reach into its containers: its \
             owner can use an engine that runs as root",
        );
    }
    if other_runtime {
        return none(
            "the task runs under another OCI runtime than the engine's own, into whose containers the \
             node does not reach",
        );
    }
    let disk = stage.disk.as_ref().map(|disk| disk.merged());
    Sight::Unknown {
        mounts: shared.mounts.clone(),
        work_dir: disk.unwrap_or_else(|| task.work_dir.clone()),
        seen: OnceCell::new(),
    }
}

/// The body of the request that creates a container of the task's own.
///
/// # Errors
/// When the task can't be expressed, or this machine has no program that waits and needs one.
pub(in crate::docker) async fn body(
    shared: &Shared,
    task: &TaskRun,
    stage: &Stage,
    sandbox: &Sandbox<'_>,
) -> Result<ContainerCreateBody, Failure> {
    let mut task = task.clone();
    if let Some(disk) = &stage.disk {
        task.work_dir = disk.merged();
    }
    if !task.attended {
        return create_body(&task, sandbox);
    }
    let dir = shared.dir.clone();
    let ensured = tokio::task::spawn_blocking(move || pause::ensure(&dir)).await;
    let program = ensured.unwrap_or_else(|error| Err(error.into()));
    let program = program.map_err(|error| Failure::new(FailureKind::Host, error.to_string()))?;
    task.resources.pids = pids_for(task.resources.pids);
    let mut body = create_body(&task, sandbox)?;
    let_wait(&mut body, &program);
    Ok(body)
}
