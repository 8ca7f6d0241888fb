#![no_main]
//! Taking apart what receive offload glued together: every byte belongs to one datagram, all are as
//! long as announced but the last, and each is read like a datagram of its own.

use libfuzzer_sys::fuzz_target;
use ringway_dataplane::wire;

fuzz_target!(|data: &[u8]| {
    let Some((size, message)) = data.split_first_chunk::<2>() else {
        return;
    };
    let size = usize::from(u16::from_be_bytes(*size));
    let mut end = 0;
    let mut last = usize::MAX;
    for range in wire::datagrams(message.len(), size) {
        assert_eq!(range.start, end);
        assert!(
            last == usize::MAX || last == size,
            "only the last may be shorter"
        );
        assert!(size == 0 || range.len() <= size);
        assert!(!range.is_empty() || message.is_empty());
        (end, last) = (range.end, range.len());
        let _ = wire::parse(&message[range]);
    }
    assert_eq!(end, message.len());
    assert_ne!(last, usize::MAX, "a message is at least one datagram");
});
