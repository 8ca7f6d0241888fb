//! `mssfix`: lowering the MSS that TCP connections inside the tunnel announce, so that their
//! segments fit the outer path (the protocol document, §10).
//!
//! Only the MSS option (RFC 9293 §3.7.1) of a SYN or SYN-ACK is touched, and only downwards. The
//! packet keeps its length. A packet that is not a well-formed SYN is left alone.

use crate::ip::{IpView, TCP};
use crate::offload::checksum;

/// Length of a TCP header without options.
const TCP_HEADER: usize = 20;
/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: usize = 16;

/// Lowers a larger MSS in a SYN or SYN-ACK to `max_v4` or `max_v6` bytes, by the packet's IP version;
/// 0 leaves that version alone. Returns true when the packet was changed.
///
/// The TCP checksum is corrected for the change, unless `csum_partial`: the packet comes with
/// `NEEDS_CSUM` and its checksum field holds only the pseudo header, which does not change.
#[inline]
pub fn clamp(packet: &mut [u8], max_v4: u16, max_v6: u16, csum_partial: bool) -> bool {
    let Some(ip) = IpView::parse(packet) else {
        return false;
    };
    let max = if ip.is_ipv6() { max_v6 } else { max_v4 };
    if max == 0 {
        return false;
    }
    let Some(transport) = ip.transport() else {
        return false;
    };
    if transport.protocol != TCP {
        return false;
    }
    let end = ip.total_len();
    let Some(tcp) = packet.get_mut(transport.offset..end) else {
        return false;
    };
    match tcp.get(13) {
        Some(flags) if flags & 0x02 != 0 => clamp_syn(tcp, max, csum_partial),
        _ => false,
    }
}

/// `tcp` is the TCP header and what follows.
fn clamp_syn(tcp: &mut [u8], max: u16, csum_partial: bool) -> bool {
    if tcp.len() < TCP_HEADER {
        return false;
    }
    let header_len = usize::from(tcp[12] >> 4) * 4;
    if header_len < TCP_HEADER || header_len > tcp.len() {
        return false;
    }
    let mut changed = false;
    let mut at = TCP_HEADER;
    while at < header_len {
        let len = match tcp[at] {
            0 => break,
            1 => 1,
            _ => match tcp[..header_len].get(at + 1) {
                Some(&len) if len >= 2 && at + usize::from(len) <= header_len => usize::from(len),
                _ => break,
            },
        };
        if tcp[at] == 2 && len == 4 {
            changed |= lower(tcp, at + 2, max, csum_partial);
        }
        at += len;
    }
    changed
}

/// Lowers the 16-bit number at `at` to `max`.
fn lower(tcp: &mut [u8], at: usize, max: u16, csum_partial: bool) -> bool {
    let mss = u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    if mss <= max {
        return false;
    }
    tcp[at..at + 2].copy_from_slice(&max.to_be_bytes());
    if !csum_partial {
        let field = [tcp[TCP_CHECKSUM], tcp[TCP_CHECKSUM + 1]];
        let field = checksum::update(field, at, mss, max);
        tcp[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&field);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::sample::{Sample, transport_valid};
    use proptest::prelude::*;

    const SYN: u8 = 0x02;
    const SYN_ACK: u8 = 0x12;

    fn syn(ipv6: bool, flags: u8, options: &[u8]) -> Vec<u8> {
        let mut sample = Sample::tcp(ipv6);
        sample.flags = flags;
        sample.options = options.to_vec();
        sample.build(&[])
    }

    #[test]
    fn lowers_both_versions_and_fixes_the_checksum() {
        for ipv6 in [false, true] {
            for flags in [SYN, SYN_ACK, SYN | 0xc0] {
                let mut packet = syn(ipv6, flags, &[2, 4, 0x05, 0xb4, 1, 3, 3, 7]);
                let expected = syn(ipv6, flags, &[2, 4, 0x05, 0x50, 1, 3, 3, 7]);
                let (v4, v6) = if ipv6 { (9, 1360) } else { (1360, 9) };
                assert!(clamp(&mut packet, v4, v6, false));
                assert_eq!(packet, expected);
                assert!(transport_valid(&packet));
                assert!(!clamp(&mut packet, v4, v6, false), "nothing left to lower");
            }
        }
    }

    #[test]
    fn an_option_at_an_odd_offset() {
        let mut packet = syn(false, SYN, &[1, 2, 4, 0x23, 0x28, 0, 0, 0]);
        assert!(clamp(&mut packet, 1357, 1337, false));
        assert_eq!(packet, syn(false, SYN, &[1, 2, 4, 0x05, 0x4d, 0, 0, 0]));
    }

    #[test]
    fn a_partial_checksum_stays() {
        let mut packet = syn(true, SYN, &[2, 4, 0x05, 0xb4]);
        let before = packet.clone();
        assert!(clamp(&mut packet, 0, 1220, true));
        assert_eq!(packet[..62], before[..62]);
        assert_eq!(packet[62..], [0x04, 0xc4]);
    }

    #[test]
    fn behind_extension_headers() {
        let mut sample = Sample::tcp(true);
        sample.flags = SYN;
        sample.options = vec![2, 4, 0x05, 0xb4];
        sample.extension = true;
        let mut packet = sample.build(&[]);
        assert!(clamp(&mut packet, 0, 1200, false));
        sample.options = vec![2, 4, 0x04, 0xb0];
        assert_eq!(packet, sample.build(&[]));
    }

    #[test]
    fn what_is_left_alone() {
        let mss = [2, 4, 0x05, 0xb4];
        let cases: [(&str, Vec<u8>, u16); 10] = [
            ("no limit", syn(false, SYN, &mss), 0),
            ("smaller already", syn(false, SYN, &mss), 1460),
            ("no SYN", syn(false, 0x10, &mss), 1000),
            ("RST", syn(false, 0x04, &mss), 1000),
            ("no option", syn(false, SYN, &[]), 1000),
            (
                "behind the end of options",
                syn(false, SYN, &[0, 0, 0, 0, 2, 4, 5, 0xb4]),
                1000,
            ),
            (
                "option of the wrong length",
                syn(false, SYN, &[2, 3, 5, 0xb4]),
                1000,
            ),
            (
                "option longer than the header",
                syn(false, SYN, &[1, 1, 2, 4]),
                1000,
            ),
            (
                "option of length 0",
                syn(false, SYN, &[9, 0, 0, 0, 2, 4, 5, 0xb4]),
                1000,
            ),
            (
                "option of length 1",
                syn(false, SYN, &[9, 1, 2, 4, 5, 0xb4, 0, 0]),
                1000,
            ),
        ];
        for (what, mut packet, max) in cases {
            let before = packet.clone();
            assert!(!clamp(&mut packet, max, 1, false), "{what}");
            assert_eq!(packet, before, "{what}");
        }
    }

    #[test]
    fn fragments_and_other_protocols_are_left_alone() {
        let mut packet = syn(false, SYN, &[2, 4, 0x05, 0xb4]);
        packet[7] = 1;
        assert!(!clamp(&mut packet, 500, 500, false));
        packet[7] = 0;
        packet[9] = 17;
        assert!(!clamp(&mut packet, 500, 500, false));
    }

    proptest! {
        #[test]
        fn random_options_keep_the_checksum_right(
            ipv6: bool,
            mut options in proptest::collection::vec(any::<u8>(), 0..40),
            max in 1u16..,
        ) {
            options.resize(options.len() / 4 * 4, 0);
            let mut packet = syn(ipv6, SYN, &options);
            clamp(&mut packet, max, max, false);
            prop_assert!(transport_valid(&packet));
        }

        #[test]
        fn garbage_never_panics(
            mut packet in proptest::collection::vec(any::<u8>(), 0..120),
            six: bool,
        ) {
            if packet.len() >= 60 {
                let (first, len, protocol) = if six { (0x60, 4, 6) } else { (0x45, 2, 9) };
                packet[0] = first;
                packet[len..len + 2].copy_from_slice(&[0, 15]);
                packet[if six { 5 } else { 3 }] = 60;
                packet[protocol] = TCP;
            }
            clamp(&mut packet, 1, 1, false);
        }
    }
}
