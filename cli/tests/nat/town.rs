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

/// For nodes whose router would not answer anyhow: the question is asked for some seconds.
const NO_UPNP: &[&str] = &["--no-upnp"];

/// The engine's socket in a lab, where there is one.
const ENGINE: &str = "engine";

/// Waits until `found` returns something, without asking all the time.
pub fn eventually<T>(what: &str, found: impl FnMut() -> Option<T>) -> T {
    eventually_within(LIMIT, Duration::from_millis(100), what, found)
}

/// What a town is like.
struct Plan<'a> {
    nat: Nat,
    relays: usize,
    /// For the relays.
    flags: &'a [&'a str],
    /// Whether the provider's router forwards ports on request.
    upnp: bool,
    /// Whether all of them are in a network of their own, which their one relay makes.
    private: bool,
    /// Whether this machine's Docker engine is theirs, too.
    engine: bool,
}

/// One relay that serves, and nothing of note.
const PLAIN: Plan<'static> = Plan {
    nat: Nat::Cone,
    relays: 1,
    flags: &["--relay", "on"],
    upnp: false,
    private: false,
    engine: false,
};

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
        Self::build(&Plan {
            nat,
            relays,
            flags,
            ..PLAIN
        })
    }

    /// The same, where no hole can be punched and nobody relays, but the provider's router forwards the
    /// ports that it is asked to forward.
    pub fn with_upnp() -> Self {
        Self::build(&Plan {
            nat: Nat::Symmetric,
            flags: &["--relay", "off"],
            upnp: true,
            ..PLAIN
        })
    }

    /// The same in a private network, which the relay has made.
    pub fn private(nat: Nat) -> Self {
        Self::build(&Plan {
            nat,
            private: true,
            ..PLAIN
        })
    }

    /// The same, where tasks may run in containers.
    pub fn with_engine(nat: Nat) -> Self {
        Self::build(&Plan {
            nat,
            engine: true,
            ..PLAIN
        })
    }

    fn build(plan: &Plan<'_>) -> Self {
        let (mut world, lab) = (World::new(), Lab::new());
        if plan.engine {
            std::os::unix::fs::symlink("/var/run/docker.sock", lab.path(ENGINE)).unwrap();
        }
        let mut relays: Vec<TestNode> = Vec::new();
        for number in 0..plan.relays {
            let name = format!("relay{number}");
            let first = relays.first().map(|node| node.address.clone());
            let address = world.host(&name);
            if plan.private {
                verb(&world, &lab, &name, &["network", "create", "lab"]);
            }
            let mut addresses = vec![format!("/ip4/{address}/tcp/4001")];
            if !plan.private {
                addresses.push(format!("/ip4/{address}/udp/4001/quic-v1"));
            }
            let mut args = [NO_UPNP, plan.flags].concat();
            for address in &addresses {
                args.extend(["--listen", address, "--external", address]);
            }
            if let Some(first) = &first {
                args.extend(["--bootstrap", first]);
            }
            relays.push(start(&world, &lab, &name, &args));
        }
        let homes = [
            world.home("me", 7, plan.nat),
            world.home("provider", 8, plan.nat),
        ];
        if plan.upnp {
            world.forward_on_request("provider", 8, lab.root.path());
        }
        let ticket = plan.private.then(|| {
            let said = verb(&world, &lab, "relay0", &["network", "ticket", "--json"]);
            let said: Value = serde_json::from_str(&said).unwrap();
            said["ticket"].as_str().unwrap().to_owned()
        });
        // Only the first relay is named: the others are found through the DHT.
        let way = match &ticket {
            Some(ticket) => vec![ticket.as_str()],
            None => vec!["--bootstrap", &relays[0].address],
        };
        let without: &[&str] = if plan.upnp { &[] } else { NO_UPNP };
        let provider = start(&world, &lab, "provider", &[&way, without].concat());
        let me = start(&world, &lab, "me", &[&way, NO_UPNP].concat());
        let offer = ["offer", "--cpus", "1", "--memory", "2GiB", "--disk", "2GiB"];
        let to_me = ["--allow", &me.id];
        verb(&world, &lab, "provider", &[&offer[..], &to_me].concat());
        Self {
            relays,
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
        let args = [&bootstrap[..], NO_UPNP].concat();
        self.me = start(&self.world, &self.lab, "me", &args);
    }

    /// Runs a verb on the machine `name`.
    pub fn run(&self, name: &str, args: &[&str]) -> Output {
        self.command(name, args).output().unwrap()
    }

    /// A verb on the machine `name`.
    pub fn command(&self, name: &str, args: &[&str]) -> Command {
        command(&self.world, &self.lab, name, args)
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
        .env("P2PNODE_DATA_DIR", lab.path(name))
        // Containers are seldom a part of this, and a machine of files has no sensors.
        .env("P2PNODE_DOCKER_SOCKET", lab.path(ENGINE))
        .env("P2PNODE_SENSORS_ROOT", lab.path("machine"))
        .current_dir(lab.root.path())
        .stdin(Stdio::null());
    command
}

/// Runs a verb there that must succeed; returns what it printed.
fn verb(world: &World, lab: &Lab, name: &str, args: &[&str]) -> String {
    let output = command(world, lab, name, args).output().unwrap();
    assert!(
        output.status.success(),
        "{args:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A node that runs.
fn start(world: &World, lab: &Lab, name: &str, args: &[&str]) -> TestNode {
    let log = lab.path(&format!("{name}.log"));
    let fixed = ["join", "--no-mdns", "--name", name];
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
