//! Offloads turned against the worker: virtio headers that lie, GRO batches with bad datagrams among
//! good ones, messages beyond 64 KiB, a device that refuses super-packets in mid-run. Each is counted
//! once, under its reason, and takes nothing else with it.

use std::fs::File;
use std::net::UdpSocket as StdSocket;
use std::os::fd::OwnedFd;

use super::drops::sealed;
use super::*;
use crate::framing::Framing;
use crate::key_slot::SendKey;
use crate::offload::coalesce::TunCaps;
use crate::stats::WorkerStats;
use crate::sys::cmsg::SendHead;
use crate::tun::{DeviceKind, TunQueue};

/// Nothing was dropped but this many packets for these reasons.
fn only_dropped(node: &Node, expected: &[(DropReason, u64)]) {
    for &(reason, count) in expected {
        node.dropped(reason, count);
    }
    let stats = node.worker.stats();
    for reason in DropReason::ALL {
        let listed = expected.iter().find(|(known, _)| *known == reason);
        let count = listed.map_or(0, |(_, count)| *count);
        assert_eq!(stats.drops(reason), count, "{reason:?}");
    }
}

/// A virtio header for a TCP or UDP super-packet with one thing wrong.
fn lies(sample: &Sample) -> Vec<(VnetHdr, Vec<u8>)> {
    let (good, packet) = sample.build_super(&payload(3000), 1000);
    let len = packet.len() as u16;
    let other = match (sample.tcp, sample.ipv6) {
        (false, _) => VnetHdr::GSO_TCPV4,
        (true, false) => VnetHdr::GSO_TCPV6,
        (true, true) => VnetHdr::GSO_TCPV4,
    };
    let mut headers = vec![
        VnetHdr {
            gso_type: other,
            ..good
        },
        VnetHdr {
            gso_type: 2,
            ..good
        },
        VnetHdr {
            gso_type: 3,
            ..good
        },
        VnetHdr {
            gso_type: 0x7f,
            ..good
        },
        VnetHdr {
            gso_size: 0,
            ..good
        },
        VnetHdr {
            gso_size: 1,
            ..good
        },
        VnetHdr {
            gso_size: 3001,
            ..good
        },
        VnetHdr {
            gso_size: u16::MAX,
            ..good
        },
        VnetHdr {
            csum_start: good.csum_start + 1,
            ..good
        },
        VnetHdr {
            csum_start: len,
            ..good
        },
        VnetHdr {
            csum_start: u16::MAX,
            ..good
        },
        VnetHdr {
            csum_offset: good.csum_offset + 2,
            ..good
        },
        VnetHdr {
            csum_offset: u16::MAX,
            ..good
        },
    ];
    // Without segmentation only the checksum's place can be wrong.
    let single = VnetHdr {
        gso_type: VnetHdr::GSO_NONE,
        gso_size: 0,
        ..good
    };
    headers.extend([
        VnetHdr {
            csum_start: len,
            ..single
        },
        VnetHdr {
            csum_start: u16::MAX,
            csum_offset: u16::MAX - 1,
            ..single
        },
        VnetHdr {
            csum_offset: 7,
            ..single
        },
        VnetHdr {
            csum_offset: len - good.csum_start - 1,
            ..single
        },
    ]);
    let mut all: Vec<_> = headers
        .into_iter()
        .map(|hdr| (hdr, packet.clone()))
        .collect();
    // Lengths that disagree, and a super-packet that is a fragment.
    all.push((good, packet[..packet.len() - 1].to_vec()));
    all.push((good, [&packet[..], &[0; 2]].concat()));
    if !sample.ipv6 {
        let mut fragment = packet;
        fragment[6] = 0x20;
        all.push((good, fragment));
    }
    all
}

#[test]
fn lying_virtio_headers() {
    for io in engines() {
        for sample in [
            Sample::tcp(false),
            Sample::tcp(true),
            Sample::udp(false),
            Sample::udp(true),
        ] {
            let (a, b) = pair(io, true, Cipher::Aes256Gcm);
            let lies = lies(&sample);
            let mut expected = Vec::new();
            for (i, (hdr, packet)) in lies.iter().enumerate() {
                a.tun.inject(&with_header(hdr, packet));
                // The length of the headers is a hint and may be anything.
                let data = payload(2500 + i);
                let (mut good, packet) = sample.build_super(&data, 1000);
                good.hdr_len = [0, 1, u16::MAX][i % 3];
                a.tun.inject(&with_header(&good, &packet));
                expected.extend(sample.segments(&data, 1000));
            }
            assert!(written(&b.tun, true, expected.len()) == expected, "{io:?}");
            only_dropped(&a, &[(DropReason::BadOffload, lies.len() as u64)]);
            only_dropped(&b, &[]);
        }
    }
}

#[test]
fn messages_beyond_64_kib() {
    for io in engines() {
        let (a, b) = pair(io, true, Cipher::Aes256Gcm);
        let sample = Sample::tcp(false);
        let (hdr, mut packet) = sample.build_super(&payload(60_000), 1400);
        packet.resize(70_000, 0);
        for len in [65_536, 66_048 - VnetHdr::LEN, 66_048, 70_000] {
            a.tun.inject(&with_header(&hdr, &packet[..len]));
        }
        // As much as an IP packet can be, for comparison.
        let data = payload(65_535 - sample.headers());
        let (hdr, packet) = sample.build_super(&data, 1400);
        a.tun.inject(&with_header(&hdr, &packet));
        let expected = sample.segments(&data, 1400);
        assert!(written(&b.tun, true, expected.len()) == expected, "{io:?}");
        only_dropped(&a, &[(DropReason::BadOffload, 4)]);
        only_dropped(&b, &[]);
    }
}

/// A worker that hears datagrams from `peer`, and the key to seal them with.
fn receiver(io: IoChoice, peer: &UdpSocket) -> (Node, SendKey) {
    let b = Node::new(io, loopback_socket(), true);
    let (ours, theirs) = key_pair(Cipher::Aes256Gcm);
    b.send(Command::SetPeer(
        PEER,
        Box::new(b.config(peer.local_addr().unwrap())),
    ));
    b.send(Command::InstallKey(PEER, 0, Box::new(theirs)));
    let batches = |stats: &WorkerStats| stats.batches.load(Relaxed);
    let deadline = Instant::now() + PATIENCE;
    while batches(&b.worker.stats()) == 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(QUIET);
    (b, SendKey::new(&ours, 0, Some(7), Framing::None).unwrap())
}

/// Sends datagrams as one GSO message, which arrives as one GRO batch.
fn send_batch(peer: &UdpSocket, to: &Node, datagrams: &[Vec<u8>]) {
    let mut head = SendHead::new();
    head.set(
        false,
        &Endpoint::new(to.address),
        datagrams[0].len() as u16,
        None,
    );
    peer.send(&head, &datagrams.concat()).unwrap();
}

#[test]
fn bad_datagrams_inside_a_gro_batch() {
    for io in engines() {
        let peer = loopback_socket();
        let (b, mut key) = receiver(io, &peer);
        let mut sample = Sample::udp(false);
        let mut good = |len: usize| {
            sample.id += 1;
            sample.build(&payload(len))
        };
        // Short inner packets in datagrams of the same size: what follows the packet is no part of it.
        let packets = [
            good(500),
            good(500),
            good(37),
            good(500),
            good(500),
            good(500),
            good(80),
        ];
        let mut datagrams: Vec<Vec<u8>> = packets
            .iter()
            .map(|packet| {
                let mut padded = packet.clone();
                if packet.len() == 65 {
                    padded.resize(528, 0x55);
                }
                sealed(&mut key, &padded)
            })
            .collect();
        // Two are damaged, one becomes another packet's repetition, one has no packet in it.
        *datagrams[1].last_mut().unwrap() ^= 1;
        datagrams[4] = datagrams[0].clone();
        let mut empty = packets[5].clone();
        empty[0] = 0x35;
        datagrams[5] = sealed(&mut key, &empty);
        send_batch(&peer, &b, &datagrams);
        let expected = [0, 2, 3, 6].map(|i| packets[i].clone());
        assert_eq!(written(&b.tun, true, 4), expected, "{io:?}");
        only_dropped(
            &b,
            &[
                (DropReason::AuthFailed, 1),
                (DropReason::Replay, 1),
                (DropReason::BadPayload, 1),
            ],
        );
        assert!(
            b.worker.stats().udp_rx_calls.load(Relaxed) <= 3,
            "one batch"
        );
    }
}

#[test]
fn tails_of_gro_batches() {
    for io in engines() {
        let peer = loopback_socket();
        let (b, mut key) = receiver(io, &peer);
        let mut sample = Sample::udp(true);
        let mut expected = Vec::new();
        // Too short for a header, for a tag, and for a packet.
        for tail in [1, 3, 7, 8, 23, 24] {
            let mut datagrams = Vec::new();
            for _ in 0..3 {
                sample.source_port += 1;
                let packet = sample.build(&payload(200));
                datagrams.push(sealed(&mut key, &packet));
                expected.push(packet);
            }
            datagrams.push(datagrams[0][..tail].to_vec());
            send_batch(&peer, &b, &datagrams);
        }
        assert_eq!(written(&b.tun, true, expected.len()), expected, "{io:?}");
        only_dropped(&b, &[(DropReason::Malformed, 6)]);
    }
}

/// Stands in for a TUN device whose kernel refuses long writes with EINVAL from some moment on, and
/// takes short ones: a pair of UDP sockets with segmentation, which allows only so many segments.
struct Refusing {
    device: StdSocket,
    far: StdSocket,
}

/// Bytes of a segment, and the most segments of any kernel.
const CUT: usize = 32;
const MOST: usize = 128;

impl Refusing {
    fn new() -> (TunQueue, Refusing) {
        let [device, far] = [(); 2].map(|()| StdSocket::bind("127.0.0.1:0").unwrap());
        device.connect(far.local_addr().unwrap()).unwrap();
        far.connect(device.local_addr().unwrap()).unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        let file = File::from(OwnedFd::from(device.try_clone().unwrap()));
        let caps = TunCaps {
            tso: true,
            uso: true,
        };
        let queue = TunQueue::from_file(file, DeviceKind::Tun, true, caps);
        (queue, Refusing { device, far })
    }

    fn refuse(&self) {
        socket::set_option(
            self.device.as_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            CUT as i32,
        )
        .unwrap();
    }

    /// The next write. Those that were cut end with a short piece.
    fn next(&self) -> (VnetHdr, Vec<u8>) {
        let mut whole = Vec::new();
        loop {
            let mut piece = [0; 9000];
            let len = self.far.recv(&mut piece).unwrap();
            whole.extend(&piece[..len]);
            if len != CUT {
                let packet = whole.split_off(VnetHdr::LEN);
                return (VnetHdr::read(&whole).unwrap(), packet);
            }
        }
    }
}

#[test]
fn a_device_that_begins_to_refuse_super_packets() {
    for io in engines() {
        for sample in [Sample::tcp(true), Sample::udp(false)] {
            let a = Node::new(io, loopback_socket(), true);
            let b = Node::new(io, loopback_socket(), true);
            connect(&a, &b, |_| (), Cipher::Aes256Gcm);
            let (queue, device) = Refusing::new();
            b.send(Command::AttachTun(queue));
            // Of a length that leaves a short piece.
            let size = 999 - sample.headers() as u16;
            let data = payload(usize::from(size) * 5);
            let send = || {
                let (hdr, packet) = sample.build_super(&data, size);
                assert!(packet.len() > CUT * MOST);
                a.tun.inject(&with_header(&hdr, &packet));
            };
            send();
            assert_eq!(device.next().1.len(), sample.headers() + data.len());
            device.refuse();
            // The first three go out in pieces after a refusal, the others at once.
            for _ in 0..7 {
                send();
                for expected in sample.segments(&data, size) {
                    assert_eq!(device.next(), (VnetHdr::default(), expected), "{io:?}");
                }
            }
            only_dropped(&b, &[]);
            assert_eq!(b.worker.stats().fallbacks.load(Relaxed), 1);
            let kind = if sample.tcp { "TCP" } else { "UDP" };
            b.event(|event| match event {
                Event::Notice(text) if text.contains(kind) && text.contains("refuses") => Some(()),
                _ => None,
            });
        }
    }
}
