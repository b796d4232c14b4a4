//! The real OpenSSH client against the server of a task.

use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};
use std::sync::Arc;

use p2pnode_tunnel::ssh_keys::ClientKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::rig::{LONG, Rig, SshWay};
use crate::screen::Screen;

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

pub async fn output(mut command: Command) -> Output {
    timeout(LONG, command.stdin(Stdio::null()).output())
        .await
        .expect("in time")
        .expect("OpenSSH is installed")
}

/// Runs with `input` as stdin.
pub async fn fed(mut command: Command, input: Vec<u8>) -> Output {
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

pub fn text(bytes: &[u8]) -> String {
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
async fn what_goes_in_comes_out_again_however_much_it_is() {
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    // Several times what all windows and buffers on the way hold.
    let input = noise(60 << 20);
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
async fn a_client_that_reads_late_gets_everything() {
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    // More than the buffers of both directions: the client's window closes, and what would open it
    // again stands behind input that the command cannot take.
    let input = noise(40 << 20);
    let mut child = ssh(&way, "cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let typed = input.clone();
    let typing = tokio::spawn(async move { stdin.write_all(&typed).await });
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let ended = timeout(LONG, child.wait_with_output()).await;
    let ended = ended.unwrap().unwrap();
    typing.await.unwrap().unwrap();
    assert!(ended.stdout == input, "{} bytes", ended.stdout.len());
    assert!(ended.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_are_set_whatever_they_are_for() {
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    let mut ssh = way.program("ssh");
    ssh.args(["-o", "SetEnv=GREETING=hello LD_LIBRARY_PATH=/own"]);
    ssh.arg("task").arg("echo $GREETING,$LD_LIBRARY_PATH");
    assert_eq!(text(&output(ssh).await.stdout), "hello,/own\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_the_size_of_the_clients_and_follows_it() {
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    let (mut screen, terminal) = Screen::new(91, 33);
    let mut command = Command::new("setsid");
    command
        .args(["--ctty", "ssh", "-F"])
        .arg(&way.config)
        .args(["-tt", "task"])
        // The size is printed when it begins and whenever it changes; a line of input ends it.
        .arg(
            "trap 'stty size' WINCH; stty size; echo ready; \
             while ! read -r line; do :; done; echo got $line",
        )
        .env("TERM", "xterm")
        .stdin(terminal.try_clone().unwrap())
        .stdout(terminal.try_clone().unwrap())
        .stderr(terminal)
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    drop(command);
    screen.wait_for("33 91").await;
    screen.wait_for("ready").await;
    screen.resize(120, 50);
    screen.wait_for("50 120").await;
    screen.type_in("typed\n");
    screen.wait_for("got typed").await;
    let ended = timeout(LONG, child.wait()).await.unwrap().unwrap();
    assert!(ended.success());
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

#[tokio::test(flavor = "multi_thread")]
async fn rsync_copies_what_has_changed() {
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    let tree = rig.outside("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    std::fs::write(tree.join("sub/big"), noise(2_000_000)).unwrap();
    for changed in [&b"one"[..], b"another"] {
        std::fs::write(tree.join("small"), changed).unwrap();
        let mut rsync = Command::new("rsync");
        rsync
            .args(["-a", "--checksum", "-e"])
            .arg(format!("ssh -F {}", way.config.display()))
            .arg(format!("{}/", tree.display()))
            .arg("task:copy");
        let copied = output(rsync).await;
        assert!(copied.status.success(), "{}", text(&copied.stderr));
        assert_eq!(std::fs::read(rig.inside("copy/small")).unwrap(), changed);
    }
    assert!(std::fs::read(rig.inside("copy/sub/big")).unwrap() == noise(2_000_000));
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
    // OpenSSH asks only for an agent that there is.
    let mut agent = Command::new("ssh-agent");
    agent.arg("-D").arg("-a").arg(rig.outside("agent"));
    let _agent = agent
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    while !rig.outside("agent").exists() {
        tokio::task::yield_now().await;
    }
    let mut ssh = way.program("ssh");
    ssh.args(["-v", "-A", "-X", "task", "echo [$SSH_AUTH_SOCK$DISPLAY]"])
        .env("SSH_AUTH_SOCK", rig.outside("agent"))
        .env("DISPLAY", ":7");
    let ended = output(ssh).await;
    let said = text(&ended.stderr);
    assert!(
        said.contains("agent forwarding"),
        "it was not asked: {said}"
    );
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
    ends_with_its_task(&rig, &way).await;
}

/// A command is told that its task has ended, on whatever way it goes.
pub async fn ends_with_its_task(rig: &Rig, way: &SshWay) {
    let mut running = ssh(way, "echo up; sleep 1000")
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
