#![no_main]
//! Cutting super-packets as they come from a TUN device: the segments, or the refusal, are those of
//! the slow reference, and joining the segments again loses nothing.

#[allow(dead_code, reason = "each target uses its part")]
#[path = "../../dataplane/src/offload/reference.rs"]
mod reference;

use libfuzzer_sys::fuzz_target;
use ringway_dataplane::cipher::Segment;
use ringway_dataplane::offload::coalesce::{Coalescer, TunCaps};
use ringway_dataplane::offload::split::{MAX_SEGMENTS, plan};
use ringway_dataplane::offload::vnet_hdr::VnetHdr;

fuzz_target!(|data: &[u8]| {
    let Some((raw, packet)) = data.split_first_chunk::<{ VnetHdr::LEN }>() else {
        return;
    };
    let header = VnetHdr::read(raw).expect("ten bytes");
    let expected = reference::split(&reference::Header::read(raw), packet);
    let Ok(plan) = plan(&header, packet) else {
        assert!(expected.is_none(), "refused");
        return;
    };
    assert!((1..=MAX_SEGMENTS).contains(&plan.count()));
    let longest = plan.len_of(0);
    let mut buffer = Vec::new();
    let mut segments = Vec::new();
    for i in 0..plan.count() {
        let len = plan.len_of(i);
        assert!(len <= longest && (i + 1 == plan.count() || len == longest));
        let start = buffer.len();
        buffer.resize(start + len, 0xee);
        plan.write(packet, i, &mut buffer[start..]);
        segments.push(Segment { start, len });
    }
    let cut = |buffer: &[u8], s: &Segment| buffer[s.start..s.start + s.len].to_vec();
    let made: Vec<Vec<u8>> = segments.iter().map(|s| cut(&buffer, s)).collect();
    assert_eq!(Some(&made), expected.as_ref());
    if made.len() == 1 {
        return;
    }
    let caps = TunCaps {
        tso: true,
        uso: true,
    };
    let mut coalescer = Coalescer::new(segments.len());
    coalescer.coalesce(&mut buffer, &segments, caps);
    let again = coalescer.writes().flat_map(|write| {
        let joined = write.slices.iter().flat_map(|s| cut(&buffer, s));
        let header = reference::Header::read(write.vnet);
        reference::split(&header, &joined.collect::<Vec<u8>>()).expect("a good super-packet")
    });
    assert_eq!(again.collect::<Vec<_>>(), made);
});
