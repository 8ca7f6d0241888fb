//! A server: what `server`, `server-ipv6`, `server-bridge` and `keepalive` stand for, and checks of
//! its options against each other (protocol §11).
//!
//! What the expansions push follows the `push` lines of the file, in the order of stock servers:
//! `server-ipv6`, `server` or `server-bridge`, `keepalive`, `tcp-nodelay`.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{conflict, is_tap, warn};
use crate::config::diagnostic::{ConfigError, Diagnostic};
use crate::config::draft::{BridgeDraft, Draft, LocalDraft, ProtoDraft, ProtoKind};
use crate::config::lexer;
use crate::config::options::{
    DEFAULT_PORT, Family, Ifconfig, IfconfigIpv6, Proto, Route, RouteAddr, RouteGateway, Topology,
};
use crate::config::pushed::{PulledOptions, PushOutcome, apply};
use crate::config::server::{AuthVia, Listen, Pool};
use crate::config::{directives, directives::Class, directives::PULL};
use crate::tls::VerifyClientCert;

/// Most addresses of a pool.
const MAX_POOL: u32 = 65536;
/// Longest second time of `keepalive`, which is doubled.
const MAX_KEEPALIVE: u64 = 43200;

/// An option that implies `mode server` and `tls-server`.
pub(super) fn named(draft: &Draft) -> Option<&'static str> {
    let server = &draft.server;
    [
        ("server", server.network.is_some()),
        ("server-ipv6", server.network_ipv6.is_some()),
        ("server-bridge", server.bridge.is_some()),
    ]
    .into_iter()
    .find_map(|(name, given)| given.then_some(name))
}

/// True if the configuration is a `tls-server` without saying so.
pub(super) fn implies_role(draft: &Draft) -> bool {
    named(draft).is_some()
}

/// Writes out what the short forms stand for. Knows the device, not yet the connections.
pub(super) fn expand(draft: &mut Draft) -> Result<(), ConfigError> {
    if !draft.server.is_on() {
        return Ok(());
    }
    not_for_servers(draft)?;
    // On a tap device the topology is that of Ethernet, whatever is written.
    if draft.at("topology").is_none() || is_tap(draft) {
        draft.options.topology = Topology::Subnet;
    }
    if let (Some(_), Some(_)) = (draft.server.network, draft.server.bridge) {
        let message = "cannot be used together with server; delete one";
        return Err(conflict(draft, "server-bridge", message));
    }
    if let Some((base, prefix)) = draft.server.network_ipv6 {
        expand_ipv6(draft, base, prefix)?;
    }
    if let Some((network, mask)) = draft.server.network {
        no_second_pool(draft, "server", "ifconfig-pool")?;
        expand_network(draft, network, mask)?;
    }
    if let Some(bridge) = draft.server.bridge {
        no_second_pool(draft, "server-bridge", "ifconfig-pool")?;
        expand_bridge(draft, bridge)?;
    }
    for (option, pool) in [("ifconfig", "server"), ("ifconfig-ipv6", "server-ipv6")] {
        if draft.at(option).is_some() && draft.at(pool).is_some() {
            warn(draft, option, &format!("no effect: {pool} sets it"));
        }
    }
    Ok(())
}

fn no_second_pool(draft: &Draft, by: &str, pool: &str) -> Result<(), ConfigError> {
    match draft.at(pool) {
        Some(_) => {
            let message = format!("cannot be used together with {by}, which sets it; delete one");
            Err(conflict(draft, pool, message))
        }
        None => Ok(()),
    }
}

fn expand_ipv6(draft: &mut Draft, base: Ipv6Addr, prefix: u8) -> Result<(), ConfigError> {
    if draft.server.nopool {
        let message = "cannot be used together with nopool of server; use ifconfig-ipv6";
        return Err(conflict(draft, "server-ipv6", message));
    }
    no_second_pool(draft, "server-ipv6", "ifconfig-ipv6-pool")?;
    let nth = |n: u128| Ipv6Addr::from(u128::from(base).wrapping_add(n));
    draft.options.ifconfig_ipv6 = Some(IfconfigIpv6 {
        local: nth(1),
        prefix,
        remote: nth(2),
    });
    let first = if prefix < 112 { 0x1000 } else { 2 };
    draft.server.options.ifconfig_ipv6_pool = Some((nth(first), prefix));
    push(draft, "tun-ipv6");
    Ok(())
}

fn expand_network(draft: &mut Draft, network: Ipv4Addr, mask: Ipv4Addr) -> Result<(), ConfigError> {
    let tap = is_tap(draft);
    let topology = draft.options.topology;
    let prefix = u32::from(mask).leading_ones();
    let smallest = if tap { 30 } else { 29 };
    let message = match prefix {
        _ if network & mask != network => {
            let first = network & mask;
            format!("{network} is not the first address of its network: {first}")
        }
        ..16 => format!("the network is larger than a /16 of {MAX_POOL} addresses"),
        _ if prefix > smallest => format!(
            "the network must hold at least a /{smallest} ({})",
            Ipv4Addr::from(u32::MAX << (32 - smallest))
        ),
        _ => String::new(),
    };
    if !message.is_empty() {
        return Err(conflict(draft, "server", message));
    }
    let nth = |n: u32| Ipv4Addr::from(u32::from(network).wrapping_add(n));
    let last = u32::from(network | !mask);
    let subnet = tap || topology == Topology::Subnet;
    let (first, reserved) = match (subnet, prefix) {
        (true, _) => (2, 1),
        // All four addresses of the second block, or nobody could connect.
        (false, 29) => (4, 0),
        (false, _) => (4, 4),
    };
    draft.options.ifconfig = Some(Ifconfig {
        local: nth(1),
        remote_netmask: if subnet { mask } else { nth(2) },
    });
    if !draft.server.nopool {
        draft.server.options.ifconfig_pool = Some(Pool {
            start: nth(first),
            end: Ipv4Addr::from(last - reserved),
            netmask: subnet.then_some(mask),
        });
    }
    if subnet {
        push(draft, format!("route-gateway {}", nth(1)));
        if !tap && draft.options.route_gateway.is_none() {
            draft.options.route_gateway = Some(RouteGateway::Addr(nth(2)));
        }
    } else {
        draft.options.route.push(Route {
            network: RouteAddr::Addr(network),
            netmask: mask,
            gateway: None,
            metric: None,
        });
        if draft.server.options.client_to_client {
            push(draft, format!("route {network} {mask}"));
        } else if topology == Topology::Net30 {
            push(draft, format!("route {}", nth(1)));
        }
    }
    if !tap {
        let word = match topology {
            Topology::Net30 => "net30",
            Topology::P2p => "p2p",
            Topology::Subnet => "subnet",
        };
        push(draft, format!("topology {word}"));
    }
    Ok(())
}

fn expand_bridge(draft: &mut Draft, bridge: BridgeDraft) -> Result<(), ConfigError> {
    if !is_tap(draft) {
        let message = "needs a tap device: dev tap";
        return Err(conflict(draft, "server-bridge", message));
    }
    match bridge {
        BridgeDraft::Dhcp => {
            draft.server.options.bridge_dhcp = true;
            push(draft, "route-gateway dhcp");
        }
        BridgeDraft::DhcpNoGateway => draft.server.options.bridge_dhcp = true,
        BridgeDraft::Pool([gateway, mask, start, end]) => {
            draft.server.options.ifconfig_pool = Some(Pool {
                start,
                end,
                netmask: Some(mask),
            });
            if [gateway, end].iter().any(|ip| *ip & mask != start & mask) {
                let message = "the gateway and the pool must be in one network";
                return Err(conflict(draft, "server-bridge", message));
            }
            push(draft, format!("route-gateway {gateway}"));
        }
    }
    Ok(())
}

fn push(draft: &mut Draft, line: impl Into<String>) {
    draft.server.options.push.push(line.into());
}

/// `keepalive` on a server: it waits twice as long itself, and tells its clients.
pub(super) fn keepalive(draft: &mut Draft, interval: u64, timeout: u64) -> Result<(), ConfigError> {
    if timeout > MAX_KEEPALIVE {
        let message = format!("the second time must not exceed {MAX_KEEPALIVE} on a server");
        return Err(conflict(draft, "keepalive", message));
    }
    draft.options.ping_restart = timeout * 2;
    push(draft, format!("ping {interval}"));
    push(draft, format!("ping-restart {timeout}"));
    Ok(())
}

/// Completes the options of a server, or finds those that only a server may have.
pub(super) fn complete(draft: &mut Draft) -> Result<(), ConfigError> {
    if !draft.server.is_on() {
        return without_server(draft);
    }
    listen(draft)?;
    pools(draft)?;
    logins(draft)?;
    vlan(draft)?;
    pushed(draft);
    if draft.server.tcp_nodelay {
        push(draft, "socket-flags TCP_NODELAY");
    }
    let options = &draft.server.options;
    if options.ccd_exclusive && options.client_config_dir.is_none() {
        return Err(conflict(draft, "ccd-exclusive", "needs client-config-dir"));
    }
    if options.push_update.is_some() && options.client_config_dir.is_none() {
        let option = "ringway-push-update";
        return Err(conflict(draft, option, "needs client-config-dir"));
    }
    if draft.at("tls-crypt-v2").is_none() {
        for option in ["tls-crypt-v2-verify", "tls-crypt-v2-max-age"] {
            if draft.at(option).is_some() {
                warn(draft, option, "no effect without tls-crypt-v2");
            }
        }
    }
    if draft.server.options.tls_export_cert.is_some() && draft.server.options.tls_verify.is_none() {
        warn(draft, "tls-export-cert", "no effect without tls-verify");
    }
    let options = &draft.server.options;
    if options.duplicate_cn && options.ifconfig_pool_persist.is_some() {
        let message = "does not work with duplicate-cn: names do not tell clients apart";
        warn(draft, "ifconfig-pool-persist", message);
    }
    if draft.server.options.duplicate_cn && draft.server.options.client_config_dir.is_some() {
        let message = "together with duplicate-cn gives several clients the same settings";
        warn(draft, "client-config-dir", message);
    }
    if draft.keepalive.is_none() {
        let message = "not set: clients and server do not notice when the other is gone; \
                       add \"keepalive 10 60\"";
        warn(draft, "keepalive", message);
    }
    let options = std::mem::take(&mut draft.server.options);
    draft.options.server = Some(Box::new(options));
    Ok(())
}

/// Without a server these would silently not protect or not serve anybody.
const ONLY_SERVER: &[&str] = &[
    "auth-gen-token",
    "auth-user-pass-optional",
    "auth-user-pass-verify",
    "ccd-exclusive",
    "client-config-dir",
    "client-connect",
    "client-crresponse",
    "client-disconnect",
    "client-to-client",
    "connect-freq",
    "duplicate-cn",
    "ifconfig-ipv6-pool",
    "ifconfig-pool",
    "ifconfig-pool-persist",
    "ifconfig-push-constraint",
    "learn-address",
    "port-share",
    "ringway-push-update",
    "stale-routes-check",
    "tls-crypt-v2-verify",
    "tls-verify",
    "username-as-common-name",
    "verify-client-cert",
    "vlan-accept",
    "vlan-pvid",
    "vlan-tagging",
];

/// Without a server these change nothing.
const IDLE_WITHOUT_SERVER: &[&str] = &[
    "auth-gen-token-secret",
    "bcast-buffers",
    "connect-freq-initial",
    "max-clients",
    "max-routes-per-client",
    "opt-verify",
    "push",
    "tcp-queue-limit",
    "tls-crypt-v2-max-age",
    "tls-export-cert",
    "tmp-dir",
];

fn without_server(draft: &mut Draft) -> Result<(), ConfigError> {
    for option in ONLY_SERVER {
        if draft.at(option).is_some() {
            return Err(conflict(draft, option, "needs mode server"));
        }
    }
    if draft.server.options.compress_migrate {
        return Err(conflict(draft, "compress", "\"migrate\" is for servers"));
    }
    if let [_, second, ..] = &draft.locals[..] {
        let message = "only a server can listen at several places";
        return Err(Diagnostic::error(&second.position, "local", message).into());
    }
    for option in IDLE_WITHOUT_SERVER {
        if draft.at(option).is_some() {
            warn(draft, option, "no effect without mode server");
        }
    }
    Ok(())
}

fn not_for_servers(draft: &mut Draft) -> Result<(), ConfigError> {
    let pushed = "is for clients; to set it there: push \"redirect-gateway ...\"";
    for (option, message) in [
        ("remote", "a server waits for clients; delete it"),
        ("connection", "a server waits for clients; delete it"),
        ("nobind", "a server waits at a port; delete it"),
        ("http-proxy", "is for clients; delete it"),
        ("socks-proxy", "is for clients; delete it"),
        (
            "auth-user-pass",
            "is for clients; see auth-user-pass-verify",
        ),
        ("redirect-gateway", pushed),
        ("redirect-private", pushed),
        ("route-delay", "cannot be used with a server"),
        ("up-delay", "cannot be used with a server"),
        ("allow-recursive-routing", "cannot be used with a server"),
        ("ping-exit", "a server does not exit; use keepalive"),
    ] {
        if draft.at(option).is_some() {
            return Err(conflict(draft, option, message));
        }
    }
    for option in ["pull-filter", "route-nopull"] {
        if draft.at(option).is_some() {
            warn(draft, option, "no effect on a server");
        }
    }
    Ok(())
}

/// Every place to listen at.
fn listen(draft: &mut Draft) -> Result<(), ConfigError> {
    let at = |local: Option<&LocalDraft>| {
        let given = &draft.connection;
        let proto: Option<ProtoDraft> = local.and_then(|local| local.proto).or(given.proto);
        Listen {
            local: local.and_then(|local| local.host.clone()),
            port: local
                .and_then(|local| local.port)
                .or(given.lport)
                .unwrap_or(DEFAULT_PORT),
            tcp: proto.is_some_and(|proto| proto.kind != ProtoKind::Udp),
            family: proto.map_or(Family::Any, |proto| proto.family),
        }
    };
    let mut list: Vec<Listen> = Vec::new();
    for local in &draft.locals {
        if local
            .proto
            .or(draft.connection.proto)
            .map(|proto| proto.kind)
            == Some(ProtoKind::TcpClient)
        {
            let message = "a server is connected to; use tcp-server";
            return Err(Diagnostic::error(&local.position, "local", message).into());
        }
        let place = at(Some(local));
        if list.contains(&place) {
            let message = "this place is named twice";
            return Err(Diagnostic::error(&local.position, "local", message).into());
        }
        list.push(place);
    }
    if list.is_empty() {
        list.push(at(None));
    }
    if draft
        .options
        .connections
        .iter()
        .any(|c| c.proto == Proto::TcpClient)
    {
        let message = "a server is connected to; use tcp-server";
        return Err(conflict(draft, "proto", message));
    }
    if list.iter().any(|place| place.port == 0) {
        return Err(conflict(
            draft,
            "lport",
            "a server needs a port clients know",
        ));
    }
    let options = &draft.server.options;
    if options.port_share.is_some() && !list.iter().any(|place| place.tcp) {
        return Err(conflict(draft, "port-share", "needs TCP: proto tcp-server"));
    }
    if options.connect_freq.is_some() && list.iter().all(|place| place.tcp) {
        let message = "concerns UDP only; see max-clients for TCP";
        return Err(conflict(draft, "connect-freq", message));
    }
    draft.server.options.listen = list;
    Ok(())
}

fn pools(draft: &mut Draft) -> Result<(), ConfigError> {
    let options = &draft.server.options;
    let subnet = is_tap(draft) || draft.options.topology == Topology::Subnet;
    let by = named(draft)
        .filter(|name| *name != "server-ipv6")
        .unwrap_or("ifconfig-pool");
    if let Some(pool) = options.ifconfig_pool {
        let (first, last) = (u32::from(pool.start), u32::from(pool.end));
        if first > last {
            let message = format!("{} is behind {}", pool.start, pool.end);
            return Err(conflict(draft, by, message));
        }
        if last - first >= MAX_POOL {
            let message = format!("more than {MAX_POOL} addresses");
            return Err(conflict(draft, by, message));
        }
        if !subnet && draft.options.topology == Topology::Net30 && last - first < 3 {
            let message = "topology net30 needs four addresses for each client";
            return Err(conflict(draft, by, message));
        }
        if pool.netmask.is_some() && !subnet {
            let message = "a netmask is only possible with topology subnet or a tap device";
            return Err(conflict(draft, by, message));
        }
        if draft.options.ifconfig.is_none() && !is_tap(draft) {
            return Err(conflict(
                draft,
                by,
                "needs ifconfig: the server's own address",
            ));
        }
        if is_tap(draft) && pool.netmask.is_none() && draft.options.ifconfig.is_none() {
            return Err(conflict(draft, by, "needs a netmask: its third value"));
        }
    }
    if options.ifconfig_ipv6_pool.is_some() && draft.options.ifconfig_ipv6.is_none() {
        let message = "needs ifconfig-ipv6: the server's own address";
        return Err(conflict(draft, "ifconfig-ipv6-pool", message));
    }
    let none = options.ifconfig_pool.is_none() && options.ifconfig_ipv6_pool.is_none();
    if options.ifconfig_pool_persist.is_some() && none {
        let message = "needs ifconfig-pool or ifconfig-ipv6-pool";
        return Err(conflict(draft, "ifconfig-pool-persist", message));
    }
    Ok(())
}

fn logins(draft: &mut Draft) -> Result<(), ConfigError> {
    let asks = draft.server.options.auth_user_pass_verify.is_some();
    let certificate = draft.server.options.verify_client_cert;
    for (option, needed) in [
        (
            "verify-client-cert",
            certificate != VerifyClientCert::Require,
        ),
        (
            "username-as-common-name",
            draft.server.options.username_as_common_name,
        ),
        (
            "auth-user-pass-optional",
            draft.server.options.auth_user_pass_optional,
        ),
    ] {
        if needed && !asks {
            let message = match option {
                "verify-client-cert" => "none and optional need auth-user-pass-verify",
                _ => "needs auth-user-pass-verify",
            };
            return Err(conflict(draft, option, message));
        }
    }
    if certificate != VerifyClientCert::Require {
        let message = "clients may come without a certificate: the password alone protects";
        warn(draft, "verify-client-cert", message);
    }
    if let Some((_, AuthVia::Env)) = draft.server.options.auth_user_pass_verify
        && draft.options.script_security == 2
    {
        let message = "via-env hands the password over only with \"script-security 3\"; \
                       via-file does with 2";
        warn(draft, "auth-user-pass-verify", message);
    }
    tokens(draft, asks)
}

/// `auth-gen-token`: renewed once in a key's life, unless it says otherwise.
fn tokens(draft: &mut Draft, asks: bool) -> Result<(), ConfigError> {
    let (reneg, hand) = (draft.options.reneg_sec, draft.options.hand_window);
    let Some(token) = &mut draft.server.options.auth_gen_token else {
        if draft.at("auth-gen-token-secret").is_some() {
            warn(
                draft,
                "auth-gen-token-secret",
                "no effect without auth-gen-token",
            );
        }
        return Ok(());
    };
    token.renewal = draft.server.token_renewal.unwrap_or(reneg);
    let renewal = token.renewal;
    if renewal == 0 {
        let message = "needs a time to renew tokens: its second value, or reneg-sec above 0";
        return Err(conflict(draft, "auth-gen-token", message));
    }
    if renewal < hand * 2 {
        let message = format!(
            "the renewal time {renewal} must be at least twice hand-window: {}",
            hand * 2
        );
        return Err(conflict(draft, "auth-gen-token", message));
    }
    if !asks {
        let message = "no effect without auth-user-pass-verify: nobody gives a password";
        warn(draft, "auth-gen-token", message);
    }
    Ok(())
}

fn vlan(draft: &Draft) -> Result<(), ConfigError> {
    if draft.server.options.vlan_tagging && !is_tap(draft) {
        let message = "needs a tap device: dev tap";
        return Err(conflict(draft, "vlan-tagging", message));
    }
    if !draft.server.options.vlan_tagging {
        for option in ["vlan-accept", "vlan-pvid"] {
            if draft.at(option).is_some() {
                return Err(conflict(draft, option, "needs vlan-tagging"));
            }
        }
    }
    Ok(())
}

/// Warns of what clients will skip.
fn pushed(draft: &mut Draft) {
    let lines = draft.server.options.push.clone();
    for line in lines {
        if let Some(message) = push_problem(&line) {
            warn(draft, "push", &message);
        }
    }
}

/// Why clients will not take a pushed option, if so.
pub(in crate::config) fn push_problem(line: &str) -> Option<String> {
    let words = lexer::words(line.as_bytes()).ok()?;
    let name = words.first()?;
    let reason = match directives::find(name) {
        None => "unknown option".to_owned(),
        Some(directive) if !directive.places.has(PULL) => {
            "clients do not take it from a server".to_owned()
        }
        Some(directive) if directive.class == Class::Honoured => {
            match apply(line, &[], &mut PulledOptions::default()) {
                PushOutcome::Warning(reason) | PushOutcome::Reject(reason) => return Some(reason),
                PushOutcome::Accepted | PushOutcome::Ignored => return None,
            }
        }
        Some(_) => return None,
    };
    Some(format!("\"{line}\": {reason}"))
}
