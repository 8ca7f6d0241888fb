//! A TAP server: clients in one LAN with a host behind the server's bridge, VLANs, and a script that
//! decides about addresses.
//!
//! ```text
//!   c0 tun0 --.                  sv                        host "hb"
//!   c1 tun0 ---- VPN -- tun0 |br0| lan0 ------ veth ------ eth0
//!   c2 tun0 --'
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ringway_lab::netns::Namespace;
use ringway_lab::peer::{Peer, Vpn};
use ringway_lab::site::{
    ClientSpec, DEVICE, SOON, Site, SiteSpec, both_servers, each_server, programs,
};
use ringway_lab::traffic::{self, Helper};

const NAMES: [&str; 3] = ["anna", "berta", "clara"];

/// The host behind the bridge.
const HOST: [&str; 2] = ["10.20.0.1", "fd00:9::50"];

#[test]
fn bridged() -> Result<()> {
    both_servers("bridged", |server| {
        let mut spec = SiteSpec {
            tap: true,
            network: "server-bridge 10.20.0.4 255.255.255.0 10.20.0.100 10.20.0.200",
            ..SiteSpec::new(server)
        }
        .line("client-to-client")
        .line("status %F/status 1");
        if server == Peer::Ringway {
            spec = spec.line("ringway-workers 2");
        }
        let mut site = spec.start()?;
        let host = site.lab.namespace("hb")?;
        site.check(|site| {
            behind_a_bridge(&host, &site.server_namespace)?;
            join_all(site, server)?;
            for client in &site.clients {
                with_the_host(client.namespace(), &host)?;
            }
            for (from, to) in [(0, 1), (1, 2), (2, 0)] {
                for address in site.inside(to)? {
                    let ends = (site.clients[from].namespace(), site.clients[to].namespace());
                    between(ends.0, ends.1, address)?;
                }
            }
            // A row for each address that was heard.
            for client in &site.clients {
                let mac = hardware_address(client.namespace())?;
                site.wait_text("status", |text| text.contains(&format!("{mac}@0,")))?;
            }
            stop(site)
        })
    })
}

#[test]
fn vlans() -> Result<()> {
    each_server("vlans", |server| {
        let spec = SiteSpec {
            tap: true,
            ..SiteSpec::new(server)
        };
        let mut site = spec
            .line("client-to-client")
            .line("client-config-dir %F/ccd")
            .line("vlan-tagging")
            .line("vlan-accept untagged")
            .line("vlan-pvid 20")
            .prepare()?;
        for (name, vlan) in NAMES.into_iter().zip([10, 20, 10]) {
            site.file(&format!("ccd/{name}"), &format!("vlan-pvid {vlan}\n"))?;
        }
        site.check(|site| {
            site.start_server()?;
            join_all(site, server)?;
            // The device is in berta's.
            site.carries(1)?;
            for family in [0, 1] {
                let far = site.server_inside()[family];
                for client in [0, 2] {
                    ensure!(!site.reaches(client, far)?, "{client} reaches {far}");
                }
                let address = |client: usize| Ok::<_, anyhow::Error>(site.inside(client)?[family]);
                let (anna, clara) = (site.clients[0].namespace(), site.clients[2].namespace());
                between(anna, clara, address(2)?)?;
                ensure!(!site.reaches(0, address(1)?)?, "anna reaches berta");
                ensure!(!site.reaches(1, address(2)?)?, "berta reaches clara");
            }
            stop(site)
        })
    })
}

#[test]
fn vlan_accept_all() -> Result<()> {
    let case = VlanCase {
        accept: "all",
        from_anna: Some(Some(10)),
        from_berta: None,
        to_anna: true,
        to_berta: b"su",
    };
    vlan_accept("vlan_accept_all", &case)
}

#[test]
fn vlan_accept_tagged() -> Result<()> {
    let case = VlanCase {
        accept: "tagged",
        from_anna: Some(Some(10)),
        from_berta: Some(20),
        to_anna: true,
        to_berta: b"s",
    };
    vlan_accept("vlan_accept_tagged", &case)
}

#[test]
fn vlan_accept_untagged() -> Result<()> {
    let case = VlanCase {
        accept: "untagged",
        from_anna: None,
        from_berta: None,
        to_anna: false,
        to_berta: b"u",
    };
    vlan_accept("vlan_accept_untagged", &case)
}

/// What the device takes and gives. Anna and clara are in VLAN 10, berta is in 20 like the device.
struct VlanCase {
    accept: &'static str,
    /// The tag with which the device gives what anna and clara send, if it does.
    from_anna: Option<Option<u16>>,
    /// The tag with which it gives what berta sends.
    from_berta: Option<u16>,
    /// Whether anna and clara get frames that the device takes with tag 10.
    to_anna: bool,
    /// Frames of the device that berta gets, in the order in which they are sent: `s`, which has tag
    /// 20 there, and `u` without a tag.
    to_berta: &'static [u8],
}

fn vlan_accept(test: &str, case: &VlanCase) -> Result<()> {
    each_server(test, |server| {
        let spec = SiteSpec {
            tap: true,
            ..SiteSpec::new(server)
        };
        let mut site = spec
            .line("client-to-client")
            .line("client-config-dir %F/ccd")
            .line("vlan-tagging")
            .line(&format!("vlan-accept {}", case.accept))
            .line("vlan-pvid 20")
            .prepare()?;
        for name in ["anna", "clara"] {
            site.file(&format!("ccd/{name}"), "vlan-pvid 10\n")?;
        }
        site.start_server()?;
        site.check(|site| {
            join_all(site, server)?;
            frames_of_vlans(site, case)
        })
    })
}

/// Each port's last frame is one that arrives, so that what was sent before it has arrived or never
/// will.
fn frames_of_vlans(site: &mut Site, case: &VlanCase) -> Result<()> {
    let [anna, berta, clara] = [0, 1, 2].map(|client| site.clients[client].namespace().clone());
    let (from_anna, from_clara, from_berta) =
        (frame(b'a', None), frame(b'c', None), frame(b'b', None));
    let last = frame(b'b', case.from_berta);
    let mut device = port(&site.server_namespace, &last)?;
    let mut at_anna = port(&anna, &from_clara)?;
    let mut at_clara = port(&clara, &from_anna)?;
    let last = case.to_berta.last().context("nothing reaches berta")?;
    let at_berta = port(&berta, &frame(*last, None))?;

    device.tell(&frame(b't', Some(10)))?;
    let mut sent = [(b's', Some(20)), (b'u', None)];
    // First what berta is not to get.
    sent.sort_by_key(|(name, _)| case.to_berta.iter().position(|to| to == name));
    for (name, vlan) in sent {
        device.tell(&frame(name, vlan))?;
    }
    let expected = case.to_berta.iter().map(|&name| frame(name, None));
    ensure_seen("berta", at_berta, expected)?;

    at_clara.tell(&from_clara)?;
    at_anna.tell(&from_anna)?;
    let tagged = case.to_anna.then(|| frame(b't', None));
    ensure_seen(
        "clara",
        at_clara,
        tagged.clone().into_iter().chain([from_anna]),
    )?;
    ensure_seen("anna", at_anna, tagged.into_iter().chain([from_clara]))?;

    let mut at_berta = port(&berta, &from_berta)?;
    at_berta.tell(&from_berta)?;
    let mut expected = vec![frame(b'b', case.from_berta)];
    if let Some(tag) = case.from_anna {
        expected.extend([frame(b'a', tag), frame(b'c', tag)]);
    }
    ensure_seen("the device", device, expected)
}

fn ensure_seen(who: &str, port: Helper, frames: impl IntoIterator<Item = String>) -> Result<()> {
    let seen: BTreeSet<String> = port.finish(SOON).context(who.to_owned())?;
    let expected: BTreeSet<String> = frames.into_iter().collect();
    ensure!(seen == expected, "{who}: {seen:#?} is not {expected:#?}");
    Ok(())
}

/// A frame to everybody from a host called `name`, which nobody but these labs sends.
fn frame(name: u8, vlan: Option<u16>) -> String {
    let tag = vlan.map_or_else(String::new, |vlan| format!("8100{vlan:04x}"));
    let inside = format!("{name:02x}").repeat(46);
    format!("ffffffffffff02005e1000{name:02x}{tag}88b5{inside}")
}

/// A host in one bridge with the namespace's device that sends the frames it is told, and sees frames
/// up to `last`.
fn port(namespace: &Namespace, last: &str) -> Result<Helper> {
    let helper = Helper::start(namespace, &["frame-port", "raw0", last, "30"])?;
    if !namespace.interfaces()?.iter().any(|name| name == "br0") {
        namespace.ip("link add br0 type bridge mcast_snooping 0")?;
        namespace.ip(&format!("link set {DEVICE} master br0"))?;
        namespace.ip("link set br0 up")?;
    }
    namespace.ip("link set raw0 master br0")?;
    namespace.ip("link set raw0 up")?;
    Ok(helper)
}

/// An address that is heard no more is forgotten, one that is in use is not.
#[test]
fn stale_addresses() -> Result<()> {
    each_server("stale_addresses", |server| {
        let spec = SiteSpec {
            tap: true,
            ..SiteSpec::new(server)
        };
        let mut site = spec
            .line("script-security 2")
            .line("learn-address %F/learn")
            .line("stale-routes-check 2 1")
            .line("status %F/status 1")
            .prepare()?;
        site.script("learn", "#!/bin/sh\necho \"$@\" >> %F/learned\n")?;
        site.start_server()?;
        site.check(|site| {
            site.join(&ClientSpec::new(programs(server)[0], 0, NAMES[0]))?;
            let namespace = site.clients[0].namespace().clone();
            let mut host = port(&namespace, &frame(b's', None))?;
            let [silent, busy] = [b's', b'b'].map(|name| format!("02:00:5e:10:00:{name:02x}@0"));
            // The bridge itself is a host too, and goes on.
            namespace.ip(&format!("link set br0 address 02:00:5e:10:00:{:02x}", b'b'))?;
            namespace.ip("addr add 10.9.0.90/24 dev br0")?;
            let ping = ["-q", "-i", "0.2", "-I", "br0", "10.9.0.1"];
            let mut ping = namespace
                .command("ping")
                .args(ping)
                .stdout(Stdio::null())
                .spawn()?;
            host.tell(&frame(b's', None))?;
            let forgotten = site
                .wait_text("learned", |text| {
                    let said = |what: String| text.contains(&what);
                    said(format!("add {silent}")) && said(format!("add {busy}"))
                })
                .and_then(|_| {
                    let line = format!("delete {silent}");
                    site.wait_text("learned", |text| text.contains(&line))
                });
            ping.kill()?;
            ping.wait()?;
            let learned = forgotten?;
            ensure!(!learned.contains(&format!("delete {busy}")), "{learned}");
            site.wait_text("status", |text| !text.is_empty() && !text.contains(&silent))?;
            Ok(())
        })
    })
}

#[test]
fn learn_address() -> Result<()> {
    each_server("learn_address", |server| {
        let spec = SiteSpec {
            tap: true,
            ..SiteSpec::new(server)
        };
        let mut site = spec
            .line("script-security 2")
            .line("learn-address %F/learn")
            .prepare()?;
        // Every address but one may be used.
        let folder = site.lab.folder().display().to_string();
        let text = format!(
            "#!/bin/sh\necho \"$@\" >> {folder}/learned\ncase $2 in 02:00:5e:00:00:66*) exit 1;; esac\n"
        );
        site.script("learn", &text)?;
        site.check(|site| {
            site.start_server()?;
            let programs = programs(server);
            let admitted = ClientSpec::new(programs[0], 0, NAMES[0]);
            site.join(&admitted.line("explicit-exit-notify 1"))?;
            let other = ClientSpec::new(programs[1], 1, NAMES[1]);
            site.join(&other.line("lladdr 02:00:5e:00:00:66"))?;
            site.carries(0)?;
            let mac = hardware_address(site.clients[0].namespace())?;
            site.wait_text("learned", |text| {
                text.contains(&format!("add {mac}@0 anna"))
            })?;
            for far in site.server_inside() {
                ensure!(
                    !site.reaches(1, far)?,
                    "{far} is reached from a refused address"
                );
            }
            site.wait_text("learned", |text| {
                text.contains("add 02:00:5e:00:00:66@0 berta")
            })?;
            site.clients[0].stop()?;
            site.wait_text("learned", |text| text.contains(&format!("delete {mac}@0")))?;
            stop(site)
        })
    })
}

fn join_all(site: &mut Site, server: Peer) -> Result<()> {
    let clients = [0, 1, 2].map(|n| ClientSpec::new(programs(server)[n], n, NAMES[n]));
    site.join_all(&clients)
}

fn stop(site: &mut Site) -> Result<()> {
    let mut all = site.clients.iter_mut().chain(&mut site.server);
    all.try_for_each(|vpn: &mut Vpn| match vpn.is_running() {
        true => vpn.stop(),
        false => Ok(()),
    })
}

/// Everything between a client and the host behind the bridge.
fn with_the_host(client: &Namespace, host: &Namespace) -> Result<()> {
    for address in HOST {
        between(client, host, address.parse()?)?;
    }
    let neighbours = client.ip(&format!("neigh show dev {DEVICE}"))?;
    for address in HOST {
        let line = format!("{address} lladdr");
        ensure!(neighbours.contains(&line), "no {line}: {neighbours}");
    }
    let answer = "net.ipv4.icmp_echo_ignore_broadcasts=0";
    host.run("sysctl", &["-q", "-w", answer])?;
    traffic::ping_broadcast(client, "10.20.0.255".parse()?).context("broadcast")
}

/// Small and large packets, and checked TCP content, from one host to another.
fn between(from: &Namespace, to: &Namespace, address: IpAddr) -> Result<()> {
    traffic::ping_until(from, address, SOON)?;
    for size in [0, 1472, 4000] {
        traffic::ping(from, address, size, 2)?;
    }
    traffic::tcp(from, to, address, 2_000_000, Duration::from_secs(60))?;
    Ok(())
}

/// The address of a namespace's device, as in `02:00:5e:10:00:01`.
fn hardware_address(namespace: &Namespace) -> Result<String> {
    let text = namespace.ip(&format!("-o link show dev {DEVICE}"))?;
    let mut words = text.split_whitespace();
    let found = words.by_ref().find(|word| *word == "link/ether");
    found.with_context(|| format!("no Ethernet: {text}"))?;
    Ok(words.next().context("no address")?.to_owned())
}

/// `host` gets an `eth0` that is in one bridge with the server's device.
fn behind_a_bridge(host: &Namespace, server: &Namespace) -> Result<()> {
    host.ip(&format!(
        "link add eth0 type veth peer name lan0 netns {}",
        server.name()
    ))?;
    host.ip("link set eth0 up")?;
    host.ip(&format!("addr add {}/24 dev eth0", HOST[0]))?;
    host.ip(&format!("addr add {}/64 dev eth0 nodad", HOST[1]))?;
    // Without snooping: a report that comes late must not cost a neighbour solicitation.
    server.ip("link add br0 type bridge mcast_snooping 0")?;
    for port in ["lan0", DEVICE] {
        server.ip(&format!("link set {port} master br0"))?;
        server.ip(&format!("link set {port} up"))?;
    }
    server.ip("link set br0 up")?;
    Ok(())
}
