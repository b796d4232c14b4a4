//! SSH over connections of its own, and sockets in place of ports.

use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::time::timeout;

use crate::rig::{LONG, Rig, SshWay};
use crate::ssh::{ends_with_its_task, fed, noise, output, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_shortcut_carries_what_the_tunnel_would() {
    let rig = Rig::new();
    let way = SshWay::shortest(&rig).await;
    let mut ended = way.program("ssh");
    ended.args(["task", "echo out; echo err >&2; exit 42"]);
    let ended = output(ended).await;
    assert_eq!(ended.status.code(), Some(42), "{}", text(&ended.stderr));
    assert_eq!(text(&ended.stdout), "out\n");
    assert_eq!(text(&ended.stderr), "err\n");
    let input = noise(20 << 20);
    let mut back = way.program("ssh");
    back.args(["task", "cat"]);
    let back = fed(back, input.clone()).await;
    assert!(back.stdout == input, "{} bytes", back.stdout.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shortcut_ends_with_its_task() {
    let rig = Rig::new();
    let way = SshWay::shortest(&rig).await;
    ends_with_its_task(&rig, &way).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_forwarded_and_one_that_is_not_there_is_told() {
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    let listener = UnixListener::bind(rig.inside("socket")).unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut said = String::new();
        socket.read_to_string(&mut said).await.unwrap();
        let answer = said.to_uppercase();
        socket.write_all(answer.as_bytes()).await.unwrap();
    });
    let mut direct = way.program("ssh");
    direct.args(["-N", "-o", "LogLevel=INFO"]);
    for (near, far) in [("near", "socket"), ("other", "none")] {
        let (near, far) = (rig.outside(near), rig.inside(far));
        direct.arg("-L");
        direct.arg(format!("{}:{}", near.display(), far.display()));
    }
    direct.arg("task");
    let running = direct.stderr(Stdio::piped()).spawn().unwrap();
    let ask = async |name: &str| {
        let connecting = async {
            loop {
                match tokio::net::UnixStream::connect(rig.outside(name)).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                }
            }
        };
        let mut stream = timeout(LONG, connecting).await.unwrap();
        // One that is refused is closed before all is said.
        let _ = stream.write_all(b"hello").await;
        let _ = stream.shutdown().await;
        let mut answer = String::new();
        let _ = timeout(LONG, stream.read_to_string(&mut answer))
            .await
            .unwrap();
        answer
    };
    assert_eq!(ask("near").await, "HELLO");
    assert_eq!(ask("other").await, "");
    drop(running);
}
