#![no_main]
//! Inner packets: reading their headers, clamping their MSS, answering with too-big.

use libfuzzer_sys::fuzz_target;
use ringway_dataplane::ip::IpView;
use ringway_dataplane::{icmp, ip, mss};

fuzz_target!(|data: &[u8]| {
    let _ = (ip::version(data), ip::source(data), ip::destination(data));
    if let Some(view) = IpView::parse(data) {
        assert!(view.header_len() <= view.total_len() && view.total_len() <= data.len());
        let _ = (view.protocol(), view.transport(), view.is_fragment());
    }
    let mut out = vec![0u8; 2048];
    if let Some(len) = icmp::too_big(data, 1400, &mut out) {
        assert!(
            IpView::parse(&out[..len]).is_some(),
            "an answer that is no packet"
        );
    }
    for partial in [false, true] {
        let mut packet = data.to_vec();
        let changed = mss::clamp(&mut packet, 1360, 1340, partial);
        assert_eq!(changed, packet != data);
        assert!(
            !mss::clamp(&mut packet, 1360, 1340, partial),
            "clamped twice"
        );
    }
});
