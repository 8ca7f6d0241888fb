#![no_main]
//! Key-method-2 messages: what parses is written again and parses to the same.

use libfuzzer_sys::fuzz_target;
use ringway::proto::TlsRole;
use ringway::proto::key_exchange::KeyMessage;

fuzz_target!(|data: &[u8]| {
    for role in [TlsRole::Client, TlsRole::Server] {
        let Ok((message, used)) = KeyMessage::parse_prefix(role, data) else {
            continue;
        };
        assert!(used <= data.len());
        let _ = message.key_source();
        let again = message.encode(role);
        if let Ok(parsed) = KeyMessage::parse(role, &again) {
            assert!(parsed.random1 == message.random1 && parsed.pre_master == message.pre_master);
        }
    }
});
