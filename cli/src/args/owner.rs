//! What an owner's verbs accept: those about tasks of others that run here.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use p2pnode_protocol::task::OUTCOME_WORDS;

use super::humantime_duration;

/// Verbs about what runs on this machine, whoever submitted it. Own submitted jobs are `jobs`, `job`,
/// `logs`, `cancel`.
#[derive(Subcommand)]
pub enum OwnerVerb {
    /// List tasks of others that run here: whose, what, since when
    #[command(
        after_help = "Example:\n  p2pnode ps --json\n\nOf jobs that this node submitted: p2pnode jobs"
    )]
    Ps,
    /// Show what tasks that run here use
    #[command(
        after_help = "Examples:\n  p2pnode stats\n  p2pnode stats -f                  # until Ctrl-C\n  \
        p2pnode stats -f --json           # one line of JSON a second"
    )]
    Stats(StatsArgs),
    /// Kill tasks of others that run here; their submitters read why
    #[command(
        after_help = "Examples:\n  p2pnode kill 3f09a1c2d4e5f607/12          # a task, as `p2pnode ps` shows it\n  \
        p2pnode kill 3f09 --reason 'it heats the room'   # a job, with what waits of it\n  \
        p2pnode kill desk                         # all of a peer's; it stays allowed: p2pnode deny\n\n\
        Killed tasks run elsewhere, and none of their tries is counted. To cancel a job of your own: p2pnode cancel"
    )]
    Kill(KillArgs),
    /// Freeze tasks of others that run here, until `resume`
    #[command(
        after_help = "Examples:\n  p2pnode pause 3f09a1c2d4e5f607/12\n  p2pnode pause --all\n\n\
        A frozen task keeps its memory and what else it was given; its time limits do not run. Only containers can be frozen."
    )]
    Pause(PauseArgs),
    /// Let frozen tasks go on
    #[command(after_help = "Examples:\n  p2pnode resume 3f09\n  p2pnode resume --all")]
    Resume(PauseArgs),
    /// Finish what runs here and take nothing new
    #[command(
        after_help = "Examples:\n  p2pnode drain --wait && p2pnode stop     # before a reboot\n  p2pnode drain --off\n\n\
        What waits for a slot goes back to its submitters. A restart does not end it; --off does, and so does a new `p2pnode offer`."
    )]
    Drain(DrainArgs),
    /// List tasks of others that ended here, newest first
    #[command(
        after_help = "Examples:\n  p2pnode history\n  p2pnode history --peer desk --since 7d -n 100\n  p2pnode history --job 3f09 --outcome killed\n\n\
        Tasks shorter than a second are one line for each job, outcome and minute. Lines are kept for 90 days, then added up for `usage`. Times are in UTC."
    )]
    History(HistoryArgs),
    /// Add up what peers, jobs or days used of this machine
    #[command(
        after_help = "Examples:\n  p2pnode usage\n  p2pnode usage --by job --peer desk\n  p2pnode usage --by day --since 30d --json\n\n\
        A task counts when it has ended, on the day (in UTC) on which it did."
    )]
    Usage(UsageArgs),
}

/// `stats`.
#[derive(Args)]
pub struct StatsArgs {
    /// Go on until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// Time between two looks
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "1s")]
    pub interval: Duration,
}

/// `kill`.
#[derive(Args)]
pub struct KillArgs {
    /// A task JOB/INDEX, a job (the beginning of its id), or a peer (its id, ten characters of its end, or the name of one that was allowed)
    #[arg(value_name = "TASK|JOB|PEER")]
    pub target: String,
    /// Why, for the submitter to read
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Only of this peer, when jobs of two submitters have ids that begin alike
    #[arg(long, value_name = "PEER")]
    pub peer: Option<String>,
}

/// `pause` and `resume`.
#[derive(Args)]
pub struct PauseArgs {
    /// A task JOB/INDEX, a job (the beginning of its id), or a peer (its id, ten characters of its end, or the name of one that was allowed)
    #[arg(value_name = "TASK|JOB|PEER", required_unless_present = "all")]
    pub target: Option<String>,
    /// All that run here
    #[arg(long, conflicts_with_all = ["target", "peer"])]
    pub all: bool,
    /// Only of this peer, when jobs of two submitters have ids that begin alike
    #[arg(long, value_name = "PEER")]
    pub peer: Option<String>,
}

/// `drain`.
#[derive(Args)]
pub struct DrainArgs {
    /// Wait until nothing runs here any more
    #[arg(long)]
    pub wait: bool,
    /// Take new tasks again
    #[arg(long, conflicts_with = "wait")]
    pub off: bool,
}

/// `history`.
#[derive(Args)]
pub struct HistoryArgs {
    /// Which of them.
    #[command(flatten)]
    pub past: PastArgs,
    /// Only those that ended so
    #[arg(long, value_name = "WORD", value_parser = OUTCOME_WORDS)]
    pub outcome: Option<String>,
    /// So many lines
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Only what is older than the line of this number; `next` in the JSON of the page before
    #[arg(long, value_name = "NUMBER")]
    pub before: Option<u64>,
}

/// `usage`.
#[derive(Args)]
pub struct UsageArgs {
    /// What there is a line for each of
    #[arg(long, value_enum, default_value_t = By::Peer)]
    pub by: By,
    /// Of which tasks.
    #[command(flatten)]
    pub past: PastArgs,
}

/// Tasks that ended here.
#[derive(Args)]
pub struct PastArgs {
    /// Only of this peer: its id, ten characters of its end, or the name of one that was allowed
    #[arg(long, value_name = "PEER")]
    pub peer: Option<String>,
    /// Only of this job: the beginning of its id
    #[arg(long, value_name = "JOB")]
    pub job: Option<String>,
    /// Only what ended within this time, such as 12h or 7d
    #[arg(long, value_name = "TIME", value_parser = humantime_duration)]
    pub since: Option<Duration>,
}

/// The shortest time between two looks at tasks: their runtimes measure twice a second.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

fn interval(text: &str) -> Result<Duration, String> {
    let time = humantime_duration(text)?;
    if time < LEAST_INTERVAL {
        return Err(format!("`{text}` is too short: give 100ms or more"));
    }
    Ok(time)
}

/// What usage is added up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Who submitted it
    Peer,
    /// The job
    Job,
    /// The day, in UTC
    Day,
}
