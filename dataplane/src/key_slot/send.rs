//! The sending half of a key.

use super::{Cipher, DataFormat, DataKeys, check};
use crate::cipher::{Segment, TAG_LEN, aead, cbc_hmac, epoch, null};
use crate::error::StartError;
use crate::framing::Framing;
use crate::wire::DataHeader;

/// Seals inner packets into datagrams under one key. No nonce is ever used twice: packet ids only
/// count up, and stop at their end.
pub struct SendKey {
    header: DataHeader,
    framing: Framing,
    format: Format,
    /// Bytes the format puts between header and payload.
    front: usize,
    body: Body,
}

/// How long a datagram gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Aead,
    Epoch,
    Cbc,
    Null,
}

/// What is large is boxed: a server has thousands of keys, most of them for AES-GCM, and the pointer
/// is followed once for a batch.
enum Body {
    Aead(aead::Sealer),
    Epoch(epoch::Sealer),
    Cbc(Box<cbc_hmac::Sealer>),
    Null(Box<null::Sealer>),
}

impl SendKey {
    /// The sending key for `key_id` (0..=7): DATA_V2 with `tx_peer_id`, DATA_V1 without.
    ///
    /// # Errors
    /// [`StartError::Key`] if the cipher key is all zero or cannot be set up, or if the epoch
    /// format is asked for without a peer-id or for a cipher that is no AEAD.
    pub fn new(
        keys: &DataKeys,
        key_id: u8,
        tx_peer_id: Option<u32>,
        framing: Framing,
    ) -> Result<Self, StartError> {
        check(keys, &keys.send)?;
        let (format, front, body) = match (keys.format, keys.cipher) {
            (DataFormat::Epoch, cipher) => {
                if tx_peer_id.is_none() {
                    return Err(StartError::Key("the epoch format needs a peer-id".into()));
                }
                let sealer = epoch::Sealer::new(cipher, &keys.send)?;
                (Format::Epoch, epoch::FRONT - 4, Body::Epoch(sealer))
            }
            (DataFormat::Classic, Cipher::None) => {
                let sealer = null::Sealer::new(keys.digest, &keys.send);
                (
                    Format::Null,
                    null::front(keys.digest),
                    Body::Null(Box::new(sealer)),
                )
            }
            (DataFormat::Classic, cipher) if cipher.is_aead() => {
                let sealer = aead::Sealer::new(cipher, &keys.send)?;
                (Format::Aead, aead::FRONT, Body::Aead(sealer))
            }
            (DataFormat::Classic, cipher) => {
                let sealer = cbc_hmac::Sealer::new(cipher, keys.digest, &keys.send)?;
                (
                    Format::Cbc,
                    cbc_hmac::front(keys.digest),
                    Body::Cbc(Box::new(sealer)),
                )
            }
        };
        Ok(SendKey {
            header: DataHeader::new(key_id, tx_peer_id),
            framing,
            format,
            front,
            body,
        })
    }

    /// Bytes of a datagram in front of the inner packet.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.header.len() + self.front + self.framing.front()
    }

    /// Length of the whole datagram that carries an inner packet of this length.
    #[inline]
    pub fn sealed_len(&self, inner_len: usize) -> usize {
        let payload = inner_len + self.framing.added();
        let front = self.header.len() + self.front;
        match self.format {
            Format::Aead | Format::Null => front + payload,
            Format::Epoch => front + payload + TAG_LEN,
            // The packet id counts among the bytes in front, and is part of the ciphertext.
            Format::Cbc => front - 4 + cbc_hmac::ciphertext_len(payload),
        }
    }

    /// The longest inner packet whose datagram is no longer than `datagram_len`; 0 if there is none.
    pub fn max_inner(&self, datagram_len: usize) -> usize {
        let front = self.header.len() + self.front;
        let payload = match self.format {
            Format::Aead | Format::Null => datagram_len.saturating_sub(front),
            Format::Epoch => datagram_len.saturating_sub(front + TAG_LEN),
            Format::Cbc => {
                let text = datagram_len.saturating_sub(front - 4) / 16 * 16;
                // One byte of padding at least, and the packet id.
                text.saturating_sub(5)
            }
        };
        payload.saturating_sub(self.framing.added())
    }

    /// What must stand in front of an inner packet that starts with this byte, as part of it and
    /// of its length: two bytes for stub-v2 and a packet that starts with `50`, else nothing. No IP
    /// packet, ping or OCC message starts so; Ethernet frames may.
    #[inline]
    pub fn escape(&self, first: u8) -> &'static [u8] {
        self.framing.escape(first)
    }

    /// Frames and seals a batch in place, in its order. `segment.start` is where the datagram
    /// starts, `segment.len` the length of the inner packet, which stands at
    /// `start + headroom()`; `sealed_len(len)` bytes from `start` on are overwritten.
    ///
    /// Returns how many were sealed. Those behind them, framed at most, must not be sent: the key
    /// has no packet ids left.
    ///
    /// # Panics
    /// If a segment does not fit in `buf`.
    pub fn seal(&mut self, buf: &mut [u8], segments: &[Segment]) -> usize {
        self.framing.apply(buf, segments, self.headroom());
        let added = self.framing.added();
        match &mut self.body {
            Body::Aead(sealer) => sealer.seal(self.header, added, buf, segments),
            Body::Epoch(sealer) => sealer.seal(self.header, added, buf, segments),
            Body::Cbc(sealer) => sealer.seal(self.header, added, buf, segments),
            Body::Null(sealer) => sealer.seal(self.header, added, buf, segments),
        }
    }

    /// Moves to `epoch` if that is ahead; see [`RecvKey::take_epoch_change`] and
    /// [`RecvKey::wants_epoch`]. Does nothing for keys that have no epochs.
    ///
    /// [`RecvKey::take_epoch_change`]: super::RecvKey::take_epoch_change
    /// [`RecvKey::wants_epoch`]: super::RecvKey::wants_epoch
    pub fn advance_epoch(&mut self, epoch: u16) {
        if let Body::Epoch(sealer) = &mut self.body {
            sealer.advance_to(epoch);
        }
    }

    /// The epoch it seals in; 0 for keys that have none.
    pub fn epoch(&self) -> u16 {
        match &self.body {
            Body::Epoch(sealer) => sealer.epoch(),
            Body::Aead(_) | Body::Cbc(_) | Body::Null(_) => 0,
        }
    }

    /// Packets sealed: the last packet id, or with epochs the packets of all of them.
    pub fn packets(&self) -> u64 {
        match &self.body {
            Body::Aead(sealer) => sealer.ids.used(),
            Body::Epoch(sealer) => sealer.packets(),
            Body::Cbc(sealer) => sealer.ids.used(),
            Body::Null(sealer) => sealer.ids.used(),
        }
    }

    /// How much of an AEAD key is used up, in 16-byte blocks plus packets; with epochs that of the
    /// current one. 0 for other ciphers.
    pub fn aead_usage(&self) -> u64 {
        match &self.body {
            Body::Aead(sealer) => sealer.usage(),
            Body::Epoch(sealer) => sealer.usage(),
            Body::Cbc(_) | Body::Null(_) => 0,
        }
    }

    pub(super) fn reconfigure(&mut self, tx_peer_id: Option<u32>, framing: Framing) {
        self.framing = framing;
        if tx_peer_id.is_some() || self.format != Format::Epoch {
            self.header = DataHeader::new(self.header.key_id(), tx_peer_id);
        }
    }

    #[cfg(test)]
    pub(super) fn set_header(&mut self, bytes: [u8; 4]) {
        self.header = DataHeader::raw(bytes);
    }

    #[cfg(test)]
    pub(super) fn header_len(&self) -> usize {
        self.header.len()
    }

    #[cfg(test)]
    pub(super) fn set_iv(&mut self, iv: [u8; 16]) {
        if let Body::Cbc(sealer) = &mut self.body {
            sealer.fixed_iv = Some(iv);
        }
    }

    #[cfg(test)]
    pub(crate) fn ids_mut(&mut self) -> &mut crate::packet_id::PacketIds {
        match &mut self.body {
            Body::Aead(sealer) => &mut sealer.ids,
            Body::Epoch(sealer) => sealer.ids_mut(),
            Body::Cbc(sealer) => &mut sealer.ids,
            Body::Null(sealer) => &mut sealer.ids,
        }
    }

    #[cfg(test)]
    pub(super) fn epoch_mut(&mut self) -> &mut epoch::Sealer {
        match &mut self.body {
            Body::Epoch(sealer) => sealer,
            Body::Aead(_) | Body::Cbc(_) | Body::Null(_) => panic!("no epochs"),
        }
    }
}

impl std::fmt::Debug for SendKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendKey")
            .field("key_id", &self.header.key_id())
            .field("framing", &self.framing)
            .field("packets", &self.packets())
            .finish_non_exhaustive()
    }
}
