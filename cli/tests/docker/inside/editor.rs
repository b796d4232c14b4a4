//! What the remote modes of editors do: one connection for many sessions, scripts and archives through
//! stdin, a server that stays behind, and ports.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Place, WORK, connected, fed, free_port, succeeds};
use crate::bench::noise;
use crate::harness::{eventually, text};

/// A port in the task that nobody else uses.
const PORT: u16 = 7_011;

/// The sessions that share one connection.
const SESSIONS: usize = 12;

/// A connection that others share, ended at the end.
struct Master<'a> {
    place: &'a Place,
    socket: PathBuf,
}

impl<'a> Master<'a> {
    /// As OpenSSH makes one by itself: the first command's connection stays.
    fn new(place: &'a Place) -> Self {
        let master = Self {
            place,
            socket: place.lab.path("master"),
        };
        let mut first = master.ssh(&["-o", "ControlMaster=auto", "-o", "ControlPersist=600"]);
        first.arg("echo first");
        assert_eq!(succeeds(first, b""), "first\n");
        master
    }

    fn program(&self, program: &str, flags: &[&str]) -> Command {
        let mut command = self.place.openssh(program);
        command.arg("-o");
        command.arg(format!("ControlPath={}", self.socket.display()));
        command.args(flags);
        command
    }

    fn ssh(&self, flags: &[&str]) -> Command {
        let mut command = self.program("ssh", flags);
        command.arg(self.place.host());
        command
    }

    /// Asks it for something: `check`, `forward`, `cancel`, `exit`.
    fn asks(&self, what: &str, flags: &[&str]) -> bool {
        let flags = [&["-O", what], flags].concat();
        fed(self.ssh(&flags), b"").status.success()
    }
}

impl Drop for Master<'_> {
    fn drop(&mut self) {
        // It may be gone already.
        let _gone = self.asks("exit", &[]);
    }
}

/// What an echoing server says to a word.
fn echoed(address: &str, word: &str) -> Option<String> {
    let mut stream: TcpStream = connected(address);
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .ok()?;
    stream.write_all(word.as_bytes()).ok()?;
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).ok()?;
    String::from_utf8(back).ok()
}

#[test]
#[ignore = "needs docker"]
fn many_sessions_and_ports_share_one_connection() {
    let place = Place::new();
    let master = Master::new(&place);
    assert!(master.asks("check", &[]));
    let sessions: Vec<_> = (0..SESSIONS)
        .map(|index| {
            let input = noise(30 + index as u64, 2 << 20);
            let mut command = master.ssh(&[]);
            command.arg("cat; exit 3");
            std::thread::spawn(move || {
                let output = fed(command, &input);
                (output.status.code() == Some(3) && output.stdout == input)
                    .then_some(())
                    .ok_or_else(|| text(&output.stderr))
            })
        })
        .collect();
    for session in sessions {
        session.join().unwrap().unwrap();
    }

    // Ports of the same connection, there and back; a server that outlives the session it came from.
    let mut serving = master.ssh(&[]);
    serving.arg(format!(
        "setsid busybox nc -ll -p {PORT} -e cat >/dev/null 2>&1 </dev/null & echo $!"
    ));
    let server: u32 = succeeds(serving, b"").trim().parse().unwrap();
    let local = free_port();
    let wanted = format!("127.0.0.1:{local}:localhost:{PORT}");
    assert!(master.asks("forward", &["-L", &wanted]));
    let answer = eventually("the forwarded port answers", || {
        echoed(&format!("127.0.0.1:{local}"), "through")
    });
    assert_eq!(answer, "through");
    let mut terminal = master.ssh(&["-tt"]);
    terminal.arg("tty");
    assert!(succeeds(terminal, b"").contains("/dev/pts/"));
    assert!(master.asks("cancel", &["-L", &wanted]));
    eventually("the port is closed", || {
        TcpStream::connect(("127.0.0.1", local))
            .is_err()
            .then_some(())
    });

    assert!(master.asks("exit", &[]));
    eventually("the connection has ended", || {
        (!master.asks("check", &[])).then_some(())
    });
    // What was left behind is there for the next connection.
    let alive = place.ssh(&[&format!("kill -0 {server} && echo alive")], b"");
    assert_eq!(text(&alive.stdout), "alive\n", "{}", text(&alive.stderr));
}

#[test]
#[ignore = "needs docker"]
fn scripts_and_archives_come_through_stdin() {
    let place = Place::new();
    let master = Master::new(&place);
    let script =
        b"echo \"$# $1 $2\"; for n in 1 2 3; do echo $n; done\n# No line follows.\nexec echo end";
    let mut command = master.ssh(&["-T"]);
    command.args(["sh", "-s", "--", "one", "'two words'"]);
    let said = succeeds(command, script);
    assert_eq!(said, "2 one two words\n1\n2\n3\nend\n");

    // An archive as it is, cut off by the end of input alone, and unpacked there.
    let folder = place.lab.path("server");
    std::fs::create_dir_all(folder.join("bin")).unwrap();
    let payload = noise(40, 16 << 20);
    std::fs::write(folder.join("bin/payload"), &payload).unwrap();
    let script = "#!/bin/sh\nwc -c <\"$(dirname \"$0\")/payload\"\n";
    std::fs::write(folder.join("bin/serve"), script).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--create", "--mode=755", "--directory"])
        .arg(place.lab.root.path());
    let archive = fed(
        {
            tar.arg("server");
            tar
        },
        b"",
    )
    .stdout;
    let mut upload = master.ssh(&["-T"]);
    upload.arg("cat > server.tar && wc -c < server.tar");
    assert_eq!(succeeds(upload, &archive).trim(), archive.len().to_string());
    let mut unpack = master.ssh(&["-T"]);
    unpack.arg("tar xf server.tar && rm server.tar && server/bin/serve");
    assert_eq!(succeeds(unpack, b"").trim(), payload.len().to_string());
    // And by the programs that copy, through the same connection; one of them asks for compression.
    let there = |name: &str| format!("{}:{name}", place.host());
    let path = |name: &str| place.lab.path(name).display().to_string();
    let mut scp = master.program("scp", &["-C", "-q"]);
    scp.args([&there("server/bin/payload"), &path("payload")]);
    succeeds(scp, b"");
    assert!(std::fs::read(path("payload")).unwrap() == payload);
    let batch = format!(
        "put {} again\nget again {}\n",
        path("payload"),
        path("again")
    );
    let mut sftp = master.program("sftp", &["-q", "-b", "-"]);
    sftp.arg(place.host());
    succeeds(sftp, batch.as_bytes());
    assert!(std::fs::read(path("again")).unwrap() == payload);
}

#[test]
#[ignore = "needs docker"]
fn a_shell_without_a_terminal_answers_line_by_line_beside_a_proxy() {
    let place = Place::new();
    let near = free_port();
    let mut command = place.openssh("ssh");
    command
        .args([
            "-T",
            "-o",
            "ConnectTimeout=15",
            "-D",
            &format!("127.0.0.1:{near}"),
        ])
        .arg(place.host())
        .arg("sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut keys = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut ask = |line: &str| {
        keys.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        lines.read_line(&mut answer).unwrap();
        answer
    };
    assert_eq!(ask("echo a1b2: $((20 + 3))\n"), "a1b2: 23\n");
    assert_eq!(ask("uname -s\n"), "Linux\n");
    let serve = format!("busybox nc -ll -p {PORT} -e cat & echo serving\n");
    assert_eq!(ask(&serve), "serving\n");
    let answer = eventually("the proxy leads to the server", || {
        let mut stream = super::programs::socks(near, "localhost", PORT);
        stream.write_all(b"hello").ok()?;
        let mut back = [0; 5];
        stream.read_exact(&mut back).ok()?;
        Some(back)
    });
    assert_eq!(&answer, b"hello");
    assert_eq!(ask("kill $!; echo still here\n"), "still here\n");
    keys.write_all(b"exit 6\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(6));
}

/// What an editor's server does that listens on a socket in place of a port; here it is git's memory for
/// credentials.
#[test]
#[ignore = "needs docker"]
fn a_socket_of_a_program_in_the_task_is_forwarded() {
    let place = Place::with_tools();
    let near = free_port();
    let far = Path::new(WORK).join("c/socket");
    let far = far.display();
    let mut command = place.openssh("ssh");
    command
        .args(["-o", "ExitOnForwardFailure=yes", "-L"])
        .arg(format!("127.0.0.1:{near}:{far}"))
        .arg(place.host())
        .arg(format!(
            "mkdir -m 700 c && exec git credential-cache--daemon {far}"
        ))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ok\n");
    // A request ends with its stream, and so does the answer.
    let ask = |request: &str| {
        let mut stream: TcpStream = connected(&format!("127.0.0.1:{near}"));
        let whole = format!("{request}\nprotocol=https\nhost=example.org\n");
        stream.write_all(whole.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert_eq!(
        ask("action=store\ntimeout=60\nusername=me\npassword=secret"),
        ""
    );
    let told = ask("action=get\ntimeout=60");
    assert!(told.contains("password=secret"), "{told}");
    child.kill().unwrap();
    child.wait().unwrap();
}
