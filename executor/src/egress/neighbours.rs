//! The networks that this machine is part of, from the kernel's routing tables.
//!
//! An address that is reached without a gateway is a neighbour's: on a line, a wireless network, a
//! VPN. Public addresses may be neighbours too, in IPv6 nearly always. Only the main tables are read.
//! A table that can't be read knows no neighbours of its kind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::addresses::within_v6;

/// Flags of a route, from the kernel's `route.h`: it is up; it refuses.
const UP: u32 = 0x1;
const REJECT: u32 = 0x200;

/// Whether an address is on a network that this machine is part of.
pub(super) fn is_neighbour(address: IpAddr) -> bool {
    let table = |name: &str| std::fs::read_to_string(format!("/proc/net/{name}"));
    match address {
        IpAddr::V4(address) => table("route").is_ok_and(|table| is_direct_v4(address, &table)),
        IpAddr::V6(address) => table("ipv6_route").is_ok_and(|table| is_direct_v6(address, &table)),
    }
}

fn is_direct_v4(address: Ipv4Addr, table: &str) -> bool {
    // Addresses stand there as the machine's own numbers hold them.
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    table.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, net, gateway, flags, _, _, _, mask, ..] = fields[..] else {
            return false;
        };
        let (Some(net), Some(gateway), Some(flags), Some(mask)) =
            (number(net), number(gateway), number(flags), number(mask))
        else {
            return false;
        };
        let address = u32::from_ne_bytes(address.octets());
        flags & UP != 0 && flags & REJECT == 0 && gateway == 0 && mask != 0 && address & mask == net
    })
}

fn is_direct_v6(address: Ipv6Addr, table: &str) -> bool {
    let number = |text: &str| u128::from_str_radix(text, 16).ok().map(Ipv6Addr::from_bits);
    table.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [net, bits, _, _, gateway, _, _, _, flags, ..] = fields[..] else {
            return false;
        };
        let (Some(net), Some(gateway)) = (number(net), number(gateway)) else {
            return false;
        };
        let (Ok(bits), Ok(flags)) = (
            u32::from_str_radix(bits, 16),
            u32::from_str_radix(flags, 16),
        ) else {
            return false;
        };
        flags & UP != 0
            && flags & REJECT == 0
            && gateway.is_unspecified()
            && bits != 0
            && within_v6(address, net, bits)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn what_needs_no_gateway_is_a_neighbour() {
        // A default route by way of 203.0.113.1, the network 203.0.113.0/25, a route by a gateway.
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t017100CB\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t007100CB\t00000000\t0001\t0\t0\t0\t80FFFFFF\t0\t0\t0\n\
            eth0\t006433C6\t017100CB\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n";
        let near = |text: &str| is_direct_v4(text.parse().unwrap(), table);
        assert!(near("203.0.113.5") && near("203.0.113.127"));
        assert!(!near("203.0.113.128") && !near("198.51.100.1") && !near("1.1.1.1"));
        assert!(!is_direct_v4(Ipv4Addr::LOCALHOST, "nonsense\nand more"));
    }

    #[test]
    fn the_same_in_version_6() {
        let zero = "0".repeat(32);
        let (net, gateway) = (
            format!("20010db800010002{}", "0".repeat(16)),
            format!("fe80{}1", "0".repeat(27)),
        );
        let table = format!(
            "{net} 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n\
             {zero} 00 {zero} 00 {gateway} 00000400 00000001 00000000 00000003     eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
        );
        let near = |text: &str| is_direct_v6(text.parse().unwrap(), &table);
        assert!(near("2001:db8:1:2::5") && near("2001:db8:1:2:ffff::"));
        assert!(!near("2001:db8:1:3::5") && !near("2606:4700::1111"));
    }
}
