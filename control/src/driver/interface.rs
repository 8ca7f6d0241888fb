//! The TUN device of a link: opened, given its addresses, its routes, and taken down again, with the
//! scripts that belong to each step (protocol §9, §14).

use std::net::{IpAddr, Ipv4Addr};

use ringway_dataplane::tun::{DeviceKind, TunConfig, TunDevice, TunQueue};

use super::setup;
use crate::config::options::{
    Connection, Ifconfig, IfconfigIpv6, Options, RedirectGateway, Route, RouteAddr, RouteGateway,
    RouteIpv6, Script, Topology,
};
use crate::config::pushed::PulledOptions;
use crate::host::env::ScriptEnv;
use crate::host::link::{netmask_of, network_of, prefix_of};
use crate::host::netlink::Netlink;
use crate::host::redirect;
use crate::host::routes::{Gateway, RouteManager, RouteRequest};
use crate::host::script;
use crate::log;

/// What the device is given: options and pushed options merged.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) mtu: u16,
    topology: Topology,
    ifconfig: Option<Ifconfig>,
    ifconfig_ipv6: Option<IfconfigIpv6>,
}

/// Merges what was configured with what was pushed.
pub(super) fn plan(
    options: &Options,
    connection: &Connection,
    pulled: Option<&PulledOptions>,
) -> Plan {
    Plan {
        mtu: pulled
            .and_then(|p| p.tun_mtu)
            .map_or(connection.tun_mtu, |n| n.min(connection.tun_mtu_max)),
        topology: pulled.and_then(|p| p.topology).unwrap_or(options.topology),
        ifconfig: pulled.and_then(|p| p.ifconfig).or(options.ifconfig),
        ifconfig_ipv6: pulled.and_then(|p| p.ifconfig_ipv6).or(options.ifconfig_ipv6),
    }
}

/// An open device.
pub(super) struct Interface {
    name: String,
    ifindex: u32,
    queue: Option<TunQueue>,
    netlink: Netlink,
    routes: RouteManager,
    plan: Plan,
    addresses: Vec<(IpAddr, u8)>,
    routes_added: bool,
}

impl Interface {
    /// Opens the device, sets its addresses and MTU, brings it up and runs `up`. The error is one
    /// line for a person.
    pub(super) fn open(options: &Options, plan: &Plan, env: &mut ScriptEnv) -> Result<Self, String> {
        let mut config = TunConfig::new(options.dev.clone());
        config.kind = DeviceKind::Tun;
        config.node = options.dev_node.clone();
        let mut device = TunDevice::open(&config).map_err(|e| e.to_string())?;
        log::notice!(in Tun, "TUN/TAP device {} opened", device.name);
        let mut netlink = Netlink::open().map_err(|e| e.to_string())?;
        let mut addresses = Vec::new();
        netlink
            .set_up(
                device.ifindex,
                u32::from(plan.mtu),
                Some(options.txqueuelen.unwrap_or(ringway_tuning::TXQUEUELEN)),
                Some(setup::gso_max_size(plan.mtu)),
            )
            .map_err(|e| format!("{}: cannot bring the device up: {e}", device.name))?;
        if !options.ifconfig_noexec {
            addresses = set_addresses(&mut netlink, &device, plan)?;
        }
        let routes = RouteManager::open().map_err(|e| e.to_string())?;
        let mut interface = Interface {
            name: device.name.clone(),
            ifindex: device.ifindex,
            queue: device.queues.pop(),
            netlink,
            routes,
            plan: plan.clone(),
            addresses,
            routes_added: false,
        };
        interface.environment(env);
        interface.run(options, options.up.as_ref(), "up", "init", env)?;
        Ok(interface)
    }

    /// The queue, for the worker.
    pub(super) fn take_queue(&mut self) -> Option<TunQueue> {
        self.queue.take()
    }

    /// The queue comes back from a worker that stopped.
    pub(super) fn give_back(&mut self, queue: TunQueue) {
        self.queue = Some(queue);
    }

    /// Adds every route and runs `route-up`; how many could not be added.
    pub(super) fn add_routes(
        &mut self,
        options: &Options,
        pulled: Option<&PulledOptions>,
        remote: Option<IpAddr>,
        env: &mut ScriptEnv,
    ) -> usize {
        let mut errors = 0;
        if !self.routes_added {
            self.routes_added = true;
            errors = self.install_routes(options, pulled, remote, env);
            if let Err(error) = self.run(options, options.route_up.as_ref(), "route-up", "init", env) {
                log::warn!(in Script, "{error}");
            }
        }
        errors
    }

    /// Runs `route-pre-down`, removes routes and addresses, closes the device, runs `down`.
    pub(super) fn close(mut self, options: &Options, env: &mut ScriptEnv) {
        if self.routes_added {
            self.warn_run(options, options.route_pre_down.as_ref(), "route-pre-down", env);
            self.routes.undo_all();
        }
        if options.down_pre {
            self.warn_run(options, options.down.as_ref(), "down", env);
        }
        for (address, prefix) in std::mem::take(&mut self.addresses) {
            // A device that is not persistent takes its addresses along.
            let _ = self.netlink.del_address(self.ifindex, address, prefix, None);
        }
        log::notice!(in Tun, "Closing TUN/TAP interface {}", self.name);
        self.queue = None;
        if !options.down_pre {
            self.warn_run(options, options.down.as_ref(), "down", env);
        }
    }

    // ---- routes --------------------------------------------------------------------------------

    fn install_routes(
        &mut self,
        options: &Options,
        pulled: Option<&PulledOptions>,
        remote: Option<IpAddr>,
        env: &mut ScriptEnv,
    ) -> usize {
        let mut errors = 0;
        let metric = pulled.and_then(|p| p.route_metric).or(options.route_metric);
        let gateway = self.vpn_gateway(options, pulled);
        if let Some(gateway) = gateway {
            env.set("route_vpn_gateway", &gateway.to_string());
        }
        let net_gateway = self.routes.default_gateway(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        if let Some(IpAddr::V4(net)) = net_gateway {
            env.set("route_net_gateway", &net.to_string());
        }
        let redirect: Option<RedirectGateway> =
            pulled.and_then(|p| p.redirect_gateway).or(options.redirect_gateway);
        let mut requests = Vec::new();
        if let Some(flags) = redirect {
            let input = redirect::Input {
                flags,
                ifindex: self.ifindex,
                remote,
                gateway_v4: gateway,
                has_v6: self.plan.ifconfig_ipv6.is_some(),
                metric,
            };
            match redirect::expand(&input, &mut self.routes) {
                Ok(more) => requests.extend(more),
                Err(error) => {
                    log::warn!(in Route, "redirect-gateway: {error}");
                    errors += 1;
                }
            }
        }
        let v4 = options.route.iter().chain(pulled.iter().flat_map(|p| &p.route));
        for (index, route) in v4.enumerate() {
            match self.route_request(route, gateway, metric, remote) {
                Ok(request) => {
                    route_environment(env, index + 1, &request);
                    requests.push(request);
                }
                Err(error) => {
                    log::warn!(in Route, "{error}");
                    errors += 1;
                }
            }
        }
        let v6 = options.route_ipv6.iter().chain(pulled.iter().flat_map(|p| &p.route_ipv6));
        for (index, route) in v6.enumerate() {
            let request = self.route_v6_request(route, metric);
            let n = index + 1;
            env.set(&format!("route_ipv6_network_{n}"), &format!("{}/{}", route.network, route.prefix));
            requests.push(request);
        }
        if options.route_noexec {
            return errors;
        }
        for request in requests {
            if let Err(error) = self.routes.add(&request) {
                log::warn!(in Route, "{error}");
                errors += 1;
            }
        }
        errors
    }

    /// `route-gateway`, or the far address of a point-to-point `ifconfig`.
    fn vpn_gateway(&self, options: &Options, pulled: Option<&PulledOptions>) -> Option<Ipv4Addr> {
        let configured = pulled.and_then(|p| p.route_gateway.clone()).or(options.route_gateway.clone());
        match configured {
            Some(RouteGateway::Addr(address)) => Some(address),
            Some(RouteGateway::Name(name)) => resolve_v4(&name).ok(),
            None => match (self.plan.topology, self.plan.ifconfig) {
                (Topology::P2p | Topology::Net30, Some(i)) => Some(i.remote_netmask),
                _ => None,
            },
        }
    }

    fn route_request(
        &mut self,
        route: &Route,
        vpn_gateway: Option<Ipv4Addr>,
        metric: Option<u32>,
        remote: Option<IpAddr>,
    ) -> Result<RouteRequest, String> {
        let prefix = prefix_of(route.netmask)
            .ok_or_else(|| format!("route: netmask {} is not contiguous", route.netmask))?;
        let network = self.route_address(&route.network, vpn_gateway, remote)?;
        let gateway = match &route.gateway {
            None | Some(RouteAddr::VpnGateway) => match vpn_gateway {
                Some(address) => Gateway::Via(address.into()),
                None => Gateway::Device,
            },
            Some(other) => Gateway::Via(self.route_address(other, vpn_gateway, remote)?),
        };
        let through_tunnel = matches!(&route.gateway, None | Some(RouteAddr::VpnGateway));
        Ok(RouteRequest {
            dest: network_of(network, prefix),
            prefix,
            gateway,
            metric: route.metric.or(metric),
            ifindex: through_tunnel.then_some(self.ifindex),
        })
    }

    fn route_address(
        &mut self,
        address: &RouteAddr,
        vpn_gateway: Option<Ipv4Addr>,
        remote: Option<IpAddr>,
    ) -> Result<IpAddr, String> {
        match address {
            RouteAddr::Addr(address) => Ok((*address).into()),
            RouteAddr::Name(name) => resolve_v4(name).map(Into::into),
            RouteAddr::VpnGateway => vpn_gateway
                .map(Into::into)
                .ok_or_else(|| "route: vpn_gateway is not known; set route-gateway".to_owned()),
            RouteAddr::NetGateway => self
                .routes
                .default_gateway(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
                .ok_or_else(|| "route: net_gateway: this host has no default route".to_owned()),
            RouteAddr::RemoteHost => {
                remote.ok_or_else(|| "route: remote_host is not known".to_owned())
            }
        }
    }

    fn route_v6_request(&self, route: &RouteIpv6, metric: Option<u32>) -> RouteRequest {
        RouteRequest {
            dest: route.network.into(),
            prefix: route.prefix,
            gateway: match route.gateway {
                Some(address) => Gateway::Via(address.into()),
                None => Gateway::Device,
            },
            metric: route.metric.or(metric),
            ifindex: Some(self.ifindex),
        }
    }

    // ---- scripts -------------------------------------------------------------------------------

    fn environment(&self, env: &mut ScriptEnv) {
        env.set("dev", &self.name);
        env.set("dev_type", "tun");
        env.set("tun_mtu", &self.plan.mtu.to_string());
        env.set("link_mtu", "0");
        if let Some(i) = self.plan.ifconfig {
            env.set("ifconfig_local", &i.local.to_string());
            if self.plan.topology == Topology::Subnet {
                env.set("ifconfig_netmask", &i.remote_netmask.to_string());
                let broadcast = u32::from(i.local) | !u32::from(i.remote_netmask);
                env.set("ifconfig_broadcast", &Ipv4Addr::from(broadcast).to_string());
            } else {
                env.set("ifconfig_remote", &i.remote_netmask.to_string());
            }
        }
        if let Some(i) = self.plan.ifconfig_ipv6 {
            env.set("ifconfig_ipv6_local", &i.local.to_string());
            env.set("ifconfig_ipv6_netbits", &i.prefix.to_string());
            env.set("ifconfig_ipv6_remote", &i.remote.to_string());
        }
    }

    fn run(
        &self,
        options: &Options,
        command: Option<&Script>,
        kind: &str,
        context: &str,
        env: &mut ScriptEnv,
    ) -> Result<(), String> {
        let Some(command) = command else { return Ok(()) };
        env.set("script_type", kind);
        env.set("script_context", context);
        let (local, remote) = match self.plan.ifconfig {
            Some(i) => (i.local.to_string(), i.remote_netmask.to_string()),
            None => (String::new(), String::new()),
        };
        let arguments = match kind {
            "up" | "down" => vec![
                self.name.clone(),
                self.plan.mtu.to_string(),
                "0".to_owned(),
                local,
                remote,
                context.to_owned(),
            ],
            _ => Vec::new(),
        };
        script::run(&command.argv, &arguments, env, options.script_security)
            .map_err(|e| format!("{}: {kind}: {e}", command.position))
    }

    fn warn_run(&self, options: &Options, command: Option<&Script>, kind: &str, env: &mut ScriptEnv) {
        if let Err(error) = self.run(options, command, kind, "init", env) {
            log::warn!(in Script, "{error}");
        }
    }
}

fn set_addresses(
    netlink: &mut Netlink,
    device: &TunDevice,
    plan: &Plan,
) -> Result<Vec<(IpAddr, u8)>, String> {
    let mut added = Vec::new();
    let mut add = |address: IpAddr, prefix: u8, peer: Option<IpAddr>| {
        netlink
            .add_address(device.ifindex, address, prefix, peer)
            .map_err(|e| format!("{}: cannot set address {address}/{prefix}: {e}", device.name))?;
        added.push((address, prefix));
        Ok::<(), String>(())
    };
    if let Some(i) = plan.ifconfig {
        match plan.topology {
            Topology::Subnet => {
                let prefix = prefix_of(i.remote_netmask).ok_or_else(|| {
                    format!("ifconfig: {} is not a netmask (topology subnet)", i.remote_netmask)
                })?;
                add(i.local.into(), prefix, None)?;
                log::notice!(in Tun, "net_addr_v4_add: {}/{prefix} dev {}", i.local, device.name);
            }
            Topology::P2p | Topology::Net30 => {
                add(i.local.into(), 32, Some(i.remote_netmask.into()))?;
                log::notice!(
                    in Tun, "net_addr_ptp_v4_add: {} peer {} dev {}", i.local, i.remote_netmask, device.name
                );
            }
        }
    }
    if let Some(i) = plan.ifconfig_ipv6 {
        add(i.local.into(), i.prefix, None)?;
        log::notice!(in Tun, "net_addr_v6_add: {}/{} dev {}", i.local, i.prefix, device.name);
    }
    Ok(added)
}

fn route_environment(env: &mut ScriptEnv, n: usize, request: &RouteRequest) {
    env.set(&format!("route_network_{n}"), &request.dest.to_string());
    env.set(&format!("route_netmask_{n}"), &netmask_of(request.prefix).to_string());
    if let Gateway::Via(gateway) = request.gateway {
        env.set(&format!("route_gateway_{n}"), &gateway.to_string());
    }
    if let Some(metric) = request.metric {
        env.set(&format!("route_metric_{n}"), &metric.to_string());
    }
}

fn resolve_v4(name: &str) -> Result<Ipv4Addr, String> {
    use std::net::{SocketAddr, ToSocketAddrs};
    let mut all = (name, 0)
        .to_socket_addrs()
        .map_err(|e| format!("route: cannot resolve '{name}': {e}"))?;
    all.find_map(|a| match a {
        SocketAddr::V4(a) => Some(*a.ip()),
        SocketAddr::V6(_) => None,
    })
    .ok_or_else(|| format!("route: '{name}' has no IPv4 address"))
}

