//! `job.toml`: what a person writes.
//!
//! [`JobFile::parse`] reads and checks everything that text alone can tell; what needs the disk (input
//! paths, the lines of a file) is the node's to look up. The document is walked by hand, not through
//! serde, so that one run finds every fault with its line.
//!
//! Split by what the parts own: `reader` walks TOML, `keys` knows which keys there are, `task`, `program`,
//! `values` and `settings` read the sections, `blanks` checks `{key}`, `batch` counts tasks and finds
//! outputs that would collide, `trial` makes tasks ready to see what comes of them, `fault` says what is wrong.

mod batch;
mod blanks;
mod fault;
mod keys;
mod program;
mod reader;
mod settings;
mod task;
mod trial;
mod values;

use toml::de::DeTable;

pub use fault::{Fault, JobFileErrors, Spot, Written};
pub use keys::{known_keys, reserved_keys};
pub use settings::FilePolicy;
pub use task::{InputSpec, LoginSpec, ProgramSpec};
pub use values::{KeySpec, ValuesSpec};

use super::limits;
use super::plan::Placement;
use crate::manifest::BlobRef;
use crate::resources::Resources;
use crate::task::{InputBinding, Isolation, NetworkMode, Program, TaskTemplate};
use reader::{Faults, Section};

/// The longest job file, in bytes (1 MiB). Longer lists belong in a file of lines.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// A job file that was read and checked as far as text can tell.
#[derive(Debug, Clone, PartialEq)]
pub struct JobFile {
    /// The file's name, for messages.
    pub file: String,
    /// The job's name, when the file gives one; see [`JobFile::name_in`].
    pub name: Option<String>,
    /// What runs.
    pub program: ProgramSpec,
    /// Its arguments, with blanks.
    pub command: Vec<Written>,
    /// Its environment, values with blanks.
    pub env: Vec<(String, Written)>,
    /// Whether it asks for root inside its container.
    pub root: bool,
    /// How much its tasks share.
    pub isolation: Isolation,
    /// The OCI runtime that it insists on.
    pub sandbox: Option<String>,
    /// Whether its submitter attends to it.
    pub attended: bool,
    /// Where the credentials for its image are.
    pub login: Option<LoginSpec>,
    /// The array's keys in the order of the file.
    pub keys: Vec<KeySpec>,
    /// How many indices are handed out together; `None`: as measured.
    pub chunk: Option<u32>,
    /// Whether one process does a whole chunk, because a blank speaks of `.first`, `.last` or `.list`.
    pub whole_chunks: bool,
    /// What each task needs.
    pub resources: Resources,
    /// What stands in the work directory.
    pub inputs: Vec<InputSpec>,
    /// Patterns of what goes back, with blanks.
    pub outputs: Vec<Written>,
    /// Where it may run.
    pub placement: Placement,
    /// What to do when things go wrong.
    pub policy: FilePolicy,
    /// What it may reach.
    pub network: NetworkMode,
}

impl JobFile {
    /// Reads and checks the text of a job file. `file_name` is for messages.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, JobFileErrors> {
        let (job, mut faults) = Self::read(text, file_name);
        let Some(job) = job else {
            return Err(JobFileErrors::of(file_name, faults));
        };
        if job.line_files().next().is_none() {
            job.check_batch(&[], &mut faults);
        }
        if faults.is_empty() {
            Ok(job)
        } else {
            Err(JobFileErrors::of(file_name, faults))
        }
    }

    /// Reads as much of a job file as can be read, and notes its faults: with what could not be read
    /// left out, the rest can still be checked against the disk. The number of tasks and their outputs
    /// are not checked here; see [`JobFile::array`]. `None`: the text is not TOML.
    #[must_use]
    pub fn read(text: &str, file_name: &str) -> (Option<Self>, Vec<Fault>) {
        if text.len() > MAX_FILE_BYTES {
            let message = format!(
                "is larger than {} MiB: put long lists into a file and name it with {{ lines = \"...\" }}",
                MAX_FILE_BYTES >> 20
            );
            return (None, vec![Fault::new(Spot::START, "", message)]);
        }
        let mut faults = Faults::new(text);
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            syntax(&mut faults, &errors);
            return (None, faults.list);
        }
        let mut job = sections(&Section::root(document.get_ref()), &mut faults, file_name);
        blanks::check(&mut job, &mut faults.list);
        (Some(job), faults.list)
    }

    /// The job's name: as written; else the file's name without its ending, or the folder's when that
    /// is `job`. Characters that a name may not have become `-`.
    #[must_use]
    pub fn name_in(&self, folder: &str) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let base = self.file.rsplit(['/', '\\']).next().unwrap_or_default();
        let stem = base.rsplit_once('.').map_or(base, |(stem, _)| stem);
        let from = if stem == "job" { folder } else { stem };
        let plain = |char: char| match char {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '.' | '_' | '-' => char,
            _ => '-',
        };
        let name: String = from
            .chars()
            .map(plain)
            .take(limits::MAX_NAME_BYTES)
            .collect();
        if limits::is_job_name(&name) {
            name
        } else {
            "job".into()
        }
    }

    /// Files whose lines are values of the array, in the order of the keys.
    pub fn line_files(&self) -> impl Iterator<Item = &Written> {
        self.keys.iter().filter_map(|key| match &key.values {
            ValuesSpec::Lines(path) => Some(path),
            ValuesSpec::Known(_) => None,
        })
    }

    fn key_names(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.name.clone()).collect()
    }

    /// The template of the job's tasks. `blob` is what its program's path names (unused for images by
    /// name), and `inputs` its inputs with their blobs.
    #[must_use]
    pub fn template(&self, name: String, blob: BlobRef, inputs: Vec<InputBinding>) -> TaskTemplate {
        let program = match &self.program {
            ProgramSpec::Image(reference) => Program::Image {
                reference: reference.clone(),
            },
            ProgramSpec::Wasm(_) => Program::Wasm { module: blob },
            ProgramSpec::Archive(_) => Program::Archive { archive: blob },
            ProgramSpec::Build(_, dockerfile) => Program::Build {
                context: blob,
                dockerfile: dockerfile.clone(),
            },
        };
        let mut resources = self.resources.clone();
        if matches!(program, Program::Wasm { .. }) {
            // A module is one thread, whatever the file says.
            resources.pids = 1;
        }
        TaskTemplate {
            name,
            step: 0,
            program,
            command: texts(&self.command),
            env: self
                .env
                .iter()
                .map(|(name, value)| (name.clone(), value.text.clone()))
                .collect(),
            keys: self.key_names(),
            resources,
            inputs,
            outputs: texts(&self.outputs),
            allow_empty_outputs: self.policy.allow_empty_outputs,
            timeout_ms: self.policy.timeout_ms,
            stall_ms: self.policy.stall_ms,
            prepare_timeout_ms: self.policy.prepare_timeout_ms,
            keep_ms: self.policy.keep_ms,
            network: self.network.clone(),
            root: self.root,
            isolation: self.isolation,
            sandbox: self.sandbox.clone(),
            attended: self.attended,
        }
    }
}

fn texts(written: &[Written]) -> Vec<String> {
    written.iter().map(|written| written.text.clone()).collect()
}

fn syntax(faults: &mut Faults<'_>, errors: &[toml::de::Error]) {
    for error in errors {
        let spot = error
            .span()
            .map_or(Spot::START, |span| faults.spot(span.start));
        // One slip makes several errors of a line; the first says what it was.
        if !faults.list.iter().any(|fault| fault.spot.line == spot.line) {
            let message = match error.message() {
                "duplicate key" => "the key stands here for the second time: remove one".into(),
                message => format!("not TOML: {message}"),
            };
            faults.add(spot, "", message);
        }
    }
}

fn sections(root: &Section<'_>, faults: &mut Faults<'_>, file_name: &str) -> JobFile {
    root.check_keys(faults, "");
    let task = task::task(root, faults);
    let network = settings::network(root, &task.program, task.sandbox.is_some(), faults);
    let (keys, chunk) = values::array(root, faults);
    JobFile {
        file: file_name.to_owned(),
        name: name(root, faults),
        program: task.program,
        whole_chunks: false,
        resources: settings::resources(root, faults),
        inputs: task::inputs(root, faults),
        outputs: task::outputs(root, faults),
        placement: settings::placement(root, faults),
        policy: settings::policy(root, faults),
        network,
        command: task.command,
        env: task.env,
        root: task.root,
        isolation: task.isolation,
        sandbox: task.sandbox,
        attended: task.attended,
        login: task.login,
        keys,
        chunk,
    }
}

fn name(root: &Section<'_>, faults: &mut Faults<'_>) -> Option<String> {
    let name = root.text(faults, "name")?;
    if limits::is_job_name(&name.text) {
        return Some(name.text);
    }
    let shown: String = name.text.chars().take(80).collect();
    let message = format!(
        "`{shown}` is not a name: use 1 to {} letters, digits, `.`, `_` and `-`",
        limits::MAX_NAME_BYTES
    );
    faults.list.push(name.fault(message));
    None
}
