//! The end of a task that was stopped: by its owner, its submitter, a limit, or the loss of its engine.
//!
//! Called by `run` and by `warm`'s turns, once, when nothing else looks at the task any more. Its last
//! words and its kill belong together, because each can hold up the other: a frozen process does not
//! die, an engine does not end a container whose output nobody reads, and words that explain the end
//! come after it. It must never wait longer than the engine takes to kill, and [`LAST_WORDS`].

use std::pin::Pin;
use std::time::Duration;

use bollard::Docker;
use p2pnode_protocol::task::FailureKind;
use tokio::time::timeout;

use super::hold::Freezer;
use super::remove;

/// How long the last output of a killed task is waited for. It is on its way already; only a reader
/// that is slow, or gone, takes longer.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Kills the container `id` of a task that was stopped for `why`, frozen or not. `output` carries what
/// the task wrote; `None` when that has ended. Nobody waits for the words of a task that was cancelled.
pub(super) async fn end<Pump: Future>(
    docker: &Docker,
    id: &str,
    freezer: &Freezer<'_>,
    mut output: Option<Pin<Box<Pump>>>,
    why: FailureKind,
) {
    let last_words = async move {
        if let Some(pump) = &mut output
            && why != FailureKind::Cancelled
        {
            // What has not come by then is lost, as it may be with any kill.
            let _ = timeout(LAST_WORDS, pump).await;
        }
        // An engine can't end a container whose output nobody reads, unless it sees that nobody will.
        drop(output);
    };
    let kill = async {
        remove::kill(docker, id).await;
        freezer.give_up().await;
    };
    tokio::join!(kill, last_words);
}
