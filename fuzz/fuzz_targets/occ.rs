#![no_main]
//! Options strings: comparing never fails, and a string agrees with itself.

use libfuzzer_sys::fuzz_target;
use ringway::proto::occ::{compare, extract};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let _ = extract(&text);
    let (ours, theirs) = text
        .split_once('\n')
        .unwrap_or((&text, "V4,dev-type tun,link-mtu 1549"));
    let _ = compare(ours, theirs);
    let own = compare(ours, ours);
    assert!(own.is_empty(), "{ours:?} differs from itself: {own:?}");
});
