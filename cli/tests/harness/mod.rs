//! Real nodes as real processes on loopback, each with a data directory of its own.

#![allow(clippy::unwrap_used, clippy::print_stderr, dead_code)]

pub mod modules;

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything that must happen: generous, since machines are noisy.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The program under test.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pnode"));
    command.env_remove("P2PNODE_DATA_DIR").stdin(Stdio::null());
    command
}

/// Waits until `found` returns something.
pub fn eventually<T>(what: &str, found: impl FnMut() -> Option<T>) -> T {
    eventually_within(LIMIT, Duration::from_millis(20), what, found)
}

/// The same, for so long and with such pauses.
pub fn eventually_within<T>(
    limit: Duration,
    pause: Duration,
    what: &str,
    mut found: impl FnMut() -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(pause);
    }
}

/// A folder with data directories and job folders, gone at the end.
pub struct Lab {
    pub root: tempfile::TempDir,
    /// Environment variables that nodes and verbs have beside the tests' own.
    pub env: Vec<(&'static str, OsString)>,
}

impl Lab {
    pub fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            env: Vec::new(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The peer id that the node called `name` has or will have.
    pub fn id(&self, name: &str) -> String {
        let output = self.run(name, &["id"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    /// Runs a verb with the data directory `name`, to its end.
    pub fn run(&self, name: &str, args: &[&str]) -> Output {
        program()
            .args(args)
            .arg("--data-dir")
            .arg(self.path(name))
            .envs(self.env.iter().cloned())
            .current_dir(self.root.path())
            .output()
            .unwrap()
    }

    /// Runs a verb that must succeed and returns its JSON.
    pub fn json(&self, name: &str, args: &[&str]) -> Value {
        let args = [args, &["--json"]].concat();
        let output = self.run(name, &args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            text(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The newest job and its tasks, once there is one.
    pub fn last_job(&self, name: &str) -> Option<Value> {
        let output = self.run(name, &["job", "last", "--json"]);
        let found = output.status.success();
        found.then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Starts a node with `verb` and waits until it is ready.
    pub fn start(
        &self,
        name: &str,
        verb: &str,
        args: &[&str],
        bootstrap: Option<&TestNode>,
    ) -> TestNode {
        self.start_by(program(), name, &[&[verb], args].concat(), bootstrap)
    }

    /// The same by a command of one's own; the verb is the first of the arguments.
    pub fn start_by(
        &self,
        mut command: Command,
        name: &str,
        args: &[&str],
        bootstrap: Option<&TestNode>,
    ) -> TestNode {
        let log = std::fs::File::create(self.path(&format!("{name}.log"))).unwrap();
        let (verb, args) = args.split_first().unwrap();
        command
            .arg(verb)
            .arg("--data-dir")
            .arg(self.path(name))
            .args([
                "--listen",
                "/ip4/127.0.0.1/tcp/0",
                "--no-mdns",
                "--name",
                name,
            ])
            .args(args)
            // A machine of files: most tests have none, and so no sensors.
            .env("P2PNODE_SENSORS_ROOT", self.path("machine"))
            .envs(self.env.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(log);
        if let Some(node) = bootstrap {
            command.args(["--bootstrap", &node.address]);
        }
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ready", id, address, ..] = words.as_slice() else {
            let log = std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap();
            panic!("{name} said `{line}`\n{log}");
        };
        let address = if address.contains("/p2p/") {
            (*address).to_owned()
        } else {
            format!("{address}/p2p/{id}")
        };
        TestNode {
            id: (*id).to_owned(),
            address,
            child,
            log: self.path(&format!("{name}.log")),
        }
    }

    /// Starts a provider that lets `allowed` run tasks.
    pub fn provider(&self, name: &str, allowed: &str, bootstrap: Option<&TestNode>) -> TestNode {
        let args = [
            "--cpus", "1", "--memory", "2GiB", "--disk", "2GiB", "--allow", allowed,
        ];
        self.start(name, "offer", &args, bootstrap)
    }

    /// Waits until the node called `name` knows what `peer` offers.
    pub fn wait_until_known(&self, name: &str, peer: &TestNode) {
        eventually("the peer's advert", || {
            let peers = self.json(name, &["peers"]);
            let known = peers.as_array().unwrap().iter().any(|known| {
                known["peer"] == peer.id.as_str()
                    && known["capacity"]["cpus_milli"].as_u64() > Some(0)
            });
            known.then_some(())
        });
    }

    /// A provider, called `provider`, and a node that may use it and knows it, called `me`.
    pub fn pair(&self) -> (TestNode, TestNode) {
        let me = self.id("me");
        let provider = self.provider("provider", &me, None);
        let mine = self.start("me", "join", &[], Some(&provider));
        self.wait_until_known("me", &provider);
        (provider, mine)
    }

    /// Waits until the provider called `name` runs so many tasks.
    pub fn wait_until_running(&self, name: &str, count: u64) {
        eventually(&format!("{name} runs {count}"), || {
            let status = self.json(name, &["status"]);
            (status["offer"]["running"].as_u64() == Some(count)).then_some(())
        });
    }

    /// Writes a job folder and returns the path of its job file.
    pub fn job(&self, name: &str, toml: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let folder = self.path(name);
        std::fs::create_dir_all(&folder).unwrap();
        for (path, bytes) in files {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let file = folder.join("job.toml");
        std::fs::write(&file, toml).unwrap();
        file
    }

    /// Submits a job and returns its events and how it ended.
    pub fn submit(&self, name: &str, job: &Path, args: &[&str]) -> Ended {
        let out = self.path(&format!("out-{name}"));
        let job = job.to_str().unwrap();
        let all = [
            &["submit", job, "--json", "--out", out.to_str().unwrap()],
            args,
        ]
        .concat();
        let output = self.run(name, &all);
        Ended::new(output, out)
    }
}

/// What a `submit --json` said.
pub struct Ended {
    pub status: ExitStatus,
    pub events: Vec<Value>,
    pub stderr: String,
    pub out: PathBuf,
}

impl Ended {
    pub fn new(output: Output, out: PathBuf) -> Self {
        let events = text(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
            .collect();
        Self {
            status: output.status,
            events,
            stderr: text(&output.stderr),
            out,
        }
    }

    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events
            .iter()
            .filter(move |event| event["event"] == kind)
    }

    /// The last event, which must be `job_finished`.
    pub fn finished(&self) -> &Value {
        let last = self
            .events
            .last()
            .unwrap_or_else(|| panic!("no events: {}", self.stderr));
        assert_eq!(last["event"], "job_finished", "{last} {}", self.stderr);
        last
    }

    /// All log text of a task.
    pub fn log_of(&self, index: u64) -> String {
        self.of_kind("log")
            .filter(|event| {
                event["task"]
                    .as_str()
                    .unwrap()
                    .ends_with(&format!("/{index}"))
            })
            .map(|event| event["text"].as_str().unwrap())
            .collect()
    }
}

/// A node's process; killed when dropped.
pub struct TestNode {
    pub id: String,
    pub address: String,
    pub child: Child,
    pub log: PathBuf,
}

impl TestNode {
    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(&mut self) -> ExitStatus {
        signal(&self.child, rustix::process::Signal::TERM);
        eventually("the node ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "--- {}\n{}",
                self.log.display(),
                std::fs::read_to_string(&self.log).unwrap_or_default()
            );
        }
    }
}

/// Sends a signal to a child.
pub fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
