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

mod keys;
mod pull;
mod receive;
mod serve;
mod types;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use ringway_dataplane::command::Endpoint;
use zeroize::Zeroizing;

pub use self::serve::{AuthRequest, Serve};
use self::serve::{Client, Closing};
pub use self::types::{Command, Counters, Event, KeyUsage, Mode, Transport, TunnelConfig};
use super::Now;
use super::acceptor::Accepted;
use super::data_keys::{DataKeyTable, KeyChange};
use super::key_state::{KeyError, OwnMessage, Phase, Settings};
use super::negotiate::Negotiated;
use super::push::{ControlMessage, PushAssembler};
use super::session::{Session, Wrapping};
use super::wrap::WrapConfig;

/// After a new key has begun to send, samples of its use may still be of the old one.
const USAGE_SETTLES: Duration = Duration::from_secs(2);
/// Pause before the next try after a renegotiation was refused.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
enum Slot {
    Active,
    Untrusted,
}

struct Pull {
    next_request: Option<Instant>,
    give_up: Option<Instant>,
    assembler: PushAssembler,
    /// Parts of a PUSH_UPDATE.
    updates: PushAssembler,
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
    untrusted: Option<Box<Session>>,
    /// When to call the peer again after a failure, and where.
    retry: Option<(Instant, Endpoint)>,
    /// Data keys have been in use.
    established: bool,
    keys: DataKeyTable,
    negotiated: Option<Negotiated>,
    pull: Pull,
    /// In server mode: the client.
    client: Option<Box<Client>>,
    /// The tunnel is about to end.
    closing: Option<Box<Closing>>,
    /// A connection on which nothing has come yet ends then.
    silent_until: Option<Instant>,
    /// SHA-256 of the peer's certificate, fixed by the first negotiation of a session.
    /// Inner `None`: it showed none.
    peer_identity: Option<Option<[u8; 32]>>,
    usage: KeyUsage,
    usage_counts_from: Instant,
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
        let wrapping = Wrapping::new(&config.wrap, config.role, now);
        let mut tunnel = Self::idle(config, wrapping, now, seed);
        tunnel.active.primary.endpoint = tunnel.config.remote;
        tunnel.process(now);
        tunnel
    }

    /// A server's end for a client that the [`Acceptor`](super::acceptor::Acceptor) has accepted.
    /// `config` is for [`Mode::Server`]; `config.remote` is set to `endpoint`, which is where the
    /// packet came from.
    pub fn accept(
        config: TunnelConfig,
        accepted: &Accepted,
        endpoint: Endpoint,
        now: Now,
        seed: [u8; 32],
    ) -> Self {
        let mut wrapping = Wrapping::new(&accepted.wrap, config.role, now);
        if let Some(id) = accepted.replay_id {
            wrapping.wrap.mark_seen(id);
        }
        if accepted.cookie.is_some() {
            wrapping.wrap = wrapping.wrap.continue_after(1);
        }
        let mut tunnel = Self::idle(config, wrapping, now, seed);
        tunnel.config.remote = Some(endpoint);
        tunnel.client = Some(Box::new(Client::new()));
        let (session, sid) = (&mut tunnel.active, accepted.client_sid);
        match accepted.cookie {
            Some(cookie) => {
                session.sid = cookie;
                let key = &mut session.primary;
                key.begin_answered(sid, endpoint, now.instant, &tunnel.settings);
            }
            None => session.primary.begin_with(sid, endpoint),
        }
        session
            .primary
            .receive(&accepted.packet.as_packet(), now.instant);
        tunnel.counters.accepted += 1;
        if let Some(metadata) = &accepted.metadata {
            tunnel.push(Event::ClientKey(metadata.clone()));
        }
        tunnel.process(now);
        tunnel
    }

    /// A server's end of a TCP connection that a client has just made. It says nothing before the
    /// client does, and ends after `hand-window` if it never does. `config` is for [`Mode::Server`].
    pub fn listen(config: TunnelConfig, endpoint: Endpoint, now: Now, seed: [u8; 32]) -> Self {
        let wrapping = Wrapping::new(&WrapConfig::None, config.role, now);
        let mut tunnel = Self::idle(config, wrapping, now, seed);
        tunnel.silent_until = Some(now.instant + tunnel.config.hand_window);
        tunnel.config.remote = Some(endpoint);
        tunnel.client = Some(Box::new(Client::new()));
        tunnel
    }

    /// A tunnel that has done nothing yet.
    fn idle(mut config: TunnelConfig, wrapping: Wrapping, now: Now, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let settings = Settings {
            role: config.role,
            tls: config.tls.clone(),
            tls_timeout: config.tls_timeout,
            hand_window: config.hand_window,
            max_packet_size: config.max_packet_size,
            transport: config.transport,
        };
        let own = OwnMessage {
            options: config.options.clone(),
            username: config.username.take().map(Zeroizing::new),
            password: config.password.take().map(Zeroizing::new),
            peer_info: config.peer_info.clone(),
        };
        let active = Session::new(wrapping, &settings, &own, &mut rng);
        Tunnel {
            keys: DataKeyTable::new(config.tran_window),
            config,
            settings,
            own,
            rng,
            active,
            untrusted: None,
            retry: None,
            established: false,
            negotiated: None,
            pull: Pull {
                next_request: None,
                give_up: None,
                assembler: PushAssembler::new(),
                updates: PushAssembler::new(),
                answered: false,
            },
            client: None,
            closing: None,
            silent_until: None,
            peer_identity: None,
            usage: KeyUsage::default(),
            usage_counts_from: now.instant,
            reneg_at: None,
            events: VecDeque::new(),
            farewell: VecDeque::new(),
            counters: Counters::default(),
            last_rx: now.instant,
            last_tx: now.instant,
            failed: false,
        }
    }

    /// Takes a control datagram. Whatever is wrong with it is counted, never returned.
    pub fn handle_datagram(&mut self, now: Now, from: Endpoint, datagram: &mut [u8]) {
        if self.failed {
            return;
        }
        if let Some(slot) = self.take_datagram(now, from, datagram) {
            self.counters.accepted += 1;
            self.silent_until = None;
            // A bare packet of a session that is not in use is no sign of life of the peer.
            if matches!(slot, Slot::Active) || self.active.is_wrapped() {
                self.last_rx = now.instant;
            }
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
            Command::Usage(usage) => {
                if now.instant >= self.usage_counts_from {
                    self.usage = usage;
                }
            }
            Command::Floated(endpoint) => {
                self.active.primary.endpoint = Some(endpoint);
                if self.config.mode == Mode::Server {
                    self.config.remote = Some(endpoint);
                }
            }
            Command::Credentials { username, password } => {
                self.own.username = username.map(Zeroizing::new);
                self.own.password = password.map(Zeroizing::new);
            }
            Command::Renegotiate => self.soft_reset(now),
            Command::NotifyExit => {
                if self.negotiated.as_ref().is_some_and(|n| n.cc_exit) {
                    self.send_message("EXIT");
                }
            }
            Command::SendMessage(text) => self.send_message(&text),
            Command::Authenticated { request } => self.admit(request, now),
            Command::AuthFailed { request, reason } => self.deny(request, reason, now),
            Command::AuthPending { timeout, messages } => {
                self.keep_waiting(timeout, &messages, now);
            }
            Command::Serve(serve) => self.serve(&serve, now),
            Command::Refuse(reason) => {
                self.dismiss(reason, "the client was refused".to_owned(), now);
            }
            Command::PushToken(lines) => self.push_token(&lines),
            Command::PushUpdate(lines) => self.push_update(&lines),
            Command::Restart { next_remote, text } => self.say_last(
                &ControlMessage::Restart {
                    next_remote,
                    keep_credentials: false,
                    text,
                }
                .to_string(),
                "server-pushed-connection-reset",
                "the client was told to connect again".to_owned(),
                now,
            ),
            Command::Halt { text } => self.say_last(
                &ControlMessage::Halt { text }.to_string(),
                "server-pushed-halt",
                "the client was told to stop".to_owned(),
                now,
            ),
        }
        self.process(now);
    }

    /// Writes the next datagram into `out` (cleared first) and says where it goes.
    pub fn poll_transmit(&mut self, now: Now, out: &mut Vec<u8>) -> Option<Endpoint> {
        out.clear();
        if let Some((endpoint, datagram)) = self.farewell.pop_front() {
            out.extend_from_slice(&datagram);
            self.last_tx = now.instant;
            return Some(endpoint);
        }
        if self.failed {
            return None;
        }
        let endpoint = self.active.poll_transmit(now.instant, out).or_else(|| {
            let untrusted = self.untrusted.as_mut()?;
            untrusted.poll_transmit(now.instant, out)
        })?;
        self.last_tx = now.instant;
        Some(endpoint)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if event.is_none() {
            // Thousands of tunnels are silent most of the time.
            self.events = VecDeque::new();
        }
        event
    }

    /// When [`handle_timeout`](Self::handle_timeout) or [`poll_transmit`](Self::poll_transmit) is
    /// next due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.failed {
            return None;
        }
        [
            self.active.primary.deadline(),
            self.untrusted.as_ref().and_then(|s| s.primary.deadline()),
            self.retry.map(|(at, _)| at),
            self.keys.deadline(),
            // As in `rekey_if_due`: what is not done when it is due must not be due.
            self.reneg_at.filter(|_| self.may_rekey()),
            self.pull.next_request,
            self.pull.give_up,
            self.silent_until,
            self.client.as_ref().and_then(|c| c.deadline()),
            self.closing.as_ref().and_then(|c| c.deadline()),
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
        self.active.primary.all_acked() && !self.active.primary.has_waiting()
    }

    /// Bytes held in queues because of what peers sent or did not acknowledge; bounded.
    pub fn retained(&self) -> usize {
        let sessions = [Some(&self.active), self.untrusted.as_deref()];
        let farewell: usize = self.farewell.iter().map(|(_, d)| d.len()).sum();
        let held = sessions.into_iter().flatten().map(|s| s.primary.retained());
        farewell + held.sum::<usize>()
    }

    /// What the ends agreed on, once they did.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_ref()
    }

    /// The certificates the peer showed, once TLS is up.
    pub fn tls(&self) -> Option<&crate::tls::TlsSession> {
        self.active.primary.tls()
    }

    // ---- progress ------------------------------------------------------------------------------

    fn process(&mut self, now: Now) {
        self.call_again(now);
        self.advance_untrusted(now);
        self.advance_active(now);
        self.request_admission(now);
        self.rekey_if_due(now);
        self.session_progress(now);
        while !self.failed
            && let Some(text) = self.active.primary.poll_message()
        {
            self.take_message(&text, now);
        }
        self.push_request(now);
        self.serve_progress(now);
        if self.failed {
            return;
        }
        for change in self.keys.poll(now.instant) {
            let event = match change {
                KeyChange::Use(key_id) => {
                    self.usage = KeyUsage::default();
                    self.usage_counts_from = now.instant + USAGE_SETTLES;
                    Event::UseKey(key_id)
                }
                KeyChange::Remove(key_id) => Event::RemoveKey(key_id),
            };
            self.push(event);
        }
        self.end_if_silent(now);
        // Messages queued above must leave with this input, not with the next one.
        self.advance_active(now);
    }

    /// Begins the session that had to wait after a failure.
    fn call_again(&mut self, now: Now) {
        if let Some((at, endpoint)) = self.retry
            && now.instant >= at
        {
            self.retry = None;
            self.active.primary.endpoint.get_or_insert(endpoint);
        }
    }

    fn advance_active(&mut self, now: Now) {
        // What takes the place of a failed session has to begin at once.
        for _ in 0..2 {
            if self.failed {
                return;
            }
            let advanced = self.active.advance(now, &self.settings);
            self.log_tls(Slot::Active);
            match advanced {
                Ok(()) => return,
                Err(error) => self.active_failed(&error, now),
            }
        }
    }

    fn advance_untrusted(&mut self, now: Now) {
        let Some(untrusted) = &mut self.untrusted else {
            return;
        };
        let advanced = untrusted.advance(now, &self.settings);
        let introduced = untrusted.primary.peer_message.is_some();
        self.log_tls(Slot::Untrusted);
        if let Err(error) = advanced {
            self.log(1, format!("TLS Error: new session: {error}"));
            self.say_farewell(Slot::Untrusted, now);
            self.untrusted = None;
        } else if introduced && let Some(untrusted) = self.untrusted.take() {
            if self.is_another_client(&untrusted) {
                self.log(
                    1,
                    "TLS Error: new session: it is of another client".to_owned(),
                );
                return;
            }
            self.log(2, "TLS: new session replaces the old one".to_owned());
            self.replace_active(*untrusted);
        }
    }

    /// A session of its own takes over; what was agreed on before counts no longer.
    fn replace_active(&mut self, mut session: Session) {
        let metadata = session.metadata.take();
        self.active = session;
        self.reneg_at = None;
        self.retry = None;
        if self.config.mode == Mode::PointToPoint {
            self.peer_identity = None;
            self.negotiated = None;
        }
        if let Some(client) = &mut self.client {
            client.begin_again();
            self.negotiated = None;
        }
        if let Some(metadata) = metadata {
            self.push(Event::ClientKey(metadata));
        }
    }

    fn active_failed(&mut self, error: &KeyError, now: Now) {
        self.log(1, format!("TLS Error: {error}"));
        if self.closing.is_some() {
            return self.close_now();
        }
        let endpoint = self.active.primary.endpoint;
        let nobody = self.active.primary.is_unanswered();
        self.say_farewell(Slot::Active, now);
        let carries_data = self.keys.any_alive();
        self.keys.keep_until_dead(now.instant);
        let proven = |s: &mut Box<Session>| s.primary.phase >= Phase::Start;
        if let Some(untrusted) = self.untrusted.take_if(proven) {
            // The peer is already on its way with a session of its own.
            self.replace_active(*untrusted);
            return;
        }
        if carries_data && !self.config.single_session {
            // The old key still carries data: try again with a session of its own.
            let fresh = self.new_session(now);
            self.replace_active(fresh);
            if self.config.mode == Mode::Server {
                // It is for the client to call.
                return;
            }
            let pause = match error {
                KeyError::HandWindow(_) => Duration::ZERO,
                KeyError::Tls(_) | KeyError::Peer(_) => RETRY_PAUSE,
            };
            self.retry = endpoint.map(|e| (now.instant + pause, e));
            self.call_again(now);
            return;
        }
        if nobody && self.config.remote.is_none() && !self.established {
            // Somebody knocked and went away: wait for the next.
            let fresh = self.new_session(now);
            self.replace_active(fresh);
            return;
        }
        self.fail("tls-error", error.to_string());
    }

    fn say_farewell(&mut self, slot: Slot, now: Now) {
        let session = match (slot, &mut self.untrusted) {
            (Slot::Untrusted, Some(untrusted)) => untrusted,
            _ => &mut self.active,
        };
        session.flush_alert(&self.settings);
        let mut datagram = Vec::new();
        while let Some(endpoint) = session.poll_transmit(now.instant, &mut datagram) {
            self.farewell
                .push_back((endpoint, std::mem::take(&mut datagram)));
        }
    }

    fn fail(&mut self, reason: &'static str, text: String) {
        self.push(Event::Failed { reason, text });
        self.failed = true;
    }

    // ---- helpers -------------------------------------------------------------------------------

    fn new_session(&mut self, now: Now) -> Session {
        // A server's client brings its wrapping.
        let config = match self.config.mode {
            Mode::Server => &WrapConfig::None,
            Mode::PointToPoint | Mode::Pull => &self.config.wrap,
        };
        let wrapping = Wrapping::new(config, self.config.role, now);
        Session::new(wrapping, &self.settings, &self.own, &mut self.rng)
    }

    /// Nothing has ever come on this connection, or nobody is left who could use it.
    fn end_if_silent(&mut self, now: Now) {
        if self.silent_until.is_some_and(|at| now.instant >= at) {
            self.fail("tls-error", "the client has said nothing".to_owned());
        }
        let waits = self.client.is_some() && self.active.primary.phase == Phase::Initial;
        if waits && self.established && !self.keys.any_alive() && self.untrusted.is_none() {
            self.fail(
                "tls-error",
                "the last key of the client has expired".to_owned(),
            );
        }
    }

    fn log_tls(&mut self, slot: Slot) {
        let session = match (slot, &mut self.untrusted) {
            (Slot::Untrusted, Some(untrusted)) => untrusted,
            _ => &mut self.active,
        };
        for line in session.primary.take_log() {
            self.log(1, line);
        }
    }

    fn log(&mut self, verb: u8, text: String) {
        self.push(Event::Log(verb, text));
    }

    /// Nothing follows a failure.
    fn push(&mut self, event: Event) {
        if !self.failed {
            self.events.push_back(event);
        }
    }
}
