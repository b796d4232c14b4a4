//! Peers to try first after a restart.
//!
//! Filled by discovery while the node runs, read once when it starts. Losing this table costs a
//! slower start, nothing else.

use p2pnode_protocol::PeerId;
use rusqlite::{Connection, params};

use super::error::Damage;
use super::load::{bytes, each};
use super::rows::{from_blob, from_integer, peer, to_blob, to_integer};

/// Peers that are remembered of each network; beyond it the longest unseen go. Kademlia's table for a network of
/// 2^20 nodes holds some 20 buckets of 20 peers, which fits.
pub const KEPT_PEERS: usize = 512;

/// Addresses that are remembered of one peer: two transports and two address families, each
/// observed, confirmed, private and relayed.
pub const KEPT_ADDRESSES: usize = 16;

/// A peer that was connected to once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RememberedPeer {
    /// In which network; empty when it was stored before networks were.
    pub network: String,
    /// Who.
    pub peer: PeerId,
    /// Where it was reached, as multiaddr text, best first; those beyond [`KEPT_ADDRESSES`] are
    /// dropped.
    pub addresses: Vec<String>,
    /// When it was last connected, in milliseconds since the Unix epoch.
    pub last_seen_ms: u64,
}

/// Stores or renews `peers` and forgets the longest unseen beyond [`KEPT_PEERS`]. What is older than
/// what is stored changes nothing.
pub(super) fn remember(connection: &Connection, peers: &[RememberedPeer]) -> rusqlite::Result<()> {
    let mut upsert = connection.prepare(
        "INSERT INTO peers (network, peer, addresses, last_seen_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (network, peer) DO UPDATE SET
            addresses = excluded.addresses, last_seen_ms = excluded.last_seen_ms
         WHERE excluded.last_seen_ms >= last_seen_ms",
    )?;
    for known in peers {
        let kept = known.addresses.len().min(KEPT_ADDRESSES);
        // A list of addresses too large to encode is not worth remembering.
        let Ok(addresses) = to_blob(&&known.addresses[..kept]) else {
            continue;
        };
        let last_seen = to_integer(known.last_seen_ms);
        let peer = known.peer.to_bytes();
        upsert.execute(params![known.network, peer, addresses, last_seen])?;
    }
    connection.execute(
        "DELETE FROM peers WHERE (network, peer) IN
            (SELECT network, peer FROM
                (SELECT network, peer, row_number() OVER
                    (PARTITION BY network ORDER BY last_seen_ms DESC, peer) AS place FROM peers)
             WHERE place > ?1)",
        [KEPT_PEERS as i64],
    )?;
    Ok(())
}

/// All remembered peers, the last seen first.
pub(super) fn known(connection: &Connection) -> Result<Vec<RememberedPeer>, Damage> {
    let mut known = Vec::new();
    let sql = "SELECT network, peer, addresses, last_seen_ms FROM peers
        ORDER BY last_seen_ms DESC, network, peer";
    each(connection, sql, |row| {
        known.push(RememberedPeer {
            network: row.get(0)?,
            peer: peer(bytes(row, 1)?)?,
            addresses: from_blob("list of addresses", bytes(row, 2)?)?,
            last_seen_ms: from_integer("time", row.get(3)?)?,
        });
        Ok(())
    })?;
    Ok(known)
}
