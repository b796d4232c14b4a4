//! Commands without a terminal.

use std::time::Duration;

use p2pnode_executor::inside::InsideError;
use p2pnode_protocol::tunnel::{ExecEnd, ExecSpec, TaskSignal};
use tokio::io::AsyncWriteExt;

use super::{
    KINDS, WAIT, blind, finish, in_terminal, open, open_with, refused, shell, until, write,
};
use crate::contract::{PATIENCE, clean, within};
use crate::sandbox::task_uid;
use crate::subject::DockerSubject;

/// The lines of `/proc/self/status` that say what a process may, and its groups of control.
const WALLS: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status; \
                     cat /proc/self/cgroup; ulimit -a; readlink /proc/self/ns/net; id; pwd; \
                     cat /proc/self/mountinfo | cut -d' ' -f4-; echo $GREETING $HOME";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_command_has_the_tasks_own_walls_and_no_others() {
    let subject = DockerSubject::new().await;
    for kind in KINDS {
        // The task itself says first what its own walls are.
        let script = format!("({WALLS}) > walls; {WAIT}");
        let task = open_with(&subject, kind, &script, |_| {}).await;
        let own = std::fs::read_to_string(task.trial.work_dir().join("walls")).unwrap();
        assert!(own.contains("CapEff:\t0000000000000000"), "{own}");
        assert!(own.contains("NoNewPrivs:\t1") && own.contains("Seccomp:\t2"));
        assert!(own.contains(&format!("uid={}", task_uid())), "{own}");
        for spec in [shell(WALLS), in_terminal(WALLS)] {
            let said = finish(within(task.inside.exec(spec)).await.unwrap()).await;
            assert_eq!(said.end, ExecEnd::Exited(0));
            assert_eq!(said.stdout.replace("\r\n", "\n"), own, "{kind:?}");
        }
        // It sees the task, and not the host.
        let seen = task.sh("ps; hostname; ls /proc | grep -c '^[0-9]'").await;
        assert!(seen.stdout.contains("sleep 100000"), "{seen:?}");
        assert!(!seen.stdout.contains("dockerd"), "{seen:?}");
        let denied = task
            .sh("echo 1 > /etc/x || echo 1 > /proc/sysrq-trigger")
            .await;
        assert_eq!(denied.end, ExecEnd::Exited(1), "{denied:?}");
        task.close().await;
    }
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn streams_codes_and_environment_are_its_own() {
    let subject = DockerSubject::new().await;
    for kind in KINDS {
        let task = open(&subject, kind).await;
        let said = task.sh("echo out; echo err >&2; exit 7").await;
        assert_eq!((&*said.stdout, &*said.stderr), ("out\n", "err\n"));
        assert_eq!(said.end, ExecEnd::Exited(7));
        let spec = ExecSpec {
            env: vec![
                ("GREETING".into(), "bye".into()),
                ("X".into(), "a b".into()),
            ],
            ..shell("echo $GREETING $X $HOME; pwd; kill -9 $$")
        };
        let said = finish(within(task.inside.exec(spec)).await.unwrap()).await;
        assert_eq!(said.stdout, "bye a b /tmp\n/work\n");
        assert_eq!(said.end, ExecEnd::Exited(137));
        // Input flows, and ends.
        let mut session = within(task.inside.exec(shell("cat; echo end")))
            .await
            .unwrap();
        write(&mut session, "first\n").await;
        until(&mut session, "first\n").await;
        write(&mut session, "second\n").await;
        within(session.input.shutdown()).await.unwrap();
        assert_eq!(finish(session).await.stdout, "second\nend\n");
        // Without a command it is a shell.
        let mut session = within(task.inside.exec(ExecSpec::default())).await.unwrap();
        write(&mut session, "echo $((6 * 7))\nexit 3\n").await;
        let said = finish(session).await;
        assert_eq!((&*said.stdout, said.end), ("42\n", ExecEnd::Exited(3)));
        // What it leaves behind lives on, and does not keep it from ending.
        let said = task.sh("sleep 4242 & echo left").await;
        assert_eq!((&*said.stdout, said.end), ("left\n", ExecEnd::Exited(0)));
        assert!(task.sh("ps").await.stdout.contains("sleep 4242"));
        task.close().await;
    }
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn what_cannot_be_started_is_said() {
    for subject in [DockerSubject::new().await, blind().await] {
        for kind in KINDS {
            let task = open(&subject, kind).await;
            for spec in [shell("true"), in_terminal("true")] {
                for name in ["nonesuch", "/etc", "./x"] {
                    let command = vec![name.to_owned(), "-x".to_owned()];
                    let spec = ExecSpec {
                        command,
                        ..spec.clone()
                    };
                    match refused(within(task.inside.exec(spec)).await) {
                        InsideError::NoCommand(command) => assert_eq!(command, name),
                        other => panic!("{name}: {other:?}"),
                    }
                }
            }
            let spec = ExecSpec {
                env: vec![("a=b".into(), String::new())],
                ..shell("true")
            };
            let error = refused(task.inside.exec(spec).await);
            assert!(error.to_string().contains("a=b"), "{error}");
            task.close().await;
        }
        clean(&subject).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_task_without_room_for_processes_says_so() {
    let subject = DockerSubject::new().await;
    let few = "sleep 1000 & sleep 1000 & echo ready; exec sleep 100000";
    let task = open_with(&subject, KINDS[0], few, |trial| {
        trial.task.resources.pids = 3;
    })
    .await;
    // What starts a command may fit in, or not: it is no more than a moment there.
    for _ in 0..10 {
        match within(task.inside.exec(shell("ls | cat"))).await {
            Ok(session) => {
                let said = finish(session).await;
                assert!(said.stderr.contains("can't fork"), "{said:?}");
                assert_ne!(said.end, ExecEnd::Exited(0));
            }
            Err(error) => assert!(error.to_string().contains("`pids`"), "{error}"),
        }
    }
    task.close().await;
    clean(&subject).await;
}

/// What runs in a task whose command line holds `text`.
async fn running(task: &super::Open<'_>, text: &str) -> bool {
    let list = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done 2>/dev/null";
    task.sh(list).await.stdout.contains(text)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_dropped_session_takes_its_processes_with_it() {
    let subject = DockerSubject::new().await;
    if !super::root() {
        return;
    }
    for kind in KINDS {
        let task = open(&subject, kind).await;
        for spec in [shell, in_terminal] {
            // Children in the background, one of which ignores the loss of a terminal.
            let script = "nohup sleep 7777 & sleep 7777 & echo on; sleep 7777";
            let mut session = within(task.inside.exec(spec(script))).await.unwrap();
            until(&mut session, "on").await;
            assert!(running(&task, "sleep 7777").await);
            drop(session);
            crate::life::until(PATIENCE, async || !running(&task, "sleep 7777").await).await;
        }
        // Signals reach all of a session, and nobody else.
        let script = "trap 'echo caught; exit 5' USR1; echo on; while :; do sleep 0.1; done";
        let mut session = within(task.inside.exec(shell(script))).await.unwrap();
        let mut other = within(task.inside.exec(shell(script))).await.unwrap();
        until(&mut session, "on\n").await;
        until(&mut other, "on\n").await;
        session.control.signal(TaskSignal::Usr1).await;
        let said = finish(session).await;
        assert_eq!(
            (said.stdout.contains("caught"), said.end),
            (true, ExecEnd::Exited(5))
        );
        other.control.signal(TaskSignal::Kill).await;
        assert_eq!(finish(other).await.end, ExecEnd::Exited(137));
        assert!(
            running(&task, "sleep 100000").await,
            "the task itself lives on"
        );
        task.close().await;
    }
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn nothing_goes_on_after_the_tasks_end() {
    for subject in [DockerSubject::new().await, blind().await] {
        for kind in KINDS {
            let wait = "echo ready; while [ ! -e go ]; do sleep 0.05; done";
            let task = open_with(&subject, kind, wait, |_| {}).await;
            let shown = task.trial.task.hold.inside.subscribe();
            let mut session = within(task.inside.exec(shell("echo on; sleep 1000")))
                .await
                .unwrap();
            until(&mut session, "on\n").await;
            std::fs::write(task.trial.work_dir().join("go"), b"").unwrap();
            task.running.finish().await.expect_success();
            assert!(shown.borrow().is_none(), "the way in is shown no more");
            let said = finish(session).await;
            assert_ne!(said.end, ExecEnd::Exited(0), "{said:?}");
            let inside = &task.inside;
            assert!(matches!(
                refused(inside.exec(shell("true")).await),
                InsideError::Ended
            ));
            assert!(matches!(
                refused(inside.connect(1).await),
                InsideError::Ended
            ));
            assert!(matches!(
                refused(inside.datagrams(1).await),
                InsideError::Ended
            ));
            assert!(matches!(
                refused(inside.listen(0).await),
                InsideError::Ended
            ));
            assert!(matches!(refused(inside.files().await), InsideError::Ended));
        }
        clean(&subject).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_paused_task_lets_nobody_start_anything() {
    let subject = DockerSubject::new().await;
    let (pause, wanted) = tokio::sync::watch::channel(false);
    let task = open_with(&subject, KINDS[0], WAIT, |trial| {
        trial.task.hold.pause = wanted;
    })
    .await;
    let mut usage = task.trial.task.hold.usage.subscribe();
    pause.send(true).unwrap();
    within(usage.wait_for(|usage| usage.paused)).await.unwrap();
    let error = refused(within(task.inside.exec(shell("true"))).await);
    assert!(matches!(error, InsideError::Paused), "{error:?}");
    pause.send(false).unwrap();
    within(usage.wait_for(|usage| !usage.paused)).await.unwrap();
    assert_eq!(task.sh("true").await.end, ExecEnd::Exited(0));
    task.close().await;
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn whoever_does_not_read_slows_a_command_down_and_loses_nothing() {
    const BYTES: usize = 20 << 20;
    let subject = DockerSubject::new().await;
    let task = open(&subject, KINDS[0]).await;
    let script = format!("head -c {BYTES} /dev/zero; touch written; echo late >&2");
    let mut session = within(task.inside.exec(shell(&script))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let written = task.trial.work_dir().join("written");
    assert!(!written.exists(), "somebody keeps 20 MiB");
    let (mut seen, mut late) = (0, Vec::new());
    while let Some(chunk) = within(session.output.recv()).await {
        match chunk.stream {
            p2pnode_protocol::task::Stream::Stdout => seen += chunk.bytes.len(),
            p2pnode_protocol::task::Stream::Stderr => late.extend(chunk.bytes),
        }
        if BYTES - seen < 3 << 20 && !written.exists() {
            // Near the end, when the command is over but its output is not read: longer than engines
            // wait for their readers.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!((seen, &*late), (BYTES, &b"late\n"[..]));
    assert_eq!(within(session.end).await, ExecEnd::Exited(0));
    // The last words of a command that has ended are kept for a reader who comes late.
    let session = within(task.inside.exec(shell("head -c 1500000 /dev/zero")))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(finish(session).await.stdout.len(), 1_500_000);
    task.close().await;
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_hundred_commands_run_at_once_and_not_many_more() {
    let subject = DockerSubject::new().await;
    let task = open_with(&subject, KINDS[0], WAIT, |trial| {
        trial.task.resources.pids = 4_096;
        trial.task.resources.memory = p2pnode_protocol::Bytes::mib(2_048);
    })
    .await;
    let start = std::time::Instant::now();
    let starting = (0..100).map(|number| {
        let inside = &task.inside;
        async move {
            let script = format!("echo on{number}; cat; echo off{number}");
            let mut session = inside.exec(shell(&script)).await.unwrap();
            until(&mut session, &format!("on{number}\n")).await;
            session
        }
    });
    let started = futures::future::join_all(starting);
    let mut sessions = tokio::time::timeout(PATIENCE * 3, started).await.unwrap();
    eprintln!("100 commands started in {:?}", start.elapsed());
    let mut more = Vec::new();
    let refusal = loop {
        match within(task.inside.exec(shell("cat"))).await {
            Ok(session) => more.push(session),
            Err(error) => break error,
        }
    };
    assert!(matches!(refusal, InsideError::TooMany(128)), "{refusal:?}");
    assert_eq!(more.len(), 28);
    for session in &mut sessions {
        within(session.input.shutdown()).await.unwrap();
    }
    for (number, session) in sessions.into_iter().enumerate() {
        assert_eq!(finish(session).await.stdout, format!("off{number}\n"));
    }
    // Whoever ends makes room.
    assert_eq!(task.sh("true").await.end, ExecEnd::Exited(0));
    drop(more);
    task.close().await;
    clean(&subject).await;
}
