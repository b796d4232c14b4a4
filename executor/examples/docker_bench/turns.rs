//! One task after another, each kind in its turn, so that all meet the same machine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use p2pnode_protocol::task::Isolation;

use crate::rig::{Error, IMAGE, Rig};
use crate::{say, shown, spread};

/// What a hardened task may cost of `docker run --rm`.
const WANTED_RATIO: f64 = 0.7;

/// Until a container is ready, in milliseconds.
const WANTED_READY_MS: f64 = 500.0;

/// Measures and prints.
pub async fn measure(rig: &Rig, runs: usize) -> Result<(), Error> {
    let (mut own, mut warm, mut theirs, mut ready) = (vec![], vec![], vec![], vec![]);
    // The first of each warms caches and starts the reaper.
    for turn in 0..=runs {
        let dir = rig.work_dir()?;
        let start = Instant::now();
        rig.run(rig.task(&["/bin/true"], dir.path(), 0)).await?;
        let took_own = start.elapsed();

        let mut task = rig.task(&["/bin/true"], dir.path(), 0);
        task.isolation = Isolation::Job;
        let start = Instant::now();
        rig.run(task).await?;
        let took_warm = start.elapsed();

        let start = Instant::now();
        run_theirs(dir.path())?;
        let took_theirs = start.elapsed();

        let spoken = rig.run(rig.task(&["echo", "ready"], dir.path(), 0)).await?;
        let took_ready = spoken.first.ok_or("a task said nothing")?;
        if turn > 0 {
            own.push(took_own);
            warm.push(took_warm);
            theirs.push(took_theirs);
            ready.push(took_ready);
        }
    }
    let (own, warm) = (spread(&mut own), spread(&mut warm));
    let (theirs, ready) = (spread(&mut theirs), spread(&mut ready));
    say("runs of each kind, in turns", &runs.to_string(), None);
    say("hardened task, a container of its own", &shown(own), None);
    say("the same in a warm container", &shown(warm), None);
    say("docker run --rm, the same flags", &shown(theirs), None);
    let ratio = own.0 / theirs.0;
    let met = Some(ratio <= WANTED_RATIO);
    let wanted = format!("{ratio:.2} (wanted: at most {WANTED_RATIO})");
    say("  hardened task / docker run --rm", &wanted, met);
    let times = format!("{:.1} times as fast", own.0 / warm.0);
    say("  warm container, one task at a time", &times, None);
    // Its output has come all the way, so the container was made and started before.
    let met = Some(ready.0 < WANTED_READY_MS);
    let wanted = format!("{} (wanted: under {WANTED_READY_MS} ms)", shown(ready));
    say("container ready, to its first output", &wanted, met);
    Ok(())
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
