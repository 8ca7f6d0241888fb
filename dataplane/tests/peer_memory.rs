//! What an idle peer of a server costs the packet path, as the C library's allocator counts it: keys
//! of the cryptographic library, tables and routes included.

#![cfg(target_env = "gnu")]
#![allow(unsafe_code, reason = "asks the C library's allocator")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ringway_dataplane::command::{
    Command, Endpoint, Forwarding, PeerConfig, PeerHandle, Prefix, Roles,
};
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{Cipher, DataFormat, DataKeys, Digest, DirectionKey};
use ringway_dataplane::stats::PeerStats;
use ringway_dataplane::udp::{Family, UdpConfig, UdpSocket};
use ringway_dataplane::worker::{IoChoice, WorkerOptions, Workers};

const PEERS: u32 = 2000;

/// More for each further worker, which knows the peer but does not hold its session.
const ELSEWHERE: usize = 2 * 1024;

/// Bytes for each peer with one worker, a third more than was found. The whole program has 64 KiB. In
/// the epoch format most of it are the sixteen future keys of each key.
#[test]
fn an_idle_peer_is_small() {
    for (cipher, format, allowed) in [
        (Cipher::Aes256Gcm, DataFormat::Classic, 8 * 1024),
        (Cipher::ChaCha20Poly1305, DataFormat::Classic, 8 * 1024),
        (Cipher::Aes256Cbc, DataFormat::Classic, 18 * 1024),
        (Cipher::Aes256Gcm, DataFormat::Epoch, 40 * 1024),
    ] {
        let [one, two] = [1, 2].map(|workers| bytes_per_peer(workers, cipher, format));
        println!("{cipher:?} {format:?}: {one} bytes with one worker, {two} with two");
        assert!(one <= allowed, "{one}");
        assert!(two <= one + ELSEWHERE, "{two}");
    }
}

fn bytes_per_peer(workers: usize, cipher: Cipher, format: DataFormat) -> usize {
    let udp = UdpConfig {
        local: Some(Ipv4Addr::LOCALHOST.into()),
        ..UdpConfig::new(Family::V4)
    };
    let sockets = UdpSocket::open_group(&udp, workers).unwrap();
    let options = WorkerOptions {
        io: IoChoice::Syscalls,
        ..WorkerOptions::default()
    };
    let mut workers = Workers::start(sockets, &options).unwrap();
    let forwarding = Forwarding::Routed {
        client_to_client: true,
    };
    workers.send(Command::SetForwarding(forwarding)).unwrap();
    barrier(&mut workers);
    let before = in_use();
    for id in 0..PEERS {
        add(&mut workers, id, cipher, format);
    }
    barrier(&mut workers);
    (in_use() - before) / PEERS as usize
}

/// A peer with two keys, as after a renegotiation, an address of each family and a network.
fn add(workers: &mut Workers, id: u32, cipher: Cipher, format: DataFormat) {
    let peer = PeerHandle(id);
    let remote = Ipv4Addr::from_bits(0xc633_6400 + id);
    let config = PeerConfig {
        endpoint: Endpoint::new(SocketAddr::new(remote.into(), 1194)),
        float: true,
        tx_peer_id: Some(id),
        rx_peer_id: Some(id),
        fragment: None,
        framing: Framing::None,
        mss_v4: 1400,
        mss_v6: 1380,
        segment_to: 0,
        replay_window: 64,
        replay_time: 15,
        passtos: false,
        guard_recursion: false,
        block_ipv6: false,
        listener: 0,
        roles: Roles::default(),
        stats: Arc::new(PeerStats::default()),
    };
    workers
        .send(Command::SetPeer(peer, Box::new(config)))
        .unwrap();
    for key_id in 0..2 {
        let direction = |seed: u8| DirectionKey {
            cipher: [seed ^ id as u8 | 1; 64],
            hmac: [seed; 64],
        };
        let keys = DataKeys {
            cipher,
            digest: Digest::Sha256,
            format,
            send: direction(key_id * 16),
            recv: direction(key_id * 16 + 8),
        };
        let install = Command::InstallKey(peer, key_id, Box::new(keys));
        workers.send(install).unwrap();
        workers.send(Command::UseKey(peer, key_id)).unwrap();
    }
    for (address, bits) in [
        (Ipv4Addr::from_bits(0x0a08_0000 + id).into(), 32),
        (
            Ipv4Addr::from_bits(0x0a08_0000 + id)
                .to_ipv6_mapped()
                .into(),
            128,
        ),
        (Ipv4Addr::from_bits(0xac10_0000 + (id << 8)).into(), 24),
    ] {
        let route = Command::AddRoute(peer, Prefix { address, bits });
        workers.send(route).unwrap();
    }
}

fn barrier(workers: &mut Workers) {
    let (done, finished) = crossbeam::channel::bounded(workers.count());
    workers.send(Command::Barrier(done)).unwrap();
    for _ in 0..workers.count() {
        finished.recv().unwrap();
    }
}

/// Bytes that the program has from `malloc`, large blocks included.
fn in_use() -> usize {
    // SAFETY: it only reads the allocator's books, under the allocator's own locks.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}
