//! Ports of a sandbox: bytes of a TCP connection, datagrams of a UDP socket.

use std::io;
use std::time::Duration;

use p2pnode_executor::inside::Duplex;
use p2pnode_protocol::tunnel::MAX_DATAGRAM_BYTES;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Buffer for each direction of a connection, in bytes: a pipe's worth.
const BUFFER_BYTES: usize = 64 << 10;

/// A UDP tunnel without a datagram for so long has ended; a NAT's binding lasts no longer (RFC 4787
/// recommends 5 minutes).
const IDLE: Duration = Duration::from_secs(300);

/// Copies both ways until both have ended; the end of one direction is passed on.
pub(crate) async fn splice<A: Duplex, B: Duplex>(mut outer: A, mut inner: B) {
    let copied = tokio::io::copy_bidirectional_with_sizes(
        &mut outer,
        &mut inner,
        BUFFER_BYTES,
        BUFFER_BYTES,
    )
    .await;
    if let Err(error) = copied {
        tracing::debug!(%error, "a forwarded connection broke");
    }
}

/// Carries datagrams both ways until the stream ends or nothing has come for [`IDLE`].
pub(crate) async fn datagrams<S: Duplex>(stream: S, socket: UdpSocket) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (heard, mut hearing) = tokio::sync::watch::channel(());
    let inward = async {
        let mut datagram = vec![0; MAX_DATAGRAM_BYTES];
        loop {
            let length = usize::from(reader.read_u16().await?);
            let Some(bytes) = datagram.get_mut(..length) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            reader.read_exact(bytes).await?;
            // A port without a listener answers with an error, to this or a later call. Datagrams may
            // be lost, so nothing ends because of it.
            let _ = socket.send(bytes).await;
            heard.send_replace(());
        }
    };
    let outward = async {
        let mut framed = vec![0; 2 + MAX_DATAGRAM_BYTES];
        loop {
            let Some((length, body)) = framed.split_first_chunk_mut::<2>() else {
                return Ok(());
            };
            let Ok(count) = socket.recv(body).await else {
                // Refused: see above. The pause keeps a refusing port from making this spin.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            *length = (count as u16).to_be_bytes();
            writer.write_all(&framed[..2 + count]).await?;
            writer.flush().await?;
            heard.send_replace(());
        }
    };
    let idle = async { while let Ok(Ok(())) = timeout(IDLE, hearing.changed()).await {} };
    let ended: io::Result<()> = tokio::select! {
        ended = inward => ended,
        ended = outward => ended,
        () = idle => Ok(()),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a tunnel of datagrams ended");
    }
}
