//! Packets for tests, built and judged byte by byte so that they share nothing with the code under
//! test.

use std::net::IpAddr;

use super::VnetHdr;

/// Headers of a packet to build.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) ipv6: bool,
    pub(crate) tcp: bool,
    /// Last byte of the source address; tells flows apart.
    pub(crate) host: u8,
    /// Source and destination in place of the usual ones.
    pub(crate) ends: Option<(IpAddr, IpAddr)>,
    pub(crate) source_port: u16,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) df: bool,
    pub(crate) id: u16,
    pub(crate) flow_label: u32,
    /// A hop-by-hop header between IPv6 and the transport.
    pub(crate) extension: bool,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) options: Vec<u8>,
}

impl Sample {
    pub(crate) fn tcp(ipv6: bool) -> Self {
        Sample {
            ipv6,
            tcp: true,
            host: 1,
            ends: None,
            source_port: 40_000,
            tos: 0,
            ttl: 64,
            df: true,
            id: 0x1234,
            flow_label: 0x54321,
            extension: false,
            seq: 0x0102_0304,
            ack: 0x0a0b_0c0d,
            flags: 0x10,
            window: 501,
            options: Vec::new(),
        }
    }

    pub(crate) fn udp(ipv6: bool) -> Self {
        Sample {
            tcp: false,
            ..Sample::tcp(ipv6)
        }
    }

    /// Between these addresses of one family.
    pub(crate) fn between(self, source: IpAddr, destination: IpAddr) -> Self {
        Sample {
            ipv6: source.is_ipv6(),
            ends: Some((source, destination)),
            ..self
        }
    }

    /// Offset of the transport header.
    pub(crate) fn transport(&self) -> usize {
        match (self.ipv6, self.extension) {
            (false, _) => 20,
            (true, false) => 40,
            (true, true) => 48,
        }
    }

    /// Bytes of all headers.
    pub(crate) fn headers(&self) -> usize {
        let transport = if self.tcp { 20 + self.options.len() } else { 8 };
        self.transport() + transport
    }

    /// The packet with correct lengths and checksums.
    pub(crate) fn build(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = self.ip_header(payload.len());
        let at = packet.len();
        packet.extend(self.source_port.to_be_bytes());
        packet.extend(443u16.to_be_bytes());
        if self.tcp {
            packet.extend(self.seq.to_be_bytes());
            packet.extend(self.ack.to_be_bytes());
            packet.push((5 + self.options.len() as u8 / 4) << 4);
            packet.push(self.flags);
            packet.extend(self.window.to_be_bytes());
            packet.extend([0; 4]);
            packet.extend(&self.options);
        } else {
            packet.extend(((8 + payload.len()) as u16).to_be_bytes());
            packet.extend([0; 2]);
        }
        packet.extend(payload);
        let field = at + if self.tcp { 16 } else { 6 };
        let mut value = !self.transport_sum(&packet);
        if !self.tcp && value == 0 {
            value = 0xffff;
        }
        packet[field..field + 2].copy_from_slice(&value.to_be_bytes());
        packet
    }

    /// A super-packet as the kernel hands it over, with the pseudo-header sum in the checksum field.
    pub(crate) fn build_super(&self, payload: &[u8], gso_size: u16) -> (VnetHdr, Vec<u8>) {
        let mut packet = self.build(payload);
        let field = self.transport() + if self.tcp { 16 } else { 6 };
        let len = packet.len() - self.transport();
        let sum = pseudo(&packet, self.protocol(), len);
        packet[field..field + 2].copy_from_slice(&fold(sum).to_be_bytes());
        let gso_type = match (self.tcp, self.ipv6) {
            (true, false) => VnetHdr::GSO_TCPV4,
            (true, true) => VnetHdr::GSO_TCPV6,
            (false, _) => VnetHdr::GSO_UDP_L4,
        };
        let hdr = VnetHdr {
            flags: VnetHdr::NEEDS_CSUM,
            gso_type,
            hdr_len: self.headers() as u16,
            gso_size,
            csum_start: self.transport() as u16,
            csum_offset: if self.tcp { 16 } else { 6 },
        };
        (hdr, packet)
    }

    /// What [`Sample::build_super`] must be split into: every segment built on its own.
    pub(crate) fn segments(&self, payload: &[u8], gso_size: u16) -> Vec<Vec<u8>> {
        let chunks: Vec<&[u8]> = payload.chunks(usize::from(gso_size)).collect();
        let mut segments = Vec::new();
        for (i, chunk) in chunks.iter().enumerate() {
            let mut one = self.clone();
            one.id = self.id.wrapping_add(i as u16);
            one.seq = self.seq.wrapping_add((i * usize::from(gso_size)) as u32);
            if i > 0 {
                one.flags &= !0x80;
            }
            if i + 1 < chunks.len() {
                one.flags &= !0x09;
            }
            segments.push(one.build(chunk));
        }
        segments
    }

    fn protocol(&self) -> u8 {
        if self.tcp { 6 } else { 17 }
    }

    fn ip_header(&self, payload: usize) -> Vec<u8> {
        let total = self.headers() + payload;
        if self.ipv6 {
            let first = 6 << 28 | u32::from(self.tos) << 20 | self.flow_label;
            let mut header = first.to_be_bytes().to_vec();
            header.extend(((total - 40) as u16).to_be_bytes());
            header.push(if self.extension { 0 } else { self.protocol() });
            header.push(self.ttl);
            header.extend(self.addresses());
            if self.extension {
                header.extend([self.protocol(), 0, 1, 4, 0, 0, 0, 0]);
            }
            return header;
        }
        let mut header = vec![0x45, self.tos];
        header.extend((total as u16).to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend([
            if self.df { 0x40 } else { 0 },
            0,
            self.ttl,
            self.protocol(),
            0,
            0,
        ]);
        header.extend(self.addresses());
        let value = !fold(add(0, &header));
        header[10..12].copy_from_slice(&value.to_be_bytes());
        header
    }

    fn addresses(&self) -> Vec<u8> {
        match (self.ends, self.ipv6) {
            (Some((source, destination)), _) => [source, destination]
                .iter()
                .flat_map(|end| match end {
                    IpAddr::V4(ip) => ip.octets().to_vec(),
                    IpAddr::V6(ip) => ip.octets().to_vec(),
                })
                .collect(),
            (None, false) => vec![10, 8, 0, self.host, 10, 8, 9, 9],
            (None, true) => {
                let mut both = [0; 32];
                (both[0], both[15]) = (0xfd, self.host);
                (both[16], both[30], both[31]) = (0xfd, 9, 9);
                both.to_vec()
            }
        }
    }

    fn transport_sum(&self, packet: &[u8]) -> u16 {
        let transport = &packet[self.transport()..];
        fold(add(
            pseudo(packet, self.protocol(), transport.len()),
            transport,
        ))
    }
}

/// A frame around an IP packet, with the tag's content if there is to be one.
pub(crate) fn ethernet(tag: Option<u16>, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    if let Some(tag) = tag {
        frame.extend([0x81, 0]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(match packet.first().map(|first| first >> 4) {
        Some(6) => [0x86, 0xdd],
        _ => [8, 0],
    });
    frame.extend(packet);
    frame
}

/// True when the IPv4 header's checksum holds.
pub(crate) fn header_valid(packet: &[u8]) -> bool {
    let len = usize::from(packet[0] & 15) * 4;
    fold(add(0, &packet[..len])) == 0xffff
}

/// True when the TCP or UDP checksum holds; looks past one 8-byte extension header.
pub(crate) fn transport_valid(packet: &[u8]) -> bool {
    let (protocol, at) = match (packet[0] >> 4, packet[6]) {
        (4, _) => (packet[9], usize::from(packet[0] & 15) * 4),
        (_, 0) => (packet[40], 48),
        (_, next) => (next, 40),
    };
    let transport = &packet[at..];
    fold(add(pseudo(packet, protocol, transport.len()), transport)) == 0xffff
}

/// Payload in which every byte depends on its position.
pub(crate) fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 256 * 7 + 5) as u8).collect()
}

fn pseudo(packet: &[u8], protocol: u8, len: usize) -> u64 {
    let addresses = if packet[0] >> 4 == 6 { 8..40 } else { 12..20 };
    add(u64::from(protocol) + len as u64, &packet[addresses])
}

fn add(mut sum: u64, bytes: &[u8]) -> u64 {
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    sum
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}
