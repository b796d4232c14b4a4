//! Which addresses a task may reach: public ones of other machines.
//!
//! Of IPv4 everything but what the registry of special addresses (IANA) sets apart; of IPv6 only what
//! is given out as global addresses, without the parts of it that carry another address inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use super::{Addresses, neighbours};

/// Parts of IPv4 that are not the public network, with what they are.
const APART_V4: [(Ipv4Addr, u32, &str); 17] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "no address"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "a private network"),
    (
        Ipv4Addr::new(100, 64, 0, 0),
        10,
        "a carrier's private network",
    ),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "a cloud's metadata"),
    (
        Ipv4Addr::new(169, 254, 0, 0),
        16,
        "link-local, where clouds keep metadata",
    ),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "a private network"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "set apart for protocols"),
    (
        Ipv4Addr::new(192, 0, 2, 0),
        24,
        "set apart for documentation",
    ),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "set apart for relays"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "a private network"),
    (
        Ipv4Addr::new(198, 18, 0, 0),
        15,
        "set apart for measurements",
    ),
    (
        Ipv4Addr::new(198, 51, 100, 0),
        24,
        "set apart for documentation",
    ),
    (
        Ipv4Addr::new(203, 0, 113, 0),
        24,
        "set apart for documentation",
    ),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(255, 255, 255, 255), 32, "broadcast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// What is given out of IPv6.
const GLOBAL_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Parts of it that are not other machines' addresses.
const APART_V6: [(Ipv6Addr, u32, &str); 4] = [
    (
        Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0),
        23,
        "set apart for protocols",
    ),
    (
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0),
        32,
        "set apart for documentation",
    ),
    (
        Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0),
        16,
        "an IPv4 address in disguise",
    ),
    (
        Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0),
        20,
        "set apart for documentation",
    ),
];

/// Public addresses that are not this machine's, nor on a network that it is itself part of.
#[derive(Debug)]
pub(super) struct Public;

impl Addresses for Public {
    fn check(&self, address: IpAddr) -> Result<(), String> {
        if let Some(what) = apart(address) {
            return Err(what.to_owned());
        }
        if is_own(address) {
            return Err("an address of the provider's own".to_owned());
        }
        if neighbours::is_neighbour(address) {
            return Err("in the provider's own network".to_owned());
        }
        Ok(())
    }
}

/// What an address is when it is not a public one.
fn apart(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => {
            let found = APART_V4
                .iter()
                .find(|(net, bits, _)| within_v4(address, *net, *bits));
            found.map(|(_, _, what)| *what)
        }
        IpAddr::V6(address) => {
            if !within_v6(address, GLOBAL_V6.0, GLOBAL_V6.1) {
                // Loopback, link-local, private, multicast, and IPv4 addresses in disguise: mapped,
                // compatible, translated.
                return Some("no global address");
            }
            let found = APART_V6
                .iter()
                .find(|(net, bits, _)| within_v6(address, *net, *bits));
            found.map(|(_, _, what)| *what)
        }
    }
}

pub(super) fn within_v4(address: Ipv4Addr, net: Ipv4Addr, bits: u32) -> bool {
    let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
    (address.to_bits() ^ net.to_bits()) & mask == 0
}

pub(super) fn within_v6(address: Ipv6Addr, net: Ipv6Addr, bits: u32) -> bool {
    let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
    (address.to_bits() ^ net.to_bits()) & mask == 0
}

/// Whether the address is one of this machine's: nobody can listen on another's.
fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_public_addresses_pass() {
        for text in [
            "1.1.1.1",
            "93.184.216.34",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert_eq!(apart(ip(text)), None, "{text}");
        }
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "169.254.170.2",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:1.1.1.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::a00:1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(apart(ip(text)).is_some(), "{text}");
            assert!(Public.check(ip(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn this_machines_addresses_are_known() {
        assert!(is_own(ip("127.0.0.1")));
        // Of a network for documentation: nobody's.
        assert!(!is_own(ip("203.0.113.77")));
    }

    /// Set in a process of this test that has a network of its own.
    const ELSEWHERE: &str = "P2PNODE_TEST_ELSEWHERE";

    /// In a network of its own, where this machine has a public address and public neighbours.
    #[test]
    fn public_addresses_that_are_its_own_or_its_neighbours_are_refused() {
        if std::env::var_os(ELSEWHERE).is_some() {
            let refused = |text: &str| Public.check(ip(text)).unwrap_err();
            assert!(refused("9.9.9.9").contains("provider's own"));
            assert!(refused("9.9.8.7").contains("own network"));
            assert_eq!(Public.check(ip("1.1.1.1")), Ok(()));
            return;
        }
        if !rustix::process::geteuid().is_root() {
            eprintln!("not tested: a network of its own takes root");
            return;
        }
        let name = "egress::addresses::tests::public_addresses_that_are_its_own_or_its_neighbours_are_refused";
        let script = "ip link set lo up && ip addr add 9.9.9.9/32 dev lo && \
                      ip route add 9.9.8.0/24 dev lo && exec \"$0\" \"$@\"";
        let output = std::process::Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(ELSEWHERE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert!(said.contains("1 passed"), "{said}");
    }

    #[test]
    fn masks_of_every_length_hold() {
        let any = Ipv4Addr::UNSPECIFIED;
        assert!(within_v4(Ipv4Addr::BROADCAST, any, 0));
        assert!(!within_v4(Ipv4Addr::BROADCAST, any, 1));
        assert!(within_v4(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, 32));
        assert!(within_v6(Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, 0));
        assert!(!within_v6(Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, 128));
    }
}
