//! Sealing and opening, by cipher, packet size and batch: `cargo bench -p ringway-dataplane --bench
//! cipher -- seal/AES-256-GCM`.
//!
//! Throughput is of inner packets. Opening is timed over several sealed batches at once, because
//! each packet can be opened only once and a clock reading costs as much as a small packet.

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringway_dataplane::cipher::Segment;
use ringway_dataplane::key_slot::{Cipher, Digest, RecvKey, SendKey};

const SIZES: [usize; 4] = [64, 512, 1400, 8900];
const BATCHES: [usize; 3] = [1, 16, 45];
const CIPHERS: [(Cipher, Digest, &str); 6] = [
    (Cipher::Aes128Gcm, Digest::None, "AES-128-GCM"),
    (Cipher::Aes256Gcm, Digest::None, "AES-256-GCM"),
    (Cipher::ChaCha20Poly1305, Digest::None, "CHACHA20-POLY1305"),
    (Cipher::Aes256Cbc, Digest::Sha256, "AES-256-CBC+SHA256"),
    (Cipher::Aes128Cbc, Digest::Sha1, "AES-128-CBC+SHA1"),
    (Cipher::None, Digest::None, "null"),
];
/// Packets opened between two readings of the clock, at least.
const OPENED: usize = 64;

/// Packets at their final places, one after the other.
struct Packets {
    stride: usize,
    segments: Vec<Segment>,
    buf: Vec<u8>,
}

impl Packets {
    fn new(send: &SendKey, size: usize, count: usize) -> Self {
        let stride = send.sealed_len(size);
        Self {
            stride,
            segments: (0..count)
                .map(|i| Segment {
                    start: i * stride,
                    len: size,
                })
                .collect(),
            buf: vec![0x45; stride * count],
        }
    }

    fn open(&mut self, recv: &mut RecvKey) -> usize {
        self.buf
            .chunks_mut(self.stride)
            .filter_map(|datagram| recv.open(0, black_box(datagram)).ok())
            .count()
    }
}

fn ciphers(criterion: &mut Criterion) {
    // Six ciphers, four sizes, three batches, both ways: a short look at each.
    let quick = Duration::from_millis(400);
    for (cipher, digest, name) in CIPHERS {
        let mut group = criterion.benchmark_group(format!("seal/{name}"));
        group.measurement_time(quick).warm_up_time(quick / 4);
        for (size, batch) in cases() {
            let (mut send, _) = common::keys(cipher, digest);
            let mut packets = Packets::new(&send, size, batch);
            group.throughput(Throughput::Bytes((size * batch) as u64));
            group.bench_function(BenchmarkId::new(format!("{size}"), batch), |bencher| {
                bencher.iter(|| {
                    let sealed = send.seal(black_box(&mut packets.buf), &packets.segments);
                    assert_eq!(sealed, batch, "no packet ids left: measure for less long");
                });
            });
        }
        group.finish();

        let mut group = criterion.benchmark_group(format!("open/{name}"));
        group.measurement_time(quick).warm_up_time(quick / 4);
        for (size, batch) in cases() {
            let (mut send, mut recv) = common::keys(cipher, digest);
            let batches = OPENED.div_ceil(batch);
            let mut packets: Vec<Packets> = (0..batches)
                .map(|_| Packets::new(&send, size, batch))
                .collect();
            group.throughput(Throughput::Bytes((size * batch) as u64));
            group.bench_function(BenchmarkId::new(format!("{size}"), batch), |bencher| {
                bencher.iter_custom(|iterations| {
                    let mut spent = Duration::ZERO;
                    let rounds = iterations.div_ceil(batches as u64);
                    for _ in 0..rounds {
                        for one in &mut packets {
                            send.seal(&mut one.buf, &one.segments);
                        }
                        let start = Instant::now();
                        let opened: usize = packets.iter_mut().map(|p| p.open(&mut recv)).sum();
                        spent += start.elapsed();
                        assert_eq!(opened, batch * batches, "a packet did not open");
                    }
                    // Whole rounds were done: scaled to what was asked for.
                    spent.mul_f64(iterations as f64 / (rounds * batches as u64) as f64)
                });
            });
        }
        group.finish();
    }
}

fn cases() -> impl Iterator<Item = (usize, usize)> {
    SIZES
        .into_iter()
        .flat_map(|size| BATCHES.map(|batch| (size, batch)))
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = ciphers
}
criterion_main!(benches);
