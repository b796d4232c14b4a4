//! Makes one task ready to run: a step's template with the blanks filled in.
//!
//! Used by the provider, on bytes from a peer, and by the submitter to see beforehand what will come
//! of a job file. It must never trust either part: a [`TaskForm`] exists only for a template that was
//! checked, and whatever comes of a blank is checked here.

use std::collections::BTreeSet;

use super::filling::{FillError, Filling};
use super::form::{FormError, RESERVED_ENV, TaskForm, shown};
use super::limits::{
    MAX_ARGUMENT_BYTES, MAX_COMMAND_BYTES, MAX_FILLED_PATTERN_BYTES, MAX_FILLED_PATTERNS,
    MAX_INPUTS, MAX_TASK_VALUES_BYTES,
};
use super::pattern::{self, OutputPattern, PatternFault};
use super::template::Template;

use crate::id::{JobId, TaskKey};
use crate::manifest::{BlobRef, MAX_PATH_BYTES, is_inner_path};
use crate::task::{Assignment, InputSource, TaskTemplate};

/// A task that cannot be made ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// Its template breaks a rule.
    #[error("the task's template is broken: {0}")]
    Form(#[from] FormError),
    /// Its values or blobs do not belong to the template, or are too large.
    #[error("the task does not fit its template: {0}")]
    Assignment(&'static str),
    /// A blank.
    #[error("`{text}` cannot be filled in: {error}")]
    Fill {
        /// The text, shortened.
        text: String,
        /// Why.
        error: FillError,
    },
    /// Command and environment are together too long for any system.
    #[error("command and environment have more than {MAX_COMMAND_BYTES} bytes together")]
    CommandTooLong,
    /// A place for an input that is not below the work directory.
    #[error("the input path `{0}` is not below the work directory")]
    InputPath(String),
    /// Two inputs in one place, or one inside the other.
    #[error("two inputs stand at `{0}`")]
    InputTwice(String),
    /// An output pattern.
    #[error("{0}")]
    Pattern(#[from] PatternFault),
    /// Too many output patterns.
    #[error(
        "the task has more than {MAX_FILLED_PATTERNS} output patterns, or they are too long: use a wildcard"
    )]
    TooManyPatterns,
}

/// One input of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedInput {
    /// Where, relative to the work directory; inside it, and in no other input's place.
    pub path: String,
    /// What.
    pub blob: BlobRef,
}

/// A task with its blanks filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedTask {
    /// Its arguments, the first being the command; empty: the program's own.
    pub command: Vec<String>,
    /// The job's environment and the node's: `P2PNODE_JOB`, `P2PNODE_TASK`, `P2PNODE_INDEX`, and
    /// `P2PNODE_<KEY>` for each array key (a chunk's values with commas between them).
    pub env: Vec<(String, String)>,
    /// What stands in the work directory before it starts.
    pub inputs: Vec<RenderedInput>,
    /// What goes back.
    pub outputs: Vec<OutputPattern>,
}

impl RenderedTask {
    /// Folders of the work directory that exist before the task starts, sorted, parents first.
    #[must_use]
    pub fn folders(&self) -> BTreeSet<&str> {
        self.outputs
            .iter()
            .map(|pattern| pattern.folder.as_str())
            .filter(|folder| !folder.is_empty())
            .collect()
    }
}

/// Fills in the blanks of one task. Who renders many tasks of one template keeps a [`TaskForm`].
///
/// # Errors
/// When the template or the assignment breaks a rule; no text of either is trusted.
pub fn render(
    template: &TaskTemplate,
    assignment: &Assignment,
    job: JobId,
) -> Result<RenderedTask, RenderError> {
    TaskForm::new(template)?.render(assignment, job)
}

impl TaskForm {
    /// Fills in the blanks of one task.
    ///
    /// # Errors
    /// When the assignment does not fit, or what comes of a blank breaks a rule.
    pub fn render(&self, assignment: &Assignment, job: JobId) -> Result<RenderedTask, RenderError> {
        self.check(assignment)?;
        let job_text = job.to_string();
        let filling = Filling {
            values: &assignment.values,
            index: assignment.index,
            job: Some(&job_text),
            pick: None,
        };
        let mut left = MAX_COMMAND_BYTES;
        let command = self
            .command
            .iter()
            .map(|argument| fill_counted(argument, &filling, &mut left))
            .collect::<Result<_, _>>()?;
        Ok(RenderedTask {
            command,
            env: self.env(assignment, job, &filling, &mut left)?,
            inputs: self.inputs(assignment, &filling)?,
            outputs: self.outputs(&filling)?,
        })
    }

    /// The paths that a task writes as far as its patterns name them, after all its patterns and its
    /// inputs' paths were checked.
    ///
    /// # Errors
    /// See [`TaskForm::render`].
    pub(super) fn paths(&self, assignment: &Assignment) -> Result<Vec<String>, RenderError> {
        self.check(assignment)?;
        // Stands for the id, which has this form.
        let filling = Filling {
            values: &assignment.values,
            index: assignment.index,
            job: Some("0000000000000000"),
            pick: None,
        };
        self.inputs(assignment, &filling)?;
        let outputs = self.outputs(&filling)?;
        Ok(outputs
            .into_iter()
            .filter_map(|output| output.path)
            .collect())
    }

    fn outputs(&self, filling: &Filling<'_>) -> Result<Vec<OutputPattern>, RenderError> {
        let mut outputs = Vec::with_capacity(self.outputs.len());
        let mut bytes = 0;
        for template in &self.outputs {
            let spread = pattern::spread_over(template, filling.values);
            if outputs.len() + spread > MAX_FILLED_PATTERNS {
                return Err(RenderError::TooManyPatterns);
            }
            for pick in 0..spread {
                let pick = Some(pick);
                let output = OutputPattern::fill(template, &Filling { pick, ..*filling })?;
                bytes += output.glob.len();
                if bytes > MAX_FILLED_PATTERN_BYTES {
                    return Err(RenderError::TooManyPatterns);
                }
                outputs.push(output);
            }
        }
        Ok(outputs)
    }

    /// What an assignment must be, whatever the template says.
    fn check(&self, assignment: &Assignment) -> Result<(), RenderError> {
        let wrong = |what| Err(RenderError::Assignment(what));
        let values = &assignment.values;
        if values.len() != self.key_env.len() {
            return wrong("it has values for another number of keys");
        }
        if values.iter().any(Vec::is_empty) {
            return wrong("a key has no value");
        }
        let all = || values.iter().flatten();
        if all().map(|value| value.len() + 1).sum::<usize>() > MAX_TASK_VALUES_BYTES {
            return wrong("its values are too long; use a smaller chunk");
        }
        if all().any(|value| value.contains('\0')) {
            return wrong("a value holds a NUL character");
        }
        if assignment.inputs.len() > MAX_INPUTS {
            return wrong("it has too many inputs");
        }
        Ok(())
    }

    fn env(
        &self,
        assignment: &Assignment,
        job: JobId,
        filling: &Filling<'_>,
        left: &mut usize,
    ) -> Result<Vec<(String, String)>, RenderError> {
        let mut env = Vec::with_capacity(self.env.len() + self.key_env.len() + 3);
        for (name, value) in &self.env {
            env.push((name.clone(), fill_counted(value, filling, left)?));
        }
        for (name, values) in self.key_env.iter().zip(&assignment.values) {
            env.push((name.clone(), values.join(",")));
        }
        let task = TaskKey {
            job,
            step: self.step,
            index: assignment.index,
        };
        for (name, value) in [
            ("JOB", job.to_string()),
            ("TASK", task.to_string()),
            ("INDEX", assignment.index.to_string()),
        ] {
            env.push((format!("{RESERVED_ENV}{name}"), value));
        }
        Ok(env)
    }

    fn inputs(
        &self,
        assignment: &Assignment,
        filling: &Filling<'_>,
    ) -> Result<Vec<RenderedInput>, RenderError> {
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for (path, source) in &self.inputs {
            let path = fill(path, filling, MAX_PATH_BYTES)?;
            if !is_inner_path(path.as_bytes()) {
                return Err(RenderError::InputPath(shown(&path)));
            }
            let blob = match source {
                InputSource::Shared(blob) => *blob,
                InputSource::PerTask(position) => *assignment
                    .inputs
                    .get(usize::from(*position))
                    .ok_or(RenderError::Assignment("it lacks an input"))?,
            };
            inputs.push(RenderedInput { path, blob });
        }
        match twice(inputs.iter().map(|input| input.path.as_str())) {
            Some(path) => Err(RenderError::InputTwice(shown(path))),
            None => Ok(inputs),
        }
    }
}

/// A path that stands twice among `paths`, or inside another of them.
pub(super) fn twice<'a>(paths: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let mut all = BTreeSet::new();
    if let Some(path) = paths.clone().find(|path| !all.insert(*path)) {
        return Some(path);
    }
    let has_parent = |path: &&str| {
        path.match_indices('/')
            .any(|(slash, _)| all.contains(&path[..slash]))
    };
    paths.into_iter().find(has_parent)
}

/// Fills in an argument or a variable, and takes its length off what is `left` for all of them.
fn fill_counted(
    template: &Template,
    filling: &Filling<'_>,
    left: &mut usize,
) -> Result<String, RenderError> {
    let text = fill(template, filling, MAX_ARGUMENT_BYTES)?;
    *left = left
        .checked_sub(text.len() + 1)
        .ok_or(RenderError::CommandTooLong)?;
    Ok(text)
}

fn fill(template: &Template, filling: &Filling<'_>, limit: usize) -> Result<String, RenderError> {
    template
        .fill(filling, limit)
        .map_err(|error| RenderError::Fill {
            text: shown(template.text()),
            error,
        })
}
