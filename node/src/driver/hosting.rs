//! Effects of hosting other peers' jobs: environments, runs, what they leave.
//!
//! Owns the tables of prepared steps, runs under way and log pipes; the work itself is done in tasks
//! ([`super::preparing`], [`super::running`]) that answer with inputs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use p2pnode_protocol::task::{Assignment, Failure, TaskTemplate};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::actor::Internal;
use super::diskroom::DiskRoom;
use super::fetching::Fetcher;
use super::logins::HostedLogins;
use super::logpipe::{LogPipe, LogTarget};
use super::meter::Meter;
use super::preparing::{self, Preparation, Step};
use super::running;
use crate::blobs::{BlobStore, PinOwner, PinScope};
use crate::core::io::{HostedJob, Leave, RunKey, RunLimits};
use crate::exec::{Exec, HeldRun, JobDirs, RunAbout, Runs, WorkDirs};
use crate::tunnels::Doors;

/// What tasks of the hosting side share.
#[derive(Clone)]
pub(super) struct HostContext {
    pub(super) exec: Exec,
    pub(super) dirs: WorkDirs,
    pub(super) blobs: Arc<BlobStore>,
    pub(super) fetcher: Fetcher,
    pub(super) disk: DiskRoom,
    pub(super) log_target: LogTarget,
    pub(super) meter: Meter,
    pub(super) doors: Doors,
    pub(super) internal: mpsc::Sender<Internal>,
}

impl HostContext {
    /// Tells the core.
    pub(super) async fn say(&self, input: crate::core::io::Input) {
        // The driver is gone only when the node stops.
        let _stopping = self.internal.send(Internal::Input(input)).await;
    }
}

/// See the module.
pub(super) struct Hosting {
    context: HostContext,
    jobs: HashMap<HostedJob, Hosted>,
    runs: Runs,
    logins: HostedLogins,
}

/// What this node holds for a job.
struct Hosted {
    steps: BTreeMap<u16, Arc<Step>>,
    /// Ends the making of each step's environment.
    making: BTreeMap<u16, CancellationToken>,
    dirs: JobDirs,
    /// What writes into `dirs` and cannot be broken off; the directories go after it.
    writing: TaskTracker,
    log: LogPipe,
    over: CancellationToken,
}

impl Hosting {
    pub(super) fn new(context: HostContext) -> Self {
        Self {
            context,
            jobs: HashMap::new(),
            runs: Runs::default(),
            logins: HostedLogins::default(),
        }
    }

    /// Credentials that submitters sent along.
    pub(super) const fn logins(&mut self) -> &mut HostedLogins {
        &mut self.logins
    }

    /// Makes a step's environment; see [`crate::core::io::Effect::Prepare`].
    pub(super) fn prepare(
        &mut self,
        hosted: HostedJob,
        template: Arc<TaskTemplate>,
        making: u32,
        leave: Leave,
    ) {
        let context = &self.context;
        let entry = self.jobs.entry(hosted).or_insert_with(|| {
            let over = CancellationToken::new();
            let log = LogPipe::open(hosted, context.log_target.clone(), over.clone());
            Hosted {
                steps: BTreeMap::new(),
                making: BTreeMap::new(),
                dirs: context.dirs.of_job(&hosted),
                writing: TaskTracker::new(),
                log,
                over,
            }
        });
        let step = Arc::new(Step::new(entry.dirs.clone(), making, entry.writing.clone()));
        entry.steps.insert(template.step, step.clone());
        let stop = entry.over.child_token();
        entry.making.insert(template.step, stop.clone());
        let preparation = Preparation {
            login: self.logins.of(hosted, template.step),
            hosted,
            template,
            making,
            leave,
            stop,
        };
        tokio::spawn(preparing::prepare(context.clone(), preparation, step));
    }

    /// Nobody waits for a step's environment any more.
    pub(super) fn stop_preparing(&mut self, hosted: &HostedJob, step: u16) {
        if let Some(held) = self.jobs.get_mut(hosted) {
            held.steps.remove(&step);
            if let Some(stop) = held.making.remove(&step) {
                stop.cancel();
            }
        }
    }

    pub(super) fn run(
        &mut self,
        run: RunKey,
        about: RunAbout,
        assignment: Assignment,
        limits: RunLimits,
    ) {
        let (template, gpus) = (about.template.clone(), about.gpus.clone());
        let hosted = HostedJob {
            submitter: run.submitter,
            job: run.attempt.task.job,
        };
        let held = self.jobs.get(&hosted);
        let step = held.and_then(|held| held.steps.get(&template.step).cloned());
        let log = held.map(|held| held.log.clone());
        let control = self.runs.add(run, about);
        let (runtime, way) = (template.program.runtime(), control.hold.inside.subscribe());
        self.context.doors.add(run, runtime, way);
        let job = running::Run {
            key: run,
            template,
            assignment,
            gpus,
            limits,
            step,
            log,
            control,
        };
        tokio::spawn(running::run(self.context.clone(), job));
    }

    pub(super) fn kill(&self, run: &RunKey, why: Failure) {
        self.runs.kill(run, why);
    }

    /// The run's process started.
    pub(super) fn on_started(&mut self, run: &RunKey) {
        self.runs.on_started(run);
    }

    /// Freezes a run, or lets it go on.
    pub(super) fn pause(&self, run: &RunKey, on: bool) {
        self.runs.pause(run, on);
    }

    /// Runs under way, in no order.
    pub(super) fn runs(&self) -> impl Iterator<Item = (&RunKey, &HeldRun)> {
        self.runs.iter()
    }

    /// The run's end is on its way to the core. Returns what was known of it.
    pub(super) fn on_ended(&mut self, run: &RunKey) -> Option<RunAbout> {
        self.context.doors.remove(run);
        self.runs.remove(run).map(|held| held.about)
    }

    /// CPU time of all containers since the start, in microseconds.
    pub(super) fn contained_cpu_us(&self) -> u64 {
        self.runs.contained_cpu_us()
    }

    pub(super) fn drop_outputs(&self, run: &RunKey) {
        self.context.blobs.unpin(run.pin_owner());
    }

    pub(super) fn unhost(&mut self, hosted: &HostedJob) {
        self.logins.remove(hosted);
        self.context.blobs.unpin_scope(hosted.scope());
        let Some(held) = self.jobs.remove(hosted) else {
            return;
        };
        held.over.cancel();
        let Hosted { dirs, writing, .. } = held;
        tokio::spawn(remove(dirs, writing));
    }
}

/// Removes a job's directories as soon as nothing writes into them any more. No run does: a job goes
/// when the last has ended. The same job may be here again meanwhile, in other directories.
async fn remove(dirs: JobDirs, writing: TaskTracker) {
    writing.close();
    writing.wait().await;
    let removing = tokio::task::spawn_blocking(move || dirs.remove_all());
    if removing.await.is_err() {
        tracing::warn!("removing a job's work directories was interrupted");
    }
}

impl HostedJob {
    /// What the job's blobs are pinned for.
    pub(super) const fn scope(&self) -> PinScope {
        PinScope::Hosted(self.submitter, self.job)
    }
}

impl RunKey {
    /// What the run's outputs are pinned for.
    pub(super) const fn pin_owner(&self) -> PinOwner {
        PinOwner::attempt(
            PinScope::Hosted(self.submitter, self.attempt.task.job),
            self.attempt,
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use p2pnode_protocol::{JobId, PeerId};

    use super::*;

    #[tokio::test]
    async fn a_late_write_is_waited_for_before_a_job_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = WorkDirs::new(folder.path().to_owned()).of_job(&HostedJob {
            submitter: PeerId::random(),
            job: JobId([7; 8]),
        });
        let writing = TaskTracker::new();
        let (late, (go, wait)) = (dirs.clone(), std::sync::mpsc::sync_channel(1));
        writing.spawn_blocking(move || {
            wait.recv().unwrap();
            late.make_common().unwrap();
        });
        let removing = tokio::spawn(remove(dirs, writing));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!removing.is_finished());
        go.send(()).unwrap();
        removing.await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
