//! Checks every `{key}` of a job file, and finds out what they mean for it: whether one process does a
//! whole chunk, and which inputs each task has for itself.

use super::JobFile;
use super::fault::{Fault, Written};
use crate::job::template::{Blank, Portion, Template};

/// Where a text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Command, environment, or an input's path in the task.
    Task,
    /// An input's path here.
    Source,
    /// An output pattern.
    Output,
}

/// Notes every blank that cannot be filled, and sets what follows from the blanks.
pub(super) fn check(job: &mut JobFile, faults: &mut Vec<Fault>) {
    let names = job.key_names();
    let mut found: Vec<(Place, Written, Template)> = Vec::new();
    let texts = job
        .command
        .iter()
        .chain(job.env.iter().map(|(_, value)| value))
        .chain(job.inputs.iter().map(|input| &input.path))
        .map(|text| (Place::Task, text))
        .chain(
            job.inputs
                .iter()
                .map(|input| (Place::Source, &input.source)),
        )
        .chain(job.outputs.iter().map(|output| (Place::Output, output)));
    for (place, text) in texts {
        match Template::parse(&text.text, &names) {
            Ok(template) => found.push((place, text.clone(), template)),
            Err(errors) => faults.extend(errors.iter().map(|error| text.fault(error.to_string()))),
        }
    }
    let whole = |blank: Blank| match blank {
        Blank::Key(_, portion) => portion != Portion::Only,
        Blank::Index | Blank::Job => false,
    };
    job.whole_chunks = found
        .iter()
        .any(|(_, _, template)| template.blanks().any(whole));
    for (place, text, template) in &found {
        for blank in template.blanks() {
            if let Some(message) = fault_of(job, &names, *place, blank) {
                faults.push(text.fault(message));
            }
        }
    }
    for input in &mut job.inputs {
        input.per_task = Template::parse(&input.source.text, &names)
            .is_ok_and(|template| template.blanks().next().is_some());
    }
}

fn fault_of(job: &JobFile, names: &[String], place: Place, blank: Blank) -> Option<String> {
    let (key, portion) = match blank {
        Blank::Job if place == Place::Source => {
            return Some(
                "`{job}` is not known before the job is submitted: use it in the command or the environment"
                    .into(),
            );
        }
        Blank::Job | Blank::Index => return None,
        Blank::Key(key, portion) => (key, portion),
    };
    let name = names.get(key)?;
    let is_last = key + 1 == names.len();
    let part = match portion {
        Portion::Only => {
            let several = job.whole_chunks && is_last && job.chunk.is_some_and(|chunk| chunk > 1);
            return (several && place != Place::Output).then(|| {
                format!(
                    "`{{{name}}}` has several values, because the job speaks of whole chunks: write {{{name}.first}}, {{{name}.last}} or {{{name}.list}}"
                )
            });
        }
        Portion::First => "first",
        Portion::Last => "last",
        Portion::List => "list",
    };
    if !is_last {
        return Some(format!(
            "`{{{name}.{part}}}` speaks of a chunk, and only the last key of [array] is handed out in chunks: put `{name}` last"
        ));
    }
    job.chunk.is_none().then(|| {
        format!(
            "`{{{name}.{part}}}` speaks of a chunk: say under [array] how many values make one, for example chunk = 40"
        )
    })
}
