//! Ethernet frames through the same stages.

use super::*;
use crate::frame;
use crate::offload::sample::ethernet;
use crate::tun::DeviceKind::Tap;

fn tap_pair(io: IoChoice, vnet: bool) -> (Node, Node) {
    let a = Node::of_kind(Tap, io, loopback_socket(), vnet);
    let b = Node::of_kind(Tap, io, loopback_socket(), vnet);
    connect(&a, &b, |_| (), Cipher::Aes256Gcm);
    (a, b)
}

/// A super-packet in a frame, and the frames it stands for.
fn super_frame(
    sample: &Sample,
    tag: Option<u16>,
    len: usize,
    size: u16,
) -> (Vec<u8>, Vec<Vec<u8>>) {
    let data = payload(len);
    let (mut header, packet) = sample.build_super(&data, size);
    let bytes = ethernet(tag, &packet);
    header.csum_start += (bytes.len() - packet.len()) as u16;
    let segments = sample.segments(&data, size);
    let expected = segments.iter().map(|packet| ethernet(tag, packet));
    (with_header(&header, &bytes), expected.collect())
}

/// Everything a worker wrote, taken apart into the frames it stands for, and how many writes it was.
fn written_frames(tun: &FakeTun, count: usize) -> (Vec<Vec<u8>>, usize) {
    let mut frames = Vec::new();
    let mut writes = 0;
    while frames.len() < count {
        let bytes = tun.next(PATIENCE).expect("another write");
        writes += 1;
        let (header, bytes) = bytes.split_at(VnetHdr::LEN);
        let header = VnetHdr::read(header).unwrap();
        let plan = split::plan_at(&header, bytes, frame::link_len(Tap, bytes)).unwrap();
        for i in 0..plan.count() {
            let mut out = vec![0; plan.len_of(i)];
            plan.write(bytes, i, &mut out);
            frames.push(out);
        }
    }
    (frames, writes)
}

#[test]
fn any_frame_passes_as_it_is() {
    for io in engines() {
        let (a, b) = tap_pair(io, false);
        let mut arp = ethernet(None, &[0; 28]);
        arp[..6].fill(0xff);
        arp[12..14].copy_from_slice(&[8, 6]);
        let mut padded = ethernet(None, &Sample::udp(false).build(b"x"));
        padded.resize(60, 0);
        let mut twice = ethernet(Some(7), &Sample::udp(true).build(b"x"));
        twice[16..18].copy_from_slice(&[0x81, 0]);
        let broken = ethernet(None, &[0x45, 0, 0xff, 0xff]);
        let bare = ethernet(None, &[]);
        let large = ethernet(Some(9), &Sample::udp(true).build(&payload(9000)));
        for frame in [arp, padded, twice, broken, bare, large] {
            a.tun.inject(&frame);
            assert_eq!(b.tun.next(PATIENCE), Some(frame.clone()), "{io:?}");
            b.tun.inject(&frame);
            assert_eq!(a.tun.next(PATIENCE), Some(frame), "{io:?}");
        }
        // Not even an Ethernet header.
        a.tun.inject(&[0; 13]);
        b.dropped(DropReason::BadPayload, 1);
    }
}

#[test]
fn super_packets_pass_in_frames_with_and_without_a_tag() {
    for io in engines() {
        let (a, b) = tap_pair(io, true);
        for tag in [None, Some(0x6123)] {
            for (sample, len, size) in [
                (Sample::tcp(false), 60_000, 1360),
                (Sample::tcp(true), 64_000, 1340),
                (Sample::udp(false), 50_000, 1200),
            ] {
                let (bytes, expected) = super_frame(&sample, tag, len, size);
                a.tun.inject(&bytes);
                let (got, writes) = written_frames(&b.tun, expected.len());
                assert!(got == expected, "{io:?} {tag:?} {sample:?}");
                assert!(writes < expected.len() / 4, "{io:?}: {writes} writes");
            }
        }
    }
}

#[test]
fn a_contradictory_super_frame_is_dropped() {
    for io in engines() {
        let (a, b) = tap_pair(io, true);
        let (bytes, _) = super_frame(&Sample::tcp(false), None, 20_000, 1000);
        let mut arp = bytes.clone();
        arp[VnetHdr::LEN + 12..VnetHdr::LEN + 14].copy_from_slice(&[8, 6]);
        let mut from_packet_start = bytes.clone();
        from_packet_start[6..8].copy_from_slice(&20u16.to_ne_bytes());
        for bytes in [&arp[..], &from_packet_start, &bytes[..VnetHdr::LEN + 17]] {
            a.tun.inject(bytes);
        }
        a.dropped(DropReason::BadOffload, 3);
        assert_eq!(b.tun.next(QUIET), None);
    }
}

#[test]
fn syns_are_clamped_behind_the_ethernet_header() {
    for io in engines() {
        let a = Node::of_kind(Tap, io, loopback_socket(), false);
        let b = Node::of_kind(Tap, io, loopback_socket(), false);
        let limit = |config: &mut crate::command::PeerConfig| {
            (config.mss_v4, config.mss_v6) = (1300, 1280);
        };
        connect(&a, &b, limit, Cipher::Aes256Gcm);
        for tag in [None, Some(5)] {
            for (ipv6, mss) in [(false, 1300u16), (true, 1280)] {
                let mut sample = Sample::tcp(ipv6);
                sample.flags = 0x02;
                sample.options = vec![2, 4, 5, 0xb4];
                a.tun.inject(&ethernet(tag, &sample.build(&[])));
                sample.options[2..].copy_from_slice(&mss.to_be_bytes());
                let expected = ethernet(tag, &sample.build(&[]));
                assert_eq!(b.tun.next(PATIENCE), Some(expected), "{io:?} {tag:?}");
            }
        }
    }
}

#[test]
fn the_source_of_a_too_large_frame_is_told_in_a_frame() {
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
            let a = Node::of_kind(Tap, io, udp(), true);
            let b = Node::of_kind(Tap, io, udp(), true);
            connect(&a, &b, |_| (), Cipher::Aes256Gcm);
            ip("link set lo mtu 1300");
            for (tag, link) in [(None, 14), (Some(0x2005), 18)] {
                let (bytes, _) = super_frame(&Sample::tcp(false), tag, 20_000, 1400);
                // The first round learns the path from the kernel's refusal.
                for _ in 0..2 {
                    a.tun.inject(&bytes);
                    let answer = a.tun.next(PATIENCE).unwrap();
                    let answer = &answer[VnetHdr::LEN..];
                    let sent = &bytes[VnetHdr::LEN..];
                    assert_eq!((&answer[..6], &answer[6..12]), (&sent[6..12], &sent[..6]));
                    assert_eq!(answer[12..link], sent[12..link]);
                    let answer = &answer[link..];
                    // ICMP, destination unreachable, fragmentation needed
                    assert_eq!((answer[9], answer[20], answer[21]), (1, 3, 4));
                    let mtu = u16::from_be_bytes([answer[26], answer[27]]);
                    assert_eq!(usize::from(mtu), 1300 - 28 - 24 - link, "{io:?}");
                    while a.tun.next(QUIET).is_some() {}
                }
                b.tun.discard();
                // What the answer says fits.
                let size = (1300 - 28 - 24 - link - 40) as u16;
                let (bytes, expected) = super_frame(&Sample::tcp(false), tag, 20_000, size);
                a.tun.inject(&bytes);
                assert!(written_frames(&b.tun, expected.len()).0 == expected);
            }
        }
    });
}

#[test]
fn ipv6_that_is_blocked_is_answered_and_the_rest_passes() {
    for io in engines() {
        let a = Node::of_kind(Tap, io, loopback_socket(), false);
        let b = Node::of_kind(Tap, io, loopback_socket(), false);
        let block = |config: &mut crate::command::PeerConfig| config.block_ipv6 = true;
        connect(&a, &b, block, Cipher::Aes256Gcm);
        a.tun
            .inject(&ethernet(None, &Sample::udp(true).build(b"six")));
        let answer = a.tun.next(PATIENCE).unwrap();
        assert_eq!(answer[..6], [2, 0, 0, 0, 0, 1]);
        assert_eq!(
            (answer[14 + 6], answer[14 + 40], answer[14 + 41]),
            (58, 1, 0)
        );
        a.dropped(DropReason::BlockedIpv6, 1);
        let four = ethernet(None, &Sample::udp(false).build(b"four"));
        a.tun.inject(&four);
        assert_eq!(b.tun.next(PATIENCE), Some(four));
    }
}

/// A real device: the kernel takes the frames, tagged ones included, and cuts them for its sockets.
#[test]
fn the_kernel_takes_super_packets_in_frames() {
    in_network_namespace(|| {
        ip("link set lo mtu 65536");
        for io in engines() {
            let config = TunConfig {
                kind: Tap,
                ..TunConfig::new("wtap0")
            };
            let mut device = TunDevice::open(&config).unwrap();
            let node = Node::of_kind(Tap, io, loopback_socket(), true);
            let a = Node::of_kind(Tap, io, loopback_socket(), true);
            connect(&a, &node, |_| (), Cipher::Aes256Gcm);
            ip("link set wtap0 address 02:00:00:00:00:02 up");
            ip("addr add 10.8.9.9/16 dev wtap0");
            let queue = device.queues.remove(0);
            assert!(queue.caps().tso);
            node.send(Command::AttachTun(queue));
            let receiver = std::net::UdpSocket::bind("10.8.9.9:443").unwrap();
            receiver.set_read_timeout(Some(PATIENCE)).unwrap();
            // Whoever has no VLAN 5 throws the first one away behind the device.
            let (tagged, _) = super_frame(&Sample::tcp(true), Some(5), 30_000, 1200);
            a.tun.inject(&tagged);
            let (bytes, expected) = super_frame(&Sample::udp(false), None, 30_000, 1200);
            a.tun.inject(&bytes);
            let mut all = Vec::new();
            let mut buffer = [0; 2000];
            for _ in 0..expected.len() {
                let len = receiver.recv(&mut buffer).unwrap();
                all.extend_from_slice(&buffer[..len]);
            }
            assert!(all == payload(30_000), "{io:?}");
            let stats = node.worker.stats();
            // What is counted is published when a batch ends.
            node.worker.stop();
            assert_eq!(stats.drops(DropReason::IoError), 0);
            let received = node.stats.wire_rx_packets.load(Relaxed);
            let writes = stats.tun_tx_calls.load(Relaxed);
            assert!(
                received > 40 && writes < received / 2,
                "{writes} of {received}"
            );
        }
    });
}
