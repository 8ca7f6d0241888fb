//! From checked options to what each part needs: plain translations, nothing is opened here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ringway_dataplane::command::Endpoint;
use ringway_dataplane::fragment::Fragment;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::DataFormat;
use ringway_dataplane::stats::PeerStats;
use ringway_dataplane::tun::DeviceKind;
use ringway_dataplane::udp::{Family as UdpFamily, MtuDiscovery, UdpConfig, UdpSocket};
use ringway_dataplane::worker::{IoChoice, WorkerOptions};
use ringway_tuning::Limits;
use ringway_tuning::cpu::Cores;

use super::keepalive::KeepaliveConfig;
use super::port::Patience;
use super::remotes::Target;
use crate::config::dns::Dns;
use crate::config::options::{
    Connection, Family, IoEngine, MssFix, MtuDisc, Options, Proto, Script, Wrap,
};
use crate::config::position::Source;
use crate::config::pushed::PulledOptions;
use crate::host::env::ScriptEnv;
use crate::host::netlink::Netlink;
use crate::host::privileges::Capability;
use crate::host::script::{ScriptCommand, ScriptPolicy};
use crate::log::{LogConfig, Target as LogTarget};
use crate::proto::error::KeyFileError;
use crate::proto::mssfix::{self, WireShape};
use crate::proto::negotiate::{Negotiated, Preferences, Pushed};
use crate::proto::occ::{OccCipher, OccInput, OccProto};
use crate::proto::peer_info::{Detail, OwnPeerInfo, extensions, iv_proto};
use crate::proto::push::{AuthFailed, loggable};
use crate::proto::tunnel::KeyUsage;
use crate::proto::wrap::tls_crypt_v2::ClientKey;
use crate::proto::wrap::{StaticKey, WrapConfig};

/// Version announced to peers: the release whose wire behaviour Ringway follows.
pub(super) const IV_VER: &str = "2.7.6";
/// Largest inner packet a super-packet may make of one UDP GSO message.
const MAX_UDP_PAYLOAD: u32 = 65_507;

/// `tun-mtu-extra` of OpenVPN on a tap device (protocol §10).
const TAP_MTU_EXTRA: u16 = 32;

/// How the socket is opened.
pub(super) fn udp_config(options: &Options, target: &Target, local: Option<IpAddr>) -> UdpConfig {
    let connection = &target.connection;
    let family = match (target.remote, local) {
        (Some(remote), _) => family_of(remote.ip()),
        (None, Some(local)) => family_of(local),
        (None, None) if connection.family == Family::V4 => UdpFamily::V4,
        // One socket for both families.
        (None, None) => UdpFamily::V6,
    };
    let buffers = ringway_tuning::socket_buffers(Limits::read_towards(
        target.remote.map(|remote| remote.ip()),
    ));
    let mut config = UdpConfig::new(family);
    config.local = local;
    config.port = if connection.bind { connection.lport } else { 0 };
    config.v6only = connection.bind_ipv6only;
    config.sndbuf = Some(options.sndbuf.map_or(buffers.sndbuf, |n| n as usize));
    config.rcvbuf = Some(options.rcvbuf.map_or(buffers.rcvbuf, |n| n as usize));
    config.mark = options.mark;
    config.bind_dev = options.bind_dev.clone();
    config.multihome = options.multihome;
    config.mtu_disc = options.mtu_disc.map(mtu_discovery);
    config
}

/// Longest packet in a TCP stream: what OpenVPN 2.6 and 2.7 take with their default MTU, and room for
/// a larger `tun-mtu` of one's own (protocol §1).
pub(super) fn max_stream_packet(connection: &Connection) -> usize {
    1768.max(usize::from(connection.tun_mtu.max(connection.tun_mtu_max)) + 168)
}

/// `mtu-disc` in the socket's words.
pub(super) fn mtu_discovery(option: MtuDisc) -> MtuDiscovery {
    match option {
        MtuDisc::No => MtuDiscovery::No,
        MtuDisc::Maybe => MtuDiscovery::Maybe,
        MtuDisc::Yes => MtuDiscovery::Yes,
    }
}

/// Opens a socket for each worker. Where the system has no IPv6, one for both families becomes one for IPv4.
pub(super) fn open_udp(
    options: &Options,
    target: &Target,
    local: Option<IpAddr>,
) -> Result<Vec<UdpSocket>, String> {
    let mut config = udp_config(options, target, local);
    let workers = workers(options);
    let mut patience = Patience::new();
    let first = patience.bind(|| UdpSocket::open_group(&config, workers));
    let either = target.remote.is_none()
        && local.is_none()
        && target.connection.family == Family::Any
        && !config.v6only;
    if first.is_err() && either {
        config.family = UdpFamily::V4;
        // The same fault again is the one to tell: a port in use, say.
        let second = patience.bind(|| UdpSocket::open_group(&config, workers));
        return second.map_err(|e| e.to_string());
    }
    first.map_err(|e| e.to_string())
}

/// How many threads move packets.
pub(super) fn workers(options: &Options) -> usize {
    options.ringway_workers.map_or_else(
        || ringway_tuning::cpu::workers(Cores::count(), options.server.is_some()),
        usize::from,
    )
}

/// How packets are moved.
pub(super) fn worker_options(options: &Options) -> WorkerOptions {
    WorkerOptions {
        io: match options.ringway_io {
            IoEngine::Auto => IoChoice::Auto,
            IoEngine::Uring => IoChoice::Uring,
            IoEngine::Syscalls => IoChoice::Syscalls,
        },
        cpus: options.ringway_cpus.clone(),
        busy_poll: options.ringway_busy_poll,
        ..WorkerOptions::default()
    }
}

/// Liveness timers. A pulling client that was told nothing waits 120 s at most (protocol §9);
/// `pulled` is what the server pushed, already part of `options`.
pub(super) fn keepalive(options: &Options, pulled: Option<&PulledOptions>) -> KeepaliveConfig {
    let told = pulled.is_some_and(|p| p.ping_restart.is_some() || p.ping_exit.is_some());
    let restart = match (options.ping_restart, options.ping_exit) {
        (0, 0) if options.pull && !told => 120,
        (restart, _) => restart,
    };
    KeepaliveConfig {
        ping: Duration::from_secs(options.ping),
        needs_peer: options.ping_timer_rem,
        ping_restart: Duration::from_secs(restart),
        ping_exit: Duration::from_secs(options.ping_exit),
        inactive: options.inactive,
        session_timeout: Duration::from_secs(options.session_timeout),
    }
}

/// Our wishes for the data channel.
pub(super) fn preferences(options: &Options) -> Preferences {
    Preferences {
        data_ciphers: options.data_ciphers.clone(),
        fallback: options
            .data_ciphers_fallback
            .or(options.cipher.filter(|_| !options.pull)),
        digest: options.auth,
        framing: options.compress,
    }
}

/// Our options string (protocol §5.1).
pub(super) fn options_string(options: &Options, connection: &Connection) -> String {
    let p2p = !options.pull;
    let ifconfig = options.ifconfig.filter(|_| p2p && !options.ifconfig_nowarn);
    let wrap = match &connection.wrap {
        Wrap::TlsCryptV2Server { beside, .. } => beside,
        other => other,
    };
    let (tls_auth, keydir) = match wrap {
        Wrap::TlsAuth { direction, .. } => (true, *direction),
        Wrap::None | Wrap::TlsCrypt(_) => (false, None),
        Wrap::TlsCryptV2(_) | Wrap::TlsCryptV2Server { .. } => (false, None),
    };
    OccInput {
        tap: options.dev_type == DeviceKind::Tap,
        tun_mtu: u32::from(connection.occ_mtu.unwrap_or(connection.tun_mtu)),
        proto: match connection.proto {
            Proto::Udp => OccProto::Udp,
            Proto::TcpClient => OccProto::TcpClient,
            Proto::TcpServer => OccProto::TcpServer,
        },
        tun_ipv6: p2p && options.ifconfig_ipv6.is_some(),
        ifconfig: ifconfig.map(|i| match options.has_subnet() {
            true => {
                let network = u32::from(i.local) & u32::from(i.remote_netmask);
                (
                    Ipv4Addr::from(network).to_string(),
                    i.remote_netmask.to_string(),
                )
            }
            false => (i.remote_netmask.to_string(), i.local.to_string()),
        }),
        comp: options.compress != Framing::None,
        fragment: connection.fragment.is_some(),
        keydir,
        cipher: options
            .cipher
            .map_or(OccCipher::BfCbc, OccCipher::Configured),
        show_cipher: p2p
            || options
                .cipher
                .is_some_and(|c| options.data_ciphers.contains(&c)),
        digest: options.auth,
        tls_auth,
        role: options.tls_role,
    }
    .to_options()
}

/// Our peer info (protocol §5.2).
pub(super) fn peer_info(options: &Options, connection: &Connection) -> String {
    let own = |prefix: &str| {
        let named = options
            .setenv
            .iter()
            .filter(|(name, _)| name.starts_with(prefix));
        named.cloned().collect::<Vec<_>>()
    };
    let mut private = vec![("IV_SSL".to_owned(), "rustls".to_owned())];
    if options.push_peer_info {
        private.extend(host_info());
    }
    private.extend(own("UV_"));
    let info = OwnPeerInfo {
        version: IV_VER.to_owned(),
        platform: "linux".to_owned(),
        iv_proto: if options.pull {
            iv_proto::PULL
        } else {
            iv_proto::P2P
        },
        ciphers: options
            .data_ciphers
            .iter()
            .map(|c| c.name().to_owned())
            .collect(),
        mtu: options.pull.then_some(u32::from(connection.tun_mtu_max)),
        extensions: if options.pull { 0 } else { extensions::OWN },
        stub_framings: true,
        extra: own("IV_"),
        private,
    };
    info.to_lines(match (options.pull, options.push_peer_info) {
        (_, true) => Detail::Full,
        (true, false) => Detail::Pull,
        (false, false) => Detail::Negotiation,
    })
}

/// What `push-peer-info` tells of this machine: the release of the system, and the hardware address
/// of the interface that leads to the default gateway.
fn host_info() -> Vec<(String, String)> {
    let mut info = Vec::new();
    if let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        info.push(("IV_PLAT_VER".to_owned(), release.trim().to_owned()));
    }
    let uplink = Netlink::open()
        .and_then(|mut netlink| netlink.default_gateway(false))
        .ok()
        .flatten();
    let address = uplink.and_then(|hop| {
        let name = nix::net::if_::if_indextoname(hop.ifindex).ok()?;
        let path = format!("/sys/class/net/{}/address", name.to_str().ok()?);
        std::fs::read_to_string(path).ok()
    });
    if let Some(address) = address {
        info.push(("IV_HWADDR".to_owned(), address.trim().to_owned()));
    }
    info
}

/// What a data packet looks like on the wire, which `mssfix` depends on. For a tap device it leaves the
/// room that OpenVPN does, which is more than an Ethernet header takes.
pub(super) fn wire_shape(
    negotiated: &Negotiated,
    connection: &Connection,
    endpoint: Endpoint,
    device: DeviceKind,
) -> WireShape {
    WireShape {
        cipher: negotiated.cipher,
        digest: negotiated.digest,
        format: negotiated.format,
        peer_id: negotiated.peer_id.is_some(),
        tcp: endpoint.stream.is_some(),
        outer_v6: endpoint.remote.is_ipv6(),
        framing: negotiated.framing,
        fragment: connection.fragment.is_some(),
        tun_mtu_extra: match device {
            DeviceKind::Tun => 0,
            DeviceKind::Tap => TAP_MTU_EXTRA,
        },
        proxy_header: 0,
    }
}

/// How packets are cut (`fragment`), and how large those may be that come back together.
pub(super) fn fragment(shape: &WireShape, connection: &Connection) -> Option<Fragment> {
    let given = connection.fragment?;
    Some(Fragment {
        payload: shape.fragment_payload(given.size, given.mtu),
        largest: connection.tun_mtu.max(connection.tun_mtu_max),
    })
}

/// `mssfix` in the arithmetic's words.
pub(super) fn mssfix(option: MssFix) -> mssfix::MssFix {
    match option {
        MssFix::Off => mssfix::MssFix::Off,
        MssFix::Payload(n) => mssfix::MssFix::Payload(n),
        MssFix::Mtu(n) => mssfix::MssFix::Mtu(n),
        MssFix::Fixed(n) => mssfix::MssFix::Fixed(n),
    }
}

/// The largest super-packet whose segments, each with the tunnel's overhead, fit one UDP message.
/// Sixty-four bytes of overhead per segment cover every cipher but CBC with long digests, which
/// simply takes two messages.
pub(super) fn gso_max_size(tun_mtu: u32) -> u32 {
    let inner = tun_mtu.max(576);
    let segments = (MAX_UDP_PAYLOAD / (inner + 64)).max(1);
    (segments * inner).clamp(u32::from(u16::MAX) / 4, u32::from(u16::MAX))
}

/// What the server pushed about the data channel.
pub(super) fn pushed(pulled: &PulledOptions) -> Pushed {
    Pushed {
        cipher: pulled.cipher,
        peer_id: pulled.peer_id,
        ekm: pulled.protocol_flags.tls_ekm,
        cc_exit: pulled.protocol_flags.cc_exit,
        dyn_tls_crypt: pulled.protocol_flags.dyn_tls_crypt,
        aead_epoch: pulled.protocol_flags.aead_epoch,
        framing: pulled.compress,
    }
}

/// `[AF_INET]192.0.2.1:1194`, as OpenVPN's logs write addresses.
pub(super) fn address_text(address: SocketAddr) -> String {
    let family = if address.is_ipv4() {
        "AF_INET"
    } else {
        "AF_INET6"
    };
    match address.ip() {
        ip if ip.is_unspecified() => format!("[{family}][undef]:{}", address.port()),
        ip => format!("[{family}]{ip}:{}", address.port()),
    }
}

/// `192.0.2.1:1194`, an IPv4 address inside an IPv6 one as such.
pub(super) fn plain_address(address: SocketAddr) -> String {
    SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
}

/// How much the sending key of a peer has been used.
pub(super) fn key_usage(stats: &PeerStats) -> KeyUsage {
    KeyUsage {
        tx_packets: stats.key_tx_packets.load(Relaxed),
        bytes: stats.key_bytes(),
        packets: stats.key_packets(),
        aead: stats.key_aead_usage(),
        auth_failures: stats.key_auth_failures.load(Relaxed),
        epoch: stats.epoch.load(Relaxed),
    }
}

/// The pushed options for the log, tokens masked.
pub(super) fn without_secrets(lines: &[String]) -> String {
    let shown: Vec<&str> = lines.iter().map(|line| loggable(line)).collect();
    shown.join(",")
}

/// What else was agreed on, for the log.
pub(super) fn features_text(negotiated: &Negotiated) -> String {
    let mut features = Vec::new();
    if negotiated.ekm {
        features.push("tls-ekm");
    }
    if negotiated.cc_exit {
        features.push("cc-exit");
    }
    if negotiated.dyn_tls_crypt {
        features.push("dyn-tls-crypt");
    }
    if negotiated.format == DataFormat::Epoch {
        features.push("aead-epoch");
    }
    if features.is_empty() {
        String::new()
    } else {
        format!(", features: {}", features.join(" "))
    }
}

/// When to renegotiate: `reneg-sec`, or a random time between its two values.
pub(super) fn reneg_sec(options: &Options) -> Duration {
    let longest = options.reneg_sec;
    let seconds = match options.reneg_sec_min {
        Some(shortest) if shortest < longest => rand::random_range(shortest..=longest),
        _ => longest,
    };
    Duration::from_secs(seconds)
}

/// The wrapping of every place to connect to, key files read now.
pub(super) fn wrap_configs(options: &Options) -> Result<Vec<(Wrap, WrapConfig)>, String> {
    let mut all: Vec<(Wrap, WrapConfig)> = Vec::new();
    for connection in &options.connections {
        if !all.iter().any(|(wrap, _)| *wrap == connection.wrap) {
            let config = wrap_config(options, connection)?;
            all.push((connection.wrap.clone(), config));
        }
    }
    Ok(all)
}

/// The control-channel wrapping, its key files read now.
pub(super) fn wrap_config(
    options: &Options,
    connection: &Connection,
) -> Result<WrapConfig, String> {
    let text = |source: &Source| {
        let bytes = source.read().map_err(|e| {
            format!(
                "{}: {}: cannot read {}: {e}",
                source.position,
                source.option,
                source.name()
            )
        })?;
        String::from_utf8(bytes).map_err(|_| {
            format!(
                "{}: {}: {} is not text",
                source.position,
                source.option,
                source.name()
            )
        })
    };
    let bad = |source: &Source, error: KeyFileError| {
        format!(
            "{}: {}: {}: {error}",
            source.position,
            source.option,
            source.name()
        )
    };
    Ok(match &connection.wrap {
        Wrap::None => WrapConfig::None,
        Wrap::TlsAuth { key, direction } => {
            let text = text(key)?;
            let parsed = match direction {
                Some(_) => StaticKey::parse(&text),
                None => StaticKey::parse_bidirectional(&text),
            };
            WrapConfig::TlsAuth {
                key: parsed.map_err(|e| bad(key, e))?,
                direction: *direction,
                digest: options.auth,
            }
        }
        Wrap::TlsCrypt(key) => WrapConfig::TlsCrypt {
            key: StaticKey::parse(&text(key)?).map_err(|e| bad(key, e))?,
        },
        Wrap::TlsCryptV2(key) => {
            let client = ClientKey::parse(&text(key)?).map_err(|e| bad(key, e))?;
            WrapConfig::TlsCryptV2Client {
                key: client.key,
                wkc: client.wkc,
            }
        }
        // Wraps as many connections as there are clients; their server unwraps their keys.
        Wrap::TlsCryptV2Server { key, .. } => {
            let reason = "a server key wraps no connection of its own";
            return Err(format!("{}: {}: {reason}", key.position, key.option));
        }
    })
}

/// Where and how to log.
pub(super) fn log_config(options: &Options) -> LogConfig {
    let target = match &options.log {
        Some(file) => LogTarget::File {
            path: file.path.clone(),
            append: file.append,
        },
        None if options.syslog => LogTarget::Syslog {
            program: options
                .progname
                .clone()
                .unwrap_or_else(|| "ringway".to_owned()),
        },
        None => LogTarget::Stdout,
    };
    LogConfig {
        verb: options.verb,
        mute: options.mute,
        target,
        suppress_timestamps: options.suppress_timestamps,
        machine_readable: options.machine_readable_output,
        errors_to_stderr: options.errors_to_stderr,
        ..LogConfig::default()
    }
}

/// Variables every script sees.
pub(super) fn base_environment(options: &Options, env: &mut ScriptEnv) {
    let started = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    env.set_process(
        options.daemon,
        options.log.is_some(),
        started,
        options.verb,
        options.config.as_deref(),
    );
    for (index, connection) in options.connections.iter().enumerate() {
        let port = connection.rport.to_string();
        let local = connection.lport.to_string();
        let family = match connection.family {
            Family::Any => "",
            Family::V4 => "4",
            Family::V6 => "6",
        };
        let proto = match connection.proto {
            Proto::Udp => format!("udp{family}"),
            Proto::TcpClient => format!("tcp{family}-client"),
            Proto::TcpServer => format!("tcp{family}-server"),
        };
        env.set_connection(
            index + 1,
            connection
                .remote
                .as_deref()
                .map(|host| (host, port.as_str())),
            connection.bind.then_some(local.as_str()),
            &proto,
        );
    }
    for (name, value) in &options.setenv {
        env.set(name, value);
    }
    // Stock clients tell of `dns` only together with what was pushed.
    env.set_foreign_options(&options.dhcp_option, &Dns::default());
}

/// A configured script as the host runs it.
pub(super) fn script(script: &Script) -> ScriptCommand {
    ScriptCommand::from_words(script.argv.clone())
}

/// What scripts may do.
pub(super) fn script_policy(options: &Options) -> ScriptPolicy {
    ScriptPolicy {
        security: options.script_security,
        limit: None,
    }
}

/// Capabilities that work after the drop of privileges needs: CAP_NET_ADMIN for devices, addresses
/// and routes, CAP_NET_BIND_SERVICE to bind a low port again.
pub(super) fn capabilities_kept(options: &Options) -> Vec<Capability> {
    let late_routes = options.pull
        || !options.route.is_empty()
        || !options.route_ipv6.is_empty()
        || options.redirect_gateway.is_some();
    let mut keep = Vec::new();
    if late_routes || !options.persist_tun || options.mark.is_some() || options.up_delay {
        keep.push(Capability::CAP_NET_ADMIN);
    }
    if options
        .connections
        .iter()
        .any(|c| c.bind && (1..1024).contains(&c.lport))
    {
        keep.push(Capability::CAP_NET_BIND_SERVICE);
    }
    if options.bind_dev.is_some() {
        keep.push(Capability::CAP_NET_RAW);
    }
    keep
}

/// An AUTH_FAILED for the log.
pub(super) fn auth_failed_text(failed: &AuthFailed) -> String {
    let (kind, reason) = match failed {
        AuthFailed::Plain { reason } => ("AUTH_FAILED", reason),
        AuthFailed::Temporary { reason, .. } => ("AUTH_FAILED,TEMP", reason),
        AuthFailed::Session { reason } => ("AUTH_FAILED,SESSION", reason),
        AuthFailed::Challenge { text, .. } => ("AUTH_FAILED,CRV1", text),
    };
    if reason.is_empty() {
        kind.to_owned()
    } else {
        format!("{kind}: {reason}")
    }
}

fn family_of(ip: IpAddr) -> UdpFamily {
    if ip.is_ipv4() {
        UdpFamily::V4
    } else {
        UdpFamily::V6
    }
}
