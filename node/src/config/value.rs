//! Values as they are written, and what they are read as.
//!
//! The file has types, the environment and flags have text; [`Raw`] is what they have in common, so
//! that a key is read by one function wherever it stands.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use libp2p::Multiaddr;
use p2pnode_protocol::PeerId;
use p2pnode_protocol::offer::OnClose;
use p2pnode_protocol::units::UnitError;

use crate::net::RelayPolicy;

/// The longest node or label name, in bytes: it stands in every advert.
const MAX_NAME_BYTES: usize = 64;

/// The most networks that a node is in: each has connections of its own.
pub(super) const MAX_NETWORKS: usize = 8;

/// The most labels: an advert of 8 KiB has room for them and its other lists.
const MAX_LABELS: usize = 32;

/// A value as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    /// Text; outside the file everything is.
    Text(String),
    /// A number of the file, as its digits.
    Number(String),
    /// `true` or `false`.
    Bool(bool),
    /// A list.
    List(Vec<Raw>),
    /// A table of the file.
    Table(Vec<(String, Raw)>),
    /// A kind of value that no key takes: a date.
    Other,
}

/// A value that a key cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Of another kind.
    #[error("expected {0}")]
    Kind(&'static str),
    /// Not a number, or out of its range.
    #[error("`{text}` is not a whole number from 0 to {most}")]
    Number {
        /// As written.
        text: String,
        /// The largest that is allowed.
        most: u64,
    },
    /// Not a size or a number of CPUs.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// Not a multiaddr.
    #[error(
        "`{0}` is not an address: write for example /ip4/192.0.2.7/tcp/4101 or \
         /dns/node.example.org/udp/4101/quic-v1"
    )]
    Address(String),
    /// Not a peer id.
    #[error(
        "`{0}` is not a whole peer id: it looks like 12D3KooW..., and `p2pnode id` prints a node's own"
    )]
    Peer(String),
    /// Not an IP address.
    #[error("`{0}` is not an IP address: write for example 127.0.0.1")]
    Ip(String),
    /// Not an IP address with a port.
    #[error("`{0}` is not an IP address and port: write for example 0.0.0.0:9464 or [::]:9464")]
    Socket(String),
    /// Not a duration.
    #[error("`{0}` is not a duration: write for example 15s, 30m or 1h")]
    Duration(String),
    /// Not usable as a node's name.
    #[error("a name has 1 to {MAX_NAME_BYTES} bytes and no control characters")]
    Name,
    /// Not usable as a network's name.
    #[error(
        "`{0}` is not a network's name: use 1 to {MAX_NAME_BYTES} of a-z, 0-9, `-`, `_` and `.`"
    )]
    Network(String),
    /// Too few or too many networks, or one twice.
    #[error("name 1 to {MAX_NETWORKS} networks, each once")]
    Networks,
    /// Not how much to relay.
    #[error("`{0}` is not how much to relay: write on, off or limit")]
    Relay(String),
    /// Not usable as labels.
    #[error(
        "labels are up to {MAX_LABELS} pairs, such as {{ site = \"lab\" }} or site=lab; a name and a value have \
         1 to {MAX_NAME_BYTES} bytes and no control characters, such as a line's end"
    )]
    Labels,
}

type Result<T> = std::result::Result<T, ValueError>;

/// The beginning of a text that is shown in a message.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Any text.
pub(super) fn text(raw: Raw) -> Result<String> {
    match raw {
        Raw::Text(text) => Ok(text),
        _ => Err(ValueError::Kind("text in quotes")),
    }
}

/// How much to relay. TOML's own `true` and `false` will do for on and off.
pub(super) fn relay(raw: Raw) -> Result<RelayPolicy> {
    let text = match raw {
        Raw::Bool(true) => return Ok(RelayPolicy::On),
        Raw::Bool(false) => return Ok(RelayPolicy::Off),
        raw => text(raw)?,
    };
    text.parse().map_err(|()| ValueError::Relay(shown(&text)))
}

/// `true` or `false`.
pub(super) fn boolean(raw: Raw) -> Result<bool> {
    match raw {
        Raw::Bool(value) => Ok(value),
        Raw::Text(text) if text == "true" || text == "1" => Ok(true),
        Raw::Text(text) if text == "false" || text == "0" => Ok(false),
        _ => Err(ValueError::Kind("true or false")),
    }
}

/// A whole number that fits into 16 bits.
pub(super) fn small_number(raw: Raw) -> Result<u16> {
    let (Raw::Number(text) | Raw::Text(text)) = raw else {
        return Err(ValueError::Kind("a whole number"));
    };
    text.trim().parse().map_err(|_| ValueError::Number {
        text: shown(&text),
        most: u16::MAX.into(),
    })
}

/// A size or a number of CPUs: a number, or text with a unit.
pub(super) fn quantity<T: FromStr<Err = UnitError>>(raw: Raw) -> Result<T> {
    match raw {
        Raw::Number(text) | Raw::Text(text) => Ok(text.parse()?),
        _ => Err(ValueError::Kind("a number, or text such as \"8GiB\"")),
    }
}

/// A list; outside the file its items are separated by commas, and a single item may stand alone.
fn list<T>(raw: Raw, item: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    match raw {
        Raw::Text(text) => {
            let parts = text.split(',').map(str::trim);
            parts.filter(|part| !part.is_empty()).map(&item).collect()
        }
        Raw::List(items) => items
            .into_iter()
            .map(|raw| text(raw).and_then(|text| item(text.trim())))
            .collect(),
        _ => Err(ValueError::Kind("a list of texts")),
    }
}

/// Multiaddrs.
pub(super) fn addresses(raw: Raw) -> Result<Vec<Multiaddr>> {
    list(raw, |text| {
        let address: Multiaddr = text.parse().map_err(|_| ValueError::Address(shown(text)))?;
        // The empty text is the empty address, which leads nowhere.
        (!address.is_empty())
            .then_some(address)
            .ok_or_else(|| ValueError::Address(shown(text)))
    })
}

/// Peer ids.
pub(super) fn peers(raw: Raw) -> Result<Vec<PeerId>> {
    list(raw, |text| {
        p2pnode_protocol::parse_peer(text).map_err(|_| ValueError::Peer(shown(text)))
    })
}

/// Texts that mean something by themselves.
pub(super) fn words(raw: Raw) -> Result<Vec<String>> {
    list(raw, |text| Ok(text.to_owned()))
}

/// A number, or a text.
pub(super) fn word(raw: Raw) -> Result<String> {
    match raw {
        Raw::Number(text) | Raw::Text(text) => Ok(text),
        _ => Err(ValueError::Kind("a number, or text in quotes")),
    }
}

/// A part of a hundred; `50` and `50%` are the same.
pub(super) fn percent(raw: Raw) -> Result<u8> {
    let text = word(raw)?;
    let number = text.trim().trim_end_matches('%').trim();
    number.parse().map_err(|_| ValueError::Number {
        text: shown(&text),
        most: 100,
    })
}

/// A duration as milliseconds.
pub(super) fn milliseconds(raw: Raw) -> Result<u64> {
    Ok(u64::try_from(duration(raw)?.as_millis()).unwrap_or(u64::MAX))
}

/// What becomes of running tasks.
pub(super) fn on_close(raw: Raw) -> Result<OnClose> {
    match text(raw)?.as_str() {
        "finish" => Ok(OnClose::Finish),
        "stop" => Ok(OnClose::Stop),
        _ => Err(ValueError::Kind("\"finish\" or \"stop\"")),
    }
}

/// An IP address and a port.
pub(super) fn socket(raw: Raw) -> Result<SocketAddr> {
    let text = text(raw)?;
    let parsed = text.trim().parse();
    parsed.map_err(|_| ValueError::Socket(shown(&text)))
}

/// An IP address.
pub(super) fn ip(raw: Raw) -> Result<IpAddr> {
    let text = text(raw)?;
    text.parse().map_err(|_| ValueError::Ip(shown(&text)))
}

/// A duration with its unit.
pub(super) fn duration(raw: Raw) -> Result<Duration> {
    let text = text(raw)?;
    humantime::parse_duration(&text).map_err(|_| ValueError::Duration(shown(&text)))
}

/// A name for people.
pub(super) fn node_name(text: &str) -> Result<String> {
    let text = text.trim();
    let fits = (1..=MAX_NAME_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned()).ok_or(ValueError::Name)
}

/// A name that stands in protocol ids.
pub(crate) fn network_name(text: &str) -> Result<String> {
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
    };
    let fits = (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(allowed);
    fits.then(|| text.to_owned())
        .ok_or_else(|| ValueError::Network(shown(text)))
}

/// The networks that a node is in.
pub(super) fn networks(raw: Raw) -> Result<Vec<String>> {
    let names = list(raw, network_name)?;
    let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
    let fit = (1..=MAX_NETWORKS).contains(&names.len()) && distinct.len() == names.len();
    fit.then_some(names).ok_or(ValueError::Networks)
}

/// Labels: a table, or `name=value` separated by commas.
pub(super) fn labels(raw: Raw) -> Result<BTreeMap<String, String>> {
    let pairs: Vec<(String, String)> = match raw {
        Raw::Table(pairs) => pairs
            .into_iter()
            .map(|(name, value)| Ok((name, text(value)?)))
            .collect::<Result<_>>()?,
        Raw::Text(text) => text
            .split(',')
            .filter(|pair| !pair.trim().is_empty())
            .map(|pair| pair.split_once('=').ok_or(ValueError::Labels))
            .map(|pair| pair.map(|(name, value)| (name.into(), value.into())))
            .collect::<Result<_>>()?,
        _ => return Err(ValueError::Labels),
    };
    let named = pairs.into_iter().map(|(name, value)| {
        let pair = (node_name(&name), node_name(&value));
        match pair {
            (Ok(name), Ok(value)) => Ok((name, value)),
            _ => Err(ValueError::Labels),
        }
    });
    let labels: BTreeMap<_, _> = named.collect::<Result<_>>()?;
    (labels.len() <= MAX_LABELS)
        .then_some(labels)
        .ok_or(ValueError::Labels)
}
