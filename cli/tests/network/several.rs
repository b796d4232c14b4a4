//! A node that is in several networks at once.

use serde_json::{Value, json};

use super::harness::{Lab, TestNode, modules, text};
use super::simple_job;

const SMALL: [&str; 6] = ["--cpus", "1", "--memory", "1GiB", "--disk", "1GiB"];

/// `member` offers in the private network `lab`, `open` to everybody in the public one.
struct Town {
    lab: Lab,
    ticket: String,
    member: TestNode,
    open: TestNode,
}

impl Town {
    fn new() -> Self {
        let lab = Lab::new();
        let made = lab.json("member", &["network", "create", "lab"]);
        assert_eq!(made["network"], "lab");
        let member = lab.start("member", "offer", &SMALL, None);
        let ticket = lab.json("member", &["network", "ticket"])["ticket"].clone();
        let all = [&SMALL[..], &["--allow-any"]].concat();
        let open = lab.start("open", "offer", &all, None);
        let ticket = ticket.as_str().unwrap().to_owned();
        Self {
            lab,
            ticket,
            member,
            open,
        }
    }

    /// A node in both networks that knows both.
    fn join(&self, args: &[&str]) -> TestNode {
        let mine = self.lab.start("me", "join", args, Some(&self.open));
        self.lab.wait_until_known("me", &self.member);
        self.lab.wait_until_known("me", &self.open);
        mine
    }

    fn submit(&self, from: &str, to: &TestNode) -> (Option<i32>, String) {
        let files: [(&str, &[u8]); 1] = [("task.wasm", &modules::no_op())];
        let job = self.lab.job("job", &simple_job("task.wasm", 2), &files);
        let ended = self.lab.submit(from, &job, &["--peers", &to.id]);
        (ended.status.code(), ended.stderr)
    }
}

fn names(list: &Value) -> Vec<&str> {
    let names = list.as_array().unwrap().iter();
    names
        .map(|network| network["name"].as_str().unwrap())
        .collect()
}

#[test]
fn a_node_in_two_networks_uses_both_and_joins_them_for_nobody() {
    let town = Town::new();
    let lab = &town.lab;
    let mine = town.join(&[&town.ticket, "--network", "main"]);
    let status = lab.json("me", &["status"]);
    assert_eq!(names(&status["networks"]), ["main", "lab"]);
    assert_eq!(status["networks"][0]["private"], false);
    assert_eq!(status["networks"][1]["private"], true);
    for provider in [&town.member, &town.open] {
        let (code, stderr) = town.submit("me", provider);
        assert_eq!(code, Some(0), "{stderr}");
    }
    let networks = |of: &TestNode| {
        let peers = lab.json("me", &["peers"]);
        let mut peers = peers.as_array().unwrap().iter();
        let peer = peers.find(|peer| peer["peer"] == of.id.as_str());
        peer.unwrap()["networks"].clone()
    };
    assert_eq!(networks(&town.member), json!(["lab"]));
    assert_eq!(networks(&town.open), json!(["main"]));
    // They know nothing of each other.
    for (one, other) in [("member", &town.open), ("open", &town.member)] {
        let peers = lab.json(one, &["peers"]);
        assert!(!peers.to_string().contains(&other.id), "{one}: {peers}");
    }
    // Who has the key may run tasks on a node that is in the other network, too; who has not may not.
    lab.json("me", &[&["offer"], &SMALL[..]].concat());
    lab.wait_until_known("member", &mine);
    lab.wait_until_known("open", &mine);
    let (code, stderr) = town.submit("member", &mine);
    assert_eq!(code, Some(0), "{stderr}");
    let (code, stderr) = town.submit("open", &mine);
    assert_eq!(code, Some(3), "{stderr}");
    let requests = lab.json("me", &["requests"]);
    assert_eq!(requests[0]["peer"], town.open.id.as_str(), "{requests}");
    let path = lab.json("me", &["path", &town.member.id]);
    let links = path["links"].as_array().unwrap();
    assert!(links.iter().all(|link| link["network"] == "lab"), "{path}");
    assert!(links.iter().any(|link| link["chosen"] == true), "{path}");
}

#[test]
fn what_was_joined_is_remembered_and_left() {
    let town = Town::new();
    let lab = &town.lab;
    let mine = town.join(&[&town.ticket, "--network", "main"]);
    drop(mine);
    // Addresses of the private network's members are remembered with it.
    let mine = town.join(&[]);
    let shown = lab.json("me", &["network", "show"]);
    assert_eq!(shown["running"], json!(["main", "lab"]));
    assert_eq!(shown["next"], json!(["main", "lab"]));
    let ticket = lab.json("me", &["network", "ticket"]);
    assert_eq!(ticket["network"], "lab", "the only private one is meant");
    drop(mine);
    assert_eq!(lab.json("me", &["network", "leave", "lab"])["left"], "lab");
    let shown = lab.json("me", &["network", "show"]);
    assert_eq!(shown["next"], json!(["main"]));
    let none = lab.run("me", &["network", "ticket"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(text(&none.stderr).contains("no private network"));
    let twice = lab.run("me", &["join", "--network", "main", "--network", "main"]);
    assert_eq!(twice.status.code(), Some(2));
    assert!(
        text(&twice.stderr).contains("each once"),
        "{}",
        text(&twice.stderr)
    );
}
