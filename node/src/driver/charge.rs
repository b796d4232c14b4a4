//! The owner in charge: what runs here, killing and freezing it, draining, looking back.
//!
//! Called by the driver's loop between two inputs, so an answer shows what the inputs that it causes
//! will find. Freezing is done here, because it changes nothing that the core decides by: a frozen task
//! keeps what it was given, and its submitter hears this node's heartbeats as before.

use std::collections::BTreeMap;

use p2pnode_protocol::PeerId;
use p2pnode_protocol::api::{
    DrainStatus, ErrorCode, HistoryPage, HistoryRow, HostUsage, HostedDone, HostedGpu, HostedName,
    HostedState, HostedTask, HostedTasks, HostedUnable, HostedUse, HostedWaiting, UsageReport,
    UsageRow, UsageSum,
};
use p2pnode_protocol::task::NetworkMode;
use p2pnode_protocol::{AttemptKey, TaskKey};

use super::actor::Driver;
use super::history::program_text;
use super::owner::give;
use crate::command::{Answer, CommandError, OwnerCommand};
use crate::core::io::{Input, Meant, RunKey};
use crate::exec::HeldRun;
use crate::store::StoreError;
use crate::store::history::{History, PastRow, Spent, Sum, Sums};

impl Driver {
    /// Does what the owner asks about tasks here.
    pub(super) fn on_owner_command(&mut self, command: OwnerCommand, inputs: &mut Vec<Input>) {
        match command {
            OwnerCommand::Hosted { answer } => give(answer, Ok(self.hosted_tasks())),
            OwnerCommand::Kill {
                meant,
                reason,
                answer,
            } => {
                let mut done = self.done(&meant);
                done.tasks = self.named(&meant).map(|(run, _)| name(run)).collect();
                done.waiting = self.core.waiting_tasks(&meant);
                inputs.push(Input::Kill { meant, reason });
                self.then.push(Box::new(move || give(answer, Ok(done))));
            }
            OwnerCommand::Pause { meant, on, answer } => {
                give(answer, Ok(self.pause(&meant, on)));
            }
            OwnerCommand::Drain { on, answer } => {
                let running = self.core.capacity().running;
                let waiting = match on {
                    true => 0,
                    false => self.core.capacity().queued,
                };
                let status = DrainStatus {
                    draining: on,
                    running,
                    waiting,
                };
                inputs.push(Input::Drain(on));
                self.then.push(Box::new(move || give(answer, Ok(status))));
            }
            OwnerCommand::History { query, answer } => {
                let (names, limit) = (self.names(), query.limit as usize);
                self.look_back(answer, move |history| {
                    let rows = history.page(&query)?;
                    Ok(history_page(rows, limit, &names))
                });
            }
            OwnerCommand::Usage { by, query, answer } => {
                let names = self.names();
                self.look_back(answer, move |history| {
                    let Sums { rows, total } = history.sums(by, &query)?;
                    Ok(UsageReport {
                        by,
                        rows: rows.into_iter().map(|sum| usage_row(sum, &names)).collect(),
                        total: usage_sum(total),
                    })
                });
            }
        }
    }

    /// Asks the history on a thread that may block.
    fn look_back<T: Send + 'static>(
        &self,
        answer: Answer<T>,
        ask: impl FnOnce(&History) -> Result<T, StoreError> + Send + 'static,
    ) {
        let history = self.history.clone();
        tokio::task::spawn_blocking(move || {
            let said = ask(&history)
                .map_err(|error| CommandError::new(ErrorCode::Internal, error.to_string()));
            give(answer, said);
        });
    }

    fn hosted_tasks(&self) -> HostedTasks {
        let mut runs: Vec<(&RunKey, &HeldRun)> = self.hosting.runs().collect();
        runs.sort_unstable_by_key(|(run, held)| (held.about.since_ms, **run));
        let waiting = self.core.hosted_waiting().into_iter();
        HostedTasks {
            draining: self.core.is_draining(),
            tasks: runs
                .into_iter()
                .map(|(run, held)| hosted_task(self.name_of(&run.submitter), run, held))
                .collect(),
            waiting: waiting
                .map(|(hosted, job_name, tasks, preparing)| HostedWaiting {
                    peer: hosted.submitter.to_string(),
                    peer_name: self.name_of(&hosted.submitter),
                    job: hosted.job.to_string(),
                    job_name,
                    tasks,
                    preparing,
                })
                .collect(),
        }
    }

    /// Runs that `meant` means, the oldest first.
    fn named<'a>(&'a self, meant: &'a Meant) -> impl Iterator<Item = (&'a RunKey, &'a HeldRun)> {
        let runs = self.hosting.runs();
        let mut named: Vec<_> = runs
            .filter(|(run, _)| meant.has_task(&run.hosted(), run.task()))
            .collect();
        named.sort_unstable_by_key(|(run, held)| (held.about.since_ms, **run));
        named.into_iter()
    }

    fn done(&self, meant: &Meant) -> HostedDone {
        let (meant, peer) = match meant {
            Meant::Task(..) => ("task", None),
            Meant::Job(_) => ("job", None),
            // This node itself is always allowed.
            Meant::Peer(peer) => (
                "peer",
                Some(*peer)
                    .filter(|peer| *peer != self.me)
                    .map(|peer| peer.to_string()),
            ),
            Meant::All => ("all", None),
        };
        HostedDone {
            meant: meant.to_owned(),
            peer,
            tasks: Vec::new(),
            waiting: 0,
            unable: Vec::new(),
        }
    }

    /// Freezes what can be frozen of what is meant, or lets it go on.
    fn pause(&self, meant: &Meant, on: bool) -> HostedDone {
        let mut done = self.done(meant);
        for (run, held) in self.named(meant) {
            let runtime = held.about.template.program.runtime();
            let HostedName { task, peer } = name(run);
            if self.owner.can_freeze(runtime) {
                self.hosting.pause(run, on);
                done.tasks.push(HostedName { task, peer });
            } else {
                let why = format!(
                    "{runtime} tasks cannot be frozen here: they end by themselves, or with p2pnode kill"
                );
                done.unable.push(HostedUnable { task, peer, why });
            }
        }
        done
    }

    /// What a peer, or this node, calls itself.
    fn name_of(&self, peer: &PeerId) -> String {
        if *peer == self.me {
            return self.owner.about.name.clone();
        }
        self.core.peer_name(peer).unwrap_or_default().to_owned()
    }

    /// What known peers, and this node, call themselves.
    fn names(&self) -> BTreeMap<PeerId, String> {
        let known = self.core.known_peers(self.clock.now()).into_iter();
        let mut names: BTreeMap<PeerId, String> =
            known.map(|(peer, info)| (peer, info.name)).collect();
        names.insert(self.me, self.owner.about.name.clone());
        names
    }
}

fn name(run: &RunKey) -> HostedName {
    HostedName {
        task: run.attempt.task.to_string(),
        peer: run.submitter.to_string(),
    }
}

fn hosted_task(peer_name: String, run: &RunKey, held: &HeldRun) -> HostedTask {
    let (template, AttemptKey { task, attempt }) = (&held.about.template, run.attempt);
    let live = held.usage();
    let known = live != p2pnode_executor::LiveUsage::default();
    HostedTask {
        task: task.to_string(),
        attempt,
        peer: run.submitter.to_string(),
        peer_name,
        job: task.job.to_string(),
        job_name: template.name.clone(),
        runtime: template.program.runtime(),
        program: program_text(&template.program),
        state: match (held.started, held.is_paused() || live.paused) {
            (_, true) => HostedState::Paused,
            (true, false) => HostedState::Running,
            (false, false) => HostedState::Preparing,
        },
        since_ms: held.about.since_ms,
        cpus_milli: template.resources.cpus.0,
        memory: template.resources.memory.0,
        disk: template.resources.disk.0,
        gpus: held
            .about
            .gpus
            .iter()
            .map(|gpu| HostedGpu {
                uuid: gpu.uuid.clone(),
                model: gpu.model.clone(),
                milli: gpu.milli,
            })
            .collect(),
        network: match &template.network {
            NetworkMode::None => "none".to_owned(),
            NetworkMode::Egress { domains } => domains.join(","),
        },
        now: known.then_some(HostedUse {
            cpu_us: live.cpu_us,
            memory: live.memory,
            memory_peak: live.memory_peak,
            disk: live.disk,
            network_bytes: live.network_bytes,
            processes: live.processes,
        }),
    }
}

fn history_page(rows: Vec<PastRow>, limit: usize, names: &BTreeMap<PeerId, String>) -> HistoryPage {
    let full = rows.len() >= limit;
    let next = rows.last().filter(|_| full).map(|row| row.number);
    let rows = rows.into_iter().map(|row| {
        let PastRow {
            number,
            outcome,
            past,
        } = row;
        let task = past.task.map(|task| {
            let key = TaskKey {
                job: past.job,
                step: task.step,
                index: task.index,
            };
            (key.to_string(), task.attempt)
        });
        let (task, attempt) = task.unzip();
        HistoryRow {
            number,
            peer: past.peer.to_string(),
            peer_name: names.get(&past.peer).cloned().unwrap_or_default(),
            job: past.job.to_string(),
            job_name: past.name,
            task,
            attempt,
            tasks: past.tasks,
            program: past.program,
            started_ms: past.started_ms,
            ended_ms: past.ended_ms,
            outcome,
            message: past.message,
            usage: host_usage(&past.spent),
        }
    });
    HistoryPage {
        rows: rows.collect(),
        next,
    }
}

const fn host_usage(spent: &Spent) -> HostUsage {
    HostUsage {
        wall_us: spent.wall_us,
        cpu_us: spent.cpu_us,
        gpu_us: spent.gpu_us,
        memory_mib_s: spent.memory_mib_us / 1_000_000,
        memory_peak: spent.memory_peak,
        network_bytes: spent.network_bytes,
        output_bytes: spent.output_bytes,
        energy_mj: spent.energy_mj,
    }
}

fn usage_sum(sum: Sum) -> UsageSum {
    UsageSum {
        usage: host_usage(&sum.spent),
        tasks: sum.tasks,
    }
}

fn usage_row(sum: Sum, names: &BTreeMap<PeerId, String>) -> UsageRow {
    let peer_name = sum.peer.and_then(|peer| names.get(&peer).cloned());
    UsageRow {
        peer: sum.peer.map(|peer| peer.to_string()),
        peer_name: peer_name.unwrap_or_default(),
        job: sum.job.map(|job| job.to_string()),
        job_name: sum.job.map(|_| sum.name.clone()),
        day: sum.day.map(day_text),
        sum: usage_sum(sum),
    }
}

/// A day since the Unix epoch as `2026-11-22`.
fn day_text(day: u64) -> String {
    let at = std::time::UNIX_EPOCH
        .checked_add(std::time::Duration::from_secs(day.saturating_mul(86_400)))
        .unwrap_or(std::time::UNIX_EPOCH);
    let text = humantime::format_rfc3339_seconds(at).to_string();
    text.chars().take(10).collect()
}
