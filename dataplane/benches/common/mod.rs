//! What several benches need: keys, super-packets, and a Criterion that does not take all day.

// Each bench uses its own part of this.
#![allow(dead_code)]

use std::time::Duration;

use criterion::Criterion;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{
    Cipher, DataFormat, DataKeys, Digest, DirectionKey, RecvKey, SendKey,
};
use ringway_dataplane::offload::VnetHdr;

/// A short look by default; `--measurement-time 5` and the like ask for more.
#[must_use]
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .without_plots()
        .configure_from_args()
}

/// A sending and a receiving key that fit each other.
///
/// # Panics
/// When the cipher cannot be set up.
#[must_use]
pub(crate) fn keys(cipher: Cipher, digest: Digest) -> (SendKey, RecvKey) {
    let slots = DirectionKey {
        cipher: std::array::from_fn(|i| i as u8),
        hmac: std::array::from_fn(|i| i as u8),
    };
    let keys = DataKeys {
        cipher,
        digest,
        format: DataFormat::Classic,
        send: slots.clone(),
        recv: slots,
    };
    let send = SendKey::new(&keys, 0, Some(0), Framing::None).expect("a sending key");
    let recv = RecvKey::new(&keys, Framing::None, 65_536, 0).expect("a receiving key");
    (send, recv)
}

/// What a super-packet carries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Inner {
    /// TCP with timestamps over IPv4.
    Tcp4,
    /// The same over IPv6.
    Tcp6,
    /// UDP over IPv4.
    Udp4,
}

impl Inner {
    /// Name in reports.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp4 => "tcp4",
            Self::Tcp6 => "tcp6",
            Self::Udp4 => "udp4",
        }
    }

    /// Bytes of all headers.
    #[must_use]
    pub(crate) fn header_len(self) -> usize {
        match self {
            Self::Tcp4 => 52,
            Self::Tcp6 => 72,
            Self::Udp4 => 28,
        }
    }
}

/// A super-packet of `count` segments of `gso_size` payload bytes, as the TUN device hands it over.
#[must_use]
pub(crate) fn super_packet(inner: Inner, gso_size: usize, count: usize) -> (VnetHdr, Vec<u8>) {
    let header_len = inner.header_len();
    let total = header_len + gso_size * count;
    let mut packet: Vec<u8> = (0..total).map(|i| (i * 31) as u8).collect();
    packet[..header_len].fill(0);
    let protocol = if matches!(inner, Inner::Udp4) { 17 } else { 6 };
    let transport = if matches!(inner, Inner::Tcp6) {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&[protocol, 64]);
        packet[8..40].fill(0xfd);
        40
    } else {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        packet[6] = 0x40;
        packet[8..10].copy_from_slice(&[64, protocol]);
        packet[12..20].fill(10);
        20
    };
    packet[transport..transport + 4].copy_from_slice(&[0x9c, 0x40, 0x01, 0xbb]);
    if protocol == 6 {
        packet[transport + 12..transport + 14].copy_from_slice(&[0x80, 0x10]);
        packet[transport + 20..transport + 24].copy_from_slice(&[1, 1, 8, 10]);
    }
    let hdr = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: match inner {
            Inner::Tcp4 => VnetHdr::GSO_TCPV4,
            Inner::Tcp6 => VnetHdr::GSO_TCPV6,
            Inner::Udp4 => VnetHdr::GSO_UDP_L4,
        },
        hdr_len: header_len as u16,
        gso_size: gso_size as u16,
        csum_start: transport as u16,
        csum_offset: if protocol == 6 { 16 } else { 6 },
    };
    (hdr, packet)
}
