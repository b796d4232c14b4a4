//! One running command, and the stream that it has at the moment.
//!
//! The task here owns everything of the session, so that each byte is counted in one place: output
//! is kept until it is acknowledged, input counts once the command's stdin has taken it. When nobody
//! has been attached for [`RESUME_WITHIN`], or the task is gone and the command's end does not follow
//! at once, the command is dropped, which kills it.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use p2pnode_executor::LogChunk;
use p2pnode_executor::inside::{Duplex, Session};
use p2pnode_protocol::task::Stream;
use p2pnode_protocol::tunnel::{
    ExecEnd, FromTask, MAX_DATA_BYTES, Opened, SessionId, ToTask, TunnelFault,
};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::kept::{Impossible, Kept};
use super::line::{Line, Step};
use super::{ACKNOWLEDGE_EVERY, MAX_KEPT_BYTES, RESUME_WITHIN};
use crate::doors::refusal;
use crate::serve::{refuse, welcome};

/// How long the owner has to take the news that the task is gone.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long the end of a command is waited for whose task is gone: it may have been the task, and what it
/// wrote last is on its way yet.
const LAST_END: Duration = Duration::from_secs(2);

/// How long the owner has to read what a command wrote once it and its task have ended (10 min): whoever
/// looks at it page by page may take a while, and for ever nobody.
const LAST_READ: Duration = Duration::from_secs(600);

/// A stream for a command.
pub(crate) struct Attach {
    pub(crate) stream: Box<dyn Duplex>,
    pub(crate) id: SessionId,
    /// What of the output came before; absent for the first stream.
    pub(crate) received: Option<u64>,
}

/// The command's side: what it was given and what it wrote.
struct Command {
    output: Kept<Stream>,
    /// Input that its stdin has not taken yet.
    waiting: BytesMut,
    /// Bytes that its stdin took.
    taken: u64,
    /// Bytes of `taken` that its owner was told of.
    told: u64,
    /// Its owner said that there will be no more input.
    input_ends: bool,
    stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    stdin_flushed: bool,
    end: Option<ExecEnd>,
    end_told: bool,
}

/// Runs until the command has ended and its owner knows, or nobody wants to know.
pub(super) async fn run(
    session: Session,
    mut attaching: mpsc::Receiver<Attach>,
    gone: CancellationToken,
) {
    let Session {
        input,
        mut output,
        control,
        mut end,
    } = session;
    let mut command = Command::new(input);
    let mut line: Option<Line<ToTask>> = None;
    let mut give_up = Instant::now() + RESUME_WITHIN;
    let mut writing = true;
    // When the task is gone: until when the command's end is waited for, then until when it is read.
    let mut end_by = None::<Instant>;
    let mut read_by = None::<Instant>;
    loop {
        if let Some(line) = &mut line {
            command.fill(line);
        }
        // Nobody writes for long any more, and an end that waits for a slow reader would come too late.
        let is_last = end_by.is_some() && command.output.has_last_room();
        let wants_output = writing && (is_last || command.output.has_room());
        tokio::select! {
            attach = attaching.recv() => {
                let Some(attach) = attach else { return };
                if let Ok(new) = command.attach(attach).await {
                    (line, give_up) = (new, Instant::now() + RESUME_WITHIN);
                }
            }
            step = on_line(&mut line) => match step {
                Step::Written => {}
                Step::Frame(ToTask::Resize(size)) => control.resize(size).await,
                Step::Frame(ToTask::Signal(signal)) => control.signal(signal).await,
                Step::Frame(frame) => match command.on_frame(frame) {
                    Heard::Fine => {}
                    Heard::Finished => {
                        if let Some(line) = line.take() {
                            let _ = timeout(FAREWELL, line.close()).await;
                        }
                        return;
                    }
                    Heard::Wrong => (line, give_up) = (None, Instant::now() + RESUME_WITHIN),
                },
                Step::Broken => (line, give_up) = (None, Instant::now() + RESUME_WITHIN),
            },
            chunk = output.recv(), if wants_output => match chunk {
                Some(LogChunk { stream, bytes }) => command.output.push(stream, &bytes),
                None => writing = false,
            },
            ended = &mut end, if !writing && command.end.is_none() => {
                command.end = Some(ended);
                command.stdin = None;
                command.waiting.clear();
                if end_by.is_some() {
                    read_by = Some(Instant::now() + LAST_READ);
                }
            }
            () = command.feed() => {}
            () = sleep_until(give_up), if line.is_none() => return,
            () = gone.cancelled(), if end_by.is_none() => {
                let now = Instant::now();
                end_by = Some(now + LAST_END);
                read_by = command.end.as_ref().map(|_| now + LAST_READ);
            }
            () = sleep_until(end_by.unwrap_or(give_up)), if end_by.is_some() && command.end.is_none() => {
                command.lose(line).await;
                return;
            }
            () = sleep_until(read_by.unwrap_or(give_up)), if read_by.is_some() => return,
        }
    }
}

/// What happens on the line, if there is one.
async fn on_line(line: &mut Option<Line<ToTask>>) -> Step<ToTask> {
    match line {
        Some(line) => line.step(true).await,
        None => std::future::pending().await,
    }
}

/// What a frame came to.
enum Heard {
    Fine,
    /// The owner has everything.
    Finished,
    /// A breach of the protocol: the stream is given up, not the command.
    Wrong,
}

impl Command {
    fn new(stdin: Box<dyn AsyncWrite + Send + Unpin>) -> Self {
        Self {
            output: Kept::new(),
            waiting: BytesMut::new(),
            taken: 0,
            told: 0,
            input_ends: false,
            stdin: Some(stdin),
            stdin_flushed: true,
            end: None,
            end_told: false,
        }
    }

    /// Takes a stream in place of the one before, and tells the owner where things stand. An error when
    /// the one before stays; no line when the new one broke at once.
    async fn attach(&mut self, mut attach: Attach) -> Result<Option<Line<ToTask>>, Impossible> {
        let received = attach.received.unwrap_or(0);
        if let Err(impossible) = self.output.rewind(received) {
            let wrong = refusal(
                TunnelFault::Invalid,
                format!("{received} bytes of output cannot have come: start the command again"),
            );
            refuse(&mut attach.stream, wrong).await;
            return Err(impossible);
        }
        // The owner sends again what the command's stdin had not taken.
        self.waiting.clear();
        self.input_ends = false;
        self.told = self.taken;
        self.end_told = false;
        let opened = Opened {
            session: Some(attach.id),
            taken: self.taken,
            ..Opened::default()
        };
        Ok(welcome(attach.stream, opened).await.map(Line::new))
    }

    /// Gives an idle line its next frames.
    fn fill(&mut self, line: &mut Line<ToTask>) {
        if !line.is_idle() {
            return;
        }
        let output = self.output.next();
        // A few bytes are told along with output: alone they would go ahead of a key's echo, and all that
        // they pass through would be busy with them when it comes.
        let owed = self.taken - self.told;
        if owed >= ACKNOWLEDGE_EVERY || (owed > 0 && output.is_some()) {
            self.told = self.taken;
            line.queue(&FromTask::Taken(self.taken));
        }
        if let Some((stream, bytes)) = output {
            line.queue(&FromTask::Output { stream, bytes });
        } else if let Some(end) = &self.end
            && !self.end_told
        {
            self.end_told = true;
            line.queue(&FromTask::Ended(end.clone()));
        }
    }

    fn on_frame(&mut self, frame: ToTask) -> Heard {
        match frame {
            ToTask::Input(bytes) => {
                if bytes.len() > MAX_DATA_BYTES
                    || self.input_ends
                    || self.waiting.len() + bytes.len() > MAX_KEPT_BYTES + MAX_DATA_BYTES
                {
                    return Heard::Wrong;
                }
                // After its end, or once it has closed its stdin, input has nowhere to go.
                if self.stdin.is_some() && !bytes.is_empty() {
                    self.waiting.extend_from_slice(&bytes);
                } else {
                    self.taken += bytes.len() as u64;
                }
                Heard::Fine
            }
            ToTask::InputEnd => {
                self.input_ends = true;
                Heard::Fine
            }
            ToTask::Received(total) => match self.output.acknowledge(total) {
                Ok(()) if self.end_told && self.output.len() == 0 => Heard::Finished,
                Ok(()) => Heard::Fine,
                Err(_) => Heard::Wrong,
            },
            ToTask::Resize(_) | ToTask::Signal(_) => Heard::Fine,
        }
    }

    /// Gives stdin a bit of what waits. May be dropped at any time: what was taken is counted.
    async fn feed(&mut self) {
        let Some(stdin) = &mut self.stdin else {
            return std::future::pending().await;
        };
        let result = if !self.waiting.is_empty() {
            match stdin.write(&self.waiting).await {
                Ok(count) if count > 0 => {
                    self.waiting.advance(count);
                    self.taken += count as u64;
                    self.stdin_flushed = false;
                    Ok(())
                }
                _ => Err(()),
            }
        } else if !self.stdin_flushed {
            let flushed = stdin.flush().await.map_err(|_| ());
            self.stdin_flushed = true;
            flushed
        } else if self.input_ends {
            let _ = stdin.shutdown().await;
            Err(())
        } else {
            return std::future::pending().await;
        };
        if result.is_err() {
            // It has ended, or closed its stdin; `yes | head` does, and nothing is wrong with that.
            self.stdin = None;
            self.taken += self.waiting.len() as u64;
            self.waiting.clear();
        }
    }

    /// The task is gone: tells whoever listens.
    async fn lose(&mut self, line: Option<Line<ToTask>>) {
        let Some(mut line) = line else { return };
        let farewell = async {
            if line.write().await.is_err() {
                return;
            }
            while let Some((stream, bytes)) = self.output.next() {
                line.queue(&FromTask::Output { stream, bytes });
                if line.write().await.is_err() {
                    return;
                }
            }
            let end = ExecEnd::Lost("the task has ended".to_owned());
            line.queue(&FromTask::Ended(end));
            if line.write().await.is_ok() {
                // The owner closes its side once it has read this.
                while line.next().await.is_some() {}
            }
            line.close().await;
        };
        let _ = timeout(FAREWELL, farewell).await;
    }
}
