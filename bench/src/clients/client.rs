//! One light client: its socket, its control channel, its keys, its flow.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringway::proto::negotiate::{Preferences, Pushed};
use ringway::proto::push::ControlMessage;
use ringway::proto::tunnel::{Command, Event, Mode, Transport, Tunnel, TunnelConfig};
use ringway::proto::wrap::WrapConfig;
use ringway::proto::{Now, TlsRole};
use ringway::tls::TlsContext;
use ringway_dataplane::cipher::Segment;
use ringway_dataplane::command::Endpoint;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{Cipher, Digest, Halves, KeySlots};
use ringway_dataplane::wire::{self, Header, Magic, PING};

use super::packet::{self, Kind, Refused, Seen, Stamp};
use super::report::Report;

/// What a 2.6 client says of itself.
const PEER_INFO: &str = "IV_VER=2.6.14\nIV_PLAT=linux\nIV_TCPNL=1\nIV_MTU=1600\nIV_NCP=2\n\
                         IV_CIPHERS=AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305\nIV_PROTO=990\n";
const OPTIONS: &str = "V4,dev-type tun,link-mtu 1549,tun-mtu 1500,proto UDPv4,auth SHA1,keysize 128,\
                       key-method 2,tls-client";
/// `replay-window`: packets, seconds.
const REPLAY_WINDOW: (u32, u32) = (64, 15);
/// Packets of a flow that may leave at once when it is behind; what is later still is left out.
const BURST: u32 = 32;
/// Datagrams taken from one socket before the others get a turn.
const PER_TURN: usize = 16;

/// How the clients connect.
#[derive(Clone)]
pub struct Settings {
    /// The server's outer address.
    pub server: SocketAddr,
    /// Certificate and trust, shared by all.
    pub tls: Arc<TlsContext>,
    /// `tls-auth`, `tls-crypt`, `tls-crypt-v2`.
    pub wrap: WrapConfig,
    /// `auth-user-pass`: `%` in the name becomes the number of the client.
    pub credentials: Option<(String, String)>,
    /// `hand-window`
    pub hand_window: Duration,
}

/// Where a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// ICMP echo to the server's address inside: its kernel answers, round trips are measured.
    Server,
    /// Datagrams to the client with this number.
    Client(u32),
}

/// Numbered packets at a steady pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Number of the client that sends.
    pub from: u32,
    /// Where they go.
    pub goal: Goal,
    /// Time between two of them.
    pub every: Duration,
    /// Length of each inside, in bytes.
    pub len: u16,
}

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not asked to connect, or waiting for its turn.
    Idle,
    /// Since then.
    Connecting(Instant),
    /// Data may flow.
    Up,
    /// Failed; ready to try again.
    Down,
}

/// What the clients share while one of them has its turn.
pub(super) struct Scene<'a> {
    pub(super) settings: &'a Settings,
    pub(super) report: &'a mut Report,
    /// Inside addresses by number.
    pub(super) addresses: &'a mut [Option<Ipv4Addr>],
    /// Scratch for datagrams.
    pub(super) buffer: &'a mut Vec<u8>,
    /// Scratch for inner packets.
    pub(super) inner: &'a mut Vec<u8>,
    /// Where the clock of stamps begins.
    pub(super) epoch: Instant,
}

struct Sending {
    flow: Flow,
    number: u64,
    next: Instant,
}

/// One client. It holds nothing while it is idle.
pub(super) struct Client {
    number: u32,
    pub(super) state: State,
    link: Option<Box<Link>>,
    sending: Option<Sending>,
    /// By sender: the number that is expected next.
    expected: Vec<(u32, u64)>,
    /// The deadline that is in the heap.
    pub(super) scheduled: Option<Instant>,
}

/// What exists while it connects or is connected.
struct Link {
    socket: UdpSocket,
    tunnel: Tunnel,
    keys: KeySlots,
    peer_id: Option<u32>,
    framing: Framing,
    gateway: Option<Ipv4Addr>,
    ping: Duration,
    ping_restart: Duration,
    last_sent: Instant,
    last_heard: Instant,
}

impl Client {
    pub(super) fn new(number: u32) -> Self {
        Self {
            number,
            state: State::Idle,
            link: None,
            sending: None,
            expected: Vec::new(),
            scheduled: None,
        }
    }

    /// Begins to connect with a socket of its own.
    pub(super) fn begin(&mut self, scene: &mut Scene<'_>, now: Now) -> io::Result<&UdpSocket> {
        let settings = scene.settings;
        let any: SocketAddr = match settings.server {
            SocketAddr::V4(_) => ([0; 4], 0).into(),
            SocketAddr::V6(_) => ([0; 16], 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(settings.server)?;
        socket.set_nonblocking(true)?;
        let config = tunnel_config(settings, self.number);
        self.state = State::Connecting(now.instant);
        self.expected.clear();
        let link = self.link.insert(Box::new(Link {
            socket,
            tunnel: Tunnel::new(config, now, rand::random()),
            keys: KeySlots::new(),
            peer_id: None,
            framing: Framing::None,
            gateway: None,
            ping: Duration::ZERO,
            ping_restart: Duration::ZERO,
            last_sent: now.instant,
            last_heard: now.instant,
        }));
        Ok(&link.socket)
    }

    /// Drops everything, as a killed client would.
    pub(super) fn forget(&mut self) {
        self.link = None;
        self.state = State::Idle;
        self.scheduled = None;
    }

    /// Says good-bye over the control channel, where that was agreed on, and drops everything.
    pub(super) fn leave(&mut self, scene: &mut Scene<'_>, now: Now) {
        if let Some(link) = &mut self.link {
            link.tunnel.handle_command(now, Command::NotifyExit);
            link.transmit(scene, now);
        }
        self.forget();
    }

    /// Starts a flow, or ends the one there is.
    pub(super) fn set_flow(&mut self, flow: Option<Flow>, start: Instant) {
        self.sending = flow.map(|flow| Sending {
            flow,
            number: 0,
            next: start,
        });
    }

    /// Forgets what it has received so far.
    pub(super) fn expect_anew(&mut self) {
        self.expected.clear();
    }

    /// When it next has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let link = self.link.as_ref()?;
        let up = self.state == State::Up;
        let after = |from: Instant, time: Duration| (up && !time.is_zero()).then(|| from + time);
        [
            link.tunnel.poll_timeout(),
            after(link.last_sent, link.ping),
            after(link.last_heard, link.ping_restart),
            self.sending.as_ref().filter(|_| up).map(|s| s.next),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Takes what has arrived.
    pub(super) fn readable(&mut self, scene: &mut Scene<'_>, now: Now) {
        for _ in 0..PER_TURN {
            let Some(link) = &mut self.link else { return };
            // An error is the kernel's word of an unreachable port, or that nothing is left.
            let Ok(len) = link.socket.recv(scene.buffer) else {
                return;
            };
            match wire::parse(&scene.buffer[..len]) {
                Ok(Header::Control) => {
                    link.last_heard = now.instant;
                    let server = Endpoint::new(scene.settings.server);
                    let datagram = &mut scene.buffer[..len];
                    link.tunnel.handle_datagram(now, server, datagram);
                    self.drain(scene, now);
                }
                Ok(Header::Data { key_id, .. }) => self.take_data(scene, now, key_id, len),
                Err(_) => scene.report.unopened += 1,
            }
        }
    }

    /// Does what is due.
    pub(super) fn due(&mut self, scene: &mut Scene<'_>, now: Now) {
        let Some(link) = &mut self.link else { return };
        if link.tunnel.poll_timeout().is_some_and(|t| t <= now.instant) {
            link.tunnel.handle_timeout(now);
            self.drain(scene, now);
        }
        if self.state != State::Up {
            return;
        }
        self.send_flow(scene, now);
        let Some(link) = &mut self.link else { return };
        let over = |from: Instant, time: Duration| !time.is_zero() && now.instant >= from + time;
        if over(link.last_heard, link.ping_restart) {
            scene.report.silent += 1;
            self.fail(scene, "nothing from the server (ping-restart)".to_owned());
        } else if over(link.last_sent, link.ping) {
            link.seal_and_send(&PING, scene.buffer, now);
        }
    }

    fn send_flow(&mut self, scene: &mut Scene<'_>, now: Now) {
        let (Some(sending), Some(link)) = (&mut self.sending, &mut self.link) else {
            return;
        };
        let Some(own) = scene.addresses[self.number as usize] else {
            return;
        };
        let Flow {
            goal, every, len, ..
        } = sending.flow;
        let (kind, to, target) = match goal {
            Goal::Server => (Kind::Echo, self.number, link.gateway),
            Goal::Client(to) => (
                Kind::Datagram,
                to,
                scene.addresses.get(to as usize).copied().flatten(),
            ),
        };
        let mut burst = 0;
        while sending.next <= now.instant {
            let Some(target) = target.filter(|_| burst < BURST) else {
                // The other one is not there, or we are too late.
                sending.next = now.instant + every;
                return;
            };
            let stamp = Stamp {
                from: self.number,
                to,
                number: sending.number,
                sent: scene.epoch.elapsed().as_micros() as u64,
            };
            packet::write(scene.inner, kind, own, target, &stamp, len);
            if link.seal_and_send(scene.inner, scene.buffer, now) {
                scene.report.sent += 1;
                sending.number += 1;
            } else {
                scene.report.unsent += 1;
            }
            sending.next += every;
            burst += 1;
        }
    }

    fn take_data(&mut self, scene: &mut Scene<'_>, now: Now, key_id: u8, len: usize) {
        let Some(link) = &mut self.link else { return };
        let seconds = now.instant.saturating_duration_since(scene.epoch).as_secs() as u32;
        let datagram = &mut scene.buffer[..len];
        let Some(key) = link.keys.receiver(key_id) else {
            scene.report.unopened += 1;
            return;
        };
        let Ok(range) = key.open(seconds, datagram) else {
            scene.report.unopened += 1;
            return;
        };
        let epoch = key.take_epoch_change();
        link.last_heard = now.instant;
        if let Some(epoch) = epoch {
            link.keys.advance_epoch(key_id, epoch);
        }
        let payload = &scene.buffer[range];
        if wire::magic(payload) != Magic::None {
            return;
        }
        match packet::read(payload) {
            Ok(seen) => self.judge(scene, &seen),
            Err(Refused::Damaged) => scene.report.damaged += 1,
            Err(Refused::Foreign) => {}
        }
    }

    fn judge(&mut self, scene: &mut Scene<'_>, seen: &Seen) {
        let Stamp {
            from,
            to,
            number,
            sent,
        } = seen.stamp;
        let address = |n: u32| scene.addresses.get(n as usize).copied().flatten();
        let report = &mut *scene.report;
        report.received += 1;
        let sender = match seen.kind {
            Kind::Datagram => address(from),
            Kind::Echo => self.link.as_ref().and_then(|link| link.gateway),
        };
        let own = address(self.number);
        if to != self.number || Some(seen.target) != own || Some(seen.source) != sender {
            report.astray += 1;
            return;
        }
        match self.expected.iter_mut().find(|(known, _)| *known == from) {
            Some((_, next)) if number < *next => report.late += 1,
            Some((_, next)) => *next = number + 1,
            None => self.expected.push((from, number + 1)),
        }
        if seen.kind == Kind::Echo {
            let now = scene.epoch.elapsed().as_micros() as u64;
            report
                .round_trips
                .saturating_record(now.saturating_sub(sent));
        }
    }

    /// Passes on what the tunnel has to say.
    pub(super) fn drain(&mut self, scene: &mut Scene<'_>, now: Now) {
        loop {
            let Some(link) = &mut self.link else { return };
            link.transmit(scene, now);
            let Some(event) = link.tunnel.poll_event() else {
                return;
            };
            match event {
                Event::PushReply(lines) => {
                    let pushed = link.take_push(&lines, &mut scene.addresses[self.number as usize]);
                    link.tunnel.handle_command(now, Command::Pulled(pushed));
                }
                Event::Negotiated(negotiated) => {
                    link.peer_id = negotiated.peer_id;
                    link.framing = negotiated.framing;
                }
                Event::InstallKey(key_id, keys) => {
                    let (peer, framing) = (link.peer_id, link.framing);
                    let installed = link.keys.install(
                        key_id,
                        &keys,
                        Halves::BOTH,
                        peer,
                        framing,
                        REPLAY_WINDOW,
                    );
                    if let Err(error) = installed {
                        return self.fail(scene, error.to_string());
                    }
                }
                Event::UseKey(key_id) => {
                    link.keys.use_key(key_id);
                    self.key_in_use(scene, now);
                }
                Event::RemoveKey(key_id) => link.keys.remove(key_id),
                Event::Failed { reason, text } => {
                    return self.fail(scene, format!("{reason}: {text}"));
                }
                Event::Connected { tls, .. } => scene.report.tls = tls,
                Event::PeerExit => return self.fail(scene, "the server left".to_owned()),
                Event::Message(
                    message @ (ControlMessage::AuthFailed(_)
                    | ControlMessage::Restart { .. }
                    | ControlMessage::Halt { .. }),
                ) => return self.fail(scene, format!("{message:?}")),
                // Lines for a log, and what concerns servers.
                _ => {}
            }
        }
    }

    fn key_in_use(&mut self, scene: &mut Scene<'_>, now: Now) {
        let State::Connecting(since) = self.state else {
            scene.report.rekeys += 1;
            return;
        };
        let took = now.instant.saturating_duration_since(since).as_micros() as u64;
        scene.report.connect.saturating_record(took);
        scene.report.logins += 1;
        self.state = State::Up;
        if let Some(sending) = &mut self.sending {
            sending.next = now.instant;
        }
    }

    fn fail(&mut self, scene: &mut Scene<'_>, reason: String) {
        scene.report.failed(reason);
        self.link = None;
        self.state = State::Down;
    }
}

impl Link {
    fn transmit(&mut self, scene: &mut Scene<'_>, now: Now) {
        while self.tunnel.poll_transmit(now, scene.inner).is_some() {
            // What the kernel does not take is lost, and sent again by the tunnel.
            let _ = self.socket.send(scene.inner);
            self.last_sent = now.instant;
        }
    }

    /// Seals one payload in `buffer` and sends it; false when there is no key or no room.
    fn seal_and_send(&mut self, payload: &[u8], buffer: &mut [u8], now: Now) -> bool {
        self.last_sent = now.instant;
        let Some(key) = self.keys.sender() else {
            return false;
        };
        let sealed = key.sealed_len(payload.len());
        let front = key.headroom();
        if sealed > buffer.len() {
            return false;
        }
        let Some(place) = buffer.get_mut(front..front + payload.len()) else {
            return false;
        };
        place.copy_from_slice(payload);
        let segment = Segment {
            start: 0,
            len: payload.len(),
        };
        key.seal(buffer, &[segment]) == 1 && self.socket.send(&buffer[..sealed]).is_ok()
    }

    /// Reads the options that matter to a client without a device.
    fn take_push(&mut self, lines: &[String], address: &mut Option<Ipv4Addr>) -> Pushed {
        let mut pushed = Pushed::default();
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["cipher", name] => pushed.cipher = Cipher::from_name(name),
                ["peer-id", id] => pushed.peer_id = id.parse().ok(),
                ["key-derivation", "tls-ekm"] => pushed.ekm = true,
                ["protocol-flags", ref flags @ ..] => {
                    for flag in flags {
                        match *flag {
                            "tls-ekm" => pushed.ekm = true,
                            "cc-exit" => pushed.cc_exit = true,
                            "dyn-tls-crypt" => pushed.dyn_tls_crypt = true,
                            "aead-epoch" => pushed.aead_epoch = true,
                            _ => {}
                        }
                    }
                }
                ["ifconfig", own, _] => *address = own.parse().ok(),
                ["route-gateway", gateway] => self.gateway = gateway.parse().ok(),
                ["ping", seconds] => self.ping = time(seconds),
                ["ping-restart", seconds] => self.ping_restart = time(seconds),
                _ => {}
            }
        }
        pushed
    }
}

fn time(seconds: &str) -> Duration {
    Duration::from_secs(seconds.parse().unwrap_or(0))
}

fn tunnel_config(settings: &Settings, number: u32) -> TunnelConfig {
    let (username, password) = match &settings.credentials {
        Some((name, password)) => (
            Some(name.replace('%', &number.to_string())),
            Some(password.clone()),
        ),
        None => (None, None),
    };
    let hour = Duration::from_secs(3600);
    TunnelConfig {
        role: TlsRole::Client,
        mode: Mode::Pull,
        transport: Transport::Udp,
        wrap: settings.wrap.clone(),
        client_wraps: None,
        tls: settings.tls.clone(),
        remote: Some(Endpoint::new(settings.server)),
        float: false,
        single_session: false,
        options: OPTIONS.to_owned(),
        compare_options: false,
        peer_info: Some(PEER_INFO.to_owned()),
        username,
        password,
        preferences: Preferences {
            data_ciphers: vec![
                Cipher::Aes256Gcm,
                Cipher::Aes128Gcm,
                Cipher::ChaCha20Poly1305,
            ],
            fallback: None,
            digest: Digest::Sha1,
            framing: Framing::None,
        },
        tls_timeout: Duration::from_secs(2),
        hand_window: settings.hand_window,
        tran_window: hour,
        reneg_sec: hour,
        reneg_bytes: 0,
        reneg_pkts: 0,
        max_packet_size: 1250,
    }
}
