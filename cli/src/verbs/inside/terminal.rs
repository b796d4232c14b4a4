//! This process's own terminal, when a command elsewhere has it.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::thread;

use p2pnode_protocol::tunnel::{MAX_DATA_BYTES, Terminal, WindowSize};
use rustix::io::{read, retry_on_intr};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;

use crate::exit::Failure;
use crate::output;

/// Reads of stdin that may wait to be sent.
const WAITING: usize = 4;

/// The far end of every terminal, in the kernel's table of devices (`/dev/ptmx`).
#[cfg(target_os = "linux")]
const FAR_END: (u32, u32) = (5, 2);

/// What `TERM` is when nothing says.
const PLAIN: &str = "xterm";

/// The terminal's size; 80 by 24 where it has none.
pub fn size() -> WindowSize {
    match tcgetwinsize(rustix::stdio::stdout()).or_else(|_| tcgetwinsize(rustix::stdio::stdin())) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => WindowSize {
            columns: size.ws_col,
            rows: size.ws_row,
        },
        _ => WindowSize {
            columns: 80,
            rows: 24,
        },
    }
}

/// A terminal like this one, for a command elsewhere.
pub fn like_this() -> Terminal {
    Terminal {
        term: std::env::var("TERM").unwrap_or_else(|_| PLAIN.to_owned()),
        size: size(),
    }
}

/// The terminal hands every key on as it is. Dropping it brings back what was before.
pub struct Raw(Option<Termios>);

impl Raw {
    /// From now on. Nothing happens when stdin is no terminal.
    ///
    /// # Errors
    /// When the terminal can't be set.
    pub fn begin() -> Result<Self, Failure> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self(None));
        }
        let fault =
            |error| Failure::internal(format!("this terminal cannot be set to raw mode: {error}"));
        let before = tcgetattr(rustix::stdio::stdin()).map_err(fault)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &raw).map_err(fault)?;
        // `exec -it ... | head` ends this process where it prints.
        let kept = before.clone();
        output::before_exit(Some(Box::new(move || restore(&kept))));
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            output::before_exit(None);
            restore(before);
        }
    }
}

fn restore(before: &Termios) {
    // Whatever is wrong with the terminal now, nothing more can be done.
    let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, before);
}

/// What is typed or piped in, until its end.
pub enum Typed {
    /// This task reads by itself: a key wakes one thread and not two.
    Watched(Receiver, Vec<u8>),
    /// A file, which is always ready, or a system that can't say. A thread of its own reads, that nobody
    /// waits for: its read can't be broken off.
    Thread(mpsc::Receiver<Vec<u8>>),
}

/// What is typed at this process's terminal, or piped in.
pub fn input() -> Typed {
    Typed::of(rustix::stdio::stdin())
}

impl Typed {
    /// From whatever `file` is. Call it within a runtime.
    fn of(file: impl AsFd + Send + 'static) -> Self {
        if let Some(watched) = watched(&file) {
            return Self::Watched(watched, vec![0; MAX_DATA_BYTES]);
        }
        let (sender, receiver) = mpsc::channel(WAITING);
        thread::spawn(move || {
            let mut buffer = vec![0; MAX_DATA_BYTES];
            while let Ok(length @ 1..) = retry_on_intr(|| read(&file, &mut buffer))
                && sender.blocking_send(buffer[..length].to_vec()).is_ok()
            {}
        });
        Self::Thread(receiver)
    }

    /// The next bytes; none after the last. Dropped before it is ready, it has taken nothing.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Watched(receiver, buffer) => match receiver.read(buffer).await {
                Ok(length @ 1..) => Some(buffer[..length].to_vec()),
                _ => None,
            },
            Self::Thread(receiver) => receiver.recv().await,
        }
    }
}

/// A terminal or pipe, opened once more: whoever else has it open would be surprised if it did not block
/// any more. None where that is not possible.
#[cfg(target_os = "linux")]
fn watched(file: impl AsFd) -> Option<Receiver> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{Mode, OFlags, fstat, major, minor, open};

    // To open the far end of a terminal once more is to make another terminal.
    let stat = fstat(&file).ok()?;
    if (major(stat.st_rdev), minor(stat.st_rdev)) == FAR_END {
        return None;
    }
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let own = open(path, flags, Mode::empty()).ok()?;
    Receiver::from_owned_fd_unchecked(own).ok()
}

/// Where no file stands for an open one.
#[cfg(not(target_os = "linux"))]
fn watched(_: impl AsFd) -> Option<Receiver> {
    None
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use super::*;

    async fn all(mut typed: Typed) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = typed.next().await {
            assert!((1..=MAX_DATA_BYTES).contains(&bytes.len()));
            all.extend(bytes);
        }
        all
    }

    #[tokio::test]
    async fn a_pipe_is_read_to_its_end_and_stays_one_that_blocks() {
        let (reader, mut writer) = io::pipe().unwrap();
        let reader = Arc::new(OwnedFd::from(reader));
        let mut typed = Typed::of(Arc::clone(&reader));
        let large = vec![7; 3 * MAX_DATA_BYTES];
        // Nothing is there yet, and whoever gives up waiting takes nothing away.
        let waited = tokio::time::timeout(std::time::Duration::from_millis(1), typed.next());
        assert!(waited.await.is_err());
        writer.write_all(b"x").unwrap();
        assert_eq!(typed.next().await.unwrap(), b"x");
        assert!(
            !rustix::fs::fcntl_getfl(&*reader)
                .unwrap()
                .contains(rustix::fs::OFlags::NONBLOCK)
        );
        let writing = std::thread::spawn({
            let large = large.clone();
            move || writer.write_all(&large).unwrap()
        });
        assert_eq!(all(typed).await, large);
        writing.join().unwrap();
    }

    #[tokio::test]
    async fn a_file_is_read_to_its_end() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let large = vec![7; 3 * MAX_DATA_BYTES];
        file.write_all(&large).unwrap();
        let file = std::fs::File::open(file.path()).unwrap();
        assert_eq!(all(Typed::of(Arc::new(OwnedFd::from(file)))).await, large);
    }
}
