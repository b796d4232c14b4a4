//! What a job would do, told without doing it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use p2pnode_protocol::job::file::ProgramSpec;
use p2pnode_protocol::job::{TaskForm, render};
use p2pnode_protocol::task::RuntimeKind;
use p2pnode_protocol::{JobId, Resources};
use serde::Serialize;

use super::{Bound, ResolvedJob};

/// Up to so many files and folders are counted; more only make the figures lower bounds.
const MAX_COUNTED: u64 = 1_000_000;

/// What a job would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobSummary {
    /// Its name.
    pub name: String,
    /// The runtime that it needs.
    pub runtime: RuntimeKind,
    /// Its image or module, as written.
    pub program: String,
    /// How many tasks it has.
    pub tasks: u64,
    /// How many indices are handed out, or run, together; absent: as measured.
    pub chunk: Option<u32>,
    /// Whether a chunk is one task.
    pub whole_chunks: bool,
    /// What each task needs.
    pub resources: Resources,
    /// Its inputs.
    pub inputs: Vec<InputSummary>,
    /// Patterns of what goes back, as written.
    pub outputs: Vec<String>,
    /// The only peers that it may run on; empty: any.
    pub peers: Vec<String>,
    /// Labels that a peer must have.
    pub labels: BTreeMap<String, String>,
    /// The first task.
    pub first: TaskPreview,
    /// The last task, when there are several.
    pub last: Option<TaskPreview>,
}

/// An input and how much there is of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputSummary {
    /// Its path in the task, as written.
    pub path: String,
    /// Its path here, as written.
    pub source: String,
    /// Whether each task has its own.
    pub per_task: bool,
    /// How many files it has, those of all tasks together.
    pub files: u64,
    /// Their length together, in bytes.
    pub bytes: u64,
}

/// One task with its blanks filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskPreview {
    /// Its index.
    pub index: u32,
    /// Its command; empty: the program's own.
    pub command: Vec<String>,
    /// Its environment. The job's id in it is all zeros, because there is none yet.
    pub env: Vec<(String, String)>,
    /// Its output patterns.
    pub outputs: Vec<String>,
}

impl ResolvedJob {
    /// What the job would do. Walks its inputs to count their bytes.
    #[must_use]
    pub fn summary(&self) -> JobSummary {
        let job = self.job();
        let (runtime, program) = match &job.program {
            ProgramSpec::Image(image) => (RuntimeKind::Docker, image.clone()),
            ProgramSpec::Wasm(path) => (RuntimeKind::Wasm, path.text.clone()),
            ProgramSpec::Archive(path) | ProgramSpec::Build(path, _) => {
                (RuntimeKind::Docker, path.text.clone())
            }
        };
        let tasks = self.task_count();
        let last = u32::try_from(tasks.saturating_sub(1)).unwrap_or(u32::MAX);
        JobSummary {
            name: self.name().to_owned(),
            runtime,
            program,
            tasks,
            chunk: job.chunk,
            whole_chunks: job.whole_chunks,
            resources: job.resources.clone(),
            inputs: self.input_summaries(),
            outputs: job.outputs.iter().map(|o| o.text.clone()).collect(),
            peers: job
                .placement
                .peers
                .iter()
                .map(ToString::to_string)
                .collect(),
            labels: job.placement.labels.clone(),
            first: self.preview(0),
            last: (last > 0).then(|| self.preview(last)),
        }
    }

    fn input_summaries(&self) -> Vec<InputSummary> {
        let inputs = self.job().inputs.iter().zip(&self.inputs);
        inputs
            .map(|(input, bound)| {
                let mut sources = match bound {
                    Bound::Shared(source) => vec![*source],
                    Bound::PerTask(sources) => sources.iter().map(|at| *at as usize).collect(),
                };
                sources.sort_unstable();
                sources.dedup();
                let mut count = Count::default();
                for path in sources.iter().filter_map(|at| self.sources.get(*at)) {
                    count.add(path);
                }
                InputSummary {
                    path: input.path.text.clone(),
                    source: input.source.text.clone(),
                    per_task: input.per_task,
                    files: count.files,
                    bytes: count.bytes,
                }
            })
            .collect()
    }

    /// A task as it would run; empty when it cannot be made ready, which checking has ruled out.
    fn preview(&self, index: u32) -> TaskPreview {
        let plan = self.plan(&[]);
        let step = plan.steps.first();
        let task = step.and_then(|step| {
            let assignment = step.assignment(index, 1)?;
            TaskForm::new(&step.template)
                .ok()?
                .render(&assignment, JobId([0; 8]))
                .ok()
        });
        let Some(render::RenderedTask {
            command,
            env,
            outputs,
            ..
        }) = task
        else {
            return TaskPreview {
                index,
                command: Vec::new(),
                env: Vec::new(),
                outputs: Vec::new(),
            };
        };
        TaskPreview {
            index,
            command,
            env,
            outputs: outputs.into_iter().map(|output| output.glob).collect(),
        }
    }
}

#[derive(Default)]
struct Count {
    files: u64,
    bytes: u64,
    seen: u64,
}

impl Count {
    /// Counts a file, or all files of a folder. Links inside a folder are not followed, and what
    /// cannot be read is left out: this is a figure for people.
    fn add(&mut self, path: &Path) {
        let mut open = vec![path.to_owned()];
        let mut top = true;
        while let Some(path) = open.pop() {
            let found = if top {
                fs::metadata(&path)
            } else {
                fs::symlink_metadata(&path)
            };
            top = false;
            self.seen += 1;
            let Ok(found) = found else {
                continue;
            };
            if found.is_file() {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(found.len());
            } else if found.is_dir() && self.seen < MAX_COUNTED {
                let entries = fs::read_dir(&path).into_iter().flatten().flatten();
                open.extend(entries.map(|entry| entry.path()));
            }
        }
    }
}
