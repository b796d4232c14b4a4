//! Ports of a task that has no network.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use p2pnode_executor::inside::{Inside, InsideError};
use p2pnode_executor::{Hold, TaskRun};
use p2pnode_protocol::task::Isolation;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};

use super::{KINDS, WORK, blind, open_with, refused, root};
use crate::contract::{Act, PATIENCE, Running, Trial, clean, within};
use crate::subject::{DockerSubject, containers};

/// Serves what is asked of it, once for each connection, on port 7000.
const SERVE: &str = "echo ready; while :; do nc -l -p 7000 -e sh -c 'read x; echo got $x'; done";

/// Asks until somebody listens: a server that takes one at a time is away for a moment after each.
async fn ask(inside: &dyn Inside, question: &str) -> String {
    let start = std::time::Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "nobody listens");
        let mut stream = match within(inside.connect(7000)).await {
            Ok(stream) => stream,
            Err(InsideError::NobodyListens(7000)) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let mut answer = String::new();
        stream.write_all(question.as_bytes()).await.unwrap();
        if within(stream.read_to_string(&mut answer)).await.is_ok() && !answer.is_empty() {
            return answer;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_port_of_a_task_is_reached_although_it_has_no_network() {
    for subject in [DockerSubject::new().await, blind().await] {
        for kind in KINDS {
            let task = open_with(&subject, kind, SERVE, |_| {}).await;
            for question in ["one", "two"] {
                let answer = ask(&*task.inside, &format!("{question}\n")).await;
                assert_eq!(answer, format!("got {question}\n"));
            }
            let error = refused(within(task.inside.connect(7001)).await);
            assert!(
                matches!(error, InsideError::NobodyListens(7001)),
                "{error:?}"
            );
            // The port is the task's, not the host's.
            assert!(TcpStream::connect(("127.0.0.1", 7000)).await.is_err());
            task.close().await;
        }
        clean(&subject).await;
    }
}

/// Answers datagrams on a port of the one container there is. The test image has no program for that,
/// so a thread goes into the container's network.
async fn answer_datagrams(subject: &DockerSubject, port: u16) -> SocketAddr {
    let all = containers(&subject.engine, subject.node, &subject.incarnation).await;
    let [container] = &all[..] else {
        panic!("{all:?}")
    };
    let id = container.id.as_deref().unwrap();
    let options = None::<bollard::query_parameters::InspectContainerOptions>;
    let seen = subject.engine.inspect_container(id, options).await.unwrap();
    let pid = seen.state.unwrap().pid.unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let network = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(network.as_fd(), kind).unwrap();
        let socket = std::net::UdpSocket::bind(("127.0.0.1", port)).unwrap();
        tell.send(socket.local_addr().unwrap()).unwrap();
        let mut question = [0; 100];
        let (count, from) = socket.recv_from(&mut question).unwrap();
        let answer = [b"got ", &question[..count]].concat();
        socket.send_to(&answer, from).unwrap();
    });
    told.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn datagrams_go_both_ways() {
    let subject = DockerSubject::new().await;
    if !root() {
        return;
    }
    for kind in KINDS {
        let task = open_with(&subject, kind, super::WAIT, |_| {}).await;
        let port = answer_datagrams(&subject, 0).await.port();
        let socket = task.inside.datagrams(port).await.unwrap();
        socket.send(b"hello").await.unwrap();
        let mut answer = [0; 100];
        let count = within(socket.recv(&mut answer)).await.unwrap();
        assert_eq!(&answer[..count], b"got hello");
        // Where nobody listens, the kernel says so.
        let socket = task.inside.datagrams(9).await.unwrap();
        socket.send(b"hello").await.unwrap();
        let nobody = within(socket.recv(&mut answer)).await.unwrap_err();
        assert_eq!(nobody.kind(), std::io::ErrorKind::ConnectionRefused);
        task.close().await;
    }
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_task_reaches_a_port_that_is_listened_on_from_outside() {
    let subject = DockerSubject::new().await;
    if !root() {
        return;
    }
    for kind in KINDS {
        let task = open_with(&subject, kind, super::WAIT, |_| {}).await;
        let listener = task.inside.listen(0).await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(address.ip().is_loopback());
        let error = refused(task.inside.listen(address.port()).await);
        assert!(matches!(error, InsideError::Io(_)), "{error:?}");
        assert!(
            TcpStream::connect(address).await.is_err(),
            "it is the host's"
        );
        let serve = async {
            let (mut stream, _) = within(listener.accept()).await.unwrap();
            stream.write_all(b"from outside\n").await.unwrap();
        };
        let script = format!("nc 127.0.0.1 {} < /dev/null", address.port());
        let ((), said) = tokio::join!(serve, task.sh(&script));
        assert_eq!(said.stdout, "from outside\n");
        task.close().await;
    }
    clean(&subject).await;
}

/// Sockets are found as the task would find them: links and rights are the task's, and so is the root.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_socket_in_the_file_system_is_reached_by_who_may() {
    if !root() {
        return;
    }
    let subject = DockerSubject::new().await;
    for kind in KINDS {
        let task = open_with(&subject, kind, super::WAIT, |_| {}).await;
        let dir = task.trial.work_dir();
        let bind = |name: &str, mode| {
            let listener = UnixListener::bind(dir.join(name)).unwrap();
            std::fs::set_permissions(dir.join(name), Permissions::from_mode(mode)).unwrap();
            listener
        };
        let (open, _shut) = (bind("open", 0o777), bind("shut", 0o700));
        // A socket of the host outside the task, to which links in it lead.
        let outside = tempfile::tempdir().unwrap();
        let host = outside.path().join("host");
        let _host = UnixListener::bind(&host).unwrap();
        std::fs::set_permissions(&host, Permissions::from_mode(0o777)).unwrap();
        std::fs::set_permissions(outside.path(), Permissions::from_mode(0o777)).unwrap();
        symlink(&host, dir.join("out")).unwrap();
        symlink(format!("{WORK}/open"), dir.join("link")).unwrap();
        std::fs::write(dir.join("file"), b"").unwrap();

        let whole = format!("{WORK}/open");
        let round = format!("{WORK}/..{WORK}/open");
        for path in ["open", &whole, &round, "link"] {
            let asking = within(task.inside.connect_path(path.as_bytes()));
            let (stream, accepted) = tokio::join!(asking, open.accept());
            let (mut stream, (mut server, _)) = (stream.unwrap(), accepted.unwrap());
            stream.write_all(b"there").await.unwrap();
            let mut said = [0; 5];
            server.read_exact(&mut said).await.unwrap();
            server.write_all(b"back").await.unwrap();
            let mut said = [0; 4];
            within(stream.read_exact(&mut said)).await.unwrap();
            assert_eq!(&said, b"back", "{path}");
        }
        let told = |path: &'static str| {
            let inside = &task.inside;
            async move { refused(within(inside.connect_path(path.as_bytes())).await).to_string() }
        };
        for (path, why) in [
            ("shut", "Permission denied"),
            ("out", "No such file"),
            ("none", "No such file"),
            ("file", "not a socket"),
            ("/dev/null", "not a socket"),
            ("../../../../../..", "not a socket"),
        ] {
            let said = told(path).await.to_lowercase();
            assert!(said.contains(&why.to_lowercase()), "{path}: {said}");
        }
        task.close().await;
    }
    clean(&subject).await;
}

/// What can't be done says why, and what to do.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn what_is_out_of_reach_says_so() {
    let subject = blind().await;
    let task = open_with(&subject, KINDS[0], super::WAIT, |_| {}).await;
    for error in [
        refused(task.inside.datagrams(1).await),
        refused(task.inside.listen(0).await),
        refused(task.inside.connect_path(b"socket").await),
    ] {
        assert!(matches!(&error, InsideError::Unsupported(_)), "{error:?}");
        assert!(error.to_string().contains("does not see"), "{error}");
    }
    task.close().await;
    clean(&subject).await;
}

/// A socket that is kept holds a port of the container's network: the next task has another container.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_port_that_is_kept_does_not_meet_the_next_task() {
    let subject = DockerSubject::new().await;
    if !root() {
        return;
    }
    let model = Trial::new(&subject, Act::Exit(0));
    let environment = model.prepare().await;
    // Two tasks of one job in one environment, so that the second would have the container of the first.
    let start = |script: &str| {
        let mut trial = Trial::new(&subject, Act::Exit(0));
        let work_dir = trial.task.work_dir.clone();
        trial.task = TaskRun {
            work_dir,
            isolation: Isolation::Job,
            command: DockerSubject::shell(script),
            hold: Hold::default(),
            ..model.task.clone()
        };
        let (sink, log) = tokio::sync::mpsc::channel(1);
        let (run, cancel) = (trial.task.clone(), trial.cancel.clone());
        let environment = std::sync::Arc::clone(&environment);
        let end = tokio::spawn(async move { environment.run(run, sink, cancel).await });
        (trial, Running { log, end })
    };
    let (first, running) = start("while [ ! -e go ]; do sleep 0.05; done");
    let inside = super::entry(&first).await;
    let kept = within(inside.listen(7003)).await.unwrap();
    std::fs::write(first.work_dir().join("go"), b"").unwrap();
    running.finish().await.expect_success();
    let (_second, running) = start("nc -l -p 7003 & sleep 0.3; kill $!");
    running.finish().await.expect_success();
    drop((kept, environment));
    clean(&subject).await;
}
