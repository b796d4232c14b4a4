//! Why a dial failed, in one line for the node's owner.
//!
//! [`Troubles`] keeps the last one of each peer, until the peer is connected; [`super::joining`] that of each
//! bootstrap node.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::time::{Duration, Instant};

use libp2p::core::transport::TransportError;
use libp2p::core::upgrade::NegotiationError;
use libp2p::noise;
use libp2p::relay::client::transport::Error as CircuitError;
use libp2p::relay::outbound::hop::ConnectError;
use libp2p::swarm::DialError;
use libp2p::{Multiaddr, PeerId};

use super::addresses;

/// A refusal of the same relay is told to the log this often at the most (1 minute).
const REFUSAL_INTERVAL: Duration = Duration::from_secs(60);

/// Peers and relays that are remembered for what was told of them.
const REMEMBERED: usize = 256;

/// Addresses of one peer of which is told why they did not work.
const SHOWN: usize = 3;

/// Why peers could not be reached when that was last tried.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    last: HashMap<PeerId, String>,
    /// Relays that refused circuits, each with the time at which the log was told.
    told: HashMap<PeerId, Instant>,
}

impl Troubles {
    /// Why `peer` was not reached. `None`: it was, or nobody tried.
    pub(super) fn of(&self, peer: &PeerId) -> Option<&str> {
        self.last.get(peer).map(String::as_str)
    }

    pub(super) fn on_connected(&mut self, peer: &PeerId) {
        self.last.remove(peer);
    }

    pub(super) fn on_dial_error(&mut self, now: Instant, peer: PeerId, error: &DialError) {
        self.tell_refusal(now, peer, error);
        if let Some(why) = of_dial(error) {
            remember(&mut self.last, peer, why);
        }
    }

    fn tell_refusal(&mut self, now: Instant, peer: PeerId, error: &DialError) {
        let Some((relay, why)) = refusal(error) else {
            return;
        };
        let told = self.told.get(&relay);
        if told.is_some_and(|at| now.saturating_duration_since(*at) < REFUSAL_INTERVAL) {
            return;
        }
        remember(&mut self.told, relay, now);
        tracing::warn!(%relay, %peer, "no connection through a relay: {why}");
    }
}

/// Makes room by forgetting all: what matters still is soon there again.
fn remember<T>(table: &mut HashMap<PeerId, T>, peer: PeerId, what: T) {
    if table.len() >= REMEMBERED {
        table.clear();
    }
    table.insert(peer, what);
}

/// Why a dial failed; `None` when that says nothing about the peer.
pub(super) fn of_dial(error: &DialError) -> Option<String> {
    match error {
        DialError::Transport(failures) => match refusal(error) {
            Some((relay, why)) => Some(format!("relay {relay}: {why}")),
            None => {
                let all: Vec<String> = failures.iter().take(SHOWN).map(of_transport).collect();
                (!all.is_empty()).then(|| all.join("; "))
            }
        },
        DialError::WrongPeerId { obtained, address } => Some(format!(
            "another node, {obtained}, answers at {address}: its key is a new one, or the address is another's now"
        )),
        DialError::LocalPeerId { .. }
        | DialError::NoAddresses
        | DialError::DialPeerConditionFalse(_)
        | DialError::Aborted
        | DialError::Denied { .. } => None,
    }
}

/// The first relay that refused, and why.
fn refusal(error: &DialError) -> Option<(PeerId, &'static str)> {
    let DialError::Transport(failures) = error else {
        return None;
    };
    failures
        .iter()
        .find_map(|(address, error)| Some((addresses::relay_of(address)?, of_circuit(error)?)))
}

fn of_transport((address, error): &(Multiaddr, TransportError<io::Error>)) -> String {
    let TransportError::Other(error) = error else {
        return format!("{address} is of a kind that this network does not speak");
    };
    // The connection stood, and its first words were no sense.
    let strange = cause::<noise::Error>(error).is_some();
    if strange || cause::<NegotiationError>(error).is_some() {
        return format!(
            "what answers at {address} is no node of this network, or one with another key"
        );
    }
    // Each layer wraps what the one below says: the system's own word is the deepest.
    let kinds = causes(error).filter_map(<dyn Error>::downcast_ref::<io::Error>);
    match kinds.map(io::Error::kind).last() {
        Some(io::ErrorKind::ConnectionRefused) => format!("nobody listens at {address}"),
        Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
            format!("no route leads to {address}")
        }
        Some(io::ErrorKind::TimedOut) => format!("no answer from {address}"),
        _ => {
            let deepest = causes(error).last().map(ToString::to_string);
            let said = deepest.unwrap_or_default();
            format!("{address}: {}", said.lines().next().unwrap_or_default())
        }
    }
}

/// The first cause of this kind.
pub(super) fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    causes(error).find_map(<dyn Error>::downcast_ref)
}

/// An error and what it wraps, from the outside in.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // An I/O error hides what it wraps from `source`.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        match inner {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

/// Why a relay does not connect this node with a peer, when it said so.
fn of_circuit(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let why = match cause::<ConnectError>(error) {
        Some(why) => why,
        None => match cause::<CircuitError>(error)? {
            CircuitError::Connect(why) => why,
            _ => return None,
        },
    };
    Some(match why {
        ConnectError::ResourceLimitExceeded => {
            "the relay has as many circuits as it allows; it is tried again, and more room gives a node \
             with a public address that runs `p2pnode join --relay on`"
        }
        ConnectError::PermissionDenied => {
            "the relay does not permit it; another way is tried, and a node with a public address that \
             runs `p2pnode join --relay on` gives one more"
        }
        ConnectError::NoReservation => {
            "the peer has no place at this relay any more; its new one is looked for"
        }
        ConnectError::ConnectionFailed => "the relay cannot reach the peer; it may be gone",
        ConnectError::Unsupported => "it does not relay any more; another way is tried",
        ConnectError::Io(_) | ConnectError::Protocol(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_refusal_is_found_however_deep_it_is_wrapped_and_said_plainly() {
        for (refused, said) in [
            (
                ConnectError::ResourceLimitExceeded,
                "p2pnode join --relay on",
            ),
            (ConnectError::PermissionDenied, "does not permit it"),
            (ConnectError::NoReservation, "no place at this relay"),
            (ConnectError::ConnectionFailed, "cannot reach the peer"),
            (ConnectError::Unsupported, "does not relay"),
        ] {
            let refused = CircuitError::Connect(refused);
            let wrapped = io::Error::other(io::Error::other(refused));
            let relay = PeerId::random();
            let address = format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit");
            let failures = vec![(address.parse().unwrap(), TransportError::Other(wrapped))];
            let why = of_dial(&DialError::Transport(failures)).unwrap();
            assert!(why.starts_with(&format!("relay {relay}: ")), "{why}");
            assert!(why.contains(said), "{why}");
        }
        assert_eq!(of_circuit(&io::Error::other("something else")), None);
    }
}
