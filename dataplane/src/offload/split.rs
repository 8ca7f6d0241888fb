//! Splitting a super-packet from TUN into the packets that go on the wire.
//!
//! [`plan`] looks at the headers once, checks them against the virtio header and sums everything that
//! is the same in all segments. [`Plan::write`] then makes one segment at the place where it will be
//! encrypted: headers and payload are copied once, the payload is summed on its way, and the
//! checksums follow from a handful of additions.
//!
//! ```text
//!   super-packet   | IP | TCP seq=s ... FIN PSH | payload 0 | payload 1 | rest |
//!   segment 0      | IP id+0 | TCP seq=s        CWR | payload 0 |
//!   segment 1      | IP id+1 | TCP seq=s+n          | payload 1 |
//!   segment 2      | IP id+2 | TCP seq=s+2n FIN PSH | rest |
//! ```
//!
//! In front of the IP packet there may be an Ethernet header ([`plan_at`]), which every segment gets; the
//! virtio header counts from its start.
//!
//! The virtio header's `hdr_len` is a hint and is ignored; where the headers end is read from the
//! packet. Whatever contradicts itself is [`DropReason::BadOffload`].

#[cfg(test)]
mod tests;

use super::VnetHdr;
use super::checksum::{self, word};
use crate::error::DropReason;
use crate::ip::{IPV6_HEADER, IpView, TCP, Transport, UDP};

/// Most segments in one super-packet. The kernel's largest super-packet in the smallest segments it
/// makes by default (48 bytes less options) stays below.
pub const MAX_SEGMENTS: usize = 2048;

/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;
/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header.
const UDP_CHECKSUM: usize = 6;

/// TCP flags that belong to the last segment: FIN and PSH.
const TCP_LAST: u8 = 0x09;
/// TCP flags of packets that are left whole: SYN, RST, URG.
const TCP_ALONE: u8 = 0x26;
/// Smallest payload worth cutting to, the default MSS of RFC 9293 §3.7.1.
const SMALLEST_SEGMENT: usize = 536;
/// The TCP flag that belongs to the first segment: CWR.
const TCP_FIRST: u8 = 0x80;

/// How to make one or more packets of one that was read from TUN. Holds no reference to the packet.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    packet_len: usize,
    count: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// An ordinary packet, complete as it is.
    Copy,
    /// An ordinary packet whose checksum covers `start..` and is stored at `field`.
    Checksum { start: usize, field: usize },
    /// A super-packet.
    Segments(Segments),
}

/// What all segments of a super-packet share. Sums are in memory order, see [`checksum`].
#[derive(Clone, Copy, Debug)]
struct Segments {
    ipv6: bool,
    tcp: bool,
    /// Bytes in front of the IP header.
    link: usize,
    /// Offset of the transport header.
    transport: usize,
    /// Bytes of all headers.
    header_len: usize,
    gso_size: usize,
    /// IPv4 header without total length, id and checksum.
    ip_sum: u64,
    /// Pseudo header and transport header, without lengths, sequence number, flags and checksum.
    transport_sum: u64,
    /// IPv4 id of the first segment.
    id: u16,
    /// TCP sequence number of the first segment.
    seq: u32,
    /// TCP data offset, reserved bits and flags of the super-packet.
    flags: [u8; 2],
}

/// Plans how to make packets of `packet`, which was read from TUN behind the virtio header `hdr`.
///
/// # Errors
/// [`DropReason::BadOffload`] when the two contradict each other: an unknown GSO type or one of
/// another protocol, lengths that do not fit, a checksum position outside the packet, a segment size
/// of zero or beyond the payload, more than [`MAX_SEGMENTS`] segments, a super-packet that is a
/// fragment, or whose checksums cannot be told (authentication header, unfinished routing header).
pub fn plan(hdr: &VnetHdr, packet: &[u8]) -> Result<Plan, DropReason> {
    plan_at(hdr, packet, 0)
}

/// As [`plan`], for a packet with `link` bytes in front of its IP header, or nothing but them; see
/// [`crate::frame::link_len`].
///
/// # Errors
/// As [`plan`]; also a super-packet that is no IP packet.
pub fn plan_at(hdr: &VnetHdr, packet: &[u8], link: usize) -> Result<Plan, DropReason> {
    let plan = if hdr.gso_type & !VnetHdr::ECN == VnetHdr::GSO_NONE {
        plan_single(hdr, packet)
    } else {
        plan_segments(hdr, packet, link)
    };
    plan.ok_or(DropReason::BadOffload)
}

/// A header that asks for `packet`, TCP behind `link` other bytes and longer than `limit` with them, to
/// be cut into packets of at most that length; `None` when it fits, or must be left alone: other
/// protocols, fragments, packets that open, reset or urge, checksums that are complete already.
pub fn resegment(hdr: &VnetHdr, packet: &[u8], link: usize, limit: usize) -> Option<VnetHdr> {
    let asked = usize::from(hdr.gso_size);
    let whole = hdr.gso_type & !VnetHdr::ECN == VnetHdr::GSO_NONE;
    if packet.len() <= limit || hdr.flags & VnetHdr::NEEDS_CSUM == 0 {
        return None;
    }
    let ip = IpView::parse(packet.get(link..)?)?;
    let transport = segmentable_transport(&ip).filter(|transport| transport.protocol == TCP)?;
    let at = link + transport.offset;
    // A padded frame has no more in it than fits already.
    if link + ip.total_len() != packet.len() {
        return None;
    }
    let header_len = at + transport_header_len(true, packet, at)?;
    let flags = *packet.get(at + 13)?;
    let gso_size = limit.checked_sub(header_len)?.min(usize::from(u16::MAX));
    if flags & TCP_ALONE != 0 || gso_size < SMALLEST_SEGMENT || (!whole && asked <= gso_size) {
        return None;
    }
    let gso_type = match ip.is_ipv6() {
        true => VnetHdr::GSO_TCPV6,
        false => VnetHdr::GSO_TCPV4,
    };
    Some(VnetHdr {
        gso_type: gso_type | hdr.gso_type & VnetHdr::ECN,
        gso_size: gso_size as u16,
        ..*hdr
    })
}

impl Plan {
    /// How many packets there will be, from 1 to [`MAX_SEGMENTS`].
    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of packet `i`. All but the last are equally long and the last is not longer.
    #[inline]
    pub fn len_of(&self, i: usize) -> usize {
        debug_assert!(i < self.count);
        match &self.kind {
            Kind::Copy | Kind::Checksum { .. } => self.packet_len,
            Kind::Segments(s) => s.header_len + s.payload_len(self.packet_len, i),
        }
    }

    /// Writes packet `i` to the start of `out`; `packet` is the one that was planned.
    ///
    /// # Panics
    /// When `i` is not below [`Plan::count`], `out` is shorter than [`Plan::len_of`], or `packet` is
    /// shorter than the planned one.
    #[inline]
    pub fn write(&self, packet: &[u8], i: usize, out: &mut [u8]) {
        assert!(i < self.count, "no such segment");
        let packet = &packet[..self.packet_len];
        match &self.kind {
            Kind::Copy => out[..packet.len()].copy_from_slice(packet),
            Kind::Checksum { start, field } => write_checksummed(packet, *start, *field, out),
            Kind::Segments(s) => s.write(packet, i, self.count, out),
        }
    }
}

fn plan_single(hdr: &VnetHdr, packet: &[u8]) -> Option<Plan> {
    let kind = if hdr.flags & VnetHdr::NEEDS_CSUM == 0 {
        Kind::Copy
    } else {
        let start = usize::from(hdr.csum_start);
        let offset = usize::from(hdr.csum_offset);
        // A field across two words of the sum belongs to no protocol.
        if offset % 2 != 0 || start + offset + 2 > packet.len() {
            return None;
        }
        Kind::Checksum {
            start,
            field: start + offset,
        }
    };
    Some(Plan {
        packet_len: packet.len(),
        count: 1,
        kind,
    })
}

fn plan_segments(hdr: &VnetHdr, packet: &[u8], link: usize) -> Option<Plan> {
    let ip = IpView::parse(packet.get(link..)?)?;
    if link + ip.total_len() != packet.len() {
        return None;
    }
    let transport = segmentable_transport(&ip)?;
    let tcp = match (hdr.gso_type, ip.is_ipv6(), transport.protocol) {
        (VnetHdr::GSO_TCPV4 | TCPV4_ECN, false, TCP) => true,
        (VnetHdr::GSO_TCPV6 | TCPV6_ECN, true, TCP) => true,
        (VnetHdr::GSO_UDP_L4, _, UDP) => false,
        _ => return None,
    };
    let field = if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
    let start = (usize::from(hdr.csum_start), usize::from(hdr.csum_offset));
    // Without the flag the kernel has verified the checksum already, and the field is not needed.
    let at = link + transport.offset;
    if hdr.flags & VnetHdr::NEEDS_CSUM != 0 && start != (at, field) {
        return None;
    }

    let header_len = at + transport_header_len(tcp, packet, at)?;
    let payload = packet.len().checked_sub(header_len)?;
    let gso_size = usize::from(hdr.gso_size);
    if gso_size == 0 || gso_size > payload {
        return None;
    }
    let count = payload.div_ceil(gso_size);
    if count > MAX_SEGMENTS {
        return None;
    }
    let segments = Segments::new(&ip, tcp, transport, link, header_len, gso_size);
    Some(Plan {
        packet_len: packet.len(),
        count,
        kind: Kind::Segments(segments),
    })
}

const TCPV4_ECN: u8 = VnetHdr::GSO_TCPV4 | VnetHdr::ECN;
const TCPV6_ECN: u8 = VnetHdr::GSO_TCPV6 | VnetHdr::ECN;

/// The transport of a packet that can be cut into pieces.
fn segmentable_transport(ip: &IpView<'_>) -> Option<Transport> {
    if !ip.is_ipv6() {
        return ip.transport().filter(|_| !ip.is_fragment());
    }
    let chain = ip.chain()?;
    let whole = chain.fragment.is_none() && !chain.routed && !chain.authenticated;
    whole.then_some(chain.transport)
}

/// Bytes of the TCP or UDP header at `at`, all of which are there.
fn transport_header_len(tcp: bool, packet: &[u8], at: usize) -> Option<usize> {
    let len = match tcp {
        true => usize::from(packet.get(at + 12)? >> 4) * 4,
        false => UDP_HEADER,
    };
    let long_enough = !tcp || len >= TCP_HEADER;
    (long_enough && at + len <= packet.len()).then_some(len)
}

/// Copies an ordinary packet and completes its checksum, in whose field the sum of the pseudo header
/// is waiting.
#[inline]
fn write_checksummed(packet: &[u8], start: usize, field: usize, out: &mut [u8]) {
    let out = &mut out[..packet.len()];
    let (head, covered) = out.split_at_mut(start);
    head.copy_from_slice(&packet[..start]);
    let sum = checksum::copy_and_sum(covered, &packet[start..]);
    // Zero would mean "none" in UDP, and elsewhere both values mean the same.
    out[field..field + 2].copy_from_slice(&checksum::finish_udp(sum));
}

impl Segments {
    /// `header_len` counts the `link` bytes in front of `ip`.
    fn new(
        ip: &IpView<'_>,
        tcp: bool,
        at: Transport,
        link: usize,
        header_len: usize,
        gso_size: usize,
    ) -> Self {
        let bytes = ip.bytes();
        let header = &bytes[at.offset..header_len - link];
        let mut segments = Segments {
            ipv6: ip.is_ipv6(),
            tcp,
            link,
            transport: link + at.offset,
            header_len,
            gso_size,
            ip_sum: 0,
            // Ports; the lengths follow with each segment.
            transport_sum: checksum::pseudo_header(ip.addresses(), at.protocol, 0)
                + checksum::sum(&header[..4]),
            id: 0,
            seq: 0,
            flags: [0; 2],
        };
        if !segments.ipv6 {
            segments.id = u16::from_be_bytes([bytes[4], bytes[5]]);
            segments.ip_sum = checksum::sum(&bytes[..2])
                + checksum::sum(&bytes[6..10])
                + checksum::sum(&bytes[12..at.offset]);
        }
        if tcp {
            segments.seq = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            segments.flags = [header[12], header[13]];
            segments.transport_sum += checksum::sum(&header[8..12])
                + checksum::sum(&header[14..16])
                + checksum::sum(&header[18..]);
        }
        segments
    }

    #[inline]
    fn payload_len(&self, packet_len: usize, i: usize) -> usize {
        let before = i * self.gso_size;
        (packet_len - self.header_len - before).min(self.gso_size)
    }

    #[inline]
    fn write(&self, packet: &[u8], i: usize, count: usize, out: &mut [u8]) {
        let (header, payload) = packet.split_at(self.header_len);
        let payload = &payload[i * self.gso_size..][..self.payload_len(packet.len(), i)];
        let total = self.header_len + payload.len();
        let (out, body) = out[..total].split_at_mut(self.header_len);

        out.copy_from_slice(header);
        let payload_sum = checksum::copy_and_sum(body, payload);
        let (ip, transport) = out.split_at_mut(self.transport);
        let ip = &mut ip[self.link..];
        let ip_len = total - self.link;
        if self.ipv6 {
            ip[4..6].copy_from_slice(&be(ip_len - IPV6_HEADER));
        } else {
            let id = self.id.wrapping_add(i as u16);
            ip[2..4].copy_from_slice(&be(ip_len));
            ip[4..6].copy_from_slice(&id.to_be_bytes());
            let sum = self.ip_sum + word(ip_len as u16) + word(id);
            ip[10..12].copy_from_slice(&checksum::finish(sum));
        }

        // No more than 65535, as the super-packet is.
        let len = total - self.transport;
        let sum = self.transport_sum + payload_sum + word(len as u16);
        if self.tcp {
            let seq = self.seq.wrapping_add((i * self.gso_size) as u32);
            let flags = self.flags_of(i, count);
            transport[4..8].copy_from_slice(&seq.to_be_bytes());
            transport[12..14].copy_from_slice(&flags);
            let sum = sum + u64::from(seq.to_be()) + u64::from(u16::from_ne_bytes(flags));
            transport[TCP_CHECKSUM..][..2].copy_from_slice(&checksum::finish(sum));
        } else {
            transport[4..6].copy_from_slice(&be(len));
            // The length is in the pseudo header and in the header.
            let sum = sum + word(len as u16);
            transport[UDP_CHECKSUM..][..2].copy_from_slice(&checksum::finish_udp(sum));
        }
    }

    /// Data offset, reserved bits and flags of segment `i`.
    #[inline]
    fn flags_of(&self, i: usize, count: usize) -> [u8; 2] {
        let mut flags = self.flags[1];
        if i > 0 {
            flags &= !TCP_FIRST;
        }
        if i + 1 < count {
            flags &= !TCP_LAST;
        }
        [self.flags[0], flags]
    }
}

/// A length as the packet holds it. A super-packet's length fits 16 bits, or it has not parsed.
#[inline]
fn be(len: usize) -> [u8; 2] {
    (len as u16).to_be_bytes()
}
