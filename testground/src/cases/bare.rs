//! A bare libp2p stream between two nodes of the overlay in this process, with nothing on top.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libp2p::identity::Keypair;
use p2pnode_node::net::{self, NetConfig, NetEvent, NetEvents, NetHandle, ReachConfig, StreamKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes written at a time: what a chunk of a blob is on average.
const BLOCK: usize = 256 << 10;

/// How long `bytes` take from one node to another over TCP, noise and yamux.
pub fn stream(bytes: u64) -> Result<Duration> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (receiver, mut events) = start(Vec::new()).await?;
        let address = receiver
            .listen_addresses()
            .into_iter()
            .next()
            .context("no address")?;
        let to = receiver.local_peer_id();
        let full = format!("{address}/p2p/{to}").parse()?;
        let (sender, _events) = start(vec![full]).await?;
        let receiving = tokio::spawn(async move { receive(&mut events, bytes).await });
        let mut stream = sender.open_stream(to, StreamKind::Blob).await?;
        let began = Instant::now();
        let block = vec![7; BLOCK];
        let mut left = bytes;
        while left > 0 {
            let part = left.min(BLOCK as u64);
            stream.write_all(&block[..usize::try_from(part)?]).await?;
            left -= part;
        }
        stream.shutdown().await?;
        receiving.await??;
        Ok(began.elapsed())
    })
}

async fn start(bootstrap: Vec<libp2p::Multiaddr>) -> Result<(NetHandle, NetEvents)> {
    let mut config = NetConfig::new(Keypair::generate_ed25519(), "bench");
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
    config.mdns = false;
    config.reach = ReachConfig::none();
    config.bootstrap = bootstrap;
    Ok(net::start(config).await?)
}

async fn receive(events: &mut NetEvents, bytes: u64) -> Result<()> {
    loop {
        let event = events.recv().await.context("the network ended")?;
        if let NetEvent::Stream { mut stream, .. } = event {
            let mut buffer = vec![0; BLOCK];
            let mut left = bytes;
            while left > 0 {
                let read = stream.read(&mut buffer).await?;
                anyhow::ensure!(read > 0, "the stream ended {left} bytes early");
                left -= read as u64;
            }
            return Ok(());
        }
    }
}
