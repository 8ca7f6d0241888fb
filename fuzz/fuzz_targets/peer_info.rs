#![no_main]
//! What a peer says about itself.

use libfuzzer_sys::fuzz_target;
use ringway::proto::peer_info::PeerInfo;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let info = PeerInfo::parse(&text);
    let _ = (
        info.ciphers(),
        info.is_2_6_or_later(),
        info.has(2),
        info.value("IV_VER"),
    );
    assert!(info.lines.len() <= text.split('\n').count());
});
