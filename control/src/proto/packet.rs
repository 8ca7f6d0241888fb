//! Control packets as they are inside the wrapping (protocol document §1, §2.1, §3).
//!
//! ```text
//!  | opcode:5 key_id:3 | session id 8 |   the clear first 9 bytes, in every wrapping
//!  | n | n x ack u32 | remote session id 8 if n > 0 | packet id u32 unless ACK_V1 | payload |   the rest
//! ```
//! This module knows layout only: who may send what, and when, is for the session to judge. Bytes
//! become a [`ControlPacket`] only in [`super::wrap`], once they are authenticated.

use std::fmt;

use super::error::PacketError;

/// Length of the part of a control packet that is never encrypted: opcode, key_id, session id.
pub const CLEAR_LEN: usize = 9;

/// Most acks one packet can carry.
pub const MAX_ACKS: usize = 8;

/// Acked packet ids in one packet.
pub type AckList = arrayvec::ArrayVec<u32, MAX_ACKS>;

/// The upper 5 bits of a packet's first byte (protocol document §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// Key method 1, dead.
    HardResetClientV1 = 1,
    /// Key method 1, dead.
    HardResetServerV1 = 2,
    /// A new key in the same session.
    SoftResetV1 = 3,
    /// TLS bytes.
    ControlV1 = 4,
    /// Acks only.
    AckV1 = 5,
    /// Data without peer-id.
    DataV1 = 6,
    /// A client's new session.
    HardResetClientV2 = 7,
    /// A server's answer, or its own start in point-to-point mode.
    HardResetServerV2 = 8,
    /// Data with peer-id.
    DataV2 = 9,
    /// A client's new session, wrapped client key appended (tls-crypt-v2).
    HardResetClientV3 = 10,
    /// `ControlV1` with the wrapped client key appended (tls-crypt-v2).
    ControlWkcV1 = 11,
}

impl Opcode {
    /// The opcode with this number; `None` if there is none.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Opcode::HardResetClientV1,
            2 => Opcode::HardResetServerV1,
            3 => Opcode::SoftResetV1,
            4 => Opcode::ControlV1,
            5 => Opcode::AckV1,
            6 => Opcode::DataV1,
            7 => Opcode::HardResetClientV2,
            8 => Opcode::HardResetServerV2,
            9 => Opcode::DataV2,
            10 => Opcode::HardResetClientV3,
            11 => Opcode::ControlWkcV1,
            _ => return None,
        })
    }

    /// The opcode and key_id in a packet's first byte; `None` for an opcode that does not exist.
    pub fn from_first_byte(byte: u8) -> Option<(Self, u8)> {
        Some((Opcode::from_u8(byte >> 3)?, byte & 7))
    }

    /// A packet's first byte. Only the lower 3 bits of `key_id` count.
    pub fn first_byte(self, key_id: u8) -> u8 {
        (self as u8) << 3 | (key_id & 7)
    }

    /// Whether this is a control packet of key method 2.
    pub fn is_control(self) -> bool {
        matches!(
            self,
            Opcode::SoftResetV1
                | Opcode::ControlV1
                | Opcode::AckV1
                | Opcode::HardResetClientV2
                | Opcode::HardResetServerV2
                | Opcode::HardResetClientV3
                | Opcode::ControlWkcV1
        )
    }

    /// Whether this begins a new session.
    pub fn is_hard_reset(self) -> bool {
        matches!(
            self,
            Opcode::HardResetClientV2 | Opcode::HardResetServerV2 | Opcode::HardResetClientV3
        )
    }

    /// Whether a packet carries a packet id, is acked and is retransmitted.
    pub fn is_reliable(self) -> bool {
        self.is_control() && self != Opcode::AckV1
    }

    /// Whether a wrapped client key follows the packet (protocol document §4.4).
    pub fn carries_wkc(self) -> bool {
        matches!(self, Opcode::HardResetClientV3 | Opcode::ControlWkcV1)
    }
}

impl TryFrom<u8> for Opcode {
    type Error = PacketError;

    fn try_from(value: u8) -> Result<Self, PacketError> {
        Opcode::from_u8(value).ok_or(PacketError::BadOpcode)
    }
}

impl From<Opcode> for u8 {
    fn from(opcode: Opcode) -> u8 {
        opcode as u8
    }
}

/// One side's name for a session: 8 random bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 8]);

impl SessionId {
    /// A fresh session id.
    pub fn random(rng: &mut impl rand::RngCore) -> Self {
        let mut id = [0; 8];
        rng.fill_bytes(&mut id);
        if id == [0; 8] {
            // One chance in 2^64, or a broken generator; either way the wire forbids zero.
            id[7] = 1;
        }
        SessionId(id)
    }

    /// Whether this is the invalid all-zero id.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 8]
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// An unwrapped (authenticated) control packet, or one about to be wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPacket<'a> {
    /// A control opcode.
    pub opcode: Opcode,
    /// The key it is about, 0..=7.
    pub key_id: u8,
    /// The sender's session id.
    pub session_id: SessionId,
    /// Packet ids the sender has received.
    pub acks: AckList,
    /// The receiver's session id as the sender knows it; present exactly when there are acks.
    pub remote_session_id: Option<SessionId>,
    /// Present exactly when the opcode is reliable.
    pub packet_id: Option<u32>,
    /// TLS bytes; empty in resets (but see [`parse_early_negotiation`]) and always in ACK_V1.
    pub payload: &'a [u8],
}

/// Opcode, key_id and session id of a control packet that is not authenticated yet.
///
/// `None` for anything that cannot be a control packet of key method 2: too short, data, dead or
/// unknown opcodes, a zero session id.
pub fn peek(datagram: &[u8]) -> Option<(Opcode, u8, SessionId)> {
    parse_clear(datagram).ok()
}

/// As [`peek`], with the reason why not.
///
/// # Errors
/// [`PacketError::Truncated`], [`PacketError::BadOpcode`], [`PacketError::ZeroSessionId`].
pub fn parse_clear(datagram: &[u8]) -> Result<(Opcode, u8, SessionId), PacketError> {
    let (clear, _) = datagram
        .split_first_chunk::<CLEAR_LEN>()
        .ok_or(PacketError::Truncated)?;
    let (opcode, key_id) = Opcode::from_first_byte(clear[0]).ok_or(PacketError::BadOpcode)?;
    if !opcode.is_control() {
        return Err(PacketError::BadOpcode);
    }
    let mut session_id = SessionId([0; 8]);
    session_id.0.copy_from_slice(&clear[1..]);
    if session_id.is_zero() {
        return Err(PacketError::ZeroSessionId);
    }
    Ok((opcode, key_id, session_id))
}

impl<'a> ControlPacket<'a> {
    /// The clear first 9 bytes: opcode, key_id and session id.
    pub fn clear_header(&self) -> [u8; CLEAR_LEN] {
        let mut header = [0; CLEAR_LEN];
        header[0] = self.opcode.first_byte(self.key_id);
        header[1..].copy_from_slice(&self.session_id.0);
        header
    }

    /// Appends everything after the clear header to `out`.
    ///
    /// Acks need `remote_session_id` and reliable opcodes need `packet_id`; it is the caller's
    /// mistake to leave them out, and then acks are left out, or the id is 0.
    pub fn encode_rest(&self, out: &mut Vec<u8>) {
        debug_assert!(self.acks.is_empty() || self.remote_session_id.is_some());
        debug_assert_eq!(self.packet_id.is_some(), self.opcode.is_reliable());
        match self.remote_session_id {
            Some(remote) if !self.acks.is_empty() => {
                out.push(self.acks.len() as u8);
                for ack in &self.acks {
                    out.extend_from_slice(&ack.to_be_bytes());
                }
                out.extend_from_slice(&remote.0);
            }
            _ => out.push(0),
        }
        if self.opcode.is_reliable() {
            out.extend_from_slice(&self.packet_id.unwrap_or(0).to_be_bytes());
            out.extend_from_slice(self.payload);
        }
    }

    /// Parses everything after the clear header; `rest` must be authenticated where there is a
    /// wrapping that authenticates. Bytes after an ACK_V1 are ignored.
    ///
    /// # Errors
    /// [`PacketError::Truncated`], [`PacketError::TooManyAcks`], and [`PacketError::BadOpcode`] for
    /// an opcode that is no control opcode.
    pub fn parse_rest(
        opcode: Opcode,
        key_id: u8,
        session_id: SessionId,
        rest: &'a [u8],
    ) -> Result<Self, PacketError> {
        if !opcode.is_control() {
            return Err(PacketError::BadOpcode);
        }
        let (&count, mut rest) = rest.split_first().ok_or(PacketError::Truncated)?;
        if usize::from(count) > MAX_ACKS {
            return Err(PacketError::TooManyAcks);
        }
        let mut acks = AckList::new();
        for _ in 0..count {
            acks.push(take_u32(&mut rest)?);
        }
        let remote_session_id = match count {
            0 => None,
            _ => Some(SessionId(take::<8>(&mut rest)?)),
        };
        let packet_id = match opcode.is_reliable() {
            true => Some(take_u32(&mut rest)?),
            false => None,
        };
        Ok(ControlPacket {
            opcode,
            key_id,
            session_id,
            acks,
            remote_session_id,
            packet_id,
            payload: if opcode.is_reliable() { rest } else { &[] },
        })
    }
}

/// Flags a server may put into its hard reset to a tls-crypt-v2 client (protocol document §3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EarlyFlags {
    /// The client shall send its packet 1 as CONTROL_WKC_V1, with its wrapped key appended.
    pub resend_wkc: bool,
}

impl EarlyFlags {
    /// Appends these flags as the payload of a server's hard reset.
    pub fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&TLV_FLAGS.to_be_bytes());
        out.extend_from_slice(&2u16.to_be_bytes());
        let flags = if self.resend_wkc { FLAG_RESEND_WKC } else { 0 };
        out.extend_from_slice(&flags.to_be_bytes());
    }
}

/// Parses the TLVs `u16 type, u16 length, value` in the payload of a server's hard reset. Unknown
/// types are skipped; an empty payload has no flags.
///
/// # Errors
/// [`PacketError::BadEarlyNegotiation`] when a TLV is cut, or the flags are not two bytes.
pub fn parse_early_negotiation(payload: &[u8]) -> Result<EarlyFlags, PacketError> {
    let mut flags = EarlyFlags::default();
    let mut rest = payload;
    while !rest.is_empty() {
        let kind = take::<2>(&mut rest).map_err(|_| PacketError::BadEarlyNegotiation)?;
        let len = take::<2>(&mut rest).map_err(|_| PacketError::BadEarlyNegotiation)?;
        let len = usize::from(u16::from_be_bytes(len));
        let (value, after) = rest
            .split_at_checked(len)
            .ok_or(PacketError::BadEarlyNegotiation)?;
        rest = after;
        if u16::from_be_bytes(kind) == TLV_FLAGS {
            let bits: [u8; 2] = value
                .try_into()
                .map_err(|_| PacketError::BadEarlyNegotiation)?;
            flags.resend_wkc |= u16::from_be_bytes(bits) & FLAG_RESEND_WKC != 0;
        }
    }
    Ok(flags)
}

const TLV_FLAGS: u16 = 1;
const FLAG_RESEND_WKC: u16 = 1;

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], PacketError> {
    let (head, after) = rest.split_first_chunk().ok_or(PacketError::Truncated)?;
    *rest = after;
    Ok(*head)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, PacketError> {
    take(rest).map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: SessionId = SessionId(*b"own sid.");
    const PEER: SessionId = SessionId(*b"peer sid");

    fn packet(opcode: Opcode, acks: &[u32], packet_id: Option<u32>) -> ControlPacket<'static> {
        ControlPacket {
            opcode,
            key_id: 0,
            session_id: OWN,
            acks: acks.iter().copied().collect(),
            remote_session_id: (!acks.is_empty()).then_some(PEER),
            packet_id,
            payload: &[],
        }
    }

    fn encode(packet: &ControlPacket) -> Vec<u8> {
        let mut out = packet.clear_header().to_vec();
        packet.encode_rest(&mut out);
        out
    }

    #[test]
    fn sizes_are_those_on_the_wire() {
        let reset = packet(Opcode::HardResetClientV2, &[], Some(0));
        assert_eq!(encode(&reset).len(), 14);
        let answer = packet(Opcode::HardResetServerV2, &[0], Some(0));
        assert_eq!(encode(&answer).len(), 26);
        assert_eq!(encode(&packet(Opcode::AckV1, &[7], None)).len(), 22);
    }

    #[test]
    fn first_bytes() {
        assert_eq!(Opcode::HardResetClientV2.first_byte(0), 0x38);
        assert_eq!(Opcode::SoftResetV1.first_byte(1), 0x19);
        assert_eq!(
            Opcode::from_first_byte(0x27),
            Some((Opcode::ControlV1, 7)),
            "key_id is the lower three bits"
        );
        for value in 0..=255u8 {
            match Opcode::from_u8(value) {
                Some(opcode) => assert_eq!(u8::from(opcode), value),
                None => assert!(!(1..=11).contains(&value)),
            }
        }
    }

    #[test]
    fn published_client_hard_reset() {
        // protocol document §16.2
        let mut reset = packet(Opcode::HardResetClientV2, &[], Some(0));
        reset.session_id = SessionId([0x68, 0x91, 0x92, 0x3f, 0xa3, 0x10, 0x34, 0x37]);
        let wire = [
            0x38, 0x68, 0x91, 0x92, 0x3f, 0xa3, 0x10, 0x34, 0x37, 0, 0, 0, 0, 0,
        ];
        assert_eq!(encode(&reset), wire);
    }

    #[test]
    fn peek_refuses_what_is_no_control_packet() {
        let good = encode(&packet(Opcode::ControlV1, &[], Some(1)));
        assert_eq!(peek(&good), Some((Opcode::ControlV1, 0, OWN)));
        assert_eq!(peek(&good[..8]), None);
        for opcode in [0u8, 1, 2, 6, 9, 12, 31] {
            let mut bad = good.clone();
            bad[0] = opcode << 3;
            assert_eq!(peek(&bad), None, "opcode {opcode}");
        }
        let mut zero = good.clone();
        zero[1..9].fill(0);
        assert_eq!(parse_clear(&zero), Err(PacketError::ZeroSessionId));
    }

    #[test]
    fn nine_acks_are_refused() {
        let mut rest = vec![9];
        rest.extend_from_slice(&[0; 9 * 4 + 8 + 4]);
        let parsed = ControlPacket::parse_rest(Opcode::ControlV1, 0, OWN, &rest);
        assert_eq!(parsed, Err(PacketError::TooManyAcks));
        rest[0] = 8;
        assert!(ControlPacket::parse_rest(Opcode::ControlV1, 0, OWN, &rest).is_ok());
    }

    #[test]
    fn early_negotiation() {
        let mut out = Vec::new();
        EarlyFlags { resend_wkc: true }.encode(&mut out);
        assert_eq!(out, [0, 1, 0, 2, 0, 1]);
        assert_eq!(
            parse_early_negotiation(&out),
            Ok(EarlyFlags { resend_wkc: true })
        );
        assert_eq!(parse_early_negotiation(&[]), Ok(EarlyFlags::default()));
        let unknown_first = [0, 9, 0, 1, 0xff, 0, 1, 0, 2, 0, 1];
        assert_eq!(
            parse_early_negotiation(&unknown_first),
            Ok(EarlyFlags { resend_wkc: true })
        );
        for bad in [&out[..5], &[0, 1, 0, 1, 0][..], &[0][..], &[0, 9, 0, 2, 1]] {
            let parsed = parse_early_negotiation(bad);
            assert_eq!(parsed, Err(PacketError::BadEarlyNegotiation), "{bad:?}");
        }
    }

    fn control_opcodes() -> impl Strategy<Value = Opcode> {
        proptest::sample::select(vec![
            Opcode::SoftResetV1,
            Opcode::ControlV1,
            Opcode::AckV1,
            Opcode::HardResetClientV2,
            Opcode::HardResetServerV2,
            Opcode::HardResetClientV3,
            Opcode::ControlWkcV1,
        ])
    }

    proptest! {
        #[test]
        fn round_trip(
            opcode in control_opcodes(),
            key_id in 0u8..8,
            sid: [u8; 8],
            remote: [u8; 8],
            acks in proptest::collection::vec(any::<u32>(), 0..=8),
            id: u32,
            payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let packet = ControlPacket {
                opcode,
                key_id,
                session_id: SessionId(sid),
                remote_session_id: (!acks.is_empty()).then_some(SessionId(remote)),
                acks: acks.into_iter().collect(),
                packet_id: opcode.is_reliable().then_some(id),
                payload: if opcode.is_reliable() { &payload } else { &[] },
            };
            let mut rest = Vec::new();
            packet.encode_rest(&mut rest);
            let parsed = ControlPacket::parse_rest(opcode, key_id, SessionId(sid), &rest);
            prop_assert_eq!(parsed.as_ref(), Ok(&packet));
            // Every cut before the payload is noticed.
            let fixed = rest.len() - packet.payload.len();
            for len in 0..fixed {
                let cut = ControlPacket::parse_rest(opcode, key_id, SessionId(sid), &rest[..len]);
                prop_assert_eq!(cut, Err(PacketError::Truncated));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some((opcode, key_id, sid)) = peek(&bytes)
                && let Ok(packet) = ControlPacket::parse_rest(opcode, key_id, sid, &bytes[CLEAR_LEN..])
            {
                let again = encode(&packet);
                prop_assert!(bytes.starts_with(&again));
            }
            let _ = parse_early_negotiation(&bytes);
        }
    }
}
