//! What a relay's limits do to those that it connects.

use super::*;

/// What one circuit may carry here: several times what its handshakes take.
const CIRCUIT_BYTES: u64 = 256 << 10;

/// A node that runs and knows how to reach `whom` through `relay`, and no other way.
async fn beside(relay: &Multiaddr, whom: PeerId) -> (NetHandle, NetEvents) {
    let way = relay.clone().with(Protocol::P2pCircuit);
    let bootstrap = vec![way.with(Protocol::P2p(whom))];
    let (actor, handle, events) = begun(NetConfig {
        bootstrap,
        ..config()
    })
    .await;
    tokio::spawn(actor.run());
    (handle, events)
}

/// Writes until the stream breaks; returns how many bytes it took.
async fn written(stream: &mut crate::net::NetStream) -> u64 {
    let (block, mut count) = ([0; 8 << 10], 0);
    while stream.write_all(&block).await.is_ok() && stream.flush().await.is_ok() {
        count += block.len() as u64;
    }
    count
}

/// Reads whatever streams come.
fn swallow(mut events: NetEvents) {
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let NetEvent::Stream { mut stream, .. } = event {
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                });
            }
        }
    });
}

#[tokio::test]
async fn a_circuit_that_has_carried_its_bytes_is_cut_and_another_opened() {
    let (relay, _serving) = relay_with(RelayLimits {
        circuit_bytes: CIRCUIT_BYTES,
        ..RelayPolicy::On.limits().unwrap()
    })
    .await;
    let (_direct, hidden, events) = hidden_behind(&relay).await;
    swallow(events);
    let whom = hidden.local_peer_id();
    let (handle, _events) = beside(&relay, whom).await;
    let carrying = async {
        for round in 0..3 {
            let mut stream = loop {
                // What the circuit before it ends with may still be on its way.
                match handle.open_stream(whom, StreamKind::Log).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::time::sleep(PATIENCE / 10).await,
                }
            };
            if !stream.is_relayed() && round > 0 {
                // Within a process everybody can be dialled, once their address is known.
                return;
            }
            assert!(stream.is_relayed());
            let count = written(&mut stream).await;
            assert!(count < 4 * CIRCUIT_BYTES, "{count} bytes passed");
        }
    };
    tokio::time::timeout(LIMIT, carrying).await.unwrap();
}
