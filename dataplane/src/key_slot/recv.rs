//! The receiving half of a key.

use std::ops::Range;

use super::{Cipher, DataFormat, DataKeys, check};
use crate::cipher::{Segment, aead, cbc_hmac, epoch, null};
use crate::error::{DropReason, StartError};
use crate::framing::Framing;
use crate::replay::ReplayWindow;
use crate::wire::{self, Header};

/// Opens datagrams under one key, each at most once.
pub struct RecvKey {
    framing: Framing,
    body: Body,
}

/// As of a sending key, what is large and rarer is boxed.
#[expect(
    clippy::large_enum_variant,
    reason = "most keys are of this variant, and live in a boxed slot"
)]
enum Body {
    Aead(aead::Opener),
    Epoch(Box<epoch::Opener>),
    Cbc(Box<cbc_hmac::Opener>),
    Null(Box<null::Opener>),
}

impl RecvKey {
    /// The receiving key, with a replay window of `replay_window` packets (0 takes only the very
    /// next one) that expire after `replay_time` seconds (0 is never).
    ///
    /// # Errors
    /// [`StartError::Key`] if the cipher key is all zero or cannot be set up, or if the epoch
    /// format is asked for with a cipher that is no AEAD.
    pub fn new(
        keys: &DataKeys,
        framing: Framing,
        replay_window: u32,
        replay_time: u32,
    ) -> Result<Self, StartError> {
        check(keys, &keys.recv)?;
        let window = || ReplayWindow::new(replay_window, replay_time);
        let (cipher, digest, slots) = (keys.cipher, keys.digest, &keys.recv);
        let body = match (keys.format, cipher) {
            (DataFormat::Epoch, _) => {
                let opener = epoch::Opener::new(cipher, slots, [window(), window()])?;
                Body::Epoch(Box::new(opener))
            }
            (DataFormat::Classic, Cipher::None) => {
                Body::Null(Box::new(null::Opener::new(digest, slots, window())))
            }
            (DataFormat::Classic, _) if cipher.is_aead() => {
                Body::Aead(aead::Opener::new(cipher, slots, window())?)
            }
            (DataFormat::Classic, _) => {
                let opener = cbc_hmac::Opener::new(cipher, digest, slots, window())?;
                Body::Cbc(Box::new(opener))
            }
        };
        Ok(RecvKey { framing, body })
    }

    /// Opens a datagram in place and returns where in it the inner packet is (which may be empty).
    /// Takes DATA_V1 and DATA_V2 whatever is sent, and neither reads the peer-id nor the key_id.
    /// `now_secs` must not go backwards. A refused datagram's bytes are undefined afterwards.
    ///
    /// # Errors
    /// `Malformed`, `NoKey` (an epoch without a key), `Replay`, `AuthFailed`, `KeyExhausted` (too
    /// many failures), and of what authenticated `BadPayload` or `Compressed`.
    #[inline]
    pub fn open(&mut self, now_secs: u32, datagram: &mut [u8]) -> Result<Range<usize>, DropReason> {
        let Header::Data { len, .. } = wire::parse(datagram)? else {
            return Err(DropReason::Malformed);
        };
        let payload = match &mut self.body {
            Body::Aead(opener) => opener.open(now_secs, len, datagram),
            Body::Epoch(opener) => opener.open(now_secs, len, datagram),
            Body::Cbc(opener) => opener.open(now_secs, len, datagram),
            Body::Null(opener) => opener.open(now_secs, len, datagram),
        }?;
        self.framing.strip(datagram, payload)
    }

    /// Opens a batch in place, in its order, as [`open`](Self::open) would one by one: each segment
    /// of `buf` is a datagram. `out` then has what became of each, the ranges counted from the
    /// start of the datagram; it is cleared first, and grows only if it is too small.
    ///
    /// AES-CBC does the cryptography of many packets at once.
    ///
    /// # Panics
    /// If a segment is not in `buf`.
    pub fn open_batch(
        &mut self,
        now_secs: u32,
        buf: &mut [u8],
        datagrams: &[Segment],
        out: &mut Vec<Result<Range<usize>, DropReason>>,
    ) {
        out.clear();
        for batch in datagrams.chunks(cbc_hmac::BATCH) {
            let done = out.len();
            let Body::Cbc(opener) = &mut self.body else {
                for datagram in batch {
                    let datagram = &mut buf[datagram.start..][..datagram.len];
                    out.push(self.open(now_secs, datagram));
                }
                continue;
            };
            for datagram in batch {
                let datagram = &buf[datagram.start..][..datagram.len];
                out.push(match wire::parse(datagram) {
                    Ok(Header::Data { len, .. }) => opener.signed(len, datagram.len()),
                    Ok(_) => Err(DropReason::Malformed),
                    Err(reason) => Err(reason),
                });
            }
            opener.open_batch(now_secs, buf, batch, &mut out[done..]);
            for (datagram, result) in batch.iter().zip(&mut out[done..]) {
                if let Ok(payload) = result.clone() {
                    let datagram = &mut buf[datagram.start..][..datagram.len];
                    *result = self.framing.strip(datagram, payload);
                }
            }
        }
    }

    /// The epoch the peer moved to, once after each move: the sender must be told with
    /// [`SendKey::advance_epoch`] (protocol §7.4). Ask after each batch of received packets.
    ///
    /// [`SendKey::advance_epoch`]: super::SendKey::advance_epoch
    #[inline]
    pub fn take_epoch_change(&mut self) -> Option<u16> {
        match &mut self.body {
            Body::Epoch(opener) => opener.take_epoch_change(),
            Body::Aead(_) | Body::Cbc(_) | Body::Null(_) => None,
        }
    }

    /// An epoch for [`SendKey::advance_epoch`] when the receiving key has been used, or attacked,
    /// enough: the peer follows this side's move (protocol §7.4). Stays until the peer moved; to
    /// advance again to the same epoch does nothing.
    ///
    /// [`SendKey::advance_epoch`]: super::SendKey::advance_epoch
    #[inline]
    pub fn wants_epoch(&self) -> Option<u16> {
        match &self.body {
            Body::Epoch(opener) => opener.wants_epoch(),
            Body::Aead(_) | Body::Cbc(_) | Body::Null(_) => None,
        }
    }

    /// The epoch of the newest packet opened; 0 for keys that have no epochs.
    pub fn epoch(&self) -> u16 {
        match &self.body {
            Body::Epoch(opener) => opener.epoch(),
            Body::Aead(_) | Body::Cbc(_) | Body::Null(_) => 0,
        }
    }

    /// Packets that authenticated and were no replays.
    pub fn packets(&self) -> u64 {
        match &self.body {
            Body::Aead(opener) => opener.packets(),
            Body::Epoch(opener) => opener.packets(),
            Body::Cbc(opener) => opener.packets(),
            Body::Null(opener) => opener.packets(),
        }
    }

    /// How much of an AEAD key is used up, in 16-byte blocks plus packets; with epochs that of the
    /// current one. 0 for other ciphers.
    pub fn aead_usage(&self) -> u64 {
        match &self.body {
            Body::Aead(opener) => opener.usage(),
            Body::Epoch(opener) => opener.usage(),
            Body::Cbc(_) | Body::Null(_) => 0,
        }
    }

    /// Packets whose tag or HMAC did not match; with epochs those of the current one.
    pub fn auth_failures(&self) -> u64 {
        match &self.body {
            Body::Aead(opener) => opener.failures(),
            Body::Epoch(opener) => opener.failures(),
            Body::Cbc(opener) => opener.failures(),
            Body::Null(opener) => opener.failures(),
        }
    }

    pub(super) fn reconfigure(&mut self, framing: Framing) {
        self.framing = framing;
    }

    #[cfg(test)]
    pub(super) fn set_failures(&mut self, failures: u64) {
        match &mut self.body {
            Body::Aead(opener) => opener.set_failures(failures),
            Body::Epoch(opener) => opener.set_failures(failures),
            Body::Cbc(_) | Body::Null(_) => panic!("no limit"),
        }
    }

    #[cfg(test)]
    pub(super) fn epoch_mut(&mut self) -> &mut epoch::Opener {
        match &mut self.body {
            Body::Epoch(opener) => opener,
            Body::Aead(_) | Body::Cbc(_) | Body::Null(_) => panic!("no epochs"),
        }
    }
}

impl std::fmt::Debug for RecvKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvKey")
            .field("framing", &self.framing)
            .field("packets", &self.packets())
            .finish_non_exhaustive()
    }
}
