//! Which way OpenSSH's bytes take to a task.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::Stdio;

use super::Place;
use crate::bench::{IMAGE, small_job};
use crate::harness::{Lab, TestNode, text};

/// The ports that `ssh` is connected to while it has a session, which is seen to work.
fn connected_to(place: &Place) -> Vec<u16> {
    let mut command = place.openssh("ssh");
    command.arg(place.host()).arg("cat");
    let mut ssh = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = ssh.stdin.take().unwrap();
    stdin.write_all(b"there and back\n").unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(ssh.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "there and back\n");
    let ports = remote_ports(ssh.id());
    drop(stdin);
    assert!(ssh.wait().unwrap().success());
    ports
}

/// The remote ports of a process's TCP connections.
fn remote_ports(process: u32) -> Vec<u16> {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let open: Vec<String> = descriptors
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    let table = fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap();
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let ours = open.contains(&format!("socket:[{}]", words[9]));
            let (_, port) = words[2].split_once(':').unwrap();
            ours.then(|| u16::from_str_radix(port, 16).unwrap())
        })
        .collect()
}

/// The port of TCP at which a node listens.
fn port(node: &TestNode) -> u16 {
    let (_, after) = node.address.split_once("/tcp/").unwrap();
    after.split('/').next().unwrap().parse().unwrap()
}

/// The port of my own node's API, through which the tunnel leads.
fn own_node(place: &Place) -> u16 {
    let said = fs::read_to_string(place.lab.path("me").join("api.json")).unwrap();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let address = said["address"].as_str().unwrap();
    address.parse::<SocketAddr>().unwrap().port()
}

#[test]
#[ignore = "needs docker"]
fn openssh_speaks_to_the_provider_itself() {
    let place = Place::new();
    assert_eq!(connected_to(&place), [port(&place.nodes.0)]);
    // Whoever reads and writes pipes may not look at host keys: the tunnel does that for it.
    let output = place
        .openssh("ssh")
        .args(["-o", "ProxyUseFdpass=no", &place.host(), "echo", "piped"])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "piped\n", "{}", text(&output.stderr));
}

#[test]
#[ignore = "needs docker"]
fn what_belongs_to_a_private_network_stays_in_it() {
    let lab = Lab::new();
    let me = lab.id("me");
    let made = lab.run("provider", &["network", "create", "lab"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let offer = [
        "--cpus", "1", "--memory", "2GiB", "--disk", "2GiB", "--allow", &me,
    ];
    let provider = lab.start("provider", "offer", &offer, None);
    let ticket = lab.json("provider", &["network", "ticket"])["ticket"].clone();
    let mine = lab.start("me", "join", &[ticket.as_str().unwrap()], None);
    lab.wait_until_known("me", &provider);
    let file = small_job(
        &format!("image = \"{IMAGE}\"\ncommand = [\"sleep\", \"600\"]"),
        "",
    );
    let place = Place::at(lab, (provider, mine), &file);
    assert_eq!(connected_to(&place), [own_node(&place)]);
}

#[test]
#[ignore = "needs docker"]
fn shortcuts_can_be_turned_off_at_either_end() {
    for (name, flags) in [
        ("me", [&["--no-shortcuts"][..], &[]]),
        ("provider", [&[], &["--no-shortcuts"]]),
    ] {
        let lab = Lab::new();
        let me = lab.id("me");
        let plain = [
            "--cpus", "1", "--memory", "2GiB", "--disk", "2GiB", "--allow", &me,
        ];
        let provider = lab.start("provider", "offer", &[&plain, flags[1]].concat(), None);
        let mine = lab.start("me", "join", flags[0], Some(&provider));
        lab.wait_until_known("me", &provider);
        let file = small_job(
            &format!("image = \"{IMAGE}\"\ncommand = [\"sleep\", \"600\"]"),
            "",
        );
        let place = Place::at(lab, (provider, mine), &file);
        assert_eq!(connected_to(&place), [own_node(&place)], "{name}");
    }
}
