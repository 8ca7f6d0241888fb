//! Helpers of this crate's tests.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use std::os::fd::AsFd;

use super::{IoChoice, Worker, WorkerConfig, WorkerHandle};
use crate::command::{Command, Endpoint, Event, PeerConfig, PeerHandle, Roles};
use crate::error::DropReason;
use crate::framing::Framing;
use crate::key_slot::{Cipher, DataFormat, DataKeys, Digest, DirectionKey};
use crate::offload::coalesce::TunCaps;
use crate::stats::PeerStats;
use crate::tun::{DeviceKind, TunQueue};
use crate::udp::{Family, UdpConfig, UdpSocket};

/// Long enough for a busy machine, short enough to notice.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) const PEER: PeerHandle = PeerHandle(1);

/// Runs `body` on a thread in a network namespace of its own with the loopback device up. Where that
/// is not permitted, says so and does nothing.
pub(crate) fn in_network_namespace(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: no network namespace of our own ({errno})");
            return;
        }
        ip("link set lo up");
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs the `ip` command with these arguments in the current namespace.
pub(crate) fn ip(arguments: &str) {
    let status = std::process::Command::new("ip")
        .args(arguments.split_whitespace())
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Both engines where io_uring is allowed, one elsewhere.
pub(crate) fn engines() -> Vec<IoChoice> {
    let config = WorkerConfig {
        udp: Some(loopback_socket()),
        tun: None,
        io: IoChoice::Uring,
        cpu: None,
        busy_poll: Duration::ZERO,
        name: "probe".into(),
    };
    match Worker::start(config) {
        Ok(_) => vec![IoChoice::Uring, IoChoice::Syscalls],
        Err(error) => {
            eprintln!("io_uring not tested: {error}");
            vec![IoChoice::Syscalls]
        }
    }
}

pub(crate) fn loopback_config() -> UdpConfig {
    UdpConfig {
        local: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ..UdpConfig::new(Family::V4)
    }
}

pub(crate) fn loopback_socket() -> UdpSocket {
    UdpSocket::open(&loopback_config()).unwrap()
}

/// The far side of a stand-in for a TUN queue: whole packets in, whole packets out.
pub(crate) struct FakeTun {
    file: File,
}

impl FakeTun {
    /// A queue for the worker, and the kernel's side of it.
    pub(crate) fn new(vnet: bool) -> (TunQueue, FakeTun) {
        Self::of_kind(DeviceKind::Tun, vnet)
    }

    pub(crate) fn of_kind(kind: DeviceKind, vnet: bool) -> (TunQueue, FakeTun) {
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
        let caps = TunCaps {
            tso: vnet,
            uso: vnet,
        };
        let file = |end: OwnedFd| File::from(end);
        let queue = TunQueue::from_file(file(theirs), kind, vnet, caps);
        (queue, FakeTun { file: file(ours) })
    }

    /// The kernel hands this to the reader.
    pub(crate) fn inject(&self, packet: &[u8]) {
        (&self.file).write_all(packet).unwrap();
    }

    /// Another handle on the same side.
    pub(crate) fn try_clone(&self) -> FakeTun {
        FakeTun {
            file: self.file.try_clone().unwrap(),
        }
    }

    /// Reads away what the worker has written so far.
    pub(crate) fn discard(&self) {
        while self.next(Duration::ZERO).is_some() {}
    }

    /// What the worker wrote next, or nothing within `limit`.
    pub(crate) fn next(&self, limit: Duration) -> Option<Vec<u8>> {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(limit).unwrap();
        if poll(&mut fds, limit).unwrap() == 0 {
            return None;
        }
        let mut packet = vec![0; 70_000];
        let len = (&self.file).read(&mut packet).unwrap();
        packet.truncate(len);
        Some(packet)
    }
}

/// A worker with a stand-in TUN and one peer.
pub(crate) struct Node {
    pub(crate) worker: WorkerHandle,
    pub(crate) tun: FakeTun,
    pub(crate) address: SocketAddr,
    pub(crate) stats: Arc<PeerStats>,
}

impl Node {
    pub(crate) fn new(io: IoChoice, udp: UdpSocket, vnet: bool) -> Node {
        Self::of_kind(DeviceKind::Tun, io, udp, vnet)
    }

    pub(crate) fn of_kind(kind: DeviceKind, io: IoChoice, udp: UdpSocket, vnet: bool) -> Node {
        let address = udp.local_addr().unwrap();
        Node::start(kind, io, Some(udp), address, vnet)
    }

    /// One that has no socket.
    pub(crate) fn without_udp(io: IoChoice, vnet: bool) -> Node {
        let nowhere = ([127, 0, 0, 1], 0).into();
        Node::start(DeviceKind::Tun, io, None, nowhere, vnet)
    }

    fn start(
        kind: DeviceKind,
        io: IoChoice,
        udp: Option<UdpSocket>,
        address: SocketAddr,
        vnet: bool,
    ) -> Node {
        let (queue, tun) = FakeTun::of_kind(kind, vnet);
        let worker = Worker::start(WorkerConfig {
            udp,
            tun: Some(queue),
            io,
            cpu: None,
            busy_poll: Duration::ZERO,
            name: "test".into(),
        })
        .unwrap();
        Node {
            worker,
            tun,
            address,
            stats: Arc::default(),
        }
    }

    pub(crate) fn config(&self, remote: SocketAddr) -> PeerConfig {
        PeerConfig {
            endpoint: Endpoint::new(remote),
            float: false,
            tx_peer_id: Some(7),
            rx_peer_id: None,
            framing: Framing::None,
            fragment: None,
            mss_v4: 0,
            mss_v6: 0,
            segment_to: 0,
            replay_window: 2048,
            replay_time: 15,
            passtos: false,
            guard_recursion: false,
            block_ipv6: false,
            listener: 0,
            roles: Roles::default(),
            stats: Arc::clone(&self.stats),
        }
    }

    pub(crate) fn send(&self, command: Command) {
        self.worker.send(command).unwrap();
    }

    /// Waits for an event that `wanted` takes; notices are shown, others skipped.
    pub(crate) fn event<T>(&self, wanted: impl Fn(Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let event = self.worker.events().recv_deadline(deadline).unwrap();
            eprintln!("event: {event:?}");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }

    /// Waits until this many packets were dropped for this reason.
    pub(crate) fn dropped(&self, reason: DropReason, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.worker.stats().drops(reason) != count {
            assert!(
                Instant::now() < deadline,
                "{reason:?}: {} and not {count}",
                self.worker.stats().drops(reason)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Keys for both ends of a session.
pub(crate) fn key_pair(cipher: Cipher) -> (DataKeys, DataKeys) {
    let direction = |seed: u8| DirectionKey {
        cipher: std::array::from_fn(|i| seed.wrapping_add(i as u8)),
        hmac: std::array::from_fn(|i| seed.wrapping_mul(3).wrapping_add(i as u8)),
    };
    let keys = |send, recv| DataKeys {
        cipher,
        digest: Digest::Sha256,
        format: DataFormat::Classic,
        send: direction(send),
        recv: direction(recv),
    };
    (keys(1, 99), keys(99, 1))
}

/// Makes two nodes each other's peer.
pub(crate) fn connect(a: &Node, b: &Node, change: impl Fn(&mut PeerConfig), cipher: Cipher) {
    let (keys_a, keys_b) = key_pair(cipher);
    for (node, remote, keys) in [(a, b.address, keys_a), (b, a.address, keys_b)] {
        let mut config = node.config(remote);
        change(&mut config);
        node.send(Command::SetPeer(PEER, Box::new(config)));
        node.send(Command::InstallKey(PEER, 0, Box::new(keys)));
        node.send(Command::UseKey(PEER, 0));
    }
}
