//! TCP connections: packets in both directions, slow peers, and streams that are no good.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use super::*;
use crate::command::{PeerConfig, PeerHandle, StreamConfig, StreamEnd, StreamId};
use crate::framing::Framing;
use crate::key_slot::{DataKeys, RecvKey, SendKey};
use crate::stream::{self, PREFIX};
use crate::worker::tests::drops::sealed;
use crate::worker::{WorkerOptions, Workers};

const ID: StreamId = StreamId(40);

const CONFIG: StreamConfig = StreamConfig {
    queue_limit: 64,
    max_packet: 9100,
};

/// Both ends of a connection.
fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    (near, far)
}

/// One with little room between the ends, but enough for the kernel not to wait for more.
fn narrow_pair() -> (TcpStream, TcpStream) {
    let (near, far) = tcp_pair();
    socket2::SockRef::from(&near)
        .set_send_buffer_size(100_000)
        .unwrap();
    socket2::SockRef::from(&far)
        .set_recv_buffer_size(100_000)
        .unwrap();
    (near, far)
}

fn peer_config(node: &Node, id: StreamId) -> PeerConfig {
    let mut config = node.config(([127, 0, 0, 1], 9).into());
    config.endpoint.stream = Some(id);
    config
}

/// Gives a node this connection, and a peer on it.
fn attach(
    node: &Node,
    peer: PeerHandle,
    id: StreamId,
    socket: TcpStream,
    config: StreamConfig,
    keys: DataKeys,
) {
    node.send(Command::AddStream(id, socket, config));
    node.send(Command::SetPeer(peer, Box::new(peer_config(node, id))));
    node.send(Command::InstallKey(peer, 0, Box::new(keys)));
    node.send(Command::UseKey(peer, 0));
}

/// Two nodes, each the other's peer on one connection.
fn stream_pair(io: IoChoice, vnet: bool, cipher: Cipher) -> (Node, Node) {
    let (a, b) = (Node::without_udp(io, vnet), Node::without_udp(io, vnet));
    let (near, far) = tcp_pair();
    let (keys_a, keys_b) = key_pair(cipher);
    attach(&a, PEER, ID, near, CONFIG, keys_a);
    attach(&b, PEER, ID, far, CONFIG, keys_b);
    (a, b)
}

/// A node and the far end of its connection, with the keys of the far end.
fn with_far_end(io: IoChoice) -> (Node, TcpStream, SendKey, RecvKey) {
    let node = Node::without_udp(io, false);
    let (near, far) = tcp_pair();
    let (keys, theirs) = key_pair(Cipher::Aes256Gcm);
    attach(&node, PEER, ID, near, CONFIG, keys);
    let (send, recv) = far_keys(&theirs);
    (node, far, send, recv)
}

fn far_keys(keys: &DataKeys) -> (SendKey, RecvKey) {
    (
        SendKey::new(keys, 0, Some(3), Framing::None).unwrap(),
        RecvKey::new(keys, Framing::None, 4096, 0).unwrap(),
    )
}

fn framed(packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; PREFIX];
    stream::write_prefix(&mut frame, packet.len());
    frame.extend_from_slice(packet);
    frame
}

/// The next packet at the far end, or nothing at the end of the stream.
fn read_packet(mut far: &TcpStream) -> Option<Vec<u8>> {
    let mut prefix = [0; PREFIX];
    match far.read_exact(&mut prefix) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return None,
        Err(error) => panic!("{error}"),
    }
    let mut packet = vec![0; usize::from(u16::from_be_bytes(prefix))];
    far.read_exact(&mut packet).unwrap();
    Some(packet)
}

fn open(key: &mut RecvKey, packet: &mut [u8]) -> Vec<u8> {
    let range = key.open(0, packet).unwrap();
    packet[range].to_vec()
}

fn closed(node: &Node) -> (StreamId, StreamEnd) {
    node.event(|event| match event {
        Event::StreamClosed(id, end) => Some((id, end)),
        _ => None,
    })
}

/// Nothing more is said about any connection.
fn no_more_ends(node: &Node) {
    std::thread::sleep(QUIET);
    for event in node.worker.events().try_iter() {
        assert!(!matches!(event, Event::StreamClosed(..)), "{event:?}");
    }
}

fn control(node: &Node) -> (Endpoint, Vec<u8>) {
    node.event(|event| match event {
        Event::Control { from, datagram, .. } => Some((from, datagram.into_vec())),
        _ => None,
    })
}

fn numbered(number: u32, len: usize) -> Vec<u8> {
    let mut data = payload(len);
    data[..4].copy_from_slice(&number.to_be_bytes());
    Sample::udp(false).build(&data)
}

#[test]
fn bulk_passes_both_ways_in_order_and_few_calls() {
    for io in engines() {
        for cipher in [Cipher::Aes256Gcm, Cipher::Aes128Cbc] {
            let (a, b) = stream_pair(io, true, cipher);
            for (from, to) in [(&a, &b), (&b, &a)] {
                let mut expected = Vec::new();
                for round in 0..20 {
                    for (sample, len, size) in [
                        (Sample::tcp(false), 60_000, 1360),
                        (Sample::tcp(true), 30_000, 100),
                        (Sample::udp(false), 50_000, 1200),
                    ] {
                        let data = payload(len + round);
                        let (header, packet) = sample.build_super(&data, size);
                        from.tun.inject(&with_header(&header, &packet));
                        expected.extend(sample.segments(&data, size));
                    }
                    let small = Sample::udp(true).build(&payload(round));
                    from.tun.inject(&with_header(&VnetHdr::default(), &small));
                    expected.push(small);
                    let got = written(&to.tun, true, expected.len());
                    assert!(got == expected, "{io:?} {cipher:?} round {round}");
                    expected.clear();
                }
            }
            std::thread::sleep(QUIET);
            let stats = a.worker.stats();
            let packets = a.stats.wire_tx_packets.load(Relaxed);
            for calls in [&stats.stream_tx_calls, &stats.stream_rx_calls] {
                let calls = calls.load(Relaxed);
                assert!(0 < calls && calls * 20 < packets, "{calls} for {packets}");
            }
            assert_eq!(stats.udp_tx_calls.load(Relaxed), 0);
        }
    }
}

#[test]
fn a_stream_in_single_bytes_is_read_as_well() {
    for io in engines() {
        let (node, mut far, mut send, _) = with_far_end(io);
        far.set_nodelay(true).unwrap();
        let inner = numbered(1, 40);
        for byte in framed(&sealed(&mut send, &inner)) {
            far.write_all(&[byte]).unwrap();
            std::thread::yield_now();
        }
        assert_eq!(node.tun.next(PATIENCE), Some(inner), "{io:?}");
    }
}

#[test]
fn control_and_data_share_a_stream_in_order() {
    for io in engines() {
        let (node, mut far, mut send, mut recv) = with_far_end(io);
        let mut bytes = Vec::new();
        for number in 0..50u8 {
            bytes.extend(framed(&[4 << 3, number]));
            bytes.extend(framed(&sealed(&mut send, &numbered(number.into(), 100))));
        }
        far.write_all(&bytes).unwrap();
        for number in 0..50u8 {
            let (from, packet) = control(&node);
            assert_eq!(packet, [4 << 3, number]);
            assert_eq!(from.stream, Some(ID));
            assert_eq!(from.remote, far.local_addr().unwrap());
            let expected = numbered(number.into(), 100);
            assert_eq!(node.tun.next(PATIENCE), Some(expected));
        }
        for number in 0..50u8 {
            node.send(Command::SendControl(ID, vec![4 << 3, number]));
            node.send(Command::SendPayload(PEER, vec![number; 100]));
        }
        for number in 0..50u8 {
            assert_eq!(read_packet(&far), Some(vec![4 << 3, number]));
            let mut packet = read_packet(&far).unwrap();
            assert_eq!(open(&mut recv, &mut packet), [number; 100]);
        }
    }
}

#[test]
fn a_slow_reader_costs_whole_packets_and_nobody_else() {
    for io in engines() {
        let node = Node::without_udp(io, false);
        let config = StreamConfig {
            queue_limit: 10,
            max_packet: 2000,
        };
        let (near, far) = narrow_pair();
        let (keys, theirs) = key_pair(Cipher::Aes256Gcm);
        attach(&node, PEER, ID, near, config, keys);
        let (_, mut slow) = far_keys(&theirs);
        let (near, quick_far) = tcp_pair();
        let (keys, theirs) = key_pair(Cipher::ChaCha20Poly1305);
        let (other, other_id) = (PeerHandle(2), StreamId(2));
        attach(&node, other, other_id, near, config, keys);
        let (_, mut quick) = far_keys(&theirs);

        const SENT: u32 = 2000;
        for number in 0..SENT {
            node.send(Command::SendPayload(PEER, numbered(number, 1000)));
            if number % 100 == 0 {
                node.send(Command::SendControl(ID, vec![4 << 3]));
                node.send(Command::SendPayload(other, numbered(number, 500)));
                let mut packet = read_packet(&quick_far).unwrap();
                assert_eq!(open(&mut quick, &mut packet), numbered(number, 500));
            }
        }
        std::thread::sleep(QUIET);
        let dropped = node.worker.stats().drops(DropReason::StreamFull);
        assert!(dropped > 0, "{io:?}");
        let (mut data, mut controls, mut last) = (0, 0, None);
        while data + dropped < u64::from(SENT) || controls < SENT / 100 {
            let mut packet = read_packet(&far).unwrap();
            if packet == [4 << 3] {
                controls += 1;
                continue;
            }
            let inner = open(&mut slow, &mut packet);
            let number = u32::from_be_bytes(inner[28..32].try_into().unwrap());
            assert!(last < Some(number), "{io:?}");
            assert_eq!(inner, numbered(number, 1000));
            last = Some(number);
            data += 1;
        }
        // Room again.
        node.send(Command::SendPayload(PEER, numbered(SENT, 1000)));
        let mut packet = read_packet(&far).unwrap();
        assert_eq!(open(&mut slow, &mut packet), numbered(SENT, 1000));
        assert_eq!(node.worker.stats().drops(DropReason::StreamFull), dropped);
    }
}

#[test]
fn the_device_waits_for_the_only_peer() {
    for io in engines() {
        let node = Node::without_udp(io, false);
        let (near, far) = narrow_pair();
        let (keys, theirs) = key_pair(Cipher::Aes256Gcm);
        let config = StreamConfig {
            queue_limit: 1000,
            ..CONFIG
        };
        attach(&node, PEER, ID, near, config, keys);
        let (_, mut recv) = far_keys(&theirs);
        const SENT: u32 = 5000;
        let feeder = std::thread::spawn({
            let tun = node.tun.try_clone();
            move || (0..SENT).for_each(|number| tun.inject(&numbered(number, 1000)))
        });
        std::thread::sleep(QUIET);
        // What the worker took is in a socket or in its queue; it has not read the rest.
        assert!(node.stats.wire_tx_packets.load(Relaxed) < 2000);
        for number in 0..SENT {
            let mut packet = read_packet(&far).unwrap();
            assert_eq!(open(&mut recv, &mut packet), numbered(number, 1000));
        }
        feeder.join().unwrap();
        assert_eq!(node.worker.stats().drops(DropReason::StreamFull), 0);
    }
}

#[test]
fn a_bad_length_ends_the_connection_once() {
    for io in engines() {
        for length in [[0, 0], 9101u16.to_be_bytes(), [0xff, 0xff]] {
            let (node, mut far, mut send, _) = with_far_end(io);
            let good = numbered(1, 100);
            let mut bytes = framed(&sealed(&mut send, &good));
            bytes.extend(length);
            bytes.extend([0; 100]);
            far.write_all(&bytes).unwrap();
            assert_eq!(closed(&node), (ID, StreamEnd::BadFrame));
            node.dropped(DropReason::Malformed, 1);
            assert_eq!(node.tun.next(PATIENCE), Some(good));
            assert!(!matches!(far.read(&mut [0; 1]), Ok(1..)));
            // Nobody is there any more.
            node.send(Command::SendControl(ID, vec![4 << 3]));
            node.send(Command::CloseStream(ID));
            node.tun.inject(&numbered(2, 100));
            node.dropped(DropReason::NoRoute, 2);
            no_more_ends(&node);
        }
    }
}

#[test]
fn what_is_not_the_peers_ends_the_connection() {
    for io in engines() {
        let noise = |_: &mut SendKey| vec![vec![0x48; 100]];
        let replay = |key: &mut SendKey| vec![sealed(key, &numbered(1, 50)); 2];
        let opcode = |_: &mut SendKey| vec![vec![0xff; 30]];
        let long_control = |_: &mut SendKey| vec![vec![4 << 3; 5000]];
        type Packets = fn(&mut SendKey) -> Vec<Vec<u8>>;
        let cases: [(Packets, DropReason); 4] = [
            (noise, DropReason::AuthFailed),
            (replay, DropReason::Replay),
            (opcode, DropReason::Malformed),
            (long_control, DropReason::Malformed),
        ];
        for (packets, reason) in cases {
            let (node, mut far, mut send, _) = with_far_end(io);
            for packet in packets(&mut send) {
                far.write_all(&framed(&packet)).unwrap();
            }
            assert_eq!(closed(&node), (ID, StreamEnd::BadPacket), "{reason:?}");
            node.dropped(reason, 1);
            no_more_ends(&node);
        }
        // A key that is not there yet, or any more, is no reason.
        let (node, mut far, mut send, _) = with_far_end(io);
        far.write_all(&framed(&[0x4b; 60])).unwrap();
        node.dropped(DropReason::NoKey, 1);
        far.write_all(&framed(&sealed(&mut send, &numbered(1, 50))))
            .unwrap();
        assert_eq!(node.tun.next(PATIENCE), Some(numbered(1, 50)));
    }
}

#[test]
fn ends_of_all_kinds_are_told_once() {
    for io in engines() {
        // In the middle of a frame.
        let (node, mut far, ..) = with_far_end(io);
        far.write_all(&[0, 9, 4 << 3]).unwrap();
        no_more_ends(&node);
        drop(far);
        assert_eq!(closed(&node), (ID, StreamEnd::EndOfFile));
        no_more_ends(&node);

        let (node, far, ..) = with_far_end(io);
        socket2::SockRef::from(&far)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(far);
        assert_eq!(closed(&node), (ID, StreamEnd::Reset));
        // The id is free again, and its connection is the peer's.
        let (near, far) = tcp_pair();
        node.send(Command::AddStream(ID, near, CONFIG));
        node.send(Command::SendControl(ID, vec![4 << 3, 1]));
        assert_eq!(read_packet(&far), Some(vec![4 << 3, 1]));
        // A second connection of the same id does not harm the first.
        let (near, second) = tcp_pair();
        node.send(Command::AddStream(ID, near, CONFIG));
        assert_eq!(read_packet(&second), None);
        node.send(Command::SendControl(ID, vec![4 << 3, 2]));
        assert_eq!(read_packet(&far), Some(vec![4 << 3, 2]));
    }
}

#[test]
fn a_closed_connection_delivers_what_it_was_given() {
    for io in engines() {
        let node = Node::without_udp(io, false);
        let (near, mut far) = narrow_pair();
        node.send(Command::AddStream(ID, near, CONFIG));
        // Unread bytes must not turn the end into a reset.
        far.write_all(&framed(&[4 << 3; 9])).unwrap();
        for number in 0..40 {
            node.send(Command::SendControl(ID, vec![number; 9000]));
        }
        node.send(Command::CloseStream(ID));
        node.send(Command::SendControl(ID, vec![99]));
        far.write_all(&[1; 5000]).unwrap();
        for number in 0..40 {
            assert_eq!(read_packet(&far), Some(vec![number; 9000]), "{io:?}");
        }
        assert_eq!(read_packet(&far), None);
        drop(far);
        assert_eq!(closed(&node), (ID, StreamEnd::Closed));
        no_more_ends(&node);
    }
}

#[test]
fn a_closed_connection_does_not_wait_for_ever() {
    for io in engines() {
        let node = Node::without_udp(io, false);
        let (near, _far) = narrow_pair();
        node.send(Command::AddStream(ID, near, CONFIG));
        for _ in 0..60 {
            node.send(Command::SendControl(ID, vec![4 << 3; 16_000]));
        }
        node.send(Command::CloseStream(ID));
        let limit = Instant::now() + 4 * PATIENCE;
        let ended = node.worker.events().recv_deadline(limit).unwrap();
        assert!(matches!(ended, Event::StreamClosed(ID, StreamEnd::Closed)));
    }
}

#[test]
fn many_streams_at_once() {
    for io in engines() {
        let node = Node::new(io, loopback_socket(), false);
        let mut ends = Vec::new();
        for index in 0..64u32 {
            let (near, far) = tcp_pair();
            let (ours, theirs) = key_pair(Cipher::Aes256Gcm);
            let peer = PeerHandle(100 + index);
            attach(&node, peer, StreamId(index), near, CONFIG, ours);
            ends.push((peer, far, far_keys(&theirs)));
        }
        for round in 0..20u32 {
            for (_, far, (send, _)) in &mut ends {
                let packet = sealed(send, &numbered(round, 600));
                far.write_all(&framed(&packet)).unwrap();
            }
            for _ in 0..ends.len() {
                assert_eq!(node.tun.next(PATIENCE), Some(numbered(round, 600)));
            }
            for (peer, ..) in &ends {
                let payload = peer.0.to_be_bytes().to_vec();
                node.send(Command::SendPayload(*peer, payload));
            }
            for (peer, far, (_, recv)) in &mut ends {
                let mut packet = read_packet(far).unwrap();
                assert_eq!(open(recv, &mut packet), peer.0.to_be_bytes());
            }
        }
        drop(ends);
        let mut seen: Vec<_> = (0..64).map(|_| closed(&node)).collect();
        seen.sort_unstable_by_key(|(id, _)| *id);
        for (index, (id, end)) in seen.into_iter().enumerate() {
            assert_eq!(id, StreamId(index as u32));
            assert!(matches!(end, StreamEnd::EndOfFile | StreamEnd::Reset));
        }
        no_more_ends(&node);
    }
}

#[test]
fn packets_of_many_streams_in_one_flush_find_theirs() {
    let (mut streams, mut counts) = (
        crate::worker::streams::Streams::new().unwrap(),
        crate::worker::Counts::default(),
    );
    let mut fars = Vec::new();
    for index in 0..3 {
        let (near, far) = tcp_pair();
        streams.add(StreamId(index), near, CONFIG).unwrap();
        fars.push(far);
    }
    let (mut slab, mut runs) = (vec![0xaa; 7], Vec::new());
    for number in 0..60u8 {
        let frame = framed(&vec![number; 20 + usize::from(number)]);
        runs.push(crate::worker::streams::Run {
            // Neighbours of one stream and such with others in between.
            id: StreamId(u32::from(number / 2 % 3)),
            start: slab.len(),
            len: frame.len(),
        });
        slab.extend(frame);
    }
    streams.send(&slab, &mut runs, &mut counts);
    assert!(runs.is_empty());
    assert_eq!(counts.stream_tx_calls, 3);
    for number in 0..60u8 {
        let expected = vec![number; 20 + usize::from(number)];
        assert_eq!(
            read_packet(&fars[usize::from(number / 2 % 3)]),
            Some(expected)
        );
    }
}

#[test]
fn nobody_floats_from_a_stream_to_udp() {
    for io in engines() {
        let node = Node::new(io, loopback_socket(), false);
        let (near, far) = tcp_pair();
        let (ours, theirs) = key_pair(Cipher::Aes256Gcm);
        attach(&node, PEER, ID, near, CONFIG, ours);
        let mut config = peer_config(&node, ID);
        config.float = true;
        node.send(Command::SetPeer(PEER, Box::new(config)));
        let (done, finished) = crossbeam::channel::bounded(1);
        node.send(Command::Barrier(done));
        finished.recv_timeout(PATIENCE).unwrap();
        let (mut send, mut recv) = far_keys(&theirs);
        let datagram = sealed(&mut send, &numbered(1, 50));
        loopback_socket()
            .send_to(&Endpoint::new(node.address), &datagram)
            .unwrap();
        node.dropped(DropReason::WrongSource, 1);
        node.tun.inject(&numbered(2, 50));
        let mut packet = read_packet(&far).unwrap();
        assert_eq!(open(&mut recv, &mut packet), numbered(2, 50));
    }
}

#[test]
fn too_large_a_packet_is_not_sent() {
    for io in engines() {
        let node = Node::without_udp(io, false);
        let (near, far) = tcp_pair();
        let (ours, theirs) = key_pair(Cipher::Aes256Gcm);
        let config = StreamConfig {
            max_packet: 1000,
            ..CONFIG
        };
        attach(&node, PEER, ID, near, config, ours);
        let (_, mut recv) = far_keys(&theirs);
        let (most, more) = (1000 - 24 - 28, 1000 - 24 - 28 + 1);
        node.tun.inject(&numbered(1, more));
        node.tun.inject(&numbered(2, most));
        let mut packet = read_packet(&far).unwrap();
        assert_eq!(packet.len(), 1000);
        assert_eq!(open(&mut recv, &mut packet), numbered(2, most));
        node.dropped(DropReason::TooBig, 1);
    }
}

#[test]
fn a_group_without_udp_serves_streams_on_all_its_workers() {
    for io in engines() {
        let options = WorkerOptions {
            io,
            ..WorkerOptions::default()
        };
        let mut workers = Workers::start_without_udp(2, &options).unwrap();
        let (queue, tun) = FakeTun::new(false);
        workers.attach_tun(vec![queue]).unwrap();
        let spare = Node::without_udp(io, false);
        let mut ends = Vec::new();
        for index in 0..4u32 {
            let (near, far) = tcp_pair();
            let (ours, theirs) = key_pair(Cipher::Aes256Gcm);
            let (peer, id) = (PeerHandle(index), StreamId(index));
            for command in [
                Command::AddStream(id, near, CONFIG),
                Command::SetPeer(peer, Box::new(peer_config(&spare, id))),
                Command::InstallKey(peer, 0, Box::new(ours)),
                Command::UseKey(peer, 0),
                Command::SendControl(id, vec![4 << 3]),
                Command::SendPayload(peer, vec![index as u8; 20]),
            ] {
                workers.send(command).unwrap();
            }
            ends.push((far, far_keys(&theirs)));
        }
        for (index, (far, (send, recv))) in ends.iter_mut().enumerate() {
            assert_eq!(read_packet(far), Some(vec![4 << 3]));
            let mut packet = read_packet(far).unwrap();
            assert_eq!(open(recv, &mut packet), [index as u8; 20]);
            let inner = numbered(index as u32, 100);
            far.write_all(&framed(&sealed(send, &inner))).unwrap();
            assert_eq!(tun.next(PATIENCE), Some(inner));
        }
        // With one peer left the device's packets are for it, whichever worker reads.
        for index in 0..3 {
            workers
                .send(Command::RemovePeer(PeerHandle(index)))
                .unwrap();
        }
        let (done, finished) = crossbeam::channel::bounded(2);
        workers.send(Command::Barrier(done)).unwrap();
        for _ in 0..2 {
            finished.recv_timeout(PATIENCE).unwrap();
        }
        tun.inject(&numbered(9, 100));
        let (far, (_, recv)) = &mut ends[3];
        let mut packet = read_packet(far).unwrap();
        assert_eq!(open(recv, &mut packet), numbered(9, 100));
    }
}
