//! Makes tasks of a job file ready as a provider would, to see beforehand what it would refuse.
//!
//! The first and the last task in any case; all of them when only they can show that their paths are
//! paths and differ, and they are not too many.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::JobFile;
use super::fault::{Fault, Spot};
use crate::id::{Digest, JobId, TaskIndex};
use crate::job::array::{Array, Values};
use crate::job::form::TaskForm;
use crate::job::pattern::has_wildcard;
use crate::job::render::RenderError;
use crate::job::template::Template;
use crate::manifest::BlobRef;
use crate::task::{Assignment, InputBinding, InputSource};

/// Up to so many paths every single one is written out; that takes some three seconds. Beyond, a
/// value that makes a bad or a common path is found only when its task runs.
const MAX_PATHS: u64 = 1_000_000;

/// Stands for blobs that are not known yet.
const NO_BLOB: BlobRef = BlobRef {
    digest: Digest([0; 32]),
    manifest_bytes: 0,
    content_bytes: 0,
};

/// Notes the first task that cannot be made ready, or whose outputs would land where another's do.
pub(super) fn try_tasks(job: &JobFile, array: &Array, faults: &mut Vec<Fault>) {
    let bindings = job.inputs.iter().map(|input| InputBinding {
        path: input.path.text.clone(),
        source: InputSource::Shared(NO_BLOB),
    });
    let name = job.name_in("job");
    let form = match TaskForm::new(&job.template(name, NO_BLOB, bindings.collect())) {
        Ok(form) => form,
        Err(error) => {
            faults.push(Fault::new(Spot::START, "task", error.to_string()));
            return;
        }
    };
    let count = array.task_count();
    let ends = [0, count.saturating_sub(1)];
    let between = 0..if needs_all(job, array) { count } else { 0 };
    let mut seen = Seen::default();
    for (at, index) in ends.into_iter().chain(between).enumerate() {
        let Some(values) = array.values(index) else {
            return;
        };
        let assignment = Assignment {
            index: TaskIndex::try_from(index).unwrap_or(TaskIndex::MAX),
            attempt: 1,
            values,
            inputs: Vec::new(),
        };
        let fault = if at < ends.len() {
            form.render(&assignment, JobId([0; 8])).err()
        } else {
            match form.paths(&assignment) {
                Ok(paths) => match seen.add(index, &paths) {
                    Some((path, other)) => {
                        let message = format!(
                            "would write `{path}`, and so would task {other}: make the paths differ, for example with {{index}}"
                        );
                        faults.push(told(job, &assignment, "outputs.paths", &message));
                        return;
                    }
                    None => None,
                },
                Err(error) => Some(error),
            }
        };
        if let Some(error) = fault {
            let section = section_of(&error);
            faults.push(told(job, &assignment, section, &error.to_string()));
            return;
        }
    }
}

/// Whether only the tasks themselves show that their paths are paths and differ.
fn needs_all(job: &JobFile, array: &Array) -> bool {
    let paths = (job.outputs.len() + job.inputs.len()) as u64;
    if array.task_count().saturating_mul(paths) > MAX_PATHS {
        return false;
    }
    let names = job.key_names();
    let parse = |text: &str| Template::parse(text, &names).ok();
    let outputs: Vec<_> = job.outputs.iter().filter_map(|o| parse(&o.text)).collect();
    let inputs: Vec<_> = job
        .inputs
        .iter()
        .filter_map(|i| parse(&i.path.text))
        .collect();
    let blanks = |template: &Template| template.blanks().collect::<BTreeSet<_>>().len();
    // Values side by side can make the same path, or `..`, in more than one way.
    let mixed = |template: &Template| blanks(template) > 1;
    // A path with a value can be another pattern's or another input's.
    let filled_inputs = inputs.iter().filter(|input| blanks(input) > 0).count();
    let plain_outputs = outputs
        .iter()
        .filter(|output| !has_wildcard(output))
        .count();
    outputs.iter().chain(&inputs).any(mixed)
        || plain_outputs > 1
        || (filled_inputs > 0 && inputs.len() > 1)
        || (paths > 0 && array.keys.iter().any(|key| is_odd(&key.values)))
}

/// Whether values are other than plain, different names.
fn is_odd(values: &Values) -> bool {
    let Values::List(values) = values else {
        return false;
    };
    let mut seen = HashSet::with_capacity(values.len());
    values.iter().any(|value| {
        value.contains('/') || value.bytes().all(|byte| byte == b'.') || !seen.insert(value)
    })
}

/// Which section a task's error belongs to.
fn section_of(error: &RenderError) -> &'static str {
    match error {
        RenderError::InputPath(_) | RenderError::InputTwice(_) => "inputs",
        RenderError::Pattern(_) | RenderError::TooManyPatterns => "outputs.paths",
        RenderError::Form(_) | RenderError::Fill { .. } | RenderError::CommandTooLong => {
            "task.command"
        }
        RenderError::Assignment(_) => "array",
    }
}

/// A fault of one task, told by its values.
fn told(job: &JobFile, assignment: &Assignment, section: &str, message: &str) -> Fault {
    let spot = match section {
        "inputs" => job.inputs.first().map(|input| input.path.spot),
        "outputs.paths" => job.outputs.first().map(|output| output.spot),
        "task.command" => job.command.first().map(|word| word.spot),
        _ => job.keys.first().map(|key| key.spot),
    };
    // Four keys tell a task well enough.
    let pairs = job.keys.iter().zip(&assignment.values).take(4);
    let pairs: Vec<_> = pairs
        .map(|(key, values)| {
            let first = values.first().map_or("", String::as_str);
            let shown: String = first.chars().take(40).collect();
            format!("{} = {shown}", key.name)
        })
        .collect();
    let index = assignment.index;
    let message = match pairs.as_slice() {
        [] => message.to_owned(),
        pairs => format!("task {index} ({}): {message}", pairs.join(", ")),
    };
    Fault::new(spot.unwrap_or(Spot::START), section, message)
}

/// Paths that tasks will write, by the first half of their digest (so that a million paths take some
/// 50 MB), and the task that does.
#[derive(Default)]
struct Seen {
    tasks: HashMap<[u8; 16], u64>,
}

impl Seen {
    /// Adds a task's paths; says which one another task has too, and which task.
    fn add(&mut self, index: u64, paths: &[String]) -> Option<(String, u64)> {
        for path in paths {
            let mut half = [0; 16];
            half.copy_from_slice(&Digest::of(path.as_bytes()).0[..16]);
            let other = *self.tasks.entry(half).or_insert(index);
            if other != index {
                return Some((path.chars().take(200).collect(), other));
            }
        }
        None
    }
}
