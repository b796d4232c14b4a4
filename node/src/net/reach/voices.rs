//! How many speak with one voice: peers that say something about this node, and from where.
//!
//! Ids are free, and addresses of one provider nearly so. What a peer says about this node's own address
//! therefore counts only when a second one says it too, from another part of the Internet where there is
//! one to ask. Used by [`super::sight`] and [`super::verdict`].

use std::collections::HashSet;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// How many voices, and from how many parts of the Internet, are enough. One lie is then none; more than
/// two would leave small networks without an answer.
const ENOUGH: usize = 2;

/// A part of the Internet that one owner commonly holds: a /16 of IPv4, a /32 of IPv6 (the groups by which
/// Bitcoin's nodes tell their neighbours apart), or a name, of which no more is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Part {
    V4([u8; 2]),
    V6([u8; 4]),
    Name(String),
}

impl Part {
    /// Where `address` is.
    pub(super) fn of(address: &Multiaddr) -> Option<Self> {
        match address.iter().next()? {
            Protocol::Ip4(ip) => {
                let [a, b, ..] = ip.octets();
                Some(Self::V4([a, b]))
            }
            Protocol::Ip6(ip) => {
                let [a, b, c, d, ..] = ip.octets();
                Some(Self::V6([a, b, c, d]))
            }
            Protocol::Dns(name)
            | Protocol::Dns4(name)
            | Protocol::Dns6(name)
            | Protocol::Dnsaddr(name) => Some(Self::Name(name.into_owned())),
            _ => None,
        }
    }
}

/// Who speaks, and from where.
pub(super) type Voice = (PeerId, Part);

/// Whether those who `said` it are enough, of all that are `there`: two, from two parts of the Internet, as
/// far as there are so many. `there` contains `said`.
pub(super) fn suffice(said: &[Voice], there: &[Voice]) -> bool {
    let (peers, parts) = count(said);
    let (all_peers, all_parts) = count(there);
    !said.is_empty() && peers >= all_peers.min(ENOUGH) && parts >= all_parts.min(ENOUGH)
}

fn count(voices: &[Voice]) -> (usize, usize) {
    let peers: HashSet<&PeerId> = voices.iter().map(|(peer, _)| peer).collect();
    let parts: HashSet<&Part> = voices.iter().map(|(_, part)| part).collect();
    (peers.len(), parts.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn voice(address: &str) -> Voice {
        let part = Part::of(&address.parse().unwrap()).unwrap();
        (PeerId::random(), part)
    }

    #[test]
    fn two_from_two_parts_are_enough_where_there_are_two() {
        let near = voice("/ip4/5.0.1.2/tcp/1");
        let beside = voice("/ip4/5.0.9.9/tcp/1");
        let far = voice("/ip4/6.0.1.2/tcp/1");
        let all = [near.clone(), beside.clone(), far.clone()];
        assert!(!suffice(&[], &all));
        assert!(!suffice(&all[..1], &all), "one of three");
        assert!(!suffice(&all[..2], &all), "both of one part");
        assert!(suffice(&all[1..], &all));
        assert!(suffice(&all[..2], &all[..2]), "there is no other part");
        assert!(suffice(&all[..1], &all[..1]), "there is nobody else");
    }
}
