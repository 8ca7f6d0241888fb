//! Headers of datagrams, and the magic payloads inside data packets (protocol §1, §7.8; the layout
//! is that of the protocol document).
//!
//! ```text
//!   DATA_V1  | opcode:5 key_id:3 | ...
//!   DATA_V2  | opcode:5 key_id:3 | peer_id:24 | ...
//! ```
//!
//! Everything here looks at bytes nobody has authenticated yet: it only tells data from control
//! packets and finds the key, it changes nothing.

use std::ops::Range;

use crate::error::DropReason;

/// First byte's opcode of a soft reset (control).
pub const SOFT_RESET_V1: u8 = 3;
/// Opcode of TLS bytes (control).
pub const CONTROL_V1: u8 = 4;
/// Opcode of a packet of acknowledgements only (control).
pub const ACK_V1: u8 = 5;
/// Opcode of a data packet with a header of one byte.
pub const DATA_V1: u8 = 6;
/// Opcode of a client's hard reset (control).
pub const HARD_RESET_CLIENT_V2: u8 = 7;
/// Opcode of a server's hard reset (control).
pub const HARD_RESET_SERVER_V2: u8 = 8;
/// Opcode of a data packet with a header of four bytes, three of them the peer-id.
pub const DATA_V2: u8 = 9;
/// Opcode of a client's hard reset with a wrapped client key (control).
pub const HARD_RESET_CLIENT_V3: u8 = 10;
/// Opcode of TLS bytes with a wrapped client key (control).
pub const CONTROL_WKC_V1: u8 = 11;

/// The peer-id that says "none, look me up by address".
pub const PEER_ID_NONE: u32 = 0x00ff_ffff;

/// Payload of a keepalive ping.
pub const PING: [u8; 16] = [
    0x2a, 0x18, 0x7b, 0xf3, 0x64, 0x1e, 0xb4, 0xcb, 0x07, 0xed, 0x2d, 0x0a, 0x98, 0x1f, 0xc7, 0x48,
];

/// The op of the OCC message by which a peer leaves (protocol §7.8).
pub const OCC_EXIT: u8 = 6;

/// What an OCC message starts with; op and data follow.
pub const OCC_MAGIC: [u8; 16] = [
    0x28, 0x7f, 0x34, 0x6b, 0xd4, 0xef, 0x7a, 0x81, 0x2d, 0x56, 0xb8, 0xd3, 0xaf, 0xc5, 0x45, 0x9c,
];

/// What the first bytes of a datagram say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A data packet.
    Data {
        /// Which key it claims to be sealed with, 0..=7.
        key_id: u8,
        /// The raw 24 bits of DATA_V2, [`PEER_ID_NONE`] included; `None` for DATA_V1.
        peer_id: Option<u32>,
        /// Length of this header in bytes, 1 or 4.
        len: usize,
    },
    /// A control packet, for the control thread.
    Control,
}

/// Reads the header of a datagram.
///
/// # Errors
/// [`DropReason::Malformed`] if it is empty, shorter than its header, or of an opcode that does not
/// exist (those of key method 1 included).
#[inline]
pub fn parse(datagram: &[u8]) -> Result<Header, DropReason> {
    let &first = datagram.first().ok_or(DropReason::Malformed)?;
    let key_id = first & 7;
    match first >> 3 {
        DATA_V2 => match *datagram {
            [_, a, b, c, ..] => Ok(Header::Data {
                key_id,
                peer_id: Some(u32::from_be_bytes([0, a, b, c])),
                len: 4,
            }),
            _ => Err(DropReason::Malformed),
        },
        DATA_V1 => Ok(Header::Data {
            key_id,
            peer_id: None,
            len: 1,
        }),
        SOFT_RESET_V1 | CONTROL_V1 | ACK_V1 | HARD_RESET_CLIENT_V2 | HARD_RESET_SERVER_V2
        | HARD_RESET_CLIENT_V3 | CONTROL_WKC_V1 => Ok(Header::Control),
        _ => Err(DropReason::Malformed),
    }
}

/// Where the datagrams of a received message of `len` bytes are: receive offload glues datagrams of
/// `gro_size` bytes together, of which only the last may be shorter; 0 means that it is a single one. An
/// empty message is one empty datagram.
#[inline]
pub fn datagrams(len: usize, gro_size: usize) -> impl Iterator<Item = Range<usize>> {
    let step = if gro_size == 0 { len } else { gro_size };
    let count = if len == 0 { 1 } else { len.div_ceil(step) };
    (0..count).map(move |i| i * step..(i * step + step).min(len))
}

/// What an opened payload is, if it is not for the TUN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Magic<'a> {
    /// An ordinary packet.
    None,
    /// A keepalive ping.
    Ping,
    /// An OCC message: op and data, without the prefix (may be empty).
    Occ(&'a [u8]),
}

/// Tells pings and OCC messages from ordinary packets; the payload is what remains after opening
/// and unframing.
#[inline]
pub fn magic(payload: &[u8]) -> Magic<'_> {
    if payload == PING {
        Magic::Ping
    } else if let Some(message) = payload.strip_prefix(&OCC_MAGIC) {
        Magic::Occ(message)
    } else {
        Magic::None
    }
}

/// The header a sending key writes in front of each data packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DataHeader {
    bytes: [u8; 4],
    len: usize,
}

impl DataHeader {
    /// DATA_V2 with a peer-id (its low 24 bits), DATA_V1 without.
    pub(crate) fn new(key_id: u8, peer_id: Option<u32>) -> Self {
        match peer_id {
            Some(id) => {
                let [_, a, b, c] = id.to_be_bytes();
                DataHeader {
                    bytes: [DATA_V2 << 3 | (key_id & 7), a, b, c],
                    len: 4,
                }
            }
            None => DataHeader {
                bytes: [DATA_V1 << 3 | (key_id & 7), 0, 0, 0],
                len: 1,
            },
        }
    }

    /// Any four bytes, for published packets.
    #[cfg(test)]
    pub(crate) fn raw(bytes: [u8; 4]) -> Self {
        DataHeader { bytes, len: 4 }
    }

    /// Length in bytes, 1 or 4.
    #[inline]
    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// The key_id it names.
    pub(crate) fn key_id(self) -> u8 {
        self.bytes[0] & 7
    }

    /// Writes the header; whatever follows it must be written later, because four bytes are stored
    /// for DATA_V1 too (one fixed-size store instead of a copy of variable length).
    #[inline]
    pub(crate) fn write(self, datagram: &mut [u8]) {
        datagram[..4].copy_from_slice(&self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_headers_give_key_id_peer_id_and_length() {
        assert_eq!(
            parse(&[0x48, 0, 0, 1, 9]),
            Ok(Header::Data {
                key_id: 0,
                peer_id: Some(1),
                len: 4
            })
        );
        assert_eq!(
            parse(&[0x4f, 0xff, 0xff, 0xff]),
            Ok(Header::Data {
                key_id: 7,
                peer_id: Some(PEER_ID_NONE),
                len: 4
            })
        );
        assert_eq!(
            parse(&[0x33]),
            Ok(Header::Data {
                key_id: 3,
                peer_id: None,
                len: 1
            })
        );
        assert_eq!(parse(&[0x48, 0, 0]), Err(DropReason::Malformed));
        assert_eq!(parse(&[]), Err(DropReason::Malformed));
    }

    #[test]
    fn glued_datagrams_are_taken_apart() {
        let cut = |len, size| {
            let ends = datagrams(len, size).map(|range| (range.start, range.end));
            ends.collect::<Vec<_>>()
        };
        for size in [0, 100, 200] {
            assert_eq!(cut(100, size), [(0, 100)], "{size}");
        }
        assert_eq!(cut(100, 40), [(0, 40), (40, 80), (80, 100)]);
        assert_eq!(cut(80, 40), [(0, 40), (40, 80)]);
        assert_eq!(cut(3, 1), [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(cut(0, 0), [(0, 0)]);
        assert_eq!(cut(0, 9), [(0, 0)]);
    }

    #[test]
    fn every_opcode_is_control_data_or_malformed() {
        for opcode in 0..32u8 {
            let got = parse(&[opcode << 3, 0, 0, 0]);
            match opcode {
                3 | 4 | 5 | 7 | 8 | 10 | 11 => assert_eq!(got, Ok(Header::Control)),
                6 | 9 => assert!(matches!(got, Ok(Header::Data { .. }))),
                _ => assert_eq!(got, Err(DropReason::Malformed)),
            }
        }
    }

    #[test]
    fn written_headers_parse_back() {
        for key_id in 0..8 {
            for peer_id in [None, Some(0), Some(0x0001_0203), Some(PEER_ID_NONE)] {
                let header = DataHeader::new(key_id, peer_id);
                let mut datagram = [0; 4];
                header.write(&mut datagram);
                let len = header.len();
                assert_eq!(
                    parse(&datagram),
                    Ok(Header::Data {
                        key_id,
                        peer_id,
                        len
                    })
                );
                assert_eq!(header.key_id(), key_id);
            }
        }
    }

    #[test]
    fn only_the_exact_ping_is_a_ping() {
        assert_eq!(magic(&PING), Magic::Ping);
        assert_eq!(magic(&PING[..15]), Magic::None);
        let mut longer = PING.to_vec();
        longer.push(0);
        assert_eq!(magic(&longer), Magic::None);
        assert_eq!(magic(&[]), Magic::None);
    }

    #[test]
    fn occ_messages_lose_their_prefix() {
        let mut exit = OCC_MAGIC.to_vec();
        assert_eq!(magic(&exit), Magic::Occ(&[]));
        exit.push(6);
        assert_eq!(magic(&exit), Magic::Occ(&[6]));
        assert_eq!(magic(&OCC_MAGIC[..15]), Magic::None);
    }
}
