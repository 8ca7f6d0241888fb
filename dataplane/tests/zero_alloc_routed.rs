//! A warm server allocates nothing for packets: between device and clients, from client to client, and
//! multicast, with packets handed from worker to worker.

#![allow(
    unsafe_code,
    reason = "a counting allocator cannot be written without it"
)]
#![allow(clippy::unwrap_used, reason = "helpers of a test")]

#[allow(dead_code, reason = "each test uses its part")]
#[path = "zero_alloc/support.rs"]
mod support;

use std::fs::File;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use ringway_dataplane::command::{Command, Endpoint, Forwarding, PeerConfig, PeerHandle, Prefix};
use ringway_dataplane::error::DropReason;
use ringway_dataplane::key_slot::Cipher;
use ringway_dataplane::udp::{Family, UdpConfig, UdpSocket};
use ringway_dataplane::worker::{IoChoice, WorkerOptions, Workers};

use support::{COUNT, EXEMPT, End, fake_tun, inject, keys, payload_read};

const CLIENTS: u8 = 3;

/// Rounds between two looks at the counter.
const ROUNDS: usize = 40;

/// A worker that falls behind for once may need one more batch of its lane; lanes stop growing, and what
/// is asked for with every packet shows in every one of so many windows.
const WINDOWS: usize = 10;

/// What goes each way: payload, segment size, how often.
const LOAD: [(usize, u16, usize); 3] = [(30_000, 1360, 2), (100, 0, 10), (1300, 0, 2)];

struct Server {
    workers: Workers,
    tuns: Vec<File>,
    clients: Vec<End>,
}

#[test]
fn a_warm_server_allocates_nothing() {
    EXEMPT.set(true);
    for io in [IoChoice::Uring, IoChoice::Syscalls] {
        for count in 1..=2 {
            let Some(server) = Server::start(io, count) else {
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
            assert!(windows.len() < WINDOWS, "{io:?} {count}: {windows:?}");
        }
    }
}

impl Server {
    fn start(io: IoChoice, count: usize) -> Option<Server> {
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
        let forwarding = Forwarding::Routed {
            client_to_client: true,
        };
        workers.send(Command::SetForwarding(forwarding)).unwrap();
        let (queues, tuns) = (0..count).map(|_| fake_tun()).unzip();
        workers.attach_tun(queues).unwrap();
        let mut clients = Vec::new();
        for id in 0..CLIENTS {
            let client = End::start(io)?;
            let handle = PeerHandle(u32::from(id));
            let ours = PeerConfig {
                tx_peer_id: Some(id.into()),
                rx_peer_id: Some(id.into()),
                ..client.config(&client)
            };
            let theirs = PeerConfig {
                endpoint: Endpoint::new(address),
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
            let address = Prefix {
                address: Ipv4Addr::from(inside(id)).into(),
                bits: 32,
            };
            for command in [
                Command::SetPeer(handle, Box::new(ours)),
                Command::InstallKey(handle, 0, Box::new(keys(cipher, down, up))),
                Command::UseKey(handle, 0),
                Command::AddRoute(handle, address),
            ] {
                workers.send(command).unwrap();
            }
            clients.push(client);
        }
        Some(Server {
            workers,
            tuns,
            clients,
        })
    }

    /// Data in every form, everywhere; returns when all of it has arrived.
    fn exchange(&self) {
        let host = [10, 8, 0, 1];
        for (id, client) in (0..CLIENTS).zip(&self.clients) {
            let own = &self.tuns[usize::from(id) % self.tuns.len()];
            for tun in &self.tuns {
                pass(tun, ends(host, inside(id)), &[&client.tun]);
            }
            pass(&client.tun, ends(inside(id), host), &[own]);
            let other = (id + 1) % CLIENTS;
            let to = &self.clients[usize::from(other)].tun;
            pass(&client.tun, ends(inside(id), inside(other)), &[to]);
            let others = self.clients.iter().map(|client| &client.tun);
            let mut all: Vec<_> = others.collect();
            all[usize::from(id)] = own;
            pass(&client.tun, ends(inside(id), [224, 0, 0, 9]), &all);
        }
        let drops = self.workers.stats();
        for reason in DropReason::ALL {
            assert_eq!(drops.drops(reason), 0, "{reason:?}");
        }
    }
}

/// The address of a client.
fn inside(id: u8) -> [u8; 4] {
    [10, 8, 0, 10 + id]
}

fn ends(source: [u8; 4], destination: [u8; 4]) -> [u8; 8] {
    let mut both = [0; 8];
    both[..4].copy_from_slice(&source);
    both[4..].copy_from_slice(&destination);
    both
}

/// Sends the load from one queue and waits until all of it is at the others.
fn pass(from: &File, ends: [u8; 8], to: &[&File]) {
    for (payload, size, times) in LOAD {
        let sent: usize = (0..times)
            .map(|_| inject(from, &[], ends, payload, size))
            .sum();
        for tun in to {
            let mut arrived = 0;
            while arrived < sent {
                arrived += payload_read(tun, 0);
            }
        }
    }
}
