//! What goes into a [`Tunnel`](super::Tunnel) and what comes out of it.

use std::sync::Arc;
use std::time::Duration;

use ringway_dataplane::command::Endpoint;
use ringway_dataplane::key_slot::DataKeys;

use super::serve::{AuthRequest, Serve};
use crate::proto::TlsRole;
use crate::proto::negotiate::{Negotiated, Preferences, Pushed};
use crate::proto::push::ControlMessage;
use crate::proto::wrap::tls_crypt_v2::Metadata;
use crate::proto::wrap::{ClientWraps, WrapConfig};
use crate::tls::TlsContext;

/// How the two ends relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Two equals, nothing pushed.
    PointToPoint,
    /// A client that asks its server for options (`pull`).
    Pull,
    /// One client of a server; begins with [`Tunnel::accept`](super::Tunnel::accept) or
    /// [`Tunnel::listen`](super::Tunnel::listen).
    Server,
}

/// What carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams. What is wrong with one is counted, and it is dropped.
    Udp,
    /// A connection of its own. Nobody else can send on it, so that whatever cannot be taken ends the
    /// tunnel (protocol §2.8).
    Tcp,
}

/// Everything the control channel needs to know of the configuration.
#[derive(Clone)]
pub struct TunnelConfig {
    /// TLS side.
    pub role: TlsRole,
    /// Push and pull, or neither.
    pub mode: Mode,
    /// What carries the packets.
    pub transport: Transport,
    /// `tls-auth`, `tls-crypt`, `tls-crypt-v2`. In server mode each session has what its client came
    /// in, out of `client_wraps`, and this is not used.
    pub wrap: WrapConfig,
    /// What clients may come in; server mode only.
    pub client_wraps: Option<Arc<ClientWraps>>,
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
    /// To [`Event::Authenticate`]: the client is who it says.
    Authenticated {
        /// [`AuthRequest::request`]; an answer to an earlier one changes nothing.
        request: u32,
    },
    /// To [`Event::Authenticate`]: it is not. The client is told, and the tunnel fails 5 s later; until
    /// then older keys stay.
    AuthFailed {
        /// [`AuthRequest::request`]
        request: u32,
        /// For the client: a text, or `TEMP…`, `SESSION:…`, `CRV1:…` (protocol §8.4).
        reason: Option<String>,
    },
    /// To [`Event::Authenticate`]: it takes longer.
    AuthPending {
        /// Seconds the client is to wait, from now; at most half of `reneg-sec` or `hand-window`,
        /// whichever is longer.
        timeout: u32,
        /// For the client's user interface, each without its `INFO_PRE,` (`CR_TEXT:…`, `WEB_AUTH:…`,
        /// `OPEN_URL:…`).
        messages: Vec<String>,
    },
    /// To [`Event::Ready`]: the client's options.
    Serve(Box<Serve>),
    /// The client is sent away with `AUTH_FAILED` and perhaps a text; the tunnel fails 5 s later.
    Refuse(Option<String>),
    /// Further options while the client is connected: a new `auth-token`.
    PushToken(Vec<String>),
    /// `PUSH_UPDATE`, if the client understands it and has its options.
    PushUpdate(Vec<String>),
    /// The client shall connect again; the tunnel fails 5 s later.
    Restart {
        /// To another of its remotes.
        next_remote: bool,
        /// For a person.
        text: String,
    },
    /// The client shall stop; the tunnel fails 5 s later.
    Halt {
        /// For a person.
        text: String,
    },
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
    /// Options the server changes while the tunnel is up: `-name` removes, `?name` is optional.
    PushUpdate(Vec<String>),
    /// A client's first packet brought a key of its own, which says this about itself
    /// (`tls-crypt-v2-verify`). To refuse it, drop the tunnel.
    ClientKey(Metadata),
    /// A client's key message is here; answer with [`Command::Authenticated`] or
    /// [`Command::AuthFailed`] within `hand-window`, or after [`Command::AuthPending`] within its time.
    /// The certificate is in [`Tunnel::tls`](super::Tunnel::tls).
    Authenticate(Box<AuthRequest>),
    /// The client of a session is authenticated; answer with [`Command::Serve`] or
    /// [`Command::Refuse`] within the same time. Comes again when the client has started anew.
    Ready,
    /// A client's answer to a text challenge, in base64 (`CR_RESPONSE`).
    CrResponse(String),
    /// Any other control message from the server.
    Message(ControlMessage),
    /// The peer leaves. In server mode the tunnel fails 5 s later, so that what it sends again finds
    /// somebody.
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
    /// Adds what another tunnel counted.
    pub fn add(&mut self, other: &Counters) {
        self.accepted += other.accepted;
        self.malformed += other.malformed;
        self.unknown_session += other.unknown_session;
        self.wrong_source += other.wrong_source;
        self.unwrap_failed += other.unwrap_failed;
        self.wrong_key_id += other.wrong_key_id;
        self.wrong_echo += other.wrong_echo;
        self.refused_reset += other.refused_reset;
    }

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
