//! `p2pnode`: the command line over a node's local API.
//!
//! One file per verb under [`verbs`]; [`client`] speaks to the node, [`output`] is the only module
//! that prints, [`exit`] turns every end into an exit code. Nothing here decides anything about jobs.

mod args;
mod client;
mod exit;
mod here;
mod interrupt;
mod output;
mod select;
mod terminal;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Verb};
use crate::exit::Failure;

/// How long a blocking task may go on when everything else is done.
const BLOCKING_LIMIT: std::time::Duration = std::time::Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error, std::env::args_os().any(|arg| arg == "--json")),
    };
    // Helper processes of a node: no logging, no runtime of ours.
    match &cli.verb {
        Verb::WasmWorker => return verbs::helpers::wasm_worker(),
        Verb::Reaper(reaper) => return verbs::helpers::reaper(reaper),
        _ => {}
    }
    let is_node = cli.verb.is_node();
    let log = here::log_filter(&cli)
        .and_then(|filter| output::start_logging(is_node, &cli.global, filter.as_deref()));
    if let Err(failure) = log {
        output::failure(&failure, cli.global.json);
        return failure.code();
    }
    let runtime = if is_node {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
    } else {
        // A client that asks one question starts fastest without threads.
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    };
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(verbs::run(cli.global.clone(), cli.verb));
            // A blocking task that hangs must not keep the process.
            runtime.shutdown_timeout(BLOCKING_LIMIT);
            ended
        }
        Err(error) => Err(Failure::internal(format!("no async runtime: {error}"))),
    };
    match ended {
        Ok(code) => code,
        Err(failure) => {
            output::failure(&failure, cli.global.json);
            failure.code()
        }
    }
}
