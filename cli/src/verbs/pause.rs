//! `pause` and `resume`: freezes tasks of others that run here.

use std::process::ExitCode;

use hyper::Method;
use p2pnode_protocol::api::{HostedDone, HostedRequest};

use crate::args::{Global, PauseArgs};
use crate::exit::{self, Failure};
use crate::{here, output};

pub async fn set(global: &Global, args: &PauseArgs, on: bool) -> Result<ExitCode, Failure> {
    let request = HostedRequest {
        target: args.target.clone(),
        peer: args.peer.clone(),
        reason: None,
    };
    let (path, word) = match on {
        true => ("/hosted/pause", "paused"),
        false => ("/hosted/resume", "resumed"),
    };
    let client = here::must_run(global)?;
    let done: HostedDone = client.ask(Method::POST, path, &request).await?;
    if global.json {
        output::line_json(&done);
    } else {
        for task in &done.tasks {
            output::line(format!("{word} {} of {}", task.task, task.peer));
        }
        for unable in &done.unable {
            output::note(format!(
                "not {word}: {} of {}: {}",
                unable.task, unable.peer, unable.why
            ));
        }
        if done.tasks.is_empty() && done.unable.is_empty() {
            output::note("nothing runs here");
        }
        if on && !done.tasks.is_empty() {
            let what = args.target.as_deref().unwrap_or("--all");
            output::note(format!(
                "they keep what they were given: p2pnode resume {what}"
            ));
        }
    }
    // Nothing of what was meant was done.
    let failed = done.tasks.is_empty() && !done.unable.is_empty();
    Ok(ExitCode::from(if failed { exit::JOB_FAILED } else { 0 }))
}
