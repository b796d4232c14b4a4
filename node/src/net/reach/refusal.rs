//! Why a relay gives this node no place, in one line with its mend.

use std::error::Error;

use libp2p::relay::client::transport::Error as CircuitError;
use libp2p::relay::outbound::hop::ReserveError;

use super::super::trouble::cause;

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
        assert_eq!(of_place(&io::Error::other("something else")), None);
    }
}
