//! `allow` and `deny`.

use std::process::ExitCode;

use hyper::Method;
use serde_json::json;

use crate::args::Global;
use crate::exit::Failure;
use crate::{here, output};

pub async fn set(global: &Global, peer: &str, allowed: bool) -> Result<ExitCode, Failure> {
    let method = if allowed { Method::PUT } else { Method::DELETE };
    let client = here::must_run(global)?;
    let () = client.ask(method, &format!("/allowed/{peer}"), &()).await?;
    if global.json {
        output::line_json(&json!({ "peer": peer, "allowed": allowed }));
    } else {
        let word = if allowed {
            "may now run tasks here"
        } else {
            "may no longer run tasks here"
        };
        output::line(format!("{peer} {word}"));
    }
    Ok(ExitCode::SUCCESS)
}
