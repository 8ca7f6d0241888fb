//! One key negotiation: its reliability windows, its TLS session and its key-method-2 messages.
//!
//! ```text
//!            own reset acked          TLS up, message written       peer's message read    all acked
//!  Initial -> PreStart -> Start -> SentKey (client) / GotKey (server) -> GotKey / SentKey -> Active
//! ```
//!
//! A [`KeyState`] never leaves `Active` by itself: whether data keys may be made is the tunnel's
//! decision (protocol §2.3), which it records with [`KeyState::mark_generated`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringway_dataplane::command::Endpoint;

use zeroize::{Zeroize as _, Zeroizing};

use super::error::KeyMessageError;
use super::key_derivation::KeySource;
use super::key_exchange::KeyMessage;
use super::packet::{ControlPacket, Opcode, SessionId, parse_early_negotiation};
use super::push::split_messages;
use super::reliable::{AckQueue, RecvOutcome, ReliableRecv, ReliableSend};
use super::tunnel::Transport;
use super::wrap::Wrap;
use super::{Now, TlsRole};
use crate::tls::{TlsContext, TlsSession};

/// Reliable packets in flight at once; what 2.4 and 2.5 peers can take (protocol §2.2).
const SEND_WINDOW: usize = 4;
/// Reliable packets buffered out of order (protocol §2.2).
const RECV_WINDOW: usize = 12;
/// Acks in a packet that also carries a payload (protocol §2.2).
const ACKS_WITH_PAYLOAD: usize = 4;
/// Acks in an ACK_V1 (protocol §2.2).
const ACKS_ALONE: usize = 8;
/// Plaintext held while a message is incomplete; a whole message fits into 2048 bytes (protocol §5),
/// a push bundle into 1024.
const MAX_PLAINTEXT: usize = 16 * 1024;
/// TLS bytes that wait for room in the send window. Our own handshake flight with a long certificate
/// chain fits many times; what else grows is caused by a peer that talks and never acknowledges.
const MAX_OUTGOING: usize = 256 * 1024;
/// Control messages that wait for a negotiation to end.
const MAX_WAITING_MESSAGES: usize = 16;

/// How far a negotiation has come, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Waiting for a peer address.
    Initial,
    /// Own reset is on its way.
    PreStart,
    /// TLS is running.
    Start,
    /// The first of the two key messages is done: ours as client, the peer's as server.
    HalfKeys,
    /// Both key messages are done; waiting for the last acks.
    BothKeys,
    /// Control messages may flow.
    Active,
    /// Data keys have been made.
    Generated,
}

/// Whether the peer may have a key: a server's question, asked of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Not asked yet.
    Open,
    /// Asked, and not answered.
    Asked,
    /// Yes.
    Granted,
    /// No.
    Refused,
}

/// Why a negotiation ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    /// `hand-window` ran out.
    #[error(
        "TLS key negotiation failed to occur within {0} seconds (check your network connectivity)"
    )]
    HandWindow(u64),
    /// TLS refused the peer, or the peer refused us.
    #[error("TLS handshake failed: {0}")]
    Tls(String),
    /// The peer's key message or control message cannot be used.
    #[error("{0}")]
    Peer(String),
}

/// What every negotiation of a tunnel needs to know.
pub(super) struct Settings {
    pub(super) role: TlsRole,
    pub(super) tls: Arc<TlsContext>,
    pub(super) tls_timeout: Duration,
    pub(super) hand_window: Duration,
    /// Largest control packet, outer headers included (`max-packet-size`).
    pub(super) max_packet_size: usize,
    pub(super) transport: Transport,
}

impl Settings {
    /// Bytes around a control packet on the way to this end: IP, and UDP or TCP with the length that
    /// frames a packet there.
    fn outer_headers(&self, endpoint: Option<Endpoint>) -> usize {
        let ip = match endpoint {
            Some(e) if e.remote.is_ipv6() => 40,
            _ => 20,
        };
        match self.transport {
            Transport::Udp => ip + 8,
            Transport::Tcp => ip + 20 + 2,
        }
    }
}

/// What we put into our key message; credentials may change between negotiations.
pub(super) struct OwnMessage {
    pub(super) options: String,
    pub(super) username: Option<Zeroizing<String>>,
    pub(super) password: Option<Zeroizing<String>>,
    pub(super) peer_info: Option<String>,
}

/// One negotiation.
pub(super) struct KeyState {
    pub(super) key_id: u8,
    pub(super) phase: Phase,
    pub(super) peer_sid: Option<SessionId>,
    pub(super) endpoint: Option<Endpoint>,
    /// When our reset was queued; the deferral of the new key counts from here (protocol §2.6).
    pub(super) started: Option<Instant>,
    /// The last packet of this negotiation that was accepted.
    pub(super) last_heard: Option<Instant>,
    /// The data keys have been made; peers may use them from now on.
    pub(super) keys_made: bool,
    /// In server mode no keys are made before this is granted.
    pub(super) admission: Admission,
    pub(super) own_source: KeySource,
    pub(super) peer_message: Option<KeyMessage>,
    /// The other end has begun this negotiation too (its reset arrived).
    pub(super) peer_started: bool,
    reset: Opcode,
    own_message: Vec<u8>,
    send: ReliableSend,
    recv: ReliableRecv,
    acks: AckQueue,
    tls: Option<TlsSession>,
    /// TLS bytes not yet cut into control packets.
    outgoing: Vec<u8>,
    plaintext: Vec<u8>,
    messages: VecDeque<String>,
    /// Control messages to be sent once that is possible.
    waiting: VecDeque<String>,
    next_is_wkc: bool,
    first_payload: bool,
    /// The next hard reset is to go without acks.
    bare_reset: bool,
    must_negotiate: Option<Instant>,
}

impl KeyState {
    pub(super) fn new(
        key_id: u8,
        reset: Opcode,
        settings: &Settings,
        own: &OwnMessage,
        own_source: KeySource,
    ) -> Self {
        let mut message = KeyMessage::new(&own_source, settings.role, own.options.clone());
        message.username = own.username.as_ref().map(|s| s.to_string());
        message.password = own.password.as_ref().map(|s| s.to_string());
        message.peer_info.clone_from(&own.peer_info);
        KeyState {
            key_id,
            phase: Phase::Initial,
            peer_sid: None,
            endpoint: None,
            started: None,
            last_heard: None,
            keys_made: false,
            admission: Admission::Open,
            own_message: message.encode(settings.role),
            own_source,
            peer_message: None,
            peer_started: false,
            reset,
            send: ReliableSend::new(SEND_WINDOW, settings.tls_timeout),
            recv: ReliableRecv::new(RECV_WINDOW),
            acks: AckQueue::new(),
            tls: None,
            outgoing: Vec::new(),
            plaintext: Vec::new(),
            messages: VecDeque::new(),
            waiting: VecDeque::new(),
            next_is_wkc: false,
            first_payload: true,
            bare_reset: false,
            must_negotiate: None,
        }
    }

    /// Takes an authenticated packet of this key_id: its acks, then its payload.
    pub(super) fn receive(&mut self, packet: &ControlPacket<'_>, now: Instant) {
        self.last_heard = Some(now);
        for &id in &packet.acks {
            self.send.ack(id);
        }
        let Some(id) = packet.packet_id else { return };
        match self.recv.receive(id, packet.payload) {
            RecvOutcome::Stored | RecvOutcome::Duplicate => self.acks.add(id),
            RecvOutcome::OutOfWindow => {}
        }
        if !self.peer_started && id == 0 {
            self.peer_started = true;
            // Our own reset may have left before the peer was listening.
            self.send.resend_all_now(now);
        }
    }

    /// Drives the negotiation as far as what has arrived allows.
    pub(super) fn advance(
        &mut self,
        now: Now,
        settings: &Settings,
        wrap: &Wrap,
    ) -> Result<(), KeyError> {
        if self.phase == Phase::Initial && self.endpoint.is_some() {
            self.send.push(self.reset, Vec::new());
            self.started = Some(now.instant);
            self.must_negotiate = Some(now.instant + settings.hand_window);
            self.phase = Phase::PreStart;
        }
        if self.phase == Phase::PreStart && self.send.is_empty() && self.peer_started {
            self.tls = Some(
                settings
                    .tls
                    .session()
                    .map_err(|e| KeyError::Tls(e.to_string()))?,
            );
            self.phase = Phase::Start;
        }
        if self.phase >= Phase::PreStart {
            self.feed_tls(wrap.wkc_len() > 0)?;
        }
        if self.phase >= Phase::Start {
            self.exchange_keys(settings.role)?;
            self.cut_into_packets(settings, wrap);
        }
        if self.phase == Phase::BothKeys && self.all_acked() {
            self.phase = Phase::Active;
        }
        if self.phase >= Phase::Active {
            while let Some(text) = self.waiting.pop_front() {
                self.write_message(&text)?;
            }
            self.cut_into_packets(settings, wrap);
        }
        if self.phase < Phase::Active
            && let Some(end) = self.must_negotiate
            && now.instant >= end
        {
            return Err(KeyError::HandWindow(settings.hand_window.as_secs()));
        }
        if self.phase >= Phase::Active {
            self.take_messages();
        }
        Ok(())
    }

    /// The data keys of this negotiation exist now.
    pub(super) fn mark_generated(&mut self) {
        self.phase = Phase::Generated;
    }

    /// Forgets what the data keys were derived from, and the peer's message.
    pub(super) fn forget_secrets(&mut self) {
        self.own_source.pre_master.zeroize();
        self.own_source.random1.zeroize();
        self.own_source.random2.zeroize();
        self.peer_message = None;
    }

    /// Gives back the room that only the handshake needed.
    pub(super) fn release_buffers(&mut self) {
        self.outgoing.shrink_to_fit();
        self.messages.shrink_to_fit();
        self.waiting.shrink_to_fit();
        if self.plaintext.is_empty() {
            self.plaintext = Vec::new();
        }
    }

    /// The peer has evidently received everything: it has moved on.
    pub(super) fn assume_delivered(&mut self) {
        if self.phase == Phase::BothKeys {
            self.phase = Phase::Active;
        }
    }

    /// Our reset is on its way and nobody has acknowledged it.
    pub(super) fn is_unanswered(&self) -> bool {
        self.phase == Phase::PreStart && !self.send.is_empty()
    }

    /// Takes another peer in place of one that never answered.
    pub(super) fn begin_with(&mut self, sid: SessionId, endpoint: Endpoint) {
        self.peer_sid = Some(sid);
        self.endpoint = Some(endpoint);
        self.peer_started = false;
        self.first_payload = true;
        self.next_is_wkc = false;
        self.recv = ReliableRecv::new(RECV_WINDOW);
        self.acks = AckQueue::new();
    }

    /// Goes on where a stateless answer has left off (protocol §3): both resets, packets 0, are done
    /// with.
    pub(super) fn begin_answered(
        &mut self,
        sid: SessionId,
        endpoint: Endpoint,
        now: Instant,
        settings: &Settings,
    ) {
        self.begin_with(sid, endpoint);
        self.peer_started = true;
        self.first_payload = false;
        self.started = Some(now);
        self.must_negotiate = Some(now + settings.hand_window);
        self.send = ReliableSend::starting_at(1, SEND_WINDOW, settings.tls_timeout);
        self.recv = ReliableRecv::starting_at(1, RECV_WINDOW);
        self.phase = Phase::PreStart;
    }

    /// Lines of TLS for the log since the last call.
    pub(super) fn take_log(&mut self) -> Vec<String> {
        self.tls
            .as_mut()
            .map(TlsSession::take_log)
            .unwrap_or_default()
    }

    /// A complete control message from the peer, in order.
    pub(super) fn poll_message(&mut self) -> Option<String> {
        self.messages.pop_front()
    }

    /// Sends a control message, or keeps it until that is possible.
    pub(super) fn send_message(&mut self, text: &str) -> Result<(), KeyError> {
        if self.phase >= Phase::Active {
            return self.write_message(text);
        }
        if self.waiting.len() < MAX_WAITING_MESSAGES {
            self.waiting.push_back(text.to_owned());
        }
        Ok(())
    }

    /// Queues a control message; one TLS record, NUL-terminated (protocol §8).
    fn write_message(&mut self, text: &str) -> Result<(), KeyError> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        let mut record = text.as_bytes().to_vec();
        record.push(0);
        tls.write_plaintext(&record)
            .map_err(|e| KeyError::Tls(e.to_string()))?;
        tls.read_ciphertext(&mut self.outgoing);
        Ok(())
    }

    /// Bytes and messages held for the peer or from it, without the fixed-size windows.
    pub(super) fn retained(&self) -> usize {
        let queued = self.messages.iter().chain(&self.waiting);
        self.outgoing.len() + self.plaintext.len() + queued.map(String::len).sum::<usize>()
    }

    /// A control message still waits for this negotiation to end.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Everything sent so far has been acknowledged.
    pub(super) fn all_acked(&self) -> bool {
        self.send.is_empty() && self.outgoing.is_empty()
    }

    /// The TLS session, once it exists.
    pub(super) fn tls(&self) -> Option<&TlsSession> {
        self.tls.as_ref()
    }

    /// Wraps the next packet that is due into `out`.
    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        sid: SessionId,
        wrap: &mut Wrap,
        out: &mut Vec<u8>,
    ) -> Option<Endpoint> {
        let endpoint = self.endpoint?;
        if let Some((opcode, id, payload)) = self.send.poll(now) {
            // Whoever spoke first need not be the peer, and the peer drops a packet that echoes
            // another's session id: every other call goes to whom it may concern.
            let bare = opcode.is_hard_reset() && self.reset != Opcode::HardResetServerV2 && {
                self.bare_reset = !self.bare_reset;
                !self.bare_reset
            };
            let acks = match self.peer_sid {
                Some(_) if !bare => self.acks.take(ACKS_WITH_PAYLOAD),
                _ => Default::default(),
            };
            let packet = ControlPacket {
                opcode,
                key_id: self.key_id,
                session_id: sid,
                remote_session_id: self.peer_sid.filter(|_| !acks.is_empty()),
                acks,
                packet_id: Some(id),
                payload,
            };
            wrap.wrap(&packet, out);
            return Some(endpoint);
        }
        if self.acks.has_pending() && self.peer_sid.is_some() {
            let packet = ControlPacket {
                opcode: Opcode::AckV1,
                key_id: self.key_id,
                session_id: sid,
                remote_session_id: self.peer_sid,
                acks: self.acks.take(ACKS_ALONE),
                packet_id: None,
                payload: &[],
            };
            wrap.wrap(&packet, out);
            return Some(endpoint);
        }
        None
    }

    /// When [`advance`](Self::advance) or [`poll_transmit`](Self::poll_transmit) is due without input.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let negotiate = self.must_negotiate.filter(|_| self.phase < Phase::Active);
        [
            negotiate,
            self.send.deadline().filter(|_| self.endpoint.is_some()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The pending TLS alert, cut into packets for one last transmission.
    pub(super) fn flush_alert(&mut self, settings: &Settings, wrap: &Wrap) {
        if let Some(tls) = &mut self.tls {
            tls.read_ciphertext(&mut self.outgoing);
        }
        self.cut_into_packets(settings, wrap);
    }

    fn feed_tls(&mut self, early_negotiation: bool) -> Result<(), KeyError> {
        // Before TLS exists only the reset itself (id 0) may be taken off the window.
        while self.first_payload || self.tls.is_some() {
            let Some(payload) = self.recv.next() else {
                break;
            };
            if self.first_payload {
                self.first_payload = false;
                // Nobody else may make us read a payload that need not be authenticated.
                if early_negotiation {
                    self.take_early_negotiation(&payload)?;
                }
                continue;
            }
            let Some(tls) = &mut self.tls else { break };
            let fed = tls
                .write_ciphertext(&payload)
                .map_err(|e| KeyError::Tls(e.to_string()));
            tls.read_ciphertext(&mut self.outgoing);
            fed?;
            tls.read_plaintext(&mut self.plaintext)
                .map_err(|e| KeyError::Tls(e.to_string()))?;
            // What is complete makes room for what is not.
            if self.phase >= Phase::Active {
                self.take_messages();
            }
            if self.plaintext.len() > MAX_PLAINTEXT {
                return Err(KeyError::Peer(
                    "the peer's control message is too long".into(),
                ));
            }
            if self.outgoing.len() > MAX_OUTGOING {
                return Err(KeyError::Peer("the peer acknowledges nothing".into()));
            }
        }
        Ok(())
    }

    fn take_early_negotiation(&mut self, payload: &[u8]) -> Result<(), KeyError> {
        if payload.is_empty() {
            return Ok(());
        }
        let flags = parse_early_negotiation(payload)
            .map_err(|e| KeyError::Peer(format!("malformed early negotiation: {e}")))?;
        self.next_is_wkc = flags.resend_wkc;
        Ok(())
    }

    fn exchange_keys(&mut self, role: TlsRole) -> Result<(), KeyError> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        if tls.is_handshaking() {
            tls.read_ciphertext(&mut self.outgoing);
            return Ok(());
        }
        let peer_role = match role {
            TlsRole::Client => TlsRole::Server,
            TlsRole::Server => TlsRole::Client,
        };
        let write_now = match role {
            TlsRole::Client => self.phase == Phase::Start,
            TlsRole::Server => self.phase == Phase::HalfKeys,
        };
        if write_now {
            self.write_own_message()?;
        }
        let read_now = match role {
            TlsRole::Client => self.phase == Phase::HalfKeys,
            TlsRole::Server => self.phase == Phase::Start,
        };
        if read_now && !self.plaintext.is_empty() {
            match KeyMessage::parse(peer_role, &self.plaintext) {
                Ok(message) => {
                    // The rest of the record is for later versions; nothing else can be here yet,
                    // since the peer waits for our acks before it sends control messages.
                    self.plaintext.zeroize();
                    self.peer_message = Some(message);
                    self.next_phase();
                }
                Err(KeyMessageError::Truncated) => return Ok(()),
                Err(e) => return Err(KeyError::Peer(format!("bad key message: {e}"))),
            }
            if role == TlsRole::Server {
                self.write_own_message()?;
            }
        }
        Ok(())
    }

    fn write_own_message(&mut self) -> Result<(), KeyError> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        let message = Zeroizing::new(std::mem::take(&mut self.own_message));
        tls.write_plaintext(&message)
            .map_err(|e| KeyError::Tls(e.to_string()))?;
        tls.read_ciphertext(&mut self.outgoing);
        self.next_phase();
        Ok(())
    }

    fn next_phase(&mut self) {
        self.phase = match self.phase {
            Phase::Start => Phase::HalfKeys,
            Phase::HalfKeys => Phase::BothKeys,
            other => other,
        };
    }

    fn cut_into_packets(&mut self, settings: &Settings, wrap: &Wrap) {
        let outer = settings.outer_headers(self.endpoint);
        // op and session id, a full ack array with the echoed session id, the packet id.
        let header = 1 + 8 + (1 + 4 * ACKS_WITH_PAYLOAD + 8) + 4;
        let room = settings
            .max_packet_size
            .saturating_sub(outer + header + wrap.overhead())
            .max(64);
        while !self.outgoing.is_empty() && self.send.can_send() {
            let (opcode, room) = if self.next_is_wkc {
                (
                    Opcode::ControlWkcV1,
                    room.saturating_sub(wrap.wkc_len()).max(64),
                )
            } else {
                (Opcode::ControlV1, room)
            };
            let rest = self.outgoing.split_off(self.outgoing.len().min(room));
            let payload = std::mem::replace(&mut self.outgoing, rest);
            self.send.push(opcode, payload);
            self.next_is_wkc = false;
        }
    }

    fn take_messages(&mut self) {
        let Some(last) = self.plaintext.iter().rposition(|&byte| byte == 0) else {
            return;
        };
        self.messages
            .extend(split_messages(&self.plaintext[..=last]));
        self.plaintext.drain(..=last);
    }
}

impl Drop for KeyState {
    fn drop(&mut self) {
        self.own_message.zeroize();
        self.plaintext.zeroize();
    }
}
