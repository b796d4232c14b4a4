//! `find`.

use std::process::ExitCode;

use hyper::Method;
use p2pnode_protocol::api::{FindOffers, FoundOffers, PeerWhereabouts};

use super::figures::{MAX_ADDRESS, line};
use super::peers;
use crate::args::{FindArgs, Global};
use crate::exit::{self, Failure};
use crate::{here, output, select};

pub async fn find(global: &Global, args: &FindArgs) -> Result<ExitCode, Failure> {
    match &args.peer {
        Some(peer) => find_peer(global, peer).await,
        None => find_offers(global, args).await,
    }
}

async fn find_peer(global: &Global, peer: &str) -> Result<ExitCode, Failure> {
    let path = select::way_path(peer, "find")?;
    let told: PeerWhereabouts = here::must_run(global)?.get(&path).await?;
    let nothing = told.found.is_empty() && told.known.is_empty();
    if global.json {
        output::line_json(&told);
    } else {
        output::line(format!("peer       {}", told.peer));
        let state = if told.connected { "yes" } else { "no" };
        output::line(format!("connected  {state}"));
        for address in &told.found {
            output::line(format!("found      {}", line(address, MAX_ADDRESS)));
        }
        for address in told
            .known
            .iter()
            .filter(|known| !told.found.contains(known))
        {
            output::line(format!("known      {}", line(address, MAX_ADDRESS)));
        }
        if nothing {
            output::note(
                "nobody in the DHT knows it: it is off, of another network, or reaches nobody; `p2pnode status` there says which",
            );
        }
    }
    Ok(code(nothing))
}

async fn find_offers(global: &Global, args: &FindArgs) -> Result<ExitCode, Failure> {
    let wanted = FindOffers {
        cpus_milli: args.cpus.map_or(0, |cpus| cpus.0),
        gpus: args.gpus.unwrap_or(0),
    };
    let client = here::must_run(global)?;
    let found: FoundOffers = client.ask(Method::POST, "/find", &wanted).await?;
    if global.json {
        output::line_json(&found);
    } else if found.peers.is_empty() {
        output::note(
            "nobody who can be reached offers so much; `p2pnode peers` lists what others offer",
        );
    } else {
        peers::print_table(&found.peers);
    }
    Ok(code(found.peers.is_empty()))
}

fn code(nothing: bool) -> ExitCode {
    match nothing {
        true => ExitCode::from(exit::JOB_FAILED),
        false => ExitCode::SUCCESS,
    }
}
