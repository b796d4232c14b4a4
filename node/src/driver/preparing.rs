//! Making a hosted step's environment: fetch its program and inputs, then let the runtime prepare.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use p2pnode_executor::{Credentials, Environment, PrepareProgress};
use p2pnode_protocol::job::TaskForm;
use p2pnode_protocol::manifest::{BlobRef, Manifest};
use p2pnode_protocol::message::Phase;
use p2pnode_protocol::task::{Failure, FailureKind, InputSource, TaskTemplate};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fetching::not_arrived;
use super::hosting::HostContext;
use super::program;
use crate::blobs::{PinOwner, Progress};
use crate::core::io::{HostedJob, Input};
use crate::exec::JobDirs;

/// Progress reports that may wait; more are left out.
const PROGRESS_QUEUE: usize = 8;

/// What the tasks of a step share on this host; empty until prepared.
pub(super) struct Step {
    dirs: JobDirs,
    /// The job's; see [`super::hosting`].
    writing: TaskTracker,
    environment: OnceLock<Arc<dyn Environment>>,
    /// The template, parsed once for all tasks.
    form: OnceLock<TaskForm>,
    /// Manifests of the shared inputs, by position in the template.
    inputs: OnceLock<Vec<Option<Arc<Manifest>>>>,
}

impl Step {
    /// A step whose files are in `dirs`. `writing` holds what writes there and outlives its task.
    pub(super) const fn new(dirs: JobDirs, writing: TaskTracker) -> Self {
        Self {
            dirs,
            writing,
            environment: OnceLock::new(),
            form: OnceLock::new(),
            inputs: OnceLock::new(),
        }
    }

    pub(super) const fn writing(&self) -> &TaskTracker {
        &self.writing
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

    /// The manifest of the shared input at `position` of the template.
    pub(super) fn shared_input(&self, position: usize) -> Option<Arc<Manifest>> {
        self.inputs.get()?.get(position)?.clone()
    }
}

/// How long a step's environment, and each task's inputs, may take to be ready.
pub(super) fn limit(template: &TaskTemplate) -> Duration {
    match template.prepare_timeout_ms {
        0 => Duration::MAX,
        limit => Duration::from_millis(limit),
    }
}

/// Prepares `step` and tells the core how that went.
pub(super) async fn prepare(
    context: HostContext,
    hosted: HostedJob,
    template: Arc<TaskTemplate>,
    step: Arc<Step>,
    login: Option<Credentials>,
    over: CancellationToken,
) {
    let limit = limit(&template);
    let result = tokio::select! {
        () = over.cancelled() => return,
        result = tokio::time::timeout(limit, work(&context, hosted, &template, &step, login)) => {
            result.unwrap_or_else(|_| Err(Failure::new(
                FailureKind::Host,
                format!("the environment was not ready after {limit:?} (policy.prepare_timeout)"),
            )))
        }
    };
    if let Err(failure) = &result {
        tracing::info!(job = %hosted.job, submitter = %hosted.submitter, failure = %failure.message, "environment failed");
    }
    context
        .say(Input::Prepared {
            hosted,
            step: template.step,
            result,
        })
        .await;
}

async fn work(
    context: &HostContext,
    hosted: HostedJob,
    template: &TaskTemplate,
    step: &Step,
    login: Option<Credentials>,
) -> Result<(), Failure> {
    let form = TaskForm::new(template)
        .map_err(|error| Failure::new(FailureKind::BadProgram, error.to_string()))?;
    let mut inputs = Vec::with_capacity(template.inputs.len());
    for input in &template.inputs {
        inputs.push(match input.source {
            InputSource::Shared(blob) => {
                Some(Arc::new(fetch(context, hosted, template.step, blob).await?))
            }
            InputSource::PerTask(_) => None,
        });
    }
    let program = program::ready(context, hosted, template, step, login).await?;
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
    // Set once: a step is prepared by one task only.
    let _only_once = step.inputs.set(inputs);
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

/// Brings a blob here and pins it for the job.
pub(super) async fn fetch(
    context: &HostContext,
    hosted: HostedJob,
    step: u16,
    blob: BlobRef,
) -> Result<Manifest, Failure> {
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
    manifest.map_err(|error| not_arrived(&error))
}
