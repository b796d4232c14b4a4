//! The relays of a node behind NAT: which there are, at which it has a place, and what to do about a lost
//! one.
//!
//! Owned by [`super::Reach`], which says when places are needed. Two are held, at different relays. A relay
//! is any peer that says so when it is identified, whether it was a bootstrap node, a neighbour in the DHT,
//! or found there by its record as a relay; when too few are known, the actor is asked to search.
//!
//! A listener at a relay is never removed. An answer of the relay may be under way (to the first request, or
//! to one of the renewals, which libp2p sends unseen), and libp2p's client panics at an answer to a listener
//! that is gone. A listener ends with its request, after 60 s at the latest, or with the connection.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use super::super::addresses::{self, Scope};
use super::super::context::{Action, Context};
use super::super::peer::Link;
use super::voices::Part;

/// At how many relays a node behind NAT has a place: one may fail.
const RELAYS: usize = 2;

/// The most relays that are remembered as such.
const MAX_CANDIDATES: usize = 16;

/// How long a relay that refused a place is left alone (2 minutes): its own rates are counted by the
/// minute, and places elsewhere may become free.
const REST: Duration = Duration::from_secs(120);

/// How long a relay is left alone whose place was lost (3 s): it may be gone, and another is better then; or
/// only one of several connections to it has closed. Twice as long each time that it happens again.
const LOST_REST: Duration = Duration::from_secs(3);

/// The longest rest (10 minutes), and for how long after a rest a further loss is one more: a place that
/// was held for longer was a good one.
const LONGEST_REST: Duration = Duration::from_secs(600);

/// Relays that are remembered as resting.
const MAX_RESTING: usize = 64;

/// Time between two searches for relays (20 s, the longest that one takes) while a place is missing.
const SEARCH_INTERVAL: Duration = Duration::from_secs(20);

/// First wait before a search (4 s): relays among the first peers are found by then without one, and one
/// that was lost has rested.
const FIRST_SEARCH: Duration = Duration::from_secs(4);

/// How long a relay may take to give a place before another is asked as well (15 s: a dial and a round trip).
const ASKING: Duration = Duration::from_secs(15);

/// How long places are kept that are not needed (5 minutes): who was found public may not be so for long, and
/// then has none to return to.
const KEPT: Duration = Duration::from_secs(300);

/// How long the connection to a relay has to be out of use before it is closed together with a place that is
/// not needed (1 minute), and how often that is looked at.
const OUT_OF_USE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Asked for.
    Asked,
    /// Asked for so long ago that nobody counts on it.
    Late,
    /// Given.
    Given,
}

/// A relay that is left alone, for a time.
#[derive(Debug)]
struct Rest {
    until: Instant,
    length: Duration,
}

#[derive(Debug)]
struct Place {
    relay: PeerId,
    state: State,
    /// When it was asked for.
    since: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Relays {
    /// How long a place may take to be given.
    patience: Duration,
    candidates: HashMap<PeerId, Multiaddr>,
    places: HashMap<ListenerId, Place>,
    /// Relays that are being asked for the swarm to listen there.
    asking: HashSet<PeerId>,
    /// Relays that refused or dropped a place. Remembered for some time after their rest.
    resting: HashMap<PeerId, Rest>,
    search: Option<Instant>,
    /// Why the last relay gave no place, and what helps.
    trouble: Option<String>,
    /// Whether places are needed.
    needed: bool,
    /// When places that are not needed are looked at next.
    tidy: Option<Instant>,
}

impl Default for Relays {
    fn default() -> Self {
        Self {
            patience: ASKING,
            candidates: HashMap::new(),
            places: HashMap::new(),
            asking: HashSet::new(),
            resting: HashMap::new(),
            search: None,
            trouble: None,
            needed: false,
            tidy: None,
        }
    }
}

impl Relays {
    /// The relays at which this node has a place.
    pub(super) fn held(&self) -> Vec<PeerId> {
        let places = self.places.values();
        let given = places.filter(|place| place.state == State::Given);
        given.map(|place| place.relay).collect()
    }

    /// Places that there are or will be soon.
    fn counted(&self) -> usize {
        let places = self.places.values();
        let counted = places.filter(|place| place.state != State::Late).count();
        counted + self.asking.len()
    }

    /// Whether `peer` is a relay of ours, or about to be.
    pub(super) fn uses(&self, peer: &PeerId) -> bool {
        self.places.values().any(|place| place.relay == *peer)
    }

    /// What an owner has to know about relays that refuse.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref().filter(|_| self.held().is_empty())
    }

    /// `peer` relays, and was dialled at this address.
    pub(super) fn candidate(&mut self, now: Instant, peer: PeerId, address: &Multiaddr) {
        // A place at an address of a LAN is none for anybody outside of it.
        let useful = addresses::scope(address).is_some_and(|scope| scope != Scope::Private);
        if !useful {
            return;
        }
        if self.candidates.len() >= MAX_CANDIDATES && !self.candidates.contains_key(&peer) {
            // One that refuses makes room for one that perhaps does not.
            let mut known = self.candidates.keys();
            let Some(resting) = known.find(|known| self.rests(known, now)).copied() else {
                return;
            };
            self.candidates.remove(&resting);
        }
        self.candidates.insert(peer, address.clone());
    }

    fn rests(&self, relay: &PeerId, now: Instant) -> bool {
        self.resting.get(relay).is_some_and(|rest| rest.until > now)
    }

    /// Leaves `relay` alone: for `least`, or for twice as long as the last time, if that was not long ago.
    fn rest(&mut self, now: Instant, relay: PeerId, least: Duration) {
        self.resting
            .retain(|_, rest| rest.until + LONGEST_REST > now);
        let again = self.resting.get(&relay).map(|rest| rest.length * 2);
        let length = again.map_or(least, |again| again.clamp(least, LONGEST_REST));
        let until = now + length;
        if self.resting.len() >= MAX_RESTING && !self.resting.contains_key(&relay) {
            let first = self.resting.iter().min_by_key(|(_, rest)| rest.until);
            if let Some(first) = first.map(|(relay, _)| *relay) {
                self.resting.remove(&first);
            }
        }
        self.resting.insert(relay, Rest { until, length });
    }

    /// `peer` does not relay any more.
    pub(super) fn no_candidate(&mut self, peer: &PeerId) {
        self.candidates.remove(peer);
    }

    /// Asks for as many places as are missing, and plans a search when too few relays are known.
    pub(super) fn fill(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        self.needed = true;
        self.tidy = None;
        let missing = RELAYS.saturating_sub(self.counted());
        let free = self.free(now, missing);
        if free.len() < missing {
            self.search.get_or_insert(now + FIRST_SEARCH);
        } else if missing == 0 {
            self.search = None;
        }
        for (peer, mut circuit) in free {
            if !matches!(circuit.iter().last(), Some(Protocol::P2p(_))) {
                circuit.push(Protocol::P2p(peer));
            }
            circuit.push(Protocol::P2pCircuit);
            self.asking.insert(peer);
            cx.actions.push(Action::Reserve(peer, circuit));
        }
    }

    /// As many relays to ask as are `missing`, if there are so many. Preferably in other parts of the Internet
    /// than those in use: what takes one down takes its neighbours down, too.
    fn free(&self, now: Instant, missing: usize) -> Vec<(PeerId, Multiaddr)> {
        let used = |peer: &PeerId| self.uses(peer) || self.asking.contains(peer);
        let (used, free): (Vec<_>, Vec<_>) =
            self.candidates.iter().partition(|(peer, _)| used(peer));
        let mut free = free;
        free.retain(|(peer, _)| !self.rests(peer, now));
        let mut parts: Vec<Part> = used
            .iter()
            .filter_map(|(_, address)| Part::of(address))
            .collect();
        let mut chosen = Vec::new();
        while chosen.len() < missing && !free.is_empty() {
            let is_elsewhere =
                |address| Part::of(address).is_some_and(|part| !parts.contains(&part));
            let elsewhere = free.iter().position(|(_, address)| is_elsewhere(address));
            let (peer, address) = free.swap_remove(elsewhere.unwrap_or(0));
            parts.extend(Part::of(address));
            chosen.push((*peer, address.clone()));
        }
        chosen
    }

    /// The swarm listens at a relay now, or could not even begin to.
    pub(super) fn on_listening(&mut self, now: Instant, relay: PeerId, on: Option<ListenerId>) {
        self.asking.remove(&relay);
        match on {
            Some(listener) => {
                let place = Place {
                    relay,
                    state: State::Asked,
                    since: now,
                };
                self.places.insert(listener, place);
            }
            None => self.no_candidate(&relay),
        }
    }

    /// A relay gave a place. Returns whether that is news.
    pub(super) fn on_given(&mut self, relay: PeerId) -> bool {
        self.trouble = None;
        let mut places = self.places.values_mut();
        let place = places.find(|place| place.relay == relay && place.state != State::Given);
        place.is_some_and(|place| {
            place.state = State::Given;
            true
        })
    }

    /// A listener ended, with a reason when it was refused. Returns whether a place was lost.
    pub(super) fn on_closed(
        &mut self,
        now: Instant,
        listener: ListenerId,
        refusal: Option<String>,
    ) -> bool {
        let Some(place) = self.places.remove(&listener) else {
            return false;
        };
        let rest = match refusal {
            Some(why) => {
                tracing::warn!(relay = %place.relay, "{why}");
                self.trouble = Some(format!("the relay {}: {why}", place.relay));
                REST
            }
            None => {
                tracing::info!(relay = %place.relay, "no place at this relay any more");
                // One that did not even answer is a relay again when it says so anew.
                if place.state != State::Given {
                    self.candidates.remove(&place.relay);
                }
                LOST_REST
            }
        };
        self.rest(now, place.relay, rest);
        true
    }

    /// No places are needed any more, at least for now.
    pub(super) fn spare(&mut self, now: Instant) {
        self.search = None;
        self.trouble = None;
        if std::mem::take(&mut self.needed) {
            self.tidy = Some(now + KEPT);
        }
    }

    /// Lets those places go whose relay is of no other use. The rest is looked at again.
    fn give_up(&mut self, cx: &mut Context<'_>) {
        self.tidy = (!self.places.is_empty()).then(|| cx.now + OUT_OF_USE);
        for relay in self.held() {
            let Some(entry) = cx.peers.get(&relay) else {
                continue;
            };
            let used = entry.last_used.is_some_and(|at| at + OUT_OF_USE > cx.now);
            let carries = |link: &Link| cx.behaviour.streams.carries(&relay, link.id);
            if used || entry.links.iter().any(carries) {
                continue;
            }
            // The place ends with the connection that it hangs on; which one that is, libp2p alone knows.
            let direct = entry.links.iter().filter(|link| !link.is_relayed());
            let closing = direct.map(|link| Action::Close(link.id));
            cx.actions.extend(closing);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let places = self.places.values();
        let asked = places.filter(|place| place.state == State::Asked);
        let late = asked.map(|place| place.since + self.patience);
        late.chain(self.search).chain(self.tidy).min()
    }

    /// Looks for places elsewhere in the stead of those that take too long; returns whether it is time to
    /// search for relays.
    pub(super) fn on_deadline(&mut self, cx: &mut Context<'_>) -> bool {
        let now = cx.now;
        if self.tidy.is_some_and(|at| at <= now) {
            self.give_up(cx);
            return false;
        }
        let mut late = false;
        for place in self.places.values_mut() {
            if place.state == State::Asked && place.since + self.patience <= now {
                place.state = State::Late;
                late = true;
            }
        }
        if late {
            self.fill(cx);
        }
        let due = self.search.is_some_and(|at| at <= now);
        if due {
            // Those that rested may have rested long enough.
            self.fill(cx);
            self.search = Some(now + SEARCH_INTERVAL);
        }
        due && self.counted() < RELAYS
    }
}

#[cfg(test)]
mod tests;
