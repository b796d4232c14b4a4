//! What an SSH client may ask for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use p2pnode_executor::inside::Duplex;
use p2pnode_protocol::tunnel::{ExecSpec, MAX_COMMAND_BYTES, PUBLIC_KEY_LEN, Terminal, WindowSize};
use russh::keys::ssh_key::public::KeyData;
use russh::server::VerifiedPublicKey;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::Share;
use super::command::{self, Start};
use super::forward::{self, Forwards};
use super::inlet::Traffic;
use crate::doors::{Door, Place};
use crate::serve::{env_is_fine, terminal_is_fine};

/// Channels that one connection may have at a time.
const MAX_CHANNELS: usize = 128;

/// Variables that a client may set for one command.
const MAX_VARIABLES: usize = 64;

/// A channel that waits to be told what it is for.
#[derive(Default)]
struct Waiting {
    env: Vec<(String, String)>,
    terminal: Option<Terminal>,
    start: Option<oneshot::Sender<Start>>,
}

/// One SSH connection.
pub(super) struct Connection {
    door: Door,
    client_key: [u8; PUBLIC_KEY_LEN],
    /// Cancelled when the connection ends: everything that it started ends with it.
    ended: CancellationToken,
    waiting: HashMap<ChannelId, Waiting>,
    pub(super) channels: Channels,
    forwards: Forwards,
}

/// The channels of a connection, among those of all.
#[derive(Clone)]
pub(super) struct Channels {
    open: Arc<AtomicUsize>,
    /// Told when one of them is closed.
    closed: Arc<Notify>,
    pub(super) share: Share,
}

/// A channel, counted.
pub(super) struct Counted {
    of: Channels,
    _place: Place,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.of.open.fetch_sub(1, Ordering::Relaxed);
        self.of.closed.notify_one();
    }
}

impl Channels {
    /// One more channel, if there may be.
    pub(super) fn count(&self) -> Option<Counted> {
        let place = self.share.common.channels.take(self.share.task).ok()?;
        let relaxed = Ordering::Relaxed;
        let counted = self.open.fetch_update(relaxed, relaxed, |count| {
            (count < MAX_CHANNELS).then_some(count + 1)
        });
        counted.ok().map(|_| Counted {
            of: self.clone(),
            _place: place,
        })
    }

    /// Waits until none is open. For one waiter.
    pub(super) async fn all_closed(&self) {
        while self.open.load(Ordering::Relaxed) > 0 {
            self.closed.notified().await;
        }
    }

    pub(super) fn traffic(&self) -> Traffic {
        let Share { common, task } = &self.share;
        Traffic::new(self.open.clone(), common.overflow.of(task.peer))
    }
}

impl Connection {
    /// Carries a connection into the task on a channel, once it is there.
    async fn connect(
        &self,
        opening: impl Future<Output = Result<Box<dyn Duplex>, String>> + Send + 'static,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
    ) {
        let Some(counted) = self.channels.count() else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return;
        };
        let traffic = self.channels.traffic();
        let (ended, gone) = (self.ended.clone(), self.door.gone.clone());
        tokio::spawn(async move {
            let connecting = forward::direct(opening, channel, reply, traffic);
            tokio::select! {
                () = connecting => {}
                () = ended.cancelled() => {}
                () = gone.cancelled() => {}
            }
            drop(counted);
        });
    }

    pub(super) fn new(
        door: Door,
        client_key: [u8; PUBLIC_KEY_LEN],
        ended: CancellationToken,
        share: Share,
    ) -> Self {
        Self {
            door,
            client_key,
            ended,
            waiting: HashMap::new(),
            channels: Channels {
                open: Arc::default(),
                closed: Arc::default(),
                share,
            },
            forwards: Forwards::default(),
        }
    }

    /// Whether it is the key that the tunnel's hello named.
    fn check(&self, key: &KeyData) -> Auth {
        match key {
            KeyData::Ed25519(key) if key.0 == self.client_key => Auth::Accept,
            _ => Auth::reject(),
        }
    }

    /// Starts what a channel is for; false when it was started before.
    fn start(&mut self, channel: ChannelId, what: impl FnOnce(Waiting) -> Start) -> bool {
        let Some(mut waiting) = self.waiting.remove(&channel) else {
            return false;
        };
        let Some(start) = waiting.start.take() else {
            return false;
        };
        start.send(what(waiting)).is_ok()
    }

    fn start_command(&mut self, channel: ChannelId, command: Vec<String>) -> bool {
        self.start(channel, |waiting| {
            Start::Command(ExecSpec {
                command,
                env: waiting.env,
                terminal: waiting.terminal,
            })
        })
    }
}

/// Answers a request of a channel.
fn answer(session: &mut Session, channel: ChannelId, fine: bool) -> Result<(), russh::Error> {
    if fine {
        session.channel_success(channel)
    } else {
        session.channel_failure(channel)
    }
}

pub(super) fn size(columns: u32, rows: u32) -> WindowSize {
    let short = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    WindowSize {
        columns: short(columns),
        rows: short(rows),
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.check(offer.public_key.key_data()))
    }

    async fn auth_publickey(
        &mut self,
        _user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.check(key.public_key.key_data()))
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(counted) = self.channels.count() else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        let (start, started) = oneshot::channel();
        let waiting = Waiting {
            start: Some(start),
            ..Waiting::default()
        };
        self.waiting.insert(channel.id(), waiting);
        let runner = command::Runner {
            door: self.door.clone(),
            handle: session.handle(),
            traffic: self.channels.traffic(),
            share: self.channels.share.clone(),
            ended: self.ended.clone(),
        };
        reply.accept().await;
        tokio::spawn(async move {
            runner.run(channel, started).await;
            drop(counted);
        });
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let opening = forward::open(self.door.clone(), host.to_owned(), port);
        self.connect(opening, channel, reply).await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let opening = forward::open_path(self.door.clone(), socket_path.to_owned());
        self.connect(opening, channel, reply).await;
        Ok(())
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.waiting.remove(&channel);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _pixel_width: u32,
        _pixel_height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let fine = match self.waiting.get_mut(&channel) {
            Some(waiting) if terminal_is_fine(term) => {
                waiting.terminal = Some(Terminal {
                    term: term.to_owned(),
                    size: size(columns, rows),
                });
                true
            }
            _ => false,
        };
        answer(session, channel, fine)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let fine = match self.waiting.get_mut(&channel) {
            Some(waiting) => {
                let bytes: usize = waiting.env.iter().map(|(n, v)| n.len() + v.len()).sum();
                let room = waiting.env.len() < MAX_VARIABLES
                    && bytes + name.len() + value.len() <= MAX_COMMAND_BYTES / 2;
                if room && env_is_fine(name, value) {
                    waiting.env.push((name.to_owned(), value.to_owned()));
                    true
                } else {
                    false
                }
            }
            None => false,
        };
        answer(session, channel, fine)
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let fine = self.start_command(channel, Vec::new());
        answer(session, channel, fine)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        // Commands of the wire are text, and half of their limit is the environment's.
        let fine = match std::str::from_utf8(data) {
            Ok(line) if line.len() <= MAX_COMMAND_BYTES / 2 && !line.contains('\0') => {
                let words = ["/bin/sh", "-c", line].map(str::to_owned);
                self.start_command(channel, words.into())
            }
            _ => false,
        };
        answer(session, channel, fine)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let fine = name == "sftp" && self.start(channel, |_| Start::Files);
        answer(session, channel, fine)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        answer(session, channel, false)
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let to = forward::Client {
            handle: session.handle(),
            channels: self.channels.clone(),
            ended: self.ended.clone(),
        };
        let begun = self.forwards.begin(&self.door, to, address, *port);
        Ok(match begun.await {
            Some(bound) => {
                *port = bound;
                true
            }
            None => false,
        })
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.forwards.end(address, port))
    }
}
