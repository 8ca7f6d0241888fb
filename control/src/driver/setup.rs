//! From checked options to what each part needs: plain translations, nothing is opened here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{Cipher, DataFormat};
use ringway_dataplane::udp::{Family as UdpFamily, MtuDiscovery, UdpConfig};
use ringway_dataplane::worker::IoChoice;

use super::keepalive::KeepaliveConfig;
use super::remotes::{Target, resolve_local};
use crate::config::options::{
    Connection, Family, IoEngine, MssFix, MtuDisc, Options, Topology, Wrap,
};
use crate::config::pushed::PulledOptions;
use crate::proto::TlsRole;
use crate::proto::mssfix::{self, MssInput};
use crate::proto::negotiate::{Negotiated, Preferences, Pushed};
use crate::proto::occ::{OccCipher, OccInput, OccProto};
use crate::proto::peer_info::{Detail, OwnPeerInfo, iv_proto};

/// Version announced to peers: the release whose wire behaviour Ringway follows.
pub(super) const IV_VER: &str = "2.7.6";
/// Largest inner packet a super-packet may make of one UDP GSO message.
const MAX_UDP_PAYLOAD: u32 = 65_507;

/// How the socket is opened.
pub(super) fn udp_config(options: &Options, target: &Target) -> Result<UdpConfig, String> {
    let connection = &target.connection;
    let local = match &connection.local {
        Some(name) => Some(resolve_local(name, target.remote, connection.family)?),
        None => None,
    };
    let family = match (target.remote, local) {
        (Some(remote), _) => family_of(remote.ip()),
        (None, Some(local)) => family_of(local),
        (None, None) if connection.family == Family::V6 => UdpFamily::V6,
        (None, None) => UdpFamily::V4,
    };
    let buffers = ringway_tuning::socket_buffers();
    let mut config = UdpConfig::new(family);
    config.local = local;
    config.port = if connection.bind { connection.lport } else { 0 };
    config.v6only = connection.bind_ipv6only;
    config.sndbuf = Some(options.sndbuf.map_or(buffers.sndbuf, |n| n as usize));
    config.rcvbuf = Some(options.rcvbuf.map_or(buffers.rcvbuf, |n| n as usize));
    config.mark = options.mark;
    config.bind_dev = options.bind_dev.clone();
    config.multihome = options.multihome;
    config.mtu_disc = options.mtu_disc.map(|m| match m {
        MtuDisc::No => MtuDiscovery::No,
        MtuDisc::Maybe => MtuDiscovery::Maybe,
        MtuDisc::Yes => MtuDiscovery::Yes,
    });
    Ok(config)
}

/// How packets are moved.
pub(super) fn io_choice(options: &Options) -> IoChoice {
    match options.ringway_io {
        IoEngine::Auto => IoChoice::Auto,
        IoEngine::Uring => IoChoice::Uring,
        IoEngine::Syscalls => IoChoice::Syscalls,
    }
}

/// Liveness timers before anything is pushed.
pub(super) fn keepalive(options: &Options) -> KeepaliveConfig {
    // A pulling client waits no longer than this until the server says otherwise (protocol §9).
    let restart = match (options.pull, options.ping_restart, options.ping_exit) {
        (true, 0, 0) => 120,
        (_, restart, _) => restart,
    };
    KeepaliveConfig {
        ping: Duration::from_secs(options.ping),
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
        fallback: options.data_ciphers_fallback.or(options.cipher.filter(|_| !options.pull)),
        digest: options.auth,
        framing: options.compress,
    }
}

/// Our options string (protocol §5.1).
pub(super) fn options_string(options: &Options, connection: &Connection) -> String {
    let p2p = !options.pull;
    let ifconfig = options.ifconfig.filter(|_| p2p && !options.ifconfig_nowarn);
    let (tls_auth, keydir) = match connection.wrap {
        Wrap::TlsAuth { direction, .. } => (true, direction),
        Wrap::None | Wrap::TlsCrypt(_) | Wrap::TlsCryptV2(_) => (false, None),
    };
    OccInput {
        tap: false,
        tun_mtu: u32::from(connection.occ_mtu.unwrap_or(connection.tun_mtu)),
        proto: OccProto::Udp,
        tun_ipv6: p2p && options.ifconfig_ipv6.is_some(),
        ifconfig: ifconfig.map(|i| match options.topology {
            Topology::Subnet => {
                let network = u32::from(i.local) & u32::from(i.remote_netmask);
                (Ipv4Addr::from(network).to_string(), i.remote_netmask.to_string())
            }
            Topology::P2p | Topology::Net30 => (i.remote_netmask.to_string(), i.local.to_string()),
        }),
        comp: options.compress != Framing::None,
        fragment: false,
        keydir,
        cipher: options.cipher.map_or(OccCipher::BfCbc, OccCipher::Configured),
        show_cipher: p2p || options.cipher.is_some_and(|c| options.data_ciphers.contains(&c)),
        digest: options.auth,
        tls_auth,
        role: options.tls_role,
    }
    .to_options()
}

/// Our peer info (protocol §5.2).
pub(super) fn peer_info(options: &Options, connection: &Connection) -> String {
    let own = |prefix: &str| {
        let named = options.setenv.iter().filter(|(name, _)| name.starts_with(prefix));
        named.cloned().collect::<Vec<_>>()
    };
    let mut private = vec![("IV_SSL".to_owned(), "rustls".to_owned())];
    private.extend(own("UV_"));
    let info = OwnPeerInfo {
        version: IV_VER.to_owned(),
        platform: "linux".to_owned(),
        iv_proto: if options.pull { iv_proto::PULL } else { iv_proto::P2P },
        ciphers: options.data_ciphers.iter().map(|c| c.name().to_owned()).collect(),
        mtu: options.pull.then_some(u32::from(connection.tun_mtu_max)),
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

/// What `mssfix` depends on once the data channel is agreed.
pub(super) fn mss_input(target: &Target, negotiated: &Negotiated, remote: SocketAddr) -> MssInput {
    let connection = &target.connection;
    MssInput {
        mssfix: match connection.mssfix {
            MssFix::Off => mssfix::MssFix::Off,
            MssFix::Payload(n) => mssfix::MssFix::Payload(n),
            MssFix::Mtu(n) => mssfix::MssFix::Mtu(n),
            MssFix::Fixed(n) => mssfix::MssFix::Fixed(n),
        },
        cipher: negotiated.cipher,
        digest: negotiated.digest,
        format: negotiated.format,
        peer_id: negotiated.peer_id.is_some(),
        outer_v6: remote.is_ipv6(),
        framing: negotiated.framing,
    }
}

/// The largest super-packet whose segments, each with the tunnel's overhead, fit one UDP message.
/// Sixty-four bytes of overhead per segment cover every cipher but CBC with long digests, which
/// simply takes two messages.
pub(super) fn gso_max_size(tun_mtu: u16) -> u32 {
    let inner = u32::from(tun_mtu.max(576));
    let segments = (MAX_UDP_PAYLOAD / (inner + 64)).max(1);
    (segments * inner).clamp(u32::from(u16::MAX) / 4, u32::from(u16::MAX))
}

/// What the server pushed about the data channel.
pub(super) fn pushed(pulled: &PulledOptions) -> Pushed {
    Pushed {
        cipher: pulled.cipher,
        peer_id: pulled.peer_id,
        ekm: pulled.tls_ekm,
        cc_exit: pulled.cc_exit,
        dyn_tls_crypt: pulled.dyn_tls_crypt,
        aead_epoch: pulled.aead_epoch,
        framing: pulled.compress,
    }
}

/// Liveness timers after PUSH_REPLY.
pub(super) fn pulled_keepalive(pulled: &PulledOptions, before: KeepaliveConfig) -> KeepaliveConfig {
    KeepaliveConfig {
        ping: pulled.ping.map_or(before.ping, Duration::from_secs),
        ping_restart: match (pulled.ping_restart, pulled.ping_exit) {
            (Some(n), _) => Duration::from_secs(n),
            (None, Some(_)) => Duration::ZERO,
            (None, None) => before.ping_restart,
        },
        ping_exit: pulled.ping_exit.map_or(before.ping_exit, Duration::from_secs),
        inactive: pulled.inactive.or(before.inactive),
        session_timeout: pulled.session_timeout.map_or(before.session_timeout, Duration::from_secs),
    }
}

/// `[AF_INET]192.0.2.1:1194`, as OpenVPN's logs write addresses.
pub(super) fn address_text(address: SocketAddr) -> String {
    let family = if address.is_ipv4() { "AF_INET" } else { "AF_INET6" };
    format!("[{family}]{}:{}", address.ip(), address.port())
}

/// The pushed options for the log, tokens masked.
pub(super) fn without_secrets(lines: &[String]) -> String {
    let shown: Vec<&str> = lines
        .iter()
        .map(|l| if l.starts_with("auth-token ") { "auth-token [hidden]" } else { l })
        .collect();
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
    if features.is_empty() { String::new() } else { format!(", features: {}", features.join(" ")) }
}

/// A cipher that should no longer protect anything.
pub(super) fn is_weak(cipher: Cipher) -> bool {
    cipher == Cipher::None
}

/// The environment's word for the transport (`proto_1`).
pub(super) fn proto_name(role: TlsRole, remote: Option<SocketAddr>) -> &'static str {
    let _ = role;
    match remote {
        Some(SocketAddr::V6(_)) => "udp6",
        _ => "udp",
    }
}

fn family_of(ip: IpAddr) -> UdpFamily {
    if ip.is_ipv4() { UdpFamily::V4 } else { UdpFamily::V6 }
}
