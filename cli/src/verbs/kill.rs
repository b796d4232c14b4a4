//! `kill`: ends tasks of others that run here.

use std::process::ExitCode;

use hyper::Method;
use p2pnode_protocol::api::{HostedDone, HostedRequest};

use super::follow::counted;
use crate::args::{Global, KillArgs};
use crate::exit::Failure;
use crate::{here, output};

pub async fn kill(global: &Global, args: &KillArgs) -> Result<ExitCode, Failure> {
    let request = HostedRequest {
        target: Some(args.target.clone()),
        peer: args.peer.clone(),
        reason: args.reason.clone(),
    };
    let client = here::must_run(global)?;
    let done: HostedDone = client.ask(Method::POST, "/hosted/kill", &request).await?;
    if global.json {
        output::line_json(&done);
        return Ok(ExitCode::SUCCESS);
    }
    for task in &done.tasks {
        output::line(format!("killed {} of {}", task.task, task.peer));
    }
    if done.waiting > 0 {
        let waiting = counted(done.waiting.into(), "waiting task");
        output::line(format!("sent back {waiting}"));
    }
    match &args.reason {
        Some(reason) => output::note(format!("their submitter reads: {reason}")),
        None => output::note("their submitter reads that no reason was given: --reason TEXT"),
    }
    if let Some(peer) = &done.peer {
        output::note(format!(
            "{peer} may still run tasks here; this ends that: p2pnode deny {peer}"
        ));
    }
    Ok(ExitCode::SUCCESS)
}
