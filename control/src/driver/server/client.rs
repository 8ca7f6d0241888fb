//! One client of the server: its control channel, and what has become of it so far.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ringway_dataplane::command::{Endpoint, PeerHandle};
use ringway_dataplane::stats::PeerStats;

use super::auth::Admission;
use super::clients::Place;
use crate::config::server::ClientConfig;
use crate::driver::keepalive::{Keepalive, Sample};
use crate::host::env::ScriptEnv;
use crate::proto::negotiate::Negotiated;
use crate::proto::tunnel::{KeyUsage, Tunnel};
use crate::server::addresses::Addresses;

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
    pub(super) since: Instant,
    /// The same in seconds since 1970.
    pub(super) since_unix: u64,
    /// What it is called in logs, scripts and the status file; empty before it is known.
    pub(super) name: String,
    /// The name in its certificate.
    pub(super) common_name: String,
    pub(super) username: Option<String>,
    /// Who decides about it now.
    pub(super) admission: Admission,
    pub(super) config: ClientConfig,
    pub(super) addresses: Addresses,
    pub(super) negotiated: Option<Negotiated>,
    pub(super) stats: Arc<PeerStats>,
    pub(super) keepalive: Keepalive,
    pub(super) env: ScriptEnv,
    /// Addresses behind it for which a veto is still possible.
    pub(super) asked: BTreeSet<IpAddr>,
    /// Control packets, in bytes: received and sent.
    pub(super) control_bytes: (u64, u64),
}
