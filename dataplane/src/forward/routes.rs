//! Prefixes inside the tunnel and the peers they belong to.

use std::collections::HashMap;
use std::net::IpAddr;

use super::prefix_map::PrefixMap;
use super::switch::Switch;
use crate::command::{Forwarding, Prefix};
use crate::error::DropReason;
use crate::ip::IpView;

/// Where a packet from the device goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To the peer with this index.
    Peer(usize),
    /// To every peer.
    Everyone,
    /// Nobody is there.
    Nobody,
}

/// Where a packet from a peer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the device.
    Device,
    /// To another peer.
    Peer,
    /// To the device and to every other peer.
    Both,
}

/// Which prefix belongs to which peer, and how packets are forwarded by that. Peers are named by their
/// index in the table of peers.
pub(crate) struct Routes {
    forwarding: Forwarding,
    /// Of a TAP server.
    switch: Option<Box<Switch>>,
    v4: PrefixMap<u32>,
    v6: PrefixMap<u128>,
    /// The prefixes of each peer that has any.
    owned: HashMap<usize, Vec<Prefix>>,
}

impl Default for Routes {
    fn default() -> Self {
        Routes {
            forwarding: Forwarding::default(),
            switch: None,
            v4: PrefixMap::new(),
            v6: PrefixMap::new(),
            owned: HashMap::new(),
        }
    }
}

impl Routes {
    pub(crate) fn set_forwarding(&mut self, forwarding: Forwarding) {
        self.forwarding = forwarding;
        self.switch = match forwarding {
            Forwarding::Switched {
                client_to_client,
                ask_first,
                vlan,
            } => Some(Box::new(Switch::new(client_to_client, ask_first, vlan))),
            Forwarding::PointToPoint | Forwarding::Routed { .. } => None,
        };
    }

    /// The switch of a TAP server.
    #[inline]
    pub(crate) fn switch(&self) -> Option<&Switch> {
        self.switch.as_deref()
    }

    /// The switch of a TAP server.
    #[inline]
    pub(crate) fn switch_mut(&mut self) -> Option<&mut Switch> {
        self.switch.as_deref_mut()
    }

    #[inline]
    pub(crate) fn forwarding(&self) -> Forwarding {
        self.forwarding
    }

    /// Gives a prefix to a peer, whoever had it before.
    pub(crate) fn add(&mut self, peer: usize, prefix: Prefix) {
        let prefix = normal(prefix);
        // Indexes are those of a table in memory, which has fewer than 2^32 entries.
        let value = peer as u32;
        let before = match prefix.address {
            IpAddr::V4(ip) => self.v4.insert(ip.to_bits(), prefix.bits, value),
            IpAddr::V6(ip) => self.v6.insert(ip.to_bits(), prefix.bits, value),
        };
        if before == Some(value) {
            return;
        }
        if let Some(before) = before {
            self.disown(before as usize, prefix);
        }
        self.owned.entry(peer).or_default().push(prefix);
    }

    /// Takes a prefix away from a peer; nothing happens when it is another's.
    pub(crate) fn remove(&mut self, peer: usize, prefix: Prefix) {
        let prefix = normal(prefix);
        let owner = match prefix.address {
            IpAddr::V4(ip) => self.v4.exact(ip.to_bits(), prefix.bits),
            IpAddr::V6(ip) => self.v6.exact(ip.to_bits(), prefix.bits),
        };
        if owner == Some(peer as u32) {
            self.forget(prefix);
            self.disown(peer, prefix);
        }
    }

    /// Takes all its prefixes away from a peer.
    pub(crate) fn remove_peer(&mut self, peer: usize) {
        for prefix in self.owned.remove(&peer).unwrap_or_default() {
            self.forget(prefix);
        }
    }

    /// Where a packet from the device goes, by its destination. Not for point to point.
    #[inline]
    pub(crate) fn destination(&self, ip: &IpView<'_>) -> Destination {
        if is_multicast(ip) {
            return Destination::Everyone;
        }
        let (_, destination) = halves(ip);
        match self.owner(destination) {
            Some(peer) => Destination::Peer(peer),
            None => Destination::Nobody,
        }
    }

    /// Where a packet from this peer goes. Not for a switch.
    ///
    /// # Errors
    /// [`DropReason::InnerSource`] or [`DropReason::LinkLocalSource`] when its source address is not the
    /// peer's own.
    #[inline]
    pub(crate) fn way(&self, peer: usize, ip: &IpView<'_>) -> Result<Way, DropReason> {
        let client_to_client = match self.forwarding {
            Forwarding::PointToPoint | Forwarding::Switched { .. } => return Ok(Way::Device),
            Forwarding::Routed { client_to_client } => client_to_client,
        };
        let (source, destination) = halves(ip);
        if self.owner(source) != Some(peer) {
            return Err(match ip.is_ipv6() && is_link_local(source) {
                true => DropReason::LinkLocalSource,
                false => DropReason::InnerSource,
            });
        }
        if !client_to_client {
            return Ok(Way::Device);
        }
        if is_multicast(ip) {
            return Ok(Way::Both);
        }
        Ok(match self.owner(destination) {
            Some(other) if other != peer => Way::Peer,
            _ => Way::Device,
        })
    }

    /// The peer that owns an address of 4 or 16 bytes.
    #[inline]
    fn owner(&self, address: &[u8]) -> Option<usize> {
        let value = match <[u8; 4]>::try_from(address) {
            Ok(v4) => self.v4.longest(u32::from_be_bytes(v4)),
            Err(_) => {
                let v6 = <[u8; 16]>::try_from(address).ok()?;
                self.v6.longest(u128::from_be_bytes(v6))
            }
        };
        value.map(|peer| peer as usize)
    }

    fn forget(&mut self, prefix: Prefix) {
        match prefix.address {
            IpAddr::V4(ip) => self.v4.remove(ip.to_bits(), prefix.bits),
            IpAddr::V6(ip) => self.v6.remove(ip.to_bits(), prefix.bits),
        }
    }

    fn disown(&mut self, peer: usize, prefix: Prefix) {
        if let Some(owned) = self.owned.get_mut(&peer) {
            owned.retain(|&other| other != prefix);
            if owned.is_empty() {
                self.owned.remove(&peer);
            }
        }
    }
}

/// The same prefix with the network's own address and a length that exists.
fn normal(prefix: Prefix) -> Prefix {
    use super::prefix_map::Address;
    match prefix.address {
        IpAddr::V4(ip) => Prefix {
            address: IpAddr::V4(ip.to_bits().masked(prefix.bits).into()),
            bits: prefix.bits.min(u32::BITS as u8),
        },
        IpAddr::V6(ip) => Prefix {
            address: IpAddr::V6(ip.to_bits().masked(prefix.bits).into()),
            bits: prefix.bits.min(u128::BITS as u8),
        },
    }
}

/// Source and destination.
#[inline]
fn halves<'a>(ip: &IpView<'a>) -> (&'a [u8], &'a [u8]) {
    let addresses = ip.addresses();
    addresses.split_at(addresses.len() / 2)
}

/// To 224.0.0.0/4 or ff00::/8.
#[inline]
fn is_multicast(ip: &IpView<'_>) -> bool {
    let (_, destination) = halves(ip);
    match ip.is_ipv6() {
        true => destination[0] == 0xff,
        false => destination[0] >> 4 == 0xe,
    }
}

/// In fe80::/10.
fn is_link_local(address: &[u8]) -> bool {
    address[0] == 0xfe && address[1] & 0xc0 == 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::sample::Sample;

    fn prefix(text: &str) -> Prefix {
        let (address, bits) = text.split_once('/').unwrap();
        Prefix {
            address: address.parse().unwrap(),
            bits: bits.parse().unwrap(),
        }
    }

    fn packet(source: &str, destination: &str) -> Vec<u8> {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let mut packet = Sample::udp(matches!(source, IpAddr::V6(_))).build(b"x");
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                packet[12..16].copy_from_slice(&source.octets());
                packet[16..20].copy_from_slice(&destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                packet[8..24].copy_from_slice(&source.octets());
                packet[24..40].copy_from_slice(&destination.octets());
            }
            _ => panic!("two families"),
        }
        packet
    }

    fn routes(client_to_client: bool) -> Routes {
        let mut routes = Routes::default();
        routes.set_forwarding(Forwarding::Routed { client_to_client });
        for (peer, text) in [
            (1, "10.8.0.1/32"),
            (2, "10.8.0.2/32"),
            (2, "172.16.0.0/12"),
            (3, "172.16.5.9/24"),
            (1, "fd00::1/128"),
            (2, "fd00:2::/32"),
        ] {
            routes.add(peer, prefix(text));
        }
        routes
    }

    fn to(routes: &Routes, destination: &str) -> Destination {
        let source = if destination.contains(':') {
            "::1"
        } else {
            "10.0.0.1"
        };
        let packet = packet(source, destination);
        routes.destination(&IpView::parse(&packet).unwrap())
    }

    fn way(routes: &Routes, peer: usize, source: &str, to: &str) -> Result<Way, DropReason> {
        let packet = packet(source, to);
        routes.way(peer, &IpView::parse(&packet).unwrap())
    }

    #[test]
    fn the_longest_prefix_and_multicast_decide() {
        let routes = routes(true);
        for (address, expected) in [
            ("10.8.0.2", Destination::Peer(2)),
            ("172.16.4.1", Destination::Peer(2)),
            ("172.16.5.1", Destination::Peer(3)),
            ("172.32.0.1", Destination::Nobody),
            ("fd00::1", Destination::Peer(1)),
            ("fd00:2::77", Destination::Peer(2)),
            ("fd00:3::77", Destination::Nobody),
            ("fe80::1", Destination::Nobody),
            ("224.0.0.1", Destination::Everyone),
            ("239.255.255.255", Destination::Everyone),
            ("240.0.0.1", Destination::Nobody),
            ("255.255.255.255", Destination::Nobody),
            ("ff02::fb", Destination::Everyone),
        ] {
            assert_eq!(to(&routes, address), expected, "{address}");
        }
    }

    #[test]
    fn a_source_must_be_the_peers_own() {
        for client_to_client in [false, true] {
            let routes = routes(client_to_client);
            let device = Ok(Way::Device);
            assert_eq!(way(&routes, 1, "10.8.0.1", "192.0.2.1"), device);
            assert_eq!(way(&routes, 2, "172.16.4.4", "192.0.2.1"), device);
            let wrong = Err(DropReason::InnerSource);
            // Another's, also by the longer prefix, and nobody's.
            assert_eq!(way(&routes, 1, "10.8.0.2", "192.0.2.1"), wrong);
            assert_eq!(way(&routes, 2, "172.16.5.4", "192.0.2.1"), wrong);
            assert_eq!(way(&routes, 1, "192.0.2.7", "10.8.0.2"), wrong);
            assert_eq!(way(&routes, 1, "::", "ff02::1"), wrong);
            let silent = Err(DropReason::LinkLocalSource);
            assert_eq!(way(&routes, 1, "fe80::1", "ff02::1"), silent);
            assert_eq!(way(&routes, 1, "febf::1", "ff02::1"), silent);
            assert_eq!(way(&routes, 1, "fec0::1", "ff02::1"), wrong);
            assert_eq!(way(&routes, 1, "169.254.0.1", "10.8.0.2"), wrong);
        }
    }

    #[test]
    fn from_peer_to_peer_only_where_it_is_allowed_and_never_back() {
        for (client_to_client, peer, both) in [
            (false, Ok(Way::Device), Ok(Way::Device)),
            (true, Ok(Way::Peer), Ok(Way::Both)),
        ] {
            let routes = routes(client_to_client);
            assert_eq!(way(&routes, 1, "10.8.0.1", "10.8.0.2"), peer);
            assert_eq!(way(&routes, 1, "fd00::1", "fd00:2::5"), peer);
            assert_eq!(way(&routes, 1, "10.8.0.1", "224.0.0.251"), both);
            assert_eq!(way(&routes, 1, "fd00::1", "ff02::fb"), both);
            assert_eq!(way(&routes, 2, "10.8.0.2", "172.16.9.9"), Ok(Way::Device));
        }
        let alone = Routes::default();
        assert_eq!(way(&alone, 0, "192.0.2.1", "224.0.0.1"), Ok(Way::Device));
    }

    #[test]
    fn a_prefix_has_one_owner_the_last_one() {
        let mut routes = routes(false);
        routes.add(3, prefix("10.8.0.2/32"));
        assert_eq!(to(&routes, "10.8.0.2"), Destination::Peer(3));
        // It is not the former owner's to take away, with or without the rest.
        routes.remove(2, prefix("10.8.0.2/32"));
        routes.remove_peer(2);
        assert_eq!(to(&routes, "10.8.0.2"), Destination::Peer(3));
        assert_eq!(to(&routes, "172.16.4.1"), Destination::Nobody);
        assert_eq!(to(&routes, "172.16.5.1"), Destination::Peer(3));
        // Any address of the network names it.
        routes.remove(3, prefix("172.16.5.200/24"));
        assert_eq!(to(&routes, "172.16.5.1"), Destination::Nobody);
        routes.remove_peer(3);
        routes.remove_peer(1);
        assert!(routes.owned.is_empty());
        assert_eq!(to(&routes, "10.8.0.1"), Destination::Nobody);
    }
}
