//! What a node does as a relay for others: nothing, a little, or more; never without limits.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use libp2p::{PeerId, relay};

/// Whether this node relays for others while the whole Internet can reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RelayPolicy {
    /// Not at all.
    Off,
    /// As much as an owner will not notice.
    #[default]
    Limit,
    /// Much more, for a machine that is there for it.
    On,
}

/// What a relay gives away at the most. A circuit is one connection between two other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayLimits {
    /// Nodes that may have a place here, which makes them reachable.
    pub reservations: usize,
    /// Places of one node, one for each of its connections.
    pub reservations_per_peer: usize,
    /// Places that one node may ask for in a minute; of all nodes of one IP address four times as many.
    pub reservations_per_minute: u32,
    /// Circuits at a time.
    pub circuits: usize,
    /// Circuits of one node at a time, at either end.
    pub circuits_per_peer: usize,
    /// Circuits that one node may open in a minute, and all nodes of one IP address together.
    pub circuits_per_minute: u32,
    /// Bytes that one circuit may carry, both ways together. Then it is cut; who needs it opens another.
    pub circuit_bytes: u64,
    /// How long a circuit may stand.
    pub circuit_duration: Duration,
}

impl RelayPolicy {
    /// Its limits; `None` when nothing is relayed.
    ///
    /// `limit`: places for a laboratory; a circuit carries a job's inputs (256 MiB) or an hour of messages,
    /// and 32 of them at full size are 8 GiB. `on`: 16 GiB and 12 hours, for nodes that cannot connect
    /// otherwise and work all night. Libp2p's own 128 KiB and 2 minutes are made for hole punching alone.
    /// Circuits a minute: a submitter meets all its providers through one relay, and a rate below the
    /// number of circuits at a time would only make it wait.
    #[must_use]
    pub const fn limits(self) -> Option<RelayLimits> {
        match self {
            Self::Off => None,
            Self::Limit => Some(RelayLimits {
                reservations: 64,
                reservations_per_peer: 2,
                reservations_per_minute: 8,
                circuits: 32,
                circuits_per_peer: 8,
                circuits_per_minute: 30,
                circuit_bytes: 256 << 20,
                circuit_duration: Duration::from_secs(3_600),
            }),
            Self::On => Some(RelayLimits {
                reservations: 512,
                reservations_per_peer: 4,
                reservations_per_minute: 16,
                circuits: 256,
                circuits_per_peer: 64,
                circuits_per_minute: 120,
                circuit_bytes: 16 << 30,
                circuit_duration: Duration::from_secs(12 * 3_600),
            }),
        }
    }

    /// As it is written in settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Limit => "limit",
            Self::On => "on",
        }
    }
}

impl fmt::Display for RelayPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RelayPolicy {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Off, Self::Limit, Self::On]
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or(())
    }
}

/// Makes the relay server. It serves nobody until this node is found reachable.
pub(in super::super) fn server(local: PeerId, limits: RelayLimits) -> relay::Behaviour {
    let minute = Duration::from_secs(60);
    let mut config = relay::Config {
        max_reservations: limits.reservations,
        max_reservations_per_peer: limits.reservations_per_peer,
        max_circuits: limits.circuits,
        max_circuits_per_peer: limits.circuits_per_peer,
        max_circuit_duration: limits.circuit_duration,
        max_circuit_bytes: limits.circuit_bytes,
        reservation_rate_limiters: Vec::new(),
        circuit_src_rate_limiters: Vec::new(),
        ..relay::Config::default()
    };
    if let Some(rate) = NonZeroU32::new(limits.reservations_per_minute) {
        config = config
            .reservation_rate_per_peer(rate, minute)
            .reservation_rate_per_ip(rate.saturating_mul(FOUR), minute);
    }
    if let Some(rate) = NonZeroU32::new(limits.circuits_per_minute) {
        config = config
            .circuit_src_per_peer(rate, minute)
            .circuit_src_per_ip(rate, minute);
    }
    let mut behaviour = relay::Behaviour::new(local, config);
    behaviour.set_status(Some(relay::Status::Disable));
    behaviour
}

/// Several nodes share one address behind a NAT.
const FOUR: NonZeroU32 = NonZeroU32::MIN.saturating_add(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_they_are_written_and_all_limits_are_finite() {
        for policy in [RelayPolicy::Off, RelayPolicy::Limit, RelayPolicy::On] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert_eq!("yes".parse::<RelayPolicy>(), Err(()));
        assert_eq!(RelayPolicy::Off.limits(), None);
        let (some, more) = (RelayPolicy::Limit.limits(), RelayPolicy::On.limits());
        let (some, more) = some.zip(more).unwrap_or_else(|| panic!("no limits"));
        assert!(some.circuits < more.circuits && more.circuits < usize::MAX);
        assert!(some.circuit_bytes > 0 && some.circuit_bytes < more.circuit_bytes);
        assert!(some.circuit_duration < more.circuit_duration);
        // libp2p counts seconds of a circuit in 32 bits, and 0 bytes as no limit.
        assert!(more.circuit_duration.as_secs() < u32::MAX.into());
    }
}
