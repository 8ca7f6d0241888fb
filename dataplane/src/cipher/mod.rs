//! Packet formats: sealing in batches, opening one at a time or, for CBC, in batches, always in
//! place.
//!
//! ```text
//!   aead      | header | packet_id 4 | tag 16 | ciphertext ...            |
//!   epoch     | header | epoch 2 | counter 6 | ciphertext ... | tag 16    |
//!   cbc_hmac  | header | HMAC | IV 16 | CBC(packet_id 4, payload, pad)    |
//!   null      | header | HMAC | packet_id 4 | payload                     |
//! ```
//!
//! Each format has a sealing and an opening half with a life of its own; [`crate::key_slot`] adds
//! framing and picks the format. A sealing half takes its packet ids for the whole batch before it
//! touches the first packet. An opening half looks at the replay window first where the id is in
//! the clear, and marks it only after the packet authenticated.

pub(crate) mod aead;
pub(crate) mod cbc_hmac;
pub(crate) mod epoch;
#[allow(unsafe_code)]
pub(crate) mod multi;
pub(crate) mod null;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_192_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305, LessSafeKey, UnboundKey,
};
use aws_lc_rs::hmac;

use crate::error::StartError;
use crate::key_slot::{Cipher, Digest};

/// One packet of a batch: where its datagram starts in the buffer, and how long its inner packet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Offset of the datagram's first byte.
    pub start: usize,
    /// Length of the inner packet in bytes.
    pub len: usize,
}

/// What encrypts and signs AES-CBC with HMAC here, in words for the log. The first call, or the
/// first such key, compares it with known answers.
pub fn cbc_backend() -> &'static str {
    multi::name()
}

/// Length of an AEAD tag.
pub(crate) const TAG_LEN: usize = 16;

/// A key with more failed decryptions than this opens nothing any more (protocol §7.6).
pub(crate) const FAILURE_LIMIT: u64 = 1 << 36;

/// What a payload of this length costs of a key: its 16-byte blocks and one for the packet.
#[inline]
pub(crate) fn usage(payload_len: usize) -> u64 {
    payload_len.div_ceil(16) as u64 + 1
}

/// An AEAD key, or why there cannot be one.
pub(crate) fn aead_key(cipher: Cipher, bytes: &[u8]) -> Result<LessSafeKey, StartError> {
    let algorithm: &'static Algorithm = match cipher {
        Cipher::Aes128Gcm => &AES_128_GCM,
        Cipher::Aes192Gcm => &AES_192_GCM,
        Cipher::Aes256Gcm => &AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc | Cipher::None => {
            return Err(unusable(cipher));
        }
    };
    match UnboundKey::new(algorithm, bytes) {
        Ok(key) => Ok(LessSafeKey::new(key)),
        Err(_) => Err(unusable(cipher)),
    }
}

/// The HMAC key of a digest, from the leading bytes of an hmac slot; `None` for `auth none`.
pub(crate) fn hmac_key(digest: Digest, slot: &[u8; 64]) -> Option<hmac::Key> {
    let algorithm = match digest {
        Digest::None => return None,
        Digest::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Digest::Sha224 => hmac::HMAC_SHA224,
        Digest::Sha256 => hmac::HMAC_SHA256,
        Digest::Sha384 => hmac::HMAC_SHA384,
        Digest::Sha512 => hmac::HMAC_SHA512,
    };
    Some(hmac::Key::new(algorithm, &slot[..digest.len()]))
}

/// The error for a cipher whose key cannot be set up.
pub(crate) fn unusable(cipher: Cipher) -> StartError {
    StartError::Key(format!("cannot set up a key for {}", cipher.name()))
}

/// Reads a 32-bit packet id.
#[inline]
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut id = [0; 4];
    id.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(id)
}
