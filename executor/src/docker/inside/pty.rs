//! A terminal whose far end is this process.
//!
//! A terminal of the engine's would carry every keystroke through two more processes. So the pair is
//! opened here, in the container's own instance of devpts: its processes see an ordinary terminal of
//! theirs, and bytes go straight to the kernel.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::Stream;
use futures::stream::unfold;
use p2pnode_protocol::task::Stream as Channel;
use p2pnode_protocol::tunnel::WindowSize;
use rustix::fs::{OFlags, Uid, fchown, fstatfs};
use rustix::io::{Errno, retry_on_intr, write};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Winsize, tcgetattr, tcsetattr,
    tcsetwinsize,
};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::unix::pipe::{Receiver, Sender};

use super::View;
use crate::LogChunk;

/// Bytes read at once: more than the kernel keeps for a terminal.
const READ_BYTES: usize = 16 << 10;

/// The sign that stands for none, by the kernel's table of them.
const NO_SIGN: u8 = 0;

/// The kernel's number for devpts.
const DEVPTS: i64 = 0x1cd1;

/// A new terminal, whose near end is not open yet.
#[derive(Debug)]
pub(super) struct Pair {
    pub far: Far,
    /// Its name in the container.
    pub name: String,
    /// Keeps it from ending before the command has opened it.
    pub near: OwnedFd,
}

/// The far end of a terminal. To the async runtime it is like two pipes.
#[derive(Debug, Clone)]
pub(super) struct Far(Arc<OwnedFd>);

impl Pair {
    /// Opens one that belongs to the user `uid`.
    ///
    /// # Errors
    /// When the container has no terminals, or too many.
    pub(super) fn open(view: &View, uid: u32, size: WindowSize) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // A link there, if the image could have one, must not lead to another device.
        let far = view.open("/dev/pts/ptmx", flags | OFlags::NOFOLLOW)?;
        if fstatfs(&far)?.f_type != DEVPTS {
            return Err(io::Error::other(
                "the container has no terminals of its own",
            ));
        }
        unlockpt(&far)?;
        let name = ptsname(&far, Vec::new())?;
        let name = name.into_string().map_err(io::Error::other)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let near = ioctl_tiocgptpeer(&far, flags)?;
        fchown(&near, Some(Uid::from_raw(uid)), None)?;
        // Rubbing out a character takes away all of its bytes.
        let mut modes = tcgetattr(&near)?;
        modes.input_modes |= InputModes::IUTF8;
        tcsetattr(&near, OptionalActions::Now, &modes)?;
        tcsetwinsize(&far, winsize(size))?;
        Ok(Self {
            far: Far(Arc::new(far)),
            name,
            near,
        })
    }
}

impl Far {
    pub(super) fn resize(&self, size: WindowSize) -> io::Result<()> {
        Ok(tcsetwinsize(&*self.0, winsize(size))?)
    }

    /// What is written to the terminal, until nobody has it open any more.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub(super) fn output(
        &self,
    ) -> io::Result<impl Stream<Item = io::Result<LogChunk>> + Send + use<>> {
        let far = Receiver::from_owned_fd_unchecked(self.0.try_clone()?)?;
        let buffer = vec![0; READ_BYTES].into_boxed_slice();
        let chunks = unfold((far, buffer), |(mut far, mut buffer)| async {
            match read(&mut far, &mut buffer).await {
                Ok(0) => None,
                Ok(count) => {
                    let chunk = LogChunk {
                        stream: Channel::Stdout,
                        bytes: buffer[..count].to_vec(),
                    };
                    Some((Ok(chunk), (far, buffer)))
                }
                Err(error) => Some((Err(error), (far, buffer))),
            }
        });
        Ok(chunks)
    }

    /// What is typed.
    pub(super) fn input(&self) -> Input {
        Input {
            far: Arc::clone(&self.0),
            full: None,
            begun: false,
            endings: None,
        }
    }
}

/// No bytes at its end.
async fn read(far: &mut Receiver, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match far.read(buffer).await {
            // That is how a terminal whose near end is closed says so.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                return Ok(0);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// What is typed at a terminal. Shut down, it types what stands for the end.
#[derive(Debug)]
pub(super) struct Input {
    far: Arc<OwnedFd>,
    /// Watches a terminal that takes no more, until it does. Not before: a terminal that is watched says
    /// after every key that it would take another, which wakes this process once more.
    full: Option<Sender>,
    /// Whether a line has been begun and not ended.
    begun: bool,
    /// How many signs of the end are still to be typed, once that is known.
    endings: Option<u8>,
}

impl Input {
    /// The sign of the end, if the terminal has one, and how often it is to be typed: in the midst of a
    /// line the first one only ends the line. A program that reads keys one by one knows it as well.
    fn end(&self) -> io::Result<(u8, u8)> {
        let modes = tcgetattr(&self.far)?;
        let sign = modes.special_codes[SpecialCodeIndex::VEOF];
        let lines = modes.local_modes.contains(LocalModes::ICANON);
        let times = match (sign, lines && self.begun) {
            (NO_SIGN, _) => 0,
            (_, true) => 2,
            (_, false) => 1,
        };
        Ok((sign, times))
    }

    /// Types as much as the terminal takes.
    fn poll_type(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let full = match &mut self.full {
            Some(full) => full,
            None => match retry_on_intr(|| write(&self.far, bytes)) {
                Err(Errno::AGAIN) => {
                    let full = Sender::from_owned_fd_unchecked(self.far.try_clone()?)?;
                    self.full.insert(full)
                }
                typed => return Poll::Ready(typed.map_err(io::Error::from)),
            },
        };
        let typed = ready!(Pin::new(full).poll_write(context, bytes));
        self.full = None;
        Poll::Ready(typed)
    }
}

impl AsyncWrite for Input {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let typed = ready!(self.poll_type(context, bytes))?;
        if let Some(last) = typed.checked_sub(1).and_then(|last| bytes.get(last)) {
            self.begun = !matches!(last, b'\n' | b'\r');
        }
        Poll::Ready(Ok(typed))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (sign, times) = self.end()?;
        let mut left = self.endings.unwrap_or(times);
        while left > 0 {
            self.endings = Some(left);
            ready!(self.poll_type(context, &[sign]))?;
            left -= 1;
        }
        self.endings = Some(0);
        Poll::Ready(Ok(()))
    }
}

const fn winsize(size: WindowSize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
