//! Which relays are asked, and how often.
#![allow(clippy::unwrap_used)]

use super::*;

impl Relays {
    /// Counts on a place for no longer than this.
    pub(in super::super) fn be_patient_for(&mut self, patience: Duration) {
        self.patience = patience;
    }
}

fn address() -> Multiaddr {
    "/ip4/5.0.1.2/tcp/4001".parse().unwrap()
}

/// A place at `relay` is given, and lost at once.
fn lose(relays: &mut Relays, now: Instant, relay: PeerId) -> Duration {
    let listener = ListenerId::next();
    relays.on_listening(now, relay, Some(listener));
    assert!(relays.on_given(relay));
    assert!(relays.on_closed(now, listener, None));
    relays.resting[&relay].length
}

#[test]
fn who_drops_every_place_is_asked_less_and_less() {
    let (mut relays, relay, mut now) = (Relays::default(), PeerId::random(), Instant::now());
    let mut last = Duration::ZERO;
    for round in 0..12 {
        let rest = lose(&mut relays, now, relay);
        let expected = (LOST_REST * 2_u32.pow(round)).min(LONGEST_REST);
        assert_eq!(rest, expected);
        assert!(relays.rests(&relay, now + rest / 2));
        assert!(!relays.rests(&relay, now + rest));
        now += rest;
        last = rest;
    }
    assert_eq!(last, LONGEST_REST);
    // One that was held for long is a good one again.
    assert_eq!(lose(&mut relays, now + LONGEST_REST, relay), LOST_REST);
}

#[test]
fn one_that_rests_makes_room_for_another() {
    let (mut relays, now) = (Relays::default(), Instant::now());
    let known: Vec<PeerId> = (0..MAX_CANDIDATES).map(|_| PeerId::random()).collect();
    for relay in &known {
        relays.candidate(now, *relay, &address());
    }
    let other = PeerId::random();
    relays.candidate(now, other, &address());
    assert!(!relays.candidates.contains_key(&other), "all are good");
    relays.rest(now, known[3], REST);
    relays.candidate(now, other, &address());
    assert!(relays.candidates.contains_key(&other));
    assert!(!relays.candidates.contains_key(&known[3]));
    assert_eq!(relays.candidates.len(), MAX_CANDIDATES);
}

#[test]
fn those_that_rest_are_bounded() {
    let (mut relays, now) = (Relays::default(), Instant::now());
    for _ in 0..1_000 {
        relays.rest(now, PeerId::random(), REST);
    }
    assert_eq!(relays.resting.len(), MAX_RESTING);
}

#[test]
fn places_are_kept_for_a_while_when_they_are_not_needed() {
    let (mut relays, now) = (Relays::default(), Instant::now());
    relays.needed = true;
    relays.on_listening(now, PeerId::random(), Some(ListenerId::next()));
    relays.spare(now);
    relays.spare(now + KEPT / 2);
    assert_eq!(relays.tidy, Some(now + KEPT), "since the first time");
    assert_eq!(relays.places.len(), 1);
}

#[test]
fn places_are_sought_in_different_parts_of_the_internet() {
    let (mut relays, now) = (Relays::default(), Instant::now());
    let ids: Vec<PeerId> = (0..9).map(|_| PeerId::random()).collect();
    for (number, id) in ids.iter().enumerate() {
        let address = format!("/ip4/5.0.1.{number}/tcp/4001").parse().unwrap();
        relays.candidate(now, *id, &address);
    }
    // All of them are neighbours: better two of them than one.
    assert_eq!(relays.free(now, RELAYS).len(), RELAYS);
    let far = PeerId::random();
    relays.candidate(now, far, &"/ip4/9.0.1.1/tcp/4001".parse().unwrap());
    let both = relays.free(now, RELAYS);
    assert_eq!(both.iter().filter(|(peer, _)| *peer == far).count(), 1);
    // With a place at one of the neighbours, it is the other's turn.
    relays.on_listening(now, ids[0], Some(ListenerId::next()));
    let next = relays.free(now, 1);
    assert_eq!(next[0].0, far);
    relays.rest(now, far, REST);
    let next = relays.free(now, 1);
    assert!(next[0].0 != far && next[0].0 != ids[0]);
}
