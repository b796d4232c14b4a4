//! Readies a run's work directory: its inputs in it, the folders of its outputs made.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2pnode_protocol::job::RenderedTask;
use p2pnode_protocol::manifest::{BlobRef, MAX_ENTRIES};
use p2pnode_protocol::offer::weakens;
use p2pnode_protocol::task::{Failure, FailureKind, InputSource, RuntimeKind};
use tokio_util::sync::CancellationToken;

use super::super::diskroom::DiskRoom;
use super::super::fetching::{WRITES, not_arrived};
use super::super::hosting::HostContext;
use super::super::preparing::{self, Step, fit};
use super::{Run, blocking, host};
use crate::blobs::{self, BlobStore, MaterializeOptions, PinOwner};

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
    let blobs = || rendered.inputs.iter().map(|input| input.blob);
    fit(blobs(), run.template.resources.disk)?;
    tokio::select! {
        () = stop.cancelled() => return Err(stopped()),
        fetched = fetch_own_inputs(context, run, rendered) => fetched?,
    }
    let mut tried = 0;
    loop {
        tried += 1;
        // One list of files is in memory at a time.
        let manifests = context.fetcher.manifests();
        let memory = tokio::select! {
            () = stop.cancelled() => return Err(stopped()),
            memory = manifests.take(key.submitter, blobs()) => memory,
        };
        let written = write_dir(context, run, step, rendered, stop.clone()).await;
        drop(memory);
        match written {
            Ok(work_dir) => return Ok(work_dir),
            Err(NotWritten {
                missing: Some(position),
                ..
            }) if tried < WRITES => {
                tracing::warn!(run = %run.key.attempt, "chunks of an input were lost, fetching them again");
                tokio::select! {
                    () = stop.cancelled() => return Err(stopped()),
                    again = fetch_input(context, run, rendered.inputs[position].blob) => again?,
                }
            }
            Err(not_written) => return Err(not_written.failure),
        }
    }
}

/// Why inputs do not stand in a work directory.
pub(super) struct NotWritten {
    pub(super) failure: Failure,
    /// The input, by position, that must be fetched again.
    pub(super) missing: Option<usize>,
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
    stop: CancellationToken,
) -> Result<PathBuf, NotWritten> {
    let (dirs, key) = (step.dirs().clone(), run.key);
    let folders: Vec<String> = rendered.folders().into_iter().map(str::to_owned).collect();
    let inputs = rendered.inputs.iter();
    let writing = Writing {
        store: context.blobs.clone(),
        disk: context.disk.clone(),
        inputs: inputs
            .map(|input| (input.path.as_bytes().to_vec(), input.blob))
            .collect(),
        max_bytes: run.template.resources.disk.0,
        max_entries: MAX_ENTRIES,
        stop,
    };
    blocking(move || {
        let work_dir = dirs.make(&key).map_err(|error| host(error.to_string()))?;
        writing.run(&work_dir).inspect_err(|not_written| {
            if not_written.missing.is_some() {
                // Files are made, never written over: the next try begins with nothing.
                dirs.remove(&key);
            }
        })?;
        for folder in folders {
            std::fs::create_dir_all(work_dir.join(folder))
                .map_err(|error| host(format!("an output folder cannot be made: {error}")))?;
        }
        Ok(work_dir)
    })
    .await
}

/// Inputs on their way into a work directory.
pub(super) struct Writing {
    pub(super) store: Arc<BlobStore>,
    pub(super) disk: DiskRoom,
    /// Each with its path.
    pub(super) inputs: Vec<(Vec<u8>, BlobRef)>,
    /// The most content, in bytes.
    pub(super) max_bytes: u64,
    /// The most files, folders and links.
    pub(super) max_entries: usize,
    pub(super) stop: CancellationToken,
}

impl Writing {
    /// Writes them, one list of files in memory at a time.
    pub(super) fn run(&self, work_dir: &Path) -> Result<(), NotWritten> {
        if self.inputs.is_empty() {
            return Ok(());
        }
        let root = std::fs::File::open(work_dir)
            .map_err(|error| host(format!("the work directory cannot be opened: {error}")))?;
        let sizes = self.inputs.iter().map(|(_, blob)| blob.content_bytes);
        let total = sizes.fold(0, u64::saturating_add);
        let _promise = self
            .disk
            .take(work_dir, "what a task has as inputs", total)?;
        let options = MaterializeOptions {
            max_bytes: self.max_bytes,
            owner: None,
        };
        // Empty folders take no bytes of content, and many inputs may be one blob.
        let mut entries = self.max_entries;
        for (position, (path, blob)) in self.inputs.iter().enumerate() {
            if self.stop.is_cancelled() {
                return Err(stopped().into());
            }
            let stored = self.store.manifest(blob);
            let stored =
                stored.map_err(|error| host(format!("an input cannot be read: {error}")))?;
            let Some(manifest) = stored else {
                return Err(NotWritten {
                    failure: host("an input is gone"),
                    missing: Some(position),
                });
            };
            entries = entries
                .checked_sub(manifest.entries.len())
                .ok_or_else(|| too_many(self.max_entries))?;
            blobs::materialize(&self.store, &manifest, &root, path, options).map_err(|error| {
                NotWritten {
                    missing: error.is_missing().then_some(position),
                    failure: host(format!("an input cannot be written: {error}")),
                }
            })?;
        }
        Ok(())
    }
}

fn too_many(most: usize) -> Failure {
    Failure::new(
        FailureKind::DiskFull,
        format!("its inputs have more than {most} files and folders together; pack them (inputs)"),
    )
}

/// What a preparation ends with that is not waited for; replaced by why that is so.
fn stopped() -> Failure {
    host("it was killed while its inputs were made ready")
}

/// The inputs that are the task's alone; those that all share came with the environment.
async fn fetch_own_inputs(
    context: &HostContext,
    run: &Run,
    rendered: &RenderedTask,
) -> Result<(), Failure> {
    let own = rendered.inputs.iter().enumerate().filter(|(position, _)| {
        let binding = run.template.inputs.get(*position);
        !binding.is_some_and(|input| matches!(input.source, InputSource::Shared(_)))
    });
    // Several inputs may be one blob.
    for blob in own.map(|(_, input)| input.blob).collect::<BTreeSet<_>>() {
        fetch_input(context, run, blob).await?;
    }
    Ok(())
}

async fn fetch_input(context: &HostContext, run: &Run, blob: BlobRef) -> Result<(), Failure> {
    let task = run.key.attempt.task;
    let hosted = run.key.hosted();
    let owner = PinOwner::job(hosted.scope());
    let fetched = context
        .fetcher
        .fetch(run.key.submitter, task.job, blob, owner, None)
        .await;
    fetched.map(drop).map_err(|error| not_arrived(&error))
}
