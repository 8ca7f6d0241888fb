//! Spoofed resets and noise at full rate from another namespace, beside one real peer.
//!
//! The flood itself takes a processor from the tunnel, whatever the server does with it; so the same
//! flood is also sent to a port whose socket nobody reads, and both are shown.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context as _, Result};
use ringway_dataplane::offload::checksum;
use ringway_lab::certs::KeyKind;
use ringway_lab::iperf;
use ringway_lab::netns::{Namespace, OUTSIDE};
use socket2::{Domain, Protocol, Socket, Type};

use super::Scale;
use super::rig::{GATEWAY, Rig, SERVER};
use crate::measure::Measure;
use crate::probe::Values;
use crate::program::Program;

/// The server's second wire: its address, and the next hop of the other end.
const WIRE: [&str; 2] = ["203.0.113.1/24", "203.0.113.2/24"];
/// IPPROTO_RAW: the IP header is ours (raw(7)).
const RAW: i32 = 255;
const HEADERS: usize = 28;
/// Packets of the two kinds, made beforehand.
const VARIETY: usize = 4096;
/// How many strangers are answered: the default, which other rows lift.
const LIMIT: &str = "connect-freq-initial 100 10";
/// A port beside the server's.
const IDLE_PORT: u16 = 1195;

/// One TCP stream: alone, beside a flood to an idle port, beside a flood to the server.
pub(super) fn run(program: &Program, scale: Scale) -> Result<Values> {
    let mut rig = Rig::start(program, KeyKind::EcdsaP256, &[LIMIT])?;
    let attacker = wire(&mut rig)?;
    let client = rig.client()?;
    let sink = iperf::Server::start(&rig.inside, GATEWAY)?;
    // Ten seconds with the usual two for a measurement.
    let seconds = 5 * scale.seconds;
    let rate =
        |seconds| -> Result<f64> { Ok(sink.tcp(&rig.peers, seconds, false)?.bits_per_second) };
    rate(1)?;
    let quiet = rate(scale.seconds.max(seconds / 2))?;
    let idle = {
        let _port = IdlePort::open(&rig.inside)?;
        let _flood = Flood::start(&attacker, IDLE_PORT)?;
        rate(seconds / 2)?
    };
    let before = rig.resident_kib()?;
    let flood = Flood::start(&attacker, SERVER.1)?;
    let start = Instant::now();
    let flooded = rate(seconds)?;
    let packets = flood.sent() as f64 / start.elapsed().as_secs_f64();
    drop(flood);
    let grown = rig.resident_kib()? - before;
    drop(client);
    Ok(vec![
        (Measure::FloodKept, flooded / quiet * 100.0),
        (Measure::FloodKeptIdle, flooded / idle * 100.0),
        (Measure::FloodRate, packets / 1000.0),
        (Measure::FloodMemory, grown / 1024.0),
    ])
}

/// A third namespace on a wire of its own, from where packets with any source are let in.
fn wire(rig: &mut Rig) -> Result<Namespace> {
    let attacker = rig.lab.namespace("fl")?;
    rig.inside.ip(&format!(
        "link add flood0 type veth peer name {OUTSIDE} netns {}",
        attacker.name()
    ))?;
    for (namespace, interface, address) in [
        (&rig.inside, "flood0", WIRE[0]),
        (&attacker, OUTSIDE, WIRE[1]),
    ] {
        namespace.ip(&format!("addr add {address} dev {interface}"))?;
        namespace.ip(&format!("link set {interface} up"))?;
    }
    let (server, _) = SERVER;
    let hop = WIRE[0].trim_end_matches("/24");
    attacker.ip(&format!("route add {server} via {hop}"))?;
    for interface in ["all", "flood0"] {
        let setting = format!("net.ipv4.conf.{interface}.rp_filter=0");
        rig.inside.run("sysctl", &["-qw", &setting])?;
    }
    Ok(attacker)
}

/// A thread in a namespace that sends as fast as it can. Dropping it ends it.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    fn start(namespace: &Namespace, port: u16) -> Result<Self> {
        let socket = in_namespace(namespace, || {
            Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))
        })?;
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (ended, counted) = (stop.clone(), sent.clone());
        let packets = packets(port);
        let target = SocketAddrV4::new(SERVER.0, port).into();
        let thread = std::thread::spawn(move || {
            while !ended.load(Relaxed) {
                for packet in &packets {
                    // A full queue is no reason to stop.
                    let sent = socket.send_to(packet, &target).is_ok();
                    counted.fetch_add(u64::from(sent), Relaxed);
                }
            }
        });
        Ok(Self {
            stop,
            sent,
            thread: Some(thread),
        })
    }

    fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed.
            let _ = thread.join();
        }
    }
}

/// A bound socket that nobody reads: the kernel's part of receiving, and nothing else.
struct IdlePort {
    _socket: Socket,
}

impl IdlePort {
    fn open(namespace: &Namespace) -> Result<Self> {
        let socket = in_namespace(namespace, || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, IDLE_PORT).into())?;
            Ok(socket)
        })?;
        Ok(Self { _socket: socket })
    }
}

/// Opens a socket in a namespace; it stays there whoever uses it.
fn in_namespace(
    namespace: &Namespace,
    open: impl FnOnce() -> std::io::Result<Socket> + Send + 'static,
) -> Result<Socket> {
    let path = format!("/run/netns/{}", namespace.name());
    let opener = std::thread::spawn(move || -> Result<Socket> {
        let file = std::fs::File::open(&path).with_context(|| path.clone())?;
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
        Ok(open()?)
    });
    opener
        .join()
        .map_err(|_| anyhow::anyhow!("a thread has ended"))?
}

/// Resets from spoofed addresses of the peers' network, other control packets, data packets of peers
/// that exist and do not, and noise.
fn packets(port: u16) -> Vec<Vec<u8>> {
    (0..VARIETY)
        .map(|number| {
            let mut payload: [u8; 54] = rand::random();
            match number % 4 {
                // P_CONTROL_HARD_RESET_CLIENT_V2, key id 0, no acknowledgement, packet 0.
                0 => {
                    payload[0] = 7 << 3;
                    payload[9..14].fill(0);
                    return packet(number, port, &payload[..14]);
                }
                // P_CONTROL_V1
                1 => payload[0] = 4 << 3,
                // P_DATA_V2 of one of the first peers
                2 => {
                    payload[0] = 9 << 3;
                    payload[1..4].copy_from_slice(&[0, 0, (number % 16) as u8]);
                }
                _ => {}
            }
            packet(number, port, &payload)
        })
        .collect()
}

/// IPv4 and UDP around a payload; half of the sources are the peers' own address.
fn packet(number: usize, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0u8; HEADERS + payload.len()];
    let source = match number % 8 {
        0..4 => Ipv4Addr::new(192, 0, 2, 1),
        _ => Ipv4Addr::new(192, 0, 2, 3 + (number % 250) as u8),
    };
    let length = (packet.len() as u16).to_be_bytes();
    packet[..4].copy_from_slice(&[0x45, 0, length[0], length[1]]);
    packet[8..10].copy_from_slice(&[64, 17]);
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&SERVER.0.octets());
    let sum = checksum::finish(checksum::sum(&packet[..20]));
    packet[10..12].copy_from_slice(&sum);
    let from = (20_000 + (number % 40_000) as u16).to_be_bytes();
    let to = port.to_be_bytes();
    let length = (8 + payload.len() as u16).to_be_bytes();
    packet[20..26].copy_from_slice(&[from[0], from[1], to[0], to[1], length[0], length[1]]);
    packet[HEADERS..].copy_from_slice(payload);
    let pseudo = checksum::pseudo_header(&packet[12..20], 17, 8 + payload.len());
    let sum = checksum::finish_udp(pseudo + checksum::sum(&packet[20..]));
    packet[26..28].copy_from_slice(&sum);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_of_whole_packets_of_all_kinds() {
        let packets = packets(1194);
        assert_eq!(packets.len(), VARIETY);
        for packet in &packets {
            assert!(checksum::is_valid(checksum::sum(&packet[..20])));
            let udp = &packet[20..];
            let pseudo = checksum::pseudo_header(&packet[12..20], 17, udp.len());
            assert!(checksum::is_valid(pseudo + checksum::sum(udp)));
        }
        let resets = packets.iter().filter(|p| p.len() == HEADERS + 14);
        assert!(resets.clone().all(|p| p[HEADERS] == 0x38));
        assert_eq!(resets.count(), VARIETY / 4);
    }
}
