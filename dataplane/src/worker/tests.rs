//! Two workers, each with a stand-in TUN, over the loopback device; both engines run every test.

use std::time::{Duration, Instant};

use super::IoChoice;
use super::testing::{
    FakeTun, Node, PATIENCE, PEER, connect, engines, in_network_namespace, ip, key_pair,
    loopback_config, loopback_socket,
};
use crate::command::{Command, Endpoint, Event};
use crate::error::DropReason;
use crate::key_slot::Cipher;
use crate::offload::sample::{Sample, payload};
use crate::offload::split;
use crate::offload::vnet_hdr::VnetHdr;
use crate::sys::socket;
use crate::tun::{TunConfig, TunDevice};
use crate::udp::{Family, MtuDiscovery, UdpConfig, UdpSocket};
use crate::wire;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;

mod bad_input;
mod drops;
mod fragment;
mod group;
mod noise;
mod order;
mod routed;
mod streams;
mod tap;

const QUIET: Duration = Duration::from_millis(200);

fn pair(io: IoChoice, vnet: bool, cipher: Cipher) -> (Node, Node) {
    let a = Node::new(io, loopback_socket(), vnet);
    let b = Node::new(io, loopback_socket(), vnet);
    connect(&a, &b, |_| (), cipher);
    (a, b)
}

fn with_header(header: &VnetHdr, packet: &[u8]) -> Vec<u8> {
    [&header.to_bytes(), packet].concat()
}

/// Everything a worker wrote, taken apart into the packets it stands for.
fn written(tun: &FakeTun, vnet: bool, count: usize) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    while packets.len() < count {
        let Some(bytes) = tun.next(PATIENCE) else {
            panic!("{} packets of {count} arrived", packets.len());
        };
        if !vnet {
            packets.push(bytes);
            continue;
        }
        let (header, packet) = bytes.split_at(VnetHdr::LEN);
        let plan = split::plan(&VnetHdr::read(header).unwrap(), packet).unwrap();
        for i in 0..plan.count() {
            let mut out = vec![0; plan.len_of(i)];
            plan.write(packet, i, &mut out);
            packets.push(out);
        }
    }
    packets
}

#[test]
fn packets_pass_both_ways_with_every_kind_of_cipher() {
    for io in engines() {
        for cipher in [
            Cipher::Aes256Gcm,
            Cipher::ChaCha20Poly1305,
            Cipher::Aes256Cbc,
        ] {
            let (a, b) = pair(io, false, cipher);
            for len in [0, 1, 100, 1400, 9000] {
                let packet = Sample::udp(len % 2 == 1).build(&payload(len));
                a.tun.inject(&packet);
                assert_eq!(b.tun.next(PATIENCE), Some(packet.clone()), "{io:?} {len}");
                b.tun.inject(&packet);
                assert_eq!(a.tun.next(PATIENCE), Some(packet), "{io:?} {len}");
            }
            assert_eq!(a.stats.wire_tx_packets.load(Relaxed), 5);
        }
    }
}

#[test]
fn super_packets_pass_whole_in_order_and_few_calls() {
    for io in engines() {
        for cipher in [Cipher::Aes128Gcm, Cipher::Aes128Cbc] {
            let (a, b) = pair(io, true, cipher);
            let mut expected = Vec::new();
            for (sample, len, size) in [
                (Sample::tcp(false), 60_000, 1360),
                (Sample::tcp(true), 64_000, 1340),
                (Sample::udp(false), 50_000, 1200),
                // far more segments than a send may carry, and a stride close to its smallest
                (Sample::tcp(false), 30_000, 100),
            ] {
                let data = payload(len);
                let (header, packet) = sample.build_super(&data, size);
                a.tun.inject(&with_header(&header, &packet));
                expected.extend(sample.segments(&data, size));
            }
            let got = written(&b.tun, true, expected.len());
            assert_eq!(got.len(), expected.len());
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                assert!(got == expected, "{io:?} {cipher:?}: packet {i} differs");
            }
            // Published when the batch ends.
            std::thread::sleep(QUIET);
            let packets = a.stats.wire_tx_packets.load(Relaxed);
            let calls = a.worker.stats().udp_tx_calls.load(Relaxed);
            assert_eq!(packets, expected.len() as u64);
            assert!(calls <= 16, "{calls} sends for {packets} datagrams");
        }
    }
}

#[test]
fn small_neighbours_share_a_send_and_keep_their_order() {
    for io in engines() {
        let (a, b) = pair(io, false, Cipher::Aes256Gcm);
        // Held up, so that all of them wait in one batch.
        let sent: Vec<_> = [100, 100, 100, 40, 40, 100, 30, 200, 200]
            .iter()
            .enumerate()
            .map(|(i, &len)| {
                let mut data = payload(len);
                data[0] = i as u8;
                Sample::udp(false).build(&data)
            })
            .collect();
        for packet in &sent {
            a.tun.inject(packet);
        }
        assert!(written(&b.tun, false, sent.len()) == sent, "{io:?}");
    }
}

#[test]
fn refused_segmentation_falls_back_without_a_loss() {
    for io in engines() {
        let udp = loopback_socket();
        // The kernel does GSO only when it may leave the checksum to the device.
        socket::set_option(udp.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        let a = Node::new(io, udp, true);
        let b = Node::new(io, loopback_socket(), true);
        connect(&a, &b, |_| (), Cipher::Aes256Gcm);
        let sample = Sample::tcp(false);
        for round in 0..2 {
            for size in [1000, 1400] {
                let data = payload(40_000);
                let (header, packet) = sample.build_super(&data, size);
                a.tun.inject(&with_header(&header, &packet));
                let expected = sample.segments(&data, size);
                let got = written(&b.tun, true, expected.len());
                assert!(got == expected, "{io:?} round {round} size {size}");
            }
        }
        assert!(a.worker.stats().fallbacks.load(Relaxed) >= 1);
        a.event(|event| match event {
            Event::Notice(text) if text.contains("segmentation") => Some(()),
            _ => None,
        });
    }
}

#[test]
fn without_offloads_everything_still_passes() {
    for io in engines() {
        let plain = || {
            UdpSocket::open(&UdpConfig {
                offload: false,
                ..loopback_config()
            })
            .unwrap()
        };
        let a = Node::new(io, plain(), true);
        let b = Node::new(io, plain(), false);
        connect(&a, &b, |_| (), Cipher::Aes256Gcm);
        let sample = Sample::tcp(false);
        let data = payload(60_000);
        let (header, packet) = sample.build_super(&data, 1300);
        a.tun.inject(&with_header(&header, &packet));
        let expected = sample.segments(&data, 1300);
        assert!(written(&b.tun, false, expected.len()) == expected, "{io:?}");
    }
}

#[test]
fn control_packets_pings_and_strangers_never_reach_the_device() {
    for io in engines() {
        let (a, b) = pair(io, false, Cipher::Aes256Gcm);
        let stranger = loopback_socket();
        let to = Endpoint::new(b.address);
        stranger.send_to(&to, &[7 << 3, 1, 2, 3]).unwrap();
        let (from, datagram) = b.event(|event| match event {
            Event::Control { from, datagram, .. } => Some((from, datagram)),
            _ => None,
        });
        assert_eq!(from.remote, stranger.local_addr().unwrap());
        assert_eq!(&*datagram, &[7 << 3, 1, 2, 3]);

        stranger
            .send_to(&to, &[9 << 3, 0, 0, 7, 1, 1, 1, 1])
            .unwrap();
        b.dropped(DropReason::WrongSource, 1);
        stranger.send_to(&to, &[0]).unwrap();
        stranger.send_to(&to, &[]).unwrap();
        b.dropped(DropReason::Malformed, 2);

        a.send(Command::SendPayload(PEER, wire::PING.to_vec()));
        let exit = [&wire::OCC_MAGIC[..], &[6]].concat();
        a.send(Command::SendPayload(PEER, exit));
        let message = b.event(|event| match event {
            Event::Occ(PEER, message) => Some(message),
            _ => None,
        });
        assert_eq!(&*message, &[6]);
        a.send(Command::SendPayload(PEER, b"no packet".to_vec()));
        b.dropped(DropReason::BadPayload, 1);
        assert_eq!(b.tun.next(QUIET), None);
        assert_eq!(b.stats.wire_rx_packets.load(Relaxed), 3);
    }
}

#[test]
fn a_forged_packet_moves_nothing_and_a_genuine_one_does() {
    for io in engines() {
        let (a, b) = pair(io, false, Cipher::Aes256Gcm);
        let mut config = b.config(a.address);
        config.float = true;
        b.send(Command::SetPeer(PEER, Box::new(config)));
        let stranger = loopback_socket();
        stranger
            .send_to(&Endpoint::new(b.address), &[0x48; 100])
            .unwrap();
        b.dropped(DropReason::AuthFailed, 1);

        // The same session from another socket.
        let moved = Node::new(io, loopback_socket(), false);
        let (keys, _) = key_pair(Cipher::Aes256Gcm);
        moved.send(Command::SetPeer(PEER, Box::new(moved.config(b.address))));
        moved.send(Command::InstallKey(PEER, 0, Box::new(keys)));
        moved.send(Command::UseKey(PEER, 0));
        let packet = Sample::udp(false).build(b"from elsewhere");
        moved.tun.inject(&packet);
        assert_eq!(b.tun.next(PATIENCE), Some(packet.clone()));
        let to = b.event(|event| match event {
            Event::Floated(PEER, to) => Some(to),
            _ => None,
        });
        assert_eq!(to.remote, moved.address);
        b.tun.inject(&packet);
        assert_eq!(moved.tun.next(PATIENCE), Some(packet));
    }
}

#[test]
fn without_key_peer_or_device_packets_are_counted() {
    for io in engines() {
        let (a, b) = pair(io, false, Cipher::Aes256Gcm);
        let packet = Sample::udp(false).build(b"x");
        b.send(Command::RemoveKey(PEER, 0));
        a.tun.inject(&packet);
        b.dropped(DropReason::NoKey, 1);
        a.send(Command::RemoveKey(PEER, 0));
        a.tun.inject(&packet);
        a.dropped(DropReason::NoRoute, 1);
        b.send(Command::RemovePeer(PEER));
        let stranger = loopback_socket();
        stranger
            .send_to(&Endpoint::new(b.address), &[0x48; 100])
            .unwrap();
        b.dropped(DropReason::UnknownPeer, 1);

        connect(&a, &b, |_| (), Cipher::Aes256Gcm);
        b.send(Command::DetachTun);
        a.tun.inject(&packet);
        b.dropped(DropReason::IoError, 1);
        let (queue, tun) = FakeTun::new(false);
        b.send(Command::AttachTun(queue));
        a.tun.inject(&packet);
        assert_eq!(tun.next(PATIENCE), Some(packet.clone()));
        tun.inject(&packet);
        assert_eq!(a.tun.next(PATIENCE), Some(packet));
        assert!(b.worker.stop().is_some());
    }
}

#[test]
fn a_loop_through_the_peer_itself_is_cut() {
    for io in engines() {
        let a = Node::new(io, loopback_socket(), false);
        let b = Node::new(io, loopback_socket(), false);
        connect(
            &a,
            &b,
            |config| config.guard_recursion = true,
            Cipher::Aes256Gcm,
        );
        let mut packet = Sample::udp(false).build(b"x");
        packet[16..20].copy_from_slice(&[127, 0, 0, 1]);
        a.tun.inject(&packet);
        a.dropped(DropReason::RecursiveRouting, 1);
    }
}

#[test]
fn the_source_of_a_too_large_packet_is_told() {
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
            let a = Node::new(io, udp(), true);
            let b = Node::new(io, udp(), true);
            connect(&a, &b, |_| (), Cipher::Aes256Gcm);
            ip("link set lo mtu 1300");
            let sample = Sample::tcp(false);
            let (header, packet) = sample.build_super(&payload(20_000), 1400);
            for round in 0..2 {
                a.tun.inject(&with_header(&header, &packet));
                let answer = a.tun.next(PATIENCE).unwrap();
                let answer = &answer[VnetHdr::LEN..];
                // ICMP, destination unreachable, fragmentation needed
                assert_eq!((answer[9], answer[20], answer[21]), (1, 3, 4));
                let mtu = u16::from_be_bytes([answer[26], answer[27]]);
                assert_eq!(mtu, 1300 - 28 - 24, "{io:?} round {round}");
                while a.tun.next(QUIET).is_some() {}
            }
            assert_eq!(a.stats.path_mtu.load(Relaxed), 1300);
            assert!(a.worker.stats().drops(DropReason::TooBig) >= 20);
            // What fits goes on; so did the short end of the first one.
            while b.tun.next(QUIET).is_some() {}
            let (header, packet) = sample.build_super(&payload(20_000), 1100);
            a.tun.inject(&with_header(&header, &packet));
            let expected = sample.segments(&payload(20_000), 1100);
            assert!(written(&b.tun, true, expected.len()) == expected);
        }
    });
}

#[test]
fn beyond_the_link_datagrams_leave_segmentation_and_are_fragmented() {
    in_network_namespace(|| {
        for io in engines() {
            ip("link set lo mtu 1500");
            let a = Node::new(io, loopback_socket(), true);
            let b = Node::new(io, loopback_socket(), true);
            connect(&a, &b, |_| (), Cipher::Aes256Gcm);
            let sample = Sample::udp(false);
            for size in [1480, 1480, 1300] {
                let data = payload(20_000);
                let (header, packet) = sample.build_super(&data, size);
                a.tun.inject(&with_header(&header, &packet));
                let expected = sample.segments(&data, size);
                let got = written(&b.tun, true, expected.len());
                assert!(got == expected, "{io:?} size {size}");
            }
            assert_eq!(a.worker.stats().drops(DropReason::TooBig), 0);
        }
    });
}

#[test]
fn both_families_and_multihome() {
    for io in engines() {
        let udp = || {
            UdpSocket::open(&UdpConfig {
                multihome: true,
                ..UdpConfig::new(Family::V6)
            })
            .unwrap()
        };
        for host in ["127.0.0.1", "::1"] {
            let a = Node::new(io, udp(), true);
            let b = Node::new(io, udp(), true);
            let at = |port| std::net::SocketAddr::new(host.parse().unwrap(), port);
            let (port_a, port_b) = (a.address.port(), b.address.port());
            let (a, b) = (
                Node {
                    address: at(port_a),
                    ..a
                },
                Node {
                    address: at(port_b),
                    ..b
                },
            );
            connect(&a, &b, |config| config.passtos = true, Cipher::Aes256Gcm);
            let sample = Sample::tcp(true);
            let data = payload(30_000);
            let (header, packet) = sample.build_super(&data, 1300);
            for (from, to) in [(&a, &b), (&b, &a), (&a, &b)] {
                from.tun.inject(&with_header(&header, &packet));
                let expected = sample.segments(&data, 1300);
                assert!(
                    written(&to.tun, true, expected.len()) == expected,
                    "{io:?} {host}"
                );
            }
        }
    }
}

#[test]
fn the_event_descriptor_wakes_the_control_thread() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    for io in engines() {
        let node = Node::new(io, loopback_socket(), false);
        let readable = |limit: u16| {
            let mut fds = [PollFd::new(node.worker.event_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(limit)).unwrap() > 0
        };
        assert!(!readable(0));
        loopback_socket()
            .send_to(&Endpoint::new(node.address), &[4 << 3])
            .unwrap();
        assert!(readable(5000));
        node.worker.clear_event_fd();
        assert!(!readable(0));
        assert_eq!(node.worker.events().len(), 1);
        let started = Instant::now();
        drop(node);
        assert!(started.elapsed() < PATIENCE);
    }
}

#[test]
fn a_peer_that_was_away_is_reached_when_it_comes_back() {
    for io in engines() {
        let a = Node::new(io, loopback_socket(), false);
        let b = Node::new(io, loopback_socket(), false);
        let port = b.address.port();
        connect(&a, &b, |_| (), Cipher::Aes256Gcm);
        drop(b);
        let packet = Sample::udp(false).build(b"x");
        for _ in 0..20 {
            // Each is answered by a "port unreachable" that the next send or receive meets.
            a.tun.inject(&packet);
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(a.worker.stats().drops(DropReason::IoError), 0, "{io:?}");
        let udp = UdpSocket::open(&UdpConfig {
            port,
            ..loopback_config()
        })
        .unwrap();
        let b = Node::new(io, udp, false);
        let (_, keys) = key_pair(Cipher::Aes256Gcm);
        b.send(Command::SetPeer(PEER, Box::new(b.config(a.address))));
        b.send(Command::InstallKey(PEER, 0, Box::new(keys)));
        b.send(Command::UseKey(PEER, 0));
        // Nothing is lost of what a command precedes.
        std::thread::sleep(QUIET);
        a.tun.inject(&packet);
        assert_eq!(b.tun.next(PATIENCE), Some(packet.clone()), "{io:?}");
        b.tun.inject(&packet);
        assert_eq!(a.tun.next(PATIENCE), Some(packet), "{io:?}");
    }
}

#[test]
fn a_real_device_goes_down_and_away_without_a_spin() {
    in_network_namespace(|| {
        for io in engines() {
            let mut device = TunDevice::open(&TunConfig::new("tun")).unwrap();
            let a = Node::new(io, loopback_socket(), true);
            let b = Node::new(io, loopback_socket(), true);
            connect(&a, &b, |_| (), Cipher::Aes256Gcm);
            a.send(Command::AttachTun(device.queues.remove(0)));
            let packet = with_header(&VnetHdr::default(), &Sample::udp(false).build(b"x"));
            // Down: what arrives cannot be written.
            b.tun.inject(&packet);
            a.dropped(DropReason::IoError, 1);

            ip(&format!("addr add 10.0.0.1/24 dev {}", device.name));
            ip(&format!("link set {} up", device.name));
            let inside = std::net::UdpSocket::bind("10.0.0.1:0").unwrap();
            inside.send_to(&[5; 100], "10.0.0.2:9").unwrap();
            let seen = loop {
                let seen = b.tun.next(PATIENCE).unwrap();
                // The kernel says more on a new device than what we send.
                if seen.len() == VnetHdr::LEN + 128 && seen[VnetHdr::LEN] >> 4 == 4 {
                    break seen;
                }
            };
            assert_eq!(seen[VnetHdr::LEN + 28..], [5; 100], "{io:?}");

            ip(&format!("link del {}", device.name));
            a.event(|event| match event {
                Event::Notice(text) if text.contains("gone") => Some(()),
                _ => None,
            });
            let batches = a.worker.stats().batches.load(Relaxed);
            std::thread::sleep(QUIET);
            assert!(a.worker.stats().batches.load(Relaxed) < batches + 10);
            assert!(a.worker.stop().is_none());
        }
    });
}
