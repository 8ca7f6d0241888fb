//! `redirect-gateway` and `redirect-private`: flags turned into routes.
//!
//! The expansion is a pure function of what is known, so that every combination can be tested
//! without a network; [`RouteManager::redirect_gateway`] asks the kernel and applies the result.
//!
//! ```text
//!  1  remote/32 the way it goes now          unless local (or autolocal and on the same link)
//!  2  block-local: the LAN in two halves into the tunnel, its gateway excepted
//!  3  def1: 0/1 and 128/1 into the tunnel    otherwise: the default route replaced
//!  4  ipv6: ::/3 2000::/4 3000::/4 fc00::/7 into the tunnel
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::link::{LinkAddress, network_of};
use super::netlink::NetlinkError;
use super::routes::{Gateway, NextHop, RouteManager, RouteRequest};

/// The flags of `redirect-gateway` or `redirect-private`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedirectFlags {
    /// Change the default route: `redirect-gateway`, not `redirect-private`.
    pub reroute: bool,
    /// Both ends share a network: no route to the remote.
    pub local: bool,
    /// `local` if the remote turns out to be on a network of this host.
    pub autolocal: bool,
    /// Override the default route with two halves instead of replacing it.
    pub def1: bool,
    /// Accepted; has no effect on Linux, as in OpenVPN.
    pub bypass_dhcp: bool,
    /// Accepted; has no effect on Linux, as in OpenVPN.
    pub bypass_dns: bool,
    /// Lead the local network into the tunnel too, apart from its gateway.
    pub block_local: bool,
    /// Redirect IPv6 as well.
    pub ipv6: bool,
    /// Redirect IPv4; `!ipv4` clears it.
    pub ipv4: bool,
}

/// What the expansion needs to know.
#[derive(Clone, Debug, Default)]
pub struct RedirectInput {
    /// Outer address of the peer, and the way there.
    pub remote: Option<(IpAddr, NextHop)>,
    /// The default gateway from before.
    pub net_gateway: Option<NextHop>,
    /// Addresses of the interface the default gateway is on.
    pub uplink_addresses: Vec<LinkAddress>,
    /// The gateway inside the tunnel (`route-gateway` or the far end of `ifconfig`).
    pub vpn_gateway: Option<Ipv4Addr>,
    /// The gateway inside the tunnel for IPv6; needed with TAP only.
    pub vpn_gateway_v6: Option<Ipv6Addr>,
    /// The tunnel device.
    pub tunnel: u32,
    /// Metric for the redirecting routes.
    pub metric: Option<u32>,
}

/// One step of a redirection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectStep {
    /// Add this route.
    Add(RouteRequest),
    /// Make this the default route, replacing the one there is.
    ReplaceDefault(RouteRequest),
}

impl RedirectFlags {
    /// Reads the words behind `redirect-gateway` (`reroute` true) or `redirect-private` (false).
    pub fn parse<S: AsRef<str>>(reroute: bool, words: &[S]) -> Result<Self, String> {
        let mut flags = RedirectFlags {
            reroute,
            local: false,
            autolocal: false,
            def1: false,
            bypass_dhcp: false,
            bypass_dns: false,
            block_local: false,
            ipv6: false,
            ipv4: true,
        };
        for word in words {
            match word.as_ref() {
                "local" => flags.local = true,
                "autolocal" => flags.autolocal = true,
                "def1" => flags.def1 = true,
                "bypass-dhcp" => flags.bypass_dhcp = true,
                "bypass-dns" => flags.bypass_dns = true,
                "block-local" => flags.block_local = true,
                "ipv6" => flags.ipv6 = true,
                "!ipv4" => flags.ipv4 = false,
                other => return Err(format!("unknown flag '{other}'")),
            }
        }
        Ok(flags)
    }
}

/// The routes for a redirection, in the order to apply them.
pub fn expand(flags: &RedirectFlags, input: &RedirectInput) -> Result<Vec<RedirectStep>, String> {
    let mut steps = Vec::new();
    if let Some((remote, hop)) = &input.remote {
        let redirected = if remote.is_ipv4() {
            flags.ipv4
        } else {
            flags.ipv6 && flags.reroute
        };
        let on_link = hop.gateway.is_none();
        let local = hop.local || flags.local || (flags.autolocal && on_link);
        if redirected && !local {
            steps.push(RedirectStep::Add(remote_route(*remote, hop)));
        }
    }
    if flags.ipv4 {
        let needs_gateway = flags.reroute || flags.block_local;
        match input.vpn_gateway {
            Some(gateway) => expand_ipv4(flags, input, gateway, &mut steps),
            None if needs_gateway => {
                return Err(
                    "cannot redirect IPv4: neither route-gateway nor ifconfig names a gateway \
                     inside the tunnel"
                        .into(),
                );
            }
            None => {}
        }
    }
    if flags.ipv6 && flags.reroute {
        let gateway = match input.vpn_gateway_v6 {
            Some(address) => Gateway::Via(address.into()),
            None => Gateway::Device,
        };
        for (network, prefix) in IPV6_UNICAST {
            steps.push(RedirectStep::Add(RouteRequest {
                dest: network.into(),
                prefix,
                gateway,
                metric: input.metric,
                ifindex: input.tunnel,
                table: None,
            }));
        }
    }
    Ok(steps)
}

/// Whether a route to `dest`/`prefix` would catch packets to `address`.
pub fn covers(dest: IpAddr, prefix: u8, address: IpAddr) -> bool {
    dest.is_ipv4() == address.is_ipv4() && network_of(address, prefix) == network_of(dest, prefix)
}

impl RouteManager {
    /// Applies `redirect-gateway` or `redirect-private`. `tunnel` is the device's interface index.
    /// Steps after a failed one are still tried; all failures come back, one line each.
    pub fn redirect_gateway(
        &mut self,
        flags: &RedirectFlags,
        remote: Option<IpAddr>,
        vpn_gateway: Option<Ipv4Addr>,
        vpn_gateway_v6: Option<Ipv6Addr>,
        tunnel: u32,
        metric: Option<u32>,
    ) -> Result<(), Vec<String>> {
        let steps = self
            .gather(remote, tunnel)
            .map_err(|error| vec![format!("cannot read the routing table: {error}")])
            .and_then(|input| {
                let input = RedirectInput {
                    vpn_gateway,
                    vpn_gateway_v6,
                    tunnel,
                    metric,
                    ..input
                };
                expand(flags, &input).map_err(|problem| vec![problem])
            })?;
        let problems: Vec<String> = steps
            .iter()
            .filter_map(|step| {
                match step {
                    RedirectStep::Add(request) => self.add(request),
                    RedirectStep::ReplaceDefault(request) => self.replace_default(request),
                }
                .err()
            })
            .collect();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }

    /// Pins the way to the peer's outer address as it is now, for when another route (see
    /// [`covers`]) would lead it into the tunnel.
    pub fn protect_remote(&mut self, remote: IpAddr, tunnel: u32) -> Result<(), String> {
        match self.way_around(remote, tunnel) {
            Ok(Some(hop)) if hop.local => Ok(()),
            Ok(Some(hop)) => self.add(&remote_route(remote, &hop)),
            Ok(None) => Err(format!("there is no route to {remote} outside the tunnel")),
            Err(error) => Err(format!("cannot look up the route to {remote}: {error}")),
        }
    }

    fn gather(
        &mut self,
        remote: Option<IpAddr>,
        tunnel: u32,
    ) -> Result<RedirectInput, NetlinkError> {
        let remote = match remote {
            Some(remote) => self.way_around(remote, tunnel)?.map(|hop| (remote, hop)),
            None => None,
        };
        let net_gateway = self.net_gateway(false)?;
        let uplink_addresses = match net_gateway {
            Some(hop) => self.netlink().addresses(hop.ifindex)?,
            None => Vec::new(),
        };
        Ok(RedirectInput {
            remote,
            net_gateway,
            uplink_addresses,
            ..RedirectInput::default()
        })
    }

    /// The way to `remote` that does not lead into the tunnel itself.
    fn way_around(&mut self, remote: IpAddr, tunnel: u32) -> Result<Option<NextHop>, NetlinkError> {
        match self.netlink().next_hop(remote)? {
            Some(hop) if hop.ifindex != tunnel => Ok(Some(hop)),
            _ => self.net_gateway(remote.is_ipv6()),
        }
    }
}

/// What covers IPv6 unicast without being a default route.
const IPV6_UNICAST: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::UNSPECIFIED, 3),
    (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 4),
    (Ipv6Addr::new(0x3000, 0, 0, 0, 0, 0, 0, 0), 4),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
];

fn remote_route(remote: IpAddr, hop: &NextHop) -> RouteRequest {
    RouteRequest {
        dest: remote,
        prefix: if remote.is_ipv4() { 32 } else { 128 },
        gateway: hop.gateway.map_or(Gateway::Device, Gateway::Via),
        metric: None,
        ifindex: hop.ifindex,
        table: None,
    }
}

fn expand_ipv4(
    flags: &RedirectFlags,
    input: &RedirectInput,
    vpn_gateway: Ipv4Addr,
    steps: &mut Vec<RedirectStep>,
) {
    let into_tunnel = |network: Ipv4Addr, prefix: u8| RouteRequest {
        dest: network.into(),
        prefix,
        gateway: Gateway::Via(vpn_gateway.into()),
        metric: input.metric,
        // The gateway may be behind a bridge that the tunnel device is part of.
        ifindex: 0,
        table: None,
    };
    if flags.block_local
        && let Some((gateway, lan)) = local_network(input)
    {
        steps.push(RedirectStep::Add(remote_route(
            gateway.into(),
            &NextHop {
                gateway: None,
                ..lan.1
            },
        )));
        let half = lan.0.1 + 1;
        let second = u32::from(lan.0.0) | 1 << (32 - half);
        steps.push(RedirectStep::Add(into_tunnel(lan.0.0, half)));
        steps.push(RedirectStep::Add(into_tunnel(second.into(), half)));
    }
    if !flags.reroute {
        return;
    }
    if flags.def1 {
        steps.push(RedirectStep::Add(into_tunnel(Ipv4Addr::UNSPECIFIED, 1)));
        steps.push(RedirectStep::Add(into_tunnel(
            Ipv4Addr::new(128, 0, 0, 0),
            1,
        )));
    } else {
        steps.push(RedirectStep::ReplaceDefault(into_tunnel(
            Ipv4Addr::UNSPECIFIED,
            0,
        )));
    }
}

type LocalNetwork = ((Ipv4Addr, u8), NextHop);

/// The default gateway and the local network it is on, if that network has more than two addresses.
fn local_network(input: &RedirectInput) -> Option<(Ipv4Addr, LocalNetwork)> {
    let hop = input.net_gateway?;
    let Some(IpAddr::V4(gateway)) = hop.gateway else {
        return None;
    };
    input
        .uplink_addresses
        .iter()
        .filter(|own| own.peer.is_none() && (1..31).contains(&own.prefix))
        .find(|own| covers(own.address, own.prefix, gateway.into()))
        .and_then(|own| match network_of(own.address, own.prefix) {
            IpAddr::V4(network) => Some((gateway, ((network, own.prefix), hop))),
            IpAddr::V6(_) => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::netlink::Netlink;
    use crate::host::testing::in_namespace;

    fn hop(gateway: Option<&str>) -> NextHop {
        NextHop {
            gateway: gateway.map(|text| text.parse().unwrap()),
            ifindex: 2,
            source: None,
            metric: 0,
            local: false,
        }
    }

    fn input() -> RedirectInput {
        RedirectInput {
            remote: Some(("203.0.113.5".parse().unwrap(), hop(Some("192.0.2.1")))),
            net_gateway: Some(hop(Some("192.0.2.1"))),
            uplink_addresses: vec![LinkAddress {
                address: "192.0.2.10".parse().unwrap(),
                prefix: 24,
                peer: None,
            }],
            vpn_gateway: Some("10.8.0.1".parse().unwrap()),
            vpn_gateway_v6: None,
            tunnel: 7,
            metric: None,
        }
    }

    fn steps(words: &str, input: &RedirectInput) -> Vec<String> {
        let words: Vec<&str> = words.split_whitespace().collect();
        let flags = RedirectFlags::parse(words[0] == "gateway", &words[1..]).unwrap();
        expand(&flags, input)
            .unwrap()
            .iter()
            .map(|step| match step {
                RedirectStep::Add(route) => format!("{route} @{}", route.ifindex),
                RedirectStep::ReplaceDefault(route) => format!("= {route} @{}", route.ifindex),
            })
            .collect()
    }

    #[test]
    fn flags_expand_as_in_openvpn() {
        let remote = "203.0.113.5/32 via 192.0.2.1 @2";
        let input = input();
        assert_eq!(
            steps("gateway def1", &input),
            [
                remote,
                "0.0.0.0/1 via 10.8.0.1 @0",
                "128.0.0.0/1 via 10.8.0.1 @0"
            ]
        );
        assert_eq!(
            steps("gateway bypass-dhcp bypass-dns", &input),
            [remote, "= 0.0.0.0/0 via 10.8.0.1 @0"]
        );
        assert_eq!(
            steps("gateway local", &input),
            ["= 0.0.0.0/0 via 10.8.0.1 @0"]
        );
        assert_eq!(steps("private", &input), [remote]);
        assert_eq!(
            steps("private block-local", &input),
            [
                remote,
                "192.0.2.1/32 dev #2 @2",
                "192.0.2.0/25 via 10.8.0.1 @0",
                "192.0.2.128/25 via 10.8.0.1 @0"
            ]
        );
        assert_eq!(
            steps("gateway ipv6 !ipv4", &input),
            [
                "::/3 dev #7 @7",
                "2000::/4 dev #7 @7",
                "3000::/4 dev #7 @7",
                "fc00::/7 dev #7 @7"
            ]
        );
        assert_eq!(steps("gateway !ipv4", &input), Vec::<String>::new());
    }

    #[test]
    fn the_way_to_the_remote() {
        let on_link = RedirectInput {
            remote: Some(("192.0.2.77".parse().unwrap(), hop(None))),
            ..input()
        };
        assert_eq!(steps("private", &on_link), ["192.0.2.77/32 dev #2 @2"]);
        assert_eq!(steps("private autolocal", &on_link), Vec::<String>::new());
        assert_eq!(steps("private autolocal", &input()).len(), 1);
        let own = RedirectInput {
            remote: Some((
                "127.0.0.1".parse().unwrap(),
                NextHop {
                    local: true,
                    ..hop(None)
                },
            )),
            ..input()
        };
        assert_eq!(steps("private", &own), Vec::<String>::new());
        let over_v6 = RedirectInput {
            remote: Some(("2001:db8::5".parse().unwrap(), hop(Some("fe80::1")))),
            ..input()
        };
        assert_eq!(steps("gateway def1", &over_v6).len(), 2);
        assert_eq!(
            steps("gateway ipv6 !ipv4", &over_v6)[0],
            "2001:db8::5/128 via fe80::1 @2"
        );
    }

    #[test]
    fn mistakes_are_named() {
        assert!(RedirectFlags::parse(true, &["def2"]).is_err());
        let lost = RedirectInput {
            vpn_gateway: None,
            ..input()
        };
        let flags = RedirectFlags::parse(true, &["def1"]).unwrap();
        assert!(expand(&flags, &lost).unwrap_err().contains("route-gateway"));
        assert_eq!(steps("private", &lost).len(), 1);
    }

    #[test]
    fn covering() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(covers(ip("0.0.0.0"), 1, ip("10.0.0.1")));
        assert!(!covers(ip("128.0.0.0"), 1, ip("10.0.0.1")));
        assert!(!covers(ip("0.0.0.0"), 0, ip("::1")));
        assert!(covers(ip("2000::"), 4, ip("2001:db8::1")));
    }

    #[test]
    fn redirection_is_applied_and_undone() {
        in_namespace("redirection_is_applied_and_undone", |netns| {
            netns.dummy("rwup0");
            netns.dummy("rwtun0");
            for command in [
                "addr add 192.0.2.10/24 dev rwup0",
                "addr add 10.8.0.2/24 dev rwtun0",
                "link set rwup0 up",
                "link set rwtun0 up",
                "route add default via 192.0.2.1 dev rwup0",
            ] {
                netns.ip(command);
            }
            let before = (
                netns.ip("route show table all"),
                netns.ip("-6 route show table all"),
            );
            let mut netlink = Netlink::open().unwrap();
            let tunnel = netlink.index_of("rwtun0").unwrap().unwrap();
            let mut routes = RouteManager::new(netlink);
            let remote: IpAddr = "203.0.113.5".parse().unwrap();
            for words in [
                &["def1", "ipv6"][..],
                &["def1", "block-local"],
                &["bypass-dhcp"],
            ] {
                let flags = RedirectFlags::parse(true, words).unwrap();
                let gateway = Some("10.8.0.1".parse().unwrap());
                routes
                    .redirect_gateway(&flags, Some(remote), gateway, None, tunnel, None)
                    .unwrap();
                let shown = netns.ip("route get 203.0.113.5");
                assert!(shown.contains("via 192.0.2.1 dev rwup0"), "{shown}");
                let shown = netns.ip("route get 198.51.100.1");
                assert!(shown.contains("via 10.8.0.1 dev rwtun0"), "{shown}");
                if words.contains(&"block-local") {
                    let shown = netns.ip("route get 192.0.2.99");
                    assert!(shown.contains("dev rwtun0"), "{shown}");
                }
                // A second time, as after a restart that kept the device, changes nothing.
                routes
                    .redirect_gateway(&flags, Some(remote), gateway, None, tunnel, None)
                    .unwrap();
                assert_eq!(routes.undo_all(), Vec::<String>::new());
                let after = (
                    netns.ip("route show table all"),
                    netns.ip("-6 route show table all"),
                );
                assert_eq!(after, before);
            }
            routes.protect_remote(remote, tunnel).unwrap();
            assert!(
                netns
                    .ip("route")
                    .contains("203.0.113.5 via 192.0.2.1 dev rwup0")
            );
            routes.undo_all();
        });
    }
}
