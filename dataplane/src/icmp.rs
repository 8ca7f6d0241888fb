//! Telling the inside that a packet is too big for the tunnel: ICMP "fragmentation needed" (RFC 792,
//! RFC 1191) and ICMPv6 "packet too big" (RFC 4443 §3.2); or that IPv6 does not pass at all: ICMPv6 "no
//! route to destination" (RFC 4443 §3.1).
//!
//! The message goes back into the TUN device, as if a router on the way had sent it. The tunnel has
//! no address of its own that the sender must know, so the message comes from the address that the
//! packet was for, which any firewall lets through that let the packet out. How often is the
//! caller's business. On TAP it goes back inside a frame, from the host that the packet's frame was for.
//!
//! ```text
//!  | IP header | type:8 code:8 checksum:16 | mtu | start of the packet that was too big |
//! ```

use std::net::IpAddr;

use crate::frame;
use crate::ip::{ICMP, ICMPV6, IPV4_HEADER, IPV6_HEADER, IpView};
use crate::offload::checksum;

/// Longest answer in bytes, Ethernet header included.
pub const MAX_LEN: usize = MAX_V6 + frame::MAX_LINK;

/// Smallest IPv4 MTU there is (RFC 791).
const MIN_MTU_V4: u16 = 68;
/// Smallest IPv6 MTU there is (RFC 8200 §5).
const MIN_MTU_V6: u16 = 1280;
/// Largest ICMP error for IPv4, its own headers included (RFC 1812 §4.3.2.3).
const MAX_V4: usize = 576;
/// Largest ICMP error for IPv6, its own headers included (RFC 4443 §2.4 c).
const MAX_V6: usize = 1280;
/// Type, code, checksum and the four bytes with the MTU.
const ICMP_HEADER: usize = 8;
/// ICMPv6 type and code of "packet too big".
const TOO_BIG_V6: [u8; 2] = [2, 0];
/// ICMPv6 type and code of "no route to destination".
const NO_ROUTE_V6: [u8; 2] = [1, 0];
/// TTL and hop limit of the messages.
const TTL: u8 = 64;

/// Writes the answer to a packet larger than `mtu` bytes to `out`, and returns its length.
///
/// `None` when there must be no answer (RFC 1122 §3.2.2, RFC 4443 §2.4 e): the packet is malformed, an
/// IPv4 packet without DF, itself an ICMP error, a fragment other than the first, or from or to
/// anything but a unicast address; and when `out` cannot hold the answer (1280 bytes always can).
/// A super-packet may be passed as it is; only its start is quoted.
pub fn too_big(packet: &[u8], mtu: u16, out: &mut [u8]) -> Option<usize> {
    too_big_at(packet, 0, mtu, out)
}

/// As [`too_big`], for a packet behind `link` bytes of Ethernet header; `mtu` does not count them. The
/// answer gets such a header too, which makes it up to [`MAX_LEN`] bytes. `None` also for a frame that
/// is not from one host to one host (RFC 1122 §3.2.2).
pub fn too_big_at(bytes: &[u8], link: usize, mtu: u16, out: &mut [u8]) -> Option<usize> {
    framed(bytes, link, out, |packet, out| {
        packet_too_big(packet, mtu, out)
    })
}

fn packet_too_big(packet: &[u8], mtu: u16, out: &mut [u8]) -> Option<usize> {
    let ip = IpView::parse(packet)?;
    if !is_answerable(&ip) {
        return None;
    }
    match ip.is_ipv6() {
        true => error_v6(&ip, TOO_BIG_V6, mtu.max(MIN_MTU_V6).into(), out),
        false => too_big_v4(&ip, mtu, out),
    }
}

/// Writes the answer to an IPv6 packet that may not enter the tunnel (`block-ipv6`) to `out`, and
/// returns its length. `None` for what is no IPv6 packet, and otherwise as [`too_big`].
pub fn no_route(packet: &[u8], out: &mut [u8]) -> Option<usize> {
    no_route_at(packet, 0, out)
}

/// As [`no_route`], for a packet behind `link` bytes of Ethernet header; see [`too_big_at`].
pub fn no_route_at(bytes: &[u8], link: usize, out: &mut [u8]) -> Option<usize> {
    framed(bytes, link, out, packet_no_route)
}

/// Puts the message that `write` makes of the packet behind the answer to its link header.
fn framed(
    bytes: &[u8],
    link: usize,
    out: &mut [u8],
    write: impl FnOnce(&[u8], &mut [u8]) -> Option<usize>,
) -> Option<usize> {
    let (header, packet) = bytes.split_at_checked(link)?;
    let len = frame::answer_header(header, out)?;
    let written = write(packet, &mut out[len..])?;
    Some(len + written)
}

fn packet_no_route(packet: &[u8], out: &mut [u8]) -> Option<usize> {
    let ip = IpView::parse(packet)?;
    if !ip.is_ipv6() || !is_answerable(&ip) {
        return None;
    }
    error_v6(&ip, NO_ROUTE_V6, 0, out)
}

fn too_big_v4(ip: &IpView<'_>, mtu: u16, out: &mut [u8]) -> Option<usize> {
    const HEADERS: usize = IPV4_HEADER + ICMP_HEADER;
    let quoted = ip.total_len().min(MAX_V4 - HEADERS);
    let len = HEADERS + quoted;
    let out = out.get_mut(..len)?;
    let (header, icmp) = out.split_at_mut(IPV4_HEADER);

    header.fill(0);
    header[0] = 0x45;
    // Internetwork control, as routers mark their errors (RFC 1812 §4.3.2.5).
    header[1] = 0xc0;
    header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    header[8] = TTL;
    header[9] = ICMP;
    let (source, destination) = ip.addresses().split_at(4);
    header[12..16].copy_from_slice(destination);
    header[16..20].copy_from_slice(source);
    let field = checksum::finish(checksum::sum(header));
    header[10..12].copy_from_slice(&field);

    icmp[..ICMP_HEADER].fill(0);
    icmp[0] = 3;
    icmp[1] = 4;
    icmp[6..8].copy_from_slice(&mtu.max(MIN_MTU_V4).to_be_bytes());
    icmp[ICMP_HEADER..].copy_from_slice(&ip.bytes()[..quoted]);
    let field = checksum::finish(checksum::sum(icmp));
    icmp[2..4].copy_from_slice(&field);
    Some(len)
}

/// An ICMPv6 error with this type and code and these four bytes behind the checksum.
fn error_v6(ip: &IpView<'_>, kind: [u8; 2], word: u32, out: &mut [u8]) -> Option<usize> {
    const HEADERS: usize = IPV6_HEADER + ICMP_HEADER;
    let quoted = ip.total_len().min(MAX_V6 - HEADERS);
    let len = HEADERS + quoted;
    let out = out.get_mut(..len)?;
    let (header, icmp) = out.split_at_mut(IPV6_HEADER);

    header.fill(0);
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(icmp.len() as u16).to_be_bytes());
    header[6] = ICMPV6;
    header[7] = TTL;
    let (source, destination) = ip.addresses().split_at(16);
    header[8..24].copy_from_slice(destination);
    header[24..40].copy_from_slice(source);

    icmp[..ICMP_HEADER].fill(0);
    icmp[..2].copy_from_slice(&kind);
    icmp[4..8].copy_from_slice(&word.to_be_bytes());
    icmp[ICMP_HEADER..].copy_from_slice(&ip.bytes()[..quoted]);
    let pseudo = checksum::pseudo_header(&header[8..40], ICMPV6, icmp.len());
    let field = checksum::finish(pseudo + checksum::sum(icmp));
    icmp[2..4].copy_from_slice(&field);
    Some(len)
}

/// True when the rules allow an error about this packet.
fn is_answerable(ip: &IpView<'_>) -> bool {
    // A fragment other than the first, or a broken chain of extension headers, has no transport.
    let Some(transport) = ip.transport() else {
        return false;
    };
    let is_error = match (transport.protocol, ip.bytes().get(transport.offset)) {
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
        (ICMP, Some(kind)) if !ip.is_ipv6() => matches!(kind, 3 | 4 | 5 | 11 | 12),
        // Errors have the top bit clear; 137 is a redirect.
        (ICMPV6, Some(kind)) if ip.is_ipv6() => *kind < 128 || *kind == 137,
        // An ICMP packet without a type may be anything.
        (ICMP, None) if !ip.is_ipv6() => true,
        (ICMPV6, None) if ip.is_ipv6() => true,
        _ => false,
    };
    !is_error && ip.dont_fragment() && is_unicast(ip.source()) && is_unicast(ip.destination())
}

/// True for an address that names one host. A directed broadcast cannot be told from it here.
fn is_unicast(address: IpAddr) -> bool {
    match address {
        // The first byte alone tells "this network", loopback, multicast, reserved and broadcast.
        IpAddr::V4(v4) => !matches!(v4.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_loopback() && !v6.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::sample::{Sample, ethernet, header_valid};
    use proptest::prelude::*;

    fn answer(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
        let mut out = vec![0xee; 1280];
        too_big(packet, mtu, &mut out).map(|len| out[..len].to_vec())
    }

    #[test]
    fn ipv4_fragmentation_needed() {
        let packet = Sample::udp(false).build(&[7; 1472]);
        let message = answer(&packet, 1400).unwrap();
        assert_eq!(message.len(), 576);
        assert!(header_valid(&message));
        let (ip, original) = (
            IpView::parse(&message).unwrap(),
            IpView::parse(&packet).unwrap(),
        );
        assert_eq!(ip.source(), original.destination());
        assert_eq!(ip.destination(), original.source());
        assert_eq!(
            (ip.protocol(), ip.total_len(), ip.header_len()),
            (ICMP, 576, 20)
        );
        assert_eq!(message[20..22], [3, 4]);
        assert_eq!(message[24..28], [0, 0, 0x05, 0x78]);
        assert_eq!(message[28..], packet[..548]);
        assert!(checksum::is_valid(checksum::sum(&message[20..])));
    }

    #[test]
    fn ipv6_packet_too_big() {
        let packet = Sample::tcp(true).build(&[7; 1428]);
        let message = answer(&packet, 1402).unwrap();
        assert_eq!(message.len(), 1280);
        let (ip, original) = (
            IpView::parse(&message).unwrap(),
            IpView::parse(&packet).unwrap(),
        );
        assert_eq!(ip.source(), original.destination());
        assert_eq!(ip.destination(), original.source());
        assert_eq!(
            ip.transport().map(|t| (t.protocol, t.offset)),
            Some((ICMPV6, 40))
        );
        assert_eq!(message[40..42], [2, 0]);
        assert_eq!(message[44..48], 1402u32.to_be_bytes());
        assert_eq!(message[48..], packet[..1232]);
        let pseudo = checksum::pseudo_header(&message[8..40], ICMPV6, 1240);
        assert!(checksum::is_valid(pseudo + checksum::sum(&message[40..])));
    }

    #[test]
    fn ipv6_without_a_route() {
        let packet = Sample::udp(true).build(b"lost");
        let mut out = [0xee; 1280];
        let len = no_route(&packet, &mut out).unwrap();
        assert_eq!(out[40..42], [1, 0]);
        assert_eq!(out[44..48], [0; 4]);
        assert_eq!(out[48..len], packet[..]);
        let pseudo = checksum::pseudo_header(&out[8..40], ICMPV6, len - 40);
        assert!(checksum::is_valid(pseudo + checksum::sum(&out[40..len])));
        assert_eq!(no_route(&Sample::udp(false).build(b"lost"), &mut out), None);
        let mut multicast = packet;
        multicast[24] = 0xff;
        assert_eq!(no_route(&multicast, &mut out), None);
    }

    #[test]
    fn a_short_packet_is_quoted_whole_and_mtus_have_a_floor() {
        let packet = Sample::udp(false).build(b"odd");
        let message = answer(&packet, 1).unwrap();
        assert_eq!(message[28..], packet[..]);
        assert_eq!(message[26..28], [0, 68]);
        assert!(checksum::is_valid(checksum::sum(&message[20..])));
        let message = answer(&Sample::udp(true).build(b"odd"), 1000).unwrap();
        assert_eq!(message[44..48], 1280u32.to_be_bytes());
    }

    #[test]
    fn never_without_df() {
        let mut sample = Sample::udp(false);
        sample.df = false;
        assert_eq!(answer(&sample.build(&[0; 1472]), 1400), None);
    }

    #[test]
    fn never_about_icmp_errors() {
        for (ipv6, kind, answered) in [
            (false, 3, false),
            (false, 11, false),
            (false, 12, false),
            (false, 8, true),
            (false, 0, true),
            (true, 1, false),
            (true, 2, false),
            (true, 127, false),
            (true, 137, false),
            (true, 128, true),
        ] {
            let mut packet = Sample::udp(ipv6).build(&[0; 1440]);
            let (protocol, transport) = if ipv6 { (6, 40) } else { (9, 20) };
            packet[protocol] = if ipv6 { ICMPV6 } else { ICMP };
            packet[transport] = kind;
            assert_eq!(
                answer(&packet, 1400).is_some(),
                answered,
                "v6 {ipv6}, type {kind}"
            );
        }
        let mut bare = vec![0x60, 0, 0, 0, 0, 0, ICMPV6, 64];
        bare.extend([0xfd; 32]);
        assert_eq!(answer(&bare, 1400), None);
    }

    #[test]
    fn never_about_later_fragments() {
        let mut packet = Sample::udp(false).build(&[0; 1472]);
        packet[6..8].copy_from_slice(&[0x60, 0]);
        assert!(answer(&packet, 1400).is_some());
        packet[7] = 1;
        assert_eq!(answer(&packet, 1400), None);
    }

    #[test]
    fn only_between_unicast_addresses() {
        let packet = Sample::udp(false).build(&[0; 1472]);
        for at in [12, 16] {
            for address in [
                [224, 0, 0, 5],
                [255; 4],
                [0; 4],
                [240, 0, 0, 1],
                [0, 1, 2, 3],
                [127, 0, 0, 1],
            ] {
                let mut packet = packet.clone();
                packet[at..at + 4].copy_from_slice(&address);
                assert_eq!(answer(&packet, 1400), None, "{address:?} at {at}");
            }
        }
        let packet = Sample::udp(true).build(&[0; 1472]);
        for at in [8, 24] {
            for first in [0xff, 0] {
                let mut packet = packet.clone();
                packet[at..at + 16].fill(0);
                packet[at] = first;
                assert_eq!(answer(&packet, 1400), None);
            }
        }
    }

    #[test]
    fn inside_a_frame_the_hardware_addresses_are_swapped() {
        let packet = Sample::udp(false).build(&[7; 1472]);
        for tag in [None, Some(0x6007)] {
            let bytes = ethernet(tag, &packet);
            let link = bytes.len() - packet.len();
            let mut out = [0xee; MAX_LEN];
            let len = too_big_at(&bytes, link, 1400, &mut out).unwrap();
            assert_eq!(out[..6], bytes[6..12]);
            assert_eq!(out[6..12], bytes[..6]);
            assert_eq!(out[12..link], bytes[12..link]);
            assert_eq!(out[link..len], answer(&packet, 1400).unwrap());
            // The longest answer fits what the constant says.
            let six = ethernet(tag, &Sample::udp(true).build(&[7; 1472]));
            assert!(too_big_at(&six, link, 1400, &mut out[..1280 + link]).is_some());
            assert!(no_route_at(&six, link, &mut out).is_some());
            let mut broadcast = bytes;
            broadcast[..6].fill(0xff);
            assert_eq!(too_big_at(&broadcast, link, 1400, &mut out), None);
            assert_eq!(
                too_big_at(&broadcast, broadcast.len(), 1400, &mut out),
                None
            );
        }
        assert_eq!(too_big_at(&packet[..5], 14, 1400, &mut [0; MAX_LEN]), None);
    }

    #[test]
    fn no_room_no_answer() {
        let packet = Sample::udp(true).build(&[0; 1472]);
        assert_eq!(too_big(&packet, 1400, &mut [0; 1279]), None);
        assert_eq!(too_big(&[], 1400, &mut [0; 1280]), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(packet in proptest::collection::vec(any::<u8>(), 0..1600), mtu: u16) {
            if let Some(message) = answer(&packet, mtu) {
                prop_assert!(IpView::parse(&message).is_some());
                // An error is never answered with an error.
                let mut again = message;
                if again[0] == 0x45 { again[6] |= 0x40; }
                prop_assert_eq!(answer(&again, mtu), None);
            }
        }
    }
}
