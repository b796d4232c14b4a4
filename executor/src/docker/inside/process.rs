//! The processes of one command's session: watched, signalled, killed.
//!
//! Every command that the engine starts leads a session of its own, so that the session's number, which
//! is the first process's, finds whatever the command has started since and what a shell in it runs in
//! the background. Signals go through handles, never through numbers that others may have by now.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use p2pnode_protocol::tunnel::TaskSignal;
use rustix::process::{Pid, Signal, pidfd_send_signal};
use tokio::net::unix::pipe::Receiver;

use super::View;

/// Pauses between looks at a session that is killed, in milliseconds: a process that starts others
/// meanwhile is met again.
const KILLING_MS: [u64; 5] = [0, 1, 2, 5, 20];

/// The first process of a command, and its session.
#[derive(Debug, Clone)]
pub(super) struct Process {
    view: Arc<View>,
    pid: Pid,
    /// Readable once the process has ended, which is what a handle of one is good for beside signals.
    handle: Arc<Receiver>,
}

impl Process {
    /// `None` when it is not, or no longer, in the container.
    pub(super) fn find(view: &Arc<View>, pid: i64) -> Option<Self> {
        let handle = view.process(pid)?;
        Some(Self {
            view: Arc::clone(view),
            pid: i32::try_from(pid).ok().and_then(Pid::from_raw)?,
            handle: Arc::new(Receiver::from_owned_fd_unchecked(handle).ok()?),
        })
    }

    /// Waits until it has ended.
    pub(super) async fn gone(&self) {
        let _ = self.handle.readable().await;
    }

    /// Sends the whole session a signal. Nothing happens when its first process has ended.
    pub(super) async fn signal(&self, signal: Signal) {
        let process = self.clone();
        let sent = tokio::task::spawn_blocking(move || process.send(signal)).await;
        if let Ok(Err(error)) = sent {
            tracing::debug!(%error, "a command cannot be signalled");
        }
    }

    fn send(&self, signal: Signal) -> io::Result<()> {
        if signal != Signal::KILL {
            self.send_once(signal)?;
            return Ok(());
        }
        for pause_ms in KILLING_MS {
            std::thread::sleep(Duration::from_millis(pause_ms));
            if !self.send_once(signal)? {
                break;
            }
        }
        Ok(())
    }

    /// False when nobody is left.
    fn send_once(&self, signal: Signal) -> io::Result<bool> {
        let mut any = false;
        for pid in self.view.processes()?.into_iter().flatten() {
            if session_of(pid) != Some(self.pid) {
                continue;
            }
            let number = i64::from(pid.as_raw_nonzero().get());
            let Some(handle) = self.view.process(number) else {
                continue;
            };
            // Once more, now that the handle stands for whatever has that number.
            if session_of(pid) == Some(self.pid) {
                any |= pidfd_send_signal(&handle, signal).is_ok();
            }
        }
        Ok(any)
    }
}

/// The session of a process that has not ended.
fn session_of(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    session_in(&stat)
}

/// From the text of `/proc/PID/stat`: the sixth field. The second one is a name that holds anything.
fn session_in(stat: &str) -> Option<Pid> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(2)?.parse().ok().and_then(Pid::from_raw)
}

/// The system's name for a signal.
pub(super) const fn signal_of(signal: TaskSignal) -> Signal {
    match signal {
        TaskSignal::Abrt => Signal::ABORT,
        TaskSignal::Alrm => Signal::ALARM,
        TaskSignal::Fpe => Signal::FPE,
        TaskSignal::Hup => Signal::HUP,
        TaskSignal::Ill => Signal::ILL,
        TaskSignal::Int => Signal::INT,
        TaskSignal::Kill => Signal::KILL,
        TaskSignal::Pipe => Signal::PIPE,
        TaskSignal::Quit => Signal::QUIT,
        TaskSignal::Segv => Signal::SEGV,
        TaskSignal::Term => Signal::TERM,
        TaskSignal::Usr1 => Signal::USR1,
        TaskSignal::Usr2 => Signal::USR2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_stand_for_a_session() {
        let session = |stat| session_in(stat).map(|pid| pid.as_raw_nonzero().get());
        assert_eq!(session("7 (sh) S 1 7 5 0 -1"), Some(5));
        assert_eq!(session("7 (a) R 1 1 1 1) S 1 7 6 0 -1"), Some(6));
        assert_eq!(session("7 (sh) Z 1 7 5 0 -1"), None);
        assert_eq!(session("7 (sh"), None);
    }
}
