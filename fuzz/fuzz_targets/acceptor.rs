#![no_main]
//! First packets to a server. Whatever comes, each packet is counted exactly once and left as it was,
//! an answer is short and no tunnel comes of a cookie that was not sent to its address.
//!
//! The first byte chooses the wrappings. Then come pieces, each behind its length: seconds that pass,
//! an address, how it is wrapped, and a bare packet. With bit 0 of "how" the echoed session id is put
//! right, as an honest client would.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use ringway::proto::TlsRole;
use ringway::proto::acceptor::Verdict;
use ringway::proto::packet::SessionId;
use ringway::proto::tunnel::Tunnel;
use ringway::proto::wrap::{Wrap, WrapConfig};
use ringway_dataplane::command::Endpoint;
use ringway_fuzz::pieces;
use ringway_fuzz::server::{acceptor, client_wrap, config, now};

fuzz_target!(|data: &[u8]| {
    let Some((&kind, rest)) = data.split_first() else {
        return;
    };
    let start = Instant::now();
    let mut time = Duration::ZERO;
    let mut acceptor = acceptor(kind);
    let plain = Wrap::new(&WrapConfig::None, TlsRole::Client, 1);
    let mut client = Wrap::new(&client_wrap(kind), TlsRole::Client, 1);
    let mut told: HashSet<(u8, SessionId)> = HashSet::new();
    let mut last = None;
    let mut judged = 0u64;
    for piece in pieces(rest).into_iter().take(64) {
        let Some((&[seconds, port, how], bytes)) = piece.split_first_chunk::<3>() else {
            continue;
        };
        time += Duration::from_secs(seconds.into());
        let from = Endpoint::new(([192, 0, 2, 7], 1000 + u16::from(port)).into());
        let mut bytes = bytes.to_vec();
        let mut datagram = Vec::new();
        match plain.unwrap_stateless(&mut bytes) {
            Ok((mut packet, _)) => {
                if how & 1 != 0 && packet.remote_session_id.is_some() {
                    packet.remote_session_id = last.or(packet.remote_session_id);
                }
                client.wrap(&packet, &mut datagram);
            }
            Err(_) => datagram = bytes,
        }
        if how & 2 != 0
            && let Some(byte) = datagram.last_mut()
        {
            *byte ^= 1 << (how >> 5);
        }
        let before = datagram.clone();
        let at = now(start, time);
        match acceptor.judge(at, from, &datagram) {
            Verdict::Drop(_) => {}
            Verdict::Reply(mut reply) => {
                assert!((26..=128).contains(&reply.len()), "an odd answer");
                let mut wrap = Wrap::new(&client_wrap(kind), TlsRole::Client, 1);
                let answer = wrap.unwrap(&mut reply).expect("the client can read it");
                last = Some(answer.session_id);
                told.insert((port, answer.session_id));
            }
            Verdict::Accept(accepted) => {
                let mut tunnel =
                    Tunnel::accept(config(TlsRole::Server, kind), &accepted, from, at, [1; 32]);
                let mut out = Vec::new();
                if tunnel.poll_transmit(at, &mut out).is_some() {
                    let sid = out.get(1..9).and_then(|sid| sid.try_into().ok());
                    let own = SessionId(sid.expect("a session id"));
                    // Only a client that has a key of its own may come without a cookie.
                    let known = told.contains(&(port, own));
                    assert!(known || kind % 4 == 3, "accepted without a cookie");
                }
                while tunnel.poll_event().is_some() {}
            }
        }
        assert_eq!(before, datagram, "changed the packet");
        let counted: u64 = acceptor.counters().rows().map(|(_, n)| n).sum();
        judged += 1;
        assert_eq!(counted, judged, "counted once");
    }
});
