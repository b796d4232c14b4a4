//! `allow` and `deny`.

use std::process::ExitCode;

use hyper::Method;
use p2pnode_protocol::api::PeerAccess;

use crate::args::Global;
use crate::exit::Failure;
use crate::{here, output, select};

pub async fn set(global: &Global, peer: &str, allowed: bool) -> Result<ExitCode, Failure> {
    let path = select::access_path(peer)?;
    let method = if allowed { Method::PUT } else { Method::DELETE };
    let client = here::must_run(global)?;
    let access: PeerAccess = client.ask(method, &path, &()).await?;
    if global.json {
        output::line_json(&access);
    } else {
        let word = if allowed {
            "may now run tasks here"
        } else {
            "may no longer run tasks here"
        };
        output::line(format!("{} {word}", access.peer));
    }
    Ok(ExitCode::SUCCESS)
}
