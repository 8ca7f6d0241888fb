//! Routes: adding them, remembering them, and taking back exactly what was added.
//!
//! Routes are marked with a protocol number of our own, so that `ip route show proto 157` lists
//! them and a leftover of a crash can be told from an administrator's route. A route somebody else
//! made is never removed: one that is already as wanted is used with a warning, one that leads
//! elsewhere is an error.
//!
//! ```text
//!  add -> [Added(a), Removed(old default), Added(new default)] -> undo_all, last first
//! ```

use std::fmt;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol,
    RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::net::if_::if_indextoname;

use super::link::{family_of, network_of};
use super::netlink::{Netlink, NetlinkError};
use crate::log;

/// The `rtm_protocol` of our routes; no assignment in the usual `rt_protos` lists has this number.
pub const ROUTE_PROTOCOL: u8 = 157;

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// Through this address.
    Via(IpAddr),
    /// Straight out of the device [`RouteRequest::ifindex`].
    Device,
    /// Through the default gateway from before the tunnel (`net_gateway`).
    NetGateway,
}

/// A route to add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRequest {
    /// Destination network; bits behind the prefix are ignored.
    pub dest: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
    /// Where it leads.
    pub gateway: Gateway,
    /// Metric; `None` is the kernel's default (0 for IPv4, 1024 for IPv6).
    pub metric: Option<u32>,
    /// Interface; 0 lets the kernel find the one the gateway is on.
    pub ifindex: u32,
    /// Routing table; `None` is the main table.
    pub table: Option<u32>,
}

/// How packets to some destination leave this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The gateway, `None` when the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface.
    pub ifindex: u32,
    /// Source address the kernel prefers on this way.
    pub source: Option<IpAddr>,
    /// Metric of the route.
    pub metric: u32,
    /// The destination is an address of this host.
    pub local: bool,
}

impl Netlink {
    /// The default gateway in the main table with the lowest metric, apart from routes of ours.
    pub fn default_gateway(&mut self, ipv6: bool) -> Result<Option<NextHop>, NetlinkError> {
        let defaults = self.default_routes(ipv6)?;
        Ok(defaults
            .iter()
            .filter(|route| u8::from(route.header.protocol) != ROUTE_PROTOCOL)
            .min_by_key(|route| priority_of(route))
            .and_then(next_hop_of))
    }

    /// How the kernel would send a packet to `destination` now; `None` when it has no route.
    pub fn next_hop(&mut self, destination: IpAddr) -> Result<Option<NextHop>, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = family_of(destination);
        request.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        request
            .attributes
            .push(RouteAttribute::Destination(destination.into()));
        match self.query(RouteNetlinkMessage::GetRoute(request)) {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) => next_hop_of(&route),
                _ => None,
            })),
            Err(error) if no_route(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The routes of one family in all tables.
    pub(crate) fn routes(&mut self, ipv6: bool) -> Result<Vec<RouteMessage>, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = if ipv6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        let answers = match self.dump(&RouteNetlinkMessage::GetRoute(request)) {
            Err(error) if error.errno == Errno::EAFNOSUPPORT => Vec::new(),
            answers => answers?,
        };
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) => Some(route),
                _ => None,
            })
            .collect())
    }

    fn default_routes(&mut self, ipv6: bool) -> Result<Vec<RouteMessage>, NetlinkError> {
        let mut routes = self.routes(ipv6)?;
        routes.retain(|route| {
            route.header.destination_prefix_length == 0
                && route.header.kind == RouteType::Unicast
                && table_of(route) == u32::from(RouteHeader::RT_TABLE_MAIN)
        });
        Ok(routes)
    }
}

/// Adds routes and remembers how to undo each.
#[derive(Debug)]
pub struct RouteManager {
    netlink: Netlink,
    undo: Vec<Undo>,
}

/// How one change is taken back.
#[derive(Clone, Debug)]
enum Undo {
    /// A route that was added: delete it.
    Added(RouteMessage),
    /// A route that was removed: add it again.
    Removed(RouteMessage),
}

impl RouteManager {
    /// Manages routes through `netlink`.
    pub fn new(netlink: Netlink) -> Self {
        RouteManager {
            netlink,
            undo: Vec::new(),
        }
    }

    /// The socket, for look-ups and link changes in between.
    pub fn netlink(&mut self) -> &mut Netlink {
        &mut self.netlink
    }

    /// Whether there is anything to undo.
    pub fn is_empty(&self) -> bool {
        self.undo.is_empty()
    }

    /// The default gateway from before the tunnel (`net_gateway`): the one in force apart from our
    /// own routes, or the one that was replaced.
    pub fn net_gateway(&mut self, ipv6: bool) -> Result<Option<NextHop>, NetlinkError> {
        if let Some(found) = self.netlink.default_gateway(ipv6)? {
            return Ok(Some(found));
        }
        let family = if ipv6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        Ok(self.undo.iter().find_map(|undo| match undo {
            Undo::Removed(route) if route.header.address_family == family => next_hop_of(route),
            Undo::Removed(_) | Undo::Added(_) => None,
        }))
    }

    /// Adds a route. The error is one line that names the route and the reason.
    pub fn add(&mut self, request: &RouteRequest) -> Result<(), String> {
        let message = self.message_for(request)?;
        if network_of(request.dest, request.prefix) != request.dest {
            log::warn!(in Route, "route {request}: bits behind the prefix are ignored");
        }
        match self.create(&message) {
            Ok(()) => {
                log::info!(in Route, "route added: {}", shown(&message));
                self.undo.push(Undo::Added(message));
                Ok(())
            }
            Err(error) if error.exists() => self.settle_with_existing(message),
            Err(error) => Err(format!("cannot add route {}: {error}", shown(&message))),
        }
    }

    /// Makes `request` the default route. A default route of the same or a better metric is
    /// removed first and comes back with [`Self::undo_all`]; worse ones stay, they lose anyway.
    pub fn replace_default(&mut self, request: &RouteRequest) -> Result<(), String> {
        self.message_for(request)?;
        let metric = if request.dest.is_ipv6() && request.metric.unwrap_or(0) == 0 {
            DEFAULT_METRIC_V6
        } else {
            request.metric.unwrap_or(0)
        };
        let defaults = self
            .netlink
            .default_routes(request.dest.is_ipv6())
            .map_err(|error| format!("cannot read the default route: {error}"))?;
        let removed_from = self.undo.len();
        for route in defaults {
            if priority_of(&route) > metric || self.is_ours(&route) {
                continue;
            }
            let kept = restorable(&route);
            self.delete(&kept).map_err(|error| {
                format!("cannot replace default route {}: {error}", shown(&kept))
            })?;
            log::info!(in Route, "route removed until the end: {}", shown(&kept));
            self.undo.push(Undo::Removed(kept));
        }
        let added = self.add(request);
        if added.is_err() {
            self.undo_down_to(removed_from);
        }
        added
    }

    /// Takes back all changes, the last one first. What is gone already is fine; what cannot be
    /// undone is logged and returned, one line each.
    pub fn undo_all(&mut self) -> Vec<String> {
        self.undo_down_to(0)
    }

    /// Forgets all changes without undoing them (`persist-tun` handing over, or the device went
    /// away with them).
    pub fn forget(&mut self) {
        self.undo.clear();
    }

    fn undo_down_to(&mut self, length: usize) -> Vec<String> {
        let mut problems = Vec::new();
        while self.undo.len() > length {
            let Some(undo) = self.undo.pop() else { break };
            let problem = match &undo {
                Undo::Added(route) => match self.delete(route) {
                    Ok(()) => {
                        log::info!(in Route, "route deleted: {}", shown(route));
                        None
                    }
                    Err(error) if error.gone() => None,
                    Err(error) => Some(format!("cannot delete route {}: {error}", shown(route))),
                },
                Undo::Removed(route) => match self.create(route) {
                    Ok(()) => {
                        log::info!(in Route, "route restored: {}", shown(route));
                        None
                    }
                    Err(error) if error.exists() => None,
                    Err(error) => Some(format!("cannot restore route {}: {error}", shown(route))),
                },
            };
            if let Some(problem) = problem {
                log::warn!(in Route, "{problem}");
                problems.push(problem);
            }
        }
        problems
    }

    /// There is a route with the same destination, table and metric.
    fn settle_with_existing(&mut self, wanted: RouteMessage) -> Result<(), String> {
        if self.is_ours(&wanted) {
            return Ok(());
        }
        let family_v6 = wanted.header.address_family == AddressFamily::Inet6;
        let existing = self
            .netlink
            .routes(family_v6)
            .map_err(|error| format!("cannot read the routing table: {error}"))?
            .into_iter()
            .find(|route| same_slot(route, &wanted));
        let Some(existing) = existing else {
            return Err(format!("route {} exists already", shown(&wanted)));
        };
        if leads_same_way(&existing, &wanted) {
            log::warn!(
                in Route,
                "route {} exists already; it is used and will not be removed",
                shown(&wanted)
            );
            return Ok(());
        }
        if u8::from(existing.header.protocol) != ROUTE_PROTOCOL {
            return Err(format!(
                "cannot add route {}: there is another one, {}",
                shown(&wanted),
                shown(&existing)
            ));
        }
        // A leftover of ours that leads elsewhere is stale.
        self.netlink
            .change(
                RouteNetlinkMessage::NewRoute(wanted.clone()),
                NLM_F_CREATE | NLM_F_REPLACE,
            )
            .map_err(|error| format!("cannot replace stale route {}: {error}", shown(&wanted)))?;
        log::info!(in Route, "stale route replaced: {}", shown(&wanted));
        self.undo.push(Undo::Added(wanted));
        Ok(())
    }

    fn is_ours(&self, route: &RouteMessage) -> bool {
        self.undo.iter().any(|undo| match undo {
            Undo::Added(added) => same_slot(added, route) && leads_same_way(route, added),
            Undo::Removed(_) => false,
        })
    }

    fn create(&mut self, route: &RouteMessage) -> Result<(), NetlinkError> {
        self.netlink.change(
            RouteNetlinkMessage::NewRoute(route.clone()),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    fn delete(&mut self, route: &RouteMessage) -> Result<(), NetlinkError> {
        self.netlink
            .change(RouteNetlinkMessage::DelRoute(route.clone()), 0)
    }

    fn message_for(&mut self, request: &RouteRequest) -> Result<RouteMessage, String> {
        let ipv6 = request.dest.is_ipv6();
        if request.prefix > if ipv6 { 128 } else { 32 } {
            return Err(format!("route {request}: the prefix is too long"));
        }
        let (gateway, ifindex) = match request.gateway {
            Gateway::Via(address) if address.is_ipv6() != ipv6 => {
                return Err(format!("route {request}: the gateway is of another family"));
            }
            Gateway::Via(address) => (Some(address), request.ifindex),
            Gateway::Device if request.ifindex == 0 => {
                return Err(format!("route {request}: neither gateway nor device"));
            }
            Gateway::Device => (None, request.ifindex),
            Gateway::NetGateway => {
                let hop = self
                    .net_gateway(ipv6)
                    .map_err(|error| format!("route {request}: {error}"))?
                    .ok_or_else(|| {
                        format!("route {request}: this host has no default gateway to use")
                    })?;
                (hop.gateway, hop.ifindex)
            }
        };
        Ok(route_message(request, gateway, ifindex))
    }
}

impl fmt::Display for RouteRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.dest, self.prefix)?;
        match self.gateway {
            Gateway::Via(address) => write!(f, " via {address}")?,
            Gateway::Device => write!(f, " dev #{}", self.ifindex)?,
            Gateway::NetGateway => f.write_str(" via net_gateway")?,
        }
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        Ok(())
    }
}

/// What the kernel makes of an IPv6 route without a metric.
const DEFAULT_METRIC_V6: u32 = 1024;

fn route_message(request: &RouteRequest, gateway: Option<IpAddr>, ifindex: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family_of(request.dest);
    route.header.destination_prefix_length = request.prefix;
    route.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    route.header.kind = RouteType::Unicast;
    route.header.scope = if request.dest.is_ipv4() && gateway.is_none() {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    let table = request
        .table
        .unwrap_or(u32::from(RouteHeader::RT_TABLE_MAIN));
    match u8::try_from(table) {
        Ok(small) => route.header.table = small,
        Err(_) => route.attributes.push(RouteAttribute::Table(table)),
    }
    if request.prefix > 0 {
        let network = network_of(request.dest, request.prefix);
        route
            .attributes
            .push(RouteAttribute::Destination(network.into()));
    }
    if let Some(gateway) = gateway {
        route
            .attributes
            .push(RouteAttribute::Gateway(gateway.into()));
    }
    if ifindex != 0 {
        route.attributes.push(RouteAttribute::Oif(ifindex));
    }
    if let Some(metric) = request.metric {
        route.attributes.push(RouteAttribute::Priority(metric));
    }
    route
}

/// A copy of a route as the kernel reported it, without what cannot be set again.
fn restorable(route: &RouteMessage) -> RouteMessage {
    let mut copy = route.clone();
    copy.header.flags = Default::default();
    let by_id = copy
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::NhId(_)));
    copy.attributes.retain(|attribute| match attribute {
        RouteAttribute::Gateway(_)
        | RouteAttribute::Oif(_)
        | RouteAttribute::Via(_)
        | RouteAttribute::MultiPath(_) => !by_id,
        RouteAttribute::Destination(_)
        | RouteAttribute::Priority(_)
        | RouteAttribute::PrefSource(_)
        | RouteAttribute::Metrics(_)
        | RouteAttribute::Preference(_)
        | RouteAttribute::Table(_)
        | RouteAttribute::NhId(_) => true,
        _ => false,
    });
    copy
}

fn next_hop_of(route: &RouteMessage) -> Option<NextHop> {
    let mut hop = NextHop {
        gateway: gateway_in(&route.attributes),
        ifindex: oif_in(&route.attributes),
        source: None,
        metric: priority_of(route),
        local: route.header.kind == RouteType::Local,
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::PrefSource(address) => hop.source = ip_of(address),
            RouteAttribute::MultiPath(hops) => {
                let RouteNextHop {
                    interface_index,
                    attributes,
                    ..
                } = hops.first()?;
                hop.ifindex = *interface_index;
                hop.gateway = gateway_in(attributes);
            }
            _ => {}
        }
    }
    (hop.ifindex != 0).then_some(hop)
}

/// Whether two routes cannot exist beside each other.
fn same_slot(a: &RouteMessage, b: &RouteMessage) -> bool {
    a.header.address_family == b.header.address_family
        && a.header.destination_prefix_length == b.header.destination_prefix_length
        && a.header.kind == RouteType::Unicast
        && table_of(a) == table_of(b)
        && priority_of(a) == priority_of(b)
        && destination_of(a) == destination_of(b)
}

/// Whether `existing` leads where `wanted` says; a wanted route without device leaves that open.
fn leads_same_way(existing: &RouteMessage, wanted: &RouteMessage) -> bool {
    let wanted_device = oif_in(&wanted.attributes);
    gateway_in(&existing.attributes) == gateway_in(&wanted.attributes)
        && (wanted_device == 0 || oif_in(&existing.attributes) == wanted_device)
}

fn table_of(route: &RouteMessage) -> u32 {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or(u32::from(route.header.table))
}

fn priority_of(route: &RouteMessage) -> u32 {
    let given = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Priority(priority) => Some(*priority),
            _ => None,
        })
        .unwrap_or(0);
    if given == 0 && route.header.address_family == AddressFamily::Inet6 {
        DEFAULT_METRIC_V6
    } else {
        given
    }
}

fn destination_of(route: &RouteMessage) -> Option<IpAddr> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(address) => ip_of(address),
            _ => None,
        })
}

fn gateway_in(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip_of(address),
        _ => None,
    })
}

fn oif_in(attributes: &[RouteAttribute]) -> u32 {
    attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(ifindex) => Some(*ifindex),
            _ => None,
        })
        .unwrap_or(0)
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn no_route(error: &NetlinkError) -> bool {
    error.gone()
        || matches!(
            error.errno,
            Errno::ENETUNREACH
                | Errno::EHOSTUNREACH
                | Errno::EACCES
                | Errno::EINVAL
                | Errno::EAFNOSUPPORT
        )
}

/// A route as the log shows it.
fn shown(route: &RouteMessage) -> String {
    let mut text = match destination_of(route) {
        Some(destination) => {
            format!("{destination}/{}", route.header.destination_prefix_length)
        }
        None => "default".into(),
    };
    if let Some(gateway) = gateway_in(&route.attributes) {
        text.push_str(&format!(" via {gateway}"));
    }
    match oif_in(&route.attributes) {
        0 => {}
        ifindex => text.push_str(&format!(" dev {}", device_name(ifindex))),
    }
    for attribute in &route.attributes {
        if let RouteAttribute::Priority(metric) = attribute {
            text.push_str(&format!(" metric {metric}"));
        }
    }
    text
}

fn device_name(ifindex: u32) -> String {
    if_indextoname(ifindex)
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| format!("#{ifindex}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{Namespace, in_namespace};

    fn request(dest: &str, gateway: Gateway, ifindex: u32) -> RouteRequest {
        let (dest, prefix) = dest.split_once('/').unwrap();
        RouteRequest {
            dest: dest.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
            gateway,
            metric: None,
            ifindex,
            table: None,
        }
    }

    fn via(address: &str) -> Gateway {
        Gateway::Via(address.parse().unwrap())
    }

    fn table(netns: &Namespace) -> (String, String) {
        (
            netns.ip("-4 route show table all"),
            netns.ip("-6 route show table all"),
        )
    }

    /// An uplink with a default route and a tunnel device, both up.
    fn two_links(netns: &Namespace) -> (RouteManager, u32, u32) {
        netns.dummy("rwup0");
        netns.dummy("rwtun0");
        for command in [
            "addr add 192.0.2.10/24 dev rwup0",
            "addr add 2001:db8::10/64 dev rwup0 nodad",
            "addr add 10.8.0.2/24 dev rwtun0",
            "addr add fd00::2/64 dev rwtun0 nodad",
            "link set rwup0 up",
            "link set rwtun0 up",
            "route add default via 192.0.2.1 dev rwup0",
            "-6 route add default via 2001:db8::1 dev rwup0 metric 7",
        ] {
            netns.ip(command);
        }
        // The kernel makes the local routes of IPv6 addresses a little later than the addresses.
        let local = || netns.ip("-6 route show table local");
        while !["2001:db8::10", "fd00::2"]
            .iter()
            .all(|a| local().contains(a))
        {
            std::thread::yield_now();
        }
        let mut netlink = Netlink::open().unwrap();
        let uplink = netlink.index_of("rwup0").unwrap().unwrap();
        let tunnel = netlink.index_of("rwtun0").unwrap().unwrap();
        (RouteManager::new(netlink), uplink, tunnel)
    }

    #[test]
    fn undo_restores_the_tables_exactly() {
        in_namespace("undo_restores_the_tables_exactly", |netns| {
            let (mut routes, _, tunnel) = two_links(netns);
            let before = table(netns);
            routes
                .add(&request("10.20.0.0/16", via("10.8.0.1"), 0))
                .unwrap();
            routes
                .add(&request("10.30.1.1/16", Gateway::Device, tunnel))
                .unwrap();
            routes
                .add(&RouteRequest {
                    metric: Some(9),
                    ..request("10.40.0.0/16", Gateway::NetGateway, 0)
                })
                .unwrap();
            routes
                .add(&RouteRequest {
                    table: Some(1000),
                    ..request("0.0.0.0/0", Gateway::Device, tunnel)
                })
                .unwrap();
            routes
                .add(&request("fd01::/48", Gateway::Device, tunnel))
                .unwrap();
            routes
                .add(&request("fd02::/48", via("fd00::1"), tunnel))
                .unwrap();
            // The same route twice is one route.
            routes
                .add(&request("fd02::/48", via("fd00::1"), tunnel))
                .unwrap();
            let shown = table(netns);
            assert!(
                shown.0.contains("10.20.0.0/16 via 10.8.0.1 dev rwtun0"),
                "{shown:?}"
            );
            assert!(
                shown.0.contains("10.30.0.0/16 dev rwtun0 proto 157"),
                "{shown:?}"
            );
            assert!(shown.0.contains("10.40.0.0/16 via 192.0.2.1 dev rwup0"));
            assert!(shown.0.contains("default dev rwtun0 table 1000"));
            assert!(shown.1.contains("fd01::/48 dev rwtun0"));
            assert_eq!(routes.undo_all(), Vec::<String>::new());
            assert!(routes.is_empty());
            assert_eq!(table(netns), before);
        });
    }

    #[test]
    fn default_route_is_replaced_and_restored() {
        in_namespace("default_route_is_replaced_and_restored", |netns| {
            let (mut routes, uplink, tunnel) = two_links(netns);
            netns.ip("route add default via 192.0.2.2 dev rwup0 metric 100");
            let before = table(netns);
            let hop = routes.net_gateway(false).unwrap().unwrap();
            assert_eq!(hop.gateway, Some("192.0.2.1".parse().unwrap()));
            assert_eq!((hop.ifindex, hop.metric), (uplink, 0));

            routes
                .replace_default(&request("0.0.0.0/0", via("10.8.0.1"), tunnel))
                .unwrap();
            routes
                .replace_default(&request("::/0", via("fd00::1"), tunnel))
                .unwrap();
            let shown = table(netns);
            assert!(!shown.0.contains("192.0.2.1 "), "{shown:?}");
            assert!(
                shown
                    .0
                    .contains("default via 192.0.2.2 dev rwup0 metric 100")
            );
            assert!(shown.0.contains("default via 10.8.0.1 dev rwtun0"));
            assert!(!shown.1.contains("2001:db8::1 dev"), "{shown:?}");
            let hop = routes
                .netlink()
                .next_hop("198.51.100.1".parse().unwrap())
                .unwrap();
            assert_eq!(hop.unwrap().ifindex, tunnel);
            // The gateway from before is still known.
            let hop = routes.net_gateway(true).unwrap().unwrap();
            assert_eq!(hop.gateway, Some("2001:db8::1".parse().unwrap()));

            assert_eq!(routes.undo_all(), Vec::<String>::new());
            assert_eq!(table(netns), before);

            // A new default that the kernel refuses leaves the old one in place.
            let refused = routes.replace_default(&request("0.0.0.0/0", via("203.0.113.1"), tunnel));
            assert!(refused.unwrap_err().contains("203.0.113.1"));
            assert_eq!(table(netns), before);
        });
    }

    #[test]
    fn routes_of_others_are_left_alone() {
        in_namespace("routes_of_others_are_left_alone", |netns| {
            let (mut routes, _, tunnel) = two_links(netns);
            netns.ip("route add 10.20.0.0/16 via 10.8.0.1");
            netns.ip("route add 10.21.0.0/16 via 192.0.2.7");
            netns.ip("route add 10.22.0.0/16 via 192.0.2.7 proto 157");
            netns.ip("-6 route add fd01::/48 dev rwtun0");
            let before = table(netns);
            routes
                .add(&request("10.20.0.0/16", via("10.8.0.1"), tunnel))
                .unwrap();
            routes
                .add(&request("fd01::/48", Gateway::Device, tunnel))
                .unwrap();
            let error = routes
                .add(&request("10.21.0.0/16", via("10.8.0.1"), 0))
                .unwrap_err();
            assert!(error.contains("192.0.2.7"), "{error}");
            assert!(routes.is_empty());
            assert_eq!(table(netns), before);

            // A stale route of ours is taken over, and goes at the end.
            routes
                .add(&request("10.22.0.0/16", via("10.8.0.1"), 0))
                .unwrap();
            assert!(table(netns).0.contains("10.22.0.0/16 via 10.8.0.1"));
            routes.undo_all();
            assert!(!table(netns).0.contains("10.22.0.0/16"));
            assert!(table(netns).0.contains("10.20.0.0/16"));
        });
    }

    #[test]
    fn undo_after_the_device_went_away() {
        in_namespace("undo_after_the_device_went_away", |netns| {
            let (mut routes, _, tunnel) = two_links(netns);
            netns.ip("link set rwtun0 down");
            netns.ip("link set rwtun0 up");
            let before = netns.ip("-4 route show dev rwup0");
            routes
                .add(&request("10.20.0.0/16", Gateway::Device, tunnel))
                .unwrap();
            routes
                .add(&request("10.40.0.0/16", Gateway::NetGateway, 0))
                .unwrap();
            netns.ip("link del rwtun0");
            assert_eq!(routes.undo_all(), Vec::<String>::new());
            assert_eq!(netns.ip("-4 route show dev rwup0"), before);
        });
    }

    #[test]
    fn look_ups() {
        in_namespace("look_ups", |netns| {
            let mut netlink = Netlink::open().unwrap();
            let far: IpAddr = "198.51.100.1".parse().unwrap();
            assert_eq!(netlink.next_hop(far).unwrap(), None);
            assert_eq!(
                netlink.next_hop("2001:db8:9::1".parse().unwrap()).unwrap(),
                None
            );
            assert_eq!(netlink.default_gateway(false).unwrap(), None);
            assert_eq!(netlink.default_gateway(true).unwrap(), None);
            let (_, uplink, _) = two_links(netns);
            let hop = netlink.next_hop(far).unwrap().unwrap();
            assert_eq!(hop.gateway, Some("192.0.2.1".parse().unwrap()));
            assert_eq!(hop.source, Some("192.0.2.10".parse().unwrap()));
            assert_eq!((hop.ifindex, hop.local), (uplink, false));
            let hop = netlink.next_hop("192.0.2.77".parse().unwrap()).unwrap();
            assert_eq!(hop.unwrap().gateway, None);
            let hop = netlink.next_hop("127.0.0.1".parse().unwrap()).unwrap();
            assert!(hop.unwrap().local);
        });
    }

    #[test]
    fn nonsense_is_refused_in_one_line() {
        in_namespace("nonsense_is_refused_in_one_line", |_| {
            let mut routes = RouteManager::new(Netlink::open().unwrap());
            for bad in [
                request("10.0.0.0/33", via("10.8.0.1"), 0),
                request("10.0.0.0/8", via("fd00::1"), 0),
                request("10.0.0.0/8", Gateway::Device, 0),
                request("10.0.0.0/8", Gateway::NetGateway, 0),
                request("10.0.0.0/8", via("10.8.0.1"), 0),
                request("10.0.0.0/8", Gateway::Device, 4242),
            ] {
                let error = routes.add(&bad).unwrap_err();
                assert!(error.contains("10.0.0.0/"), "{error}");
                assert!(!error.contains('\n'));
            }
            assert!(routes.is_empty());
        });
    }
}
