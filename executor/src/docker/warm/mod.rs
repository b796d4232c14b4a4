//! Tasks in containers that wait for them.
//!
//! Two kinds of tasks run here and not in `run`: those whose job says `isolation = "job"`, which
//! follow one another in one container so that none but the first waits for its start; and those that
//! have a way out, whose proxy must listen inside before their command starts. [`Warm`] belongs to one
//! prepared environment. It keeps the rooms that are free, for tasks of the same job, submitter and
//! limits; a room takes one task at a time.
//!
//! What a task finds is as fresh as in a container of its own: its processes, its work directory,
//! scratch, shared memory and message queues are emptied by the host after each task (`inside`,
//! `scratch`), and where that fails, or a task was ended by anything but its own exit, the container
//! is replaced. It must never give a room to another job or submitter, nor tell a task's end while a
//! process of it is left.
//!
//! A host that can't do this (see [`unfit`]) runs every task in a container of its own: the same
//! results, later.

mod attended;
mod inside;
mod pool;
mod room;
mod scratch;
mod slot;
mod turn;

use std::path::Path;
use std::sync::Arc;

use p2pnode_protocol::task::{Failure, FailureKind, Isolation, NetworkMode, Usage};
use tokio::sync::OnceCell;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::pool::Pool;
use self::room::{Key, Refusal, Room};
use self::turn::{Outcome, Turn};
use super::engine::Connected;
use super::image::Image;
use super::inside::{LEAST_PIDS, Place, own_command};
use super::pause;
use super::run::{self, Shared, Stops};
use super::stage::Stage;
use super::watch::Pulse;
use super::way_out::WayOut;
use crate::host::cgroup::Mounts;
use crate::{LogSink, TaskEnd, TaskRun};

/// Why this node's tasks can't share containers, and can't have a way out, with the mend.
pub(super) fn unfit(mounts: &Mounts, rootless: bool) -> Result<(), String> {
    pause::supported()?;
    if mounts
        .v1("pids")
        .or(mounts.v1("memory"))
        .or(mounts.v2())
        .is_none()
    {
        return Err(
            "this node sees no control groups, so it cannot watch over its containers: its \
                    owner can mount /sys/fs/cgroup where the node runs"
                .into(),
        );
    }
    if !rustix::process::geteuid().is_root() {
        return Err(
            "this node does not run as root, so it cannot reach into its containers: its \
                    owner can run the node as root"
                .into(),
        );
    }
    if rootless {
        return Err(
            "the container engine is rootless, so this node cannot reach into its \
                    containers: its owner can use an engine that runs as root"
                .into(),
        );
    }
    Ok(())
}

/// Whether this node's tasks can have a way out, or why not, with the mend.
pub(super) fn may_reach_out(shared: &Shared, rootless: bool) -> Result<(), String> {
    if let Some(sandbox) = &shared.sandbox {
        return Err(format!(
            "all tasks here run under the OCI runtime `{sandbox}`, into whose containers the node does \
             not reach: its owner can choose the engine's own"
        ));
    }
    unfit(&shared.mounts, rootless)
}

/// Takes down what earlier lives of this node left mounted: the folders whose names differ from
/// `prefix`, what this life's containers' names begin with, in its last part only. Blocks.
pub(super) fn sweep(dir: &Path, prefix: &str) {
    let Some((node, _life)) = prefix.rsplit_once('-') else {
        return;
    };
    slot::sweep(dir, |name| begins(name, node) && !begins(name, prefix));
}

/// Whether a name begins with all of `parts`.
fn begins(name: &str, parts: &str) -> bool {
    name.strip_prefix(parts)
        .is_some_and(|rest| rest.starts_with('-'))
}

/// The waiting containers of one environment. When it is dropped they are removed.
#[derive(Debug)]
pub(super) struct Warm {
    shared: Arc<Shared>,
    image: Image,
    pool: Arc<Pool>,
    /// The image's own command, looked up for the first task without one.
    own_command: Arc<OnceCell<Vec<String>>>,
    _closing: DropGuard,
}

impl Warm {
    /// Starts nothing yet.
    pub(super) fn new(shared: Arc<Shared>, image: Image) -> Self {
        let closed = CancellationToken::new();
        Self {
            pool: Arc::new(Pool::new(Arc::clone(&shared), closed.clone())),
            shared,
            image,
            own_command: Arc::default(),
            _closing: closed.drop_guard(),
        }
    }

    /// Runs one task, in a waiting container when it asks for one and can have one.
    pub(super) async fn run(
        &self,
        task: TaskRun,
        log: LogSink,
        cancel: CancellationToken,
    ) -> TaskEnd {
        let shared = Arc::clone(&self.shared);
        if !self.takes(&task) {
            return run::run(shared, self.image.clone(), task, log, cancel).await;
        }
        let abandoned = CancellationToken::new();
        let _guard = abandoned.clone().drop_guard();
        let visit = Visit {
            shared: Arc::clone(&shared),
            image: self.image.clone(),
            pool: Arc::clone(&self.pool),
            own_command: Arc::clone(&self.own_command),
            task: task.clone(),
            stops: Stops {
                cancel: cancel.clone(),
                stopping: shared.stopping.clone(),
                abandoned,
            },
            pulse: Pulse::default(),
        };
        // A task of its own, so that whoever drops this future does not leave a room half used.
        match shared.tracker.spawn(visit.into_end(log.clone())).await {
            Ok(Ok(end)) => end,
            Ok(Err(why)) => {
                tracing::info!(why, "tasks of one job cannot share a container here");
                self.pool.give_up(why);
                run::run(shared, self.image.clone(), task, log, cancel).await
            }
            Err(error) => {
                let why = format!("the run of this task broke off: {error}");
                failed(Failure::new(FailureKind::Host, why))
            }
        }
    }

    fn takes(&self, task: &TaskRun) -> bool {
        if has_way_out(task) {
            return true;
        }
        // As root a task could change what belongs to the container; another OCI runtime may hide its
        // processes; a small limit of processes would be too small for the engine's own beside it.
        task.isolation == Isolation::Job
            && !task.root
            && task.sandbox.is_none()
            && self.shared.sandbox.is_none()
            && task.resources.pids >= LEAST_PIDS
            && self.pool.is_fit()
    }
}

fn has_way_out(task: &TaskRun) -> bool {
    matches!(task.network, NetworkMode::Egress { .. })
}

fn failed(failure: Failure) -> TaskEnd {
    TaskEnd {
        result: Err(failure),
        usage: Usage::default(),
    }
}

/// One task's way through a room.
struct Visit {
    shared: Arc<Shared>,
    image: Image,
    pool: Arc<Pool>,
    own_command: Arc<OnceCell<Vec<String>>>,
    task: TaskRun,
    stops: Stops,
    pulse: Pulse,
}

impl Visit {
    /// # Errors
    /// Why this host has no rooms: the task has not begun, and can run in a container of its own.
    async fn into_end(self, log: LogSink) -> Result<TaskEnd, String> {
        let mut network_bytes = 0;
        let result = match self.stay(&log, &mut network_bytes).await {
            Ok(result) => result,
            Err(Refusal::Failed(failure)) => Err(failure),
            Err(Refusal::Unfit(why)) if !has_way_out(&self.task) => return Err(why),
            Err(Refusal::Unfit(why)) => Err(Failure::new(
                FailureKind::Host,
                format!("this provider cannot give the task its way out: {why}"),
            )),
        };
        if let Err(failure) = &result {
            tracing::debug!(attempt = %self.task.attempt, ?failure, "task failed");
        }
        let usage = Usage {
            network_bytes,
            ..self.pulse.usage()
        };
        Ok(TaskEnd { result, usage })
    }

    async fn stay(&self, log: &LogSink, bytes: &mut u64) -> Result<Result<(), Failure>, Refusal> {
        self.stops.check()?;
        let engine = self.shared.engine.connect().await;
        let engine = engine.map_err(|error| Failure::new(FailureKind::Host, error.to_string()))?;
        unfit(&self.shared.mounts, engine.rootless).map_err(Refusal::Unfit)?;
        if self.task.sandbox.is_some() || self.shared.sandbox.is_some() {
            let why = "the node does not reach into containers of another OCI runtime than the \
                       engine's own";
            return Err(Refusal::Unfit(why.into()));
        }
        let name = self.shared.next_name();
        let mut stage = Stage::set(&self.task, &name, &self.shared, engine.rootless).await?;
        let stayed = self.take_turns(&engine, &stage, log, bytes).await;
        let Some(disk) = stage.disk.take() else {
            return stayed;
        };
        let stayed = stayed.map(|result| result.and_then(|()| self.stops.leaves()));
        let wanted = matches!(stayed, Ok(Ok(())));
        let kept = run::put_away(&self.shared, &self.task, disk, wanted).await;
        stayed.map(|result| result.and(kept))
    }

    async fn take_turns(
        &self,
        engine: &Connected,
        stage: &Stage,
        log: &LogSink,
        bytes: &mut u64,
    ) -> Result<Result<(), Failure>, Refusal> {
        let command = self.command(&engine.docker).await?;
        let mut room = match self.pool.take(&Key::of(&self.task), stage.limits.disk) {
            Some(room) => room,
            None => self.fresh(stage).await?,
        };
        // A container that has waited may have died meanwhile; a fresh one that does is at fault.
        let mut again = room.tasks > 0;
        loop {
            room.tasks += 1;
            let (result, tidy, began) = match self.turn(&room, stage, &command, log, bytes).await {
                Outcome::Over { result, tidy } => (result, tidy, true),
                Outcome::NotStarted(failure) => (Err(failure), false, false),
            };
            self.part(room, tidy).await;
            if began || !again {
                return Ok(result);
            }
            again = false;
            room = self.fresh(stage).await?;
        }
    }

    async fn fresh(&self, stage: &Stage) -> Result<Room, Refusal> {
        Room::make(&self.shared, &self.image, &self.task, stage, &self.stops).await
    }

    async fn turn(
        &self,
        room: &Room,
        stage: &Stage,
        command: &[String],
        log: &LogSink,
        bytes: &mut u64,
    ) -> Outcome {
        let host = |why| Outcome::NotStarted(Failure::new(FailureKind::Host, why));
        if let Err(why) = turn::enter(&room.parts, &self.task.work_dir).await {
            return host(why);
        }
        let init = room.parts.inside.init();
        let way_out = match WayOut::open(&self.shared.gate, &self.task, init).await {
            Ok(way_out) => way_out,
            Err(why) => return host(why),
        };
        // As long as the first process is there, its number was nobody else's.
        if !room.parts.inside.lives() {
            return host("the warm container has ended".to_owned());
        }
        let seen = (room.user, room.parts.inside.view());
        let place = Place::warm(&self.shared, &self.task, seen, way_out.env(), command);
        let place = match place {
            Ok(place) => place,
            Err(failure) => return Outcome::failed(failure),
        };
        let door = place.door.clone();
        let turn = Turn {
            shared: &self.shared,
            room,
            task: &self.task,
            command,
            extra_env: way_out.env(),
            limits: &stage.limits,
            stops: &self.stops,
            pulse: &self.pulse,
        };
        let outcome = tokio::select! {
            outcome = turn.run(log, place) => outcome,
            never = way_out.tell(&self.task.hold.usage) => match never {},
        };
        *bytes = way_out.bytes();
        // The next task must meet neither a command that was on its way nor a port that is taken.
        let alone = door.close().await && !door.has_left_sockets();
        outcome.tidy_if(alone)
    }

    /// Leaves the room: for the next task of its kind, or for good.
    async fn part(&self, room: Room, tidy: bool) {
        let again =
            room.reusable && tidy && self.task.isolation == Isolation::Job && !self.task.root;
        let kept = if again && turn::leave(&room.parts).await {
            self.pool.give_back(room)
        } else {
            Some(room)
        };
        if let Some(room) = kept {
            room.remove().await;
        }
    }

    /// The task's command, or the image's own.
    ///
    /// # Errors
    /// When there is none, or the engine can't tell.
    async fn command(&self, docker: &bollard::Docker) -> Result<Vec<String>, Failure> {
        if !self.task.command.is_empty() {
            return Ok(self.task.command.clone());
        }
        let look_up = async || own_command(docker, &self.image.id).await;
        let command: &Vec<String> = self.own_command.get_or_try_init(look_up).await?;
        // Who attends to a task that has no command is given a shell.
        if command.is_empty() && !self.task.attended {
            let why = "the job names no command and the image has none of its own";
            return Err(Failure::new(FailureKind::BadProgram, why));
        }
        Ok(command.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_earlier_lives_of_the_same_node_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("warm");
        for name in [
            "p2pnode-aaa-one-1",
            "p2pnode-aaa-two-1",
            "p2pnode-aaa-twofold-7",
            "p2pnode-bbb-one-1",
        ] {
            std::fs::create_dir_all(below.join(name)).unwrap();
        }
        sweep(dir.path(), "p2pnode-aaa-two");
        let left = std::fs::read_dir(&below).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["p2pnode-aaa-two-1", "p2pnode-bbb-one-1"]);
        sweep(&dir.path().join("missing"), "p2pnode-aaa-two");
    }

    #[test]
    fn a_node_that_sees_no_control_groups_says_so() {
        let why = unfit(&Mounts::default(), false).unwrap_err();
        assert!(why.contains("control groups"), "{why}");
        let mounts = Mounts::parse("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let root = rustix::process::geteuid().is_root();
        assert_eq!(unfit(&mounts, false).is_ok(), root);
        assert!(unfit(&mounts, true).is_err());
    }
}
