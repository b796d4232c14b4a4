//! Where peers on the Internet see this node, and what follows from it.
//!
//! Owned by [`super::Reach`]. What one peer sees may be a lie: who is seen at a foreign address by all,
//! or by the most and by enough of them, is behind NAT; who is seen by more of them at an address of its own is not.
//! IPv4 and IPv6 are judged apart, for a machine may have an address of its own in one of them only.

use std::collections::HashMap;
use std::net::IpAddr;

use libp2p::PeerId;

use super::voices::{Part, Voice, suffice};

/// Observers that are remembered, each in each family: the two relays, the bootstrap nodes, and some more.
const MAX_OBSERVERS: usize = 32;

#[derive(Debug)]
struct Seen {
    part: Part,
    ip: IpAddr,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sight {
    seen: HashMap<(PeerId, bool), Seen>,
}

impl Sight {
    /// `peer`, which is in that part of the Internet, sees this node at `ip`.
    pub(super) fn note(&mut self, peer: PeerId, part: Part, ip: IpAddr) {
        let key = (peer, ip.is_ipv6());
        if self.seen.len() < MAX_OBSERVERS || self.seen.contains_key(&key) {
            self.seen.insert(key, Seen { part, ip });
        }
    }

    /// Forgets who is not there any more.
    pub(super) fn keep(&mut self, is_there: impl Fn(&PeerId) -> bool) {
        self.seen.retain(|(peer, _), _| is_there(peer));
    }

    /// This machine is somewhere else.
    pub(super) fn clear(&mut self) {
        self.seen.clear();
    }

    fn voices(&self, v6: bool, at: impl Fn(IpAddr) -> bool) -> Vec<Voice> {
        let family = self.seen.iter().filter(|((_, six), _)| *six == v6);
        family
            .filter(|(_, seen)| at(seen.ip))
            .map(|((peer, _), seen)| (*peer, seen.part.clone()))
            .collect()
    }

    /// Whether so many see this node at `ip` that it is true.
    pub(super) fn agrees(&self, ip: IpAddr) -> bool {
        let v6 = ip.is_ipv6();
        suffice(&self.voices(v6, |at| at == ip), &self.voices(v6, |_| true))
    }

    /// Whether a machine with the addresses `own` is behind NAT in this family; `None` when that is not
    /// certain, and what was believed before stays.
    pub(super) fn is_behind_nat(&self, own: &[IpAddr], v6: bool) -> Option<bool> {
        let ours = self.voices(v6, |at| own.contains(&at));
        let foreign = self.voices(v6, |at| !own.contains(&at));
        if ours.len() > foreign.len() {
            return Some(false);
        }
        let all = self.voices(v6, |_| true);
        (foreign.len() > ours.len() && suffice(&foreign, &all)).then_some(true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::Ipv4Addr;

    use super::*;

    const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(7, 7, 7, 7));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9));

    fn part(number: u8) -> Part {
        Part::V4([5, number])
    }

    #[test]
    fn one_liar_is_outvoted_and_a_lone_observer_believed() {
        let mut sight = Sight::default();
        let liar = PeerId::random();
        sight.note(liar, part(1), OTHER);
        assert_eq!(sight.is_behind_nat(&[OWN], false), Some(true));
        assert!(sight.agrees(OTHER));
        let honest = PeerId::random();
        sight.note(honest, part(2), OWN);
        assert_eq!(sight.is_behind_nat(&[OWN], false), None, "one against one");
        assert!(!sight.agrees(OTHER));
        sight.note(PeerId::random(), part(2), OWN);
        assert_eq!(sight.is_behind_nat(&[OWN], false), Some(false));
        // Many ids at one place are one voice.
        for _ in 0..5 {
            sight.note(PeerId::random(), part(1), OTHER);
        }
        assert_eq!(sight.is_behind_nat(&[OWN], false), None);
        assert_eq!(sight.is_behind_nat(&[OWN], true), None, "nobody said");
        sight.keep(|peer| *peer == honest);
        assert_eq!(sight.is_behind_nat(&[OWN], false), Some(false));
        sight.clear();
        assert_eq!(sight.is_behind_nat(&[OWN], false), None);
    }

    #[test]
    fn observers_are_bounded() {
        let mut sight = Sight::default();
        for _ in 0..1_000 {
            sight.note(PeerId::random(), part(1), OTHER);
        }
        assert_eq!(sight.seen.len(), MAX_OBSERVERS);
    }
}
