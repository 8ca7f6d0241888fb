//! A whole batch: all stages of both directions, without and with the kernel.
//!
//! ```text
//!   stages   super-packet -> split -> seal -> (copy, as the network does) -> open -> coalesce
//!   workers  socket pair as TUN -> worker -> UDP over loopback -> worker -> socket pair as TUN
//! ```
//!
//! The null cipher shows what everything but the cryptography costs. `workers` has one super-packet
//! under way at a time: it is a round through four system calls and two threads, not a throughput.

mod common;

use std::fs::File;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use common::Inner;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use ringway_dataplane::cipher::Segment;
use ringway_dataplane::command::{Command, Endpoint, PeerConfig, PeerHandle, Roles};
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{
    Cipher, DataFormat, DataKeys, Digest, DirectionKey, RecvKey, SendKey,
};
use ringway_dataplane::offload::{Coalescer, TunCaps, VnetHdr, plan};
use ringway_dataplane::stats::PeerStats;
use ringway_dataplane::tun::{DeviceKind, TunQueue};
use ringway_dataplane::udp::{Family, UdpConfig, UdpSocket};
use ringway_dataplane::worker::{IoChoice, Worker, WorkerConfig, WorkerHandle};

const CIPHERS: [(Cipher, &str); 2] = [(Cipher::None, "null"), (Cipher::Aes256Gcm, "AES-256-GCM")];
/// Segments of a super-packet that fits one UDP message with every cipher.
const COUNT: usize = 43;
const BOTH: TunCaps = TunCaps {
    tso: true,
    uso: true,
};

/// Both directions of one worker's stages, one batch after the other.
struct Stages {
    send: SendKey,
    recv: RecvKey,
    slab: Vec<u8>,
    wire: Vec<u8>,
    segments: Vec<Segment>,
    packets: Vec<Segment>,
    coalescer: Coalescer,
}

impl Stages {
    fn new(cipher: Cipher) -> Self {
        let (send, recv) = common::keys(cipher, Digest::None);
        Self {
            send,
            recv,
            slab: vec![0; 1 << 17],
            wire: vec![0; 1 << 17],
            segments: Vec::with_capacity(COUNT),
            packets: Vec::with_capacity(COUNT),
            coalescer: Coalescer::new(COUNT),
        }
    }

    /// TUN to wire: returns the bytes that would leave.
    fn transmit(&mut self, hdr: &VnetHdr, packet: &[u8]) -> usize {
        let plan = plan(hdr, packet).expect("a good header");
        let headroom = self.send.headroom();
        self.segments.clear();
        let mut start = 0;
        for i in 0..plan.count() {
            let len = plan.len_of(i);
            plan.write(packet, i, &mut self.slab[start + headroom..]);
            self.segments.push(Segment { start, len });
            start += self.send.sealed_len(len);
        }
        let sealed = self.send.seal(&mut self.slab, &self.segments);
        assert_eq!(sealed, plan.count());
        start
    }

    /// Wire to TUN: returns how many writes that makes.
    fn receive(&mut self, len: usize) -> usize {
        self.packets.clear();
        for segment in &self.segments {
            let (start, len) = (segment.start, self.send.sealed_len(segment.len));
            let inner = self.recv.open(0, &mut self.wire[start..start + len]);
            let inner = inner.expect("a good packet");
            self.packets.push(Segment {
                start: start + inner.start,
                len: inner.len(),
            });
        }
        self.coalescer
            .coalesce(&mut self.wire[..len], &self.packets, BOTH);
        self.coalescer.writes().count()
    }
}

fn stages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stages");
    for (cipher, name) in CIPHERS {
        for (inner, size) in [(Inner::Tcp4, 1400), (Inner::Udp4, 1400), (Inner::Udp4, 64)] {
            let (hdr, packet) = common::super_packet(inner, size, COUNT);
            let mut stages = Stages::new(cipher);
            group.throughput(Throughput::Elements(COUNT as u64));
            let case = format!("{} {size}", inner.name());
            group.bench_function(BenchmarkId::new(name, &case), |bencher| {
                bencher.iter(|| {
                    let len = stages.transmit(black_box(&hdr), black_box(&packet));
                    stages.wire[..len].copy_from_slice(&stages.slab[..len]);
                    let writes = stages.receive(len);
                    assert_eq!(writes, 1);
                });
            });
            let name = format!("{name}, transmit");
            group.bench_function(BenchmarkId::new(name, &case), |bencher| {
                bencher.iter(|| stages.transmit(black_box(&hdr), black_box(&packet)));
            });
        }
    }
    group.finish();
}

const PEER: PeerHandle = PeerHandle(1);

/// A worker whose TUN is a socket pair.
struct End {
    worker: WorkerHandle,
    kernel: File,
}

/// Two ends that know each other, over loopback.
fn pair(cipher: Cipher, io: IoChoice) -> Option<[End; 2]> {
    let config = UdpConfig {
        local: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ..UdpConfig::new(Family::V4)
    };
    let sockets = [(), ()].map(|()| UdpSocket::open(&config).expect("a socket"));
    let addresses = [0, 1].map(|i| sockets[i].local_addr().expect("an address"));
    let mut ends = Vec::new();
    for (i, udp) in sockets.into_iter().enumerate() {
        let (queue, kernel) = fake_tun();
        let worker = Worker::start(WorkerConfig {
            udp: Some(udp),
            tun: Some(queue),
            io,
            cpu: None,
            busy_poll: Duration::ZERO,
            name: format!("bench-{i}"),
        })
        .ok()?;
        let direction = |seed: usize| DirectionKey {
            cipher: std::array::from_fn(|at| (at + seed * 7 + 1) as u8),
            hmac: std::array::from_fn(|at| (at + seed * 5 + 1) as u8),
        };
        let keys = DataKeys {
            cipher,
            digest: Digest::None,
            format: DataFormat::Classic,
            send: direction(i),
            recv: direction(1 - i),
        };
        let peer = PeerConfig {
            endpoint: Endpoint::new(addresses[1 - i]),
            float: false,
            tx_peer_id: Some(0),
            rx_peer_id: None,
            framing: Framing::None,
            fragment: None,
            mss_v4: 1400,
            mss_v6: 1380,
            segment_to: 0,
            replay_window: 65_536,
            replay_time: 0,
            passtos: false,
            guard_recursion: false,
            block_ipv6: false,
            listener: 0,
            roles: Roles::default(),
            stats: Arc::new(PeerStats::default()),
        };
        for command in [
            Command::SetPeer(PEER, Box::new(peer)),
            Command::InstallKey(PEER, 0, Box::new(keys)),
            Command::UseKey(PEER, 0),
        ] {
            worker.send(command).expect("a running worker");
        }
        ends.push(End { worker, kernel });
    }
    ends.try_into().ok()
}

fn fake_tun() -> (TunQueue, File) {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .expect("a socket pair");
    for end in [&ours, &theirs] {
        setsockopt(end, sockopt::SndBuf, &(4 << 20)).expect("a buffer");
    }
    // A lost datagram must not keep a bench waiting for ever.
    let patience = nix::sys::time::TimeVal::new(5, 0);
    setsockopt(&ours, sockopt::ReceiveTimeout, &patience).expect("a time-out");
    let file = |end: OwnedFd| File::from(end);
    let queue = TunQueue::from_file(file(theirs), DeviceKind::Tun, true, BOTH);
    (queue, file(ours))
}

fn workers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("workers");
    for (cipher, name) in CIPHERS {
        for (io, engine) in [(IoChoice::Uring, "uring"), (IoChoice::Syscalls, "syscalls")] {
            let Some([mut near, mut far]) = pair(cipher, io) else {
                eprintln!("{engine}: not available here");
                continue;
            };
            let (hdr, packet) = common::super_packet(Inner::Tcp4, 1400, COUNT);
            let mut message = hdr.to_bytes().to_vec();
            message.extend_from_slice(&packet);
            let mut answer = vec![0; 1 << 17];
            group.throughput(Throughput::Bytes(packet.len() as u64));
            group.bench_function(BenchmarkId::new(name, engine), |bencher| {
                bencher.iter(|| {
                    near.kernel.write_all(&message).expect("a taken packet");
                    // The kernel may cut what is received into several batches.
                    let mut left = COUNT * 1400;
                    while left > 0 {
                        let n = far.kernel.read(&mut answer).expect("a packet in time");
                        left = left.saturating_sub(n - VnetHdr::LEN - Inner::Tcp4.header_len());
                    }
                });
            });
            near.worker.stop();
            far.worker.stop();
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = stages, workers
}
criterion_main!(benches);
