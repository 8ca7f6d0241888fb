//! One client of a server: who it is, what it gets, and how it is sent away (protocol §8).
//!
//! ```text
//!   key message -> Authenticate -> Authenticated -> Ready -> Serve -> Negotiated, keys, PUSH_REPLY
//!        |              '-> AuthFailed: AUTH_FAILED    '-> Refuse: AUTH_FAILED
//!        '- again with each renegotiation, which waits for its Authenticated and then has its key
//! ```
//! Our own key message leaves before all that, as with stock servers: only then can the client be told
//! anything.

use std::fmt;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::{Event, Mode, Tunnel};
use crate::proto::Now;
use crate::proto::key_state::{Admission, Phase};
use crate::proto::negotiate::{self, Preferences};
use crate::proto::occ;
use crate::proto::peer_info::{PeerInfo, iv_proto};
use crate::proto::push::{ControlMessage, MAX_MESSAGE, loggable, push_replies, push_updates};
use crate::proto::session::Session;

/// A PUSH_REQUEST so soon after an answer is a repetition (protocol §8.3).
const PUSH_REPEAT: Duration = Duration::from_secs(30);
/// From the last word to a client to its end (protocol §2.7).
const DELAYED_EXIT: Duration = Duration::from_secs(5);

/// A client's claim, to be judged. The certificate is in [`Tunnel::tls`].
pub struct AuthRequest {
    /// Names this request in the answer to it.
    pub request: u32,
    /// The key being negotiated.
    pub key_id: u8,
    /// The client is connected already, and renews its key.
    pub renegotiation: bool,
    /// `None` when the client sent none.
    pub username: Option<String>,
    /// `None` when the client sent none.
    pub password: Option<Zeroizing<String>>,
    /// What the client says about itself.
    pub peer_info: PeerInfo,
    /// Its options string (protocol §5.1).
    pub options: String,
}

impl fmt::Debug for AuthRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthRequest")
            .field("request", &self.request)
            .field("key_id", &self.key_id)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What a client gets.
#[derive(Clone, Debug)]
pub struct Serve {
    /// The server's wishes for this client's data channel.
    pub preferences: Preferences,
    /// Bits of [`iv_proto`] the server would use with it.
    pub features: u32,
    /// Its number, if it speaks DATA_V2.
    pub peer_id: Option<u32>,
    /// What it is told before the negotiated options: routes, timers, addresses.
    pub push: Vec<String>,
    /// `auth-token …`, `auth-token-user …`
    pub tokens: Vec<String>,
    /// `tun-mtu`, told to those who understand it.
    pub tun_mtu: Option<u32>,
    /// Another user name it may renegotiate with (`auth-token-user`, `override-username`).
    pub username: Option<String>,
    /// Ringway's own [`extensions`](crate::proto::peer_info::extensions) to use with it.
    pub extensions: u32,
}

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not authenticated.
    New,
    /// [`Event::Ready`] is out.
    Ready,
    /// It has its options, or will when it asks.
    Served,
}

/// A server's view of its client.
pub(super) struct Client {
    stage: Stage,
    /// [`AuthRequest::request`] of the last one.
    request: u32,
    /// Answers of the driver are due.
    answer_by: Option<Instant>,
    iv_proto: u32,
    /// The user name of its first key message; inner `None`: it sent none.
    username: Option<Option<String>>,
    other_username: Option<String>,
    /// PUSH_REPLY in its parts, and what has changed before it was sent.
    reply: Vec<Box<str>>,
    /// It waits for the reply.
    wants_reply: bool,
    replied: Option<Instant>,
}

/// The last word to the client has been said.
pub(super) struct Closing {
    reason: &'static str,
    text: String,
    /// `None` until the client can hear it.
    at: Option<Instant>,
}

impl Client {
    pub(super) fn new() -> Self {
        Client {
            stage: Stage::New,
            request: 0,
            answer_by: None,
            iv_proto: 0,
            username: None,
            other_username: None,
            reply: Vec::new(),
            wants_reply: false,
            replied: None,
        }
    }

    /// It began a new session: it needs everything again, and must be the same client.
    pub(super) fn begin_again(&mut self) {
        self.stage = Stage::New;
        self.answer_by = None;
        self.reply = Vec::new();
        self.wants_reply = false;
        self.replied = None;
    }

    /// When the driver's answer is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.answer_by
    }

    /// Whether it may go by this user name.
    fn is_called(&self, username: &Option<String>) -> bool {
        self.username.as_ref().is_none_or(|first| first == username)
            || (username.is_some() && *username == self.other_username)
    }
}

impl Closing {
    /// When the tunnel ends.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.at
    }
}

impl Tunnel {
    /// Asks about the client of a key message that has not been asked about.
    pub(super) fn request_admission(&mut self, now: Now) {
        let primary = &self.active.primary;
        let waits = primary.admission == Admission::Open && primary.peer_message.is_some();
        if self.client.is_none() || self.failed || self.closing.is_some() || !waits {
            return;
        }
        if !self.check_identity() {
            self.fail(
                "tls-error",
                "the client's certificate changed during the session".into(),
            );
            return;
        }
        let renegotiation = self.negotiated.is_some();
        let hand_window = self.config.hand_window;
        let primary = &mut self.active.primary;
        let (Some(client), Some(message)) = (&mut self.client, &mut primary.peer_message) else {
            return;
        };
        primary.admission = Admission::Asked;
        let request = AuthRequest {
            request: client.request.wrapping_add(1),
            key_id: primary.key_id,
            renegotiation,
            username: message.username.clone(),
            password: message.password.take().map(Zeroizing::new),
            peer_info: PeerInfo::parse(message.peer_info.as_deref().unwrap_or_default()),
            options: message.options.clone(),
        };
        if !client.is_called(&request.username) {
            let text = format!(
                "TLS Auth Error: username changed from {:?} to {:?}",
                client.username.as_ref().and_then(Option::as_deref),
                request.username.as_deref(),
            );
            self.dismiss(None, text, now);
            return;
        }
        client.request = request.request;
        client.iv_proto = request.peer_info.iv_proto;
        client.answer_by = Some(now.instant + hand_window);
        client
            .username
            .get_or_insert_with(|| request.username.clone());
        self.push(Event::Authenticate(Box::new(request)));
    }

    /// The answer to this request is still wanted.
    fn is_asked(&self, request: u32) -> bool {
        let asked = self.client.as_ref().is_some_and(|c| c.request == request);
        asked && self.active.primary.admission == Admission::Asked && self.closing.is_none()
    }

    pub(super) fn admit(&mut self, request: u32, now: Now) {
        if !self.is_asked(request) {
            return;
        }
        self.active.primary.admission = Admission::Granted;
        let hand_window = self.config.hand_window;
        let Some(client) = &mut self.client else {
            return;
        };
        if client.stage == Stage::New {
            client.stage = Stage::Ready;
            client.answer_by = Some(now.instant + hand_window);
            self.push(Event::Ready);
        } else {
            client.answer_by = None;
            self.session_progress(now);
        }
    }

    pub(super) fn deny(&mut self, request: u32, reason: Option<String>, now: Now) {
        if self.is_asked(request) {
            self.dismiss(reason, "authentication failed".to_owned(), now);
        }
    }

    /// Keeps the client waiting.
    pub(super) fn keep_waiting(&mut self, timeout: u32, messages: &[String], now: Now) {
        let most = (self.config.reneg_sec / 2).max(self.config.hand_window);
        let wait = Duration::from_secs(timeout.into()).min(most);
        let Some(client) = self.client.as_mut().filter(|c| c.answer_by.is_some()) else {
            return;
        };
        client.answer_by = Some(now.instant + wait);
        let keywords = client.iv_proto & iv_proto::AUTH_PENDING_KW != 0;
        let pending = ControlMessage::AuthPending {
            timeout: keywords.then_some(wait.as_secs() as u32),
        };
        self.send_message(&pending.to_string());
        for text in messages {
            let info = ControlMessage::InfoPre(clean(text, MAX_MESSAGE - "INFO_PRE,".len()));
            self.send_message(&info.to_string());
        }
    }

    pub(super) fn serve(&mut self, serve: &Serve, now: Now) {
        let closing = self.closing.is_some();
        let primary = &self.active.primary;
        let (Some(client), Some(message)) = (&mut self.client, &primary.peer_message) else {
            return;
        };
        if client.stage != Stage::Ready || closing {
            return;
        }
        let peer = PeerInfo::parse(message.peer_info.as_deref().unwrap_or_default());
        let occ_cipher = occ::extract(&message.options).cipher;
        let (own, features) = (&serve.preferences, serve.features);
        let served = negotiate::served(own, features, &peer, occ_cipher.as_deref());
        let negotiated = match served.map(|n| n.for_client(serve.peer_id, serve.extensions)) {
            Ok(negotiated) => negotiated,
            Err(text) => {
                let reason = "Data channel cipher negotiation failed (no shared cipher)";
                self.dismiss(Some(reason.to_owned()), text, now);
                return;
            }
        };
        let options = push_list(serve, &negotiated, &peer);
        match push_replies(&options) {
            Ok(parts) => {
                client.reply = parts.iter().map(|p| p.to_string().into()).collect();
            }
            Err(error) => {
                self.dismiss(None, format!("cannot push options: {error}"), now);
                return;
            }
        }
        client.stage = Stage::Served;
        client.answer_by = None;
        client.wants_reply |= peer.has(iv_proto::REQUEST_PUSH);
        client.other_username.clone_from(&serve.username);
        self.set_negotiated(negotiated);
        self.session_progress(now);
    }

    /// Sends the client away: it is told why, if it can be, and the tunnel ends a little later.
    pub(super) fn dismiss(&mut self, reason: Option<String>, text: String, now: Now) {
        if self.closing.is_some() {
            return;
        }
        let proto = self.client.as_ref().map_or(0, |c| c.iv_proto);
        let understood =
            |reason: &String| !reason.starts_with("TEMP") || proto & iv_proto::AUTH_FAIL_TEMP != 0;
        let message = match reason.filter(understood) {
            Some(reason) => format!(
                "AUTH_FAILED,{}",
                clean(&reason, MAX_MESSAGE - "AUTH_FAILED,".len())
            ),
            None => "AUTH_FAILED".to_owned(),
        };
        self.active.primary.admission = Admission::Refused;
        self.say_last(&message, "auth-failure", text, now);
    }

    /// A last control message.
    pub(super) fn say_last(&mut self, message: &str, reason: &'static str, text: String, now: Now) {
        self.log(3, format!("SENT CONTROL: '{message}'"));
        self.send_message(message);
        self.close_soon(reason, text, now);
    }

    /// The tunnel ends in [`DELAYED_EXIT`].
    pub(super) fn close_soon(&mut self, reason: &'static str, text: String, now: Now) {
        let heard = self.active.primary.phase >= Phase::Active;
        let at = heard.then(|| now.instant + DELAYED_EXIT);
        if let Some(client) = &mut self.client {
            client.answer_by = None;
            client.wants_reply = false;
        }
        self.closing
            .get_or_insert_with(|| Box::new(Closing { reason, text, at }));
    }

    /// More of a pushed list while the client is connected.
    pub(super) fn push_token(&mut self, lines: &[String]) {
        match push_replies(lines) {
            Ok(parts) => self.send_all(&parts),
            Err(error) => self.log(1, format!("cannot push a token: {error}")),
        }
    }

    /// What has changed. A client that waits for its options hears it right after them; one that has
    /// none yet gets all of them anyway.
    pub(super) fn push_update(&mut self, lines: &[String]) {
        let Some(client) = self.client.as_mut().filter(|c| c.stage == Stage::Served) else {
            return;
        };
        if client.iv_proto & iv_proto::PUSH_UPDATE == 0 {
            self.log(
                1,
                "PUSH_UPDATE: the client does not understand it".to_owned(),
            );
            return;
        }
        match push_updates(lines) {
            Ok(parts) if client.replied.is_none() => {
                client
                    .reply
                    .extend(parts.iter().map(|part| part.to_string().into()));
            }
            Ok(parts) => self.send_all(&parts),
            Err(error) => self.log(1, format!("PUSH_UPDATE: {error}")),
        }
    }

    fn send_all(&mut self, parts: &[ControlMessage]) {
        for part in parts {
            self.send_message(&part.to_string());
        }
    }

    /// A client's control message.
    pub(super) fn take_client_message(&mut self, message: ControlMessage, now: Now) {
        match message {
            ControlMessage::PushRequest => {
                let Some(client) = &mut self.client else {
                    return;
                };
                let repeated = client
                    .replied
                    .is_some_and(|at| now.instant < at + PUSH_REPEAT);
                client.wants_reply |= !repeated && self.closing.is_none();
            }
            ControlMessage::CrResponse(response) => self.push(Event::CrResponse(response)),
            ControlMessage::Exit => {
                self.push(Event::PeerExit);
                self.close_soon("remote-exit", "the client has left".to_owned(), now);
            }
            other => self.log(3, format!("ignoring control message {other:?}")),
        }
    }

    /// Answers a waiting client, gives up on a silent driver, and ends what is over.
    pub(super) fn serve_progress(&mut self, now: Now) {
        let phase = self.active.primary.phase;
        let Some(client) = &mut self.client else {
            return;
        };
        if client.answer_by.is_some_and(|at| now.instant >= at) {
            self.dismiss(None, "authentication took too long".to_owned(), now);
        } else if client.wants_reply && client.stage == Stage::Served && phase >= Phase::Active {
            client.wants_reply = false;
            client.replied = Some(now.instant);
            let parts = std::mem::take(&mut client.reply);
            for part in &parts {
                let shown: Vec<&str> = part.split(',').map(loggable).collect();
                self.log(3, format!("SENT CONTROL: '{}'", shown.join(",")));
                self.send_message(part);
            }
            if let Some(client) = &mut self.client {
                client.reply = parts;
            }
        }
        let Some(closing) = &mut self.closing else {
            return;
        };
        let at = match closing.at {
            Some(at) => at,
            None if phase >= Phase::Active => *closing.at.insert(now.instant + DELAYED_EXIT),
            None => return,
        };
        if now.instant >= at {
            self.close_now();
        }
    }

    /// Ends the tunnel that was to end soon.
    pub(super) fn close_now(&mut self) {
        if let Some(closing) = self.closing.take() {
            self.fail(closing.reason, closing.text);
        }
    }

    /// Whether a new session is not that of our client.
    pub(super) fn is_another_client(&self, session: &Session) -> bool {
        let Some(client) = &self.client else {
            return false;
        };
        let identity = session
            .primary
            .tls()
            .map(|tls| tls.peer().map(|p| p.sha256));
        let message = session.primary.peer_message.as_ref();
        let same = self.peer_identity.is_none() || self.peer_identity == identity;
        !same || message.is_some_and(|m| !client.is_called(&m.username))
    }

    /// Whether the key being negotiated may be made.
    pub(super) fn is_admitted(&self) -> bool {
        self.config.mode != Mode::Server || self.active.primary.admission == Admission::Granted
    }
}

/// The whole list, in the order of stock servers (protocol §8.3).
fn push_list(serve: &Serve, negotiated: &negotiate::Negotiated, peer: &PeerInfo) -> Vec<String> {
    let mut options = serve.push.clone();
    options.extend(negotiated.peer_id.map(|id| format!("peer-id {id}")));
    options.extend_from_slice(&serve.tokens);
    options.extend(negotiate::served_options(negotiated, peer));
    let mtu = serve.tun_mtu.filter(|_| peer.iv_mtu.is_some());
    options.extend(mtu.map(|mtu| format!("tun-mtu {mtu}")));
    options
}

/// Text for a control message: no control characters, at most `max` bytes.
fn clean(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for ch in text.chars() {
        let ch = if ch.is_control() { '?' } else { ch };
        if out.len() + ch.len_utf8() > max {
            break;
        }
        out.push(ch);
    }
    out
}
