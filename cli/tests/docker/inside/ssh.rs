//! This system's OpenSSH against a task.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::{Place, connected, fed};
use crate::bench::noise;
use crate::harness::{eventually, program, text};

/// Bytes that are piped through: more than all buffers on the way together.
const MUCH: usize = 24 << 20;

/// A port in the task that nobody else uses.
const PORT: u16 = 7_007;

#[test]
#[ignore = "needs docker"]
fn commands_run_as_the_tasks_user_with_their_input_output_and_exit_code() {
    let place = Place::new();
    let output = place.ssh(&["echo out; echo err >&2; exit 7"], b"");
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        ("out\n".to_owned(), "err\n".to_owned())
    );
    let words = [
        "ssh",
        &place.job,
        "-q",
        "-o",
        "LogLevel=ERROR",
        "echo",
        "hi",
    ];
    assert_eq!(place.said(&words), "hi\n");
    let input = noise(3, MUCH);
    let output = place.ssh(&["cat"], &input);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stdout == input, "the bytes changed on the way");

    let status = text(
        &place
            .ssh(&["cat /proc/self/status; id -u; pwd"], b"")
            .stdout,
    );
    for sign in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(sign), "{sign}: {status}");
    }
    assert!(status.contains("\n65534\n/work\n"), "{status}");
    for line in ["kill -9 $$", "exit 137"] {
        let ended = place.ssh(&[line], b"");
        assert_eq!(ended.status.code(), Some(137), "{line}");
    }
    let verb = place.me(&["ssh", &place.job, "--", "exit 5"]);
    assert_eq!(verb.status.code(), Some(5), "{}", text(&verb.stderr));
}

#[test]
#[ignore = "needs docker"]
fn a_hundred_sessions_run_side_by_side() {
    let place = Place::of(&format!(
        "image = \"{}\"\ncommand = [\"sleep\", \"600\"]",
        crate::bench::IMAGE
    ));
    let sessions: Vec<_> = (0..100)
        .map(|index| {
            let mut command = place.openssh("ssh");
            command
                .arg(place.host())
                .arg(format!("echo there; read line; echo {index} $line"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            (index, command.spawn().unwrap())
        })
        .collect();
    // All of them, at the same time.
    let mut sessions = sessions;
    for (_, session) in &mut sessions {
        let mut there = [0; 6];
        let stdout = session.stdout.as_mut().unwrap();
        stdout.read_exact(&mut there).unwrap();
        assert_eq!(&there, b"there\n");
    }
    for (index, mut session) in sessions {
        session.stdin.take().unwrap().write_all(b"said\n").unwrap();
        let output = session.wait_with_output().unwrap();
        assert_eq!(
            text(&output.stdout),
            format!("{index} said\n"),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
#[ignore = "needs docker"]
fn scp_and_sftp_copy_both_ways() {
    let place = Place::new();
    let here = place.lab.path("copies");
    std::fs::create_dir_all(here.join("tree/deep")).unwrap();
    let bytes = noise(5, 8 << 20);
    std::fs::write(here.join("tree/data"), &bytes).unwrap();
    std::fs::write(here.join("tree/deep/name with spaces"), "deep").unwrap();
    let path = |name: &str| here.join(name).to_str().unwrap().to_owned();
    let there = |name: &str| format!("{}:{name}", place.host());
    let run = |program: &str, args: &[&str]| {
        let mut command = place.openssh(program);
        command.args(args);
        let output = fed(command, b"");
        assert!(
            output.status.success(),
            "{program}: {}",
            text(&output.stderr)
        );
    };
    run("scp", &["-r", &path("tree"), &there("up")]);
    run("scp", &["-r", &there("up"), &path("down")]);
    assert!(std::fs::read(here.join("down/data")).unwrap() == bytes);
    assert_eq!(
        std::fs::read(here.join("down/deep/name with spaces")).unwrap(),
        b"deep"
    );
    std::fs::write(
        here.join("batch"),
        "cd up\nrename data moved\nchmod 600 moved\nls -l\n",
    )
    .unwrap();
    run("sftp", &["-b", &path("batch"), &place.host()]);
    let listed = text(&place.ssh(&["ls -l up"], b"").stdout);
    assert!(
        listed.contains("-rw-------") && listed.contains("moved"),
        "{listed}"
    );
    // What the task's user may not write stays as it is, links included.
    let output = place.ssh(&["ln -s /etc/passwd link; ls /etc/planted"], b"");
    assert!(!output.status.success());
    let mut command = place.openssh("scp");
    command.args([&path("tree/data"), &there("/etc/planted")]);
    assert!(!fed(command, b"").status.success());
}

#[test]
#[ignore = "needs docker"]
fn ports_are_forwarded_both_ways_and_the_agent_is_not() {
    let place = Place::new();
    let serving = format!("busybox nc -l -p {PORT} -e cat");
    let mut server = place.piped(&["exec", &place.job, "--", "sh", "-c", &serving]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = free.local_addr().unwrap().port();
    drop(free);
    let mut forward = place
        .openssh("ssh")
        .args(["-N", "-o", "ExitOnForwardFailure=yes", "-L"])
        .arg(format!("{local}:localhost:{PORT}"))
        .arg(place.host())
        .spawn()
        .unwrap();
    let echoed = eventually("the forwarded port answers", || {
        let mut stream = connected(&format!("127.0.0.1:{local}"));
        stream.write_all(b"through").ok()?;
        let mut back = [0; 7];
        stream.read_exact(&mut back).ok()?;
        Some(back)
    });
    assert_eq!(&echoed, b"through");
    forward.kill().unwrap();
    forward.wait().unwrap();
    let _ = server.kill();
    let _ = server.wait();

    // From the task back to this machine.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap().port();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"from here\n").unwrap();
    });
    let mut command = place.openssh("ssh");
    command
        .args(["-o", "ExitOnForwardFailure=yes", "-R"])
        .arg(format!("{PORT}:127.0.0.1:{here}"))
        .arg(place.host())
        .arg(format!("busybox nc 127.0.0.1 {PORT} </dev/null"));
    let output = fed(command, b"");
    assert_eq!(
        text(&output.stdout),
        "from here\n",
        "{}",
        text(&output.stderr)
    );
    answering.join().unwrap();

    // The agent stays at home, whatever is asked for.
    let mut command = place.openssh("ssh");
    let agent = place.lab.path("agent");
    let mut running = Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(&agent)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the agent listens", || agent.exists().then_some(()));
    command
        .args(["-v", "-o", "ForwardAgent=yes"])
        .arg(place.host())
        .arg("echo \"agent:$SSH_AUTH_SOCK\"")
        .env("SSH_AUTH_SOCK", agent);
    let output = fed(command, b"");
    running.kill().unwrap();
    running.wait().unwrap();
    let said = text(&output.stderr);
    assert!(
        said.contains("agent forwarding"),
        "it was not asked: {said}"
    );
    assert_eq!(text(&output.stdout), "agent:\n");
}

#[test]
#[ignore = "needs docker"]
fn nobody_else_gets_in() {
    let place = Place::new();
    let data = place.lab.path("me");
    // Another user of this machine reads neither the token nor the key; the program is in their reach.
    let open = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(open.path(), Permissions::from_mode(0o755)).unwrap();
    let copy = open.path().join("p2pnode");
    std::fs::copy(program().get_program(), &copy).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(copy)
        .args(["tunnel", "--stdio", &place.job, "--data-dir"])
        .arg(&data)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(
        text(&output.stderr).contains("ermission denied"),
        "{}",
        text(&output.stderr)
    );
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    // The provider owns the machine and not the job: its node knows no such job of its own.
    let output = place
        .as_node("provider", &["exec", &place.job, "--", "id"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    // A key other than the one that was made for the occasion.
    assert!(place.ssh(&["true"], b"").status.success());
    let key = place.lab.path("other-key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .status();
    assert!(made.unwrap().success());
    let tunnel = format!(
        "ProxyCommand={} tunnel --stdio {}",
        program().get_program().display(),
        place.job
    );
    let mut command = Command::new("ssh");
    command
        .args(["-F", "none", "-o", &tunnel, "-o", "IdentitiesOnly=yes"])
        .args(["-o", "StrictHostKeyChecking=no"])
        .args(["-o", "UserKnownHostsFile=/dev/null", "-i"])
        .arg(key)
        .args(["task@anywhere", "id"])
        .env("P2PNODE_DATA_DIR", &data);
    let output = fed(command, b"");
    assert_eq!(output.status.code(), Some(255));
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    let said = text(&output.stderr);
    assert!(said.contains("Permission denied (publickey)"), "{said}");
}
