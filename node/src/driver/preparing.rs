//! Making a hosted step's environment: fetch its program and inputs, then let the runtime prepare.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use p2pnode_executor::{Environment, PrepareProgress, ProgramFile};
use p2pnode_protocol::job::TaskForm;
use p2pnode_protocol::manifest::{BlobRef, Manifest};
use p2pnode_protocol::message::Phase;
use p2pnode_protocol::task::{Failure, FailureKind, InputSource, Program, TaskTemplate};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fetching::{WRITES, not_arrived};
use super::hosting::HostContext;
use crate::blobs::{self, MaterializeOptions, PinOwner, Progress};
use crate::core::io::{HostedJob, Input};
use crate::exec::JobDirs;

/// Progress reports that may wait; more are left out.
const PROGRESS_QUEUE: usize = 8;

/// The largest WASM module, in bytes (256 MiB); a browser's engine takes no more either.
const MAX_MODULE_BYTES: u64 = 256 << 20;

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
    over: CancellationToken,
) {
    let limit = limit(&template);
    let result = tokio::select! {
        () = over.cancelled() => return,
        result = tokio::time::timeout(limit, work(&context, hosted, &template, &step)) => {
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
    let program = program_file(context, hosted, template, step).await?;
    report(
        context,
        hosted,
        template.step,
        Phase::Environment,
        PrepareProgress::default(),
    )
    .await;
    let (progress, mut steps) = mpsc::channel(PROGRESS_QUEUE);
    let runtime = template.program.runtime();
    let preparing = context.exec.prepare(runtime, program, progress);
    let forwarding = async {
        while let Some(at) = steps.recv().await {
            report(context, hosted, template.step, Phase::Environment, at).await;
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
async fn fetch(
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

async fn program_file(
    context: &HostContext,
    hosted: HostedJob,
    template: &TaskTemplate,
    step: &Step,
) -> Result<ProgramFile, Failure> {
    match &template.program {
        Program::Image { reference } => Ok(ProgramFile::Image {
            reference: reference.clone(),
            credentials: None,
        }),
        Program::Archive { .. } | Program::Build { .. } => Err(Failure::new(
            FailureKind::ImageUnavailable,
            "this node cannot make images yet",
        )),
        Program::Wasm { module } => {
            for _ in 0..WRITES {
                let manifest = fetch(context, hosted, template.step, *module).await?;
                if let Some(path) = write_module(context, step, template.step, manifest).await? {
                    return Ok(ProgramFile::Wasm { path });
                }
                tracing::warn!(job = %hosted.job, "chunks of a module were lost, fetching them again");
            }
            Err(Failure::new(
                FailureKind::Host,
                "the disk of this node loses the module each time that it comes",
            ))
        }
    }
}

/// Writes the module to a file; nothing when a chunk of it turns out to be gone or damaged.
async fn write_module(
    context: &HostContext,
    step: &Step,
    number: u16,
    manifest: Manifest,
) -> Result<Option<PathBuf>, Failure> {
    let (dirs, store) = (step.dirs.clone(), context.blobs.clone());
    // It is written to its end also when nobody waits for it any more.
    let written = step.writing.spawn_blocking(move || {
        let folder = dirs.make_common().map_err(|error| error.to_string())?;
        let name = format!("step-{number}.wasm");
        let path = folder.join(&name);
        let root = std::fs::File::open(&folder).map_err(|error| error.to_string())?;
        let options = MaterializeOptions {
            max_bytes: MAX_MODULE_BYTES,
            owner: None,
        };
        match blobs::materialize(&store, &manifest, &root, name.as_bytes(), options) {
            Ok(()) => Ok(Some(path)),
            Err(error) if error.is_missing() => {
                // Files are made, never written over.
                std::fs::remove_file(&path).map_err(|error| error.to_string())?;
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        }
    });
    match written.await {
        Ok(Ok(path)) => Ok(path),
        Ok(Err(message)) => Err(Failure::new(FailureKind::Host, message)),
        Err(_) => Err(Failure::new(
            FailureKind::Host,
            "writing the module was interrupted",
        )),
    }
}
