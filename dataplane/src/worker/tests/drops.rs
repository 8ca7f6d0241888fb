//! Every reason to drop a packet is met by a worker and counted once. What other tests of the worker
//! count is not repeated here.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::framing::Framing;
use crate::key_slot::SendKey;
use crate::tun::DeviceKind;
use crate::worker::handover::{Bell, Handover};
use crate::worker::streams::Streams;
use crate::worker::{
    COMMAND_QUEUE, Counts, EVENT_QUEUE, Outbox, Place, RESERVED_EVENTS, Shared, Worker,
};

#[test]
fn replayed_datagrams() {
    for io in engines() {
        let b = Node::new(io, loopback_socket(), false);
        let peer = loopback_socket();
        let (ours, theirs) = key_pair(Cipher::Aes256Gcm);
        let config = b.config(peer.local_addr().unwrap());
        b.send(Command::SetPeer(PEER, Box::new(config)));
        b.send(Command::InstallKey(PEER, 0, Box::new(theirs)));
        std::thread::sleep(QUIET);
        let mut key = SendKey::new(&ours, 0, Some(7), Framing::None).unwrap();
        let packet = Sample::udp(false).build(b"once");
        let datagram = sealed(&mut key, &packet);
        let to = Endpoint::new(b.address);
        for _ in 0..3 {
            peer.send_to(&to, &datagram).unwrap();
        }
        b.dropped(DropReason::Replay, 2);
        assert_eq!(b.tun.next(PATIENCE), Some(packet));
        assert_eq!(b.tun.next(QUIET), None);
    }
}

#[test]
fn compressed_payloads() {
    for io in engines() {
        let (a, b) = pair(io, false, Cipher::Aes256Gcm);
        let mut config = b.config(a.address);
        config.framing = Framing::Lzo;
        b.send(Command::SetPeer(PEER, Box::new(config)));
        std::thread::sleep(QUIET);
        a.send(Command::SendPayload(PEER, vec![0x66, 1, 2, 3]));
        b.dropped(DropReason::Compressed, 1);
    }
}

#[test]
fn contradictory_offload_headers() {
    for io in engines() {
        let (a, _b) = pair(io, true, Cipher::Aes256Gcm);
        let (header, _) = Sample::tcp(false).build_super(&payload(5000), 1000);
        let packet = Sample::udp(false).build(b"no TCP");
        a.tun.inject(&with_header(&header, &packet));
        a.tun.inject(&[0; VnetHdr::LEN - 1]);
        a.dropped(DropReason::BadOffload, 2);
    }
}

#[test]
fn blocked_ipv6_is_answered() {
    for io in engines() {
        let a = Node::new(io, loopback_socket(), true);
        let b = Node::new(io, loopback_socket(), true);
        connect(&a, &b, |config| config.block_ipv6 = true, Cipher::Aes256Gcm);
        let six = Sample::udp(true).build(b"six");
        a.tun.inject(&with_header(&VnetHdr::default(), &six));
        let answer = a.tun.next(PATIENCE).unwrap();
        // ICMPv6, no route to destination
        assert_eq!(answer[VnetHdr::LEN + 6], 58);
        assert_eq!(answer[VnetHdr::LEN + 40..][..2], [1, 0]);
        a.dropped(DropReason::BlockedIpv6, 1);
        let four = Sample::udp(false).build(b"four");
        a.tun.inject(&with_header(&VnetHdr::default(), &four));
        assert_eq!(written(&b.tun, true, 1), [four]);
    }
}

#[test]
fn strangers_cannot_keep_a_peer_from_being_heard() {
    for io in engines() {
        let (a, b) = pair(io, false, Cipher::Aes256Gcm);
        let stranger = loopback_socket();
        let to = Endpoint::new(b.address);
        let control = [7 << 3, 1, 2, 3];
        stranger
            .send_to(&to, &[[7 << 3; 2048], [0; 2048]].concat())
            .unwrap();
        stranger.send_to(&to, &[7 << 3; 4097]).unwrap();
        b.dropped(DropReason::Malformed, 1);
        let room = (EVENT_QUEUE - RESERVED_EVENTS) as u64;
        for sent in 1..room + 50 {
            stranger.send_to(&to, &control).unwrap();
            if sent % 50 == 0 {
                // No faster than the socket's buffer takes them.
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        b.dropped(DropReason::ControlQueueFull, 50);
        assert_eq!(
            b.worker.stats().control_packets.load(Relaxed),
            room,
            "{io:?}"
        );
        a.send(Command::SendPayload(
            PEER,
            [&wire::OCC_MAGIC[..], &[6]].concat(),
        ));
        b.event(|event| matches!(event, Event::Occ(PEER, _)).then_some(()));
    }
}

#[test]
fn a_full_queue_of_the_device() {
    in_network_namespace(|| {
        for io in engines() {
            let (a, b) = pair(io, false, Cipher::Aes256Gcm);
            let packet = Sample::udp(false).build(b"x");
            a.tun.inject(&packet);
            assert_eq!(b.tun.next(PATIENCE), Some(packet.clone()));
            // Nothing fits in a queue of one byte.
            let tc = |arguments: &str| {
                std::process::Command::new("tc")
                    .args(arguments.split_whitespace())
                    .status()
                    .is_ok_and(|status| status.success())
            };
            if !tc("qdisc add dev lo root bfifo limit 1") {
                eprintln!("skipped: no tc");
                return;
            }
            a.tun.inject(&packet);
            a.dropped(DropReason::QueueFull, 1);
            assert!(tc("qdisc del dev lo root"));
            a.tun.inject(&packet);
            assert_eq!(b.tun.next(PATIENCE), Some(packet));
        }
    });
}

#[test]
fn a_key_without_packet_ids_sends_what_it_can() {
    for io in engines() {
        let receiver = loopback_socket();
        let (queue, tun) = FakeTun::new(false);
        let eventfd =
            || Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).unwrap());
        let (commands, command_queue) = crossbeam::channel::bounded(COMMAND_QUEUE);
        let (events, _events) = crossbeam::channel::bounded(EVENT_QUEUE);
        let stats = Arc::default();
        let wake = eventfd();
        let shared = Shared {
            handover: Handover::alone(Bell::new(Arc::clone(&wake))),
            udp: Some(Arc::new(loopback_socket())),
            streams: Streams::new().unwrap(),
            outbox: Outbox {
                events,
                wake: eventfd(),
                sent: false,
            },
            counts: Counts::default(),
            stats: Arc::clone(&stats),
            kind: DeviceKind::Tun,
            started: Instant::now(),
            now: 0,
        };
        let mut worker = Worker::new(
            shared,
            Place::default(),
            command_queue,
            &wake,
            io,
            None,
            Some(queue),
        )
        .unwrap();
        let node = Node::new(io, loopback_socket(), false);
        for command in [
            Command::SetPeer(PEER, Box::new(node.config(receiver.local_addr().unwrap()))),
            Command::InstallKey(PEER, 0, Box::new(key_pair(Cipher::Aes256Gcm).0)),
            Command::UseKey(PEER, 0),
        ] {
            commands.send(command).unwrap();
        }
        wake.write(1).unwrap();
        worker.batch().unwrap();
        let key = worker.peers.get(0).unwrap().keys.sender().unwrap();
        key.ids_mut().skip_to(u64::from(u32::MAX) - 2);
        for _ in 0..5 {
            tun.inject(&Sample::udp(false).build(b"x"));
        }
        let mut sent = 0;
        while stats.drops(DropReason::KeyExhausted) + sent < 5 {
            worker.batch().unwrap();
            while let Ok(Some(message)) = receiver.receive(&mut [0; 1000]) {
                sent += match message.gro_size {
                    0 => 1,
                    size => (message.len / size) as u64,
                };
            }
        }
        assert!((1..=3).contains(&sent), "{sent}");
    }
}

/// A datagram with this inner packet.
pub(super) fn sealed(key: &mut SendKey, inner: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; key.sealed_len(inner.len())];
    let at = key.headroom();
    datagram[at..at + inner.len()].copy_from_slice(inner);
    let segment = crate::cipher::Segment {
        start: 0,
        len: inner.len(),
    };
    assert_eq!(key.seal(&mut datagram, &[segment]), 1);
    datagram
}
