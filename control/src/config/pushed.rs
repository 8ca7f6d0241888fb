//! Options pushed by a server, and what a client makes of them (protocol §8.3).
//!
//! A server is trusted with the tunnel, not with this machine: only options that the table marks
//! as pullable are taken, and `pull-filter` and `route-nopull` come first. Values are checked like
//! those in a file; a bad one is skipped with a warning.

mod update;

pub use update::update;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringway_dataplane::frame::Mac;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::Cipher;
use ringway_dataplane::tun::DeviceKind;

use super::directives::{self, Class, PULL};
use super::dns::Dns;
use super::lexer::{self, quote};
use super::options::{
    Connection, Ifconfig, IfconfigIpv6, Inactive, MssFix, Options, PullFilter, PullFilterAction,
    RedirectGateway, Route, RouteAddr, RouteGateway, RouteIpv6, Topology,
};
use super::position::Secret;
use super::values::{
    arg, framing, hardware_address, ifconfig, ifconfig_ipv6, inactive, ipv6, metric, number_u8,
    number_u16, number_u32, redirect_gateway, route, route_gateway, route_ipv6, seconds, topology,
    variable_name,
};

/// Most options a server may push; more are skipped.
const MAX_OPTIONS: usize = 4096;
/// Largest peer-id that fits a DATA_V2 header.
const MAX_PEER_ID: u32 = 0xff_ffff;

/// What became of one pushed option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushOutcome {
    /// It holds.
    Accepted,
    /// A filter, or `route-nopull`, skipped it; or it changes nothing here.
    Ignored,
    /// It was skipped, for the reason given; worth a log line.
    Warning(String),
    /// `pull-filter reject`, or a value without which the tunnel cannot work: restart.
    Reject(String),
}

/// `protocol-flags`, and `key-derivation tls-ekm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProtocolFlags {
    /// EXIT messages on the control channel.
    pub cc_exit: bool,
    /// Data keys by the TLS exporter.
    pub tls_ekm: bool,
    /// Renegotiations are wrapped by a key of the session.
    pub dyn_tls_crypt: bool,
    /// The epoch data format.
    pub aead_epoch: bool,
}

/// Everything pushed in one session.
#[derive(Clone, Debug, Default)]
pub struct PulledOptions {
    /// `route-nopull` of the own configuration.
    route_nopull: bool,
    /// `allow-pull-fqdn` of the own configuration.
    allow_pull_fqdn: bool,
    /// The device is a tap device.
    tap: bool,
    /// Lines that concern the device, for [`PulledOptions::tun_digest`].
    tun_lines: Vec<String>,
    /// Line with the cipher, which concerns the device unless the MTU is pushed.
    cipher_line: Option<String>,
    /// Options taken so far.
    count: usize,

    /// IPv4 addresses.
    pub ifconfig: Option<Ifconfig>,
    /// IPv6 addresses.
    pub ifconfig_ipv6: Option<IfconfigIpv6>,
    /// Hardware address of a tap device.
    pub lladdr: Option<Mac>,
    /// What `ifconfig` means on a tun device.
    pub topology: Option<Topology>,
    /// IPv4 routes, besides those of the configuration.
    pub route: Vec<Route>,
    /// IPv6 routes, besides those of the configuration.
    pub route_ipv6: Vec<RouteIpv6>,
    /// Gateway of routes that name none.
    pub route_gateway: Option<RouteGateway>,
    /// Gateway of IPv6 routes that name none.
    pub route_ipv6_gateway: Option<std::net::Ipv6Addr>,
    /// Metric of routes that name none.
    pub route_metric: Option<u32>,
    /// Seconds between the tunnel being up and the routes.
    pub route_delay: Option<u64>,
    /// Send all traffic into the tunnel.
    pub redirect_gateway: Option<RedirectGateway>,
    /// `dhcp-option` lines without their first word.
    pub dhcp_option: Vec<String>,
    /// `dns` lines without their first word.
    pub dns: Vec<String>,
    /// Answer IPv6 packets from inside with "unreachable".
    pub block_ipv6: bool,
    /// Leave addresses to scripts.
    pub ifconfig_noexec: bool,
    /// Seconds between pings; 0 none.
    pub ping: Option<u64>,
    /// Restart after this silence; 0 never.
    pub ping_restart: Option<u64>,
    /// Exit after this silence; 0 never.
    pub ping_exit: Option<u64>,
    /// Count the silence only with a known peer address.
    pub ping_timer_rem: bool,
    /// Exit when there is too little traffic; the inner `None` switches it off.
    pub inactive: Option<Option<Inactive>>,
    /// End of the session in seconds; 0 never.
    pub session_timeout: Option<u64>,
    /// How often the server is told of the end.
    pub explicit_exit_notify: Option<u32>,
    /// Peer-id to send with.
    pub peer_id: Option<u32>,
    /// Data cipher; whether it is acceptable is for the negotiation to decide.
    pub cipher: Option<Cipher>,
    /// Features agreed on.
    pub protocol_flags: ProtocolFlags,
    /// MTU of the device, not yet limited by `tun-mtu-max`.
    pub tun_mtu: Option<u16>,
    /// Token to log in with from now on.
    pub auth_token: Option<Secret>,
    /// User name that goes with the token.
    pub auth_token_user: Option<String>,
    /// Framing of data packets.
    pub compress: Option<Framing>,
    /// `SO_SNDBUF`
    pub sndbuf: Option<u32>,
    /// `SO_RCVBUF`
    pub rcvbuf: Option<u32>,
    /// Keep the device open over a soft restart.
    pub persist_tun: bool,
    /// Keep the resolved remote address over a soft restart.
    pub persist_remote_ip: bool,
    /// Keep the local address over a soft restart.
    pub persist_local_ip: bool,
    /// Variables for scripts (`setenv-safe`, already with `OPENVPN_` in front).
    pub setenv: Vec<(String, String)>,
    /// Verbosity.
    pub verb: Option<u8>,
    /// Log at most this many messages of one kind in a row.
    pub mute: Option<u32>,
    /// Words to repeat in the log.
    pub echo: Vec<String>,
}

impl PulledOptions {
    /// Nothing pushed yet, for a client with this configuration.
    pub fn new(options: &Options) -> Self {
        PulledOptions {
            route_nopull: options.route_nopull,
            allow_pull_fqdn: options.allow_pull_fqdn,
            tap: options.dev_type == DeviceKind::Tap,
            ..PulledOptions::default()
        }
    }

    /// A digest of everything that concerns the device: as long as it stays the same over a
    /// reconnect, the device may stay open (protocol §8.3).
    pub fn tun_digest(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        for line in &self.tun_lines {
            context.update(line.as_bytes());
            context.update(b"\n");
        }
        if self.tun_mtu.is_none()
            && let Some(line) = &self.cipher_line
        {
            context.update(line.as_bytes());
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        bytes
    }

    /// Writes what was pushed over a copy of the configuration and of the connection in use.
    ///
    /// `cipher`, `peer_id`, `protocol_flags` and the token are not part of it: they belong to the
    /// session.
    pub fn apply_to(&self, options: &mut Options, connection: &mut Connection) {
        fn set<T: Clone>(to: &mut T, from: &Option<T>) {
            if let Some(value) = from {
                *to = value.clone();
            }
        }
        fn set_option<T: Clone>(to: &mut Option<T>, from: &Option<T>) {
            if from.is_some() {
                to.clone_from(from);
            }
        }
        set_option(&mut options.ifconfig, &self.ifconfig);
        set_option(&mut options.ifconfig_ipv6, &self.ifconfig_ipv6);
        set_option(&mut options.lladdr, &self.lladdr);
        set(&mut options.topology, &self.topology);
        options.route.extend(self.route.iter().cloned());
        options.route_ipv6.extend(self.route_ipv6.iter().copied());
        set_option(&mut options.route_gateway, &self.route_gateway);
        set_option(&mut options.route_ipv6_gateway, &self.route_ipv6_gateway);
        set_option(&mut options.route_metric, &self.route_metric);
        set_option(&mut options.route_delay, &self.route_delay);
        if let Some(pushed) = self.redirect_gateway {
            let own = options.redirect_gateway;
            options.redirect_gateway = Some(own.map_or(pushed, |own| own.merged(pushed)));
        }
        options.dhcp_option.extend(self.dhcp_option.iter().cloned());
        options.dns.extend(self.dns.iter().cloned());
        options.block_ipv6 |= self.block_ipv6;
        options.ifconfig_noexec |= self.ifconfig_noexec;
        set(&mut options.ping, &self.ping);
        if let Some(seconds) = self.ping_restart {
            options.ping_restart = seconds;
            options.ping_exit = 0;
        }
        if let Some(seconds) = self.ping_exit {
            options.ping_exit = seconds;
            options.ping_restart = 0;
        }
        options.ping_timer_rem |= self.ping_timer_rem;
        set(&mut options.inactive, &self.inactive);
        set(&mut options.session_timeout, &self.session_timeout);
        set(&mut options.compress, &self.compress);
        set_option(&mut options.sndbuf, &self.sndbuf);
        set_option(&mut options.rcvbuf, &self.rcvbuf);
        options.persist_tun |= self.persist_tun;
        options.persist_remote_ip |= self.persist_remote_ip;
        options.persist_local_ip |= self.persist_local_ip;
        options.setenv.extend(self.setenv.iter().cloned());
        set(&mut options.verb, &self.verb);
        set(&mut options.mute, &self.mute);
        options.echo.extend(self.echo.iter().cloned());
        set(
            &mut connection.explicit_exit_notify,
            &self.explicit_exit_notify,
        );
        if let Some(mtu) = self.tun_mtu {
            let before = MssFix::default_for(connection.tun_mtu, connection.fragment);
            connection.tun_mtu = mtu.min(connection.tun_mtu_max);
            if connection.mssfix == before {
                connection.mssfix = MssFix::default_for(connection.tun_mtu, connection.fragment);
            }
        }
    }
}

/// Applies one option of a PUSH_REPLY.
///
/// `line` is the text between two commas, `filters` are those of the configuration in order.
pub fn apply(line: &str, filters: &[PullFilter], state: &mut PulledOptions) -> PushOutcome {
    let filter = filters.iter().find(|filter| line.starts_with(&filter.text));
    match filter.map(|filter| filter.action) {
        Some(PullFilterAction::Ignore) => return PushOutcome::Ignored,
        Some(PullFilterAction::Reject) => {
            let message = format!("pushed option \"{}\" rejected by pull-filter", shown(line));
            return PushOutcome::Reject(message);
        }
        Some(PullFilterAction::Accept) | None => {}
    }
    let words = match lexer::words(line.as_bytes()) {
        Ok(words) => words,
        Err(error) => {
            return PushOutcome::Warning(format!("pushed \"{}\": {error}", shown(line)));
        }
    };
    let Some((name, args)) = words.split_first() else {
        return PushOutcome::Ignored;
    };
    let warning = |reason: &str| {
        PushOutcome::Warning(format!("pushed \"{}\" skipped: {reason}", shown(line)))
    };
    let directive = match directives::find(name) {
        Some(directive) if directive.places.has(PULL) => directive,
        Some(_) => return warning("a server may not set it"),
        None => return warning("unknown option"),
    };
    match directive.class {
        Class::Honoured => {}
        Class::NoEffect(_) => return PushOutcome::Ignored,
        Class::Refused(reason) => return warning(reason),
        Class::Action => return warning("a server may not set it"),
    }
    if state.route_nopull && is_route_or_dns(directive.name) {
        return PushOutcome::Ignored;
    }
    let range = usize::from(directive.min)..=usize::from(directive.max);
    if !range.contains(&args.len()) {
        return warning("wrong number of parameters");
    }
    if state.count >= MAX_OPTIONS {
        return warning("too many options");
    }
    match set(directive.name, args, state) {
        Ok(()) => {}
        // Without these there is no tunnel, or one the server does not understand.
        Err(reason) if matches!(directive.name, "cipher" | "peer-id" | "key-derivation") => {
            return PushOutcome::Reject(format!("pushed \"{}\": {reason}", shown(line)));
        }
        Err(reason) if matches!(directive.name, "compress" | "comp-lzo") => {
            return PushOutcome::Reject(format!("pushed \"{}\": {reason}", shown(line)));
        }
        Err(reason) => return warning(&reason),
    }
    state.count += 1;
    match directive.name {
        "cipher" => state.cipher_line = Some(line.to_owned()),
        name if concerns_tun(name) => state.tun_lines.push(line.to_owned()),
        _ => {}
    }
    PushOutcome::Accepted
}

/// What `route-nopull` skips.
fn is_route_or_dns(name: &str) -> bool {
    matches!(
        name,
        "route"
            | "route-ipv6"
            | "route-metric"
            | "redirect-gateway"
            | "redirect-private"
            | "block-ipv6"
            | "dhcp-option"
            | "dns"
    )
}

/// What leads to another device when it changes between two sessions.
fn concerns_tun(name: &str) -> bool {
    !matches!(
        name,
        "peer-id"
            | "auth-token"
            | "auth-token-user"
            | "protocol-flags"
            | "key-derivation"
            | "ping"
            | "ping-restart"
            | "ping-exit"
            | "ping-timer-rem"
            | "explicit-exit-notify"
            | "push-continuation"
    )
}

/// Takes one option over.
fn set(name: &str, args: &[String], state: &mut PulledOptions) -> Result<(), String> {
    match name {
        "ifconfig" => state.ifconfig = Some(ifconfig(args)?),
        "ifconfig-ipv6" => state.ifconfig_ipv6 = Some(ifconfig_ipv6(args)?),
        "lladdr" if state.tap => state.lladdr = Some(hardware_address(arg(args, 0))?),
        "lladdr" => return Err("a tun device has no hardware address".to_owned()),
        "topology" => state.topology = Some(topology(arg(args, 0))?),
        "route" => {
            let route = route(args)?;
            let named = |address: &RouteAddr| matches!(address, RouteAddr::Name(_));
            if !state.allow_pull_fqdn
                && (named(&route.network) || route.gateway.as_ref().is_some_and(named))
            {
                return Err("host names need allow-pull-fqdn".to_owned());
            }
            state.route.push(route);
        }
        "route-ipv6" => state.route_ipv6.push(route_ipv6(args)?),
        "route-gateway" => {
            let gateway = route_gateway(arg(args, 0))?;
            if !state.allow_pull_fqdn && matches!(gateway, RouteGateway::Name(_)) {
                return Err("host names need allow-pull-fqdn".to_owned());
            }
            if !state.tap && gateway == RouteGateway::Dhcp {
                return Err("\"dhcp\" needs a tap device".to_owned());
            }
            state.route_gateway = Some(gateway);
        }
        "route-ipv6-gateway" => state.route_ipv6_gateway = Some(ipv6(arg(args, 0))?),
        "route-metric" => state.route_metric = Some(metric(arg(args, 0))?),
        "route-delay" => {
            state.route_delay = Some(match args.first() {
                Some(text) => seconds(text)?,
                None => 0,
            });
        }
        "redirect-gateway" | "redirect-private" => {
            let reroute = name == "redirect-gateway";
            let before = state.redirect_gateway;
            state.redirect_gateway = Some(redirect_gateway(reroute, args, before)?);
        }
        "dhcp-option" => state.dhcp_option.push(joined(args)),
        "dns" => {
            Dns::default().add(args)?;
            state.dns.push(joined(args));
        }
        "block-ipv6" => state.block_ipv6 = true,
        "ifconfig-noexec" => state.ifconfig_noexec = true,
        _ => return set_session(name, args, state),
    }
    Ok(())
}

/// Options of the session rather than the interface.
fn set_session(name: &str, args: &[String], state: &mut PulledOptions) -> Result<(), String> {
    let first = arg(args, 0);
    match name {
        "ping" => state.ping = Some(seconds(first)?),
        "ping-restart" => {
            state.ping_restart = Some(seconds(first)?);
            state.ping_exit = None;
        }
        "ping-exit" => {
            state.ping_exit = Some(seconds(first)?);
            state.ping_restart = None;
        }
        "ping-timer-rem" => state.ping_timer_rem = true,
        "inactive" => state.inactive = Some(inactive(args)?),
        "session-timeout" => state.session_timeout = Some(seconds(first)?),
        "explicit-exit-notify" => {
            state.explicit_exit_notify = Some(match args.first() {
                Some(text) => number_u32(text, 0..=1000)?,
                None => 1,
            });
        }
        "peer-id" => state.peer_id = Some(number_u32(first, 0..=MAX_PEER_ID)?),
        "cipher" => {
            let cipher = Cipher::from_name(first);
            state.cipher = Some(cipher.ok_or("the cipher is not supported")?);
        }
        // Streams always have it.
        "socket-flags" | "tcp-nodelay" => {}
        "key-derivation" => match first {
            "tls-ekm" => state.protocol_flags.tls_ekm = true,
            _ => return Err("unknown key derivation".to_owned()),
        },
        "protocol-flags" => {
            for flag in args {
                let flags = &mut state.protocol_flags;
                match flag.as_str() {
                    "cc-exit" => flags.cc_exit = true,
                    "tls-ekm" => flags.tls_ekm = true,
                    "dyn-tls-crypt" => flags.dyn_tls_crypt = true,
                    "aead-epoch" => flags.aead_epoch = true,
                    // A later server may know more; it must not use what was not announced.
                    _ => {}
                }
            }
        }
        "push-continuation" => {}
        "tun-mtu" => state.tun_mtu = Some(number_u16(first, 100..=u16::MAX)?),
        "auth-token" => state.auth_token = Some(Secret::new(first)),
        "auth-token-user" => {
            let bytes = STANDARD.decode(first).ok();
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            state.auth_token_user = Some(text.ok_or("it is not text in base64")?);
        }
        "compress" | "comp-lzo" => {
            let (framing, compressed) = framing(name, args.first())?;
            if compressed {
                return Err("compression is not supported; set \"compress stub-v2\" or \
                            \"comp-lzo no\" on the server"
                    .to_owned());
            }
            state.compress = Some(framing);
        }
        "sndbuf" => state.sndbuf = Some(number_u32(first, 0..=i32::MAX as u32)?),
        "rcvbuf" => state.rcvbuf = Some(number_u32(first, 0..=i32::MAX as u32)?),
        "persist-tun" => state.persist_tun = true,
        "persist-remote-ip" => state.persist_remote_ip = true,
        "persist-local-ip" => state.persist_local_ip = true,
        // Always the case.
        "persist-key" => {}
        "setenv-safe" => {
            let variable = format!("OPENVPN_{}", variable_name(first)?);
            state.setenv.push((variable, arg(args, 1).to_owned()));
        }
        "verb" => state.verb = Some(number_u8(first, 0..=15)?.min(11)),
        "mute" => state.mute = Some(number_u32(first, 0..=u32::MAX)?),
        "echo" | "parameter" => state.echo.push(args.join(" ")),
        _ => return Err("a server may not set it".to_owned()),
    }
    Ok(())
}

/// The parameters as one text, quoted where needed.
fn joined(args: &[String]) -> String {
    let words: Vec<_> = args.iter().map(|word| quote(word)).collect();
    words.join(" ")
}

/// A pushed line for the log: without tokens, without control characters, not too long.
fn shown(line: &str) -> String {
    let name = line.split_whitespace().next().unwrap_or_default();
    if name.starts_with("auth-token") {
        return format!("{name} [hidden]");
    }
    line.chars()
        .take(128)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pull(text: &str) -> (PulledOptions, Vec<PushOutcome>) {
        let mut state = PulledOptions::default();
        let outcomes = text
            .split(',')
            .map(|line| apply(line, &[], &mut state))
            .collect();
        (state, outcomes)
    }

    #[test]
    fn what_only_a_tap_device_has() {
        for (dev_type, taken) in [(DeviceKind::Tap, true), (DeviceKind::Tun, false)] {
            let mut options = Options {
                dev_type,
                ..Options::default()
            };
            let mut state = PulledOptions::new(&options);
            for line in ["route-gateway dhcp", "lladdr 02:00:5e:10:00:01"] {
                let outcome = apply(line, &[], &mut state);
                assert_eq!(outcome == PushOutcome::Accepted, taken, "{line}");
            }
            state.apply_to(&mut options, &mut Connection::default());
            let gateway = taken.then_some(RouteGateway::Dhcp);
            let address = taken.then_some(Mac([2, 0, 0x5e, 0x10, 0, 1]));
            assert_eq!((options.route_gateway, options.lladdr), (gateway, address));
        }
    }

    #[test]
    fn reply_of_a_stock_server() {
        let (state, outcomes) = pull(
            "route-gateway 10.8.0.1,topology subnet,ping 10,ping-restart 60,route 172.16.5.0 \
             255.255.255.0,dhcp-option DNS 10.8.0.1,ifconfig-ipv6 fd00:1::1000/64 fd00:1::1,\
             ifconfig 10.8.0.2 255.255.255.0,peer-id 5,cipher AES-256-GCM,protocol-flags cc-exit \
             tls-ekm dyn-tls-crypt aead-epoch later-flag,tun-mtu 1500",
        );
        assert!(
            outcomes
                .iter()
                .all(|outcome| *outcome == PushOutcome::Accepted),
            "{outcomes:?}"
        );
        assert_eq!(state.peer_id, Some(5));
        assert_eq!(state.cipher, Some(Cipher::Aes256Gcm));
        let all = ProtocolFlags {
            cc_exit: true,
            tls_ekm: true,
            dyn_tls_crypt: true,
            aead_epoch: true,
        };
        assert_eq!(state.protocol_flags, all);
        let mut options = Options::default();
        let mut connection = Connection {
            tun_mtu_max: 1400,
            ..Connection::default()
        };
        state.apply_to(&mut options, &mut connection);
        assert_eq!(options.topology, Topology::Subnet);
        assert_eq!((options.ping, options.ping_restart), (10, 60));
        assert_eq!(options.route.len(), 1);
        assert_eq!(options.dhcp_option, ["DNS 10.8.0.1"]);
        assert_eq!(connection.tun_mtu, 1400);
        assert_eq!(connection.mssfix, MssFix::Fixed(1400));
    }

    #[test]
    fn what_a_server_may_not_do() {
        for line in [
            "up /bin/sh",
            "tls-cipher X",
            "remote evil 1194",
            "script-security 3",
            "setenv LD_PRELOAD /tmp/x",
            "config /etc/passwd",
            "mssfix 1000",
            "frobnicate",
            "fragment 1000",
            "ping x",
            "ping",
            "route vpn.example.org",
            "setenv-safe A=B x",
            "route \"10.0.0.0",
        ] {
            let (_, outcomes) = pull(line);
            assert!(
                matches!(outcomes[..], [PushOutcome::Warning(_)]),
                "{line}: {outcomes:?}"
            );
        }
        for line in [
            "cipher BF-CBC",
            "peer-id 16777216",
            "comp-lzo yes",
            "compress lz4",
        ] {
            let (_, outcomes) = pull(line);
            assert!(
                matches!(outcomes[..], [PushOutcome::Reject(_)]),
                "{line}: {outcomes:?}"
            );
        }
        for line in ["comp-lzo no", "compress stub-v2", "setenv-safe a b"] {
            assert_eq!(pull(line).1, [PushOutcome::Accepted], "{line}");
        }
    }

    #[test]
    fn first_filter_decides() {
        let filter = |action, text: &str| PullFilter {
            action,
            text: text.to_owned(),
        };
        let filters = [
            filter(PullFilterAction::Accept, "route 10."),
            filter(PullFilterAction::Ignore, "route "),
            filter(PullFilterAction::Reject, "dhcp-option"),
        ];
        let mut state = PulledOptions::default();
        assert_eq!(
            apply("route 10.1.0.0", &filters, &mut state),
            PushOutcome::Accepted
        );
        assert_eq!(
            apply("route 11.1.0.0", &filters, &mut state),
            PushOutcome::Ignored
        );
        assert_eq!(
            apply("route-delay 3", &filters, &mut state),
            PushOutcome::Accepted
        );
        assert!(matches!(
            apply("dhcp-option DNS 1.1.1.1", &filters, &mut state),
            PushOutcome::Reject(_)
        ));
        assert_eq!(state.route.len(), 1);
    }

    #[test]
    fn route_nopull_keeps_addresses_and_gateway() {
        let options = Options {
            route_nopull: true,
            ..Options::default()
        };
        let mut state = PulledOptions::new(&options);
        for (line, outcome) in [
            ("route 10.0.0.0 255.0.0.0", PushOutcome::Ignored),
            ("redirect-gateway def1", PushOutcome::Ignored),
            ("dhcp-option DNS 1.1.1.1", PushOutcome::Ignored),
            ("route-gateway 10.8.0.1", PushOutcome::Accepted),
            ("ifconfig 10.8.0.2 255.255.255.0", PushOutcome::Accepted),
        ] {
            assert_eq!(apply(line, &[], &mut state), outcome, "{line}");
        }
    }

    #[test]
    fn digest_follows_what_the_device_depends_on() {
        let base = "ifconfig 10.8.0.2 255.255.255.0,route 10.0.0.0 255.0.0.0";
        let digest = |extra: &str| pull(&format!("{base}{extra}")).0.tun_digest();
        let plain = digest("");
        assert_eq!(
            plain,
            digest(",peer-id 7,auth-token x,ping 3,protocol-flags tls-ekm")
        );
        assert_ne!(plain, digest(",route 11.0.0.0 255.0.0.0"));
        assert_ne!(plain, digest(",cipher AES-128-GCM"));
        assert_eq!(
            digest(",tun-mtu 1400,cipher AES-128-GCM"),
            digest(",tun-mtu 1400,cipher AES-256-GCM")
        );
    }

    #[test]
    fn tokens_stay_out_of_messages() {
        let (state, _) = pull("auth-token SESS_ID_AT_secret");
        assert_eq!(
            state.auth_token.as_ref().map(Secret::as_str),
            Some("SESS_ID_AT_secret")
        );
        assert!(!format!("{state:?}").contains("secret"));
        let (state, _) = pull("auth-token x,auth-token-user YWxpY2U=");
        assert_eq!(state.auth_token_user.as_deref(), Some("alice"));
        let (state, outcomes) = pull("auth-token-user alice!");
        assert!(
            matches!(outcomes[..], [PushOutcome::Warning(_)]) && state.auth_token_user.is_none()
        );
        let (_, outcomes) = pull("auth-token SESS_ID_AT_secret x");
        let PushOutcome::Warning(message) = &outcomes[0] else {
            panic!("{outcomes:?}")
        };
        assert!(!message.contains("secret"), "{message}");
    }

    #[test]
    fn every_pullable_option_is_handled() {
        for directive in directives::DIRECTIVES {
            if directive.class != Class::Honoured || !directive.places.has(PULL) {
                continue;
            }
            let words = vec!["?".to_owned(); usize::from(directive.min)];
            let result = set(directive.name, &words, &mut PulledOptions::default());
            assert_ne!(
                result,
                Err("a server may not set it".to_owned()),
                "{}",
                directive.name
            );
        }
    }

    proptest! {
        #[test]
        fn any_push_is_survived(line in "(ifconfig|route|route-ipv6|redirect-gateway|ping|cipher|\
                                         dns|compress|tun-mtu|setenv-safe)?[ -~]{0,60}") {
            let mut state = PulledOptions::default();
            let _ = apply(&line, &[], &mut state);
            let _ = state.tun_digest();
        }
    }
}
