//! The addresses of one client: from its own options or from the pool (protocol §11).
//!
//! ```text
//!             ifconfig pushed to the client        second part
//!  subnet     its address, netmask                 ifconfig-pool's, or that of the server's ifconfig
//!  tap        its address, netmask                 the same
//!  p2p        its address, server's address        the server's ifconfig
//!  net30      block + 2, block + 1
//! ```
//! `ifconfig-push` comes before the pool; a client with it gets nothing from the pool, no IPv6
//! address either (`ifconfig-ipv6-push` gives it one).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringway_dataplane::tun::DeviceKind;

use super::pool::{AddressPool, Lease, PoolLayout};
use crate::config::options::{Ifconfig, IfconfigIpv6, Topology};
use crate::config::server::{ClientConfig, ServerOptions};
use crate::host::env::IfconfigEnd;

/// The server's side of the network inside the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Kind of the device.
    pub device: DeviceKind,
    /// `topology`; of no meaning for tap.
    pub topology: Topology,
    /// `ifconfig` of the server.
    pub ifconfig: Option<Ifconfig>,
    /// `ifconfig-ipv6` of the server.
    pub ifconfig_ipv6: Option<IfconfigIpv6>,
    /// Netmask of `ifconfig-pool`.
    pub pool_netmask: Option<Ipv4Addr>,
}

/// A client's IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssignedV4 {
    /// As the server sees it.
    pub local: Ipv4Addr,
    /// Netmask, or the address of the server's end; see [`Network::has_netmask`].
    pub remote_netmask: Ipv4Addr,
    /// What the client is told instead of `local` (`ifconfig-push local mask alias`).
    pub alias: Option<Ipv4Addr>,
}

/// A client's IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssignedV6 {
    /// The address.
    pub local: Ipv6Addr,
    /// Prefix length.
    pub bits: u8,
    /// The server's address.
    pub remote: Ipv6Addr,
}

/// The addresses of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4.
    pub v4: Option<AssignedV4>,
    /// IPv6.
    pub v6: Option<AssignedV6>,
    /// The slot in the pool they come from, if they do.
    pub lease: Option<Lease>,
    /// `ifconfig-push` and `ifconfig-ipv6-push` addresses that were reserved in the pool.
    pub(super) reserved: [Option<IpAddr>; 2],
}

/// Why a client gets no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// Every slot of the pool is taken.
    #[error("no free --ifconfig-pool addresses are available")]
    PoolExhausted,
    /// There is a pool, but nothing says which netmask or far end goes with it.
    #[error("no --ifconfig-pool netmask parameter is available to push")]
    NoNetmask,
}

/// The pool these options ask for; for [`AddressPool::new`].
pub fn pool_layout(options: &ServerOptions, network: &Network) -> PoolLayout {
    PoolLayout {
        v4: options.ifconfig_pool.map(|pool| (pool.start, pool.end)),
        blocks: network.device == DeviceKind::Tun && network.topology == Topology::Net30,
        v6: options.ifconfig_ipv6_pool,
        duplicate_cn: options.duplicate_cn,
    }
}

impl Network {
    /// Whether the second part of a client's `ifconfig` is a netmask (subnet and tap).
    pub fn has_netmask(&self) -> bool {
        self.device == DeviceKind::Tap || self.topology == Topology::Subnet
    }

    /// What the second part of a client's `ifconfig` is, for the environment of scripts.
    pub fn ifconfig_end(&self, v4: &AssignedV4) -> IfconfigEnd {
        match self.has_netmask() {
            true => IfconfigEnd::Netmask(v4.remote_netmask),
            false => IfconfigEnd::Remote(v4.remote_netmask),
        }
    }

    /// Chooses a client's addresses. Give them back with [`Addresses::release`].
    ///
    /// Neither address is there when neither the client's options nor a pool give any: a client of
    /// a bridge that asks a DHCP server.
    ///
    /// # Errors
    /// [`NoAddress`]; nothing was taken then.
    pub fn assign(
        &self,
        pool: Option<&mut AddressPool>,
        client: &ClientConfig,
        common_name: Option<&str>,
    ) -> Result<Addresses, NoAddress> {
        let mut addresses = Addresses::default();
        let mut pool = pool;
        if let Some((local, remote_netmask)) = client.ifconfig_push {
            addresses.v4 = Some(AssignedV4 {
                local,
                remote_netmask,
                alias: client.ifconfig_push_alias,
            });
        } else if let Some(pool) = pool.as_deref_mut() {
            let lease = pool.acquire(common_name).ok_or(NoAddress::PoolExhausted)?;
            if let Err(error) = self.take(&mut addresses, lease) {
                pool.forget(lease.slot);
                return Err(error);
            }
        }
        if let Some((local, bits, remote)) = client.ifconfig_ipv6_push {
            let own = self.ifconfig_ipv6.map(|own| own.local);
            addresses.v6 = Some(AssignedV6 {
                local,
                bits,
                remote: remote.or(own).unwrap_or(Ipv6Addr::UNSPECIFIED),
            });
        }
        if let Some(pool) = pool {
            let v4 = client.ifconfig_push.map(|(local, _)| IpAddr::V4(local));
            let v6 = client.ifconfig_ipv6_push.map(|(local, ..)| local.into());
            for (kept, address) in addresses.reserved.iter_mut().zip([v4, v6]) {
                let own = |slot| addresses.lease.is_some_and(|lease| lease.slot == slot);
                *kept = address.filter(|address| !pool.slot_of(*address).is_some_and(own));
                if let Some(address) = *kept {
                    pool.reserve(address);
                }
            }
        }
        Ok(addresses)
    }

    fn take(&self, addresses: &mut Addresses, lease: Lease) -> Result<(), NoAddress> {
        addresses.lease = Some(lease);
        if let Some(local) = lease.v4 {
            let own = self.ifconfig;
            let remote_netmask = match (self.has_netmask(), lease.v4_server) {
                (true, _) => self.pool_netmask.or(own.map(|own| own.remote_netmask)),
                (false, Some(server)) => Some(server),
                (false, None) => own.map(|own| own.local),
            };
            addresses.v4 = Some(AssignedV4 {
                local,
                remote_netmask: remote_netmask.ok_or(NoAddress::NoNetmask)?,
                alias: None,
            });
        }
        if let (Some(local), Some(own)) = (lease.v6, self.ifconfig_ipv6) {
            addresses.v6 = Some(AssignedV6 {
                local,
                bits: own.prefix,
                remote: own.local,
            });
        }
        Ok(())
    }
}

impl Addresses {
    /// Gives the addresses back at `now`, in seconds since 1970.
    pub fn release(self, pool: Option<&mut AddressPool>, now: u64) {
        let Some(pool) = pool else { return };
        if let Some(lease) = self.lease {
            pool.release(lease.slot, now);
        }
        for address in self.reserved.into_iter().flatten() {
            pool.unreserve(address);
        }
    }

    /// The client's addresses as the server sees them, for routes and status.
    pub fn own(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.v4.map(|v4| IpAddr::V4(v4.local));
        let v6 = self.v6.map(|v6| IpAddr::V6(v6.local));
        v4.into_iter().chain(v6)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A server with `ifconfig 10.8.0.1` and `ifconfig-ipv6 fd00::1/64`.
    pub(in crate::server) fn network(device: DeviceKind, topology: Topology) -> Network {
        let netmask = device == DeviceKind::Tap || topology == Topology::Subnet;
        let remote = if netmask { "255.255.255.0" } else { "10.8.0.2" };
        Network {
            device,
            topology,
            ifconfig: Some(Ifconfig {
                local: "10.8.0.1".parse().unwrap(),
                remote_netmask: remote.parse().unwrap(),
            }),
            ifconfig_ipv6: Some(IfconfigIpv6 {
                local: "fd00::1".parse().unwrap(),
                prefix: 64,
                remote: "fd00::2".parse().unwrap(),
            }),
            pool_netmask: None,
        }
    }

    fn pool(network: &Network, first: &str, last: &str) -> AddressPool {
        AddressPool::new(&PoolLayout {
            v4: Some((first.parse().unwrap(), last.parse().unwrap())),
            blocks: network.device == DeviceKind::Tun && network.topology == Topology::Net30,
            v6: Some(("fd00::1000".parse().unwrap(), 64)),
            duplicate_cn: false,
        })
        .unwrap()
        .unwrap()
    }

    #[test]
    fn second_part_by_topology() {
        for (device, topology, local, second) in [
            (
                DeviceKind::Tun,
                Topology::Subnet,
                "10.8.0.4",
                "255.255.255.0",
            ),
            (DeviceKind::Tap, Topology::P2p, "10.8.0.4", "255.255.255.0"),
            (DeviceKind::Tun, Topology::P2p, "10.8.0.4", "10.8.0.1"),
            (DeviceKind::Tun, Topology::Net30, "10.8.0.6", "10.8.0.5"),
        ] {
            let network = network(device, topology);
            let mut pool = pool(&network, "10.8.0.4", "10.8.0.251");
            let got = network
                .assign(Some(&mut pool), &ClientConfig::default(), Some("a"))
                .unwrap();
            assert_eq!(
                got.v4,
                Some(AssignedV4 {
                    local: local.parse().unwrap(),
                    remote_netmask: second.parse().unwrap(),
                    alias: None,
                }),
                "{device:?} {topology:?}"
            );
            assert_eq!(
                got.v6,
                Some(AssignedV6 {
                    local: "fd00::1000".parse().unwrap(),
                    bits: 64,
                    remote: "fd00::1".parse().unwrap(),
                })
            );
            assert_eq!(got.own().count(), 2);
            let end = match second.parse().unwrap() {
                mask if second.starts_with("255.") => IfconfigEnd::Netmask(mask),
                address => IfconfigEnd::Remote(address),
            };
            assert_eq!(network.ifconfig_end(&got.v4.unwrap()), end);
        }
    }

    #[test]
    fn the_pools_netmask_comes_first() {
        let mut network = network(DeviceKind::Tap, Topology::Subnet);
        network.pool_netmask = Some("255.255.0.0".parse().unwrap());
        let mut pool = pool(&network, "10.8.0.4", "10.8.0.9");
        let none = ClientConfig::default();
        let got = network.assign(Some(&mut pool), &none, None).unwrap();
        let netmask = got.v4.unwrap().remote_netmask;
        assert_eq!(netmask, Ipv4Addr::new(255, 255, 0, 0));
        network.pool_netmask = None;
        network.ifconfig = None;
        let got = network.assign(Some(&mut pool), &none, None);
        assert_eq!(got, Err(NoAddress::NoNetmask));
        assert_eq!(pool.in_use(), 1);
    }

    #[test]
    fn own_options_win_and_are_reserved() {
        let network = network(DeviceKind::Tun, Topology::Subnet);
        let mut pool = pool(&network, "10.8.0.2", "10.8.0.3");
        let client = ClientConfig {
            ifconfig_push: Some((
                "10.8.0.2".parse().unwrap(),
                "255.255.255.0".parse().unwrap(),
            )),
            ..ClientConfig::default()
        };
        let fixed = network
            .assign(Some(&mut pool), &client, Some("fixed"))
            .unwrap();
        assert_eq!(fixed.v6, None, "no IPv6 from the pool");
        assert_eq!(fixed.lease, None);
        let none = ClientConfig::default();
        let a = network.assign(Some(&mut pool), &none, Some("a")).unwrap();
        assert_eq!(a.v4.unwrap().local, Ipv4Addr::new(10, 8, 0, 3));
        let b = network.assign(Some(&mut pool), &none, Some("b"));
        assert_eq!(b, Err(NoAddress::PoolExhausted));
        fixed.release(Some(&mut pool), 10);
        network.assign(Some(&mut pool), &none, Some("b")).unwrap();
        a.release(Some(&mut pool), 20);
        assert_eq!(pool.in_use(), 1);
        network.assign(Some(&mut pool), &none, Some("c")).unwrap();
    }

    #[test]
    fn a_fixed_ipv6_address_beside_the_pool() {
        let network = network(DeviceKind::Tun, Topology::Subnet);
        let mut pool = pool(&network, "10.8.0.2", "10.8.0.3");
        let push = |address: &str| ClientConfig {
            ifconfig_ipv6_push: Some((address.parse().unwrap(), 64, None)),
            ..ClientConfig::default()
        };
        let got = network
            .assign(Some(&mut pool), &push("fd00::77"), Some("a"))
            .unwrap();
        let v6 = got.v6.unwrap();
        assert_eq!(v6.local, "fd00::77".parse::<Ipv6Addr>().unwrap());
        assert_eq!(v6.remote, "fd00::1".parse::<Ipv6Addr>().unwrap());
        assert!(got.lease.is_some());
        got.release(Some(&mut pool), 1);
        // The address of the very slot it has: giving the slot back frees it whole.
        let got = network
            .assign(Some(&mut pool), &push("fd00::1000"), Some("a"))
            .unwrap();
        got.release(Some(&mut pool), 2);
        let a = network.assign(Some(&mut pool), &ClientConfig::default(), Some("a"));
        assert_eq!(a.unwrap().lease.unwrap().slot, 0);
    }

    #[test]
    fn without_a_pool() {
        let network = network(DeviceKind::Tap, Topology::Subnet);
        let got = network.assign(None, &ClientConfig::default(), Some("a"));
        assert_eq!(got, Ok(Addresses::default()));
    }
}
