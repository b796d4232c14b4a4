//! The provider's end of a tunnel: hello, check, welcome, and then what the tunnel is for.
//!
//! [`Tunnels::serve`] is called with every stream `tunnel/2` that a peer opens. It owns the order of
//! things: nothing of a sandbox is touched before [`Doors`] has said yes, and nothing outlives the
//! task. It must never trust a number from the stream.

use std::sync::Arc;
use std::time::Duration;

use p2pnode_executor::inside::Duplex;
use p2pnode_protocol::id::PeerId;
use p2pnode_protocol::tunnel::{
    ExecSpec, MAX_COMMAND_BYTES, Opened, Purpose, TunnelFault, TunnelHello, TunnelRefusal,
    TunnelWelcome,
};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::doors::{Door, Doors, Place, Places, TUNNELS, TaskKey, refusal, refused_by};
use crate::exec::Sessions;
use crate::frames::{self, FrameError};
use crate::shortcut::{Offer, Shortcuts, Way};
use crate::{files, ports, ssh};

/// How long the opener has for its hello: several times the slowest relayed round trip.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a sandbox may take to open what was asked for: longer than an engine may take to start a command
/// (a minute), which would be killed when it has just begun.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(75);

/// How long an answer may take to be written.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The value, or the stream back with the refusal.
macro_rules! or_refuse {
    ($result:expr, $stream:expr) => {
        match $result {
            Ok(value) => value,
            Err(refused) => return Err(($stream, refused)),
        }
    };
}

/// Everything that a provider keeps for tunnels.
pub struct Tunnels {
    doors: Arc<dyn Doors>,
    secret: [u8; 32],
    places: Arc<Places>,
    sessions: Arc<Sessions>,
    rooms: files::Rooms,
    common: ssh::Common,
    shortcuts: Arc<Shortcuts>,
}

impl std::fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnels").finish_non_exhaustive()
    }
}

impl Tunnels {
    /// `secret` is this node's own, never told: host keys of tasks' SSH servers are derived from it.
    pub fn new(doors: Arc<dyn Doors>, secret: [u8; 32]) -> Arc<Self> {
        let rooms = files::Rooms::default();
        Arc::new(Self {
            doors,
            secret,
            places: Places::new(TUNNELS),
            sessions: Arc::default(),
            common: ssh::Common::new(rooms.clone()),
            shortcuts: Arc::default(),
            rooms,
        })
    }

    /// Serves one stream that `peer` opened, until it has ended. Commands go on without it for the
    /// time in which they may be resumed.
    pub async fn serve<S: Duplex + 'static>(&self, mut stream: S, peer: PeerId) {
        let hello = match timeout(HELLO_TIMEOUT, frames::read::<TunnelHello, _>(&mut stream)).await
        {
            Ok(Ok(hello)) => hello,
            Ok(Err(FrameError::Codec(error))) => {
                tracing::debug!(%peer, %error, "a tunnel's hello that is none");
                let invalid = refusal(TunnelFault::Invalid, format!("the hello is none: {error}"));
                refuse(&mut stream, invalid).await;
                return;
            }
            Ok(Err(FrameError::Broken(_))) | Err(_) => return,
        };
        if let Err(refused) = self.enter(&mut Some(stream), peer, hello).await {
            tracing::debug!(%peer, kind = ?refused.1.kind, "no tunnel");
            if let Some(mut stream) = refused.0 {
                refuse(&mut stream, refused.1).await;
            }
        }
    }

    /// Takes a TCP connection that began with the greeting of a shortcut, which is still to be read. It has
    /// shown nothing yet, so it is dropped unless it shows a key that its provider has just given out.
    pub async fn take_shortcut(&self, connection: TcpStream) {
        self.shortcuts.take(connection).await;
    }

    /// Goes through the checks, and serves. Whoever is refused gets the stream back, to be told.
    async fn enter<S: Duplex + 'static>(
        &self,
        stream: &mut Option<S>,
        peer: PeerId,
        hello: TunnelHello,
    ) -> Result<(), (Option<S>, TunnelRefusal)> {
        let task = TaskKey {
            peer,
            job: hello.job,
            step: hello.step,
            index: hello.index,
        };
        let (door, place) = match self.check(task, &hello.purpose).await {
            Ok(checked) => checked,
            Err(refused) => {
                // When the door is shut, a command's last output and its end wait for its owner.
                if let Purpose::Resume { session, received } = hello.purpose
                    && let Ok(seat) = self.sessions.find(session, task)
                    && let Some(whole) = stream.take()
                {
                    seat.attach(Box::new(whole), Some(received)).await;
                    return Ok(());
                }
                return Err((stream.take(), refused));
            }
        };
        let Some(whole) = stream.take() else {
            return Ok(());
        };
        self.serve_purpose(whole, task, hello.purpose, door, place)
            .await
            .map_err(|(stream, refused)| (Some(stream), refused))
    }

    /// The check before everything: may this peer, is there room, is what it asks for well-formed.
    async fn check(
        &self,
        task: TaskKey,
        purpose: &Purpose,
    ) -> Result<(Door, Option<Place>), TunnelRefusal> {
        let door = self
            .doors
            .open(&task.peer, task.job, task.step, task.index)
            .await?;
        // A command that goes on has its place already.
        let place = match purpose {
            Purpose::Resume { .. } => None,
            _ => Some(self.places.take(task)?),
        };
        match purpose {
            Purpose::Exec(command) => check_command(command)?,
            Purpose::Tcp { port: 0 } | Purpose::Udp { port: 0 } => {
                return Err(refusal(
                    TunnelFault::Invalid,
                    "there is no port 0: name one from 1 to 65535",
                ));
            }
            _ => {}
        }
        Ok((door, place))
    }

    async fn serve_purpose<S: Duplex + 'static>(
        &self,
        stream: S,
        task: TaskKey,
        purpose: Purpose,
        door: Door,
        place: Option<Place>,
    ) -> Result<(), (S, TunnelRefusal)> {
        let gone = door.gone.clone();
        match purpose {
            Purpose::Exec(command) => {
                let started = open_in_time(&gone, door.inside.exec(command)).await;
                let session = or_refuse!(started, stream);
                let seat = self.sessions.begin(session, task, place, gone);
                let seat = or_refuse!(seat, stream);
                seat.attach(Box::new(stream), None).await;
            }
            Purpose::Resume { session, received } => {
                let seat = or_refuse!(self.sessions.find(session, task), stream);
                seat.attach(Box::new(stream), Some(received)).await;
            }
            Purpose::Ssh {
                client_key,
                shortcut,
            } => {
                let key = ssh::host_key(&self.secret, &task);
                let offer = shortcut.then(|| self.shortcuts.offer());
                let opened = Opened {
                    host_key: Some(ssh::public_bytes(&key)),
                    shortcut: offer.as_ref().map(Offer::key),
                    ..Opened::default()
                };
                let Some(stream) = welcome(stream, opened).await else {
                    return Ok(());
                };
                let way = match offer {
                    Some(offer) => offer.chosen(stream).await,
                    None => Some(Way::Tunnel(stream)),
                };
                let share = self.common.of(task);
                match way {
                    Some(Way::Tunnel(stream)) => {
                        ssh::serve(stream, door, key, client_key, share).await;
                    }
                    Some(Way::Shortcut(stream)) => {
                        ssh::serve(stream, door, key, client_key, share).await;
                    }
                    None => {}
                }
            }
            Purpose::Files => {
                let room = or_refuse!(self.rooms.take(task), stream);
                let files = or_refuse!(open_in_time(&gone, door.inside.files()).await, stream);
                if let Some(stream) = welcome(stream, Opened::default()).await {
                    let (reader, writer) = tokio::io::split(stream);
                    until(&gone, files::serve(files, room, reader, writer)).await;
                }
            }
            Purpose::Tcp { port } => {
                let inner = open_in_time(&gone, door.inside.connect(port)).await;
                let inner = or_refuse!(inner, stream);
                if let Some(stream) = welcome(stream, Opened::default()).await {
                    until(&gone, ports::splice(stream, inner)).await;
                }
            }
            Purpose::Udp { port } => {
                let socket = open_in_time(&gone, door.inside.datagrams(port)).await;
                let socket = or_refuse!(socket, stream);
                if let Some(stream) = welcome(stream, Opened::default()).await {
                    until(&gone, ports::datagrams(stream, socket)).await;
                }
            }
        }
        Ok(())
    }
}

/// Runs until it has ended or the task has.
async fn until(gone: &tokio_util::sync::CancellationToken, tunnel: impl Future<Output = ()>) {
    tokio::select! {
        () = tunnel => {}
        () = gone.cancelled() => {}
    }
}

/// What a sandbox opens, unless it takes too long or the task ends.
async fn open_in_time<T>(
    gone: &tokio_util::sync::CancellationToken,
    opening: impl Future<Output = Result<T, p2pnode_executor::inside::InsideError>>,
) -> Result<T, TunnelRefusal> {
    tokio::select! {
        opened = timeout(OPEN_TIMEOUT, opening) => match opened {
            Ok(opened) => opened.map_err(|error| refused_by(&error)),
            Err(_) => Err(refusal(
                TunnelFault::Host,
                format!("the sandbox did not answer for {} s", OPEN_TIMEOUT.as_secs()),
            )),
        },
        () = gone.cancelled() => Err(refusal(TunnelFault::NotHere, "the task has ended")),
    }
}

/// Sends the welcome; nothing when the opener is gone.
pub(crate) async fn welcome<S: Duplex>(mut stream: S, opened: Opened) -> Option<S> {
    let answer = TunnelWelcome::Open(opened);
    match timeout(ANSWER_TIMEOUT, frames::write(&mut stream, &answer)).await {
        Ok(Ok(())) => Some(stream),
        _ => None,
    }
}

/// Tells the opener why not, and closes.
pub(crate) async fn refuse<S: Duplex + ?Sized>(stream: &mut S, refused: TunnelRefusal) {
    use tokio::io::AsyncWriteExt;
    let answer = async {
        frames::write(stream, &TunnelWelcome::Refused(refused)).await?;
        stream.shutdown().await.map_err(FrameError::Broken)
    };
    if let Ok(Err(error)) = timeout(ANSWER_TIMEOUT, answer).await {
        tracing::debug!(%error, "a refusal could not be told");
    }
}

/// The rules of a command.
fn check_command(spec: &ExecSpec) -> Result<(), TunnelRefusal> {
    let bytes: usize = spec.command.iter().map(String::len).sum::<usize>()
        + spec
            .env
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum::<usize>();
    let invalid = |message: &str| Err(refusal(TunnelFault::Invalid, message));
    if bytes > MAX_COMMAND_BYTES {
        return invalid("command, arguments and environment together are longer than 32 KiB");
    }
    if spec.command.first().is_some_and(String::is_empty) {
        return invalid("the command's name is empty");
    }
    if spec.command.iter().any(|word| word.contains('\0')) {
        return invalid("a word of the command has a zero byte in it");
    }
    if spec
        .env
        .iter()
        .any(|(name, value)| !env_is_fine(name, value))
    {
        return invalid(
            "a variable cannot be set: its name must not be empty or hold `=`, and neither name nor \
             value may hold a zero byte",
        );
    }
    if let Some(terminal) = &spec.terminal
        && !terminal_is_fine(&terminal.term)
    {
        return invalid("TERM may have 1 to 64 letters, digits and any of `-_.+`");
    }
    Ok(())
}

/// Whether a variable can be set. Which ones is its owner's affair: those that decide what is loaded
/// (`LD_PRELOAD`) could be set by the image, too, and work within the sandbox alone.
pub(crate) fn env_is_fine(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

/// Whether a value of `TERM` is one.
pub(crate) fn terminal_is_fine(term: &str) -> bool {
    (1..=64).contains(&term.len())
        && term
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte))
}
