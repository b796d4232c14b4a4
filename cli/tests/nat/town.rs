//! A world with nodes in it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Ended, Lab, TestNode, eventually_within, text};
use crate::world::{Nat, World};

/// Longest wait for anything that must happen: a relay is searched every 20 s, a dial ends after 10.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Waits until `found` returns something, without asking all the time.
pub fn eventually<T>(what: &str, found: impl FnMut() -> Option<T>) -> T {
    eventually_within(LIMIT, Duration::from_millis(100), what, found)
}

/// Two homes, each with a node, and relays. Nodes are dropped before their world.
pub struct Town {
    pub relays: Vec<TestNode>,
    pub me: TestNode,
    pub provider: TestNode,
    pub lab: Lab,
    pub world: World,
    /// The homes' addresses on the Internet: mine, the provider's.
    pub homes: [String; 2],
}

impl Town {
    /// A node called `me` and a provider called `provider`, each in a home behind this kind of NAT, who know
    /// each other through `relays` relays.
    pub fn new(nat: Nat, relays: usize) -> Self {
        Self::with(nat, relays, &["--relay", "on"])
    }

    /// The same, with these flags for the relays.
    pub fn with(nat: Nat, relays: usize, flags: &[&str]) -> Self {
        let (mut world, lab) = (World::new(), Lab::new());
        let mut started: Vec<TestNode> = Vec::new();
        for number in 0..relays {
            let name = format!("relay{number}");
            let address = world.host(&name);
            let (tcp, quic) = (
                format!("/ip4/{address}/tcp/4001"),
                format!("/ip4/{address}/udp/4001/quic-v1"),
            );
            let mut args = vec!["--listen", &tcp, "--listen", &quic];
            args.extend(["--external", &tcp, "--external", &quic]);
            args.extend(flags);
            let first = started.first().map(|node| node.address.clone());
            args.extend(
                first
                    .as_deref()
                    .map(|first| ["--bootstrap", first])
                    .iter()
                    .flatten(),
            );
            started.push(start(&world, &lab, &name, "join", &args));
        }
        let homes = [world.home("me", 7, nat), world.home("provider", 8, nat)];
        let me = id(&world, &lab, "me");
        // Only the first relay is named: the others are found through the DHT.
        let bootstrap = ["--bootstrap", &started[0].address];
        let offer = [
            "--cpus", "1", "--memory", "2GiB", "--disk", "2GiB", "--allow", &me,
        ];
        let provider = start(
            &world,
            &lab,
            "provider",
            "offer",
            &[&offer[..], &bootstrap].concat(),
        );
        let me = start(&world, &lab, "me", "join", &bootstrap);
        Self {
            relays: started,
            me,
            provider,
            lab,
            world,
            homes,
        }
    }

    /// Kills my node and starts it again.
    pub fn restart_me(&mut self) {
        self.me.kill();
        let bootstrap = ["--bootstrap", &self.relays[0].address];
        self.me = start(&self.world, &self.lab, "me", "join", &bootstrap);
    }

    /// Runs a verb on the machine `name`.
    pub fn run(&self, name: &str, args: &[&str]) -> Output {
        command(&self.world, &self.lab, name, args)
            .output()
            .unwrap()
    }

    /// Runs a verb that must succeed and returns its JSON.
    pub fn json(&self, name: &str, args: &[&str]) -> Value {
        let output = self.run(name, &[args, &["--json"]].concat());
        assert!(
            output.status.success(),
            "{args:?}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits until the nodes at home have places at so many relays.
    pub fn until_placed(&self, places: usize) {
        for name in ["me", "provider"] {
            eventually(&format!("{name} has {places} relays"), || {
                let status = self.json(name, &["status"]);
                let relays = status["networks"][0]["reach"]["relays"].as_array()?.len();
                (status["networks"][0]["reach"]["state"] == "relayed" && relays == places)
                    .then_some(())
            });
        }
    }

    /// Waits until I know what the provider offers.
    pub fn until_known(&self) {
        eventually("the provider's advert", || {
            let peers = self.json("me", &["peers"]);
            let known = peers.as_array().unwrap().iter().any(|known| {
                known["peer"] == self.provider.id.as_str()
                    && known["capacity"]["cpus_milli"].as_u64() > Some(0)
            });
            known.then_some(())
        });
    }

    /// My connections to the provider.
    pub fn links(&self) -> Vec<Value> {
        let output = self.run("me", &["path", &self.provider.id, "--json"]);
        let path: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        let links = path.and_then(|path| path["links"].as_array().cloned());
        links.unwrap_or_default()
    }

    /// Waits until new data would go to the provider directly.
    pub fn until_direct(&self) {
        eventually("a direct connection", || {
            let links = self.links();
            let direct = |link: &Value| link["relayed"] == false && link["chosen"] == true;
            links.iter().any(direct).then_some(())
        });
    }

    /// Begins to submit a job of mine.
    pub fn begin(&self, job: &Path) -> Child {
        let out = self.lab.path("out");
        let args = [
            "submit",
            job.to_str().unwrap(),
            "--json",
            "--out",
            out.to_str().unwrap(),
        ];
        command(&self.world, &self.lab, "me", &args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// How a submitted job ended.
    pub fn end(&self, submit: Child) -> Ended {
        Ended::new(submit.wait_with_output().unwrap(), self.lab.path("out"))
    }

    /// How many tasks of my newest job have succeeded.
    pub fn succeeded(&self) -> u64 {
        let output = self.run("me", &["job", "last", "--json"]);
        let job: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        let tasks = job.and_then(|job| job["tasks"].as_array().cloned());
        let done = |task: &Value| task["state"] == "succeeded";
        let done = tasks
            .unwrap_or_default()
            .iter()
            .filter(|task| done(task))
            .count();
        done as u64
    }

    /// Waits until so many tasks of my newest job have succeeded.
    pub fn until_succeeded(&self, count: u64) {
        eventually(&format!("{count} tasks have succeeded"), || {
            (self.succeeded() >= count).then_some(())
        });
    }
}

/// The program on the machine `name`, with a data directory of that name.
fn command(world: &World, lab: &Lab, name: &str, args: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &world.space(name)])
        .arg(env!("CARGO_BIN_EXE_p2pnode"))
        .args(args)
        .arg("--data-dir")
        .arg(lab.path(name))
        .env_remove("P2PNODE_DATA_DIR")
        // Containers are no part of this, and a machine of files has no sensors.
        .env("P2PNODE_DOCKER_SOCKET", lab.path("no-engine"))
        .env("P2PNODE_SENSORS_ROOT", lab.path("machine"))
        .current_dir(lab.root.path())
        .stdin(Stdio::null());
    command
}

fn id(world: &World, lab: &Lab, name: &str) -> String {
    let output = command(world, lab, name, &["id"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

fn start(world: &World, lab: &Lab, name: &str, verb: &str, args: &[&str]) -> TestNode {
    let log = lab.path(&format!("{name}.log"));
    let fixed = [verb, "--no-mdns", "--no-upnp", "--name", name];
    let logged = ["--log", "warn,p2pnode_node=debug,p2pnode=info"];
    let mut child = command(world, lab, name, &[&fixed[..], &logged, args].concat())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["ready", id, address, ..] = words.as_slice() else {
        panic!(
            "{name} said `{line}`\n{}",
            std::fs::read_to_string(&log).unwrap()
        );
    };
    TestNode {
        id: (*id).to_owned(),
        address: (*address).to_owned(),
        child,
        log,
    }
}
