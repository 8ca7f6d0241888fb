//! Control messages: asking for options, taking them, and what else a server says (protocol §8.3,
//! §8.4).

use std::time::Duration;

use super::{Event, Mode, Tunnel};
use crate::proto::Now;
use crate::proto::negotiate::{self, Pushed};
use crate::proto::occ;
use crate::proto::push::ControlMessage;

/// Pause between PUSH_REQUESTs (protocol §2.7).
const PUSH_REQUEST_INTERVAL: Duration = Duration::from_secs(5);
/// First PUSH_REQUEST after the session is active (protocol §2.7).
const PUSH_REQUEST_DELAY: Duration = Duration::from_secs(1);

impl Tunnel {
    pub(super) fn begin_pull(&mut self, now: Now) {
        if self.config.mode != Mode::Pull || self.pull.answered || self.pull.give_up.is_some() {
            return;
        }
        self.pull.next_request = Some(now.instant + PUSH_REQUEST_DELAY);
        self.pull.give_up = Some(now.instant + self.config.hand_window);
    }

    pub(super) fn push_request(&mut self, now: Now) {
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

    pub(super) fn take_message(&mut self, text: &str, now: Now) {
        let message = ControlMessage::parse(text);
        if self.config.mode == Mode::Server {
            return self.take_client_message(message, now);
        }
        if matches!(message, ControlMessage::Exit) {
            self.push(Event::PeerExit);
            return;
        }
        if self.config.mode == Mode::PointToPoint {
            self.log(3, format!("ignoring control message {message:?}"));
            return;
        }
        match message {
            ControlMessage::PushReply(options) => self.take_push_reply(options),
            ControlMessage::PushUpdate(options) => self.take_push_update(options),
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
            other => self.push(Event::Message(other)),
        }
    }

    pub(super) fn take_push_reply(&mut self, options: Vec<String>) {
        match self.pull.assembler.add(options) {
            Ok(None) => {}
            Ok(Some(options)) if self.pull.answered => {
                self.push(Event::AuthToken(options));
            }
            Ok(Some(options)) => {
                self.pull.answered = true;
                self.pull.next_request = None;
                self.pull.give_up = None;
                self.push(Event::PushReply(options));
            }
            Err(text) => self.fail("push-reply", text.to_string()),
        }
    }

    fn take_push_update(&mut self, options: Vec<String>) {
        if !self.pull.answered {
            self.log(3, "ignoring PUSH_UPDATE before PUSH_REPLY".to_owned());
            return;
        }
        match self.pull.updates.add(options) {
            Ok(None) => {}
            Ok(Some(options)) => self.push(Event::PushUpdate(options)),
            Err(text) => self.fail("push-update", text.to_string()),
        }
    }

    pub(super) fn take_pulled(&mut self, pushed: &Pushed, now: Now) {
        let message = self.active.primary.peer_message.as_ref();
        let occ_cipher = message.and_then(|m| occ::extract(&m.options).cipher);
        match negotiate::pulled(&self.config.preferences, pushed, occ_cipher.as_deref()) {
            Ok(negotiated) => self.set_negotiated(negotiated),
            Err(text) => return self.fail("cipher-negotiation", text),
        }
        self.session_progress(now);
    }

    pub(super) fn send_message(&mut self, text: &str) {
        if let Err(error) = self.active.primary.send_message(text) {
            self.log(1, format!("cannot send control message: {error}"));
        }
    }
}
