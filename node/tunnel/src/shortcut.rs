//! Shortcuts: SSH connections that go from OpenSSH to the provider without the node between them.
//!
//! SSH brings its own encryption and its own proof of both sides' keys, which the tunnel's handshake has
//! settled. So once a tunnel is open, its bytes may as well take a TCP connection that OpenSSH itself
//! holds: they are encrypted once and not three times, and a keystroke wakes one node and not two. The
//! provider gives out a key over the tunnel; whoever shows it on a fresh connection goes on with that
//! tunnel there. All that was checked, and all that is counted, stays with the tunnel.
//!
//! [`Shortcuts`] is the provider's table of keys; the opener's end is
//! [`client::shortcut`](crate::client::shortcut). A connection is hostile until it has shown its key.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2pnode_executor::inside::Duplex;
use p2pnode_protocol::tunnel::{SHORTCUT_GREETING, SHORTCUT_LEFT, ShortcutKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// Connections that may be here at a time without having shown a key. Each stays for [`PATIENCE`] at most,
/// and is one read long when it is honest.
const STRANGERS: usize = 64;

/// How long a connection has to show its key (5 s): several times the slowest round trip.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an opener has to choose its way (30 s). It is known and counted, tries the shortcut for some
/// seconds first, and may be a busy machine.
const CHOICE: Duration = Duration::from_secs(30);

/// Bytes that a client does not acknowledge for so long (2 minutes, as long as SSH's own signs of life allow) end
/// its connection. In milliseconds.
#[cfg(target_os = "linux")]
const UNTAKEN_MS: u32 = 120_000;

/// What is shown of a [`ShortcutKey`] in clear.
type Shown = [u8; 32];

/// Keys that were given out and not shown yet, by what is shown of them. As many as tunnels that are being
/// opened, which [`Places`](crate::doors::Places) bounds.
#[derive(Debug)]
pub(crate) struct Shortcuts {
    keys: Mutex<HashMap<Shown, oneshot::Sender<TcpStream>>>,
    strangers: Semaphore,
}

impl Default for Shortcuts {
    fn default() -> Self {
        Self {
            keys: Mutex::default(),
            strangers: Semaphore::new(STRANGERS),
        }
    }
}

impl Shortcuts {
    fn keys(&self) -> MutexGuard<'_, HashMap<Shown, oneshot::Sender<TcpStream>>> {
        // Nothing that is done under the lock can leave it half done.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A shortcut for a tunnel that is being opened.
    pub(crate) fn offer(self: &Arc<Self>) -> Offer {
        let key = ShortcutKey(rand::random());
        let (arrived, arrival) = oneshot::channel();
        self.keys().insert(shown_of(&key), arrived);
        Offer {
            key,
            arrival,
            of: Arc::clone(self),
        }
    }

    /// Reads which key a connection shows, and hands it to the tunnel that gave the key out.
    pub(crate) async fn take(&self, mut connection: TcpStream) {
        if let Err(error) = prepare(&connection) {
            return tracing::debug!(%error, "a shortcut that is gone already");
        }
        let Ok(_place) = self.strangers.try_acquire() else {
            tracing::debug!("too many connections that have shown no key");
            return;
        };
        let mut shown = [0; SHORTCUT_GREETING.len() + size_of::<Shown>()];
        let Ok(Ok(_)) = timeout(PATIENCE, connection.read_exact(&mut shown)).await else {
            return;
        };
        let (greeting, key) = shown.split_at(SHORTCUT_GREETING.len());
        let waiting = Shown::try_from(key).ok().and_then(|key| {
            let known = greeting == SHORTCUT_GREETING;
            known.then(|| self.keys().remove(&key))?
        });
        match waiting {
            // A tunnel that gave up meanwhile drops the connection, which tells the opener.
            Some(tunnel) => drop(tunnel.send(connection)),
            None => tracing::debug!("a connection showed a key that nobody gave out"),
        }
    }
}

/// Has a key at its door at once, and a dead client noticed while output waits for it.
fn prepare(connection: &TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_user_timeout(connection, UNTAKEN_MS)?;
    Ok(())
}

/// What an opener shows of a key. Who only sees that cannot answer it.
pub(crate) fn shown_of(key: &ShortcutKey) -> Shown {
    blake3::derive_key("p2pnode 2026 tunnel shortcut question", &key.0)
}

/// What a provider answers to a key that it gave out, so that nobody else is taken for it.
pub(crate) fn answer_to(key: &ShortcutKey) -> [u8; 32] {
    blake3::derive_key("p2pnode 2026 tunnel shortcut answer", &key.0)
}

/// How a tunnel goes on.
pub(crate) enum Way<S> {
    /// On the stream that it was opened on.
    Tunnel(S),
    /// On a connection of its own.
    Shortcut(TcpStream),
}

/// A key that was given out. Dropped, it is good for nothing any more.
pub(crate) struct Offer {
    key: ShortcutKey,
    arrival: oneshot::Receiver<TcpStream>,
    of: Arc<Shortcuts>,
}

impl Offer {
    pub(crate) const fn key(&self) -> ShortcutKey {
        self.key
    }

    /// Waits until the opener shows the key elsewhere or says on `stream` that it stays. `None` when it is
    /// gone, says something else, or does neither in time.
    pub(crate) async fn chosen<S: Duplex>(mut self, mut stream: S) -> Option<Way<S>> {
        let choice = async {
            tokio::select! {
                // Who stays may have tried the other way first, and given up.
                biased;
                said = stream.read_u8() => {
                    said.is_ok_and(|said| said == SHORTCUT_LEFT).then_some(None)
                }
                arrived = &mut self.arrival => {
                    let mut connection = arrived.ok()?;
                    connection.write_all(&answer_to(&self.key)).await.ok()?;
                    Some(Some(connection))
                }
            }
        };
        let shortcut = timeout(CHOICE, choice).await.ok()??;
        Some(shortcut.map_or(Way::Tunnel(stream), Way::Shortcut))
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.of.keys().remove(&shown_of(&self.key));
    }
}

#[cfg(test)]
mod tests {
    use p2pnode_protocol::tunnel::Opened;
    use tokio::io::DuplexStream;
    use tokio::net::TcpListener;

    use super::*;
    use crate::client::shortcut;

    /// A connection, and what a provider does with its other end.
    async fn arriving(shortcuts: &Arc<Shortcuts>) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shortcuts = shortcuts.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let shortcuts = shortcuts.clone();
                tokio::spawn(async move { shortcuts.take(connection).await });
            }
        });
        address
    }

    async fn eventually(reached: impl Fn() -> bool) {
        let waiting = async {
            while !reached() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(60), waiting).await.unwrap();
    }

    fn tunnel() -> (DuplexStream, DuplexStream) {
        tokio::io::duplex(1 << 10)
    }

    #[tokio::test]
    async fn who_shows_the_key_goes_on_there_once() {
        let shortcuts = Arc::default();
        let address = arriving(&shortcuts).await;
        let (offer, other) = (shortcuts.offer(), shortcuts.offer());
        let key = offer.key();
        let (_near, far) = tunnel();
        let choosing = tokio::spawn(offer.chosen(far));
        let mut taken = shortcut::take(address, key).await.unwrap();
        let Some(Way::Shortcut(mut connection)) = choosing.await.unwrap() else {
            panic!("the tunnel did not move");
        };
        taken.write_all(b"ssh").await.unwrap();
        let mut said = [0; 3];
        connection.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"ssh");
        // The second time it is nobody's, and another's is untouched.
        shortcut::take(address, key).await.unwrap_err();
        assert_eq!(shortcuts.keys().len(), 1);
        drop(other);
        assert!(shortcuts.keys().is_empty());
    }

    #[tokio::test]
    async fn who_stays_or_leaves_leaves_no_key_behind() {
        let shortcuts = Arc::<Shortcuts>::default();
        for (said, stays) in [
            (Some(SHORTCUT_LEFT), true),
            (Some(SHORTCUT_LEFT + 1), false),
            (None, false),
        ] {
            let offer = shortcuts.offer();
            let (mut near, far) = tunnel();
            if let Some(said) = said {
                near.write_all(&[said, b'S']).await.unwrap();
            }
            drop(near);
            let way = offer.chosen(far).await;
            assert!(shortcuts.keys().is_empty());
            match way {
                Some(Way::Tunnel(mut stream)) => {
                    assert!(stays, "{said:?}");
                    // Nothing of the tunnel's own was taken.
                    assert_eq!(stream.read_u8().await.unwrap(), b'S');
                }
                Some(Way::Shortcut(_)) => panic!("nobody showed the key"),
                None => assert!(!stays, "{said:?}"),
            }
        }
    }

    #[tokio::test]
    async fn strangers_are_sent_away_and_take_no_more_than_their_room() {
        let shortcuts = Arc::default();
        let address = arriving(&shortcuts).await;
        let offer = shortcuts.offer();
        shortcut::take(address, ShortcutKey([1; 32]))
            .await
            .unwrap_err();
        // Another greeting does not make the right key right.
        let mut stranger = TcpStream::connect(address).await.unwrap();
        stranger.write_all(&[0; 16]).await.unwrap();
        stranger.write_all(&shown_of(&offer.key())).await.unwrap();
        assert_eq!(stranger.read(&mut [0]).await.unwrap_or(0), 0);

        let mut silent = Vec::new();
        for _ in 0..STRANGERS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        eventually(|| shortcuts.strangers.available_permits() == 0).await;
        shortcut::take(address, offer.key()).await.unwrap_err();
        drop(silent);
        eventually(|| shortcuts.strangers.available_permits() == STRANGERS).await;
        let (_near, far) = tunnel();
        let key = offer.key();
        let choosing = tokio::spawn(offer.chosen(far));
        // It was still good.
        shortcut::take(address, key).await.unwrap();
        assert!(matches!(choosing.await.unwrap(), Some(Way::Shortcut(_))));
    }

    #[tokio::test]
    async fn a_shortcut_that_leads_nowhere_leaves_the_tunnel() {
        let shortcuts = Arc::<Shortcuts>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // Nobody listens; somebody else does, and says nothing of use.
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nowhere = closed.local_addr().unwrap();
        drop(closed);
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let elsewhere = other.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = other.accept().await {
                let _ = connection.write_all(b"220 mail").await;
            }
        });
        for near in [Some(nowhere), Some(elsewhere), None] {
            let tunnel = TcpStream::connect(address).await.unwrap();
            let (far, _) = listener.accept().await.unwrap();
            let offer = shortcuts.offer();
            let opened = Opened {
                shortcut: Some(offer.key()),
                ..Opened::default()
            };
            let choosing = tokio::spawn(offer.chosen(far));
            let mut stays = shortcut::or_tunnel(tunnel, &opened, near).await.unwrap();
            stays.write_all(b"S").await.unwrap();
            let Some(Way::Tunnel(mut far)) = choosing.await.unwrap() else {
                panic!("{near:?}");
            };
            assert_eq!(far.read_u8().await.unwrap(), b'S');
        }
    }

    #[tokio::test]
    async fn an_opener_that_does_not_choose_gets_nothing() {
        let shortcuts = Arc::<Shortcuts>::default();
        let (_near, far) = tunnel();
        assert!(shortcuts.offer().chosen(far).await.is_none());
        assert!(shortcuts.keys().is_empty());
    }
}
