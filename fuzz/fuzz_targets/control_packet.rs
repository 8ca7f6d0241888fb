#![no_main]
//! Control packets without their wrap: what parses is written back byte for byte.

use libfuzzer_sys::fuzz_target;
use ringway::proto::packet::{
    CLEAR_LEN, ControlPacket, parse_clear, parse_early_negotiation, peek,
};

fuzz_target!(|data: &[u8]| {
    let _ = parse_early_negotiation(data);
    let clear = parse_clear(data);
    assert_eq!(peek(data), clear.ok());
    let Ok((opcode, key_id, session_id)) = clear else {
        return;
    };
    let rest = &data[CLEAR_LEN..];
    let Ok(packet) = ControlPacket::parse_rest(opcode, key_id, session_id, rest) else {
        return;
    };
    assert_eq!(packet.clear_header(), data[..CLEAR_LEN]);
    let mut again = Vec::new();
    packet.encode_rest(&mut again);
    // Bytes after an ACK are not part of it.
    assert_eq!(again, rest[..again.len()]);
    assert!(!opcode.is_reliable() || again.len() == rest.len());
});
