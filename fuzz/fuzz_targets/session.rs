#![no_main]
//! A whole session: two control channels and a wire that does what the input says. Whatever
//! happens, neither end panics, sends or wakes without end, keeps without bound, or speaks after it
//! has failed; with wraps that authenticate, forged packets are not taken. Once the wire behaves
//! again, both ends either come up or have given up.
//!
//! The first byte chooses the wrap and who calls. Then each step is a byte and what it needs; its lowest bit
//! chooses an end where one is needed:
//! `0..=0x5f` deliver the oldest datagram, `0x60..` lose it, `0x80..` deliver it twice,
//! `0xa0.. XX` deliver it with byte XX flipped, `0xc0.. N` let N/4 seconds pass, `0xd0..` a
//! [`command`], `0xe0.. LEN BYTES` deliver these bytes instead.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use ringway::proto::tunnel::{Command, KeyUsage};
use ringway::proto::{Now, TlsRole};
use ringway_fuzz::tunnels::{End, now};

const MAX_STEPS: usize = 200;
/// Longer than a negotiation may take, and the next one.
const CALM: u32 = 200;

struct Wire {
    start: Instant,
    time: Duration,
    ends: [End; 2],
    /// Datagrams under way: who gets them, and their bytes.
    flight: VecDeque<(usize, Vec<u8>)>,
    /// Datagrams sent at any time.
    seen: Vec<(usize, Vec<u8>)>,
    /// An end started anew that waits for a call, which the other sees no reason for: it has no
    /// pings here to miss.
    uncalled: bool,
}

fuzz_target!(|data: &[u8]| {
    let Some((&kind, rest)) = data.split_first() else {
        return;
    };
    let start = Instant::now();
    let mut wire = Wire {
        start,
        time: Duration::ZERO,
        ends: [TlsRole::Client, TlsRole::Server].map(|role| End::new(role, kind, start)),
        flight: VecDeque::new(),
        seen: Vec::new(),
        uncalled: false,
    };
    let mut steps = rest.iter().copied();
    for _ in 0..MAX_STEPS {
        let Some(step) = steps.next() else {
            break;
        };
        wire.drain();
        let end = usize::from(step & 1);
        match step {
            0xc0..=0xcf => {
                wire.pass(Duration::from_millis(250) * u32::from(steps.next().unwrap_or(4)));
            }
            0xd0..=0xdf => command(&mut wire, end, (step >> 1) & 7, &mut steps),
            0xe0..=0xff => {
                let bytes = counted(&mut steps);
                wire.deliver(end, bytes, true);
            }
            _ => {
                let Some((to, mut datagram)) = wire.flight.pop_front() else {
                    continue;
                };
                match step {
                    0x60..=0x7f => continue,
                    0x80..=0x9f => wire.deliver(to, datagram.clone(), false),
                    0xa0..=0xbf => {
                        let at = usize::from(steps.next().unwrap_or(0)) % datagram.len();
                        datagram[at] ^= 1 << (step & 7);
                        wire.deliver(to, datagram, true);
                        continue;
                    }
                    _ => {}
                }
                wire.deliver(to, datagram, false);
            }
        }
    }
    for _ in 0..CALM {
        for _ in 0..20 {
            wire.drain();
            let Some((to, datagram)) = wire.flight.pop_front() else {
                break;
            };
            wire.deliver(to, datagram, false);
        }
        wire.pass(Duration::from_secs(1));
    }
    let over = wire.ends.iter().any(|end| end.failed);
    let up = wire.ends.iter().all(|end| end.keys_used > 0);
    assert!(over || up || wire.uncalled, "neither up nor over");
});

/// `0 LEN` uses the key much, `1` renegotiates, `2` leaves, `3 LEN TEXT` sends a message, `4` takes
/// credentials, `5 N` replays a datagram, `6 N XX` replays it damaged, `7` starts the program anew.
fn command(wire: &mut Wire, end: usize, which: u8, steps: &mut impl Iterator<Item = u8>) {
    let command = match which {
        0 => Command::Usage(KeyUsage {
            tx_packets: u64::from(steps.next().unwrap_or(0)) << 25,
            ..KeyUsage::default()
        }),
        1 => Command::Renegotiate,
        2 => Command::NotifyExit,
        3 => Command::SendMessage(String::from_utf8_lossy(&counted(steps)).into_owned()),
        4 => Command::Credentials {
            username: Some("user".into()),
            password: None,
        },
        5 | 6 => {
            let at = usize::from(steps.next().unwrap_or(0));
            let Some((to, mut datagram)) = wire.seen.get(at).cloned() else {
                return;
            };
            if which == 6 {
                let at = usize::from(steps.next().unwrap_or(0)) % datagram.len();
                datagram[at] ^= 0x40;
            }
            wire.deliver(to, datagram, which == 6);
            return;
        }
        _ => {
            let now = wire.now();
            wire.ends[end].restart(now);
            wire.uncalled |= wire.ends[end].waits();
            return;
        }
    };
    let now = wire.now();
    wire.ends[end].tunnel.handle_command(now, command);
}

/// Bytes behind their number.
fn counted(steps: &mut impl Iterator<Item = u8>) -> Vec<u8> {
    let len = usize::from(steps.next().unwrap_or(0));
    steps.take(len).collect()
}

impl Wire {
    fn now(&self) -> Now {
        now(self.start, self.time)
    }

    fn drain(&mut self) {
        let now = self.now();
        for from in [0, 1] {
            let mut out = Vec::new();
            self.ends[from].drain(now, &mut out);
            self.send(from, out);
        }
    }

    fn send(&mut self, from: usize, out: Vec<Vec<u8>>) {
        for datagram in out {
            if self.seen.len() < 256 {
                self.seen.push((1 - from, datagram.clone()));
            }
            self.flight.push_back((1 - from, datagram));
        }
        assert!(self.flight.len() < 10_000, "more and more datagrams");
    }

    fn pass(&mut self, time: Duration) {
        self.time += time;
        let now = self.now();
        for from in [0, 1] {
            let mut out = Vec::new();
            self.ends[from].handle_timeout(now, &mut out);
            self.send(from, out);
        }
    }

    fn deliver(&mut self, to: usize, mut datagram: Vec<u8>, forged: bool) {
        let now = self.now();
        let from = self.ends[1 - to].endpoint;
        let end = &mut self.ends[to];
        let before = end.tunnel.counters().accepted;
        end.tunnel.handle_datagram(now, from, &mut datagram);
        let taken = end.tunnel.counters().accepted != before;
        assert!(!(forged && taken && end.is_wrapped()), "took a forgery");
    }
}
