//! Control datagrams: whose they are, and whether they may be taken.
//!
//! ```text
//!  sender's session id known -> source -> unwrap -> echo -> key_id -> key state
//!  unknown, and a hard reset -> source -> unwrap -> answer to ours | a session of its own | refused
//! ```
//! Without wrapping anybody can send a reset in the peer's name. So a reset changes nothing of what
//! is proven: a session counts as proven once its peer has echoed our session id, which only somebody
//! who receives our packets can.

use ringway_dataplane::command::Endpoint;

use super::{Counters, Event, Mode, Slot, Transport, Tunnel};
use crate::proto::key_state::Phase;
use crate::proto::packet::{ControlPacket, Opcode, SessionId, peek};
use crate::proto::session::{Session, Wrapping};
use crate::proto::wrap::tls_crypt_v2::Metadata;
use crate::proto::{Now, TlsRole};

/// Adds to the counter of a reason to drop a packet.
type Drop = fn(&mut Counters);

impl Tunnel {
    /// Takes a datagram and says which session it belongs to; `None` if it was dropped.
    pub(super) fn take_datagram(
        &mut self,
        now: Now,
        from: Endpoint,
        datagram: &mut [u8],
    ) -> Option<Slot> {
        let known = peek(datagram).filter(|(opcode, ..)| self.opcode_fits(*opcode));
        let Some((opcode, key_id, sid)) = known else {
            return self.drop_datagram(|c| c.malformed += 1);
        };
        let untrusted = self.untrusted.as_ref();
        let taken = if self.active.primary.peer_sid == Some(sid) {
            self.accept_known(now, Slot::Active, from, datagram)
        } else if untrusted.is_some_and(|s| s.primary.peer_sid == Some(sid)) {
            self.accept_known(now, Slot::Untrusted, from, datagram)
        } else if !opcode.is_hard_reset() {
            Err((|c| c.unknown_session += 1) as Drop)
        } else if key_id != 0 {
            Err((|c| c.refused_reset += 1) as Drop)
        } else {
            self.accept_new(now, from, datagram, sid)
        };
        match taken {
            Ok(slot) => Some(slot),
            // Keys change at slightly different times; that is nobody's fault.
            Err(count) if self.is_of_another_key(opcode, key_id, sid) => {
                count(&mut self.counters);
                None
            }
            Err(count) => self.drop_datagram(count),
        }
    }

    /// Counts, and on TCP ends the tunnel: there nobody but the peer can have sent it.
    fn drop_datagram(&mut self, count: Drop) -> Option<Slot> {
        let before = self.counters;
        count(&mut self.counters);
        if self.config.transport == Transport::Tcp {
            let rows = self.counters.rows().into_iter().zip(before.rows());
            let changed = rows.filter(|(now, before)| now != before);
            let name = changed.map(|((name, _), _)| name).next();
            let text = format!(
                "TLS Error: a control packet over TCP cannot be taken ({})",
                name.unwrap_or_default()
            );
            self.fail("tls-error", text);
        }
        None
    }

    /// A packet of the session in use with the key_id before the one being negotiated, or one that
    /// begins the next key while we are not done with this.
    fn is_of_another_key(&self, opcode: Opcode, key_id: u8, sid: SessionId) -> bool {
        let primary = &self.active.primary;
        let last = match primary.key_id {
            // 7 is followed by 1, and 0 is the first.
            1 => key_id == 0 || key_id == 7,
            now => now > 0 && key_id == now - 1,
        };
        let next = opcode == Opcode::SoftResetV1 && key_id == self.active.next_key_id;
        (last || next) && primary.peer_sid == Some(sid)
    }

    fn opcode_fits(&self, opcode: Opcode) -> bool {
        match opcode {
            Opcode::SoftResetV1 | Opcode::ControlV1 | Opcode::AckV1 => true,
            Opcode::HardResetClientV2 => self.config.role == TlsRole::Server,
            // Which wrapping it needs is known when it is unwrapped.
            Opcode::HardResetClientV3 | Opcode::ControlWkcV1 => self.config.mode == Mode::Server,
            Opcode::HardResetServerV2 => self.config.role == TlsRole::Client,
            Opcode::HardResetClientV1
            | Opcode::HardResetServerV1
            | Opcode::DataV1
            | Opcode::DataV2 => false,
        }
    }

    /// A hard reset of a session that is not known.
    fn accept_new(
        &mut self,
        now: Now,
        from: Endpoint,
        datagram: &mut [u8],
        sid: SessionId,
    ) -> Result<Slot, Drop> {
        let strange = self.config.remote.is_some_and(|e| e.remote != from.remote);
        if strange && !self.config.float {
            return Err(|c| c.wrong_source += 1);
        }
        // A wrapping of its own: nothing of a session in progress changes before the packet
        // authenticates, and its replay ids say nothing about another session's.
        let (mut wrapping, metadata) = self.wrapping_of(datagram, now)?;
        let packet = wrapping
            .wrap
            .unwrap(datagram)
            .map_err(|_| (|c| c.unwrap_failed += 1) as Drop)?;
        if packet.packet_id != Some(0) {
            return Err(|c| c.refused_reset += 1);
        }
        if self.closing.is_some() {
            // Whoever begins anew has heard our last word.
            self.close_now();
            return Err(|c| c.refused_reset += 1);
        }
        let slot = self.slot_for_new(now, from, &packet)?;
        let mut key_says = metadata;
        let session = match slot {
            Slot::Active => {
                self.active.begin_with(sid, from, wrapping);
                &mut self.active
            }
            Slot::Untrusted => {
                let mut fresh = Session::new(wrapping, &self.settings, &self.own, &mut self.rng);
                fresh.primary.begin_with(sid, from);
                // Of no account before this session has proved itself: its first packet may be
                // an old one that somebody has recorded.
                fresh.metadata = key_says.take();
                self.untrusted.insert(Box::new(fresh))
            }
        };
        session.primary.receive(&packet, now.instant);
        self.log(
            3,
            format!("TLS: Initial packet from {}, sid={sid:?}", from.remote),
        );
        if let Some(metadata) = key_says {
            self.push(Event::ClientKey(metadata));
        }
        Ok(slot)
    }

    /// What a first packet is to be unwrapped with: in server mode what its client came in.
    fn wrapping_of(&self, datagram: &[u8], now: Now) -> Result<(Wrapping, Option<Metadata>), Drop> {
        let config = &self.config;
        let Some(wraps) = &config.client_wraps else {
            return Ok((Wrapping::new(&config.wrap, config.role, now), None));
        };
        let failed: Drop = |c| c.unwrap_failed += 1;
        let (opcode, ..) = peek(datagram).ok_or(failed)?;
        let client = wraps
            .recognize(opcode, datagram, now.unix)
            .map_err(|_| failed)?;
        let wrapping = Wrapping::new(&client.config, config.role, now);
        Ok((wrapping, client.metadata))
    }

    fn slot_for_new(
        &self,
        now: Now,
        from: Endpoint,
        packet: &ControlPacket<'_>,
    ) -> Result<Slot, Drop> {
        let active = &self.active.primary;
        if let Some(echo) = packet.remote_session_id {
            // It acknowledges our reset: this is the peer we have called, whoever spoke first.
            return if echo != self.active.sid {
                Err(|c| c.wrong_echo += 1)
            } else if active.is_unanswered() {
                Ok(Slot::Active)
            } else {
                Err(|c| c.refused_reset += 1)
            };
        }
        // A server that pushes never begins by itself, and `single-session` allows one.
        if self.config.mode == Mode::Pull || (self.config.single_session && self.established) {
            return Err(|c| c.refused_reset += 1);
        }
        let called = active.endpoint.or(self.config.remote);
        if active.peer_sid.is_none() && called.is_none_or(|e| e.remote == from.remote) {
            return Ok(Slot::Active);
        }
        match &self.untrusted {
            Some(other) if other.primary.phase >= Phase::Start => {
                // Proven, so only its silence makes room for another.
                let patience = self.config.tls_timeout * 2;
                let silent = other
                    .primary
                    .last_heard
                    .is_none_or(|at| now.instant >= at + patience);
                if silent {
                    Ok(Slot::Untrusted)
                } else {
                    Err(|c| c.refused_reset += 1)
                }
            }
            _ => Ok(Slot::Untrusted),
        }
    }

    fn accept_known(
        &mut self,
        now: Now,
        slot: Slot,
        from: Endpoint,
        datagram: &mut [u8],
    ) -> Result<Slot, Drop> {
        let session = match (slot, &mut self.untrusted) {
            (Slot::Untrusted, Some(untrusted)) => untrusted,
            _ => &mut self.active,
        };
        let moved = session
            .primary
            .endpoint
            .is_some_and(|e| e.remote != from.remote);
        if moved && !self.config.float {
            return Err(|c| c.wrong_source += 1);
        }
        let key_id = datagram.first().map_or(0, |byte| byte & 7);
        let packet = session
            .wrap_for(key_id, now)
            .unwrap(datagram)
            .map_err(|_| (|c| c.unwrap_failed += 1) as Drop)?;
        if !packet.acks.is_empty() && packet.remote_session_id != Some(session.sid) {
            return Err(|c| c.wrong_echo += 1);
        }
        let is_reset = packet.opcode.is_hard_reset() || packet.opcode == Opcode::SoftResetV1;
        if is_reset && packet.packet_id != Some(0) {
            return Err(|c| c.refused_reset += 1);
        }
        if packet.opcode == Opcode::SoftResetV1
            && matches!(slot, Slot::Active)
            && packet.key_id == self.active.next_key_id
        {
            self.peer_begins_rekey(now);
        }
        let session = match (slot, &mut self.untrusted) {
            (Slot::Untrusted, Some(untrusted)) => untrusted,
            _ => &mut self.active,
        };
        if packet.key_id != session.primary.key_id {
            return Err(|c| c.wrong_key_id += 1);
        }
        session.primary.receive(&packet, now.instant);
        // Only a wrapped packet is authenticated; a bare one must not move the session.
        if moved && session.is_wrapped() {
            session.primary.endpoint = Some(from);
        }
        Ok(slot)
    }

    /// The peer's soft reset for the next key.
    fn peer_begins_rekey(&mut self, now: Now) {
        if self.active.primary.phase == Phase::BothKeys {
            // The acks are lost, and will not be repeated: the peer has left this key behind, for
            // which it must have received everything.
            self.active.primary.assume_delivered();
            self.session_progress(now);
        }
        if !self.failed && self.active.primary.phase == Phase::Generated {
            self.log(
                3,
                "TLS: soft reset, renegotiation begun by the peer".to_owned(),
            );
            self.begin_rekey(now);
        }
    }
}
