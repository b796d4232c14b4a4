//! Tasks that somebody attends to.

use std::time::Duration;

use p2pnode_executor::inside::InsideError;
use p2pnode_protocol::task::{FailureKind, Isolation, NetworkMode};
use p2pnode_protocol::tunnel::{ExecEnd, ExecSpec};

use super::{KINDS, entry, finish, in_terminal, refused, shell, until, write};
use crate::contract::{Act, Trial, clean, within};
use crate::sandbox::failure_text;
use crate::subject::DockerSubject;

fn attended<'a>(subject: &'a DockerSubject, kind: Isolation) -> Trial<'a> {
    let mut trial = Trial::new(subject, Act::Exit(0));
    trial.task.attended = true;
    trial.task.isolation = kind;
    trial.task.stall = Duration::from_millis(300);
    trial
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn the_first_command_is_the_task() {
    for subject in [DockerSubject::new().await, super::blind().await] {
        for kind in KINDS {
            for code in [0, 3] {
                let trial = attended(&subject, kind);
                let running = trial.start().await;
                let inside = entry(&trial).await;
                let script = "echo 1 > out; read x; exit $x";
                let mut session = within(inside.exec(shell(script))).await.unwrap();
                // Others come and go; and thinking is no stall.
                let other = within(inside.exec(shell("ps; exit 9"))).await.unwrap();
                assert_eq!(finish(other).await.end, ExecEnd::Exited(9));
                tokio::time::sleep(Duration::from_millis(900)).await;
                write(&mut session, &format!("{code}\n")).await;
                assert_eq!(finish(session).await.end, ExecEnd::Exited(code));
                let ended = running.finish().await;
                assert!(ended.stdout.is_empty(), "its output was the session's");
                // Whoever attended was told the code; what they made is to come back.
                ended.expect_success();
                assert!(trial.work_dir().join("out").exists());
                assert!(matches!(
                    refused(inside.exec(shell("true")).await),
                    InsideError::Ended
                ));
            }
        }
        clean(&subject).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn without_a_command_it_is_the_tasks_own_or_the_images() {
    let subject = DockerSubject::new().await;
    for kind in KINDS {
        let mut trial = attended(&subject, kind);
        trial.task.command = DockerSubject::shell("echo own; exit 4");
        let running = trial.start().await;
        let inside = entry(&trial).await;
        let session = within(inside.exec(ExecSpec::default())).await.unwrap();
        let told = finish(session).await;
        assert_eq!(
            (told.stdout, told.end),
            ("own\n".to_owned(), ExecEnd::Exited(4))
        );
        running.finish().await.expect_success();
        // The test image's own is a shell.
        let mut trial = attended(&subject, kind);
        trial.task.command.clear();
        let running = trial.start().await;
        let inside = entry(&trial).await;
        let spec = ExecSpec {
            command: Vec::new(),
            ..in_terminal("")
        };
        let mut session = within(inside.exec(spec)).await.unwrap();
        write(&mut session, "echo $((6 * 7)); exit\n").await;
        until(&mut session, "42\r\n").await;
        finish(session).await;
        running.finish().await.expect_success();
    }
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn it_ends_as_its_command_does_whatever_ends_that() {
    for subject in [DockerSubject::new().await, super::blind().await] {
        for kind in KINDS {
            ends(&subject, kind).await;
        }
        clean(&subject).await;
    }
}

async fn ends(subject: &DockerSubject, kind: Isolation) {
    // A program that is not there.
    let trial = attended(subject, kind);
    let running = trial.start().await;
    let inside = entry(&trial).await;
    let command = vec!["nonesuch".to_owned()];
    let spec = ExecSpec {
        command,
        ..ExecSpec::default()
    };
    let error = refused(within(inside.exec(spec)).await);
    assert!(matches!(error, InsideError::NoCommand(_)), "{error:?}");
    let ended = running.finish().await;
    assert_eq!(ended.failure(), FailureKind::BadProgram);
    assert!(failure_text(&ended).contains("`nonesuch`"));
    // Whoever attended has gone.
    let trial = attended(subject, kind);
    let running = trial.start().await;
    let inside = entry(&trial).await;
    let mut session = within(inside.exec(shell("echo on; sleep 1000")))
        .await
        .unwrap();
    until(&mut session, "on\n").await;
    drop(session);
    let kind_of_end = running.finish().await.failure();
    assert!(
        matches!(kind_of_end, FailureKind::Exit(137)),
        "{kind_of_end:?}"
    );
    // Its time is over.
    let mut trial = attended(subject, kind);
    trial.task.timeout = Duration::from_secs(6);
    let running = trial.start().await;
    let inside = entry(&trial).await;
    let session = within(inside.exec(shell("sleep 1000"))).await.unwrap();
    assert_eq!(running.finish().await.failure(), FailureKind::Timeout);
    assert_ne!(finish(session).await.end, ExecEnd::Exited(0));
    // It was cancelled before anybody came.
    let trial = attended(subject, kind);
    let running = trial.start().await;
    entry(&trial).await;
    trial.cancel.cancel();
    assert_eq!(running.finish().await.failure(), FailureKind::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn nobody_is_waited_for_longer_than_a_minute() {
    let subject = DockerSubject::new().await;
    let trials = KINDS.map(|kind| attended(&subject, kind));
    let start = std::time::Instant::now();
    let [first, second] = &trials;
    let (first, second) = tokio::join!(first.start(), second.start());
    for mut running in [first, second] {
        let end = tokio::time::timeout(Duration::from_secs(90), &mut running.end);
        let failure = end.await.unwrap().unwrap().result.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Stalled);
        assert_eq!(
            failure.message,
            "nobody attended to the task within a minute"
        );
    }
    assert!(start.elapsed() >= Duration::from_secs(60));
    clean(&subject).await;
}

/// A task with a way out has it also when somebody attends to it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_way_out_is_everybodys_inside() {
    let subject = DockerSubject::new().await;
    if !super::root() {
        return;
    }
    let mut trial = attended(&subject, KINDS[0]);
    trial.task.network = NetworkMode::Egress {
        domains: vec!["example.org".into()],
    };
    let running = trial.start().await;
    let inside = entry(&trial).await;
    let session = within(inside.exec(shell("echo $https_proxy")))
        .await
        .unwrap();
    let said = finish(session).await;
    assert!(said.stdout.starts_with("http://127.0.0.1:"), "{said:?}");
    running.finish().await.expect_success();
    clean(&subject).await;
}
