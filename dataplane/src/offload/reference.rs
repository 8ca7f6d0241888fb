//! What splitting and coalescing must do, said slowly: the oracle of tests and fuzz targets.
//!
//! Written from the standards, one byte at a time: IPv4 (RFC 791), IPv6 (RFC 8200), TCP (RFC 9293),
//! UDP (RFC 768), the Internet checksum (RFC 1071), the virtio-net header. It uses nothing of the
//! crate, so that a mistake there is not repeated here, and copies freely.

/// The fields of a virtio-net header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) needs_csum: bool,
    pub(crate) gso_type: u8,
    pub(crate) gso_size: usize,
    pub(crate) csum_start: usize,
    pub(crate) csum_offset: usize,
}

impl Header {
    /// Reads the ten bytes in front of a packet.
    pub(crate) fn read(b: &[u8; 10]) -> Self {
        let word = |at: usize| usize::from(u16::from_ne_bytes([b[at], b[at + 1]]));
        Header {
            needs_csum: b[0] & 1 != 0,
            gso_type: b[1],
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }
}

/// The packets that a read from TUN stands for, `None` where header and packet contradict each other.
pub(crate) fn split(hdr: &Header, packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    if hdr.gso_type & 0x7f == 0 {
        return finished(hdr, packet).map(|packet| vec![packet]);
    }
    let parts = parse(packet)?;
    let tcp = match (hdr.gso_type, parts.ipv6, parts.protocol) {
        (0x01 | 0x81, false, 6) | (0x04 | 0x84, true, 6) => true,
        (0x05, _, 17) => false,
        _ => return None,
    };
    if parts.fragment || parts.opaque || parts.end != packet.len() {
        return None;
    }
    let field = if tcp { 16 } else { 6 };
    if hdr.needs_csum && (hdr.csum_start, hdr.csum_offset) != (parts.transport, field) {
        return None;
    }
    let headers = transport_end(packet, &parts)?;
    let payload = &packet[headers..];
    if hdr.gso_size == 0 || hdr.gso_size > payload.len() {
        return None;
    }
    let chunks: Vec<&[u8]> = payload.chunks(hdr.gso_size).collect();
    if chunks.len() > 2048 {
        return None;
    }
    let mut segments = Vec::new();
    for (i, chunk) in chunks.iter().enumerate() {
        let mut segment = [&packet[..headers], chunk].concat();
        if !parts.ipv6 {
            let id = be16(packet, 4).wrapping_add(i as u16);
            segment[4..6].copy_from_slice(&id.to_be_bytes());
        }
        if tcp {
            let at = parts.transport;
            let seq = be32(packet, at + 4).wrapping_add((i * hdr.gso_size) as u32);
            segment[at + 4..at + 8].copy_from_slice(&seq.to_be_bytes());
            if i != 0 {
                segment[at + 13] &= !0x80;
            }
            if i != chunks.len() - 1 {
                segment[at + 13] &= !0x09;
            }
        }
        complete(&mut segment);
        segments.push(segment);
    }
    Some(segments)
}

/// The frames that a read from TAP stands for: the packets it stands for, each behind the frame's
/// Ethernet header.
pub(crate) fn split_frame(hdr: &Header, frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    let whole = Item::of_frame(frame);
    if hdr.gso_type & 0x7f == 0 {
        return finished(hdr, frame).map(|frame| vec![frame]);
    }
    if !whole.is_ip {
        return None;
    }
    let mut hdr = *hdr;
    if hdr.needs_csum {
        hdr.csum_start = hdr.csum_start.checked_sub(whole.link.len())?;
    }
    let packets = split(&hdr, &frame[whole.link.len()..])?;
    let framed = packets
        .iter()
        .map(|packet| [&whole.link[..], packet].concat());
    Some(framed.collect())
}

/// What is coalesced: a packet, and on TAP what is around it.
struct Item {
    /// The Ethernet header.
    link: Vec<u8>,
    packet: Vec<u8>,
    /// There were bytes behind the packet.
    padded: bool,
    is_ip: bool,
}

impl Item {
    fn of_packet(packet: &[u8]) -> Self {
        Item {
            link: Vec::new(),
            packet: packet.to_vec(),
            padded: false,
            is_ip: true,
        }
    }

    /// IEEE 802.3 and 802.1Q: an IP packet of the version the ethertype says, behind one tag or none.
    fn of_frame(frame: &[u8]) -> Self {
        let other = Item {
            link: frame.to_vec(),
            packet: Vec::new(),
            padded: false,
            is_ip: false,
        };
        if frame.len() < 14 {
            return other;
        }
        let tagged = be16(frame, 12) == 0x8100 && frame.len() >= 18;
        let link = if tagged { 18 } else { 14 };
        let wanted = match be16(frame, link - 2) {
            0x0800 => 4,
            0x86dd => 6,
            _ => return other,
        };
        let packet = &frame[link..];
        if packet.first().map(|first| first >> 4) != Some(wanted) {
            return other;
        }
        let end = parse(packet).map_or(packet.len(), |parts| parts.end);
        Item {
            link: frame[..link].to_vec(),
            packet: packet[..end].to_vec(),
            padded: end != packet.len(),
            is_ip: true,
        }
    }
}

/// Which packets, by index, become one write together: the rules of the kernel's receive offload.
/// `None` when more than `max_open` flows would have a growing write at the same time.
pub(crate) fn coalesce(
    packets: &[Vec<u8>],
    tso: bool,
    uso: bool,
    max_open: usize,
) -> Option<Vec<Vec<usize>>> {
    let items: Vec<Item> = packets
        .iter()
        .map(|packet| Item::of_packet(packet))
        .collect();
    join(&items, tso, uso, max_open)
}

/// The same of frames.
pub(crate) fn coalesce_frames(
    frames: &[Vec<u8>],
    tso: bool,
    uso: bool,
    max_open: usize,
) -> Option<Vec<Vec<usize>>> {
    let items: Vec<Item> = frames.iter().map(|frame| Item::of_frame(frame)).collect();
    join(&items, tso, uso, max_open)
}

fn join(items: &[Item], tso: bool, uso: bool, max_open: usize) -> Option<Vec<Vec<usize>>> {
    let packets: Vec<Vec<u8>> = items.iter().map(|item| item.packet.clone()).collect();
    let packets = &packets[..];
    let mut groups: Vec<Vec<usize>> = Vec::new();
    // The group of each flow that may still grow.
    let mut open: Vec<(Vec<u8>, usize)> = Vec::new();
    for (index, packet) in packets.iter().enumerate() {
        let flow = match flow_of(packet) {
            _ if !tso && !uso || !items[index].is_ip => None,
            Flow::Known(flow) => Some(flow),
            Flow::Unknown => {
                open.clear();
                None
            }
            Flow::None => None,
        };
        let Some(flow) = flow else {
            groups.push(vec![index]);
            continue;
        };
        let may =
            may_join(packet) && !items[index].padded && if is_tcp(packet) { tso } else { uso };
        let slot = open.iter().position(|(key, _)| *key == flow);
        let group = slot.map(|slot| open.remove(slot).1);
        let joined = group.filter(|&group| {
            let same_link = items[groups[group][0]].link == items[index].link;
            may && same_link && follows(packets, &groups[group], index)
        });
        let group = match joined {
            Some(group) => {
                groups[group].push(index);
                group
            }
            None => {
                groups.push(vec![index]);
                groups.len() - 1
            }
        };
        if may && !ends(packets, &groups[group]) {
            open.push((flow, group));
        }
        if open.len() > max_open {
            return None;
        }
    }
    Some(groups)
}

/// True when lengths and every checksum of a TCP or UDP packet hold.
pub(crate) fn is_sound(packet: &[u8]) -> bool {
    let Some(parts) = parse(packet) else {
        return false;
    };
    let transport = &packet[parts.transport..parts.end];
    let header_holds = parts.ipv6 || ones_sum(&[&packet[..parts.transport]]) == 0xffff;
    header_holds && ones_sum(&[&pseudo(packet, &parts), transport]) == 0xffff
}

/// Sets lengths and checksums of a TCP or UDP packet to what its bytes ask for. Does nothing to
/// anything else.
pub(crate) fn complete(packet: &mut [u8]) {
    let len = packet.len();
    match packet.first().map(|first| first >> 4) {
        Some(4) if len >= 20 => set16(packet, 2, len as u16),
        Some(6) if len >= 40 => set16(packet, 4, (len - 40) as u16),
        _ => return,
    }
    let Some(parts) = parse(packet) else {
        return;
    };
    if !parts.ipv6 {
        set16(packet, 10, 0);
        let sum = ones_sum(&[&packet[..parts.transport]]);
        set16(packet, 10, !sum);
    }
    if parts.fragment || transport_end(packet, &parts).is_none() {
        return;
    }
    let udp = parts.protocol == 17;
    if udp {
        set16(packet, parts.transport + 4, (len - parts.transport) as u16);
    }
    let field = parts.transport + if udp { 6 } else { 16 };
    set16(packet, field, 0);
    let sum = !ones_sum(&[&pseudo(packet, &parts), &packet[parts.transport..]]);
    set16(packet, field, if udp && sum == 0 { 0xffff } else { sum });
}

/// The IPv4 id means nothing in a packet that must not be fragmented (RFC 6864): blanked, with the
/// header checksum that follows from it.
pub(crate) fn without_atomic_id(mut packet: Vec<u8>) -> Vec<u8> {
    if packet.len() >= 20 && packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

/// An ordinary packet with its checksum finished, if it was not.
fn finished(hdr: &Header, packet: &[u8]) -> Option<Vec<u8>> {
    let mut packet = packet.to_vec();
    if hdr.needs_csum {
        let field = hdr.csum_start + hdr.csum_offset;
        if hdr.csum_offset % 2 == 1 || field + 2 > packet.len() {
            return None;
        }
        let sum = !ones_sum(&[&packet[hdr.csum_start..]]);
        set16(&mut packet, field, if sum == 0 { 0xffff } else { sum });
    }
    Some(packet)
}

/// Where things are in a packet.
struct Parts {
    ipv6: bool,
    /// Behind extension headers.
    protocol: u8,
    /// Offset of what follows the IP headers.
    transport: usize,
    /// Bytes, as the IP header says.
    end: usize,
    /// There are IPv4 options or IPv6 extension headers.
    extras: bool,
    /// A fragment, or one that says it is the only one.
    fragment: bool,
    /// Headers that a segment cannot share or whose destination is not the last.
    opaque: bool,
}

fn parse(packet: &[u8]) -> Option<Parts> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => {
            let transport = usize::from(packet[0] & 15) * 4;
            let end = usize::from(be16(packet, 2));
            if transport < 20 || end < transport || end > packet.len() {
                return None;
            }
            Some(Parts {
                ipv6: false,
                protocol: packet[9],
                transport,
                end,
                extras: transport > 20,
                fragment: be16(packet, 6) & 0x3fff != 0,
                opaque: false,
            })
        }
        6 if packet.len() >= 40 => parse_ipv6(packet),
        _ => None,
    }
}

fn parse_ipv6(packet: &[u8]) -> Option<Parts> {
    let end = 40 + usize::from(be16(packet, 4));
    let packet = packet.get(..end)?;
    let mut parts = Parts {
        ipv6: true,
        protocol: packet[6],
        transport: 40,
        end,
        extras: false,
        fragment: false,
        opaque: false,
    };
    for headers in 0.. {
        let at = parts.transport;
        let unit = match parts.protocol {
            // Hop-by-hop, routing, destination options, mobility, HIP, Shim6.
            0 | 43 | 60 | 135 | 139 | 140 => 8,
            44 | 51 => 4,
            _ => break,
        };
        // More than eight are nothing but an attack.
        if headers == 8 || at + 8 > end {
            return None;
        }
        let len = match parts.protocol {
            44 => 8,
            51 => (usize::from(packet[at + 1]) + 2) * unit,
            _ => (usize::from(packet[at + 1]) + 1) * unit,
        };
        parts.extras = true;
        parts.fragment |= parts.protocol == 44;
        parts.opaque |= parts.protocol == 51 || parts.protocol == 43 && packet[at + 3] != 0;
        parts.transport += len;
        parts.protocol = packet[at];
        if parts.transport > end {
            return None;
        }
    }
    Some(parts)
}

/// Where the TCP or UDP header ends, if all of it is there.
fn transport_end(packet: &[u8], parts: &Parts) -> Option<usize> {
    let at = parts.transport;
    let len = match parts.protocol {
        6 => usize::from(packet[..parts.end].get(at + 12)? >> 4) * 4,
        17 => 8,
        _ => return None,
    };
    let least = if parts.protocol == 6 { 20 } else { 8 };
    (len >= least && at + len <= parts.end).then_some(at + len)
}

/// RFC 791 and RFC 8200 §8.1.
fn pseudo(packet: &[u8], parts: &Parts) -> Vec<u8> {
    let addresses = if parts.ipv6 {
        &packet[8..40]
    } else {
        &packet[12..20]
    };
    let len = (parts.end - parts.transport) as u32;
    [addresses, &len.to_be_bytes(), &[0, 0, 0, parts.protocol]].concat()
}

/// The one's complement sum (RFC 1071 §1) of pieces of which all but the last have an even length.
fn ones_sum(pieces: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for pair in pieces.concat().chunks(2) {
        sum += u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    sum as u16
}

/// What a packet is to the order of packets.
enum Flow {
    /// The bytes that tell its flow: version, protocol, addresses, ports.
    Known(Vec<u8>),
    /// TCP or UDP of a flow that is not looked for; it may be any.
    Unknown,
    /// Of no flow.
    None,
}

fn flow_of(packet: &[u8]) -> Flow {
    let Some(parts) = parse(packet) else {
        return Flow::Unknown;
    };
    // DF is the only flag that is allowed, the reserved one is not.
    let flagged = !parts.ipv6 && packet[6] & 0x80 != 0;
    if parts.end != packet.len() || parts.extras || parts.fragment || flagged {
        return Flow::Unknown;
    }
    if parts.protocol != 6 && parts.protocol != 17 {
        return Flow::None;
    }
    if transport_end(packet, &parts).is_none() {
        return Flow::Unknown;
    }
    let at = parts.transport;
    let addresses = if parts.ipv6 {
        &packet[8..40]
    } else {
        &packet[12..20]
    };
    Flow::Known([addresses, &packet[at..at + 4], &[parts.protocol]].concat())
}

fn is_tcp(packet: &[u8]) -> bool {
    parse(packet).is_some_and(|parts| parts.protocol == 6)
}

/// Headers and payload of a packet of a known flow.
fn cut(packet: &[u8]) -> (usize, &[u8], &[u8]) {
    let whole = || {
        let parts = parse(packet)?;
        Some((parts.transport, transport_end(packet, &parts)?))
    };
    let (transport, end) = whole().expect("a packet of a known flow");
    (transport, &packet[..end], &packet[end..])
}

/// Whether a packet may be one of several.
fn may_join(packet: &[u8]) -> bool {
    let (at, headers, payload) = cut(packet);
    if payload.is_empty() {
        return false;
    }
    match is_tcp(packet) {
        // SYN, RST, URG, CWR
        true => headers[at + 13] & 0xa6 == 0,
        false => {
            usize::from(be16(headers, at + 4)) == 8 + payload.len() && be16(headers, at + 6) != 0
        }
    }
}

/// Whether packet `index` may come right behind those of a group of its flow.
fn follows(packets: &[Vec<u8>], group: &[usize], index: usize) -> bool {
    let packet = &packets[index];
    let first = &packets[group[0]];
    let (at, mine, payload) = cut(packet);
    let (_, theirs, first_payload) = cut(first);
    let so_far: usize = group.iter().map(|&i| cut(&packets[i]).2.len()).sum();
    let ids: Vec<u16> = group
        .iter()
        .chain([&index])
        .map(|&i| be16(&packets[i], 4))
        .collect();
    let counting = ids.windows(2).all(|two| two[1] == two[0].wrapping_add(1));
    let constant = ids.windows(2).all(|two| two[1] == two[0]) && first[6] & 0x40 != 0;
    let ipv6 = first[0] >> 4 == 6;
    if !ipv6 && !counting && !constant {
        return false;
    }
    let sizes = payload.len() <= first_payload.len()
        && mine.len() == theirs.len()
        && mine.len() + so_far + payload.len() <= 65_535;
    let seq = be32(first, at + 4).wrapping_add(so_far as u32);
    if !sizes || is_tcp(packet) && be32(packet, at + 4) != seq {
        return false;
    }
    // Apart from what must differ, the headers are the same.
    let blank = |header: &[u8]| {
        let mut header = header.to_vec();
        if ipv6 {
            header[4..6].fill(0);
        } else {
            header[2..6].fill(0);
            header[10..12].fill(0);
        }
        if is_tcp(packet) {
            header[at + 4..at + 8].fill(0);
            header[at + 13] &= !0x09;
            header[at + 16..at + 18].fill(0);
        } else {
            header[at + 4..at + 8].fill(0);
        }
        header
    };
    blank(mine) == blank(theirs) && is_sound(first) && is_sound(packet)
}

/// Whether nothing may follow the last packet of a group.
fn ends(packets: &[Vec<u8>], group: &[usize]) -> bool {
    let last = &packets[group[group.len() - 1]];
    let (at, headers, payload) = cut(last);
    let tcp = is_tcp(last);
    payload.len() < cut(&packets[group[0]]).2.len()
        || group.len() == if tcp { 128 } else { 64 }
        || tcp && headers[at + 13] & 0x09 != 0
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from(be16(bytes, at)) << 16 | u32::from(be16(bytes, at + 2))
}

fn set16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
