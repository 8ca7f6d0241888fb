//! Garbage from both sides, in bulk: the worker goes on, and none of its buffers is lost.

use super::drops::sealed;
use super::*;
use crate::framing::Framing;
use crate::key_slot::SendKey;

const ROUNDS: usize = 4000;

#[test]
fn a_flood_of_garbage_leaves_a_working_tunnel() {
    for io in engines() {
        for vnet in [false, true] {
            let a = Node::new(io, loopback_socket(), vnet);
            let b = Node::new(io, loopback_socket(), vnet);
            connect(&a, &b, |config| config.float = true, Cipher::Aes256Gcm);
            let (mut ours, mut theirs) = key_pair(Cipher::Aes256Gcm);
            ours.send.cipher[0] ^= 1;
            theirs.recv.cipher[0] ^= 1;
            theirs.send.cipher[0] ^= 1;
            b.send(Command::InstallKey(PEER, 1, Box::new(theirs)));
            let mut key = SendKey::new(&ours, 1, Some(7), Framing::None).unwrap();
            let stranger = loopback_socket();
            let to = Endpoint::new(b.address);
            let mut noise = Noise(0x9e37_79b9_7f4a_7c15 ^ u64::from(vnet));
            for round in 0..ROUNDS {
                let bytes = noise.packet(vnet && round % 2 == 0);
                match round % 4 {
                    // From the network: anything at all, and what only the header makes plausible.
                    0 => send(&stranger, &to, &bytes),
                    1 => send(&stranger, &to, &[&[0x49, 0, 0, 7], &bytes[..]].concat()),
                    // Authenticated, so it reaches everything behind the cipher.
                    2 => send(&stranger, &to, &sealed(&mut key, &bytes)),
                    _ => a.tun.inject(&bytes),
                }
                if round % 32 == 0 {
                    b.tun.discard();
                    a.tun.discard();
                }
            }
            let settled = std::time::Instant::now() + QUIET;
            while std::time::Instant::now() < settled {
                b.tun.discard();
                a.tun.discard();
            }
            // More than there are buffers, one by one.
            for i in 0..100u8 {
                let packet = Sample::udp(false).build(&[i; 50]);
                let injected = match vnet {
                    true => with_header(&VnetHdr::default(), &packet),
                    false => packet.clone(),
                };
                a.tun.inject(&injected);
                assert_eq!(written(&b.tun, vnet, 1), [packet], "{io:?} {vnet} {i}");
            }
            let counts = b.worker.stats();
            for reason in [DropReason::AuthFailed, DropReason::BadPayload] {
                assert!(counts.drops(reason) > 100, "{reason:?}");
            }
        }
    }
}

fn send(from: &UdpSocket, to: &Endpoint, bytes: &[u8]) {
    // The socket of the worker may be full.
    let _ = from.send_to(to, bytes);
}

/// Repeatable garbage.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A packet of at least one byte: random, or a good one with some bytes changed.
    fn packet(&mut self, header: bool) -> Vec<u8> {
        let kind = self.next() % 8;
        let ipv6 = self.next().is_multiple_of(2);
        let len = 1 + (self.next() % 3000) as usize;
        let mut bytes = match kind {
            0 => (0..len).map(|_| self.next() as u8).collect(),
            1 => vec![self.next() as u8; len],
            2 => Sample::udp(ipv6).build(&payload(len)),
            3 | 4 => {
                let size = 50 + (self.next() % 1500) as u16;
                let (vnet, packet) = Sample::tcp(ipv6).build_super(&payload(len * 15), size);
                match header {
                    true => with_header(&vnet, &packet),
                    false => packet,
                }
            }
            _ => {
                let mut sample = Sample::tcp(ipv6);
                sample.flags = self.next() as u8;
                sample.options = (0..4 * (self.next() % 10))
                    .map(|_| self.next() as u8)
                    .collect();
                let packet = sample.build(&payload(len));
                match header {
                    true => with_header(&VnetHdr::default(), &packet),
                    false => packet,
                }
            }
        };
        for _ in 0..self.next() % 4 {
            let at = (self.next() % bytes.len().min(80) as u64) as usize;
            bytes[at] = self.next() as u8;
        }
        bytes.truncate(60_000);
        bytes
    }
}
