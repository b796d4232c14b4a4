//! Watching a job to its end: bars, plain lines or JSON lines.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use p2pnode_protocol::api::{Event, JobInfo, JobState, TaskState};
use p2pnode_protocol::message::Phase;
use p2pnode_protocol::task::Stream;

use super::jobs::state_word;
use crate::client::{Client, EventStream};
use crate::exit::{self, Failure};
use crate::output;

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
    mut events: EventStream,
    how: Follow,
) -> Result<ExitCode, Failure> {
    let mut view = View::new(how);
    let mut interrupted = false;
    let mut terminated = terminate()?;
    loop {
        let event = tokio::select! {
            event = events.next() => event?,
            _ = tokio::signal::ctrl_c(), if !interrupted => { interrupted = true; None }
            () = terminated.wait(), if !interrupted => { interrupted = true; None }
        };
        match event {
            Some(Event::JobFinished { state, no_peer, .. }) if view.show(event.as_ref()) => {
                return Ok(exit::of_job(state, no_peer, interrupted));
            }
            Some(event) => {
                view.show(Some(&event));
            }
            None if interrupted && how.cancel_on_interrupt => match &view.job {
                // Once cancelled, the job's last event is on its way.
                Some(job) if !view.cancelled => {
                    let path = format!("/jobs/{job}/cancel");
                    view.cancelled = true;
                    let _info: JobInfo = client.ask(Method::POST, &path, &()).await?;
                }
                Some(_) => return Err(Failure::nobody("the node is gone")),
                None => return Ok(ExitCode::from(exit::INTERRUPTED)),
            },
            None if interrupted => return Ok(ExitCode::from(exit::INTERRUPTED)),
            None => return Err(Failure::nobody("the node ended before the job did")),
        }
    }
}

/// SIGTERM, where there is such a thing.
struct Terminate(tokio::signal::unix::Signal);

fn terminate() -> Result<Terminate, Failure> {
    let kind = tokio::signal::unix::SignalKind::terminate();
    tokio::signal::unix::signal(kind)
        .map(Terminate)
        .map_err(|error| Failure::internal(format!("cannot listen for SIGTERM: {error}")))
}

impl Terminate {
    async fn wait(&mut self) {
        self.0.recv().await;
    }
}

struct View {
    how: Follow,
    job: Option<String>,
    cancelled: bool,
    one_task: bool,
    bars: Option<Bars>,
}

struct Bars {
    all: MultiProgress,
    tasks: ProgressBar,
    preparing: BTreeMap<(String, Phase), ProgressBar>,
    running: u64,
    failed: u64,
}

impl View {
    fn new(how: Follow) -> Self {
        Self {
            how,
            job: None,
            cancelled: false,
            one_task: false,
            bars: None,
        }
    }

    /// Shows an event. Always true, for use in a guard.
    fn show(&mut self, event: Option<&Event>) -> bool {
        let Some(event) = event else { return true };
        if let Event::JobCreated { job, tasks, .. } = event {
            self.begin(job, *tasks);
        }
        if let Event::JobProgress { info } = event {
            self.begin(&info.job, info.tasks.total);
        }
        if self.how.json {
            output::line_json(event);
        } else if !self.how.quiet {
            self.show_plain(event);
        } else if let Event::JobFinished { .. } = event {
            self.show_end(event);
        }
        true
    }

    fn begin(&mut self, job: &str, tasks: u64) {
        self.one_task = tasks == 1;
        if self.job.replace(job.to_owned()).is_none()
            && !self.how.json
            && !self.how.quiet
            && output::is_interactive()
        {
            self.bars = Some(Bars::new(tasks));
        }
    }

    fn say(&self, text: String) {
        match &self.bars {
            // The bars must make room.
            Some(bars) => bars.all.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }

    fn show_plain(&mut self, event: &Event) {
        if let Some(bars) = &mut self.bars {
            bars.update(event);
        }
        match event {
            Event::JobCreated {
                job, name, tasks, ..
            } => {
                self.say(format!(
                    "job {job} ({name}): {tasks} {}",
                    plural(*tasks, "task")
                ));
            }
            Event::PeerAnswered {
                peer,
                message: Some(message),
                refusal: Some(refusal),
                ..
            } if !refusal.is_passing() => {
                self.say(format!("{} refused: {message}", short(peer)));
            }
            Event::Preparing {
                peer,
                phase,
                done: 0,
                ..
            } if self.bars.is_none() => {
                self.say(format!("{}: {}", short(peer), phase_word(*phase)));
            }
            Event::TaskFinished {
                task,
                peer,
                state,
                failure: Some(failure),
                ..
            } => {
                let again = if *state == TaskState::Pending {
                    ", trying again"
                } else {
                    ""
                };
                self.say(format!(
                    "task {} failed on {}: {}{again}",
                    index(task),
                    short(peer),
                    failure.message
                ));
            }
            Event::PeerLost { peer, tasks, .. } => {
                self.say(format!(
                    "peer {} is lost; {tasks} {} go elsewhere",
                    short(peer),
                    plural(*tasks, "task")
                ));
            }
            Event::JobWaiting { reasons, .. } => {
                self.say("waiting for a peer that fits".to_owned());
                for reason in reasons {
                    self.say(format!("  {reason}"));
                }
            }
            Event::Missed { events } => {
                self.say(format!("({events} events were too fast to be shown)"));
            }
            Event::Log {
                task, stream, text, ..
            } => self.log(task, *stream, text),
            Event::JobFinished { .. } => self.show_end(event),
            _ => {}
        }
    }

    fn log(&self, task: &str, stream: Stream, text: &str) {
        let print = || {
            if !self.one_task {
                let index = index(task);
                for line in text.lines() {
                    output::line(format!("{index:>5} | {line}"));
                }
                return;
            }
            match stream {
                Stream::Stdout => output::raw(text),
                Stream::Stderr => output::raw_note(text),
            }
        };
        match &self.bars {
            Some(bars) => bars.all.suspend(print),
            None => print(),
        }
    }

    fn show_end(&mut self, event: &Event) {
        let Event::JobFinished {
            job,
            state,
            tasks,
            wall_ms,
            out,
            notes,
            peers,
            ..
        } = event
        else {
            return;
        };
        if let Some(bars) = self.bars.take() {
            bars.finish();
        }
        for note in notes {
            output::note(format!("  {note}"));
        }
        let wall = humantime::format_duration(Duration::from_millis(*wall_ms));
        let by = format!("{} {}", peers.len(), plural(peers.len() as u64, "peer"));
        output::note(format!(
            "job {job} {}: {} of {} {} on {by} in {wall}",
            state_word(*state),
            tasks.succeeded,
            tasks.total,
            plural(tasks.total, "task"),
        ));
        if let (Some(out), JobState::Succeeded) = (out, state) {
            output::note(format!("outputs are in {out}"));
        }
    }
}

impl Bars {
    fn new(tasks: u64) -> Self {
        let all = MultiProgress::new();
        let bar = all.add(ProgressBar::new(tasks));
        bar.set_style(style("{bar:30} {pos}/{len} tasks  {msg}  ETA {eta}"));
        bar.enable_steady_tick(Duration::from_millis(250));
        Self {
            all,
            tasks: bar,
            preparing: BTreeMap::new(),
            running: 0,
            failed: 0,
        }
    }

    fn update(&mut self, event: &Event) {
        match event {
            Event::JobProgress { info } => {
                self.tasks
                    .set_position(info.tasks.succeeded + info.tasks.failed);
                self.running = info.tasks.running;
                self.failed = info.tasks.failed;
            }
            Event::TaskStarted { .. } => self.running += 1,
            Event::TaskFinished { state, .. } => {
                self.running = self.running.saturating_sub(1);
                match state {
                    TaskState::Succeeded => self.tasks.inc(1),
                    TaskState::Failed => {
                        self.failed += 1;
                        self.tasks.inc(1);
                    }
                    _ => {}
                }
            }
            Event::Preparing {
                peer,
                phase,
                done,
                total,
                ..
            } => self.prepare(peer, *phase, *done, *total),
            _ => {}
        }
        self.tasks
            .set_message(format!("{} running, {} failed", self.running, self.failed));
    }

    /// A bar for each peer and phase, gone when the next phase begins.
    fn prepare(&mut self, peer: &str, phase: Phase, done: u64, total: u64) {
        let over: Vec<(String, Phase)> = self
            .preparing
            .keys()
            .filter(|(of, earlier)| of == peer && *earlier != phase)
            .cloned()
            .collect();
        for key in over {
            if let Some(bar) = self.preparing.remove(&key) {
                bar.finish_and_clear();
            }
        }
        if phase == Phase::Ready {
            return;
        }
        let all = &self.all;
        let bar = self
            .preparing
            .entry((peer.to_owned(), phase))
            .or_insert_with(|| {
                let bar = all.add(ProgressBar::new(total.max(1)));
                bar.set_style(style("{bar:30} {bytes}/{total_bytes}  {msg}"));
                bar.set_message(format!("{} {}", short(peer), phase_word(phase)));
                bar
            });
        bar.set_length(total.max(1));
        bar.set_position(done);
    }

    fn finish(self) {
        for bar in self.preparing.into_values() {
            bar.finish_and_clear();
        }
        self.tasks.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The end of a peer id, which is what differs.
pub fn short(peer: &str) -> &str {
    peer.get(peer.len().saturating_sub(8)..).unwrap_or(peer)
}

fn index(task: &str) -> &str {
    task.rsplit('/').next().unwrap_or(task)
}

fn plural(count: impl Into<u64>, word: &str) -> String {
    if count.into() == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}

const fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Fetching => "inputs arrive",
        Phase::Environment => "the environment is made",
        Phase::Ready => "ready",
    }
}
