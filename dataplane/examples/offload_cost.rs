//! What splitting, summing and coalescing cost per segment: `cargo run --release --example
//! offload_cost`.
//!
//! Each figure is the best of several rounds over one super-packet that stays in the caches, as it
//! does between the TUN read and the cipher. Segments are written 24 bytes apart, as for sealing.

use std::hint::black_box;
use std::time::Instant;

use ringway_dataplane::cipher::Segment;
use ringway_dataplane::offload::{Coalescer, TunCaps, VnetHdr, checksum, plan};

/// Bytes kept free in front of each segment.
const HEADROOM: usize = 24;
/// Rounds per figure, and passes per round.
const ROUNDS: usize = 30;
const PASSES: usize = 300;

fn main() {
    println!(
        "{:<22} {:>8} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "ns per segment", "segments", "split", "coalesce", "lone", "sum", "copy"
    );
    for (name, tcp, ipv6) in [
        ("TCP over IPv4", true, false),
        ("TCP over IPv6", true, true),
        ("UDP over IPv4", false, false),
        ("UDP over IPv6", false, true),
    ] {
        for gso_size in [1400, 400, 64] {
            measure(&format!("{name}, {gso_size}"), tcp, ipv6, gso_size);
        }
    }
}

fn measure(name: &str, tcp: bool, ipv6: bool, gso_size: usize) {
    let (hdr, packet) = super_packet(tcp, ipv6, gso_size);
    let Ok(planned) = plan(&hdr, &packet) else {
        unreachable!("the header fits the packet");
    };
    let count = planned.count();
    let mut slab = vec![0; (packet.len() + 100) * 2 + count * 128];
    let mut segments = Vec::new();

    let split = best(count, || {
        let Ok(plan) = plan(black_box(&hdr), black_box(&packet)) else {
            return;
        };
        let mut at = 0;
        segments.clear();
        for i in 0..plan.count() {
            let len = plan.len_of(i);
            plan.write(&packet, i, &mut slab[at + HEADROOM..]);
            segments.push(Segment {
                start: at + HEADROOM,
                len,
            });
            at += HEADROOM + len;
        }
    });

    let header_len = usize::from(hdr.hdr_len);
    let caps = TunCaps {
        tso: true,
        uso: true,
    };
    let mut coalescer = Coalescer::new(count);
    let first = slab[HEADROOM..HEADROOM + header_len].to_vec();
    let coalesce = best(count, || {
        // The headers of the first packet were edited; bring them back.
        slab[HEADROOM..HEADROOM + header_len].copy_from_slice(&first);
        coalescer.coalesce(black_box(&mut slab), &segments, caps);
    });
    let writes = coalescer.writes().count();
    assert!(writes <= count.div_ceil(64), "joined into {writes}");

    // With changing hop limits no packet can follow the one before it.
    slab[HEADROOM..HEADROOM + header_len].copy_from_slice(&first);
    for (i, segment) in segments.iter().enumerate() {
        slab[segment.start + if ipv6 { 7 } else { 8 }] = (i % 2) as u8;
    }
    let lone = best(count, || {
        coalescer.coalesce(black_box(&mut slab), &segments, caps);
    });
    assert_eq!(coalescer.writes().count(), count);

    let sum = best(count, || {
        for segment in &segments {
            black_box(checksum::sum(&slab[segment.start..][..segment.len]));
        }
    });
    let mut copy_to = vec![0; gso_size];
    let copy = best(count, || {
        for segment in &segments {
            let from = &slab[segment.start..][..gso_size.min(segment.len)];
            black_box(checksum::copy_and_sum(&mut copy_to[..from.len()], from));
        }
    });
    println!(
        "{name:<22} {count:>8} {split:>10.1} {coalesce:>10.1} {lone:>10.1} {sum:>10.1} {copy:>10.1}"
    );
}

/// Nanoseconds per segment of the fastest round.
fn best(segments: usize, mut run: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..PASSES {
            run();
        }
        let ns = start.elapsed().as_nanos() as f64;
        best = best.min(ns / (PASSES * segments) as f64);
    }
    best
}

/// A super-packet of at most 45 segments that fill 64 KiB at 1400 bytes.
fn super_packet(tcp: bool, ipv6: bool, gso_size: usize) -> (VnetHdr, Vec<u8>) {
    let ip_len = if ipv6 { 40 } else { 20 };
    // TCP with timestamps.
    let header_len = ip_len + if tcp { 32 } else { 8 };
    let total = header_len + gso_size * 45;
    let mut packet: Vec<u8> = (0..total).map(|i| (i * 31) as u8).collect();
    packet[..header_len].fill(0);
    let protocol = if tcp { 6 } else { 17 };
    if ipv6 {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
        packet[6] = protocol;
        packet[7] = 64;
        packet[8..40].fill(0xfd);
    } else {
        packet[..2].copy_from_slice(&[0x45, 0]);
        packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        packet[6] = 0x40;
        packet[8] = 64;
        packet[9] = protocol;
        packet[12..20].fill(10);
    }
    packet[ip_len..ip_len + 4].copy_from_slice(&[0x9c, 0x40, 0x01, 0xbb]);
    if tcp {
        packet[ip_len + 12..ip_len + 14].copy_from_slice(&[0x80, 0x10]);
        packet[ip_len + 20..ip_len + 24].copy_from_slice(&[1, 1, 8, 10]);
    }
    let gso_type = match (tcp, ipv6) {
        (true, false) => VnetHdr::GSO_TCPV4,
        (true, true) => VnetHdr::GSO_TCPV6,
        (false, _) => VnetHdr::GSO_UDP_L4,
    };
    let hdr = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type,
        hdr_len: header_len as u16,
        gso_size: gso_size as u16,
        csum_start: ip_len as u16,
        csum_offset: if tcp { 16 } else { 6 },
    };
    (hdr, packet)
}
