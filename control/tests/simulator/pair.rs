//! Two sans-IO cores, the link between them, and what must hold at every step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringway::proto::negotiate::{Negotiated, Preferences};
use ringway::proto::peer_info::iv_proto;
use ringway::proto::push::ControlMessage;
use ringway::proto::tunnel::{Command, Event, Mode, Transport, Tunnel, TunnelConfig};
use ringway::proto::wrap::{StaticKey, WrapConfig};
use ringway::proto::{Now, TlsRole};
use ringway::tls::{TlsContext, TlsSettings};
use ringway_dataplane::command::Endpoint;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{Cipher, DataKeys, Digest};

pub(crate) const S: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const UNIX: u64 = 1_795_374_000;
/// What a tunnel may hold in queues (windows excluded), far below what a peer can send.
const MAX_RETAINED: usize = 300 * 1024;

/// Certificates are slow to make and the same for every run: of the server, of the client, and of
/// another client under the same authority.
static CONTEXTS: LazyLock<[Arc<TlsContext>; 3]> = LazyLock::new(contexts);

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    pub(crate) loss: f64,
    pub(crate) duplicate: f64,
    pub(crate) reorder: f64,
    pub(crate) corrupt: f64,
}

pub(crate) const CLEAN: Link = Link {
    loss: 0.0,
    duplicate: 0.0,
    reorder: 0.0,
    corrupt: 0.0,
};
pub(crate) const BAD: Link = Link {
    loss: 0.05,
    duplicate: 0.1,
    reorder: 0.3,
    corrupt: 0.0,
};

pub(crate) struct End {
    pub(crate) tunnel: Tunnel,
    pub(crate) address: SocketAddr,
    pub(crate) installed: BTreeMap<u8, Box<DataKeys>>,
    pub(crate) sending: Option<u8>,
    pub(crate) used: BTreeSet<u8>,
    pub(crate) generations: usize,
    pub(crate) connected: usize,
    pub(crate) negotiated: Option<Negotiated>,
    pub(crate) failed: Option<String>,
    pub(crate) exited: bool,
    pub(crate) log: Vec<(u8, String)>,
    pub(crate) pushed: Vec<Vec<String>>,
    pub(crate) tokens: Vec<Vec<String>>,
    pub(crate) updates: Vec<Vec<String>>,
    pub(crate) messages: Vec<ControlMessage>,
    config: TunnelConfig,
    last_installed: Option<u8>,
    accepted: u64,
}

/// A datagram on the link: to whom, from where, and whether it was damaged.
type Flying = (usize, SocketAddr, Vec<u8>, bool);

/// Changes a datagram of an end, or says that it is lost.
type Tamper = fn(usize, &mut Vec<u8>) -> bool;

/// Two tunnels and the link between them. `ends[0]` is the TLS server.
pub(crate) struct Pair {
    pub(crate) ends: [End; 2],
    pub(crate) link: Link,
    pub(crate) rng: StdRng,
    pub(crate) time: Duration,
    pub(crate) data_lost: usize,
    pub(crate) data_sent: usize,
    /// Data is sent at least so often, which keeps the key check honest.
    pub(crate) data_every: Duration,
    /// Nothing arrives before this time.
    pub(crate) dark_until: Duration,
    /// Somebody on the path.
    pub(crate) tamper: Option<Tamper>,
    /// The driver's habit: an end that failed starts anew a second later.
    pub(crate) restarts: bool,
    pub(crate) restarted: usize,
    /// Every datagram sent so far, for replays.
    pub(crate) recorded: Vec<(usize, SocketAddr, Vec<u8>)>,
    start: Instant,
    /// By arrival, then by number.
    flight: BTreeMap<(Duration, u64), Flying>,
    sent: u64,
    failed_at: [Option<Duration>; 2],
}

impl Pair {
    pub(crate) fn new(
        seed: u64,
        link: Link,
        wrap: WrapConfig,
        change: impl Fn(TlsRole, &mut TunnelConfig),
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let start = Instant::now();
        let now = Now {
            instant: start,
            unix: UNIX,
        };
        let addresses: [SocketAddr; 2] = [
            "192.0.2.1:1194".parse().unwrap(),
            "192.0.2.2:1194".parse().unwrap(),
        ];
        let ends = [TlsRole::Server, TlsRole::Client].map(|role| {
            let (own, other) = match role {
                TlsRole::Server => (0, 1),
                TlsRole::Client => (1, 0),
            };
            let mut config = config(role, wrap.clone(), Endpoint::new(addresses[other]));
            change(role, &mut config);
            End::new(config, addresses[own], now, rng.random())
        });
        Pair {
            ends,
            link,
            rng,
            time: Duration::ZERO,
            data_lost: 0,
            data_sent: 0,
            data_every: 50 * MS,
            dark_until: Duration::ZERO,
            tamper: None,
            restarts: false,
            restarted: 0,
            recorded: Vec::new(),
            start,
            flight: BTreeMap::new(),
            sent: 0,
            failed_at: [None; 2],
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            instant: self.start + self.time,
            unix: UNIX + self.time.as_secs(),
        }
    }

    /// Runs until `until`, one event after the other; ends early when an end fails for good.
    pub(crate) fn run(&mut self, until: Duration) {
        self.run_while(until, |_| true);
    }

    /// Runs until `until`, or until `condition` no longer holds.
    pub(crate) fn run_while(&mut self, until: Duration, condition: impl Fn(&Pair) -> bool) {
        self.drain();
        while self.time < until && condition(self) {
            if !self.restarts && self.ends.iter().any(|e| e.failed.is_some()) {
                return;
            }
            let delivery = self.flight.keys().next().map(|k| k.0);
            let timers = self.ends.iter().filter_map(|e| e.tunnel.poll_timeout());
            let timer = timers
                .min()
                .map(|t| t.saturating_duration_since(self.start));
            let again = self.failed_at.iter().flatten().min().map(|t| *t + S);
            let next = [delivery, timer, again, Some(self.time + self.data_every)]
                .into_iter()
                .flatten()
                .min()
                .unwrap();
            self.time = self.time.max(next).min(until);
            self.deliver();
            self.timeouts();
            self.send_data();
            self.start_failed_again();
        }
    }

    fn timeouts(&mut self) {
        let now = self.now();
        for i in 0..2 {
            let due = |t: &Tunnel| t.poll_timeout().is_some_and(|at| at <= now.instant);
            if due(&self.ends[i].tunnel) {
                self.ends[i].tunnel.handle_timeout(now);
                self.drain();
                assert!(
                    !due(&self.ends[i].tunnel),
                    "end {i} wants to be woken at {:?} for ever",
                    self.time
                );
            }
        }
    }

    fn start_failed_again(&mut self) {
        for i in 0..2 {
            if self.failed_at[i].is_some_and(|at| self.time >= at + S) {
                self.restart(i);
            }
        }
    }

    /// The program of end `i` starts anew and remembers nothing.
    pub(crate) fn restart(&mut self, i: usize) {
        let now = self.now();
        let end = &mut self.ends[i];
        let seed = self.rng.random();
        *end = End::new(end.config.clone(), end.address, now, seed);
        self.failed_at[i] = None;
        self.restarted += 1;
        self.drain();
    }

    /// Changes what end `i` starts with the next time.
    pub(crate) fn change_config(&mut self, i: usize, change: impl Fn(&mut TunnelConfig)) {
        change(&mut self.ends[i].config);
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.flight.first_entry() {
            if entry.key().0 > self.time {
                break;
            }
            let (to, from, mut datagram, corrupted) = entry.remove();
            self.inject(to, from, &mut datagram, corrupted);
        }
    }

    /// Gives a datagram to an end. With `forged`, a wrapped tunnel must not take it.
    pub(crate) fn inject(
        &mut self,
        to: usize,
        from: SocketAddr,
        datagram: &mut [u8],
        forged: bool,
    ) {
        let now = self.now();
        let end = &mut self.ends[to];
        let before = end.tunnel.counters();
        end.tunnel
            .handle_datagram(now, Endpoint::new(from), datagram);
        let after = end.tunnel.counters();
        if end.failed.is_none() {
            let counted =
                |c: ringway::proto::tunnel::Counters| c.rows().iter().map(|(_, n)| n).sum::<u64>();
            assert_eq!(counted(after), counted(before) + 1, "counted exactly once");
        }
        if forged && !matches!(end.config.wrap, WrapConfig::None) {
            assert_eq!(after.accepted, before.accepted, "took a forged packet");
        }
        self.drain();
    }

    pub(crate) fn command(&mut self, i: usize, command: Command) {
        let now = self.now();
        self.ends[i].tunnel.handle_command(now, command);
        self.drain();
    }

    pub(crate) fn drain(&mut self) {
        for i in 0..2 {
            let now = self.now();
            let mut out = Vec::new();
            while let Some(to) = self.ends[i].tunnel.poll_transmit(now, &mut out) {
                self.transmit(i, to.remote, &out);
            }
            while let Some(event) = self.ends[i].tunnel.poll_event() {
                self.ends[i].take(event);
            }
            let end = &self.ends[i];
            if end.failed.is_some() {
                assert!(end.tunnel.poll_timeout().is_none());
                self.failed_at[i].get_or_insert(self.time);
            }
            let retained = end.tunnel.retained();
            assert!(retained <= MAX_RETAINED, "end {i} holds {retained} bytes");
            assert!(end.installed.len() <= 8);
        }
    }

    fn transmit(&mut self, from: usize, to: SocketAddr, datagram: &[u8]) {
        assert!((14..=1222).contains(&datagram.len()), "{}", datagram.len());
        let source = self.ends[from].address;
        if self.recorded.len() < 4096 {
            let target = 1 - from;
            self.recorded.push((target, source, datagram.to_vec()));
        }
        let Some(target) = self.ends.iter().position(|e| e.address == to) else {
            return;
        };
        let mut datagram = datagram.to_vec();
        if self.tamper.is_some_and(|f| !f(from, &mut datagram)) {
            return;
        }
        let copies = 1 + usize::from(self.rng.random_bool(self.link.duplicate));
        for _ in 0..copies {
            if self.time < self.dark_until || self.rng.random_bool(self.link.loss) {
                continue;
            }
            let mut delay = 5 * MS;
            if self.rng.random_bool(self.link.reorder) {
                delay += self.rng.random_range(0..200) * MS;
            }
            let mut datagram = datagram.clone();
            let corrupt = self.rng.random_bool(self.link.corrupt);
            if corrupt {
                let bit = self.rng.random_range(0..datagram.len() * 8);
                datagram[bit / 8] ^= 1 << (bit % 8);
            }
            self.sent += 1;
            self.flight.insert(
                (self.time + delay, self.sent),
                (target, source, datagram, corrupt),
            );
        }
    }

    /// One data packet each way, as the data plane would send it now.
    fn send_data(&mut self) {
        if !self.is_up() {
            return;
        }
        for from in 0..2 {
            self.data_sent += 1;
            self.data_lost += usize::from(!self.data_arrives(from));
        }
    }

    /// The other end holds the key that `from` seals with.
    fn data_arrives(&self, from: usize) -> bool {
        let Some(key_id) = self.ends[from].sending else {
            return false;
        };
        let sent = &self.ends[from].installed[&key_id].send;
        self.ends[1 - from]
            .installed
            .get(&key_id)
            .is_some_and(|k| k.recv.cipher == sent.cipher && k.recv.hmac == sent.hmac)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.ends.iter().all(|e| e.sending.is_some())
    }

    /// Data sent at this moment arrives, both ways.
    pub(crate) fn carries_data(&self) -> bool {
        self.data_arrives(0) && self.data_arrives(1)
    }

    pub(crate) fn expect_up(&self, what: &str) {
        let failures: Vec<_> = self.ends.iter().map(|e| e.failed.clone()).collect();
        assert!(
            self.carries_data(),
            "{what}: not up after {:?}, failures {failures:?}, keys {:?}",
            self.time,
            self.ends
                .each_ref()
                .map(|e| (e.sending, e.installed.keys().collect::<Vec<_>>())),
        );
    }
}

impl End {
    fn new(config: TunnelConfig, address: SocketAddr, now: Now, seed: [u8; 32]) -> Self {
        End {
            tunnel: Tunnel::new(config.clone(), now, seed),
            address,
            installed: BTreeMap::new(),
            sending: None,
            used: BTreeSet::new(),
            generations: 0,
            connected: 0,
            negotiated: None,
            failed: None,
            exited: false,
            log: Vec::new(),
            pushed: Vec::new(),
            tokens: Vec::new(),
            updates: Vec::new(),
            messages: Vec::new(),
            config,
            last_installed: None,
            accepted: 0,
        }
    }

    fn take(&mut self, event: Event) {
        assert!(self.failed.is_none(), "{event:?} after Failed");
        let accepted = self.tunnel.counters().accepted;
        assert!(accepted >= self.accepted);
        self.accepted = accepted;
        match event {
            Event::InstallKey(key_id, keys) => {
                assert!(self.negotiated.is_some(), "a key before Negotiated");
                if key_id > 0 {
                    let last = self.last_installed.expect("key 0 comes first");
                    // An id may be left out by a negotiation that failed, together with a session.
                    assert_eq!(key_id, if last == 7 { 1 } else { last + 1 });
                }
                self.last_installed = Some(key_id);
                let other = self.installed.insert(key_id, keys);
                if other.is_some() && self.sending == Some(key_id) {
                    self.sending = None;
                }
                self.generations += 1;
            }
            Event::UseKey(key_id) => {
                assert!(self.installed.contains_key(&key_id));
                self.sending = Some(key_id);
                self.used.insert(key_id);
            }
            Event::RemoveKey(key_id) => {
                assert!(self.installed.remove(&key_id).is_some());
                if self.sending == Some(key_id) {
                    self.sending = None;
                }
            }
            Event::Negotiated(negotiated) => {
                assert!(self.connected > 0, "Negotiated before Connected");
                self.negotiated = Some(negotiated);
            }
            Event::Connected { .. } => self.connected += 1,
            Event::Failed { text, .. } => {
                self.failed = Some(text);
                self.sending = None;
            }
            Event::PeerExit => self.exited = true,
            Event::Log(verb, text) => {
                if self.log.len() < 1000 {
                    self.log.push((verb, text));
                }
            }
            Event::PushReply(options) => self.pushed.push(options),
            Event::AuthToken(options) => self.tokens.push(options),
            Event::PushUpdate(options) => self.updates.push(options),
            Event::Message(message) => self.messages.push(message),
            Event::ClientKey(_) | Event::Authenticate(_) | Event::Ready | Event::CrResponse(_) => {
                panic!("{event:?} outside of server mode")
            }
        }
    }
}

pub(crate) fn config(role: TlsRole, wrap: WrapConfig, remote: Endpoint) -> TunnelConfig {
    TunnelConfig {
        role,
        mode: Mode::PointToPoint,
        transport: Transport::Udp,
        wrap,
        client_wraps: None,
        tls: match role {
            TlsRole::Server => CONTEXTS[0].clone(),
            TlsRole::Client => CONTEXTS[1].clone(),
        },
        remote: Some(remote),
        float: false,
        single_session: false,
        options: "V4,dev-type tun".to_owned(),
        compare_options: true,
        peer_info: peer_info(iv_proto::P2P),
        username: None,
        password: None,
        preferences: Preferences {
            data_ciphers: vec![Cipher::Aes256Gcm],
            fallback: None,
            digest: Digest::Sha1,
            framing: Framing::None,
        },
        tls_timeout: 2 * S,
        hand_window: 60 * S,
        tran_window: 3600 * S,
        reneg_sec: 3600 * S,
        reneg_bytes: 0,
        reneg_pkts: 0,
        max_packet_size: 1250,
    }
}

pub(crate) fn peer_info(proto: u32) -> Option<String> {
    Some(format!("IV_CIPHERS=AES-256-GCM\nIV_PROTO={proto}\n"))
}

/// The certificate of another client.
pub(crate) fn other_client() -> Arc<TlsContext> {
    CONTEXTS[2].clone()
}

fn contexts() -> [Arc<TlsContext>; 3] {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "sim ca");
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let context = |role: TlsRole, name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name.push(DnType::CommonName, name);
        let cert = leaf.signed_by(&key, &issuer).unwrap();
        let settings = TlsSettings {
            ca: ca_pem.clone().into_bytes(),
            cert: Some(cert.pem().into_bytes()),
            key: Some(key.serialize_pem().into_bytes()),
            ..TlsSettings::new(role)
        };
        Arc::new(TlsContext::new(&settings).unwrap().0)
    };
    [
        context(TlsRole::Server, "left"),
        context(TlsRole::Client, "right"),
        context(TlsRole::Client, "wrong"),
    ]
}

/// `count` seeds, or as many as RINGWAY_SEEDS says.
pub(crate) fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let count = std::env::var("RINGWAY_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(count);
    0..count
}

pub(crate) fn static_key() -> StaticKey {
    StaticKey::new(std::array::from_fn(|i| (i * 7) as u8))
}

pub(crate) fn wraps() -> [WrapConfig; 3] {
    [
        WrapConfig::None,
        WrapConfig::TlsAuth {
            key: static_key(),
            direction: None,
            digest: Digest::Sha1,
        },
        WrapConfig::TlsCrypt { key: static_key() },
    ]
}

pub(crate) fn wrap_of(seed: u64) -> WrapConfig {
    wraps()[(seed % 3) as usize].clone()
}
