//! What peers say who were asked to dial back (AutoNAT), and what of it is believed.
//!
//! Owned by [`super::Reach`]. libp2p's AutoNAT believes the first answer, whatever address it names, and
//! for ever. Here an answer is one vote; an address counts when enough peers say that they reached this
//! node there, and stops counting when as many say that they could not.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use libp2p::Multiaddr;

use super::super::addresses::{self, Scope};
use super::voices::{Voice, suffice};

/// The latest votes that count: what was true of the last ones is probably true now.
const MAX_VOTES: usize = 8;

/// How long a vote counts (2 hours: so many, at one every 15 minutes, which is AutoNAT's pace once it is
/// certain).
const VOTE_LIFE: Duration = Duration::from_secs(7_200);

#[derive(Debug)]
struct Vote {
    server: Voice,
    /// Where this node was reached; `None` when it was not.
    reached: Option<Multiaddr>,
    at: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Votes {
    votes: VecDeque<Vote>,
}

impl Votes {
    /// `server` reached this node at `reached`, or not at all. Its earlier vote is void.
    pub(super) fn cast(&mut self, now: Instant, server: Voice, reached: Option<Multiaddr>) {
        self.votes.retain(|vote| {
            let old = now.saturating_duration_since(vote.at) >= VOTE_LIFE;
            vote.server.0 != server.0 && !old
        });
        if self.votes.len() >= MAX_VOTES {
            self.votes.pop_front();
        }
        self.votes.push_back(Vote {
            server,
            reached,
            at: now,
        });
    }

    /// This machine is somewhere else.
    pub(super) fn clear(&mut self) {
        self.votes.clear();
    }

    /// Whether enough of the servers that are `there` could not reach this node.
    pub(super) fn denied(&self, there: &[Voice]) -> bool {
        let all = self.with_voters(there);
        let against = self.votes.iter().filter(|vote| vote.reached.is_none());
        let against: Vec<Voice> = against.map(|vote| vote.server.clone()).collect();
        suffice(&against, &all)
    }

    /// Those that are `there`, and those that voted and are gone.
    fn with_voters(&self, there: &[Voice]) -> Vec<Voice> {
        let voters = self.votes.iter().map(|vote| &vote.server);
        there.iter().chain(voters).cloned().collect()
    }

    /// The addresses that count: those with enough votes of the servers that are `there`, and those that
    /// counted before (`held`) as long as more votes are for them than against any.
    pub(super) fn confirmed(&self, there: &[Voice], held: &[Multiaddr]) -> Vec<Multiaddr> {
        let against = self.votes.iter().filter(|vote| vote.reached.is_none());
        let against = against.count();
        let all = self.with_voters(there);
        let mut confirmed: Vec<Multiaddr> = Vec::new();
        for address in self.votes.iter().filter_map(|vote| vote.reached.as_ref()) {
            let same_host = |vote: &&Vote| {
                let reached = vote.reached.as_ref().and_then(addresses::ip);
                reached.is_some() && reached == addresses::ip(address)
            };
            let said = self.votes.iter().filter(same_host);
            let said: Vec<Voice> = said.map(|vote| vote.server.clone()).collect();
            let enough = suffice(&said, &all) || held.contains(address);
            if enough && said.len() > against && !confirmed.contains(address) {
                confirmed.push(address.clone());
            }
        }
        confirmed
    }
}

/// Whether this node can have been reached at `address`: on a port that it listens on, at an address of its
/// own or, behind a router that forwards the port, at another one of the Internet.
pub(super) fn is_plausible(address: &Multiaddr, own: &[Multiaddr]) -> bool {
    let Some(ip) = addresses::ip(address) else {
        return false;
    };
    let at_our_port = |own: &Multiaddr| addresses::with_ip(own, ip).as_ref() == Some(address);
    addresses::scope(address) == Some(Scope::Global) && own.iter().any(at_our_port)
}

/// Those of `own` that are addresses of this machine.
pub(super) fn ips(own: &[Multiaddr]) -> Vec<IpAddr> {
    own.iter().filter_map(addresses::ip).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use libp2p::PeerId;

    use super::super::voices::Part;
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn server(number: u8) -> Voice {
        (PeerId::random(), Part::V4([5, number]))
    }

    #[test]
    fn one_server_alone_confirms_nothing_where_there_are_two() {
        let (mut votes, now) = (Votes::default(), Instant::now());
        let (liar, honest) = (server(1), server(2));
        let there = vec![liar.clone(), honest.clone()];
        let at = address("/ip4/9.9.9.9/tcp/4001");
        votes.cast(now, liar.clone(), Some(at.clone()));
        votes.cast(now, liar.clone(), Some(at.clone()));
        assert!(votes.confirmed(&there, &[]).is_empty());
        votes.cast(now, honest.clone(), None);
        assert!(votes.confirmed(&there, &[]).is_empty());
        votes.cast(now, honest, Some(at.clone()));
        assert_eq!(votes.confirmed(&there, &[]), [at]);
    }

    #[test]
    fn one_server_alone_denies_nothing_where_there_are_two() {
        let (mut votes, now) = (Votes::default(), Instant::now());
        let (liar, honest) = (server(1), server(2));
        let there = [liar.clone(), honest.clone()];
        for _ in 0..4 {
            votes.cast(now, liar.clone(), None);
        }
        assert!(!votes.denied(&there));
        assert!(votes.denied(&there[..1]), "nobody else can be asked");
        votes.cast(now, honest.clone(), None);
        assert!(votes.denied(&there));
        // Whoever reaches it later takes that back.
        votes.cast(now, honest, Some(address("/ip4/9.9.9.9/tcp/4001")));
        assert!(!votes.denied(&there));
    }

    #[test]
    fn what_counts_ends_when_as_many_say_no() {
        let (mut votes, now) = (Votes::default(), Instant::now());
        let (first, second, third) = (server(1), server(2), server(3));
        let at = address("/ip4/9.9.9.9/tcp/4001");
        votes.cast(now, first.clone(), Some(at.clone()));
        let held = votes.confirmed(std::slice::from_ref(&first), &[]);
        assert_eq!(held, std::slice::from_ref(&at), "nobody else can be asked");
        // Somebody came who can be asked: that alone is no reason to doubt.
        let there = vec![first, second.clone(), third];
        assert_eq!(votes.confirmed(&there, &held), held);
        votes.cast(now, second, None);
        assert!(votes.confirmed(&there, &held).is_empty());
        votes.cast(now + VOTE_LIFE, server(4), Some(at.clone()));
        assert_eq!(votes.votes.len(), 1, "old votes are void");
        votes.clear();
        assert!(votes.confirmed(&there, &held).is_empty());
    }

    #[test]
    fn votes_are_bounded_and_the_latest_count() {
        let (mut votes, now) = (Votes::default(), Instant::now());
        for number in 0..100 {
            votes.cast(now, server(number), None);
        }
        assert_eq!(votes.votes.len(), MAX_VOTES);
    }

    #[test]
    fn only_ports_that_are_listened_on_can_have_been_reached() {
        let own = [
            address("/ip4/192.168.1.5/tcp/4001"),
            address("/ip4/192.168.1.5/udp/4001/quic-v1"),
        ];
        for (claimed, expected) in [
            ("/ip4/9.9.9.9/tcp/4001", true),
            ("/ip4/9.9.9.9/udp/4001/quic-v1", true),
            ("/ip4/9.9.9.9/tcp/80", false),
            ("/ip4/192.168.1.1/tcp/4001", false),
            ("/ip6/2a00::1/tcp/4001", false),
            ("/dns4/victim.example/tcp/4001", false),
        ] {
            assert_eq!(is_plausible(&address(claimed), &own), expected, "{claimed}");
        }
    }
}
