//! An allocator that counts, and workers with stand-ins for their devices.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::sys::time::TimeVal;
use nix::unistd::{getpid, gettid};
use ringway_dataplane::command::{
    Command, Endpoint, PeerConfig, PeerHandle, Roles, StreamConfig, StreamId,
};
use ringway_dataplane::fragment::Fragment;
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

pub(crate) static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    pub(crate) static EXEMPT: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    // The first thread is the test harness, which says so when a test takes long.
    if !EXEMPT.get() && gettid() != getpid() {
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

pub(crate) struct End {
    pub(crate) worker: WorkerHandle,
    pub(crate) tun: File,
    /// Bytes in front of each IP packet.
    link: usize,
    pub(crate) fragment: Option<Fragment>,
    pub(crate) remote: Endpoint,
    pub(crate) stats: Arc<PeerStats>,
}

impl End {
    pub(crate) fn start(io: IoChoice) -> Option<End> {
        Self::of_kind(io, DeviceKind::Tun)
    }

    pub(crate) fn of_kind(io: IoChoice, kind: DeviceKind) -> Option<End> {
        let udp = UdpSocket::open(&UdpConfig {
            local: Some(Ipv4Addr::LOCALHOST.into()),
            ..UdpConfig::new(Family::V4)
        })
        .unwrap();
        let remote = Endpoint::new(udp.local_addr().unwrap());
        let (tun, ours) = fake_device(kind);
        let worker = Worker::start(WorkerConfig {
            udp: Some(udp),
            tun: Some(tun),
            io,
            cpu: None,
            busy_poll: Duration::ZERO,
            name: "alloc".into(),
        });
        Some(End {
            worker: worker.ok()?,
            tun: ours,
            link: match kind {
                DeviceKind::Tun => 0,
                DeviceKind::Tap => frame::HEADER,
            },
            fragment: None,
            remote,
            stats: Arc::default(),
        })
    }

    /// Puts a TCP connection between the two.
    pub(crate) fn join(a: &mut End, b: &mut End) {
        let (near, far) = connection();
        for (end, socket) in [(a, near), (b, far)] {
            end.take(socket);
        }
    }

    /// Takes over a connection, by which it is reached from now on.
    pub(crate) fn take(&mut self, socket: TcpStream) {
        let id = StreamId(0);
        self.remote.stream = Some(id);
        let command = Command::AddStream(id, socket, STREAM);
        self.worker.send(command).unwrap();
    }

    pub(crate) fn config(&self, to: &End) -> PeerConfig {
        PeerConfig {
            endpoint: to.remote,
            float: false,
            tx_peer_id: Some(0),
            rx_peer_id: None,
            fragment: self.fragment,
            framing: Framing::None,
            mss_v4: 1400,
            mss_v6: 1380,
            segment_to: 0,
            replay_window: 2048,
            replay_time: 15,
            passtos: true,
            guard_recursion: true,
            block_ipv6: false,
            listener: 0,
            roles: Roles::default(),
            stats: Arc::clone(&self.stats),
        }
    }

    pub(crate) fn connect(&self, to: &End, cipher: Cipher, send: u8, recv: u8) {
        let keys = keys(cipher, send, recv);
        let peer = PeerHandle(0);
        for command in [
            Command::SetPeer(peer, Box::new(self.config(to))),
            Command::InstallKey(peer, 0, Box::new(keys)),
            Command::UseKey(peer, 0),
        ] {
            self.worker.send(command).unwrap();
        }
    }

    /// Hands a TCP packet (a super-packet when `gso_size` is not 0) to the worker. Returns its
    /// payload's length.
    pub(crate) fn inject(&self, payload: usize, gso_size: u16) -> usize {
        let mut link = vec![0; self.link];
        if let Some(ethertype) = link.last_chunk_mut() {
            *ethertype = frame::IPV4.to_be_bytes();
        }
        let addresses = [10, 0, 0, 1, 10, 0, 0, 2];
        inject(&self.tun, &link, addresses, payload, gso_size)
    }

    /// Payload bytes of the next write of the worker.
    pub(crate) fn payload_read(&self) -> usize {
        payload_read(&self.tun, self.link)
    }
}

/// How TCP connections are served.
pub(crate) const STREAM: StreamConfig = StreamConfig {
    queue_limit: 1000,
    max_packet: 9200,
};

/// The two ends of a TCP connection.
pub(crate) fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// Hands a TCP packet with these addresses, behind this link header, to whoever reads `tun`; its
/// payload's length.
pub(crate) fn inject(
    mut tun: &File,
    link: &[u8],
    addresses: [u8; 8],
    payload: usize,
    gso_size: u16,
) -> usize {
    let len = 40 + payload;
    let mut packet = vec![0u8; VnetHdr::LEN + link.len() + len];
    VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: if gso_size == 0 {
            VnetHdr::GSO_NONE
        } else {
            VnetHdr::GSO_TCPV4
        },
        hdr_len: 40 + link.len() as u16,
        gso_size,
        csum_start: 20 + link.len() as u16,
        csum_offset: 16,
    }
    .write(&mut packet);
    let (header, ip) = packet[VnetHdr::LEN..].split_at_mut(link.len());
    header.copy_from_slice(link);
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    ip[8] = 64;
    ip[9] = 6;
    ip[12..20].copy_from_slice(&addresses);
    ip[32] = 0x50;
    ip[33] = 0x10;
    tun.write_all(&packet).unwrap();
    payload
}

/// Payload bytes of the next write to `tun`, where `link` bytes stand in front of IP packets.
pub(crate) fn payload_read(mut tun: &File, link: usize) -> usize {
    let mut packet = vec![0; 70_000];
    let len = tun.read(&mut packet).unwrap();
    len - VnetHdr::LEN - link - 40
}

pub(crate) fn keys(cipher: Cipher, send: u8, recv: u8) -> DataKeys {
    let direction = |seed: u8| DirectionKey {
        cipher: [seed; 64],
        hmac: [seed ^ 0x55; 64],
    };
    DataKeys {
        cipher,
        digest: Digest::Sha256,
        format: DataFormat::Classic,
        send: direction(send),
        recv: direction(recv),
    }
}

/// A stand-in for a device's queue, and the kernel's side of it.
pub(crate) fn fake_tun() -> (TunQueue, File) {
    fake_device(DeviceKind::Tun)
}

pub(crate) fn fake_device(kind: DeviceKind) -> (TunQueue, File) {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    for end in [&ours, &theirs] {
        setsockopt(end, sockopt::SndBuf, &(4 << 20)).unwrap();
    }
    // A lost packet must not keep the test waiting for ever.
    setsockopt(&ours, sockopt::ReceiveTimeout, &TimeVal::new(10, 0)).unwrap();
    let caps = TunCaps {
        tso: true,
        uso: true,
    };
    let tun = TunQueue::from_file(File::from(theirs), kind, true, caps);
    (tun, File::from(ours))
}
