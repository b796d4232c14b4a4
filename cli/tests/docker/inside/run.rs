//! `run`: like `docker run`, on a peer.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use super::{Place, connected, fed, refused};
use crate::bench::{IMAGE, noise};
use crate::harness::{eventually, program, text};

/// Small enough to stand beside the task of a [`Place`].
const SMALL: [&str; 6] = ["--memory", "64MiB", "--disk", "64MiB", "--cpus", "0.2"];

fn run(place: &Place, flags: &[&str], words: &[&str], input: &[u8]) -> std::process::Output {
    let mut command = program();
    command
        .args(["run", "--image", IMAGE])
        .args(SMALL)
        .args(flags)
        .arg("--data-dir")
        .arg(place.lab.path("me"))
        .arg("--")
        .args(words)
        .current_dir(place.lab.root.path());
    fed(command, input)
}

#[test]
#[ignore = "needs docker"]
fn a_command_runs_on_a_peer_and_its_files_come_back() {
    let place = Place::new();
    let output = run(
        &place,
        &[],
        &["sh", "-c", "echo {out}; echo err >&2; exit 3"],
        b"",
    );
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "{out}\n");
    assert!(text(&output.stderr).contains("err"));

    let data = place.lab.path("data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("in"), "one\n").unwrap();
    let volume = format!("{}:data", data.display());
    let script = "cat data/in; echo two >> data/in; mkdir data/new; echo $MINE > data/new/file";
    let flags = ["-v", &volume, "-e", "MINE={a} b"];
    let output = run(&place, &flags, &["sh", "-c", script], b"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "one\n");
    let read = |name: &str| std::fs::read_to_string(data.join(name)).unwrap();
    assert_eq!(
        (read("in"), read("new/file")),
        ("one\ntwo\n".into(), "{a} b\n".into())
    );
    let left = std::fs::read_dir(place.lab.root.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    let staging = |name: &&std::ffi::OsString| name.to_string_lossy().starts_with(".p2pnode-run");
    assert_eq!(left.iter().find(staging), None);
}

#[test]
#[ignore = "needs docker"]
fn stdin_reaches_the_command_and_its_exit_code_comes_back() {
    let place = Place::new();
    let output = run(
        &place,
        &["-i"],
        &["sh", "-c", "read a; echo got $a; cat | wc -c; exit 4"],
        b"line\n12345",
    );
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "got line\n5\n");
    let much = noise(7, 3 << 20);
    let output = run(&place, &["-i"], &["cat"], &much);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stdout == much, "{} bytes", output.stdout.len());
    // Without the flag its stdin is empty, whatever stands in this one.
    let output = run(&place, &[], &["cat"], b"not for it");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
    let output = run(&place, &["-i"], &["no-such-program"], b"");
    assert_ne!(output.status.code(), Some(0));
    assert!(
        text(&output.stderr).contains("no-such-program"),
        "{}",
        text(&output.stderr)
    );
    let output = run(&place, &["-v", "./nowhere-at-all:data"], &["true"], b"");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[test]
#[ignore = "needs docker"]
fn what_was_made_by_hand_comes_back_whatever_its_last_command_was() {
    let place = Place::new();
    let data = place.lab.path("data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("kept"), "old").unwrap();
    let before = std::fs::metadata(data.join("kept")).unwrap();
    let volume = format!("{}:data", data.display());
    let flags = ["-i", "-v", &volume];
    let typed = b"echo made >data/new\nnonesuch\n";
    let output = run(&place, &flags, &["sh"], typed);
    assert_eq!(output.status.code(), Some(127), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(data.join("new")).unwrap(), "made\n");
    let after = std::fs::metadata(data.join("kept")).unwrap();
    assert_eq!(after.ino(), before.ino(), "what is the same stays");
    // It ended well, and what it made cannot be brought.
    let output = run(&place, &flags, &["ln", "-s", "/etc/hosts", "data/out"], b"");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("data/out"));
    // Its memory is what ended it.
    let output = run(&place, &[], &["tail", "/dev/zero"], b"");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(137), "{said}");
    assert_eq!(said.matches("went over its").count(), 1, "{said}");
}

#[test]
#[ignore = "needs docker"]
fn a_signal_is_the_commands_while_it_runs() {
    let place = Place::new();
    let script = "trap 'echo heard; exit 7' INT; echo ready; while :; do sleep 0.1; done";
    let words = ["run", "-i", "--image", IMAGE];
    let words = [&words[..], &SMALL, &["--", "sh", "-c", script]].concat();
    let mut child = place.piped(&words);
    let mut stdout = child.stdout.take().unwrap();
    let mut said = String::new();
    while !said.contains("ready") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        said.push(byte[0].into());
    }
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status();
    assert!(sent.unwrap().success());
    stdout.read_to_string(&mut said).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(said.ends_with("heard\n"), "{said}");
}

/// The address in the line that says where a port of this machine leads.
fn forwarded(said: &mut impl BufRead) -> String {
    let mut line = String::new();
    while !line.contains(" leads to port ") {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "no such line");
    }
    line.split(' ').next().unwrap().to_owned()
}

#[test]
#[ignore = "needs docker"]
fn its_ports_are_forwarded_and_one_in_use_is_said_at_once() {
    let place = Place::new();
    let words = ["run", "--image", IMAGE, "-p", "0:7020"];
    let serve = ["--", "busybox", "nc", "-l", "-p", "7020", "-e", "cat"];
    let mut child = place.piped(&[&words[..], &SMALL, &serve].concat());
    let address = forwarded(&mut BufReader::new(child.stderr.take().unwrap()));
    eventually("the server answers", || {
        let mut stream = connected(&address);
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"hello").ok()?;
        let mut back = [0; 5];
        stream.read_exact(&mut back).ok()?;
        (back == *b"hello").then_some(())
    });
    // The server serves one, and the port goes with the job.
    assert_eq!(child.wait().unwrap().code(), Some(0));
    eventually("nobody listens any more", || {
        std::net::TcpStream::connect(&address)
            .is_err()
            .then_some(())
    });

    let before = place.lab.json("me", &["jobs"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("{}:80", taken.local_addr().unwrap().port());
    let output = run(&place, &["-p", "0:81", "-p", &port], &["sleep", "600"], b"");
    assert!(refused(&output, 2).contains("another port"));
    assert_eq!(place.lab.json("me", &["jobs"]), before, "nothing was sent");
    assert_eq!(place.lab.json("me", &["forwards"]), serde_json::json!([]));
}

#[test]
#[ignore = "needs docker"]
fn what_its_owner_ends_says_why_and_is_not_begun_elsewhere() {
    let place = Place::new();
    let words = ["run", "-i", "--image", IMAGE];
    let words = [
        &words[..],
        &SMALL,
        &["--", "sh", "-c", "echo up; sleep 600"],
    ]
    .concat();
    let mut child = place.piped(&words);
    let mut up = [0; 3];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut up).unwrap();
    let shown = place.lab.json("me", &["job", "last"]);
    let task = shown["tasks"][0]["task"].as_str().unwrap().to_owned();
    let kill = ["kill", &task, "--reason", "it is too hot"];
    let killed = place.as_node("provider", &kill).output().unwrap();
    assert!(killed.status.success(), "{}", text(&killed.stderr));
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("it is too hot").count(), 1, "{said}");
    let shown = place.lab.json("me", &["job", "last"]);
    assert_eq!(shown["job"]["state"], "cancelled", "{shown}");
}

#[test]
#[ignore = "needs docker"]
fn a_reader_that_has_enough_ends_what_is_attended_to() {
    let place = Place::new();
    let words = ["run", "-i", "--image", IMAGE];
    let words = [&words[..], &SMALL, &["--", "yes"]].concat();
    let mut child = place.piped(&words);
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 64]).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141), "{}", text(&output.stderr));
    place.lab.wait_until_running("provider", 1);
}

#[test]
#[ignore = "needs docker"]
fn what_is_typed_comes_to_a_running_task_in_order() {
    let place = Place::new();
    let mut child = place.piped(&["exec", "-i", &place.job, "--", "cat"]);
    let mut stdin = child.stdin.take().unwrap();
    let mut expected = String::new();
    for number in 0..2_000 {
        let line = format!("line {number}\n");
        stdin.write_all(line.as_bytes()).unwrap();
        expected.push_str(&line);
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout) == expected);
    let variables = ["-e", "LD_LIBRARY_PATH=/own", "-e", "A=b=c"];
    let show = [&place.job, "--", "sh", "-c", "echo $LD_LIBRARY_PATH $A"];
    let words = [&["exec"], &variables[..], &show[..]].concat();
    assert_eq!(place.said(&words), "/own b=c\n");
    let output = place.me(&["exec", &place.job, "--", "sh", "-c", "exit 42"]);
    assert_eq!(output.status.code(), Some(42), "{}", text(&output.stderr));
}
