//! Finds the inputs of a job, those that every task shares and those that each has for itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use p2pnode_protocol::job::Array;
use p2pnode_protocol::job::file::{Fault, InputSpec, JobFile, ProgramSpec};
use p2pnode_protocol::job::filling::Filling;
use p2pnode_protocol::job::template::Template;
use p2pnode_protocol::manifest::MAX_PATH_BYTES;

use super::disk;

/// How many tasks without their input are named; a wrong path is wrong for all of them.
const MAX_NAMED: usize = 3;

/// Where an input's content is: positions among the sources.
#[derive(Debug, Clone)]
pub(super) enum Bound {
    /// One for all tasks.
    Shared(usize),
    /// One for each task.
    PerTask(Vec<u32>),
}

/// Collects the files and folders that a job needs, each once.
pub(super) struct Sources<'a> {
    folder: &'a Path,
    pub(super) paths: Vec<PathBuf>,
    known: HashMap<PathBuf, usize>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(folder: &'a Path) -> Self {
        Self {
            folder,
            paths: Vec::new(),
            known: HashMap::new(),
        }
    }

    /// The position of a path that was checked, or the fault that `check` finds with a new one.
    fn add(
        &mut self,
        written: &str,
        check: impl FnOnce(&Path, &str) -> Option<String>,
    ) -> Result<usize, String> {
        let path = disk::path_of(self.folder, written);
        if let Some(at) = self.known.get(&path) {
            return Ok(*at);
        }
        if let Some(fault) = check(self.folder, written) {
            return Err(fault);
        }
        let at = self.paths.len();
        self.paths.push(path.clone());
        self.known.insert(path, at);
        Ok(at)
    }

    /// Adds what the job runs, when that is on this machine.
    pub(super) fn program(
        &mut self,
        program: &ProgramSpec,
        faults: &mut Vec<Fault>,
    ) -> Option<usize> {
        let path = program.path()?;
        let check = |folder: &Path, written: &str| match program {
            ProgramSpec::Wasm(_) => disk::module_fault(folder, written),
            ProgramSpec::Archive(_) => disk::archive_fault(folder, written),
            ProgramSpec::Build(_, dockerfile) => disk::context_fault(folder, written, dockerfile),
            ProgramSpec::Image(_) => None,
        };
        self.add(&path.text, check)
            .map_err(|fault| faults.push(path.fault(fault)))
            .ok()
    }

    /// Adds the job's inputs. Without an array (its own faults are noted) only those that all tasks
    /// share can be looked at.
    pub(super) fn inputs(
        &mut self,
        job: &JobFile,
        array: Option<&Array>,
        faults: &mut Vec<Fault>,
    ) -> Vec<Bound> {
        let names: Vec<String> = job.keys.iter().map(|key| key.name.clone()).collect();
        let mut bound = Vec::with_capacity(job.inputs.len());
        for input in &job.inputs {
            // A blank that cannot be read was noted with the text.
            let Ok(template) = Template::parse(&input.source.text, &names) else {
                continue;
            };
            if let Some(array) = array.filter(|_| input.per_task) {
                bound.push(Bound::PerTask(
                    self.per_task(input, &template, array, faults),
                ));
            } else if !input.per_task {
                let written = plain(&template);
                match self.add(&written, disk::fault_of) {
                    Ok(at) => bound.push(Bound::Shared(at)),
                    Err(fault) => faults.push(input.source.fault(fault)),
                }
            }
        }
        bound
    }

    fn per_task(
        &mut self,
        input: &InputSpec,
        template: &Template,
        array: &Array,
        faults: &mut Vec<Fault>,
    ) -> Vec<u32> {
        let mut of_tasks = Vec::new();
        let mut wrong = 0;
        for index in 0..array.task_count() {
            let Some(values) = array.values(index) else {
                break;
            };
            let filling = Filling {
                values: &values,
                index: u32::try_from(index).unwrap_or(u32::MAX),
                job: None,
                pick: None,
            };
            let found = template
                .fill(&filling, MAX_PATH_BYTES)
                .map_err(|error| error.to_string())
                .and_then(|written| self.add(&written, disk::fault_of));
            match found {
                Ok(at) => of_tasks.push(u32::try_from(at).unwrap_or(u32::MAX)),
                Err(fault) if wrong < MAX_NAMED => {
                    faults.push(input.source.fault(format!("task {index}: {fault}")));
                    wrong += 1;
                }
                Err(_) => wrong += 1,
            }
        }
        if wrong > MAX_NAMED {
            let more = wrong - MAX_NAMED;
            faults.push(
                input
                    .source
                    .fault(format!("the same for {more} more tasks")),
            );
        }
        of_tasks
    }
}

/// The text of a template without blanks, its doubled braces undone.
fn plain(template: &Template) -> String {
    let nothing = Filling {
        values: &[],
        index: 0,
        job: None,
        pick: None,
    };
    template
        .fill(&nothing, MAX_PATH_BYTES)
        .unwrap_or_else(|_| template.text().to_owned())
}
