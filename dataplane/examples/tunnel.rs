//! A developer's tool: one end of a tunnel with a fixed, public key and nothing around it, to measure
//! the packet path alone or to try an engine or a cipher without a handshake. Never for real traffic.
//!
//! ```text
//!   ip netns exec A tunnel tun0 10.0.0.1:5000 10.0.0.2:5000 a uring 0
//!   ip netns exec B tunnel tun0 10.0.0.2:5000 10.0.0.1:5000 b uring 1
//! ```
//!
//! The last two are the engine (`auto`, `uring`, `syscalls`) and the CPU; `-` leaves that open. A
//! cipher's name may follow. Counters and drop reasons are printed at the end. The device's address and MTU are for the caller to set. Ends when its standard input does.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ringway_dataplane::command::{Command, Endpoint, PeerConfig, PeerHandle, Roles};
use ringway_dataplane::error::DropReason;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{Cipher, DataFormat, DataKeys, Digest, DirectionKey};
use ringway_dataplane::stats::PeerStats;
use ringway_dataplane::tun::{TunConfig, TunDevice};
use ringway_dataplane::udp::{Family, UdpConfig, UdpSocket};
use ringway_dataplane::worker::{IoChoice, Worker, WorkerConfig};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, local, remote, end, io, cpu, rest @ ..] = arguments.as_slice() else {
        return Err("usage: tunnel DEVICE LOCAL REMOTE a|b ENGINE CPU [CIPHER]".into());
    };
    let local: SocketAddr = local.parse()?;
    let mut tun = TunDevice::open(&TunConfig::new(device.as_str()))?;
    let worker = Worker::start(WorkerConfig {
        udp: Some(UdpSocket::open(&UdpConfig {
            local: Some(local.ip()),
            port: local.port(),
            ..UdpConfig::new(if local.is_ipv6() {
                Family::V6
            } else {
                Family::V4
            })
        })?),
        tun: tun.queues.pop(),
        io: match io.as_str() {
            "uring" => IoChoice::Uring,
            "syscalls" => IoChoice::Syscalls,
            _ => IoChoice::Auto,
        },
        cpu: cpu.parse().ok(),
        busy_poll: Duration::ZERO,
        name: "ringway-w0".into(),
    })?;
    let stats = Arc::new(PeerStats::default());
    let cipher = rest.first().map_or("AES-256-GCM", String::as_str);
    let cipher = Cipher::from_name(cipher).ok_or("no such cipher")?;
    let peer = PeerHandle(0);
    worker.send(Command::SetPeer(
        peer,
        Box::new(peer_config(remote.parse()?, &stats)),
    ))?;
    worker.send(Command::InstallKey(peer, 0, Box::new(keys(cipher, end))))?;
    worker.send(Command::UseKey(peer, 0))?;
    eprintln!("{} by {}", tun.name, worker.engine());

    std::io::stdin().read_to_end(&mut Vec::new())?;
    while let Ok(event) = worker.events().try_recv() {
        eprintln!("{event:?}");
    }
    let totals = worker.stats();
    eprintln!(
        "sent {} datagrams in {} calls, received {} in {}; {} TUN reads, {} writes; {} batches",
        stats.wire_tx_packets.load(Relaxed),
        totals.udp_tx_calls.load(Relaxed),
        stats.wire_rx_packets.load(Relaxed),
        totals.udp_rx_calls.load(Relaxed),
        totals.tun_rx_calls.load(Relaxed),
        totals.tun_tx_calls.load(Relaxed),
        totals.batches.load(Relaxed),
    );
    for reason in DropReason::ALL {
        match totals.drops(reason) {
            0 => {}
            count => eprintln!("{}: {count}", reason.name()),
        }
    }
    Ok(())
}

fn peer_config(remote: SocketAddr, stats: &Arc<PeerStats>) -> PeerConfig {
    PeerConfig {
        endpoint: Endpoint::new(remote),
        float: false,
        tx_peer_id: Some(0),
        rx_peer_id: None,
        framing: Framing::None,
        fragment: None,
        mss_v4: 1400,
        mss_v6: 1380,
        segment_to: 0,
        replay_window: 65_536,
        replay_time: 15,
        passtos: false,
        guard_recursion: false,
        block_ipv6: false,
        listener: 0,
        roles: Roles::default(),
        stats: Arc::clone(stats),
    }
}

fn keys(cipher: Cipher, end: &str) -> DataKeys {
    let direction = |seed: u8| DirectionKey {
        cipher: std::array::from_fn(|i| seed.wrapping_add(i as u8)),
        hmac: std::array::from_fn(|i| seed.wrapping_mul(3).wrapping_add(i as u8)),
    };
    let (send, recv) = if end == "a" { (1, 2) } else { (2, 1) };
    DataKeys {
        cipher,
        digest: Digest::Sha256,
        format: DataFormat::Classic,
        send: direction(send),
        recv: direction(recv),
    }
}
