//! A warm worker moves packets without asking the allocator for anything, with either engine.
//!
//! Every allocation of every thread but the test's own is counted while data flows both ways in all
//! the forms that take different paths: super-packets, small packets, single ones.

#![allow(
    unsafe_code,
    reason = "a counting allocator cannot be written without it"
)]
#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use ringway_dataplane::command::{Command, Endpoint, PeerConfig, PeerHandle, Roles};
use ringway_dataplane::frame;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{Cipher, DataFormat, DataKeys, Digest, DirectionKey};
use ringway_dataplane::offload::coalesce::TunCaps;
use ringway_dataplane::offload::vnet_hdr::VnetHdr;
use ringway_dataplane::stats::PeerStats;
use ringway_dataplane::tun::{DeviceKind, TunQueue};
use ringway_dataplane::udp::{Family, UdpConfig, UdpSocket};
use ringway_dataplane::worker::{IoChoice, Worker, WorkerConfig, WorkerHandle};

struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static EXEMPT: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if !EXEMPT.get() {
        COUNT.fetch_add(1, SeqCst);
    }
}

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `GlobalAlloc::realloc`.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_warm_worker_allocates_nothing() {
    EXEMPT.set(true);
    for io in [IoChoice::Uring, IoChoice::Syscalls] {
        for (cipher, kind) in [
            (Cipher::Aes256Gcm, DeviceKind::Tun),
            (Cipher::Aes256Cbc, DeviceKind::Tun),
            (Cipher::Aes256Gcm, DeviceKind::Tap),
        ] {
            let (Some(a), Some(b)) = (End::start(io, kind), End::start(io, kind)) else {
                eprintln!("skipped: {io:?} is not allowed here");
                continue;
            };
            a.connect(&b, cipher, 1, 2);
            b.connect(&a, cipher, 2, 1);
            for _ in 0..20 {
                exchange(&a, &b);
            }
            let before = COUNT.load(SeqCst);
            for _ in 0..200 {
                exchange(&a, &b);
            }
            assert_eq!(COUNT.load(SeqCst) - before, 0, "{io:?} {cipher:?} {kind:?}");
            // The counter does count these threads.
            a.worker
                .send(Command::SendPayload(PeerHandle(9), Vec::new()))
                .unwrap();
            a.worker
                .send(Command::SetPeer(PeerHandle(2), Box::new(a.config(&b))))
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(10);
            while COUNT.load(SeqCst) == before {
                assert!(Instant::now() < deadline, "nothing was counted");
                std::thread::yield_now();
            }
        }
    }
}

/// Data in every form, both ways; returns when all of it has arrived.
fn exchange(a: &End, b: &End) {
    for (from, to) in [(a, b), (b, a)] {
        for &(payload, size, times) in
            &[(60_000, 1360, 3), (100, 0, 20), (1300, 0, 2), (9000, 0, 1)]
        {
            let mut expected = 0;
            for _ in 0..times {
                expected += from.inject(payload, size);
            }
            let mut arrived = 0;
            while arrived < expected {
                arrived += to.payload_read();
            }
        }
    }
}

struct End {
    worker: WorkerHandle,
    tun: File,
    kind: DeviceKind,
    remote: Endpoint,
    stats: Arc<PeerStats>,
}

impl End {
    fn start(io: IoChoice, kind: DeviceKind) -> Option<End> {
        let udp = UdpSocket::open(&UdpConfig {
            local: Some(Ipv4Addr::LOCALHOST.into()),
            ..UdpConfig::new(Family::V4)
        })
        .unwrap();
        let remote = Endpoint::new(udp.local_addr().unwrap());
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        let caps = TunCaps {
            tso: true,
            uso: true,
        };
        let tun = TunQueue::from_file(File::from(theirs), kind, true, caps);
        let worker = Worker::start(WorkerConfig {
            udp,
            tun: Some(tun),
            io,
            cpu: None,
            busy_poll: Duration::ZERO,
            name: "alloc".into(),
        });
        Some(End {
            worker: worker.ok()?,
            tun: File::from(ours),
            kind,
            remote,
            stats: Arc::default(),
        })
    }

    fn config(&self, to: &End) -> PeerConfig {
        PeerConfig {
            endpoint: to.remote,
            float: false,
            tx_peer_id: Some(0),
            rx_peer_id: None,
            framing: Framing::None,
            mss_v4: 1400,
            mss_v6: 1380,
            segment_to: 0,
            replay_window: 2048,
            replay_time: 15,
            passtos: true,
            guard_recursion: true,
            block_ipv6: false,
            roles: Roles::default(),
            stats: Arc::clone(&self.stats),
        }
    }

    fn connect(&self, to: &End, cipher: Cipher, send: u8, recv: u8) {
        let direction = |seed: u8| DirectionKey {
            cipher: [seed; 64],
            hmac: [seed ^ 0x55; 64],
        };
        let keys = DataKeys {
            cipher,
            digest: Digest::Sha256,
            format: DataFormat::Classic,
            send: direction(send),
            recv: direction(recv),
        };
        let peer = PeerHandle(0);
        for command in [
            Command::SetPeer(peer, Box::new(self.config(to))),
            Command::InstallKey(peer, 0, Box::new(keys)),
            Command::UseKey(peer, 0),
        ] {
            self.worker.send(command).unwrap();
        }
    }

    /// Bytes in front of the IP header.
    fn link(&self) -> usize {
        match self.kind {
            DeviceKind::Tun => 0,
            DeviceKind::Tap => frame::HEADER,
        }
    }

    /// Hands a TCP packet (a super-packet when `gso_size` is not 0) to the worker. Returns its
    /// payload's length.
    fn inject(&self, payload: usize, gso_size: u16) -> usize {
        let len = 40 + payload;
        let link = self.link();
        let mut packet = vec![0u8; VnetHdr::LEN + link + len];
        VnetHdr {
            flags: VnetHdr::NEEDS_CSUM,
            gso_type: if gso_size == 0 {
                VnetHdr::GSO_NONE
            } else {
                VnetHdr::GSO_TCPV4
            },
            hdr_len: 40 + link as u16,
            gso_size,
            csum_start: 20 + link as u16,
            csum_offset: 16,
        }
        .write(&mut packet);
        let (header, ip) = packet[VnetHdr::LEN..].split_at_mut(link);
        if let Some(ethertype) = header.last_chunk_mut() {
            *ethertype = frame::IPV4.to_be_bytes();
        }
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        ip[8] = 64;
        ip[9] = 6;
        ip[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        ip[32] = 0x50;
        ip[33] = 0x10;
        (&self.tun).write_all(&packet).unwrap();
        payload
    }

    /// Payload bytes of the next write of the worker.
    fn payload_read(&self) -> usize {
        let mut packet = vec![0; 70_000];
        let len = (&self.tun).read(&mut packet).unwrap();
        len - VnetHdr::LEN - self.link() - 40
    }
}
