//! Commands in a terminal: this node's own, and the engine's where this node does not see the container.

use p2pnode_executor::inside::Session;
use p2pnode_protocol::task::Isolation;
use p2pnode_protocol::tunnel::{ExecEnd, ExecSpec, WindowSize};
use tokio::io::AsyncWriteExt;

use super::{KINDS, blind, finish, in_terminal, open, root, until, write};
use crate::contract::{PATIENCE, clean, within};
use crate::subject::DockerSubject;

async fn terminal(task: &super::Open<'_>, script: &str) -> Session {
    within(task.inside.exec(in_terminal(script))).await.unwrap()
}

/// Everything that people expect of a terminal.
async fn is_a_terminal(subject: &DockerSubject, kind: Isolation, own: bool) {
    let task = open(subject, kind).await;
    // An engine gives a terminal its size only after the command has begun.
    let wait = match own {
        true => "",
        false => "until [ \"$(stty size)\" = '24 80' ]; do sleep 0.1; done;",
    };
    let script = format!(
        "tty; {wait} stty size; echo $TERM; echo err >&2; test -t 0 && test -t 1 && test -t 2; exit 9"
    );
    let script = &script;
    let said = finish(terminal(&task, script).await).await;
    let name = said.stdout.lines().next().unwrap_or_default().to_owned();
    assert!(
        name.starts_with("/dev/pts/") || (!own && name == "/dev/console"),
        "{said:?}"
    );
    assert!(
        said.stdout.contains("24 80\r\nxterm\r\nerr\r\n"),
        "{said:?}"
    );
    assert_eq!((&*said.stderr, said.end), ("", ExecEnd::Exited(9)));
    // It leads a session of its own, whose terminal this is.
    let said = finish(terminal(&task, "cut -d' ' -f1,5,6,7,8 /proc/$$/stat").await).await;
    let fields: Vec<i64> = said
        .stdout
        .split_whitespace()
        .map(|f| f.parse().unwrap())
        .collect();
    let [pid, group, session, tty, foreground] = fields[..] else {
        panic!("{said:?}")
    };
    assert_eq!((group, session, foreground), (pid, pid, pid), "{said:?}");
    assert_ne!(tty, 0, "{said:?}");
    // It is resized, and told so.
    let script = "trap 'stty size; exit' WINCH; echo on; while :; do sleep 0.05; done";
    let mut session = terminal(&task, script).await;
    until(&mut session, "on\r\n").await;
    let size = WindowSize {
        columns: 132,
        rows: 50,
    };
    session.control.resize(size).await;
    assert!(finish(session).await.stdout.contains("50 132"));
    // Ctrl-C interrupts what runs, not the shell.
    let mut session = interactive(&task).await;
    write(&mut session, "sleep 1000\n").await;
    until(&mut session, "sleep 1000").await;
    let running = async || task.sh("ps").await.stdout.contains("sleep 1000\n");
    crate::life::until(PATIENCE, running).await;
    write(&mut session, "\x03").await;
    write(&mut session, "echo $((40 + 2))\n").await;
    until(&mut session, "\n42\r\n").await;
    // Jobs are stopped and go on.
    write(&mut session, "sleep 2000\n").await;
    crate::life::until(PATIENCE, async || {
        task.sh("ps").await.stdout.contains("sleep 2000\n")
    })
    .await;
    write(&mut session, "\x1a").await;
    until(&mut session, "Stopped").await;
    // The prompt is waited for: what is typed while the shell turns to its own way of reading lines is
    // lost on every terminal.
    write(&mut session, "bg; jobs; kill %1; wait; PS1='read''y> '\n").await;
    until(&mut session, "ready> ").await;
    // The end of input ends the shell.
    within(session.input.shutdown()).await.unwrap();
    if own {
        let said = finish(session).await;
        assert!(matches!(said.end, ExecEnd::Exited(_)), "{said:?}");
    }
    task.close().await;
}

/// The shell, as people use it.
async fn interactive(task: &super::Open<'_>) -> Session {
    let spec = ExecSpec {
        command: Vec::new(),
        ..in_terminal("")
    };
    within(task.inside.exec(spec)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_terminal_of_this_nodes_is_one() {
    let subject = DockerSubject::new().await;
    for kind in KINDS {
        is_a_terminal(&subject, kind, root()).await;
    }
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_terminal_of_the_engines_is_one() {
    let subject = blind().await;
    for kind in KINDS {
        is_a_terminal(&subject, kind, false).await;
    }
    clean(&subject).await;
}

/// The task's user owns it, others don't get in the way, and it is gone with its command.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_terminal_belongs_to_the_task() {
    let subject = DockerSubject::new().await;
    let task = open(&subject, KINDS[0]).await;
    let said = finish(terminal(&task, "stat -c '%u %a' $(tty)").await).await;
    let uid = crate::sandbox::task_uid();
    assert_eq!(said.stdout, format!("{uid} 620\r\n"));
    if root() {
        let left = task.sh("ls /dev/pts").await;
        assert_eq!(left.stdout, "ptmx\n", "terminals are left");
    }
    // All of a long output arrives, with no more than the terminal's own changes to it.
    let said = finish(terminal(&task, "stty -onlcr; seq 1 50000").await).await;
    let expected: String = (1..=50_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(said.stdout.len(), expected.len());
    assert_eq!(said.stdout, expected);
    // So does a long input.
    let mut session = terminal(&task, "stty raw -echo; echo on; head -c 300000 | md5sum").await;
    until(&mut session, "on\n").await;
    let text = "0123456789".repeat(30_000);
    within(session.input.write_all(text.as_bytes()))
        .await
        .unwrap();
    let said = finish(session).await;
    let expected = task
        .sh("yes 0123456789 | tr -d '\\n' | head -c 300000 | md5sum")
        .await;
    assert_eq!(said.stdout.trim(), expected.stdout.trim());
    task.close().await;
    clean(&subject).await;
}

/// A line that is not ended, the end of input, and then what the command makes of it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn the_end_of_input_is_typed() {
    let subject = DockerSubject::new().await;
    if !root() {
        return;
    }
    let task = open(&subject, KINDS[0]).await;
    for text in ["", "whole\n", "half"] {
        let mut session = terminal(&task, "stty -echo; echo on; cat; echo; echo end").await;
        until(&mut session, "on\r\n").await;
        write(&mut session, text).await;
        within(session.input.shutdown()).await.unwrap();
        let said = finish(session).await;
        let expected = format!("{}\r\nend\r\n", text.replace('\n', "\r\n"));
        assert_eq!((said.stdout, said.end), (expected, ExecEnd::Exited(0)));
    }
    task.close().await;
    clean(&subject).await;
}
