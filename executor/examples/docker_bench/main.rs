//! What a hardened container costs, as ratios of one run:
//! `cargo run --release -p p2pnode-executor --example docker_bench [-- RUNS [LOOPS]]`
//!
//! Turn by turn a hardened task, one in a warm container and `docker run --rm` with the same flags; the
//! time until a container is ready; tasks a second of each isolation; and the same CPU-bound task bare,
//! in a container, and under each other OCI runtime that the engine lists.
//! Needs an engine and the image of `docker/test-image.sh`.
#![allow(clippy::print_stdout, reason = "a program for people")]

mod busy;
mod rates;
mod rig;
mod turns;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use p2pnode_executor::docker::reaper;

use crate::rig::{Error, Rig};

/// Runs of each kind when none are named.
const DEFAULT_RUNS: usize = 20;

/// Turns of the CPU-bound task's loop: some two seconds of a release build's machine in a shell.
const DEFAULT_LOOPS: u64 = 4_000_000;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|verb| verb == "reaper") {
        return reaper::run(args.drain(1..));
    }
    let number = |at: usize| args.get(at).and_then(|text| text.to_str()?.parse().ok());
    let runs = number(0).map_or(DEFAULT_RUNS, |runs: u64| runs.clamp(1, 10_000) as usize);
    match bench(runs, number(1).unwrap_or(DEFAULT_LOOPS)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn bench(runs: usize, loops: u64) -> Result<(), Error> {
    let rig = Rig::new().await?;
    let measured = async {
        turns::measure(&rig, runs).await?;
        rates::measure(&rig, runs).await?;
        busy::measure(&rig, loops).await
    };
    let measured = measured.await;
    rig.close().await;
    measured
}

/// One line of the result, and whether it is as wanted.
fn say(what: &str, figure: &str, met: Option<bool>) {
    let mark = match met {
        Some(true) => "  met",
        Some(false) => "  MISSED",
        None => "",
    };
    println!("{what:<48} {figure}{mark}");
}

/// Median, least and most, in milliseconds.
fn spread(times: &mut [Duration]) -> (f64, f64, f64) {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    (
        ms(times[times.len() / 2]),
        ms(times[0]),
        ms(times[times.len() - 1]),
    )
}

/// The same in words.
fn shown((median, least, most): (f64, f64, f64)) -> String {
    format!("median {median:.1} ms ({least:.1} to {most:.1})")
}
