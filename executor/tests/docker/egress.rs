//! A task's way out: through the node's proxy to permitted names, and no other way.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use p2pnode_executor::egress::{Addresses, Gate, Resolve};
use p2pnode_protocol::task::{FailureKind, Isolation, NetworkMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::contract::{Act, Trial, clean};
use crate::subject::DockerSubject;

/// A server of this machine's, which only these tests let tasks reach.
const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 78);

#[derive(Debug)]
struct Names;

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, name: &str) -> std::io::Result<Vec<IpAddr>> {
        Ok(vec![match name {
            "site.test" => SERVER.into(),
            "inner.test" => Ipv4Addr::new(10, 0, 0, 1).into(),
            "meta.test" => Ipv4Addr::new(169, 254, 169, 254).into(),
            _ => return Err(std::io::ErrorKind::NotFound.into()),
        }])
    }
}

#[derive(Debug)]
struct OnlyServer;

impl Addresses for OnlyServer {
    fn check(&self, address: IpAddr) -> Result<(), String> {
        if address == SERVER {
            Ok(())
        } else {
            Err("not the test's".into())
        }
    }
}

/// A web server that answers everything with `hello` and keeps what it was asked.
struct Site {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Site {
    async fn new() -> Self {
        let listener = TcpListener::bind((SERVER, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n")
                    && client.read_buf(&mut head).await.unwrap_or(0) > 0
                {}
                log.lock()
                    .unwrap()
                    .push(String::from_utf8_lossy(&head).into());
                let answer =
                    "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n";
                let _ = client.write_all(answer.as_bytes()).await;
                let _ = client.shutdown().await;
            }
        });
        Self { port, asked }
    }

    async fn subject(&self) -> DockerSubject {
        let gate = Gate::with(Box::new(Names), Box::new(OnlyServer), vec![self.port]);
        DockerSubject::with_gate(gate).await
    }
}

fn trial<'a>(subject: &'a DockerSubject, script: &str) -> Trial<'a> {
    let mut trial = Trial::new(subject, Act::Exit(0));
    trial.task.command = DockerSubject::shell(script);
    trial.task.network = NetworkMode::Egress {
        domains: [
            "site.test",
            "inner.test",
            "meta.test",
            "169.254.169.254",
            "127.0.0.1",
        ]
        .map(str::to_owned)
        .into(),
    };
    trial
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_permitted_name_is_reached_through_the_proxy() {
    let site = Site::new().await;
    let subject = site.subject().await;
    let script = format!("wget -q -O - http://site.test:{}/file", site.port);
    for (isolation, pids) in [
        (Isolation::Task, 512),
        (Isolation::Job, 512),
        (Isolation::Task, 2),
    ] {
        let mut trial = trial(&subject, &script);
        trial.task.isolation = isolation;
        trial.task.resources.pids = pids;
        let ended = trial.run().await;
        if !root() {
            assert_eq!(ended.failure(), FailureKind::Host);
            return;
        }
        assert_eq!(ended.expect_success().stdout, b"hello\n");
        let asked = site.asked.lock().unwrap().pop().unwrap();
        assert!(
            asked.starts_with("GET /file HTTP/1.1\r\nHost: site.test:"),
            "{asked}"
        );
        let bytes = ended.end.usage.network_bytes;
        assert!(bytes > asked.len() as u64, "{bytes}");
        assert!(trial.task.hold.usage.borrow().network_bytes <= bytes);
        clean(&subject).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_tunnel_is_opened_and_others_are_explained() {
    let site = Site::new().await;
    let subject = site.subject().await;
    if !root() {
        return;
    }
    let ask = |host: &str| {
        format!(
            "printf 'CONNECT {host} HTTP/1.1\\r\\n\\r\\nGET / HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 3128 | head -n 1; "
        )
    };
    let port = site.port;
    let script = [
        ask(&format!("site.test:{port}")),
        ask(&format!("other.test:{port}")),
        ask(&format!("inner.test:{port}")),
        ask(&format!("meta.test:{port}")),
        ask(&format!("169.254.169.254:{port}")),
        ask(&format!("127.0.0.1:{port}")),
        ask("site.test:22"),
    ]
    .concat();
    let ended = trial(&subject, &script).run().await;
    let text = String::from_utf8(ended.expect_success().stdout.clone()).unwrap();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    assert_eq!(lines[0], "HTTP/1.1 200 Connection established", "{text}");
    assert_eq!(
        lines[1],
        "HTTP/1.1 403 Forbidden - other.test is not among network.domains of this job"
    );
    for line in &lines[2..6] {
        assert!(
            line.starts_with("HTTP/1.1 403") && line.contains("no task may reach"),
            "{text}"
        );
    }
    assert!(lines[6].contains("port 22 cannot be reached"), "{text}");
    assert_eq!(site.asked.lock().unwrap().len(), 1);
    clean(&subject).await;
}

/// A program that does not ask the proxy reaches nothing: there is no other interface and no route.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn there_is_no_way_round_the_proxy() {
    let site = Site::new().await;
    let subject = site.subject().await;
    if !root() {
        return;
    }
    let port = site.port;
    let script = format!(
        "unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY; ls /sys/class/net; \
         tail -n +2 /proc/net/route; \
         for a in {SERVER} 127.0.0.1 10.0.0.1 192.168.1.1 169.254.169.254 1.1.1.1; do \
         nc -w 2 $a {port} </dev/null >/dev/null 2>&1 && echo reached $a; \
         nc -w 2 $a 80 </dev/null >/dev/null 2>&1 && echo reached $a:80; done; \
         wget -q -O - http://site.test:{port}/ 2>/dev/null; nslookup site.test >/dev/null 2>&1 && echo resolved; \
         grep CapEff /proc/self/status; true"
    );
    let ended = trial(&subject, &script).run().await;
    let text = String::from_utf8(ended.expect_success().stdout.clone()).unwrap();
    assert_eq!(text, "lo\nCapEff:\t0000000000000000\n");
    assert!(site.asked.lock().unwrap().is_empty());
    clean(&subject).await;
}

/// A task without a way out has no proxy, and its own variables are its own affair.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn the_proxy_is_named_in_the_environment() {
    let site = Site::new().await;
    let subject = site.subject().await;
    if !root() {
        return;
    }
    let script = "env | grep -i proxy | sort";
    let mut out = trial(&subject, script);
    out.task.env = vec![("NO_PROXY".into(), "mine".into())];
    let seen = out.run().await.expect_success().stdout.clone();
    let proxy = "http://127.0.0.1:3128";
    assert_eq!(
        String::from_utf8(seen).unwrap(),
        format!(
            "HTTPS_PROXY={proxy}\nHTTP_PROXY={proxy}\nNO_PROXY=mine\nhttp_proxy={proxy}\n\
             https_proxy={proxy}\nno_proxy=localhost,127.0.0.1\n"
        )
    );
    for isolation in [Isolation::Task, Isolation::Job] {
        let mut without = trial(
            &subject,
            "env | grep -i proxy; nc -w 1 127.0.0.1 3128 </dev/null && echo open; true",
        );
        without.task.network = NetworkMode::None;
        without.task.isolation = isolation;
        assert_eq!(without.run().await.expect_success().stdout, b"");
    }
    clean(&subject).await;
}

/// Slow and silent clients hold nothing but their own connections, and nothing up at the end.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_task_that_drips_ends_when_it_ends() {
    let site = Site::new().await;
    let subject = site.subject().await;
    if !root() {
        return;
    }
    let script = "i=0; while [ $i -lt 100 ]; do i=$((i+1)); \
        (printf 'CONNECT '; sleep 1000) | nc 127.0.0.1 3128 >/dev/null 2>&1 & done; \
        until echo x | nc -w 2 127.0.0.1 3128 | head -n 1 | grep 503; do sleep 0.2; done; echo end";
    let start = Instant::now();
    let ended = trial(&subject, script).run().await;
    let text = String::from_utf8(ended.expect_success().stdout.clone()).unwrap();
    assert!(text.contains("503") && text.ends_with("end\n"), "{text}");
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
    clean(&subject).await;
}

/// The port is a new one for each task, and closed between them.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn tasks_with_a_way_out_follow_one_another_too() {
    let site = Site::new().await;
    let subject = site.subject().await;
    if !root() {
        return;
    }
    let script = format!(
        "cat /proc/sys/kernel/random/boot_id >/dev/null; wget -q -O - http://site.test:{}/",
        site.port
    );
    let mut model = trial(&subject, &script);
    model.task.isolation = Isolation::Job;
    let environment = model.prepare().await;
    for _ in 0..3 {
        let (sink, mut log) = tokio::sync::mpsc::channel(8);
        let end = environment
            .run(model.task.clone(), sink, model.cancel.clone())
            .await;
        end.result.unwrap();
        assert_eq!(log.recv().await.unwrap().bytes, b"hello\n");
        let rooms =
            crate::subject::containers(&subject.engine, subject.node, &subject.incarnation).await;
        assert_eq!(rooms.len(), 1);
    }
    assert_eq!(site.asked.lock().unwrap().len(), 3);
    drop(environment);
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn the_node_says_whether_it_can() {
    use p2pnode_executor::Runtime;
    let subject = DockerSubject::new().await;
    let egress = subject.runtime.probe().await.features.egress.unwrap();
    assert_eq!(egress.is_ok(), root(), "{egress:?}");
}
