//! Peers are remembered for the next start.

use std::time::Duration;

use tokio::sync::mpsc;

use super::actor::{Batch, Internal};
use crate::networks::Networks;
use crate::store::{RememberedPeer, Writer};

/// How often connected peers are stored: what a crash forgets is a minute old.
const INTERVAL: Duration = Duration::from_secs(60);

/// First look after the start, when the first peers have answered.
const FIRST: Duration = Duration::from_secs(5);

/// Stores connected peers until the driver is gone.
pub(super) async fn remember(net: Networks, writer: Writer<Batch>, driver: mpsc::Sender<Internal>) {
    let mut wait = FIRST;
    loop {
        tokio::select! {
            () = driver.closed() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = INTERVAL;
        let all = net.peers().await.into_iter();
        let connected = all.filter(|(_, peer)| peer.connected);
        let peers = connected.map(|(network, peer)| RememberedPeer {
            network: network.to_owned(),
            peer: peer.peer,
            addresses: peer.addresses.iter().map(ToString::to_string).collect(),
            last_seen_ms: peer.last_seen_ms,
        });
        writer.remember_peers(peers.collect());
    }
}
