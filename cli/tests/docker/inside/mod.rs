//! Inside running containers, over two real nodes.

mod bad;
mod big;
mod editor;
mod files;
mod nobody;
mod ports;
mod programs;
mod run;
mod shortcut;
mod ssh;
mod stranger;
mod terminal;

use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};

use crate::bench::{IMAGE, begin, pair_on, small_job};
use crate::harness::{Lab, TestNode, eventually, program, text};

/// The image of `docker/test-image.sh` with git and rsync.
pub const TOOLS: &str = "p2pnode-test-tools:1";

/// Where a container has its work directory.
const WORK: &str = "/work";

/// A task that waits, at a provider that has nothing but room.
pub struct Place {
    pub lab: Lab,
    pub job: String,
    /// The provider and mine.
    pub nodes: (TestNode, TestNode),
    submit: Child,
}

impl Place {
    /// A container of the test image that does nothing for ten minutes.
    pub fn new() -> Self {
        Self::of(&format!(
            "image = \"{IMAGE}\"\ncommand = [\"sleep\", \"600\"]"
        ))
    }

    /// The same with git and rsync in it.
    pub fn with_tools() -> Self {
        Self::of(&format!(
            "image = \"{TOOLS}\"\ncommand = [\"sleep\", \"600\"]"
        ))
    }

    /// The task of a `[task]` table.
    pub fn of(task: &str) -> Self {
        Self::of_job(&small_job(task, ""))
    }

    /// The task of a job file.
    pub fn of_job(file: &str) -> Self {
        let lab = Lab::new();
        let nodes = pair_on(&lab, &[]);
        let place = Self::at(lab, nodes, file);
        place.lab.wait_until_running("provider", 1);
        place
    }

    /// The task of a job file at a provider that is there already.
    pub fn at(lab: Lab, nodes: (TestNode, TestNode), file: &str) -> Self {
        let job = lab.job("wait", file, &[]);
        let submit = begin(&lab, &job, &[]);
        let job = eventually("the task runs", || {
            let shown = lab.last_job("me")?;
            let job = shown["job"]["job"].as_str()?.to_owned();
            (shown["tasks"][0]["state"] == "running").then_some(job)
        });
        Self {
            lab,
            job,
            nodes,
            submit,
        }
    }

    /// The host name of its task.
    pub fn host(&self) -> String {
        format!("{}.p2pnode", self.job)
    }

    /// `p2pnode VERB ...` as the owner of the job.
    pub fn me(&self, args: &[&str]) -> Output {
        self.as_node("me", args).output().unwrap()
    }

    /// `p2pnode VERB ...` on a node of the lab. What follows a `--` is no flag any more, so the data
    /// directory is named by the environment.
    pub fn as_node(&self, name: &str, args: &[&str]) -> Command {
        let mut command = program();
        command
            .args(args)
            .env("P2PNODE_DATA_DIR", self.lab.path(name))
            .current_dir(self.lab.root.path())
            .stdin(Stdio::null());
        command
    }

    /// The same, which must succeed; returns what it printed.
    pub fn said(&self, args: &[&str]) -> String {
        let output = self.me(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// `p2pnode VERB ...` with pipes.
    pub fn piped(&self, args: &[&str]) -> Child {
        self.as_node("me", args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// One of OpenSSH's programs, with the lines that `ssh-config` prints and no others.
    pub fn openssh(&self, program: &str) -> Command {
        let config = self.lab.path("ssh-config");
        if !config.exists() {
            std::fs::write(&config, self.said(&["ssh-config"])).unwrap();
        }
        let mut command = Command::new(program);
        command.arg("-F").arg(config);
        command
    }

    /// One of them, run to its end, which must be a good one.
    pub fn does(&self, program: &str, args: &[&str]) -> String {
        let mut command = self.openssh(program);
        command.args(args);
        succeeds(command, b"")
    }

    /// What other programs are to start for `ssh`.
    pub fn ssh_words(&self) -> String {
        let command = self.openssh("ssh");
        let words = command.get_args().map(|word| word.to_string_lossy());
        format!("ssh {}", words.collect::<Vec<_>>().join(" "))
    }

    /// `ssh HOST ...`, run to its end with this as its stdin.
    pub fn ssh(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.openssh("ssh");
        command.arg(self.host()).args(args);
        fed(command, input)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The node stops with the test, and the submit with it.
        let _ = self.lab.run("me", &["cancel", &self.job]);
        let _ = self.submit.wait();
    }
}

/// Runs a command that must succeed, with this as its stdin; returns what it printed.
pub fn succeeds(command: Command, input: &[u8]) -> String {
    let said = format!("{command:?}");
    let output = fed(command, input);
    assert!(
        output.status.success(),
        "{said}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A port of this machine's loopback that was free a moment ago.
pub fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

/// Runs a command to its end with this as its stdin.
pub fn fed(mut command: Command, input: &[u8]) -> Output {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || {
        // The command may not want all of it.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    output
}

/// The one line on stderr of a verb that fails with this code.
pub fn refused(output: &Output, code: i32) -> String {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    said
}

/// Waits until something listens at an address.
pub fn connected(address: &str) -> std::net::TcpStream {
    eventually("somebody listens", || {
        std::net::TcpStream::connect(address).ok()
    })
}
