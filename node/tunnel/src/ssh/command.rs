//! A session channel: a command, a shell, or the server of files.

use std::pin::pin;
use std::time::Duration;

use p2pnode_executor::LogChunk;
use p2pnode_executor::inside::{InsideError, Session, SessionControl};
use p2pnode_protocol::task::Stream;
use p2pnode_protocol::tunnel::{ExecEnd, ExecSpec, TaskSignal};
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Share;
use super::handler::size;
use super::inlet::{self, InletEnd, Traffic};
use crate::doors::Door;
use crate::files;
use crate::serve::OPEN_TIMEOUT;

/// What OpenSSH calls a channel's stderr, RFC 4254, section 5.2.
const STDERR: u32 = 1;

/// What a shell says of a command that it cannot find.
const NO_COMMAND: u32 = 127;

/// What stands for an end that nobody has seen: OpenSSH's own.
const LOST: u32 = 255;

/// How long what a channel serves may go on when its task is gone.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(3);

/// What a channel is for.
pub(super) enum Start {
    Command(ExecSpec),
    Files,
}

/// What a channel needs.
pub(super) struct Runner {
    pub(super) door: Door,
    pub(super) handle: Handle,
    pub(super) traffic: Traffic,
    pub(super) share: Share,
    /// The connection has ended.
    pub(super) ended: CancellationToken,
}

impl Runner {
    /// Serves the channel until either side closes it.
    pub(super) async fn run(&self, channel: Channel<Msg>, started: oneshot::Receiver<Start>) {
        let (mut from, to) = channel.split();
        let serving = async {
            let Some(start) = wait_for_start(&mut from, started).await else {
                return;
            };
            match start {
                Start::Command(command) => self.command(command, &mut from, &to).await,
                Start::Files => self.files(&mut from, &to).await,
            }
        };
        let mut serving = pin!(serving);
        tokio::select! {
            () = &mut serving => {}
            () = self.door.gone.cancelled() => {
                // The command may have been the task, and its last output and end are on their way.
                if timeout(LAST_WORDS, &mut serving).await.is_err() {
                    self.end(&to, LOST, "the task has ended").await;
                }
            }
            () = self.ended.cancelled() => return,
        }
        let _ = to.close().await;
    }

    async fn command(
        &self,
        command: ExecSpec,
        from: &mut ChannelReadHalf,
        to: &ChannelWriteHalf<Msg>,
    ) {
        let name = command.command.first().cloned();
        let session = match timeout(OPEN_TIMEOUT, self.door.inside.exec(command)).await {
            Ok(Ok(session)) => session,
            Ok(Err(InsideError::NoCommand(_))) if name.as_deref().is_none_or(is_shell) => {
                let text = "there is no /bin/sh in the task's image, and SSH runs commands with it: \
                            use `p2pnode exec`, which starts programs directly";
                return self.end(to, NO_COMMAND, text).await;
            }
            Ok(Err(error @ InsideError::NoCommand(_))) => {
                return self.end(to, NO_COMMAND, &error.to_string()).await;
            }
            Ok(Err(error)) => return self.end(to, LOST, &error.to_string()).await,
            Err(_) => return self.end(to, LOST, "the sandbox does not answer").await,
        };
        let Session {
            input,
            mut output,
            control,
            end,
        } = session;
        let outward = async {
            while let Some(LogChunk { stream, bytes }) = output.recv().await {
                let sent = self.traffic.sending(async {
                    match stream {
                        Stream::Stdout => to.data_bytes(bytes).await,
                        Stream::Stderr => to.extended_data_bytes(STDERR, bytes).await,
                    }
                });
                if sent.await.is_err() {
                    return;
                }
            }
            match end.await {
                // A signal's number plus 128 is what engines tell of one, and what programs exit with
                // by themselves (a shell whose command was killed; git that is called wrongly): no
                // signal is made of what may be none.
                ExecEnd::Exited(code) => self.exit(to, code as u32).await,
                ExecEnd::Lost(why) => self.end(to, LOST, &why).await,
            }
        };
        let inward = inlet::carry(from, input, &self.traffic, inlet::PATIENCE, |message| {
            hear(control.as_ref(), message)
        });
        tokio::select! {
            () = outward => {}
            end = inward => if end == InletEnd::Stuck {
                self.tell_stuck(to).await;
            }
        }
    }

    async fn files(&self, from: &mut ChannelReadHalf, to: &ChannelWriteHalf<Msg>) {
        let Share { common, task } = &self.share;
        let room = match common.rooms.take(*task) {
            Ok(room) => room,
            Err(refused) => return self.end(to, LOST, &refused.message).await,
        };
        match timeout(OPEN_TIMEOUT, self.door.inside.files()).await {
            Ok(Ok(inner)) => {
                files::serve(inner, room, from.make_reader(), to.make_writer()).await;
                self.exit(to, 0).await;
            }
            Ok(Err(error)) => self.end(to, LOST, &error.to_string()).await,
            Err(_) => self.end(to, LOST, "the sandbox does not answer").await,
        }
    }

    /// Ends a command that keeps the whole connection from going on. Its client may not read, so it is
    /// not waited for.
    async fn tell_stuck(&self, to: &ChannelWriteHalf<Msg>) {
        let text = "the command took no input for too long while the connection was needed: it was \
                    ended. Give it a connection of its own, or read its output";
        let _ = timeout(inlet::PATIENCE, self.end(to, LOST, text)).await;
    }

    /// An end with a reason, on stderr.
    async fn end(&self, to: &ChannelWriteHalf<Msg>, code: u32, why: &str) {
        let line = format!("p2pnode: {why}\r\n").into_bytes();
        let _ = timeout(inlet::PATIENCE, to.extended_data_bytes(STDERR, line)).await;
        self.exit(to, code).await;
    }

    async fn exit(&self, to: &ChannelWriteHalf<Msg>, code: u32) {
        let _ = self.handle.exit_status_request(to.id(), code).await;
        let _ = to.eof().await;
    }
}

/// Waits until the client has said what the channel is for. What it asks for before that is kept by
/// the connection's handler; data would have nowhere to go.
async fn wait_for_start(
    from: &mut ChannelReadHalf,
    mut started: oneshot::Receiver<Start>,
) -> Option<Start> {
    loop {
        tokio::select! {
            biased;
            start = &mut started => return start.ok(),
            message = from.wait() => match message {
                None | Some(ChannelMsg::Close | ChannelMsg::Data { .. }) => return None,
                Some(_) => {}
            },
        }
    }
}

/// Requests of a client to a running command.
async fn hear(control: &dyn SessionControl, message: ChannelMsg) {
    match message {
        ChannelMsg::WindowChange {
            col_width,
            row_height,
            ..
        } => control.resize(size(col_width, row_height)).await,
        ChannelMsg::Signal { signal } => {
            if let Some(signal) = task_signal(&signal) {
                control.signal(signal).await;
            }
        }
        _ => {}
    }
}

fn is_shell(name: &str) -> bool {
    name == "/bin/sh"
}

fn task_signal(signal: &Sig) -> Option<TaskSignal> {
    Some(match signal {
        Sig::ABRT => TaskSignal::Abrt,
        Sig::ALRM => TaskSignal::Alrm,
        Sig::FPE => TaskSignal::Fpe,
        Sig::HUP => TaskSignal::Hup,
        Sig::ILL => TaskSignal::Ill,
        Sig::INT => TaskSignal::Int,
        Sig::KILL => TaskSignal::Kill,
        Sig::PIPE => TaskSignal::Pipe,
        Sig::QUIT => TaskSignal::Quit,
        Sig::SEGV => TaskSignal::Segv,
        Sig::TERM => TaskSignal::Term,
        Sig::USR1 => TaskSignal::Usr1,
        Sig::Custom(name) if name == "USR2" => TaskSignal::Usr2,
        Sig::Custom(_) => return None,
    })
}
