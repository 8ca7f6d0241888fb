//! Traffic through a link, from the outside: starts the helper in the namespaces and reads its
//! reports.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use crate::command;
use crate::helper::{SendReport, TcpReport, UdpReport};
use crate::link::Link;
use crate::netns::Namespace;

/// Ports the helpers use inside.
const PORT: u16 = 5300;

static HELPER: OnceLock<Vec<OsString>> = OnceLock::new();

/// Says how the helper is started, when it is not `ringway-lab-traffic` beside the running
/// program: a program and its first arguments. Only the first call counts.
pub fn use_helper(command: Vec<OsString>) {
    let _ = HELPER.set(command);
}

/// Pings `to` with `count` requests of `size` payload bytes; every one has to be answered.
///
/// # Errors
/// When one is not.
pub fn ping(from: &Namespace, to: IpAddr, size: usize, count: u32) -> Result<()> {
    let (size_text, count_text, to) = (size.to_string(), count.to_string(), to.to_string());
    let args = [
        "-n",
        "-q",
        "-i",
        "0.05",
        "-W",
        "2",
        "-c",
        &count_text,
        "-s",
        &size_text,
        &to,
    ];
    let finished = command::finish(
        from.command("ping").args(args),
        Duration::from_secs(10 + u64::from(count)),
    )?;
    let all = format!("{count} received");
    if !finished.status.success() || !finished.stdout.contains(&all) {
        bail!(
            "ping -s {size} {to}: {}{}",
            finished.stdout.trim(),
            finished.stderr.trim()
        );
    }
    Ok(())
}

/// Pings an IPv4 broadcast address; some host has to answer, which Linux does only where
/// `net.ipv4.icmp_echo_ignore_broadcasts` is 0.
///
/// # Errors
/// When none does.
pub fn ping_broadcast(from: &Namespace, to: IpAddr) -> Result<()> {
    let to = to.to_string();
    let args = ["-n", "-q", "-b", "-c", "3", "-i", "0.2", "-W", "2", &to];
    from.run("ping", &args).map(drop)
}

/// Pings until one answer arrives; returns how long that took.
///
/// # Errors
/// When nothing answers within `timeout`.
pub fn ping_until(from: &Namespace, to: IpAddr, timeout: Duration) -> Result<Duration> {
    let start = std::time::Instant::now();
    let address = to.to_string();
    loop {
        let args = ["-n", "-q", "-c", "1", "-W", "1", &address];
        let mut command = from.command("ping");
        if command::finish(command.args(args), Duration::from_secs(5))?
            .status
            .success()
        {
            return Ok(start.elapsed());
        }
        if start.elapsed() > timeout {
            bail!("{to} does not answer within {timeout:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Sends `bytes` of checked content each way over one TCP connection.
///
/// # Errors
/// When it breaks, takes longer than `timeout`, or the content differs.
pub fn tcp(
    from: &Namespace,
    to: &Namespace,
    address: IpAddr,
    bytes: u64,
    timeout: Duration,
) -> Result<TcpReport> {
    let target = SocketAddr::new(address, PORT).to_string();
    let (bytes_text, seed) = (bytes.to_string(), rand::random::<u32>().to_string());
    let server = Helper::start(to, &["tcp-serve", &target, &bytes_text, &seed])?;
    let client = Helper::start(from, &["tcp-connect", &target, &bytes_text, &seed])?;
    let there: TcpReport = client.finish(timeout).context("TCP, connecting end")?;
    let back: TcpReport = server.finish(timeout).context("TCP, accepting end")?;
    if there.received != bytes || back.received != bytes {
        bail!(
            "TCP carried {} and {} of {bytes} bytes",
            there.received,
            back.received
        );
    }
    Ok(there)
}

/// A running UDP stream.
#[derive(Debug)]
pub struct UdpStream {
    receiver: Helper,
    sender: Helper,
    seconds: f64,
}

/// What became of a UDP stream.
#[derive(Clone, Debug)]
pub struct UdpOutcome {
    /// Datagrams the sender's kernel took.
    pub sent: u64,
    /// How long the sender sent, in seconds.
    pub send_seconds: f64,
    /// The receiver's count.
    pub report: UdpReport,
}

impl UdpOutcome {
    /// Datagrams that never arrived.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.report.received)
    }
}

impl UdpStream {
    /// Starts `rate` datagrams per second (0 = as many as go) of `size` bytes for `seconds`.
    /// Streams running side by side need different ports.
    ///
    /// # Errors
    /// When a helper cannot start.
    pub fn start(
        from: &Namespace,
        to: &Namespace,
        target: SocketAddr,
        rate: u64,
        size: usize,
        seconds: f64,
    ) -> Result<Self> {
        let target = target.to_string();
        let receiver = Helper::start(to, &["udp-receive", &target])?;
        let (rate, size, length) = (rate.to_string(), size.to_string(), seconds.to_string());
        let sender = Helper::start(from, &["udp-send", &target, &rate, &size, &length])?;
        Ok(Self {
            receiver,
            sender,
            seconds,
        })
    }

    /// Waits for the end; what is under way gets another 0.3 seconds to arrive.
    ///
    /// # Errors
    /// When a helper fails, or when a datagram arrived damaged.
    pub fn finish(self) -> Result<UdpOutcome> {
        self.finish_after(Duration::from_millis(300))
    }

    fn finish_after(self, settle: Duration) -> Result<UdpOutcome> {
        let patience = Duration::from_secs_f64(self.seconds + 15.0);
        let sent: SendReport = self.sender.finish(patience).context("UDP sender")?;
        std::thread::sleep(settle);
        let report: UdpReport = self
            .receiver
            .finish(Duration::from_secs(15))
            .context("UDP receiver")?;
        if report.damaged > 0 {
            bail!("{} datagrams arrived damaged", report.damaged);
        }
        Ok(UdpOutcome {
            sent: sent.sent,
            send_seconds: sent.seconds,
            report,
        })
    }
}

/// Sends a UDP stream to its end.
///
/// # Errors
/// As [`UdpStream::finish`].
pub fn udp(
    from: &Namespace,
    to: &Namespace,
    address: IpAddr,
    rate: u64,
    size: usize,
    seconds: f64,
) -> Result<UdpOutcome> {
    let target = SocketAddr::new(address, PORT);
    UdpStream::start(from, to, target, rate, size, seconds)?.finish()
}

/// Sends to a multicast group on an interface and sees it arrive on the other end's interface of the
/// same name.
///
/// # Errors
/// When it does not arrive.
pub fn multicast(from: &Namespace, own: IpAddr, to: &Namespace, interface: &str) -> Result<()> {
    let group = match own {
        IpAddr::V4(_) => "239.9.9.9:5400",
        // Site-local scope, so that the sender's configured address is used.
        IpAddr::V6(_) => "[ff05::9:9]:5400",
    };
    let receiver = Helper::start(to, &["multicast-receive", group, interface, "5"])?;
    let own = own.to_string();
    let sender = Helper::start(from, &["multicast-send", group, &own, interface])?;
    let _: u64 = sender
        .finish(Duration::from_secs(10))
        .context("multicast sender")?;
    let _: String = receiver
        .finish(Duration::from_secs(10))
        .with_context(|| format!("multicast from {own} to {group}"))?;
    Ok(())
}

/// Everything an interface carries, through one link: pings from 0 bytes to far above the MTU,
/// checked TCP content, UDP without loss, multicast; IPv4 and IPv6, both directions.
///
/// # Errors
/// The first thing that does not get through.
pub fn everything(link: &Link, bytes: u64) -> Result<()> {
    let (client, server) = (link.client_namespace(), link.server_namespace());
    let (own, far) = (link.client_addresses(), link.server_addresses());
    for family in [0, 1] {
        ping_until(client, far[family], Duration::from_secs(10))?;
        for size in [0, 1, 56, 1000, 1380, 1453, 1472, 1500, 4000, 20_000] {
            ping(client, far[family], size, 2)?;
            ping(server, own[family], size, 1)?;
        }
        tcp(client, server, far[family], bytes, Duration::from_secs(60))?;
        tcp(
            server,
            client,
            own[family],
            bytes / 4,
            Duration::from_secs(60),
        )?;
        udp_both_ways(link, family)?;
        multicast(client, own[family], server, link.spec.device())?;
        multicast(server, far[family], client, link.spec.device())?;
    }
    Ok(())
}

/// Small, full and fragmented datagrams in both directions at once; none may be lost.
fn udp_both_ways(link: &Link, family: usize) -> Result<()> {
    let (client, server) = (link.client_namespace(), link.server_namespace());
    let (own, far) = (
        link.client_addresses()[family],
        link.server_addresses()[family],
    );
    let mut streams = Vec::new();
    for (port, size) in [(5311, 8), (5312, 1200), (5313, 2000)] {
        for (from, to, address) in [(client, server, far), (server, client, own)] {
            let target = SocketAddr::new(address, port);
            streams.push((
                target,
                size,
                UdpStream::start(from, to, target, 250, size, 0.5)?,
            ));
        }
    }
    // All end at the same time: only the first has to wait for what is under way.
    let mut settle = Duration::from_millis(300);
    for (target, size, stream) in streams {
        let outcome = stream.finish_after(std::mem::take(&mut settle))?;
        if outcome.lost() > 0 || outcome.sent < 100 {
            bail!("UDP with {size} bytes to {target}: {outcome:?}");
        }
    }
    Ok(())
}

/// A helper process in a namespace, ready to be used. Dropping it kills it.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    what: String,
}

impl Helper {
    /// Starts a task and waits for its `READY`.
    ///
    /// # Errors
    /// When it ends before.
    pub fn start(namespace: &Namespace, args: &[&str]) -> Result<Self> {
        let helper = helper()?;
        let mut command: Command = namespace.command(&helper[0]);
        let mut child = command
            .args(&helper[1..])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut helper = Self {
            child,
            stdin,
            stdout,
            what: args.join(" "),
        };
        let mut line = String::new();
        helper.stdout.read_line(&mut line)?;
        if line.trim() != "READY" {
            bail!("{}: ended before it was ready", helper.what);
        }
        Ok(helper)
    }

    /// Writes one line to the task.
    ///
    /// # Errors
    /// When it has ended.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        use std::io::Write as _;
        let stdin = self.stdin.as_mut().context("no standard input")?;
        writeln!(stdin, "{line}")?;
        Ok(stdin.flush()?)
    }

    /// Closes the task's standard input, waits for its end and reads its report.
    ///
    /// # Errors
    /// When it fails or takes longer than `timeout`.
    pub fn finish<T: DeserializeOwned>(mut self, timeout: Duration) -> Result<T> {
        self.stdin = None;
        let Some(status) = command::wait(&mut self.child, timeout) else {
            bail!("{}: still running after {timeout:?}", self.what);
        };
        if !status.success() {
            bail!("{}: {status}", self.what);
        }
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("{}: report {line:?}", self.what))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn helper() -> Result<&'static [OsString]> {
    if let Some(command) = HELPER.get() {
        return Ok(command);
    }
    let me = std::env::current_exe()?;
    let file: PathBuf = me
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("ringway-lab-traffic"))
        .find(|file| file.is_file())
        .context("ringway-lab-traffic is not built (cargo build -p ringway-lab)")?;
    Ok(HELPER.get_or_init(|| vec![file.into_os_string()]))
}
