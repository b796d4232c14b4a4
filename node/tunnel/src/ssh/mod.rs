//! An SSH server for one connection into one task.
//!
//! `handler` decides what an SSH client may ask for, `command` runs commands and shells, `forward`
//! carries ports, `inlet` is what stands between a client that sends and a sandbox that does not
//! read. The connection comes through a tunnel that was checked, from a client that shows the key
//! which the tunnel's hello named; the server shows a key of the task's own.

mod command;
mod forward;
mod handler;
mod inlet;

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use p2pnode_executor::inside::Duplex;
use p2pnode_protocol::tunnel::PUBLIC_KEY_LEN;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{Algorithm, PrivateKey};
use russh::server::Config;
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use inlet::Overflow;

use crate::doors::{Door, Limits, Places, TaskKey};
use crate::files::Rooms;

/// Bytes that a client may send on one channel before it must wait (2 MiB, OpenSSH's own).
const WINDOW_BYTES: u32 = 2 << 20;

/// The largest packet of a channel, in bytes: twice OpenSSH's own, which it accepts; fewer packets
/// cost less.
const PACKET_BYTES: u32 = 65_535;

/// Packets of one channel that wait in the library: with the largest packets 8 MiB. There must be more of
/// them than requests that one client has under way (OpenSSH's sftp: 64), or the library would stop reading
/// before the window adjustment that lets the answers go out.
pub(super) const CHANNEL_PACKETS: usize = 128;

/// Channels, over all connections. Each holds a file descriptor or two and, when its sandbox does not read
/// what its client sends, up to 10 MiB.
const CHANNELS: Limits = Limits {
    what: "SSH channels",
    of_task: 192,
    of_peer: 256,
    of_all: 512,
};

/// Messages that wait for the connection. What they hold is bounded by the windows that the client
/// opened; the number must be larger than the answers that one client waits for (OpenSSH's sftp: 64),
/// or a server of files that waits here would wait for a client that waits for it.
const CONNECTION_MESSAGES: usize = 1024;

/// A client that says nothing is asked for a sign of life after so long, [`KEEPALIVES`] times.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// See [`KEEPALIVE`].
const KEEPALIVES: usize = 4;

/// How long a connection has to end by itself once its task is gone.
const FAREWELL: Duration = Duration::from_secs(2);

/// What all connections of a node share.
#[derive(Clone)]
pub(crate) struct Common {
    overflow: Arc<Overflow>,
    channels: Arc<Places>,
    rooms: Rooms,
}

/// The same, for connections into one task.
#[derive(Clone)]
pub(crate) struct Share {
    common: Common,
    task: TaskKey,
}

impl Common {
    pub(crate) fn new(rooms: Rooms) -> Self {
        Self {
            overflow: Arc::default(),
            channels: Places::new(CHANNELS),
            rooms,
        }
    }

    pub(crate) fn of(&self, task: TaskKey) -> Share {
        Share {
            common: self.clone(),
            task,
        }
    }
}

/// The host key of a task's server: derived, so that it is the same every time and nowhere stored.
pub(crate) fn host_key(secret: &[u8; 32], task: &TaskKey) -> Ed25519Keypair {
    let mut hasher = blake3::Hasher::new_derive_key("p2pnode 2026 tunnel ssh host key");
    hasher.update(secret);
    hasher.update(&task.job.0);
    hasher.update(&task.step.to_be_bytes());
    hasher.update(&task.index.to_be_bytes());
    // Last, because it is the only one without a fixed length.
    hasher.update(&task.peer.to_bytes());
    Ed25519Keypair::from_seed(hasher.finalize().as_bytes())
}

/// The public half.
pub(crate) fn public_bytes(key: &Ed25519Keypair) -> [u8; PUBLIC_KEY_LEN] {
    key.public.0
}

/// Serves one connection until it or the task ends.
pub(crate) async fn serve<S: Duplex + 'static>(
    stream: S,
    door: Door,
    host_key: Ed25519Keypair,
    client_key: [u8; PUBLIC_KEY_LEN],
    share: Share,
) {
    let gone = door.gone.clone();
    let cut = CancellationToken::new();
    // Whatever happens here, nothing of the connection stays.
    let _ended = cut.clone().drop_guard();
    let stream = Cut {
        stream,
        cut: Box::pin(cut.clone().cancelled_owned()),
    };
    let handler = handler::Connection::new(door, client_key, cut.child_token(), share);
    let channels = handler.channels.clone();
    let config = Arc::new(config(host_key));
    let starting = timeout(
        crate::HELLO_TIMEOUT,
        russh::server::run_stream(config, stream, handler),
    );
    let Ok(Ok(mut session)) = starting.await else {
        return;
    };
    let handle = session.handle();
    tokio::select! {
        ended = &mut session => {
            if let Err(error) = ended {
                tracing::debug!(%error, "an SSH connection ended");
            }
        }
        () = gone.cancelled() => {
            // Commands tell their last words and their ends first.
            tokio::select! {
                _ = timeout(command::LAST_WORDS + FAREWELL / 4, channels.all_closed()) => {}
                _ = &mut session => return,
            }
            let farewell = async {
                tokio::time::sleep(FAREWELL / 4).await;
                let why = "the task has ended".to_owned();
                let _ = handle
                    .disconnect(russh::Disconnect::ByApplication, why, "en".to_owned())
                    .await;
                let _ = session.await;
            };
            let _ = timeout(FAREWELL, farewell).await;
        }
    }
}

fn config(host_key: Ed25519Keypair) -> Config {
    let mut methods = MethodSet::empty();
    methods.push(MethodKind::PublicKey);
    Config {
        server_id: SshId::Standard(Cow::Borrowed("SSH-2.0-p2pnode")),
        methods,
        // Nobody guesses at a key of 256 bits.
        auth_rejection_time: Duration::from_millis(1),
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: 8,
        keys: vec![PrivateKey::from(host_key)],
        window_size: WINDOW_BYTES,
        maximum_packet_size: PACKET_BYTES,
        channel_buffer_size: CHANNEL_PACKETS,
        event_buffer_size: CONNECTION_MESSAGES,
        preferred: Preferred {
            kex: Cow::Borrowed(&[
                kex::MLKEM768X25519_SHA256,
                kex::CURVE25519,
                kex::CURVE25519_PRE_RFC_8731,
                kex::EXTENSION_SUPPORT_AS_SERVER,
                kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
            ]),
            key: Cow::Borrowed(&[Algorithm::Ed25519]),
            cipher: Cow::Borrowed(ciphers()),
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::DEFAULT
        },
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES,
        ..Config::default()
    }
}

/// AES-GCM alone where the processor has instructions for it: it is several times faster there, and
/// OpenSSH's client would otherwise choose ChaCha20, which it lists first.
fn ciphers() -> &'static [cipher::Name] {
    #[cfg(target_arch = "x86_64")]
    let fast = std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let fast = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let fast = false;
    if fast {
        &[cipher::AES_128_GCM, cipher::AES_256_GCM]
    } else {
        &[
            cipher::CHACHA20_POLY1305,
            cipher::AES_128_GCM,
            cipher::AES_256_GCM,
        ]
    }
}

/// A stream that ends when it is told to: the library's task owns it and cannot be stopped otherwise.
struct Cut<S> {
    stream: S,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Cut<S> {
    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        self.cut.as_mut().poll(cx).is_ready()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cut<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cut<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use p2pnode_protocol::{JobId, PeerId};

    use super::*;

    #[test]
    fn a_task_has_one_host_key_and_no_other_task_has_it() {
        let secret = [1; 32];
        let task = TaskKey {
            peer: PeerId::random(),
            job: JobId([2; 8]),
            step: 0,
            index: 0,
        };
        let key = |secret: &[u8; 32], task: &TaskKey| public_bytes(&host_key(secret, task));
        let of_task = key(&secret, &task);
        assert_eq!(of_task, key(&secret, &task.clone()));
        let others = [
            TaskKey {
                peer: PeerId::random(),
                ..task
            },
            TaskKey {
                job: JobId([3; 8]),
                ..task
            },
            TaskKey { step: 1, ..task },
            TaskKey { index: 1, ..task },
        ];
        for other in others {
            assert_ne!(of_task, key(&secret, &other), "{other:?}");
        }
        assert_ne!(of_task, key(&[4; 32], &task));
    }
}
