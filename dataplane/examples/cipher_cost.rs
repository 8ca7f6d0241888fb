//! Prints what sealing and opening a 1400-byte packet costs, per cipher, in nanoseconds.
//!
//! Batches of 45 packets, as one super-packet from TUN has; the best of several rounds, because
//! what disturbs a round only ever makes it slower. AES-CBC with HMAC, which does the packets of a
//! batch at once, is shown in smaller batches too, and beside aws-lc-rs doing the same bytes one
//! packet at a time. Run with `--release`.

use std::time::Instant;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use ringway_dataplane::cipher::{Segment, cbc_backend};
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{
    Cipher, DataFormat, DataKeys, Digest, DirectionKey, RecvKey, SendKey,
};

const INNER: usize = 1400;
const BATCH: usize = 45;
/// Packets in a round.
const PACKETS: usize = 9000;
const ROUNDS: usize = 15;

type Error = Box<dyn std::error::Error>;

fn main() {
    println!(
        "{:<36} {:>8} {:>8}   ns per {INNER}-byte packet",
        "", "seal", "open"
    );
    for cipher in Cipher::ALL {
        if cipher.is_aead() {
            print(
                cipher.name(),
                measure(cipher, Digest::None, DataFormat::Classic, BATCH),
            );
            let name = format!("{} epoch", cipher.name());
            print(
                &name,
                measure(cipher, Digest::None, DataFormat::Epoch, BATCH),
            );
        } else {
            for digest in [Digest::None, Digest::Sha1, Digest::Sha256, Digest::Sha512] {
                let name = format!("{} auth {}", cipher.name(), digest.name());
                print(&name, measure(cipher, digest, DataFormat::Classic, BATCH));
            }
        }
    }
    println!("\nCBC back end: {}", cbc_backend());
    for cipher in [Cipher::Aes256Cbc, Cipher::Aes192Cbc, Cipher::Aes128Cbc] {
        for digest in [Digest::Sha1, Digest::Sha256] {
            println!("{} auth {}", cipher.name(), digest.name());
            print(
                "  aws-lc-rs, one packet at a time",
                one_at_a_time(cipher, digest),
            );
            for batch in [1, 4, 16, BATCH] {
                let name = format!("  batch of {batch}");
                print(&name, measure(cipher, digest, DataFormat::Classic, batch));
            }
        }
    }
}

fn print(name: &str, cost: Result<(f64, f64), Error>) {
    match cost {
        Ok((seal, open)) => println!("{name:<36} {seal:>8.1} {open:>8.1}"),
        Err(error) => println!("{name:<36} {error}"),
    }
}

/// Nanoseconds of each sealed and each opened packet.
fn measure(
    cipher: Cipher,
    digest: Digest,
    format: DataFormat,
    batch: usize,
) -> Result<(f64, f64), Error> {
    let slots = DirectionKey {
        cipher: std::array::from_fn(|i| i as u8),
        hmac: std::array::from_fn(|i| i as u8),
    };
    let keys = DataKeys {
        cipher,
        digest,
        format,
        send: slots.clone(),
        recv: slots,
    };
    let mut send = SendKey::new(&keys, 0, Some(0), Framing::None)?;
    let mut recv = RecvKey::new(&keys, Framing::None, 2048, 15)?;
    let stride = send.sealed_len(INNER);
    let segments = |len| -> Vec<Segment> {
        let start = |i| Segment {
            start: i * stride,
            len,
        };
        (0..batch).map(start).collect()
    };
    let (inner, datagrams) = (segments(INNER), segments(stride));
    let mut buf = vec![0x45; stride * batch];
    let mut results = Vec::with_capacity(batch);
    best_of(PACKETS / batch, batch, || {
        let start = Instant::now();
        let sealed = send.seal(&mut buf, &inner);
        let middle = Instant::now();
        recv.open_batch(0, &mut buf, &datagrams, &mut results);
        let open = middle.elapsed().as_secs_f64();
        let opened = results.iter().flatten().count();
        if sealed != batch || opened != batch {
            return Err(format!("sealed {sealed}, opened {opened} of {batch}").into());
        }
        Ok(((middle - start).as_secs_f64(), open))
    })
}

/// The cryptography of such a packet, and nothing else: the IV is not even drawn.
fn one_at_a_time(cipher: Cipher, digest: Digest) -> Result<(f64, f64), Error> {
    let key = [7; 32];
    let key = &key[..cipher.key_len()];
    let algorithm = match key.len() {
        16 => &AES_128,
        24 => &AES_192,
        _ => &AES_256,
    };
    let encrypting = EncryptingKey::cbc(UnboundCipherKey::new(algorithm, key)?)?;
    let decrypting = DecryptingKey::cbc(UnboundCipherKey::new(algorithm, key)?)?;
    let digest = match digest {
        Digest::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Digest::None | Digest::Sha224 | Digest::Sha256 | Digest::Sha384 | Digest::Sha512 => {
            hmac::HMAC_SHA256
        }
    };
    let hmac = hmac::Key::new(digest, key);
    // The packet id in front, and padding to whole blocks behind.
    let mut signed = [0x45; 16 + (4 + INNER) / 16 * 16 + 16];
    best_of(PACKETS, 1, || {
        let start = Instant::now();
        let (iv, text) = signed.split_at_mut(16);
        let fixed = || <[u8; 16]>::try_from(&*iv).map(FixedLength::from);
        encrypting.less_safe_encrypt(text, EncryptionContext::Iv128(fixed()?))?;
        let tag = hmac::sign(&hmac, &signed);
        let middle = Instant::now();
        hmac::verify(&hmac, &signed, tag.as_ref())?;
        let (iv, text) = signed.split_at_mut(16);
        let fixed = || <[u8; 16]>::try_from(&*iv).map(FixedLength::from);
        decrypting.decrypt(text, DecryptionContext::Iv128(fixed()?))?;
        Ok((
            (middle - start).as_secs_f64(),
            middle.elapsed().as_secs_f64(),
        ))
    })
}

/// Nanoseconds per packet in the best of several rounds of `count` batches of a number of packets;
/// `work` returns the seconds of both directions.
fn best_of(
    count: usize,
    packets: usize,
    mut work: impl FnMut() -> Result<(f64, f64), Error>,
) -> Result<(f64, f64), Error> {
    let (mut best_seal, mut best_open) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        let (mut seal, mut open) = (0.0, 0.0);
        for _ in 0..count {
            let took = work()?;
            seal += took.0;
            open += took.1;
        }
        best_seal = best_seal.min(seal);
        best_open = best_open.min(open);
    }
    let nanos = 1e9 / (count * packets) as f64;
    Ok((best_seal * nanos, best_open * nanos))
}
