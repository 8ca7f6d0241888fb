//! Joining received packets of one flow into super-packets for TUN.
//!
//! The packets lie decrypted in one large buffer. [`Coalescer::coalesce`] finds neighbours that the
//! kernel's own receive offload would join, and describes each super-packet as a list of byte ranges
//! for one vectored write: the first packet with its headers, then only the payload of the others.
//! No payload moves. The headers of the first packet are edited in place, and the kernel gets the
//! checksum as "still to be completed", so that it neither verifies nor needs it.
//!
//! ```text
//!   buffer   | IP TCP payload0 | .. | IP TCP payload1 | .. | IP TCP rest |
//!              |<-- slice 0 -->|             |slice 1|             |sl 2|
//!   write    | vnet header | IP TCP payload0 | payload1 | rest |
//! ```
//!
//! On a TAP device the packets are frames, and the first one's Ethernet header is that of the
//! super-packet. Frames with anything but IP in them are left alone.
//!
//! Rules (those of the kernel): the same Ethernet header, tag included; the same addresses, ports, TOS, TTL, DF, flow label; IPv4 ids that
//! count up, or stay the same with DF (RFC 6864); equal payloads, only the last shorter; checksums that
//! hold. TCP: sequence numbers that follow each other, everything else in the header the same,
//! options included; PSH and FIN only at the end; never SYN, RST, URG or CWR. UDP: at most 64, with a
//! checksum. No fragments, no IPv4 options, no IPv6 extension headers.
//!
//! Packets of several flows may be mixed: up to [`OPEN_FLOWS`] super-packets grow at a time. A packet
//! that cannot join its flow's super-packet closes it, so the packets of one flow never change
//! places. Super-packets are written in the order of their first packets.

use arrayvec::ArrayVec;

use super::VnetHdr;
use super::checksum;
use crate::cipher::Segment;
use crate::frame;
use crate::ip::{self, IPV4_HEADER, IPV6_HEADER, IpView, TCP, UDP};
use crate::tun::DeviceKind;

/// Super-packets that may grow at the same time.
pub const OPEN_FLOWS: usize = 16;
/// Most slices in one write: what a caller's table of I/O vectors must hold besides the header.
pub const MAX_SLICES: usize = 128;

/// Most datagrams in one UDP super-packet, as in the kernel.
const MAX_DATAGRAMS: usize = 64;
/// Most bytes in one super-packet, headers included.
const MAX_BYTES: usize = 65_535;

/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;
/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;

/// TCP flags that end a super-packet: FIN and PSH.
const TCP_END: u8 = 0x09;
/// TCP flags that keep a packet alone: SYN, RST, URG, CWR.
const TCP_ALONE: u8 = 0x02 | 0x04 | 0x20 | 0x80;

/// End of a chain of packets.
const NONE: u32 = u32::MAX;

/// What a TUN device accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunCaps {
    /// TCP super-packets over IPv4 and IPv6.
    pub tso: bool,
    /// UDP super-packets (Linux 6.2 and later).
    pub uso: bool,
}

/// One write to TUN.
#[derive(Clone, Copy, Debug)]
pub struct TunWrite<'a> {
    /// The virtio header, to go first. Without `IFF_VNET_HDR` the caller leaves it out; it is all
    /// zero then, as long as no [`TunCaps`] were given.
    pub vnet: &'a [u8; VnetHdr::LEN],
    /// The packet's pieces in order, as ranges of the buffer; from 1 to [`MAX_SLICES`].
    pub slices: &'a [Segment],
}

/// Joins packets. Reused for every batch; allocates only in [`Coalescer::new`].
#[derive(Debug)]
pub struct Coalescer {
    kind: DeviceKind,
    /// In the order of their first packets.
    groups: Vec<Group>,
    /// Groups that can still grow, one per flow.
    open: ArrayVec<Flow, OPEN_FLOWS>,
    /// Which open group gives way next when all are taken.
    evict: usize,
    /// The packet after each packet in its group, or [`NONE`].
    next: Vec<u32>,
    /// Slices of all groups, one group after the other.
    slices: Vec<Segment>,
}

impl Coalescer {
    /// A coalescer of IP packets for batches of up to `max_packets`. A larger batch works, but
    /// allocates.
    pub fn new(max_packets: usize) -> Self {
        Coalescer {
            kind: DeviceKind::Tun,
            groups: Vec::with_capacity(max_packets),
            open: ArrayVec::new(),
            evict: 0,
            next: Vec::with_capacity(max_packets),
            slices: Vec::with_capacity(max_packets),
        }
    }

    /// Says whether packets are IP packets or frames, from the next batch on.
    pub fn set_kind(&mut self, kind: DeviceKind) {
        self.kind = kind;
    }

    /// Joins what can be joined of `packets`, ranges of `buf` that do not overlap, in the order of
    /// their arrival. Forgets the batch before. Each packet ends up in exactly one of
    /// [`Coalescer::writes`].
    pub fn coalesce(&mut self, buf: &mut [u8], packets: &[Segment], caps: TunCaps) {
        self.groups.clear();
        self.open.clear();
        self.next.clear();
        self.slices.clear();
        for packet in packets {
            self.take(buf, packets, *packet, caps);
        }
        self.finish(buf, packets);
    }

    /// The writes of the last batch, in order.
    pub fn writes(&self) -> impl Iterator<Item = TunWrite<'_>> + Clone {
        self.groups.iter().map(|group| TunWrite {
            vnet: &group.vnet,
            slices: &self.slices[group.slices..][..group.count],
        })
    }

    /// Puts the next packet into its flow's open group, or into a new one.
    fn take(&mut self, buf: &[u8], packets: &[Segment], packet: Segment, caps: TunCaps) {
        let index = self.next.len();
        self.next.push(NONE);
        let class = match caps {
            // Nothing will be joined, so nothing can change places.
            TunCaps {
                tso: false,
                uso: false,
            } => Class::Other,
            _ => match (bytes(buf, packet), self.kind) {
                (None, _) => Class::Irregular,
                (Some(packet), DeviceKind::Tun) => classify(packet),
                (Some(frame), DeviceKind::Tap) => classify_frame(frame),
            },
        };
        let head = match class {
            Class::Flow(head) => head,
            Class::Other => {
                self.groups.push(Group::alone(index));
                return;
            }
            Class::Irregular => {
                // It may belong to any flow, and must not be overtaken by later packets of it.
                self.open.clear();
                self.groups.push(Group::alone(index));
                return;
            }
        };
        let mergeable = head.mergeable && if head.tcp { caps.tso } else { caps.uso };
        let known = self
            .open
            .iter()
            .position(|flow| flow.tag == head.tag && head.same_addresses(buf, flow, packet));
        if let Some(slot) = known {
            let group = &mut self.groups[self.open[slot].group];
            if mergeable && group.accepts(buf, packets, packet, &head) {
                self.next[group.last] = index as u32;
                group.append(index, &head);
                if head.end || group.is_full(&head) {
                    self.open.swap_remove(slot);
                }
                return;
            }
            self.open.swap_remove(slot);
        }
        self.groups.push(Group::first(index, &head));
        if mergeable && !head.end {
            self.open_flow(Flow {
                tag: head.tag,
                start: packet.start + head.link,
                group: self.groups.len() - 1,
            });
        }
    }

    fn open_flow(&mut self, flow: Flow) {
        if let Err(full) = self.open.try_push(flow) {
            self.evict = (self.evict + 1) % OPEN_FLOWS;
            self.open[self.evict] = full.element();
        }
    }

    /// Lists the slices of all groups and completes the headers of those with several packets.
    fn finish(&mut self, buf: &mut [u8], packets: &[Segment]) {
        for group in &mut self.groups {
            group.slices = self.slices.len();
            let first = packets[group.first];
            self.slices.push(first);
            let mut index = self.next[group.first];
            while index != NONE {
                let packet = packets[index as usize];
                self.slices.push(Segment {
                    start: packet.start + group.link + group.header_len,
                    len: packet.len - group.link - group.header_len,
                });
                index = self.next[index as usize];
            }
            if group.count > 1 {
                group.vnet = group.complete(&mut buf[first.start..][..first.len]);
            }
        }
    }
}

/// A flow that has an open group.
#[derive(Debug)]
struct Flow {
    /// Differs where ports, protocol or version differ.
    tag: u64,
    /// Where the IP header of the group's first packet begins, whose addresses are the flow's. Copying them to here
    /// for each packet would cost more than looking at them there.
    start: usize,
    group: usize,
}

/// Packets that become one write.
#[derive(Debug)]
struct Group {
    /// Index of the first and the last packet.
    first: usize,
    last: usize,
    count: usize,
    /// Bytes in front of the IP header, in all packets. The offsets and lengths below count from
    /// behind them.
    link: usize,
    /// Offset of the transport header, in all packets.
    transport: usize,
    /// Bytes of the IP and transport headers, in all packets.
    header_len: usize,
    /// Payload of the first packet in bytes.
    gso_size: usize,
    /// Bytes of the super-packet.
    total_len: usize,
    tcp: bool,
    ipv6: bool,
    /// The first packet's checksums were found to hold.
    verified: bool,
    /// IPv4 ids stay the same. Known from the second packet on.
    fixed_id: bool,
    /// TCP flags of the last packet that the super-packet takes over.
    end_flags: u8,
    /// Where its slices begin.
    slices: usize,
    vnet: [u8; VnetHdr::LEN],
}

impl Group {
    /// A packet that nothing can join.
    fn alone(index: usize) -> Self {
        Group {
            first: index,
            last: index,
            count: 1,
            link: 0,
            transport: 0,
            header_len: 0,
            gso_size: 0,
            total_len: 0,
            tcp: false,
            ipv6: false,
            verified: false,
            fixed_id: false,
            end_flags: 0,
            slices: 0,
            vnet: [0; VnetHdr::LEN],
        }
    }

    /// The first packet of a flow's group.
    fn first(index: usize, head: &Head) -> Self {
        Group {
            link: head.link,
            transport: head.transport,
            header_len: head.header_len,
            gso_size: head.payload,
            total_len: head.header_len + head.payload,
            tcp: head.tcp,
            ipv6: head.ipv6,
            ..Group::alone(index)
        }
    }

    /// True when a packet of the same flow may follow. Finds out about the first packet's checksums
    /// and ids on the way; when that fails, the caller closes the group.
    fn accepts(&mut self, buf: &[u8], packets: &[Segment], packet: Segment, head: &Head) -> bool {
        if head.payload > self.gso_size
            || head.header_len != self.header_len
            || self.total_len + head.payload > MAX_BYTES
        {
            return false;
        }
        let (Some(first), Some(packet)) = (bytes(buf, packets[self.first]), bytes(buf, packet))
        else {
            return false;
        };
        if head.link != self.link || first[..self.link] != packet[..self.link] {
            return false;
        }
        let (first, packet) = (&first[self.link..], &packet[self.link..]);
        let same = match self.ipv6 {
            true => same_ipv6(first, packet),
            false => self.same_ipv4(first, packet),
        };
        if !same || self.tcp && !self.same_tcp(first, packet) {
            return false;
        }
        self.verified = self.verified || self.checksums_hold(first);
        self.verified && self.checksums_hold(packet)
    }

    /// TOS, DF and TTL are the same, and the id is the next or stays the same throughout.
    fn same_ipv4(&mut self, first: &[u8], packet: &[u8]) -> bool {
        let [first_id, id] = [first, packet].map(|p| u16::from_be_bytes([p[4], p[5]]));
        let dont_fragment = first[6] & 0x40 != 0;
        if self.count == 1 {
            self.fixed_id = dont_fragment && id == first_id;
        }
        let step = if self.fixed_id { 0 } else { self.count as u16 };
        first[1] == packet[1] && first[6..9] == packet[6..9] && id == first_id.wrapping_add(step)
    }

    /// Follows in sequence, and every field is the same but the checksum, PSH and FIN.
    fn same_tcp(&self, first: &[u8], packet: &[u8]) -> bool {
        let first = &first[self.transport..self.header_len];
        let packet = &packet[self.transport..self.header_len];
        let [first_seq, seq] =
            [first, packet].map(|tcp| u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]));
        let so_far = (self.total_len - self.header_len) as u32;
        seq == first_seq.wrapping_add(so_far)
            && first[8..13] == packet[8..13]
            && (first[13] ^ packet[13]) & !TCP_END == 0
            && first[14..16] == packet[14..16]
            && first[18..] == packet[18..]
    }

    fn checksums_hold(&self, packet: &[u8]) -> bool {
        let (header, transport) = packet.split_at(self.transport);
        let len = transport.len();
        // Constant ranges, so that the compiler unrolls their sums.
        let (pseudo, header_holds) = match self.ipv6 {
            true => (
                checksum::pseudo_header(&header[8..40], self.protocol(), len),
                true,
            ),
            false => (
                checksum::pseudo_header(&header[12..20], self.protocol(), len),
                checksum::is_valid(checksum::sum(&header[..IPV4_HEADER])),
            ),
        };
        header_holds && checksum::is_valid(pseudo + checksum::sum(transport))
    }

    fn append(&mut self, index: usize, head: &Head) {
        self.last = index;
        self.count += 1;
        self.total_len += head.payload;
        self.end_flags |= head.end_flags;
    }

    /// True when nothing may follow the packet appended last.
    fn is_full(&self, last: &Head) -> bool {
        let max = if self.tcp { MAX_SLICES } else { MAX_DATAGRAMS };
        last.payload < self.gso_size || self.count == max
    }

    fn protocol(&self) -> u8 {
        if self.tcp { TCP } else { UDP }
    }

    /// Makes the first packet's headers those of the super-packet, and the virtio header for it.
    fn complete(&self, first: &mut [u8]) -> [u8; VnetHdr::LEN] {
        let first = &mut first[self.link..];
        let (header, transport) = first.split_at_mut(self.transport);
        let len = self.total_len - self.transport;
        let addresses = if self.ipv6 {
            let payload_len = (self.total_len - IPV6_HEADER) as u16;
            header[4..6].copy_from_slice(&payload_len.to_be_bytes());
            &header[8..40]
        } else {
            header[2..4].copy_from_slice(&(self.total_len as u16).to_be_bytes());
            header[10..12].fill(0);
            let field = checksum::finish(checksum::sum(header));
            header[10..12].copy_from_slice(&field);
            &header[12..20]
        };
        let pseudo = checksum::pseudo_header(addresses, self.protocol(), len);
        let field = checksum::fold(pseudo).to_ne_bytes();
        let (gso_type, csum_offset) = if self.tcp {
            transport[13] |= self.end_flags;
            transport[16..18].copy_from_slice(&field);
            match self.ipv6 {
                true => (VnetHdr::GSO_TCPV6, 16),
                false => (VnetHdr::GSO_TCPV4, 16),
            }
        } else {
            transport[4..6].copy_from_slice(&(len as u16).to_be_bytes());
            transport[6..8].copy_from_slice(&field);
            (VnetHdr::GSO_UDP_L4, 6)
        };
        let hdr = VnetHdr {
            flags: VnetHdr::NEEDS_CSUM,
            gso_type,
            hdr_len: (self.link + self.header_len) as u16,
            gso_size: self.gso_size as u16,
            csum_start: (self.link + self.transport) as u16,
            csum_offset,
        };
        hdr.to_bytes()
    }
}

/// Traffic class, flow label and hop limit are the same.
fn same_ipv6(first: &[u8], packet: &[u8]) -> bool {
    first[..4] == packet[..4] && first[7] == packet[7]
}

/// What a packet is to the coalescer.
enum Class {
    /// A whole TCP or UDP packet with plain headers.
    Flow(Head),
    /// Neither TCP nor UDP; it has no order among them.
    Other,
    /// Malformed, a fragment, or with headers that are not looked behind.
    Irregular,
}

/// Of a TCP or UDP packet.
struct Head {
    /// As in [`Flow`].
    tag: u64,
    ipv6: bool,
    tcp: bool,
    /// As in [`Group`], with what counts from behind it.
    link: usize,
    /// Offset of the transport header.
    transport: usize,
    /// Bytes of the IP and transport headers.
    header_len: usize,
    /// Bytes behind the headers.
    payload: usize,
    /// May be part of a super-packet, as far as one can see from this packet alone.
    mergeable: bool,
    /// Nothing may follow it in a super-packet.
    end: bool,
    /// PSH and FIN.
    end_flags: u8,
}

impl Head {
    /// Of a packet and of a flow with the same tag. Both packets have whole IP headers.
    fn same_addresses(&self, buf: &[u8], flow: &Flow, packet: Segment) -> bool {
        let (flow, packet) = (&buf[flow.start..], &buf[packet.start + self.link..]);
        match self.ipv6 {
            true => flow[8..40] == packet[8..40],
            false => flow[12..20] == packet[12..20],
        }
    }
}

/// Of a frame. A short packet may be padded up to the smallest frame; it stays alone, so that the
/// padding reaches the device too.
fn classify_frame(bytes: &[u8]) -> Class {
    let link = frame::link_len(DeviceKind::Tap, bytes);
    let packet = &bytes[link..];
    if packet.is_empty() {
        return Class::Other;
    }
    let len = IpView::parse(packet).map_or(packet.len(), |ip| ip.total_len());
    match classify(&packet[..len]) {
        Class::Flow(head) => Class::Flow(Head {
            link,
            mergeable: head.mergeable && len == packet.len(),
            ..head
        }),
        class => class,
    }
}

fn classify(packet: &[u8]) -> Class {
    let (ipv6, transport, protocol) = match packet {
        [0x45, ..] if packet.len() >= IPV4_HEADER => {
            let total_len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            // Of the flags and the fragment offset, only DF.
            if total_len != packet.len() || packet[6] & !0x40 != 0 || packet[7] != 0 {
                return Class::Irregular;
            }
            (false, IPV4_HEADER, packet[9])
        }
        [0x60..=0x6f, ..] if packet.len() >= IPV6_HEADER => {
            let payload_len = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            if IPV6_HEADER + payload_len != packet.len() || ip::is_extension(packet[6]) {
                return Class::Irregular;
            }
            (true, IPV6_HEADER, packet[6])
        }
        _ => return Class::Irregular,
    };
    let head = match protocol {
        TCP => tcp_head(packet, ipv6, transport),
        UDP => udp_head(packet, ipv6, transport),
        _ => return Class::Other,
    };
    head.map_or(Class::Irregular, Class::Flow)
}

fn tcp_head(packet: &[u8], ipv6: bool, transport: usize) -> Option<Head> {
    let tcp: &[u8; TCP_HEADER] = packet[transport..].first_chunk()?;
    let len = usize::from(tcp[12] >> 4) * 4;
    let payload = packet.len().checked_sub(transport + len)?;
    if len < TCP_HEADER {
        return None;
    }
    let flags = tcp[13];
    Some(Head {
        tag: flow_tag(packet, ipv6, transport, true),
        ipv6,
        tcp: true,
        link: 0,
        transport,
        header_len: transport + len,
        payload,
        mergeable: payload > 0 && flags & TCP_ALONE == 0,
        end: flags & TCP_END != 0,
        end_flags: flags & TCP_END,
    })
}

fn udp_head(packet: &[u8], ipv6: bool, transport: usize) -> Option<Head> {
    let udp: &[u8; UDP_HEADER] = packet[transport..].first_chunk()?;
    let len = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
    let payload = packet.len() - transport - UDP_HEADER;
    Some(Head {
        tag: flow_tag(packet, ipv6, transport, false),
        ipv6,
        tcp: false,
        link: 0,
        transport,
        header_len: transport + UDP_HEADER,
        payload,
        mergeable: payload > 0 && len == UDP_HEADER + payload && udp[6..8] != [0, 0],
        end: false,
        end_flags: 0,
    })
}

/// The transport header's first four bytes, at least, are there.
fn flow_tag(packet: &[u8], ipv6: bool, transport: usize, tcp: bool) -> u64 {
    let ports = &packet[transport..transport + 4];
    let ports = u32::from_ne_bytes([ports[0], ports[1], ports[2], ports[3]]);
    u64::from(ports) | u64::from(tcp) << 32 | u64::from(ipv6) << 33
}

/// A packet's bytes; `None` when it is not inside the buffer.
fn bytes(buf: &[u8], packet: Segment) -> Option<&[u8]> {
    buf.get(packet.start..)?.get(..packet.len)
}

#[cfg(test)]
mod tests;
