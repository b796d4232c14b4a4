//! Readies a run's work directory: its inputs in it, the folders of its outputs made.

use std::path::PathBuf;
use std::sync::Arc;

use p2pnode_protocol::Bytes;
use p2pnode_protocol::job::RenderedTask;
use p2pnode_protocol::manifest::{BlobRef, Manifest};
use p2pnode_protocol::offer::weakens;
use p2pnode_protocol::task::{Failure, FailureKind, InputSource, RuntimeKind};
use tokio_util::sync::CancellationToken;

use super::super::fetching::{WRITES, not_arrived};
use super::super::hosting::HostContext;
use super::super::preparing::{self, Step};
use super::{Run, blocking, host};
use crate::blobs::{self, MaterializeOptions, PinOwner};
use crate::core::io::HostedJob;

/// Whether the run's directory holds nothing before and is looked at by nobody after, so that making
/// it is not worth another thread.
fn has_files(rendered: &RenderedTask) -> bool {
    !rendered.inputs.is_empty() || !rendered.outputs.is_empty()
}

/// Whether the run needs only an empty directory, in which no rights can be changed: one for all runs
/// in turn will do.
pub(super) fn is_bare(run: &Run, rendered: &RenderedTask) -> bool {
    !has_files(rendered) && run.template.program.runtime() == RuntimeKind::Wasm
}

/// Readies the run's directory, for as long as preparing may take and until the run is killed. Nothing
/// is written there any more once this returns.
pub(super) async fn prepare(
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
pub(super) fn fit<'a>(
    inputs: impl IntoIterator<Item = &'a Manifest>,
    disk: Bytes,
) -> Result<(), Failure> {
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
