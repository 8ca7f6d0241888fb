//! One session: its session id, its wrapping, and the negotiation in progress.

use std::time::Instant;

use rand::rngs::StdRng;
use ringway_dataplane::command::Endpoint;
use zeroize::Zeroizing;

use super::key_derivation::KeySource;
use super::key_state::{KeyError, KeyState, OwnMessage, Settings};
use super::packet::{Opcode, SessionId};
use super::wrap::tls_crypt_v2::Metadata;
use super::wrap::{StaticKey, Wrap, WrapConfig};
use super::{Now, TlsRole};

/// A session of either end; its id is ours alone and lives until the next hard reset.
pub(super) struct Session {
    pub(super) sid: SessionId,
    /// key_id of the next soft reset: 1..7, then 1 again (protocol §1).
    pub(super) next_key_id: u8,
    pub(super) primary: KeyState,
    /// What the client's own key says of itself, until this session is the one in use.
    pub(super) metadata: Option<Metadata>,
    wrap: Wrap,
    /// The key of that wrapping, for dynamic tls-crypt; gone when it is made.
    static_key: Option<Box<StaticKey>>,
    /// Dynamic tls-crypt for key_id ≥ 1 (protocol §4.5); one counter for all of them.
    dynamic: Option<Wrap>,
}

impl Session {
    /// A session that has sent nothing yet.
    pub(super) fn new(
        wrapping: Wrapping,
        settings: &Settings,
        own: &OwnMessage,
        rng: &mut StdRng,
    ) -> Self {
        let Wrapping { wrap, static_key } = wrapping;
        let reset = match settings.role {
            TlsRole::Server => Opcode::HardResetServerV2,
            TlsRole::Client if wrap.wkc_len() > 0 => Opcode::HardResetClientV3,
            TlsRole::Client => Opcode::HardResetClientV2,
        };
        Session {
            sid: SessionId::random(rng),
            next_key_id: 1,
            primary: KeyState::new(
                0,
                reset,
                settings,
                own,
                KeySource::random(rng, settings.role),
            ),
            metadata: None,
            wrap,
            static_key,
            dynamic: None,
        }
    }

    /// Takes the peer that answered, or was the first to speak; `wrapping` has unwrapped its reset.
    pub(super) fn begin_with(&mut self, sid: SessionId, endpoint: Endpoint, wrapping: Wrapping) {
        if self.wrap.authenticates() {
            self.wrap.adopt_window(wrapping.wrap);
        } else {
            // Whatever was sent was not counted.
            self.wrap = wrapping.wrap;
            self.static_key = wrapping.static_key;
        }
        self.primary.begin_with(sid, endpoint);
    }

    /// Packets are authenticated before TLS.
    pub(super) fn is_wrapped(&self) -> bool {
        self.wrap.authenticates()
    }

    /// The wrapping of packets with this key_id.
    pub(super) fn wrap_for(&mut self, key_id: u8, now: Now) -> &mut Wrap {
        let wrap = match &mut self.dynamic {
            Some(dynamic) if key_id > 0 => dynamic,
            _ => &mut self.wrap,
        };
        wrap.set_clock(now.unix as u32);
        wrap
    }

    /// Starts the next negotiation, our soft reset included; the old one's control traffic ends.
    pub(super) fn begin_key(&mut self, settings: &Settings, own: &OwnMessage, rng: &mut StdRng) {
        let key_id = self.next_key_id;
        self.next_key_id = if key_id == 7 { 1 } else { key_id + 1 };
        let source = KeySource::random(rng, settings.role);
        let mut next = KeyState::new(key_id, Opcode::SoftResetV1, settings, own, source);
        next.peer_sid = self.primary.peer_sid;
        next.endpoint = self.primary.endpoint;
        self.primary = next;
    }

    /// Drives the negotiation.
    pub(super) fn advance(&mut self, now: Now, settings: &Settings) -> Result<(), KeyError> {
        let wrap = match &self.dynamic {
            Some(dynamic) if self.primary.key_id > 0 => dynamic,
            _ => &self.wrap,
        };
        self.primary.advance(now, settings, wrap)
    }

    /// Queues the TLS alert of a failed negotiation.
    pub(super) fn flush_alert(&mut self, settings: &Settings) {
        let wrap = match &self.dynamic {
            Some(dynamic) if self.primary.key_id > 0 => dynamic,
            _ => &self.wrap,
        };
        self.primary.flush_alert(settings, wrap);
    }

    /// Wraps the next due packet into `out`.
    pub(super) fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Endpoint> {
        let wrap = match &mut self.dynamic {
            Some(dynamic) if self.primary.key_id > 0 => dynamic,
            _ => &mut self.wrap,
        };
        self.primary.poll_transmit(now, self.sid, wrap, out)
    }

    /// Derives dynamic tls-crypt from the TLS session of key_id 0; later keys keep it.
    pub(super) fn enable_dynamic(
        &mut self,
        label: &str,
        role: TlsRole,
        now: Now,
    ) -> Result<(), String> {
        if self.dynamic.is_some() || self.primary.key_id != 0 {
            return Ok(());
        }
        let tls = self.primary.tls().ok_or("no TLS session")?;
        let mut exported = Zeroizing::new([0u8; 256]);
        tls.export(label, &mut *exported)
            .map_err(|e| e.to_string())?;
        let fixed = self.static_key.take();
        self.dynamic = Some(Wrap::dynamic(
            &exported,
            fixed.as_deref(),
            role,
            now.unix as u32,
        ));
        Ok(())
    }
}

/// A wrapping for a new session, or for a packet that may begin one.
pub(super) struct Wrapping {
    pub(super) wrap: Wrap,
    static_key: Option<Box<StaticKey>>,
}

impl Wrapping {
    pub(super) fn new(config: &WrapConfig, role: TlsRole, now: Now) -> Self {
        let mut wrap = Wrap::new(config, role, now.unix as u32);
        wrap.set_clock(now.unix as u32);
        Wrapping {
            wrap,
            static_key: config.static_key().cloned().map(Box::new),
        }
    }
}
