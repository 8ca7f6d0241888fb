//! Against segments that were built one by one.

use super::*;
use crate::offload::sample::{Sample, ethernet, payload, transport_valid};
use proptest::prelude::*;

#[test]
fn tcp_is_cut_to_fit_the_path() {
    for ipv6 in [false, true] {
        let sample = Sample::tcp(ipv6);
        let data = payload(40_000);
        let (header, packet) = sample.build_super(&data, 20_000);
        let headers = packet.len() - data.len();
        let expected = sample.segments(&data, 1400 - headers as u16);
        let cut = resegment(&header, &packet, 0, 1400).unwrap();
        assert_eq!(split(&cut, &packet), expected);
        // A single packet of that size is no different.
        let single = VnetHdr {
            gso_type: VnetHdr::GSO_NONE,
            gso_size: 0,
            ..header
        };
        let cut = resegment(&single, &packet, 0, 1400).unwrap();
        assert_eq!(split(&cut, &packet), expected);
        // In a frame the limit counts the Ethernet header.
        let frame = ethernet(Some(7), &packet);
        let csum_start = header.csum_start + 18;
        let single = VnetHdr {
            csum_start,
            ..single
        };
        let cut = resegment(&single, &frame, 18, 1418).unwrap();
        assert_eq!(cut.gso_size, 1400 - headers as u16);
        let plan = plan_at(&cut, &frame, 18).unwrap();
        assert_eq!((plan.count(), plan.len_of(0)), (expected.len(), 1418));
        assert_eq!(
            resegment(&single, &[&frame[..], &[0]].concat(), 18, 1418),
            None
        );
        assert_eq!(resegment(&single, &frame, frame.len(), 1418), None);
        assert_eq!(resegment(&single, &frame, frame.len() + 1, 1418), None);
    }
}

#[test]
fn what_fits_or_must_stay_whole_is_left_alone() {
    let sample = Sample::tcp(false);
    let (header, packet) = sample.build_super(&payload(4000), 1300);
    assert_eq!(resegment(&header, &packet, 0, 1400), None);
    assert_eq!(resegment(&header, &packet, 0, packet.len()), None);
    // Too small to be worth it.
    assert_eq!(resegment(&header, &packet, 0, 500), None);
    for flag in [0x02, 0x04, 0x20] {
        let mut packet = packet.clone();
        packet[20 + 13] |= flag;
        assert_eq!(resegment(&header, &packet, 0, 1000), None);
    }
    let complete = VnetHdr { flags: 0, ..header };
    assert_eq!(resegment(&complete, &packet, 0, 1000), None);
    let (header, packet) = Sample::udp(false).build_super(&payload(4000), 1300);
    assert_eq!(resegment(&header, &packet, 0, 1000), None);
    assert_eq!(resegment(&header, &packet[..10], 0, 5), None);
}

fn split(hdr: &VnetHdr, packet: &[u8]) -> Vec<Vec<u8>> {
    let plan = plan(hdr, packet).unwrap();
    (0..plan.count())
        .map(|i| {
            // Bytes behind the segment must stay.
            let mut out = vec![0xee; plan.len_of(i) + 8];
            plan.write(packet, i, &mut out);
            assert_eq!(out.split_off(plan.len_of(i)), [0xee; 8]);
            out
        })
        .collect()
}

fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    for ipv6 in [false, true] {
        all.push(Sample::tcp(ipv6));
        all.push(Sample::udp(ipv6));
        let mut rich = Sample::tcp(ipv6);
        rich.options = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
        rich.flags = 0x10 | 0x40 | TCP_FIRST | TCP_LAST;
        rich.tos = 0x03;
        rich.id = 0xfffe;
        rich.seq = 0xffff_fc00;
        rich.df = false;
        all.push(rich);
    }
    let mut extended = Sample::tcp(true);
    extended.extension = true;
    all.push(extended.clone());
    extended.tcp = false;
    all.push(extended);
    all
}

#[test]
fn super_packets_become_the_segments_one_would_build() {
    for sample in samples() {
        for (len, gso_size) in [
            (4000, 1400),
            (2800, 1400),
            (1401, 1400),
            (999, 7),
            (3, 1),
            (5, 5),
        ] {
            let payload = payload(len);
            let (hdr, packet) = sample.build_super(&payload, gso_size);
            let expected = sample.segments(&payload, gso_size);
            assert_eq!(
                split(&hdr, &packet),
                expected,
                "{sample:?}, {len} by {gso_size}"
            );
        }
    }
}

#[test]
fn the_largest_super_packet() {
    for sample in samples() {
        let payload = payload(65_535 - sample.headers());
        let (hdr, packet) = sample.build_super(&payload, 1400);
        assert_eq!(split(&hdr, &packet), sample.segments(&payload, 1400));
    }
}

#[test]
fn flags_move_to_the_first_and_the_last() {
    let mut sample = Sample::tcp(false);
    sample.flags = 0xd9;
    let (mut hdr, packet) = sample.build_super(&payload(300), 100);
    hdr.gso_type |= VnetHdr::ECN;
    let flags: Vec<u8> = split(&hdr, &packet).iter().map(|p| p[33]).collect();
    assert_eq!(flags, [0xd0, 0x50, 0x59]);
}

#[test]
fn ids_and_sequence_numbers_wrap() {
    let mut sample = Sample::tcp(false);
    (sample.id, sample.seq) = (0xffff, 0xffff_ffff);
    let (hdr, packet) = sample.build_super(&payload(20), 10);
    let second = &split(&hdr, &packet)[1];
    assert_eq!(
        (&second[4..6], &second[24..28]),
        (&[0, 0][..], &[0, 0, 0, 9][..])
    );
}

#[test]
fn the_field_of_a_super_packet_is_not_trusted() {
    let sample = Sample::udp(true);
    let (mut hdr, mut packet) = sample.build_super(&payload(500), 200);
    packet[46..48].fill(0x77);
    assert_eq!(split(&hdr, &packet), sample.segments(&payload(500), 200));
    // Verified by the kernel, as after receive offload in hardware.
    (hdr.flags, hdr.csum_start, hdr.csum_offset) = (VnetHdr::DATA_VALID, 0, 0);
    assert_eq!(split(&hdr, &packet), sample.segments(&payload(500), 200));
}

#[test]
fn hdr_len_is_only_a_hint() {
    let sample = Sample::tcp(true);
    let (hdr, packet) = sample.build_super(&payload(500), 200);
    for hdr_len in [0, 1, 61, 560, 65_535] {
        let hdr = VnetHdr { hdr_len, ..hdr };
        assert_eq!(split(&hdr, &packet), sample.segments(&payload(500), 200));
    }
}

#[test]
fn ordinary_packets_are_copied() {
    let packet = Sample::udp(false).build(b"complete");
    assert_eq!(split(&VnetHdr::default(), &packet)[..], [packet]);
    // Not an IP packet: judged further on, not here.
    assert_eq!(split(&VnetHdr::default(), &[1, 2, 3]), [vec![1, 2, 3]]);
}

#[test]
fn ordinary_packets_get_their_checksum() {
    for sample in samples() {
        for len in [0, 1, 100, 1401] {
            let complete = sample.build(&payload(len));
            let (hdr, partial) = sample.build_super(&payload(len), 0);
            let hdr = VnetHdr {
                gso_type: VnetHdr::GSO_NONE,
                ..hdr
            };
            assert_ne!(partial, complete);
            assert_eq!(split(&hdr, &partial), [complete], "{sample:?}, {len}");
        }
    }
}

#[test]
fn udp_checksums_are_never_zero() {
    // Choose two payload bytes so that the sum comes out as zero.
    let mut sample = Sample::udp(false);
    sample.id = 0;
    let mut data = payload(8);
    data[6..].fill(0);
    let zeroed = sample.build(&data);
    data[6..].copy_from_slice(&zeroed[26..28]);
    let complete = sample.build(&data);
    assert_eq!(complete[26..28], [0xff, 0xff]);
    let (hdr, partial) = sample.build_super(&data, 8);
    assert_eq!(split(&hdr, &partial)[0], complete);
    let hdr = VnetHdr {
        gso_type: VnetHdr::GSO_NONE,
        ..hdr
    };
    assert_eq!(split(&hdr, &partial), [complete]);
}

#[test]
fn contradictions_are_bad_offload() {
    let sample = Sample::tcp(false);
    let (good, packet) = sample.build_super(&payload(3000), 1000);
    let bad = |what: &str, hdr: VnetHdr, packet: &[u8]| {
        assert_eq!(
            plan(&hdr, packet).err(),
            Some(DropReason::BadOffload),
            "{what}"
        );
    };
    bad(
        "no size",
        VnetHdr {
            gso_size: 0,
            ..good
        },
        &packet,
    );
    bad(
        "size beyond the payload",
        VnetHdr {
            gso_size: 3001,
            ..good
        },
        &packet,
    );
    bad(
        "too many segments",
        VnetHdr {
            gso_size: 1,
            ..good
        },
        &packet,
    );
    bad(
        "IPv6 type",
        VnetHdr {
            gso_type: VnetHdr::GSO_TCPV6,
            ..good
        },
        &packet,
    );
    bad(
        "UDP type",
        VnetHdr {
            gso_type: VnetHdr::GSO_UDP_L4,
            ..good
        },
        &packet,
    );
    bad(
        "UDP fragments",
        VnetHdr {
            gso_type: 3,
            ..good
        },
        &packet,
    );
    bad(
        "tunnel type",
        VnetHdr {
            gso_type: 0x21,
            ..good
        },
        &packet,
    );
    bad(
        "ECN with UDP",
        VnetHdr {
            gso_type: 0x85,
            ..good
        },
        &packet,
    );
    bad(
        "other checksum start",
        VnetHdr {
            csum_start: 24,
            ..good
        },
        &packet,
    );
    bad(
        "other checksum offset",
        VnetHdr {
            csum_offset: 6,
            ..good
        },
        &packet,
    );
    bad("truncated", good, &packet[..2000]);
    bad("longer than it says", good, &[&packet[..], &[0]].concat());
    bad("headers only", good, &sample.build(&[]));
    bad("cut in the TCP header", good, &packet[..30]);
    bad("empty", good, &[]);
    let mut changed = packet.clone();
    changed[32] = 0x40;
    bad("short TCP header", good, &changed);
    let mut changed = packet.clone();
    changed[6] = 0x20;
    bad("a fragment", good, &changed);
    let mut changed = packet.clone();
    changed[0] = 0x4f;
    bad("IP header over the TCP header", good, &changed);
    assert_eq!(
        plan(
            &VnetHdr {
                gso_size: 3000,
                ..good
            },
            &packet
        )
        .unwrap()
        .count(),
        1
    );
}

#[test]
fn checksums_outside_the_packet_are_bad_offload() {
    let packet = Sample::udp(false).build(b"abcd");
    let hdr = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        csum_start: 20,
        csum_offset: 6,
        ..VnetHdr::default()
    };
    assert!(plan(&hdr, &packet).is_ok());
    for (csum_start, csum_offset) in [(32, 6), (20, 12), (20, 11), (20, 7), (65_535, 65_534)] {
        let hdr = VnetHdr {
            csum_start,
            csum_offset,
            ..hdr
        };
        assert_eq!(plan(&hdr, &packet).err(), Some(DropReason::BadOffload));
    }
}

#[test]
fn ipv6_headers_that_spoil_the_sum_are_bad_offload() {
    let mut sample = Sample::tcp(true);
    sample.extension = true;
    let (hdr, packet) = sample.build_super(&payload(3000), 1000);
    assert!(plan(&hdr, &packet).is_ok());
    // Routing header with a segment left, fragment header, authentication header of 8 bytes.
    for (next, third) in [(43, 1), (44, 0), (51, 0)] {
        let mut packet = packet.clone();
        packet[6] = next;
        packet[43] = third;
        assert_eq!(
            plan(&hdr, &packet).err(),
            Some(DropReason::BadOffload),
            "{next}"
        );
    }
    let mut finished = packet.clone();
    finished[6] = 43;
    finished[42..44].copy_from_slice(&[0, 0]);
    assert!(plan(&hdr, &finished).is_ok());
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let addresses = (any::<bool>(), any::<bool>(), any::<u8>(), any::<u16>());
    let ip = (
        any::<u8>(),
        any::<u8>(),
        any::<bool>(),
        any::<u16>(),
        0u32..1 << 20,
    );
    let options = proptest::collection::vec(any::<[u8; 4]>(), 0..10);
    let tcp = (
        any::<u32>(),
        any::<u32>(),
        any::<u8>(),
        any::<u16>(),
        options,
    );
    (addresses, ip, any::<bool>(), tcp).prop_map(|(addresses, ip, extension, tcp)| Sample {
        ends: None,
        ipv6: addresses.0,
        tcp: addresses.1,
        host: addresses.2,
        source_port: addresses.3,
        tos: ip.0,
        ttl: ip.1,
        df: ip.2,
        id: ip.3,
        flow_label: ip.4,
        extension,
        seq: tcp.0,
        ack: tcp.1,
        flags: tcp.2,
        window: tcp.3,
        options: tcp.4.concat(),
    })
}

proptest! {
    #[test]
    fn equals_the_reference(
        sample in any_sample(),
        data in proptest::collection::vec(any::<u8>(), 1..6000),
        gso_size in 1u16..3000,
    ) {
        let gso_size = gso_size.min(data.len() as u16).max((data.len() / MAX_SEGMENTS + 1) as u16);
        let (hdr, packet) = sample.build_super(&data, gso_size);
        let segments = split(&hdr, &packet);
        prop_assert!(segments.iter().all(|p| transport_valid(p)));
        prop_assert_eq!(segments, sample.segments(&data, gso_size));
    }

    #[test]
    fn damaged_packets_never_panic(
        sample in any_sample(),
        len in 0usize..400,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        hdr: [u8; 10],
        keep in 0usize..10,
    ) {
        let (good, mut packet) = sample.build_super(&payload(len), 100);
        for (at, value) in damage {
            let at = at.index(packet.len().min(80));
            packet[at] = value;
        }
        let mut bytes = good.to_bytes();
        bytes[keep..].copy_from_slice(&hdr[keep..]);
        for hdr in [good, VnetHdr::read(&bytes).unwrap()] {
            if let Ok(plan) = plan(&hdr, &packet) {
                prop_assert!((1..=MAX_SEGMENTS).contains(&plan.count()));
                let mut out = vec![0; packet.len()];
                for i in 0..plan.count() {
                    prop_assert!(plan.len_of(i) <= packet.len());
                    plan.write(&packet, i, &mut out);
                }
            }
        }
    }

    #[test]
    fn garbage_never_panics(
        hdr: [u8; 10],
        packet in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let hdr = VnetHdr::read(&hdr).unwrap();
        if let Ok(plan) = plan(&hdr, &packet) {
            let mut out = vec![0; packet.len()];
            for i in 0..plan.count() {
                plan.write(&packet, i, &mut out);
            }
        }
    }
}
