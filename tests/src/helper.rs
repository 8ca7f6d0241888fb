//! The inside of the traffic helper: what runs in the namespaces.
//!
//! Every task prints `READY` once it can be used and one line of JSON when it ends. Tasks that
//! would run for ever end when their standard input closes, hence also when the lab dies.

mod frame;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// What the helper can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Task {
    /// Accept one connection; send and check pseudo-random content, both ways at once.
    TcpServe {
        /// Address and port to listen on.
        bind: SocketAddr,
        /// Bytes each way.
        bytes: u64,
        /// Where the content begins.
        seed: u64,
    },
    /// Connect; send and check pseudo-random content, both ways at once.
    TcpConnect {
        /// Address and port to connect to.
        to: SocketAddr,
        /// Bytes each way.
        bytes: u64,
        /// Where the content begins.
        seed: u64,
    },
    /// Count a stream of numbered datagrams until standard input closes.
    UdpReceive {
        /// Address and port to listen on.
        bind: SocketAddr,
    },
    /// Send a stream of numbered datagrams.
    UdpSend {
        /// Where to.
        to: SocketAddr,
        /// Datagrams per second; 0 = as fast as possible.
        rate: u64,
        /// Payload bytes, at least 8.
        size: usize,
        /// For how long.
        seconds: f64,
    },
    /// Join a multicast group, wait for one datagram.
    MulticastReceive {
        /// Group and port.
        group: SocketAddr,
        /// Interface to join on.
        interface: String,
        /// For how long.
        seconds: f64,
    },
    /// Send five datagrams to a multicast group.
    MulticastSend {
        /// Group and port.
        group: SocketAddr,
        /// Own address to send from.
        from: IpAddr,
        /// Interface to send on.
        interface: String,
    },
    /// Make a TAP device, write a frame to it five times, when standard input says so.
    FrameSend {
        /// Name of the device.
        device: String,
        /// The frame, in hexadecimal digits.
        frame: String,
    },
    /// Make a TAP device and wait for a frame on it.
    FrameReceive {
        /// Name of the device.
        device: String,
        /// The frame, in hexadecimal digits.
        frame: String,
        /// For how long.
        seconds: f64,
    },
    /// Make a TAP device, write the frames that standard input names to it, and tell which tried
    /// frames (see the frame module) came out of it when standard input has closed and the last
    /// one is there.
    FramePort {
        /// Name of the device.
        device: String,
        /// The last frame, in hexadecimal digits.
        last: String,
        /// For how long.
        seconds: f64,
    },
    /// Stand between a client and a server over TCP (see the inject module) until standard input
    /// closes.
    Inject {
        /// Where the client connects to.
        bind: SocketAddr,
        /// The server.
        server: SocketAddr,
    },
    /// Be a proxy (see the proxy module) until standard input closes; a line on it cuts every
    /// connection.
    Proxy(crate::proxy::Options),
    /// Pass datagrams on, badly (see the relay module), until standard input closes; a line on it
    /// gives the server's side another port.
    Relay(crate::relay::Faults),
}

/// What a TCP task saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TcpReport {
    /// Bytes received, all with the right content.
    pub received: u64,
    /// From the first byte to the last, in seconds.
    pub seconds: f64,
}

/// What a UDP receiver saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UdpReport {
    /// Different datagrams.
    pub received: u64,
    /// Datagrams seen before.
    pub duplicates: u64,
    /// Datagrams with a lower number than one before them.
    pub reordered: u64,
    /// Datagrams with damaged content.
    pub damaged: u64,
    /// Longest pause between two datagrams, in milliseconds.
    pub longest_gap_ms: u64,
    /// From the first datagram to the last, in seconds.
    pub seconds: f64,
}

/// What a UDP sender did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SendReport {
    /// Datagrams the kernel took.
    pub sent: u64,
    /// From first to last, in seconds.
    pub seconds: f64,
}

/// Does one task and prints its report.
///
/// # Errors
/// When a socket fails or received content is wrong.
pub fn main(task: &Task) -> Result<()> {
    match *task {
        Task::TcpServe { bind, bytes, seed } => {
            let listener = listen(bind)?;
            ready()?;
            let (stream, _) = listener.accept()?;
            report(&exchange(stream, bytes, seed, seed ^ 1)?)
        }
        Task::TcpConnect { to, bytes, seed } => {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(60))
                .with_context(|| format!("cannot connect to {to}"))?;
            ready()?;
            report(&exchange(stream, bytes, seed ^ 1, seed)?)
        }
        Task::UdpReceive { bind } => udp_receive(bind),
        Task::UdpSend {
            to,
            rate,
            size,
            seconds,
        } => udp_send(to, rate, size, seconds),
        Task::MulticastReceive {
            group,
            ref interface,
            seconds,
        } => multicast_receive(group, interface, Duration::from_secs_f64(seconds)),
        Task::MulticastSend {
            group,
            from,
            ref interface,
        } => multicast_send(group, from, interface),
        Task::FrameSend {
            ref device,
            ref frame,
        } => frame::send(device, frame),
        Task::FrameReceive {
            ref device,
            ref frame,
            seconds,
        } => frame::receive(device, frame, Duration::from_secs_f64(seconds)),
        Task::FramePort {
            ref device,
            ref last,
            seconds,
        } => frame::port(device, last, Duration::from_secs_f64(seconds)),
        Task::Inject { bind, server } => crate::inject::run(bind, server),
        Task::Proxy(ref options) => crate::proxy::run(options),
        Task::Relay(ref faults) => crate::relay::run(faults),
    }
}

/// Pseudo-random bytes, the same for the same seed (xorshift64*).
#[derive(Clone, Debug)]
pub struct Pattern {
    state: u64,
}

impl Pattern {
    /// A pattern beginning at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Fills a block whose length is a multiple of 8.
    pub fn fill(&mut self, block: &mut [u8]) {
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&self.next_u64().to_le_bytes());
        }
    }
}

/// Set when standard input has closed.
pub(crate) fn until_stdin_closes() -> Arc<AtomicBool> {
    let closed = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&closed);
    std::thread::spawn(move || {
        let mut sink = [0u8; 256];
        while matches!(std::io::stdin().read(&mut sink), Ok(n) if n > 0) {}
        flag.store(true, Ordering::Relaxed);
    });
    closed
}

/// The lines of standard input, read beside everything else; its end is the sender's.
pub(crate) fn stdin_lines() -> Receiver<String> {
    let (lines, receiver) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            // Whoever listened has ended.
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// What hexadecimal digits stand for.
pub(crate) fn bytes(digits: &str) -> Result<Vec<u8>> {
    ensure!(digits.len().is_multiple_of(2), "an odd number of digits");
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
        .collect()
}

pub(crate) fn ready() -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "READY")?;
    Ok(out.flush()?)
}

pub(crate) fn report(what: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(what)?)?;
    Ok(out.flush()?)
}

const BLOCK: usize = 64 * 1024;

fn listen(bind: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(bind), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket
        .bind(&bind.into())
        .with_context(|| format!("cannot bind {bind}"))?;
    socket.listen(1)?;
    Ok(socket.into())
}

fn exchange(stream: TcpStream, bytes: u64, send_seed: u64, want_seed: u64) -> Result<TcpReport> {
    let start = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    stream.set_write_timeout(Some(Duration::from_secs(120)))?;
    let writer = stream.try_clone()?;
    let sender = std::thread::spawn(move || send_pattern(writer, bytes, send_seed));
    let received = check_pattern(stream, bytes, want_seed)?;
    match sender.join() {
        Ok(outcome) => outcome.context("sending")?,
        Err(_) => bail!("the sending thread panicked"),
    }
    Ok(TcpReport {
        received,
        seconds: start.elapsed().as_secs_f64(),
    })
}

fn send_pattern(mut stream: TcpStream, bytes: u64, seed: u64) -> Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut block = vec![0u8; BLOCK];
    let mut left = bytes;
    while left > 0 {
        pattern.fill(&mut block);
        let n = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        stream.write_all(&block[..n])?;
        left -= n as u64;
    }
    Ok(stream.shutdown(std::net::Shutdown::Write)?)
}

fn check_pattern(mut stream: TcpStream, bytes: u64, seed: u64) -> Result<u64> {
    let mut pattern = Pattern::new(seed);
    let mut want = vec![0u8; BLOCK];
    let mut have = vec![0u8; BLOCK];
    let mut received = 0u64;
    while received < bytes {
        pattern.fill(&mut want);
        let n = usize::try_from(bytes - received)
            .unwrap_or(BLOCK)
            .min(BLOCK);
        stream
            .read_exact(&mut have[..n])
            .with_context(|| format!("receiving after {received} of {bytes} bytes"))?;
        if have[..n] != want[..n] {
            let at = have
                .iter()
                .zip(&want)
                .position(|(a, b)| a != b)
                .unwrap_or(0);
            bail!("wrong content at byte {}", received + at as u64);
        }
        received += n as u64;
    }
    if stream.read(&mut have)? != 0 {
        bail!("more than {bytes} bytes");
    }
    Ok(received)
}

fn udp_receive(bind: SocketAddr) -> Result<()> {
    let socket = Socket::new(Domain::for_address(bind), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(8 << 20)?;
    socket
        .bind(&bind.into())
        .with_context(|| format!("cannot bind {bind}"))?;
    let socket: UdpSocket = socket.into();
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let closed = until_stdin_closes();
    ready()?;
    let mut tally = Tally::default();
    let mut buffer = vec![0u8; 65536];
    while !closed.load(Ordering::Relaxed) {
        if let Ok(n) = socket.recv(&mut buffer) {
            tally.add(&buffer[..n], Instant::now());
        }
    }
    report(&tally.finish())
}

fn udp_send(to: SocketAddr, rate: u64, size: usize, seconds: f64) -> Result<()> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    ready()?;
    let start = Instant::now();
    let length = Duration::from_secs_f64(seconds);
    let mut sent = 0u64;
    let mut number = 0u64;
    let mut payload = vec![0u8; size.max(8)];
    loop {
        let now = start.elapsed();
        if now >= length {
            break;
        }
        if rate > 0 {
            let due = Duration::from_secs_f64(number as f64 / rate as f64);
            if let Some(wait) = due.checked_sub(now) {
                std::thread::sleep(wait);
            }
        }
        fill_numbered(&mut payload, number);
        number += 1;
        // A refused datagram (interface gone for a moment) is one the receiver must not expect.
        if socket.send(&payload).is_ok() {
            sent += 1;
        }
    }
    report(&SendReport {
        sent,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// A datagram's number, then bytes that follow from it.
fn fill_numbered(payload: &mut [u8], number: u64) {
    let (head, body) = payload.split_at_mut(8);
    head.copy_from_slice(&number.to_be_bytes());
    body.fill((number % 251) as u8);
}

#[derive(Debug, Default)]
struct Tally {
    seen: Vec<u64>,
    highest: Option<u64>,
    first: Option<Instant>,
    last: Option<Instant>,
    report: UdpReport,
}

impl Tally {
    fn add(&mut self, payload: &[u8], now: Instant) {
        let Some((head, body)) = payload.split_first_chunk::<8>() else {
            self.report.damaged += 1;
            return;
        };
        let number = u64::from_be_bytes(*head);
        // A number past a day at a million per second is damage, not data.
        if number > 100_000_000_000 || body.iter().any(|&byte| byte != (number % 251) as u8) {
            self.report.damaged += 1;
            return;
        }
        let (word, bit) = ((number / 64) as usize, 1u64 << (number % 64));
        if word >= self.seen.len() {
            self.seen.resize(word + 1024, 0);
        }
        if self.seen[word] & bit != 0 {
            self.report.duplicates += 1;
            return;
        }
        self.seen[word] |= bit;
        self.report.received += 1;
        if self.highest.is_some_and(|highest| number < highest) {
            self.report.reordered += 1;
        }
        self.highest = self.highest.max(Some(number));
        if let Some(last) = self.last {
            let gap = u64::try_from((now - last).as_millis()).unwrap_or(u64::MAX);
            self.report.longest_gap_ms = self.report.longest_gap_ms.max(gap);
        }
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    fn finish(mut self) -> UdpReport {
        if let (Some(first), Some(last)) = (self.first, self.last) {
            self.report.seconds = (last - first).as_secs_f64();
        }
        self.report
    }
}

const HELLO: &[u8] = b"multicast through the tunnel";

fn multicast_receive(group: SocketAddr, interface: &str, wait: Duration) -> Result<()> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket
        .bind(&group.into())
        .with_context(|| format!("cannot bind {group}"))?;
    match group.ip() {
        IpAddr::V4(address) => {
            socket
                .join_multicast_v4_n(&address, &socket2::InterfaceIndexOrAddress::Index(index))?;
        }
        IpAddr::V6(address) => socket.join_multicast_v6(&address, index)?,
    }
    let socket: UdpSocket = socket.into();
    socket.set_read_timeout(Some(wait))?;
    ready()?;
    let mut buffer = [0u8; 256];
    let (n, from) = socket
        .recv_from(&mut buffer)
        .context("no multicast datagram")?;
    if &buffer[..n] != HELLO {
        bail!("a multicast datagram with other content from {from}");
    }
    report(&from.to_string())
}

fn multicast_send(group: SocketAddr, from: IpAddr, interface: &str) -> Result<()> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
    match from {
        IpAddr::V4(from) => {
            socket.set_multicast_if_v4(&from)?;
            socket.set_multicast_ttl_v4(4)?;
        }
        IpAddr::V6(_) => {
            socket.set_multicast_if_v6(index)?;
            socket.set_multicast_hops_v6(4)?;
        }
    }
    socket.bind(&SocketAddr::new(from, 0).into())?;
    ready()?;
    let mut sent = 0u64;
    for _ in 0..5 {
        socket.send_to(HELLO, &SockAddr::from(group))?;
        sent += 1;
        std::thread::sleep(Duration::from_millis(30));
    }
    report(&sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(number: u64) -> Vec<u8> {
        let mut payload = vec![0u8; 64];
        fill_numbered(&mut payload, number);
        payload
    }

    #[test]
    fn loss_reorder_duplicate_and_damage_are_told_apart() {
        let mut tally = Tally::default();
        let start = Instant::now();
        for number in [0, 1, 3, 2, 2, 5] {
            tally.add(&datagram(number), start);
        }
        let mut bad = datagram(6);
        bad[40] ^= 1;
        tally.add(&bad, start);
        tally.add(&[1, 2], start);
        let report = tally.finish();
        assert_eq!((report.received, report.duplicates), (5, 1));
        assert_eq!((report.reordered, report.damaged), (1, 2));
    }

    #[test]
    fn wrong_content_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let sender = std::thread::spawn(move || {
            send_pattern(TcpStream::connect(to).unwrap(), 100_000, 7).unwrap();
        });
        let (stream, _) = listener.accept().unwrap();
        assert!(check_pattern(stream, 100_000, 8).is_err());
        drop(listener);
        sender.join().unwrap_or_default();
    }

    #[test]
    fn an_exchange_carries_both_ways() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let other = std::thread::spawn(move || {
            exchange(TcpStream::connect(to).unwrap(), 300_001, 2, 3).unwrap()
        });
        let (stream, _) = listener.accept().unwrap();
        assert_eq!(exchange(stream, 300_001, 3, 2).unwrap().received, 300_001);
        assert_eq!(other.join().unwrap().received, 300_001);
    }
}
