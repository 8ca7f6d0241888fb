//! Addresses and routes of the tunnel, as written in a configuration or pushed.

use std::net::{Ipv4Addr, Ipv6Addr};

/// `topology`, for a tun device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topology {
    /// Point to point, a /30 per client.
    Net30,
    /// Point to point.
    P2p,
    /// One subnet for all.
    Subnet,
}

/// `ifconfig`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ifconfig {
    /// Own address.
    pub local: Ipv4Addr,
    /// The peer's address; with topology subnet the netmask.
    pub remote_netmask: Ipv4Addr,
}

/// `ifconfig-ipv6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IfconfigIpv6 {
    /// Own address.
    pub local: Ipv6Addr,
    /// Prefix length.
    pub prefix: u8,
    /// The peer's address, the default gateway of IPv6 routes.
    pub remote: Ipv6Addr,
}

/// The network or gateway of a route as written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RouteAddr {
    /// An address.
    Addr(Ipv4Addr),
    /// A host name, to resolve when the route is added.
    Name(String),
    /// `vpn_gateway`
    VpnGateway,
    /// `net_gateway`
    NetGateway,
    /// `remote_host`
    RemoteHost,
}

/// `route`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Network.
    pub network: RouteAddr,
    /// Netmask.
    pub netmask: Ipv4Addr,
    /// Gateway; `None` is the tunnel's.
    pub gateway: Option<RouteAddr>,
    /// Metric; `None` is `route_metric`'s.
    pub metric: Option<u32>,
}

/// `route-ipv6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteIpv6 {
    /// Network; bits outside the prefix are clear.
    pub network: Ipv6Addr,
    /// Prefix length.
    pub prefix: u8,
    /// Gateway; `None` is the tunnel's.
    pub gateway: Option<Ipv6Addr>,
    /// Metric; `None` is `route_metric`'s.
    pub metric: Option<u32>,
}

/// `route-gateway`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RouteGateway {
    /// A fixed address.
    Addr(Ipv4Addr),
    /// A host name, to resolve when routes are added.
    Name(String),
    /// `dhcp`: whatever a DHCP client on the tap device learns. Routes that depend on it are that
    /// client's to add.
    Dhcp,
}

/// One `pull-filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullFilter {
    /// What to do with an option that begins with `text`.
    pub action: PullFilterAction,
    /// The beginning.
    pub text: String,
}

/// What a `pull-filter` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullFilterAction {
    /// Take it.
    Accept,
    /// Skip it.
    Ignore,
    /// Restart.
    Reject,
}

/// `redirect-gateway` and `redirect-private` (the latter without `reroute`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RedirectGateway {
    /// Move the default route (`redirect-gateway`, not `redirect-private`).
    pub reroute: bool,
    /// IPv4 too (no `!ipv4`).
    pub ipv4: bool,
    /// IPv6 too (`ipv6`).
    pub ipv6: bool,
    /// Two half routes instead of a new default route.
    pub def1: bool,
    /// The peer is on a directly connected network: no host route to it.
    pub local: bool,
    /// Decide about `local` when routes are added.
    pub autolocal: bool,
    /// A host route to the DHCP server.
    pub bypass_dhcp: bool,
    /// Host routes to the DNS servers.
    pub bypass_dns: bool,
    /// Cut off the local network.
    pub block_local: bool,
}

impl RedirectGateway {
    /// Both, the flags of each holding.
    pub fn merged(self, other: RedirectGateway) -> RedirectGateway {
        RedirectGateway {
            reroute: self.reroute || other.reroute,
            ipv4: self.ipv4 && other.ipv4,
            ipv6: self.ipv6 || other.ipv6,
            def1: self.def1 || other.def1,
            local: self.local || other.local,
            autolocal: self.autolocal || other.autolocal,
            bypass_dhcp: self.bypass_dhcp || other.bypass_dhcp,
            bypass_dns: self.bypass_dns || other.bypass_dns,
            block_local: self.block_local || other.block_local,
        }
    }
}

impl Default for RedirectGateway {
    fn default() -> Self {
        RedirectGateway {
            reroute: true,
            ipv4: true,
            ipv6: false,
            def1: false,
            local: false,
            autolocal: false,
            bypass_dhcp: false,
            bypass_dns: false,
            block_local: false,
        }
    }
}
