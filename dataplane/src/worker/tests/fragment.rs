//! Peers with `fragment`: every size both ways, order, few sends, a path that gets narrower.

use super::*;
use crate::fragment::Fragment;
use crate::framing::Framing;

const LIMIT: u16 = 600;

const FRAGMENT: Fragment = Fragment {
    payload: LIMIT,
    largest: 9100,
};

fn fragmenting(io: IoChoice, vnet: bool, cipher: Cipher, framing: Framing) -> (Node, Node) {
    let a = Node::new(io, loopback_socket(), vnet);
    let b = Node::new(io, loopback_socket(), vnet);
    let change = |config: &mut crate::command::PeerConfig| {
        config.fragment = Some(FRAGMENT);
        config.framing = framing;
    };
    connect(&a, &b, change, cipher);
    (a, b)
}

#[test]
fn every_size_around_the_limit_passes_both_ways() {
    for io in engines() {
        for cipher in [Cipher::Aes256Gcm, Cipher::Aes256Cbc] {
            for framing in [Framing::None, Framing::Lzo, Framing::Stub] {
                let (a, b) = fragmenting(io, false, cipher, framing);
                let limit = usize::from(LIMIT) - 28;
                let near = (1..=4).flat_map(|n| n * limit - 6..=n * limit + 6);
                for len in near.chain([0, 1, 1400, 9000]) {
                    let packet = Sample::udp(false).build(&payload(len));
                    a.tun.inject(&packet);
                    assert_eq!(
                        b.tun.next(PATIENCE),
                        Some(packet.clone()),
                        "{framing:?} {len}"
                    );
                    b.tun.inject(&packet);
                    assert_eq!(a.tun.next(PATIENCE), Some(packet), "{framing:?} {len}");
                }
            }
        }
    }
}

#[test]
fn datagrams_keep_to_the_limit_and_have_the_header() {
    let receiver = loopback_socket();
    let a = Node::new(IoChoice::Syscalls, loopback_socket(), false);
    let mut config = a.config(receiver.local_addr().unwrap());
    config.fragment = Some(FRAGMENT);
    config.framing = Framing::Lzo;
    let (keys, theirs) = key_pair(Cipher::Aes256Gcm);
    a.send(Command::SetPeer(PEER, Box::new(config)));
    a.send(Command::InstallKey(PEER, 0, Box::new(keys)));
    a.send(Command::UseKey(PEER, 0));
    let packet = Sample::udp(false).build(&payload(1000));
    a.tun.inject(&packet);
    a.send(Command::SendPayload(PEER, wire::PING.to_vec()));

    let mut key = crate::key_slot::RecvKey::new(&theirs, Framing::None, 64, 15).unwrap();
    let mut buf = vec![0; 70_000];
    let mut payloads = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while payloads.len() < 3 {
        assert!(Instant::now() < deadline, "{payloads:?}");
        let Ok(message) = receiver.receive(&mut buf) else {
            continue;
        };
        let message = message.unwrap();
        let step = if message.gro_size == 0 {
            message.len
        } else {
            message.gro_size
        };
        for datagram in buf[..message.len].chunks_mut(step) {
            let payload = key.open(0, datagram).unwrap();
            payloads.push(datagram[payload].to_vec());
        }
    }
    // Framed as a whole, then cut: 1 + 1028 bytes in parts of 516 and 513. The ping may come first.
    payloads.sort_by_key(Vec::len);
    let framed = [&[0xfa], &packet[..]].concat();
    assert_eq!(payloads[0], [&[0, 0, 0, 0, 0xfa][..], &wire::PING].concat());
    let (head, tail) = framed.split_at(516);
    // 2 | sequence 1 | index 1 | 516 / 4
    assert_eq!(payloads[1], [&[0x00, 0x40, 0x84, 0x06], tail].concat());
    assert_eq!(payloads[2], [&[0x00, 0x00, 0x00, 0x05], head].concat());
}

#[test]
fn super_packets_and_small_ones_keep_their_order_in_few_sends() {
    for io in engines() {
        let (a, b) = fragmenting(io, true, Cipher::Aes256Gcm, Framing::None);
        let mut expected = Vec::new();
        for (sample, len, size) in [
            (Sample::tcp(false), 40_000, 1160),
            (Sample::udp(true), 30_000, 1300),
            (Sample::tcp(true), 20_000, 300),
            (Sample::udp(false), 60_000, 8000),
        ] {
            let data = payload(len);
            let (header, packet) = sample.build_super(&data, size);
            a.tun.inject(&with_header(&header, &packet));
            expected.extend(sample.segments(&data, size));
        }
        let got = written(&b.tun, true, expected.len());
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert!(got == expected, "{io:?}: packet {i} differs");
        }
        std::thread::sleep(QUIET);
        let packets = a.stats.wire_tx_packets.load(Relaxed);
        let calls = a.worker.stats().udp_tx_calls.load(Relaxed);
        // 1,200 bytes leave as 600 and 600, and all those of a super-packet together.
        assert!(
            packets > expected.len() as u64 && calls * 2 <= packets,
            "{calls} {packets}"
        );
        let bytes: usize = expected.iter().map(Vec::len).sum();
        assert_eq!(a.stats.tun_rx_bytes.load(Relaxed), bytes as u64);
        assert_eq!(b.stats.tun_tx_bytes.load(Relaxed), bytes as u64);
    }
}

#[test]
fn equal_parts_of_many_packets_leave_as_one_send() {
    for io in engines() {
        let (a, b) = fragmenting(io, true, Cipher::Aes256Gcm, Framing::None);
        let sample = Sample::udp(false);
        let data = payload(20 * 1172);
        let (header, packet) = sample.build_super(&data, 1172);
        a.tun.inject(&with_header(&header, &packet));
        let got = written(&b.tun, true, 20);
        assert!(got == sample.segments(&data, 1172));
        std::thread::sleep(QUIET);
        assert_eq!(a.stats.wire_tx_packets.load(Relaxed), 40);
        assert_eq!(a.worker.stats().udp_tx_calls.load(Relaxed), 1);
    }
}

#[test]
fn what_cannot_be_cut_is_answered_and_what_makes_no_sense_counted() {
    for io in engines() {
        let (a, b) = fragmenting(io, false, Cipher::Aes256Gcm, Framing::None);
        let packet = Sample::udp(false).build(&payload(32 * 600 - 27));
        a.tun.inject(&packet);
        let answer = a.tun.next(PATIENCE).unwrap();
        assert_eq!((answer[9], answer[20], answer[21]), (1, 3, 4));
        let mtu = u16::from_be_bytes([answer[26], answer[27]]);
        assert_eq!(mtu, 32 * 600);
        a.dropped(DropReason::TooBig, 1);
        // Larger than the receiver puts together: each part beyond that is refused.
        a.tun
            .inject(&Sample::udp(false).build(&payload(9072 + 600)));
        b.dropped(DropReason::BadFragment, 2);

        // A peer that does not fragment.
        let plain = a.config(b.address);
        a.send(Command::SetPeer(PEER, Box::new(plain)));
        a.tun.inject(&Sample::udp(false).build(b"x"));
        b.dropped(DropReason::BadFragment, 3);
        assert_eq!(b.tun.next(QUIET), None);
        // And one that does, here and there.
        let mut config = a.config(b.address);
        config.fragment = Some(FRAGMENT);
        a.send(Command::SetPeer(PEER, Box::new(config)));
        let packet = Sample::udp(false).build(&payload(1300));
        a.tun.inject(&packet);
        assert_eq!(b.tun.next(PATIENCE), Some(packet));
        let exit = [&wire::OCC_MAGIC[..], &[6]].concat();
        a.send(Command::SendPayload(PEER, exit));
        b.event(|event| matches!(event, Event::Occ(PEER, _)).then_some(()));
    }
}

#[test]
fn a_narrow_path_makes_the_parts_smaller() {
    in_network_namespace(|| {
        for io in engines() {
            ip("link set lo mtu 65536");
            let udp = || {
                UdpSocket::open(&UdpConfig {
                    mtu_disc: Some(MtuDiscovery::Yes),
                    ..loopback_config()
                })
                .unwrap()
            };
            let a = Node::new(io, udp(), false);
            let b = Node::new(io, udp(), false);
            let wide = Fragment {
                payload: 1400,
                largest: 1600,
            };
            let change = |config: &mut crate::command::PeerConfig| {
                config.fragment = Some(wide);
                (config.mss_v4, config.mss_v6) = (1360, 1340);
            };
            connect(&a, &b, change, Cipher::Aes256Gcm);
            ip("link set lo mtu 1000");
            let packet = Sample::udp(false).build(&payload(1300));
            // The first one is lost, and tells of the path.
            a.tun.inject(&packet);
            a.dropped(DropReason::TooBig, 1);
            assert_eq!(a.tun.next(QUIET), None, "no answer: it fits from now on");
            for len in [1300, 900, 1572] {
                let packet = Sample::udp(false).build(&payload(len));
                a.tun.inject(&packet);
                assert_eq!(b.tun.next(PATIENCE), Some(packet));
            }
            let mut syn = Sample::tcp(false);
            syn.flags = 2;
            syn.options = vec![2, 4, 0x05, 0xb4];
            a.tun.inject(&syn.build(&[]));
            let got = b.tun.next(PATIENCE).unwrap();
            let mss = u16::from_be_bytes([got[42], got[43]]);
            assert_eq!(mss, 1000 - 28 - 24 - 4 - 40);
            assert_eq!(a.worker.stats().drops(DropReason::TooBig), 1);
        }
    });
}
