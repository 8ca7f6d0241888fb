#![no_main]
//! Options strings: comparing never fails, and what it says of a hostile peer is fit for a log.

use libfuzzer_sys::fuzz_target;
use ringway::proto::occ::{compare, extract};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let _ = extract(&text);
    let (ours, theirs) = text
        .split_once('\n')
        .unwrap_or((&text, "V4,dev-type tun,link-mtu 1549"));
    for warning in compare(ours, theirs) {
        assert!(
            !warning.contains(char::is_control),
            "{warning:?} is not for a log"
        );
    }
});
