#![no_main]
//! A whole session: two control channels and a wire that does what the input says. Whatever
//! happens, neither end panics, sends without end, or takes a packet nobody sealed for a key; and
//! with wraps that authenticate, forged packets change nothing.
//!
//! The first byte chooses the wrap. Then each step is a byte and what it needs:
//! `0..=0x5f` deliver the oldest datagram to the far end, `0x60..` lose it, `0x80..` deliver it
//! twice, `0xa0.. XX` deliver it with byte XX flipped, `0xc0.. N` let N/4 seconds pass,
//! `0xe0.. LEN BYTES` deliver these bytes instead.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use ringway::proto::TlsRole;
use ringway_fuzz::tunnels::{End, now};

fuzz_target!(|data: &[u8]| {
    let Some((&kind, rest)) = data.split_first() else {
        return;
    };
    let start = Instant::now();
    let mut ends = [
        End::new(TlsRole::Client, kind, start),
        End::new(TlsRole::Server, kind, start),
    ];
    // Datagrams under way: who gets them, and their bytes.
    let mut wire: VecDeque<(usize, Vec<u8>)> = VecDeque::new();
    let mut time = Duration::ZERO;
    let mut steps = rest.iter().copied();
    let mut count = 0;
    while let Some(step) = steps.next() {
        count += 1;
        if count > 200 {
            break;
        }
        for from in [0, 1] {
            let mut out = Vec::new();
            ends[from].drain(now(start, time), &mut out);
            wire.extend(out.into_iter().map(|datagram| (1 - from, datagram)));
        }
        assert!(wire.len() < 10_000, "more and more datagrams");
        let to_server = usize::from(step & 1);
        match step {
            0xc0..=0xdf => {
                time += Duration::from_millis(250) * u32::from(steps.next().unwrap_or(4));
                ends.iter_mut()
                    .for_each(|end| end.tunnel.handle_timeout(now(start, time)));
            }
            0xe0..=0xff => {
                let len = usize::from(steps.next().unwrap_or(0));
                let bytes: Vec<u8> = steps.by_ref().take(len).collect();
                deliver(&mut ends, to_server, bytes, now(start, time));
            }
            _ => {
                let Some((to, mut datagram)) = wire.pop_front() else {
                    continue;
                };
                match step {
                    0x60..=0x7f => continue,
                    0x80..=0x9f => deliver(&mut ends, to, datagram.clone(), now(start, time)),
                    0xa0..=0xbf => {
                        let at = usize::from(steps.next().unwrap_or(0)) % datagram.len().max(1);
                        if let Some(byte) = datagram.get_mut(at) {
                            *byte ^= 1 << (step & 7);
                        }
                    }
                    _ => {}
                }
                deliver(&mut ends, to, datagram, now(start, time));
            }
        }
    }
    // A sending key exists only where a handshake went through, and that takes both ends' packets.
    assert!(ends[0].keys_used == 0 || count >= 8, "keys from nothing");
});

fn deliver(ends: &mut [End; 2], to: usize, mut datagram: Vec<u8>, now: ringway::proto::Now) {
    let from = ends[1 - to].endpoint;
    ends[to].tunnel.handle_datagram(now, from, &mut datagram);
}
