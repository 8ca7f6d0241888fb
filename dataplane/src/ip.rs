//! Reading IPv4 and IPv6 headers in place.
//!
//! [`IpView`] looks at a packet without copying it. It checks as much as its accessors need: the
//! version, the header's length, and that the packet is all there. It verifies no checksum and
//! judges no address.
//!
//! ```text
//!  IPv4  | version:4 ihl:4 | tos:8 | total_len:16 | id:16 | 0 DF MF offset:13 | ttl:8 | protocol:8 | ...
//!  IPv6  | version:4 class:8 flow:20 | payload_len:16 | next:8 | hop limit:8 | source | destination |
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol number of ICMP for IPv4.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// Length of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// Length of an IPv6 header without extension headers.
pub const IPV6_HEADER: usize = 40;

/// Most IPv6 extension headers followed before a packet counts as broken.
const MAX_EXTENSIONS: usize = 8;

/// IP version by the first byte alone: 4, 6, or `None`.
#[inline]
pub fn version(packet: &[u8]) -> Option<u8> {
    match packet.first()? >> 4 {
        4 => Some(4),
        6 => Some(6),
        _ => None,
    }
}

/// Source address of a packet, `None` when it is not a well-formed IP packet.
pub fn source(packet: &[u8]) -> Option<IpAddr> {
    IpView::parse(packet).map(|ip| ip.source())
}

/// Destination address of a packet, `None` when it is not a well-formed IP packet.
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    IpView::parse(packet).map(|ip| ip.destination())
}

/// A packet with a plausible IP header.
#[derive(Clone, Copy, Debug)]
pub struct IpView<'a> {
    /// Exactly the bytes that the header claims.
    bytes: &'a [u8],
    header_len: usize,
}

impl<'a> IpView<'a> {
    /// Looks at a packet. `None` when it is neither IPv4 nor IPv6, when its header is cut off or
    /// impossible, or when it claims more bytes than there are. Bytes after the packet are ignored.
    #[inline]
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let (header_len, total_len) = match packet.first()? >> 4 {
            4 if packet.len() >= IPV4_HEADER => (
                usize::from(packet[0] & 15) * 4,
                usize::from(be16(packet, 2)),
            ),
            6 if packet.len() >= IPV6_HEADER => {
                (IPV6_HEADER, IPV6_HEADER + usize::from(be16(packet, 4)))
            }
            _ => return None,
        };
        if header_len < IPV4_HEADER || total_len < header_len {
            return None;
        }
        let bytes = packet.get(..total_len)?;
        Some(IpView { bytes, header_len })
    }

    /// 4 or 6.
    #[inline]
    pub fn version(&self) -> u8 {
        self.bytes[0] >> 4
    }

    /// True for IPv6.
    #[inline]
    pub fn is_ipv6(&self) -> bool {
        self.version() == 6
    }

    /// Source address.
    pub fn source(&self) -> IpAddr {
        self.address(0)
    }

    /// Destination address.
    pub fn destination(&self) -> IpAddr {
        self.address(1)
    }

    /// Source and destination as they lie in the header: 8 or 32 bytes.
    #[inline]
    pub fn addresses(&self) -> &'a [u8] {
        match self.is_ipv6() {
            true => &self.bytes[8..40],
            false => &self.bytes[12..20],
        }
    }

    /// Bytes of the whole packet, as the header says.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of the IPv4 header with its options, or 40.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// The packet, without anything after it.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The protocol field (IPv4) or the first next-header field (IPv6). [`IpView::transport`] looks
    /// behind extension headers.
    #[inline]
    pub fn protocol(&self) -> u8 {
        match self.is_ipv6() {
            true => self.bytes[6],
            false => self.bytes[9],
        }
    }

    /// TOS (IPv4) or traffic class (IPv6): DSCP in the upper six bits, ECN in the lower two.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        match self.is_ipv6() {
            true => self.bytes[0] << 4 | self.bytes[1] >> 4,
            false => self.bytes[1],
        }
    }

    /// TTL (IPv4) or hop limit (IPv6).
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        match self.is_ipv6() {
            true => self.bytes[7],
            false => self.bytes[8],
        }
    }

    /// True when routers must not fragment the packet: IPv4 with DF, and all of IPv6.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.is_ipv6() || self.bytes[6] & 0x40 != 0
    }

    /// True for any part of a fragmented packet, the first part included.
    pub fn is_fragment(&self) -> bool {
        match self.is_ipv6() {
            true => self
                .chain()
                .is_some_and(|chain| chain.fragment.is_some_and(|field| field & !6 != 0)),
            false => be16(self.bytes, 6) & 0x3fff != 0,
        }
    }

    /// The transport protocol and where its header begins, behind any IPv6 extension headers. `None`
    /// for a fragment other than the first, and where the chain of extension headers is broken, cut
    /// off or longer than 8.
    #[inline]
    pub fn transport(&self) -> Option<Transport> {
        if !self.is_ipv6() {
            if be16(self.bytes, 6) & 0x1fff != 0 {
                return None;
            }
            return Some(Transport {
                protocol: self.bytes[9],
                offset: self.header_len,
            });
        }
        let chain = self.chain()?;
        match chain.fragment {
            Some(field) if field >> 3 != 0 => None,
            _ => Some(chain.transport),
        }
    }

    /// True for a TCP segment, or the first fragment of one.
    #[inline]
    pub fn is_tcp(&self) -> bool {
        self.transport()
            .is_some_and(|transport| transport.protocol == TCP)
    }

    /// Follows the IPv6 extension headers (RFC 8200 §4). Only for IPv6.
    #[inline]
    pub(crate) fn chain(&self) -> Option<Chain> {
        let mut chain = Chain {
            transport: Transport {
                protocol: self.bytes[6],
                offset: IPV6_HEADER,
            },
            fragment: None,
            routed: false,
            authenticated: false,
        };
        for _ in 0..=MAX_EXTENSIONS {
            let Transport { protocol, offset } = chain.transport;
            let Some(kind) = Extension::of(protocol) else {
                return Some(chain);
            };
            let start: &[u8; 8] = self.bytes.get(offset..)?.first_chunk()?;
            let len = match kind {
                Extension::Fragment => {
                    let field = u16::from_be_bytes([start[2], start[3]]);
                    chain.fragment = Some(field);
                    if field >> 3 != 0 {
                        // What follows is the middle of something.
                        chain.transport = Transport {
                            protocol: start[0],
                            offset: offset + 8,
                        };
                        return Some(chain);
                    }
                    8
                }
                Extension::Authentication => {
                    chain.authenticated = true;
                    (usize::from(start[1]) + 2) * 4
                }
                Extension::Routing => {
                    chain.routed |= start[3] != 0;
                    (usize::from(start[1]) + 1) * 8
                }
                Extension::Options => (usize::from(start[1]) + 1) * 8,
            };
            if offset + len > self.bytes.len() {
                return None;
            }
            chain.transport = Transport {
                protocol: start[0],
                offset: offset + len,
            };
        }
        None
    }

    fn address(&self, index: usize) -> IpAddr {
        let (four, _) = self.addresses().as_chunks::<4>();
        let (sixteen, _) = self.addresses().as_chunks::<16>();
        match self.is_ipv6() {
            true => IpAddr::V6(Ipv6Addr::from(sixteen[index])),
            false => IpAddr::V4(Ipv4Addr::from(four[index])),
        }
    }
}

/// Where a packet's transport header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Protocol number, e.g. [`TCP`].
    pub protocol: u8,
    /// Offset from the start of the packet; at most its length.
    pub offset: usize,
}

/// What was met on the way to the transport header of an IPv6 packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    pub(crate) transport: Transport,
    /// Offset (upper 13 bits) and more-flag (lowest bit) of the fragment header, if there is one.
    pub(crate) fragment: Option<u16>,
    /// A routing header with segments left: the final destination is not the one in the header.
    pub(crate) routed: bool,
    /// An authentication header.
    pub(crate) authenticated: bool,
}

/// True when this IPv6 next-header value is an extension header.
pub(crate) fn is_extension(protocol: u8) -> bool {
    Extension::of(protocol).is_some()
}

/// IPv6 extension headers, by how their length is told.
enum Extension {
    Options,
    Routing,
    Fragment,
    Authentication,
}

impl Extension {
    #[inline]
    fn of(protocol: u8) -> Option<Self> {
        match protocol {
            // Hop-by-hop, destination options, mobility, HIP, Shim6.
            0 | 60 | 135 | 139 | 140 => Some(Extension::Options),
            43 => Some(Extension::Routing),
            44 => Some(Extension::Fragment),
            51 => Some(Extension::Authentication),
            _ => None,
        }
    }
}

#[inline]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(options: usize, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + options;
        let mut packet = vec![0u8; header_len];
        packet[0] = 0x40 | (header_len / 4) as u8;
        packet[1] = 0xb9;
        packet[2..4].copy_from_slice(&((header_len + payload.len()) as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[8] = 63;
        packet[9] = UDP;
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 192, 168, 7, 9]);
        packet.extend(payload);
        packet
    }

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0u8; 40];
        packet[0] = 0x6b;
        packet[1] = 0x92;
        packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        packet[6] = next;
        packet[7] = 62;
        packet[8] = 0xfd;
        packet[23] = 1;
        packet[24] = 0xfd;
        packet[39] = 2;
        packet.extend(payload);
        packet
    }

    fn transport(protocol: u8, offset: usize) -> Option<Transport> {
        Some(Transport { protocol, offset })
    }

    #[test]
    fn ipv4_fields() {
        let mut packet = v4(8, 0x4000, b"payload");
        packet.extend([0; 5]);
        let ip = IpView::parse(&packet).unwrap();
        assert_eq!((ip.version(), ip.header_len(), ip.total_len()), (4, 28, 35));
        assert_eq!(ip.source(), "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(ip.destination(), "192.168.7.9".parse::<IpAddr>().unwrap());
        assert_eq!(
            (ip.protocol(), ip.traffic_class(), ip.hop_limit()),
            (UDP, 0xb9, 63)
        );
        assert!(ip.dont_fragment());
        assert!(!ip.is_fragment());
        assert_eq!(ip.transport(), transport(UDP, 28));
        assert_eq!(ip.bytes(), &packet[..35]);
    }

    #[test]
    fn ipv6_fields() {
        let packet = v6(TCP, b"payload");
        let ip = IpView::parse(&packet).unwrap();
        assert_eq!((ip.version(), ip.header_len(), ip.total_len()), (6, 40, 47));
        assert_eq!(ip.source(), "fd00::1".parse::<IpAddr>().unwrap());
        assert_eq!(ip.destination(), "fd00::2".parse::<IpAddr>().unwrap());
        assert_eq!(
            (ip.protocol(), ip.traffic_class(), ip.hop_limit()),
            (TCP, 0xb9, 62)
        );
        assert!(ip.dont_fragment());
        assert!(!ip.is_fragment());
        assert_eq!(ip.transport(), transport(TCP, 40));
        assert_eq!(source(&packet), Some(ip.source()));
        assert_eq!(destination(&packet), Some(ip.destination()));
    }

    #[test]
    fn ipv4_fragments() {
        let first = v4(0, 0x2000, &[0; 16]);
        let ip = IpView::parse(&first).unwrap();
        assert!(ip.is_fragment() && !ip.dont_fragment());
        assert_eq!(ip.transport(), transport(UDP, 20));
        let last = v4(0, 0x0002, &[0; 16]);
        let ip = IpView::parse(&last).unwrap();
        assert!(ip.is_fragment());
        assert_eq!(ip.transport(), None);
    }

    #[test]
    fn ipv6_extension_headers_are_walked() {
        // Hop-by-hop (8 bytes), routing (24 bytes), authentication (12 bytes), destination options.
        let mut chain = vec![43, 0, 1, 4, 0, 0, 0, 0];
        chain.extend([51, 2, 4, 1]);
        chain.extend([0; 20]);
        chain.extend([60, 1]);
        chain.extend([0; 10]);
        chain.extend([UDP, 0, 1, 4, 0, 0, 0, 0]);
        chain.extend([0; 8]);
        let packet = v6(0, &chain);
        let ip = IpView::parse(&packet).unwrap();
        assert_eq!(ip.transport(), transport(UDP, 40 + 8 + 24 + 12 + 8));
        let chain = ip.chain().unwrap();
        assert!(chain.routed && chain.authenticated && chain.fragment.is_none());
    }

    #[test]
    fn ipv6_fragments() {
        for (field, fragment, found) in [
            (0x0000u16, false, transport(UDP, 48)),
            (0x0001, true, transport(UDP, 48)),
            (0x0009, true, None),
            (0x0010, true, None),
        ] {
            let mut header = vec![UDP, 0, 0, 0, 1, 2, 3, 4];
            header[2..4].copy_from_slice(&field.to_be_bytes());
            header.extend([0; 8]);
            let packet = v6(44, &header);
            let ip = IpView::parse(&packet).unwrap();
            assert_eq!(ip.is_fragment(), fragment, "{field:04x}");
            assert_eq!(ip.transport(), found, "{field:04x}");
        }
    }

    #[test]
    fn broken_and_endless_chains_end() {
        // Claims 24 bytes of which 8 are there.
        let cut = v6(0, &[UDP, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(IpView::parse(&cut).unwrap().transport(), None);
        assert_eq!(IpView::parse(&v6(0, &[UDP, 0])).unwrap().transport(), None);
        let eight = v6(60, &[[60, 0, 0, 0, 0, 0, 0, 0]; 7].concat());
        assert_eq!(IpView::parse(&eight).unwrap().transport(), None);
        let mut many = [[60, 0, 0, 0, 0, 0, 0, 0]; 8];
        many[7][0] = UDP;
        assert_eq!(
            IpView::parse(&v6(60, &many.concat())).unwrap().transport(),
            transport(UDP, 104)
        );
        let mut endless = [[60, 0, 0, 0, 0, 0, 0, 0]; 9];
        endless[8][0] = UDP;
        assert_eq!(
            IpView::parse(&v6(60, &endless.concat()))
                .unwrap()
                .transport(),
            None
        );
    }

    #[test]
    fn impossible_headers_are_refused() {
        let good = v4(0, 0, b"abc");
        assert!(IpView::parse(&good[..22]).is_none());
        assert!(IpView::parse(&good[..19]).is_none());
        assert!(IpView::parse(&[]).is_none());
        let mut bad = good.clone();
        bad[0] = 0x44;
        assert!(IpView::parse(&bad).is_none());
        bad[0] = 0x55;
        assert!(IpView::parse(&bad).is_none());
        bad[0] = 0x46;
        bad[3] = 22;
        assert!(IpView::parse(&bad).is_none());
        assert!(IpView::parse(&v6(TCP, b"abc")[..42]).is_none());
        assert_eq!(
            (version(&good), version(&[0x60]), version(&[0x10])),
            (Some(4), Some(6), None)
        );
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            mut packet in proptest::collection::vec(any::<u8>(), 0..200),
            six: bool,
            next in prop::sample::select(vec![0u8, 6, 17, 43, 44, 51, 60, 135]),
        ) {
            if packet.len() > 40 {
                packet[0] = if six { 0x60 } else { 0x45 };
                packet[4..6].copy_from_slice(&[0, 20]);
                packet[6] = next;
            }
            if let Some(ip) = IpView::parse(&packet) {
                let _ = (ip.source(), ip.destination(), ip.is_fragment(), ip.traffic_class());
                if let Some(transport) = ip.transport() {
                    prop_assert!(transport.offset <= ip.total_len());
                }
            }
        }
    }
}
