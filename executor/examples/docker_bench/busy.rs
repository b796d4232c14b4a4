//! One CPU-bound program bare, in a container, and under each other OCI runtime: the image's own shell
//! counts. Timed from its first word to its last, so that starting it counts nowhere.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::rig::{Error, IMAGE, Rig};
use crate::{say, shown, spread};

/// Runs of each, in turns.
const RUNS: usize = 3;

/// One way to run the program.
struct Way {
    name: String,
    /// `None` is bare; a text is an OCI runtime, the empty one the engine's default.
    runtime: Option<String>,
    took: Vec<Duration>,
    /// Why it does not run.
    failed: Option<String>,
}

impl Way {
    fn new(name: String, runtime: Option<String>) -> Self {
        Self {
            name,
            runtime,
            took: Vec::new(),
            failed: None,
        }
    }
}

/// Measures and prints.
pub async fn measure(rig: &Rig, loops: u64) -> Result<(), Error> {
    let dir = rig.work_dir()?;
    let shell = dir.path().join("busybox");
    take_shell(&shell)?;
    let line = format!("echo first; i=0; while [ $i -lt {loops} ]; do i=$((i+1)); done; echo last");
    let mut ways = vec![
        Way::new("CPU-bound task, bare".into(), None),
        Way::new("  in a container".into(), Some(String::new())),
    ];
    for name in rig.sandboxes().await {
        ways.push(Way::new(format!("  under {name}"), Some(name)));
    }
    for _ in 0..RUNS {
        for way in &mut ways {
            if way.failed.is_some() {
                continue;
            }
            let took = match &way.runtime {
                None => bare(&shell, &line),
                Some(runtime) => contained(rig, runtime, &line).await,
            };
            match took {
                Ok(took) => way.took.push(took),
                Err(why) => way.failed = Some(why.to_string()),
            }
        }
    }
    let mut bare = None;
    for way in &mut ways {
        if let Some(why) = &way.failed {
            say(&way.name, &format!("did not run: {why}"), None);
            continue;
        }
        let took = spread(&mut way.took);
        let bare = *bare.get_or_insert(took.0);
        let figure = format!("{}, {:.3} times bare", shown(took), took.0 / bare);
        say(&way.name, &figure, None);
    }
    Ok(())
}

/// Copies the image's shell to this machine: the same program everywhere.
fn take_shell(to: &Path) -> Result<(), Error> {
    let made = Command::new("docker")
        .args(["create", "--network", "none", IMAGE, "true"])
        .output()?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into());
    }
    let container = String::from_utf8(made.stdout)?.trim().to_owned();
    let from = format!("{container}:/bin/busybox");
    let copied = Command::new("docker")
        .arg("cp")
        .args([&from])
        .arg(to)
        .status();
    let removed = Command::new("docker")
        .args(["rm", &container])
        .stdout(Stdio::null())
        .status();
    if copied?.success() && removed?.success() {
        Ok(())
    } else {
        Err("the image's shell cannot be copied out of it".into())
    }
}

fn bare(shell: &Path, line: &str) -> Result<Duration, Error> {
    let mut child = Command::new(shell)
        .args(["sh", "-c", line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("its output is gone")?;
    let mut lines = BufReader::new(output).lines();
    lines.next().ok_or("it said nothing")??;
    let start = Instant::now();
    lines.next().ok_or("it did not end its work")??;
    let took = start.elapsed();
    match child.wait()?.success() {
        true => Ok(took),
        false => Err("the bare program failed".into()),
    }
}

async fn contained(rig: &Rig, runtime: &str, line: &str) -> Result<Duration, Error> {
    let dir = rig.work_dir()?;
    let mut task = rig.task(&["sh", "-c", line], dir.path(), 0);
    task.sandbox = (!runtime.is_empty()).then(|| runtime.to_owned());
    let spoken = rig.run(task).await?;
    match (spoken.first, spoken.last) {
        (Some(first), Some(last)) if last > first => Ok(last - first),
        _ => Err("it did not say both its words".into()),
    }
}
