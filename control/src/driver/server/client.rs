//! One client of the server: its control channel, and what has become of it so far.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use ringway_dataplane::command::{Endpoint, PeerHandle};
use ringway_dataplane::stats::PeerStats;

use super::auth::{Login, TokenState};
use super::clients::Place;
use super::scripts::{Deferred, Waiting};
use super::update::Source;
use crate::config::server::ClientConfig;
use crate::driver::keepalive::{Keepalive, Sample};
use crate::driver::setup;
use crate::host::env::ScriptEnv;
use crate::host::server_scripts::ClientHooks;
use crate::proto::negotiate::Negotiated;
use crate::proto::peer_info::PeerInfo;
use crate::proto::tunnel::{KeyUsage, Tunnel};
use crate::proto::wrap::tls_crypt_v2::Metadata;
use crate::server::addresses::Addresses;
use crate::server::routes::{Address, Change};

/// A client, from its first proven packet to its end.
pub(super) struct Client {
    /// Its number, which no other client ever has.
    pub(super) handle: PeerHandle,
    /// Its peer-id on the wire.
    pub(super) peer_id: u32,
    pub(super) listener: u16,
    pub(super) place: Place,
    pub(super) endpoint: Endpoint,
    pub(super) tunnel: Tunnel,
    pub(super) stage: Stage,
    /// Why it has to be closed, once that is known.
    pub(super) end: Option<&'static str>,
    /// Since when it is there, in seconds since 1970.
    pub(super) since_unix: u64,
    /// When anything was last heard of it, in seconds since 1970; to the second.
    pub(super) last_active_unix: u64,
    /// What it is known by: the name in its certificate, or its user name.
    pub(super) common_name: String,
    /// Its name is in the table of names.
    pub(super) named: bool,
    pub(super) username: Option<String>,
    /// What it calls itself, if it is known by another user name (`override-username`).
    pub(super) calls_itself: Option<String>,
    /// Its options string speaks of compression.
    pub(super) compresses: bool,
    pub(super) peer_info: PeerInfo,
    /// What its own key says of itself.
    pub(super) metadata: Option<Metadata>,
    /// Its way through the scripts.
    pub(super) hooks: ClientHooks,
    pub(super) waiting: Vec<Waiting>,
    pub(super) deferred: Vec<Deferred>,
    /// What it claims to be, while that is judged.
    pub(super) login: Option<Login>,
    pub(super) token: Option<TokenState>,
    pub(super) config: ClientConfig,
    /// Where that came from, if it is to be looked at again.
    pub(super) source: Option<Box<Source>>,
    pub(super) addresses: Addresses,
    /// Addresses and networks it is to have, while `learn-address` is asked about them.
    pub(super) wanted: Vec<Address>,
    /// What the data plane is to know of them, once it knows the client.
    pub(super) changes: Vec<Change>,
    pub(super) negotiated: Option<Negotiated>,
    pub(super) stats: Arc<PeerStats>,
    pub(super) keepalive: Keepalive,
    pub(super) env: ScriptEnv,
    /// Bytes of control packets, received and sent.
    pub(super) control_bytes: (u64, u64),
}

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// TLS and the first authentication.
    Handshake,
    /// Its options are looked for.
    Configuring,
    /// It has its options and its routes.
    Up,
}

impl Client {
    /// How log lines name it: `branch1/192.0.2.7:1194`.
    pub(super) fn label(&self) -> String {
        let address = setup::plain_address(self.endpoint.remote);
        match self.common_name.as_str() {
            "" => address,
            name => format!("{name}/{address}"),
        }
    }

    /// What another connection must have to be the same client (protocol §2.9).
    pub(super) fn identity(&self) -> (Option<[u8; 32]>, Option<String>) {
        let peer = self.tunnel.tls().and_then(|tls| tls.peer());
        (peer.map(|peer| peer.sha256), self.username.clone())
    }

    /// How many certificates it has shown, its own included.
    pub(super) fn certificates(&self) -> usize {
        let peer = self.tunnel.tls().and_then(|tls| tls.peer());
        peer.map_or(0, |peer| peer.chain.len())
    }

    /// The script that checks its own key has not ended.
    pub(super) fn waits_for_key(&self) -> bool {
        let is_key = |waiting: &Waiting| matches!(waiting, Waiting::ClientKey(..));
        self.waiting.iter().any(is_key)
    }

    /// Bytes of packets from it and to it, control packets included.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let (received, sent) = self.control_bytes;
        (
            received + self.stats.wire_rx_bytes.load(Relaxed),
            sent + self.stats.wire_tx_bytes.load(Relaxed),
        )
    }

    /// What liveness is judged by.
    pub(super) fn sample(&self) -> Sample {
        let s = &self.stats;
        Sample {
            tx_packets: s.wire_tx_packets.load(Relaxed),
            rx_packets: s.wire_rx_packets.load(Relaxed),
            tun_bytes: s.tun_rx_bytes.load(Relaxed) + s.tun_tx_bytes.load(Relaxed),
            peer_known: true,
            control_tx: self.tunnel.last_tx(),
            control_rx: self.tunnel.last_rx(),
        }
    }

    /// How much its sending key has been used.
    pub(super) fn key_usage(&self) -> KeyUsage {
        setup::key_usage(&self.stats)
    }

    /// Notes when it was last heard, for the status file.
    pub(super) fn note_activity(&mut self, now: Instant, unix: u64) {
        let heard = self.keepalive.last_rx();
        let ago = now.saturating_duration_since(heard).as_secs();
        self.last_active_unix = self.last_active_unix.max(unix.saturating_sub(ago));
    }
}
