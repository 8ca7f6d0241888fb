//! `ringway-bench sink`: waits for sources and does one test at a time.
//!
//! Everything a stranger can use up is bounded: connections that have not said what they want
//! (`MAX_WAITING`, 5 seconds each), line lengths, streams, the length of a test.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use super::protocol::{self, Hello, Lines, MAX_STREAMS, Purpose, Received, Reply, Request, Sent};
use super::rate;
use super::session::{self, Arrived, Sockets};

/// How long a new connection has to say what it is for.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// Connections that may be at that stage at once.
const MAX_WAITING: usize = 2 * MAX_STREAMS as usize + 32;

/// Where to listen.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address to listen on; all of this host's when not given.
    #[arg(long)]
    bind: Option<IpAddr>,
    /// TCP port for control and streams, UDP port for streams; the next UDP port is for probes.
    #[arg(long, default_value_t = protocol::PORT)]
    port: u16,
}

/// Serves until the process is ended.
///
/// # Errors
/// When the port cannot be listened on.
pub fn run(options: &Options) -> Result<()> {
    let listener = listen(options)?;
    say(&format!("listening on {}", listener.local_addr()?));
    serve(&listener)
}

/// The running test, as connections that arrive for it need it.
#[derive(Debug)]
struct Running {
    token: u64,
    arrivals: SyncSender<Arrived>,
}

#[derive(Debug, Default)]
struct Sink {
    running: Mutex<Option<Running>>,
    waiting: AtomicUsize,
}

fn serve(listener: &TcpListener) -> Result<()> {
    let sink = Arc::new(Sink::default());
    loop {
        let (stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or a connection gone before it was taken: both pass.
                eprintln!("cannot accept: {error}");
                std::thread::sleep(Duration::from_millis(200));
                continue;
            }
        };
        if sink.waiting.fetch_add(1, Relaxed) >= MAX_WAITING {
            sink.waiting.fetch_sub(1, Relaxed);
            continue;
        }
        let shared = Arc::clone(&sink);
        let started = std::thread::Builder::new().spawn(move || {
            if let Err(error) = shared.connection(stream) {
                say(&format!("{from}: {error:#}"));
            }
        });
        if let Err(error) = started {
            sink.waiting.fetch_sub(1, Relaxed);
            eprintln!("cannot start a thread: {error}");
        }
    }
}

impl Sink {
    fn connection(&self, stream: TcpStream) -> Result<()> {
        let introduced = introduce(stream);
        self.waiting.fetch_sub(1, Relaxed);
        let (mut lines, hello) = introduced?;
        match hello.purpose {
            Purpose::Test(request) => self.test(&mut lines, request),
            Purpose::Data { token, up } => {
                let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                let stream = lines.into_stream();
                match running.as_ref().filter(|test| test.token == token) {
                    // A full queue means more streams than were asked for.
                    Some(test) => Ok(test.arrivals.try_send(Arrived { up, stream })?),
                    None => bail!("a stream of no running test"),
                }
            }
        }
    }

    fn test(&self, control: &mut Lines, request: Request) -> Result<()> {
        let begun = self.begin(control, &request);
        let (token, sockets, arrivals) = match begun {
            Ok(begun) => begun,
            Err(error) => return refuse(control, error),
        };
        let _over = Over(self);
        control.send(&Reply::Accepted { token })?;
        let what = describe(&request);
        let from = control.writer()?.peer_addr()?;
        match session::serve(control, request, token, sockets, &arrivals) {
            Ok((received, sent)) => say(&format!("{from}: {what}{}", summary(received, sent))),
            Err(error) => return refuse(control, error.context(what)),
        }
        Ok(())
    }

    /// Takes the sink for a test, or says why not.
    fn begin(
        &self,
        control: &Lines,
        request: &Request,
    ) -> Result<(u64, Sockets, mpsc::Receiver<Arrived>)> {
        request.check()?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_some() {
            bail!("busy with another test");
        }
        let local = control.writer()?.local_addr()?;
        let sockets = Sockets::bind(request, local.ip(), local.port())?;
        let (arrivals, incoming) = mpsc::sync_channel(2 * usize::from(MAX_STREAMS));
        let token = rand::random();
        *running = Some(Running { token, arrivals });
        Ok((token, sockets, incoming))
    }
}

/// Frees the sink for the next test, however this one ends.
struct Over<'a>(&'a Sink);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        *self
            .0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Reads the first line of a connection; tells a source what is wrong with it.
fn introduce(stream: TcpStream) -> Result<(Lines, Hello)> {
    let mut lines = Lines::new(stream)?;
    let Some(line) = lines.next(INTRODUCTION)? else {
        bail!("said nothing");
    };
    match Hello::parse(&line) {
        Ok(hello) => Ok((lines, hello)),
        Err(error) => {
            refuse(&mut lines, anyhow::anyhow!("{error:#}"))?;
            Err(error)
        }
    }
}

/// Gives the reason to the source and returns it for the sink's own output.
fn refuse(control: &mut Lines, error: anyhow::Error) -> Result<()> {
    let reason = format!("{error:#}");
    // A source that is gone needs no reason.
    let _ = control.send(&Reply::Refused { reason });
    Err(error)
}

/// Writes a line to standard output. That nobody reads any more is no reason to end.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn describe(request: &Request) -> String {
    let direction = match (request.up, request.down) {
        (true, true) => " both ways",
        (false, true) => " to the source",
        (true, false) | (false, false) => "",
    };
    let load = format!("{:?}", request.load).to_lowercase();
    format!("{load}{direction}, {} s", request.seconds)
}

fn summary(received: Option<Received>, sent: Option<Sent>) -> String {
    let mut text = String::new();
    if let Some(r) = received {
        let rate = rate::bits(r.bytes as f64 * 8.0 / r.seconds.max(1e-6));
        text += &format!(", received {} bytes at {rate}", r.bytes);
    }
    if let Some(s) = sent {
        text += &format!(", sent {} bytes", s.bytes);
    }
    text
}

fn listen(options: &Options) -> Result<TcpListener> {
    let any6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), options.port);
    let any4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), options.port);
    match options.bind {
        Some(ip) => listen_on(SocketAddr::new(ip, options.port)),
        // Both families on one socket, unless this host has no IPv6.
        None => listen_on(any6).or_else(|_| listen_on(any4)),
    }
}

fn listen_on(address: SocketAddr) -> Result<TcpListener> {
    let open = || -> Result<TcpListener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        socket.listen(256)?;
        Ok(socket.into())
    };
    open().with_context(|| format!("cannot listen on {address}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::protocol::VERSION;

    fn start() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener));
        address
    }

    fn ask(address: SocketAddr, line: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        let mut lines = Lines::new(stream).unwrap();
        match lines.receive::<Reply>(Duration::from_secs(10)).unwrap() {
            Some(Reply::Refused { reason }) => {
                assert!(lines.next(Duration::from_secs(10)).is_err(), "left open");
                reason
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bad_input_gets_one_line_and_the_connection_closes() {
        let address = start();
        assert!(ask(address, "GET / HTTP/1.1\r\n\r\n").contains("not a ringway"));
        let other = VERSION + 1;
        let reason = ask(address, &format!("{{\"ringway_load\":{other}}}\n"));
        assert!(reason.contains("same release"), "{reason}");
        let test = r#"{"ringway_load":1,"purpose":{"test":{"load":"udp","streams":9999,"size":64,
            "per_second":null,"seconds":1.0,"up":true,"down":false,"probes":false,"interval":1.0}}}"#
            .replace('\n', " ");
        let reason = ask(address, &(test + "\n"));
        assert!(reason.contains("streams"), "{reason}");
    }

    #[test]
    fn a_second_source_is_told_to_wait_and_may_come_later() {
        let address = start();
        let test = r#"{"ringway_load":1,"purpose":{"test":{"load":"tcp","streams":1,"size":64,
            "per_second":null,"seconds":1.0,"up":true,"down":false,"probes":false,"interval":1.0}}}"#
            .replace('\n', " ")
            + "\n";
        let mut first = TcpStream::connect(address).unwrap();
        first.write_all(test.as_bytes()).unwrap();
        let mut first = Lines::new(first).unwrap();
        let reply = first.receive::<Reply>(Duration::from_secs(10)).unwrap();
        assert!(matches!(reply, Some(Reply::Accepted { .. })));
        assert!(ask(address, &test).contains("busy"));
        drop(first);
        // The sink notices that the first is gone and takes another.
        for _ in 0..500 {
            let mut again = TcpStream::connect(address).unwrap();
            again.write_all(test.as_bytes()).unwrap();
            let mut again = Lines::new(again).unwrap();
            let reply = again.receive::<Reply>(Duration::from_secs(10)).unwrap();
            if matches!(reply, Some(Reply::Accepted { .. })) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the sink stays busy");
    }
}
