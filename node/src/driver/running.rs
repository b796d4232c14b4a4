//! One run from its work directory to its stored outputs.

mod readying;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use p2pnode_executor::TaskRun;
use p2pnode_protocol::job::RenderedTask;
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::task::{Assignment, Failure, FailureKind, Outcome, TaskTemplate, Usage};
use p2pnode_protocol::{Gpu, WHOLE_GPU};

use super::hosting::HostContext;
use super::logpipe::LogPipe;
use super::output::Output;
use super::preparing::Step;
use crate::blobs::{self, Limits, OutputPatterns};
use crate::core::io::{Input, RunEnd, RunKey, RunLimits};
use crate::exec::{JobDirs, RunControl};

/// The variable that tells a task with a part of a GPU the memory of that part, in bytes.
const GPU_MEMORY: &str = "P2PNODE_GPU_MEMORY";

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
    let prepared = readying::prepare(context, &run, &step, &rendered).await;
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
        Ok(work_dir) if readying::is_bare(&run, &rendered) => {
            give_back(step.dirs(), work_dir).await
        }
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

/// The task's environment. A task with a part of a GPU is told how much memory that part has: nothing
/// keeps it to that, so it has to know.
fn environment(run: &Run, rendered: &RenderedTask) -> Vec<(String, String)> {
    let mut env = rendered.env.clone();
    if let Some(gpu) = run.gpus.iter().find(|gpu| gpu.milli < WHOLE_GPU) {
        env.push((GPU_MEMORY.to_owned(), gpu.memory_share().0.to_string()));
    }
    env
}

fn task_run(run: &Run, rendered: &RenderedTask, work_dir: PathBuf) -> TaskRun {
    TaskRun {
        submitter: run.key.submitter,
        attempt: run.key.attempt,
        command: rendered.command.clone(),
        env: environment(run, rendered),
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
        attended: run.template.attended,
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
