//! Instructions that run nothing, carried out by the engine's own builder.
//!
//! The classic builder (`version=1`): every Docker has it and Podman answers to the same request, and
//! unlike BuildKit it wants no session with files to fetch. It is given a Dockerfile of ours that
//! begins with an image's id, so it has nothing to pull; it runs no step of a stranger's; and it uses
//! no cache, so that nobody learns from the time that a build takes what others have built.

use bollard::errors::Error;
use bollard::query_parameters::BuildImageOptionsBuilder;
use futures::StreamExt;
use p2pnode_protocol::task::{Failure, FailureKind};

use super::context::{self, INSTRUCTIONS};
use super::tail::Tail;
use super::{Build, WHAT};
use crate::docker::words;

/// Has the builder carry out `text` and returns the id of the image. `needs_context`: it copies from
/// the context.
///
/// # Errors
/// [`FailureKind::BadProgram`] with the builder's words when an instruction can't be carried out.
pub(super) async fn run(
    build: &Build<'_>,
    text: String,
    needs_context: bool,
) -> Result<String, Failure> {
    let work = build.work;
    if needs_context {
        build
            .room
            .check(WHAT, build.context_bytes.saturating_mul(2))?;
    }
    let root = needs_context.then(|| build.context.to_path_buf());
    let body = context::stream(root, text, work.stop.clone());
    let options = BuildImageOptionsBuilder::new()
        .dockerfile(INSTRUCTIONS)
        .networkmode("none")
        .nocache(true)
        .rm(true)
        .forcerm(true)
        .build();
    let docker = work.patient();
    let body = bollard::body_try_stream(body);
    let mut answers = std::pin::pin!(docker.build_image(options, None, Some(body)));
    let carried_out = async {
        let (mut tail, mut id) = (Tail::default(), None);
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(|error| failed(&error, &tail))?;
            if let Some(detail) = answer.error_detail {
                let why = detail.message.unwrap_or_default();
                return Err(failed(&Error::DockerStreamError { error: why }, &tail));
            }
            if let Some(text) = &answer.stream {
                tail.push(text.as_bytes());
            }
            id = answer.aux.and_then(|aux| aux.id).or(id);
        }
        id.ok_or_else(|| {
            let why = "the engine's builder ended without an image";
            Failure::new(FailureKind::Host, format!("{why}:\n{}", tail.text()))
        })
    };
    work.unless_stopped(build.room.watched(WHAT, carried_out))
        .await
}

fn failed(error: &Error, tail: &Tail) -> Failure {
    let why = words(error);
    match error {
        // What an instruction meets in the image or the context, and what the builder can't read.
        Error::DockerStreamError { .. }
        | Error::DockerResponseServerError {
            status_code: 400, ..
        } => {
            let mut shown = Tail::default();
            shown.push(tail.text().as_bytes());
            shown.push(b"\n");
            shown.push(why.as_bytes());
            Failure::new(
                FailureKind::BadProgram,
                format!("the build failed:\n{}", shown.text()),
            )
        }
        _ => Failure::new(FailureKind::Host, format!("the engine cannot build: {why}")),
    }
}
