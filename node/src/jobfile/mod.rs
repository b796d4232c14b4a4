//! What a job file says about this machine's disk: its inputs, its program, its files of lines.
//!
//! Between parsing (`p2pnode_protocol::job::file`) and the stored job: [`load`] or [`resolve`] looks
//! everything up and says all that is wrong at once; the caller stores the bytes of
//! [`ResolvedJob::sources`], in their order, and [`ResolvedJob::plan`] makes the plan of the blobs.
//! Used by the command line (which stops before storing anything) and by the driver. It reads, and
//! must never write or keep a file open; it must never be called on a thread that serves others, since
//! a job may name a million files.

mod disk;
pub(crate) mod dockerignore;
mod inputs;
pub(crate) mod login;
mod summary;

use std::path::{Path, PathBuf};

use p2pnode_protocol::Digest;
use p2pnode_protocol::job::file::{Fault, JobFile, JobFileErrors, LoginSpec, ProgramSpec};
use p2pnode_protocol::job::{Array, JobPlan, Login, Policy, StepPlan};
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::task::{InputBinding, InputSource};

pub use summary::{InputSummary, JobSummary, TaskPreview};

use inputs::{Bound, Sources};

/// How long a job waits for a first peer that fits when nothing says so, in milliseconds: discovery
/// takes some 5 s, and up to 10 s through the DHT.
pub const DEFAULT_WAIT_MS: u64 = 15_000;

/// Names nothing: stands where a blob is not known.
const NO_BLOB: BlobRef = BlobRef {
    digest: Digest([0; 32]),
    manifest_bytes: 0,
    content_bytes: 0,
};

/// A job file with everything that it names found on this machine's disk.
#[derive(Debug, Clone)]
pub struct ResolvedJob {
    job: JobFile,
    name: String,
    array: Array,
    sources: Vec<PathBuf>,
    /// Where the job file stands.
    folder: PathBuf,
    /// Position among the sources of what runs: module, archive or build's context.
    program: Option<usize>,
    /// For each input of the job file, where its content is.
    inputs: Vec<Bound>,
}

/// Reads a job file's text and looks up what it names below `folder` (absolute).
///
/// # Errors
/// Everything that is wrong, with the text and on the disk.
pub fn load(text: &str, file_name: &str, folder: &Path) -> Result<ResolvedJob, JobFileErrors> {
    match JobFile::read(text, file_name) {
        (Some(job), faults) => look_up(job, folder, faults),
        (None, faults) => Err(JobFileErrors::of(file_name, faults)),
    }
}

/// Looks up what a checked job file names below `folder` (absolute).
///
/// # Errors
/// Everything that is wrong on the disk.
pub fn resolve(job: &JobFile, folder: &Path) -> Result<ResolvedJob, JobFileErrors> {
    look_up(job.clone(), folder, Vec::new())
}

fn look_up(
    job: JobFile,
    folder: &Path,
    mut faults: Vec<Fault>,
) -> Result<ResolvedJob, JobFileErrors> {
    let mut on_disk = Vec::new();
    let lines: Vec<Vec<String>> = job
        .line_files()
        .map(|path| disk::lines(folder, path, &mut on_disk))
        .collect();
    let array = if on_disk.is_empty() {
        job.check_batch(&lines, &mut faults)
    } else {
        None
    };
    let mut sources = Sources::new(folder);
    let program = sources.program(&job.program, &mut on_disk);
    let inputs = sources.inputs(&job, array.as_ref(), &mut on_disk);
    faults.extend(on_disk);
    let array = array.filter(|_| faults.is_empty());
    let Some(array) = array else {
        return Err(JobFileErrors::of(&job.file, faults));
    };
    let folder_name = folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    Ok(ResolvedJob {
        name: job.name_in(&folder_name),
        job,
        array,
        sources: sources.paths,
        folder: folder.to_owned(),
        program,
        inputs,
    })
}

impl ResolvedJob {
    /// The job file.
    #[must_use]
    pub const fn job(&self) -> &JobFile {
        &self.job
    }

    /// The job's name: as written, or after its file or folder.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many tasks it has.
    #[must_use]
    pub fn task_count(&self) -> u64 {
        self.array.task_count()
    }

    /// Files and folders to store, each once: absolute when the job's folder was.
    #[must_use]
    pub fn sources(&self) -> &[PathBuf] {
        &self.sources
    }

    /// The position among the sources of a build's context.
    #[must_use]
    pub fn context(&self) -> Option<usize> {
        let is_build = matches!(self.job.program, ProgramSpec::Build(..));
        self.program.filter(|_| is_build)
    }

    /// How long the file says that the job waits for a first peer that fits, in milliseconds; `None`
    /// when it does not say.
    #[must_use]
    pub const fn wait_for_peers_ms(&self) -> Option<u64> {
        self.job.policy.wait_for_peers_ms
    }

    /// The plan, given the blob of each of [`ResolvedJob::sources`] in their order. A blob that is
    /// missing becomes a name of nothing, which no provider finds.
    #[must_use]
    pub fn plan(&self, blobs: &[BlobRef]) -> JobPlan {
        let blob = |source: usize| blobs.get(source).copied().unwrap_or(NO_BLOB);
        let mut bindings = Vec::with_capacity(self.inputs.len());
        let mut per_task_inputs = Vec::new();
        for (input, bound) in self.job.inputs.iter().zip(&self.inputs) {
            let source = match bound {
                Bound::Shared(source) => InputSource::Shared(blob(*source)),
                Bound::PerTask(sources) => {
                    let of_task = |source: &u32| blob(*source as usize);
                    per_task_inputs.push(sources.iter().map(of_task).collect());
                    // Checked with the template: there are at most 1,024 inputs.
                    InputSource::PerTask((per_task_inputs.len() - 1) as u16)
                }
            };
            let path = input.path.text.clone();
            bindings.push(InputBinding { path, source });
        }
        let program = self.program.map_or(NO_BLOB, blob);
        let login = self.job.login.as_ref().map(|login| match login {
            LoginSpec::Docker => Login::Docker,
            LoginSpec::File { username, path } => Login::File {
                username: username.clone(),
                path: disk::path_of(&self.folder, &path.text)
                    .to_string_lossy()
                    .into_owned(),
            },
        });
        let step = StepPlan {
            login,
            template: self.job.template(self.name.clone(), program, bindings),
            array: self.array.clone(),
            per_task_inputs,
            needs: Vec::new(),
        };
        let policy = &self.job.policy;
        JobPlan {
            name: self.name.clone(),
            steps: vec![step],
            placement: self.job.placement.clone(),
            policy: Policy {
                retries: policy.retries,
                wait_for_peers_ms: policy.wait_for_peers_ms.unwrap_or(DEFAULT_WAIT_MS),
                // A task that is a whole chunk is handed out as any other.
                hand_out: self.job.chunk.filter(|_| !self.job.whole_chunks),
            },
        }
    }
}

#[cfg(test)]
mod tests;
