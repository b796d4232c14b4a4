//! One run from its work directory to its stored outputs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use p2pnode_executor::{LogChunk, TaskEnd, TaskRun};
use p2pnode_protocol::Gpu;
use p2pnode_protocol::job::RenderedTask;
use p2pnode_protocol::manifest::{BlobRef, Manifest};
use p2pnode_protocol::stream::LogFrame;
use p2pnode_protocol::task::{
    Assignment, Failure, FailureKind, InputSource, Outcome, TaskTemplate, Usage,
};
use tokio::sync::mpsc;

use super::fetching::{WRITES, not_arrived};
use super::hosting::HostContext;
use super::logpipe::LogPipe;
use super::preparing::Step;
use crate::blobs::{self, Limits, MaterializeOptions, OutputPatterns, PinOwner};
use crate::core::io::{HostedJob, Input, RunEnd, RunKey};
use crate::exec::RunControl;

/// Output chunks between a task and its log pipe. Small, so that a task that writes faster than its
/// submitter reads is slowed down after some 64 KiB × 4.
const LOG_QUEUE: usize = 4;

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
            let end = execute(environment.as_ref(), task, &run, log_bytes).await;
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
    let mut tried = 0;
    loop {
        tried += 1;
        match write_dir(context, run, rendered, inputs.clone()).await {
            Ok(work_dir) => return Ok(work_dir),
            Err(NotWritten {
                missing: Some(position),
                ..
            }) if tried < WRITES => {
                tracing::warn!(run = %run.key.attempt, "chunks of an input were lost, fetching them again");
                fetch_input(context, run, rendered.inputs[position].blob).await?;
            }
            Err(not_written) => return Err(not_written.failure),
        }
    }
}

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
    rendered: &RenderedTask,
    inputs: Vec<(Vec<u8>, Arc<Manifest>)>,
) -> Result<PathBuf, NotWritten> {
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
        for (position, (path, manifest)) in inputs.iter().enumerate() {
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

async fn fetch_input(context: &HostContext, run: &Run, blob: BlobRef) -> Result<Manifest, Failure> {
    let hosted = HostedJob {
        submitter: run.key.submitter,
        job: run.key.attempt.task.job,
    };
    let owner = PinOwner::job(hosted.scope());
    let fetched = context
        .fetcher
        .fetch(hosted.submitter, hosted.job, blob, owner, None)
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
        timeout: Duration::from_millis(run.template.timeout_ms),
        stall: Duration::from_millis(run.template.stall_ms),
        network: run.template.network,
        root: run.template.root,
    }
}

async fn execute(
    environment: &dyn p2pnode_executor::Environment,
    task: TaskRun,
    run: &Run,
    log_bytes: &mut u64,
) -> TaskEnd {
    let (sink, mut chunks) = mpsc::channel::<LogChunk>(LOG_QUEUE);
    let running = environment.run(task, sink, run.control.cancel.clone());
    let logging = async {
        while let Some(chunk) = chunks.recv().await {
            let bytes = chunk.bytes.len() as u64;
            if let Some(log) = &run.log {
                log.send(frame(run, chunk, *log_bytes)).await;
            }
            *log_bytes += bytes;
        }
    };
    let (end, ()) = tokio::join!(running, logging);
    end
}

fn frame(run: &Run, chunk: LogChunk, offset: u64) -> LogFrame {
    let attempt = run.key.attempt;
    LogFrame {
        step: attempt.task.step,
        index: attempt.task.index,
        attempt: attempt.attempt,
        stream: chunk.stream,
        offset,
        bytes: chunk.bytes,
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

async fn blocking<T: Send + 'static, E: From<Failure> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(host("the node was interrupted while it handled the task's files").into()),
    }
}
