//! tls-auth: control packets with an HMAC in front of the part that it covers (protocol document
//! §4.2).
//!
//! ```text
//!  wire   | op/key_id 1 | sid 8 | HMAC d | counter 4 | time 4 | rest |
//!  HMAC   over  counter 4 | time 4 | op/key_id 1 | sid 8 | rest
//! ```

use aws_lc_rs::constant_time;
use aws_lc_rs::hmac;
use ringway_dataplane::key_slot::Digest;

use super::replay_id::ReplayId;
use super::static_key::StaticKey;
use crate::proto::TlsRole;
use crate::proto::error::WrapError;
use crate::proto::packet::CLEAR_LEN;

/// The keys of both directions.
pub(super) struct TlsAuth {
    send: hmac::Key,
    recv: hmac::Key,
    tag_len: usize,
}

impl TlsAuth {
    /// `direction` is that of the key file; without one, both ends use the first key both ways.
    pub(super) fn new(key: &StaticKey, direction: Option<u8>, digest: Digest) -> Self {
        let (send, recv) = match direction {
            None => (0, 0),
            Some(0) => (0, 1),
            Some(_) => (1, 0),
        };
        let (algorithm, tag_len) = algorithm(digest);
        let slot = |index| hmac::Key::new(algorithm, &key.hmac_slot(index)[..tag_len]);
        TlsAuth {
            send: slot(send),
            recv: slot(recv),
            tag_len,
        }
    }

    pub(super) fn overhead(&self) -> usize {
        self.tag_len + ReplayId::LEN
    }

    /// Appends the wrapped packet to `out`.
    pub(super) fn seal(&self, clear: &[u8], id: ReplayId, rest: &[u8], out: &mut Vec<u8>) {
        let id = id.to_bytes();
        let tag = tag(&self.send, &id, clear, rest);
        out.extend_from_slice(clear);
        out.extend_from_slice(tag.as_ref());
        out.extend_from_slice(&id);
        out.extend_from_slice(rest);
    }

    /// Checks a datagram and returns its replay id and where the rest begins.
    pub(super) fn open(&self, datagram: &[u8]) -> Result<(ReplayId, usize), WrapError> {
        let (clear, after) = datagram
            .split_at_checked(CLEAR_LEN)
            .ok_or(WrapError::Truncated)?;
        let (found, after) = after
            .split_at_checked(self.tag_len)
            .ok_or(WrapError::Truncated)?;
        let (id, rest) = after
            .split_first_chunk::<{ ReplayId::LEN }>()
            .ok_or(WrapError::Truncated)?;
        let expected = tag(&self.recv, id, clear, rest);
        constant_time::verify_slices_are_equal(expected.as_ref(), found)
            .map_err(|_| WrapError::AuthFailed)?;
        Ok((
            ReplayId::from_bytes(*id),
            CLEAR_LEN + self.tag_len + ReplayId::LEN,
        ))
    }
}

/// The usual direction of a role when a server's key file says 0 and a client's says 1.
pub fn usual_direction(role: TlsRole) -> u8 {
    match role {
        TlsRole::Server => 0,
        TlsRole::Client => 1,
    }
}

/// The HMAC and its length; `auth none` cannot be used here, configuration refuses it.
fn algorithm(digest: Digest) -> (hmac::Algorithm, usize) {
    let algorithm = match digest {
        Digest::None | Digest::Sha1 => {
            let sha1 = hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY;
            return (sha1, Digest::Sha1.len());
        }
        Digest::Sha224 => hmac::HMAC_SHA224,
        Digest::Sha256 => hmac::HMAC_SHA256,
        Digest::Sha384 => hmac::HMAC_SHA384,
        Digest::Sha512 => hmac::HMAC_SHA512,
    };
    (algorithm, digest.len())
}

fn tag(key: &hmac::Key, id: &[u8], clear: &[u8], rest: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(id);
    context.update(clear);
    context.update(rest);
    context.sign()
}
