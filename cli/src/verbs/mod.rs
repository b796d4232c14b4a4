//! One file per verb (small ones of one kind together).

mod access;
mod config;
mod demo;
mod follow;
pub mod helpers;
mod jobs;
mod logs;
mod node;
mod peers;
mod submit;
mod template;
mod validate;

use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::{Cli, Global, Verb};
use crate::exit::Failure;

/// Does what was asked.
pub async fn run(global: Global, verb: Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Join(flags) => node::join(&global, &flags).await,
        Verb::Offer(args) => node::offer(&global, &args).await,
        Verb::Stop => node::stop(&global).await,
        Verb::Status => node::status(&global).await,
        Verb::Id => node::id(&global),
        Verb::Peers(args) => peers::peers(&global, &args).await,
        Verb::Submit(args) => submit::submit(&global, &args).await,
        Verb::Validate { file } => validate::validate(&global, &file),
        Verb::Template(verb) => template::template(&global, &verb),
        Verb::Jobs => jobs::list(&global).await,
        Verb::Job { job } => jobs::show(&global, &job).await,
        Verb::Logs { job, follow } => logs::logs(&global, &job, follow).await,
        Verb::Cancel { job } => jobs::cancel(&global, &job).await,
        Verb::Wait { job } => jobs::wait(&global, &job).await,
        Verb::Allow { peer } => access::set(&global, &peer, true).await,
        Verb::Deny { peer } => access::set(&global, &peer, false).await,
        Verb::Config(crate::args::ConfigVerb::Show) => config::show(&global),
        Verb::Demo(args) => demo::demo(&global, &args).await,
        Verb::Completions { shell } => Ok(completions(shell)),
        Verb::WasmWorker => Ok(helpers::wasm_worker()),
        Verb::Reaper(args) => Ok(helpers::reaper(&args)),
    }
}

fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut script = Vec::new();
    // A node's helper processes are no verbs for people; hiding them is not enough for the scripts.
    let all = Cli::command();
    let verbs = all
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set())
        .cloned();
    let mut shown = clap::Command::new("p2pnode")
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments().cloned())
        .subcommands(verbs);
    clap_complete::generate(shell, &mut shown, "p2pnode", &mut script);
    crate::output::raw(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
