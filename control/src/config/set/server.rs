//! Options of a server: pools, what is pushed, who may come in, scripts.

use crate::config::draft::{BridgeDraft, Draft, Given};
use crate::config::server::{
    AuthGenToken, AuthVia, ExportFolder, Pool, PoolPersist, PortShare, Rate, VlanAccept,
};
use crate::config::values::{
    choice, host_name, ipv4, ipv6_prefix, netmask, number, number_u16, number_u32, port, push_line,
    seconds, some_seconds,
};
use crate::tls::VerifyClientCert;

use super::process::script;

/// Largest number of clients: peer-ids are 24 bits wide, and the last one means none.
const MAX_CLIENTS: u32 = 0xff_ffff;

/// Seconds of `ringway-push-update` that names none, and the most it may name.
const PUSH_UPDATE: u32 = 5;
const MAX_PUSH_UPDATE: u32 = 3600;

/// Takes over an option of this group.
pub(super) fn set(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    Ok(set_networks(draft, given)?
        || set_limits(draft, given)?
        || set_access(draft, given)?
        || set_scripts(draft, given)?)
}

fn set_networks(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    let server = &mut draft.server;
    match given.name {
        "server" => {
            if let Some(word) = given.args.get(2) {
                choice(word, &[("nopool", ())])?;
            }
            server.nopool = given.args.len() > 2;
            server.network = Some((ipv4(given.arg(0))?, netmask(given.arg(1))?));
        }
        "server-ipv6" => server.network_ipv6 = Some(pool_ipv6(given.arg(0))?),
        "server-bridge" => {
            server.bridge = Some(match given.args {
                [] => BridgeDraft::Dhcp,
                [word] => choice(word, &[("nogw", BridgeDraft::DhcpNoGateway)])?,
                [gateway, mask, first, last] => {
                    BridgeDraft::Pool([ipv4(gateway)?, netmask(mask)?, ipv4(first)?, ipv4(last)?])
                }
                _ => {
                    return Err(
                        "write: server-bridge gateway netmask first-address last-address, or \
                         server-bridge alone"
                            .to_owned(),
                    );
                }
            });
        }
        "ifconfig-pool" => {
            server.options.ifconfig_pool = Some(Pool {
                start: ipv4(given.arg(0))?,
                end: ipv4(given.arg(1))?,
                netmask: given.args.get(2).map(|text| netmask(text)).transpose()?,
            });
        }
        "ifconfig-ipv6-pool" => {
            server.options.ifconfig_ipv6_pool = Some(pool_ipv6(given.arg(0))?);
        }
        "ifconfig-pool-persist" => {
            server.options.ifconfig_pool_persist = Some(PoolPersist {
                path: given.path(given.arg(0))?,
                seconds: match given.args.get(1) {
                    Some(text) => seconds(text)?,
                    None => 600,
                },
            });
        }
        "ifconfig-push-constraint" => {
            let network = (ipv4(given.arg(0))?, netmask(given.arg(1))?);
            server.options.ifconfig_push_constraint = Some(network);
        }
        "push" => server.options.push.push(push_line(given.arg(0))?),
        "client-to-client" => server.options.client_to_client = true,
        "client-config-dir" => {
            server.options.client_config_dir = Some(given.path(given.arg(0))?);
        }
        "ccd-exclusive" => server.options.ccd_exclusive = true,
        "ringway-push-update" => {
            server.options.push_update = Some(match given.args.first() {
                Some(text) => number_u32(text, 1..=MAX_PUSH_UPDATE)?,
                None => PUSH_UPDATE,
            });
        }
        "vlan-tagging" => server.options.vlan_tagging = true,
        "vlan-accept" => {
            let words = [
                ("all", VlanAccept::All),
                ("tagged", VlanAccept::Tagged),
                ("untagged", VlanAccept::Untagged),
            ];
            server.options.vlan_accept = choice(given.arg(0), &words)?;
        }
        "vlan-pvid" => server.options.vlan_pvid = number_u16(given.arg(0), 1..=4094)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_limits(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    let options = &mut draft.server.options;
    match given.name {
        "duplicate-cn" => options.duplicate_cn = true,
        "max-clients" => options.max_clients = number_u32(given.arg(0), 1..=MAX_CLIENTS)?,
        "max-routes-per-client" => options.max_routes_per_client = positive(given.arg(0))?,
        "connect-freq" => options.connect_freq = Some(rate(given)?),
        "connect-freq-initial" => options.connect_freq_initial = rate(given)?,
        "tcp-queue-limit" => options.tcp_queue_limit = positive(given.arg(0))?,
        "stale-routes-check" => {
            let age = some_seconds(given.arg(0))?;
            let interval = match given.args.get(1) {
                Some(text) => some_seconds(text)?,
                None => age,
            };
            options.stale_routes_check = Some((age, interval));
        }
        "tcp-nodelay" => draft.server.tcp_nodelay = true,
        // Streams always have it.
        "socket-flags" => {
            for word in given.args {
                choice(word, &[("TCP_NODELAY", ())])?;
            }
        }
        "port-share" => {
            options.port_share = Some(PortShare {
                host: host_name(given.arg(0))?,
                port: port(given.arg(1))?,
                dir: match given.args.get(2) {
                    Some(text) => Some(given.path(text)?),
                    None => None,
                },
            });
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_access(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    let options = &mut draft.server.options;
    match given.name {
        "username-as-common-name" => options.username_as_common_name = true,
        "verify-client-cert" => {
            let words = [
                ("none", VerifyClientCert::None),
                ("optional", VerifyClientCert::Optional),
                ("require", VerifyClientCert::Require),
            ];
            options.verify_client_cert = match given.args.first() {
                Some(word) => choice(word, &words)?,
                None => VerifyClientCert::Require,
            };
        }
        "opt-verify" => options.opt_verify = true,
        "auth-user-pass-optional" => options.auth_user_pass_optional = true,
        "auth-gen-token" => {
            let (times, words): (Vec<_>, Vec<_>) = given
                .args
                .iter()
                .partition(|word| word.starts_with(|c: char| c.is_ascii_digit()));
            if times.len() > 2 {
                return Err("at most two times are possible: lifetime and renewal".to_owned());
            }
            for word in &words {
                choice(word, &[("external-auth", ())])?;
            }
            let time = |index: usize| times.get(index).map(|text| seconds(text)).transpose();
            draft.server.token_renewal = time(1)?;
            options.auth_gen_token = Some(AuthGenToken {
                lifetime: time(0)?.unwrap_or(0),
                renewal: 0,
                external_auth: !words.is_empty(),
            });
        }
        "auth-gen-token-secret" => options.auth_gen_token_secret = Some(given.source()?),
        "tls-crypt-v2-max-age" => {
            options.tls_crypt_v2_max_age = Some(number(given.arg(0), 1..=36500)?);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_scripts(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    let options = &mut draft.server.options;
    match given.name {
        "auth-user-pass-verify" => {
            let Some(word) = given.args.get(1) else {
                return Err("a second parameter is needed: via-file or via-env".to_owned());
            };
            let words = [("via-file", AuthVia::File), ("via-env", AuthVia::Env)];
            options.auth_user_pass_verify = Some((script(given)?, choice(word, &words)?));
        }
        "client-connect" => options.client_connect = Some(script(given)?),
        "client-disconnect" => options.client_disconnect = Some(script(given)?),
        "learn-address" => options.learn_address = Some(script(given)?),
        "tls-verify" => options.tls_verify = Some(script(given)?),
        "tls-export-cert" => {
            options.tls_export_cert = Some(ExportFolder {
                path: given.path(given.arg(0))?,
                position: given.position.clone(),
            });
        }
        "tls-crypt-v2-verify" => options.tls_crypt_v2_verify = Some(script(given)?),
        "client-crresponse" => options.client_crresponse = Some(script(given)?),
        "tmp-dir" => options.tmp_dir = given.path(given.arg(0))?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// A network of IPv6 addresses to hand out.
fn pool_ipv6(text: &str) -> Result<(std::net::Ipv6Addr, u8), String> {
    let (base, prefix) = ipv6_prefix(text, 64)?;
    match prefix {
        64..=124 => Ok((base, prefix)),
        _ => Err(format!(
            "the prefix must be between /64 and /124, not /{prefix}"
        )),
    }
}

fn rate(given: &Given<'_>) -> Result<Rate, String> {
    Ok(Rate {
        n: positive(given.arg(0))?,
        seconds: positive(given.arg(1))?,
    })
}

fn positive(text: &str) -> Result<u32, String> {
    number_u32(text, 1..=i32::MAX as u32)
}
