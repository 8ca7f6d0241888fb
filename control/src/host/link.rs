//! Links and their addresses: index, MTU, queue length, up, down, addresses.
//!
//! Everything is idempotent where OpenVPN users rely on it: setting an address that a persistent
//! device still has succeeds, removing one that is gone succeeds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use ringway_dataplane::frame::Mac;

use super::netlink::{Netlink, NetlinkError};

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    /// The local address.
    pub address: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
    /// The far end of a point-to-point address.
    pub peer: Option<IpAddr>,
}

/// What the kernel says about a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Interface index.
    pub ifindex: u32,
    /// Interface name.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Transmit queue length in packets.
    pub txqueuelen: u32,
    /// Largest super-packet in bytes that the stack hands to the device.
    pub gso_max_size: Option<u32>,
    /// Whether the link is administratively up.
    pub up: bool,
    /// The hardware address, where the link has one of six bytes.
    pub address: Option<Mac>,
}

impl Netlink {
    /// The interface index of `name`, `None` when there is no such interface.
    pub fn index_of(&mut self, name: &str) -> Result<Option<u32>, NetlinkError> {
        Ok(self.link(name)?.map(|link| link.ifindex))
    }

    /// What the kernel knows of the interface `name`, `None` when there is none.
    pub fn link(&mut self, name: &str) -> Result<Option<LinkInfo>, NetlinkError> {
        let mut request = LinkMessage::default();
        request
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.query_link(request)
    }

    /// What the kernel knows of the interface `ifindex`, `None` when there is none.
    pub fn link_by_index(&mut self, ifindex: u32) -> Result<Option<LinkInfo>, NetlinkError> {
        let mut request = LinkMessage::default();
        request.header.index = ifindex;
        self.query_link(request)
    }

    /// Sets MTU and transmit queue length (packets; `None` leaves the kernel's) and brings the link
    /// up. `gso_max_size` in bytes limits the super-packets the stack hands to the device; a kernel
    /// that refuses that limit is left with its own, since the packet path splits anything.
    pub fn set_up(
        &mut self,
        ifindex: u32,
        mtu: u32,
        txqueuelen: Option<u32>,
        gso_max_size: Option<u32>,
    ) -> Result<(), NetlinkError> {
        if let Some(size) = gso_max_size {
            let _ = self.set_gso_limits(ifindex, size, None);
        }
        let mut message = link_message(ifindex);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        if let Some(length) = txqueuelen {
            message.attributes.push(LinkAttribute::TxQueueLen(length));
        }
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Gives the device a hardware address (`lladdr`), which only Ethernet devices have.
    pub fn set_hardware_address(&mut self, ifindex: u32, address: Mac) -> Result<(), NetlinkError> {
        let mut message = link_message(ifindex);
        message
            .attributes
            .push(LinkAttribute::Address(address.0.to_vec()));
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Limits super-packets towards the device to `max_size` bytes and `max_segments` segments.
    pub fn set_gso_limits(
        &mut self,
        ifindex: u32,
        max_size: u32,
        max_segments: Option<u32>,
    ) -> Result<(), NetlinkError> {
        let mut message = link_message(ifindex);
        message.attributes.push(LinkAttribute::GsoMaxSize(max_size));
        if let Some(segments) = max_segments {
            message.attributes.push(LinkAttribute::GsoMaxSegs(segments));
        }
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Changes the MTU of a link, in bytes.
    pub fn set_mtu(&mut self, ifindex: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = link_message(ifindex);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Takes a link down. A link that is gone already is no error.
    pub fn set_down(&mut self, ifindex: u32) -> Result<(), NetlinkError> {
        let mut message = link_message(ifindex);
        message.header.change_mask = LinkFlags::Up;
        ignore_gone(self.change(RouteNetlinkMessage::SetLink(message), 0))
    }

    /// Adds an address, replacing the same address if the link has it with another prefix or peer.
    /// `peer` makes it a point-to-point address (topologies p2p and net30), whose prefix then
    /// belongs to the peer.
    pub fn add_address(
        &mut self,
        ifindex: u32,
        address: IpAddr,
        prefix: u8,
        peer: Option<IpAddr>,
    ) -> Result<(), NetlinkError> {
        let wanted = LinkAddress {
            address,
            prefix,
            peer,
        };
        let existing = self.addresses(ifindex)?;
        for old in existing.into_iter().filter(|old| old.address == address) {
            if old != wanted {
                self.remove_address(ifindex, old)?;
            }
        }
        self.change(
            RouteNetlinkMessage::NewAddress(address_message(ifindex, wanted)?),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Removes an address. One that is not there is no error.
    pub fn del_address(
        &mut self,
        ifindex: u32,
        address: IpAddr,
        prefix: u8,
        peer: Option<IpAddr>,
    ) -> Result<(), NetlinkError> {
        self.remove_address(
            ifindex,
            LinkAddress {
                address,
                prefix,
                peer,
            },
        )
    }

    /// The addresses of a link, link-local IPv6 addresses included.
    pub fn addresses(&mut self, ifindex: u32) -> Result<Vec<LinkAddress>, NetlinkError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = AddressMessage::default();
            request.header.family = family;
            request.header.index = ifindex;
            let answers = match self.dump(&RouteNetlinkMessage::GetAddress(request)) {
                Ok(answers) => answers,
                // A kernel without IPv6.
                Err(error) if error.errno == Errno::EAFNOSUPPORT => continue,
                Err(error) if error.gone() => continue,
                Err(error) => return Err(error),
            };
            found.extend(answers.into_iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) if message.header.index == ifindex => {
                    read_address(&message)
                }
                _ => None,
            }));
        }
        Ok(found)
    }

    fn remove_address(&mut self, ifindex: u32, address: LinkAddress) -> Result<(), NetlinkError> {
        let message = address_message(ifindex, address)?;
        ignore_gone(self.change(RouteNetlinkMessage::DelAddress(message), 0))
    }

    fn query_link(&mut self, request: LinkMessage) -> Result<Option<LinkInfo>, NetlinkError> {
        match self.query(RouteNetlinkMessage::GetLink(request)) {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Some(read_link(&message)),
                _ => None,
            })),
            // ERANGE: longer than an interface name can be.
            Err(error) if error.gone() || error.errno == Errno::ERANGE => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn link_message(ifindex: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message
}

fn read_link(message: &LinkMessage) -> LinkInfo {
    let mut info = LinkInfo {
        ifindex: message.header.index,
        name: String::new(),
        mtu: 0,
        txqueuelen: 0,
        gso_max_size: None,
        up: message.header.flags.contains(LinkFlags::Up),
        address: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => info.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => info.mtu = *mtu,
            LinkAttribute::TxQueueLen(length) => info.txqueuelen = *length,
            LinkAttribute::Address(bytes) => {
                info.address = bytes.as_slice().try_into().ok().map(Mac);
            }
            LinkAttribute::GsoMaxSize(size) => info.gso_max_size = Some(*size),
            _ => {}
        }
    }
    info
}

fn address_message(ifindex: u32, wanted: LinkAddress) -> Result<AddressMessage, NetlinkError> {
    let family_bits = if wanted.address.is_ipv4() { 32 } else { 128 };
    let mixed = wanted
        .peer
        .is_some_and(|peer| peer.is_ipv4() != wanted.address.is_ipv4());
    if wanted.prefix > family_bits || mixed {
        return Err(NetlinkError::new(
            Errno::EINVAL,
            format!("{wanted:?} is no address of one family"),
        ));
    }
    let mut message = AddressMessage::default();
    message.header.family = family_of(wanted.address);
    message.header.prefix_len = wanted.prefix;
    message.header.index = ifindex;
    message
        .attributes
        .push(AddressAttribute::Local(wanted.address));
    message.attributes.push(AddressAttribute::Address(
        wanted.peer.unwrap_or(wanted.address),
    ));
    Ok(message)
}

fn read_address(message: &AddressMessage) -> Option<LinkAddress> {
    let mut local = None;
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(value) => local = Some(*value),
            AddressAttribute::Address(value) => address = Some(*value),
            _ => {}
        }
    }
    // IPv6 addresses without a peer carry no local attribute.
    let own = local.or(address)?;
    Some(LinkAddress {
        address: own,
        prefix: message.header.prefix_len,
        peer: address.filter(|peer| *peer != own),
    })
}

/// The netlink family of an address.
pub(crate) fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The network an address belongs to: all bits behind `prefix` cleared.
pub fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(prefix.min(32)))
                .unwrap_or(0);
            Ipv4Addr::from(u32::from(address) & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(prefix.min(128)))
                .unwrap_or(0);
            Ipv6Addr::from(u128::from(address) & mask).into()
        }
    }
}

/// The largest super-packet, in bytes, whose full segments fit one UDP GSO send after `overhead`
/// bytes were added to each: as many segments as 65507 bytes hold, but at most 64, with one inner
/// header of 40 bytes in common. For [`Netlink::set_up`]; a super-packet of smaller segments may
/// still need two sends.
pub fn gso_max_size(tun_mtu: u32, overhead: u32) -> u32 {
    const UDP_PAYLOAD: u32 = 65_507;
    const SEGMENTS: u32 = 64;
    const INNER_HEADER: u32 = 40;
    let segment = tun_mtu.saturating_add(overhead).max(1);
    let segments = (UDP_PAYLOAD / segment).clamp(1, SEGMENTS);
    tun_mtu.saturating_sub(INNER_HEADER) * segments + INNER_HEADER.min(tun_mtu)
}

/// The netmask of an IPv4 prefix length.
pub fn netmask_of(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(
        u32::MAX
            .checked_shl(32 - u32::from(prefix.min(32)))
            .unwrap_or(0),
    )
}

/// The prefix length of an IPv4 netmask, `None` when its ones are not contiguous.
pub fn prefix_of(netmask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(netmask);
    let ones = bits.leading_ones();
    (bits.count_ones() == ones).then_some(ones as u8)
}

fn ignore_gone(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.gone() => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::in_namespace;

    #[test]
    fn masks() {
        assert_eq!(netmask_of(0), Ipv4Addr::UNSPECIFIED);
        assert_eq!(netmask_of(32), Ipv4Addr::BROADCAST);
        assert_eq!(netmask_of(20), Ipv4Addr::new(255, 255, 240, 0));
        for prefix in 0..=32 {
            assert_eq!(prefix_of(netmask_of(prefix)), Some(prefix));
        }
        assert_eq!(prefix_of(Ipv4Addr::new(255, 0, 255, 0)), None);
        let address: IpAddr = "fd00:1:2:3::4".parse().unwrap();
        assert_eq!(network_of(address, 48).to_string(), "fd00:1:2::");
        assert_eq!(network_of(address, 0).to_string(), "::");
        let address: IpAddr = "10.1.2.3".parse().unwrap();
        assert_eq!(network_of(address, 31).to_string(), "10.1.2.2");
    }

    #[test]
    fn super_packets_fit_one_send() {
        assert_eq!(gso_max_size(1500, 24), 42 * 1460 + 40);
        assert_eq!(gso_max_size(9000, 24), 7 * 8960 + 40);
        assert_eq!(gso_max_size(576, 24), 64 * 536 + 40);
        assert_eq!(gso_max_size(65_535, 100), 65_535);
        for mtu in 68..=65_000 {
            let segments = (gso_max_size(mtu, 100) - 40).div_ceil(mtu - 40);
            assert!(segments <= 64 && (segments == 1 || segments * (mtu + 100) <= 65_507));
        }
        // Nonsense is harmless.
        let _ = (gso_max_size(0, 0), gso_max_size(u32::MAX, u32::MAX));
    }

    #[test]
    fn link_is_configured_and_found() {
        in_namespace("link_is_configured_and_found", |netns| {
            netns.dummy("rwlink0");
            let mut netlink = Netlink::open().unwrap();
            assert_eq!(netlink.index_of("absent0").unwrap(), None);
            assert_eq!(
                netlink.index_of("a-name-longer-than-allowed").unwrap(),
                None
            );
            let index = netlink.index_of("rwlink0").unwrap().unwrap();
            netlink
                .set_up(index, 1400, Some(777), Some(60_000))
                .unwrap();
            let link = netlink.link("rwlink0").unwrap().unwrap();
            assert_eq!((link.mtu, link.txqueuelen, link.up), (1400, 777, true));
            assert_eq!(link.gso_max_size, Some(60_000));
            assert_eq!(netlink.link_by_index(index).unwrap().unwrap(), link);
            netlink.set_down(index).unwrap();
            assert!(!netlink.link("rwlink0").unwrap().unwrap().up);
            assert_eq!(netlink.link_by_index(9999).unwrap(), None);
            assert!(netlink.set_up(9999, 1400, None, None).is_err());
        });
    }

    #[test]
    fn tap_devices_take_a_hardware_address() {
        in_namespace("tap_devices_take_a_hardware_address", |netns| {
            netns.ip("tuntap add dev rwtap0 mode tap");
            let mut netlink = Netlink::open().unwrap();
            let index = netlink.index_of("rwtap0").unwrap().unwrap();
            let address = Mac([2, 0, 0x5e, 0x10, 0, 1]);
            netlink.set_hardware_address(index, address).unwrap();
            let link = netlink.link_by_index(index).unwrap().unwrap();
            assert_eq!(link.address, Some(address));
            assert!(netlink.set_hardware_address(9999, address).is_err());
        });
    }

    #[test]
    fn addresses_are_added_twice_replaced_and_removed() {
        in_namespace("addresses_are_added_twice_replaced_and_removed", |netns| {
            netns.dummy("rwaddr0");
            let mut netlink = Netlink::open().unwrap();
            let index = netlink.index_of("rwaddr0").unwrap().unwrap();
            let own: IpAddr = "10.8.0.1".parse().unwrap();
            let peer: IpAddr = "10.8.0.2".parse().unwrap();
            let own6: IpAddr = "fd00::1".parse().unwrap();
            netlink.add_address(index, own, 24, None).unwrap();
            netlink.add_address(index, own, 24, None).unwrap();
            netlink.add_address(index, own6, 64, None).unwrap();
            netlink.add_address(index, own6, 64, None).unwrap();
            let plain = |address, prefix| LinkAddress {
                address,
                prefix,
                peer: None,
            };
            assert_eq!(
                netlink.addresses(index).unwrap(),
                [plain(own, 24), plain(own6, 64)]
            );

            // The same address under another topology replaces the old one.
            netlink.add_address(index, own, 32, Some(peer)).unwrap();
            let point_to_point = LinkAddress {
                address: own,
                prefix: 32,
                peer: Some(peer),
            };
            assert_eq!(
                netlink.addresses(index).unwrap(),
                [point_to_point, plain(own6, 64)]
            );

            netlink.del_address(index, own, 32, Some(peer)).unwrap();
            netlink.del_address(index, own, 32, Some(peer)).unwrap();
            netlink.del_address(index, own6, 64, None).unwrap();
            assert_eq!(netlink.addresses(index).unwrap(), []);
            assert!(netlink.add_address(index, own, 33, None).is_err());
            assert!(netlink.add_address(index, own, 32, Some(own6)).is_err());
        });
    }
}
