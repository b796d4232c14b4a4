//! How a job ends, and how its providers are told.

use std::collections::BTreeMap;

use p2pnode_protocol::api::{Event, JobState};
use p2pnode_protocol::id::StepIndex;
use p2pnode_protocol::message::{TaskRequest, TaskResponse};
use p2pnode_protocol::{JobId, PeerId};

use super::job::Job;
use super::watch::Watch;
use crate::core::desk::{CallKind, Cx, Timer};
use crate::core::io::{CallFailure, CallId, Effect, Millis, Record};
use crate::core::peers::Peers;

/// Providers that have to be told that a job is over.
#[derive(Debug, Default)]
pub(super) struct Farewells {
    open: BTreeMap<(JobId, PeerId), Farewell>,
}

#[derive(Debug)]
struct Farewell {
    cancelled: bool,
    until_ms: Millis,
    call: Option<CallId>,
}

impl Farewells {
    /// Tells `peer` until it answers or its lease ends by itself.
    fn add(&mut self, cx: &mut Cx, peers: &Peers, job: JobId, peer: PeerId, cancelled: bool) {
        let farewell = Farewell {
            cancelled,
            until_ms: cx.now + cx.config.submit.release_ms,
            call: None,
        };
        self.open.insert((job, peer), farewell);
        self.tell(cx, peers, job, peer);
    }

    /// Says it (again), or gives up when the time is over.
    pub(super) fn tell(&mut self, cx: &mut Cx, peers: &Peers, job: JobId, peer: PeerId) {
        let Some(farewell) = self.open.get_mut(&(job, peer)) else {
            return;
        };
        if farewell.call.is_some() {
            return;
        }
        if cx.now >= farewell.until_ms {
            self.open.remove(&(job, peer));
            return;
        }
        if peers.is_connected(&peer) {
            let request = if farewell.cancelled {
                TaskRequest::Cancel { job, tasks: None }
            } else {
                TaskRequest::Release { job }
            };
            farewell.call = Some(cx.call(peer, CallKind::Close(job), request));
        } else {
            cx.set(
                Timer::Close(job, peer),
                cx.now + cx.config.submit.heartbeat_ms,
            );
        }
    }

    /// The provider answered, or did not.
    pub(super) fn on_answer(
        &mut self,
        cx: &mut Cx,
        job: JobId,
        peer: PeerId,
        response: &Result<TaskResponse, CallFailure>,
    ) {
        let Some(farewell) = self.open.get_mut(&(job, peer)) else {
            return;
        };
        farewell.call = None;
        if matches!(response, Ok(answer) if *answer != TaskResponse::Busy) {
            self.open.remove(&(job, peer));
        } else {
            cx.set(
                Timer::Close(job, peer),
                cx.now + cx.config.submit.heartbeat_ms,
            );
        }
    }

    /// A connection opened: say what is still to be said.
    pub(super) fn on_connected(&mut self, cx: &mut Cx, peers: &Peers, peer: PeerId) {
        let jobs: Vec<JobId> = self
            .open
            .keys()
            .filter(|(_, to)| *to == peer)
            .map(|(job, _)| *job)
            .collect();
        for job in jobs {
            self.tell(cx, peers, job, peer);
        }
    }

    /// Whether one is on its way.
    pub(super) fn is_under_way(&self) -> bool {
        self.open.values().any(|farewell| farewell.call.is_some())
    }
}

impl Job {
    /// How the job is to end, when it has come to its end.
    pub(super) fn verdict(&mut self) -> Option<JobState> {
        if let Some(broken) = self.broken.clone() {
            // First, because it is what a person must know.
            self.notes.insert(0, broken);
            self.notes.truncate(super::job::MAX_NOTES);
            return Some(JobState::Failed);
        }
        self.open_steps();
        if self.steps.iter().any(|step| step.tasks.open() > 0) {
            return None;
        }
        let failed = self.counts.failed + self.counts.cancelled > 0;
        Some(if failed {
            JobState::Failed
        } else {
            JobState::Succeeded
        })
    }

    /// Steps whose needs have succeeded may run; those whose needs have failed never will.
    fn open_steps(&mut self) {
        for position in 0..self.steps.len() {
            let needs: Vec<StepIndex> = self.steps[position].waits_for.iter().copied().collect();
            for needed in needs {
                let Some(step) = self.steps.get(usize::from(needed)) else {
                    continue;
                };
                if step.tasks.open() > 0 {
                    continue;
                }
                let succeeded = step.tasks.all_succeeded();
                self.steps[position].waits_for.remove(&needed);
                if !succeeded {
                    self.steps[position].tasks.cancel_all(&mut self.counts);
                    self.note(|| {
                        format!("step {position} was not run, because step {needed} failed")
                    });
                }
            }
        }
    }

    /// Ends the job: stores that, tells its providers and whoever watches.
    pub(super) fn end(
        &mut self,
        cx: &mut Cx,
        peers: &Peers,
        watch: &mut Watch,
        farewells: &mut Farewells,
        state: JobState,
    ) {
        for step in &mut self.steps {
            step.tasks.cancel_all(&mut self.counts);
        }
        self.state = state;
        self.finished_ms = Some(cx.now);
        self.out_count = 0;
        self.collecting.clear();
        cx.persist(Record::JobEnded {
            job: self.id,
            state,
            finished_ms: cx.now,
            notes: self.notes.clone(),
        });
        cx.out.push(Effect::JobOver(self.id));
        cx.clear(Timer::Job(self.id));
        for (peer, link) in std::mem::take(&mut self.links) {
            cx.clear(Timer::Link(self.id, peer));
            watch.remove(cx, &peer, self.id);
            if link.used {
                farewells.add(cx, peers, self.id, peer, state != JobState::Succeeded);
            }
        }
        tracing::info!(job = %self.id, ?state, tasks = self.counts.total, "job ended");
        let info = self.info();
        cx.emit(Event::JobFinished {
            job: self.text.clone(),
            state,
            tasks: self.counts,
            peers: info.peers,
            usage: info.usage,
            wall_ms: cx.now.saturating_sub(self.created_ms),
            out: self.out.clone(),
            notes: self.notes.clone(),
            no_peer: self.no_peer,
        });
    }
}
