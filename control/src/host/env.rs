//! The environment of scripts: OpenVPN's variable names, OpenVPN's sanitizing.
//!
//! Names keep letters, digits and `_`; control characters in values become `_`, so that nothing a
//! peer sends can add a line or a variable. Scripts receive these variables and nothing else; in
//! particular the environment of this process is not passed on.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zeroize::Zeroize;

use super::link::netmask_of;
use crate::config::dns::Dns;

/// Variables for scripts, ordered by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ScriptEnv {
    variables: BTreeMap<String, String>,
    /// No script will ever see it.
    unused: bool,
}

/// What stands behind the local address in `ifconfig`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfconfigEnd {
    /// The far end (topologies net30 and p2p).
    Remote(Ipv4Addr),
    /// The netmask (topology subnet, TAP).
    Netmask(Ipv4Addr),
}

impl ScriptEnv {
    /// An empty environment.
    pub fn new() -> Self {
        Self::default()
    }

    /// An environment that no script will see: it keeps nothing, and setting variables costs next to
    /// nothing.
    pub fn unused() -> Self {
        Self {
            variables: BTreeMap::new(),
            unused: true,
        }
    }

    /// Whether nothing is kept; see [`ScriptEnv::unused`].
    pub fn is_unused(&self) -> bool {
        self.unused
    }

    /// Sets a variable, replacing an earlier value. A name that is empty after sanitizing is
    /// ignored.
    pub fn set(&mut self, name: &str, value: impl fmt::Display) {
        if self.unused {
            return;
        }
        let name = clean_name(name);
        if !name.is_empty() {
            self.variables.insert(name, clean_value(&value.to_string()));
        }
    }

    /// Sets a variable of the `setenv-safe` option, whose name gets the prefix `OPENVPN_`.
    pub fn set_safe(&mut self, name: &str, value: impl fmt::Display) {
        self.set(&format!("OPENVPN_{name}"), value);
    }

    /// Removes a variable.
    pub fn unset(&mut self, name: &str) {
        if let Some(mut value) = self.variables.remove(&clean_name(name)) {
            value.zeroize();
        }
    }

    /// Removes all variables whose name is `prefix` followed by a number, like `foreign_option_1`.
    pub fn unset_numbered(&mut self, prefix: &str) {
        self.variables.retain(|name, _| {
            !name.strip_prefix(prefix).is_some_and(|rest| {
                !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())
            })
        });
    }

    /// The value of a variable.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// All variables, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// `daemon`, `daemon_log_redirect`, `daemon_pid`, `daemon_start_time` (seconds since 1970),
    /// `verb`, and `config` if there is a file.
    pub fn set_process(
        &mut self,
        daemon: bool,
        log_redirect: bool,
        start_time: u64,
        verb: u8,
        config: Option<&str>,
    ) {
        self.set("daemon", u8::from(daemon));
        self.set("daemon_log_redirect", u8::from(log_redirect));
        self.set("daemon_pid", std::process::id());
        self.set("daemon_start_time", start_time);
        self.set("verb", verb);
        if let Some(config) = config {
            self.set("config", config);
        }
    }

    /// `remote_N`, `remote_port_N`, `local_port_N` (not with `nobind`) and `proto_N` of connection
    /// entry `number`, counted from 1.
    pub fn set_connection(
        &mut self,
        number: usize,
        remote: Option<(&str, &str)>,
        local_port: Option<&str>,
        proto: &str,
    ) {
        if let Some((host, port)) = remote {
            self.set(&format!("remote_{number}"), host);
            self.set(&format!("remote_port_{number}"), port);
        }
        if let Some(port) = local_port {
            self.set(&format!("local_port_{number}"), port);
        }
        self.set(&format!("proto_{number}"), proto);
    }

    /// `dev`, `dev_type` (`tun` or `tap`) and `tun_mtu` in bytes.
    pub fn set_device(&mut self, name: &str, kind: &str, mtu: u32) {
        self.set("dev", name);
        self.set("dev_type", kind);
        self.set("tun_mtu", mtu);
    }

    /// `ifconfig_local` and either `ifconfig_remote` or `ifconfig_netmask`.
    pub fn set_ifconfig(&mut self, local: Ipv4Addr, end: IfconfigEnd) {
        self.set("ifconfig_local", local);
        match end {
            IfconfigEnd::Remote(remote) => {
                self.set("ifconfig_remote", remote);
                self.unset("ifconfig_netmask");
            }
            IfconfigEnd::Netmask(netmask) => {
                self.set("ifconfig_netmask", netmask);
                self.unset("ifconfig_remote");
            }
        }
    }

    /// `ifconfig_ipv6_local`, `ifconfig_ipv6_netbits` and `ifconfig_ipv6_remote`.
    pub fn set_ifconfig_ipv6(&mut self, local: Ipv6Addr, netbits: u8, remote: Option<Ipv6Addr>) {
        self.set("ifconfig_ipv6_local", local);
        self.set("ifconfig_ipv6_netbits", netbits);
        match remote {
            Some(remote) => self.set("ifconfig_ipv6_remote", remote),
            None => self.unset("ifconfig_ipv6_remote"),
        }
    }

    /// Removes the addresses of the device, before setting those it has now.
    pub fn clear_ifconfig(&mut self) {
        for name in [
            "ifconfig_local",
            "ifconfig_remote",
            "ifconfig_netmask",
            "ifconfig_ipv6_local",
            "ifconfig_ipv6_netbits",
            "ifconfig_ipv6_remote",
        ] {
            self.unset(name);
        }
    }

    /// `route_vpn_gateway` and `route_net_gateway`, those that are known.
    pub fn set_gateways(&mut self, vpn: Option<IpAddr>, net: Option<IpAddr>) {
        if let Some(vpn) = vpn {
            self.set("route_vpn_gateway", vpn);
        }
        if let Some(net) = net {
            self.set("route_net_gateway", net);
        }
    }

    /// `route_network_N`, `route_netmask_N`, `route_gateway_N`, `route_metric_N` of the IPv4 route
    /// `number`, counted from 1.
    pub fn set_route(
        &mut self,
        number: usize,
        network: Ipv4Addr,
        prefix: u8,
        gateway: Option<Ipv4Addr>,
        metric: Option<u32>,
    ) {
        self.set(&format!("route_network_{number}"), network);
        self.set(&format!("route_netmask_{number}"), netmask_of(prefix));
        if let Some(gateway) = gateway {
            self.set(&format!("route_gateway_{number}"), gateway);
        }
        if let Some(metric) = metric {
            self.set(&format!("route_metric_{number}"), metric);
        }
    }

    /// `route_ipv6_network_N` (with the prefix length), `route_ipv6_gateway_N`,
    /// `route_ipv6_metric_N` of the IPv6 route `number`, counted from 1.
    pub fn set_route_ipv6(
        &mut self,
        number: usize,
        network: Ipv6Addr,
        prefix: u8,
        gateway: Option<Ipv6Addr>,
        metric: Option<u32>,
    ) {
        self.set(
            &format!("route_ipv6_network_{number}"),
            format_args!("{network}/{prefix}"),
        );
        if let Some(gateway) = gateway {
            self.set(&format!("route_ipv6_gateway_{number}"), gateway);
        }
        if let Some(metric) = metric {
            self.set(&format!("route_ipv6_metric_{number}"), metric);
        }
    }

    /// Removes the variables of all routes, before setting those of a new connection.
    pub fn clear_routes(&mut self) {
        for name in ["network", "netmask", "gateway", "metric"] {
            self.unset_numbered(&format!("route_{name}_"));
            self.unset_numbered(&format!("route_ipv6_{name}_"));
        }
    }

    /// Appends `foreign_option_N`: an option that scripts may carry out, such as
    /// `dhcp-option DNS 10.8.0.1`.
    pub fn add_foreign_option(&mut self, option: &str) {
        let number = (1usize..)
            .find(|number| self.value(&format!("foreign_option_{number}")).is_none())
            .unwrap_or(usize::MAX);
        self.set(&format!("foreign_option_{number}"), option);
    }

    /// `dns_search_domain_N`, and `dns_server_N_address_M`, `_port_M`, `_resolve_domain_M`,
    /// `_dnssec`, `_transport` and `_sni` of each server, counted from 1 in order of priority.
    pub fn set_dns(&mut self, dns: &Dns) {
        self.variables
            .retain(|name, _| !name.starts_with("dns_server_"));
        self.unset_numbered("dns_search_domain_");
        for (number, domain) in (1..).zip(&dns.search_domains) {
            self.set(&format!("dns_search_domain_{number}"), domain);
        }
        for (number, server) in (1..).zip(dns.servers.values()) {
            let name = |rest: &str| format!("dns_server_{number}_{rest}");
            for (m, (address, port)) in (1..).zip(&server.addresses) {
                self.set(&name(&format!("address_{m}")), address);
                if let Some(port) = port {
                    self.set(&name(&format!("port_{m}")), port);
                }
            }
            for (m, domain) in (1..).zip(&server.resolve_domains) {
                self.set(&name(&format!("resolve_domain_{m}")), domain);
            }
            for (rest, value) in [
                ("dnssec", &server.dnssec),
                ("transport", &server.transport),
                ("sni", &server.sni),
            ] {
                if let Some(value) = value {
                    self.set(&name(rest), value);
                }
            }
        }
    }

    /// Sets the foreign options from `dhcp-option` lines (without that word). `dns` servers stand
    /// for name servers and search domains among them and are told in their words too.
    pub fn set_foreign_options(&mut self, dhcp_options: &[String], dns: &Dns) {
        self.unset_numbered("foreign_option_");
        let replaced = |line: &str| {
            let kind = line.split_whitespace().next().unwrap_or_default();
            !dns.servers.is_empty() && matches!(kind, "DNS" | "DNS6" | "DOMAIN-SEARCH")
        };
        for line in dhcp_options.iter().filter(|line| !replaced(line)) {
            self.add_foreign_option(&format!("dhcp-option {line}"));
        }
        for (address, _) in dns.servers.values().flat_map(|s| &s.addresses) {
            let kind = if address.is_ipv4() { "DNS" } else { "DNS6" };
            self.add_foreign_option(&format!("dhcp-option {kind} {address}"));
        }
        for domain in dns
            .search_domains
            .iter()
            .filter(|_| !dns.servers.is_empty())
        {
            self.add_foreign_option(&format!("dhcp-option DOMAIN-SEARCH {domain}"));
        }
    }

    /// `trusted_ip` or `trusted_ip6`, and `trusted_port`: the peer's authenticated address.
    pub fn set_trusted(&mut self, address: SocketAddr) {
        self.set_endpoint("trusted", address);
    }

    /// `untrusted_ip` or `untrusted_ip6`, and `untrusted_port`: the address of a peer that is not
    /// authenticated yet.
    pub fn set_untrusted(&mut self, address: SocketAddr) {
        self.set_endpoint("untrusted", address);
    }

    fn set_endpoint(&mut self, prefix: &str, address: SocketAddr) {
        self.unset(&format!("{prefix}_ip"));
        self.unset(&format!("{prefix}_ip6"));
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => self.set(&format!("{prefix}_ip"), ip),
            IpAddr::V6(ip) => self.set(&format!("{prefix}_ip6"), ip),
        }
        self.set(&format!("{prefix}_port"), address.port());
    }
}

/// A password must not stay behind in memory that is given away.
impl Drop for ScriptEnv {
    fn drop(&mut self) {
        self.unset("password");
    }
}

/// Shows names only: values may hold a password.
impl fmt::Debug for ScriptEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

fn clean_name(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}

/// Text that cannot be more than one line: control characters become `_`.
pub(super) fn clean_value(value: &str) -> String {
    value
        .chars()
        .map(|c| if c.is_control() { '_' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(env: &ScriptEnv) -> Vec<String> {
        env.iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    #[test]
    fn an_environment_for_nobody_keeps_nothing() {
        let mut env = ScriptEnv::unused();
        env.set("common_name", "client");
        env.set_trusted("192.0.2.1:1194".parse().unwrap());
        assert!(env.is_unused() && env.iter().next().is_none());
        assert!(!ScriptEnv::new().is_unused());
    }

    #[test]
    fn variables_of_a_tunnel() {
        let mut env = ScriptEnv::new();
        env.set_device("tun0", "tun", 1500);
        env.set_ifconfig(
            Ipv4Addr::new(10, 9, 0, 1),
            IfconfigEnd::Remote(Ipv4Addr::new(10, 9, 0, 2)),
        );
        env.set_ifconfig(
            Ipv4Addr::new(10, 9, 0, 1),
            IfconfigEnd::Netmask(Ipv4Addr::new(255, 255, 255, 0)),
        );
        env.set_ifconfig_ipv6(
            "fd00::1".parse().unwrap(),
            64,
            Some("fd00::2".parse().unwrap()),
        );
        env.set_connection(1, Some(("192.0.2.2", "1194")), Some("1194"), "udp");
        env.set_gateways(
            Some("10.9.0.2".parse().unwrap()),
            Some("192.0.2.254".parse().unwrap()),
        );
        env.set_route(
            1,
            Ipv4Addr::new(10, 30, 0, 0),
            16,
            Some(Ipv4Addr::new(192, 0, 2, 254)),
            Some(7),
        );
        env.set_route_ipv6(1, "fd01::".parse().unwrap(), 48, None, None);
        env.set_trusted("192.0.2.2:1194".parse().unwrap());
        assert_eq!(
            shown(&env),
            [
                "dev=tun0",
                "dev_type=tun",
                "ifconfig_ipv6_local=fd00::1",
                "ifconfig_ipv6_netbits=64",
                "ifconfig_ipv6_remote=fd00::2",
                "ifconfig_local=10.9.0.1",
                "ifconfig_netmask=255.255.255.0",
                "local_port_1=1194",
                "proto_1=udp",
                "remote_1=192.0.2.2",
                "remote_port_1=1194",
                "route_gateway_1=192.0.2.254",
                "route_ipv6_network_1=fd01::/48",
                "route_metric_1=7",
                "route_net_gateway=192.0.2.254",
                "route_netmask_1=255.255.0.0",
                "route_network_1=10.30.0.0",
                "route_vpn_gateway=10.9.0.2",
                "trusted_ip=192.0.2.2",
                "trusted_port=1194",
                "tun_mtu=1500",
            ]
        );
        env.clear_routes();
        assert_eq!(env.value("route_network_1"), None);
        assert_eq!(env.value("route_vpn_gateway"), Some("10.9.0.2"));
        assert_eq!(env.value("remote_1"), Some("192.0.2.2"));
    }

    #[test]
    fn addresses_change_family() {
        let mut env = ScriptEnv::new();
        env.set_trusted("192.0.2.2:1".parse().unwrap());
        env.set_trusted("[2001:db8::1]:2".parse().unwrap());
        assert_eq!(shown(&env), ["trusted_ip6=2001:db8::1", "trusted_port=2"]);
        env.set_trusted("[::ffff:192.0.2.2]:3".parse().unwrap());
        assert_eq!(shown(&env), ["trusted_ip=192.0.2.2", "trusted_port=3"]);
    }

    #[test]
    fn foreign_options_are_numbered() {
        let mut env = ScriptEnv::new();
        env.add_foreign_option("dhcp-option DNS 10.8.0.1");
        env.add_foreign_option("dhcp-option DOMAIN x\nLD_PRELOAD=evil");
        assert_eq!(
            shown(&env),
            [
                "foreign_option_1=dhcp-option DNS 10.8.0.1",
                "foreign_option_2=dhcp-option DOMAIN x_LD_PRELOAD=evil"
            ]
        );
        env.set_foreign_options(&[], &Dns::default());
        assert_eq!(shown(&env), Vec::<String>::new());
    }

    #[test]
    fn name_servers_for_scripts() {
        let lines = [
            "server 1 address 10.8.0.1 [fd00::53]:5353",
            "server 1 sni dns.example",
            "server -2 address 10.8.0.9",
            "search-domains a.example",
        ];
        let dns = Dns::from_lines(&lines.map(str::to_owned));
        let dhcp = ["DNS 10.8.0.7", "DOMAIN own.example"].map(str::to_owned);
        let mut env = ScriptEnv::new();
        env.set_foreign_options(&dhcp, &Dns::default());
        env.set_dns(&dns);
        assert_eq!(
            shown(&env),
            [
                "dns_search_domain_1=a.example",
                "dns_server_1_address_1=10.8.0.9",
                "dns_server_2_address_1=10.8.0.1",
                "dns_server_2_address_2=fd00::53",
                "dns_server_2_port_2=5353",
                "dns_server_2_sni=dns.example",
                "foreign_option_1=dhcp-option DNS 10.8.0.7",
                "foreign_option_2=dhcp-option DOMAIN own.example",
            ]
        );
        env.set_foreign_options(&dhcp, &dns);
        env.set_dns(&Dns::default());
        assert_eq!(
            shown(&env),
            [
                "foreign_option_1=dhcp-option DOMAIN own.example",
                "foreign_option_2=dhcp-option DNS 10.8.0.9",
                "foreign_option_3=dhcp-option DNS 10.8.0.1",
                "foreign_option_4=dhcp-option DNS6 fd00::53",
                "foreign_option_5=dhcp-option DOMAIN-SEARCH a.example",
            ]
        );
    }

    #[test]
    fn names_are_cleaned() {
        let mut env = ScriptEnv::new();
        env.set("a-b=c", "größe\x7f");
        env.set("", "x");
        env.set_safe("FOO", "bar");
        assert_eq!(shown(&env), ["OPENVPN_FOO=bar", "a_b_c=größe_"]);
        assert!(!format!("{env:?}").contains("bar"));
    }

    proptest! {
        #[test]
        fn nothing_escapes_its_variable(name in any::<String>(), value in any::<String>()) {
            let mut env = ScriptEnv::new();
            env.set(&name, &value);
            for (name, value) in env.iter() {
                prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
                prop_assert!(!value.chars().any(char::is_control));
            }
        }
    }
}
