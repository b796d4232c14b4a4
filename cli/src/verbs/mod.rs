//! One file per verb (small ones of one kind together).

mod access;
mod config;
mod demo;
mod doctor;
mod drain;
mod figures;
mod find;
mod follow;
pub mod helpers;
mod history;
mod inside;
mod jobs;
mod kill;
mod logs;
mod network;
mod node;
mod path;
mod pause;
mod peers;
mod ping;
mod ps;
mod stats;
mod submit;
mod template;
mod terms;
mod usage;
mod validate;

use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::{Cli, Global, OwnerVerb, ReachVerb, Verb};
use crate::exit::Failure;

/// Does what was asked.
pub async fn run(global: Global, verb: Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Join(args) => node::join(&global, &args).await,
        Verb::Network(verb) => network::network(&global, &verb).await,
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
        Verb::Logs { job, follow, raw } => logs::logs(&global, &job, follow, raw).await,
        Verb::Cancel { job } => jobs::cancel(&global, &job).await,
        Verb::Wait { job } => jobs::wait(&global, &job).await,
        Verb::Allow(args) => access::allow(&global, &args).await,
        Verb::Deny { peer } => access::deny(&global, &peer).await,
        Verb::Requests => access::requests(&global).await,
        Verb::Inside(verb) => inside::inside(&global, verb).await,
        Verb::Owner(verb) => owner(&global, verb).await,
        Verb::Reach(verb) => reach(&global, verb).await,
        Verb::Config(crate::args::ConfigVerb::Show) => config::show(&global),
        Verb::Demo(args) => demo::demo(&global, &args).await,
        Verb::Doctor(args) => doctor::doctor(&global, &args).await,
        Verb::Completions { shell } => Ok(completions(shell)),
        Verb::WasmWorker => Ok(helpers::wasm_worker()),
        Verb::Reaper(args) => Ok(helpers::reaper(&args)),
    }
}

/// About tasks of others that run here.
async fn owner(global: &Global, verb: OwnerVerb) -> Result<ExitCode, Failure> {
    match verb {
        OwnerVerb::Ps => ps::ps(global).await,
        OwnerVerb::Stats(args) => stats::stats(global, &args).await,
        OwnerVerb::Kill(args) => kill::kill(global, &args).await,
        OwnerVerb::Pause(args) => pause::set(global, &args, true).await,
        OwnerVerb::Resume(args) => pause::set(global, &args, false).await,
        OwnerVerb::Drain(args) => drain::drain(global, &args).await,
        OwnerVerb::History(args) => history::history(global, &args).await,
        OwnerVerb::Usage(args) => usage::usage(global, &args).await,
    }
}

/// About ways to peers.
async fn reach(global: &Global, verb: ReachVerb) -> Result<ExitCode, Failure> {
    match verb {
        ReachVerb::Ping(args) => ping::ping(global, &args).await,
        ReachVerb::Find(args) => find::find(global, &args).await,
        ReachVerb::Path(args) => path::path(global, &args).await,
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
