//! The TUN or TAP device of a link: opened, given its addresses, its routes, and taken down again, with the
//! scripts that belong to each step (protocol §9, §14).
//!
//! `options` and `connection` are always the effective ones: what was configured with what was
//! pushed written over it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use ringway_dataplane::command::Forwarding;
use ringway_dataplane::tun::{DeviceKind, TunConfig, TunDevice, TunQueue};

use ringway_dataplane::worker::Workers;
use ringway_tuning::Limits;

use super::{server, setup};
use crate::config::options::{
    Connection, Options, Route, RouteAddr, RouteGateway, RouteIpv6, Script,
};
use crate::host::env::{IfconfigEnd, ScriptEnv};
use crate::host::link::{network_of, prefix_of};
use crate::host::netlink::Netlink;
use crate::host::redirect::{RedirectFlags, covers};
use crate::host::routes::{Gateway, RouteManager, RouteRequest};
use crate::host::script::{self, Hook};
use crate::log;

/// An open device.
pub(super) struct Interface {
    name: String,
    ifindex: u32,
    queues: Vec<TunQueue>,
    routes: RouteManager,
    addresses: Vec<Address>,
    mtu: u32,
    /// `route-up` has run.
    routes_added: bool,
    /// The routes are there already, though `route-up` is due again.
    routes_kept: bool,
    /// Second handles on the queues, where `user` or `chroot` will keep the device from being opened
    /// again.
    reserve: Vec<TunQueue>,
}

/// A device that exists may have been made for a single queue; then one is what there is.
fn open_device(mut config: TunConfig) -> Result<TunDevice, String> {
    let opened = TunDevice::open(&config);
    if opened.is_err() && config.queues > 1 {
        config.queues = 1;
        if let Ok(device) = TunDevice::open(&config) {
            log::warn!(in Tun, "{} was made for one queue (without multi_queue); one worker reads it", device.name);
            return Ok(device);
        }
    }
    opened.map_err(|e| e.to_string())
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Address {
    address: IpAddr,
    prefix: u8,
    peer: Option<IpAddr>,
}

impl Interface {
    /// Opens the device unless it was `kept`, sets its addresses and MTU, brings it up and runs `up`. The error is one
    /// line for a person; whatever was made until then is gone again.
    pub(super) fn open(
        options: &Options,
        connection: &Connection,
        remote: Option<IpAddr>,
        env: &mut ScriptEnv,
        kept: Option<TunDevice>,
    ) -> Result<Self, String> {
        let device = match kept {
            Some(device) => device,
            None => {
                let mut config = TunConfig::new(options.dev.clone());
                config.kind = options.dev_type;
                config.node.clone_from(&options.dev_node);
                config.queues = match &options.server {
                    Some(settings) => server::device_queues(options, settings),
                    None => Workers::queues(Forwarding::PointToPoint, setup::workers(options)),
                };
                open_device(config)?
            }
        };
        log::notice!(in Tun, "TUN/TAP device {} opened", device.name);
        let drops = options.user.is_some() || options.chroot.is_some();
        let reserve = device
            .queues
            .iter()
            .filter(|_| drops)
            .map(TunQueue::try_clone)
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())?;
        let mut netlink = Netlink::open().map_err(|e| e.to_string())?;
        let mtu = u32::from(connection.tun_mtu);
        let queue_length = options
            .txqueuelen
            .unwrap_or_else(|| ringway_tuning::txqueuelen(Limits::read_towards(remote)));
        if let Some(address) = options.lladdr {
            netlink
                .set_hardware_address(device.ifindex, address)
                .map_err(|e| format!("{}: cannot set lladdr {address}: {e}", device.name))?;
        }
        netlink
            .set_up(
                device.ifindex,
                mtu,
                Some(queue_length),
                Some(setup::gso_max_size(mtu)),
            )
            .map_err(|e| format!("{}: cannot bring the device up: {e}", device.name))?;
        let addresses = addresses(options)?;
        let mut interface = Interface {
            name: device.name.clone(),
            ifindex: device.ifindex,
            queues: device.queues,
            routes: RouteManager::new(netlink),
            addresses: Vec::new(),
            mtu,
            routes_added: false,
            routes_kept: false,
            reserve,
        };
        let ready = interface.add_addresses(options, addresses).and_then(|()| {
            interface.environment(options, env);
            interface.route_environment(options, remote, env);
            interface.run(options, options.up.as_ref(), Hook::Up, false, env)
        });
        if let Err(error) = ready {
            interface.del_addresses();
            return Err(error);
        }
        Ok(interface)
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `up` or `down` for a restart that keeps the device (`up-restart`).
    pub(super) fn run_restart(&self, options: &Options, hook: Hook, env: &mut ScriptEnv) {
        let command = match hook {
            Hook::Up => options.up.as_ref(),
            _ => options.down.as_ref(),
        };
        self.warn_run(options, command, hook, true, env);
    }

    /// The queues, for the workers.
    pub(super) fn take_queues(&mut self) -> Vec<TunQueue> {
        std::mem::take(&mut self.queues)
    }

    /// The queues come back from workers that stopped.
    pub(super) fn give_back(&mut self, queues: Vec<TunQueue>) {
        self.queues = queues;
    }

    /// Adds every route and runs `route-up`, once per opened device; how many routes could not be
    /// added.
    pub(super) fn add_routes(
        &mut self,
        options: &Options,
        remote: Option<IpAddr>,
        env: &mut ScriptEnv,
    ) -> usize {
        if self.routes_added {
            return 0;
        }
        self.routes_added = true;
        let errors = match std::mem::take(&mut self.routes_kept) {
            true => Vec::new(),
            false => self.install_routes(options, remote, env),
        };
        for error in &errors {
            log::warn!(in Route, "{error}");
        }
        if let Err(error) = self.run(
            options,
            options.route_up.as_ref(),
            Hook::RouteUp,
            false,
            env,
        ) {
            log::warn!(in Script, "{error}");
        }
        errors.len()
    }

    /// Runs `route-pre-down`, removes routes and addresses, closes the device, runs `down`. A device
    /// that could not be opened again comes back for the next time.
    pub(super) fn close(mut self, options: &Options, env: &mut ScriptEnv) -> Option<TunDevice> {
        if self.routes_added {
            let hook = options.route_pre_down.as_ref();
            self.warn_run(options, hook, Hook::RoutePreDown, false, env);
        }
        for problem in self.routes.undo_all() {
            log::warn!(in Route, "{problem}");
        }
        if options.down_pre {
            self.warn_run(options, options.down.as_ref(), Hook::Down, false, env);
        }
        self.del_addresses();
        log::notice!(in Tun, "Closing TUN/TAP interface {}", self.name);
        self.queues.clear();
        if !options.down_pre {
            self.warn_run(options, options.down.as_ref(), Hook::Down, false, env);
        }
        (!self.reserve.is_empty()).then(|| TunDevice {
            name: self.name.clone(),
            ifindex: self.ifindex,
            queues: std::mem::take(&mut self.reserve),
        })
    }

    /// The first half of a change while the tunnel is up, from the options of before to new ones:
    /// scripts hear of the end of what was, and routes that change go. [`Self::finish_update`]
    /// comes next.
    pub(super) fn begin_update(&mut self, before: &Options, new: &Options, env: &mut ScriptEnv) {
        if self.routes_added {
            let hook = before.route_pre_down.as_ref();
            self.warn_run(before, hook, Hook::RoutePreDown, false, env);
        }
        self.routes_kept = self.routes_added && !routes_differ(before, new);
        self.routes_added = false;
        if !self.routes_kept {
            for problem in self.routes.undo_all() {
                log::warn!(in Route, "{problem}");
            }
        }
        self.warn_run(before, before.down.as_ref(), Hook::Down, false, env);
    }

    /// The second half: MTU and addresses of an open device become the new ones, and `up` runs.
    /// Addresses that stay are not touched. Routes are added as those of a new device.
    ///
    /// # Errors
    /// One line for a person; the device is then of no use.
    pub(super) fn finish_update(
        &mut self,
        options: &Options,
        connection: &Connection,
        remote: Option<IpAddr>,
        env: &mut ScriptEnv,
    ) -> Result<(), String> {
        self.set_mtu(u32::from(connection.tun_mtu))?;
        let mut wanted = addresses(options)?;
        if options.ifconfig_noexec {
            wanted.clear();
        }
        let (kept, gone) = std::mem::take(&mut self.addresses)
            .into_iter()
            .partition::<Vec<_>, _>(|address| wanted.contains(address));
        self.addresses = gone;
        self.del_addresses();
        wanted.retain(|address| !kept.contains(address));
        self.addresses = kept;
        self.add_addresses(options, wanted)?;
        env.clear_ifconfig();
        self.environment(options, env);
        if !self.routes_kept {
            self.route_environment(options, remote, env);
        }
        self.run(options, options.up.as_ref(), Hook::Up, false, env)
    }

    fn set_mtu(&mut self, mtu: u32) -> Result<(), String> {
        if self.mtu == mtu {
            return Ok(());
        }
        let ifindex = self.ifindex;
        let netlink = self.routes.netlink();
        netlink
            .set_mtu(ifindex, mtu)
            .and_then(|()| netlink.set_gso_limits(ifindex, setup::gso_max_size(mtu), None))
            .map_err(|error| format!("{}: cannot set the MTU to {mtu}: {error}", self.name))?;
        log::notice!(in Tun, "MTU of {} is {mtu} now", self.name);
        self.mtu = mtu;
        Ok(())
    }

    // ---- addresses -----------------------------------------------------------------------------

    fn add_addresses(&mut self, options: &Options, wanted: Vec<Address>) -> Result<(), String> {
        if options.ifconfig_noexec {
            return Ok(());
        }
        for a in wanted {
            self.routes
                .netlink()
                .add_address(self.ifindex, a.address, a.prefix, a.peer)
                .map_err(|e| {
                    format!(
                        "{}: cannot set address {}/{}: {e}",
                        self.name, a.address, a.prefix
                    )
                })?;
            self.addresses.push(a);
            match a.peer {
                Some(peer) => log::notice!(
                    in Tun, "address {} peer {peer} added to {}", a.address, self.name
                ),
                None => log::notice!(
                    in Tun, "address {}/{} added to {}", a.address, a.prefix, self.name
                ),
            }
        }
        Ok(())
    }

    fn del_addresses(&mut self) {
        for a in std::mem::take(&mut self.addresses) {
            // A device that is not persistent takes its addresses along.
            let _ = self
                .routes
                .netlink()
                .del_address(self.ifindex, a.address, a.prefix, a.peer);
        }
    }

    // ---- routes --------------------------------------------------------------------------------

    fn install_routes(
        &mut self,
        options: &Options,
        remote: Option<IpAddr>,
        env: &mut ScriptEnv,
    ) -> Vec<String> {
        let (requests, mut errors) = self.route_environment(options, remote, env);
        env.set(
            "redirect_gateway",
            u8::from(options.redirect_gateway.is_some()),
        );
        if options.route_noexec {
            return errors;
        }
        let gateway = vpn_gateway(options);
        if let Some(redirect) = &options.redirect_gateway {
            let flags = RedirectFlags {
                reroute: redirect.reroute,
                local: redirect.local,
                autolocal: redirect.autolocal,
                def1: redirect.def1,
                bypass_dhcp: redirect.bypass_dhcp,
                bypass_dns: redirect.bypass_dns,
                block_local: redirect.block_local,
                ipv6: redirect.ipv6,
                ipv4: redirect.ipv4,
            };
            let gateway_v6 = options
                .route_ipv6_gateway
                .or(options.ifconfig_ipv6.map(|i| i.remote));
            let done = self.routes.redirect_gateway(
                &flags,
                remote,
                gateway,
                gateway_v6,
                self.ifindex,
                options.route_metric,
            );
            errors.extend(done.err().into_iter().flatten());
        }
        // A route that covers the peer's own address would lead the tunnel into itself; redirecting
        // has taken care of that already.
        if let Some(remote) = remote
            && options.redirect_gateway.is_none()
            && requests
                .iter()
                .any(|r| r.ifindex == self.ifindex && covers(r.dest, r.prefix, remote))
        {
            errors.extend(self.routes.protect_remote(remote, self.ifindex).err());
        }
        for request in requests {
            errors.extend(self.routes.add(&request).err());
        }
        errors
    }

    /// The routes to add, told to scripts too, and what is wrong with the others.
    fn route_environment(
        &mut self,
        options: &Options,
        remote: Option<IpAddr>,
        env: &mut ScriptEnv,
    ) -> (Vec<RouteRequest>, Vec<String>) {
        let mut errors = Vec::new();
        let gateway = vpn_gateway(options);
        let net_gateway = self
            .routes
            .net_gateway(false)
            .ok()
            .flatten()
            .and_then(|hop| hop.gateway);
        env.clear_routes();
        env.set_gateways(gateway.map(Into::into), net_gateway);
        let mut requests = Vec::new();
        for (index, route) in options.route.iter().enumerate() {
            match self.route_request(route, options, gateway, remote) {
                Ok(request) => {
                    let via = match request.gateway {
                        Gateway::Via(IpAddr::V4(address)) => Some(address),
                        Gateway::NetGateway => match net_gateway {
                            Some(IpAddr::V4(address)) => Some(address),
                            Some(IpAddr::V6(_)) | None => None,
                        },
                        Gateway::Via(IpAddr::V6(_)) | Gateway::Device => None,
                    };
                    if let IpAddr::V4(network) = request.dest {
                        env.set_route(index + 1, network, request.prefix, via, request.metric);
                    }
                    requests.push(request);
                }
                Err(error) => errors.push(error),
            }
        }
        for (index, route) in options.route_ipv6.iter().enumerate() {
            let via = gateway_v6(route, options);
            if via.is_none() && options.dev_type == DeviceKind::Tap {
                errors.push(format!(
                    "route-ipv6 {}/{}: needs a gateway on a tap device; set route-ipv6-gateway or \
                     name one in the route",
                    route.network, route.prefix
                ));
                continue;
            }
            let request = self.route_v6_request(route, via, options);
            env.set_route_ipv6(index + 1, route.network, route.prefix, via, request.metric);
            requests.push(request);
        }
        (requests, errors)
    }

    fn route_request(
        &mut self,
        route: &Route,
        options: &Options,
        vpn_gateway: Option<Ipv4Addr>,
        remote: Option<IpAddr>,
    ) -> Result<RouteRequest, String> {
        let prefix = prefix_of(route.netmask)
            .ok_or_else(|| format!("route: netmask {} is not contiguous", route.netmask))?;
        let network = self.route_address(&route.network, vpn_gateway, remote)?;
        let (gateway, ifindex) = match &route.gateway {
            None | Some(RouteAddr::VpnGateway) => match vpn_gateway {
                Some(address) => (Gateway::Via(address.into()), self.ifindex),
                None if options.dev_type == DeviceKind::Tap => {
                    return Err(format!(
                        "route {network}/{prefix}: needs a gateway on a tap device; set \
                         route-gateway or name one in the route"
                    ));
                }
                None => (Gateway::Device, self.ifindex),
            },
            Some(RouteAddr::NetGateway) => (Gateway::NetGateway, 0),
            Some(other) => (
                Gateway::Via(self.route_address(other, vpn_gateway, remote)?),
                0,
            ),
        };
        Ok(RouteRequest {
            dest: network_of(network, prefix),
            prefix,
            gateway,
            metric: route.metric.or(options.route_metric),
            ifindex,
            table: None,
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
                .net_gateway(false)
                .map_err(|e| e.to_string())?
                .and_then(|hop| hop.gateway)
                .ok_or_else(|| "route: net_gateway: this host has no default gateway".to_owned()),
            RouteAddr::RemoteHost => {
                remote.ok_or_else(|| "route: remote_host is not known".to_owned())
            }
        }
    }

    fn route_v6_request(
        &self,
        route: &RouteIpv6,
        via: Option<Ipv6Addr>,
        options: &Options,
    ) -> RouteRequest {
        RouteRequest {
            dest: route.network.into(),
            prefix: route.prefix,
            gateway: match via {
                Some(address) => Gateway::Via(address.into()),
                None => Gateway::Device,
            },
            metric: route.metric.or(options.route_metric),
            ifindex: self.ifindex,
            table: None,
        }
    }

    // ---- scripts -------------------------------------------------------------------------------

    fn environment(&self, options: &Options, env: &mut ScriptEnv) {
        let kind = match options.dev_type {
            DeviceKind::Tun => "tun",
            DeviceKind::Tap => "tap",
        };
        env.set_device(&self.name, kind, self.mtu);
        if let Some(i) = options.ifconfig {
            let end = match options.has_subnet() {
                true => IfconfigEnd::Netmask(i.remote_netmask),
                false => IfconfigEnd::Remote(i.remote_netmask),
            };
            env.set_ifconfig(i.local, end);
        }
        if let Some(i) = options.ifconfig_ipv6 {
            env.set_ifconfig_ipv6(i.local, i.prefix, Some(i.remote));
        }
    }

    fn run(
        &self,
        options: &Options,
        command: Option<&Script>,
        hook: Hook,
        restart: bool,
        env: &mut ScriptEnv,
    ) -> Result<(), String> {
        let Some(command) = command else {
            return Ok(());
        };
        env.set("script_context", script::context(restart));
        let arguments = match hook {
            Hook::RouteUp => Vec::new(),
            _ => script::device_arguments(
                &self.name,
                self.mtu,
                options.ifconfig.map(|i| i.local),
                options.ifconfig.map(|i| i.remote_netmask),
                restart,
            ),
        };
        setup::script(command)
            .run(hook, &arguments, env, setup::script_policy(options))
            .map_err(|e| format!("{}: {}: {e}", command.position, hook.name()))
    }

    fn warn_run(
        &self,
        options: &Options,
        command: Option<&Script>,
        hook: Hook,
        restart: bool,
        env: &mut ScriptEnv,
    ) {
        if let Err(error) = self.run(options, command, hook, restart, env) {
            log::warn!(in Script, "{error}");
        }
    }
}

/// The device's addresses by topology.
fn addresses(options: &Options) -> Result<Vec<Address>, String> {
    let mut all = Vec::new();
    if let Some(i) = options.ifconfig {
        all.push(match options.has_subnet() {
            true => Address {
                address: i.local.into(),
                prefix: prefix_of(i.remote_netmask).ok_or_else(|| {
                    let why = match options.dev_type {
                        DeviceKind::Tun => "topology subnet",
                        DeviceKind::Tap => "dev tap",
                    };
                    format!("ifconfig: {} is not a netmask ({why})", i.remote_netmask)
                })?,
                peer: None,
            },
            false => Address {
                address: i.local.into(),
                prefix: 32,
                peer: Some(i.remote_netmask.into()),
            },
        });
    }
    if let Some(i) = options.ifconfig_ipv6 {
        all.push(Address {
            address: i.local.into(),
            prefix: i.prefix,
            peer: None,
        });
    }
    Ok(all)
}

/// Whether other options lead to other routes, their gateways included.
fn routes_differ(before: &Options, new: &Options) -> bool {
    before.route != new.route
        || before.route_ipv6 != new.route_ipv6
        || before.route_gateway != new.route_gateway
        || before.route_ipv6_gateway != new.route_ipv6_gateway
        || before.route_metric != new.route_metric
        || before.redirect_gateway != new.redirect_gateway
        || before.topology != new.topology
        || before.ifconfig != new.ifconfig
        || before.ifconfig_ipv6 != new.ifconfig_ipv6
}

/// `route-gateway`, or the far address of a point-to-point `ifconfig`.
fn vpn_gateway(options: &Options) -> Option<Ipv4Addr> {
    match &options.route_gateway {
        Some(RouteGateway::Addr(address)) => Some(*address),
        Some(RouteGateway::Name(name)) => resolve_v4(name).ok(),
        Some(RouteGateway::Dhcp) => None,
        None => options
            .ifconfig
            .filter(|_| !options.has_subnet())
            .map(|i| i.remote_netmask),
    }
}

/// The gateway of an IPv6 route. A tun device needs none; on a tap device somebody must be asked for.
fn gateway_v6(route: &RouteIpv6, options: &Options) -> Option<Ipv6Addr> {
    let default = || {
        options
            .route_ipv6_gateway
            .or(options.ifconfig_ipv6.map(|i| i.remote))
    };
    match options.dev_type {
        DeviceKind::Tun => route.gateway,
        DeviceKind::Tap => route.gateway.or_else(default),
    }
}

fn resolve_v4(name: &str) -> Result<Ipv4Addr, String> {
    let mut all = (name, 0)
        .to_socket_addrs()
        .map_err(|e| format!("route: cannot resolve '{name}': {e}"))?;
    all.find_map(|a| match a {
        SocketAddr::V4(a) => Some(*a.ip()),
        SocketAddr::V6(_) => None,
    })
    .ok_or_else(|| format!("route: '{name}' has no IPv4 address"))
}
