//! The control channel over bad links, in virtual time: two sans-IO cores, real TLS, and a link that
//! loses, duplicates, delays and reorders. Everything but TLS's own randomness follows from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringway::proto::negotiate::Preferences;
use ringway::proto::tunnel::{Command, Event, Mode, Tunnel, TunnelConfig};
use ringway::proto::wrap::{StaticKey, WrapConfig};
use ringway::proto::{Now, TlsRole};
use ringway::tls::{TlsContext, TlsSettings};
use ringway_dataplane::command::Endpoint;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{Cipher, DataKeys, Digest};

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const UNIX: u64 = 1_795_374_000;

/// Certificates are slow to make and the same for every run.
static CONTEXTS: LazyLock<(Arc<TlsContext>, Arc<TlsContext>)> = LazyLock::new(contexts);

#[derive(Clone, Copy, Debug)]
struct Link {
    loss: f64,
    duplicate: f64,
    reorder: f64,
}

const CLEAN: Link = Link {
    loss: 0.0,
    duplicate: 0.0,
    reorder: 0.0,
};

struct End {
    tunnel: Tunnel,
    address: SocketAddr,
    installed: BTreeMap<u8, Box<DataKeys>>,
    sending: Option<u8>,
    used: BTreeSet<u8>,
    generations: usize,
    failed: Option<String>,
    exited: bool,
}

/// Two tunnels and the link between them. `ends[0]` is the TLS server.
struct Pair {
    ends: [End; 2],
    link: Link,
    rng: StdRng,
    start: Instant,
    time: Duration,
    flight: BTreeMap<(Duration, u64), (usize, SocketAddr, Vec<u8>)>,
    sent: u64,
    data_lost: usize,
    data_sent: usize,
}

impl Pair {
    fn new(seed: u64, link: Link, wrap: WrapConfig, change: impl Fn(&mut TunnelConfig)) -> Self {
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
            change(&mut config);
            End {
                tunnel: Tunnel::new(config, now, rng.random()),
                address: addresses[own],
                installed: BTreeMap::new(),
                sending: None,
                used: BTreeSet::new(),
                generations: 0,
                failed: None,
                exited: false,
            }
        });
        Pair {
            ends,
            link,
            rng,
            start,
            time: Duration::ZERO,
            flight: BTreeMap::new(),
            sent: 0,
            data_lost: 0,
            data_sent: 0,
        }
    }

    fn now(&self) -> Now {
        Now {
            instant: self.start + self.time,
            unix: UNIX + self.time.as_secs(),
        }
    }

    /// Runs until `until`, one event after the other.
    fn run(&mut self, until: Duration) {
        self.drain();
        while self.time < until && self.ends.iter().all(|e| e.failed.is_none()) {
            let delivery = self.flight.keys().next().map(|k| k.0);
            let timers = self.ends.iter().filter_map(|e| e.tunnel.poll_timeout());
            let timer = timers
                .min()
                .map(|t| t.saturating_duration_since(self.start));
            // A millisecond of data at a time keeps the key check honest.
            let next = [delivery, timer, Some(self.time + 50 * MS)]
                .into_iter()
                .flatten()
                .min()
                .unwrap();
            self.time = self.time.max(next);
            self.deliver();
            let now = self.now();
            for end in &mut self.ends {
                if end.tunnel.poll_timeout().is_some_and(|t| t <= now.instant) {
                    end.tunnel.handle_timeout(now);
                }
            }
            self.drain();
            self.send_data();
        }
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.flight.first_entry() {
            if entry.key().0 > self.time {
                break;
            }
            let (to, from, mut datagram) = entry.remove();
            let now = self.now();
            let from = Endpoint::new(from);
            self.ends[to]
                .tunnel
                .handle_datagram(now, from, &mut datagram);
            self.drain();
        }
    }

    fn drain(&mut self) {
        let now = self.now();
        for i in 0..2 {
            let mut out = Vec::new();
            while let Some(to) = self.ends[i].tunnel.poll_transmit(now, &mut out) {
                assert!(out.len() <= 1222, "a control packet of {} bytes", out.len());
                let Some(target) = self.ends.iter().position(|e| e.address == to.remote) else {
                    continue;
                };
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
                    let from = self.ends[i].address;
                    self.flight
                        .insert((self.time + delay, self.sent), (target, from, out.clone()));
                }
            }
            while let Some(event) = self.ends[i].tunnel.poll_event() {
                self.take_event(i, event);
            }
        }
    }

    fn take_event(&mut self, i: usize, event: Event) {
        let end = &mut self.ends[i];
        match event {
            Event::InstallKey(key_id, keys) => {
                end.installed.insert(key_id, keys);
                end.generations += 1;
            }
            Event::UseKey(key_id) => {
                assert!(end.installed.contains_key(&key_id));
                end.sending = Some(key_id);
                end.used.insert(key_id);
            }
            Event::RemoveKey(key_id) => {
                end.installed.remove(&key_id);
            }
            Event::Failed { text, .. } => end.failed = Some(text),
            Event::PeerExit => end.exited = true,
            _ => {}
        }
    }

    /// One data packet each way, as the data plane would send it now: the other end must hold the
    /// key it is sealed with.
    fn send_data(&mut self) {
        if self.ends.iter().any(|e| e.sending.is_none()) {
            return;
        }
        for (from, to) in [(0, 1), (1, 0)] {
            self.data_sent += 1;
            let key_id = self.ends[from].sending.unwrap();
            let sent = &self.ends[from].installed[&key_id].send;
            let fits = self.ends[to]
                .installed
                .get(&key_id)
                .is_some_and(|k| k.recv.cipher == sent.cipher);
            if !fits {
                self.data_lost += 1;
            }
        }
    }

    fn is_up(&self) -> bool {
        self.ends.iter().all(|e| e.sending.is_some())
    }

    fn expect_up(&self, what: &str) {
        let failures: Vec<_> = self.ends.iter().map(|e| e.failed.clone()).collect();
        assert!(
            self.is_up(),
            "{what}: not up after {:?}, failures {failures:?}",
            self.time
        );
    }
}

fn config(role: TlsRole, wrap: WrapConfig, remote: Endpoint) -> TunnelConfig {
    TunnelConfig {
        role,
        mode: Mode::PointToPoint,
        wrap,
        tls: match role {
            TlsRole::Server => CONTEXTS.0.clone(),
            TlsRole::Client => CONTEXTS.1.clone(),
        },
        remote: Some(remote),
        float: false,
        single_session: false,
        options: "V4,dev-type tun".to_owned(),
        peer_info: Some(format!(
            "IV_CIPHERS=AES-256-GCM\nIV_PROTO={}\n",
            ringway::proto::peer_info::iv_proto::P2P
        )),
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

fn contexts() -> (Arc<TlsContext>, Arc<TlsContext>) {
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
            key: Some(key.serialize_pem().into_bytes().into()),
            ..TlsSettings::new(role)
        };
        Arc::new(TlsContext::new(&settings).unwrap().0)
    };
    (
        context(TlsRole::Server, "left"),
        context(TlsRole::Client, "right"),
    )
}

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    // More with RINGWAY_SEEDS=n.
    let count = std::env::var("RINGWAY_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(count);
    0..count
}

fn static_key() -> StaticKey {
    StaticKey::new(std::array::from_fn(|i| (i * 7) as u8))
}

fn wraps() -> [WrapConfig; 3] {
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

#[test]
fn a_clean_link_is_up_within_a_second_in_every_wrapping() {
    for wrap in wraps() {
        let mut pair = Pair::new(1, CLEAN, wrap, |_| {});
        pair.run(S);
        pair.expect_up("clean");
        let keys: Vec<_> = pair
            .ends
            .iter()
            .map(|e| e.installed[&0].send.cipher)
            .collect();
        assert_ne!(
            keys[0], keys[1],
            "both directions must use keys of their own"
        );
    }
}

#[test]
fn handshakes_complete_over_bad_links() {
    for seed in seeds(60) {
        for (loss, duplicate, reorder) in [
            (0.01, 0.0, 0.0),
            (0.05, 0.1, 0.3),
            (0.2, 0.0, 0.0),
            (0.0, 0.5, 0.9),
        ] {
            let link = Link {
                loss,
                duplicate,
                reorder,
            };
            let wrap = wraps()[(seed % 3) as usize].clone();
            let mut pair = Pair::new(seed, link, wrap, |c| c.hand_window = 600 * S);
            pair.run(600 * S);
            pair.expect_up(&format!("seed {seed} {link:?}"));
        }
    }
}

#[test]
fn a_rekey_never_seals_with_a_key_the_peer_lacks() {
    for seed in seeds(20) {
        let link = Link {
            loss: 0.05,
            duplicate: 0.05,
            reorder: 0.3,
        };
        let wrap = wraps()[(seed % 3) as usize].clone();
        let mut pair = Pair::new(seed, link, wrap, |c| c.reneg_sec = 60 * S);
        pair.run(900 * S);
        pair.expect_up(&format!("seed {seed}"));
        // The very first packets may leave before the slower end has its first key.
        assert!(
            pair.data_lost <= 3,
            "seed {seed}: {} of {} lost",
            pair.data_lost,
            pair.data_sent
        );
        assert!(
            pair.ends.iter().all(|e| e.generations >= 10),
            "seed {seed}: too few rekeys"
        );
        assert!(
            pair.ends[0].used.len() >= 7,
            "key ids must go round: {:?}",
            pair.ends[0].used
        );
    }
}

#[test]
fn rekeys_of_a_few_seconds_lose_nothing_on_a_clean_link() {
    for reneg in 3..8 {
        let mut pair = Pair::new(reneg, CLEAN, WrapConfig::None, |c| {
            c.reneg_sec = Duration::from_secs(reneg);
        });
        pair.run(120 * S);
        pair.expect_up("fast rekey");
        assert!(
            pair.data_lost <= 1,
            "reneg {reneg}: {} lost",
            pair.data_lost
        );
    }
}

#[test]
fn usage_begins_a_rekey_and_only_one() {
    let mut pair = Pair::new(5, CLEAN, WrapConfig::None, |c| c.reneg_bytes = 1000);
    pair.run(3 * S);
    let now = pair.now();
    let usage = ringway::proto::tunnel::KeyUsage {
        bytes: 1000,
        ..Default::default()
    };
    pair.ends[1]
        .tunnel
        .handle_command(now, Command::Usage(usage));
    pair.run(30 * S);
    assert_eq!(pair.ends[0].generations, 2);
    assert_eq!(pair.ends[1].generations, 2);
}

#[test]
fn a_restarted_peer_takes_over_by_its_own_handshake() {
    for (restarted, role) in [(0, TlsRole::Server), (1, TlsRole::Client)] {
        let mut pair = Pair::new(9, CLEAN, wraps()[2].clone(), |_| {});
        pair.run(10 * S);
        pair.expect_up("before");
        let now = pair.now();
        let other = pair.ends[1 - restarted].address;
        let config = config(role, wraps()[2].clone(), Endpoint::new(other));
        let end = &mut pair.ends[restarted];
        end.tunnel = Tunnel::new(config, now, [7; 32]);
        end.installed.clear();
        end.sending = None;
        let lost_before = pair.data_lost;
        pair.run(20 * S);
        pair.expect_up("after");
        // The end that finishes first may send a little before the other has the key.
        assert!(
            pair.data_lost - lost_before <= 3,
            "{role:?}: {}",
            pair.data_lost - lost_before
        );
    }
}

#[test]
fn an_exit_over_the_control_channel_arrives() {
    let mut pair = Pair::new(3, CLEAN, WrapConfig::None, |_| {});
    pair.run(S);
    let now = pair.now();
    pair.ends[0].tunnel.handle_command(now, Command::NotifyExit);
    pair.run(2 * S);
    assert!(pair.ends[1].exited);
}

#[test]
fn a_stranger_changes_nothing() {
    let mut pair = Pair::new(4, CLEAN, wraps()[1].clone(), |_| {});
    pair.run(S);
    let generations = pair.ends[0].generations;
    let accepted = pair.ends[0].tunnel.counters().accepted;
    let mut rng = StdRng::seed_from_u64(8);
    for i in 0..5000u32 {
        let mut datagram: Vec<u8> = (0..rng.random_range(0..200))
            .map(|_| rng.random())
            .collect();
        if let Some(first) = datagram.first_mut() {
            *first = [0x20, 0x28, 0x38, 0x40, 0x18][i as usize % 5] | (*first & 7);
        }
        let from = pair.ends[1].address;
        let now = pair.now();
        pair.ends[0]
            .tunnel
            .handle_datagram(now, Endpoint::new(from), &mut datagram);
    }
    let counters = pair.ends[0].tunnel.counters();
    pair.run(5 * S);
    pair.expect_up("flood");
    assert_eq!(pair.ends[0].generations, generations);
    assert_eq!(counters.accepted, accepted);
    let dropped: u64 = counters.rows()[1..].iter().map(|(_, n)| n).sum();
    assert_eq!(dropped, 5000);
}
