#![no_main]
//! Joining packets for a TUN device: the same packets are joined as by the slow reference, and
//! cutting what was joined gives them back.

#[allow(dead_code, reason = "each target uses its part")]
#[path = "../../dataplane/src/offload/reference.rs"]
mod reference;

use libfuzzer_sys::fuzz_target;
use ringway_dataplane::cipher::Segment;
use ringway_dataplane::offload::coalesce::{Coalescer, OPEN_FLOWS, TunCaps};
use ringway_dataplane::offload::vnet_hdr::VnetHdr;
use ringway_fuzz::pieces;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    let caps = TunCaps {
        tso: choice & 1 != 0,
        uso: choice & 2 != 0,
    };
    let mut packets: Vec<Vec<u8>> = pieces(rest)
        .into_iter()
        .take(300)
        .map(<[u8]>::to_vec)
        .collect();
    if choice & 4 != 0 {
        // Most changed bytes would spoil a checksum, and with it every join.
        packets.iter_mut().for_each(|p| reference::complete(p));
    }
    let mut buffer = Vec::new();
    let mut segments = Vec::new();
    for packet in &packets {
        // Apart, so that a range tells its packet even when that is empty.
        buffer.push(0xa5);
        segments.push(Segment {
            start: buffer.len(),
            len: packet.len(),
        });
        buffer.extend_from_slice(packet);
    }
    let mut coalescer = Coalescer::new(packets.len());
    coalescer.coalesce(&mut buffer, &segments, caps);
    let mut groups = Vec::new();
    for write in coalescer.writes() {
        let group: Vec<usize> = write
            .slices
            .iter()
            .map(|slice| segments.partition_point(|s| s.start <= slice.start) - 1)
            .collect();
        let joined: Vec<u8> = write
            .slices
            .iter()
            .flat_map(|s| buffer[s.start..s.start + s.len].to_vec())
            .collect();
        if let [alone] = group[..] {
            assert_eq!(*write.vnet, [0; VnetHdr::LEN]);
            assert_eq!(joined, packets[alone]);
        } else {
            check(
                &reference::Header::read(write.vnet),
                &joined,
                &group,
                &packets,
            );
        }
        groups.push(group);
    }
    match reference::coalesce(&packets, caps.tso, caps.uso, OPEN_FLOWS) {
        Some(expected) => assert_eq!(groups, expected),
        None => {
            let mut all = groups.concat();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..packets.len()), "lost or doubled");
        }
    }
});

/// A super-packet stands for these packets: checksums of zero may be written either way, and ids
/// that stay the same mean nothing.
fn check(header: &reference::Header, joined: &[u8], group: &[usize], packets: &[Vec<u8>]) {
    let again = reference::split(header, joined).expect("a good super-packet");
    assert_eq!(again.len(), group.len());
    let ids = |i: usize| packets[group[i]][4..6].to_vec();
    for (again, &index) in again.into_iter().zip(group) {
        let mut packet = packets[index].clone();
        assert!(reference::is_sound(&packet), "joined though damaged");
        reference::complete(&mut packet);
        if ids(0) == ids(1) {
            assert_eq!(
                reference::without_atomic_id(again),
                reference::without_atomic_id(packet)
            );
        } else {
            assert_eq!(again, packet);
        }
    }
}
