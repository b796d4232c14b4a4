//! Many container tasks over real nodes, with random mischief. Every job ends, and nothing is left.
//!
//! `P2PNODE_NODES_STORM` says how many tasks, `P2PNODE_NODES_STORM_SEED` which mischief: a failing run
//! prints both. What happens when depends on the machine too, so a seed repeats the choices only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::bench::{IMAGE, containers_of, docker, small_job};
use crate::harness::{Lab, TestNode, eventually, text};

/// Few enough for every run of the suite; see `docs/benchmarks.md` for 1,000.
const DEFAULT_TASKS: u64 = 100;

/// Tasks of a job.
const JOB_TASKS: u64 = 25;

/// Jobs that the submitter has at once.
const OPEN_JOBS: usize = 4;

/// Between two acts of mischief.
const BREATH: Duration = Duration::from_millis(150);

/// One act in so many is an owner's kill of a task. That provider then rests from the job for a
/// minute, so only one owner does it, and not often.
const OWNER_KILLS: u64 = 60;

/// A job that was left alone and is not over by then hangs: tasks that an owner killed may have to
/// wait for a minute.
const LONGEST: Duration = Duration::from_secs(240);

const PROVIDERS: [&str; 2] = ["first", "second"];

/// `SplitMix64` (Steele, Lea and Flood): a few lines are worth no dependency.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let end = u64::try_from(all.len()).unwrap().max(1);
        all.get(usize::try_from(self.below(end)).unwrap())
    }
}

/// What is told of the whole by a failing run, and of what was done by a good one.
type Deeds = BTreeMap<&'static str, u32>;

struct Storm<'a> {
    lab: &'a Lab,
    providers: &'a [TestNode],
    random: Random,
    deeds: Deeds,
    /// Jobs under way, by id: when each began, and how many acts later it is cancelled.
    open: BTreeMap<String, (Instant, Option<u64>)>,
    /// What became of the others.
    ended: BTreeMap<String, Value>,
    paused: BTreeSet<&'static str>,
}

/// Tasks that write, that leave a process behind, that say much; all end well when let be.
fn job_file(number: u64, tasks: u64) -> String {
    let isolation = if number % 5 == 2 { "task" } else { "job" };
    let line = "mkdir -p out && echo {n} > out/{n}.txt && case $(({n} % 5)) in \
                0) sleep 0.3;; 1) head -c 300000 /dev/zero > scratch;; 2) (sleep 1000 &);; \
                3) head -c 30000 /dev/zero | tr '\\\\000' x; echo;; *) ln -s / away;; esac";
    let (first, last) = (number * JOB_TASKS, number * JOB_TASKS + tasks - 1);
    let task = format!(
        "image = \"{IMAGE}\"\ncommand = [\"sh\", \"-c\", \"{line}\"]\nisolation = {isolation:?}"
    );
    // A killed container is a failure of the task's own, and any task may meet with several.
    let rest = format!(
        "[array]\nn = \"{first}-{last}\"\n[outputs]\npaths = [\"out/{{n}}.txt\"]\n[policy]\nretries = 20"
    );
    small_job(&task, &rest).replace("cpus = 0.5", "cpus = 0.25")
}

impl Storm<'_> {
    fn count(&mut self, deed: &'static str) {
        *self.deeds.entry(deed).or_default() += 1;
    }

    fn submit(&mut self, number: u64, tasks: u64) {
        let file = self
            .lab
            .job(&format!("job-{number}"), &job_file(number, tasks), &[]);
        let out = self.lab.path("out");
        let args = [
            "submit",
            file.to_str().unwrap(),
            "--detach",
            "--out",
            out.to_str().unwrap(),
        ];
        let id = self.lab.json("me", &args)["job"]
            .as_str()
            .unwrap()
            .to_owned();
        let cancelled = (self.random.below(6) == 0).then(|| self.random.below(12));
        self.open.insert(id, (Instant::now(), cancelled));
    }

    /// Moves jobs that are over from one list to the other.
    fn look(&mut self) {
        for (job, (began, _)) in self.open.clone() {
            let shown = self.lab.json("me", &["job", &job])["job"].clone();
            if !shown["finished_ms"].is_null() {
                self.open.remove(&job);
                self.ended.insert(job, shown);
                continue;
            }
            assert!(
                began.elapsed() < LONGEST,
                "{shown:#} hangs, after {:?}",
                self.deeds
            );
        }
    }

    fn containers(&self) -> Vec<String> {
        let of = |node: &TestNode| containers_of(&node.id);
        self.providers.iter().flat_map(of).collect()
    }

    /// What somebody else does to a container; it may be gone at that moment.
    fn hit(&mut self, deed: &'static str, args: &[&str]) {
        let all = self.containers();
        if let Some(container) = self.random.pick(&all) {
            // An engine waits with it for whatever else it does to that container.
            let mut command = Command::new("timeout");
            let done = command
                .args(["60", "docker"])
                .args(args)
                .arg(container)
                .output();
            if done.unwrap().status.success() {
                self.count(deed);
            }
        }
    }

    /// A verb of an owner's or the submitter's; what it names may be over at that moment.
    fn verb(&mut self, deed: &'static str, name: &str, args: &[&str]) {
        let said = self.lab.run(name, args);
        if said.status.success() {
            self.count(deed);
        }
    }

    fn cancel_those_due(&mut self) {
        let mut due = Vec::new();
        for (job, (_, acts)) in &mut self.open {
            match acts {
                Some(0) => due.push(job.clone()),
                Some(left) => *left -= 1,
                None => {}
            }
        }
        for job in due {
            self.verb("cancelled", "me", &["cancel", &job]);
            self.open.get_mut(&job).unwrap().1 = None;
        }
    }

    fn mischief(&mut self) {
        self.cancel_those_due();
        if self.random.below(OWNER_KILLS) == 0 {
            let here = self.lab.json(PROVIDERS[0], &["ps"]);
            let task = here["tasks"][0]["task"].as_str().map(str::to_owned);
            if let Some(task) = task {
                self.verb("killed by the owner", PROVIDERS[0], &["kill", &task]);
            }
        }
        let name = PROVIDERS[usize::try_from(self.random.below(2)).unwrap()];
        match self.random.below(10) {
            0..=3 => self.hit("docker kill", &["kill"]),
            4 => self.hit("docker rm --force", &["rm", "--force"]),
            5 | 6 if self.paused.remove(name) => self.verb("resumed", name, &["resume", "--all"]),
            5 => {
                self.paused.insert(name);
                self.verb("paused", name, &["pause", "--all"]);
            }
            _ => {}
        }
    }

    fn calm(&mut self) {
        for name in std::mem::take(&mut self.paused) {
            self.verb("resumed", name, &["resume", "--all"]);
        }
        while !self.open.is_empty() {
            std::thread::sleep(BREATH);
            self.look();
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().unwrap())
}

/// What a provider offers and what of it is free, running and waiting.
fn ledger(lab: &Lab, name: &str) -> Value {
    let offer = lab.json(name, &["status"])["offer"].clone();
    serde_json::json!({
        "total": offer["total"], "free": offer["free"],
        "running": offer["running"], "queued": offer["queued"],
    })
}

/// What is in the engine and bears a node's label.
fn labelled(kind: &str, node: &TestNode) -> Vec<String> {
    let format = "{{.Name}} {{.Label \"p2pnode.node\"}}";
    let all = docker(&[
        kind,
        "ls",
        "--filter",
        "label=p2pnode.node",
        "--format",
        format,
    ]);
    let of_node = all.lines().filter(|line| line.contains(&node.id));
    of_node.map(str::to_owned).collect()
}

/// Everything below a folder, when there is anything.
fn left_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    entries
        .map(|entry| entry.path().display().to_string())
        .collect()
}

fn nothing_is_left(lab: &Lab, name: &str, node: &TestNode, before: &Value) {
    eventually("what was given out is free again", || {
        (ledger(lab, name) == *before).then_some(())
    });
    eventually("no container is left", || {
        containers_of(&node.id).is_empty().then_some(())
    });
    for kind in ["network", "volume"] {
        assert_eq!(labelled(kind, node), [""; 0], "{kind}");
    }
    eventually("no work directory is left", || {
        left_in(&lab.path(name).join("work"))
            .is_empty()
            .then_some(())
    });
    let here = lab.json(name, &["ps"]);
    assert_eq!(here["tasks"], serde_json::json!([]), "{here}");
    assert_eq!(here["waiting"], serde_json::json!([]), "{here}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let folder = lab.path(name);
    assert!(!mounts.contains(folder.to_str().unwrap()), "{mounts}");
}

/// All slots can be taken at the same time, as before the storm.
fn all_slots_are_there(lab: &Lab) {
    let task = format!("image = \"{IMAGE}\"\ncommand = [\"sleep\", \"600\"]");
    let toml = small_job(&task, "[array]\nn = \"1-8\"").replace("cpus = 0.5", "cpus = 0.25");
    let file = lab.job("slots", &toml, &[]);
    let created = lab.json("me", &["submit", file.to_str().unwrap(), "--detach"]);
    for name in PROVIDERS {
        lab.wait_until_running(name, 4);
    }
    let cancelled = lab.run("me", &["cancel", created["job"].as_str().unwrap()]);
    assert!(cancelled.status.success(), "{}", text(&cancelled.stderr));
}

/// Every job was cancelled or has succeeded, with every output; returns how many tasks succeeded.
fn every_job_ended(lab: &Lab, ended: &BTreeMap<String, Value>) -> u64 {
    let mut succeeded = 0;
    for (job, shown) in ended {
        let counts = &shown["tasks"];
        succeeded += counts["succeeded"].as_u64().unwrap();
        for state in ["pending", "queued", "running", "failed"] {
            assert_eq!(counts[state], 0, "{shown:#}");
        }
        match shown["state"].as_str().unwrap() {
            "succeeded" => {}
            "cancelled" => continue,
            _ => panic!("{shown:#}"),
        }
        let tasks = lab.json("me", &["job", job])["tasks"].clone();
        for task in tasks.as_array().unwrap() {
            let n = task["values"]["n"].as_str().unwrap();
            let made = lab.path("out").join(format!("out/{n}.txt"));
            assert_eq!(std::fs::read_to_string(made).unwrap(), format!("{n}\n"));
        }
    }
    succeeded
}

#[test]
#[ignore = "needs docker"]
fn a_storm_over_real_nodes_ends_every_job_and_leaves_nothing() {
    let tasks = number("P2PNODE_NODES_STORM", DEFAULT_TASKS);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("P2PNODE_NODES_STORM_SEED", u64::from(now.subsec_nanos()));
    eprintln!("P2PNODE_NODES_STORM={tasks} P2PNODE_NODES_STORM_SEED={seed}");
    let lab = Lab::new();
    let me = lab.id("me");
    let first = lab.provider(PROVIDERS[0], &me, None);
    let second = lab.provider(PROVIDERS[1], &me, Some(&first));
    let providers = [first, second];
    let _mine = lab.start("me", "join", &[], Some(&providers[0]));
    for node in &providers {
        lab.wait_until_known("me", node);
    }
    let before = PROVIDERS.map(|name| ledger(&lab, name));
    for ledger in &before {
        assert_eq!(ledger["free"], ledger["total"]);
        assert_eq!(ledger["running"], 0);
    }

    let began = Instant::now();
    let mut storm = Storm {
        lab: &lab,
        providers: &providers,
        random: Random(seed),
        deeds: Deeds::new(),
        open: BTreeMap::new(),
        ended: BTreeMap::new(),
        paused: BTreeSet::new(),
    };
    let jobs = tasks.div_ceil(JOB_TASKS);
    let mut number = 0;
    while number < jobs || storm.open.len() > 1 {
        if number < jobs && storm.open.len() < OPEN_JOBS {
            storm.submit(number, JOB_TASKS.min(tasks - number * JOB_TASKS));
            number += 1;
        }
        storm.mischief();
        std::thread::sleep(BREATH);
        storm.look();
    }
    storm.calm();
    let succeeded = every_job_ended(&lab, &storm.ended);
    eprintln!(
        "{tasks} tasks, of which {succeeded} succeeded, in {:?}: {:?}",
        began.elapsed(),
        storm.deeds
    );
    for ((name, node), before) in PROVIDERS.iter().zip(&providers).zip(&before) {
        nothing_is_left(&lab, name, node, before);
    }
    all_slots_are_there(&lab);
    for ((name, node), before) in PROVIDERS.iter().zip(&providers).zip(&before) {
        nothing_is_left(&lab, name, node, before);
    }
}
