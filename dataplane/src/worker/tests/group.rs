//! Groups of workers against one worker: halves on different threads, packets handed over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::*;
use crate::cipher::Segment;
use crate::command::PeerConfig;
use crate::fragment::Fragment;
use crate::framing::Framing;
use crate::key_slot::{DataFormat, DataKeys, SendKey};
use crate::stats::PeerStats;
use crate::worker::{WorkerOptions, Workers};

/// A group with a stand-in device of one queue for each worker that reads.
struct Group {
    workers: Workers,
    tuns: Vec<FakeTun>,
    address: SocketAddr,
    stats: Arc<PeerStats>,
}

impl Group {
    fn new(io: IoChoice, count: usize) -> Group {
        let sockets = UdpSocket::open_group(&loopback_config(), count).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let mut workers = Workers::start(
            sockets,
            &WorkerOptions {
                io,
                ..WorkerOptions::default()
            },
        )
        .unwrap();
        let (mut queues, tuns): (Vec<_>, Vec<_>) =
            (0..count.max(2) - 1).map(|_| FakeTun::new(false)).unzip();
        if count > 2 {
            queues.push(queues[0].writer().unwrap());
        }
        workers.attach_tun(queues).unwrap();
        Group {
            workers,
            tuns,
            address,
            stats: Arc::default(),
        }
    }

    fn connect(&mut self, node: &Node, peer_id: u32, keys: (DataKeys, DataKeys)) {
        let config = |node: &Node, remote: SocketAddr| PeerConfig {
            tx_peer_id: Some(peer_id),
            rx_peer_id: Some(peer_id),
            ..node.config(remote)
        };
        let ours = PeerConfig {
            stats: Arc::clone(&self.stats),
            ..config(node, node.address)
        };
        let commands = |config, keys| {
            [
                Command::SetPeer(PEER, Box::new(config)),
                Command::InstallKey(PEER, 0, Box::new(keys)),
                Command::UseKey(PEER, 0),
            ]
        };
        for command in commands(ours, keys.0) {
            self.workers.send(command).unwrap();
        }
        for command in commands(config(node, self.address), keys.1) {
            node.send(command);
        }
    }

    /// Waits until `done` holds, with the group's counters in the message if it never does.
    fn until(&self, what: &str, done: impl Fn(&Group) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(
                Instant::now() < deadline,
                "{what}: {:?}",
                self.workers.stats()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn numbered(flow: u8, number: u32) -> Vec<u8> {
    let mut data = payload(64);
    data[0] = flow;
    data[1..5].copy_from_slice(&number.to_be_bytes());
    Sample::udp(false).build(&data)
}

#[test]
fn every_number_of_workers_carries_both_directions_in_order() {
    for io in engines() {
        for count in 1..=4 {
            for peer_id in [0, 1, 6] {
                let node = Node::new(io, loopback_socket(), false);
                let mut group = Group::new(io, count);
                group.connect(&node, peer_id, key_pair(Cipher::Aes256Gcm));
                // Each queue has flows of its own, as the kernel's hash would have it.
                let (rounds, each) = (15, 20);
                let sent = rounds * each;
                let mut next = vec![0; group.tuns.len()];
                for round in 0..rounds {
                    for number in round * each..(round + 1) * each {
                        for (flow, tun) in group.tuns.iter().enumerate() {
                            tun.inject(&numbered(flow as u8, number));
                        }
                        node.tun.inject(&numbered(9, number));
                    }
                    for _ in 0..each as usize * group.tuns.len() {
                        let packet = node.tun.next(PATIENCE).unwrap();
                        let flow = usize::from(packet[28]);
                        let expected = numbered(flow as u8, next[flow]);
                        assert_eq!(packet, expected, "{io:?} {count} {peer_id}");
                        next[flow] += 1;
                    }
                }
                // Where they are written is one queue; which one, the order of roles says.
                for number in 0..sent {
                    let packet = group.tuns[0].next(PATIENCE).unwrap();
                    assert_eq!(packet, numbered(9, number), "{io:?} {count} {peer_id}");
                }
                group.until("published", |group| {
                    group.stats.wire_rx_packets.load(Relaxed) == u64::from(sent)
                        && group.stats.wire_tx_packets.load(Relaxed)
                            == u64::from(sent) * group.tuns.len() as u64
                });
                let stats = group.workers.stats();
                let drops: u64 = DropReason::ALL.iter().map(|&r| stats.drops(r)).sum();
                assert_eq!(drops, 0, "{stats:?}");
            }
        }
    }
}

#[test]
fn a_packet_at_the_wrong_socket_reaches_the_right_worker() {
    for io in engines() {
        let node = Node::new(io, loopback_socket(), false);
        let mut group = Group::new(io, 2);
        // Told that its id is 1, the peer uses 2: everything arrives at the other worker.
        group.connect(&node, 1, key_pair(Cipher::Aes256Gcm));
        node.send(Command::SetPeer(
            PEER,
            Box::new(PeerConfig {
                tx_peer_id: Some(2),
                ..node.config(group.address)
            }),
        ));
        for number in 0..20 {
            node.tun.inject(&numbered(1, number));
            assert_eq!(group.tuns[0].next(PATIENCE), Some(numbered(1, number)));
        }
    }
}

#[test]
fn fragments_are_cut_by_one_worker_and_joined_by_another() {
    for io in engines() {
        for count in [2, 3] {
            let node = Node::new(io, loopback_socket(), false);
            let mut group = Group::new(io, count);
            let (ours, theirs) = key_pair(Cipher::Aes256Gcm);
            let fragment = Some(Fragment {
                payload: 100,
                largest: 1600,
            });
            let config = |remote: SocketAddr, stats: &Arc<PeerStats>| PeerConfig {
                tx_peer_id: Some(1),
                rx_peer_id: Some(1),
                stats: Arc::clone(stats),
                fragment,
                ..node.config(remote)
            };
            group.connect(&node, 1, (ours, theirs));
            let here = config(node.address, &group.stats);
            let there = config(group.address, &node.stats);
            group
                .workers
                .send(Command::SetPeer(PEER, Box::new(here.clone())))
                .unwrap();
            node.send(Command::SetPeer(PEER, Box::new(there)));
            let packet = Sample::udp(false).build(&payload(1400));
            for _ in 0..3 {
                node.tun.inject(&packet);
                assert_eq!(group.tuns[0].next(PATIENCE), Some(packet.clone()));
                group.tuns[0].inject(&packet);
                assert_eq!(node.tun.next(PATIENCE), Some(packet.clone()));
            }

            // Parts that a server's control socket received.
            let control = UdpSocket::open(&UdpConfig {
                offload: false,
                ..loopback_config()
            })
            .unwrap();
            let elsewhere = config(control.local_addr().unwrap(), &node.stats);
            node.send(Command::SetPeer(PEER, Box::new(elsewhere)));
            node.tun.inject(&packet);
            for _ in 0..15 {
                let from = Endpoint::new(node.address);
                let command = Command::Datagram(0, from, received(&control));
                group.workers.send(command).unwrap();
            }
            assert_eq!(group.tuns[0].next(PATIENCE), Some(packet));
        }
    }
}

/// The next datagram that arrives.
fn received(socket: &UdpSocket) -> Box<[u8]> {
    let mut buf = [0; 2000];
    let deadline = Instant::now() + PATIENCE;
    loop {
        match socket.receive(&mut buf) {
            Ok(message) => return Box::from(&buf[..message.unwrap().len]),
            Err(_) => assert!(Instant::now() < deadline, "nothing arrives"),
        }
    }
}

#[test]
fn a_packet_from_the_control_socket_reaches_its_worker() {
    for io in engines() {
        for count in 1..=4 {
            for peer_id in [0, 1, 6] {
                let node = Node::new(io, loopback_socket(), false);
                let mut group = Group::new(io, count);
                let control = loopback_socket();
                group.connect(&node, peer_id, key_pair(Cipher::Aes256Gcm));
                let config = |tx_peer_id| PeerConfig {
                    tx_peer_id,
                    ..node.config(control.local_addr().unwrap())
                };
                // DATA_V2, then DATA_V1, which says nothing of the worker.
                for (number, tx_peer_id) in [(0, Some(peer_id)), (1, None)] {
                    node.send(Command::SetPeer(PEER, Box::new(config(tx_peer_id))));
                    node.tun.inject(&numbered(1, number));
                    let from = Endpoint::new(node.address);
                    let datagram = Command::Datagram(0, from, received(&control));
                    group.workers.send(datagram).unwrap();
                    assert_eq!(group.tuns[0].next(PATIENCE), Some(numbered(1, number)));
                }
                let garbage = Command::Datagram(0, Endpoint::new(node.address), Box::new([]));
                group.workers.send(garbage).unwrap();
                group.until("counted", |group| {
                    group.workers.stats().drops(DropReason::Malformed) == 1
                });
            }
        }
    }
}

#[test]
fn the_sender_follows_the_peer_to_where_it_was_heard() {
    for io in engines() {
        let node = Node::new(io, loopback_socket(), false);
        let mut group = Group::new(io, 2);
        let (ours, theirs) = key_pair(Cipher::Aes256Gcm);
        group.connect(&node, 1, (ours.clone(), theirs.clone()));
        let config = PeerConfig {
            float: true,
            tx_peer_id: Some(1),
            rx_peer_id: Some(1),
            ..node.config("127.0.0.1:9".parse().unwrap())
        };
        group
            .workers
            .send(Command::SetPeer(PEER, Box::new(config)))
            .unwrap();
        node.tun.inject(&numbered(1, 0));
        assert_eq!(group.tuns[0].next(PATIENCE), Some(numbered(1, 0)));
        // The note is on its way as soon as the packet is.
        std::thread::sleep(QUIET);
        group.tuns[0].inject(&numbered(2, 0));
        assert_eq!(node.tun.next(PATIENCE), Some(numbered(2, 0)));
    }
}

#[test]
fn an_epoch_heard_by_one_worker_moves_the_key_of_the_other() {
    for io in engines() {
        let peer = loopback_socket();
        let mut group = Group::new(io, 2);
        let (mut ours, mut theirs) = key_pair(Cipher::Aes256Gcm);
        (ours.format, theirs.format) = (DataFormat::Epoch, DataFormat::Epoch);
        let node = Node::new(io, loopback_socket(), false);
        let config = PeerConfig {
            tx_peer_id: Some(1),
            rx_peer_id: Some(1),
            stats: Arc::clone(&group.stats),
            ..node.config(peer.local_addr().unwrap())
        };
        for command in [
            Command::SetPeer(PEER, Box::new(config)),
            Command::InstallKey(PEER, 0, Box::new(ours)),
            Command::UseKey(PEER, 0),
        ] {
            group.workers.send(command).unwrap();
        }
        let mut key = SendKey::new(&theirs, 0, Some(1), Framing::None).unwrap();
        key.advance_epoch(3);
        let packet = numbered(2, 0);
        let mut datagram = vec![0; key.sealed_len(packet.len())];
        let headroom = key.headroom();
        datagram[headroom..headroom + packet.len()].copy_from_slice(&packet);
        let segment = Segment {
            start: 0,
            len: packet.len(),
        };
        assert_eq!(key.seal(&mut datagram, &[segment]), 1);
        peer.send_to(&Endpoint::new(group.address), &datagram)
            .unwrap();
        assert_eq!(group.tuns[0].next(PATIENCE), Some(packet));
        std::thread::sleep(QUIET);
        group.tuns[0].inject(&numbered(1, 1));
        group.until("third epoch", |g| g.stats.epoch.load(Relaxed) == 3);
    }
}
