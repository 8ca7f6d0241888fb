//! Ethernet frames: point to point and pulled, addresses found by ARP and ND, broadcast, and the tap
//! device in a bridge with hosts behind it.
//!
//! ```text
//!   host "ha"                 end "cl"                     end "sv"                 host "hb"
//!   eth0 -- veth -- lan0 |br0| tap0 <- VPN == out0 == VPN -> tap0 |br0| lan0 -- veth -- eth0
//! ```

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ringway_lab::link::{Cipher, Link, LinkSpec, Mode};
use ringway_lab::netns::{Namespace, OUTSIDE};
use ringway_lab::peer::Peer;
use ringway_lab::traffic::Helper;
use ringway_lab::{note, ready, traffic};

const MEGABYTE: u64 = 1_000_000;
const SOON: Duration = Duration::from_secs(10);

fn spec(client: Peer, server: Peer) -> LinkSpec {
    LinkSpec {
        tap: true,
        ..LinkSpec::new(client, server)
    }
}

#[test]
fn tls_client() -> Result<()> {
    if !ready("tls_client") {
        return Ok(());
    }
    let spec = spec(Peer::subject(), Peer::OpenVpn).ringway_line("ringway-io syscalls");
    carries_everything(&spec)
}

#[test]
fn tls_server() -> Result<()> {
    if !ready("tls_server") {
        return Ok(());
    }
    let spec = LinkSpec {
        cipher: Cipher::Aes256CbcSha256,
        ..spec(Peer::OpenVpn, Peer::subject())
    };
    carries_everything(&spec.ringway_line("ringway-workers 2"))
}

#[test]
fn pull() -> Result<()> {
    if !ready("pull") {
        return Ok(());
    }
    let spec = LinkSpec {
        mode: Mode::Pull,
        ..spec(Peer::subject(), Peer::OpenVpn)
    };
    let spec = spec
        .client_line("lladdr 02:00:5e:10:00:01")
        .server_line("push \"route 10.77.0.0 255.255.0.0\"")
        .server_line("push \"route-ipv6 fd77::/64\"");
    let mut link = spec.start()?;
    link.check(|link| {
        let client = link.client_namespace();
        let device = client.ip("link show dev tap0")?;
        ensure!(device.contains("02:00:5e:10:00:01"), "{device}");
        let routes = client.routes()?;
        // A frame needs somebody to go to, unlike a packet on a tun device.
        for route in ["10.77.0.0/16 via 10.9.0.1", "fd77::/64 via fd00:9::1"] {
            ensure!(routes.contains(route), "no {route} in\n{routes}");
        }
        everything(link)
    })
}

#[test]
fn both() -> Result<()> {
    if !ready("both") {
        return Ok(());
    }
    let spec = spec(Peer::subject(), Peer::subject()).ringway_line("ringway-workers 2");
    carries_everything(&spec)
}

#[test]
fn bridged_towards_openvpn() -> Result<()> {
    if !ready("bridged_towards_openvpn") {
        return Ok(());
    }
    bridged(&spec(Peer::subject(), Peer::OpenVpn))
}

#[test]
fn bridged_towards_itself() -> Result<()> {
    if !ready("bridged_towards_itself") {
        return Ok(());
    }
    bridged(&spec(Peer::subject(), Peer::subject()).ringway_line("ringway-workers 2"))
}

#[test]
fn vlan_on_top() -> Result<()> {
    if !ready("vlan_on_top") {
        return Ok(());
    }
    let mut link = spec(Peer::OpenVpn, Peer::subject()).start()?;
    link.check(|link| {
        let ends = [
            (link.client_namespace(), "10.30.0.2", "fd30::2"),
            (link.server_namespace(), "10.30.0.1", "fd30::1"),
        ];
        for (namespace, v4, v6) in ends {
            if namespace
                .ip("link add link tap0 name tap0.30 type vlan id 30")
                .is_err()
            {
                note("SKIP vlan_on_top: this kernel has no VLAN interfaces");
                return Ok(());
            }
            namespace.ip("link set tap0.30 up")?;
            namespace.ip(&format!("addr add {v4}/24 dev tap0.30"))?;
            namespace.ip(&format!("addr add {v6}/64 dev tap0.30 nodad"))?;
        }
        let (client, server) = (link.client_namespace(), link.server_namespace());
        for address in ["10.30.0.1", "fd30::1"] {
            between(client, server, address.parse()?)?;
        }
        Ok(())
    })
}

fn carries_everything(spec: &LinkSpec) -> Result<()> {
    spec.start()?.check(everything)
}

/// What an interface carries, and what only Ethernet does.
fn everything(link: &mut Link) -> Result<()> {
    traffic::everything(link, 4 * MEGABYTE)?;
    let (client, server) = (link.client_namespace(), link.server_namespace());
    let neighbours = client.ip("neigh show dev tap0")?;
    for address in ["10.9.0.1 lladdr", "fd00:9::1 lladdr"] {
        ensure!(neighbours.contains(address), "{address}: {neighbours}");
    }
    broadcast(client, server, "10.9.0.255")?;
    broadcast(server, client, "10.9.0.255")?;
    link.stop()
}

fn broadcast(from: &Namespace, to: &Namespace, address: &str) -> Result<()> {
    let answer = "net.ipv4.icmp_echo_ignore_broadcasts=0";
    to.run("sysctl", &["-q", "-w", answer])?;
    traffic::ping_broadcast(from, address.parse()?).with_context(|| format!("ping {address}"))
}

/// Small and large packets, and checked TCP content, from one host to another.
fn between(from: &Namespace, to: &Namespace, address: IpAddr) -> Result<()> {
    traffic::ping_until(from, address, SOON)?;
    for size in [0, 1000, 1472, 4000] {
        traffic::ping(from, address, size, 2)?;
    }
    traffic::tcp(from, to, address, 8 * MEGABYTE, Duration::from_secs(60))?;
    Ok(())
}

/// Hosts behind both ends, in one LAN through the tunnel.
fn bridged(spec: &LinkSpec) -> Result<()> {
    let mut link = spec.start()?;
    let hosts = [
        ("ha", link.client_namespace().clone(), 2),
        ("hb", link.server_namespace().clone(), 1),
    ];
    let mut namespaces = Vec::new();
    for (role, end, number) in &hosts {
        let host = link.lab.namespace(role)?;
        behind_a_bridge(&host, end, *number)?;
        namespaces.push(host);
    }
    let [a, b] = &namespaces[..] else {
        unreachable!("one host for each end");
    };
    link.check(|link| {
        for address in ["10.20.0.1", "fd20::1"] {
            between(a, b, address.parse()?)?;
        }
        between(b, a, "10.20.0.2".parse()?)?;
        for family in ["10.20.0.2", "fd20::2"] {
            traffic::multicast(a, family.parse()?, b, "eth0")?;
        }
        broadcast(a, b, "10.20.0.255")?;
        let (client, server) = (link.client_namespace(), link.server_namespace());
        for frame in FRAMES {
            raw(client, server, frame).with_context(|| format!("frame {frame}"))?;
            raw(server, client, frame).with_context(|| format!("frame {frame}"))?;
        }
        link.stop()
    })
}

/// `host` gets an `eth0` that is in one bridge with the tap device of `end`.
fn behind_a_bridge(host: &Namespace, end: &Namespace, number: u8) -> Result<()> {
    host.ip(&format!(
        "link add eth0 type veth peer name lan0 netns {}",
        end.name()
    ))?;
    host.ip("link set eth0 up")?;
    host.ip(&format!("addr add 10.20.0.{number}/24 dev eth0"))?;
    host.ip(&format!("addr add fd20::{number}/64 dev eth0 nodad"))?;
    end.ip("link add br0 type bridge")?;
    for port in ["lan0", "tap0"] {
        end.ip(&format!("link set {port} master br0"))?;
        end.ip(&format!("link set {port} up"))?;
    }
    // Its own traffic has to stay outside.
    let outside = end.ip(&format!("link show dev {OUTSIDE}"))?;
    ensure!(!outside.contains("master"), "{outside}");
    end.ip("link set br0 up")?;
    Ok(())
}

/// Frames that no host of the lab would send: a tag with IPv4 in it, two tags, a local experimental
/// ethertype, all to everybody.
const FRAMES: [&str; 3] = [
    "ffffffffffff02000000000981002007080045000020000040004011000001020304050607080035003500180000\
     7461676765642066",
    "ffffffffffff020000000009810000058100000688b5000102030405060708090a0b0c0d0e0f1011121314151617\
     18191a1b1c1d1e1f",
    "ffffffffffff02000000000988b5202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f\
     4041424344454647",
];

/// A frame sent by a port of one bridge reaches a port of the other, unchanged.
fn raw(from: &Namespace, to: &Namespace, frame: &str) -> Result<()> {
    let join = |namespace: &Namespace, port: &str| -> Result<()> {
        namespace.ip(&format!("link set {port} master br0"))?;
        namespace.ip(&format!("link set {port} up"))?;
        Ok(())
    };
    let receiver = Helper::start(to, &["frame-receive", "raw0", frame, "5"])?;
    join(to, "raw0")?;
    let mut sender = Helper::start(from, &["frame-send", "raw1", frame])?;
    join(from, "raw1")?;
    sender.tell("go")?;
    let _: u64 = sender.finish(SOON)?;
    let _: usize = receiver.finish(SOON)?;
    Ok(())
}
