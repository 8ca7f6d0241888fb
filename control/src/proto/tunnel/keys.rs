//! Data keys: from two key messages over one identity's TLS, through what both ends can do, to keys that
//! are installed and used; and when they are renewed.

use std::time::Duration;

use ringway_dataplane::key_slot::DataFormat;
use zeroize::Zeroizing;

use super::{Event, KeyUsage, Mode, Tunnel};
use crate::proto::key_derivation::{
    Key2, LABEL_DATA_KEYS, LABEL_DYNAMIC_TLS_CRYPT, LABEL_P2P_PEER_ID, prf_key2,
};
use crate::proto::key_state::Phase;
use crate::proto::negotiate::{self, Negotiated};
use crate::proto::occ;
use crate::proto::peer_info::{PeerInfo, iv_proto};
use crate::proto::{Now, TlsRole};

/// Largest AES-GCM usage, in 16-byte blocks plus packets, before a new key is asked for
/// (protocol §7.6).
const AEAD_SOFT_LIMIT: u64 = 60_129_542_137;
/// 32-bit packet id at which a new key is asked for (protocol §7.5).
const PACKET_ID_SOFT_LIMIT: u64 = 0xFF00_0000;
/// Epoch at which a new key is asked for (protocol §7.4).
const EPOCH_SOFT_LIMIT: u64 = 0xF000;
/// Failed decryptions under one key before a new one is asked for (protocol §2.5).
const AUTH_FAILURE_SOFT_LIMIT: u64 = 1 << 35;

impl Tunnel {
    /// Makes the data keys once both key messages are there, and lets them send once the peer has
    /// them too.
    ///
    /// The peer may send with the new key as soon as it has our acks, which may be long before we
    /// have its own; so a key receives from the first moment it can be made.
    pub(super) fn session_progress(&mut self, now: Now) {
        let primary = &self.active.primary;
        let in_phase = matches!(primary.phase, Phase::BothKeys | Phase::Active);
        if self.failed || !in_phase || !self.is_admitted() {
            return;
        }
        let is_active = primary.phase == Phase::Active;
        // A new session's first key may need the place of the key that still sends.
        let in_the_way = self.keys.sending() == Some(primary.key_id);
        if !primary.keys_made && (is_active || !in_the_way) {
            self.make_keys(now);
        }
        if self.failed || !is_active {
            return;
        }
        if self.active.primary.keys_made {
            self.begin_use(now);
        } else {
            self.begin_pull(now);
        }
    }

    fn make_keys(&mut self, now: Now) {
        if !self.check_identity() {
            self.fail(
                "tls-error",
                "the peer's certificate changed during the session".into(),
            );
            return;
        }
        if self.negotiated.is_none() && self.config.mode == Mode::PointToPoint {
            match self.negotiate_point_to_point() {
                Ok(negotiated) => self.set_negotiated(negotiated),
                Err(text) => return self.fail("cipher-negotiation", text),
            }
        }
        let Some(negotiated) = self.negotiated.clone() else {
            return;
        };
        if let Err(text) = self.install(&negotiated, now) {
            self.fail("key-derivation", text);
        }
    }

    fn install(&mut self, negotiated: &Negotiated, now: Now) -> Result<(), String> {
        let key2 = self.derive(negotiated)?;
        if negotiated.dyn_tls_crypt {
            self.active
                .enable_dynamic(LABEL_DYNAMIC_TLS_CRYPT, self.config.role, now)?;
        }
        let keys = key2.data_keys(
            self.config.role,
            negotiated.cipher,
            negotiated.digest,
            negotiated.format,
        );
        let primary = &mut self.active.primary;
        primary.keys_made = true;
        primary.forget_secrets();
        let key_id = primary.key_id;
        self.push(Event::InstallKey(key_id, Box::new(keys)));
        self.keys.installed(key_id);
        Ok(())
    }

    fn begin_use(&mut self, now: Now) {
        let primary = &mut self.active.primary;
        primary.mark_generated();
        primary.release_buffers();
        let key_id = primary.key_id;
        let started = primary.started.unwrap_or(now.instant);
        if key_id > 0 {
            let tls = primary.tls().map(|t| t.description()).unwrap_or_default();
            self.log(3, format!("TLS: renegotiated, key_id={key_id}: {tls}"));
        }
        // The peer may install its keys a little later than we do (protocol §2.6).
        let wait = self.config.hand_window.min(match self.config.reneg_sec {
            Duration::ZERO => self.config.hand_window,
            reneg => reneg / 2,
        });
        self.keys
            .ready(key_id, key_id == 0, started, wait, now.instant);
        self.established = true;
        self.usage = KeyUsage::default();
        self.reneg_at =
            (!self.config.reneg_sec.is_zero()).then(|| now.instant + self.config.reneg_sec);
    }

    /// Remembers the first certificate; a later negotiation must show the same. Logs the first.
    pub(super) fn check_identity(&mut self) -> bool {
        let primary = &self.active.primary;
        let (Some(tls), Some(endpoint)) = (primary.tls(), primary.endpoint) else {
            return false;
        };
        let identity = tls.peer().map(|peer| peer.sha256);
        if let Some(known) = self.peer_identity {
            return known == identity;
        }
        let common_name = tls.peer().map(|peer| peer.common_name.clone());
        let connected = Event::Connected {
            endpoint,
            common_name: common_name.unwrap_or_default(),
            tls: tls.description(),
        };
        self.peer_identity = Some(identity);
        self.compare_options();
        self.push(connected);
        true
    }

    /// Warns about options that differ. Peers that negotiate say so only to those who look for it,
    /// since most of the string no longer means anything to them (protocol §5.1).
    fn compare_options(&mut self) {
        if !self.config.compare_options {
            return;
        }
        let Some(message) = &self.active.primary.peer_message else {
            return;
        };
        let peer = PeerInfo::parse(message.peer_info.as_deref().unwrap_or_default());
        let negotiates = match self.config.mode {
            Mode::PointToPoint => peer.has(iv_proto::NCP_P2P),
            Mode::Pull => true,
            Mode::Server => !peer.ciphers().is_empty(),
        };
        let verb = if negotiates { 7 } else { 1 };
        for line in occ::compare(&self.own.options, &message.options) {
            self.log(verb, format!("WARNING: {line}"));
        }
    }

    fn negotiate_point_to_point(&self) -> Result<Negotiated, String> {
        let primary = &self.active.primary;
        let info = primary
            .peer_message
            .as_ref()
            .and_then(|m| m.peer_info.as_deref());
        let mut peer = PeerInfo::parse(info.unwrap_or_default());
        // A feature needs both ends: what we did not announce, the peer will not use.
        let own = PeerInfo::parse(self.own.peer_info.as_deref().unwrap_or_default());
        peer.iv_proto &= own.iv_proto;
        let mut id = [0u8; 3];
        let exported = primary
            .tls()
            .and_then(|tls| tls.export(LABEL_P2P_PEER_ID, &mut id).ok())
            .map(|()| u32::from_be_bytes([0, id[0], id[1], id[2]]));
        negotiate::point_to_point(&self.config.preferences, self.config.role, &peer, exported)
    }

    pub(super) fn set_negotiated(&mut self, negotiated: Negotiated) {
        self.push(Event::Negotiated(negotiated.clone()));
        self.negotiated = Some(negotiated);
    }

    fn derive(&self, negotiated: &Negotiated) -> Result<Key2, String> {
        let primary = &self.active.primary;
        let tls = primary.tls().ok_or("no TLS session")?;
        if negotiated.ekm {
            let mut exported = Zeroizing::new([0u8; 256]);
            tls.export(LABEL_DATA_KEYS, &mut *exported)
                .map_err(|e| e.to_string())?;
            return Ok(Key2::from_exporter(*exported));
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

    /// There is a key to be renewed, and a peer that stays.
    pub(super) fn may_rekey(&self) -> bool {
        self.active.primary.phase == Phase::Generated && self.closing.is_none()
    }

    pub(super) fn rekey_if_due(&mut self, now: Now) {
        if self.failed || !self.may_rekey() {
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

    pub(super) fn soft_reset(&mut self, now: Now) {
        if self.active.primary.phase != Phase::Generated {
            return;
        }
        self.log(3, "TLS: soft reset, renegotiation begun".to_owned());
        self.begin_rekey(now);
        self.advance_active(now);
    }

    pub(super) fn begin_rekey(&mut self, now: Now) {
        self.active
            .begin_key(&self.settings, &self.own, &mut self.rng);
        self.keys.retire_sending(now.instant);
        self.reneg_at = None;
        self.usage = KeyUsage::default();
    }
}
