use libp2p::Multiaddr;
use p2pnode_node::net::{self, NetConfig, NetError, NetEvent};

use crate::support::{loopback, memory, start};

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    for text in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let any_port = NetConfig {
            listen: vec![text.parse().unwrap()],
            ..loopback()
        };
        let first = start(any_port).await;
        let taken = first.address();
        let same_port = NetConfig {
            listen: vec![taken.clone()],
            ..loopback()
        };
        match net::start(same_port).await {
            Err(NetError::PortInUse { address, .. }) => assert_eq!(address, taken),
            Err(other) => panic!("{text}: {other}"),
            Ok(_) => panic!("{text}: two nodes on one port"),
        }
    }
}

#[tokio::test]
async fn a_port_is_free_again_after_the_end() {
    let mut first = start(loopback()).await;
    let address = first.address();
    first.handle.shutdown().await;
    while first.events.recv().await.is_some() {}
    let again = NetConfig {
        listen: vec![address.clone()],
        ..loopback()
    };
    assert_eq!(start(again).await.address(), address);
}

#[tokio::test]
async fn addresses_that_cannot_be_listened_on() {
    for text in ["/ip4/192.0.2.1/tcp/0", "/ip4/127.0.0.1/udp/1", "/memory/7"] {
        let config = NetConfig {
            listen: vec![text.parse().unwrap()],
            ..loopback()
        };
        let error = net::start(config).await.expect_err(text);
        assert!(error.to_string().contains(text), "{text}: {error}");
    }
    let nowhere = NetConfig {
        listen: Vec::new(),
        ..loopback()
    };
    assert!(matches!(
        net::start(nowhere).await,
        Err(NetError::NoListener)
    ));
}

#[tokio::test]
async fn a_wildcard_is_reported_as_the_addresses_of_the_interfaces() {
    let config = NetConfig {
        listen: vec!["/ip4/0.0.0.0/tcp/0".parse().unwrap()],
        ..loopback()
    };
    let mut node = start(config).await;
    let listen = node.handle.listen_addresses();
    let on_loopback = |address: &Multiaddr| address.to_string().starts_with("/ip4/127.0.0.1/tcp/");
    assert!(listen.iter().any(on_loopback), "{listen:?}");
    node.until("the addresses", |log| {
        log.iter()
            .any(|event| matches!(event, NetEvent::Addresses { listen, .. } if listen.iter().any(on_loopback)))
    })
    .await;
}

#[tokio::test]
async fn memory_nodes_listen_in_the_process() {
    let node = start(memory()).await;
    assert!(node.address().to_string().starts_with("/memory/"));
}

#[tokio::test]
async fn the_end_is_told_and_nothing_works_after_it() {
    let mut node = start(loopback()).await;
    let peer = libp2p::PeerId::random();
    node.handle.shutdown().await;
    let heartbeat = p2pnode_protocol::message::TaskRequest::Goodbye;
    assert_eq!(
        node.handle.request(peer, &heartbeat).await,
        Err(net::CallError::Stopped)
    );
    let opened = node.handle.open_stream(peer, net::StreamKind::Log).await;
    assert!(matches!(opened, Err(net::OpenError::Stopped)));
    assert!(node.handle.peers().await.is_empty());
    while node.events.recv().await.is_some() {}
}
