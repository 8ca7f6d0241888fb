//! tls-crypt-v2: a tls-crypt key for each client, which brings it to the server wrapped with the
//! server's key (protocol document §4.4).
//!
//! ```text
//!  WKc = T 32 | AES-256-CTR(Ke, T[0..16), Kc 256 | M) | len 2         M = type 1 | data
//!  T   = HMAC-SHA256(Ka, len | Kc | M)                len counts all of WKc
//! ```
//! To a client WKc is opaque; it is sent in clear after the packets that carry it.

use std::sync::Arc;

use aws_lc_rs::constant_time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::static_key::{StaticKey, armored};
use super::tls_crypt::{CtrHmac, TAG_LEN};
use crate::proto::error::{KeyFileError, WrapError};
use crate::proto::packet::CLEAR_LEN;

/// Longest wrapped client key.
pub const MAX_WKC_LEN: usize = 1024;
/// Longest metadata: its type and data.
pub const MAX_METADATA_LEN: usize = MAX_WKC_LEN - TAG_LEN - 256 - 2;

const CLIENT_LABEL: &str = "OpenVPN tls-crypt-v2 client key";
const SERVER_LABEL: &str = "OpenVPN tls-crypt-v2 server key";

/// What a wrapped client key says about itself besides the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// Given by whoever made the key; for `tls-crypt-v2-verify`.
    User(Vec<u8>),
    /// When the key was made, in unix seconds.
    Created(u64),
    /// A type not known here, with its data.
    Other(u8, Vec<u8>),
}

impl Metadata {
    /// The type as it stands on the wire.
    pub fn kind(&self) -> u8 {
        match self {
            Metadata::User(_) => 0,
            Metadata::Created(_) => 1,
            Metadata::Other(kind, _) => *kind,
        }
    }

    /// The data as it stands on the wire.
    pub fn data(&self) -> Vec<u8> {
        match self {
            Metadata::User(data) | Metadata::Other(_, data) => data.clone(),
            Metadata::Created(unix) => unix.to_be_bytes().to_vec(),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (&kind, data) = bytes.split_first()?;
        Some(match (kind, <[u8; 8]>::try_from(data)) {
            (0, _) => Metadata::User(data.to_vec()),
            (1, Ok(unix)) => Metadata::Created(u64::from_be_bytes(unix)),
            _ => Metadata::Other(kind, data.to_vec()),
        })
    }
}

/// A client's key file: its key, and the same key wrapped for the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientKey {
    /// The key.
    pub key: StaticKey,
    /// The wrapped key.
    pub wkc: Arc<[u8]>,
}

impl ClientKey {
    /// Parses a client key file.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let bytes = base64_body(text, CLIENT_LABEL)?;
        let least = 256 + TAG_LEN + 256 + 1 + 2;
        let (key, wkc) = match bytes.split_first_chunk::<256>() {
            Some(parts) if bytes.len() >= least && bytes.len() <= 256 + MAX_WKC_LEN => parts,
            _ => {
                return Err(KeyFileError::BadLength {
                    found: bytes.len(),
                    expected: least,
                });
            }
        };
        let stated = wkc.last_chunk::<2>().map(|len| u16::from_be_bytes(*len));
        if stated.map(usize::from) != Some(wkc.len()) {
            return Err(KeyFileError::BadWrappedKey);
        }
        Ok(ClientKey {
            key: StaticKey::new(*key),
            wkc: wkc.into(),
        })
    }

    /// The key as a file.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(self.key.as_bytes().to_vec());
        bytes.extend_from_slice(&self.wkc);
        to_pem(&bytes, CLIENT_LABEL)
    }
}

/// A server's key file: what client keys are wrapped with.
#[derive(Clone, ZeroizeOnDrop)]
pub struct ServerKey([u8; 128]);

impl ServerKey {
    /// The key with these bytes.
    pub fn new(bytes: [u8; 128]) -> Self {
        ServerKey(bytes)
    }

    /// A new key.
    pub fn generate(rng: &mut impl rand::CryptoRng) -> Self {
        let mut key = ServerKey([0; 128]);
        rng.fill_bytes(&mut key.0);
        key
    }

    /// Parses a server key file.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let bytes = base64_body(text, SERVER_LABEL)?;
        match <[u8; 128]>::try_from(bytes.as_slice()) {
            Ok(key) => Ok(ServerKey(key)),
            Err(_) => Err(KeyFileError::BadLength {
                found: bytes.len(),
                expected: 128,
            }),
        }
    }

    /// The key as a file.
    pub fn to_text(&self) -> Zeroizing<String> {
        to_pem(&self.0, SERVER_LABEL)
    }

    /// Wraps a client's key.
    ///
    /// # Errors
    /// [`KeyFileError::BadLength`] when the metadata is too long.
    pub fn wrap_client_key(
        &self,
        key: &StaticKey,
        metadata: &Metadata,
    ) -> Result<Arc<[u8]>, KeyFileError> {
        let data = metadata.data();
        if data.len() + 1 > MAX_METADATA_LEN {
            return Err(KeyFileError::BadLength {
                found: data.len() + 1,
                expected: MAX_METADATA_LEN,
            });
        }
        let mut plain = Zeroizing::new(key.as_bytes().to_vec());
        plain.push(metadata.kind());
        plain.extend_from_slice(&data);
        let len = ((TAG_LEN + plain.len() + 2) as u16).to_be_bytes();
        let keys = self.keys();
        let tag = keys.tag(&[&len, &plain]);
        keys.apply(&tag, &mut plain);
        let mut wkc = tag.to_vec();
        wkc.extend_from_slice(&plain);
        wkc.extend_from_slice(&len);
        Ok(wkc.into())
    }

    /// Unwraps a client's key.
    ///
    /// # Errors
    /// [`WrapError::BadClientKey`] when it is not well formed, [`WrapError::AuthFailed`] when it was
    /// not wrapped with this key.
    pub fn unwrap_client_key(&self, wkc: &[u8]) -> Result<(StaticKey, Metadata), WrapError> {
        if wkc.len() > MAX_WKC_LEN {
            return Err(WrapError::BadClientKey);
        }
        let (body, len) = wkc.split_last_chunk::<2>().ok_or(WrapError::BadClientKey)?;
        let (tag, sealed) = body
            .split_first_chunk::<TAG_LEN>()
            .ok_or(WrapError::BadClientKey)?;
        if sealed.len() < 256 || usize::from(u16::from_be_bytes(*len)) != wkc.len() {
            return Err(WrapError::BadClientKey);
        }
        let mut plain = Zeroizing::new(sealed.to_vec());
        let keys = self.keys();
        keys.apply(tag, &mut plain);
        let expected = keys.tag(&[len, &plain]);
        constant_time::verify_slices_are_equal(&expected, tag)
            .map_err(|_| WrapError::AuthFailed)?;
        let (key, metadata) = plain
            .split_first_chunk::<256>()
            .ok_or(WrapError::BadClientKey)?;
        let metadata = Metadata::parse(metadata).ok_or(WrapError::BadClientKey)?;
        Ok((StaticKey::new(*key), metadata))
    }

    /// Unwraps the client's key after an op 10 or 11 packet. The packet itself, wrapping included,
    /// is still to be opened with [`super::Wrap::tls_crypt_v2_server`].
    ///
    /// # Errors
    /// As [`ServerKey::unwrap_client_key`].
    pub fn unwrap_packet(&self, datagram: &[u8]) -> Result<(StaticKey, Metadata), WrapError> {
        let (_, wkc) = split_wkc(datagram)?;
        self.unwrap_client_key(wkc)
    }

    fn keys(&self) -> CtrHmac {
        CtrHmac::new(&self.0[..64], &self.0[64..])
    }
}

impl std::fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerKey")
    }
}

/// Cuts an op 10 or 11 datagram into the wrapped packet and the wrapped client key after it.
///
/// # Errors
/// [`WrapError::BadClientKey`] when the length at the end is impossible.
pub fn split_wkc(datagram: &[u8]) -> Result<(&[u8], &[u8]), WrapError> {
    let len = datagram.last_chunk::<2>().ok_or(WrapError::BadClientKey)?;
    let len = usize::from(u16::from_be_bytes(*len));
    match datagram.len().checked_sub(len) {
        Some(at) if at >= CLEAR_LEN && len > 2 && len <= MAX_WKC_LEN => Ok(datagram.split_at(at)),
        _ => Err(WrapError::BadClientKey),
    }
}

pub(crate) fn base64_body(
    text: &str,
    label: &'static str,
) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let body = armored(text, label)?;
    let packed: Zeroizing<String> = Zeroizing::new(
        body.chars()
            .filter(|ch| !ch.is_ascii_whitespace())
            .collect(),
    );
    STANDARD
        .decode(packed.as_bytes())
        .map(Zeroizing::new)
        .map_err(|_| KeyFileError::BadCharacter("base64"))
}

fn to_pem(bytes: &[u8], label: &str) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(bytes));
    let mut text = Zeroizing::new(String::with_capacity(body.len() * 2));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for (n, ch) in body.chars().enumerate() {
        if n > 0 && n % 64 == 0 {
            text.push('\n');
        }
        text.push(ch);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::TlsRole;
    use crate::proto::packet::{AckList, ControlPacket, Opcode, SessionId};
    use crate::proto::wrap::tests::hex;
    use crate::proto::wrap::{Wrap, WrapConfig};
    use proptest::prelude::*;

    fn server_key() -> ServerKey {
        ServerKey::new(std::array::from_fn(|n| n as u8))
    }

    fn client_key() -> ClientKey {
        let key = StaticKey::new(std::array::from_fn(|n| n as u8));
        let wkc = server_key()
            .wrap_client_key(&key, &Metadata::Created(0))
            .expect("short metadata");
        ClientKey { key, wkc }
    }

    fn packet(opcode: Opcode) -> ControlPacket<'static> {
        ControlPacket {
            opcode,
            key_id: 0,
            session_id: SessionId(*b"session1"),
            acks: AckList::new(),
            remote_session_id: None,
            packet_id: Some(0),
            payload: &[],
        }
    }

    #[test]
    fn published_wrapped_key() {
        // protocol document §16.4
        let wkc = client_key().wkc;
        assert_eq!(wkc.len(), 299);
        assert_eq!(wkc[297..], [0x01, 0x2b]);
        let tag = "177da5c074a94619b16be4acb71f1a6ccf24f33c6bbaf498459d5f06c369d495";
        assert_eq!(wkc[..32], hex(tag));
        assert_eq!(wkc[32..48], hex("2c78396efd93c2598f4771e068cafca3"));
        assert_eq!(wkc[291..], hex("14df11acb31e012b"));
    }

    #[test]
    fn unwraps_what_it_wrapped() {
        let client = client_key();
        let (key, metadata) = server_key()
            .unwrap_client_key(&client.wkc)
            .expect("genuine");
        assert_eq!(key, client.key);
        assert_eq!(metadata, Metadata::Created(0));
        let longest = Metadata::User(vec![b'x'; MAX_METADATA_LEN - 1]);
        let wkc = server_key()
            .wrap_client_key(&client.key, &longest)
            .expect("just fits");
        assert_eq!(wkc.len(), MAX_WKC_LEN);
        let unwrapped = server_key().unwrap_client_key(&wkc);
        assert_eq!(unwrapped, Ok((client.key.clone(), longest)));
        let longer = Metadata::User(vec![b'x'; MAX_METADATA_LEN]);
        assert!(server_key().wrap_client_key(&client.key, &longer).is_err());
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let wkc = client_key().wkc;
        for at in 0..wkc.len() {
            let mut bad = wkc.to_vec();
            bad[at] ^= 0x40;
            assert!(server_key().unwrap_client_key(&bad).is_err(), "byte {at}");
            assert!(server_key().unwrap_client_key(&wkc[..at]).is_err());
        }
        let other = ServerKey::new([9; 128]);
        assert_eq!(other.unwrap_client_key(&wkc), Err(WrapError::AuthFailed));
    }

    #[test]
    fn key_files_round_trip() {
        let client = client_key();
        assert_eq!(ClientKey::parse(&client.to_text()), Ok(client.clone()));
        let server = ServerKey::parse(&server_key().to_text()).expect("own text");
        assert_eq!(server.0, server_key().0);
        assert!(client.to_text().lines().all(|line| line.len() <= 64));
        assert_eq!(
            ClientKey::parse(&server.to_text()),
            Err(KeyFileError::NoBegin(CLIENT_LABEL))
        );
        let mut damaged = client;
        damaged.wkc = damaged.wkc[..298].into();
        assert_eq!(
            ClientKey::parse(&damaged.to_text()),
            Err(KeyFileError::BadWrappedKey)
        );
    }

    #[test]
    fn a_client_reaches_a_server() {
        let client = client_key();
        let cfg = WrapConfig::TlsCryptV2Client {
            key: client.key.clone(),
            wkc: client.wkc.clone(),
        };
        let mut ours = Wrap::new(&cfg, TlsRole::Client, 5);
        assert_eq!(ours.wkc_len(), 299);
        let mut datagram = Vec::new();
        ours.wrap(&packet(Opcode::HardResetClientV3), &mut datagram);
        assert_eq!(datagram.len(), 54 + 299);
        assert_eq!(datagram[9..13], hex("0f000001"), "early negotiation");

        let (key, _) = server_key().unwrap_packet(&datagram).expect("genuine");
        let mut theirs = Wrap::tls_crypt_v2_server(&key, 5);
        let (reset, id) = theirs
            .unwrap_stateless(&mut datagram.clone())
            .map(|(packet, id)| (packet.opcode, id))
            .expect("genuine");
        assert_eq!(reset, Opcode::HardResetClientV3);
        assert!(id.expect("tls-crypt has one").offers_early_negotiation());
        let reset = theirs.unwrap(&mut datagram);
        assert_eq!(reset, Ok(packet(Opcode::HardResetClientV3)));

        datagram.clear();
        let hello = ControlPacket {
            payload: b"hello",
            ..packet(Opcode::ControlWkcV1)
        };
        ours.wrap(&hello, &mut datagram);
        assert_eq!(datagram[9..13], hex("0f000002"));
        assert_eq!(theirs.unwrap(&mut datagram), Ok(hello));

        datagram.clear();
        ours.wrap(&packet(Opcode::ControlV1), &mut datagram);
        assert_eq!(datagram.len(), 54, "no key after other packets");
        assert!(theirs.unwrap(&mut datagram).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_wrapped_keys_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..1200),
            fix_len: bool,
        ) {
            if let (true, Some(at)) = (fix_len, bytes.len().checked_sub(2)) {
                let len = (bytes.len() as u16).to_be_bytes();
                bytes[at..].copy_from_slice(&len);
            }
            prop_assert!(server_key().unwrap_client_key(&bytes).is_err());
            prop_assert!(server_key().unwrap_packet(&bytes).is_err());
        }

        #[test]
        fn arbitrary_key_files_never_panic(text: String) {
            let framed = format!("-----BEGIN {CLIENT_LABEL}-----{text}-----END {CLIENT_LABEL}-----");
            prop_assert!(ClientKey::parse(&framed).is_err());
        }
    }
}
