//! Packets from addresses that nothing is known of (protocol document §3).
//!
//! ```text
//!  C -> S  hard reset                  answered with a cookie for a session id, nothing is kept
//!  S -> C  hard reset, ack of 0
//!  C -> S  packet 1 or an ack, echoing the cookie:  Accepted -> Tunnel::accept
//! ```
//! The cookie proves that the client receives at its address. Only a client of tls-crypt-v2 that cannot
//! send its key a second time is accepted with its first packet, unless `force-cookie` forbids it.
//!
//! Packets for an address that has a tunnel do not come here.

use std::sync::Arc;
use std::time::Duration;

use ringway_dataplane::command::Endpoint;

use super::cookie::CookieJar;
use super::packet::{AckList, ControlPacket, EarlyFlags, Opcode, SessionId, parse_clear};
use super::rate::RateLimit;
use super::wrap::replay_id::ReplayId;
use super::wrap::tls_crypt_v2::Metadata;
use super::wrap::{ClientWrap, ClientWrapError, ClientWraps, Wrap, WrapConfig};
use super::{Now, TlsRole};

/// What an [`Acceptor`] is told.
pub struct AcceptorConfig {
    /// What clients may come in.
    pub wraps: Arc<ClientWraps>,
    /// `hand-window`: a cookie is good for at least so long, and for half as long again at most.
    pub hand_window: Duration,
    /// `connect-freq-initial`: answers to first packets. Clients that come back with their cookie do
    /// not count.
    pub answers: RateLimit,
    /// `connect-freq`: clients accepted.
    pub accepts: Option<RateLimit>,
    /// Random, for as long as the process lives.
    pub cookie_key: [u8; 32],
}

/// Judges first packets. Holds nothing about any address.
pub struct Acceptor {
    wraps: Arc<ClientWraps>,
    /// Unwraps packets of clients without a key of their own; keeps no replay state.
    fixed: Wrap,
    jar: CookieJar,
    answers: RateLimit,
    accepts: Option<RateLimit>,
    counters: AcceptorCounters,
    /// The packet at hand, so that the caller's stays as it is.
    scratch: Vec<u8>,
}

/// What becomes of a packet.
#[derive(Debug)]
pub enum Verdict {
    /// Nothing.
    Drop(Refusal),
    /// Send this back; nothing else is to be done.
    Reply(Vec<u8>),
    /// A client: make a tunnel with [`super::tunnel::Tunnel::accept`].
    Accept(Box<Accepted>),
}

/// A client that has proved where it is (or need not), and its packet.
#[derive(Debug)]
pub struct Accepted {
    /// The client's session id.
    pub client_sid: SessionId,
    /// What its key says about itself, for `tls-crypt-v2-verify`.
    pub metadata: Option<Metadata>,
    /// Our session id, if it was told already.
    pub(super) cookie: Option<SessionId>,
    /// What its packets are wrapped in.
    pub(super) wrap: WrapConfig,
    pub(super) replay_id: Option<ReplayId>,
    pub(super) packet: OwnedPacket,
}

/// A control packet with its own payload.
#[derive(Debug)]
pub(super) struct OwnedPacket {
    opcode: Opcode,
    session_id: SessionId,
    acks: AckList,
    remote_session_id: Option<SessionId>,
    packet_id: Option<u32>,
    payload: Vec<u8>,
}

impl OwnedPacket {
    fn new(packet: &ControlPacket<'_>) -> Self {
        OwnedPacket {
            opcode: packet.opcode,
            session_id: packet.session_id,
            acks: packet.acks.clone(),
            remote_session_id: packet.remote_session_id,
            packet_id: packet.packet_id,
            payload: packet.payload.to_vec(),
        }
    }

    pub(super) fn as_packet(&self) -> ControlPacket<'_> {
        ControlPacket {
            opcode: self.opcode,
            key_id: 0,
            session_id: self.session_id,
            acks: self.acks.clone(),
            remote_session_id: self.remote_session_id,
            packet_id: self.packet_id,
            payload: &self.payload,
        }
    }
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too short, no control packet, no session id, or a reset that is not packet 0.
    Malformed,
    /// A packet that begins nothing.
    NotFirst,
    /// In a wrapping this server does not use.
    WrongWrap,
    /// The wrapping, or the client key in it, does not authenticate.
    UnwrapFailed,
    /// The client's key is older than `tls-crypt-v2-max-age`.
    KeyTooOld,
    /// `force-cookie`, and the client does not know how to.
    ForceCookie,
    /// No cookie, or an expired or wrong one.
    BadCookie,
    /// More than `connect-freq-initial`.
    AnswerRate,
    /// More than `connect-freq`.
    AcceptRate,
}

/// What became of the packets so far. Shown with the statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcceptorCounters {
    /// Packets answered statelessly.
    pub answered: u64,
    /// Clients accepted.
    pub accepted: u64,
    refused: [u64; Refusal::NAMES.len()],
}

impl Refusal {
    const NAMES: [&'static str; 9] = [
        "first-malformed",
        "first-unexpected",
        "first-wrong-wrap",
        "first-unwrap-failed",
        "first-key-too-old",
        "first-force-cookie",
        "first-bad-cookie",
        "first-connect-freq-initial",
        "first-connect-freq",
    ];

    /// The counter's name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl AcceptorCounters {
    /// How many were dropped for this reason.
    pub fn refused(&self, why: Refusal) -> u64 {
        self.refused[why as usize]
    }

    /// Names and values, for statistics.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let good = [
            ("first-answered", self.answered),
            ("first-accepted", self.accepted),
        ];
        good.into_iter()
            .chain(Refusal::NAMES.into_iter().zip(self.refused))
    }
}

impl Acceptor {
    /// Knows nobody yet.
    pub fn new(config: AcceptorConfig) -> Self {
        Acceptor {
            fixed: Wrap::new(&config.wraps.fixed, TlsRole::Server, 0),
            wraps: config.wraps,
            jar: CookieJar::new(&config.cookie_key, config.hand_window),
            answers: config.answers,
            accepts: config.accepts,
            counters: AcceptorCounters::default(),
            scratch: Vec::new(),
        }
    }

    /// Judges a packet from an address without a tunnel. The packet stays as it is.
    pub fn judge(&mut self, now: Now, from: Endpoint, datagram: &[u8]) -> Verdict {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(datagram);
        let judged = self.weigh(now, from, &mut scratch);
        self.scratch = scratch;
        match judged {
            Ok(verdict) => verdict,
            Err(why) => {
                self.counters.refused[why as usize] += 1;
                Verdict::Drop(why)
            }
        }
    }

    /// What became of the packets so far.
    pub fn counters(&self) -> AcceptorCounters {
        self.counters
    }

    fn weigh(&mut self, now: Now, from: Endpoint, datagram: &mut [u8]) -> Result<Verdict, Refusal> {
        let (opcode, key_id, _) = parse_clear(datagram).map_err(|_| Refusal::Malformed)?;
        let echoes = match opcode {
            Opcode::HardResetClientV2 | Opcode::HardResetClientV3 => false,
            Opcode::ControlV1 | Opcode::AckV1 | Opcode::ControlWkcV1 => true,
            _ => return Err(Refusal::NotFirst),
        };
        if key_id != 0 {
            return Err(Refusal::NotFirst);
        }
        let client = self.own_wrap(opcode, datagram, now)?;
        let unwrapped = match &client {
            Some(client) => {
                let wrap = Wrap::new(&client.config, TlsRole::Server, 0);
                wrap.unwrap_stateless(datagram)
            }
            None => self.fixed.unwrap_stateless(datagram),
        };
        let (packet, replay_id) = unwrapped.map_err(|_| Refusal::UnwrapFailed)?;
        let arrived = Arrived {
            packet,
            replay_id,
            client,
        };
        if echoes {
            self.check_echo(now, from, arrived)
        } else {
            self.answer(now, from, arrived)
        }
    }

    /// The wrapping a client has brought with its packet; `None` for that of everybody.
    fn own_wrap(
        &self,
        opcode: Opcode,
        datagram: &[u8],
        now: Now,
    ) -> Result<Option<ClientWrap>, Refusal> {
        if !opcode.carries_wkc() && self.wraps.v2.is_none() {
            return Ok(None);
        }
        match self.wraps.recognize(opcode, datagram, now.unix) {
            Ok(client) => Ok(Some(client)),
            Err(ClientWrapError::NotTaken) => Err(Refusal::WrongWrap),
            Err(ClientWrapError::Key(_)) => Err(Refusal::UnwrapFailed),
            Err(ClientWrapError::TooOld) => Err(Refusal::KeyTooOld),
        }
    }

    /// A hard reset.
    fn answer(&mut self, now: Now, from: Endpoint, first: Arrived<'_>) -> Result<Verdict, Refusal> {
        if first.packet.packet_id != Some(0) {
            return Err(Refusal::Malformed);
        }
        let early = first
            .replay_id
            .is_some_and(ReplayId::offers_early_negotiation);
        let brings_key = first.packet.opcode == Opcode::HardResetClientV3;
        if brings_key && !early {
            return self.accept_at_once(now, first);
        }
        if !self.answers.allow(now.instant) {
            return Err(Refusal::AnswerRate);
        }
        let mut flags = Vec::new();
        if brings_key {
            // Its key is forgotten with this packet.
            EarlyFlags { resend_wkc: true }.encode(&mut flags);
        }
        let client = first.packet.session_id;
        let reply = ControlPacket {
            opcode: Opcode::HardResetServerV2,
            key_id: 0,
            session_id: self.jar.session_id(now.unix, from.remote, client),
            acks: [0].into_iter().collect(),
            remote_session_id: Some(client),
            packet_id: Some(0),
            payload: &flags,
        };
        let config = match &first.client {
            Some(client) => &client.config,
            None => &self.wraps.fixed,
        };
        let mut out = Vec::with_capacity(128);
        Wrap::new(config, TlsRole::Server, now.unix as u32).wrap(&reply, &mut out);
        self.counters.answered += 1;
        Ok(Verdict::Reply(out))
    }

    /// An old client of tls-crypt-v2, which sends its key only once.
    fn accept_at_once(&mut self, now: Now, first: Arrived<'_>) -> Result<Verdict, Refusal> {
        if self.wraps.v2.as_ref().is_some_and(|v2| v2.force_cookie) {
            return Err(Refusal::ForceCookie);
        }
        if !self.answers.allow(now.instant) {
            return Err(Refusal::AnswerRate);
        }
        self.accept(now, first, None)
    }

    /// A packet after a reset, as we would have answered it.
    fn check_echo(
        &mut self,
        now: Now,
        from: Endpoint,
        second: Arrived<'_>,
    ) -> Result<Verdict, Refusal> {
        let packet = &second.packet;
        let early = |id: u32| id <= 1;
        let fits = packet.acks.iter().all(|id| early(*id)) && packet.packet_id.is_none_or(early);
        let echoed = packet.remote_session_id.filter(|echoed| {
            let (at, client) = (from.remote, packet.session_id);
            fits && self.jar.is_valid(now.unix, at, client, *echoed)
        });
        let Some(cookie) = echoed else {
            return Err(Refusal::BadCookie);
        };
        let accepted = self.accept(now, second, Some(cookie))?;
        // Not before: else a cookie that is shown again and again would buy any number of answers.
        self.answers.give_back();
        Ok(accepted)
    }

    fn accept(
        &mut self,
        now: Now,
        arrived: Arrived<'_>,
        cookie: Option<SessionId>,
    ) -> Result<Verdict, Refusal> {
        if let Some(accepts) = &mut self.accepts
            && !accepts.allow(now.instant)
        {
            return Err(Refusal::AcceptRate);
        }
        let (wrap, metadata) = match arrived.client {
            Some(client) => (client.config, client.metadata),
            None => (self.wraps.fixed.clone(), None),
        };
        self.counters.accepted += 1;
        Ok(Verdict::Accept(Box::new(Accepted {
            client_sid: arrived.packet.session_id,
            metadata,
            cookie,
            wrap,
            replay_id: arrived.replay_id,
            packet: OwnedPacket::new(&arrived.packet),
        })))
    }
}

/// A packet that has authenticated as far as its wrapping can.
struct Arrived<'a> {
    packet: ControlPacket<'a>,
    replay_id: Option<ReplayId>,
    /// With a wrapping of its own.
    client: Option<ClientWrap>,
}
