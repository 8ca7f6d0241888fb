#![no_main]
//! Joining packets for a TUN device, and frames for a TAP device: the same are joined as by the slow
//! reference, and cutting what was joined gives them back.

#[allow(dead_code, reason = "each target uses its part")]
#[path = "../../dataplane/src/offload/reference.rs"]
mod reference;

use libfuzzer_sys::fuzz_target;
use ringway_dataplane::cipher::Segment;
use ringway_dataplane::frame;
use ringway_dataplane::offload::coalesce::{Coalescer, OPEN_FLOWS, TunCaps};
use ringway_dataplane::offload::vnet_hdr::VnetHdr;
use ringway_dataplane::tun::DeviceKind;
use ringway_fuzz::pieces;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    let caps = TunCaps {
        tso: choice & 1 != 0,
        uso: choice & 2 != 0,
    };
    let kind = match choice & 8 {
        0 => DeviceKind::Tun,
        _ => DeviceKind::Tap,
    };
    let mut packets: Vec<Vec<u8>> = pieces(rest)
        .into_iter()
        .take(300)
        .map(<[u8]>::to_vec)
        .collect();
    if choice & 4 != 0 {
        // Most changed bytes would spoil a checksum, and with it every join.
        for packet in &mut packets {
            let link = frame::link_len(kind, packet);
            reference::complete(&mut packet[link..]);
        }
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
    coalescer.set_kind(kind);
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
                kind,
                &reference::Header::read(write.vnet),
                &joined,
                &group,
                &packets,
            );
        }
        groups.push(group);
    }
    let expected = match kind {
        DeviceKind::Tun => reference::coalesce(&packets, caps.tso, caps.uso, OPEN_FLOWS),
        DeviceKind::Tap => reference::coalesce_frames(&packets, caps.tso, caps.uso, OPEN_FLOWS),
    };
    match expected {
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
fn check(
    kind: DeviceKind,
    header: &reference::Header,
    joined: &[u8],
    group: &[usize],
    packets: &[Vec<u8>],
) {
    let again = match kind {
        DeviceKind::Tun => reference::split(header, joined),
        DeviceKind::Tap => reference::split_frame(header, joined),
    };
    let again = again.expect("a good super-packet");
    assert_eq!(again.len(), group.len());
    let link = frame::link_len(kind, &packets[group[0]]);
    let ids = |i: usize| packets[group[i]][link + 4..link + 6].to_vec();
    for (mut again, &index) in again.into_iter().zip(group) {
        let mut packet = packets[index].clone();
        assert_eq!(again[..link], packet[..link]);
        again.drain(..link);
        packet.drain(..link);
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
