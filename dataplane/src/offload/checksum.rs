//! The Internet checksum (RFC 1071) over the pieces of a packet.
//!
//! Everything here works on sums in memory order: a 16-bit word is what a native load of its two
//! bytes gives, and a finished checksum is stored with a native store. [`word`] brings a number that
//! the packet holds in network order into such a sum. Pieces may be summed apart and added as long as
//! each begins at an even offset.

pub use crate::sys::checksum::{copy_and_sum, sum};

/// Folds a sum to 16 bits, still not complemented. Zero only for a sum of zero.
#[inline]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum field for a sum: folded and complemented, to be stored in native order.
#[inline]
pub fn finish(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// Like [`finish`], but never zero, which in UDP means "no checksum" (RFC 768).
#[inline]
pub fn finish_udp(sum: u64) -> [u8; 2] {
    match finish(sum) {
        [0, 0] => [0xff, 0xff],
        field => field,
    }
}

/// True when a sum that includes its checksum field is that of an undamaged packet.
#[inline]
pub fn is_valid(sum: u64) -> bool {
    fold(sum) == 0xffff
}

/// What a number contributes when the packet holds it as a 16-bit big-endian field.
#[inline]
pub fn word(value: u16) -> u64 {
    u64::from(value.to_be())
}

/// The sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1): `addresses` are source and
/// destination as they lie in the IP header, `len` is the transport header and payload in bytes.
#[inline]
pub fn pseudo_header(addresses: &[u8], protocol: u8, len: usize) -> u64 {
    // One or two 16-bit words; only sums of up to 65535 bytes need one.
    let (high, low) = ((len >> 16) as u16, len as u16);
    sum(addresses) + word(u16::from(protocol)) + word(high) + word(low)
}

/// Replaces a 16-bit word under a checksum without summing the rest (RFC 1624, equation 3). `old` and
/// `new` are numbers as in [`word`]; `at` is the word's offset from where the checksum's coverage
/// begins, and may be odd.
#[inline]
pub fn update(field: [u8; 2], at: usize, old: u16, new: u16) -> [u8; 2] {
    let (old, new) = match at % 2 {
        0 => (old, new),
        _ => (old.swap_bytes(), new.swap_bytes()),
    };
    let sum = u64::from(!u16::from_ne_bytes(field)) + u64::from(!old.to_be()) + word(new);
    finish(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_1071_example() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&data)).to_ne_bytes(), [0xdd, 0xf2]);
        assert_eq!(finish(sum(&data)), [0x22, 0x0d]);
    }

    #[test]
    fn ipv4_header_example() {
        // A widely printed header; its checksum is b861.
        let mut header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        let field = finish(sum(&header));
        assert_eq!(field, [0xb8, 0x61]);
        header[10..12].copy_from_slice(&field);
        assert!(is_valid(sum(&header)));
        header[19] ^= 1;
        assert!(!is_valid(sum(&header)));
    }

    #[test]
    fn folding_keeps_zero_and_extremes() {
        assert_eq!(fold(0), 0);
        assert_eq!(fold(0xffff), 0xffff);
        assert_eq!(fold(0x1_0000), 1);
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0xffff_ffff_0000_0000), 0xffff);
    }

    #[test]
    fn udp_never_sends_zero() {
        assert_eq!(finish(0xffff), [0, 0]);
        assert_eq!(finish_udp(0xffff), [0xff, 0xff]);
        assert_eq!(finish_udp(0xfffe), finish(0xfffe));
    }

    proptest! {
        #[test]
        fn fold_is_the_remainder_modulo_ffff(value: u64) {
            prop_assert_eq!(u64::from(fold(value)) % 0xffff, value % 0xffff);
            prop_assert_eq!(fold(value) == 0, value == 0);
        }

        #[test]
        fn update_equals_summing_again(
            mut data in proptest::collection::vec(any::<u8>(), 2..200),
            at: prop::sample::Index,
            new: u16,
        ) {
            let at = at.index(data.len() - 1);
            let field = finish(sum(&data));
            let old = u16::from_be_bytes([data[at], data[at + 1]]);
            data[at..at + 2].copy_from_slice(&new.to_be_bytes());
            let updated = update(field, at, old, new);
            let full = sum(&data) + u64::from(u16::from_ne_bytes(updated));
            prop_assert!(is_valid(full) || (fold(sum(&data)) == 0 && updated == [0, 0]));
        }
    }
}
