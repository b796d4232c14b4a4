//! Watching a job to its end: bars, plain lines or JSON lines.

mod bars;
mod view;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hyper::Method;
use p2pnode_protocol::api::{Event, JobInfo, PeerInfo, TaskInfo, TaskState};

pub(super) use self::bars::phase_word;
use self::view::View;
use crate::client::{Client, EventStream};
use crate::exit::{self, Failure};
use crate::interrupt::{Cause, Interrupts};

/// How often the job itself is looked at, for what no event says.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks in a row at which tasks wait at a peer and none runs, before that is said.
const QUEUED_LOOKS: u32 = 3;

/// Tasks asked for to see where they wait.
const QUEUED_TASKS: u32 = 1_000;

/// How long a job that was cancelled because its node stops has to say so.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How a job is watched.
#[derive(Clone, Copy)]
pub struct Follow {
    /// JSON lines.
    pub json: bool,
    /// Only the end.
    pub quiet: bool,
    /// Whether Ctrl-C cancels the job, or just ends the watching.
    pub cancel_on_interrupt: bool,
}

/// Shows the events of a job up to its end; the exit code is the job's.
pub async fn follow(
    client: Client,
    events: EventStream,
    how: Follow,
    interrupts: &mut Interrupts,
) -> Result<ExitCode, Failure> {
    let mut following = Following {
        client,
        how,
        view: View::new(how),
        cause: None,
        queued_looks: 0,
    };
    let ended = following.run(events, interrupts).await;
    following.view.close();
    ended
}

struct Following {
    client: Client,
    how: Follow,
    view: View,
    /// Why the job was cancelled from here, and when.
    cause: Option<(Cause, Instant)>,
    queued_looks: u32,
}

impl Following {
    async fn run(
        &mut self,
        mut events: EventStream,
        interrupts: &mut Interrupts,
    ) -> Result<ExitCode, Failure> {
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first is due at once, when nothing can have happened yet.
        look.tick().await;
        loop {
            tokio::select! {
                event = events.next() => {
                    let Ok(Some(event)) = event else {
                        return self.gone(event.err());
                    };
                    self.view.show(&event);
                    if let Event::JobFinished { state, no_peer, .. } = event {
                        let interrupted = matches!(self.cause, Some((Cause::Signal, _)));
                        if matches!(self.cause, Some((Cause::Stopped, _))) {
                            self.view.say("the node was stopped; the job is cancelled");
                        }
                        return Ok(exit::of_job(state, no_peer, interrupted));
                    }
                }
                cause = interrupts.next() => {
                    if let Some(code) = self.interrupted(cause).await? {
                        return Ok(code);
                    }
                }
                _ = look.tick() => {
                    if let Some((Cause::Stopped, since)) = self.cause
                        && since.elapsed() > LAST_WORD
                    {
                        return self.gone(None);
                    }
                    self.look().await;
                }
            }
        }
    }

    /// Cancels the job the first time; the second time, or when the job is not ours to cancel, ends
    /// the watching.
    async fn interrupted(&mut self, cause: Cause) -> Result<Option<ExitCode>, Failure> {
        let end = ExitCode::from(exit::INTERRUPTED);
        if !self.how.cancel_on_interrupt {
            return Ok(Some(end));
        }
        let Some(job) = self.view.job().map(str::to_owned) else {
            return Ok(Some(end));
        };
        if let Some((Cause::Signal, _)) = self.cause {
            return Ok(Some(end));
        }
        let first = self.cause.replace((cause, Instant::now())).is_none();
        if first {
            if cause == Cause::Signal {
                self.view.say("cancelling…");
            }
            // Once cancelled, the job's last event is on its way.
            let path = format!("/jobs/{job}/cancel");
            let _info: JobInfo = self.client.ask(Method::POST, &path, &()).await?;
        }
        Ok(None)
    }

    /// The events ended before the job did.
    fn gone(&self, broke: Option<Failure>) -> Result<ExitCode, Failure> {
        if self.cause.is_some() {
            return Err(Failure::internal(
                "the node ended before it said how the job ended",
            ));
        }
        Err(gone(self.view.job(), broke.is_none()))
    }

    /// Sees what no event tells: how much was sent, and that tasks wait behind other work. Whatever
    /// cannot be seen is left to the events.
    async fn look(&mut self) {
        let Some(job) = self.view.job().map(str::to_owned) else {
            return;
        };
        if !self.view.wants_looks() {
            return;
        }
        let Ok(info) = self.client.get::<JobInfo>(&format!("/jobs/{job}")).await else {
            return;
        };
        self.view.update(&info);
        let stuck = info.tasks.queued > 0 && info.tasks.running == 0 && !self.view.is_preparing();
        self.queued_looks = if stuck { self.queued_looks + 1 } else { 0 };
        if self.queued_looks == QUEUED_LOOKS {
            for peer in self.queued_at(&job).await.unwrap_or_default() {
                self.view
                    .say(&format!("queued behind other work on {peer}"));
            }
        }
    }

    /// Where tasks of the job wait, in words.
    async fn queued_at(&self, job: &str) -> Result<Vec<String>, Failure> {
        let path = format!("/jobs/{job}/tasks?from=0&count={QUEUED_TASKS}");
        let tasks: Vec<TaskInfo> = self.client.get(&path).await?;
        let known: Vec<PeerInfo> = self.client.get("/peers").await?;
        let mut peers: Vec<String> = tasks
            .into_iter()
            .filter(|task| task.state == TaskState::Queued)
            .filter_map(|task| task.peer)
            .collect();
        peers.sort_unstable();
        peers.dedup();
        let spoken = |peer: &String| {
            let info = known.iter().find(|info| info.peer == *peer);
            match info.map(|info| info.name.as_str()) {
                Some(name) if !name.is_empty() => format!("{name} (…{})", short(peer)),
                _ => format!("…{}", short(peer)),
            }
        };
        Ok(peers.iter().map(spoken).collect())
    }
}

/// What is said when a running node went away while a job was watched: `told` when it said goodbye.
pub fn gone(job: Option<&str>, told: bool) -> Failure {
    let why = if told {
        "the node was stopped"
    } else {
        "the node is gone"
    };
    Failure::nobody(match job {
        Some(job) => {
            format!("{why}; job {job} goes on when it starts again: p2pnode join")
        }
        None => format!("{why}; start it again with: p2pnode join"),
    })
}

/// The end of a peer id, which is what differs, as long as it takes to name the peer.
pub fn short(peer: &str) -> &str {
    peer.get(peer.len().saturating_sub(10)..).unwrap_or(peer)
}

/// `1 task`, `2 tasks`.
pub fn counted(count: u64, word: &str) -> String {
    if count == 1 {
        format!("{count} {word}")
    } else {
        format!("{count} {word}s")
    }
}
