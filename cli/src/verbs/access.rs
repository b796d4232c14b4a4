//! `allow`, `deny` and `requests`: who may run tasks here.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use p2pnode_protocol::api::{AccessRequest, PeerAccess};
use p2pnode_protocol::offer::Grant;

use super::follow::counted;
use crate::args::{AllowArgs, Global};
use crate::exit::Failure;
use crate::{here, output, select};

pub async fn allow(global: &Global, args: &AllowArgs) -> Result<ExitCode, Failure> {
    set(global, &args.peer, Some(args.grant())).await
}

pub async fn deny(global: &Global, peer: &str) -> Result<ExitCode, Failure> {
    set(global, peer, None).await
}

async fn set(global: &Global, peer: &str, grant: Option<Grant>) -> Result<ExitCode, Failure> {
    let path = select::access_path(peer)?;
    let client = here::must_run(global)?;
    let access: PeerAccess = match &grant {
        Some(grant) => client.ask(Method::PUT, &path, grant).await?,
        None => client.ask(Method::DELETE, &path, &()).await?,
    };
    if global.json {
        output::line_json(&access);
        return Ok(ExitCode::SUCCESS);
    }
    match &access.grant {
        None => output::line(format!("{} may no longer run tasks here", access.peer)),
        Some(grant) => output::line(format!(
            "{} may now run tasks here{}",
            access.peer,
            limits(grant)
        )),
    }
    Ok(ExitCode::SUCCESS)
}

/// The limits of a permission, in words.
fn limits(grant: &Grant) -> String {
    let mut text = String::new();
    if let Some(tasks) = grant.tasks {
        text.push_str(&format!(", {}", counted(tasks, "task")));
    }
    if let Some(until_ms) = grant.until_ms {
        let left = Duration::from_millis(until_ms).saturating_sub(since_epoch());
        let left = Duration::from_secs(left.as_secs_f64().round() as u64);
        text.push_str(&format!(", for {}", humantime::format_duration(left)));
    }
    if !grant.images.is_empty() {
        text.push_str(&format!(", only images {}", grant.images.join(", ")));
    }
    text
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

pub async fn requests(global: &Global) -> Result<ExitCode, Failure> {
    let client = here::must_run(global)?;
    let requests: Vec<AccessRequest> = client.get("/requests").await?;
    if global.json {
        output::line_json(&requests);
        return Ok(ExitCode::SUCCESS);
    }
    if requests.is_empty() {
        output::note("nobody has asked");
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = requests.iter().map(row).collect();
    output::table(
        &["PEER", "NAME", "JOB", "RUNS", "EACH TASK", "LAST ASKED"],
        &rows,
    );
    output::note(
        "answer with: p2pnode allow PEER [--tasks N] [--until TIME] [--image PATTERN], or p2pnode deny PEER",
    );
    Ok(ExitCode::SUCCESS)
}

fn row(asked: &AccessRequest) -> Vec<String> {
    let ago = since_epoch().saturating_sub(Duration::from_millis(asked.last_ms));
    let needs = &asked.resources;
    let mut each = format!("{} CPUs, {}", needs.cpus, needs.memory);
    if needs.gpus.count > 0 {
        each.push_str(&format!(", {}", counted(needs.gpus.count.into(), "GPU")));
    }
    vec![
        asked.peer.clone(),
        asked.name.clone(),
        asked.job_name.clone(),
        asked.program.clone(),
        each,
        format!(
            "{} ago",
            humantime::format_duration(Duration::from_secs(ago.as_secs()))
        ),
    ]
}
