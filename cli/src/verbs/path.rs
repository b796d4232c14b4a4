//! `path`.

use std::process::ExitCode;
use std::time::Duration;

use p2pnode_protocol::Bytes;
use p2pnode_protocol::api::{PeerLink, PeerPath};

use super::figures::{MAX_ADDRESS, line};
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
            "WAY", "NETWORK", "OVER", "RTT", "SENT", "RECEIVED", "SINCE", "OPENED", "ADDRESS",
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
        link.network.clone(),
        link.transport.clone(),
        link.rtt_ms
            .map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms")),
        Bytes(link.sent).to_string(),
        Bytes(link.received).to_string(),
        humantime::format_duration(age).to_string(),
        if link.outbound { "here" } else { "there" }.to_owned(),
        line(&link.address, MAX_ADDRESS),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_an_address_cannot_draw_on_the_terminal() {
        let link = PeerLink {
            network: "main".into(),
            address: "/dns4/\u{1b}[2Jx/tcp/1".into(),
            transport: "tcp".into(),
            relayed: true,
            relay: Some("12D3".into()),
            outbound: true,
            age_ms: 61_000,
            rtt_ms: None,
            sent: 1 << 20,
            received: 0,
            chosen: true,
        };
        let row = row(&link);
        assert_eq!(row[0], "through 12D3*");
        assert_eq!((row[3].as_str(), row[6].as_str()), ("-", "1m 1s"));
        assert_eq!(row[8], "/dns4/[2Jx/tcp/1");
    }
}
