//! TCP and UDP ports of a task.

use p2pnode_protocol::tunnel::{Purpose, TunnelFault};
use p2pnode_tunnel::client::OpenError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

use crate::rig::{LONG, Rig};
use crate::ssh::noise;

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_keeps_its_halves_apart() {
    let rig = Rig::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        // The end of the one half comes through; the other half still carries.
        socket.read_to_end(&mut heard).await.unwrap();
        heard.reverse();
        socket.write_all(&heard).await.unwrap();
    });
    let mut tunnel = rig.open(Purpose::Tcp { port }).await.unwrap();
    let mut bytes = noise(1_000_000);
    tunnel.write_all(&bytes).await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut back = Vec::new();
    timeout(LONG, tunnel.read_to_end(&mut back))
        .await
        .unwrap()
        .unwrap();
    bytes.reverse();
    assert!(back == bytes, "{} bytes", back.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_a_listener_is_a_refusal() {
    let rig = Rig::new();
    let port = TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    match rig.open(Purpose::Tcp { port }).await {
        Err(OpenError::Refused(refusal)) => assert_eq!(refusal.kind, TunnelFault::NobodyListens),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_stay_what_they_are() {
    let rig = Rig::new();
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            let (count, from) = socket.recv_from(&mut buffer).await.unwrap();
            buffer[..count].reverse();
            socket.send_to(&buffer[..count], from).await.unwrap();
        }
    });
    let mut tunnel = rig.open(Purpose::Udp { port }).await.unwrap();
    for length in [0, 1, 1500, 65_507] {
        let mut datagram = noise(length);
        tunnel.write_u16(length as u16).await.unwrap();
        tunnel.write_all(&datagram).await.unwrap();
        let answer = timeout(LONG, async {
            let length = tunnel.read_u16().await.unwrap();
            let mut answer = vec![0; usize::from(length)];
            tunnel.read_exact(&mut answer).await.unwrap();
            answer
        });
        datagram.reverse();
        assert!(answer.await.unwrap() == datagram, "{length}");
    }
    // Longer than any datagram: the tunnel ends.
    tunnel.write_u16(65_508).await.unwrap();
    assert_eq!(
        timeout(LONG, tunnel.read(&mut [0])).await.unwrap().unwrap(),
        0
    );
}
