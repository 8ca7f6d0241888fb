//! A warm server allocates nothing for packets: between device and clients, from client to client, and
//! to all of them, with packets handed from worker to worker. Its clients are told apart by address, over
//! UDP and over TCP, or by hardware address on a switch, without and with VLANs.

#![allow(
    unsafe_code,
    reason = "a counting allocator cannot be written without it"
)]
#![allow(clippy::unwrap_used, reason = "helpers of a test")]

#[allow(dead_code, reason = "each test uses its part")]
#[path = "zero_alloc/support.rs"]
mod support;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use crossbeam::channel;
use ringway_dataplane::command::{
    Command, Endpoint, Forwarding, PeerConfig, PeerHandle, Port, Prefix, StreamId,
};
use ringway_dataplane::error::DropReason;
use ringway_dataplane::forward::vlan::{Accept, DevicePort, NONE};
use ringway_dataplane::frame::{IPV4, Mac, VLAN};
use ringway_dataplane::key_slot::Cipher;
use ringway_dataplane::tun::DeviceKind;
use ringway_dataplane::udp::{Family, UdpConfig, UdpSocket};
use ringway_dataplane::worker::{IoChoice, WorkerOptions, Workers};

use support::{COUNT, EXEMPT, End, STREAM, connection, fake_device, inject, keys, payload_read};

const CLIENTS: u8 = 3;

/// Rounds between two looks at the counter.
const ROUNDS: usize = 10;

/// A worker that falls behind for once may need one more batch of its lane; lanes stop growing, and what
/// is asked for with every packet shows in every one of so many windows.
const WINDOWS: usize = 20;

/// What goes each way: payload, segment size, how often.
const LOAD: [(usize, u16, usize); 3] = [(30_000, 1360, 2), (100, 0, 10), (1300, 0, 2)];

/// What kind of server.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Case {
    Routed,
    Streams,
    Switched,
    Vlan,
}

/// The VLAN of the clients; the device has it with tags.
const TAG: u16 = 7;

/// Who takes part: the host behind the device, all, or a client.
#[derive(Clone, Copy)]
enum Host {
    Device,
    All,
    Client(u8),
}

struct Server {
    case: Case,
    workers: Workers,
    tuns: Vec<File>,
    clients: Vec<End>,
}

#[test]
fn a_warm_server_allocates_nothing() {
    EXEMPT.set(true);
    for io in [IoChoice::Uring, IoChoice::Syscalls] {
        for case in [Case::Routed, Case::Streams, Case::Switched, Case::Vlan] {
            for count in 1..=2 {
                let Some(server) = Server::start(case, io, count) else {
                    eprintln!("skipped: {io:?} is not allowed here");
                    continue;
                };
                let allocated = |rounds| {
                    let before = COUNT.load(SeqCst);
                    for _ in 0..rounds {
                        server.exchange();
                    }
                    COUNT.load(SeqCst) - before
                };
                allocated(10);
                let windows: Vec<_> = (0..WINDOWS)
                    .map(|_| allocated(ROUNDS))
                    .take_while(|&count| count != 0)
                    .collect();
                assert!(
                    windows.len() < WINDOWS,
                    "{io:?} {case:?} {count}: {windows:?}"
                );
            }
        }
    }
}

impl Case {
    fn kind(self) -> DeviceKind {
        match self {
            Case::Routed | Case::Streams => DeviceKind::Tun,
            Case::Switched | Case::Vlan => DeviceKind::Tap,
        }
    }

    fn forwarding(self) -> Forwarding {
        let vlan = (self == Case::Vlan).then_some(DevicePort {
            accept: Accept::Tagged,
            pvid: 1,
        });
        match self.kind() {
            DeviceKind::Tun => Forwarding::Routed {
                client_to_client: true,
            },
            DeviceKind::Tap => Forwarding::Switched {
                client_to_client: true,
                ask_first: false,
                vlan,
            },
        }
    }

    /// What makes the server send to this client.
    fn place(self, id: u8) -> Command {
        let handle = PeerHandle(u32::from(id));
        match self.kind() {
            DeviceKind::Tun => {
                let address = Prefix {
                    address: Ipv4Addr::from(Host::Client(id).address()).into(),
                    bits: 32,
                };
                Command::AddRoute(handle, address)
            }
            DeviceKind::Tap => {
                let vlan = if self == Case::Vlan { TAG } else { NONE };
                let port = Port { vlan, stations: 2 };
                Command::SetPort(handle, port)
            }
        }
    }

    /// The header in front of a packet at this host's side of the server.
    fn link(self, at: Host, from: Host, to: Host) -> Vec<u8> {
        if self.kind() == DeviceKind::Tun {
            return Vec::new();
        }
        let mut link = [to.mac().0, from.mac().0].concat();
        if self == Case::Vlan && matches!(at, Host::Device) {
            link.extend([VLAN, TAG].map(u16::to_be_bytes).concat());
        }
        link.extend(IPV4.to_be_bytes());
        link
    }
}

impl Host {
    fn address(self) -> [u8; 4] {
        match self {
            Host::Device => [10, 8, 0, 1],
            Host::All => [224, 0, 0, 9],
            Host::Client(id) => [10, 8, 0, 10 + id],
        }
    }

    fn mac(self) -> Mac {
        match self {
            Host::Device => Mac([2, 0, 0, 0, 0, 1]),
            Host::All => Mac::BROADCAST,
            Host::Client(id) => Mac([2, 0, 0, 0, 0, 10 + id]),
        }
    }
}

impl Server {
    fn start(case: Case, io: IoChoice, count: usize) -> Option<Server> {
        let udp = UdpConfig {
            local: Some(Ipv4Addr::LOCALHOST.into()),
            ..UdpConfig::new(Family::V4)
        };
        let sockets = UdpSocket::open_group(&udp, count).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let options = WorkerOptions {
            io,
            ..WorkerOptions::default()
        };
        let mut workers = Workers::start(sockets, &options).ok()?;
        let forwarding = Command::SetForwarding(case.forwarding());
        workers.send(forwarding).unwrap();
        let (queues, tuns) = (0..count).map(|_| fake_device(case.kind())).unzip();
        workers.attach_tun(queues).unwrap();
        let mut server = Server {
            case,
            workers,
            tuns,
            clients: Vec::new(),
        };
        for id in 0..CLIENTS {
            let client = End::of_kind(io, case.kind())?;
            server.add(id, client, address);
        }
        server.introduce();
        Some(server)
    }

    /// Connects a client with the server, which is at this address.
    fn add(&mut self, id: u8, mut client: End, server: SocketAddr) {
        let handle = PeerHandle(u32::from(id));
        let (mut near, mut far) = (Endpoint::new(server), client.remote);
        if self.case == Case::Streams {
            let (ours, theirs) = connection();
            client.take(theirs);
            near.stream = client.remote.stream;
            let stream = StreamId(id.into());
            far.stream = Some(stream);
            let command = Command::AddStream(stream, ours, STREAM);
            self.workers.send(command).unwrap();
        }
        let ours = PeerConfig {
            endpoint: far,
            tx_peer_id: Some(id.into()),
            rx_peer_id: Some(id.into()),
            ..client.config(&client)
        };
        let theirs = PeerConfig {
            endpoint: near,
            guard_recursion: false,
            stats: Arc::default(),
            ..ours.clone()
        };
        let cipher = Cipher::Aes256Gcm;
        let (down, up) = (100 + id, 200 + id);
        for command in [
            Command::SetPeer(handle, Box::new(theirs)),
            Command::InstallKey(handle, 0, Box::new(keys(cipher, up, down))),
            Command::UseKey(handle, 0),
        ] {
            client.worker.send(command).unwrap();
        }
        for command in [
            Command::SetPeer(handle, Box::new(ours)),
            Command::InstallKey(handle, 0, Box::new(keys(cipher, down, up))),
            Command::UseKey(handle, 0),
            self.case.place(id),
        ] {
            self.workers.send(command).unwrap();
        }
        self.clients.push(client);
    }

    /// Every client speaks, so that all workers know where it is.
    fn introduce(&mut self) {
        self.barrier();
        for id in 0..CLIENTS {
            self.pass(Host::Client(id), Host::Device, 0);
        }
        self.barrier();
    }

    /// Waits until all commands are done, and what workers told each other before is on its way.
    fn barrier(&mut self) {
        let (done, finished) = channel::bounded(self.workers.count());
        self.workers.send(Command::Barrier(done)).unwrap();
        for _ in 0..self.workers.count() {
            finished.recv().unwrap();
        }
    }

    /// Data in every form, everywhere; returns when all of it has arrived.
    fn exchange(&self) {
        for queue in 0..self.tuns.len() {
            self.pass(Host::Device, Host::All, queue);
        }
        for id in 0..CLIENTS {
            for queue in 0..self.tuns.len() {
                self.pass(Host::Device, Host::Client(id), queue);
            }
            self.pass(Host::Client(id), Host::Device, 0);
            self.pass(Host::Client(id), Host::Client((id + 1) % CLIENTS), 0);
            self.pass(Host::Client(id), Host::All, 0);
        }
        let drops = self.workers.stats();
        for reason in DropReason::ALL {
            assert_eq!(drops.drops(reason), 0, "{reason:?}");
        }
    }

    /// Sends the load from a client, or this queue of the device, and waits until all of it is where it
    /// is to be.
    fn pass(&self, from: Host, to: Host, queue: usize) {
        let tun = |host| match host {
            Host::Client(id) => &self.clients[usize::from(id)].tun,
            Host::Device | Host::All => &self.tuns[queue],
        };
        // A client's worker writes to its own queue.
        let own = |id: u8| &self.tuns[usize::from(id) % self.tuns.len()];
        let addresses = [from.address(), to.address()].concat();
        let addresses = addresses.try_into().unwrap();
        for (payload, size, times) in LOAD {
            let link = self.case.link(from, from, to);
            let sent: usize = (0..times)
                .map(|_| inject(tun(from), &link, addresses, payload, size))
                .sum();
            let arrive = |tun, at| {
                let link = self.case.link(at, from, to).len();
                let mut arrived = 0;
                while arrived < sent {
                    arrived += payload_read(tun, link);
                }
            };
            match (from, to) {
                (Host::Client(id), Host::Device) => arrive(own(id), to),
                (_, Host::All) => {
                    for id in 0..CLIENTS {
                        match from {
                            Host::Client(own_id) if own_id == id => arrive(own(id), Host::Device),
                            _ => arrive(tun(Host::Client(id)), Host::Client(id)),
                        }
                    }
                }
                _ => arrive(tun(to), to),
            }
        }
    }
}
