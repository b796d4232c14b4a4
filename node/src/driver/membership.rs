//! Which networks a node is in, and what each of them is started with.

use libp2p::Multiaddr;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use p2pnode_protocol::PeerId;

use super::node::NodeError;
use crate::config::Config;
use crate::home::{DataDir, PrivateNetwork};
use crate::net::{NetConfig, NetMetrics};
use crate::store::{RememberedPeer, Store};

/// What follows from the settings and the data directory.
pub(super) struct Membership {
    /// In the order of the settings.
    pub(super) networks: Vec<NetConfig>,
    /// Counters that all networks share.
    pub(super) metrics: NetMetrics,
    /// Peers that an earlier life met in private networks that this node is still a member of.
    pub(super) members: Vec<PeerId>,
}

impl Membership {
    pub(super) fn of(
        keypair: &Keypair,
        config: &Config,
        dir: &DataDir,
        store: &Store,
    ) -> Result<Self, NodeError> {
        let known = store.known_peers()?;
        let metrics = NetMetrics::default();
        let (mut networks, mut members) = (Vec::new(), Vec::new());
        for (place, name) in config.networks.iter().enumerate() {
            let mut net = NetConfig::new(keypair.clone(), name.clone());
            net.listen = shifted(&config.listen, place);
            net.external = shifted(&config.external, place);
            net.bootstrap.clone_from(&config.bootstrap);
            net.mdns = config.mdns;
            net.reach.upnp = config.upnp;
            net.reach.relay = config.relay;
            net.metrics = metrics.clone();
            let is_here = |peer: &&RememberedPeer| {
                // Of those stored before networks were, the first is the likeliest.
                peer.network == *name || (peer.network.is_empty() && place == 0)
            };
            net.known_peers = known.iter().filter(is_here).map(remembered).collect();
            if let Some(private) = dir.network(name)? {
                lock_in(&mut net, &private);
                let met = known.iter().filter(|peer| peer.network == *name);
                members.extend(met.map(|peer| peer.peer));
            }
            networks.push(net);
        }
        Ok(Self {
            networks,
            metrics,
            members,
        })
    }
}

/// The addresses of the network in this place: each has ports of its own, so every one after the first has
/// those that are one higher. Port 0 is the system's choice for all.
fn shifted(addresses: &[Multiaddr], place: usize) -> Vec<Multiaddr> {
    let by = place as u16;
    let shift = |part: Protocol<'static>| match part {
        Protocol::Tcp(port) if port > 0 => Protocol::Tcp(port.saturating_add(by)),
        Protocol::Udp(port) if port > 0 => Protocol::Udp(port.saturating_add(by)),
        other => other,
    };
    let acquired = |address: &Multiaddr| address.iter().map(|part| shift(part.acquire())).collect();
    addresses.iter().map(acquired).collect()
}

fn remembered(known: &RememberedPeer) -> (PeerId, Vec<Multiaddr>) {
    let addresses = known.addresses.iter();
    let parsed = addresses.filter_map(|text| text.parse().ok());
    (known.peer, parsed.collect())
}

/// Leaves of the ways to others those that a private network's key locks.
fn lock_in(net: &mut NetConfig, private: &PrivateNetwork) {
    net.psk = Some(private.key());
    net.bootstrap.extend(private.addresses());
    // The key locks TCP only, and what is shouted into the local network everybody hears.
    let is_quic = |part: Protocol<'_>| matches!(part, Protocol::Quic | Protocol::QuicV1);
    net.listen.retain(|address| !address.iter().any(is_quic));
    net.mdns = false;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn in_a_private_network_nothing_goes_where_its_key_does_not_lock() {
        let mut net = NetConfig::new(Keypair::generate_ed25519(), "lab".to_owned());
        let listen = [
            "/ip4/0.0.0.0/tcp/4001",
            "/ip4/0.0.0.0/udp/4001/quic-v1",
            "/ip6/::/udp/4001/quic",
            "/ip6/::/tcp/4001",
        ];
        net.listen = addresses(&listen);
        net.mdns = true;
        let member: Multiaddr = "/ip4/10.0.0.1/tcp/4001".parse().unwrap();
        let private = PrivateNetwork::create("lab").unwrap();
        let private = private.with_addresses(std::slice::from_ref(&member));
        lock_in(&mut net, &private);
        let kept: Vec<String> = net.listen.iter().map(ToString::to_string).collect();
        assert_eq!(kept, [listen[0], listen[3]]);
        assert!(!net.mdns);
        let key = net.psk.map(|key| key.fingerprint().to_string());
        assert_eq!(key, Some(private.key().fingerprint().to_string()));
        assert_eq!(net.bootstrap, [member]);
    }

    #[test]
    fn every_network_is_given_what_is_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::at(folder.path()).unwrap();
        let lab = PrivateNetwork::create("lab").unwrap();
        dir.join_network(&lab, &[]).unwrap();
        let (mut store, _) = Store::open(&folder.path().join("state.db")).unwrap();
        let peers: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
        let known = ["", "main", "lab"].into_iter().zip(&peers);
        let known: Vec<RememberedPeer> = known
            .map(|(network, peer)| RememberedPeer {
                network: network.into(),
                peer: *peer,
                addresses: vec!["/ip4/192.0.2.1/tcp/1".into()],
                last_seen_ms: 1,
            })
            .collect();
        store.remember_peers(&known).unwrap();
        let mut config = Config::default();
        config.networks = vec!["main".into(), "lab".into()];
        config.listen = addresses(&["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/0/quic-v1"]);
        config.external = addresses(&["/ip4/192.0.2.9/tcp/4001"]);
        let keypair = Keypair::generate_ed25519();
        let all = Membership::of(&keypair, &config, &dir, &store).unwrap();
        let [main, lab] = &all.networks[..] else {
            panic!("two networks")
        };
        assert_eq!((main.psk.is_some(), lab.psk.is_some()), (false, true));
        assert_eq!(main.listen, config.listen);
        assert_eq!(lab.listen, addresses(&["/ip4/0.0.0.0/tcp/4002"]));
        assert_eq!(lab.external, addresses(&["/ip4/192.0.2.9/tcp/4002"]));
        let met = |net: &NetConfig| -> Vec<PeerId> {
            let mut peers: Vec<_> = net.known_peers.iter().map(|known| known.0).collect();
            peers.sort();
            peers
        };
        let mut of_main = vec![peers[0], peers[1]];
        of_main.sort();
        assert_eq!(met(main), of_main);
        assert_eq!(met(lab), [peers[2]]);
        assert_eq!(all.members, [peers[2]]);
    }
}
