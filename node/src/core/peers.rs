//! Peers as this node knows them: what they say they have, and whether a connection is open.
//!
//! Owned by [`super::Core`]; the submitting side reads it to place tasks. It must never decide what a
//! peer is used for. Adverts are already checked (signature, network, time, order) when they come here.

use std::collections::BTreeMap;

use p2pnode_protocol::advert::{Advert, MAX_WHY_BYTES};
use p2pnode_protocol::text::is_plain;
use p2pnode_protocol::{Capacity, PeerId};

use super::desk::{Cx, Timer};
use super::io::{Effect, Millis};

/// One peer.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) advert: Option<Box<Advert>>,
    pub(super) connected: bool,
    pub(super) seen_ms: Millis,
    dialled_ms: Option<Millis>,
}

/// What a new advert changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// The table is full of better-known peers.
    Ignored,
    /// The peer was not known to offer anything.
    Appeared,
    /// It offers other things than before.
    Changed,
    /// Only what is free of it changed.
    Same,
}

/// All peers.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) me: PeerId,
    /// What this node offers itself, when it offers something.
    own: Option<Box<Advert>>,
    table: BTreeMap<PeerId, Peer>,
}

/// Whether an advert offers anything.
pub(super) const fn offers(total: &Capacity) -> bool {
    total.cpus.0 > 0 || total.memory.0 > 0 || !total.gpus.is_empty()
}

/// The end of a peer's id, which is what differs, as long as it takes to name the peer.
fn short(peer: &PeerId) -> String {
    let text = peer.to_base58();
    let from = text.len().saturating_sub(10);
    format!("…{}", &text[from..])
}

/// A peer's own words, fit for a terminal.
pub(super) fn printable(words: &str) -> String {
    let shown = words.chars().filter(|letter| is_plain(*letter));
    shown.take(MAX_WHY_BYTES).collect()
}

impl Peers {
    pub(super) const fn new(me: PeerId) -> Self {
        Self {
            me,
            own: None,
            table: BTreeMap::new(),
        }
    }

    pub(super) fn on_connected(&mut self, now: Millis, peer: PeerId) {
        let entry = self.table.entry(peer).or_default();
        entry.connected = true;
        entry.seen_ms = now;
    }

    pub(super) fn on_disconnected(&mut self, now: Millis, peer: PeerId) {
        if let Some(entry) = self.table.get_mut(&peer) {
            entry.connected = false;
            entry.seen_ms = now;
            if entry.advert.is_none() {
                self.table.remove(&peer);
            }
        }
    }

    pub(super) fn on_advert(&mut self, cx: &mut Cx, peer: PeerId, advert: Box<Advert>) -> News {
        if peer == self.me {
            return News::Ignored;
        }
        let full = self.table.len() >= cx.config.max_peers;
        if full && !self.table.contains_key(&peer) {
            return News::Ignored;
        }
        cx.set(Timer::Advert(peer), cx.now.saturating_add(advert.ttl_ms));
        let entry = self.table.entry(peer).or_default();
        entry.seen_ms = cx.now;
        let news = match &entry.advert {
            Some(before) if offers(&before.total) || !offers(&advert.total) => {
                let same = before.total == advert.total
                    && before.runtimes == advert.runtimes
                    && before.labels == advert.labels
                    && before.images == advert.images
                    && before.closed == advert.closed
                    && before.away == advert.away
                    && before.features == advert.features;
                if same { News::Same } else { News::Changed }
            }
            None if !offers(&advert.total) => News::Changed,
            _ => News::Appeared,
        };
        entry.advert = Some(advert);
        news
    }

    /// The advert's time is over.
    pub(super) fn on_expired(&mut self, peer: PeerId) {
        if let Some(entry) = self.table.get_mut(&peer) {
            entry.advert = None;
            if !entry.connected {
                self.table.remove(&peer);
            }
        }
    }

    /// What this node offers itself, from now on.
    pub(super) fn set_own(&mut self, advert: Option<Advert>) {
        self.own = advert.map(Box::new);
    }

    /// What is free here.
    pub(super) fn set_own_free(&mut self, free: &Capacity, running: u32, queued: u32) {
        if let Some(own) = &mut self.own {
            own.free.clone_from(free);
            own.running = running;
            own.queued = queued;
        }
    }

    /// Whether a message could be sent now.
    pub(super) fn is_connected(&self, peer: &PeerId) -> bool {
        *peer == self.me || self.table.get(peer).is_some_and(|peer| peer.connected)
    }

    pub(super) fn advert(&self, peer: &PeerId) -> Option<&Advert> {
        if *peer == self.me {
            return self.own.as_deref();
        }
        self.table.get(peer)?.advert.as_deref()
    }

    pub(super) fn name(&self, peer: &PeerId) -> Option<&str> {
        self.advert(peer).map(|advert| advert.name.as_str())
    }

    /// The peer in words, for a person.
    pub(super) fn spoken(&self, peer: &PeerId) -> String {
        if *peer == self.me {
            return "this node".to_owned();
        }
        match self.name(peer) {
            Some(name) if !name.is_empty() => format!("{} ({})", printable(name), short(peer)),
            _ => short(peer),
        }
    }

    /// Every peer whose advert is known, this node among them when it offers.
    pub(super) fn offering(&self) -> impl Iterator<Item = (PeerId, &Advert)> {
        let own = self.own.as_deref().map(|advert| (self.me, advert));
        let others = self.table.iter();
        own.into_iter()
            .chain(others.filter_map(|(id, peer)| Some((*id, peer.advert.as_deref()?))))
    }

    /// All other peers.
    pub(super) fn others(&self) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.table.iter()
    }

    /// Asks for a connection, unless that was asked a moment ago.
    pub(super) fn dial(&mut self, cx: &mut Cx, peer: PeerId) {
        if self.is_connected(&peer) {
            return;
        }
        if self.table.len() >= cx.config.max_peers && !self.table.contains_key(&peer) {
            cx.out.push(Effect::Connect(peer));
            return;
        }
        let entry = self.table.entry(peer).or_default();
        let due = entry
            .dialled_ms
            .is_none_or(|at| cx.now >= at.saturating_add(cx.config.dial_every_ms));
        if due {
            entry.dialled_ms = Some(cx.now);
            cx.out.push(Effect::Connect(peer));
        }
    }

    /// Asks for a connection at once.
    pub(super) fn redial(&mut self, cx: &mut Cx, peer: PeerId) {
        if let Some(entry) = self.table.get_mut(&peer) {
            entry.dialled_ms = Some(cx.now);
        }
        cx.out.push(Effect::Connect(peer));
    }
}
