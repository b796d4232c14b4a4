//! The measurements as subcommands.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{cases, interactive, lab};

/// Measures p2pnode on this machine.
#[derive(Parser)]
struct Args {
    /// The program to measure [default: p2pnode beside this program]
    #[arg(long)]
    program: Option<PathBuf>,
    #[command(subcommand)]
    case: Case,
}

/// What to measure.
#[derive(Subcommand)]
enum Case {
    /// From the command line's start to the result of one tiny WASM task
    Latency {
        /// How often
        #[arg(long, default_value_t = 30)]
        runs: usize,
    },
    /// From the command line's start to a task's first output, WASM and Docker, all at hand
    FirstOutput {
        /// How often
        #[arg(long, default_value_t = 15)]
        runs: usize,
    },
    /// Tasks a second of WASM tasks that do nothing, over two providers
    Throughput {
        /// Tasks
        #[arg(long, default_value_t = 10_000)]
        tasks: u32,
        /// How often
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// One large input to one provider, beside a bare libp2p stream
    Transfer {
        /// Size in MiB
        #[arg(long, default_value_t = 1_024)]
        mib: u64,
    },
    /// How long until a new provider is known
    Discovery {
        /// How often
        #[arg(long, default_value_t = 10)]
        runs: usize,
    },
    /// Memory of a node that does nothing
    Idle {
        /// Seconds until it is looked at
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Commands, keys and files inside a task, beside OpenSSH's server on this machine. As root
    Interactive {
        /// How often a fresh command is run
        #[arg(long, default_value_t = 30)]
        runs: usize,
        /// Size of the file that is copied, in MiB
        #[arg(long, default_value_t = 1_024)]
        mib: u64,
    },
    /// One container task beside `docker run --rm` with the same flags
    Docker {
        /// How often
        #[arg(long, default_value_t = 15)]
        runs: usize,
    },
}

/// Measures what the command line names.
pub fn run() -> anyhow::Result<()> {
    let args = Args::parse();
    let program = match args.program {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("p2pnode"),
    };
    anyhow::ensure!(
        program.exists(),
        "{} is not there; build it with `cargo build --release`, or name it with --program",
        program.display()
    );
    let lab = lab::Lab::new(program)?;
    match args.case {
        Case::Latency { runs } => cases::latency(&lab, runs),
        Case::FirstOutput { runs } => cases::first_output(&lab, runs),
        Case::Throughput { tasks, runs } => cases::throughput(&lab, tasks, runs),
        Case::Transfer { mib } => cases::transfer(&lab, mib),
        Case::Discovery { runs } => cases::discovery(&lab, runs),
        Case::Idle { seconds } => cases::idle(&lab, seconds),
        Case::Interactive { runs, mib } => interactive::interactive(&lab, runs, mib),
        Case::Docker { runs } => cases::docker(&lab, runs),
    }
}
