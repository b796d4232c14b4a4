//! Asks the engine how a container ended.
//!
//! On the happy path that is one request, the exit code. Only a failure is worth more: whether the
//! kernel killed for memory, and whether the disk was full.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{
    EventsOptionsBuilder, InspectContainerOptions, WaitContainerOptions,
};
use futures::StreamExt;
use p2pnode_protocol::task::{Failure, FailureKind};
use tokio::time::timeout;

use super::ending::{self, Exit, KILLED};
use super::space;
use super::watch::Limits;
use crate::TaskRun;

/// How long the engine's word of a kill for memory is waited for when it comes after the exit. It was
/// seen within milliseconds; only tasks that were killed by something else pay for this.
const OOM_GRACE: Duration = Duration::from_millis(500);

/// The exit code of a started container.
///
/// # Errors
/// When the engine does not know it, or is gone.
pub(super) async fn wait(docker: &Docker, id: &str) -> Result<i64, Error> {
    loop {
        let mut answers = docker.wait_container(id, None::<WaitContainerOptions>);
        match answers.next().await {
            Some(Ok(answer)) => return Ok(answer.status_code),
            Some(Err(Error::DockerContainerWaitError { code, .. })) => return Ok(code),
            // Engines that answer only when the container has ended look like engines that hang.
            Some(Err(Error::RequestTimeoutError)) => {}
            Some(Err(error)) => return Err(error),
            None => {
                return Err(Error::IOError {
                    err: std::io::ErrorKind::UnexpectedEof.into(),
                });
            }
        }
    }
}

/// What the exit code means. The container must still be there.
///
/// # Errors
/// The failure, as [`ending::of_exit`] has it.
pub(super) async fn judge(
    docker: &Docker,
    id: &str,
    code: i64,
    limits: &Limits,
    stderr_head: &[u8],
    task: &TaskRun,
) -> Result<(), Failure> {
    if code == 0 {
        return Ok(());
    }
    let ended = ending::of_exit(&Exit {
        code,
        oom_killed: was_oom_killed(docker, id, code).await,
        disk_full: space::was_disk_full(limits).await,
        stderr_head,
        memory: task.resources.memory,
        command: task.command.first().map(String::as_str),
        attended: task.attended,
    });
    ended.map_err(|failure| match failure.kind {
        FailureKind::DiskFull => space::disk_full(limits),
        _ => failure,
    })
}

/// Whether the kernel killed one of the container's processes for memory. Engines learn of that and
/// of the exit on different ways: when the exit wins, the container's state never says so, but an
/// event does, a little later.
async fn was_oom_killed(docker: &Docker, id: &str, code: i64) -> bool {
    let inspected = docker
        .inspect_container(id, None::<InspectContainerOptions>)
        .await;
    let state = inspected.ok().and_then(|inspected| inspected.state);
    if state.and_then(|state| state.oom_killed) == Some(true) {
        return true;
    }
    if code != KILLED {
        return false;
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let until = now + OOM_GRACE;
    let options = EventsOptionsBuilder::new()
        // The container's id is new, so any time before it will do; 0 would mean "only new ones".
        .since("1")
        .until(&format!("{}.{:09}", until.as_secs(), until.subsec_nanos()))
        .filters(&HashMap::from([
            ("type", vec!["container"]),
            ("container", vec![id]),
            ("event", vec!["oom"]),
        ]))
        .build();
    let mut events = std::pin::pin!(docker.events(Some(options)));
    // The engine's clock may be another machine's.
    matches!(timeout(OOM_GRACE * 2, events.next()).await, Ok(Some(Ok(_))))
}
