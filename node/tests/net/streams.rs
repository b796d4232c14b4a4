//! Streams arrive whole or are refused, never lost.

use p2pnode_node::net::{NetConfig, NetEvent, NetLimits, OpenError, StreamKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{PATIENCE, eventually, loopback, pair, start, start_beside};

#[tokio::test]
async fn a_stream_carries_64_mib_intact_and_an_end() {
    const BYTES: usize = 64 << 20;
    let (a, mut b) = pair().await;
    let (from, to) = (a.id(), b.id());
    let block: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let expected: Vec<u8> = block.iter().copied().cycle().take(BYTES).collect();
    let send = async {
        let mut stream = a.handle.open_stream(to, StreamKind::Blob).await.unwrap();
        assert_eq!(stream.peer(), to);
        stream.write_all(&expected).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let receive = async {
        let mut stream = b.next_stream().await;
        assert_eq!((stream.peer(), stream.kind()), (from, StreamKind::Blob));
        let mut got = Vec::with_capacity(BYTES);
        stream.read_to_end(&mut got).await.unwrap();
        stream.write_all(b"thanks").await.unwrap();
        stream.shutdown().await.unwrap();
        (got, stream)
    };
    let (answer, (got, _stream)) =
        tokio::time::timeout(PATIENCE, async { tokio::join!(send, receive) })
            .await
            .unwrap();
    assert!(got == expected, "{} bytes differ", got.len());
    assert_eq!(answer, b"thanks");
    assert_eq!(b.handle.metrics().blob_bytes.received.get(), BYTES as u64);
}

/// Opens 500 streams at once over `listen` and accounts for every one of them.
async fn burst(listen: &str, limits: NetLimits) -> (usize, usize) {
    const STREAMS: usize = 500;
    let config = || NetConfig {
        listen: vec![listen.parse().unwrap()],
        limits: limits.clone(),
        ..loopback()
    };
    let mut b = start(config()).await;
    let mut a = start_beside(&b, config()).await;
    a.until_connected(b.id()).await;
    b.until_connected(a.id()).await;
    let opening: Vec<_> = (0..STREAMS as u32)
        .map(|number| {
            let (handle, peer) = (a.handle.clone(), b.id());
            tokio::spawn(async move {
                let mut stream = handle.open_stream(peer, StreamKind::Log).await?;
                stream.write_all(&number.to_le_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                Ok::<_, OpenError>((number, stream))
            })
        })
        .collect();
    let handle = b.handle.clone();
    let taking = tokio::spawn(async move {
        let mut numbers = Vec::new();
        let mut held = Vec::new();
        while let Some(event) = b.events.recv().await {
            if let NetEvent::Stream { mut stream, .. } = event {
                let mut number = [0; 4];
                stream.read_exact(&mut number).await.unwrap();
                numbers.push(u32::from_le_bytes(number));
                held.push(stream);
            }
        }
        numbers
    });
    let (mut opened, mut refused, mut held) = (Vec::new(), 0, Vec::new());
    for stream in opening {
        match tokio::time::timeout(PATIENCE, stream)
            .await
            .unwrap()
            .unwrap()
        {
            Ok((number, stream)) => {
                opened.push(number);
                held.push(stream);
            }
            Err(OpenError::Refused | OpenError::TooMany) => refused += 1,
            Err(other) => panic!("{listen}: {other}"),
        }
    }
    let metrics = handle.metrics().clone();
    let count = opened.len() as u64;
    eventually("all to be taken", || async {
        metrics.stream_bytes.received.get() == 4 * count
    })
    .await;
    handle.shutdown().await;
    let mut taken = tokio::time::timeout(PATIENCE, taking)
        .await
        .unwrap()
        .unwrap();
    taken.sort_unstable();
    opened.sort_unstable();
    assert_eq!(taken, opened, "{listen}");
    assert_eq!(opened.len() + refused, STREAMS);
    (opened.len(), refused)
}

const ADDRESSES: [&str; 2] = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"];

#[tokio::test]
async fn no_stream_of_a_burst_is_lost() {
    for listen in ADDRESSES {
        let roomy = NetLimits {
            streams_per_peer: 600,
            waiting_streams: 600,
            ..NetLimits::default()
        };
        assert_eq!(burst(listen, roomy).await, (500, 0), "{listen}");
    }
}

#[tokio::test]
async fn streams_over_the_limits_are_refused_with_an_error() {
    for listen in ADDRESSES {
        let narrow = NetLimits {
            streams_per_peer: 600,
            streams: 50,
            ..NetLimits::default()
        };
        assert_eq!(burst(listen, narrow).await, (50, 450), "{listen}");
    }
    // The opener has a limit of its own, and the acceptor a short queue.
    let (opened, refused) = burst(
        ADDRESSES[0],
        NetLimits {
            waiting_streams: 2,
            ..NetLimits::default()
        },
    )
    .await;
    assert!(opened >= 2 && refused >= 244, "{opened} {refused}");
}

#[tokio::test]
async fn a_dropped_stream_is_noticed_and_makes_room() {
    let limits = NetLimits {
        streams_per_peer: 1,
        ..NetLimits::default()
    };
    let config = || NetConfig {
        limits: limits.clone(),
        ..loopback()
    };
    let mut b = start(config()).await;
    let mut a = start_beside(&b, config()).await;
    a.until_connected(b.id()).await;
    for _ in 0..20 {
        let mut out = a
            .handle
            .open_stream(b.id(), StreamKind::Blob)
            .await
            .unwrap();
        let second = a.handle.open_stream(b.id(), StreamKind::Blob).await;
        assert!(matches!(second, Err(OpenError::TooMany)));
        let inbound = b.next_stream().await;
        drop(inbound);
        let mut byte = [0];
        let ended = tokio::time::timeout(PATIENCE, out.read(&mut byte))
            .await
            .unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
}

#[tokio::test]
async fn a_stream_dials_a_peer_that_is_known_and_fails_for_others() {
    let mut b = start(loopback()).await;
    let a = start(NetConfig {
        known_peers: vec![(b.id(), b.handle.listen_addresses())],
        ..loopback()
    })
    .await;
    let (opened, _) = tokio::join!(
        a.handle
            .open_stream(b.handle.local_peer_id(), StreamKind::Log),
        b.next_stream()
    );
    assert_eq!(opened.unwrap().kind(), StreamKind::Log);
    let nobody = a
        .handle
        .open_stream(libp2p::PeerId::random(), StreamKind::Log)
        .await;
    assert!(matches!(nobody, Err(OpenError::Unreachable)));
}

#[tokio::test]
async fn a_lost_peer_ends_its_streams() {
    let (a, mut b) = pair().await;
    let (out, inbound) = tokio::join!(
        a.handle
            .open_stream(b.handle.local_peer_id(), StreamKind::Blob),
        b.next_stream()
    );
    let mut out = out.unwrap();
    b.handle.shutdown().await;
    drop(inbound);
    let mut byte = [0];
    let ended = tokio::time::timeout(PATIENCE, out.read(&mut byte))
        .await
        .unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

/// Who closes a connection itself is told by nobody else.
#[tokio::test]
async fn a_connection_that_is_given_up_ends_its_streams_here_too() {
    let (a, mut b) = pair().await;
    let peer = b.id();
    let mut out = a
        .handle
        .open_stream(peer, StreamKind::Tunnel)
        .await
        .unwrap();
    out.write_all(b"before").await.unwrap();
    out.flush().await.unwrap();
    let mut inbound = b.next_stream().await;
    inbound.read_exact(&mut [0; 6]).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(out);
    // More than the peer takes: it waits for room.
    let writing = tokio::spawn(async move { writer.write_all(&vec![0; 64 << 20]).await });
    let reading = tokio::spawn(async move { reader.read_u8().await });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    a.handle.disconnect(peer).await;
    let ended = tokio::time::timeout(PATIENCE, async { tokio::join!(reading, writing) }).await;
    let (read, written) = ended.expect("neither waits for ever");
    assert!(read.unwrap().is_err());
    assert!(written.unwrap().is_err());
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back() {
    let (a, mut b) = pair().await;
    let (out, inbound) = tokio::join!(
        a.handle
            .open_stream(b.handle.local_peer_id(), StreamKind::Blob),
        b.next_stream()
    );
    let (mut out, mut inbound) = (out.unwrap(), inbound);
    let chunk = vec![1; 1 << 20];
    let mut written = 0;
    // The windows fill up, and then nothing moves.
    let fill = std::time::Duration::from_millis(500);
    while let Ok(result) = tokio::time::timeout(fill, out.write(&chunk)).await {
        written += result.unwrap();
        assert!(written < 64 << 20, "no back-pressure");
    }
    let mut left = written;
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        left -= inbound.read(&mut buffer).await.unwrap();
    }
    out.write_all(b"goes on").await.unwrap();
}
