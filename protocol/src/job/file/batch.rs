//! Counts the tasks of a job file, and finds outputs of two tasks that would land on one path.
//!
//! All outputs of a job land in one folder. Text can tell a collision when a pattern has no wildcard;
//! with a wildcard only the finished tasks can, and the submitting node looks then. What needs the
//! tasks themselves is tried in [`super::trial`].

use super::fault::{Fault, Spot, Written};
use super::values::{ValuesSpec, value_fault};
use super::{JobFile, JobFileErrors, trial};
use crate::job::array::{Array, ArrayKey, MAX_TASKS, Values};
use crate::job::pattern::has_wildcard;
use crate::job::template::{Blank, Portion, Template};

/// The longest lists of an array together, in bytes (32 MiB): the stored plan of a job holds them.
const MAX_LIST_BYTES: usize = 32 << 20;

impl JobFile {
    /// The job's array. `lines` are the lines of each of [`JobFile::line_files`], in their order.
    ///
    /// # Errors
    /// No task or too many, values that cannot be, outputs of two tasks on one path, or a task that
    /// cannot be made ready.
    pub fn array(&self, lines: &[Vec<String>]) -> Result<Array, JobFileErrors> {
        let mut faults = Vec::new();
        match self.check_batch(lines, &mut faults) {
            Some(array) if faults.is_empty() => Ok(array),
            _ => Err(JobFileErrors::of(&self.file, faults)),
        }
    }

    /// The same for a job file of which `faults` are known already, to which more are added: checks
    /// as much as they let one. `None`: the tasks cannot be counted, or are too many to be looked at.
    pub fn check_batch(&self, lines: &[Vec<String>], faults: &mut Vec<Fault>) -> Option<Array> {
        let depends = |fault: &Fault| {
            ["array", "outputs"]
                .iter()
                .any(|key| fault.key.starts_with(key))
        };
        if faults.iter().any(depends) {
            return None;
        }
        let before = faults.len();
        let array = self.build(lines, faults);
        if faults.len() == before {
            self.check_count(&array, faults);
        }
        if faults.len() > before {
            return None;
        }
        self.check_lists(&array, faults);
        self.check_outputs(&array, faults);
        if faults.is_empty() {
            trial::try_tasks(self, &array, faults);
        }
        Some(array)
    }

    fn build(&self, lines: &[Vec<String>], faults: &mut Vec<Fault>) -> Array {
        let mut lines = lines.iter();
        let mut keys = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            let values = match &key.values {
                ValuesSpec::Known(values) => values.clone(),
                ValuesSpec::Lines(path) => {
                    let lines = lines.next().cloned().unwrap_or_default();
                    if lines.is_empty() {
                        faults.push(path.fault(format!(
                            "`{}` has no lines, so there are no tasks: write one value a line",
                            path.text
                        )));
                    }
                    let bad = lines.iter().enumerate();
                    let bad = bad.filter_map(|(at, line)| Some((at, value_fault(line)?)));
                    faults.extend(bad.take(1).map(|(at, fault)| {
                        path.fault(format!("line {} of `{}`: {fault}", at + 1, path.text))
                    }));
                    Values::List(lines)
                }
            };
            let name = key.name.clone();
            keys.push(ArrayKey { name, values });
        }
        let chunk = self.chunk.filter(|_| self.whole_chunks);
        Array { keys, chunk }
    }

    fn check_count(&self, array: &Array, faults: &mut Vec<Fault>) {
        let spot = self.keys.first().map_or(Spot::START, |key| key.spot);
        let count = array.task_count();
        if count == 0 {
            faults.push(Fault::new(
                spot,
                "array",
                "makes no tasks: give each key a value",
            ));
        } else if count > MAX_TASKS {
            let many = if count == u64::MAX {
                "more tasks than can be counted".to_owned()
            } else {
                format!("{count} tasks")
            };
            faults.push(Fault::new(
                spot,
                "array",
                format!(
                    "makes {many}, and a job may have {MAX_TASKS}: take smaller ranges, or split it into several jobs"
                ),
            ));
        }
    }

    fn check_lists(&self, array: &Array, faults: &mut Vec<Fault>) {
        let lists = array.keys.iter().filter_map(|key| match &key.values {
            Values::List(list) => Some(list),
            Values::Range { .. } => None,
        });
        let bytes: usize = lists.flatten().map(String::len).sum();
        if bytes > MAX_LIST_BYTES {
            let message = format!(
                "has more than {} MiB of values: use shorter ones, or split it into several jobs",
                MAX_LIST_BYTES >> 20
            );
            faults.push(Fault::new(Spot::START, "array", message));
        }
        let Some((last, key)) = array.keys.last().zip(self.keys.last()) else {
            return;
        };
        if let Values::List(list) = &last.values
            && let Some(value) = list.iter().find(|value| value.contains(','))
            && self.uses_list()
        {
            let shown: String = value.chars().take(80).collect();
            let message = format!(
                "the value `{shown}` has a comma, so `{{{}.list}}` would read as two: use values without",
                key.name
            );
            faults.push(Fault::new(key.spot, format!("array.{}", key.name), message));
        }
    }

    fn uses_list(&self) -> bool {
        let names = self.key_names();
        let lists = |text: &Written| {
            Template::parse(&text.text, &names).is_ok_and(|template| {
                template
                    .blanks()
                    .any(|blank| matches!(blank, Blank::Key(_, Portion::List)))
            })
        };
        self.command
            .iter()
            .chain(self.env.iter().map(|(_, value)| value))
            .chain(&self.outputs)
            .any(lists)
    }

    /// Judges patterns without a wildcard by their blanks: each key of several values must be in it.
    fn check_outputs(&self, array: &Array, faults: &mut Vec<Fault>) {
        if array.task_count() < 2 {
            return;
        }
        let names = self.key_names();
        for output in &self.outputs {
            let Ok(template) = Template::parse(&output.text, &names) else {
                continue;
            };
            if has_wildcard(&template) || template.blanks().any(|blank| blank == Blank::Index) {
                continue;
            }
            let missing: Vec<&str> = array
                .keys
                .iter()
                .enumerate()
                .filter(|(at, key)| {
                    let named = template
                        .blanks()
                        .any(|blank| matches!(blank, Blank::Key(key, _) if key == *at));
                    let last = *at + 1 == array.keys.len();
                    let chunk = array.chunk.filter(|_| last).map_or(1, u64::from);
                    key.values.len() > chunk && !named
                })
                .map(|(_, key)| key.name.as_str())
                .collect();
            if let Some(fault) = collision(output, &missing, &names) {
                faults.push(fault);
            }
        }
    }
}

/// The fault of a pattern that lacks the keys `missing`; `None`: it lacks none.
fn collision(output: &Written, missing: &[&str], keys: &[String]) -> Option<Fault> {
    let wanted: Vec<String> = missing.iter().map(|key| format!("{{{key}}}")).collect();
    if wanted.is_empty() {
        return None;
    }
    let wanted = wanted.join(" and ");
    let shown: String = output.text.chars().take(200).collect();
    Some(output.fault(if missing.len() == keys.len() {
        format!("all tasks would write `{shown}`: add {wanted} to the path")
    } else {
        let differ = missing.join("` and `");
        format!(
            "tasks that differ only in `{differ}` would both write `{shown}`: add {wanted} to the path"
        )
    }))
}
