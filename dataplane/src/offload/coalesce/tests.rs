//! Tests of the coalescer, most of them by splitting its super-packets again.

use super::*;
use crate::offload::sample::{Sample, header_valid, payload};
use crate::offload::split::plan;
use proptest::prelude::*;

const ALL: TunCaps = TunCaps {
    tso: true,
    uso: true,
};

/// Coalesces; returns each write's virtio header and bytes.
fn coalesce(packets: &[Vec<u8>], caps: TunCaps) -> Vec<(VnetHdr, Vec<u8>)> {
    let mut buf = vec![0xa5; 3];
    let mut segments = Vec::new();
    for packet in packets {
        segments.push(Segment {
            start: buf.len(),
            len: packet.len(),
        });
        buf.extend(packet);
        // As between the datagrams of a receive slab.
        buf.extend([0xa5; 25]);
    }
    let mut coalescer = Coalescer::new(packets.len());
    let capacities = |c: &Coalescer| (c.groups.capacity(), c.next.capacity(), c.slices.capacity());
    let before = capacities(&coalescer);
    // A batch before must leave nothing behind. It is the same batch, so use a copy.
    coalescer.coalesce(&mut buf.clone(), &segments, caps);
    coalescer.coalesce(&mut buf, &segments, caps);
    assert_eq!(capacities(&coalescer), before, "allocated");
    let mut out = Vec::new();
    for write in coalescer.writes() {
        assert!((1..=MAX_SLICES).contains(&write.slices.len()));
        let mut packet = Vec::new();
        for slice in write.slices {
            packet.extend(&buf[slice.start..slice.start + slice.len]);
        }
        out.push((VnetHdr::read(write.vnet).unwrap(), packet));
    }
    out
}

/// Splits every write again; the outer list is the writes.
fn split(writes: &[(VnetHdr, Vec<u8>)]) -> Vec<Vec<Vec<u8>>> {
    let split_one = |(hdr, packet): &(VnetHdr, Vec<u8>)| {
        if *hdr == VnetHdr::default() {
            return vec![packet.clone()];
        }
        assert_ne!(hdr.gso_type, VnetHdr::GSO_NONE);
        let plan = plan(hdr, packet).unwrap();
        assert!(plan.count() > 1, "a lone packet needs no header");
        assert_eq!(
            usize::from(hdr.hdr_len) + usize::from(hdr.gso_size),
            plan.len_of(0)
        );
        assert!(packet[0] >> 4 == 6 || header_valid(packet));
        let mut all = Vec::new();
        for i in 0..plan.count() {
            let mut out = vec![0; plan.len_of(i)];
            plan.write(packet, i, &mut out);
            all.push(out);
        }
        all
    };
    writes.iter().map(split_one).collect()
}

/// How many packets went into each write, after checking that splitting gives the same packets.
fn sizes(packets: &[Vec<u8>]) -> Vec<usize> {
    let groups = split(&coalesce(packets, ALL));
    assert_eq!(groups.concat(), packets);
    groups.iter().map(Vec::len).collect()
}

/// A run of one flow: payload sizes one after the other, ids and sequence numbers in order.
fn run(sample: &Sample, lens: &[usize]) -> Vec<Vec<u8>> {
    let mut sample = sample.clone();
    let mut packets = Vec::new();
    for len in lens {
        packets.push(sample.build(&payload(*len)));
        sample.id = sample.id.wrapping_add(1);
        sample.seq = sample.seq.wrapping_add(*len as u32);
    }
    packets
}

fn all_kinds() -> [Sample; 4] {
    [
        Sample::tcp(false),
        Sample::tcp(true),
        Sample::udp(false),
        Sample::udp(true),
    ]
}

/// Two joinable packets, the second built from a changed sample.
fn pair(sample: &Sample, change: impl FnOnce(&mut Sample)) -> Vec<Vec<u8>> {
    let mut second = sample.clone();
    second.id = second.id.wrapping_add(1);
    second.seq = second.seq.wrapping_add(100);
    change(&mut second);
    vec![sample.build(&payload(100)), second.build(&payload(100))]
}

#[test]
fn a_run_becomes_one_super_packet() {
    for mut sample in all_kinds() {
        assert_eq!(sizes(&run(&sample, &[1400; 20])), [20], "{sample:?}");
        assert_eq!(sizes(&run(&sample, &[1401, 1401, 1401, 3])), [4]);
        (sample.id, sample.seq, sample.df) = (0xffff, 0xffff_ff00, false);
        assert_eq!(sizes(&run(&sample, &[777, 777, 1])), [3]);
        sample.options = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
        sample.tos = 1;
        sample.flags |= 0x40;
        assert_eq!(sizes(&run(&sample, &[1388; 3])), [3]);
    }
}

#[test]
fn the_virtio_header_describes_the_super_packet() {
    let mut sample = Sample::tcp(true);
    sample.options = vec![1, 1, 1, 1];
    let writes = coalesce(&run(&sample, &[1000, 1000, 10]), ALL);
    let expected = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: VnetHdr::GSO_TCPV6,
        hdr_len: 64,
        gso_size: 1000,
        csum_start: 40,
        csum_offset: 16,
    };
    assert_eq!(writes[0].0, expected);
    // Exactly what the kernel would hand over the other way.
    let whole = [payload(1000), payload(1000), payload(10)].concat();
    assert_eq!(writes, [sample.build_super(&whole, 1000)]);
    let sample = Sample::udp(false);
    let whole = [payload(50), payload(50)].concat();
    assert_eq!(
        coalesce(&run(&sample, &[50, 50]), ALL),
        [sample.build_super(&whole, 50)]
    );
}

#[test]
fn a_lone_packet_passes_unchanged() {
    for sample in all_kinds() {
        let packet = sample.build(&payload(700));
        assert_eq!(
            coalesce(std::slice::from_ref(&packet), ALL),
            [(VnetHdr::default(), packet)]
        );
    }
    assert!(coalesce(&[], ALL).is_empty());
}

#[test]
fn only_what_the_device_takes() {
    let packets = [
        run(&Sample::tcp(false), &[100; 3]),
        run(&Sample::udp(true), &[100; 3]),
    ]
    .concat();
    for (tso, uso, expected) in [(false, false, 6), (true, false, 4), (false, true, 4)] {
        assert_eq!(coalesce(&packets, TunCaps { tso, uso }).len(), expected);
    }
}

#[test]
fn a_shorter_packet_is_the_last_and_a_longer_one_the_next() {
    for sample in all_kinds() {
        assert_eq!(sizes(&run(&sample, &[100, 100, 99, 100, 100])), [3, 2]);
        assert_eq!(sizes(&run(&sample, &[100, 100, 101, 101])), [2, 2]);
    }
}

#[test]
fn differing_headers_do_not_join() {
    for sample in all_kinds() {
        assert_eq!(sizes(&pair(&sample, |_| ())), [2]);
        assert_eq!(sizes(&pair(&sample, |s| s.host = 2)), [1, 1]);
        assert_eq!(sizes(&pair(&sample, |s| s.source_port += 1)), [1, 1]);
        assert_eq!(sizes(&pair(&sample, |s| s.tos = 4)), [1, 1]);
        assert_eq!(sizes(&pair(&sample, |s| s.tos = 3)), [1, 1], "ECN");
        assert_eq!(sizes(&pair(&sample, |s| s.ttl -= 1)), [1, 1]);
        let joins = if sample.ipv6 { vec![2] } else { vec![1, 1] };
        assert_eq!(sizes(&pair(&sample, |s| s.df = false)), joins);
        assert_eq!(sizes(&pair(&sample, |s| s.id += 1)), joins);
        let joins = if sample.ipv6 { vec![1, 1] } else { vec![2] };
        assert_eq!(sizes(&pair(&sample, |s| s.flow_label += 1)), joins);
    }
}

#[test]
fn differing_tcp_fields_do_not_join() {
    for ipv6 in [false, true] {
        let mut sample = Sample::tcp(ipv6);
        sample.options = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(sizes(&pair(&sample, |_| ())), [2]);
        assert_eq!(sizes(&pair(&sample, |s| s.ack += 1)), [1, 1]);
        assert_eq!(sizes(&pair(&sample, |s| s.window += 1)), [1, 1]);
        assert_eq!(sizes(&pair(&sample, |s| s.seq += 1)), [1, 1], "a gap");
        assert_eq!(
            sizes(&pair(&sample, |s| s.seq -= 100)),
            [1, 1],
            "a repetition"
        );
        assert_eq!(sizes(&pair(&sample, |s| s.options[4] ^= 1)), [1, 1]);
        assert_eq!(sizes(&pair(&sample, |s| s.options.truncate(8))), [1, 1]);
        for bit in [0x01, 0x08] {
            assert_eq!(
                sizes(&pair(&sample, |s| s.flags |= bit)),
                [2],
                "ends: {bit:02x}"
            );
        }
        for bit in [0x02, 0x04, 0x10, 0x20, 0x40, 0x80] {
            assert_eq!(
                sizes(&pair(&sample, |s| s.flags ^= bit)),
                [1, 1],
                "{bit:02x}"
            );
        }
        for bit in [0x01, 0x02, 0x04, 0x08, 0x20, 0x80] {
            let mut sample = sample.clone();
            sample.flags |= bit;
            assert_eq!(
                sizes(&pair(&sample, |_| ())),
                [1, 1],
                "first with {bit:02x}"
            );
        }
    }
}

#[test]
fn push_and_fin_end_a_super_packet() {
    for flag in [0x01, 0x08, 0x09] {
        let mut sample = Sample::tcp(false);
        let mut packets = run(&sample, &[100, 100]);
        (sample.id, sample.seq) = (sample.id + 2, sample.seq + 200);
        sample.flags |= flag;
        packets.push(sample.build(&payload(100)));
        (sample.id, sample.seq) = (sample.id + 1, sample.seq + 100);
        sample.flags &= !flag;
        packets.extend(run(&sample, &[100, 100]));
        assert_eq!(sizes(&packets), [3, 2]);
        assert_eq!(coalesce(&packets, ALL)[0].1[33], 0x10 | flag);
    }
}

#[test]
fn a_pure_ack_stands_between() {
    let sample = Sample::tcp(false);
    let mut packets = run(&sample, &[100, 100, 0, 100, 100]);
    assert_eq!(sizes(&packets), [2, 1, 2]);
    packets.swap(2, 4);
    assert_eq!(sizes(&packets), [2, 1, 1, 1]);
}

#[test]
fn ids_that_stay_the_same_need_df() {
    for (tcp, df, expected) in [
        (true, true, 4),
        (false, true, 4),
        (true, false, 1),
        (false, false, 1),
    ] {
        let mut sample = if tcp {
            Sample::tcp(false)
        } else {
            Sample::udp(false)
        };
        sample.df = df;
        let mut packets = Vec::new();
        for _ in 0..4 {
            packets.push(sample.build(&payload(200)));
            sample.seq += 200;
        }
        let writes = coalesce(&packets, ALL);
        let first = split(&writes)[0].len();
        assert_eq!(first, expected, "tcp {tcp}, df {df}");
    }
    // One way or the other, but not both.
    let mut sample = Sample::udp(false);
    let mut packets = run(&sample, &[100, 100]);
    sample.id += 1;
    packets.push(sample.build(&payload(100)));
    assert_eq!(sizes(&packets), [2, 1]);
    sample.id -= 1;
    packets = vec![sample.build(&payload(100)); 2];
    sample.id += 2;
    packets.push(sample.build(&payload(100)));
    assert_eq!(coalesce(&packets, ALL).len(), 2);
}

#[test]
fn damaged_packets_pass_alone() {
    for sample in all_kinds() {
        let good = run(&sample, &[100, 100, 100]);
        for damaged in 0..3 {
            let mut packets = good.clone();
            let last = packets[damaged].len() - 1;
            packets[damaged][last] ^= 0x10;
            // TCP and UDP over IPv4 both see a gap: in sequence, or in the ids.
            let expected: &[usize] = match (damaged, sample.tcp || !sample.ipv6) {
                (0, _) => &[1, 2],
                (2, _) => &[2, 1],
                (_, _) => &[1, 1, 1],
            };
            // A damaged packet may start a group, but nothing joins it.
            assert_eq!(sizes(&packets), expected, "{damaged} of {sample:?}");
        }
        if !sample.ipv6 {
            let mut packets = good;
            packets[1][10] ^= 1;
            assert_eq!(sizes(&packets), [1, 1, 1], "IPv4 header");
        }
    }
}

#[test]
fn udp_without_a_checksum_or_with_another_length_passes_alone() {
    let good = run(&Sample::udp(false), &[100, 100, 100]);
    let mut packets = good.clone();
    packets[1][26..28].fill(0);
    assert_eq!(sizes(&packets), [1, 1, 1]);
    // Also where zero happens to be what the sum asks for.
    let mut sample = Sample::udp(false);
    sample.id += 1;
    let mut data = payload(100);
    data[98..].fill(0);
    let zeroed = sample.build(&data);
    data[98..].copy_from_slice(&zeroed[26..28]);
    packets[1] = sample.build(&data);
    assert_eq!(sizes(&packets), [3]);
    assert_eq!(packets[1][26..28], [0xff, 0xff]);
    packets[1][26..28].fill(0);
    assert_eq!(sizes(&packets), [1, 1, 1]);
    let mut packets = good;
    packets[1][25] -= 1;
    assert_eq!(sizes(&packets), [1, 1, 1]);
    assert_eq!(sizes(&run(&Sample::udp(true), &[0, 0])), [1, 1]);
}

#[test]
fn irregular_packets_close_every_group() {
    let flow = run(&Sample::udp(false), &[100, 100]);
    let mut fragment = Sample::udp(false).build(&payload(100));
    fragment[6] = 0x20;
    let mut later_fragment = fragment.clone();
    later_fragment[7] = 9;
    let mut options = fragment.clone();
    options[0] = 0x46;
    let mut extension = Sample::udp(true);
    extension.extension = true;
    let mut padded = flow[0].clone();
    padded.push(0);
    let short_tcp = {
        let mut packet = Sample::tcp(true).build(&[]);
        packet[52] = 0x40;
        packet
    };
    let irregular = [
        fragment,
        later_fragment,
        options,
        extension.build(&payload(9)),
        padded,
        short_tcp,
        flow[0][..27].to_vec(),
        vec![0x60; 30],
        Vec::new(),
    ];
    for packet in irregular {
        let packets = [flow[0].clone(), packet.clone(), flow[1].clone()];
        assert_eq!(sizes(&packets), [1, 1, 1], "{packet:02x?}");
    }
}

#[test]
fn other_protocols_close_nothing() {
    let flow = run(&Sample::tcp(false), &[100, 100]);
    let mut icmp = Sample::udp(false).build(&payload(40));
    icmp[9] = 1;
    let groups = split(&coalesce(
        &[flow[0].clone(), icmp.clone(), flow[1].clone()],
        ALL,
    ));
    assert_eq!(groups, [flow, vec![icmp]]);
}

#[test]
fn flows_may_be_mixed() {
    let flows: Vec<Vec<Vec<u8>>> = (0..OPEN_FLOWS as u8)
        .map(|host| {
            let mut sample = all_kinds()[usize::from(host % 4)].clone();
            sample.host = host;
            run(&sample, &[300; 5])
        })
        .collect();
    let mixed: Vec<Vec<u8>> = (0..5)
        .flat_map(|i| flows.iter().map(move |flow| flow[i].clone()))
        .collect();
    assert_eq!(split(&coalesce(&mixed, ALL)), flows);
}

#[test]
fn more_flows_than_fit_keep_their_order() {
    let mut packets = Vec::new();
    for i in 0..5u16 {
        for host in 0..40 {
            let mut sample = Sample::udp(false);
            (sample.host, sample.id) = (host, i);
            packets.push(sample.build(&payload(100)));
        }
    }
    let groups = split(&coalesce(&packets, ALL));
    assert_eq!(
        groups.concat(),
        packets,
        "every group gave way before its flow came again"
    );
}

#[test]
fn super_packets_have_limits() {
    assert_eq!(sizes(&run(&Sample::udp(false), &[10; 130])), [64, 64, 2]);
    assert_eq!(sizes(&run(&Sample::tcp(false), &[10; 130])), [128, 2]);
    for sample in all_kinds() {
        let fit = (MAX_BYTES - sample.headers()) / 1400;
        assert_eq!(sizes(&run(&sample, &vec![1400; fit + 3])), [fit, 3]);
        // To the byte.
        let half = (MAX_BYTES - sample.headers()) / 2;
        assert_eq!(sizes(&run(&sample, &[half, half])), [2]);
        assert_eq!(sizes(&run(&sample, &[half + 1, half + 1])), [1, 1]);
    }
}

#[test]
fn ranges_outside_the_buffer_pass_through() {
    let mut buf = Sample::udp(false).build(&payload(10));
    let outside = [
        Segment {
            start: 10,
            len: buf.len(),
        },
        Segment {
            start: usize::MAX,
            len: 2,
        },
    ];
    let mut coalescer = Coalescer::new(2);
    coalescer.coalesce(&mut buf, &outside, ALL);
    let slices: Vec<Segment> = coalescer.writes().flat_map(|w| w.slices.to_vec()).collect();
    assert_eq!(slices, outside);
}

/// One step of random traffic: which flow, how long, and what is odd about it.
#[derive(Clone, Debug)]
struct Step {
    flow: usize,
    len: usize,
    oddity: u8,
    at: prop::sample::Index,
}

fn any_step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![8 => Just(64usize), 2 => 0usize..200];
    (0usize..8, len, 0u8..40, any::<prop::sample::Index>()).prop_map(|(flow, len, oddity, at)| {
        Step {
            flow,
            len,
            oddity,
            at,
        }
    })
}

/// Traffic of eight flows with some oddities, as (flow, packet).
fn traffic(steps: &[Step], fixed_id: bool) -> Vec<(usize, Vec<u8>)> {
    let mut flows: Vec<Sample> = (0..8)
        .map(|i| {
            let mut sample = all_kinds()[i % 4].clone();
            sample.source_port += (i / 4) as u16;
            sample.options = vec![1; i / 4 * 4];
            sample.seq = u32::MAX - 500;
            sample.id = u16::MAX - 3;
            sample
        })
        .collect();
    let mut packets = Vec::new();
    for step in steps {
        let sample = &mut flows[step.flow];
        let usual = sample.clone();
        match step.oddity {
            0 => sample.flags ^= 0x08,
            1 => sample.flags ^= 0x01,
            2 => sample.flags ^= 0x80,
            3 => sample.tos ^= 3,
            4 => sample.ttl -= 1,
            5 => sample.id = sample.id.wrapping_add(7),
            6 => sample.seq = sample.seq.wrapping_sub(1),
            7 => sample.window ^= 1,
            8 => sample.ack ^= 1,
            9 => sample.extension = true,
            10 => sample.df = false,
            _ => (),
        }
        let mut packet = sample.build(&payload(step.len));
        if step.oddity == 11 {
            // Behind the ports: with other ports it would be another flow's packet.
            let ports_end = sample.transport() + 4;
            let at = ports_end + step.at.index(packet.len() - ports_end);
            packet[at] ^= 0x40;
        }
        packets.push((step.flow, packet));
        let (id, seq) = (sample.id, sample.seq);
        *sample = usual;
        sample.id = if fixed_id { id } else { id.wrapping_add(1) };
        sample.seq = seq.wrapping_add(step.len as u32);
    }
    packets
}

/// IPv4 id and header checksum blanked, for packets whose id means nothing.
fn without_atomic_ids(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

proptest! {
    #[test]
    fn splitting_gives_the_same_packets_in_the_same_order_per_flow(
        steps in proptest::collection::vec(any_step(), 0..120),
        fixed_id: bool,
        tso: bool,
        uso: bool,
    ) {
        let sent = traffic(&steps, fixed_id);
        let packets: Vec<Vec<u8>> = sent.iter().map(|(_, p)| p.clone()).collect();
        let writes = coalesce(&packets, TunCaps { tso, uso });
        let groups = split(&writes);
        prop_assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), packets.len());
        // Each group's packets come from one flow; take them from that flow's front.
        let mut rest: Vec<std::collections::VecDeque<&Vec<u8>>> = (0..8)
            .map(|flow| sent.iter().filter(|(f, _)| *f == flow).map(|(_, p)| p).collect())
            .collect();
        for packet in groups.into_iter().flatten() {
            let packet = if fixed_id { without_atomic_ids(packet) } else { packet };
            let from = rest.iter_mut().find(|queue| {
                queue.front().is_some_and(|front| match fixed_id {
                    true => without_atomic_ids((*front).clone()) == packet,
                    false => **front == packet,
                })
            });
            prop_assert!(from.is_some(), "out of order or changed: {:02x?}", packet);
            from.unwrap().pop_front();
        }
    }

    #[test]
    fn clean_traffic_is_joined_as_far_as_possible(
        lens in proptest::collection::vec(1usize..1500, 1..12),
        kind in 0usize..4,
    ) {
        // Full packets and a short one, again and again, each run a super-packet of its own.
        let sample = &all_kinds()[kind];
        let mut sizes_sent = Vec::new();
        let mut expected = Vec::new();
        for (i, len) in lens.iter().enumerate() {
            let full = 1500 + i;
            sizes_sent.extend([full, full, *len]);
            expected.push(3);
        }
        prop_assert_eq!(sizes(&run(sample, &sizes_sent)), expected);
    }

    #[test]
    fn garbage_never_panics(
        packets in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..100), 0u8..5), 0..20),
    ) {
        let packets: Vec<Vec<u8>> = packets
            .into_iter()
            .map(|(mut packet, kind)| {
                let total = packet.len() as u8;
                if let (true, 0 | 1) = (packet.len() > 40, kind) {
                    packet[..10].copy_from_slice(&[0x45, 0, 0, total, 0, 0, 0x40, 0, 9, 6]);
                    packet[9] = if kind == 0 { TCP } else { UDP };
                } else if let (true, 2 | 3) = (packet.len() > 40, kind) {
                    packet[..6].copy_from_slice(&[0x60, 0, 0, 0, 0, total - 40]);
                    packet[6] = if kind == 2 { TCP } else { UDP };
                }
                packet
            })
            .collect();
        let mut written = split(&coalesce(&packets, ALL)).concat();
        let mut expected = packets;
        written.sort();
        expected.sort();
        prop_assert_eq!(written, expected);
    }
}
