//! Private networks: their keys, and the tickets by which one joins them.
//!
//! A ticket is a network's name, its pre-shared key and addresses to begin with, as one word that a
//! person can send to another. Whoever has it is a member. In a data directory each network is a file
//! of mode 0600 that holds its ticket.

use std::str::FromStr;
use std::{fs, io};

use bincode::{Decode, Encode};
use data_encoding::BASE32_NOPAD;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use libp2p::pnet::PreSharedKey;
use p2pnode_protocol::codec;

use super::error::HomeError;
use super::{DataDir, make_folder, make_private_folder, secret};
use crate::config::network_name;

/// How every ticket begins.
const PREFIX: &str = "p2pnode1";

/// The longest ticket, in bytes before it is written as text: 32 addresses of 100 bytes.
const MAX_TICKET_BYTES: usize = 4_096;

/// The most addresses in a ticket.
const MAX_ADDRESSES: usize = 32;

/// Bytes of the digest that tells a typo; by chance one of four billion passes.
const CHECK_BYTES: usize = 4;

/// A private network, as its members know it.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct PrivateNetwork {
    name: String,
    key: [u8; 32],
    /// Where to begin.
    addresses: Vec<String>,
    /// When its ticket ceases to let anyone in, in milliseconds since the Unix epoch.
    until_ms: Option<u64>,
}

/// A text that is no ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Another text altogether.
    #[error("this is no ticket: one begins with {PREFIX}, and `p2pnode network ticket` prints it")]
    NotOne,
    /// Changed or cut.
    #[error("this ticket has a typo or lacks a part: copy it again as a whole")]
    Damaged,
}

impl std::fmt::Debug for PrivateNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrivateNetwork")
            .field("name", &self.name)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl PrivateNetwork {
    /// A new one, of which nobody else has the key; `None` when the name cannot be a network's.
    #[must_use]
    pub fn create(name: &str) -> Option<Self> {
        Some(Self {
            name: network_name(name).ok()?,
            key: rand::random(),
            addresses: Vec::new(),
            until_ms: None,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where members begin.
    #[must_use]
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.addresses
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect()
    }

    /// The same network with other addresses to begin with. Those of a loopback are left out where there are
    /// others: another machine has one of its own.
    #[must_use]
    pub fn with_addresses(&self, addresses: &[Multiaddr]) -> Self {
        let beyond = |address: &Multiaddr| match address.iter().next() {
            Some(Protocol::Ip4(ip)) => !ip.is_loopback(),
            Some(Protocol::Ip6(ip)) => !ip.is_loopback(),
            _ => true,
        };
        let all = !addresses.iter().any(beyond);
        Self {
            addresses: addresses
                .iter()
                .filter(|address| all || beyond(address))
                .take(MAX_ADDRESSES)
                .map(ToString::to_string)
                .collect(),
            ..self.clone()
        }
    }

    /// The same network with a ticket that nobody can join with after `until_ms`, in milliseconds since
    /// the Unix epoch. It binds those who use p2pnode, not those who take the key out of it.
    #[must_use]
    pub fn until(&self, until_ms: Option<u64>) -> Self {
        Self {
            until_ms,
            ..self.clone()
        }
    }

    /// Whether its ticket lets nobody in any more.
    #[must_use]
    pub fn has_expired(&self, now_ms: u64) -> bool {
        self.until_ms.is_some_and(|until| until < now_ms)
    }

    /// The key that all its connections are locked with.
    #[must_use]
    pub fn key(&self) -> PreSharedKey {
        PreSharedKey::new(self.key)
    }

    /// Its ticket.
    #[must_use]
    pub fn ticket(&self) -> String {
        // Never too long: names and the number of addresses are bounded, and so is an address's text.
        let mut bytes = codec::encode(self, MAX_TICKET_BYTES).unwrap_or_default();
        let check = blake3::hash(&bytes);
        bytes.extend(&check.as_bytes()[..CHECK_BYTES]);
        format!(
            "{PREFIX}{}",
            BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
        )
    }
}

impl FromStr for PrivateNetwork {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim().to_ascii_lowercase();
        let rest = text.strip_prefix(PREFIX).ok_or(TicketError::NotOne)?;
        let damaged = |()| TicketError::Damaged;
        if rest.len() > 2 * MAX_TICKET_BYTES {
            return Err(TicketError::Damaged);
        }
        let bytes = BASE32_NOPAD
            .decode(rest.to_ascii_uppercase().as_bytes())
            .map_err(|_| TicketError::Damaged)?;
        let (body, check) = bytes
            .split_at_checked(bytes.len().saturating_sub(CHECK_BYTES))
            .ok_or(TicketError::Damaged)?;
        if blake3::hash(body).as_bytes()[..CHECK_BYTES] != *check {
            return Err(TicketError::Damaged);
        }
        let network: Self =
            codec::decode(body, MAX_TICKET_BYTES).map_err(|_| TicketError::Damaged)?;
        let sound = network.addresses.len() <= MAX_ADDRESSES && network_name(&network.name).is_ok();
        sound.then_some(network).ok_or(()).map_err(damaged)
    }
}

impl DataDir {
    /// The private network of this name, when this node is a member.
    ///
    /// # Errors
    /// [`HomeError::Exposed`] when others could have read its key, [`HomeError::BadTicket`],
    /// [`HomeError::Io`].
    pub fn network(&self, name: &str) -> Result<Option<PrivateNetwork>, HomeError> {
        if network_name(name).is_err() {
            return Ok(None);
        }
        let path = self.paths().networks.join(name);
        let Some(bytes) = secret::read(&path)? else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes).unwrap_or_default();
        let read = text.parse::<PrivateNetwork>().ok();
        read.filter(|network| network.name == name)
            .map(Some)
            .ok_or(HomeError::BadTicket { path })
    }

    /// Names of the private networks that this node is a member of, in order.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn networks(&self) -> Result<Vec<String>, HomeError> {
        let folder = self.paths().networks;
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(HomeError::at(&folder)(error)),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| network_name(name).is_ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Is no member of the network any more; false when it was none. A node that runs stays in it until
    /// it ends.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn leave_network(&self, name: &str) -> Result<bool, HomeError> {
        if network_name(name).is_err() {
            return Ok(false);
        }
        let paths = self.paths();
        let path = paths.networks.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(HomeError::at(&path)(error)),
        }
        let mut last = self.last_networks();
        if last.iter().any(|other| other == name) {
            last.retain(|other| other != name);
            self.remember_networks(&last)?;
        }
        Ok(true)
    }

    /// Becomes a member of a network. A node here is in it from now on, and in those of `beside`, unless
    /// its settings name others.
    ///
    /// # Errors
    /// [`HomeError::Io`], [`HomeError::Exposed`].
    pub fn join_network(
        &self,
        network: &PrivateNetwork,
        beside: &[String],
    ) -> Result<(), HomeError> {
        make_private_folder(self.path())?;
        let paths = self.paths();
        make_folder(&paths.networks)?;
        let path = paths.networks.join(&network.name);
        let ticket = network.until(None).ticket();
        secret::replace(&path, ticket.as_bytes(), true).map_err(HomeError::at(&path))?;
        let others = beside.iter().filter(|name| **name != network.name);
        let mut all: Vec<String> = others.cloned().collect();
        all.push(network.name.clone());
        self.remember_networks(&all)
    }

    /// The networks that were joined last; none when nothing was joined.
    #[must_use]
    pub fn last_networks(&self) -> Vec<String> {
        let text = fs::read_to_string(self.paths().network).unwrap_or_default();
        let names = text
            .lines()
            .filter_map(|line| network_name(line.trim()).ok());
        names.collect()
    }

    fn remember_networks(&self, names: &[String]) -> Result<(), HomeError> {
        let path = self.paths().network;
        secret::replace(&path, names.join("\n").as_bytes(), true).map_err(HomeError::at(&path))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_ticket_is_the_network_and_a_typo_is_told() {
        let address: Multiaddr = "/ip4/192.0.2.7/tcp/4101".parse().unwrap();
        let lab = PrivateNetwork::create("lab")
            .unwrap()
            .with_addresses(std::slice::from_ref(&address));
        let ticket = lab.ticket();
        let read: PrivateNetwork = format!(" {ticket}\n").parse().unwrap();
        assert_eq!(read, lab);
        assert_eq!((read.name(), read.addresses()), ("lab", vec![address]));
        assert_eq!(
            ticket.to_ascii_uppercase().parse::<PrivateNetwork>(),
            Ok(lab.clone())
        );
        for at in [PREFIX.len(), ticket.len() / 2, ticket.len() - 1] {
            let mut typo = ticket.clone().into_bytes();
            typo[at] = if typo[at] == b'a' { b'b' } else { b'a' };
            let typo = String::from_utf8(typo).unwrap();
            assert_eq!(typo.parse::<PrivateNetwork>(), Err(TicketError::Damaged));
        }
        assert_eq!(
            ticket[..ticket.len() - 2].parse::<PrivateNetwork>(),
            Err(TicketError::Damaged)
        );
        assert_eq!(PREFIX.parse::<PrivateNetwork>(), Err(TicketError::Damaged));
        assert_eq!(
            "12D3KooW".parse::<PrivateNetwork>(),
            Err(TicketError::NotOne)
        );
        let brief: PrivateNetwork = lab.until(Some(1_000)).ticket().parse().unwrap();
        assert!(brief.has_expired(1_001) && !brief.has_expired(1_000) && !lab.has_expired(1_001));
        assert!(PrivateNetwork::create("Bad Name").is_none());
        assert!(!format!("{lab:?}").contains("key"));
    }

    #[test]
    fn a_data_directory_remembers_what_it_joined() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::at(folder.path()).unwrap();
        assert_eq!(dir.network("lab").unwrap(), None);
        assert!(dir.last_networks().is_empty());
        let lab = PrivateNetwork::create("lab").unwrap();
        dir.join_network(&lab, &[]).unwrap();
        assert_eq!(dir.network("lab").unwrap(), Some(lab));
        assert_eq!(dir.last_networks(), ["lab"]);
        let den = PrivateNetwork::create("den").unwrap();
        let beside = ["main".to_owned(), "den".to_owned()];
        dir.join_network(&den.until(Some(1)), &beside).unwrap();
        assert_eq!(dir.last_networks(), ["main", "den"]);
        assert_eq!(dir.network("den").unwrap(), Some(den), "a member stays one");
        assert_eq!(dir.networks().unwrap(), ["den", "lab"]);
        assert!(dir.leave_network("den").unwrap() && !dir.leave_network("den").unwrap());
        assert!(!dir.leave_network("../identity").unwrap());
        assert_eq!(dir.network("den").unwrap(), None);
        assert_eq!(dir.last_networks(), ["main"]);
        assert_eq!(dir.network("../identity").unwrap(), None);
        let path = folder.path().join("networks/lab");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(dir.network("lab"), Err(HomeError::Exposed { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "p2pnode1xx").unwrap();
        assert!(matches!(
            dir.network("lab"),
            Err(HomeError::BadTicket { .. })
        ));
    }
}
