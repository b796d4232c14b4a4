//! From a job file to a stored job: check it, read its inputs into the blob store, name it.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use p2pnode_protocol::api::{CreateJob, ErrorCode};
use p2pnode_protocol::job::JobPlan;
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::task::{InputSource, Program};
use p2pnode_protocol::{Digest, JobId, parse_peer};

use super::logins;
use crate::blobs::{self, BlobStore, Limits, PinOwner, PinScope};
use crate::command::CommandError;
use crate::core::io::Input;
use crate::jobfile::dockerignore::Ignored;
use crate::jobfile::{self, ResolvedJob};
use crate::store::check_plan;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct Submitter {
    blobs: Arc<BlobStore>,
    /// Where outputs go when the owner named no folder.
    outputs: PathBuf,
    /// How long a job waits for a first peer when it does not say.
    wait_for_peers: Duration,
}

impl Submitter {
    pub(super) const fn new(
        blobs: Arc<BlobStore>,
        outputs: PathBuf,
        wait_for_peers: Duration,
    ) -> Self {
        Self {
            blobs,
            outputs,
            wait_for_peers,
        }
    }

    /// Forgets what was stored for a job that nobody waits for any more.
    pub(super) fn discard(&self, job: JobId) {
        self.blobs.unpin_scope(PinScope::Own(job));
    }

    /// Makes the input that submits `job`; its blobs are stored and pinned.
    pub(super) async fn prepare(&self, job: CreateJob) -> Result<(JobId, Input), CommandError> {
        let this = self.clone();
        let reading = tokio::task::spawn_blocking(move || this.read(&job));
        match reading.await {
            Ok(read) => read,
            Err(_) => Err(CommandError::new(
                ErrorCode::Internal,
                "reading the job was interrupted",
            )),
        }
    }

    fn read(&self, job: &CreateJob) -> Result<(JobId, Input), CommandError> {
        let resolved = resolve(job)?;
        // What can be wrong without the inputs is told before they are read.
        let mut plan = look_at(job, &resolved)?;
        if job.wait_for_peers_ms.is_none() && resolved.wait_for_peers_ms().is_none() {
            plan.policy.wait_for_peers_ms = self.wait_for_peers.as_millis() as u64;
        }
        let id = JobId(rand::random());
        let out = out_folder(job, &plan.name, id, &self.outputs);
        if plan
            .steps
            .iter()
            .any(|step| !step.template.outputs.is_empty())
        {
            probe(Path::new(&out)).map_err(|error| {
                let message = format!(
                    "outputs cannot be written to {out}: {error}; choose another folder with --out"
                );
                CommandError::new(ErrorCode::Invalid, message)
            })?;
        }
        let read = self.read_sources(id, &resolved);
        let blobs = read.inspect_err(|_| self.blobs.unpin_scope(PinScope::Own(id)))?;
        let plan = JobPlan {
            placement: plan.placement,
            policy: plan.policy,
            ..resolved.plan(&blobs)
        };
        Ok((
            id,
            Input::Submit {
                job: id,
                plan: Arc::new(plan),
                out: Some(out),
            },
        ))
    }

    fn read_sources(
        &self,
        id: JobId,
        resolved: &ResolvedJob,
    ) -> Result<Vec<BlobRef>, CommandError> {
        resolved
            .sources()
            .iter()
            .enumerate()
            .map(|(position, path)| {
                let owner = PinOwner::job(PinScope::Own(id));
                let ignored = match resolved.context() == Some(position) {
                    true => Ignored::of(path),
                    false => Ok(Ignored::default()),
                };
                let ignored = ignored.map_err(|fault| {
                    CommandError::new(ErrorCode::Invalid, format!("task.build: {fault}"))
                })?;
                let left_out = |inner: &[u8], is_folder: bool| ignored.leaves_out(inner, is_folder);
                blobs::ingest_without(
                    &self.blobs,
                    owner,
                    path,
                    Limits::default(),
                    &left_out,
                    &|_| ControlFlow::Continue(()),
                )
                .map(|(blob, _)| blob)
                .map_err(|error| {
                    let message = format!("an input cannot be read: {error}");
                    CommandError::new(ErrorCode::Invalid, message)
                })
            })
            .collect()
    }
}

fn resolve(job: &CreateJob) -> Result<ResolvedJob, CommandError> {
    let wrong = |errors: p2pnode_protocol::job::file::JobFileErrors| {
        let details = errors.lines();
        let message = match details.as_slice() {
            [one] => one.clone(),
            several => format!("{} has {} faults", job.file, several.len()),
        };
        CommandError {
            code: ErrorCode::Invalid,
            message,
            details,
        }
    };
    jobfile::load(&job.toml, &job.file, Path::new(&job.folder)).map_err(wrong)
}

/// What the request says in place of the file.
fn apply(job: &CreateJob, plan: &mut JobPlan) -> Result<(), CommandError> {
    if !job.peers.is_empty() {
        plan.placement.peers = job
            .peers
            .iter()
            .map(|text| {
                parse_peer(text)
                    .map_err(|error| CommandError::new(ErrorCode::Invalid, error.to_string()))
            })
            .collect::<Result<_, _>>()?;
    }
    if let Some(wait) = job.wait_for_peers_ms {
        plan.policy.wait_for_peers_ms = wait;
    }
    Ok(())
}

fn out_folder(job: &CreateJob, name: &str, id: JobId, default: &Path) -> String {
    if let Some(out) = &job.out {
        return out.clone();
    }
    let parent = job
        .out_parent
        .as_ref()
        .map_or(default, |parent| Path::new(parent));
    parent
        .join(format!("{name}-{id}"))
        .to_string_lossy()
        .into_owned()
}

/// The plan of a job that is only to be looked at: inputs are not read, their blobs are empty names.
pub(super) fn plan_without_blobs(job: &CreateJob) -> Result<JobPlan, CommandError> {
    look_at(job, &resolve(job)?)
}

fn look_at(job: &CreateJob, resolved: &ResolvedJob) -> Result<JobPlan, CommandError> {
    let nothing = BlobRef {
        digest: Digest::of(&[]),
        manifest_bytes: 0,
        content_bytes: 0,
    };
    let mut plan = resolved.plan(&vec![nothing; resolved.sources().len()]);
    apply(job, &mut plan)?;
    logins::check(&plan)
        .map_err(|why| CommandError::new(ErrorCode::Invalid, format!("task.login: {why}")))?;
    check_plan(&plan).map_err(|error| CommandError::new(ErrorCode::Invalid, error.to_string()))?;
    Ok(plan)
}

/// Whether files can be made in the folder `out`. It need not exist, and does not afterwards either.
fn probe(out: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = out.ancestors().take_while(|path| !path.exists()).collect();
    let made = std::fs::create_dir_all(out).and_then(|()| tempfile::tempfile_in(out).map(drop));
    for folder in missing {
        // Some may not have been made, and somebody else may use one by now.
        let _absent_or_used = std::fs::remove_dir(folder);
    }
    made
}

/// All blobs that a job's tasks need.
pub(super) fn blobs_of(plan: &JobPlan) -> impl Iterator<Item = BlobRef> + '_ {
    plan.steps.iter().flat_map(|step| {
        let program = match &step.template.program {
            Program::Wasm { module } => Some(*module),
            Program::Archive { archive: blob } | Program::Build { context: blob, .. } => {
                Some(*blob)
            }
            Program::Image { .. } => None,
        };
        let shared = step
            .template
            .inputs
            .iter()
            .filter_map(|input| match input.source {
                InputSource::Shared(blob) => Some(blob),
                InputSource::PerTask(_) => None,
            });
        program
            .into_iter()
            .chain(shared)
            .chain(step.per_task_inputs.iter().flatten().copied())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_made_is_told_and_one_that_can_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b/c");
        probe(&new).unwrap();
        assert!(!dir.path().join("a").exists());
        probe(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let file = dir.path().join("file");
        std::fs::write(&file, "mine").unwrap();
        for wrong in [file.as_path(), &file.join("below"), Path::new("/proc/foo")] {
            assert!(probe(wrong).is_err(), "{}", wrong.display());
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    }
}
