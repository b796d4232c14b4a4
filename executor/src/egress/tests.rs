//! A proxy and a server on loopback, with names and addresses that only these tests permit.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// Answers each question for a name with the next of its answers; the last one stays.
#[derive(Debug, Default)]
struct Names(Mutex<HashMap<String, Vec<Vec<IpAddr>>>>);

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut names = self.0.lock().unwrap();
        let answers = names.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(if answers.len() > 1 {
            answers.remove(0)
        } else {
            answers[0].clone()
        })
    }
}

/// As in production, but for the addresses of test servers.
#[derive(Debug)]
struct Except(Vec<IpAddr>);

impl Addresses for Except {
    fn check(&self, address: IpAddr) -> Result<(), String> {
        if self.0.contains(&address) {
            return Ok(());
        }
        Public.check(address)
    }
}

/// Where the test server stands. Tests differ in ports.
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));

struct World {
    proxy: Proxy,
    address: SocketAddr,
    server: TcpListener,
    port: u16,
}

impl World {
    /// `names` beside `site.test`, which is the server.
    async fn new(names: &[(&str, &[&[&str]])]) -> Self {
        let server = TcpListener::bind((SERVER, 0)).await.unwrap();
        let port = server.local_addr().unwrap().port();
        let mut known = HashMap::from([("site.test".to_owned(), vec![vec![SERVER]])]);
        for (name, answers) in names {
            let answers = answers
                .iter()
                .map(|answer| answer.iter().map(|ip| ip.parse().unwrap()).collect())
                .collect();
            known.insert((*name).to_owned(), answers);
        }
        let gate = Gate::with(
            Box::new(Names(Mutex::new(known))),
            Box::new(Except(vec![SERVER])),
            vec![port],
        );
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let domains = [
            "site.test",
            "*.wild.test",
            "127.0.0.77",
            "127.0.0.1",
            "169.254.169.254",
            "::1",
            "localhost",
        ];
        let domains = domains.map(str::to_owned);
        Self {
            proxy: Proxy::start(listener, &domains, Arc::new(gate)).unwrap(),
            address,
            server,
            port,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `request`, in which `PORT` is the server's port, and returns all of the answer.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        let request = request.replace("PORT", &self.port.to_string());
        stream.write_all(request.as_bytes()).await.unwrap();
        all(&mut stream).await
    }

    /// Asks for a tunnel and returns the answer's first line.
    async fn tunnel(&self, host: &str) -> String {
        let answer = self
            .ask(&format!("CONNECT {host}:PORT HTTP/1.1\r\n\r\n"))
            .await;
        answer.lines().next().unwrap_or_default().to_owned()
    }

    /// Whether the server has been connected to.
    async fn was_reached(&self) -> bool {
        timeout(Duration::from_millis(50), self.server.accept())
            .await
            .is_ok()
    }
}

async fn all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_tunnel_carries_both_ways_and_counts() {
    let world = World::new(&[]).await;
    let mut client = world.connect().await;
    // The first bytes of what goes through may come with the request.
    let request = format!("CONNECT site.test:{} HTTP/1.1\r\n\r\nhel", world.port);
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut server, _) = timeout(PATIENCE, world.server.accept())
        .await
        .unwrap()
        .unwrap();
    client.write_all(b"lo").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(all(&mut server).await, "hello");
    server.write_all(b"good day").await.unwrap();
    drop(server);
    let answer = all(&mut client).await;
    assert_eq!(
        answer,
        "HTTP/1.1 200 Connection established\r\n\r\ngood day"
    );
    assert_eq!(world.proxy.bytes(), 5 + 8);
}

#[tokio::test]
async fn a_plain_request_is_passed_on_once() {
    let world = World::new(&[]).await;
    let port = world.port;
    let mut client = world.connect().await;
    let request = format!(
        "POST http://site.test:{port}/x HTTP/1.1\r\nHost: site.test:{port}\r\nContent-Length: 4\r\n\r\n\
         bodyGET http://site.test:{port}/second HTTP/1.1\r\n\r\n"
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut server, _) = timeout(PATIENCE, world.server.accept())
        .await
        .unwrap()
        .unwrap();
    let expected = format!(
        "POST /x HTTP/1.1\r\nHost: site.test:{port}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
    );
    let mut seen = vec![0; expected.len()];
    server.read_exact(&mut seen).await.unwrap();
    assert_eq!(String::from_utf8(seen).unwrap(), expected);
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    server.write_all(answer.as_bytes()).await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(
        all(&mut server).await,
        "",
        "more than one request was passed on"
    );
    assert_eq!(world.proxy.bytes(), (expected.len() + answer.len()) as u64);
}

#[tokio::test]
async fn names_that_are_not_listed_are_refused_with_the_reason() {
    let world = World::new(&[("other.test", &[&["127.0.0.77"]])]).await;
    for host in [
        "other.test",
        "wild.test",
        "site.test.evil",
        "1.1.1.1",
        "[::2]",
    ] {
        let line = world.tunnel(host).await;
        let name = host.trim_matches(['[', ']']);
        let expected = format!("403 Forbidden - {name} is not among network.domains of this job");
        assert!(line.contains(&expected), "{line}");
    }
    let answer = world
        .ask("GET http://other.test:PORT/ HTTP/1.1\r\n\r\n")
        .await;
    assert!(answer.contains("other.test is not among"), "{answer}");
    assert!(!world.was_reached().await);
}

/// A name or an address that the job may reach is no way to this machine, its network or its cloud.
#[tokio::test]
async fn no_name_leads_to_an_address_that_is_not_public() {
    let world = World::new(&[
        ("lo.wild.test", &[&["127.0.0.1"]]),
        ("lan.wild.test", &[&["192.168.1.1"]]),
        ("meta.wild.test", &[&["169.254.169.254"]]),
        ("six.wild.test", &[&["fd00:ec2::254"]]),
        ("mapped.wild.test", &[&["::ffff:127.0.0.77"]]),
        ("mixed.wild.test", &[&["127.0.0.77", "10.0.0.1"]]),
        ("none.wild.test", &[&[]]),
        ("localhost", &[&["127.0.0.1", "::1"]]),
    ])
    .await;
    for host in [
        "lo.wild.test",
        "lan.wild.test",
        "meta.wild.test",
        "six.wild.test",
        "mapped.wild.test",
        "mixed.wild.test",
        "localhost",
        "127.0.0.1",
        "169.254.169.254",
        "[::1]",
    ] {
        let line = world.tunnel(host).await;
        assert!(
            line.starts_with("HTTP/1.1 403") && line.contains("which no task may reach"),
            "{line}"
        );
    }
    for host in ["none.wild.test", "unknown.wild.test"] {
        let line = world.tunnel(host).await;
        assert!(line.starts_with("HTTP/1.1 502"), "{line}");
    }
    assert!(!world.was_reached().await);
}

/// The address that is connected to is the one that was checked: a name is asked for once.
#[tokio::test]
async fn a_name_that_changes_its_address_gains_nothing() {
    let answers: &[&[&str]] = &[&["127.0.0.77"], &["127.0.0.1"]];
    let world = World::new(&[("turn.wild.test", answers)]).await;
    // What a second answer would lead to.
    let trap = TcpListener::bind((Ipv4Addr::LOCALHOST, world.port))
        .await
        .unwrap();
    let mut client = world.connect().await;
    let request = format!("CONNECT turn.wild.test:{} HTTP/1.1\r\n\r\n", world.port);
    client.write_all(request.as_bytes()).await.unwrap();
    timeout(PATIENCE, world.server.accept())
        .await
        .unwrap()
        .unwrap();
    let line = world.tunnel("turn.wild.test").await;
    assert!(line.contains("403"), "{line}");
    assert!(
        timeout(Duration::from_millis(50), trap.accept())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn other_ports_are_refused() {
    let world = World::new(&[]).await;
    let answer = world.ask("CONNECT site.test:22 HTTP/1.1\r\n\r\n").await;
    assert!(answer.contains("port 22 cannot be reached"), "{answer}");
    let line = World::new(&[])
        .await
        .ask("GET http://site.test/ HTTP/1.1\r\n\r\n")
        .await;
    assert!(line.contains("port 80 cannot be reached"), "{line}");
}

/// A Host header that names another server than the one that was judged.
#[tokio::test]
async fn smuggled_requests_are_refused() {
    let world = World::new(&[]).await;
    for request in [
        "GET http://site.test:PORT/ HTTP/1.1\r\nHost: inner.test\r\n\r\n",
        "GET http://site.test:PORT/ HTTP/1.1\r\nHost: site.test:PORT\r\nHost: inner.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: site.test:PORT\r\n\r\n",
        "POST http://site.test:PORT/ HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n",
        "POST http://site.test:PORT/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET http://site.test:PORT/ HTTP/1.1\r\nX: 1\nHost: inner.test\r\n\r\n",
    ] {
        let answer = world.ask(request).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{request:?}: {answer}");
    }
    assert!(!world.was_reached().await);
}

#[tokio::test]
async fn huge_heads_and_too_many_connections_are_turned_away() {
    let world = World::new(&[]).await;
    let huge = format!(
        "CONNECT site.test:PORT HTTP/1.1\r\nX: {}",
        "a".repeat(20_000)
    );
    assert!(world.ask(&huge).await.starts_with("HTTP/1.1 431"));
    let mut open = Vec::new();
    for _ in 0..MOST_CONNECTIONS {
        open.push(world.connect().await);
    }
    let mut one_more = world.connect().await;
    let answer = all(&mut one_more).await;
    assert!(
        answer.contains("503") && answer.contains("this task has too many connections"),
        "{answer}"
    );
    // Room again once one has gone.
    open.pop();
    let start = std::time::Instant::now();
    while !world.tunnel("other.test").await.contains("403") {
        assert!(start.elapsed() < PATIENCE);
    }
}

/// One hostile job does not take the files that the node itself needs.
#[tokio::test]
async fn all_tasks_together_have_a_limit_too() {
    let mut gate = Gate::default();
    assert!(gate.together.available_permits() >= 64);
    gate.together = Arc::new(Semaphore::new(1));
    let gate = Arc::new(gate);
    let start = || {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        (
            Proxy::start(listener, &[], Arc::clone(&gate)).unwrap(),
            address,
        )
    };
    let (one, two) = (start(), start());
    let first = TcpStream::connect(one.1).await.unwrap();
    let begun = std::time::Instant::now();
    while gate.together.available_permits() > 0 {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut second = TcpStream::connect(two.1).await.unwrap();
    let answer = all(&mut second).await;
    assert!(
        answer.contains("this provider's tasks have too many"),
        "{answer}"
    );
    drop(first);
    while gate.together.available_permits() == 0 {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn with_the_proxy_everything_ends() {
    let world = World::new(&[]).await;
    let mut client = world.connect().await;
    let request = format!("CONNECT site.test:{} HTTP/1.1\r\n\r\n", world.port);
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut server, _) = timeout(PATIENCE, world.server.accept())
        .await
        .unwrap()
        .unwrap();
    let address = world.address;
    drop(world.proxy);
    assert_eq!(all(&mut server).await, "");
    assert!(all(&mut client).await.ends_with("established\r\n\r\n"));
    let start = std::time::Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(start.elapsed() < PATIENCE, "the port is still open");
    }
}

/// What a node uses finds names as this machine does, and refuses what they lead to here.
#[tokio::test]
async fn the_gate_of_a_node_knows_localhost_and_refuses_it() {
    let gate = Gate::default();
    let found = gate.resolver.resolve("localhost").await.unwrap();
    assert!(!found.is_empty());
    for address in found {
        assert!(gate.addresses.check(address).is_err());
    }
    assert_eq!(gate.ports, [80, 443]);
}
