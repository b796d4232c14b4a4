//! Bars on a terminal: one for the tasks, one for each peer that prepares.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use p2pnode_protocol::Bytes;
use p2pnode_protocol::api::{Event, JobInfo, TaskState};
use p2pnode_protocol::message::Phase;

use super::short;

/// How often bars move by themselves.
const TICK: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct Bars {
    pub(super) all: MultiProgress,
    tasks: ProgressBar,
    preparing: BTreeMap<(String, Phase), ProgressBar>,
    running: u64,
    queued: u64,
    failed: u64,
    sent: u64,
    has_eta: bool,
}

impl Bars {
    pub(super) fn new(tasks: u64) -> Self {
        let all = MultiProgress::new();
        let bar = all.add(ProgressBar::new(tasks));
        bar.set_style(style("{bar:30} {pos}/{len} tasks  {msg}  {elapsed}"));
        bar.enable_steady_tick(TICK);
        Self {
            all,
            tasks: bar,
            preparing: BTreeMap::new(),
            running: 0,
            queued: 0,
            failed: 0,
            sent: 0,
            has_eta: false,
        }
    }

    /// The job as it is now.
    pub(super) fn update(&mut self, info: &JobInfo) {
        self.tasks
            .set_position(info.tasks.succeeded + info.tasks.failed);
        self.running = info.tasks.running;
        self.queued = info.tasks.queued;
        self.failed = info.tasks.failed;
        self.sent = info.usage.bytes_sent;
        self.refresh();
    }

    pub(super) fn on_event(&mut self, event: &Event) {
        match event {
            Event::JobProgress { info } => self.update(info),
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
        self.refresh();
    }

    fn refresh(&mut self) {
        // Before a first task is done there is nothing to reckon from.
        if !self.has_eta && self.tasks.position() > 0 {
            self.has_eta = true;
            self.tasks.set_style(style(
                "{bar:30} {pos}/{len} tasks  {msg}  {elapsed}, ETA {eta}",
            ));
        }
        let mut parts = vec![format!("{} running", self.running)];
        if self.queued > 0 {
            parts.push(format!("{} queued", self.queued));
        }
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        if self.sent > 0 {
            parts.push(format!("{} sent", Bytes(self.sent)));
        }
        self.tasks.set_message(parts.join(", "));
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
                let bar = all.add(ProgressBar::no_length());
                bar.set_style(style("{spinner} {elapsed}  {msg}"));
                bar.set_message(format!("…{}: {}", short(peer), phase_word(phase)));
                bar.enable_steady_tick(TICK);
                bar
            });
        // How much there is may be known later than that something is done.
        if total > 0 {
            if bar.length().is_none() {
                bar.set_style(style("{bar:30} {bytes}/{total_bytes}  {msg}"));
            }
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    pub(super) fn finish(self) {
        for bar in self.preparing.into_values() {
            bar.finish_and_clear();
        }
        self.tasks.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A phase as people read it.
pub(in crate::verbs) const fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Fetching => "inputs arrive",
        Phase::Environment => "the module is compiled",
        Phase::Pulling => "the image is got ready",
        Phase::Loading => "the image is loaded",
        Phase::Building => "the image is built",
        Phase::Ready => "ready",
    }
}
