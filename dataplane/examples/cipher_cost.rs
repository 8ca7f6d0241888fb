//! Prints what sealing and opening a 1400-byte packet costs, per cipher, in nanoseconds.
//!
//! Batches of 45 packets, as one super-packet from TUN has; the best of several rounds, because
//! what disturbs a round only ever makes it slower. Run with `--release`.

use std::time::Instant;

use ringway_dataplane::cipher::Segment;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{
    Cipher, DataFormat, DataKeys, Digest, DirectionKey, RecvKey, SendKey,
};

const INNER: usize = 1400;
const BATCH: usize = 45;
const BATCHES: usize = 200;
const ROUNDS: usize = 15;

fn main() {
    println!(
        "{:<32} {:>8} {:>8}   ns per {INNER}-byte packet",
        "", "seal", "open"
    );
    for cipher in Cipher::ALL {
        if cipher.is_aead() {
            print(cipher, Digest::None, DataFormat::Classic);
            print(cipher, Digest::None, DataFormat::Epoch);
        } else {
            for digest in [Digest::None, Digest::Sha1, Digest::Sha256, Digest::Sha512] {
                print(cipher, digest, DataFormat::Classic);
            }
        }
    }
}

fn print(cipher: Cipher, digest: Digest, format: DataFormat) {
    let name = match (cipher.is_aead(), format) {
        (true, DataFormat::Epoch) => format!("{} epoch", cipher.name()),
        (true, DataFormat::Classic) => cipher.name().to_owned(),
        (false, _) => format!("{} auth {}", cipher.name(), digest.name()),
    };
    match measure(cipher, digest, format) {
        Ok((seal, open)) => println!("{name:<32} {seal:>8.1} {open:>8.1}"),
        Err(error) => println!("{name:<32} {error}"),
    }
}

fn measure(
    cipher: Cipher,
    digest: Digest,
    format: DataFormat,
) -> Result<(f64, f64), Box<dyn std::error::Error>> {
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
    let segments: Vec<Segment> = (0..BATCH)
        .map(|i| Segment {
            start: i * stride,
            len: INNER,
        })
        .collect();
    let mut buf = vec![0x45; stride * BATCH];
    let (mut best_seal, mut best_open) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        let (mut seal, mut open) = (0.0, 0.0);
        for _ in 0..BATCHES {
            let start = Instant::now();
            let sealed = send.seal(&mut buf, &segments);
            let middle = Instant::now();
            let opened = buf
                .chunks_mut(stride)
                .filter_map(|datagram| recv.open(0, datagram).ok())
                .count();
            seal += (middle - start).as_secs_f64();
            open += middle.elapsed().as_secs_f64();
            if sealed != BATCH || opened != BATCH {
                return Err(format!("sealed {sealed}, opened {opened} of {BATCH}").into());
            }
        }
        best_seal = best_seal.min(seal);
        best_open = best_open.min(open);
    }
    let nanos = 1e9 / (BATCH * BATCHES) as f64;
    Ok((best_seal * nanos, best_open * nanos))
}
