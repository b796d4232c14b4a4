//! Bodies of requests that are written while they are sent.
//!
//! A thread that may wait for the disk and for the engine writes; the request reads. What was written
//! and not yet sent is bounded, and a body that could not be written whole ends with an error, so that
//! the engine never takes a part for the whole.

use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tar::Header;
use tokio::sync::mpsc;

/// Bytes of one piece, and pieces that wait for the engine: 1 MiB in all.
const PIECE: usize = 256 << 10;
const QUEUE: usize = 4;

/// What is written, cut into pieces for the request.
#[derive(Debug)]
pub(super) struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: BytesMut,
}

/// What `write` writes, as a body.
pub(super) fn body(
    write: impl FnOnce(&mut Pieces) -> io::Result<()> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let end = sender.clone();
        let mut pieces = Pieces {
            sender,
            piece: BytesMut::new(),
        };
        if let Err(error) = write(&mut pieces).and_then(|()| pieces.flush()) {
            // When the request has gone there is nobody to tell.
            let _ = end.blocking_send(Err(error));
        }
    });
    futures::stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    })
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = self.piece.split().freeze();
        self.sender
            .blocking_send(Ok(piece))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The header of a file of `size` bytes that belongs to root.
pub(super) fn header(size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn all_comes_in_order_and_in_pieces() {
        let whole: Vec<u8> = (0..3 * PIECE + 5).map(|at| (at % 251) as u8).collect();
        let expected = whole.clone();
        let mut stream = std::pin::pin!(body(move |pieces| pieces.write_all(&whole)));
        let mut got = Vec::new();
        while let Some(piece) = stream.next().await {
            let piece = piece.unwrap();
            assert!(piece.len() <= PIECE);
            got.extend_from_slice(&piece);
        }
        assert_eq!(got, expected);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_says_so() {
        let stream = body(|pieces| {
            pieces.write_all(b"begun")?;
            Err(io::ErrorKind::ConnectionAborted.into())
        });
        let last = stream.collect::<Vec<_>>().await.pop().unwrap();
        assert_eq!(last.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
