//! Times a hardened task in a container of its own, one in a warm container, and `docker run --rm` with
//! the same flags, turn by turn, and prints the medians:
//! `cargo run --release -p p2pnode-executor --example docker_bench [-- RUNS]`
//!
//! Needs an engine and the image of `docker/test-image.sh`.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pnode_executor::docker::{DockerConfig, DockerRuntime, ReaperCommand, reaper};
use p2pnode_executor::{Environment, Hold, ProgramFile, Runtime, TaskRun};
use p2pnode_protocol::task::{Isolation, NetworkMode};
use p2pnode_protocol::{AttemptKey, JobId, PeerId, Resources, TaskKey};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const IMAGE: &str = "p2pnode-test:1";
const DEFAULT_RUNS: usize = 20;

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|verb| verb == "reaper") {
        return reaper::run(args.drain(1..));
    }
    let runs = args
        .first()
        .and_then(|count| count.to_str()?.parse().ok())
        .unwrap_or(DEFAULT_RUNS);
    match bench(runs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn bench(runs: usize) -> Result<(), Error> {
    let runtime = DockerRuntime::new(DockerConfig {
        node: PeerId::random(),
        incarnation: format!("bench{}", std::process::id()),
        reaper: ReaperCommand::this_program("reaper")?,
        dir: std::env::temp_dir().join("p2pnode-docker-bench"),
        socket: None,
        sandbox: None,
        hard_disk: false,
        image_cache: None,
    });
    let (progress, _) = mpsc::channel(1);
    let reference = IMAGE.to_owned();
    let environment = runtime
        .prepare(
            ProgramFile::Image {
                reference,
                credentials: None,
            },
            progress,
        )
        .await
        .map_err(|failure| failure.message)?;
    let (mut ours, mut warm, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    // The first of each warms caches and starts the reaper.
    for turn in 0..=runs {
        let dir = tempfile::tempdir()?;
        let start = Instant::now();
        run_ours(&environment, dir.path(), Isolation::Task).await?;
        let own = start.elapsed();
        let start = Instant::now();
        run_ours(&environment, dir.path(), Isolation::Job).await?;
        let shared = start.elapsed();
        let start = Instant::now();
        run_theirs(dir.path())?;
        let their = start.elapsed();
        if turn > 0 {
            ours.push(own);
            warm.push(shared);
            theirs.push(their);
        }
    }
    runtime.shutdown().await;
    let (own, own_best) = median_and_best(&mut ours);
    let (shared, shared_best) = median_and_best(&mut warm);
    let (their, their_best) = median_and_best(&mut theirs);
    println!("runs                {runs}");
    println!("p2pnode             median {own:.1} ms, best {own_best:.1} ms");
    println!("in a warm container median {shared:.1} ms, best {shared_best:.1} ms");
    println!("docker run --rm     median {their:.1} ms, best {their_best:.1} ms");
    println!("ratio of medians    {:.2}", own / their);
    println!("warm against own    {:.2} times as fast", own / shared);
    Ok(())
}

fn median_and_best(times: &mut [Duration]) -> (f64, f64) {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    (ms(times[times.len() / 2]), ms(times[0]))
}

async fn run_ours(
    environment: &Arc<dyn Environment>,
    work_dir: &Path,
    isolation: Isolation,
) -> Result<(), Error> {
    let task = TaskRun {
        submitter: submitter(),
        attempt: AttemptKey {
            task: TaskKey {
                job: JobId([0; 8]),
                step: 0,
                index: 0,
            },
            attempt: 1,
        },
        command: vec!["/bin/true".into()],
        env: Vec::new(),
        work_dir: work_dir.to_path_buf(),
        resources: Resources::default(),
        gpus: Vec::new(),
        timeout: Duration::from_secs(60),
        stall: Duration::ZERO,
        network: NetworkMode::None,
        root: false,
        isolation,
        sandbox: None,
        hold: Hold::default(),
    };
    let (log, _reader) = mpsc::channel(1);
    let end = environment.run(task, log, CancellationToken::new()).await;
    end.result.map_err(|failure| failure.message.into())
}

/// One for all: only tasks of one submitter share a container.
fn submitter() -> PeerId {
    static ONE: std::sync::OnceLock<PeerId> = std::sync::OnceLock::new();
    *ONE.get_or_init(PeerId::random)
}

fn run_theirs(work_dir: &Path) -> Result<(), Error> {
    let flags = "run --rm --network none --ipc private --cgroupns private --cap-drop ALL \
        --security-opt no-new-privileges --read-only --shm-size 268435456 \
        --tmpfs /tmp:rw,exec,nosuid,nodev,mode=1777,size=268435456 --memory 536870912 \
        --memory-swap 536870912 --cpu-period 100000 --cpu-quota 100000 --pids-limit 513 \
        --ulimit nofile=4096:4096 --ulimit core=0:0 --ulimit fsize=1073741824:1073741824 \
        --oom-score-adj 500 --init --log-driver none --user 65534:65534 --no-healthcheck \
        --label p2pnode.bench=1 -w /work";
    let mount = format!("type=bind,src={},dst=/work", work_dir.display());
    let status = Command::new("docker")
        .args(flags.split_whitespace())
        .args(["--mount", &mount, "--entrypoint", "/bin/true", IMAGE])
        .stdin(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("docker run: {status}").into())
    }
}
