//! Tasks that somebody attends to: nothing runs in the container but the program that waits, until the
//! first command comes; that one is the task.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, Mount, MountType};
use p2pnode_protocol::task::{Failure, FailureKind};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::super::pause::PAUSE;
use super::super::words;

/// How long a task waits for whoever attends to it: they are at the other end of a connection that is
/// there already, so this is time for a network that stumbles.
const PATIENCE: Duration = Duration::from_secs(60);

/// The least limit of processes of a container that runs nothing but what the engine starts in it: what
/// starts a command in it counts as well, with the threads of its language's runtime, of which some ten
/// were seen.
pub(in crate::docker) const LEAST_PIDS: u32 = 64;

/// What a task that may have fewer is given beside its own: what those ten need, and some. Once it runs
/// it can use them itself.
const STARTING_PIDS: u32 = 16;

/// The limit of processes of such a container for a task that may have `asked`.
pub(in crate::docker) fn pids_for(asked: u32) -> u32 {
    match asked < LEAST_PIDS {
        true => asked.saturating_add(STARTING_PIDS),
        false => asked,
    }
}

/// How the command that is the task ended: its exit code.
pub(super) type Ending = Result<i64, Failure>;

/// The wait for the command that is the task.
#[derive(Debug)]
pub(in crate::docker) struct Attendance {
    /// What an empty command stands for; empty: a shell.
    command: Vec<String>,
    claimed: AtomicBool,
    came: Notify,
    tell: Mutex<Option<oneshot::Sender<Ending>>>,
    told: Mutex<Option<oneshot::Receiver<Ending>>>,
}

impl Attendance {
    /// `command` is what an empty one stands for; empty: a shell.
    pub(in crate::docker) fn new(command: Vec<String>) -> Self {
        let (tell, told) = oneshot::channel();
        Self {
            command,
            claimed: AtomicBool::new(false),
            came: Notify::new(),
            tell: Mutex::new(Some(tell)),
            told: Mutex::new(Some(told)),
        }
    }

    /// Whether the command that comes now is the task. At most one is.
    pub(super) fn claim(&self) -> bool {
        let first = !self.claimed.swap(true, Ordering::AcqRel);
        if first {
            self.came.notify_one();
        }
        first
    }

    /// What an empty command stands for; empty: a shell.
    pub(super) fn command(&self) -> &[String] {
        &self.command
    }

    /// The command that is the task has ended, or could not be started.
    pub(super) fn ended(&self, ending: Ending) {
        if let Some(tell) = taken(&self.tell) {
            // Nobody listens: the task was ended by something else.
            let _ = tell.send(ending);
        }
    }

    /// Waits for the command that is the task, and for its end.
    ///
    /// # Errors
    /// The failure when nobody came, or it could not be started.
    pub(in crate::docker) async fn end(&self) -> Ending {
        let told = taken(&self.told);
        if timeout(PATIENCE, self.came.notified()).await.is_err() && self.claim() {
            let why = "nobody attended to the task within a minute";
            return Err(Failure::new(FailureKind::Stalled, why));
        }
        let lost = || Failure::new(FailureKind::Host, "the attended command was lost");
        match told {
            Some(told) => told.await.unwrap_or_else(|_| Err(lost())),
            None => Err(lost()),
        }
    }
}

fn taken<T>(place: &Mutex<Option<T>>) -> Option<T> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Makes a container's first process the program that waits, which stands at `program` on the host.
pub(in crate::docker) fn let_wait(body: &mut ContainerCreateBody, program: &str) {
    body.entrypoint = Some(vec![PAUSE.to_owned()]);
    let host = body.host_config.get_or_insert_default();
    // Our program is the first process: it reaps, and can't be traced.
    host.init = Some(false);
    host.mounts.get_or_insert_default().push(Mount {
        target: Some(PAUSE.to_owned()),
        source: Some(program.to_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(true),
        ..Mount::default()
    });
}

/// An image's own command; empty when it has none.
///
/// # Errors
/// When the engine can't tell.
pub(in crate::docker) async fn own_command(
    docker: &Docker,
    image: &str,
) -> Result<Vec<String>, Failure> {
    let image = docker.inspect_image(image).await;
    let image = image.map_err(|error| {
        let why = format!("the engine cannot show the image: {}", words(&error));
        Failure::new(FailureKind::Host, why)
    })?;
    let config = image.config.unwrap_or_default();
    let parts = [config.entrypoint, config.cmd];
    Ok(parts.into_iter().flatten().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_command_is_the_task_and_no_other() {
        let attendance = Attendance::new(Vec::new());
        assert!(attendance.claim());
        assert!(!attendance.claim());
        attendance.ended(Ok(7));
        attendance.ended(Ok(8));
        assert_eq!(attendance.end().await, Ok(7));
    }

    #[test]
    fn a_container_that_waits_runs_nothing_of_the_image() {
        let mut body = ContainerCreateBody::default();
        let_wait(&mut body, "/host/pause");
        assert_eq!(body.entrypoint.unwrap(), [PAUSE]);
        let host = body.host_config.unwrap();
        assert_eq!(host.init, Some(false));
        let mount = &host.mounts.unwrap()[0];
        assert_eq!(mount.source.as_deref(), Some("/host/pause"));
        assert_eq!(mount.read_only, Some(true));
    }
}
