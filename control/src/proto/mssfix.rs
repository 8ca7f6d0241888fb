//! How large packets become on the wire, and which MSS keeps them within a limit (protocol document
//! §10).
//!
//! ```text
//!  | IP | UDP/TCP | [length 2] | data header 1 or 4 | packet crypto | framing | inner packet |
//!  |-- outer -----|----------------- overhead --------------------------------|
//! ```
//! The worker rewrites SYNs with the two numbers computed here; it does no arithmetic of its own.

use ringway_dataplane::fragment::HEADER_LEN;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{Cipher, DataFormat, Digest};

/// AES's block and IV in CBC mode.
const BLOCK: usize = 16;
const TAG: usize = 16;
/// IPv4 and TCP header of the inner packet, without options.
const INNER_V4: usize = 20 + 20;
/// Smallest MSS ever asked for: below it TCP stacks refuse, and it would be a configuration mistake.
const MIN_MSS: usize = 48;

/// `mssfix` in its forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssFix {
    /// `mssfix 0`
    Off,
    /// `mssfix n`: the largest UDP payload.
    Payload(u16),
    /// `mssfix n mtu`: the largest packet including the outer IP and UDP or TCP header.
    Mtu(u16),
    /// `mssfix n fixed`: the largest inner packet.
    Fixed(u16),
}

/// What decides about the size of a packet on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireShape {
    /// The cipher.
    pub cipher: Cipher,
    /// The HMAC digest; ignored for AEAD ciphers.
    pub digest: Digest,
    /// The packet format.
    pub format: DataFormat,
    /// DATA_V2, with a peer-id, is sent.
    pub peer_id: bool,
    /// The outer transport is TCP.
    pub tcp: bool,
    /// The outer socket is IPv6 (one that carries v4-mapped addresses counts too).
    pub outer_v6: bool,
    /// Compression framing.
    pub framing: Framing,
    /// `fragment` is used.
    pub fragment: bool,
    /// `tun-mtu-extra`: 32 for tap, 0 for tun.
    pub tun_mtu_extra: u16,
    /// Bytes of a SOCKS proxy's header in front of each datagram.
    pub proxy_header: usize,
}

impl WireShape {
    /// Bytes of the outer IP and UDP or TCP header.
    pub fn outer_len(&self) -> usize {
        let ip = if self.outer_v6 { 40 } else { 20 };
        ip + if self.tcp { 20 } else { 8 }
    }

    /// Bytes of UDP payload (for TCP, of the stream) that an inner packet of `inner` bytes becomes,
    /// framing included; an escape of stub-v2, which no IP packet needs, is not.
    pub fn wire_len(&self, inner: usize) -> usize {
        let plain = inner + self.inside_len();
        let body = match self.is_cbc() {
            // The packet id is inside, and padding of 1 to 16 bytes follows.
            true => ((plain + 4) / BLOCK + 1) * BLOCK,
            false => plain,
        };
        self.overhead() + body
    }

    /// The largest inner packet whose UDP payload is at most `wire` bytes; `None` when not even an
    /// empty one fits. The inverse of [`WireShape::wire_len`], for too-big messages.
    pub fn largest_inner(&self, wire: usize) -> Option<usize> {
        self.largest_plain(wire)?.checked_sub(self.inside_len())
    }

    /// The most bytes that the crypto takes for a UDP payload of `wire` bytes.
    fn largest_plain(&self, wire: usize) -> Option<usize> {
        let body = wire.checked_sub(self.overhead())?;
        match self.is_cbc() {
            true => (body / BLOCK * BLOCK).checked_sub(4 + 1),
            false => Some(body),
        }
    }

    /// The largest fragment, in bytes without its header, whose datagram keeps to `fragment n`, or
    /// `fragment n mtu` when the outer headers count too. 0 when there is no room.
    pub fn fragment_payload(&self, n: u16, mtu: bool) -> u16 {
        let outer = if mtu { self.outer_len() } else { 0 };
        let whole = usize::from(n)
            .checked_sub(outer)
            .and_then(|wire| self.largest_plain(wire));
        let payload = whole.map_or(0, |plain| plain.saturating_sub(HEADER_LEN));
        u16::try_from(payload).unwrap_or(u16::MAX)
    }

    /// The largest MSS for inner IPv4 and IPv6; (0, 0) with `mssfix 0`.
    pub fn mss(&self, mssfix: MssFix) -> (u16, u16) {
        let v4 = match mssfix {
            MssFix::Off => return (0, 0),
            MssFix::Fixed(n) => usize::from(n).saturating_sub(INNER_V4),
            MssFix::Payload(n) => self.mss_within(usize::from(n)),
            MssFix::Mtu(n) => self.mss_within(usize::from(n).saturating_sub(self.outer_len())),
        };
        let clamp = |mss: usize| u16::try_from(mss.max(MIN_MSS)).unwrap_or(u16::MAX);
        (clamp(v4), clamp(v4.saturating_sub(20)))
    }

    /// The MSS for inner IPv4 that keeps the UDP payload within `limit` bytes.
    fn mss_within(&self, limit: usize) -> usize {
        let target = limit.saturating_sub(self.overhead());
        let target = match self.is_cbc() {
            // One byte of padding at least, and the packet id is inside.
            true => (target / BLOCK * BLOCK).saturating_sub(1 + 4),
            false => target,
        };
        let inside = self.inside_len() + usize::from(self.tun_mtu_extra);
        target.saturating_sub(INNER_V4 + inside)
    }

    /// Bytes outside the part whose length follows the inner packet's.
    fn overhead(&self) -> usize {
        let header = if self.peer_id { 4 } else { 1 };
        let length = if self.tcp { 2 } else { 0 };
        let crypto = match self.cipher {
            cipher if cipher.is_aead() => match self.format {
                DataFormat::Classic => 4 + TAG,
                DataFormat::Epoch => 8 + TAG,
            },
            Cipher::None => 4 + self.digest.len(),
            _ => BLOCK + self.digest.len(),
        };
        self.proxy_header + header + length + crypto
    }

    /// Bytes between the packet crypto and the inner packet.
    fn inside_len(&self) -> usize {
        let framing = match self.framing {
            Framing::None | Framing::StubV2 => 0,
            Framing::Lzo | Framing::Stub => 1,
        };
        framing + if self.fragment { HEADER_LEN } else { 0 }
    }

    fn is_cbc(&self) -> bool {
        matches!(
            self.cipher,
            Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GCM: WireShape = WireShape {
        cipher: Cipher::Aes256Gcm,
        digest: Digest::Sha1,
        format: DataFormat::Classic,
        peer_id: true,
        tcp: false,
        outer_v6: false,
        framing: Framing::None,
        fragment: false,
        tun_mtu_extra: 0,
        proxy_header: 0,
    };

    fn cbc(digest: Digest) -> WireShape {
        WireShape {
            cipher: Cipher::Aes256Cbc,
            digest,
            ..GCM
        }
    }

    #[test]
    fn table_of_the_default() {
        // protocol document §10: UDP v4, UDP v6, TCP v4, TCP v6
        let epoch = WireShape {
            format: DataFormat::Epoch,
            ..GCM
        };
        let v1 = WireShape {
            peer_id: false,
            ..GCM
        };
        let chacha = WireShape {
            cipher: Cipher::ChaCha20Poly1305,
            ..GCM
        };
        let table = [
            (GCM, [1400, 1380, 1386, 1366]),
            (chacha, [1400, 1380, 1386, 1366]),
            (epoch, [1396, 1376, 1382, 1362]),
            (v1, [1403, 1383, 1389, 1369]),
            (cbc(Digest::Sha1), [1379, 1347, 1363, 1331]),
            (cbc(Digest::Sha256), [1363, 1347, 1347, 1331]),
            (cbc(Digest::Sha512), [1331, 1315, 1315, 1299]),
        ];
        let default = MssFix::Mtu(1492);
        for (shape, expected) in table {
            let outer = [(false, false), (false, true), (true, false), (true, true)];
            for ((tcp, outer_v6), v4) in outer.into_iter().zip(expected) {
                let shape = WireShape {
                    tcp,
                    outer_v6,
                    ..shape
                };
                assert_eq!(shape.mss(default), (v4, v4 - 20), "{shape:?}");
            }
        }
    }

    #[test]
    fn other_forms() {
        // protocol document §16.8: GCM with peer-id, n - 64
        assert_eq!(GCM.mss(MssFix::Payload(1450)), (1386, 1366));
        assert_eq!(GCM.mss(MssFix::Fixed(1400)), (1360, 1340));
        assert_eq!(GCM.mss(MssFix::Off), (0, 0));
        let more = WireShape {
            framing: Framing::Lzo,
            fragment: true,
            tun_mtu_extra: 32,
            ..GCM
        };
        assert_eq!(more.mss(MssFix::Payload(1450)).0, 1386 - 1 - 4 - 32);
        assert_eq!(GCM.mss(MssFix::Payload(1)), (48, 48));
        assert_eq!(GCM.mss(MssFix::Fixed(u16::MAX)).0, u16::MAX - 40);
        let none = WireShape {
            cipher: Cipher::None,
            ..GCM
        };
        assert_eq!(none.mss(MssFix::Payload(1450)).0, 1450 - 4 - 4 - 20 - 40);
    }

    #[test]
    fn fragments_of_the_configured_size() {
        // protocol document §10, §7.2, §7.3
        let fragmenting = |shape| WireShape {
            fragment: true,
            ..shape
        };
        let gcm = fragmenting(GCM);
        assert_eq!(gcm.fragment_payload(1300, false), 1300 - 24 - 4);
        assert_eq!(gcm.fragment_payload(1300, true), 1300 - 28 - 24 - 4);
        let v6 = WireShape {
            outer_v6: true,
            framing: Framing::Lzo,
            ..gcm
        };
        assert_eq!(v6.fragment_payload(1300, true), 1300 - 48 - 24 - 4);
        // 1300 - 4 - 20 - 16 = 1260, 78 blocks, less padding, packet id and header
        let cbc = fragmenting(cbc(Digest::Sha1));
        assert_eq!(cbc.fragment_payload(1300, false), 78 * 16 - 1 - 4 - 4);
        assert_eq!(cbc.fragment_payload(40, false), 0);
    }

    #[test]
    fn known_packet_sizes() {
        // protocol document §10: inner 1500 over IPv4 and UDP
        let epoch = WireShape {
            format: DataFormat::Epoch,
            ..GCM
        };
        let outer = |shape: WireShape| shape.wire_len(1500) + shape.outer_len();
        assert_eq!(outer(GCM), 1552);
        assert_eq!(outer(epoch), 1556);
        assert_eq!(outer(cbc(Digest::Sha1)), 1588);
        assert_eq!(outer(cbc(Digest::Sha256)), 1600);
    }

    fn shapes() -> impl Strategy<Value = WireShape> {
        let ciphers = [
            Cipher::Aes128Gcm,
            Cipher::ChaCha20Poly1305,
            Cipher::Aes128Cbc,
            Cipher::Aes256Cbc,
            Cipher::None,
        ];
        let digests = [Digest::None, Digest::Sha1, Digest::Sha256, Digest::Sha512];
        let framings = [Framing::None, Framing::Lzo, Framing::Stub, Framing::StubV2];
        (
            proptest::sample::select(ciphers.to_vec()),
            proptest::sample::select(digests.to_vec()),
            proptest::sample::select(framings.to_vec()),
            any::<[bool; 6]>(),
        )
            .prop_map(|(cipher, digest, framing, bits)| WireShape {
                cipher,
                digest,
                framing,
                format: match bits[0] {
                    true => DataFormat::Epoch,
                    false => DataFormat::Classic,
                },
                peer_id: bits[1],
                tcp: bits[2],
                outer_v6: bits[3],
                fragment: bits[4],
                tun_mtu_extra: 0,
                proxy_header: if bits[5] { 22 } else { 0 },
            })
    }

    proptest! {
        #[test]
        fn a_segment_of_the_mss_fits_and_is_not_wasteful(
            shape in shapes(),
            limit in 300u16..9000,
        ) {
            let (v4, v6) = shape.mss(MssFix::Payload(limit));
            let limit = usize::from(limit);
            let wire = shape.wire_len(usize::from(v4) + 40);
            prop_assert!(wire <= limit);
            prop_assert!(wire + BLOCK > limit);
            prop_assert_eq!(wire, shape.wire_len(usize::from(v6) + 60));
            let largest = shape.largest_inner(limit).expect("fits");
            prop_assert_eq!(largest, usize::from(v4) + 40);
            prop_assert!(shape.wire_len(largest) <= limit);
            prop_assert!(shape.wire_len(largest + 1) > limit);
            if shape.fragment {
                // The framing is in one fragment only, so a whole packet has room for it.
                let framed = WireShape { framing: Framing::None, ..shape };
                let payload = usize::from(shape.fragment_payload(limit as u16, false));
                prop_assert!(framed.wire_len(payload) <= limit);
                prop_assert!(framed.wire_len(payload + 1) > limit);
            }
        }

        #[test]
        fn tiny_limits_never_panic(shape in shapes(), limit in 0u16..300) {
            let (v4, v6) = shape.mss(MssFix::Mtu(limit));
            prop_assert!(v4 >= v6 && v6 > 0);
            if let Some(inner) = shape.largest_inner(limit.into()) {
                prop_assert!(shape.wire_len(inner) <= usize::from(limit));
            }
        }
    }
}
