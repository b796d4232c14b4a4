//! Inside a container on a machine that nobody can dial.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::harness::text;
use crate::town::{Town, eventually};
use crate::world::Nat;

/// A server in a container of the image that `docker/test-image.sh` makes.
const JOB: &str = r#"
name = "inside"
[task]
image = "p2pnode-test:1"
command = ["sh", "-c", "busybox nc -ll -p 8080 -e cat & sleep 600"]
[resources]
memory = "64MiB"
disk = "64MiB"
"#;

/// How long nothing passes: a connection that stands so long without an answer is given up.
const CUT: Duration = Duration::from_secs(20);

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Says a word to a program and reads it back.
fn echoed(words: &mut impl Write, back: &mut impl BufRead, word: &str) {
    writeln!(words, "{word}").unwrap();
    words.flush().unwrap();
    let mut line = String::new();
    back.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), word);
}

#[test]
#[ignore = "needs root, for network namespaces, and docker"]
fn a_shell_ssh_and_a_port_behind_nat_and_a_cut_that_ends_nothing() {
    for (nat, direct) in [(Nat::Cone, true), (Nat::Symmetric, false)] {
        let town = Town::with_engine(nat);
        town.until_placed(1);
        town.until_known();
        let file = town.lab.job("inside", JOB, &[]);
        let submitted = town.run("me", &["submit", file.to_str().unwrap(), "--detach"]);
        let job = printed(&submitted).trim().to_owned();
        eventually("the task runs", || {
            let shown = town.json("me", &["job", &job]);
            (shown["tasks"][0]["state"] == "running").then_some(())
        });
        if direct {
            town.until_direct();
        }
        assert!(
            town.links().iter().any(|link| link["relayed"] != direct),
            "{:?}",
            town.links()
        );
        let said = town.run("me", &["exec", &job, "--", "echo", "by exec"]);
        assert_eq!(printed(&said), "by exec\n");
        let said = town.run("me", &["ssh", &job, "echo", "by ssh"]);
        assert_eq!(printed(&said), "by ssh\n");
        let address = eventually("the server listens", || {
            let said = town.run("me", &["forward", &job, "0:8080"]);
            let said = text(&said.stdout);
            said.split_once(' ').map(|(address, _)| address.to_owned())
        });
        let (host, port) = address.split_once(':').unwrap();
        let mut caller = Command::new("ip")
            .args(["netns", "exec", &town.world.space("me")])
            .args(["busybox", "nc", host, port])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut words = caller.stdin.take().unwrap();
        let mut back = BufReader::new(caller.stdout.take().unwrap());
        echoed(&mut words, &mut back, "by the port");
        drop((words, back));
        caller.kill().unwrap();
        caller.wait().unwrap();

        let mut shell = town.command("me", &["exec", "-i", &job, "--", "cat"]);
        let shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut words = shell.stdin.take().unwrap();
        let mut back = BufReader::new(shell.stdout.take().unwrap());
        echoed(&mut words, &mut back, "before");
        town.world.cut(None);
        writeln!(words, "meanwhile").unwrap();
        std::thread::sleep(CUT);
        town.world.mend();
        let mut line = String::new();
        back.read_line(&mut line).unwrap();
        assert_eq!(line, "meanwhile\n");
        echoed(&mut words, &mut back, "after");
        drop(words);
        assert!(shell.wait().unwrap().success());
        printed(&town.run("me", &["cancel", &job]));
    }
}
