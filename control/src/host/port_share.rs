//! `port-share`: one TCP port for OpenVPN and for another server, a web server mostly.
//!
//! ```text
//!   listener -> give() -> thread: first bytes --- OpenVPN's -> take()
//!                                     '--- anything else -> joined with host:port
//! ```
//!
//! The first three bytes tell (protocol §1): a length and the opcode of a first packet. They are only
//! looked at, so both kinds of connections are passed on whole. Everything is bounded: connections
//! that have not said what they are, joined ones, and what waits between two of them.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::log;

/// Connections that have not said what they are.
const MOST_UNDECIDED: usize = 1024;
/// Joined connections.
const MOST_JOINED: usize = 1024;
/// Open files that all of them are at most.
pub const MOST_FILES: usize = MOST_UNDECIDED + 2 * MOST_JOINED;
/// How long a connection may take to say what it is.
const SILENCE: Duration = Duration::from_secs(30);
/// How long two joined ends may both be silent.
const IDLE: Duration = Duration::from_secs(900);
/// What waits for one end at most.
const BUFFER: usize = 16 * 1024;
/// How often times are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Events handled at once.
const EVENTS: usize = 64;
/// The event that tells of new connections, and of the end.
const WAKE: u64 = 0;

/// Shortest first packet of a client: opcode, session id, no acks, packet id.
const SHORTEST: u16 = 14;
/// Longest one without a wrapped client key.
const LONGEST: u16 = 255;
/// Longest one with a wrapped client key, which has 1,024 bytes at most.
const LONGEST_V3: u16 = LONGEST + 1024;
/// P_CONTROL_HARD_RESET_CLIENT_V2 with key id 0.
const RESET_V2: u8 = 7 << 3;
/// P_CONTROL_HARD_RESET_CLIENT_V3 with key id 0.
const RESET_V3: u8 = 10 << 3;

/// Whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Not to be told yet.
    Unknown,
    /// OpenVPN's.
    OpenVpn,
    /// Anybody else's.
    Other,
}

/// What the first bytes of a connection say.
pub fn whose(first: &[u8]) -> Whose {
    let high = |longest: u16| (longest >> 8) as u8;
    match *first {
        [] => Whose::Unknown,
        [a] if a > high(LONGEST_V3) => Whose::Other,
        [_] => Whose::Unknown,
        [a, b, ..] => {
            let length = u16::from_be_bytes([a, b]);
            match first.get(2) {
                _ if !(SHORTEST..=LONGEST_V3).contains(&length) => Whose::Other,
                None => Whose::Unknown,
                Some(&RESET_V2) if length <= LONGEST => Whose::OpenVpn,
                Some(&RESET_V3) => Whose::OpenVpn,
                Some(_) => Whose::Other,
            }
        }
    }
}

/// The thread that tells connections apart and joins those of others.
#[derive(Debug)]
pub struct PortShare {
    wake: Arc<EventFd>,
    /// `None` only while it ends.
    given: Option<SyncSender<(TcpStream, SocketAddr)>>,
    taken: Receiver<(TcpStream, SocketAddr)>,
    ready: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl PortShare {
    /// Starts it. `host` is resolved once, now. With `dir` a file for each joined connection, named by
    /// the address that the other server sees, holds the address of the client; it is removed at the
    /// end of the connection.
    ///
    /// # Errors
    /// One line: the host cannot be resolved, or the system gives no thread.
    pub fn start(host: &str, port: u16, dir: Option<&Path>) -> Result<Self, String> {
        let fail = |error: io::Error| format!("port-share: {host}:{port}: {error}");
        let target = (host, port)
            .to_socket_addrs()
            .map_err(fail)?
            .next()
            .ok_or_else(|| format!("port-share: {host}:{port}: no address"))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| fail(e.into()))?;
        let event_fd = || {
            let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
            EventFd::from_value_and_flags(0, flags).map(Arc::new)
        };
        let wake = event_fd().map_err(|e| fail(e.into()))?;
        let ready = event_fd().map_err(|e| fail(e.into()))?;
        let wake_event = EpollEvent::new(EpollFlags::EPOLLIN, WAKE);
        epoll.add(&*wake, wake_event).map_err(|e| fail(e.into()))?;
        let (given, to_judge) = sync_channel(MOST_UNDECIDED);
        let (ours, taken) = sync_channel(MOST_UNDECIDED);
        let mut sharer = Sharer {
            target,
            dir: dir.map(Path::to_owned),
            epoll,
            wake: wake.clone(),
            given: to_judge,
            ours,
            ready: ready.clone(),
            undecided: HashMap::new(),
            joined: HashMap::new(),
            next: 1,
        };
        let thread = std::thread::Builder::new()
            .name("ringway-share".to_owned())
            .spawn(move || sharer.run())
            .map_err(fail)?;
        Ok(PortShare {
            wake,
            given: Some(given),
            taken,
            ready,
            thread: Some(thread),
        })
    }

    /// Gives a connection that was accepted; when there are too many it is closed.
    pub fn give(&self, stream: TcpStream, from: SocketAddr) {
        let Some(given) = &self.given else { return };
        match given.try_send((stream, from)) {
            // A full event descriptor has been seen to be ready.
            Ok(()) => drop(self.wake.write(1)),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                log::info!(in Link, "port-share: too many connections, {from} is closed");
            }
        }
    }

    /// The next connection that is OpenVPN's.
    pub fn take(&self) -> Option<(TcpStream, SocketAddr)> {
        // Cleared first: what comes meanwhile sets it again.
        let _ = self.ready.read();
        let taken = self.taken.try_recv().ok();
        if taken.is_some() {
            // There may be more.
            let _ = self.ready.write(1);
        }
        taken
    }
}

/// Readable when [`PortShare::take`] may have something.
impl AsFd for PortShare {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

/// Every connection is closed, and every file removed.
impl Drop for PortShare {
    fn drop(&mut self) {
        self.given = None;
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A connection that has not said what it is.
struct Undecided {
    stream: TcpStream,
    from: SocketAddr,
    until: Instant,
}

/// Two connections, and what waits between them.
struct Joined {
    ends: [TcpStream; 2],
    /// What waits for each end.
    waiting: [Waiting; 2],
    /// The connection to the other server is there.
    connected: bool,
    /// The client's address, until the file is written.
    from: SocketAddr,
    file: Option<PathBuf>,
    last: Instant,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// How many of them have left.
    sent: usize,
    /// Nothing follows.
    end: bool,
    /// The end has been told so.
    told: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }
}

struct Sharer {
    target: SocketAddr,
    dir: Option<PathBuf>,
    epoll: Epoll,
    wake: Arc<EventFd>,
    given: Receiver<(TcpStream, SocketAddr)>,
    ours: SyncSender<(TcpStream, SocketAddr)>,
    ready: Arc<EventFd>,
    undecided: HashMap<u64, Undecided>,
    /// By a number whose last bit says which end an event is about.
    joined: HashMap<u64, Joined>,
    next: u64,
}

impl Sharer {
    fn run(&mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut next_tick = Instant::now() + TICK;
        loop {
            let busy = !self.undecided.is_empty() || !self.joined.is_empty();
            let timeout = match busy {
                true => EpollTimeout::try_from(TICK).unwrap_or(EpollTimeout::NONE),
                false => EpollTimeout::NONE,
            };
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => {
                    log::error!("port-share: {error}");
                    return;
                }
            };
            for event in &events[..count] {
                match event.data() {
                    WAKE => {
                        if !self.take_given() {
                            return;
                        }
                    }
                    token if self.undecided.contains_key(&token) => self.look(token),
                    token => self.carry(token & !1, (token & 1) as usize, event.events()),
                }
            }
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + TICK;
                self.expire(now);
            }
        }
    }

    /// False when there will be no more, and everything is to end.
    fn take_given(&mut self) -> bool {
        use std::sync::mpsc::TryRecvError;
        let _ = self.wake.read();
        loop {
            match self.given.try_recv() {
                Ok((stream, from)) => self.watch(stream, from),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => {
                    for (_, joined) in self.joined.drain() {
                        remove(joined.file.as_deref());
                    }
                    return false;
                }
            }
        }
    }

    fn watch(&mut self, stream: TcpStream, from: SocketAddr) {
        if self.undecided.len() >= MOST_UNDECIDED || stream.set_nonblocking(true).is_err() {
            log::info!(in Link, "port-share: too many connections, {from} is closed");
            return;
        }
        let token = self.next << 1;
        self.next += 1;
        // Only new bytes are news: some may have to wait for others.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        if self
            .epoll
            .add(&stream, EpollEvent::new(flags, token))
            .is_ok()
        {
            let until = Instant::now() + SILENCE;
            self.undecided.insert(
                token,
                Undecided {
                    stream,
                    from,
                    until,
                },
            );
        }
    }

    fn look(&mut self, token: u64) {
        let mut first = [0; 3];
        let Some(undecided) = self.undecided.get(&token) else {
            return;
        };
        let verdict = match undecided.stream.peek(&mut first) {
            Ok(0) => None,
            Ok(count) => Some(whose(&first[..count])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(Whose::Unknown),
            Err(_) => None,
        };
        if verdict == Some(Whose::Unknown) {
            return;
        }
        let Some(undecided) = self.undecided.remove(&token) else {
            return;
        };
        let _ = self.epoll.delete(&undecided.stream);
        let Undecided { stream, from, .. } = undecided;
        match verdict {
            Some(Whose::OpenVpn) => {
                if stream.set_nonblocking(false).is_ok()
                    && self.ours.try_send((stream, from)).is_ok()
                {
                    let _ = self.ready.write(1);
                }
            }
            Some(Whose::Other) => {
                if let Err(error) = self.join(stream, from) {
                    log::info!(in Link, "port-share: {from} to {}: {error}", self.target);
                }
            }
            Some(Whose::Unknown) | None => {}
        }
    }

    /// Begins to connect a stranger with the other server.
    fn join(&mut self, stream: TcpStream, from: SocketAddr) -> io::Result<()> {
        if self.joined.len() >= MOST_JOINED {
            return Err(io::Error::other("too many connections"));
        }
        let domain = Domain::for_address(self.target);
        let far = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        far.set_nonblocking(true)?;
        match far.connect(&self.target.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
            Err(error) => return Err(error),
        }
        let far = TcpStream::from(far);
        // Both sides may speak in small pieces.
        let _ = (stream.set_nodelay(true), far.set_nodelay(true));
        let token = self.next << 1;
        self.next += 1;
        self.epoll
            .add(&stream, EpollEvent::new(EpollFlags::empty(), token))?;
        let flags = EpollFlags::EPOLLOUT;
        self.epoll.add(&far, EpollEvent::new(flags, token | 1))?;
        log::info!(in Link, "port-share: {from} is not OpenVPN's, joined with {}", self.target);
        self.joined.insert(
            token,
            Joined {
                ends: [stream, far],
                waiting: Default::default(),
                connected: false,
                from,
                file: None,
                last: Instant::now(),
            },
        );
        Ok(())
    }

    /// Something happened at an end of a joined connection.
    fn carry(&mut self, token: u64, end: usize, events: EpollFlags) {
        let Some(joined) = self.joined.get_mut(&token) else {
            return;
        };
        let failed = events.intersects(EpollFlags::EPOLLERR)
            || (events.intersects(EpollFlags::EPOLLHUP) && !joined.connected);
        let goes_on = !failed && {
            if !joined.connected && end == 1 {
                joined.connected = true;
                joined.file = self.dir.as_deref().and_then(|dir| joined.write_file(dir));
            }
            joined.connected && joined.pump(end).is_ok_and(|goes_on| goes_on)
        };
        if !goes_on || joined.arm(&self.epoll, token).is_err() {
            self.part(token);
        }
    }

    fn part(&mut self, token: u64) {
        let Some(joined) = self.joined.remove(&token) else {
            return;
        };
        remove(joined.file.as_deref());
        for end in &joined.ends {
            let _ = self.epoll.delete(end);
        }
    }

    fn expire(&mut self, now: Instant) {
        let silent = |u: &Undecided| u.until <= now;
        let late: Vec<u64> = self
            .undecided
            .iter()
            .filter(|(_, u)| silent(u))
            .map(|(token, _)| *token)
            .collect();
        for token in late {
            if let Some(undecided) = self.undecided.remove(&token) {
                let _ = self.epoll.delete(&undecided.stream);
            }
        }
        let idle = |j: &Joined| {
            let limit = if j.connected { IDLE } else { SILENCE };
            now.duration_since(j.last) >= limit
        };
        let idle: Vec<u64> = self
            .joined
            .iter()
            .filter(|(_, j)| idle(j))
            .map(|(token, _)| *token)
            .collect();
        for token in idle {
            self.part(token);
        }
    }
}

impl Joined {
    /// Moves what can be moved from and to one end; false when both directions have ended.
    fn pump(&mut self, end: usize) -> io::Result<bool> {
        self.flush(end)?;
        let other = 1 - end;
        if self.waiting[other].is_empty() && !self.waiting[other].end {
            let waiting = &mut self.waiting[other];
            waiting.bytes.resize(BUFFER, 0);
            waiting.sent = 0;
            let read = (&self.ends[end]).read(&mut waiting.bytes);
            waiting.bytes.truncate(*read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => waiting.end = true,
                Ok(_) => self.last = Instant::now(),
                Err(error) if is_no_fault(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.flush(other)?;
        Ok(!self.waiting.iter().all(|waiting| waiting.told))
    }

    /// Sends what waits for an end.
    fn flush(&mut self, end: usize) -> io::Result<()> {
        let waiting = &mut self.waiting[end];
        while !waiting.is_empty() {
            match (&self.ends[end]).write(&waiting.bytes[waiting.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => {
                    waiting.sent += sent;
                    self.last = Instant::now();
                }
                Err(error) if is_no_fault(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if waiting.end && !waiting.told {
            waiting.told = true;
            // It may be gone altogether.
            let _ = self.ends[end].shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// What to wait for: bytes where there is room for them, room where bytes wait.
    fn arm(&self, epoll: &Epoll, token: u64) -> Result<(), Errno> {
        for (index, end) in self.ends.iter().enumerate() {
            let mut flags = EpollFlags::empty();
            let towards = &self.waiting[1 - index];
            if self.waiting[index].told && towards.end {
                // Nothing more to do at this end; its hangup would be reported again and again.
                match epoll.delete(end) {
                    Ok(()) | Err(Errno::ENOENT) => continue,
                    Err(error) => return Err(error),
                }
            }
            flags.set(EpollFlags::EPOLLIN, towards.is_empty() && !towards.end);
            flags.set(EpollFlags::EPOLLOUT, !self.waiting[index].is_empty());
            epoll.modify(end, &mut EpollEvent::new(flags, token | index as u64))?;
        }
        Ok(())
    }

    /// The file that tells the other server whose connection this is.
    fn write_file(&self, dir: &Path) -> Option<PathBuf> {
        let seen = SockRef::from(&self.ends[1])
            .local_addr()
            .ok()?
            .as_socket()?;
        let path = dir.join(address_text(seen));
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o640);
        let written = options
            .open(&path)
            .and_then(|mut file| file.write_all(address_text(self.from).as_bytes()));
        match written {
            Ok(()) => Some(path),
            Err(error) => {
                log::warn!("port-share: {}: {error}", path.display());
                None
            }
        }
    }
}

fn is_no_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn remove(file: Option<&Path>) {
    // Somebody may have tidied up.
    let _ = file.map(fs::remove_file);
}

/// `[AF_INET]192.0.2.1:50000`, as OpenVPN names these files.
fn address_text(address: SocketAddr) -> String {
    let family = if address.is_ipv4() {
        "AF_INET"
    } else {
        "AF_INET6"
    };
    format!("[{family}]{}:{}", address.ip(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_bytes() {
        assert_eq!(whose(&[0, 14, RESET_V2]), Whose::OpenVpn);
        assert_eq!(whose(&[4, 0, RESET_V3, 9]), Whose::OpenVpn);
        assert_eq!(whose(&[4, 0]), Whose::Unknown);
        for other in [
            &b"GET / HTTP/1.1"[..],
            b"G",
            b"SSH-2.0",
            &[0x16, 3, 1, 0, 200],
            &[0, 13, RESET_V2],
            &[1, 0, RESET_V2],
            &[0, 14, RESET_V2 | 1],
            &[0, 14, 8 << 3],
        ] {
            assert_eq!(whose(other), Whose::Other, "{other:?}");
        }
    }

    proptest! {
        /// More bytes never change a verdict.
        #[test]
        fn verdicts_stay(bytes in prop::collection::vec(prop_oneof![0u8..16, any::<u8>()], 0..6)) {
            let mut before = Whose::Unknown;
            for count in 0..=bytes.len() {
                let now = whose(&bytes[..count]);
                prop_assert!(before == Whose::Unknown || now == before);
                prop_assert!(count < 3 || now != Whose::Unknown);
                before = now;
            }
        }
    }

    /// A listener with a sharer behind it, and a client of it.
    fn connected(share: &PortShare) -> (TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, from) = listener.accept().unwrap();
        share.give(stream, from);
        (client, from)
    }

    #[test]
    fn ours_come_back_whole() {
        let share = PortShare::start("127.0.0.1", 9, None).unwrap();
        let (mut silent, _) = connected(&share);
        let (mut client, from) = connected(&share);
        // In portions: nothing is decided before the third byte.
        for byte in [0, 14, RESET_V2, 1, 2] {
            client.write_all(&[byte]).unwrap();
        }
        let mut fds = [PollFd::new(share.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE).unwrap();
        let (mut stream, address) = share.take().unwrap();
        assert_eq!(address, from);
        let mut all = [0; 5];
        stream.read_exact(&mut all).unwrap();
        assert_eq!(all, [0, 14, RESET_V2, 1, 2]);
        assert!(share.take().is_none());
        // The end closes what is left.
        drop(share);
        assert_eq!(silent.read(&mut all).unwrap_or(0), 0);
    }

    #[test]
    fn others_are_joined() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let share = PortShare::start("127.0.0.1", port, Some(dir.path())).unwrap();
        let (client, from) = connected(&share);
        // More than fits between the two, both ways at once.
        let content: Vec<u8> = (0..4_000_000u32).map(|n| (n % 251) as u8).collect();
        let request = [b"GET ", &content[..]].concat();
        let echo = std::thread::spawn(move || {
            let (stream, seen) = server.accept().unwrap();
            let name = address_text(seen);
            let file = dir.path().join(name);
            let (mut reader, mut writer) = (&stream, &stream);
            let mut first = [0; 4];
            reader.read_exact(&mut first).unwrap();
            writer.write_all(&first).unwrap();
            let named = fs::read_to_string(&file).unwrap();
            io::copy(&mut reader, &mut writer).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            (named, file, dir)
        });
        let mut writer = client.try_clone().unwrap();
        let sent = request.clone();
        let sending = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        (&client).read_to_end(&mut back).unwrap();
        assert!(back == request);
        sending.join().unwrap();
        let (named, file, _dir) = echo.join().unwrap();
        assert_eq!(named, address_text(from));
        drop(share);
        assert!(!file.exists());
    }

    #[test]
    fn a_server_that_is_not_there() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        drop(server);
        let share = PortShare::start("127.0.0.1", port, None).unwrap();
        let (mut client, _) = connected(&share);
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut rest = Vec::new();
        // Closed, or reset because of what was not read.
        let _ = client.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
}
