//! Making a hosted step's environment: fetch its program and inputs, then let the runtime prepare.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use p2pnode_executor::{Credentials, Environment, PrepareProgress};
use p2pnode_protocol::Bytes;
use p2pnode_protocol::job::TaskForm;
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::message::Phase;
use p2pnode_protocol::task::{Failure, FailureKind, InputSource, TaskTemplate};
use p2pnode_protocol::text::printable;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fetching::not_arrived;
use super::hosting::HostContext;
use super::program;
use crate::blobs::{PinOwner, Progress};
use crate::core::io::{HostedJob, Input, Leave};
use crate::exec::JobDirs;

/// Progress reports that may wait; more are left out.
const PROGRESS_QUEUE: usize = 8;

/// What the tasks of a step share on this host; empty until prepared.
pub(super) struct Step {
    dirs: JobDirs,
    /// Which time it is made, for the names of its files.
    serial: u32,
    /// The job's; see [`super::hosting`].
    writing: TaskTracker,
    environment: OnceLock<Arc<dyn Environment>>,
    /// The template, parsed once for all tasks.
    form: OnceLock<TaskForm>,
}

impl Step {
    /// A step whose files are in `dirs`. `writing` holds what writes there and outlives its task.
    pub(super) const fn new(dirs: JobDirs, serial: u32, writing: TaskTracker) -> Self {
        Self {
            dirs,
            serial,
            writing,
            environment: OnceLock::new(),
            form: OnceLock::new(),
        }
    }

    pub(super) const fn writing(&self) -> &TaskTracker {
        &self.writing
    }

    pub(super) const fn serial(&self) -> u32 {
        self.serial
    }

    pub(super) const fn dirs(&self) -> &JobDirs {
        &self.dirs
    }

    pub(super) fn environment(&self) -> Option<Arc<dyn Environment>> {
        self.environment.get().cloned()
    }

    pub(super) fn form(&self) -> Option<&TaskForm> {
        self.form.get()
    }
}

/// How long a step's environment, and each task's inputs, may take to be ready.
pub(super) fn limit(template: &TaskTemplate) -> Duration {
    match template.prepare_timeout_ms {
        0 => Duration::MAX,
        limit => Duration::from_millis(limit),
    }
}

/// What is to be prepared, and for how long.
pub(super) struct Preparation {
    pub(super) hosted: HostedJob,
    pub(super) template: Arc<TaskTemplate>,
    /// Which time it is, in the core's words.
    pub(super) making: u32,
    pub(super) leave: Leave,
    pub(super) login: Option<Credentials>,
    /// Nobody waits for it any more.
    pub(super) stop: CancellationToken,
}

impl Preparation {
    /// How long it may take, and why no longer.
    fn limit(&self) -> (Duration, &'static str) {
        let asked = limit(&self.template);
        match self.leave.max_ms.map(Duration::from_millis) {
            Some(most) if most < asked => (
                most,
                "its owner lets no build take longer (offer --max-task-time)",
            ),
            _ => (asked, "policy.prepare_timeout"),
        }
    }
}

/// Prepares `step` and tells the core how that went, unless it was stopped.
pub(super) async fn prepare(context: HostContext, mut preparation: Preparation, step: Arc<Step>) {
    let login = (preparation.login.take(), preparation.leave.local_registry);
    let Preparation { hosted, making, .. } = preparation;
    let template = preparation.template.clone();
    let (limit, why) = preparation.limit();
    let result = tokio::select! {
        () = preparation.stop.cancelled() => return,
        result = tokio::time::timeout(limit, work(&context, hosted, &template, &step, login)) => {
            result.unwrap_or_else(|_| Err(Failure::new(
                FailureKind::Host,
                format!("the environment was not ready after {limit:?} ({why})"),
            )))
        }
    };
    if let Err(failure) = &result {
        // Engines and builds say what they like.
        let failure = printable(&failure.message);
        tracing::info!(job = %hosted.job, submitter = %hosted.submitter, failure, "environment failed");
    }
    context
        .say(Input::Prepared {
            hosted,
            step: template.step,
            making,
            result,
        })
        .await;
}

async fn work(
    context: &HostContext,
    hosted: HostedJob,
    template: &TaskTemplate,
    step: &Step,
    (login, local_registry): (Option<Credentials>, bool),
) -> Result<(), Failure> {
    let form = TaskForm::new(template)
        .map_err(|error| Failure::new(FailureKind::BadProgram, error.to_string()))?;
    let shared = template
        .inputs
        .iter()
        .filter_map(|input| match input.source {
            InputSource::Shared(blob) => Some(blob),
            InputSource::PerTask(_) => None,
        });
    fit(shared.clone(), template.resources.disk)?;
    // Several inputs may be one blob.
    for blob in shared.collect::<BTreeSet<BlobRef>>() {
        fetch(context, hosted, template.step, blob).await?;
    }
    let (program, written) =
        program::ready(context, hosted, template, step, login, local_registry).await?;
    let phase = template.program.phase();
    report(
        context,
        hosted,
        template.step,
        phase,
        PrepareProgress::default(),
    )
    .await;
    let (progress, mut steps) = mpsc::channel(PROGRESS_QUEUE);
    let runtime = template.program.runtime();
    let preparing = context.exec.prepare(runtime, program, progress);
    let forwarding = async {
        while let Some(at) = steps.recv().await {
            report(context, hosted, template.step, phase, at).await;
        }
    };
    let (environment, ()) = tokio::join!(preparing, forwarding);
    let environment = environment?;
    written.keep();
    // Set once: a step is prepared by one task only.
    let _only_once = step.form.set(form);
    let _only_once = step.environment.set(environment);
    report(
        context,
        hosted,
        template.step,
        Phase::Ready,
        PrepareProgress::default(),
    )
    .await;
    Ok(())
}

async fn report(
    context: &HostContext,
    hosted: HostedJob,
    step: u16,
    phase: Phase,
    PrepareProgress { done, total }: PrepareProgress,
) {
    context
        .say(Input::Preparing {
            hosted,
            step,
            phase,
            done,
            total,
        })
        .await;
}

/// Whether all inputs together fit on the task's disk. A manifest may name one chunk as often as it
/// likes, so what arrives says little about what would be written; what a blob says of its size is
/// checked when its manifest comes.
pub(super) fn fit(inputs: impl IntoIterator<Item = BlobRef>, disk: Bytes) -> Result<(), Failure> {
    let sizes = inputs.into_iter().map(|blob| blob.content_bytes);
    let total = sizes.fold(0, u64::saturating_add);
    if total <= disk.0 {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::DiskFull,
        format!(
            "its inputs are {} together, more than its disk of {disk}; raise resources.disk",
            Bytes(total)
        ),
    ))
}

/// Brings a blob here and pins it for the job.
pub(super) async fn fetch(
    context: &HostContext,
    hosted: HostedJob,
    step: u16,
    blob: BlobRef,
) -> Result<(), Failure> {
    let (sender, mut steps) = mpsc::channel::<Progress>(PROGRESS_QUEUE);
    let owner = PinOwner::job(hosted.scope());
    let fetching = context
        .fetcher
        .fetch(hosted.submitter, hosted.job, blob, owner, Some(sender));
    let forwarding = async {
        while let Some(at) = steps.recv().await {
            let at = PrepareProgress {
                done: at.done,
                total: at.total,
            };
            report(context, hosted, step, Phase::Fetching, at).await;
        }
    };
    let (manifest, ()) = tokio::join!(fetching, forwarding);
    manifest.map(drop).map_err(|error| not_arrived(&error))
}
