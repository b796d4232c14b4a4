//! TCP connections to the address of the overlay that are not libp2p's.
//!
//! Whoever wants a shortcut into a task (see [`p2pnode_protocol::tunnel::SHORTCUT_GREETING`]) comes to the
//! address at which this node is reached anyhow: one port to forward, one to permit. [`set_aside`] looks at
//! the first bytes without taking them and hands such a connection to the node, which trusts it no more
//! than any other stranger.

use std::io;
use std::time::Duration;

use libp2p::core::ConnectedPoint;
use libp2p::tcp::tokio::TcpStream as Socket;
use p2pnode_protocol::tunnel::SHORTCUT_GREETING;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// How long until a greeting of which a part has come is looked at again (10 ms), and twice as long each time
/// after that. It is written at once, so that a part is as good as never all there is.
const AGAIN: Duration = Duration::from_millis(10);

/// How often it is looked at (2.5 s in all): the rest of it is not coming.
const LOOKS: u32 = 8;

/// The connection itself, when it is one of libp2p's. One that asks for a shortcut goes to `shortcuts`, and is
/// told as an error here. The transport's time limit holds for all of it.
///
/// # Errors
/// When the connection broke or was set aside.
pub(super) async fn set_aside(
    socket: Socket,
    end: ConnectedPoint,
    shortcuts: Option<mpsc::Sender<TcpStream>>,
) -> io::Result<Socket> {
    let Some(shortcuts) = shortcuts.filter(|_| end.is_listener()) else {
        return Ok(socket);
    };
    if !is_shortcut(&socket.0).await? {
        return Ok(socket);
    }
    // A full queue: whoever comes is sent away, and goes on with the tunnel that it has.
    let told = match shortcuts.try_send(socket.0) {
        Ok(()) => "it asks for a shortcut and was set aside",
        Err(_) => "it asks for a shortcut, and too many do",
    };
    Err(io::Error::other(told))
}

async fn is_shortcut(socket: &TcpStream) -> io::Result<bool> {
    let mut first = [0; SHORTCUT_GREETING.len()];
    for look in 0..LOOKS {
        let seen = socket.peek(&mut first).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[..seen] != SHORTCUT_GREETING[..seen] {
            return Ok(false);
        }
        if seen == first.len() {
            return Ok(true);
        }
        sleep(AGAIN * 2_u32.pow(look)).await;
    }
    Err(io::ErrorKind::TimedOut.into())
}
