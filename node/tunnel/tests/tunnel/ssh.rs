//! The real OpenSSH client against the server of a task.

use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};
use std::sync::Arc;

use p2pnode_tunnel::ssh_keys::ClientKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

use crate::rig::{LONG, Rig, SshWay};

/// Bytes that no pattern of the transport repeats.
pub fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(count)
    .collect()
}

async fn output(mut command: Command) -> Output {
    timeout(LONG, command.stdin(Stdio::null()).output())
        .await
        .expect("in time")
        .expect("OpenSSH is installed")
}

/// Runs with `input` as stdin.
async fn fed(mut command: Command, input: Vec<u8>) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    tokio::spawn(async move {
        let _ = stdin.write_all(&input).await;
    });
    timeout(LONG, child.wait_with_output())
        .await
        .unwrap()
        .unwrap()
}

fn ssh(way: &SshWay, command: &str) -> Command {
    let mut ssh = way.program("ssh");
    ssh.arg("task").arg(command);
    ssh
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_end_as_they_end_and_keep_their_streams_apart() {
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    let ended = output(ssh(&way, "echo out; echo err >&2; exit 42")).await;
    assert_eq!(ended.status.code(), Some(42), "{}", text(&ended.stderr));
    assert_eq!(text(&ended.stdout), "out\n");
    assert_eq!(text(&ended.stderr), "err\n");
    let killed = output(ssh(&way, "kill -TERM $$")).await;
    assert_eq!(killed.status.code(), Some(128 + 15));
    let missing = output(ssh(&way, "/no/such/program")).await;
    assert_eq!(missing.status.code(), Some(127));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_megabytes_go_in_and_come_out_again() {
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    let input = noise(10 << 20);
    let expected = {
        let here = fed(Command::new("sha256sum"), input.clone()).await;
        text(&here.stdout)
    };
    let there = fed(ssh(&way, "sha256sum"), input.clone()).await;
    assert_eq!(text(&there.stdout), expected, "{}", text(&there.stderr));
    // Both directions at once, which is where windows can lock one another.
    let back = fed(ssh(&way, "cat"), input.clone()).await;
    assert!(
        back.stdout == input,
        "{} bytes came back",
        back.stdout.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_are_set_unless_they_decide_over_loading() {
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    let mut ssh = way.program("ssh");
    ssh.args(["-o", "SetEnv=GREETING=hello LD_PRELOAD=/evil.so"]);
    ssh.arg("task").arg("echo $GREETING,$LD_PRELOAD");
    assert_eq!(text(&output(ssh).await.stdout), "hello,\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_the_size_of_the_clients_and_follows_it() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{Winsize, tcsetwinsize};
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    let winsize = |columns, rows| Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    tcsetwinsize(&master, winsize(91, 33)).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = std::fs::File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let mut command = Command::new("setsid");
    command
        .arg("--ctty")
        .arg("ssh")
        .arg("-F")
        .arg(&way.config)
        .args(["-tt", "task"])
        // The size is printed when it begins and whenever it changes; a line of input ends it.
        .arg("trap 'stty size' WINCH; stty size; echo ready; while ! read -r line; do :; done; echo got $line")
        .env("TERM", "xterm")
        .stdin(slave.try_clone().unwrap())
        .stdout(slave.try_clone().unwrap())
        .stderr(slave)
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    drop(command);
    let (seen, mut seeing) = tokio::sync::mpsc::channel::<Vec<u8>>(64);
    let mut reader = std::fs::File::from(rustix::io::dup(&master).unwrap());
    std::thread::spawn(move || {
        use std::io::Read;
        let mut buffer = [0; 4096];
        while let Ok(count) = reader.read(&mut buffer) {
            if count == 0 || seen.blocking_send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut screen = String::new();
    let mut wait_for = async |wanted: &str| {
        timeout(LONG, async {
            while !screen.contains(wanted) {
                screen += &text(
                    &seeing
                        .recv()
                        .await
                        .unwrap_or_else(|| panic!("ended: {screen}")),
                );
            }
        })
        .await
        .unwrap_or_else(|_| panic!("no `{wanted}` in {screen}"));
    };
    wait_for("33 91").await;
    wait_for("ready").await;
    tcsetwinsize(&master, winsize(120, 50)).unwrap();
    wait_for("50 120").await;
    rustix::io::write(&master, b"typed\n").unwrap();
    wait_for("got typed").await;
    assert!(
        timeout(LONG, child.wait())
            .await
            .unwrap()
            .unwrap()
            .success()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn scp_and_sftp_copy_both_ways() {
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    let content = noise(3_000_001);
    std::fs::write(rig.outside("up"), &content).unwrap();
    std::fs::set_permissions(rig.outside("up"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let mut scp = way.program("scp");
    // -s: by SFTP, also with clients from before 9.0.
    scp.args(["-s", "-p"])
        .arg(rig.outside("up"))
        .arg("task:there");
    let copied = output(scp).await;
    assert!(copied.status.success(), "{}", text(&copied.stderr));
    assert!(std::fs::read(rig.inside("there")).unwrap() == content);
    let mode = rig.inside("there").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let mut scp = way.program("scp");
    scp.arg("-s").arg("task:there").arg(rig.outside("down"));
    assert!(output(scp).await.status.success());
    assert!(std::fs::read(rig.outside("down")).unwrap() == content);
    let batch = "mkdir sub\nrename there sub/moved\nln -s moved sub/link\nls -l sub\n\
                 chmod 600 sub/moved\nget -r sub GOT\nrm sub/link\n-rmdir sub\nrm sub/nothing\n";
    let batch = batch.replace("GOT", rig.outside("got").to_str().unwrap());
    let mut sftp = way.program("sftp");
    sftp.args(["-b", "-", "task"]);
    let done = fed(sftp, batch.into_bytes()).await;
    // The last line fails, and so does the batch: what went before did not stop it.
    assert_eq!(done.status.code(), Some(1), "{}", text(&done.stdout));
    assert!(
        text(&done.stdout).contains("-rw-r-----"),
        "{}",
        text(&done.stdout)
    );
    assert!(std::fs::read(rig.outside("got/moved")).unwrap() == content);
    let mode = rig
        .inside("sub/moved")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!rig.inside("sub/link").exists());
}

/// A port of this machine that says what it heard in capitals.
async fn shouting() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = Vec::new();
                socket.read_to_end(&mut heard).await.unwrap();
                heard.make_ascii_uppercase();
                socket.write_all(&heard).await.unwrap();
            });
        }
    });
    port
}

/// A port that nobody has at the moment.
async fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}

async fn ask(port: u16) -> String {
    timeout(LONG, async {
        loop {
            let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)).await else {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            };
            socket.write_all(b"hello").await.unwrap();
            socket.shutdown().await.unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            return answer;
        }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_both_ways() {
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    let port = shouting().await;
    let mut direct = way.program("ssh");
    direct
        .arg("-W")
        .arg(format!("localhost:{port}"))
        .arg("task");
    let said = fed(direct, b"hello".to_vec()).await;
    assert_eq!(text(&said.stdout), "HELLO", "{}", text(&said.stderr));
    let (near, far) = (free_port().await, free_port().await);
    let mut both = way.program("ssh");
    both.args(["-N", "-o", "ExitOnForwardFailure=yes"])
        .arg("-L")
        .arg(format!("127.0.0.1:{near}:127.0.0.1:{port}"))
        .arg("-R")
        .arg(format!("{far}:127.0.0.1:{port}"))
        .arg("task");
    let mut running = both.spawn().unwrap();
    assert_eq!(ask(near).await, "HELLO");
    assert_eq!(ask(far).await, "HELLO");
    running.kill().await.unwrap();
    // What was listened on is free again once the connection has gone.
    timeout(LONG, async {
        while TcpListener::bind(("127.0.0.1", far)).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_without_a_way_out_reaches_nobody_else() {
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    let mut direct = way.program("ssh");
    direct.args(["-W", "192.0.2.1:80", "task"]);
    let refused = output(direct).await;
    assert_eq!(refused.status.code(), Some(255));
    let why = text(&refused.stderr);
    assert!(why.contains("no way out"), "{why}");
    let mut nobody = way.program("ssh");
    nobody
        .arg("-W")
        .arg(format!("localhost:{}", free_port().await))
        .arg("task");
    let why = text(&output(nobody).await.stderr);
    assert!(why.contains("nobody in the task listens"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_sessions_run_at_once() {
    let rig = Rig::new();
    let way = Arc::new(SshWay::new(&rig).await);
    let sessions: Vec<_> = (0..100)
        .map(|number| {
            let way = Arc::clone(&way);
            tokio::spawn(async move { output(ssh(&way, &format!("echo {number}; sleep 1"))).await })
        })
        .collect();
    for (number, session) in sessions.into_iter().enumerate() {
        let ended = session.await.unwrap();
        assert_eq!(
            text(&ended.stdout),
            format!("{number}\n"),
            "{}",
            text(&ended.stderr)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_key_is_let_in_on_either_side() {
    let rig = Rig::new();
    let other = ClientKey::generate();
    let file = rig.outside("other-key");
    other.write(&file).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    other.write(&file).expect_err("a key is never overwritten");
    let way = SshWay::with(&rig, &file, ClientKey::generate().public()).await;
    let refused = output(ssh(&way, "true")).await;
    assert_eq!(refused.status.code(), Some(255));
    assert!(
        text(&refused.stderr).contains("Permission denied"),
        "{}",
        text(&refused.stderr)
    );

    let way = SshWay::with(&rig, &file, other.public()).await;
    assert!(output(ssh(&way, "true")).await.status.success());
    let wrong = p2pnode_tunnel::ssh_keys::known_hosts_line("task", &other.public()).unwrap();
    std::fs::write(rig.outside("known_hosts"), wrong + "\n").unwrap();
    let refused = output(ssh(&way, "true")).await;
    assert_eq!(refused.status.code(), Some(255));
    let why = text(&refused.stderr);
    assert!(why.contains("Host key verification failed"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_displays_are_not_forwarded() {
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    let mut ssh = way.program("ssh");
    ssh.args(["-A", "-X", "task", "echo [$SSH_AUTH_SOCK$DISPLAY]"])
        .env("SSH_AUTH_SOCK", rig.outside("agent"))
        .env("DISPLAY", ":7");
    let ended = output(ssh).await;
    assert_eq!(text(&ended.stdout), "[]\n", "{}", text(&ended.stderr));
    let mut sockets = way.program("ssh");
    sockets
        .args(["-N", "-o", "ExitOnForwardFailure=yes", "-R"])
        .arg(format!("{}:localhost:1", rig.inside("socket").display()))
        .arg("task");
    assert_eq!(output(sockets).await.status.code(), Some(255));
    assert!(!rig.inside("socket").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_its_task() {
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    let mut running = ssh(&way, "echo up; sleep 1000")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0; 3];
    timeout(LONG, running.stdout.as_mut().unwrap().read_exact(&mut up))
        .await
        .unwrap()
        .unwrap();
    rig.gone.cancel();
    let ended = timeout(LONG, running.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ended.status.code(), Some(255));
    let why = text(&ended.stderr);
    assert!(why.contains("the task has ended"), "{why}");
}
