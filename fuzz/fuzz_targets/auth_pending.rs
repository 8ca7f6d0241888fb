#![no_main]
//! What a script asks a client: never more than lines that fit a control message.

use libfuzzer_sys::fuzz_target;
use ringway::host::server_scripts::AuthPending;

fuzz_target!(|data: &[u8]| {
    if let Ok(pending) = AuthPending::parse(data) {
        assert!(pending.timeout > 0 && !pending.method.is_empty());
        for text in [&pending.method, &pending.message] {
            assert!(text.len() <= 1024 && !text.contains(char::is_control));
        }
        assert_eq!(
            pending.check_method(Some(&pending.method)).is_ok(),
            !pending.method.contains(',')
        );
    }
});
