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

/// At how many relays a node behind NAT has a place: one may fail.
const RELAYS: usize = 2;

/// The most relays that are remembered as such.
const MAX_CANDIDATES: usize = 16;

/// How long a relay that refused a place is left alone (2 minutes): its own rates are counted by the
/// minute, and places elsewhere may become free.
const REST: Duration = Duration::from_secs(120);

/// How long a relay is left alone whose place was lost (3 s): it may be gone, and another is better then; or
/// only one of several connections to it has closed.
const LOST_REST: Duration = Duration::from_secs(3);

/// Time between two searches for relays (20 s, the longest that one takes) while a place is missing.
const SEARCH_INTERVAL: Duration = Duration::from_secs(20);

/// First wait before a search (4 s): relays among the first peers are found by then without one, and one
/// that was lost has rested.
const FIRST_SEARCH: Duration = Duration::from_secs(4);

/// How long a relay may take to give a place before another is asked as well (15 s: a dial and a round trip).
const ASKING: Duration = Duration::from_secs(15);

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
    /// Relays that refused, and until when they are left alone.
    resting: HashMap<PeerId, Instant>,
    search: Option<Instant>,
    /// Why the last relay gave no place, and what helps.
    trouble: Option<String>,
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
    pub(super) fn candidate(&mut self, peer: PeerId, address: &Multiaddr) {
        // A place at an address of a LAN is none for anybody outside of it.
        let useful = addresses::scope(address).is_some_and(|scope| scope != Scope::Private);
        let room = self.candidates.len() < MAX_CANDIDATES || self.candidates.contains_key(&peer);
        if useful && room {
            self.candidates.insert(peer, address.clone());
        }
    }

    /// `peer` does not relay any more.
    pub(super) fn no_candidate(&mut self, peer: &PeerId) {
        self.candidates.remove(peer);
    }

    /// Asks for as many places as are missing, and plans a search when too few relays are known.
    pub(super) fn fill(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        self.resting.retain(|_, until| *until > now);
        self.tidy = None;
        let missing = RELAYS.saturating_sub(self.counted());
        let free: Vec<(PeerId, Multiaddr)> = self
            .candidates
            .iter()
            .filter(|(peer, _)| {
                let used = self.uses(peer) || self.asking.contains(peer);
                !used && !self.resting.contains_key(peer)
            })
            .take(missing)
            .map(|(peer, address)| (*peer, address.clone()))
            .collect();
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
        self.resting.insert(place.relay, now + rest);
        true
    }

    /// No places are needed: lets those go whose relay is of no other use. The rest is looked at again.
    pub(super) fn give_up(&mut self, cx: &mut Context<'_>) {
        self.search = None;
        self.trouble = None;
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
impl Relays {
    pub(super) fn be_patient_for(&mut self, patience: Duration) {
        self.patience = patience;
    }
}
