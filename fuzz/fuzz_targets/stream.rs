#![no_main]
//! Packets in a TCP stream: however the bytes are cut, the same packets are found and the same end,
//! and no more is kept than one frame.

use libfuzzer_sys::fuzz_target;
use ringway_dataplane::stream::{BadLength, FrameReader, PREFIX};

fuzz_target!(|data: &[u8]| {
    let [max_high, max_low, step, stream @ ..] = data else {
        return;
    };
    let max = usize::from(u16::from_be_bytes([*max_high, *max_low]));
    let whole = read(stream, max, stream.len());
    assert_eq!(read(stream, max, usize::from(*step) + 1), whole);
    let (packets, bad) = whole;
    let mut rest = stream;
    for packet in &packets {
        assert!(!packet.is_empty() && packet.len() <= max);
        let (prefix, behind) = rest.split_at(PREFIX);
        assert_eq!(
            usize::from(prefix[0]) << 8 | usize::from(prefix[1]),
            packet.len()
        );
        rest = behind.strip_prefix(&packet[..]).expect("not what was sent");
    }
    match bad {
        Some(bad) => {
            assert!(bad.len == 0 || bad.len > max);
            assert_eq!(rest[..PREFIX], (bad.len as u16).to_be_bytes());
        }
        None => assert!(rest.len() < PREFIX + max.max(1)),
    }
});

/// What is found in a stream that is read `step` bytes at a time.
fn read(stream: &[u8], max: usize, step: usize) -> (Vec<Vec<u8>>, Option<BadLength>) {
    let mut frames = FrameReader::new(max);
    let mut packets = Vec::new();
    let mut buffer = vec![0; PREFIX + max + step];
    for piece in stream.chunks(step.max(1)) {
        let begun = frames.resume(&mut buffer);
        buffer[begun..][..piece.len()].copy_from_slice(piece);
        let filled = begun + piece.len();
        let mut at = 0;
        loop {
            match frames.next(&buffer[..filled], &mut at) {
                Ok(Some(packet)) => packets.push(buffer[packet].to_vec()),
                Ok(None) => break,
                Err(bad) => return (packets, Some(bad)),
            }
        }
        frames.keep(&buffer[at..filled]);
    }
    (packets, None)
}
