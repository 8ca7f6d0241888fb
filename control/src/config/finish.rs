//! From what was given to what holds: defaults, options that stand for others, and checks of
//! options against each other.

mod server;
mod transport;

pub(super) use server::push_problem;

use ringway_dataplane::key_slot::{Cipher, Digest};
use ringway_dataplane::tun::DeviceKind;

use super::diagnostic::{ConfigError, Diagnostic};
use super::draft::{ConnectionDraft, Draft, MssFixDraft};
use super::options::{
    Connection, CrlVerify, DEFAULT_PORT, Family, Ifconfig, MssFix, Options, Proto, RouteGateway,
    Script, Wrap, parse_ip,
};
use super::parser::Loaded;
use super::position::Position;
use super::values::cipher_list;
use crate::proto::TlsRole;

/// `ping-restart` of a client until its server says otherwise (protocol §9).
const PULL_PING_RESTART: u64 = 120;

/// Completes and checks a draft.
///
/// # Errors
/// The first contradiction, with the place of one of the options involved.
pub(super) fn finish(mut draft: Draft) -> Result<Loaded, ConfigError> {
    role(&mut draft)?;
    device(&mut draft)?;
    server::expand(&mut draft)?;
    connections(&mut draft)?;
    liveness(&mut draft)?;
    identity(&mut draft)?;
    ciphers(&mut draft)?;
    addresses(&draft)?;
    server::complete(&mut draft)?;
    scripts(&mut draft);
    Ok(Loaded {
        options: draft.options,
        warnings: draft.warnings,
    })
}

/// An error at the place of an option, or without place when it was not given.
fn conflict(draft: &Draft, option: &str, message: impl Into<String>) -> ConfigError {
    match draft.at(option) {
        Some(position) => Diagnostic::error(position, option, message).into(),
        None => Diagnostic::general(format!("{option}: {}", message.into())).into(),
    }
}

fn warn(draft: &mut Draft, option: &str, message: &str) {
    let finding = match draft.at(option) {
        Some(position) => Diagnostic::warning(position, option, message),
        None => Diagnostic {
            severity: super::diagnostic::Severity::Warning,
            option: option.to_owned(),
            ..Diagnostic::general(message)
        },
    };
    draft.warnings.push(finding);
}

fn role(draft: &mut Draft) -> Result<(), ConfigError> {
    let server = draft.at("tls-server").is_some() || server::implies_role(draft);
    let client = draft.at("tls-client").is_some() || draft.options.client;
    draft.options.pull |= draft.options.client;
    draft.options.tls_role = match (client, server) {
        (true, false) => TlsRole::Client,
        (false, true) => TlsRole::Server,
        (true, true) => {
            let message = "cannot be used together with tls-client or client; delete one";
            let option = server::named(draft).unwrap_or("tls-server");
            return Err(conflict(draft, option, message));
        }
        (false, false) if draft.server.is_on() => {
            return Err(conflict(draft, "mode", "server needs tls-server"));
        }
        (false, false) => {
            let message = "no role: one of client, tls-client and tls-server is needed";
            return Err(Diagnostic::general(message).into());
        }
    };
    if draft.options.pull && server {
        return Err(conflict(
            draft,
            "pull",
            "is for clients; delete it or use tls-client",
        ));
    }
    Ok(())
}

fn device(draft: &mut Draft) -> Result<(), ConfigError> {
    let dev = &draft.options.dev;
    if dev.is_empty() {
        return Err(Diagnostic::general("dev: a device is needed, e.g. \"dev tun\"").into());
    }
    draft.options.dev_type = match draft.dev_type {
        Some(kind) => kind,
        None if dev.starts_with("tun") => DeviceKind::Tun,
        None if dev.starts_with("tap") => DeviceKind::Tap,
        None => {
            let message =
                format!("add \"dev-type tun\" or \"dev-type tap\" for a device named {dev}");
            return Err(conflict(draft, "dev", message));
        }
    };
    if is_tap(draft) {
        return Ok(());
    }
    if draft.options.lladdr.is_some() {
        let message = "a tun device has no hardware address; delete it or use tap";
        return Err(conflict(draft, "lladdr", message));
    }
    if draft.options.route_gateway == Some(RouteGateway::Dhcp) {
        let message = "\"dhcp\" needs a tap device; name the gateway's address";
        return Err(conflict(draft, "route-gateway", message));
    }
    Ok(())
}

/// The device carries Ethernet frames. Known once [`device`] has been asked.
fn is_tap(draft: &Draft) -> bool {
    draft.options.dev_type == DeviceKind::Tap
}

fn connections(draft: &mut Draft) -> Result<(), ConfigError> {
    let remotes = std::mem::take(&mut draft.remotes);
    let mut list = std::mem::take(&mut draft.blocks);
    if list.is_empty() {
        list.extend(remotes.into_iter().map(|remote| {
            let mut merged = draft.connection.clone();
            merged.remote = remote.remote;
            merged.rport = remote.rport.or(merged.rport);
            merged.proto = remote.proto.or(merged.proto);
            merged.position = remote.position;
            merged
        }));
    } else if !remotes.is_empty() {
        warn(
            draft,
            "remote",
            "no effect: <connection> blocks are present; move it into one",
        );
    }
    if list.is_empty() {
        list.push(draft.connection.clone());
    }
    if draft.options.pull && list.iter().any(|connection| connection.remote.is_none()) {
        return Err(Diagnostic::general("remote: a client needs a server to connect to").into());
    }
    transport::forced(draft, &mut list)?;
    let mut connections = list
        .into_iter()
        .map(|given| connection(draft, given))
        .collect::<Result<Vec<_>, _>>()?;
    transport::check(draft, &connections)?;
    if connections
        .iter()
        .all(|connection| connection.proto.is_tcp())
        && draft.at("explicit-exit-notify").is_some()
    {
        let message = "no effect: with proto tcp the end of the connection tells the peer";
        warn(draft, "explicit-exit-notify", message);
    }
    for connection in &mut connections {
        if connection.proto.is_tcp() {
            connection.explicit_exit_notify = 0;
        }
    }
    draft.options.connections = connections;
    Ok(())
}

fn connection(draft: &Draft, given: ConnectionDraft) -> Result<Connection, ConfigError> {
    let defaults = Connection::default();
    let fail = |option: &str, message: &str| {
        Err(match &given.position {
            Some(position) if draft.at(option).is_none() => {
                Diagnostic::error(position, option, message).into()
            }
            _ => conflict(draft, option, message),
        })
    };
    let local = given.local.as_ref().and_then(|local| local.host.clone());
    let local_port = given.local.as_ref().and_then(|local| local.port);
    let lport = local_port.or(given.lport);
    let local_proto = given.local.as_ref().and_then(|local| local.proto);
    let chosen = local_proto.or(given.proto);
    let proto = transport::proto(draft, chosen);
    let binds_itself = local.is_some() || (lport.is_some() && draft.at("port").is_none());
    let bind = match given.bind {
        Some(false) if lport.is_some_and(|_| binds_itself) => {
            return fail("nobind", "cannot be used together with lport; delete one");
        }
        Some(false) if local.is_some() => {
            return fail("nobind", "cannot be used together with local; delete one");
        }
        Some(bind) => bind,
        None => !(draft.options.client || proto == Proto::TcpClient) || binds_itself,
    };
    if !bind && given.remote.is_none() && proto == Proto::Udp {
        return fail(
            "nobind",
            "without a remote the peer cannot find this end; name a remote",
        );
    }
    let family = chosen.map_or(Family::Any, |chosen| chosen.family);
    for (option, address) in [("remote", &given.remote), ("local", &local)] {
        let literal = address.as_deref().and_then(parse_ip);
        if literal.is_some_and(|ip| family == Family::V4 && ip.is_ipv6()) {
            return fail(
                option,
                "an IPv6 address does not fit proto udp4 or tcp4; leave out the 4",
            );
        }
        if literal.is_some_and(|ip| family == Family::V6 && ip.is_ipv4()) {
            return fail(
                option,
                "an IPv4 address does not fit proto udp6 or tcp6; leave out the 6",
            );
        }
    }
    let tun_mtu = given.tun_mtu.unwrap_or(defaults.tun_mtu);
    let mssfix = match given.mssfix.unwrap_or(MssFixDraft::Default) {
        MssFixDraft::Default => MssFix::default_for(tun_mtu, given.fragment),
        MssFixDraft::Off => MssFix::Off,
        MssFixDraft::Payload(n) => MssFix::Payload(n),
        MssFixDraft::Mtu(n) => MssFix::Mtu(n),
        MssFixDraft::Fixed(n) => MssFix::Fixed(n),
    };
    let wrap = wrap(draft, &given)?;
    let proxy = transport::proxy(&given, proto)?;
    Ok(Connection {
        rport: given.rport.unwrap_or(DEFAULT_PORT),
        proto,
        family,
        proxy,
        lport: match bind {
            true => lport.unwrap_or(DEFAULT_PORT),
            false => 0,
        },
        bind,
        bind_ipv6only: given.bind_ipv6only,
        float: given.float || given.remote.is_none(),
        connect_timeout: given.connect_timeout.unwrap_or(defaults.connect_timeout),
        explicit_exit_notify: given.explicit_exit_notify.unwrap_or(0),
        tun_mtu,
        occ_mtu: given.occ_mtu,
        tun_mtu_max: given
            .tun_mtu_max
            .unwrap_or(defaults.tun_mtu_max.max(tun_mtu)),
        mssfix,
        fragment: given.fragment,
        wrap,
        position: given.position,
        remote: given.remote,
        local,
    })
}

/// The wrapping of a connection; its own setting comes before the one outside the block.
fn wrap(draft: &Draft, given: &ConnectionDraft) -> Result<Wrap, ConfigError> {
    let outside = &draft.connection;
    let own = given.tls_auth.is_some() || given.tls_crypt.is_some() || given.tls_crypt_v2.is_some();
    let from = if own { given } else { outside };
    let direction = given.key_direction.or(outside.key_direction);
    match (&from.tls_auth, &from.tls_crypt, &from.tls_crypt_v2) {
        (None, None, None) => Ok(Wrap::None),
        (Some(key), None, None) => Ok(Wrap::TlsAuth {
            key: key.clone(),
            direction,
        }),
        (None, Some(key), None) => Ok(Wrap::TlsCrypt(key.clone())),
        (auth, crypt, Some(key)) if draft.server.is_on() && (auth.is_none() || crypt.is_none()) => {
            Ok(Wrap::TlsCryptV2Server {
                key: key.clone(),
                force_cookie: from.tls_crypt_v2_cookie.unwrap_or(false),
                beside: Box::new(match (auth, crypt) {
                    (Some(key), _) => Wrap::TlsAuth {
                        key: key.clone(),
                        direction,
                    },
                    (None, Some(key)) => Wrap::TlsCrypt(key.clone()),
                    (None, None) => Wrap::None,
                }),
            })
        }
        (None, None, Some(key)) if draft.options.tls_role == TlsRole::Server => {
            let message = "has a key for each client and needs mode server; use tls-crypt";
            Err(Diagnostic::error(&key.position, key.option, message).into())
        }
        (None, None, Some(key)) if from.tls_crypt_v2_cookie.is_some() => {
            let message = "force-cookie and allow-noncookie are for servers; delete the word";
            Err(Diagnostic::error(&key.position, key.option, message).into())
        }
        (None, None, Some(key)) => Ok(Wrap::TlsCryptV2(key.clone())),
        (auth, crypt, crypt_v2) => {
            let extra = [crypt_v2, crypt, auth].into_iter().flatten().next();
            let message = "only one of tls-auth, tls-crypt and tls-crypt-v2 is possible";
            Err(match extra {
                Some(source) => Diagnostic::error(&source.position, source.option, message),
                None => Diagnostic::general(message),
            }
            .into())
        }
    }
}

fn liveness(draft: &mut Draft) -> Result<(), ConfigError> {
    if let Some((interval, timeout)) = draft.keepalive {
        for option in ["ping", "ping-restart", "ping-exit"] {
            if draft.at(option).is_some() {
                let message = "cannot be used together with keepalive, which sets it; delete one";
                return Err(conflict(draft, option, message));
            }
        }
        draft.options.ping = interval;
        draft.options.ping_restart = timeout;
        if draft.server.is_on() {
            server::keepalive(draft, interval, timeout)?;
        }
    }
    let chosen = draft.keepalive.is_some()
        || draft.at("ping-restart").is_some()
        || draft.at("ping-exit").is_some();
    if draft.options.pull && !chosen {
        draft.options.ping_restart = PULL_PING_RESTART;
    }
    Ok(())
}

/// Who the two ends are: certificates, fingerprints, logins.
fn identity(draft: &mut Draft) -> Result<(), ConfigError> {
    let options = &draft.options;
    if options.ca.is_none() && options.capath.is_none() && options.peer_fingerprint.is_empty() {
        let message = "ca: one of ca, capath and peer-fingerprint is needed to know the peer";
        return Err(Diagnostic::general(message).into());
    }
    match (&options.cert, &options.key) {
        (Some(_), None) => return Err(conflict(draft, "cert", "its private key is needed: key")),
        (None, Some(_)) => return Err(conflict(draft, "key", "its certificate is needed: cert")),
        (None, None) if options.tls_role == TlsRole::Server => {
            let message = "cert: a tls-server needs a certificate and its key";
            return Err(Diagnostic::general(message).into());
        }
        (None, None) if options.auth_user_pass.is_none() => {
            let message = "cert: a certificate with its key, or auth-user-pass, is needed";
            return Err(Diagnostic::general(message).into());
        }
        _ => {}
    }
    if options.auth_user_pass.is_some() && !options.pull {
        return Err(conflict(draft, "auth-user-pass", "needs pull or client"));
    }
    if options.static_challenge.is_some() && options.auth_user_pass.is_none() {
        return Err(conflict(draft, "static-challenge", "needs auth-user-pass"));
    }
    if options.tls_version_min > options.tls_version_max {
        let message = "is below tls-version-min; nothing is left to speak";
        return Err(conflict(draft, "tls-version-max", message));
    }
    if matches!(&options.crl_verify, Some(CrlVerify::Directory(source)) if source.path().is_none())
    {
        return Err(conflict(
            draft,
            "crl-verify",
            "a directory cannot be inline",
        ));
    }
    let checked = options.remote_cert_tls.is_some()
        || options.remote_cert_eku.is_some()
        || options.verify_x509_name.is_some()
        || options.ns_cert_type.is_some()
        || !options.verify_hash.is_empty()
        || !options.peer_fingerprint.is_empty();
    if options.tls_role == TlsRole::Client && !checked {
        let message = "not set: any certificate of the same authority can pose as the server; \
                       add \"remote-cert-tls server\"";
        warn(draft, "remote-cert-tls", message);
    }
    Ok(())
}

fn ciphers(draft: &mut Draft) -> Result<(), ConfigError> {
    let name = ["data-ciphers", "ncp-ciphers"]
        .into_iter()
        .max_by_key(|name| draft.at(name).is_some())
        .unwrap_or("data-ciphers");
    if let Some(list) = draft.data_ciphers.take() {
        let list = cipher_list(&list).map_err(|message| conflict(draft, name, message))?;
        draft.options.data_ciphers = list;
    }
    weak_ciphers(draft)?;
    let options = &mut draft.options;
    let Some(cipher) = options.cipher else {
        return Ok(());
    };
    // `compat-mode` below 2.5 offers `cipher` too, below 2.4 it is also assumed of old peers.
    if draft.compat_mode.is_some_and(|version| version < (2, 5))
        && !options.data_ciphers.contains(&cipher)
    {
        options.data_ciphers.push(cipher);
    }
    let old = draft.compat_mode.is_some_and(|version| version < (2, 4));
    let many = draft.server.is_on();
    if options.data_ciphers_fallback.is_none() && (old || !(options.pull || many)) {
        options.data_ciphers_fallback = Some(cipher);
    }
    let used = options.data_ciphers.contains(&cipher) || options.data_ciphers_fallback.is_some();
    if !used {
        let message = format!(
            "not in data-ciphers ({}), so it is not offered; add it there if the server needs it",
            cipher_names(&options.data_ciphers)
        );
        warn(draft, "cipher", &message);
    }
    Ok(())
}

/// What is possible but hardly meant, and `tls-auth` without a digest.
fn weak_ciphers(draft: &mut Draft) -> Result<(), ConfigError> {
    let options = &draft.options;
    let wrapped = |connection: &Connection| matches!(connection.wrap, Wrap::TlsAuth { .. });
    let digest = options.auth != Digest::None;
    if !digest && options.connections.iter().any(wrapped) {
        let message = "\"none\" is not possible with tls-auth; use tls-crypt or a digest";
        return Err(conflict(draft, "auth", message));
    }
    let with = |wanted: &[Cipher]| {
        options
            .data_ciphers
            .iter()
            .any(|cipher| wanted.contains(cipher))
            || options
                .cipher
                .is_some_and(|cipher| wanted.contains(&cipher))
    };
    let cbc = [Cipher::Aes128Cbc, Cipher::Aes192Cbc, Cipher::Aes256Cbc];
    let (open, unsigned) = (with(&[Cipher::None]), !digest && with(&cbc));
    if open {
        warn(
            draft,
            "cipher",
            "\"none\" is among the ciphers: packets may be sent in the clear",
        );
    }
    if unsigned {
        warn(
            draft,
            "auth",
            "\"none\" leaves packets of CBC ciphers open to forgery",
        );
    }
    Ok(())
}

fn cipher_names(ciphers: &[Cipher]) -> String {
    let names: Vec<_> = ciphers.iter().map(|&cipher| cipher.name()).collect();
    names.join(":")
}

fn addresses(draft: &Draft) -> Result<(), ConfigError> {
    let options = &draft.options;
    if let Some(Ifconfig {
        local,
        remote_netmask: second,
    }) = options.ifconfig
    {
        let bits = u32::from(second);
        let is_mask = second.octets()[0] == 255;
        let holes = bits.leading_ones() + bits.trailing_zeros() < 32;
        let message = match (options.has_subnet(), options.dev_type) {
            (true, DeviceKind::Tap) if !is_mask || holes => {
                "on a tap device the second value must be a netmask"
            }
            (true, DeviceKind::Tun) if !is_mask || holes => {
                "with topology subnet the second value must be a netmask"
            }
            (false, _) if is_mask => {
                "the second value must be the peer's address; for a netmask add \"topology subnet\""
            }
            (false, _) if local == second => "the two addresses must differ",
            _ => "",
        };
        if !message.is_empty() {
            return Err(conflict(draft, "ifconfig", message));
        }
    }
    if let Some(six) = &options.ifconfig_ipv6
        && six.local == six.remote
    {
        return Err(conflict(
            draft,
            "ifconfig-ipv6",
            "the two addresses must differ",
        ));
    }
    Ok(())
}

fn scripts(draft: &mut Draft) {
    let options = &draft.options;
    if options.script_security >= 2 {
        return;
    }
    let named: Vec<(&str, Position)> = script_list(options)
        .map(|(name, script)| (name, script.position.clone()))
        .collect();
    for (name, position) in named {
        let message = "is not run: scripts need \"script-security 2\"";
        draft
            .warnings
            .push(Diagnostic::warning(&position, name, message));
    }
}

/// Every script of a configuration with its option.
pub(crate) fn script_list(options: &Options) -> impl Iterator<Item = (&'static str, &Script)> {
    [
        ("up", &options.up),
        ("down", &options.down),
        ("route-up", &options.route_up),
        ("route-pre-down", &options.route_pre_down),
        ("ipchange", &options.ipchange),
    ]
    .into_iter()
    .filter_map(|(name, script)| script.as_ref().map(|script| (name, script)))
    .chain(options.server.iter().flat_map(|server| server.scripts()))
}
