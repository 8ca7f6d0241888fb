//! Control-channel wrapping: what stands around a control packet on the wire (protocol document §4).
//!
//! A [`Wrap`] belongs to one session: it owns the send counter, the receive replay state and the
//! keys. Only [`Wrap::unwrap`] turns bytes of a datagram into a [`ControlPacket`], so what the session
//! sees is authenticated as far as the wrapping can, and not a replay.
//!
//! ```text
//!  none          | clear header 9 | rest |
//!  tls-auth      | clear header 9 | HMAC | replay id 8 | rest |
//!  tls-crypt     | clear header 9 | replay id 8 | tag 32 | encrypted rest |
//!  tls-crypt-v2  as tls-crypt, with the client's wrapped key after op 10 and 11
//! ```

mod clients;
pub mod replay_id;
pub mod static_key;
pub mod tls_auth;
pub mod tls_crypt;
pub mod tls_crypt_v2;

use std::fmt;
use std::sync::Arc;

use ringway_dataplane::key_slot::Digest;

pub use clients::{ClientWrap, ClientWrapError, ClientWraps, V2Server};
pub use static_key::StaticKey;
pub use tls_auth::usual_direction;

use self::replay_id::{EARLY_NEGOTIATION_START, ReplayId, ReplayIdCounter, ReplayIdWindow};
use self::tls_auth::TlsAuth;
use self::tls_crypt::TlsCrypt;
use super::TlsRole;
use super::error::WrapError;
use super::packet::{CLEAR_LEN, ControlPacket, Opcode, SessionId, parse_clear};

/// The configured wrapping.
#[derive(Clone, Debug)]
pub enum WrapConfig {
    /// No wrapping: packets are not authenticated before TLS.
    None,
    /// `tls-auth`
    TlsAuth {
        /// The key.
        key: StaticKey,
        /// `key-direction`; `None` uses one key both ways.
        direction: Option<u8>,
        /// `auth`; must not be [`Digest::None`].
        digest: Digest,
    },
    /// `tls-crypt`
    TlsCrypt {
        /// The key.
        key: StaticKey,
    },
    /// `tls-crypt-v2` of a client.
    TlsCryptV2Client {
        /// The client's own key.
        key: StaticKey,
        /// The same key wrapped for the server; opaque here.
        wkc: Arc<[u8]>,
    },
    /// `tls-crypt-v2` of a server, with the key one client has brought.
    TlsCryptV2Server {
        /// The client's key.
        key: StaticKey,
    },
}

impl WrapConfig {
    /// The static key that dynamic tls-crypt is mixed with.
    pub fn static_key(&self) -> Option<&StaticKey> {
        match self {
            WrapConfig::None => None,
            WrapConfig::TlsAuth { key, .. }
            | WrapConfig::TlsCrypt { key }
            | WrapConfig::TlsCryptV2Client { key, .. }
            | WrapConfig::TlsCryptV2Server { key } => Some(key),
        }
    }
}

/// Wraps and unwraps the control packets of one session.
pub struct Wrap {
    keys: Keys,
    counter: ReplayIdCounter,
    window: ReplayIdWindow,
    /// Appended to op 10 and 11.
    wkc: Option<Arc<[u8]>>,
    /// Cut from op 10 and 11 of the peer.
    cut_wkc: bool,
    /// The rest of a packet before it is encrypted; kept for its allocation.
    rest: Vec<u8>,
}

/// Expanded keys take kilobytes, and thousands of sessions need none.
enum Keys {
    None,
    Auth(Box<TlsAuth>),
    Crypt(Box<TlsCrypt>),
}

impl Keys {
    fn auth(key: &StaticKey, direction: Option<u8>, digest: Digest) -> Self {
        Keys::Auth(Box::new(TlsAuth::new(key, direction, digest)))
    }

    fn crypt(key: &StaticKey, role: TlsRole) -> Self {
        Keys::Crypt(Box::new(TlsCrypt::new(key, role)))
    }
}

impl Wrap {
    /// The configured wrapping for a new session; `unix` is the time its replay ids carry.
    pub fn new(cfg: &WrapConfig, role: TlsRole, unix: u32) -> Self {
        match cfg {
            WrapConfig::None => Self::with_keys(Keys::None, 0, unix),
            WrapConfig::TlsAuth {
                key,
                direction,
                digest,
            } => Self::with_keys(Keys::auth(key, *direction, *digest), 0, unix),
            WrapConfig::TlsCrypt { key } => Self::with_keys(Keys::crypt(key, role), 0, unix),
            WrapConfig::TlsCryptV2Client { key, wkc } => Wrap {
                wkc: Some(wkc.clone()),
                ..Self::with_keys(Keys::crypt(key, role), EARLY_NEGOTIATION_START, unix)
            },
            WrapConfig::TlsCryptV2Server { key } => Self::tls_crypt_v2_server(key, unix),
        }
    }

    /// The server's side of tls-crypt-v2, with the client's key as unwrapped by
    /// [`tls_crypt_v2::ServerKey::unwrap_packet`].
    pub fn tls_crypt_v2_server(client_key: &StaticKey, unix: u32) -> Self {
        Wrap {
            cut_wkc: true,
            ..Self::with_keys(Keys::crypt(client_key, TlsRole::Server), 0, unix)
        }
    }

    /// Dynamic tls-crypt (§4.5): the wrapping of all keys but the first, from 256 bytes exported
    /// from the first TLS session, mixed with the static key if there is one.
    pub fn dynamic(
        exported: &[u8; 256],
        static_key: Option<&StaticKey>,
        role: TlsRole,
        unix: u32,
    ) -> Self {
        let key = match static_key {
            Some(key) => key.xor(exported),
            None => StaticKey::new(*exported),
        };
        Self::with_keys(Keys::crypt(&key, role), 0, unix)
    }

    fn with_keys(keys: Keys, last_counter: u32, unix: u32) -> Self {
        Wrap {
            keys,
            counter: ReplayIdCounter::new(last_counter, unix),
            window: ReplayIdWindow::new(),
            wkc: None,
            cut_wkc: false,
            rest: Vec::new(),
        }
    }

    /// Lets the next packet carry counter `last + 1`: a server that has answered statelessly has
    /// used 1 already (§3).
    pub fn continue_after(mut self, last: u32) -> Self {
        let time = self.counter.take().time;
        self.counter = ReplayIdCounter::new(last, time);
        self
    }

    /// Counts this id, which [`Wrap::unwrap_stateless`] gave out, as seen.
    pub fn mark_seen(&mut self, id: ReplayId) {
        self.window.accept(id);
    }

    /// Bytes wrapping adds to a packet, without the wrapped client key.
    pub fn overhead(&self) -> usize {
        match &self.keys {
            Keys::None => 0,
            Keys::Auth(keys) => keys.overhead(),
            Keys::Crypt(_) => tls_crypt::OVERHEAD,
        }
    }

    /// Bytes of the wrapped client key that follow op 10 and 11; 0 without tls-crypt-v2.
    pub fn wkc_len(&self) -> usize {
        self.wkc.as_ref().map_or(0, |wkc| wkc.len())
    }

    /// Goes on with what `other` has received; what was sent stays sent.
    pub fn adopt_window(&mut self, other: Wrap) {
        self.window = other.window;
    }

    /// Whether packets are authenticated at all.
    pub fn authenticates(&self) -> bool {
        !matches!(self.keys, Keys::None)
    }

    /// Tells the time in unix seconds, for the age limit of the replay window. Optional; without it
    /// the window works by number alone.
    pub fn set_clock(&mut self, unix: u32) {
        self.window.set_clock(unix);
    }

    /// Appends a complete datagram to `out`, with a new replay id. Op 10 and 11 get the wrapped
    /// client key of tls-crypt-v2 after them.
    pub fn wrap(&mut self, pkt: &ControlPacket, out: &mut Vec<u8>) {
        let clear = pkt.clear_header();
        self.rest.clear();
        pkt.encode_rest(&mut self.rest);
        match &self.keys {
            Keys::None => {
                out.extend_from_slice(&clear);
                out.extend_from_slice(&self.rest);
            }
            Keys::Auth(keys) => keys.seal(&clear, self.counter.take(), &self.rest, out),
            Keys::Crypt(keys) => keys.seal(&clear, self.counter.take(), &self.rest, out),
        }
        if let Some(wkc) = &self.wkc
            && pkt.opcode.carries_wkc()
        {
            out.extend_from_slice(wkc);
        }
    }

    /// Authenticates a datagram, decrypting it in place, and parses it. Its replay id counts as seen
    /// once it has authenticated. If it does not authenticate or is a replay, the datagram is left as
    /// it was and may be tried with another session's wrapping.
    ///
    /// # Errors
    /// [`WrapError`]: drop the packet.
    pub fn unwrap<'a>(&mut self, datagram: &'a mut [u8]) -> Result<ControlPacket<'a>, WrapError> {
        let opened = self.open(datagram)?;
        if let Some(id) = opened.replay_id
            && !self.window.accept(id)
        {
            if let Keys::Crypt(keys) = &self.keys {
                keys.close(&mut datagram[..opened.end]);
            }
            return Err(WrapError::Replay);
        }
        opened.parse(datagram)
    }

    /// As [`Wrap::unwrap`], without looking at or changing replay state: for a server's first
    /// packets, for which there is no session yet (§3). Also returns the replay id, if the wrapping
    /// has one.
    ///
    /// # Errors
    /// [`WrapError`], but never [`WrapError::Replay`].
    pub fn unwrap_stateless<'a>(
        &self,
        datagram: &'a mut [u8],
    ) -> Result<(ControlPacket<'a>, Option<ReplayId>), WrapError> {
        let opened = self.open(datagram)?;
        let id = opened.replay_id;
        Ok((opened.parse(datagram)?, id))
    }

    fn open(&self, datagram: &mut [u8]) -> Result<Opened, WrapError> {
        let (opcode, key_id, session_id) = parse_clear(datagram)?;
        let end = match self.cut_wkc && opcode.carries_wkc() {
            true => tls_crypt_v2::split_wkc(datagram)?.0.len(),
            false => datagram.len(),
        };
        let (replay_id, start) = match &self.keys {
            Keys::None => (None, CLEAR_LEN),
            Keys::Auth(keys) => {
                let (id, start) = keys.open(&datagram[..end])?;
                (Some(id), start)
            }
            Keys::Crypt(keys) => {
                let (id, start) = keys.open(&mut datagram[..end])?;
                (Some(id), start)
            }
        };
        Ok(Opened {
            opcode,
            key_id,
            session_id,
            replay_id,
            start,
            end,
        })
    }
}

impl fmt::Debug for Wrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.keys {
            Keys::None => "none",
            Keys::Auth(_) => "tls-auth",
            Keys::Crypt(_) => "tls-crypt",
        };
        f.debug_struct("Wrap")
            .field("kind", &kind)
            .field("counter", &self.counter)
            .finish_non_exhaustive()
    }
}

/// A datagram that has authenticated.
struct Opened {
    opcode: Opcode,
    key_id: u8,
    session_id: SessionId,
    replay_id: Option<ReplayId>,
    /// Where the decrypted rest begins and ends in the datagram.
    start: usize,
    end: usize,
}

impl Opened {
    fn parse(self, datagram: &[u8]) -> Result<ControlPacket<'_>, WrapError> {
        let rest = &datagram[self.start..self.end];
        let packet = ControlPacket::parse_rest(self.opcode, self.key_id, self.session_id, rest)?;
        Ok(packet)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::proto::packet::AckList;
    use proptest::prelude::*;

    /// The published static key (protocol document §16.2).
    const KEY_S: &str = "\
        37268ea8f95d7f71f9fb8fc03770c460daf714a483d815c013ce0a537efc18f2\
        8f4f172669d9e6a413bac6741d8ea05400f49b7fd6326470f23798c606bf53d4\
        de63ebc64ec59d57ce5d04d5b62e68b53ca6e5354351097fa370446c4d269f18\
        7bb6ae54af2dc70ff7317fe2f8754b8282aad4202f9fa42c8640245d883e2c54\
        a0c1c489a036cf3a8964d8d289c1583b9447c262b1da5fd167a5d27bd5ac5143\
        17bc2343a31a2efc38dd920d910375f51c2e27f3afd36c49269da079f7ce466e\
        bb0f9ad13e9bbb4665974e6bc24b513c5700393bf4a3e7f967e2f384069ac8a8\
        e78b18b15604993fd16515cce9c0f3e42b4126b999005ade802797b0eeb8b9e6";

    pub(crate) fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text
            .chars()
            .filter(|ch| !ch.is_whitespace())
            .map(|ch| ch.to_digit(16).expect("hexadecimal") as u8)
            .collect();
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()
    }

    pub(crate) fn static_key_s() -> StaticKey {
        StaticKey::new(hex(KEY_S).try_into().expect("256 bytes"))
    }

    fn client_reset(sid: &str) -> ControlPacket<'static> {
        ControlPacket {
            opcode: Opcode::HardResetClientV2,
            key_id: 0,
            session_id: SessionId(hex(sid).try_into().expect("8 bytes")),
            acks: AckList::new(),
            remote_session_id: None,
            packet_id: Some(0),
            payload: &[],
        }
    }

    fn tls_auth(direction: Option<u8>, digest: Digest) -> WrapConfig {
        WrapConfig::TlsAuth {
            key: static_key_s(),
            direction,
            digest,
        }
    }

    fn tls_crypt() -> WrapConfig {
        WrapConfig::TlsCrypt {
            key: static_key_s(),
        }
    }

    #[test]
    fn published_packets() {
        // protocol document §16.2
        let cases = [
            (
                WrapConfig::None,
                WrapConfig::None,
                0,
                "6891923fa3103437",
                "386891923fa31034370000000000",
            ),
            (
                tls_auth(Some(1), Digest::Sha1),
                tls_auth(Some(0), Digest::Sha1),
                0x61d3_bf6c,
                "de694c5c7bfba274",
                "38de694c5c7bfba27493537c1ded4e781529ae7cfe4b8c6d6b2b51f05a\
                 0000000161d3bf6c0000000000",
            ),
            (
                tls_crypt(),
                tls_crypt(),
                0x61d3_f8e1,
                "f419cb12d1f9e48f",
                "38f419cb12d1f9e48f0000000161d3f8e1330206f56802be44fbed905064e3db43\
                 416bec5e526719462b7eb90c96defc9b05c44879f7",
            ),
        ];
        for (client, server, unix, sid, wire) in cases {
            let reset = client_reset(sid);
            let mut datagram = Vec::new();
            let mut client = Wrap::new(&client, TlsRole::Client, unix);
            client.wrap(&reset, &mut datagram);
            assert_eq!(datagram, hex(wire));
            assert_eq!(datagram.len(), 14 + client.overhead());
            let mut server = Wrap::new(&server, TlsRole::Server, 1);
            assert_eq!(server.unwrap(&mut datagram), Ok(reset));
        }
    }

    #[test]
    fn published_dynamic_tls_crypt() {
        // protocol document §16.3: an empty clear header, so one level below `Wrap`.
        let key = StaticKey::new([0xba; 256]);
        let keys = TlsCrypt::new(&key, TlsRole::Server);
        let id = ReplayId {
            counter: 1,
            time: 0,
        };
        let mut out = Vec::new();
        keys.seal(&[], id, b"1234567890", &mut out);
        let expected = "0000000100000000 \
            e319277f1c8d6e6a7796a855337b9cfb56e1f13a870e6647dfa195c92c17a015 \
            ba4967a11d55ea1a06a7";
        assert_eq!(out, hex(expected));
    }

    #[test]
    fn dynamic_wraps_meet_and_depend_on_both_keys() {
        let exported = [7; 256];
        let key = static_key_s();
        let reset = client_reset("0102030405060708");
        let mut datagram = Vec::new();
        let mut client = Wrap::dynamic(&exported, Some(&key), TlsRole::Client, 5);
        client.wrap(&reset, &mut datagram);
        assert_eq!(datagram[9..17], [0, 0, 0, 1, 0, 0, 0, 5]);
        for (other_export, other_key) in [([8; 256], Some(&key)), ([7; 256], None)] {
            let mut server = Wrap::dynamic(&other_export, other_key, TlsRole::Server, 5);
            assert_eq!(server.unwrap(&mut datagram), Err(WrapError::AuthFailed));
        }
        let mut server = Wrap::dynamic(&exported, Some(&key), TlsRole::Server, 5);
        assert_eq!(server.unwrap(&mut datagram), Ok(reset));
    }

    #[test]
    fn every_digest_and_direction_meets_its_counterpart() {
        let digests = [
            Digest::Sha1,
            Digest::Sha224,
            Digest::Sha256,
            Digest::Sha384,
            Digest::Sha512,
        ];
        for digest in digests {
            for (ours, theirs) in [(None, None), (Some(0), Some(1)), (Some(1), Some(0))] {
                let mut us = Wrap::new(&tls_auth(ours, digest), TlsRole::Client, 1);
                let mut them = Wrap::new(&tls_auth(theirs, digest), TlsRole::Server, 1);
                let reset = client_reset("0102030405060708");
                let mut datagram = Vec::new();
                us.wrap(&reset, &mut datagram);
                assert_eq!(them.unwrap(&mut datagram), Ok(reset));
            }
            let mut us = Wrap::new(&tls_auth(Some(0), digest), TlsRole::Client, 1);
            let mut same = Wrap::new(&tls_auth(Some(0), digest), TlsRole::Server, 1);
            let mut datagram = Vec::new();
            us.wrap(&client_reset("0102030405060708"), &mut datagram);
            assert_eq!(same.unwrap(&mut datagram), Err(WrapError::AuthFailed));
        }
    }

    #[test]
    fn replays_are_refused_and_leave_the_datagram_alone() {
        for cfg in [tls_auth(None, Digest::Sha256), tls_crypt()] {
            let mut client = Wrap::new(&cfg, TlsRole::Client, 1);
            let mut server = Wrap::new(&cfg, TlsRole::Server, 1);
            let mut datagram = Vec::new();
            client.wrap(&client_reset("0102030405060708"), &mut datagram);
            let wire = datagram.clone();
            assert!(server.unwrap(&mut datagram).is_ok());
            datagram.clone_from(&wire);
            assert_eq!(server.unwrap(&mut datagram), Err(WrapError::Replay));
            assert_eq!(datagram, wire);
            assert!(server.unwrap_stateless(&mut datagram).is_ok());
        }
    }

    #[test]
    fn unauthenticated_packets_do_not_move_the_replay_window() {
        let cfg = tls_crypt();
        let mut client = Wrap::new(&cfg, TlsRole::Client, 1);
        let mut server = Wrap::new(&cfg, TlsRole::Server, 1);
        let mut datagram = Vec::new();
        client.wrap(&client_reset("0102030405060708"), &mut datagram);
        let mut forged = datagram.clone();
        forged[9..17].fill(0xff);
        assert_eq!(server.unwrap(&mut forged), Err(WrapError::AuthFailed));
        assert!(server.unwrap(&mut datagram).is_ok());
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let packet = ControlPacket {
            payload: b"ClientHello",
            acks: [3, 4].into_iter().collect(),
            remote_session_id: Some(SessionId(*b"12345678")),
            opcode: Opcode::ControlV1,
            packet_id: Some(1),
            ..client_reset("0102030405060708")
        };
        for cfg in [tls_auth(None, Digest::Sha1), tls_crypt()] {
            let mut client = Wrap::new(&cfg, TlsRole::Client, 1);
            let mut server = Wrap::new(&cfg, TlsRole::Server, 1);
            let mut wire = Vec::new();
            client.wrap(&packet, &mut wire);
            for at in 0..wire.len() {
                for bit in 0..8 {
                    let mut bad = wire.clone();
                    bad[at] ^= 1 << bit;
                    let before = bad.clone();
                    assert!(server.unwrap(&mut bad).is_err(), "byte {at} bit {bit}");
                    assert_eq!(bad, before);
                }
                assert!(server.unwrap(&mut wire.clone()[..at]).is_err(), "cut {at}");
            }
            assert_eq!(server.unwrap(&mut wire), Ok(packet.clone()));
        }
    }

    #[test]
    fn continuing_after_a_stateless_answer() {
        let mut server = Wrap::new(&tls_crypt(), TlsRole::Server, 77).continue_after(1);
        let mut datagram = Vec::new();
        server.wrap(&client_reset("0102030405060708"), &mut datagram);
        assert_eq!(datagram[9..17], [0, 0, 0, 2, 0, 0, 0, 77]);
    }

    proptest! {
        #[test]
        fn round_trip(
            kind in 0..4,
            client_sends: bool,
            key_id in 0u8..8,
            id: u32,
            acks in proptest::collection::vec(any::<u32>(), 0..=8),
            payload in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let cfg = |direction| match kind {
                0 => WrapConfig::None,
                1 => tls_auth(None, Digest::Sha512),
                2 => tls_auth(Some(direction), Digest::Sha256),
                _ => tls_crypt(),
            };
            let mut client = Wrap::new(&cfg(1), TlsRole::Client, 1);
            let mut server = Wrap::new(&cfg(0), TlsRole::Server, 1);
            let (from, to) = match client_sends {
                true => (&mut client, &mut server),
                false => (&mut server, &mut client),
            };
            let packet = ControlPacket {
                opcode: Opcode::ControlV1,
                key_id,
                session_id: SessionId([9; 8]),
                remote_session_id: (!acks.is_empty()).then_some(SessionId([5; 8])),
                acks: acks.into_iter().collect(),
                packet_id: Some(id),
                payload: &payload,
            };
            let mut datagram = Vec::new();
            from.wrap(&packet, &mut datagram);
            prop_assert_eq!(to.unwrap(&mut datagram), Ok(packet));
        }

        #[test]
        fn arbitrary_datagrams_never_panic(
            mut datagram in proptest::collection::vec(any::<u8>(), 0..120),
            opcode in 3u8..12,
        ) {
            if let Some(first) = datagram.first_mut() {
                *first = opcode << 3;
            }
            let _ = Wrap::new(&WrapConfig::None, TlsRole::Server, 1).unwrap(&mut datagram);
            for cfg in [tls_auth(None, Digest::Sha1), tls_crypt()] {
                prop_assert!(Wrap::new(&cfg, TlsRole::Server, 1).unwrap(&mut datagram).is_err());
            }
            let mut v2 = Wrap::tls_crypt_v2_server(&static_key_s(), 1);
            prop_assert!(v2.unwrap(&mut datagram).is_err());
        }
    }
}
