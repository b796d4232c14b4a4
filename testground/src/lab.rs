//! Nodes as processes on loopback, for measuring.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(120);

/// A folder with data directories, gone at the end.
pub struct Lab {
    program: PathBuf,
    root: tempfile::TempDir,
}

/// A node's process; killed when dropped.
pub struct Node {
    /// Its peer id.
    pub id: String,
    /// An address with the peer id.
    pub address: String,
    child: Child,
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may be gone already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Node {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Lab {
    /// A lab for `program`.
    pub fn new(program: PathBuf) -> Result<Self> {
        Ok(Self {
            program,
            root: tempfile::tempdir()?,
        })
    }

    /// A path in the lab's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The program with the data directory `name`.
    pub fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .arg("--data-dir")
            .arg(self.path(name))
            .current_dir(self.root.path())
            .env_remove("P2PNODE_DATA_DIR")
            .stdin(Stdio::null());
        command
    }

    /// Runs a verb that must succeed.
    pub fn run(&self, name: &str, args: &[&str]) -> Result<Output> {
        let output = self.command(name, args).output()?;
        ensure!(
            output.status.success(),
            "{args:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output)
    }

    /// Runs a verb and reads its JSON.
    pub fn json(&self, name: &str, args: &[&str]) -> Result<Value> {
        let output = self.run(name, &[args, &["--json"]].concat())?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The peer id of the node called `name`.
    pub fn id(&self, name: &str) -> Result<String> {
        Ok(String::from_utf8(self.run(name, &["id"])?.stdout)?
            .trim()
            .to_owned())
    }

    /// Starts a node and waits until it is ready.
    pub fn start(
        &self,
        name: &str,
        verb: &str,
        args: &[&str],
        bootstrap: Option<&Node>,
    ) -> Result<Node> {
        let mut command = self.command(
            name,
            &[verb, "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns"],
        );
        command
            .args(args)
            .args(["--name", name])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if let Some(node) = bootstrap {
            command.args(["--bootstrap", &node.address]);
        }
        let mut child = command.spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (Some("ready"), Some(id), Some(address)) = (words.next(), words.next(), words.next())
        else {
            bail!("{name} said `{line}`");
        };
        let address = match address.contains("/p2p/") {
            true => address.to_owned(),
            false => format!("{address}/p2p/{id}"),
        };
        Ok(Node {
            id: id.to_owned(),
            address,
            child,
        })
    }

    /// Starts a provider for `allowed`.
    pub fn provider(&self, name: &str, allowed: &str, bootstrap: Option<&Node>) -> Result<Node> {
        let args = [
            "--cpus", "1", "--memory", "2GiB", "--disk", "4GiB", "--allow", allowed,
        ];
        self.start(name, "offer", &args, bootstrap)
    }

    /// Waits until the node called `name` knows what `peer` offers.
    pub fn wait_until_known(&self, name: &str, peer: &str) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            let peers = self.json(name, &["peers"])?;
            let known = peers.as_array().into_iter().flatten().any(|known| {
                known["peer"] == peer && known["capacity"]["cpus_milli"].as_u64() > Some(0)
            });
            if known {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("{peer} was not known to {name} within {LIMIT:?}")
    }

    /// Writes a job folder and returns its job file.
    pub fn job(&self, name: &str, toml: &str, files: &[(&str, &[u8])]) -> Result<PathBuf> {
        let folder = self.path(name);
        std::fs::create_dir_all(&folder)?;
        for (path, bytes) in files {
            std::fs::write(folder.join(path), bytes)?;
        }
        let file = folder.join("job.toml");
        std::fs::write(&file, toml)?;
        Ok(file)
    }

    /// Submits a job, which must succeed, and returns the time from the program's start to the first
    /// line of a task's output.
    pub fn first_output(&self, name: &str, job: &Path) -> Result<Duration> {
        let job = job.to_str().context("a path that is not UTF-8")?;
        let began = Instant::now();
        let mut child = self
            .command(name, &["submit", job, "--json"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut first = None;
        for line in BufReader::new(child.stdout.take().context("no stdout")?).lines() {
            let event: Value = serde_json::from_str(&line?)?;
            if event["event"] == "log" {
                first.get_or_insert_with(|| began.elapsed());
            }
        }
        ensure!(child.wait()?.success(), "{job} failed");
        first.context("the task printed nothing")
    }

    /// Submits a job, which must succeed, and returns its events and the time from the program's start
    /// to its end.
    pub fn submit(&self, name: &str, job: &Path) -> Result<(Vec<Value>, Duration)> {
        let job = job.to_str().context("a path that is not UTF-8")?;
        let out = self.path("out");
        let out = out.to_str().context("a path that is not UTF-8")?;
        let began = Instant::now();
        let output = self.run(name, &["submit", job, "--json", "--out", out])?;
        let took = began.elapsed();
        let text = String::from_utf8(output.stdout)?;
        let events = text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        Ok((events, took))
    }
}

/// The median of some durations, in milliseconds, with the least and the greatest.
pub fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let ms = |time: &Duration| time.as_secs_f64() * 1_000.0;
    match (times.first(), times.get(times.len() / 2), times.last()) {
        (Some(least), Some(median), Some(greatest)) => {
            format!(
                "median {:.1} ms ({:.1} to {:.1}, {} runs)",
                ms(median),
                ms(least),
                ms(greatest),
                times.len()
            )
        }
        _ => "no runs".to_owned(),
    }
}

/// The median itself.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
