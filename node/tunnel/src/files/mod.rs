//! Files of a sandbox by SFTP, version 3 (draft-ietf-secsh-filexfer-02), as OpenSSH speaks it.
//!
//! `wire` has the messages, `server` answers them, `listing` prints a file as `ls -l` does. Messages
//! are our own because names are bytes here: the crate that goes with russh takes them for UTF-8, and
//! answers a name that is not with a broken message. Sandboxes' [`Files`] block, so they live on a
//! thread of their own; requests and answers pass through bounded queues, in order.

mod listing;
mod room;
mod server;
pub(crate) mod wire;

use std::io;

use p2pnode_executor::inside::Files;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

pub(crate) use room::{Room, Rooms};
use wire::MAX_PACKET_BYTES;

/// Requests, and answers, that wait for the thread or the stream: with the largest packets 4 MiB.
const QUEUE: usize = 8;

/// Serves until the stream ends or breaks the protocol.
pub(crate) async fn serve<R, W>(files: Box<dyn Files>, room: Room, mut reader: R, mut writer: W)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (requests, requested) = mpsc::channel(QUEUE);
    let (answers, mut answered) = mpsc::channel::<Vec<u8>>(QUEUE);
    let thread = std::thread::Builder::new()
        .name("files-of-a-task".to_owned())
        .spawn(move || server::run(files, room, requested, &answers));
    if let Err(error) = thread {
        tracing::warn!(%error, "no thread for the files of a task");
        return;
    }
    let reading = async {
        loop {
            match read_packet(&mut reader).await {
                Ok(packet) => {
                    if requests.send(packet).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a tunnel of files has ended");
                    return;
                }
            }
        }
    };
    let writing = async {
        while let Some(first) = answered.recv().await {
            writer.write_all(&first).await?;
            while let Ok(next) = answered.try_recv() {
                writer.write_all(&next).await?;
            }
            writer.flush().await?;
        }
        writer.shutdown().await
    };
    tokio::pin!(writing);
    let finished = tokio::select! {
        () = reading => false,
        _ = &mut writing => true,
    };
    // Nothing more is asked: the thread answers what it was asked, and ends.
    drop(requests);
    if !finished {
        let _ = writing.await;
    }
}

/// Reads a packet without its length, which is checked before anything is allocated.
pub(crate) async fn read_packet<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<Vec<u8>> {
    let length = reader.read_u32().await? as usize;
    if length == 0 || length > MAX_PACKET_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("an SFTP packet of {length} bytes"),
        ));
    }
    let mut packet = vec![0; length];
    reader.read_exact(&mut packet).await?;
    Ok(packet)
}
