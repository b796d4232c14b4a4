//! Ports forwarded by the real OpenSSH client.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::rig::{LONG, Rig, SshWay};
use crate::ssh::{fed, output, text};

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
    direct.args(["-o", "LogLevel=INFO", "-W", "192.0.2.1:80", "task"]);
    let refused = output(direct).await;
    assert_eq!(refused.status.code(), Some(255));
    let why = text(&refused.stderr);
    assert!(why.contains("no way out"), "{why}");
    let mut nobody = way.program("ssh");
    nobody
        .args(["-o", "LogLevel=INFO", "-W"])
        .arg(format!("localhost:{}", free_port().await))
        .arg("task");
    let why = text(&output(nobody).await.stderr);
    assert!(why.contains("nobody in the task listens"), "{why}");
}
