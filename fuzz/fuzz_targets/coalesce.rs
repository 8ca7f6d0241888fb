#![no_main]
//! Joining packets for a TUN device: no byte is lost, and cutting what was joined gives the
//! packets back.

use libfuzzer_sys::fuzz_target;
use ringway_dataplane::cipher::Segment;
use ringway_dataplane::offload::coalesce::{Coalescer, TunCaps};
use ringway_dataplane::offload::split::plan;
use ringway_dataplane::offload::vnet_hdr::VnetHdr;
use ringway_fuzz::pieces;

fuzz_target!(|data: &[u8]| {
    let Some((&caps, rest)) = data.split_first() else {
        return;
    };
    let caps = TunCaps {
        tso: caps & 1 != 0,
        uso: caps & 2 != 0,
    };
    let packets: Vec<&[u8]> = pieces(rest).into_iter().take(128).collect();
    let mut buffer = Vec::new();
    let mut segments = Vec::new();
    for packet in &packets {
        segments.push(Segment {
            start: buffer.len(),
            len: packet.len(),
        });
        buffer.extend_from_slice(packet);
    }
    let mut coalescer = Coalescer::new(128);
    coalescer.coalesce(&mut buffer, &segments, caps);
    let mut out: Vec<Vec<u8>> = Vec::new();
    for write in coalescer.writes() {
        let header = VnetHdr::read(write.vnet).expect("ten bytes");
        let joined: Vec<u8> = write
            .slices
            .iter()
            .flat_map(|s| buffer[s.start..s.start + s.len].to_vec())
            .collect();
        match plan(&header, &joined) {
            Ok(plan) => {
                for i in 0..plan.count() {
                    let mut packet = vec![0u8; plan.len_of(i)];
                    plan.write(&joined, i, &mut packet);
                    out.push(packet);
                }
            }
            // What was left alone may be anything, also nothing a device would give.
            Err(_) => {
                assert_eq!(
                    header.gso_type,
                    VnetHdr::GSO_NONE,
                    "a bad super-packet was made"
                );
                out.push(joined);
            }
        }
    }
    let mut want: Vec<Vec<u8>> = packets.into_iter().map(<[u8]>::to_vec).collect();
    for packet in want.iter_mut().chain(&mut out) {
        forget_id(packet);
    }
    want.sort();
    out.sort();
    assert_eq!(out, want);
});

/// IPv4 ids, which mean nothing in packets that must not be fragmented, are counted up from the
/// first packet's; the header checksum follows them.
fn forget_id(packet: &mut [u8]) {
    if packet.len() >= 20 && packet[0] >> 4 == 4 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
}
