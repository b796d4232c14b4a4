//! Datagrams: one tunnel for each source that is heard.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use p2pnode_protocol::tunnel::MAX_DATAGRAM_BYTES;
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Way;

/// How long a source that says nothing keeps its tunnel: 5 minutes, what RFC 4787 recommends for the
/// mapping of a NAT.
const IDLE: Duration = Duration::from_secs(300);

/// Datagrams of one source that wait for its tunnel; more are dropped, as any network may.
const WAITING: usize = 64;

/// Carries datagrams for as long as it is polled.
pub(super) async fn carry(way: Way, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut sources: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    loop {
        // An error is of an earlier datagram that nobody took.
        let Ok((length, source)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        sources.retain(|_, waiting| !waiting.is_closed());
        let waiting = match sources.get(&source) {
            Some(waiting) => waiting,
            None => {
                let Some(place) = way.state.take() else {
                    continue;
                };
                let (sender, receiver) = mpsc::channel(WAITING);
                let (way, socket) = (way.clone(), socket.clone());
                tokio::spawn(async move {
                    let _place = place;
                    if let Err(trouble) = talk(&way, &socket, source, receiver).await {
                        way.state.note(Some(trouble));
                    }
                });
                sources.entry(source).or_insert(sender)
            }
        };
        let _dropped = waiting.try_send(buffer[..length].to_vec());
    }
}

/// One source's datagrams, both ways.
async fn talk(
    way: &Way,
    socket: &UdpSocket,
    source: SocketAddr,
    mut said: mpsc::Receiver<Vec<u8>>,
) -> Result<(), String> {
    let (mut reader, mut writer) = split(way.open().await?);
    way.state.note(None);
    let broken = |error: std::io::Error| error.to_string();
    let there = async {
        while let Ok(Some(datagram)) = timeout(IDLE, said.recv()).await {
            let length = (datagram.len() as u16).to_be_bytes();
            writer.write_all(&length).await.map_err(broken)?;
            writer.write_all(&datagram).await.map_err(broken)?;
            writer.flush().await.map_err(broken)?;
        }
        Ok(())
    };
    let back = async {
        let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
        // The end of the stream is the end of the task, or of the other side's patience.
        while let Ok(length) = reader.read_u16().await {
            let length = usize::from(length);
            let Some(datagram) = buffer.get_mut(..length) else {
                return Err("a datagram that is too long".to_owned());
            };
            reader.read_exact(datagram).await.map_err(broken)?;
            // Whoever asked may be gone.
            let _gone = socket.send_to(datagram, source).await;
        }
        Ok(())
    };
    tokio::select! {
        ended = there => ended,
        ended = back => ended,
    }
}
