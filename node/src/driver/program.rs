//! A step's program as a runtime wants it: a reference, or a file or folder written from chunks.

use std::path::PathBuf;

use p2pnode_executor::{Credentials, ProgramFile};
use p2pnode_protocol::manifest::{BlobRef, Manifest};
use p2pnode_protocol::task::{Failure, FailureKind, Program, TaskTemplate};

use super::fetching::WRITES;
use super::hosting::HostContext;
use super::preparing::{self, Step};
use crate::blobs::{self, MaterializeOptions};
use crate::core::io::HostedJob;

/// The largest WASM module, in bytes (256 MiB); a browser's engine takes no more either.
const MAX_MODULE_BYTES: u64 = 256 << 20;

/// The largest archive of an image, in bytes (64 GiB): several times what the largest public images
/// of machine learning take.
const MAX_ARCHIVE_BYTES: u64 = 64 << 30;

/// The largest context of a build, in bytes (8 GiB). What is larger belongs into an image.
const MAX_CONTEXT_BYTES: u64 = 8 << 30;

/// Has the program of `template` ready.
pub(super) async fn ready(
    context: &HostContext,
    hosted: HostedJob,
    template: &TaskTemplate,
    step: &Step,
    credentials: Option<Credentials>,
) -> Result<ProgramFile, Failure> {
    let number = template.step;
    let written =
        |blob, name: String, most| written(context, hosted, step, number, blob, name, most);
    // Whoever submits here may have the registries of this network, as with any program of his.
    let local_registry = hosted.submitter == context.log_target.me;
    match &template.program {
        Program::Image { reference } => Ok(ProgramFile::Image {
            reference: reference.clone(),
            credentials,
            local_registry,
        }),
        Program::Wasm { module } => {
            let name = format!("step-{number}.wasm");
            let path = written(*module, name, MAX_MODULE_BYTES).await?;
            Ok(ProgramFile::Wasm { path })
        }
        Program::Archive { archive } => {
            let name = format!("step-{number}.tar");
            let path = written(*archive, name, MAX_ARCHIVE_BYTES).await?;
            let digest = archive.digest.to_string();
            Ok(ProgramFile::Archive { path, digest })
        }
        Program::Build {
            context: folder,
            dockerfile,
        } => {
            let name = format!("step-{number}.context");
            Ok(ProgramFile::Build {
                context: written(*folder, name, MAX_CONTEXT_BYTES).await?,
                dockerfile: dockerfile.clone(),
                digest: folder.digest.to_string(),
                resources: template.resources.clone(),
                local_registry,
            })
        }
    }
}

/// Fetches a blob and writes it under `name` into what the job's tasks share.
async fn written(
    context: &HostContext,
    hosted: HostedJob,
    step: &Step,
    number: u16,
    blob: BlobRef,
    name: String,
    max_bytes: u64,
) -> Result<PathBuf, Failure> {
    for _ in 0..WRITES {
        let manifest = preparing::fetch(context, hosted, number, blob).await?;
        if let Some(path) = write(context, step, manifest, name.clone(), max_bytes).await? {
            return Ok(path);
        }
        tracing::warn!(job = %hosted.job, "chunks of a program were lost, fetching them again");
    }
    let why = "the disk of this node loses the program each time that it comes";
    Err(Failure::new(FailureKind::Host, why))
}

/// Writes the blob; nothing when a chunk of it turns out to be gone or damaged.
async fn write(
    context: &HostContext,
    step: &Step,
    manifest: Manifest,
    name: String,
    max_bytes: u64,
) -> Result<Option<PathBuf>, Failure> {
    let (dirs, store) = (step.dirs().clone(), context.blobs.clone());
    // It is written to its end also when nobody waits for it any more.
    let written = step.writing().spawn_blocking(move || {
        let folder = dirs.make_common().map_err(|error| error.to_string())?;
        let path = folder.join(&name);
        let root = std::fs::File::open(&folder).map_err(|error| error.to_string())?;
        let options = MaterializeOptions {
            max_bytes,
            owner: None,
        };
        match blobs::materialize(&store, &manifest, &root, name.as_bytes(), options) {
            Ok(()) => Ok(Some(path)),
            Err(error) if error.is_missing() => {
                // Files are made, never written over.
                remove(&path).map_err(|error| error.to_string())?;
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
            "writing the program was interrupted",
        )),
    }
}

/// Removes what was written of a file or a folder; a link is removed, never followed.
fn remove(path: &std::path::Path) -> std::io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    }
}
