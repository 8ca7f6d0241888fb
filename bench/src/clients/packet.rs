//! Packets that prove where they come from, whom they are for, and that nothing in them changed.
//!
//! ```text
//!   IPv4 | UDP or ICMP echo | magic 8 | from 4 | to 4 | number 8 | sent 8 | filler | checksum 8
//! ```
//!
//! Numbers are big-endian. The checksum is FNV-1a (64 bits) of all from the magic on; the filler
//! follows from sender and number, so that two packets never look alike.

use std::net::Ipv4Addr;

use ringway_dataplane::offload::checksum;

const MAGIC: [u8; 8] = *b"ringload";
const IP: usize = 20;
/// UDP and ICMP echo headers are equally long.
const HEADERS: usize = IP + 8;
const STAMP: usize = 32;
const SUM: usize = 8;
/// Shortest packet.
pub const MIN_LEN: usize = HEADERS + STAMP + SUM;
const PORT: u16 = 7007;
const ICMP: u8 = 1;
const UDP: u8 = 17;

/// What a packet says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the client that sent it.
    pub from: u32,
    /// Number of the client it is for; its own for an echo.
    pub to: u32,
    /// Counts up in a flow, from 0.
    pub number: u64,
    /// When it left, in microseconds of the sender's clock.
    pub sent: u64,
}

/// How a packet travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A UDP datagram to another client.
    Datagram,
    /// An ICMP echo request, which the target's kernel answers.
    Echo,
}

/// A packet that arrived whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Source address in the IP header.
    pub source: Ipv4Addr,
    /// Destination address in the IP header.
    pub target: Ipv4Addr,
    /// What it says about itself.
    pub stamp: Stamp,
    /// A datagram, or the answer to an echo.
    pub kind: Kind,
}

/// Why a packet does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not made here: the kernel's own traffic.
    Foreign,
    /// Made here, and not what was sent.
    Damaged,
}

/// Writes a packet of `len` bytes (at least [`MIN_LEN`]) into `out`, which it clears.
pub fn write(
    out: &mut Vec<u8>,
    kind: Kind,
    source: Ipv4Addr,
    target: Ipv4Addr,
    stamp: &Stamp,
    len: u16,
) {
    let len = usize::from(len).max(MIN_LEN);
    out.clear();
    out.resize(len, 0);
    let protocol = match kind {
        Kind::Datagram => UDP,
        Kind::Echo => ICMP,
    };
    let total = (len as u16).to_be_bytes();
    out[..4].copy_from_slice(&[0x45, 0, total[0], total[1]]);
    out[8..10].copy_from_slice(&[64, protocol]);
    out[12..16].copy_from_slice(&source.octets());
    out[16..20].copy_from_slice(&target.octets());
    let field = checksum::finish(checksum::sum(&out[..IP]));
    out[10..12].copy_from_slice(&field);

    let body = &mut out[HEADERS..];
    body[..8].copy_from_slice(&MAGIC);
    body[8..12].copy_from_slice(&stamp.from.to_be_bytes());
    body[12..16].copy_from_slice(&stamp.to.to_be_bytes());
    body[16..24].copy_from_slice(&stamp.number.to_be_bytes());
    body[24..32].copy_from_slice(&stamp.sent.to_be_bytes());
    let end = body.len() - SUM;
    let seed = u64::from(stamp.from) << 32 ^ stamp.number;
    for (place, word) in body[STAMP..end].chunks_mut(8).zip(1u64..) {
        let filler = seed.wrapping_add(word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        place.copy_from_slice(&filler.to_be_bytes()[..place.len()]);
    }
    let sum = fnv(&body[..end]);
    body[end..].copy_from_slice(&sum.to_be_bytes());

    let transport = (len - IP) as u16;
    match kind {
        Kind::Datagram => {
            let port = PORT.to_be_bytes();
            let length = transport.to_be_bytes();
            out[IP..IP + 6]
                .copy_from_slice(&[port[0], port[1], port[0], port[1], length[0], length[1]]);
            let pseudo = checksum::pseudo_header(&out[12..20], UDP, len - IP);
            let field = checksum::finish_udp(pseudo + checksum::sum(&out[IP..]));
            out[IP + 6..HEADERS].copy_from_slice(&field);
        }
        Kind::Echo => {
            let id = (stamp.from as u16).to_be_bytes();
            let number = (stamp.number as u16).to_be_bytes();
            out[IP..HEADERS].copy_from_slice(&[8, 0, 0, 0, id[0], id[1], number[0], number[1]]);
            let field = checksum::finish(checksum::sum(&out[IP..]));
            out[IP + 2..IP + 4].copy_from_slice(&field);
        }
    }
}

/// Judges an inner packet.
///
/// # Errors
/// Why it does not count.
pub fn read(packet: &[u8]) -> Result<Seen, Refused> {
    let body = packet.get(HEADERS..).ok_or(Refused::Foreign)?;
    if packet[0] != 0x45 || body.len() < STAMP + SUM || body[..8] != MAGIC {
        return Err(Refused::Foreign);
    }
    let kind = match (packet[9], packet[IP]) {
        (UDP, _) => Kind::Datagram,
        (ICMP, 0) => Kind::Echo,
        _ => return Err(Refused::Foreign),
    };
    let address =
        |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    let (said, sum) = body.split_at(body.len() - SUM);
    let transport = checksum::sum(&packet[IP..]);
    let whole = match kind {
        Kind::Datagram => {
            transport + checksum::pseudo_header(&packet[12..20], UDP, packet.len() - IP)
        }
        Kind::Echo => transport,
    };
    let intact = usize::from(u16::from_be_bytes([packet[2], packet[3]])) == packet.len()
        && checksum::is_valid(checksum::sum(&packet[..IP]))
        && checksum::is_valid(whole)
        && fnv(said).to_be_bytes() == *sum;
    if !intact {
        return Err(Refused::Damaged);
    }
    let word = |at: usize| {
        body[at..at + 8]
            .iter()
            .fold(0, |n, &b| n << 8 | u64::from(b))
    };
    let ends = word(8);
    Ok(Seen {
        source: address(12),
        target: address(16),
        stamp: Stamp {
            from: (ends >> 32) as u32,
            to: ends as u32,
            number: word(16),
            sent: word(24),
        },
        kind,
    })
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
    const B: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);

    proptest! {
        #[test]
        fn what_is_written_is_read(from: u32, to: u32, number: u64, sent: u64, len in 0u16..1500) {
            let stamp = Stamp { from, to, number, sent };
            let mut packet = Vec::new();
            write(&mut packet, Kind::Datagram, A, B, &stamp, len);
            prop_assert_eq!(packet.len(), usize::from(len).max(MIN_LEN));
            let seen = Seen { source: A, target: B, stamp, kind: Kind::Datagram };
            prop_assert_eq!(read(&packet), Ok(seen));
        }

        #[test]
        fn any_changed_bit_shows(bit in 0usize..MIN_LEN * 8) {
            let stamp = Stamp { from: 1, to: 2, number: 3, sent: 4 };
            let mut packet = Vec::new();
            write(&mut packet, Kind::Datagram, A, B, &stamp, 0);
            packet[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read(&packet).is_err());
        }

        #[test]
        fn noise_is_foreign(packet: Vec<u8>) {
            prop_assert_eq!(read(&packet), Err(Refused::Foreign));
        }
    }

    #[test]
    fn a_request_is_no_answer() {
        let stamp = Stamp {
            from: 1,
            to: 1,
            number: 3,
            sent: 4,
        };
        let mut packet = Vec::new();
        write(&mut packet, Kind::Echo, A, B, &stamp, 100);
        assert_eq!(read(&packet), Err(Refused::Foreign));
        // What a kernel makes of it: type 0, addresses swapped.
        packet[IP] = 0;
        packet[12..16].copy_from_slice(&B.octets());
        packet[16..20].copy_from_slice(&A.octets());
        packet[IP + 2..IP + 4].fill(0);
        let field = checksum::finish(checksum::sum(&packet[IP..]));
        packet[IP + 2..IP + 4].copy_from_slice(&field);
        let seen = read(&packet).unwrap();
        assert_eq!((seen.kind, seen.source, seen.stamp), (Kind::Echo, B, stamp));
    }
}
