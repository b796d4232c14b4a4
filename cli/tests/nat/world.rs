//! Namespaces, the lines between them, and NAT.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::text;

/// How a home's router translates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// Keeps a port wherever a packet goes to, and lets in what was asked for: a hole can be punched.
    Cone,
    /// A new port for each destination, at random: no hole can be punched.
    Symmetric,
}

/// A set of namespaces, gone at the end.
pub struct World {
    tag: String,
    spaces: Vec<String>,
    lines: u8,
    /// Programs that routers run.
    programs: Vec<Child>,
}

/// One of a process's worlds.
static WORLDS: AtomicU32 = AtomicU32::new(0);

impl World {
    /// The Internet, and nobody on it.
    pub fn new() -> Self {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let mut world = Self {
            tag: format!("p2pnode{}-{number}", std::process::id()),
            spaces: Vec::new(),
            lines: 0,
            programs: Vec::new(),
        };
        world.add("net");
        world.sh("net", "echo 1 > /proc/sys/net/ipv4/ip_forward");
        world
    }

    /// The namespace's name on this machine.
    pub fn space(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    fn add(&mut self, name: &str) {
        let space = self.space(name);
        self.spaces.push(space.clone());
        must(&["netns", "add", &space]);
        must(&["-n", &space, "link", "set", "lo", "up"]);
    }

    /// A machine on the Internet, with a line of its own. Returns its address.
    pub fn host(&mut self, name: &str) -> String {
        self.lines += 1;
        let line = self.lines;
        self.add(name);
        let (here, net) = (self.space(name), self.space("net"));
        let port = format!("line{line}");
        must(&[
            "link", "add", &port, "netns", &net, "type", "veth", "peer", "name", "wan", "netns",
            &here,
        ]);
        must(&[
            "-n",
            &net,
            "addr",
            "add",
            &format!("5.0.{line}.1/24"),
            "dev",
            &port,
        ]);
        must(&["-n", &net, "link", "set", &port, "up"]);
        let address = format!("5.0.{line}.2");
        must(&[
            "-n",
            &here,
            "addr",
            "add",
            &format!("{address}/24"),
            "dev",
            "wan",
        ]);
        must(&["-n", &here, "link", "set", "wan", "up"]);
        must(&[
            "-n",
            &here,
            "route",
            "add",
            "default",
            "via",
            &format!("5.0.{line}.1"),
        ]);
        address
    }

    /// A router called `NAME-router` with NAT, and behind it a machine called `name`, at
    /// `192.168.<lan>.2`. Returns the router's address on the Internet.
    pub fn home(&mut self, name: &str, lan: u8, nat: Nat) -> String {
        let router = format!("{name}-router");
        let address = self.host(&router);
        self.add(name);
        let (inside, outside) = (self.space(name), self.space(&router));
        must(&[
            "link", "add", "lan", "netns", &outside, "type", "veth", "peer", "name", "eth0",
            "netns", &inside,
        ]);
        must(&[
            "-n",
            &outside,
            "addr",
            "add",
            &format!("192.168.{lan}.1/24"),
            "dev",
            "lan",
        ]);
        must(&["-n", &outside, "link", "set", "lan", "up"]);
        must(&["-n", &inside, "link", "set", "eth0", "up"]);
        self.readdress(name, lan, None, 2);
        self.sh(&router, "echo 1 > /proc/sys/net/ipv4/ip_forward");
        let how = match nat {
            Nat::Cone => "masquerade",
            Nat::Symmetric => "masquerade random,fully-random",
        };
        self.nft(
            &router,
            &format!(
                "table ip nat {{\n chain out {{\n type nat hook postrouting priority 100\n \
                 oifname \"wan\" {how}\n }}\n}}\n\
                 table ip filter {{\n chain input {{\n type filter hook input priority 0\n policy drop\n \
                 ct state established,related accept\n iifname \"lan\" accept\n }}\n \
                 chain forward {{\n type filter hook forward priority 0\n policy drop\n \
                 ct state established,related accept\n iifname \"lan\" accept\n ct status dnat accept\n }}\n}}\n"
            ),
        );
        address
    }

    /// Lets the machine `name` ask its router to forward ports, by UPnP. The files of the router's daemon
    /// are kept in `dir`.
    pub fn forward_on_request(&mut self, name: &str, lan: u8, dir: &Path) {
        assert!(
            Path::new("/usr/sbin/miniupnpd").exists(),
            "a router's UPnP daemon is needed: Debian's miniupnpd-nftables"
        );
        let router = format!("{name}-router");
        self.nft(
            &router,
            "table inet upnp {\n chain forward {\n }\n chain pre {\n }\n chain post {\n }\n \
             chain prerouting {\n type nat hook prerouting priority -100\n jump pre\n }\n \
             chain postrouting {\n type nat hook postrouting priority 101\n jump post\n }\n}\n",
        );
        let settings = dir.join("miniupnpd.conf");
        let text = format!(
            "ext_ifname=wan\nlistening_ip=lan\nenable_upnp=yes\nenable_natpmp=no\nsecure_mode=yes\n\
             uuid=7d0a5f0e-2f3c-4f0e-9a53-5a4f3b0f8c21\nlease_file={}\n\
             upnp_table_name=upnp\nupnp_nat_table_name=upnp\nupnp_forward_chain=forward\n\
             upnp_nat_chain=pre\nupnp_nat_postrouting_chain=post\n\
             allow 1024-65535 192.168.{lan}.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n",
            dir.join("leases").display()
        );
        std::fs::write(&settings, text).unwrap();
        let log = std::fs::File::create(dir.join("miniupnpd.log")).unwrap();
        let daemon = Command::new("ip")
            .args(["netns", "exec", &self.space(&router)])
            .args(["miniupnpd", "-d", "-P"])
            .arg(dir.join("miniupnpd.pid"))
            .arg("-f")
            .arg(&settings)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.programs.push(daemon.unwrap());
    }

    /// Gives the machine `name` the address `192.168.<lan>.<to>` in place of the one it has.
    pub fn readdress(&self, name: &str, lan: u8, from: Option<u8>, to: u8) {
        let space = self.space(name);
        let address = |host: u8| format!("192.168.{lan}.{host}/24");
        if let Some(from) = from {
            must(&["-n", &space, "addr", "del", &address(from), "dev", "eth0"]);
        }
        must(&["-n", &space, "addr", "add", &address(to), "dev", "eth0"]);
        let gateway = format!("192.168.{lan}.1");
        must(&["-n", &space, "route", "replace", "default", "via", &gateway]);
    }

    /// Drops everything between these two addresses on the Internet, until [`World::mend`]; everything at
    /// all when nothing is named.
    pub fn cut(&self, between: Option<(&str, &str)>) {
        let rules = match between {
            None => "drop".to_owned(),
            Some((a, b)) => {
                format!("ip saddr {a} ip daddr {b} drop\n ip saddr {b} ip daddr {a} drop")
            }
        };
        let chain = format!(
            "table ip cut {{\n chain forward {{\n type filter hook forward priority 0\n {rules}\n }}\n}}\n"
        );
        self.nft("net", &chain);
    }

    /// Ends a [`World::cut`].
    pub fn mend(&self) {
        self.nft("net", "delete table ip cut\n");
    }

    /// Lets no more than so many kilobytes a second reach `address` from the Internet.
    pub fn slow(&self, address: &str, kilobytes: u32) {
        let burst = kilobytes / 4;
        self.nft(
            "net",
            &format!(
                "table ip slow {{\n chain forward {{\n type filter hook forward priority 1\n \
                 ip daddr {address} limit rate over {kilobytes} kbytes/second burst {burst} kbytes drop\n }}\n}}\n"
            ),
        );
    }

    /// Bytes that the machine `name` got from the Internet so far.
    pub fn received(&self, name: &str) -> u64 {
        let devices = self.sh(name, "cat /proc/net/dev");
        let line = devices.lines().find(|line| line.trim().starts_with("wan:"));
        let counters = line.unwrap().split_once(':').unwrap().1;
        let first = counters.split_whitespace().next().unwrap();
        first.parse().unwrap()
    }

    fn sh(&self, name: &str, script: &str) -> String {
        let space = self.space(name);
        let output = Command::new("ip")
            .args(["netns", "exec", &space, "sh", "-c", script])
            .output()
            .unwrap();
        done(&output, script);
        text(&output.stdout)
    }

    fn nft(&self, name: &str, rules: &str) {
        let space = self.space(name);
        let mut nft = Command::new("ip")
            .args(["netns", "exec", &space, "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = nft.stdin.take().unwrap();
        stdin.write_all(rules.as_bytes()).unwrap();
        drop(stdin);
        done(&nft.wait_with_output().unwrap(), rules);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _gone = program.kill();
            let _reaped = program.wait();
        }
        // The nodes in them are gone: a town drops its nodes first. Lines go with their ends.
        for space in &self.spaces {
            let _gone = Command::new("ip").args(["netns", "del", space]).output();
        }
    }
}

fn must(args: &[&str]) {
    let output = Command::new("ip").args(args).output();
    let output = output.expect("`ip` of iproute2 is needed");
    done(&output, &args.join(" "));
}

fn done(output: &Output, what: &str) {
    assert!(
        output.status.success(),
        "{what}: {} (this suite needs root)",
        text(&output.stderr)
    );
}
