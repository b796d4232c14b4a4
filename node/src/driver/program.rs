//! A step's program as a runtime wants it: a reference, or a file or folder written from chunks.

use std::path::PathBuf;

use p2pnode_executor::{Credentials, ProgramFile};
use p2pnode_protocol::Bytes;
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::task::{Failure, FailureKind, Program, TaskTemplate};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

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

/// What was written of a program. It goes with this value, unless it is kept until its job goes: a
/// preparation that fails or is stopped leaves nothing behind.
pub(super) struct Written {
    path: Option<PathBuf>,
    writing: TaskTracker,
}

impl Written {
    const fn nothing(writing: TaskTracker) -> Self {
        Self {
            path: None,
            writing,
        }
    }

    /// It is of use for as long as its job is here.
    pub(super) fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else {
            return;
        };
        // Without a runtime the node ends, and its next start clears all of this.
        if let Ok(runtime) = Handle::try_current() {
            let removing = move || {
                if let Err(error) = remove(&path) {
                    tracing::warn!(path = %path.display(), %error, "an unfinished program stays behind");
                }
            };
            self.writing.spawn_blocking_on(removing, &runtime);
        }
    }
}

/// Has the program of `template` ready. What was written of it is to be kept or dropped.
pub(super) async fn ready(
    context: &HostContext,
    hosted: HostedJob,
    template: &TaskTemplate,
    step: &Step,
    credentials: Option<Credentials>,
    local_registry: bool,
) -> Result<(ProgramFile, Written), Failure> {
    let number = template.step;
    let brought = |blob, name: &str, max_bytes| Brought {
        hosted,
        number,
        blob,
        name: name.to_owned(),
        max_bytes,
    };
    match &template.program {
        Program::Image { reference } => Ok((
            ProgramFile::Image {
                reference: reference.clone(),
                credentials,
                local_registry,
            },
            Written::nothing(step.writing().clone()),
        )),
        Program::Wasm { module } => {
            let brought = brought(*module, "wasm", MAX_MODULE_BYTES);
            let (path, written) = written(context, step, &brought).await?;
            Ok((ProgramFile::Wasm { path }, written))
        }
        Program::Archive { archive } => {
            let brought = brought(*archive, "tar", MAX_ARCHIVE_BYTES);
            let (path, written) = written(context, step, &brought).await?;
            let digest = archive.digest.to_string();
            Ok((ProgramFile::Archive { path, digest }, written))
        }
        Program::Build {
            context: folder,
            dockerfile,
        } => {
            let brought = brought(*folder, "context", MAX_CONTEXT_BYTES);
            let (path, written) = written(context, step, &brought).await?;
            let build = ProgramFile::Build {
                context: path,
                dockerfile: dockerfile.clone(),
                digest: folder.digest.to_string(),
                resources: template.resources.clone(),
                local_registry,
            };
            Ok((build, written))
        }
    }
}

/// A program that its job brings along.
struct Brought {
    hosted: HostedJob,
    /// Its step.
    number: u16,
    blob: BlobRef,
    /// The end of its file's name.
    name: String,
    max_bytes: u64,
}

/// Fetches a blob and writes it into what the job's tasks share.
async fn written(
    context: &HostContext,
    step: &Step,
    brought: &Brought,
) -> Result<(PathBuf, Written), Failure> {
    let size = brought.blob.content_bytes;
    if size > brought.max_bytes {
        let (size, most) = (Bytes(size), Bytes(brought.max_bytes));
        let why = format!("what the job brings to run is {size}; {most} are allowed");
        return Err(Failure::new(FailureKind::BadProgram, why));
    }
    for _ in 0..WRITES {
        let Brought {
            hosted,
            number,
            blob,
            ..
        } = *brought;
        preparing::fetch(context, hosted, number, blob).await?;
        let _memory = context
            .fetcher
            .manifests()
            .take(hosted.submitter, [blob])
            .await;
        if let Some(done) = write(context, step, brought).await? {
            return Ok(done);
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
    brought: &Brought,
) -> Result<Option<(PathBuf, Written)>, Failure> {
    let (dirs, store, disk) = (
        step.dirs().clone(),
        context.blobs.clone(),
        context.disk.clone(),
    );
    // Files are made, never written over, and an earlier one may still be written.
    let name = format!("step-{}-{}.{}", brought.number, step.serial(), brought.name);
    let (blob, max_bytes) = (brought.blob, brought.max_bytes);
    let tracker = step.writing().clone();
    // It is written to its end also when nobody waits for it any more.
    let written = step.writing().spawn_blocking(move || {
        let host = |message: String| Failure::new(FailureKind::Host, message);
        let folder = dirs
            .make_common()
            .map_err(|error| host(error.to_string()))?;
        let stored = store
            .manifest(&blob)
            .map_err(|error| host(error.to_string()))?;
        let Some(manifest) = stored else {
            return Ok(None);
        };
        let _promise = disk.take(&folder, "what the job brings to run", blob.content_bytes)?;
        let root = std::fs::File::open(&folder).map_err(|error| host(error.to_string()))?;
        let path = folder.join(&name);
        let written = Written {
            path: Some(path.clone()),
            writing: tracker,
        };
        let options = MaterializeOptions {
            max_bytes,
            owner: None,
        };
        match blobs::materialize(&store, &manifest, &root, name.as_bytes(), options) {
            Ok(()) => Ok(Some((path, written))),
            Err(error) if error.is_missing() => {
                remove(&path).map_err(|error| host(error.to_string()))?;
                Ok(None)
            }
            Err(error) => Err(host(error.to_string())),
        }
    });
    written.await.unwrap_or_else(|_| {
        Err(Failure::new(
            FailureKind::Host,
            "writing the program was interrupted",
        ))
    })
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
