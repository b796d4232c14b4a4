//! A command in a task, from its owner's side.
//!
//! One task owns the stream of the moment and counts bytes both ways. When the stream breaks it asks
//! for another one for up to a minute and goes on where things stood: nothing typed is lost or
//! doubled, and no output is missing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use p2pnode_executor::inside::Duplex;
use p2pnode_protocol::id::{JobId, StepIndex, TaskIndex};
use p2pnode_protocol::task::Stream;
use p2pnode_protocol::tunnel::{
    ExecEnd, ExecSpec, FromTask, MAX_DATA_BYTES, Purpose, SessionId, TaskSignal, ToTask,
    TunnelFault, TunnelHello, WindowSize,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::{OpenError, open};
use crate::exec::kept::Kept;
use crate::exec::line::{Line, Step};
use crate::exec::{ACKNOWLEDGE_EVERY, MAX_KEPT_BYTES, RESUME_WITHIN};

/// Requests, and events, that may wait.
const QUEUE: usize = 16;

/// How long one try to go on may take: a provider has the command at hand, so this is time for a slow way, and
/// several fit into [`RESUME_WITHIN`].
const RESUME_TRY: Duration = Duration::from_secs(20);

/// The first pause between two tries to go on; it doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between two tries: a person would notice more.
const LAST_PAUSE: Duration = Duration::from_secs(3);

/// How long the provider has to hear that its last word has arrived.
const FAREWELL: Duration = Duration::from_secs(2);

/// Which task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Its job.
    pub job: JobId,
    /// Its step.
    pub step: StepIndex,
    /// Its index.
    pub index: TaskIndex,
}

impl Target {
    /// The first frame of a tunnel into it.
    pub fn hello(&self, purpose: Purpose) -> TunnelHello {
        TunnelHello {
            job: self.job,
            step: self.step,
            index: self.index,
            purpose,
        }
    }
}

/// Makes streams to the provider of the task, again and again.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// A new stream, on which nothing was said yet.
    ///
    /// # Errors
    /// When there is none now; it is tried again for a while.
    async fn dial(&self) -> io::Result<Box<dyn Duplex>>;
}

/// What a command's owner sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// The command wrote this.
    Output {
        /// On which stream; everything from a terminal is stdout.
        stream: Stream,
        /// What.
        bytes: Vec<u8>,
    },
    /// The stream broke; another one is sought.
    Interrupted,
    /// Another stream was found, and nothing was lost.
    Resumed,
    /// It has ended, or the way to it is lost; nothing follows.
    Ended(ExecEnd),
}

/// What its owner wants of it.
#[derive(Debug)]
enum Wish {
    Input(Bytes),
    InputEnd,
    Resize(WindowSize),
    Signal(TaskSignal),
}

/// A running command. Dropped, the command is killed a minute later at most.
#[derive(Debug)]
pub struct ExecClient {
    input: ExecInput,
    events: mpsc::Receiver<ExecEvent>,
}

/// The way to a running command. When all are dropped the command goes on, without more input.
#[derive(Debug, Clone)]
pub struct ExecInput(mpsc::Sender<Wish>);

impl ExecInput {
    /// Types. Waits while the command takes nothing; false when it has ended.
    pub async fn input(&self, bytes: impl Into<Bytes>) -> bool {
        let mut bytes = bytes.into();
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(MAX_DATA_BYTES));
            if !self.wish(Wish::Input(piece)).await {
                return false;
            }
        }
        true
    }

    /// There will be no more input.
    pub async fn end(&self) -> bool {
        self.wish(Wish::InputEnd).await
    }

    /// The terminal has another size.
    pub async fn resize(&self, size: WindowSize) -> bool {
        self.wish(Wish::Resize(size)).await
    }

    /// Sends a signal.
    pub async fn signal(&self, signal: TaskSignal) -> bool {
        self.wish(Wish::Signal(signal)).await
    }

    async fn wish(&self, wish: Wish) -> bool {
        self.0.send(wish).await.is_ok()
    }
}

impl ExecClient {
    /// Starts a command.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn start(
        dial: Arc<dyn Dial>,
        target: Target,
        command: ExecSpec,
    ) -> Result<Self, OpenError> {
        let stream = dial.dial().await.map_err(OpenError::Dial)?;
        let hello = target.hello(Purpose::Exec(command));
        let (opened, stream) = open(stream, &hello).await?;
        let (wish, wishes) = mpsc::channel(QUEUE);
        let (event, events) = mpsc::channel(QUEUE);
        let owner = Owner {
            dial,
            target,
            session: opened.session,
            input: Kept::new(),
            input_ends: false,
            end_sent: false,
            size: None,
            urgent: Vec::new(),
            received: 0,
            acknowledged: 0,
        };
        tokio::spawn(owner.run(Line::new(stream), wishes, event));
        Ok(Self {
            input: ExecInput(wish),
            events,
        })
    }

    /// The next event; none after the end.
    pub async fn next(&mut self) -> Option<ExecEvent> {
        self.events.recv().await
    }

    /// The way to it.
    pub fn input(&self) -> ExecInput {
        self.input.clone()
    }

    /// Both ends, to be used apart.
    pub fn split(self) -> (ExecInput, mpsc::Receiver<ExecEvent>) {
        (self.input, self.events)
    }
}

/// What the task owns that runs for an [`ExecClient`].
struct Owner {
    dial: Arc<dyn Dial>,
    target: Target,
    session: Option<SessionId>,
    input: Kept<()>,
    input_ends: bool,
    end_sent: bool,
    /// The last size that was wished for: told again after a break.
    size: Option<WindowSize>,
    /// Frames that go before input.
    urgent: Vec<ToTask>,
    /// Bytes of output that were handed on.
    received: u64,
    /// Bytes of output that the provider was told of.
    acknowledged: u64,
}

impl Owner {
    async fn run(
        mut self,
        mut line: Line<FromTask>,
        mut wishes: mpsc::Receiver<Wish>,
        events: mpsc::Sender<ExecEvent>,
    ) {
        let mut wishing = true;
        let mut event: Option<ExecEvent> = None;
        loop {
            self.fill(&mut line);
            let room = wishing && self.input.len() < MAX_KEPT_BYTES && self.urgent.len() < QUEUE;
            let holding = event.is_some();
            tokio::select! {
                wish = wishes.recv(), if room => match wish {
                    Some(wish) => self.on_wish(wish),
                    None => wishing = false,
                },
                step = line.step(!holding) => match step {
                    Step::Written => {}
                    Step::Frame(FromTask::Ended(end)) => {
                        self.finish(line).await;
                        let _ = events.send(ExecEvent::Ended(end)).await;
                        return;
                    }
                    Step::Frame(FromTask::Output { stream, bytes }) => {
                        event = Some(ExecEvent::Output { stream, bytes });
                    }
                    Step::Frame(FromTask::Taken(total)) => {
                        if self.input.acknowledge(total).is_err() {
                            let text = "the provider acknowledges input that was never sent";
                            lost(&events, text).await;
                            return;
                        }
                    }
                    Step::Broken => {
                        // It was not counted, so it comes again.
                        event = None;
                        let _ = events.try_send(ExecEvent::Interrupted);
                        let Some(new) = self.resume(&events).await else { return };
                        line = new;
                        let _ = events.try_send(ExecEvent::Resumed);
                    }
                },
                permit = events.reserve(), if holding => {
                    let (Ok(permit), Some(event)) = (permit, event.take()) else { return };
                    if let ExecEvent::Output { bytes, .. } = &event {
                        self.received += bytes.len() as u64;
                    }
                    permit.send(event);
                }
                () = events.closed() => return,
            }
        }
    }

    fn on_wish(&mut self, wish: Wish) {
        match wish {
            Wish::Input(bytes) if !self.input_ends => self.input.push((), &bytes),
            Wish::Input(_) => {}
            Wish::InputEnd => self.input_ends = true,
            Wish::Resize(size) => {
                self.size = Some(size);
                self.urgent.push(ToTask::Resize(size));
            }
            Wish::Signal(signal) => self.urgent.push(ToTask::Signal(signal)),
        }
    }

    /// Gives an idle line its next frames.
    fn fill(&mut self, line: &mut Line<FromTask>) {
        if !line.is_idle() {
            return;
        }
        for frame in self.urgent.drain(..) {
            line.queue(&frame);
        }
        if self.received - self.acknowledged >= ACKNOWLEDGE_EVERY {
            self.acknowledged = self.received;
            line.queue(&ToTask::Received(self.received));
        }
        if let Some(((), bytes)) = self.input.next() {
            line.queue(&ToTask::Input(bytes));
        } else if self.input_ends && !self.end_sent {
            self.end_sent = true;
            line.queue(&ToTask::InputEnd);
        }
    }

    /// Lets the provider forget the command.
    async fn finish(&mut self, mut line: Line<FromTask>) {
        let farewell = async {
            if line.write().await.is_ok() {
                line.queue(&ToTask::Received(self.received));
                let _ = line.write().await;
            }
            line.close().await;
        };
        let _ = timeout(FAREWELL, farewell).await;
    }

    /// Seeks another stream; none when the command is lost, which `events` says, or nobody listens.
    async fn resume(&mut self, events: &mpsc::Sender<ExecEvent>) -> Option<Line<FromTask>> {
        let Some(session) = self.session else {
            lost(
                events,
                "the connection is lost, and the provider named no way to go on",
            )
            .await;
            return None;
        };
        let until = Instant::now() + RESUME_WITHIN;
        let mut pause = FIRST_PAUSE;
        loop {
            let trying = timeout(RESUME_TRY, self.try_resume(session));
            let tried = tokio::select! {
                tried = trying => tried.unwrap_or(Err(OpenError::Silent)),
                () = events.closed() => return None,
            };
            match tried {
                Ok(line) => return Some(line),
                Err(OpenError::Refused(refusal)) if refusal.kind != TunnelFault::Host => {
                    lost(events, &format!("the command is gone: {refusal}")).await;
                    return None;
                }
                Err(error) => tracing::debug!(%error, "a command cannot go on yet"),
            }
            if Instant::now() + pause >= until {
                lost(events, "the connection is lost").await;
                return None;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn try_resume(&mut self, session: SessionId) -> Result<Line<FromTask>, OpenError> {
        let received = self.received;
        let stream = self.dial.dial().await.map_err(OpenError::Dial)?;
        let hello = self.target.hello(Purpose::Resume { session, received });
        let (opened, stream) = open(stream, &hello).await?;
        if self.input.rewind(opened.taken).is_err() {
            return Err(OpenError::Refused(crate::doors::refusal(
                TunnelFault::Invalid,
                "the provider says that input was taken that was never sent",
            )));
        }
        self.end_sent = false;
        self.acknowledged = received;
        self.urgent
            .retain(|frame| !matches!(frame, ToTask::Resize(_)));
        self.urgent.extend(self.size.map(ToTask::Resize));
        Ok(Line::new(stream))
    }
}

async fn lost(events: &mpsc::Sender<ExecEvent>, why: &str) {
    let _ = events
        .send(ExecEvent::Ended(ExecEnd::Lost(why.to_owned())))
        .await;
}
