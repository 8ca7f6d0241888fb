//! Compression framing: what stands between the packet cryptography and the inner packet
//! (protocol §7.9). Ringway never compresses; it speaks the framings of an uncompressed packet.
//!
//! ```text
//!   Lzo      FA p0 p1 .. pn
//!   Stub     FB p1 .. pn p0        the first byte moves to the end
//!   StubV2   p0 p1 .. pn           as is, unless p0 = 50:  50 00 p0 p1 .. pn
//! ```

use std::ops::Range;

use crate::cipher::Segment;
use crate::error::DropReason;

/// In front of an uncompressed packet under `comp-lzo`.
const UNCOMPRESSED: u8 = 0xfa;
/// In front of an uncompressed packet under `compress`.
const UNCOMPRESSED_SWAPPED: u8 = 0xfb;
/// In front of LZO, Snappy and LZ4 data.
const COMPRESSED: [u8; 3] = [0x66, 0x68, 0x69];
/// First byte of everything that stub-v2 marks.
const V2_MARK: u8 = 0x50;
/// Second byte of an escaped packet; peers are known to send either.
const V2_ESCAPES: [u8; 2] = [0x00, 0x0a];

/// The framing agreed with a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// No framing: the payload is the inner packet.
    #[default]
    None,
    /// `comp-lzo` in any form, `compress lzo`: `FA` in front.
    Lzo,
    /// `compress`, `compress stub`, `compress lz4`: first byte moved to the end, `FB` in front.
    Stub,
    /// `compress stub-v2`, `compress lz4-v2`: as is, an initial `50` escaped.
    StubV2,
}

impl Framing {
    /// Bytes the framing adds in front of the inner packet.
    pub(crate) fn front(self) -> usize {
        match self {
            Framing::Lzo => 1,
            Framing::None | Framing::Stub | Framing::StubV2 => 0,
        }
    }

    /// Bytes the framing adds in all.
    pub(crate) fn added(self) -> usize {
        match self {
            Framing::Lzo | Framing::Stub => 1,
            Framing::None | Framing::StubV2 => 0,
        }
    }

    /// What must stand in front of an inner packet that starts with this byte, as part of it:
    /// `50 00` for stub-v2 and a packet that starts with `50`, which no IP packet does.
    pub fn escape(self, first: u8) -> &'static [u8] {
        if self == Framing::StubV2 && first == V2_MARK {
            &[V2_MARK, V2_ESCAPES[0]]
        } else {
            &[]
        }
    }

    /// Frames a batch in place; the inner packets start `headroom` bytes into their segments.
    pub(crate) fn apply(self, buf: &mut [u8], segments: &[Segment], headroom: usize) {
        match self {
            Framing::None | Framing::StubV2 => {}
            Framing::Lzo => {
                for segment in segments {
                    buf[segment.start + headroom - 1] = UNCOMPRESSED;
                }
            }
            Framing::Stub => {
                for segment in segments {
                    let inner = segment.start + headroom;
                    // Of an empty packet only the mark remains.
                    buf[inner + segment.len] = buf[inner];
                    buf[inner] = UNCOMPRESSED_SWAPPED;
                }
            }
        }
    }

    /// Finds the inner packet in an opened payload, `payload` of `datagram`.
    #[inline]
    pub(crate) fn strip(
        self,
        datagram: &mut [u8],
        payload: Range<usize>,
    ) -> Result<Range<usize>, DropReason> {
        let Range { start, end } = payload;
        match self {
            Framing::None => Ok(start..end),
            Framing::Lzo => match *first(datagram, start, end)? {
                UNCOMPRESSED => Ok(start + 1..end),
                other => Err(refused(other)),
            },
            Framing::Stub => match *first(datagram, start, end)? {
                UNCOMPRESSED_SWAPPED => {
                    datagram[start] = datagram[end - 1];
                    Ok(start..end - 1)
                }
                other => Err(refused(other)),
            },
            Framing::StubV2 => match datagram[start..end] {
                [V2_MARK, second, ..] if V2_ESCAPES.contains(&second) => Ok(start + 2..end),
                [V2_MARK, _, ..] => Err(DropReason::Compressed),
                [V2_MARK] => Err(DropReason::BadPayload),
                _ => Ok(start..end),
            },
        }
    }
}

fn first(datagram: &[u8], start: usize, end: usize) -> Result<&u8, DropReason> {
    datagram[start..end].first().ok_or(DropReason::BadPayload)
}

fn refused(mark: u8) -> DropReason {
    if COMPRESSED.contains(&mark) {
        DropReason::Compressed
    } else {
        DropReason::BadPayload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(framing: Framing, inner: &[u8]) -> Vec<u8> {
        let headroom = framing.front();
        let mut buf = vec![0; inner.len() + framing.added()];
        buf.resize(buf.len().max(headroom + inner.len()), 0);
        buf[headroom..headroom + inner.len()].copy_from_slice(inner);
        let segment = Segment {
            start: 0,
            len: inner.len(),
        };
        framing.apply(&mut buf, &[segment], headroom);
        buf
    }

    fn stripped(framing: Framing, payload: &[u8]) -> Result<Vec<u8>, DropReason> {
        let mut datagram = payload.to_vec();
        let range = framing.strip(&mut datagram, 0..payload.len())?;
        Ok(datagram[range].to_vec())
    }

    #[test]
    fn the_wire_shows_each_framing() {
        let inner = [0x45, 1, 2];
        assert_eq!(framed(Framing::None, &inner), [0x45, 1, 2]);
        assert_eq!(framed(Framing::Lzo, &inner), [0xfa, 0x45, 1, 2]);
        assert_eq!(framed(Framing::Stub, &inner), [0xfb, 1, 2, 0x45]);
        assert_eq!(framed(Framing::StubV2, &inner), [0x45, 1, 2]);
        assert_eq!(framed(Framing::Stub, &[]), [0xfb]);
    }

    #[test]
    fn framed_packets_come_back() {
        for framing in [Framing::None, Framing::Lzo, Framing::Stub, Framing::StubV2] {
            for inner in [&[][..], &[0x45], &[0x60, 9], &[0xfb, 0xfa, 0x66]] {
                assert_eq!(
                    stripped(framing, &framed(framing, inner)).as_deref(),
                    Ok(inner),
                    "{framing:?}"
                );
            }
        }
    }

    #[test]
    fn both_escapes_of_stub_v2_are_taken_and_one_is_written() {
        assert_eq!(Framing::StubV2.escape(0x50), [0x50, 0x00]);
        assert!(Framing::StubV2.escape(0x45).is_empty());
        assert!(Framing::Stub.escape(0x50).is_empty());
        for second in [0x00, 0x0a] {
            assert_eq!(
                stripped(Framing::StubV2, &[0x50, second, 0x50, 7]),
                Ok(vec![0x50, 7])
            );
        }
        assert_eq!(
            stripped(Framing::StubV2, &[0x50]),
            Err(DropReason::BadPayload)
        );
    }

    #[test]
    fn compressed_packets_are_named_and_others_refused() {
        use DropReason::{BadPayload, Compressed};
        for (framing, payload, reason) in [
            (Framing::Lzo, &[0x66, 1, 2][..], Compressed),
            (Framing::Lzo, &[0xfb, 1, 2], BadPayload),
            (Framing::Lzo, &[], BadPayload),
            (Framing::Stub, &[0x69, 1, 2], Compressed),
            (Framing::Stub, &[0xfa, 1, 2], BadPayload),
            (Framing::Stub, &[], BadPayload),
            (Framing::StubV2, &[0x50, 0x01, 9], Compressed),
            (Framing::StubV2, &[0x50, 0x0b, 9], Compressed),
        ] {
            assert_eq!(stripped(framing, payload), Err(reason), "{framing:?}");
        }
    }
}
