//! Packet ids leave in order, whatever happens meanwhile: a stock peer forgives 64 ids.

use super::*;
use crate::key_slot::DataKeys;
use crate::pool::{Failures, SendOp};

#[test]
fn ids_only_count_up_while_keys_change() {
    for io in engines() {
        let receiver = loopback_socket();
        let node = Node::new(io, loopback_socket(), true);
        let config = node.config(receiver.local_addr().unwrap());
        node.send(Command::SetPeer(PEER, Box::new(config)));
        const KEYS: u8 = 8;
        const PER_KEY: usize = 12;
        let (header, packet) = Sample::tcp(false).build_super(&payload(20_000), 1000);
        let super_packet = with_header(&header, &packet);
        let small = with_header(&VnetHdr::default(), &Sample::udp(true).build(b"small"));
        let feeder = std::thread::spawn({
            let tun = node.tun.try_clone();
            move || {
                for i in 0..usize::from(KEYS) * PER_KEY {
                    tun.inject(if i % 3 == 0 { &super_packet } else { &small });
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        for key_id in 0..KEYS {
            node.send(Command::InstallKey(PEER, key_id, Box::new(keys(key_id))));
            node.send(Command::UseKey(PEER, key_id));
            if key_id > 1 {
                node.send(Command::RemoveKey(PEER, key_id - 2));
            }
            std::thread::sleep(Duration::from_millis(PER_KEY as u64));
        }
        feeder.join().unwrap();
        std::thread::sleep(QUIET);
        let (mut last, mut seen) = ((0, 0), 0);
        let mut buf = vec![0; 70_000];
        while let Ok(Some(message)) = receiver.receive(&mut buf) {
            let size = match message.gro_size {
                0 => message.len,
                size => size,
            };
            for datagram in buf[..message.len].chunks(size) {
                let id = u32::from_be_bytes([datagram[4], datagram[5], datagram[6], datagram[7]]);
                let (key_id, expected) = (datagram[0] & 7, last.1 + 1);
                if key_id == last.0 {
                    assert_eq!(id, expected, "{io:?} key {key_id}");
                } else {
                    assert!(
                        key_id > last.0 && id == 1,
                        "{io:?}: {last:?}, {key_id} {id}"
                    );
                }
                last = (key_id, id);
                seen += 1;
            }
        }
        assert!(last.0 >= KEYS - 2 && seen > 100, "{last:?} {seen}");
        assert_eq!(node.stats.wire_tx_packets.load(Relaxed), seen);
    }
}

#[test]
fn nothing_overtakes_a_refused_send() {
    let receiver = loopback_socket();
    let good = Endpoint::new(receiver.local_addr().unwrap());
    let udp = loopback_socket();
    // Nobody can be reached at port 0.
    let bad = Endpoint::new(([127, 0, 0, 1], 0).into());
    let mut ops: Vec<_> = (0..100)
        .map(|start| SendOp {
            start,
            len: 1,
            gso_size: 0,
            tos: None,
            to: good,
            peer: 0,
            source: None,
        })
        .collect();
    ops[40].to = bad;
    let bytes: Vec<u8> = (0..100).collect();
    let mut failures = Failures::new();
    udp.send_all(&bytes, &ops, &mut failures);
    failures.sends.sort_unstable();
    let expected: Vec<_> = (40..100)
        .map(|index| match index {
            40 => (index, libc::EINVAL),
            _ => (index, libc::ECANCELED),
        })
        .collect();
    assert_eq!(failures.sends, expected);
    let mut buf = [0; 8];
    for i in 0..40 {
        receiver.receive(&mut buf).unwrap().unwrap();
        assert_eq!(buf[0], i);
    }
    assert!(receiver.receive(&mut buf).is_err());
}

#[test]
fn a_refused_send_is_made_up_for_in_order() {
    for io in engines() {
        let receiver = loopback_socket();
        let udp = loopback_socket();
        // The kernel does GSO only when it may leave the checksum to the device.
        socket::set_option(udp.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        let node = Node::new(io, udp, true);
        let config = node.config(receiver.local_addr().unwrap());
        node.send(Command::SetPeer(PEER, Box::new(config)));
        node.send(Command::InstallKey(PEER, 0, Box::new(keys(0))));
        node.send(Command::UseKey(PEER, 0));
        std::thread::sleep(QUIET);
        let (header, packet) = Sample::tcp(false).build_super(&payload(60_000), 600);
        let small = with_header(&VnetHdr::default(), &Sample::udp(true).build(b"small"));
        for _ in 0..10 {
            node.tun.inject(&with_header(&header, &packet));
            node.tun.inject(&small);
        }
        std::thread::sleep(QUIET);
        let mut buf = vec![0; 70_000];
        let mut last = 0;
        while let Ok(Some(message)) = receiver.receive(&mut buf) {
            let id = u32::from_be_bytes([buf[4], buf[5], buf[6], buf[7]]);
            assert_eq!(message.gro_size, 0);
            assert_eq!(id, last + 1, "{io:?}");
            last = id;
        }
        assert_eq!(last, 10 * 101);
    }
}

#[test]
fn a_local_address_that_vanished_does_not_silence_the_peer() {
    in_network_namespace(|| {
        for io in engines() {
            ip("addr add 192.0.2.77/32 dev lo");
            let receiver = loopback_socket();
            let node = Node::new(io, loopback_any(), false);
            let mut config = node.config(receiver.local_addr().unwrap());
            config.endpoint.local = Some([192, 0, 2, 77].into());
            node.send(Command::SetPeer(PEER, Box::new(config)));
            node.send(Command::InstallKey(PEER, 0, Box::new(keys(0))));
            node.send(Command::UseKey(PEER, 0));
            std::thread::sleep(QUIET);
            let packet = Sample::udp(false).build(b"x");
            let sources: Vec<_> = (0..3)
                .map(|round| {
                    if round == 1 {
                        ip("addr del 192.0.2.77/32 dev lo");
                    }
                    node.tun.inject(&packet);
                    std::thread::sleep(QUIET);
                    let message = receiver.receive(&mut [0; 200]).unwrap().unwrap();
                    message.from.remote.ip().to_string()
                })
                .collect();
            assert_eq!(sources, ["192.0.2.77", "127.0.0.1", "127.0.0.1"], "{io:?}");
            assert_eq!(node.worker.stats().drops(DropReason::IoError), 0);
        }
    });
}

fn loopback_any() -> UdpSocket {
    UdpSocket::open(&UdpConfig {
        multihome: true,
        ..UdpConfig::new(Family::V4)
    })
    .unwrap()
}

fn keys(key_id: u8) -> DataKeys {
    let (mut keys, _) = key_pair(Cipher::Aes256Gcm);
    keys.send.cipher[0] ^= 0x80 | key_id;
    keys
}
