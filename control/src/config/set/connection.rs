//! Options of the transport, most of which may stand in a `<connection>` block.

use super::proxy;
use crate::config::draft::{
    ConnectionDraft, Draft, Given, LocalDraft, MssFixDraft, ProtoDraft, ProtoKind,
};
use crate::config::options::{ConnectRetry, Family, Fragment, MtuDisc, RemapSignal};
use crate::config::values::{
    choice, host_name, interface_name, number_u16, number_u32, port, seconds, some_seconds,
};

/// Takes over an option outside `<connection>`.
pub(super) fn set_global(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    let options = &mut draft.options;
    match given.name {
        "remote" => {
            let mut remote = ConnectionDraft::default();
            set(&mut remote, given)?;
            draft.remotes.push(remote);
        }
        "local" => {
            set(&mut draft.connection, given)?;
            draft.locals.extend(draft.connection.local.clone());
        }
        "proto-force" => {
            let tcp = choice(given.arg(0), &[("udp", false), ("tcp", true)])?;
            draft.proto_force_tcp = Some(tcp);
        }
        "remote-random" => options.remote_random = true,
        "remote-random-hostname" => options.remote_random_hostname = true,
        "resolv-retry" => {
            options.resolv_retry = match given.arg(0) {
                "infinite" => None,
                text => Some(seconds(text)?),
            };
        }
        "connect-retry" => {
            let first = some_seconds(given.arg(0))?;
            let max = match given.args.get(1) {
                Some(text) => some_seconds(text)?,
                None => options.connect_retry.max,
            };
            options.connect_retry = ConnectRetry {
                first,
                max: max.max(first),
            };
        }
        "connect-retry-max" => {
            let rounds = number_u32(given.arg(0), 0..=i32::MAX as u32)?;
            options.connect_retry_max = (rounds > 0).then_some(rounds);
        }
        "multihome" => options.multihome = true,
        "sndbuf" => options.sndbuf = buffer(given.arg(0))?,
        "rcvbuf" => options.rcvbuf = buffer(given.arg(0))?,
        "mark" => options.mark = Some(number_u32(given.arg(0), 0..=u32::MAX)?),
        "bind-dev" => options.bind_dev = Some(interface_name(given.arg(0))?),
        "passtos" => options.passtos = true,
        "mtu-disc" => {
            let words = [
                ("no", MtuDisc::No),
                ("maybe", MtuDisc::Maybe),
                ("yes", MtuDisc::Yes),
            ];
            options.mtu_disc = Some(choice(given.arg(0), &words)?);
        }
        "allow-recursive-routing" => options.allow_recursive_routing = true,
        "remap-usr1" => {
            let words = [
                ("SIGHUP", RemapSignal::Sighup),
                ("SIGTERM", RemapSignal::Sigterm),
            ];
            options.remap_usr1 = Some(choice(given.arg(0), &words)?);
        }
        "persist-remote-ip" => options.persist_remote_ip = true,
        "persist-local-ip" => options.persist_local_ip = true,
        "persist-key" => options.persist_key = true,
        _ => return set(&mut draft.connection, given),
    }
    Ok(true)
}

/// Takes over an option of one connection.
pub(super) fn set(connection: &mut ConnectionDraft, given: &mut Given<'_>) -> Result<bool, String> {
    match given.name {
        "remote" => {
            connection.remote = Some(host_name(given.arg(0))?);
            if let Some(text) = given.args.get(1) {
                connection.rport = Some(port(text)?);
            }
            if let Some(text) = given.args.get(2) {
                connection.proto = Some(proto(text)?);
            }
            connection.position = Some(given.position.clone());
        }
        "proto" => connection.proto = Some(proto(given.arg(0))?),
        "local" => {
            connection.local = Some(LocalDraft {
                host: match given.arg(0) {
                    "*" => None,
                    text => Some(host_name(text)?),
                },
                port: given.args.get(1).map(|text| port(text)).transpose()?,
                proto: given.args.get(2).map(|text| proto(text)).transpose()?,
                position: given.position.clone(),
            });
        }
        "port" => {
            let both = port(given.arg(0))?;
            connection.lport = Some(both);
            connection.rport = Some(both);
        }
        "lport" => connection.lport = Some(number_u16(given.arg(0), 0..=u16::MAX)?),
        "rport" => connection.rport = Some(port(given.arg(0))?),
        "bind" => {
            connection.bind = Some(true);
            if let Some(text) = given.args.first() {
                choice(text, &[("ipv6only", ())])?;
                connection.bind_ipv6only = true;
            }
        }
        "nobind" => connection.bind = Some(false),
        "float" => connection.float = true,
        "connect-timeout" | "server-poll-timeout" => {
            connection.connect_timeout = Some(some_seconds(given.arg(0))?);
        }
        "explicit-exit-notify" => {
            connection.explicit_exit_notify = Some(match given.args.first() {
                Some(text) => number_u32(text, 0..=1000)?,
                None => 1,
            });
        }
        "tun-mtu" => {
            connection.tun_mtu = Some(number_u16(given.arg(0), 100..=u16::MAX)?);
            connection.occ_mtu = match given.args.get(1) {
                Some(text) => Some(number_u16(text, 100..=u16::MAX)?),
                None => None,
            };
        }
        "tun-mtu-max" => connection.tun_mtu_max = Some(number_u16(given.arg(0), 68..=u16::MAX)?),
        "mssfix" => connection.mssfix = Some(mssfix(given)?),
        "fragment" => {
            connection.fragment = Some(Fragment {
                size: number_u16(given.arg(0), MIN_FRAGMENT..=u16::MAX)?,
                mtu: match given.args.get(1) {
                    Some(word) => choice(word, &[("mtu", true)])?,
                    None => false,
                },
            });
        }
        "tls-auth" => {
            if given.inline.is_none()
                && let Some(text) = given.args.get(1)
            {
                connection.key_direction = Some(direction(text)?);
            }
            connection.tls_auth = Some(given.source()?);
        }
        "tls-crypt" => connection.tls_crypt = Some(given.source()?),
        "tls-crypt-v2" => {
            connection.tls_crypt_v2_cookie = match given.args.get(1) {
                Some(text) => Some(choice(
                    text,
                    &[("force-cookie", true), ("allow-noncookie", false)],
                )?),
                None => None,
            };
            connection.tls_crypt_v2 = Some(given.source()?);
        }
        "key-direction" => connection.key_direction = Some(direction(given.arg(0))?),
        _ => return proxy::set(connection, given),
    }
    Ok(true)
}

/// Smallest `fragment`, as OpenVPN has it: the smallest datagram every IPv4 host takes (RFC 791).
const MIN_FRAGMENT: u16 = 68;

/// `proto` and the last parameter of `remote` and `local`.
fn proto(text: &str) -> Result<ProtoDraft, String> {
    let (transport, side) = match text.split_once('-') {
        Some((transport, side)) => (transport, Some(side)),
        None => (text, None),
    };
    let family = match transport {
        "udp" | "tcp" => Family::Any,
        "udp4" | "tcp4" => Family::V4,
        "udp6" | "tcp6" => Family::V6,
        _ => return Err(not_a_proto(text)),
    };
    let kind = match (transport.starts_with("tcp"), side) {
        (false, None) => ProtoKind::Udp,
        (true, None) => ProtoKind::Tcp,
        (true, Some("client")) => ProtoKind::TcpClient,
        (true, Some("server")) => ProtoKind::TcpServer,
        _ => return Err(not_a_proto(text)),
    };
    Ok(ProtoDraft { kind, family })
}

fn not_a_proto(text: &str) -> String {
    format!(
        "\"{text}\" is not one of: udp, tcp, tcp-client, tcp-server, each also with 4 or 6 after \
         udp or tcp"
    )
}

fn direction(text: &str) -> Result<u8, String> {
    choice(text, &[("0", 0), ("1", 1)])
}

fn mssfix(given: &Given<'_>) -> Result<MssFixDraft, String> {
    let Some(text) = given.args.first() else {
        return Ok(MssFixDraft::Default);
    };
    let kind = given.args.get(1).map(String::as_str);
    match number_u16(text, 0..=u16::MAX)? {
        0 if kind.is_none() => Ok(MssFixDraft::Off),
        0..100 => Err(format!(
            "{text} bytes are too few; at least 100, or 0 for off"
        )),
        n => match kind {
            None => Ok(MssFixDraft::Payload(n)),
            Some(word) => choice(
                word,
                &[
                    ("mtu", MssFixDraft::Mtu(n)),
                    ("fixed", MssFixDraft::Fixed(n)),
                ],
            ),
        },
    }
}

/// A socket buffer size; 0 leaves the system's.
fn buffer(text: &str) -> Result<Option<u32>, String> {
    let bytes = number_u32(text, 0..=i32::MAX as u32)?;
    Ok((bytes > 0).then_some(bytes))
}
