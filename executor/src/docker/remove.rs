//! Removing containers until they are gone.
//!
//! Used after every run, at shutdown, at start for what an earlier life left, and by the reaper. All
//! of them may meet: a container that somebody else is removing, or has removed, is not an error.

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{KillContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use futures::{StreamExt, stream};
use tokio::time::{Instant, sleep};

use super::{disk, leftovers, list, words};

/// How long one container's removal is tried while the engine fails or does not answer: a restart of
/// an engine takes a few seconds. What is left then goes to [`Lost`].
const PATIENCE: Duration = Duration::from_secs(20);

/// First pause between two tries; each doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Removals under way at once in a sweep: the engine does the rest one after the other anyway.
const PARALLEL: usize = 8;

/// Kills a container's processes. What goes wrong shows at its removal, which kills, too.
pub(super) async fn kill(docker: &Docker, id: &str) {
    let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
    if let Err(error) = docker.kill_container(id, Some(options)).await {
        tracing::debug!(container = id, error = words(&error), "cannot kill");
    }
}

/// Kills and removes a container with its volumes. True when it is gone for certain.
pub(super) async fn remove(docker: &Docker, name: &str) -> bool {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let options = RemoveContainerOptionsBuilder::new()
            .force(true)
            .v(true)
            .build();
        let error = match docker.remove_container(name, Some(options)).await {
            Ok(())
            | Err(Error::DockerResponseServerError {
                status_code: 404, ..
            }) => return true,
            // 409: somebody else is removing it. Wait until it is gone.
            Err(error) => error,
        };
        if started.elapsed() > PATIENCE {
            tracing::warn!(
                container = name,
                error = words(&error),
                "a container cannot be removed"
            );
            return false;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Containers that could not be removed because the engine was gone, to be removed when it is back.
#[derive(Debug, Default)]
pub(super) struct Lost(Mutex<Vec<String>>);

impl Lost {
    /// Removes a container, now or when the engine is back.
    pub(super) async fn remove(&self, docker: &Docker, name: &str) {
        if !remove(docker, name).await {
            self.names().push(name.to_owned());
        }
    }

    /// The engine answers: tries again what is left. True when nothing is.
    pub(super) async fn retry(&self, docker: &Docker) -> bool {
        let names = std::mem::take(&mut *self.names());
        for name in names {
            self.remove(docker, &name).await;
        }
        self.is_empty()
    }

    /// Whether nothing is left to be removed.
    pub(super) fn is_empty(&self) -> bool {
        self.names().is_empty()
    }

    fn names(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes all containers of p2pnode whose label [`labels::NODE`](super::labels::NODE) is picked, then
/// its networks and volumes and, in the runtime's folder `dir`, tasks' disks. Returns how many there
/// were.
///
/// # Errors
/// When the engine cannot list its containers.
pub(super) async fn sweep(
    docker: &Docker,
    address: &str,
    dir: &Path,
    pick: impl Fn(&str) -> bool,
) -> io::Result<usize> {
    let mut found = list::ours(address).await?;
    found.retain(|container| pick(&container.owner));
    let containers = found.len();
    stream::iter(found)
        .for_each_concurrent(PARALLEL, |container| async move {
            remove(docker, &container.id).await;
        })
        .await;
    let others = leftovers::remove(docker, &pick).await;
    // A few system calls for each, and there are seldom any.
    Ok(containers + others + disk::sweep(dir, &pick))
}
