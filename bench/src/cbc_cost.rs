//! What AES-256-CBC with an HMAC costs per packet: Ringway's batches, and AWS-LC called for one
//! packet at a time.
//!
//! Both do the same work on packets of the same size: pad, encrypt under a fresh random IV and
//! sign; compare the signature in constant time and decrypt. The best of several rounds counts,
//! because what disturbs a round only ever makes it slower.

use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use aws_lc_rs::cipher::{
    AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{hmac, rand};
use ringway_dataplane::cipher::Segment;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{
    Cipher, DataFormat, DataKeys, Digest, DirectionKey, RecvKey, SendKey,
};

const INNER: usize = 1400;
const BLOCK: usize = 16;
const ID_LEN: usize = 4;
const BATCH: usize = 45;
const BATCHES: usize = 40;
const ROUNDS: usize = 10;

/// Nanoseconds per packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// To seal it.
    pub(crate) seal: f64,
    /// To open it.
    pub(crate) open: f64,
}

impl Cost {
    const WORST: Self = Self {
        seal: f64::MAX,
        open: f64::MAX,
    };

    /// Takes whichever is smaller, of the totals of one round.
    fn improve(&mut self, seal: f64, open: f64) {
        let nanos = 1e9 / (BATCH * BATCHES) as f64;
        self.seal = self.seal.min(seal * nanos);
        self.open = self.open.min(open * nanos);
    }
}

/// Ringway's own.
///
/// # Errors
/// When a packet is not sealed or does not open.
pub(crate) fn ringway(digest: Digest) -> Result<Cost> {
    let slots = DirectionKey {
        cipher: std::array::from_fn(|i| i as u8),
        hmac: std::array::from_fn(|i| i as u8),
    };
    let keys = DataKeys {
        cipher: Cipher::Aes256Cbc,
        digest,
        format: DataFormat::Classic,
        send: slots.clone(),
        recv: slots,
    };
    let mut send = SendKey::new(&keys, 0, Some(0), Framing::None)?;
    let mut recv = RecvKey::new(&keys, Framing::None, 2048, 15)?;
    let stride = send.sealed_len(INNER);
    let segments: Vec<Segment> = (0..BATCH)
        .map(|i| Segment {
            start: i * stride,
            len: INNER,
        })
        .collect();
    let datagrams: Vec<Segment> = segments
        .iter()
        .map(|segment| Segment {
            len: stride,
            ..*segment
        })
        .collect();
    let mut results = Vec::with_capacity(BATCH);
    let mut buf = vec![0x45; stride * BATCH];
    let mut best = Cost::WORST;
    for _ in 0..ROUNDS {
        let (mut seal, mut open) = (0.0, 0.0);
        for _ in 0..BATCHES {
            let start = Instant::now();
            let sealed = send.seal(&mut buf, &segments);
            let middle = Instant::now();
            recv.open_batch(0, &mut buf, &datagrams, &mut results);
            let opened = results.iter().filter(|result| result.is_ok()).count();
            seal += (middle - start).as_secs_f64();
            open += middle.elapsed().as_secs_f64();
            ensure!(
                sealed == BATCH && opened == BATCH,
                "sealed {sealed}, opened {opened} of {BATCH}"
            );
        }
        best.improve(seal, open);
    }
    Ok(best)
}

/// AWS-LC's, through aws-lc-rs, in the same layout: `HMAC | IV | ciphertext`, in place.
///
/// # Errors
/// When a packet is not sealed or does not open.
pub(crate) fn library(digest: Digest) -> Result<Cost> {
    let algorithm = match digest {
        Digest::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Digest::Sha256 => hmac::HMAC_SHA256,
        Digest::None | Digest::Sha224 | Digest::Sha384 | Digest::Sha512 => {
            return Err(anyhow!("{} is not compared", digest.name()));
        }
    };
    let key: [u8; 32] = std::array::from_fn(|i| i as u8);
    let unbound = || UnboundCipherKey::new(&AES_256, &key);
    let sealing = EncryptingKey::cbc(unbound()?)?;
    let opening = DecryptingKey::cbc(unbound()?)?;
    let signing = hmac::Key::new(algorithm, &key[..digest.len()]);
    let iv_at = digest.len();
    // The packet id is encrypted too, and there is always padding.
    let text_len = (ID_LEN + INNER) / BLOCK * BLOCK + BLOCK;
    let stride = iv_at + BLOCK + text_len;
    let mut buf = vec![0x45; stride * BATCH];
    let mut best = Cost::WORST;
    for _ in 0..ROUNDS {
        let (mut seal, mut open) = (0.0, 0.0);
        for _ in 0..BATCHES {
            let start = Instant::now();
            let mut ivs = [[0; BLOCK]; BATCH];
            // In one call, as Ringway does: asked for one at a time they cost more than they should.
            rand::fill(ivs.as_flattened_mut())?;
            for (packet, iv) in buf.chunks_mut(stride).zip(&ivs) {
                let (tag, signed) = packet.split_at_mut(iv_at);
                signed[..BLOCK].copy_from_slice(iv);
                let padding = &mut signed[BLOCK + ID_LEN + INNER..];
                let value = padding.len() as u8;
                padding.fill(value);
                let context = EncryptionContext::Iv128(FixedLength::from(iv));
                sealing.less_safe_encrypt(&mut signed[BLOCK..], context)?;
                hmac::sign_to_buffer(&signing, signed, tag)?;
            }
            let middle = Instant::now();
            for packet in buf.chunks_mut(stride) {
                let (tag, signed) = packet.split_at_mut(iv_at);
                hmac::verify(&signing, signed, tag)?;
                let (iv, text) = signed.split_at_mut(BLOCK);
                let context = DecryptionContext::Iv128(FixedLength::try_from(&*iv)?);
                let plain = opening.decrypt(text, context)?;
                let padding = plain.last().map_or(0, |&value| usize::from(value));
                ensure!(plain.len() - padding == ID_LEN + INNER, "wrong padding");
            }
            seal += (middle - start).as_secs_f64();
            open += middle.elapsed().as_secs_f64();
        }
        best.improve(seal, open);
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_do_the_work() {
        for digest in [Digest::Sha1, Digest::Sha256] {
            for cost in [ringway(digest).unwrap(), library(digest).unwrap()] {
                assert!(cost.seal.is_finite() && cost.seal > 0.0 && cost.open > 0.0);
            }
        }
        assert!(library(Digest::None).is_err());
    }
}
