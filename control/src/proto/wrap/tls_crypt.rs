//! tls-crypt: control packets encrypted and authenticated with one static key (protocol document
//! §4.3). tls-crypt-v2 and dynamic tls-crypt use the same format with other keys.
//!
//! ```text
//!  | op/key_id 1 | sid 8 | counter 4 | time 4 | tag 32 | AES-256-CTR(Ke, iv = tag[0..16), rest) |
//!  |<------------- header --------------------->|        tag = HMAC-SHA256(Ka, header | rest)
//! ```

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{constant_time, hmac};

use super::replay_id::ReplayId;
use super::static_key::StaticKey;
use crate::proto::TlsRole;
use crate::proto::error::WrapError;
use crate::proto::packet::CLEAR_LEN;

/// Length of a tag.
pub(super) const TAG_LEN: usize = 32;

/// Bytes added to a control packet.
pub(super) const OVERHEAD: usize = ReplayId::LEN + TAG_LEN;

/// The keys of both directions.
pub(super) struct TlsCrypt {
    send: CtrHmac,
    recv: CtrHmac,
}

impl TlsCrypt {
    /// A TLS server sends with the first key, a TLS client with the second.
    pub(super) fn new(key: &StaticKey, role: TlsRole) -> Self {
        let (send, recv) = match role {
            TlsRole::Server => (0, 1),
            TlsRole::Client => (1, 0),
        };
        let slot = |index| CtrHmac::new(key.cipher_slot(index), key.hmac_slot(index));
        TlsCrypt {
            send: slot(send),
            recv: slot(recv),
        }
    }

    /// Appends the wrapped packet to `out`.
    pub(super) fn seal(&self, clear: &[u8], id: ReplayId, rest: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(clear);
        out.extend_from_slice(&id.to_bytes());
        let tag = self.send.tag(&[&out[start..], rest]);
        out.extend_from_slice(&tag);
        let body = out.len();
        out.extend_from_slice(rest);
        self.send.apply(&tag, &mut out[body..]);
    }

    /// Decrypts a datagram in place, checks it, and returns its replay id and where the rest begins.
    /// On failure the datagram is as it was.
    pub(super) fn open(&self, datagram: &mut [u8]) -> Result<(ReplayId, usize), WrapError> {
        let header_len = CLEAR_LEN + ReplayId::LEN;
        let (header, after) = datagram
            .split_at_mut_checked(header_len)
            .ok_or(WrapError::Truncated)?;
        let (tag, rest) = after
            .split_first_chunk_mut::<TAG_LEN>()
            .ok_or(WrapError::Truncated)?;
        self.recv.apply(tag, rest);
        let expected = self.recv.tag(&[header, rest]);
        if constant_time::verify_slices_are_equal(&expected, tag).is_err() {
            self.recv.apply(tag, rest);
            return Err(WrapError::AuthFailed);
        }
        let mut id = [0; ReplayId::LEN];
        id.copy_from_slice(&header[CLEAR_LEN..]);
        Ok((ReplayId::from_bytes(id), header_len + TAG_LEN))
    }

    /// Undoes the decryption of [`TlsCrypt::open`].
    pub(super) fn close(&self, datagram: &mut [u8]) {
        let (_, after) = datagram.split_at_mut(CLEAR_LEN + ReplayId::LEN);
        if let Some((tag, rest)) = after.split_first_chunk_mut::<TAG_LEN>() {
            self.recv.apply(tag, rest);
        }
    }
}

/// AES-256-CTR whose IV is an HMAC-SHA256 of the plaintext: a repeated IV means a repeated message.
pub(super) struct CtrHmac {
    cipher: EncryptingKey,
    mac: hmac::Key,
}

impl CtrHmac {
    /// Takes the first 32 bytes of each slot.
    pub(super) fn new(cipher_slot: &[u8], hmac_slot: &[u8]) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "fails only for a key that is not 32 bytes long"
        )]
        let cipher = UnboundCipherKey::new(&AES_256, &cipher_slot[..32])
            .and_then(EncryptingKey::ctr)
            .expect("an AES-256 key of 32 bytes");
        CtrHmac {
            cipher,
            mac: hmac::Key::new(hmac::HMAC_SHA256, &hmac_slot[..32]),
        }
    }

    /// The tag of these parts, one after the other.
    pub(super) fn tag(&self, parts: &[&[u8]]) -> [u8; TAG_LEN] {
        let mut context = hmac::Context::with_key(&self.mac);
        for part in parts {
            context.update(part);
        }
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    /// Encrypts or decrypts (in counter mode the same) with the first half of `tag` as IV.
    pub(super) fn apply(&self, tag: &[u8; TAG_LEN], data: &mut [u8]) {
        let mut iv = [0; 16];
        iv.copy_from_slice(&tag[..16]);
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        #[expect(
            clippy::expect_used,
            reason = "counter mode takes data of any length and this kind of context"
        )]
        self.cipher
            .less_safe_encrypt(data, context)
            .expect("AES-256-CTR");
    }
}
