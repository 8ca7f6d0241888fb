#![no_main]
//! Fragments of a peer: any headers, sizes and times. What comes out is never larger than allowed, and
//! a packet that is cut afterwards still comes out as it went in.
//!
//! ```text
//!   | limit 1 | parts: | seconds 1 | length 1 | header 4 | bytes ... |
//! ```

use libfuzzer_sys::fuzz_target;
use ringway_dataplane::fragment::{Cut, HEADER_LEN, Header, Reassembler, Taken};

const LARGEST: usize = 2000;

fuzz_target!(|data: &[u8]| {
    let Some((&limit, mut rest)) = data.split_first() else {
        return;
    };
    let mut reassembler = Reassembler::new(LARGEST);
    let mut now = 0;
    while let [later, len, more @ ..] = rest {
        now += u32::from(later & 7);
        let len = (usize::from(*len) * 4).min(more.len());
        let (payload, after) = more.split_at(len);
        if let Ok(header) = Header::parse(payload) {
            assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
        }
        match reassembler.take(now, payload) {
            Ok(Taken::Packet(packet)) => assert!(packet.len() <= LARGEST),
            Ok(Taken::Whole) => assert!(payload.len() >= HEADER_LEN),
            Ok(Taken::Kept) | Err(_) => {}
        }
        rest = after;
    }

    let packet = &data[..data.len().min(LARGEST)];
    let limit = 4 + usize::from(limit) * 4;
    let Some(cut) = Cut::new(packet.len(), limit) else {
        assert!(packet.len() > Cut::longest(limit));
        return;
    };
    // Late enough for everything before to be given up.
    now += 10;
    for i in 0..cut.count() {
        let part = cut.part(i);
        assert!(part.len() <= limit);
        let payload = [&cut.header(7, i).to_bytes(), &packet[part]].concat();
        match reassembler.take(now, &payload) {
            Ok(Taken::Whole) => assert_eq!(cut.count(), 1),
            Ok(Taken::Kept) => assert!(i + 1 < cut.count()),
            Ok(Taken::Packet(whole)) => {
                assert_eq!(i + 1, cut.count());
                assert_eq!(whole, packet);
            }
            Err(reason) => panic!("{reason:?}"),
        }
    }
});
