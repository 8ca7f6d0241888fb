//! A server with several clients, each a worker of its own: who gets which packet.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use super::*;
use crate::command::{Forwarding, PeerConfig, PeerHandle, Prefix};
use crate::framing::Framing;
use crate::key_slot::{DataKeys, SendKey};
use crate::stats::{PeerStats, WorkerStats};
use crate::tun::DeviceKind;
use crate::worker::{WorkerOptions, Workers};

use super::drops::sealed;

mod float;
mod listeners;
mod peers;
mod switched;

/// The server's own address inside.
const SERVER: &str = "10.8.0.1";

struct Server {
    workers: Workers,
    /// The device's queue of each worker.
    tuns: Vec<FakeTun>,
    /// Where each listener is reached.
    addresses: Vec<SocketAddr>,
    kind: DeviceKind,
    vnet: bool,
    io: IoChoice,
}

struct Client {
    node: Node,
    id: u32,
    /// What the server counts.
    stats: Arc<PeerStats>,
}

impl Server {
    fn new(io: IoChoice, vnet: bool, workers: usize, client_to_client: bool) -> Server {
        Server::with_listeners(io, vnet, &[workers], client_to_client)
    }

    fn with_listeners(io: IoChoice, vnet: bool, counts: &[usize], c2c: bool) -> Server {
        let forwarding = Forwarding::Routed {
            client_to_client: c2c,
        };
        Server::forwarding(io, DeviceKind::Tun, vnet, counts, forwarding)
    }

    fn forwarding(
        io: IoChoice,
        kind: DeviceKind,
        vnet: bool,
        counts: &[usize],
        forwarding: Forwarding,
    ) -> Server {
        let groups: Vec<_> = counts
            .iter()
            .map(|&count| UdpSocket::open_group(&loopback_config(), count).unwrap())
            .collect();
        let addresses = groups.iter().map(|group| group[0].local_addr().unwrap());
        let addresses = addresses.collect();
        let mut ranges: Vec<Range<u16>> = Vec::new();
        for &count in counts {
            let start = ranges.last().map_or(0, |range| range.end);
            ranges.push(start..start + count as u16);
        }
        let options = WorkerOptions {
            io,
            listeners: ranges,
            ..WorkerOptions::default()
        };
        let sockets: Vec<_> = groups.into_iter().flatten().collect();
        let count = Workers::queues(forwarding, sockets.len());
        let mut workers = Workers::start(sockets, &options).unwrap();
        workers.send(Command::SetForwarding(forwarding)).unwrap();
        let (queues, tuns) = (0..count).map(|_| FakeTun::of_kind(kind, vnet)).unzip();
        workers.attach_tun(queues).unwrap();
        Server {
            workers,
            tuns,
            addresses,
            kind,
            vnet,
            io,
        }
    }

    /// A client with this peer-id, two addresses and two networks.
    fn client(&mut self, id: u32) -> Client {
        self.client_with(id, 0, |_| ())
    }

    fn client_with(&mut self, id: u32, listener: u16, change: impl Fn(&mut PeerConfig)) -> Client {
        let node = Node::of_kind(self.kind, self.io, loopback_socket(), self.vnet);
        let client = Client {
            node,
            id,
            stats: Arc::default(),
        };
        let (ours, theirs) = keys(id);
        let address = self.addresses[usize::from(listener)];
        for command in client.commands(PEER, client.node.config(address), theirs) {
            client.node.send(command);
        }
        let mut config = self.config(&client, listener);
        change(&mut config);
        for command in client.commands(handle(id), config, ours) {
            self.workers.send(command).unwrap();
        }
        for prefix in [
            host(v4(id)),
            host(v6(id)),
            network(&format!("172.16.{id}.0"), 24),
            network(&format!("fd00:{id}::"), 32),
        ] {
            let command = Command::AddRoute(handle(id), prefix);
            self.workers.send(command).unwrap();
        }
        self.barrier();
        client.node.barrier();
        client
    }

    /// The server's side of a client.
    fn config(&self, client: &Client, listener: u16) -> PeerConfig {
        PeerConfig {
            float: true,
            tx_peer_id: Some(client.id),
            rx_peer_id: Some(client.id),
            listener,
            stats: Arc::clone(&client.stats),
            ..client.node.config(client.node.address)
        }
    }

    /// Waits until all commands are done.
    fn barrier(&mut self) {
        let (done, finished) = crossbeam::channel::bounded(self.tuns.len());
        self.workers.send(Command::Barrier(done)).unwrap();
        for _ in 0..self.tuns.len() {
            finished.recv_timeout(PATIENCE).unwrap();
        }
    }

    /// The queue to which the worker of this client writes.
    fn tun_of(&self, client: &Client) -> &FakeTun {
        &self.tuns[client.id as usize % self.tuns.len()]
    }

    fn dropped(&self, reason: DropReason, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.workers.stats().drops(reason) != count {
            let found = self.workers.stats().drops(reason);
            assert!(Instant::now() < deadline, "{reason:?}: {found} not {count}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn sum(&self, counter: impl Fn(&WorkerStats) -> &AtomicU64) -> u64 {
        self.workers.stats().sum(counter)
    }

    /// Waits for an event that `wanted` takes.
    fn event<T>(&self, wanted: impl Fn(Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let event = self.workers.events().recv_deadline(deadline).unwrap();
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }
}

impl Client {
    /// What makes `config` a peer with this client's id and these keys.
    fn commands(&self, peer: PeerHandle, config: PeerConfig, keys: DataKeys) -> [Command; 3] {
        let config = PeerConfig {
            tx_peer_id: config.tx_peer_id.and(Some(self.id)),
            ..config
        };
        [
            Command::SetPeer(peer, Box::new(config)),
            Command::InstallKey(peer, 0, Box::new(keys)),
            Command::UseKey(peer, 0),
        ]
    }

    /// It reads this packet next.
    fn gets(&self, packet: &[u8]) {
        assert_eq!(self.node.tun.next(PATIENCE).as_deref(), Some(packet));
    }
}

impl Node {
    fn barrier(&self) {
        let (done, finished) = crossbeam::channel::bounded(1);
        self.send(Command::Barrier(done));
        finished.recv_timeout(PATIENCE).unwrap();
    }
}

fn handle(id: u32) -> PeerHandle {
    PeerHandle(1000 + id)
}

/// The server's keys for a client, and the client's.
fn keys(id: u32) -> (DataKeys, DataKeys) {
    let (mut ours, mut theirs) = key_pair(Cipher::Aes256Gcm);
    for keys in [&mut ours, &mut theirs] {
        keys.send.cipher[1] ^= id as u8;
        keys.recv.cipher[1] ^= id as u8;
    }
    (ours, theirs)
}

fn v4(id: u32) -> IpAddr {
    format!("10.8.0.{}", 10 + id).parse().unwrap()
}

fn v6(id: u32) -> IpAddr {
    format!("fd00::{}", 10 + id).parse().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn host(address: IpAddr) -> Prefix {
    let bits = if address.is_ipv6() { 128 } else { 32 };
    Prefix { address, bits }
}

fn network(text: &str, bits: u8) -> Prefix {
    let address = address(text);
    Prefix { address, bits }
}

fn udp(from: IpAddr, to: IpAddr, content: &[u8]) -> Vec<u8> {
    Sample::udp(false).between(from, to).build(content)
}

fn numbered(from: IpAddr, to: IpAddr, flow: u32, number: u32) -> Vec<u8> {
    let mut content = payload(64);
    content[..4].copy_from_slice(&flow.to_be_bytes());
    content[4..8].copy_from_slice(&number.to_be_bytes());
    udp(from, to, &content)
}

/// Nothing waits at any of these.
fn silent<'a>(tuns: impl IntoIterator<Item = &'a FakeTun>) {
    std::thread::sleep(QUIET);
    for tun in tuns {
        assert_eq!(tun.next(Duration::ZERO), None);
    }
}

#[test]
fn packets_from_the_device_reach_the_owner_of_their_destination_only() {
    for io in engines() {
        for workers in 1..=3 {
            let mut server = Server::new(io, false, workers, false);
            let clients: Vec<_> = (0..4).map(|id| server.client(id)).collect();
            for tun in &server.tuns {
                for client in &clients {
                    let id = client.id;
                    for to in [
                        v4(id),
                        v6(id),
                        address(&format!("172.16.{id}.77")),
                        address(&format!("fd00:{id}::77")),
                    ] {
                        let from = if to.is_ipv6() { "fd00::1" } else { SERVER };
                        let packet = udp(address(from), to, b"x");
                        tun.inject(&packet);
                        client.gets(&packet);
                    }
                }
            }
            for to in ["10.8.0.99", "172.17.0.1"] {
                server.tuns[0].inject(&udp(address(SERVER), address(to), b"x"));
            }
            let link_local = udp(address("fe80::1"), address("fe80::2"), b"x");
            server.tuns[0].inject(&link_local);
            server.dropped(DropReason::NoRoute, 3);
            silent(clients.iter().map(|client| &client.node.tun));
        }
    }
}

#[test]
fn routes_come_go_and_change_hands() {
    for io in engines() {
        let mut server = Server::new(io, false, 2, false);
        let (a, b) = (server.client(0), server.client(1));
        let to = address("192.0.2.9");
        let packet = udp(address(SERVER), to, b"x");
        for (command, owner) in [
            (Command::AddRoute(handle(0), network("192.0.2.0", 24)), &a),
            (Command::AddRoute(handle(1), host(to)), &b),
            (Command::RemoveRoute(handle(0), host(to)), &b),
            (Command::RemoveRoute(handle(1), host(to)), &a),
            (Command::AddRoute(handle(1), network("192.0.2.0", 24)), &b),
        ] {
            server.workers.send(command).unwrap();
            server.barrier();
            server.tuns[0].inject(&packet);
            owner.gets(&packet);
        }
        server.workers.send(Command::RemovePeer(handle(1))).unwrap();
        server.barrier();
        server.tuns[0].inject(&packet);
        server.dropped(DropReason::NoRoute, 1);
        // A slot that is used again begins without routes.
        let c = server.client(2);
        server.tuns[0].inject(&packet);
        server.dropped(DropReason::NoRoute, 2);
        silent([&a.node.tun, &b.node.tun, &c.node.tun]);
    }
}

#[test]
fn multicast_from_the_device_reaches_every_client_that_is_up() {
    for io in engines() {
        for workers in [1, 3] {
            let mut server = Server::new(io, false, workers, false);
            let clients: Vec<_> = (0..4).map(|id| server.client(id)).collect();
            let command = Command::RemoveKey(handle(3), 0);
            server.workers.send(command).unwrap();
            server.barrier();
            for (from, to) in [(SERVER, "224.0.0.251"), ("fd00::1", "ff02::fb")] {
                let packet = udp(address(from), address(to), b"all");
                for tun in &server.tuns {
                    tun.inject(&packet);
                    for client in &clients[..3] {
                        client.gets(&packet);
                    }
                }
            }
            silent(clients.iter().map(|client| &client.node.tun));
            let drops: u64 = DropReason::ALL
                .iter()
                .map(|&reason| server.workers.stats().drops(reason))
                .sum();
            assert_eq!(drops, 0);
        }
    }
}

#[test]
fn multicast_that_reaches_nobody_is_counted() {
    for io in engines() {
        for workers in [1, 3] {
            let mut server = Server::new(io, false, workers, true);
            let mut dropped = 0;
            let mut send_all = |server: &Server, reaches: bool| {
                for tun in &server.tuns {
                    tun.inject(&udp(address(SERVER), address("224.0.0.251"), b"all"));
                    dropped += u64::from(!reaches);
                    server.dropped(DropReason::NoRoute, dropped);
                }
            };
            send_all(&server, false);
            let a = server.client(0);
            send_all(&server, true);
            // What comes from a client is the device's as well.
            let packet = udp(v4(0), address("224.0.0.251"), b"all");
            a.node.tun.inject(&packet);
            assert_eq!(server.tun_of(&a).next(PATIENCE), Some(packet));
            server.workers.send(Command::RemovePeer(handle(0))).unwrap();
            server.barrier();
            send_all(&server, false);
        }
    }
}

#[test]
fn only_a_clients_own_addresses_are_taken_from_it() {
    for io in engines() {
        let mut server = Server::new(io, false, 2, true);
        let (a, b) = (server.client(0), server.client(1));
        let send = |from: &str, to: &str| {
            let packet = udp(address(from), address(to), b"x");
            a.node.tun.inject(&packet);
            packet
        };
        for from in ["10.8.0.10", "172.16.0.200"] {
            let packet = send(from, SERVER);
            assert_eq!(server.tun_of(&a).next(PATIENCE), Some(packet));
        }
        // Another client's, the server's, nobody's; towards the server and the other client.
        for (from, to) in [
            ("10.8.0.11", SERVER),
            ("172.16.1.1", SERVER),
            (SERVER, "10.8.0.11"),
            ("203.0.113.1", "10.8.0.11"),
            ("203.0.113.1", "224.0.0.1"),
            ("fd00::11", "ff02::1"),
            ("::", "ff02::1"),
        ] {
            send(from, to);
        }
        server.dropped(DropReason::InnerSource, 7);
        send("fe80::1234", "ff02::2");
        send("fe80::1234", "fd00::11");
        server.dropped(DropReason::LinkLocalSource, 2);
        silent(server.tuns.iter().chain([&b.node.tun]));
    }
}

#[test]
fn flows_keep_their_order_with_any_number_of_workers() {
    for io in engines() {
        for workers in 1..=3 {
            let mut server = Server::new(io, false, workers, true);
            let clients: Vec<_> = (0..5).map(|id| server.client(id)).collect();
            let (rounds, each) = (10, 10);
            for round in 0..rounds {
                for number in round * each..(round + 1) * each {
                    for client in &clients {
                        let id = client.id;
                        // From the device, on another queue than its owner's for most.
                        let down = numbered(address(SERVER), v4(id), id, number);
                        server.tuns[(id / 2) as usize % workers].inject(&down);
                        // To the device, and to the next client.
                        let up = numbered(v4(id), address(SERVER), 100 + id, number);
                        client.node.tun.inject(&up);
                        let across = numbered(v4(id), v4((id + 1) % 5), 200 + id, number);
                        client.node.tun.inject(&across);
                    }
                }
                for client in &clients {
                    let (id, before) = (client.id, (client.id + 4) % 5);
                    let mut next = [round * each; 2];
                    for _ in 0..2 * each {
                        let packet = client.node.tun.next(PATIENCE).unwrap();
                        let across = packet[30] != 0 || packet[31] >= 200;
                        let number = next[usize::from(across)];
                        let expected = match across {
                            false => numbered(address(SERVER), v4(id), id, number),
                            true => numbered(v4(before), v4(id), 200 + before, number),
                        };
                        assert_eq!(packet, expected, "{io:?} {workers}");
                        next[usize::from(across)] += 1;
                    }
                }
            }
            let mut next = [0; 5];
            for tun in &server.tuns {
                while let Some(packet) = tun.next(QUIET) {
                    let id = u32::from(packet[31]) - 100;
                    let number = next[id as usize];
                    let expected = numbered(v4(id), address(SERVER), 100 + id, number);
                    assert_eq!(packet, expected, "{io:?} {workers}");
                    next[id as usize] += 1;
                }
            }
            assert_eq!(next, [rounds * each; 5]);
            for client in &clients {
                let received = client.stats.wire_rx_packets.load(Relaxed);
                assert_eq!(received, u64::from(2 * rounds * each));
            }
        }
    }
}
