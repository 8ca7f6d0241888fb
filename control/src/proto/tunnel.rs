//! One peer's control channel: its sessions, their negotiations, and what the data plane must do.
//!
//! ```text
//!   datagram -> session by sender's session id -> unwrap -> key state -> messages -> events
//!
//!   ACTIVE     the session in use
//!   UNTRUSTED  a session that somebody has begun; it replaces ACTIVE once its key message has
//!              arrived over its own TLS (protocol §2.3)
//! ```
//!
//! Input comes through [`Tunnel::handle_datagram`], [`Tunnel::handle_timeout`] and
//! [`Tunnel::handle_command`]; after every input drain [`Tunnel::poll_transmit`],
//! [`Tunnel::poll_event`] and then [`Tunnel::poll_timeout`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use ringway_dataplane::command::Endpoint;
use ringway_dataplane::key_slot::{DataFormat, DataKeys};

use super::data_keys::{DataKeyTable, KeyChange};
use super::key_derivation::{
    Key2, LABEL_DATA_KEYS, LABEL_DYNAMIC_TLS_CRYPT, LABEL_P2P_PEER_ID, prf_key2,
};
use super::key_state::{KeyError, OwnMessage, Phase, Settings};
use super::negotiate::{self, Negotiated, Preferences, Pushed};
use super::occ;
use super::packet::{Opcode, SessionId, peek};
use super::peer_info::PeerInfo;
use super::push::{ControlMessage, PushAssembler};
use super::session::Session;
use super::wrap::WrapConfig;
use super::{Now, TlsRole};
use crate::tls::TlsContext;

/// Largest AES-GCM usage, in 16-byte blocks plus packets, before a new key is asked for
/// (protocol §7.6).
const AEAD_SOFT_LIMIT: u64 = 60_129_542_137;
/// 32-bit packet id at which a new key is asked for (protocol §7.5).
const PACKET_ID_SOFT_LIMIT: u64 = 0xFF00_0000;
/// Epoch at which a new key is asked for (protocol §7.4).
const EPOCH_SOFT_LIMIT: u64 = 0xF000;
/// Failed decryptions under one key before a new one is asked for (protocol §2.5).
const AUTH_FAILURE_SOFT_LIMIT: u64 = 1 << 35;
/// Pause between PUSH_REQUESTs (protocol §2.7).
const PUSH_REQUEST_INTERVAL: Duration = Duration::from_secs(5);
/// First PUSH_REQUEST after the session is active (protocol §2.7).
const PUSH_REQUEST_DELAY: Duration = Duration::from_secs(1);

/// How the two ends relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Two equals, nothing pushed.
    PointToPoint,
    /// A client that asks its server for options (`pull`).
    Pull,
}

/// Everything the control channel needs to know of the configuration.
#[derive(Clone)]
pub struct TunnelConfig {
    /// TLS side.
    pub role: TlsRole,
    /// Push and pull, or neither.
    pub mode: Mode,
    /// `tls-auth`, `tls-crypt`, `tls-crypt-v2`.
    pub wrap: WrapConfig,
    /// Certificates and rules.
    pub tls: Arc<TlsContext>,
    /// The far end, if configured; a server may do without.
    pub remote: Option<Endpoint>,
    /// Take sessions from other addresses than `remote`.
    pub float: bool,
    /// Refuse new sessions once one has been set up.
    pub single_session: bool,
    /// Our options string (protocol §5.1).
    pub options: String,
    /// Compare it with the peer's and say what differs.
    pub compare_options: bool,
    /// Our peer info (protocol §5.2).
    pub peer_info: Option<String>,
    /// `auth-user-pass`
    pub username: Option<String>,
    /// `auth-user-pass`
    pub password: Option<String>,
    /// Data-channel wishes.
    pub preferences: Preferences,
    /// `tls-timeout`
    pub tls_timeout: Duration,
    /// `hand-window`
    pub hand_window: Duration,
    /// `tran-window`
    pub tran_window: Duration,
    /// `reneg-sec`; zero never renegotiates by time.
    pub reneg_sec: Duration,
    /// `reneg-bytes`; 0 is off.
    pub reneg_bytes: u64,
    /// `reneg-pkts`; 0 is off.
    pub reneg_pkts: u64,
    /// `max-packet-size`
    pub max_packet_size: usize,
}

/// Use of the current sending key, sampled from the data plane.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyUsage {
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes both ways.
    pub bytes: u64,
    /// Packets both ways.
    pub packets: u64,
    /// AEAD usage, blocks plus packets, the larger direction.
    pub aead: u64,
    /// Failed decryptions.
    pub auth_failures: u64,
    /// Sending epoch, 0 in the classic format.
    pub epoch: u64,
}

/// From the driver.
#[derive(Debug)]
pub enum Command {
    /// The pushed options have been applied; data keys can be made.
    Pulled(Pushed),
    /// Key usage, about once a second.
    Usage(KeyUsage),
    /// The data plane followed the peer to a new address.
    Floated(Endpoint),
    /// New credentials for the next negotiation (a pushed token, or a token that was refused).
    Credentials {
        /// User name.
        username: Option<String>,
        /// Password or token.
        password: Option<String>,
    },
    /// Begin a renegotiation now.
    Renegotiate,
    /// Tell the peer over the control channel that we leave, if that was negotiated.
    NotifyExit,
    /// A text for the server (`CR_RESPONSE,…`).
    SendMessage(String),
}

/// To the driver.
#[derive(Debug)]
pub enum Event {
    /// The handshake is done; who the peer is and how TLS went.
    Connected {
        /// Where the peer is.
        endpoint: Endpoint,
        /// The peer's common name.
        common_name: String,
        /// TLS version, suite and the like, for the log.
        tls: String,
    },
    /// What the ends agreed on; comes before the first key.
    Negotiated(Negotiated),
    /// Accept packets under this key.
    InstallKey(u8, Box<DataKeys>),
    /// Send with this key.
    UseKey(u8),
    /// Forget this key.
    RemoveKey(u8),
    /// The options the server pushed; answer with [`Command::Pulled`].
    PushReply(Vec<String>),
    /// A later, lone token (protocol §8.3).
    AuthToken(Vec<String>),
    /// Any other control message from the server.
    Message(ControlMessage),
    /// The peer leaves.
    PeerExit,
    /// The tunnel cannot go on: restart. The text is for the log, the reason for management.
    Failed {
        /// `tls-error`, `no-push-reply`, ...
        reason: &'static str,
        /// What happened.
        text: String,
    },
    /// A line for the log with its `verb` level.
    Log(u8, String),
}

/// Why control packets were dropped. Shown with the statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Control packets taken.
    pub accepted: u64,
    /// Too short, unknown opcode, or an opcode of the wrong role.
    pub malformed: u64,
    /// No session has this session id.
    pub unknown_session: u64,
    /// From an address that may not speak for the session.
    pub wrong_source: u64,
    /// The wrapping did not authenticate, or was replayed.
    pub unwrap_failed: u64,
    /// Not the key_id being negotiated.
    pub wrong_key_id: u64,
    /// The echoed session id is not ours.
    pub wrong_echo: u64,
    /// A reset that may not be taken (not id 0, `single-session`, or a server session in pull mode).
    pub refused_reset: u64,
}

impl Counters {
    /// Names and values, for statistics.
    pub fn rows(&self) -> [(&'static str, u64); 8] {
        [
            ("control-accepted", self.accepted),
            ("control-malformed", self.malformed),
            ("control-unknown-session", self.unknown_session),
            ("control-wrong-source", self.wrong_source),
            ("control-unwrap-failed", self.unwrap_failed),
            ("control-wrong-key-id", self.wrong_key_id),
            ("control-wrong-echo", self.wrong_echo),
            ("control-refused-reset", self.refused_reset),
        ]
    }
}

enum Slot {
    Active,
    Untrusted,
}

struct Pull {
    next_request: Option<Instant>,
    give_up: Option<Instant>,
    assembler: PushAssembler,
    /// PUSH_REPLY has been handed out.
    answered: bool,
}

/// One peer's control channel.
pub struct Tunnel {
    config: TunnelConfig,
    settings: Settings,
    own: OwnMessage,
    rng: StdRng,
    active: Session,
    untrusted: Session,
    keys: DataKeyTable,
    negotiated: Option<Negotiated>,
    pull: Pull,
    /// SHA-256 of the peer's certificate, fixed by the first negotiation of a session.
    peer_identity: Option<[u8; 32]>,
    usage: KeyUsage,
    reneg_at: Option<Instant>,
    events: VecDeque<Event>,
    /// Datagrams of sessions that are gone (alerts).
    farewell: VecDeque<(Endpoint, Vec<u8>)>,
    counters: Counters,
    last_rx: Instant,
    last_tx: Instant,
    failed: bool,
}

impl Tunnel {
    /// A tunnel that begins as soon as it knows where its peer is. `seed` feeds session ids and key
    /// randoms and must come from the operating system outside of tests.
    pub fn new(config: TunnelConfig, now: Now, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let settings = Settings {
            role: config.role,
            tls: config.tls.clone(),
            tls_timeout: config.tls_timeout,
            hand_window: config.hand_window,
            max_packet_size: config.max_packet_size,
        };
        let own = OwnMessage {
            options: config.options.clone(),
            username: config.username.clone(),
            password: config.password.clone(),
            peer_info: config.peer_info.clone(),
        };
        let mut active = Session::new(&config.wrap, &settings, &own, now, &mut rng);
        active.primary.endpoint = config.remote;
        let untrusted = Session::new(&config.wrap, &settings, &own, now, &mut rng);
        let mut tunnel = Tunnel {
            keys: DataKeyTable::new(config.tran_window),
            config,
            settings,
            own,
            rng,
            active,
            untrusted,
            negotiated: None,
            pull: Pull {
                next_request: None,
                give_up: None,
                assembler: PushAssembler::new(),
                answered: false,
            },
            peer_identity: None,
            usage: KeyUsage::default(),
            reneg_at: None,
            events: VecDeque::new(),
            farewell: VecDeque::new(),
            counters: Counters::default(),
            last_rx: now.instant,
            last_tx: now.instant,
            failed: false,
        };
        tunnel.process(now);
        tunnel
    }

    /// Takes a control datagram. Whatever is wrong with it is counted, never returned.
    pub fn handle_datagram(&mut self, now: Now, from: Endpoint, datagram: &mut [u8]) {
        if self.failed {
            return;
        }
        if self.accept(now, from, datagram) {
            self.counters.accepted += 1;
            self.last_rx = now.instant;
            self.process(now);
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Now) {
        if !self.failed {
            self.process(now);
        }
    }

    /// Takes a command from the driver.
    pub fn handle_command(&mut self, now: Now, command: Command) {
        if self.failed {
            return;
        }
        match command {
            Command::Pulled(pushed) => self.take_pulled(&pushed, now),
            Command::Usage(usage) => self.usage = usage,
            Command::Floated(endpoint) => self.active.primary.endpoint = Some(endpoint),
            Command::Credentials { username, password } => {
                self.own.username = username;
                self.own.password = password;
            }
            Command::Renegotiate => self.soft_reset(now),
            Command::NotifyExit => {
                if self.negotiated.as_ref().is_some_and(|n| n.cc_exit) {
                    self.send_message("EXIT");
                }
            }
            Command::SendMessage(text) => self.send_message(&text),
        }
        self.process(now);
    }

    /// Writes the next datagram into `out` (cleared first) and says where it goes.
    pub fn poll_transmit(&mut self, now: Now, out: &mut Vec<u8>) -> Option<Endpoint> {
        out.clear();
        if let Some((endpoint, datagram)) = self.farewell.pop_front() {
            out.extend_from_slice(&datagram);
            return Some(endpoint);
        }
        let endpoint = self
            .active
            .poll_transmit(now.instant, out)
            .or_else(|| self.untrusted.poll_transmit(now.instant, out))?;
        self.last_tx = now.instant;
        Some(endpoint)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) or [`poll_transmit`](Self::poll_transmit) is
    /// next due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.failed {
            return None;
        }
        [
            self.active.primary.deadline(),
            self.untrusted.primary.deadline(),
            self.keys.deadline(),
            self.reneg_at
                .filter(|_| self.active.primary.phase == Phase::Generated),
            self.pull.next_request,
            self.pull.give_up,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Dropped and accepted control packets.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// When the last valid control packet arrived.
    pub fn last_rx(&self) -> Instant {
        self.last_rx
    }

    /// When the last control packet left.
    pub fn last_tx(&self) -> Instant {
        self.last_tx
    }

    /// Everything we sent on the session in use has been acknowledged.
    pub fn all_acked(&self) -> bool {
        self.active.primary.all_acked()
    }

    /// What the ends agreed on, once they did.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_ref()
    }

    /// The certificates the peer showed, once TLS is up.
    pub fn tls(&self) -> Option<&crate::tls::TlsSession> {
        self.active.primary.tls()
    }

    // ---- receive -------------------------------------------------------------------------------

    fn accept(&mut self, now: Now, from: Endpoint, datagram: &mut [u8]) -> bool {
        let Some((opcode, key_id, sid)) = peek(datagram) else {
            self.counters.malformed += 1;
            return false;
        };
        if !self.opcode_fits(opcode) || sid.is_zero() {
            self.counters.malformed += 1;
            return false;
        }
        let slot = if self.active.primary.peer_sid == Some(sid) {
            Slot::Active
        } else if self.untrusted.primary.peer_sid == Some(sid) {
            Slot::Untrusted
        } else if opcode.is_hard_reset() {
            return self.accept_new_session(now, from, datagram, key_id, sid);
        } else {
            self.counters.unknown_session += 1;
            return false;
        };
        self.accept_known(now, slot, from, datagram, opcode, key_id)
    }

    fn opcode_fits(&self, opcode: Opcode) -> bool {
        match opcode {
            Opcode::SoftResetV1 | Opcode::ControlV1 | Opcode::AckV1 => true,
            Opcode::HardResetClientV2 => self.config.role == TlsRole::Server,
            Opcode::HardResetServerV2 => self.config.role == TlsRole::Client,
            Opcode::HardResetClientV3
            | Opcode::ControlWkcV1
            | Opcode::HardResetClientV1
            | Opcode::HardResetServerV1
            | Opcode::DataV1
            | Opcode::DataV2 => false,
        }
    }

    fn accept_new_session(
        &mut self,
        now: Now,
        from: Endpoint,
        datagram: &mut [u8],
        key_id: u8,
        sid: SessionId,
    ) -> bool {
        let first = self.active.primary.peer_sid.is_none();
        // A server never begins a session with a pulling client, and `single-session` allows one.
        if key_id != 0 || (!first && (self.config.mode == Mode::Pull || self.config.single_session))
        {
            self.counters.refused_reset += 1;
            return false;
        }
        let expected = self.config.remote.or(self.active.primary.endpoint);
        if !self.config.float && expected.is_some_and(|e| e.remote != from.remote) {
            self.counters.wrong_source += 1;
            return false;
        }
        let mut fresh = None;
        let session = if first {
            &mut self.active
        } else {
            // Built aside: nothing of a session in progress changes before the packet authenticates.
            fresh.insert(Session::new(
                &self.config.wrap,
                &self.settings,
                &self.own,
                now,
                &mut self.rng,
            ))
        };
        let Ok(packet) = session.wrap_for(0, now).unwrap(datagram) else {
            self.counters.unwrap_failed += 1;
            return false;
        };
        if packet.packet_id != Some(0) {
            self.counters.refused_reset += 1;
            return false;
        }
        if !packet.acks.is_empty() && packet.remote_session_id != Some(session.sid) {
            self.counters.wrong_echo += 1;
            return false;
        }
        session.primary.peer_sid = Some(sid);
        session.primary.endpoint = Some(from);
        session.primary.receive(&packet, now.instant);
        self.log(
            3,
            format!("TLS: Initial packet from {}, sid={sid:?}", from.remote),
        );
        if let Some(fresh) = fresh {
            self.untrusted = fresh;
        }
        true
    }

    fn accept_known(
        &mut self,
        now: Now,
        slot: Slot,
        from: Endpoint,
        datagram: &mut [u8],
        opcode: Opcode,
        key_id: u8,
    ) -> bool {
        let session = match slot {
            Slot::Active => &mut self.active,
            Slot::Untrusted => &mut self.untrusted,
        };
        let moved = session
            .primary
            .endpoint
            .is_some_and(|e| e.remote != from.remote);
        if moved && !self.config.float {
            self.counters.wrong_source += 1;
            return false;
        }
        let Ok(packet) = session.wrap_for(key_id, now).unwrap(datagram) else {
            self.counters.unwrap_failed += 1;
            return false;
        };
        if !packet.acks.is_empty() && packet.remote_session_id != Some(session.sid) {
            self.counters.wrong_echo += 1;
            return false;
        }
        if opcode.is_hard_reset() && packet.packet_id != Some(0) {
            self.counters.refused_reset += 1;
            return false;
        }
        let begins_rekey = opcode == Opcode::SoftResetV1
            && session.primary.phase == Phase::Generated
            && key_id == session.next_key_id;
        if begins_rekey {
            session.begin_key(&self.settings, &self.own, &mut self.rng);
            self.reneg_at = None;
        }
        if key_id != session.primary.key_id {
            self.counters.wrong_key_id += 1;
            return false;
        }
        session.primary.receive(&packet, now.instant);
        // Only a wrapped packet is authenticated; a bare one must not move the session.
        if moved && !matches!(self.config.wrap, WrapConfig::None) {
            session.primary.endpoint = Some(from);
        }
        if begins_rekey {
            self.keys.retire_sending(now.instant);
            self.log(
                3,
                "TLS: soft reset, renegotiation begun by the peer".to_owned(),
            );
        }
        true
    }

    // ---- progress ------------------------------------------------------------------------------

    fn process(&mut self, now: Now) {
        self.advance_untrusted(now);
        if self.failed {
            return;
        }
        let advanced = self.active.advance(now, &self.settings);
        let lines = self.active.primary.take_tls_log();
        self.log_all(1, lines);
        if let Err(error) = advanced {
            self.active_failed(&error, now);
            return;
        }
        self.rekey_if_due(now);
        if self.active.primary.phase == Phase::Active {
            self.session_active(now);
        }
        while let Some(text) = self.active.primary.poll_message() {
            self.take_message(&text, now);
        }
        self.push_request(now);
        for change in self.keys.poll(now.instant) {
            self.events.push_back(match change {
                KeyChange::Use(key_id) => Event::UseKey(key_id),
                KeyChange::Remove(key_id) => Event::RemoveKey(key_id),
            });
        }
        // Messages queued above must leave with this input, not with the next one.
        if !self.failed
            && let Err(error) = self.active.advance(now, &self.settings)
        {
            self.active_failed(&error, now);
        }
    }

    fn advance_untrusted(&mut self, now: Now) {
        if self.untrusted.primary.peer_sid.is_none() {
            return;
        }
        let advanced = self.untrusted.advance(now, &self.settings);
        let lines = self.untrusted.primary.take_tls_log();
        self.log_all(1, lines);
        if let Err(error) = advanced {
            self.log(1, format!("TLS Error: new session: {error}"));
            self.say_farewell(Slot::Untrusted, now);
            self.untrusted = self.new_session(now);
            return;
        }
        if self.untrusted.primary.peer_message.is_some() {
            self.log(2, "TLS: new session replaces the old one".to_owned());
            let fresh = self.new_session(now);
            self.active = std::mem::replace(&mut self.untrusted, fresh);
            self.reneg_at = None;
            self.peer_identity = None;
            if self.config.mode == Mode::PointToPoint {
                self.negotiated = None;
            }
        }
    }

    fn active_failed(&mut self, error: &KeyError, now: Now) {
        self.log(1, format!("TLS Error: {error}"));
        let endpoint = self.active.primary.endpoint;
        self.say_farewell(Slot::Active, now);
        if self.keys.any_alive() && !self.config.single_session {
            // The old key still carries data: try again with a session of its own.
            self.keys.keep_until_dead(now.instant);
            self.active = self.new_session(now);
            self.active.primary.endpoint = endpoint;
            self.reneg_at = None;
            return;
        }
        self.fail("tls-error", error.to_string());
    }

    fn say_farewell(&mut self, slot: Slot, now: Now) {
        let session = match slot {
            Slot::Active => &mut self.active,
            Slot::Untrusted => &mut self.untrusted,
        };
        session.flush_alert(&self.settings);
        let mut datagram = Vec::new();
        while let Some(endpoint) = session.poll_transmit(now.instant, &mut datagram) {
            self.farewell
                .push_back((endpoint, std::mem::take(&mut datagram)));
        }
    }

    fn fail(&mut self, reason: &'static str, text: String) {
        self.failed = true;
        self.events.push_back(Event::Failed { reason, text });
    }

    fn session_active(&mut self, now: Now) {
        if !self.check_identity() {
            self.fail(
                "tls-error",
                "the peer's certificate changed during the session".into(),
            );
            return;
        }
        match self.config.mode {
            Mode::PointToPoint => {
                if self.negotiated.is_none() {
                    match self.negotiate_point_to_point() {
                        Ok(negotiated) => self.set_negotiated(negotiated),
                        Err(text) => return self.fail("cipher-negotiation", text),
                    }
                }
                self.generate(now);
            }
            Mode::Pull if self.negotiated.is_some() => self.generate(now),
            Mode::Pull => self.begin_pull(now),
        }
    }

    /// Remembers the first certificate; a later negotiation must show the same. Logs the first.
    fn check_identity(&mut self) -> bool {
        let primary = &self.active.primary;
        let Some(peer) = primary.tls().and_then(|t| t.peer()) else {
            return true;
        };
        let identity = peer.sha256;
        match self.peer_identity {
            Some(known) => known == identity,
            None => {
                self.peer_identity = Some(identity);
                let connected = Event::Connected {
                    endpoint: match primary.endpoint {
                        Some(e) => e,
                        None => return false,
                    },
                    common_name: peer.common_name.clone(),
                    tls: primary.tls().map(|t| t.description()).unwrap_or_default(),
                };
                self.compare_options();
                self.events.push_back(connected);
                true
            }
        }
    }

    fn compare_options(&mut self) {
        if !self.config.compare_options {
            return;
        }
        let Some(message) = &self.active.primary.peer_message else {
            return;
        };
        for line in occ::compare(&self.own.options, &message.options) {
            self.events
                .push_back(Event::Log(4, format!("WARNING: {line}")));
        }
    }

    fn negotiate_point_to_point(&self) -> Result<Negotiated, String> {
        let primary = &self.active.primary;
        let info = primary
            .peer_message
            .as_ref()
            .and_then(|m| m.peer_info.as_deref());
        let peer = PeerInfo::parse(info.unwrap_or_default());
        let mut id = [0u8; 3];
        let exported = primary
            .tls()
            .and_then(|tls| tls.export(LABEL_P2P_PEER_ID, &mut id).ok())
            .map(|()| u32::from_be_bytes([0, id[0], id[1], id[2]]));
        negotiate::point_to_point(&self.config.preferences, self.config.role, &peer, exported)
    }

    fn set_negotiated(&mut self, negotiated: Negotiated) {
        self.events.push_back(Event::Negotiated(negotiated.clone()));
        self.negotiated = Some(negotiated);
    }

    /// Makes the data keys of the active negotiation.
    fn generate(&mut self, now: Now) {
        let Some(negotiated) = self.negotiated.clone() else {
            return;
        };
        let key2 = match self.derive(&negotiated) {
            Ok(key2) => key2,
            Err(text) => return self.fail("key-derivation", text),
        };
        if negotiated.dyn_tls_crypt
            && let Err(text) =
                self.active
                    .enable_dynamic(LABEL_DYNAMIC_TLS_CRYPT, &self.config, now)
        {
            return self.fail("key-derivation", text);
        }
        let keys = key2.data_keys(
            self.config.role,
            negotiated.cipher,
            negotiated.digest,
            negotiated.format,
        );
        let primary = &mut self.active.primary;
        primary.mark_generated();
        let key_id = primary.key_id;
        let started = primary.started.unwrap_or(now.instant);
        let tls = primary.tls().map(|t| t.description()).unwrap_or_default();
        if key_id > 0 {
            self.log(3, format!("TLS: renegotiated, key_id={key_id}: {tls}"));
        }
        // The peer may install its keys a little later than we do (protocol §2.6).
        let wait = self.config.hand_window.min(match self.config.reneg_sec {
            Duration::ZERO => self.config.hand_window,
            reneg => reneg / 2,
        });
        self.events
            .push_back(Event::InstallKey(key_id, Box::new(keys)));
        self.keys
            .installed(key_id, key_id == 0, started, wait, now.instant);
        self.usage = KeyUsage::default();
        self.reneg_at =
            (!self.config.reneg_sec.is_zero()).then(|| now.instant + self.config.reneg_sec);
    }

    fn derive(&self, negotiated: &Negotiated) -> Result<Key2, String> {
        let primary = &self.active.primary;
        let tls = primary.tls().ok_or("no TLS session")?;
        if negotiated.ekm {
            let mut exported = [0u8; 256];
            tls.export(LABEL_DATA_KEYS, &mut exported)
                .map_err(|e| e.to_string())?;
            return Ok(Key2::from_exporter(exported));
        }
        let peer_sid = primary.peer_sid.ok_or("no peer session id")?;
        let message = primary.peer_message.as_ref().ok_or("no key message")?;
        let peer = message.key_source();
        let own = &primary.own_source;
        let key2 = match self.config.role {
            TlsRole::Client => prf_key2(own, &peer, self.active.sid, peer_sid),
            TlsRole::Server => prf_key2(&peer, own, peer_sid, self.active.sid),
        };
        if key2.is_usable() {
            Ok(key2)
        } else {
            Err("derived an all-zero key".into())
        }
    }

    // ---- rekey ---------------------------------------------------------------------------------

    fn rekey_if_due(&mut self, now: Now) {
        if self.active.primary.phase != Phase::Generated {
            return;
        }
        let by_time = self.reneg_at.is_some_and(|at| now.instant >= at);
        if by_time || self.usage_over_limit() {
            self.soft_reset(now);
        }
    }

    fn usage_over_limit(&self) -> bool {
        // The sample belongs to the sending key; while an older one still sends, a rekey is under way.
        if self.keys.sending() != Some(self.active.primary.key_id) {
            return false;
        }
        let u = &self.usage;
        let Some(negotiated) = &self.negotiated else {
            return false;
        };
        let over = |limit: u64, value: u64| limit > 0 && value >= limit;
        let aes_gcm = negotiated.cipher.is_aead() && negotiated.cipher.name().starts_with("AES");
        over(self.config.reneg_bytes, u.bytes)
            || over(self.config.reneg_pkts, u.packets)
            || u.auth_failures > AUTH_FAILURE_SOFT_LIMIT
            || match negotiated.format {
                DataFormat::Epoch => u.epoch >= EPOCH_SOFT_LIMIT,
                DataFormat::Classic => {
                    u.tx_packets >= PACKET_ID_SOFT_LIMIT || (aes_gcm && u.aead >= AEAD_SOFT_LIMIT)
                }
            }
    }

    fn soft_reset(&mut self, now: Now) {
        if self.active.primary.phase != Phase::Generated {
            return;
        }
        self.log(3, "TLS: soft reset, renegotiation begun".to_owned());
        self.active
            .begin_key(&self.settings, &self.own, &mut self.rng);
        self.keys.retire_sending(now.instant);
        self.reneg_at = None;
        self.usage = KeyUsage::default();
        if let Err(error) = self.active.advance(now, &self.settings) {
            self.active_failed(&error, now);
        }
    }

    // ---- push and messages ---------------------------------------------------------------------

    fn begin_pull(&mut self, now: Now) {
        if self.pull.answered || self.pull.give_up.is_some() {
            return;
        }
        self.pull.next_request = Some(now.instant + PUSH_REQUEST_DELAY);
        self.pull.give_up = Some(now.instant + self.config.hand_window);
    }

    fn push_request(&mut self, now: Now) {
        if self.pull.give_up.is_some_and(|t| now.instant >= t) {
            self.fail(
                "no-push-reply",
                "no PUSH_REPLY from the server; restarting".into(),
            );
            return;
        }
        if self.pull.next_request.is_some_and(|t| now.instant >= t) {
            self.log(3, "SENT CONTROL: 'PUSH_REQUEST'".to_owned());
            self.send_message("PUSH_REQUEST");
            self.pull.next_request = Some(now.instant + PUSH_REQUEST_INTERVAL);
        }
    }

    fn take_message(&mut self, text: &str, now: Now) {
        let message = ControlMessage::parse(text);
        if matches!(message, ControlMessage::Exit) {
            self.events.push_back(Event::PeerExit);
            return;
        }
        if self.config.mode == Mode::PointToPoint {
            self.log(3, format!("ignoring control message {message:?}"));
            return;
        }
        match message {
            ControlMessage::PushReply(options) => self.take_push_reply(options),
            ControlMessage::AuthPending { timeout } => {
                let most = (self.config.reneg_sec / 2).max(self.config.hand_window);
                let asked = timeout.map(|t| Duration::from_secs(t.into()));
                let wait = asked.map_or(self.config.hand_window, |t| most.min(t));
                if self.pull.give_up.is_some() {
                    self.pull.give_up = Some(now.instant + wait);
                }
                self.events
                    .push_back(Event::Message(ControlMessage::AuthPending { timeout }));
            }
            other => self.events.push_back(Event::Message(other)),
        }
    }

    fn take_push_reply(&mut self, options: Vec<String>) {
        match self.pull.assembler.add(options) {
            Ok(None) => {}
            Ok(Some(options)) if self.pull.answered => {
                self.events.push_back(Event::AuthToken(options));
            }
            Ok(Some(options)) => {
                self.pull.answered = true;
                self.pull.next_request = None;
                self.pull.give_up = None;
                self.events.push_back(Event::PushReply(options));
            }
            Err(text) => self.fail("push-reply", text.to_string()),
        }
    }

    fn take_pulled(&mut self, pushed: &Pushed, now: Now) {
        let message = self.active.primary.peer_message.as_ref();
        let occ_cipher = message.and_then(|m| occ::extract(&m.options).cipher);
        match negotiate::pulled(&self.config.preferences, pushed, occ_cipher.as_deref()) {
            Ok(negotiated) => self.set_negotiated(negotiated),
            Err(text) => return self.fail("cipher-negotiation", text),
        }
        if self.active.primary.phase == Phase::Active {
            self.generate(now);
        }
    }

    fn send_message(&mut self, text: &str) {
        if self.active.primary.phase >= Phase::Active
            && let Err(error) = self.active.primary.send_message(text)
        {
            self.log(1, format!("cannot send control message: {error}"));
        }
    }

    // ---- helpers -------------------------------------------------------------------------------

    fn new_session(&mut self, now: Now) -> Session {
        Session::new(
            &self.config.wrap,
            &self.settings,
            &self.own,
            now,
            &mut self.rng,
        )
    }

    fn log_all(&mut self, verb: u8, lines: Vec<String>) {
        self.events
            .extend(lines.into_iter().map(|text| Event::Log(verb, text)));
    }

    fn log(&mut self, verb: u8, text: String) {
        self.events.push_back(Event::Log(verb, text));
    }
}
