//! `path`.

use std::process::ExitCode;
use std::time::Duration;

use p2pnode_protocol::Bytes;
use p2pnode_protocol::api::{PeerLink, PeerPath};

use crate::args::{Global, PathArgs};
use crate::exit::Failure;
use crate::{here, output, select};

pub async fn path(global: &Global, args: &PathArgs) -> Result<ExitCode, Failure> {
    let path = select::way_path(&args.peer, "path")?;
    let told: PeerPath = here::must_run(global)?.get(&path).await?;
    if global.json {
        output::line_json(&told);
        return Ok(ExitCode::SUCCESS);
    }
    output::line(format!("to {}", told.peer));
    let rows: Vec<Vec<String>> = told.links.iter().map(row).collect();
    output::table(
        &[
            "WAY", "OVER", "RTT", "SENT", "RECEIVED", "SINCE", "OPENED", "ADDRESS",
        ],
        &rows,
    );
    Ok(ExitCode::SUCCESS)
}

fn row(link: &PeerLink) -> Vec<String> {
    let way = match (&link.relay, link.relayed) {
        (_, false) => "direct".to_owned(),
        (Some(relay), true) => format!("through {relay}"),
        (None, true) => "through a relay".to_owned(),
    };
    let star = if link.chosen { "*" } else { "" };
    let age = Duration::from_secs(link.age_ms / 1_000);
    vec![
        format!("{way}{star}"),
        link.transport.clone(),
        link.rtt_ms
            .map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms")),
        Bytes(link.sent).to_string(),
        Bytes(link.received).to_string(),
        humantime::format_duration(age).to_string(),
        if link.outbound { "here" } else { "there" }.to_owned(),
        link.address.clone(),
    ]
}
