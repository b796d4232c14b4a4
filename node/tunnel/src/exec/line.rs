//! A stream of frames that may break at any byte, to be used from one `select!`.
//!
//! Reading is a task of its own, because a frame half read must not be lost when something else is
//! ready first. Writing is a buffer of whole frames that is written bit by bit; its owner fills it
//! again only when it is empty, so it holds a few frames at most.

use std::io;

use bincode::{Decode, Encode};
use p2pnode_executor::inside::Duplex;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::frames;

/// Frames that were read and not yet handled: little, so that the other side is slowed down.
const READ_AHEAD: usize = 4;

/// One stream, speaking frames of type `In`.
pub(crate) struct Line<In> {
    frames: mpsc::Receiver<In>,
    writer: WriteHalf<Box<dyn Duplex>>,
    buffer: Vec<u8>,
    written: usize,
    flushed: bool,
    _reader: AbortOnDropHandle<()>,
}

impl<In: Decode<()> + Send + 'static> Line<In> {
    pub(crate) fn new(stream: Box<dyn Duplex>) -> Self {
        let (mut reader, writer) = tokio::io::split(stream);
        let (sender, frames) = mpsc::channel(READ_AHEAD);
        let reading = tokio::spawn(async move {
            loop {
                match frames::read::<In, _>(&mut reader).await {
                    Ok(frame) => {
                        if sender.send(frame).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a command's stream has ended");
                        return;
                    }
                }
            }
        });
        Self {
            frames,
            writer,
            buffer: Vec::new(),
            written: 0,
            flushed: true,
            _reader: AbortOnDropHandle::new(reading),
        }
    }

    /// The next frame; none once the stream has broken.
    pub(crate) async fn next(&mut self) -> Option<In> {
        self.frames.recv().await
    }

    /// Adds a frame to what is to be written.
    pub(crate) fn queue<Out: Encode>(&mut self, frame: &Out) {
        match frames::encode(frame) {
            Ok(bytes) => {
                self.buffer.extend_from_slice(&bytes);
                self.flushed = false;
            }
            // Frames are made of pieces that fit: `Kept` cuts them.
            Err(error) => tracing::error!(%error, "a frame of a command could not be encoded"),
        }
    }

    /// Whether everything was written.
    pub(crate) fn is_idle(&self) -> bool {
        self.flushed
    }

    /// Writes a bit more. May be dropped at any time: what was written is counted.
    pub(crate) async fn write(&mut self) -> io::Result<()> {
        drain(&mut self.writer, &mut self.buffer, &mut self.written).await?;
        self.flushed = true;
        Ok(())
    }

    /// Writes what is queued and ends it, as far as that can be told to the other side.
    pub(crate) async fn close(mut self) {
        if self.write().await.is_ok() {
            let _ = self.writer.shutdown().await;
        }
    }

    /// Both next frames and writing, for a `select!` that may need either.
    pub(crate) async fn step(&mut self, reading: bool) -> Step<In> {
        let Self {
            frames,
            writer,
            buffer,
            written,
            flushed,
            ..
        } = self;
        tokio::select! {
            frame = frames.recv(), if reading => frame.map_or(Step::Broken, Step::Frame),
            drained = drain(writer, buffer, written), if !*flushed => match drained {
                Ok(()) => {
                    *flushed = true;
                    Step::Written
                }
                Err(_) => Step::Broken,
            },
            else => std::future::pending().await,
        }
    }
}

/// Writes what is left of `buffer` and flushes; `written` says how far it came, should it be dropped.
async fn drain(
    writer: &mut WriteHalf<Box<dyn Duplex>>,
    buffer: &mut Vec<u8>,
    written: &mut usize,
) -> io::Result<()> {
    while let Some(rest) = buffer.get(*written..)
        && !rest.is_empty()
    {
        match writer.write(rest).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => *written += count,
        }
    }
    buffer.clear();
    *written = 0;
    writer.flush().await
}

/// What happened on a line.
pub(crate) enum Step<In> {
    /// A frame came.
    Frame(In),
    /// All that was queued is written.
    Written,
    /// It is of no more use.
    Broken,
}

#[cfg(test)]
mod tests {
    use p2pnode_protocol::tunnel::{ExecEnd, FromTask, ToTask};

    use super::*;

    /// The owner may have acknowledged all output before the end of the command is written.
    #[tokio::test]
    async fn what_is_queued_is_written_before_it_ends() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut line = Line::<ToTask>::new(Box::new(near));
        line.queue(&FromTask::Ended(ExecEnd::Exited(3)));
        let reading = async {
            let end = frames::read::<FromTask, _>(&mut far).await;
            (
                end.unwrap(),
                frames::read::<FromTask, _>(&mut far).await.is_err(),
            )
        };
        let ((end, no_more), ()) = tokio::join!(reading, line.close());
        assert_eq!(end, FromTask::Ended(ExecEnd::Exited(3)));
        assert!(no_more);
    }
}
