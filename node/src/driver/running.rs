//! One run from its work directory to its stored outputs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use p2pnode_executor::TaskRun;
use p2pnode_protocol::Gpu;
use p2pnode_protocol::job::RenderedTask;
use p2pnode_protocol::manifest::{BlobRef, Manifest};
use p2pnode_protocol::task::{
    Assignment, Failure, FailureKind, InputSource, Outcome, TaskTemplate, Usage,
};

use super::hosting::HostContext;
use super::logpipe::LogPipe;
use super::output::Output;
use super::preparing::Step;
use crate::blobs::{self, Limits, MaterializeOptions, OutputPatterns, PinOwner};
use crate::core::io::{HostedJob, Input, RunEnd, RunKey};
use crate::exec::RunControl;

/// All that one run needs.
pub(super) struct Run {
    pub(super) key: RunKey,
    pub(super) template: Arc<TaskTemplate>,
    pub(super) assignment: Assignment,
    pub(super) gpus: Vec<Gpu>,
    pub(super) step: Option<Arc<Step>>,
    pub(super) log: Option<LogPipe>,
    pub(super) control: RunControl,
}

/// Runs it and tells the core how it ended.
pub(super) async fn run(context: HostContext, run: Run) {
    let key = run.key;
    let mut log_bytes = 0;
    let (result, usage) = attempt(&context, run, &mut log_bytes).await;
    let (outcome, outputs) = match result {
        Ok(outputs) => (Outcome::Succeeded, outputs),
        Err(failure) => (Outcome::Failed(failure), None),
    };
    let end = RunEnd {
        outcome,
        usage,
        outputs,
        log_bytes,
    };
    context.say(Input::Ended { run: key, end }).await;
}

async fn attempt(
    context: &HostContext,
    run: Run,
    log_bytes: &mut u64,
) -> (Result<Option<BlobRef>, Failure>, Usage) {
    let Some(step) = run.step.clone() else {
        return (Err(host("the environment is gone")), Usage::default());
    };
    let (Some(environment), Some(form)) = (step.environment(), step.form()) else {
        return (Err(host("the environment is not ready")), Usage::default());
    };
    let rendered = match form.render(&run.assignment, run.key.attempt.task.job) {
        Ok(rendered) => rendered,
        Err(error) => {
            let failure = Failure::new(FailureKind::BadProgram, error.to_string());
            return (Err(failure), Usage::default());
        }
    };
    let prepared = prepare_dir(context, &run, &step, &rendered).await;
    let (result, usage) = match prepared {
        Ok(work_dir) => {
            let task = task_run(&run, &rendered, work_dir.clone());
            context.say(Input::Started(run.key)).await;
            let cancel = &run.control.cancel;
            let output = Output::new(run.key.attempt, run.log.as_ref(), cancel);
            let end = output.of_run(environment.as_ref(), task, log_bytes).await;
            let result = match end.result {
                Ok(()) => collect(context, &run, &rendered, &work_dir).await,
                Err(failure) => Err(run.control.why().unwrap_or(failure)),
            };
            (result, end.usage)
        }
        Err(failure) => (Err(failure), Usage::default()),
    };
    remove_dir(context, &run, &rendered).await;
    (result, usage)
}

fn host(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Host, message)
}

/// Whether the run's directory holds nothing before and is looked at by nobody after, so that making
/// it is not worth another thread.
fn has_files(rendered: &RenderedTask) -> bool {
    !rendered.inputs.is_empty() || !rendered.outputs.is_empty()
}

async fn prepare_dir(
    context: &HostContext,
    run: &Run,
    step: &Step,
    rendered: &RenderedTask,
) -> Result<PathBuf, Failure> {
    if !has_files(rendered) {
        return context
            .dirs
            .make(&run.key)
            .map_err(|error| host(error.to_string()));
    }
    let mut inputs: Vec<(Vec<u8>, Arc<Manifest>)> = Vec::with_capacity(rendered.inputs.len());
    for (position, input) in rendered.inputs.iter().enumerate() {
        let manifest = match run.template.inputs.get(position).map(|input| input.source) {
            Some(InputSource::Shared(_)) => step
                .shared_input(position)
                .ok_or_else(|| host("a shared input is gone"))?,
            _ => Arc::new(fetch_input(context, run, input.blob).await?),
        };
        inputs.push((input.path.as_bytes().to_vec(), manifest));
    }
    let (dirs, store, key) = (context.dirs.clone(), context.blobs.clone(), run.key);
    let folders: Vec<String> = rendered.folders().into_iter().map(str::to_owned).collect();
    let options = MaterializeOptions {
        max_bytes: run.template.resources.disk.0,
        owner: None,
    };
    blocking(move || {
        let work_dir = dirs.make(&key).map_err(|error| host(error.to_string()))?;
        let root = std::fs::File::open(&work_dir)
            .map_err(|error| host(format!("the work directory cannot be opened: {error}")))?;
        for (path, manifest) in inputs {
            blobs::materialize(&store, &manifest, &root, &path, options)
                .map_err(|error| host(format!("an input cannot be written: {error}")))?;
        }
        for folder in folders {
            std::fs::create_dir_all(work_dir.join(folder))
                .map_err(|error| host(format!("an output folder cannot be made: {error}")))?;
        }
        Ok(work_dir)
    })
    .await
}

async fn fetch_input(context: &HostContext, run: &Run, blob: BlobRef) -> Result<Manifest, Failure> {
    let task = run.key.attempt.task;
    let hosted = HostedJob {
        submitter: run.key.submitter,
        job: task.job,
    };
    let owner = PinOwner::job(hosted.scope());
    context
        .fetcher
        .fetch(run.key.submitter, task.job, blob, owner, None)
        .await
        .map_err(|error| {
            Failure::new(
                FailureKind::InputUnavailable,
                format!("an input did not arrive: {error}"),
            )
        })
}

fn task_run(run: &Run, rendered: &RenderedTask, work_dir: PathBuf) -> TaskRun {
    TaskRun {
        submitter: run.key.submitter,
        attempt: run.key.attempt,
        command: rendered.command.clone(),
        env: rendered.env.clone(),
        work_dir,
        resources: run.template.resources.clone(),
        gpus: run.gpus.clone(),
        timeout: Duration::from_millis(run.template.timeout_ms),
        stall: Duration::from_millis(run.template.stall_ms),
        network: run.template.network,
        root: run.template.root,
    }
}

/// Stores what matches the output patterns and pins it until the submitter has it.
async fn collect(
    context: &HostContext,
    run: &Run,
    rendered: &RenderedTask,
    work_dir: &Path,
) -> Result<Option<BlobRef>, Failure> {
    if rendered.outputs.is_empty() {
        return Ok(None);
    }
    let store = context.blobs.clone();
    let globs: Vec<String> = rendered
        .outputs
        .iter()
        .map(|output| output.glob.clone())
        .collect();
    let (work_dir, owner) = (work_dir.to_path_buf(), run.key.pin_owner());
    let limits = Limits {
        bytes: run.template.resources.disk.0,
        ..Limits::default()
    };
    let allow_empty = run.template.allow_empty_outputs;
    blocking(move || {
        let bad = |message: String| Failure::new(FailureKind::BadOutput, message);
        let selected = OutputPatterns::new(&globs).map_err(|error| bad(error.to_string()))?;
        let root = std::fs::File::open(&work_dir)
            .map_err(|error| host(format!("the work directory cannot be opened: {error}")))?;
        let stored = blobs::ingest_outputs(&store, owner, &root, &selected, limits)
            .map_err(|error| match error.is_tasks_fault() {
                true => bad(error.to_string()),
                false => host(error.to_string()),
            })?;
        match stored.map(|(blob, _)| blob) {
            None if !allow_empty => Err(Failure::new(
                FailureKind::NoOutputs,
                format!(
                    "none of its outputs is there: {}; correct outputs.paths, or set policy.allow_empty_outputs = true",
                    globs.join(", ")
                ),
            )),
            stored => Ok(stored),
        }
    })
    .await
}

async fn remove_dir(context: &HostContext, run: &Run, rendered: &RenderedTask) {
    let (dirs, key) = (context.dirs.clone(), run.key);
    if has_files(rendered) {
        let removing = tokio::task::spawn_blocking(move || dirs.remove(&key));
        if removing.await.is_err() {
            tracing::warn!(run = %run.key.attempt, "removing a work directory was interrupted");
        }
    } else {
        dirs.remove(&key);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(host(
            "the node was interrupted while it handled the task's files",
        )),
    }
}
