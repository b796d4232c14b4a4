//! What the tests share: providers on terms of their own, images made for one test, and looks at the engine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::harness::{Ended, Lab, TestNode, eventually, program, text};

/// The image of `docker/test-image.sh`.
pub const IMAGE: &str = "p2pnode-test:1";

/// Runs `docker` and returns what it says.
pub fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{args:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout).trim().to_owned()
}

/// Ids of containers that belong to the node `peer`, in whichever of its lives.
pub fn containers_of(peer: &str) -> Vec<String> {
    let listed = Command::new("docker")
        .args(["ps", "--all", "--filter", "label=p2pnode.node"])
        .args(["--format", "{{.ID}} {{.Label \"p2pnode.node\"}}"])
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", text(&listed.stderr));
    let of_node = |line: &str| {
        let (id, node) = line.split_once(' ')?;
        node.starts_with(peer).then(|| id.to_owned())
    };
    text(&listed.stdout).lines().filter_map(of_node).collect()
}

/// A provider on terms of its own, called `provider`, and a node that may use it and knows it, called
/// `me`.
pub fn pair_on(lab: &Lab, terms: &[&str]) -> (TestNode, TestNode) {
    let me = lab.id("me");
    let plain = ["--cpus", "1", "--memory", "2GiB", "--disk", "2GiB"];
    let args = [&plain[..], &["--allow", &me], terms].concat();
    let provider = lab.start("provider", "offer", &args, None);
    let mine = lab.start("me", "join", &[], Some(&provider));
    lab.wait_until_known("me", &provider);
    (provider, mine)
}

/// A job file whose resources are small; `task` and `rest` are TOML.
pub fn small_job(task: &str, rest: &str) -> String {
    format!(
        "[task]\n{task}\n[resources]\ncpus = 0.5\nmemory = \"64MiB\"\ndisk = \"64MiB\"\n{rest}\n"
    )
}

/// A `[task]` with the test image and a line for the shell.
pub fn shell(line: &str) -> String {
    format!("image = \"{IMAGE}\"\ncommand = [\"sh\", \"-c\", {line:?}]")
}

/// Submits a job that must succeed.
pub fn succeed(lab: &Lab, job: &Path) -> Ended {
    let ended = lab.submit("me", job, &[]);
    assert_eq!(
        ended.status.code(),
        Some(0),
        "{} {:?}",
        ended.stderr,
        ended.events
    );
    ended
}

/// What is said of a job that no provider takes.
pub fn refusal(lab: &Lab, job: &Path) -> String {
    let ended = lab.submit("me", job, &["--wait-for-peers", "2s"]);
    assert_eq!(ended.status.code(), Some(3), "{:?}", ended.events);
    ended.finished().to_string()
}

/// The last failure of a task that ended a job.
pub fn failure(ended: &Ended) -> Value {
    assert_eq!(ended.status.code(), Some(1), "{:?}", ended.events);
    let failures = ended.of_kind("task_finished");
    let failures = failures.filter(|event| !event["failure"].is_null());
    let last = failures
        .last()
        .unwrap_or_else(|| panic!("{:?}", ended.events));
    last.clone()
}

/// Starts a `submit` on the node called `me`, which goes on by itself.
pub fn begin(lab: &Lab, job: &Path, args: &[&str]) -> Child {
    program()
        .args(["submit", job.to_str().unwrap(), "--json", "--data-dir"])
        .arg(lab.path("me"))
        .args(args)
        .current_dir(lab.root.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// How what was begun ended.
pub fn end(lab: &Lab, child: Child) -> Ended {
    Ended::new(child.wait_with_output().unwrap(), lab.path("out"))
}

/// The first task at the provider, once `wanted` holds of it.
pub fn hosted(lab: &Lab, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let here = lab.json("provider", &["ps"]);
        let task = here["tasks"].as_array().unwrap().first()?.clone();
        wanted(&task).then_some(task)
    })
}

/// Images of one test, found by a label; gone at the end, whatever their names.
pub struct Images {
    pub mark: String,
}

impl Images {
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self {
            mark: format!("{}-{}", std::process::id(), now.as_nanos()),
        }
    }

    /// What a Dockerfile must say for its image to be found.
    pub fn label(&self) -> String {
        format!("LABEL p2pnode-e2e={}", self.mark)
    }

    /// A name that no other test has.
    pub fn name(&self, tag: &str) -> String {
        format!("p2pnode-e2e-{}:{tag}", self.mark)
    }

    /// An image called `tag` that is `base` and one more layer, with one file in it.
    pub fn layer(&self, base: &str, tag: &str, file: &Path) -> String {
        let name = self.name(tag);
        let container = docker(&["create", "--network", "none", base, "true"]);
        docker(&["cp", file.to_str().unwrap(), &format!("{container}:/")]);
        docker(&["commit", "--change", &self.label(), &container, &name]);
        docker(&["rm", &container]);
        name
    }

    /// Writes an image into a file, and has the engine forget it.
    pub fn save(&self, name: &str, file: &Path) {
        docker(&["save", "-o", file.to_str().unwrap(), name]);
    }

    /// Names of what the engine has of this test.
    pub fn names(&self) -> Vec<String> {
        let filter = format!("label=p2pnode-e2e={}", self.mark);
        let format = "{{.Repository}}:{{.Tag}}";
        let names = docker(&["images", "--filter", &filter, "--format", format]);
        names.lines().map(str::to_owned).collect()
    }

    fn remove(&self) {
        let filter = format!("label=p2pnode-e2e={}", self.mark);
        for _ in 0..3 {
            let found = docker(&["images", "--all", "--quiet", "--filter", &filter]);
            for id in found.lines() {
                let mut command = Command::new("docker");
                let _gone = command.args(["rmi", "--force", id]).output();
            }
        }
    }

    /// Has the engine forget everything so far.
    pub fn forget(&self) {
        self.remove();
        assert_eq!(self.names(), [""; 0]);
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.remove();
            return;
        }
        let _removed = std::panic::catch_unwind(|| self.remove());
    }
}

/// So many bytes that nothing compresses, the same each time for a seed: `SplitMix64`.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let mut made = Vec::with_capacity(bytes + 8);
    while made.len() < bytes {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        made.extend((word ^ (word >> 31)).to_le_bytes());
    }
    made.truncate(bytes);
    made
}

/// Writes a file into the lab.
pub fn file(lab: &Lab, name: &str, bytes: &[u8]) -> PathBuf {
    let path = lab.path(name);
    std::fs::write(&path, bytes).unwrap();
    path
}
