//! Checksums, splitting super-packets, joining packets. Segments are written as for sealing, 24
//! bytes apart, and stay in the caches, as they do between the TUN read and the cipher.

mod common;

use std::hint::black_box;

use common::Inner;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringway_dataplane::cipher::Segment;
use ringway_dataplane::offload::{Coalescer, Plan, TunCaps, checksum, plan};

/// Bytes kept free in front of each segment.
const HEADROOM: usize = 24;
/// Segments of a super-packet: 64 KiB at 1400 bytes.
const COUNT: usize = 45;
const BOTH: TunCaps = TunCaps {
    tso: true,
    uso: true,
};

fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for size in [20, 64, 512, 1400, 8900] {
        let from: Vec<u8> = (0..size).map(|i| (i * 7) as u8).collect();
        let mut to = vec![0; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("sum", size), |bencher| {
            bencher.iter(|| checksum::sum(black_box(&from)));
        });
        group.bench_function(BenchmarkId::new("copy_and_sum", size), |bencher| {
            bencher.iter(|| checksum::copy_and_sum(black_box(&mut to), black_box(&from)));
        });
    }
    group.finish();
}

fn split(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split");
    for (inner, size) in cases() {
        let (hdr, packet) = common::super_packet(inner, size, COUNT);
        let mut out = vec![0; packet.len() + COUNT * 128];
        let mut segments = Vec::new();
        group.throughput(Throughput::Elements(COUNT as u64));
        group.bench_function(BenchmarkId::new(inner.name(), size), |bencher| {
            bencher.iter(|| {
                let plan = plan(black_box(&hdr), black_box(&packet)).expect("a good header");
                write_all(&plan, &packet, &mut out, &mut segments);
            });
        });
    }
    group.finish();
}

fn coalesce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coalesce");
    for (inner, size) in cases() {
        let (hdr, packet) = common::super_packet(inner, size, COUNT);
        let mut buf = vec![0; packet.len() + COUNT * 128];
        let mut segments = Vec::new();
        let planned = plan(&hdr, &packet).expect("a good header");
        write_all(&planned, &packet, &mut buf, &mut segments);
        let header_len = inner.header_len();
        let first = buf[HEADROOM..HEADROOM + header_len].to_vec();
        let mut coalescer = Coalescer::new(COUNT);
        group.throughput(Throughput::Elements(COUNT as u64));
        group.bench_function(BenchmarkId::new(inner.name(), size), |bencher| {
            bencher.iter(|| {
                // Joining edits the first packet's headers: bring them back.
                buf[HEADROOM..HEADROOM + header_len].copy_from_slice(&first);
                coalescer.coalesce(black_box(&mut buf), &segments, BOTH);
            });
        });
        assert_eq!(coalescer.writes().count(), 1, "not joined");

        // With changing hop limits no packet can follow the one before it.
        buf[HEADROOM..HEADROOM + header_len].copy_from_slice(&first);
        let hop_limit = if matches!(inner, Inner::Tcp6) { 7 } else { 8 };
        for (i, segment) in segments.iter().enumerate() {
            buf[segment.start + hop_limit] = (i % 2) as u8;
        }
        let name = format!("{}, alone", inner.name());
        group.bench_function(BenchmarkId::new(name, size), |bencher| {
            bencher.iter(|| coalescer.coalesce(black_box(&mut buf), &segments, BOTH));
        });
        assert_eq!(coalescer.writes().count(), COUNT, "joined");
    }
    group.finish();
}

fn cases() -> impl Iterator<Item = (Inner, usize)> {
    [Inner::Tcp4, Inner::Tcp6, Inner::Udp4]
        .into_iter()
        .flat_map(|inner| [1400, 64].map(|size| (inner, size)))
}

fn write_all(plan: &Plan, packet: &[u8], out: &mut [u8], segments: &mut Vec<Segment>) {
    segments.clear();
    let mut at = 0;
    for i in 0..plan.count() {
        let len = plan.len_of(i);
        let start = at + HEADROOM;
        plan.write(packet, i, &mut out[start..]);
        segments.push(Segment { start, len });
        at = start + len;
    }
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = checksums, split, coalesce
}
criterion_main!(benches);
