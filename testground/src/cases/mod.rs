//! One function a measurement.

mod bare;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::{Lab, median, spread};

/// A module that does nothing.
fn no_op() -> Result<Vec<u8>> {
    Ok(wat::parse_str(
        r#"(module (memory (export "memory") 1) (func (export "_start")))"#,
    )?)
}

fn no_op_job(tasks: u32) -> String {
    format!(
        "name = \"no-op\"\n[task]\nwasm = \"no-op.wasm\"\n[array]\nn = \"1-{tasks}\"\n[resources]\ncpus = 0.25\nmemory = \"16MiB\"\ndisk = \"1MiB\"\n"
    )
}

fn succeeded(events: &[Value], tasks: u64) -> Result<&Value> {
    let last = events.last().context("no events")?;
    ensure!(
        last["tasks"]["succeeded"] == tasks,
        "not all tasks succeeded: {last}"
    );
    Ok(last)
}

/// Submit to result of one tiny task through nodes that run already.
pub fn latency(lab: &Lab, runs: usize) -> Result<()> {
    let me = lab.id("me")?;
    let provider = lab.provider("provider", &me, None)?;
    let _mine = lab.start("me", "join", &[], Some(&provider))?;
    lab.wait_until_known("me", &provider.id)?;
    let job = lab.job("job", &no_op_job(1), &[("no-op.wasm", &no_op()?)])?;
    let mut times = Vec::new();
    let mut versions = Vec::new();
    // The first run compiles the module and is left out.
    for run in 0..=runs {
        let (events, took) = lab.submit("me", &job)?;
        succeeded(&events, 1)?;
        let began = Instant::now();
        lab.run("me", &["--version"])?;
        if run > 0 {
            times.push(took);
            versions.push(began.elapsed());
        }
    }
    println!(
        "one tiny WASM task, command line's start to its end: {}",
        spread(times)
    );
    println!(
        "of which starting the program (--version): {}",
        spread(versions)
    );
    Ok(())
}

/// Submit to the first output of one task, with everything it needs at the provider.
pub fn first_output(lab: &Lab, runs: usize) -> Result<()> {
    let me = lab.id("me")?;
    let provider = lab.provider("provider", &me, None)?;
    let _mine = lab.start("me", "join", &[], Some(&provider))?;
    lab.wait_until_known("me", &provider.id)?;
    let speaker = wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\08\00\00\00\03\00\00\00hi\n")
            (func (export "_start")
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"#,
    )?;
    let wasm = "name = \"speak\"\n[task]\nwasm = \"speak.wasm\"\n[resources]\nmemory = \"16MiB\"\n";
    let image = "name = \"speak\"\n[task]\nimage = \"p2pnode-test:1\"\ncommand = [\"echo\", \"hi\"]\n[resources]\nmemory = \"64MiB\"\n";
    for (what, job) in [
        ("WASM", lab.job("wasm", wasm, &[("speak.wasm", &speaker)])?),
        ("container", lab.job("image", image, &[])?),
    ] {
        // The first run makes the environment and is left out.
        let times = (0..=runs).map(|_| lab.first_output("me", &job));
        let times = times.skip(1).collect::<Result<_>>()?;
        println!(
            "one {what} task, command line's start to its first output: {}",
            spread(times)
        );
    }
    Ok(())
}

/// Many tasks that do nothing over two providers.
pub fn throughput(lab: &Lab, tasks: u32, runs: usize) -> Result<()> {
    let me = lab.id("me")?;
    let first = lab.provider("first", &me, None)?;
    let second = lab.provider("second", &me, Some(&first))?;
    let _mine = lab.start("me", "join", &[], Some(&first))?;
    lab.wait_until_known("me", &first.id)?;
    lab.wait_until_known("me", &second.id)?;
    let job = lab.job("job", &no_op_job(tasks), &[("no-op.wasm", &no_op()?)])?;
    for run in 1..=runs {
        let (events, took) = lab.submit("me", &job)?;
        let last = succeeded(&events, tasks.into())?;
        let wall_ms = last["wall_ms"].as_u64().unwrap_or(1).max(1);
        println!(
            "run {run}: {tasks} tasks in {wall_ms} ms = {:.0} tasks/s; {:.0} ms with the command line; by peer {}",
            f64::from(tasks) * 1_000.0 / wall_ms as f64,
            took.as_secs_f64() * 1_000.0,
            last["peers"]
        );
    }
    Ok(())
}

/// One large input to one provider, and the same bytes over a bare stream.
pub fn transfer(lab: &Lab, mib: u64) -> Result<()> {
    let me = lab.id("me")?;
    let provider = lab.provider("provider", &me, None)?;
    let _mine = lab.start("me", "join", &[], Some(&provider))?;
    lab.wait_until_known("me", &provider.id)?;
    let toml = "name = \"transfer\"\n[task]\nwasm = \"no-op.wasm\"\n[resources]\nmemory = \"16MiB\"\ndisk = \"3GiB\"\n[inputs]\n\"big\" = \"./big\"\n";
    let job = lab.job("job", toml, &[("no-op.wasm", &no_op()?)])?;
    write_noise(&lab.path("job").join("big"), mib)?;
    let (events, took) = lab.submit("me", &job)?;
    let last = succeeded(&events, 1)?;
    let wall = Duration::from_millis(last["wall_ms"].as_u64().unwrap_or(1).max(1));
    let rate = |time: Duration| (mib << 20) as f64 / 1e6 / time.as_secs_f64();
    println!(
        "{mib} MiB input, command line's start to its end: {:.0} MB/s ({took:.2?})",
        rate(took)
    );
    println!(
        "the same from the job's storing on: {:.0} MB/s ({wall:.2?})",
        rate(wall)
    );
    let bare = bare::stream(mib << 20)?;
    println!(
        "a bare libp2p stream (TCP, noise, yamux): {:.0} MB/s ({bare:.2?})",
        rate(bare)
    );
    println!(
        "ratio to the bare stream: {:.2}",
        bare.as_secs_f64() / wall.as_secs_f64()
    );
    Ok(())
}

/// Bytes that no chunk repeats, from a generator that costs little (xorshift64, Marsaglia 2003).
fn write_noise(path: &std::path::Path, mib: u64) -> Result<()> {
    use std::io::Write;
    let mut file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..(mib << 20) / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    file.flush()?;
    Ok(())
}

/// From a provider's start, and from its `ready`, to another node's knowing what it offers.
pub fn discovery(lab: &Lab, runs: usize) -> Result<()> {
    let me = lab.id("me")?;
    let first = lab.provider("first", &me, None)?;
    let _mine = lab.start("me", "join", &[], Some(&first))?;
    lab.wait_until_known("me", &first.id)?;
    let (mut from_start, mut from_ready) = (Vec::new(), Vec::new());
    for run in 0..runs {
        let name = format!("new-{run}");
        let id = lab.id(&name)?;
        let began = Instant::now();
        let _new = lab.provider(&name, &me, Some(&first))?;
        let ready = began.elapsed();
        lab.wait_until_known("me", &id)?;
        from_start.push(began.elapsed());
        from_ready.push(began.elapsed().saturating_sub(ready));
    }
    println!(
        "a new provider is known elsewhere after its start: {}",
        spread(from_start)
    );
    println!("after its `ready`: {}", spread(from_ready));
    Ok(())
}

/// Resident memory of nodes that do nothing.
pub fn idle(lab: &Lab, seconds: u64) -> Result<()> {
    let me = lab.id("me")?;
    let first = lab.provider("first", &me, None)?;
    let mine = lab.start("me", "join", &[], Some(&first))?;
    lab.wait_until_known("me", &first.id)?;
    std::thread::sleep(Duration::from_secs(seconds));
    for (what, node) in [
        ("a provider", &first),
        ("a node that offers nothing", &mine),
    ] {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid()))?;
        let of = |key: &str| {
            let line = status
                .lines()
                .find(|line| line.starts_with(key))
                .unwrap_or_default();
            line.split_whitespace()
                .nth(1)
                .and_then(|kib| kib.parse::<f64>().ok())
                .unwrap_or(0.0)
                / 1024.0
        };
        println!(
            "{what} after {seconds} s: {:.1} MiB resident, {:.1} MiB at most",
            of("VmRSS"),
            of("VmHWM")
        );
    }
    Ok(())
}

/// One hardened container task beside `docker run --rm` with the same flags, in turns.
pub fn docker(lab: &Lab, runs: usize) -> Result<()> {
    let me = lab.id("me")?;
    let provider = lab.provider("provider", &me, None)?;
    let _mine = lab.start("me", "join", &[], Some(&provider))?;
    lab.wait_until_known("me", &provider.id)?;
    let toml = "name = \"true\"\n[task]\nimage = \"p2pnode-test:1\"\ncommand = [\"true\"]\n[resources]\nmemory = \"64MiB\"\ndisk = \"64MiB\"\n";
    let job = lab.job("job", toml, &[])?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for run in 0..=runs {
        let (events, took) = lab.submit("me", &job)?;
        succeeded(&events, 1)?;
        let began = Instant::now();
        docker_run(&lab.path("mount"))?;
        if run > 0 {
            ours.push(took);
            theirs.push(began.elapsed());
        }
    }
    let ratio = median(ours.clone()).as_secs_f64() / median(theirs.clone()).as_secs_f64();
    println!("one container task, submit to result: {}", spread(ours));
    println!("docker run --rm with the same flags: {}", spread(theirs));
    println!("ratio of the medians: {ratio:.2}");
    Ok(())
}

fn docker_run(mount: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(mount)?;
    let status = Command::new("docker")
        .args([
            "run",
            "--rm",
            "--network=none",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
        ])
        .args([
            "--read-only",
            "--tmpfs=/tmp:size=64m",
            "--user=65534:65534",
            "--pids-limit=512",
            "--init",
        ])
        .args([
            "--memory=64m",
            "--memory-swap=64m",
            "--cpus=1",
            "--log-driver=none",
            "--ipc=private",
        ])
        .arg(format!("--volume={}:/work", mount.display()))
        .args(["--workdir=/work", "p2pnode-test:1", "true"])
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "docker run ended with {status}");
    Ok(())
}
