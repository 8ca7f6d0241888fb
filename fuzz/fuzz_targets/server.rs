#![no_main]
//! A server's tunnel and a pulling client on a wire that does what the input says, with a driver that
//! answers in any order, twice, or not at all. Whatever happens, neither end panics, sends or wakes
//! without end, or keeps without bound.
//!
//! The first byte chooses the wrapping, the transport (bit 4) and whether the driver answers at once
//! (bit 3). Then each step is a byte and what it needs:
//! `0..=0x5f` deliver the oldest datagram, `0x60..` lose it, `0x80..` deliver it twice,
//! `0xa0.. XX` deliver it with byte XX flipped, `0xc0.. N` let N/4 seconds pass, `0xd0..` a
//! [`command`], `0xf0.. LEN TEXT` a control message of the client, or of its datagrams' bytes.

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ringway::proto::tunnel::Command;
use ringway_fuzz::server::{Wire, serve};

const MAX_STEPS: usize = 200;

fuzz_target!(|data: &[u8]| {
    let Some((&kind, rest)) = data.split_first() else {
        return;
    };
    let mut wire = Wire::new(kind, kind & 8 == 0);
    let mut steps = rest.iter().copied();
    for _ in 0..MAX_STEPS {
        let Some(step) = steps.next() else {
            break;
        };
        wire.drain();
        match step {
            0xc0..=0xcf => {
                wire.pass(Duration::from_millis(250) * u32::from(steps.next().unwrap_or(4)));
            }
            0xd0..=0xef => command(&mut wire, step - 0xd0, &mut steps),
            0xf0..=0xf7 => {
                let text = text(&mut steps);
                let now = wire.now();
                wire.client.handle_command(now, Command::SendMessage(text));
            }
            0xf8..=0xff => {
                let bytes = counted(&mut steps);
                wire.deliver(step & 1 == 0, bytes);
            }
            _ => {
                let Some((to_server, mut datagram)) = wire.flight.pop_front() else {
                    continue;
                };
                match step {
                    0x60..=0x7f => continue,
                    0x80..=0x9f => wire.deliver(to_server, datagram.clone()),
                    0xa0..=0xbf => {
                        let at = usize::from(steps.next().unwrap_or(0)) % datagram.len();
                        datagram[at] ^= 1 << (step & 7);
                    }
                    _ => {}
                }
                wire.deliver(to_server, datagram);
            }
        }
    }
    for _ in 0..200 {
        for _ in 0..20 {
            wire.drain();
            let Some((to_server, datagram)) = wire.flight.pop_front() else {
                break;
            };
            wire.deliver(to_server, datagram);
        }
        wire.pass(Duration::from_secs(1));
    }
});

/// What the server's driver, or the client's, may say at any time.
fn command(wire: &mut Wire, which: u8, steps: &mut impl Iterator<Item = u8>) {
    let request = wire.server.request;
    let command = match which {
        0 => Command::Authenticated { request },
        1 => Command::AuthFailed {
            request,
            reason: Some(text(steps)),
        },
        2 => Command::AuthPending {
            timeout: u32::from(steps.next().unwrap_or(0)) << 4,
            messages: vec![text(steps)],
        },
        3 => serve(),
        4 => Command::Refuse(None),
        5 => Command::PushToken(vec![text(steps)]),
        6 => Command::PushUpdate(vec![text(steps); 40]),
        7 => Command::Restart {
            next_remote: false,
            text: text(steps),
        },
        8 => Command::Halt { text: text(steps) },
        9 => Command::Renegotiate,
        10 => Command::NotifyExit,
        11 => Command::Authenticated {
            request: request.wrapping_sub(1),
        },
        _ => {
            let now = wire.now();
            let command = match which {
                12 => Command::Renegotiate,
                13 => Command::NotifyExit,
                _ => Command::Credentials {
                    username: Some(text(steps)),
                    password: None,
                },
            };
            wire.client.handle_command(now, command);
            return;
        }
    };
    wire.command(command);
}

fn text(steps: &mut impl Iterator<Item = u8>) -> String {
    String::from_utf8_lossy(&counted(steps)).into_owned()
}

/// Bytes behind their number.
fn counted(steps: &mut impl Iterator<Item = u8>) -> Vec<u8> {
    let len = usize::from(steps.next().unwrap_or(0));
    steps.take(len).collect()
}
