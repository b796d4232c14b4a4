//! Counts what peers do wrong, and says when it is too much.
//!
//! Owns one score per peer and the list of peers that are shut out for a while. Called by the actor
//! with what the other modules report, and by the rest of the node through
//! [`super::NetHandle::report_misbehaviour`]. It never closes a connection itself and keeps no clock:
//! the caller passes the time in and acts on the answer.
//!
//! A peer that errs once (a message cut short by a crash, an old version) must not be lost for it,
//! and a peer that sends garbage all day must not be served: points add up and fade.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// Points at which a peer is disconnected and shut out: a little less than 100, so that ten mistakes
/// of 10 points are ten even when some seconds pass between them.
const LIMIT: f64 = 95.0;

/// Points fade to half in this time (5 minutes): a few mistakes an hour never add up.
const HALF_LIFE: Duration = Duration::from_secs(300);

/// How long a peer is shut out (10 minutes): long against its next try, short for an honest peer
/// that was updated meanwhile.
const SHUT_OUT: Duration = Duration::from_secs(600);

/// The most peers whose points are remembered. Ids are free for an attacker, so the table is
/// bounded; 4,096 entries are some 400 KiB.
const MAX_PEERS: usize = 4_096;

/// The most peers that are shut out at a time; more, and the first are let in again early.
const MAX_SHUT_OUT: usize = 4_096;

/// Something that a correct peer never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Misdeed {
    /// Sent bytes that are not a message.
    Garbage,
    /// Sent more than the protocol allows.
    Oversize,
    /// Speaks another version of our protocols, and none that we know.
    UnknownVersion,
    /// Is of another network.
    OtherNetwork,
    /// Sent an advert whose signature, network or life is wrong.
    ForgedAdvert,
    /// Sent an advert that its maker had replaced long before.
    ReplayedAdvert,
    /// Sent bytes that do not have the digest they were asked for by.
    WrongChunk,
    /// Named a path outside the folder it belongs in.
    BadPath,
    /// Sent a valid message that makes no sense from it (an answer to nothing, a foreign record).
    OutOfPlace,
}

impl Misdeed {
    /// What it is called in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::Oversize => "oversize",
            Self::UnknownVersion => "unknown_version",
            Self::OtherNetwork => "other_network",
            Self::ForgedAdvert => "forged_advert",
            Self::ReplayedAdvert => "replayed_advert",
            Self::WrongChunk => "wrong_chunk",
            Self::BadPath => "bad_path",
            Self::OutOfPlace => "out_of_place",
        }
    }

    /// How many points it costs. 10 mistakes of the ordinary kind are the limit; what no software
    /// does by accident costs more, what a strange network might cause costs less; and with a peer of
    /// another network there is nothing to talk about.
    fn points(self) -> f64 {
        match self {
            Self::OtherNetwork | Self::UnknownVersion => LIMIT,
            // gossipsub itself listens to three forged messages and no more.
            Self::ForgedAdvert | Self::BadPath => 33.0,
            Self::WrongChunk | Self::Oversize => 20.0,
            Self::Garbage => 10.0,
            Self::OutOfPlace | Self::ReplayedAdvert => 5.0,
        }
    }
}

/// What to do about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Counted,
    /// Disconnect it and let it in no more until [`Conduct::released`] says so.
    ShutOut,
}

#[derive(Debug)]
struct Score {
    points: f64,
    at: Instant,
}

/// The book of misdeeds.
#[derive(Debug, Default)]
pub struct Conduct {
    scores: HashMap<PeerId, Score>,
    /// Who is shut out until when, in that order.
    shut_out: VecDeque<(Instant, PeerId)>,
}

impl Conduct {
    /// Writes down that `peer` did `misdeed`.
    pub fn report(&mut self, peer: PeerId, misdeed: Misdeed, now: Instant) -> Verdict {
        if !self.scores.contains_key(&peer) {
            self.make_room(now);
        }
        let score = self.scores.entry(peer).or_insert(Score {
            points: 0.0,
            at: now,
        });
        score.points = faded(score, now) + misdeed.points();
        score.at = now;
        if score.points < LIMIT {
            return Verdict::Counted;
        }
        self.scores.remove(&peer);
        self.shut_out.push_back((now + SHUT_OUT, peer));
        Verdict::ShutOut
    }

    /// When the next shut-out ends.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.shut_out.front().map(|(until, _)| *until)
    }

    /// The peers whose shut-out is over.
    pub fn released(&mut self, now: Instant) -> Vec<PeerId> {
        let mut released = Vec::new();
        while let Some((until, peer)) = self.shut_out.front() {
            if *until > now && self.shut_out.len() <= MAX_SHUT_OUT {
                break;
            }
            released.push(*peer);
            self.shut_out.pop_front();
        }
        released
    }

    /// Forgets the least burdened peer when the table is full.
    fn make_room(&mut self, now: Instant) {
        if self.scores.len() < MAX_PEERS {
            return;
        }
        let least = self
            .scores
            .iter()
            .min_by(|(_, a), (_, b)| faded(a, now).total_cmp(&faded(b, now)))
            .map(|(peer, _)| *peer);
        if let Some(peer) = least {
            self.scores.remove(&peer);
        }
    }
}

fn faded(score: &Score, now: Instant) -> f64 {
    let age = now.saturating_duration_since(score.at).as_secs_f64();
    score.points * 0.5_f64.powf(age / HALF_LIFE.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_adds_up_to_a_shut_out_that_ends() {
        let mut conduct = Conduct::default();
        let (peer, now) = (PeerId::random(), Instant::now());
        for _ in 0..9 {
            assert_eq!(
                conduct.report(peer, Misdeed::Garbage, now),
                Verdict::Counted
            );
        }
        assert_eq!(
            conduct.report(peer, Misdeed::Garbage, now),
            Verdict::ShutOut
        );
        let end = now + SHUT_OUT;
        assert_eq!(conduct.deadline(), Some(end));
        assert!(conduct.released(end - Duration::from_millis(1)).is_empty());
        assert_eq!(conduct.released(end), [peer]);
        assert_eq!(conduct.deadline(), None);
        // It starts anew.
        assert_eq!(
            conduct.report(peer, Misdeed::Garbage, end),
            Verdict::Counted
        );
    }

    #[test]
    fn rare_mistakes_fade() {
        let mut conduct = Conduct::default();
        let (peer, mut now) = (PeerId::random(), Instant::now());
        for _ in 0..100 {
            assert_eq!(
                conduct.report(peer, Misdeed::WrongChunk, now),
                Verdict::Counted
            );
            now += HALF_LIFE;
        }
    }

    #[test]
    fn another_network_is_one_too_many() {
        let mut conduct = Conduct::default();
        assert_eq!(
            conduct.report(PeerId::random(), Misdeed::OtherNetwork, Instant::now()),
            Verdict::ShutOut
        );
    }

    #[test]
    fn not_more_than_so_many_are_shut_out() {
        let mut conduct = Conduct::default();
        let now = Instant::now();
        for _ in 0..MAX_SHUT_OUT + 3 {
            conduct.report(PeerId::random(), Misdeed::OtherNetwork, now);
        }
        assert_eq!(conduct.released(now).len(), 3);
        assert_eq!(conduct.released(now + SHUT_OUT).len(), MAX_SHUT_OUT);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let mut conduct = Conduct::default();
        let (worst, now) = (PeerId::random(), Instant::now());
        for _ in 0..9 {
            conduct.report(worst, Misdeed::Garbage, now);
        }
        for _ in 0..MAX_PEERS + 10 {
            conduct.report(PeerId::random(), Misdeed::OutOfPlace, now);
        }
        assert_eq!(conduct.scores.len(), MAX_PEERS);
        assert_eq!(
            conduct.report(worst, Misdeed::Garbage, now),
            Verdict::ShutOut
        );
    }
}
