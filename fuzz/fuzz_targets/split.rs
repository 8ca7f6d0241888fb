#![no_main]
//! Cutting super-packets as they come from a TUN device.

use libfuzzer_sys::fuzz_target;
use ringway_dataplane::offload::split::{MAX_SEGMENTS, plan};
use ringway_dataplane::offload::vnet_hdr::VnetHdr;

fuzz_target!(|data: &[u8]| {
    let Some(header) = VnetHdr::read(data) else {
        return;
    };
    let packet = &data[VnetHdr::LEN..];
    let Ok(plan) = plan(&header, packet) else {
        return;
    };
    assert!((1..=MAX_SEGMENTS).contains(&plan.count()));
    let longest = plan.len_of(0);
    let mut out = vec![0u8; longest];
    for i in 0..plan.count() {
        let len = plan.len_of(i);
        assert!(len <= longest && (i + 1 == plan.count() || len == longest));
        plan.write(packet, i, &mut out[..len]);
        // The flow stays the same: version and addresses are those of the super-packet.
        if plan.count() > 1 {
            let addresses = if packet[0] >> 4 == 6 { 8..40 } else { 12..20 };
            assert_eq!(out[addresses.clone()], packet[addresses]);
        }
    }
});
