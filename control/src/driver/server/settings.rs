//! From checked options to what the parts of a server need: plain translations.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ringway_dataplane::command::Forwarding;
use ringway_dataplane::tun::DeviceKind;
use ringway_dataplane::udp::{Family as UdpFamily, UdpConfig};
use ringway_dataplane::worker::{WorkerOptions, Workers};
use ringway_tuning::Limits;

use super::tap;
use crate::config::options::{Connection, Family, Options, Wrap};
use crate::config::server::{ClientConfig, Listen, Rate, ServerOptions};
use crate::driver::keepalive::KeepaliveConfig;
use crate::driver::setup;
use crate::host::env::ScriptEnv;
use crate::host::port_share::MOST_FILES;
use crate::host::server_scripts::Configured;
use crate::proto::acceptor::AcceptorConfig;
use crate::proto::rate::RateLimit;
use crate::proto::wrap::tls_crypt_v2::ServerKey;
use crate::proto::wrap::{ClientWraps, V2Server};

/// Open files of everything but connections: sockets, devices, scripts, logs.
const OTHER_FILES: u64 = 256;

/// How a listener's sockets are opened.
pub(super) fn listen_config(options: &Options, place: &Listen, local: Option<IpAddr>) -> UdpConfig {
    let family = match (local, place.family) {
        (Some(IpAddr::V4(_)), _) | (None, Family::V4) => UdpFamily::V4,
        // One socket for both families, unless only one is wanted.
        (Some(IpAddr::V6(_)), _) | (None, Family::V6 | Family::Any) => UdpFamily::V6,
    };
    let buffers = ringway_tuning::socket_buffers(Limits::read_towards(None));
    let mut config = UdpConfig::new(family);
    config.local = local;
    config.port = place.port;
    config.v6only = options.connections[0].bind_ipv6only || place.family == Family::V6;
    config.sndbuf = Some(options.sndbuf.map_or(buffers.sndbuf, |n| n as usize));
    config.rcvbuf = Some(options.rcvbuf.map_or(buffers.rcvbuf, |n| n as usize));
    config.mark = options.mark;
    config.bind_dev = options.bind_dev.clone();
    config.multihome = options.multihome;
    config.mtu_disc = options.mtu_disc.map(setup::mtu_discovery);
    config
}

/// How many workers serve each UDP listener: as many as asked for are shared out, at least one each.
pub(super) fn workers_each(options: &Options, listen: &[Listen]) -> usize {
    let listeners = listen.iter().filter(|place| !place.tcp).count();
    (setup::workers(options) / listeners.max(1)).max(1)
}

/// How many queues the device needs.
pub(in crate::driver) fn device_queues(options: &Options, settings: &ServerOptions) -> usize {
    let listeners = settings.listen.iter().filter(|place| !place.tcp).count();
    let workers = workers_each(options, &settings.listen) * listeners.max(1);
    Workers::queues(forwarding(options, settings), workers)
}

/// How packets are moved; `listeners` are the workers of each UDP listener.
pub(super) fn worker_options(options: &Options, listeners: Vec<Range<u16>>) -> WorkerOptions {
    WorkerOptions {
        listeners,
        ..setup::worker_options(options)
    }
}

/// Which packets go where.
pub(super) fn forwarding(options: &Options, settings: &ServerOptions) -> Forwarding {
    match options.dev_type {
        DeviceKind::Tun => Forwarding::Routed {
            client_to_client: settings.client_to_client,
        },
        DeviceKind::Tap => tap::forwarding(settings),
    }
}

/// What clients may come in, key files read now.
///
/// # Errors
/// One line: which file, and what is wrong with it.
pub(super) fn client_wraps(
    options: &Options,
    settings: &ServerOptions,
    connection: &Connection,
) -> Result<ClientWraps, String> {
    let Wrap::TlsCryptV2Server {
        key,
        force_cookie,
        beside,
    } = &connection.wrap
    else {
        return setup::wrap_config(options, connection).map(ClientWraps::fixed);
    };
    let fail = |what: String| format!("{}: {}: {}: {what}", key.position, key.option, key.name());
    let text = key.read().map_err(|error| fail(error.to_string()))?;
    let text = String::from_utf8(text).map_err(|_| fail("is not text".to_owned()))?;
    let beside = Connection {
        wrap: Wrap::clone(beside),
        ..connection.clone()
    };
    Ok(ClientWraps {
        fixed: setup::wrap_config(options, &beside)?,
        v2: Some(V2Server {
            key: ServerKey::parse(&text).map_err(|error| fail(error.to_string()))?,
            force_cookie: *force_cookie,
            max_age: settings.tls_crypt_v2_max_age,
        }),
    })
}

/// How strangers are met.
pub(super) fn acceptor(
    options: &Options,
    settings: &ServerOptions,
    wraps: Arc<ClientWraps>,
) -> AcceptorConfig {
    let limit = |rate: Rate| RateLimit::new(rate.n, Duration::from_secs(rate.seconds.into()));
    AcceptorConfig {
        wraps,
        hand_window: Duration::from_secs(options.hand_window),
        answers: limit(settings.connect_freq_initial),
        accepts: settings.connect_freq.map(limit),
        cookie_key: rand::random(),
    }
}

/// Liveness timers of a client: those of all with its own written over them.
pub(super) fn keepalive(options: &Options, client: &ClientConfig) -> KeepaliveConfig {
    let all = setup::keepalive(options, None);
    let seconds = |own: Option<u64>, all: Duration| own.map_or(all, Duration::from_secs);
    KeepaliveConfig {
        ping: seconds(client.ping, all.ping),
        needs_peer: false,
        ping_restart: seconds(client.ping_restart, all.ping_restart),
        ping_exit: seconds(client.ping_exit, all.ping_exit),
        inactive: client.inactive.or(all.inactive),
        session_timeout: seconds(client.session_timeout, all.session_timeout),
    }
}

/// What scripts are to know of a client, as far as every client has it.
pub(super) fn client_env(program: &ScriptEnv, settings: &ServerOptions) -> ScriptEnv {
    match settings.scripts().next() {
        Some(_) => program.clone(),
        None => ScriptEnv::unused(),
    }
}

/// Which scripts there are.
pub(super) fn hooks(settings: &ServerOptions) -> Configured {
    Configured {
        tls_crypt_v2_verify: settings.tls_crypt_v2_verify.is_some(),
        tls_verify: settings.tls_verify.is_some(),
        auth_user_pass_verify: settings.auth_user_pass_verify.is_some(),
        client_connect: settings.client_connect.is_some(),
        learn_address: settings.learn_address.is_some(),
        client_disconnect: settings.client_disconnect.is_some(),
    }
}

/// How many files a server has open at most: each connection is one.
pub(super) fn open_files(settings: &ServerOptions) -> u64 {
    let clients = match settings.listen.iter().any(|place| place.tcp) {
        true => u64::from(settings.max_clients),
        false => 0,
    };
    let shared = settings
        .port_share
        .as_ref()
        .map_or(0, |_| MOST_FILES as u64);
    OTHER_FILES + clients + shared
}
