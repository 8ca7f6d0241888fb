//! The virtio-net header in front of every packet on a TUN queue opened with `IFF_VNET_HDR`.
//!
//! ```text
//!  | flags:8 | gso_type:8 | hdr_len:16 | gso_size:16 | csum_start:16 | csum_offset:16 |
//! ```
//!
//! Fields are in native byte order, the default of a TUN device. The meaning follows the virtio
//! specification, "Network Device", and `linux/virtio_net.h`. Nothing here judges a header:
//! [`super::split`] does, against the packet behind it.

/// A virtio-net header without the `num_buffers` field (10 bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHdr {
    /// [`VnetHdr::NEEDS_CSUM`] and [`VnetHdr::DATA_VALID`].
    pub flags: u8,
    /// One of the `GSO_` values, with [`VnetHdr::ECN`] added where CWR must stay on the first segment.
    pub gso_type: u8,
    /// Bytes of all headers, as a hint. Never trusted when it comes from the kernel.
    pub hdr_len: u16,
    /// Payload bytes in each segment; the last may be shorter.
    pub gso_size: u16,
    /// With `NEEDS_CSUM`: where the checksum's coverage begins, from the start of the packet.
    pub csum_start: u16,
    /// With `NEEDS_CSUM`: where the checksum field is, from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHdr {
    /// Bytes in front of each packet.
    pub const LEN: usize = 10;

    /// Flag: the checksum field holds only the pseudo-header sum; the rest must be added.
    pub const NEEDS_CSUM: u8 = 1;
    /// Flag: the checksum was verified.
    pub const DATA_VALID: u8 = 2;

    /// GSO type: an ordinary packet.
    pub const GSO_NONE: u8 = 0;
    /// GSO type: TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// GSO type: TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// GSO type: UDP datagrams of equal size, over IPv4 or IPv6.
    pub const GSO_UDP_L4: u8 = 5;
    /// Added to a TCP type: the super-packet has CWR set, meant for the first segment only.
    pub const ECN: u8 = 0x80;

    /// Reads the header at the start of `bytes`; `None` when there are fewer than 10.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let b: &[u8; Self::LEN] = bytes.first_chunk()?;
        Some(VnetHdr {
            flags: b[0],
            gso_type: b[1],
            hdr_len: u16::from_ne_bytes([b[2], b[3]]),
            gso_size: u16::from_ne_bytes([b[4], b[5]]),
            csum_start: u16::from_ne_bytes([b[6], b[7]]),
            csum_offset: u16::from_ne_bytes([b[8], b[9]]),
        })
    }

    /// Writes the header to the start of `out`.
    ///
    /// # Panics
    /// When `out` is shorter than [`VnetHdr::LEN`].
    pub fn write(&self, out: &mut [u8]) {
        out[..Self::LEN].copy_from_slice(&self.to_bytes());
    }

    /// The header's bytes.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut b = [0; Self::LEN];
        b[0] = self.flags;
        b[1] = self.gso_type;
        b[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        b[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        b[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        b[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layout_matches_the_kernel_structure() {
        let hdr = VnetHdr {
            flags: VnetHdr::NEEDS_CSUM,
            gso_type: VnetHdr::GSO_TCPV6 | VnetHdr::ECN,
            hdr_len: 0x0102,
            gso_size: 0x0304,
            csum_start: 0x0506,
            csum_offset: 0x0708,
        };
        let mut out = [0xee; 12];
        hdr.write(&mut out);
        let mut expected = vec![1, 0x84];
        for field in [0x0102u16, 0x0304, 0x0506, 0x0708] {
            expected.extend(field.to_ne_bytes());
        }
        expected.extend([0xee, 0xee]);
        assert_eq!(out[..], expected[..]);
    }

    #[test]
    fn a_short_header_is_none() {
        assert_eq!(VnetHdr::read(&[0; 9]), None);
        assert_eq!(VnetHdr::read(&[0; 10]), Some(VnetHdr::default()));
    }

    proptest! {
        #[test]
        fn bytes_survive_reading_and_writing(bytes: [u8; 10]) {
            let hdr = VnetHdr::read(&bytes).unwrap();
            prop_assert_eq!(hdr.to_bytes(), bytes);
        }
    }
}
