//! How large things will be on the wire, estimated from above without encoding them.
//!
//! Used to fill offers and reports up to a limit of bytes, and to bound what peers may leave here.

use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::message::ReportEvent;
use p2pnode_protocol::task::{Assignment, NetworkMode, Outcome, Program, TaskTemplate};

/// Fixed parts of a value: length prefixes and numbers take at most 9 bytes each.
const NUMBER: usize = 9;

/// An encoded [`BlobRef`]: a digest and two numbers.
const BLOB: usize = size_of::<BlobRef>() + 2;

fn text(text: &str) -> usize {
    NUMBER + text.len()
}

/// An assignment.
pub(super) fn assignment(assignment: &Assignment) -> usize {
    let values: usize = assignment
        .values
        .iter()
        .map(|values| NUMBER + values.iter().map(|value| text(value)).sum::<usize>())
        .sum();
    4 * NUMBER + values + assignment.inputs.len() * BLOB
}

/// A template.
pub(super) fn template(template: &TaskTemplate) -> usize {
    let texts = |list: &[String]| list.iter().map(|item| text(item)).sum::<usize>();
    let env: usize = template
        .env
        .iter()
        .map(|(key, value)| text(key) + text(value))
        .sum();
    let inputs: usize = template
        .inputs
        .iter()
        .map(|input| text(&input.path) + NUMBER + BLOB)
        .sum();
    let program = match &template.program {
        Program::Image { reference } => text(reference),
        Program::Build { dockerfile, .. } => BLOB + text(dockerfile),
        Program::Wasm { .. } | Program::Archive { .. } => BLOB,
    };
    let domains = match &template.network {
        NetworkMode::None => 0,
        NetworkMode::Egress { domains } => texts(domains),
    };
    let sandbox = template.sandbox.as_deref().map_or(0, text);
    let gpus = template.resources.gpus.model.as_deref().map_or(0, text);
    30 * NUMBER
        + text(&template.name)
        + program
        + domains
        + sandbox
        + gpus
        + texts(&template.command)
        + texts(&template.keys)
        + texts(&template.outputs)
        + env
        + inputs
}

/// An event of a report.
pub(super) fn event(event: &ReportEvent) -> usize {
    match event {
        ReportEvent::Preparing { .. } | ReportEvent::Started(_) => 5 * NUMBER,
        ReportEvent::Finished {
            outcome, outputs, ..
        } => {
            let message = match outcome {
                Outcome::Succeeded => 0,
                Outcome::Failed(failure) => text(&failure.message),
            };
            10 * NUMBER + message + outputs.map_or(0, |_| BLOB)
        }
    }
}
