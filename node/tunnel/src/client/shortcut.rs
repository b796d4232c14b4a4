//! The opener's end of a [shortcut](crate::shortcut): one try, and the tunnel itself when it fails.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use p2pnode_protocol::tunnel::{Opened, SHORTCUT_GREETING, SHORTCUT_LEFT, ShortcutKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::shortcut::{answer_to, shown_of};

/// How long a connection may take to come about (300 ms): a round trip across an ocean. Longer, and a
/// firewall that swallows it would be felt more than the way through the nodes.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);

/// How long the answer may take (3 s): several of the slowest round trips, because the provider has gone
/// on there as soon as it has read the key.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// The connection on which an SSH tunnel goes on: one to `address`, when its provider has offered that and
/// it works, and else `tunnel`, on which [`open`](super::open) has got `opened`.
///
/// # Errors
/// When `tunnel` has broken.
pub async fn or_tunnel(
    mut tunnel: TcpStream,
    opened: &Opened,
    address: Option<SocketAddr>,
) -> io::Result<TcpStream> {
    let Some(key) = opened.shortcut else {
        return Ok(tunnel);
    };
    if let Some(address) = address {
        match take(address, key).await {
            Ok(shortcut) => return Ok(shortcut),
            Err(error) => tracing::debug!(%address, %error, "no shortcut"),
        }
    }
    tunnel.write_all(&[SHORTCUT_LEFT]).await?;
    Ok(tunnel)
}

/// Shows `key` at `address`.
pub(crate) async fn take(address: SocketAddr, key: ShortcutKey) -> io::Result<TcpStream> {
    let mut connection = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    connection.set_nodelay(true)?;
    let mut answer = [0; 32];
    let asking = async {
        let shown = [&SHORTCUT_GREETING[..], &shown_of(&key)].concat();
        connection.write_all(&shown).await?;
        connection.read_exact(&mut answer).await
    };
    timeout(ANSWER_TIMEOUT, asking).await??;
    match answer == answer_to(&key) {
        true => Ok(connection),
        false => Err(io::Error::other("it is not the provider that answers")),
    }
}
