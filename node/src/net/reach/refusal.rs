//! What a relay's refusal means for the owner of this node, in one line with its mend; and when it is told.

use std::collections::HashMap;
use std::error::Error;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::relay::client::transport::Error as CircuitError;
use libp2p::relay::outbound::hop::{ConnectError, ReserveError};
use libp2p::swarm::DialError;

use super::super::addresses;

/// A refusal of the same relay is told to the log this often at the most (1 minute).
const REFUSAL_INTERVAL: Duration = Duration::from_secs(60);

/// Relays whose refusals are remembered for that.
const MAX_REFUSALS: usize = 64;

/// Relays that refused circuits, each with the time at which the log was told.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    told: HashMap<PeerId, Instant>,
}

impl Refusals {
    /// A dial failed, perhaps because a relay refused.
    pub(super) fn on_dial_error(&mut self, now: Instant, peer: Option<PeerId>, error: &DialError) {
        let DialError::Transport(failures) = error else {
            return;
        };
        for (address, error) in failures {
            let Some(relay) = addresses::relay_of(address) else {
                continue;
            };
            let Some(why) = of_circuit(error) else {
                continue;
            };
            let told = self.told.get(&relay);
            if told.is_some_and(|at| now.saturating_duration_since(*at) < REFUSAL_INTERVAL) {
                continue;
            }
            if self.told.len() >= MAX_REFUSALS {
                self.told.clear();
            }
            self.told.insert(relay, now);
            let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
            tracing::warn!(%relay, peer, "no connection through a relay: {why}");
        }
    }
}

/// The first cause of this kind.
fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        // An I/O error hides what it wraps from `source`.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Why a relay gives this node no place, when it said so.
pub(super) fn of_place(error: &(dyn Error + 'static)) -> Option<String> {
    let why = match cause::<ReserveError>(error) {
        Some(why) => why,
        None => match cause::<CircuitError>(error)? {
            CircuitError::Reservation(why) => why,
            _ => return None,
        },
    };
    Some(match why {
        ReserveError::ResourceLimitExceeded | ReserveError::Refused => {
            "it is full, or was asked too often; another is looked for. More room gives a node with a \
             public address that runs `p2pnode join --relay on`"
                .to_owned()
        }
        ReserveError::Unsupported => "it does not relay any more; another is looked for".to_owned(),
        ReserveError::Io(_) | ReserveError::Protocol(_) => return None,
    })
}

/// Why a relay does not connect this node with a peer, when it said so.
pub(super) fn of_circuit(error: &(dyn Error + 'static)) -> Option<&'static str> {
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

    use std::io;

    use super::*;

    #[test]
    fn a_refusal_is_found_however_deep_it_is_wrapped() {
        let refused = CircuitError::Reservation(ReserveError::ResourceLimitExceeded);
        let wrapped = io::Error::other(io::Error::other(refused));
        let said = of_place(&wrapped).unwrap();
        assert!(said.contains("p2pnode join --relay on"), "{said}");
        assert_eq!(of_circuit(&wrapped), None);

        let full = CircuitError::Connect(ConnectError::NoReservation);
        let said = of_circuit(&io::Error::other(full)).unwrap();
        assert!(said.contains("no place"), "{said}");
        assert_eq!(of_place(&io::Error::other("something else")), None);
    }
}
