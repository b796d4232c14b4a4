//! TCP connections that come to the overlay's port and are none of libp2p's.

use std::net::SocketAddr;

use libp2p::Multiaddr;
use libp2p::pnet::PreSharedKey;
use p2pnode_node::net::NetConfig;
use p2pnode_protocol::tunnel::SHORTCUT_GREETING;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::support::{Node, PATIENCE, eventually, loopback, pair, start, start_beside};

/// A node that sets shortcuts aside, a queue of this length for them, and its port.
async fn listening(queue: usize) -> (Node, mpsc::Receiver<TcpStream>, SocketAddr) {
    let (shortcuts, asked_for) = mpsc::channel(queue);
    let node = start(NetConfig {
        shortcuts: Some(shortcuts),
        ..loopback()
    })
    .await;
    let port = socket(&node.address());
    (node, asked_for, port)
}

fn socket(address: &Multiaddr) -> SocketAddr {
    let text = address.to_string();
    let words: Vec<&str> = text.split('/').collect();
    format!("{}:{}", words[2], words[4]).parse().unwrap()
}

/// Whether the other side closes the connection, after whatever it says first.
async fn is_closed(connection: &mut TcpStream) -> bool {
    let mut said = Vec::new();
    timeout(PATIENCE, connection.read_to_end(&mut said))
        .await
        .is_ok()
}

#[tokio::test]
async fn who_greets_is_set_aside_unread_and_all_others_are_peers() {
    let (mut node, mut asked_for, port) = listening(4).await;
    let mut guest = TcpStream::connect(port).await.unwrap();
    guest.set_nodelay(true).unwrap();
    // Half of it is not yet a greeting.
    guest.write_all(&SHORTCUT_GREETING[..7]).await.unwrap();
    sleep(std::time::Duration::from_millis(50)).await;
    assert!(asked_for.try_recv().is_err());
    guest.write_all(&SHORTCUT_GREETING[7..]).await.unwrap();
    guest.write_all(b" and more").await.unwrap();
    let mut set_aside = timeout(PATIENCE, asked_for.recv()).await.unwrap().unwrap();
    let mut said = [0; SHORTCUT_GREETING.len() + 9];
    set_aside.read_exact(&mut said).await.unwrap();
    assert_eq!(said, *b"p2pnode-shortcut and more");
    set_aside.write_all(b"yes").await.unwrap();
    let mut answer = [0; 3];
    guest.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"yes");

    let peer = start_beside(&node, loopback()).await;
    node.until_connected(peer.id()).await;
    // One that begins like a greeting and is none is sent away like any other that speaks no libp2p.
    let mut stranger = TcpStream::connect(port).await.unwrap();
    stranger.write_all(b"p2pnode-shortcuX").await.unwrap();
    stranger.shutdown().await.unwrap();
    assert!(is_closed(&mut stranger).await);
    assert!(asked_for.try_recv().is_err());
    // The connection that was set aside is not the network's any more.
    node.handle.shutdown().await;
    set_aside.write_all(b"yes").await.unwrap();
    guest.read_exact(&mut answer).await.unwrap();
}

#[tokio::test]
async fn more_than_the_node_takes_are_sent_away() {
    let (_node, mut asked_for, port) = listening(1).await;
    let mut guests = Vec::new();
    for _ in 0..3 {
        let mut guest = TcpStream::connect(port).await.unwrap();
        guest.write_all(&SHORTCUT_GREETING).await.unwrap();
        guests.push(guest);
    }
    let mut closed = 0;
    for guest in &mut guests {
        let quick = timeout(std::time::Duration::from_secs(2), is_closed(guest)).await;
        closed += usize::from(quick == Ok(true));
    }
    assert_eq!(closed, 2);
    assert!(asked_for.recv().await.is_some());
}

#[tokio::test]
async fn a_private_network_hears_nobody_who_only_greets() {
    let (shortcuts, mut asked_for) = mpsc::channel(4);
    let node = start(NetConfig {
        shortcuts: Some(shortcuts),
        psk: Some(PreSharedKey::new([1; 32])),
        ..loopback()
    })
    .await;
    let mut guest = TcpStream::connect(socket(&node.address())).await.unwrap();
    guest.write_all(&SHORTCUT_GREETING).await.unwrap();
    guest.shutdown().await.unwrap();
    assert!(is_closed(&mut guest).await);
    assert!(asked_for.try_recv().is_err());
}

#[tokio::test]
async fn a_peers_own_port_is_known_from_both_ends_of_a_connection() {
    let (a, b) = pair().await;
    assert_eq!(a.handle.tcp_address(a.id()).await, None);
    for (here, there) in [(&a, &b), (&b, &a)] {
        // Who was dialled learns it from what the other says of itself.
        eventually("the port to be known", || async {
            here.handle.tcp_address(there.id()).await == Some(socket(&there.address()))
        })
        .await;
    }
    b.handle.shutdown().await;
    eventually("the connection to be gone", || async {
        a.handle.tcp_address(b.id()).await.is_none()
    })
    .await;
}
