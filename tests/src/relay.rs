//! A bad link: a relay that loses, repeats, delays and reorders datagrams.
//!
//! ```text
//!   client --> left socket  [faults] right socket --> server
//!   client <-- left socket  [faults] right socket <-- server
//! ```
//! The client's address is learned from what it sends. The right socket takes another port when it is
//! told to, as a translator of addresses does that forgets. The faults are drawn from a seeded
//! generator, so that a run can be repeated (up to the kernel's timing).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::helper::{Pattern, ready, report, stdin_lines};
use crate::link::Outside;
use crate::netns::{Namespace, Path2};
use crate::traffic::Helper;

/// How bad the link is, and between which addresses it runs. Shares are in percent of datagrams,
/// drawn for each direction alike.
#[derive(Clone, Debug, clap::Args)]
pub struct Faults {
    /// Where the client's datagrams arrive.
    #[arg(long)]
    pub left: SocketAddr,
    /// Where the relay sends from on the server's side.
    #[arg(long)]
    pub right: SocketAddr,
    /// The server.
    #[arg(long)]
    pub server: SocketAddr,
    /// Share lost.
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// Share held back by 5 to 20 ms, so that later ones overtake.
    #[arg(long, default_value_t = 0.0)]
    pub reorder: f64,
    /// Share sent twice.
    #[arg(long, default_value_t = 0.0)]
    pub duplicate: f64,
    /// Delay of every datagram, in milliseconds.
    #[arg(long, default_value_t = 0)]
    pub delay_ms: u64,
    /// Where the random numbers begin.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// What the relay did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RelayReport {
    /// Datagrams that came in.
    pub received: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Held back on purpose.
    pub reordered: u64,
    /// Sent twice on purpose.
    pub duplicated: u64,
}

/// A running relay in a lab's middle namespace.
#[derive(Debug)]
pub struct Relay {
    helper: Helper,
}

impl Relay {
    /// Starts a relay on a relayed path, for port 1194 of the given family.
    ///
    /// # Errors
    /// When the path has no relay namespace or the helper cannot start.
    pub fn start(path: &Path2, outside: Outside, faults: &[&str]) -> Result<Self> {
        let namespace = path.relay.as_ref().context("this path has no relay")?;
        let (left, right, server) = match outside {
            Outside::V4 => (
                "192.0.2.254:1194",
                "198.51.100.254:1194",
                "198.51.100.1:1194",
            ),
            Outside::V6 => (
                "[2001:db8:1::fe]:1194",
                "[2001:db8:2::fe]:1194",
                "[2001:db8:2::1]:1194",
            ),
        };
        let mut args = vec![
            "relay", "--left", left, "--right", right, "--server", server,
        ];
        args.extend(faults);
        Ok(Self {
            helper: Helper::start(namespace, &args)?,
        })
    }

    /// Starts a relay without faults in a client's own namespace: from `left` there to `server`,
    /// which sees the address `right`.
    ///
    /// # Errors
    /// When the helper cannot start.
    pub fn beside(namespace: &Namespace, left: &str, right: &str, server: &str) -> Result<Self> {
        let args = [
            "relay", "--left", left, "--right", right, "--server", server,
        ];
        Ok(Self {
            helper: Helper::start(namespace, &args)?,
        })
    }

    /// The server sees another port from now on.
    ///
    /// # Errors
    /// When the relay has ended.
    pub fn change_port(&mut self) -> Result<()> {
        self.helper.tell("another port")
    }

    /// Ends the relay.
    ///
    /// # Errors
    /// When it failed.
    pub fn finish(self) -> Result<RelayReport> {
        self.helper.finish(Duration::from_secs(10))
    }
}

/// The helper's side: passes datagrams on until standard input closes.
///
/// # Errors
/// When a socket cannot be opened.
pub fn run(faults: &Faults) -> Result<()> {
    let left = open(faults.left)?;
    let mut right = open(faults.right)?;
    let lines = stdin_lines();
    ready()?;
    let mut line = Line::new(faults.clone());
    let mut client: Option<SocketAddr> = None;
    let mut buffer = vec![0u8; 65536];
    loop {
        match lines.try_recv() {
            Ok(_) => right = open(SocketAddr::new(faults.right.ip(), 0))?,
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => break,
        }
        wait(&left, &right, line.next_due())?;
        let now = Instant::now();
        // An empty queue, or an ICMP error from an end that is not there: nothing to pass on.
        while let Ok((n, from)) = left.recv_from(&mut buffer) {
            client = Some(from);
            line.accept(now, true, &buffer[..n]);
        }
        while let Ok((n, _)) = right.recv_from(&mut buffer) {
            line.accept(now, false, &buffer[..n]);
        }
        while let Some((to_server, datagram)) = line.due(Instant::now()) {
            // What the kernel refuses is lost, as on any link.
            if to_server {
                let _ = right.send_to(&datagram, faults.server);
            } else if let Some(client) = client {
                let _ = left.send_to(&datagram, client);
            }
        }
    }
    report(&line.report)
}

type Waiting = (Instant, u64, bool, Vec<u8>);

/// The datagrams under way, and the dice.
#[derive(Debug)]
struct Line {
    faults: Faults,
    dice: Pattern,
    waiting: BinaryHeap<Reverse<Waiting>>,
    number: u64,
    report: RelayReport,
}

impl Line {
    fn new(faults: Faults) -> Self {
        let dice = Pattern::new(faults.seed);
        Self {
            faults,
            dice,
            waiting: BinaryHeap::new(),
            number: 0,
            report: RelayReport::default(),
        }
    }

    fn accept(&mut self, now: Instant, to_server: bool, datagram: &[u8]) {
        self.report.received += 1;
        if self.happens(self.faults.loss) {
            self.report.lost += 1;
            return;
        }
        let mut due = now + Duration::from_millis(self.faults.delay_ms);
        if self.happens(self.faults.reorder) {
            self.report.reordered += 1;
            due += Duration::from_micros(5_000 + self.dice.next_u64() % 15_000);
        }
        if self.happens(self.faults.duplicate) {
            self.report.duplicated += 1;
            let later = due + Duration::from_micros(self.dice.next_u64() % 3_000);
            self.push(later, to_server, datagram);
        }
        self.push(due, to_server, datagram);
    }

    fn push(&mut self, due: Instant, to_server: bool, datagram: &[u8]) {
        self.number += 1;
        self.waiting
            .push(Reverse((due, self.number, to_server, datagram.to_vec())));
    }

    fn due(&mut self, now: Instant) -> Option<(bool, Vec<u8>)> {
        if self.waiting.peek()?.0.0 > now {
            return None;
        }
        self.waiting
            .pop()
            .map(|Reverse((_, _, to_server, datagram))| (to_server, datagram))
    }

    fn next_due(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse(waiting)| waiting.0)
    }

    fn happens(&mut self, percent: f64) -> bool {
        percent > 0.0 && ((self.dice.next_u64() % 10_000) as f64) < percent * 100.0
    }
}

fn open(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Waits for a datagram, the next due one, or 100 ms.
fn wait(left: &UdpSocket, right: &UdpSocket, due: Option<Instant>) -> Result<()> {
    let mut wait = Duration::from_millis(100);
    if let Some(due) = due {
        // Rounded up: waking early would only spin.
        let until = due.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        wait = wait.min(until);
    }
    let millis = u16::try_from(wait.as_millis()).unwrap_or(100);
    let mut fds = [
        PollFd::new(left.as_fd(), PollFlags::POLLIN),
        PollFd::new(right.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, PollTimeout::from(millis)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(loss: f64, reorder: f64, duplicate: f64) -> Line {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (delay_ms, seed) = (0, 42);
        let (left, right, server) = (any, any, any);
        Line::new(Faults {
            left,
            right,
            server,
            loss,
            reorder,
            duplicate,
            delay_ms,
            seed,
        })
    }

    fn pass(mut line: Line, count: u32) -> (Vec<u32>, RelayReport) {
        let start = Instant::now();
        let mut out = Vec::new();
        for number in 0..count {
            let now = start + Duration::from_millis(u64::from(number));
            line.accept(now, true, &number.to_be_bytes());
            while let Some((_, datagram)) = line.due(now) {
                out.push(u32::from_be_bytes(datagram.try_into().unwrap()));
            }
        }
        while let Some((_, datagram)) = line.due(start + Duration::from_secs(3600)) {
            out.push(u32::from_be_bytes(datagram.try_into().unwrap()));
        }
        (out, line.report)
    }

    #[test]
    fn a_good_line_changes_nothing() {
        let (out, _) = pass(line(0.0, 0.0, 0.0), 1000);
        assert!(out.iter().copied().eq(0..1000));
    }

    #[test]
    fn faults_have_the_asked_share() {
        let (out, report) = pass(line(20.0, 0.0, 0.0), 10_000);
        assert!((1_800..2_200).contains(&report.lost), "{report:?}");
        assert_eq!(out.len() as u64, 10_000 - report.lost);
        let (out, report) = pass(line(0.0, 30.0, 0.0), 10_000);
        assert!((2_700..3_300).contains(&report.reordered), "{report:?}");
        assert!(!out.is_sorted() && out.len() == 10_000);
        let (out, report) = pass(line(0.0, 0.0, 10.0), 10_000);
        assert_eq!(out.len() as u64, 10_000 + report.duplicated);
    }
}
