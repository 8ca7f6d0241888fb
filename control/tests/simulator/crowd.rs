//! A server with many clients, the network between them, and what must hold at every step.
//!
//! The server side is what a driver does: an acceptor for addresses without a tunnel, one tunnel for
//! each other address, an answer to every question after a while. Over TCP there is no acceptor, and
//! packets arrive once and in order.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringway::proto::acceptor::{Acceptor, AcceptorConfig, Refusal, Verdict};
use ringway::proto::negotiate::{Negotiated, Pushed};
use ringway::proto::packet::{AckList, ControlPacket, Opcode, SessionId};
use ringway::proto::peer_info::iv_proto;
use ringway::proto::push::ControlMessage;
use ringway::proto::rate::RateLimit;
use ringway::proto::tunnel::{
    AuthRequest, Command, Event, Mode, Serve, Transport, Tunnel, TunnelConfig,
};
use ringway::proto::wrap::tls_crypt_v2::{Metadata, ServerKey};
use ringway::proto::wrap::{ClientWraps, V2Server, Wrap, WrapConfig};
use ringway::proto::{Now, TlsRole};
use ringway_dataplane::command::Endpoint;
use ringway_dataplane::key_slot::{Cipher, DataKeys};

use super::pair::{CLEAN, Link, MS, S, UNIX, config, static_key};

/// What a tunnel may hold in queues (windows excluded).
const MAX_RETAINED: usize = 300 * 1024;

/// The data keys of one end.
#[derive(Default)]
pub(crate) struct Keys {
    pub(crate) installed: BTreeMap<u8, Box<DataKeys>>,
    pub(crate) sending: Option<u8>,
    pub(crate) generations: usize,
}

impl Keys {
    fn install(&mut self, key_id: u8, keys: Box<DataKeys>) {
        if self.installed.insert(key_id, keys).is_some() && self.sending == Some(key_id) {
            self.sending = None;
        }
        self.generations += 1;
    }

    fn remove(&mut self, key_id: u8) {
        assert!(self.installed.remove(&key_id).is_some());
        if self.sending == Some(key_id) {
            self.sending = None;
        }
    }

    /// What is sealed here is opened there.
    fn reach(&self, other: &Keys) -> bool {
        let sent = self
            .sending
            .and_then(|id| Some((id, &self.installed.get(&id)?.send)));
        sent.is_some_and(|(id, sent)| {
            let there = other.installed.get(&id);
            there.is_some_and(|k| k.recv.cipher == sent.cipher && k.recv.hmac == sent.hmac)
        })
    }
}

/// The server's side of one client.
pub(crate) struct Instance {
    pub(crate) tunnel: Tunnel,
    pub(crate) keys: Keys,
    pub(crate) negotiated: Option<Negotiated>,
    pub(crate) requests: Vec<AuthRequest>,
    pub(crate) readies: usize,
    pub(crate) metadata: Vec<Metadata>,
    pub(crate) responses: Vec<String>,
    pub(crate) exited: bool,
    peer_id: u32,
    /// Answers of scripts that run.
    answers: Vec<(Duration, Command)>,
}

pub(crate) struct Client {
    pub(crate) tunnel: Tunnel,
    pub(crate) address: SocketAddr,
    pub(crate) config: TunnelConfig,
    pub(crate) keys: Keys,
    pub(crate) pushed: Vec<Vec<String>>,
    pub(crate) tokens: Vec<Vec<String>>,
    pub(crate) updates: Vec<Vec<String>>,
    pub(crate) messages: Vec<ControlMessage>,
    pub(crate) failed: Option<String>,
    pub(crate) starts: usize,
    /// It was sent away and does not come again.
    pub(crate) gone: bool,
    failed_at: Option<Duration>,
}

enum To {
    Server(SocketAddr),
    Client(usize),
}

/// How the server's driver answers.
#[derive(Clone)]
pub(crate) struct Habits {
    /// A script takes up to so long.
    pub(crate) script: Duration,
    /// The password that is taken; any when `None`.
    pub(crate) password: Option<&'static str>,
    /// Deferred: what it says before it answers.
    pub(crate) pending: Option<Vec<String>>,
    /// The client's question is not answered at all.
    pub(crate) silent: bool,
    pub(crate) push: Vec<String>,
    pub(crate) tokens: Vec<String>,
    /// The ciphers of the server.
    pub(crate) ciphers: Vec<Cipher>,
    pub(crate) refuse: Option<&'static str>,
}

pub(crate) struct Crowd {
    pub(crate) acceptor: Acceptor,
    pub(crate) instances: HashMap<SocketAddr, Instance>,
    pub(crate) clients: Vec<Client>,
    pub(crate) link: Link,
    pub(crate) rng: StdRng,
    pub(crate) time: Duration,
    pub(crate) habits: Habits,
    pub(crate) server: TunnelConfig,
    /// Ends of instances: when, reason.
    pub(crate) ended: Vec<(Duration, SocketAddr, &'static str, String)>,
    /// Datagrams to addresses that are no client's.
    pub(crate) backscatter: usize,
    pub(crate) judged: u64,
    start: Instant,
    flight: BTreeMap<(Duration, u64), (To, Vec<u8>)>,
    sent: u64,
    next_peer_id: u32,
}

pub(crate) const SERVER: &str = "192.0.2.1:1194";

pub(crate) fn server_key() -> ServerKey {
    ServerKey::new([0x5a; 128])
}

/// The wrapping of a client with a key of its own.
pub(crate) fn v2_client(n: u8, metadata: &Metadata) -> WrapConfig {
    let key = ringway::proto::wrap::StaticKey::new(std::array::from_fn(|i| (i as u8) ^ n));
    let wkc = server_key().wrap_client_key(&key, metadata).unwrap();
    WrapConfig::TlsCryptV2Client { key, wkc }
}

/// tls-crypt-v2 beside tls-crypt.
pub(crate) fn v2_server() -> ClientWraps {
    ClientWraps {
        fixed: WrapConfig::TlsCrypt { key: static_key() },
        v2: Some(V2Server {
            key: server_key(),
            force_cookie: false,
            max_age: None,
        }),
    }
}

impl Crowd {
    pub(crate) fn new(seed: u64, link: Link, wraps: ClientWraps, transport: Transport) -> Self {
        let wraps = Arc::new(wraps);
        let mut server = config(TlsRole::Server, WrapConfig::None, Endpoint::new(address(0)));
        server.mode = Mode::Server;
        server.transport = transport;
        server.client_wraps = Some(wraps.clone());
        server.remote = None;
        server.peer_info = None;
        let acceptor = Acceptor::new(AcceptorConfig {
            wraps,
            hand_window: server.hand_window,
            answers: RateLimit::new(100_000, 10 * S),
            accepts: None,
            cookie_key: [seed as u8; 32],
        });
        Crowd {
            acceptor,
            instances: HashMap::new(),
            clients: Vec::new(),
            link,
            rng: StdRng::seed_from_u64(seed),
            time: Duration::ZERO,
            habits: Habits {
                script: 300 * MS,
                password: None,
                pending: None,
                silent: false,
                push: vec!["route-gateway 10.8.0.1".into(), "ping 10".into()],
                tokens: Vec::new(),
                ciphers: vec![Cipher::Aes256Gcm],
                refuse: None,
            },
            server,
            ended: Vec::new(),
            backscatter: 0,
            judged: 0,
            start: Instant::now(),
            flight: BTreeMap::new(),
            sent: 0,
            next_peer_id: 0,
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            instant: self.start + self.time,
            unix: UNIX + self.time.as_secs(),
        }
    }

    /// Another client, which calls at once.
    pub(crate) fn add(&mut self, wrap: WrapConfig, change: impl Fn(&mut TunnelConfig)) -> usize {
        let index = self.clients.len();
        let address = address(index + 2);
        let far = Endpoint::new(SERVER.parse().unwrap());
        let mut config = config(TlsRole::Client, wrap, far);
        config.mode = Mode::Pull;
        config.transport = self.server.transport;
        config.peer_info = super::pair::peer_info(iv_proto::PULL);
        config.username = Some(format!("user {index}"));
        config.password = Some("right".into());
        change(&mut config);
        let seed = self.rng.random();
        let client = Client::new(config, address, self.now(), seed);
        self.clients.push(client);
        self.connect(index);
        index
    }

    /// Its program starts anew.
    pub(crate) fn restart(&mut self, index: usize) {
        let seed = self.rng.random();
        let now = self.now();
        let old = &mut self.clients[index];
        let starts = old.starts + 1;
        let mut client = Client::new(old.config.clone(), old.address, now, seed);
        client.starts = starts;
        client.messages = std::mem::take(&mut old.messages);
        client.pushed = std::mem::take(&mut old.pushed);
        *old = client;
        self.connect(index);
    }

    fn connect(&mut self, index: usize) {
        if self.server.transport == Transport::Tcp {
            let address = self.clients[index].address;
            // The old connection is closed, and so is what was on it.
            self.flight.retain(|_, (to, _)| match to {
                To::Server(from) => *from != address,
                To::Client(to) => *to != index,
            });
            let (now, seed) = (self.now(), self.rng.random());
            let config = self.server.clone();
            let tunnel = Tunnel::listen(config, Endpoint::new(address), now, seed);
            self.insert(address, tunnel);
        }
        self.drain_client(index);
    }

    fn insert(&mut self, address: SocketAddr, tunnel: Tunnel) {
        let instance = Instance {
            tunnel,
            keys: Keys::default(),
            negotiated: None,
            requests: Vec::new(),
            readies: 0,
            metadata: Vec::new(),
            responses: Vec::new(),
            exited: false,
            peer_id: self.next_peer_id,
            answers: Vec::new(),
        };
        self.next_peer_id += 1;
        self.instances.insert(address, instance);
        self.drain_instance(address);
    }

    pub(crate) fn run(&mut self, until: Duration) {
        self.run_while(until, |_| true);
    }

    pub(crate) fn run_while(&mut self, until: Duration, condition: impl Fn(&Crowd) -> bool) {
        while self.time < until && condition(self) {
            let timers = self.clients.iter().filter(|c| !c.gone);
            let timers = timers.filter_map(|c| c.tunnel.poll_timeout());
            let served = self.instances.values();
            let timers = timers.chain(served.filter_map(|i| i.tunnel.poll_timeout()));
            let timer = timers
                .min()
                .map(|t| t.saturating_duration_since(self.start));
            let answers = self.instances.values().flat_map(|i| &i.answers);
            let answer = answers.map(|(at, _)| *at).min();
            let again = self.clients.iter().filter_map(|c| c.failed_at).min();
            let next = [
                self.flight.keys().next().map(|k| k.0),
                timer,
                answer,
                again.map(|t| t + S),
                Some(self.time + 10 * S),
            ];
            let next = next.into_iter().flatten().min().unwrap();
            self.time = self.time.max(next).min(until);
            self.deliver();
            self.answer();
            self.timeouts();
            self.start_failed_again();
        }
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.flight.first_entry() {
            if entry.key().0 > self.time {
                break;
            }
            let (to, mut datagram) = entry.remove();
            match to {
                To::Server(from) => self.give_server(from, &mut datagram),
                To::Client(index) => {
                    let now = self.now();
                    let client = &mut self.clients[index];
                    let from = Endpoint::new(SERVER.parse().unwrap());
                    client.tunnel.handle_datagram(now, from, &mut datagram);
                    self.drain_client(index);
                }
            }
        }
    }

    /// A datagram reaches the server.
    pub(crate) fn give_server(&mut self, from: SocketAddr, datagram: &mut [u8]) {
        let now = self.now();
        if let Some(instance) = self.instances.get_mut(&from) {
            let endpoint = Endpoint::new(from);
            instance.tunnel.handle_datagram(now, endpoint, datagram);
            return self.drain_instance(from);
        }
        if self.server.transport == Transport::Tcp {
            return;
        }
        let before = datagram.to_vec();
        self.judged += 1;
        match self.acceptor.judge(now, Endpoint::new(from), datagram) {
            Verdict::Drop(_) => {}
            Verdict::Reply(reply) => self.send_to(from, &reply),
            Verdict::Accept(accepted) => {
                let seed = self.rng.random();
                let endpoint = Endpoint::new(from);
                let config = self.server.clone();
                let tunnel = Tunnel::accept(config, &accepted, endpoint, now, seed);
                self.insert(from, tunnel);
            }
        }
        assert_eq!(before, datagram, "the acceptor leaves the datagram alone");
        let counted: u64 = self.acceptor.counters().rows().map(|(_, n)| n).sum();
        assert_eq!(counted, self.judged, "counted exactly once");
    }

    fn answer(&mut self) {
        let addresses: Vec<_> = self.instances.keys().copied().collect();
        for address in addresses {
            let time = self.time;
            let Some(instance) = self.instances.get_mut(&address) else {
                continue;
            };
            let due: Vec<_> = instance
                .answers
                .extract_if(.., |(at, _)| *at <= time)
                .collect();
            for (_, command) in due {
                self.command(address, command);
            }
        }
    }

    /// The driver tells an instance something.
    pub(crate) fn command(&mut self, address: SocketAddr, command: Command) {
        let now = self.now();
        if let Some(instance) = self.instances.get_mut(&address) {
            instance.tunnel.handle_command(now, command);
            self.drain_instance(address);
        }
    }

    pub(crate) fn client_command(&mut self, index: usize, command: Command) {
        let now = self.now();
        self.clients[index].tunnel.handle_command(now, command);
        self.drain_client(index);
    }

    fn timeouts(&mut self) {
        let now = self.now();
        let due = |t: &Tunnel| t.poll_timeout().is_some_and(|at| at <= now.instant);
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            if !client.gone && due(&client.tunnel) {
                client.tunnel.handle_timeout(now);
                self.drain_client(index);
                assert!(
                    !due(&self.clients[index].tunnel),
                    "client {index} wakes for ever"
                );
            }
        }
        let late = self.instances.iter().filter(|(_, i)| due(&i.tunnel));
        let late: Vec<_> = late.map(|(address, _)| *address).collect();
        for address in late {
            if let Some(instance) = self.instances.get_mut(&address) {
                instance.tunnel.handle_timeout(now);
            }
            self.drain_instance(address);
            let still = self.instances.get(&address).is_some_and(|i| due(&i.tunnel));
            assert!(!still, "instance of {address} wakes for ever");
        }
    }

    fn start_failed_again(&mut self) {
        for index in 0..self.clients.len() {
            if self.clients[index]
                .failed_at
                .is_some_and(|at| self.time >= at + S)
            {
                self.restart(index);
            }
        }
    }

    fn drain_client(&mut self, index: usize) {
        let now = self.now();
        let mut out = Vec::new();
        let client = &mut self.clients[index];
        let mut sent = Vec::new();
        while client.tunnel.poll_transmit(now, &mut out).is_some() {
            sent.push(out.clone());
        }
        let mut answers = Vec::new();
        while let Some(event) = client.tunnel.poll_event() {
            answers.extend(client.take(event, self.time));
        }
        assert!(client.tunnel.retained() <= MAX_RETAINED);
        let (address, left) = (client.address, client.gone || client.failed.is_some());
        for datagram in sent {
            self.transmit(To::Server(address), &datagram);
        }
        if left && self.server.transport == Transport::Tcp {
            // The connection is closed.
            self.instances.remove(&address);
        }
        for command in answers {
            self.client_command(index, command);
        }
    }

    fn drain_instance(&mut self, address: SocketAddr) {
        let now = self.now();
        let mut out = Vec::new();
        let Some(instance) = self.instances.get_mut(&address) else {
            return;
        };
        let mut sent = Vec::new();
        while let Some(to) = instance.tunnel.poll_transmit(now, &mut out) {
            assert_eq!(to.remote, address);
            sent.push(out.clone());
        }
        let mut ended = None;
        while let Some(event) = instance.tunnel.poll_event() {
            assert!(ended.is_none(), "{event:?} after Failed");
            let script = self.time + self.habits.script.mul_f64(self.rng.random());
            match event {
                Event::Failed { reason, text } => ended = Some((reason, text)),
                other => instance.take(other, &self.habits, script),
            }
        }
        assert!(instance.tunnel.retained() <= MAX_RETAINED);
        assert!(instance.keys.installed.len() <= 8);
        for datagram in sent {
            self.send_to(address, &datagram);
        }
        if let Some((reason, text)) = ended {
            self.instances.remove(&address);
            self.ended.push((self.time, address, reason, text));
            if self.server.transport == Transport::Tcp {
                self.close_connection(address);
            }
        }
    }

    /// The far end notices after what was sent before has arrived.
    fn close_connection(&mut self, address: SocketAddr) {
        let time = self.time;
        if let Some(client) = self.clients.iter_mut().find(|c| c.address == address)
            && !client.gone
        {
            client.failed.get_or_insert("connection closed".into());
            client.failed_at.get_or_insert(time);
        }
    }

    fn send_to(&mut self, address: SocketAddr, datagram: &[u8]) {
        match self.clients.iter().position(|c| c.address == address) {
            Some(index) => self.transmit(To::Client(index), datagram),
            None => self.backscatter += 1,
        }
    }

    fn transmit(&mut self, to: To, datagram: &[u8]) {
        assert!((14..=1222).contains(&datagram.len()), "{}", datagram.len());
        let copies = 1 + usize::from(self.rng.random_bool(self.link.duplicate));
        for _ in 0..copies {
            if self.rng.random_bool(self.link.loss) {
                continue;
            }
            let mut delay = 5 * MS;
            if self.rng.random_bool(self.link.reorder) {
                delay += self.rng.random_range(0..200) * MS;
            }
            self.sent += 1;
            let to = match &to {
                To::Server(from) => To::Server(*from),
                To::Client(index) => To::Client(*index),
            };
            let at = (self.time + delay, self.sent);
            self.flight.insert(at, (to, datagram.to_vec()));
        }
    }

    pub(crate) fn is_connected(&self, index: usize) -> bool {
        let client = &self.clients[index];
        self.instances.get(&client.address).is_some_and(|instance| {
            client.keys.reach(&instance.keys) && instance.keys.reach(&client.keys)
        })
    }

    pub(crate) fn all_connected(&self) -> bool {
        (0..self.clients.len()).all(|index| self.is_connected(index))
    }

    pub(crate) fn expect_all_connected(&self, what: &str) {
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            assert!(
                self.is_connected(index),
                "{what}: client {index} after {:?}: failed {:?}, starts {}, messages {:?}, {:?}, \
                 ended {:?}",
                self.time,
                client.failed,
                client.starts,
                client.messages,
                self.instances
                    .get(&client.address)
                    .map(|i| (i.tunnel.counters(), i.readies)),
                self.ended
                    .iter()
                    .filter(|e| e.1 == client.address)
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(
            self.instances.len(),
            self.clients.len(),
            "{what}: nobody else"
        );
    }

    pub(crate) fn set_rates(&mut self, answers: RateLimit, accepts: Option<RateLimit>) {
        let wraps = self.server.client_wraps.clone().unwrap();
        self.acceptor = Acceptor::new(AcceptorConfig {
            wraps,
            hand_window: self.server.hand_window,
            answers,
            accepts,
            cookie_key: [9; 32],
        });
        self.judged = 0;
    }

    /// As after a restart.
    pub(crate) fn forget_cookies(&mut self) {
        self.set_rates(RateLimit::new(100_000, S), None);
    }

    /// The oldest datagram under way to the server that is no reset; time goes on until there is one.
    pub(crate) fn second_packet(&mut self) -> Vec<u8> {
        loop {
            let mut waiting = self.flight.values();
            let found = waiting.find_map(|(to, datagram)| {
                let second = matches!(to, To::Server(_)) && datagram[0] >> 3 != 7;
                second.then(|| datagram.clone())
            });
            if let Some(datagram) = found {
                return datagram;
            }
            self.run(self.time + MS);
        }
    }

    /// A connection is made, and nothing more.
    pub(crate) fn listen_for(&mut self, address: SocketAddr) {
        let (now, seed) = (self.now(), self.rng.random());
        let config = self.server.clone();
        let tunnel = Tunnel::listen(config, Endpoint::new(address), now, seed);
        self.insert(address, tunnel);
    }

    /// The first packet of a client that knows nothing of sending its key again.
    pub(crate) fn old_v3_reset(&mut self, wrap: &WrapConfig) -> Vec<u8> {
        let WrapConfig::TlsCryptV2Client { key, wkc } = wrap else {
            panic!("not tls-crypt-v2")
        };
        let packet = ControlPacket {
            opcode: Opcode::HardResetClientV3,
            key_id: 0,
            session_id: SessionId([7; 8]),
            acks: AckList::new(),
            remote_session_id: None,
            packet_id: Some(0),
            payload: &[],
        };
        let mut out = Vec::new();
        // Its replay ids begin at 1.
        let plain = WrapConfig::TlsCrypt { key: key.clone() };
        Wrap::new(&plain, TlsRole::Client, UNIX as u32).wrap(&packet, &mut out);
        out.extend_from_slice(wkc);
        out
    }

    pub(crate) fn instance(&self, index: usize) -> &Instance {
        &self.instances[&self.clients[index].address]
    }

    pub(crate) fn refused(&self, why: Refusal) -> u64 {
        self.acceptor.counters().refused(why)
    }
}

impl Instance {
    fn take(&mut self, event: Event, habits: &Habits, script: Duration) {
        match event {
            Event::Authenticate(request) => {
                let request = *request;
                let given = request.password.as_ref().map(|p| p.as_str());
                let good = habits.password.is_none_or(|p| given == Some(p));
                let number = request.request;
                self.requests.push(request);
                if let Some(messages) = &habits.pending {
                    let pending = Command::AuthPending {
                        timeout: 120,
                        messages: messages.clone(),
                    };
                    self.answers.push((Duration::ZERO, pending));
                }
                let answer = match good {
                    true => Command::Authenticated { request: number },
                    false => Command::AuthFailed {
                        request: number,
                        reason: Some("wrong password".into()),
                    },
                };
                if !habits.silent {
                    self.answers.push((script, answer));
                }
            }
            Event::Ready => {
                self.readies += 1;
                let mut preferences =
                    config(TlsRole::Server, WrapConfig::None, Endpoint::new(address(0)))
                        .preferences;
                preferences.data_ciphers.clone_from(&habits.ciphers);
                let serve = Serve {
                    preferences,
                    features: iv_proto::PULL,
                    peer_id: Some(self.peer_id),
                    push: habits.push.clone(),
                    tokens: habits.tokens.clone(),
                    tun_mtu: Some(1400),
                    username: None,
                    extensions: 0,
                };
                let answer = match habits.refuse {
                    Some(text) => Command::Refuse(Some(text.into())),
                    None => Command::Serve(Box::new(serve)),
                };
                self.answers.push((script, answer));
            }
            Event::Negotiated(negotiated) => self.negotiated = Some(negotiated),
            Event::InstallKey(key_id, keys) => {
                assert!(self.negotiated.is_some(), "a key before Negotiated");
                self.keys.install(key_id, keys);
            }
            Event::UseKey(key_id) => {
                assert!(self.keys.installed.contains_key(&key_id));
                self.keys.sending = Some(key_id);
            }
            Event::RemoveKey(key_id) => self.keys.remove(key_id),
            Event::ClientKey(metadata) => self.metadata.push(metadata),
            Event::CrResponse(response) => self.responses.push(response),
            Event::PeerExit => self.exited = true,
            Event::Connected { .. } | Event::Log(..) => {}
            Event::Failed { .. }
            | Event::PushReply(_)
            | Event::AuthToken(_)
            | Event::PushUpdate(_)
            | Event::Message(_) => panic!("{event:?} in server mode"),
        }
    }
}

impl Client {
    fn new(config: TunnelConfig, address: SocketAddr, now: Now, seed: [u8; 32]) -> Self {
        Client {
            tunnel: Tunnel::new(config.clone(), now, seed),
            address,
            config,
            keys: Keys::default(),
            pushed: Vec::new(),
            tokens: Vec::new(),
            updates: Vec::new(),
            messages: Vec::new(),
            failed: None,
            starts: 1,
            gone: false,
            failed_at: None,
        }
    }

    fn take(&mut self, event: Event, time: Duration) -> Option<Command> {
        match event {
            Event::PushReply(options) => {
                let pushed = pushed(&options);
                self.pushed.push(options);
                return Some(Command::Pulled(pushed));
            }
            Event::InstallKey(key_id, keys) => self.keys.install(key_id, keys),
            Event::UseKey(key_id) => self.keys.sending = Some(key_id),
            Event::RemoveKey(key_id) => self.keys.remove(key_id),
            Event::AuthToken(options) => self.tokens.push(options),
            Event::PushUpdate(options) => self.updates.push(options),
            Event::Message(message) => {
                self.gone |= matches!(message, ControlMessage::AuthFailed(_));
                self.messages.push(message);
            }
            Event::Failed { text, .. } => {
                self.failed = Some(text);
                self.failed_at = (!self.gone).then_some(time);
            }
            Event::Connected { .. } | Event::Negotiated(_) | Event::Log(..) => {}
            Event::PeerExit
            | Event::ClientKey(_)
            | Event::Authenticate(_)
            | Event::Ready
            | Event::CrResponse(_) => panic!("{event:?} at a client"),
        }
        None
    }
}

/// What concerns the control channel in a pushed list.
fn pushed(options: &[String]) -> Pushed {
    let mut pushed = Pushed::default();
    for option in options {
        let mut words = option.split(' ');
        let name = words.next().unwrap();
        for word in words {
            match (name, word) {
                ("cipher", name) => pushed.cipher = Cipher::from_name(name),
                ("peer-id", id) => pushed.peer_id = Some(id.parse().unwrap()),
                ("key-derivation" | "protocol-flags", "tls-ekm") => pushed.ekm = true,
                ("protocol-flags", "cc-exit") => pushed.cc_exit = true,
                ("protocol-flags", "dyn-tls-crypt") => pushed.dyn_tls_crypt = true,
                ("protocol-flags", "aead-epoch") => pushed.aead_epoch = true,
                _ => {}
            }
        }
    }
    pushed
}

/// The address of number `n`.
pub(crate) fn address(n: usize) -> SocketAddr {
    let n = n as u32;
    SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 40_000))
}

/// A server that all its clients can reach well.
pub(crate) fn clean(wraps: ClientWraps, transport: Transport) -> Crowd {
    Crowd::new(1, CLEAN, wraps, transport)
}
