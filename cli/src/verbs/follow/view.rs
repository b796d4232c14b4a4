//! What is said of a job's events, each thing once.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use p2pnode_protocol::api::{Event, JobInfo, JobState, TaskState};
use p2pnode_protocol::message::Phase;
use p2pnode_protocol::task::{Decider, Failure, Stream};

use super::bars::{Bars, phase_word};
use super::{Follow, counted, short};
use crate::output;
use crate::verbs::jobs::state_word;

/// Failures of tasks that are told as they happen; the rest is counted.
const MAX_FAILURES: u64 = 10;

/// Lines that are remembered as said.
const MAX_SAID: usize = 1_000;

/// See the module.
pub(super) struct View {
    how: Follow,
    job: Option<String>,
    one_task: bool,
    bars: Option<Bars>,
    /// Whom something was about, and what was said.
    said: BTreeSet<(String, String)>,
    preparing: BTreeSet<(String, Phase)>,
    failures: u64,
    failures_untold: u64,
    logs: output::Logs,
}

impl View {
    pub(super) fn new(how: Follow) -> Self {
        Self {
            how,
            job: None,
            one_task: false,
            bars: None,
            said: BTreeSet::new(),
            preparing: BTreeSet::new(),
            failures: 0,
            failures_untold: 0,
            logs: output::Logs::new(false),
        }
    }

    /// The job's id, once an event told it.
    pub(super) fn job(&self) -> Option<&str> {
        self.job.as_deref()
    }

    /// Whether there is anything to show between the events.
    pub(super) const fn wants_looks(&self) -> bool {
        !self.how.json && !self.how.quiet
    }

    /// Whether a peer fetches inputs or makes the environment.
    pub(super) fn is_preparing(&self) -> bool {
        !self.preparing.is_empty()
    }

    /// The job as it is now.
    pub(super) fn update(&mut self, info: &JobInfo) {
        if let Some(bars) = &mut self.bars {
            bars.update(info);
        }
    }

    /// Shows an event.
    pub(super) fn show(&mut self, event: &Event) {
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
    }

    /// Takes the bars away.
    pub(super) fn close(&mut self) {
        if let Some(bars) = self.bars.take() {
            bars.finish();
        }
    }

    fn begin(&mut self, job: &str, tasks: u64) {
        self.one_task = tasks == 1;
        if self.job.replace(job.to_owned()).is_none()
            && self.wants_looks()
            && output::is_interactive()
        {
            self.bars = Some(Bars::new(tasks));
        }
    }

    /// Says something beside the result, unless only programs read.
    pub(super) fn say(&self, text: &str) {
        if self.how.json {
            return;
        }
        match &self.bars {
            // The bars must make room.
            Some(bars) => bars.all.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }

    /// Whether `text` was not said of `whom` before.
    fn is_news(&mut self, whom: &str, text: &str) -> bool {
        let line = (whom.to_owned(), text.to_owned());
        !self.said.contains(&line) && (self.said.len() >= MAX_SAID || self.said.insert(line))
    }

    /// Whether a line of the node's repeats what was said of the one that it is about.
    fn is_repeated(&self, line: &str) -> bool {
        let repeats = |(whom, text): &(String, String)| {
            !text.is_empty() && line.ends_with(text.as_str()) && line.contains(whom.as_str())
        };
        self.said.iter().any(repeats)
    }

    fn show_plain(&mut self, event: &Event) {
        if let Some(bars) = &mut self.bars {
            bars.on_event(event);
        }
        match event {
            Event::JobCreated {
                job, name, tasks, ..
            } => self.say(&format!("job {job} ({name}): {}", counted(*tasks, "task"))),
            Event::PeerAnswered {
                peer,
                message: Some(message),
                refusal: Some(refusal),
                ..
            } if !refusal.is_passing() && self.is_news(short(peer), message) => {
                self.say(&format!("…{} refused: {message}", short(peer)));
            }
            Event::Preparing { peer, phase, .. } => self.prepare(peer, *phase),
            Event::TaskFinished {
                task,
                peer,
                state,
                failure: Some(failure),
                ..
            } => self.fail(task, peer, *state, failure),
            Event::PeerLost {
                peer, tasks, why, ..
            } => {
                let go = if *tasks == 1 { "goes" } else { "go" };
                self.say(&format!(
                    "peer …{} is lost; {} {go} elsewhere: {why}",
                    short(peer),
                    counted((*tasks).into(), "task")
                ));
            }
            Event::JobWaiting { reasons, .. } => self.wait(reasons),
            Event::Missed { events } => {
                self.say(&format!("({events} events were too fast to be shown)"));
            }
            Event::Log {
                task, stream, text, ..
            } => self.log(task, *stream, text),
            Event::JobFinished { .. } => self.show_end(event),
            _ => {}
        }
    }

    fn prepare(&mut self, peer: &str, phase: Phase) {
        let begun = self.preparing.contains(&(peer.to_owned(), phase));
        self.preparing.retain(|(of, _)| of != peer);
        if phase == Phase::Ready {
            return;
        }
        self.preparing.insert((peer.to_owned(), phase));
        if self.bars.is_none() && !begun {
            self.say(&format!("…{}: {}", short(peer), phase_word(phase)));
        }
    }

    fn fail(&mut self, task: &str, peer: &str, state: TaskState, failure: &Failure) {
        let again = state == TaskState::Pending;
        if again && !failure.kind.is_tasks_fault() {
            // The peer's fault: what is true of one of its tasks is true of all.
            if self.is_news(short(peer), &failure.message) {
                // What somebody decided is no failure.
                let failed = match failure.kind.decider() {
                    Decider::Owner | Decider::Submitter => "",
                    Decider::Task | Decider::Host | Decider::Network => " failed",
                };
                self.say(&format!("…{}{failed}: {}", short(peer), failure.message));
            }
            return;
        }
        self.failures += 1;
        if self.failures > MAX_FAILURES {
            self.failures_untold += u64::from(!again);
            return;
        }
        self.said.insert((task.to_owned(), failure.message.clone()));
        let again = if again { ", trying again" } else { "" };
        self.say(&format!(
            "task {} failed on …{}: {}{again}",
            index(task),
            short(peer),
            failure.message
        ));
    }

    fn wait(&mut self, reasons: &[String]) {
        let mut new = Vec::new();
        for reason in reasons {
            if !self.is_repeated(reason) && self.is_news("", reason) {
                new.push(reason);
            }
        }
        let first = self.is_news("", "waiting for a peer that fits");
        if first || !new.is_empty() {
            self.say("waiting for a peer that fits");
        }
        for reason in new {
            self.say(&format!("  {reason}"));
        }
    }

    fn log(&mut self, task: &str, stream: Stream, text: &str) {
        let (logs, one_task) = (&mut self.logs, self.one_task);
        let mut print = || match one_task {
            true => logs.piece(stream, text),
            false => logs.lines(index(task), text),
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
            usage,
            ..
        } = event
        else {
            return;
        };
        self.close();
        for note in notes {
            // Failures beyond those that were told are counted instead.
            let counted = self.failures_untold > 0 && note.starts_with("task ");
            if !counted && !self.is_repeated(note) {
                output::note(format!("  {note}"));
            }
        }
        if self.failures_untold > 0 {
            output::note(format!(
                "  and {} more; all are in: p2pnode job {job}",
                counted(self.failures_untold, "failed task")
            ));
        }
        let wall = humantime::format_duration(Duration::from_millis(*wall_ms));
        let by = match peers.len() as u64 {
            0 => String::new(),
            peers => format!(" on {}", counted(peers, "peer")),
        };
        output::note(format!(
            "job {job} {}: {} of {}{by} in {wall}",
            state_word(*state),
            tasks.succeeded,
            counted(tasks.total, "task"),
        ));
        let brought = usage.bytes_received > 0 && *state != JobState::Cancelled;
        if let Some(out) = out
            && brought
            && Path::new(out).is_dir()
        {
            output::note(format!("outputs are in {out}"));
        }
    }
}

fn index(task: &str) -> &str {
    task.rsplit('/').next().unwrap_or(task)
}
