//! One run from its work directory to its stored outputs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use p2pnode_executor::TaskRun;
use p2pnode_protocol::job::RenderedTask;
use p2pnode_protocol::manifest::{BlobRef, Manifest};
use p2pnode_protocol::offer::weakens;
use p2pnode_protocol::task::{
    Assignment, Failure, FailureKind, InputSource, Outcome, RuntimeKind, TaskTemplate, Usage,
};
use p2pnode_protocol::{Bytes, Gpu};
use tokio_util::sync::CancellationToken;

use super::fetching::{WRITES, not_arrived};
use super::hosting::HostContext;
use super::logpipe::LogPipe;
use super::output::Output;
use super::preparing::{self, Step};
use crate::blobs::{self, Limits, MaterializeOptions, OutputPatterns, PinOwner};
use crate::core::io::{HostedJob, Input, RunEnd, RunKey, RunLimits};
use crate::exec::{JobDirs, RunControl};

/// All that one run needs.
pub(super) struct Run {
    pub(super) key: RunKey,
    pub(super) template: Arc<TaskTemplate>,
    pub(super) assignment: Assignment,
    pub(super) gpus: Vec<Gpu>,
    pub(super) limits: RunLimits,
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
    let prepared = prepare(context, &run, &step, &rendered).await;
    let (result, usage) = match prepared {
        Ok(ref work_dir) => {
            let task = task_run(&run, &rendered, work_dir.clone());
            context.say(Input::Started(run.key)).await;
            let cancel = &run.control.cancel;
            let output = Output::new(run.key.attempt, run.log.as_ref(), cancel);
            let metered = context.meter.enter(run.key, &task);
            let running = output.of_run(environment.as_ref(), task, log_bytes);
            let end = metered.measure(running).await;
            let result = match end.result {
                Ok(()) => {
                    let collected = collect(context, &run, &rendered, work_dir).await;
                    environment.release(work_dir).await;
                    collected
                }
                Err(failure) => Err(run.control.why().unwrap_or_else(|| blamed(&run, failure))),
            };
            (result, end.usage)
        }
        Err(ref failure) => (Err(failure.clone()), Usage::default()),
    };
    match prepared {
        Ok(work_dir) if is_bare(&run, &rendered) => give_back(step.dirs(), work_dir).await,
        _ => remove_dir(step.dirs(), run.key).await,
    }
    (result, usage)
}

/// The failure, laid at the owner's door when the owner's limit on a task's time was the shorter one.
fn blamed(run: &Run, failure: Failure) -> Failure {
    match run.limits.max_ms {
        Some(most) if failure.kind == FailureKind::Timeout && is_shorter(most, &run.template) => {
            let most = Duration::from_millis(most);
            Failure::new(
                FailureKind::KilledByOwner,
                format!("its owner lets no task run longer than {most:?} (offer --max-task-time)"),
            )
        }
        _ => failure,
    }
}

/// Whether the owner's limit ends a task before its job's would.
const fn is_shorter(max_ms: u64, template: &TaskTemplate) -> bool {
    template.timeout_ms == 0 || max_ms < template.timeout_ms
}

fn host(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Host, message)
}

/// Whether the run's directory holds nothing before and is looked at by nobody after, so that making
/// it is not worth another thread.
fn has_files(rendered: &RenderedTask) -> bool {
    !rendered.inputs.is_empty() || !rendered.outputs.is_empty()
}

/// Whether the run needs only an empty directory, in which no rights can be changed: one for all runs
/// in turn will do.
fn is_bare(run: &Run, rendered: &RenderedTask) -> bool {
    !has_files(rendered) && run.template.program.runtime() == RuntimeKind::Wasm
}

/// Readies the run's directory, for as long as preparing may take and until the run is killed. Nothing
/// is written there any more once this returns.
async fn prepare(
    context: &HostContext,
    run: &Run,
    step: &Step,
    rendered: &RenderedTask,
) -> Result<PathBuf, Failure> {
    if let (Some(least), Some(wanted)) = (&run.limits.sandbox, &run.template.sandbox)
        && weakens(least, wanted)
    {
        // The owner chose after the job was taken; or the job is the owner's own.
        return Err(Failure::new(
            FailureKind::KilledByOwner,
            format!(
                "its owner runs tasks under {least} and under nothing weaker (offer --runtime)"
            ),
        ));
    }
    let limit = preparing::limit(&run.template);
    let stop = run.control.cancel.child_token();
    let mut working = std::pin::pin!(prepare_dir(context, run, step, rendered, &stop));
    let prepared = tokio::select! {
        prepared = &mut working => prepared,
        () = tokio::time::sleep(limit) => {
            stop.cancel();
            // What is being written ends with the input that it is at.
            let _late = working.await;
            return Err(host(format!(
                "its inputs were not ready after {limit:?} (policy.prepare_timeout)"
            )));
        }
    };
    match run.control.why() {
        Some(why) => Err(why),
        None => prepared,
    }
}

async fn prepare_dir(
    context: &HostContext,
    run: &Run,
    step: &Step,
    rendered: &RenderedTask,
    stop: &CancellationToken,
) -> Result<PathBuf, Failure> {
    let (dirs, key) = (step.dirs().clone(), run.key);
    if is_bare(run, rendered) {
        return dirs.borrow().map_err(|error| host(error.to_string()));
    }
    if !has_files(rendered) {
        return dirs.make(&key).map_err(|error| host(error.to_string()));
    }
    let fetching = fetch_inputs(context, run, step, rendered);
    let inputs = tokio::select! {
        () = stop.cancelled() => return Err(stopped()),
        inputs = fetching => inputs?,
    };
    let disk = run.template.resources.disk;
    fit(inputs.iter().map(|(_, manifest)| manifest.as_ref()), disk)?;
    let mut tried = 0;
    loop {
        tried += 1;
        match write_dir(context, run, step, rendered, inputs.clone(), stop.clone()).await {
            Ok(work_dir) => return Ok(work_dir),
            Err(NotWritten {
                missing: Some(position),
                ..
            }) if tried < WRITES => {
                tracing::warn!(run = %run.key.attempt, "chunks of an input were lost, fetching them again");
                tokio::select! {
                    () = stop.cancelled() => return Err(stopped()),
                    again = fetch_input(context, run, rendered.inputs[position].blob) => drop(again?),
                }
            }
            Err(not_written) => return Err(not_written.failure),
        }
    }
}

/// Inputs, each with its path.
type Inputs = Vec<(Vec<u8>, Arc<Manifest>)>;

/// Why inputs do not stand in a work directory.
struct NotWritten {
    failure: Failure,
    /// The input, by position, that must be fetched again.
    missing: Option<usize>,
}

impl From<Failure> for NotWritten {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            missing: None,
        }
    }
}

/// Makes the run's directory, with the inputs in it and the folders that outputs are to be written to.
async fn write_dir(
    context: &HostContext,
    run: &Run,
    step: &Step,
    rendered: &RenderedTask,
    inputs: Inputs,
    stop: CancellationToken,
) -> Result<PathBuf, NotWritten> {
    let (dirs, store, key) = (step.dirs().clone(), context.blobs.clone(), run.key);
    let folders: Vec<String> = rendered.folders().into_iter().map(str::to_owned).collect();
    let options = MaterializeOptions {
        max_bytes: run.template.resources.disk.0,
        owner: None,
    };
    blocking(move || {
        let work_dir = dirs.make(&key).map_err(|error| host(error.to_string()))?;
        let root = std::fs::File::open(&work_dir)
            .map_err(|error| host(format!("the work directory cannot be opened: {error}")))?;
        for (position, (path, manifest)) in inputs.iter().enumerate() {
            if stop.is_cancelled() {
                return Err(stopped().into());
            }
            blobs::materialize(&store, manifest, &root, path, options).map_err(|error| {
                let missing = error.is_missing().then_some(position);
                if missing.is_some() {
                    // Files are made, never written over: the next try begins with nothing.
                    dirs.remove(&key);
                }
                let failure = host(format!("an input cannot be written: {error}"));
                NotWritten { failure, missing }
            })?;
        }
        for folder in folders {
            std::fs::create_dir_all(work_dir.join(folder))
                .map_err(|error| host(format!("an output folder cannot be made: {error}")))?;
        }
        Ok(work_dir)
    })
    .await
}

/// What a preparation ends with that is not waited for; replaced by why that is so.
fn stopped() -> Failure {
    host("it was killed while its inputs were made ready")
}

/// Whether all inputs together fit on the task's disk. A manifest may name one chunk as often as it
/// likes, so what arrives says little about what would be written.
fn fit<'a>(inputs: impl IntoIterator<Item = &'a Manifest>, disk: Bytes) -> Result<(), Failure> {
    let total = inputs
        .into_iter()
        .map(Manifest::content_bytes)
        .fold(0, u64::saturating_add);
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

/// All inputs, each with its path.
async fn fetch_inputs(
    context: &HostContext,
    run: &Run,
    step: &Step,
    rendered: &RenderedTask,
) -> Result<Inputs, Failure> {
    let mut inputs = Vec::with_capacity(rendered.inputs.len());
    for (position, input) in rendered.inputs.iter().enumerate() {
        let manifest = match run.template.inputs.get(position).map(|input| input.source) {
            Some(InputSource::Shared(_)) => step
                .shared_input(position)
                .ok_or_else(|| host("a shared input is gone"))?,
            _ => Arc::new(fetch_input(context, run, input.blob).await?),
        };
        inputs.push((input.path.as_bytes().to_vec(), manifest));
    }
    Ok(inputs)
}

async fn fetch_input(context: &HostContext, run: &Run, blob: BlobRef) -> Result<Manifest, Failure> {
    let task = run.key.attempt.task;
    let hosted = HostedJob {
        submitter: run.key.submitter,
        job: task.job,
    };
    let owner = PinOwner::job(hosted.scope());
    let fetched = context
        .fetcher
        .fetch(run.key.submitter, task.job, blob, owner, None)
        .await;
    fetched.map_err(|error| not_arrived(&error))
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
        timeout: Duration::from_millis(match run.limits.max_ms {
            Some(most) if is_shorter(most, &run.template) => most,
            _ => run.template.timeout_ms,
        }),
        stall: Duration::from_millis(run.template.stall_ms),
        network: run.template.network.clone(),
        root: run.template.root,
        isolation: run.template.isolation,
        sandbox: run
            .template
            .sandbox
            .clone()
            .or_else(|| run.limits.sandbox.clone()),
        hold: run.control.hold.clone(),
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

/// Removes what the run leaves. Its disk counts as taken until this returns.
async fn remove_dir(dirs: &JobDirs, key: RunKey) {
    // The directory of a task without files is empty, and not worth another thread. What is not may
    // hold millions of files.
    if dirs.remove_empty(&key) {
        return;
    }
    let dirs = dirs.clone();
    let removing = tokio::task::spawn_blocking(move || dirs.remove(&key));
    if removing.await.is_err() {
        tracing::warn!(run = %key.attempt, "removing a work directory was interrupted");
    }
}

async fn give_back(dirs: &JobDirs, work_dir: PathBuf) {
    if dirs.give_back(work_dir.clone()) {
        return;
    }
    let removing = tokio::task::spawn_blocking(move || JobDirs::remove_borrowed(&work_dir));
    if removing.await.is_err() {
        tracing::warn!("removing a work directory was interrupted");
    }
}

async fn blocking<T: Send + 'static, E: From<Failure> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(host("the node was interrupted while it handled the task's files").into()),
    }
}

#[cfg(test)]
mod tests;
