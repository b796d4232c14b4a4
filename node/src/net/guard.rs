//! Where this node may dial.
//!
//! Peers name addresses: their own, those of others in the DHT, those for punching a hole. A node that
//! dialled all of them would knock at the doors of its own machine, of its owner's LAN, and of a cloud's
//! metadata service for any stranger. So a [`Guard`] stands where dials are made, behind the resolution of
//! names; the actor tells it whom it has met where, and [`super::transport`] asks it. It never dials.
//!
//! - Addresses of metadata services, and those that are none, are never dialled.
//! - Near addresses (this machine, private networks, link-local) are dialled where the settings or the last run
//!   name a peer; for peers that mDNS found or that were met near, but for loopback; and for others only in
//!   those networks where this node has met a peer: a neighbour may speak of a neighbour.
//! - Without a peer's id only the bootstrap nodes of the settings are dialled, wherever they are.
//! - Of the addresses of one dial, no more than [`MAX_DIALLED`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::{Multiaddr, PeerId};

use super::addresses;

mod door;

pub(super) use door::{Door, Meter};

/// The most addresses of one dial: 16 of one peer are kept here, and libp2p offers 20 for punching a hole,
/// the best last.
const MAX_DIALLED: usize = 20;

/// Peers met near that are remembered, as many as the table of peers has.
const MAX_MET: usize = 4_096;

/// Networks that are remembered as having peers in them.
const MAX_LANS: usize = 64;

/// Services of clouds that give secrets to whoever asks from inside: of AWS, Google, Azure and others, of
/// AWS's containers (twice, and over IPv6), of AWS over IPv6, of Azure's virtual machines, of Alibaba, of Oracle.
const METADATA: [IpAddr; 8] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// A network that is not the Internet, as far as an address tells where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lan {
    Loopback,
    /// 169.254/16 or fe80::/10.
    Link,
    /// 100.64/10, of a carrier, or of a VPN that has all of it.
    Carrier,
    /// A /16 of 10/8, 172.16/12 or 192.168/16: a site seldom has more.
    V4([u8; 2]),
    /// A /48 of fc00::/7, as RFC 4193 gives to a site.
    V6([u16; 3]),
}

/// What an address is to the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Far,
    Near(Lan),
    Forbidden,
}

/// The address that is meant: IPv4 may be written within IPv6, as such or for a NAT64 to translate (RFC 6052,
/// section 2.1).
fn meant(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) if ip.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => {
            let [.., a, b, c, d] = ip.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        ip => ip,
    }
}

fn place(ip: IpAddr) -> Place {
    let ip = meant(ip);
    if ip.is_unspecified() || ip.is_multicast() || METADATA.contains(&ip) {
        return Place::Forbidden;
    }
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            if ip.is_broadcast() || a == 0 {
                Place::Forbidden
            } else if ip.is_loopback() {
                Place::Near(Lan::Loopback)
            } else if ip.is_link_local() {
                Place::Near(Lan::Link)
            } else if ip.is_private() {
                Place::Near(Lan::V4([a, b]))
            } else if a == 100 && (64..128).contains(&b) {
                Place::Near(Lan::Carrier)
            } else {
                Place::Far
            }
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            if ip.is_loopback() {
                Place::Near(Lan::Loopback)
            } else if ip.is_unicast_link_local() {
                Place::Near(Lan::Link)
            } else if ip.is_unique_local() {
                Place::Near(Lan::V6([a, b, c]))
            } else {
                Place::Far
            }
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    /// Peers that the settings name, and those remembered, with the addresses that they are named at; `None`
    /// among them: anywhere.
    named: HashMap<PeerId, HashSet<Option<IpAddr>>>,
    /// Peers that were met near or found by mDNS, in this order.
    met: HashSet<PeerId>,
    order: VecDeque<PeerId>,
    /// Networks in which there are peers.
    lans: VecDeque<Lan>,
    /// Addresses of this machine: they are no further than its loopback.
    own: Vec<IpAddr>,
}

impl Known {
    /// Where an address is. One of this machine's own is no further than its loopback, although the whole
    /// Internet may use it: on the way from here no firewall stands before it.
    fn place(&self, ip: IpAddr) -> Place {
        match place(ip) {
            Place::Far if self.own.contains(&meant(ip)) => Place::Near(Lan::Loopback),
            place => place,
        }
    }

    /// Whether the owner, or the last run, names `peer` at this address.
    fn names(&self, peer: &PeerId, ip: IpAddr) -> bool {
        let at = self.named.get(peer);
        at.is_some_and(|at| at.contains(&None) || at.contains(&Some(meant(ip))))
    }

    fn has_lan(&mut self, lan: Lan) {
        if !self.lans.contains(&lan) {
            if self.lans.len() >= MAX_LANS {
                self.lans.pop_front();
            }
            self.lans.push_back(lan);
        }
    }
}

/// See the module. Clones are the same guard.
#[derive(Debug, Clone, Default)]
pub(super) struct Guard {
    known: Arc<Mutex<Known>>,
    /// Addresses of the present dial.
    dialled: Arc<AtomicUsize>,
}

impl Guard {
    /// For a node whose settings, or whose earlier life, name these peers at these addresses; at one that is a
    /// name, wherever it leads.
    pub(super) fn new<'a>(named: impl IntoIterator<Item = (PeerId, &'a Multiaddr)>) -> Self {
        let mut known = Known::default();
        for (peer, address) in named {
            let at = addresses::ip(address).map(meant);
            known.named.entry(peer).or_default().insert(at);
        }
        Self {
            known: Arc::new(Mutex::new(known)),
            ..Self::default()
        }
    }

    /// What is known. A panic while it is locked would leave it as consistent as any other moment.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is a direct connection to `peer`, at `address`.
    pub(super) fn met(&self, peer: PeerId, address: &Multiaddr) {
        let Some(ip) = addresses::ip(address) else {
            return;
        };
        let mut known = self.lock();
        if let Place::Near(lan) = known.place(ip) {
            known.has_lan(lan);
            drop(known);
            self.vouch(peer);
        }
    }

    /// `peer` is on this LAN, as mDNS says, or was met there.
    pub(super) fn vouch(&self, peer: PeerId) {
        let mut known = self.lock();
        if known.met.insert(peer) {
            known.order.push_back(peer);
        }
        if known.order.len() > MAX_MET
            && let Some(first) = known.order.pop_front()
        {
            known.met.remove(&first);
        }
    }

    /// This machine has other addresses now.
    pub(super) fn owns(&self, own: Vec<IpAddr>) {
        self.lock().own = own;
    }

    /// This machine is perhaps in other networks than before; these connections stand.
    pub(super) fn moved<'a>(&self, standing: impl Iterator<Item = &'a Multiaddr>) {
        let mut known = self.lock();
        known.lans.clear();
        for address in standing {
            if let Some(Place::Near(lan)) = addresses::ip(address).map(place) {
                known.has_lan(lan);
            }
        }
    }

    /// A dial begins.
    fn begin(&self) {
        self.dialled.store(0, Ordering::Relaxed);
    }

    /// Whether one more address belongs to the present dial.
    ///
    /// # Errors
    /// When there were enough.
    pub(super) fn counts(&self) -> io::Result<()> {
        if self.dialled.fetch_add(1, Ordering::Relaxed) < MAX_DIALLED {
            return Ok(());
        }
        Err(refused("too many addresses for one dial"))
    }

    /// Whether `address` may be dialled. Its names are resolved, and it ends with the peer's id, if that
    /// is known.
    ///
    /// # Errors
    /// When it is near and nothing speaks for it, or when nobody should ever be there.
    pub(super) fn permits(&self, address: &Multiaddr) -> io::Result<()> {
        let Some(ip) = addresses::ip(address) else {
            return Ok(());
        };
        let known = self.lock();
        let lan = match known.place(ip) {
            Place::Far => return Ok(()),
            Place::Forbidden => return Err(refused("no peer can be there")),
            Place::Near(lan) => lan,
        };
        // Only the settings name addresses of nobody.
        let peer = addresses::peer_of(address);
        let by_owner = peer.is_none_or(|peer| known.names(&peer, ip));
        let met = lan != Lan::Loopback && peer.is_some_and(|peer| known.met.contains(&peer));
        let ours = known.own.contains(&meant(ip)) && known.lans.contains(&Lan::Loopback);
        if by_owner || met || ours || known.lans.contains(&lan) {
            return Ok(());
        }
        Err(refused("a near address of a peer that was not met near"))
    }
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests;
