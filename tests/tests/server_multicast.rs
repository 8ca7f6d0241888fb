//! Multicast between two sites through a server, each site's router running `smcrouted`:
//!
//! ```text
//!  la --- lan0 c0 tun0 === server === tun0 c1 lan0 --- lb
//!  10.70.0.2                                   10.71.0.2
//! ```
//!
//! A datagram to a group, sent in one site's network, arrives in the other's.

use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ringway_lab::command;
use ringway_lab::netns::{Namespace, wire};
use ringway_lab::peer::Peer;
use ringway_lab::site::{ClientSpec, DEVICE, SOON, Site, SiteSpec, each_server, programs};
use ringway_lab::traffic;

const LAN: &str = "lan0";

#[test]
fn between_sites_on_tun() -> Result<()> {
    each_server("between_sites_on_tun", |server| {
        between_sites(server, false)
    })
}

#[test]
fn between_sites_on_tap() -> Result<()> {
    each_server("between_sites_on_tap", |server| between_sites(server, true))
}

fn between_sites(server: Peer, tap: bool) -> Result<()> {
    let mut spec = SiteSpec {
        tap,
        ..SiteSpec::new(server)
    }
    .line("client-to-client");
    if !tap {
        spec = spec
            .line("client-config-dir %F/ccd")
            .line("route 10.70.0.0 255.255.0.0")
            .line("route 10.71.0.0 255.255.0.0")
            .line("route-ipv6 fd70::/64")
            .line("route-ipv6 fd71::/64");
    }
    let mut site = spec.prepare()?;
    if !tap {
        for (name, number) in [("anna", 70), ("berta", 71)] {
            let routes =
                format!("iroute 10.{number}.0.0 255.255.0.0\niroute-ipv6 fd{number}::/64\n");
            site.file(&format!("ccd/{name}"), &routes)?;
        }
    }
    let (left, right) = (lan(&mut site, 0, 70)?, lan(&mut site, 1, 71)?);
    site.start_server()?;
    site.check(|site| {
        for (host, name) in [(0, "anna"), (1, "berta")] {
            site.join(&ClientSpec::new(programs(server)[host], host, name))?;
        }
        let _routers = [router(site, 0)?, router(site, 1)?];
        for (from, number, to) in [(&left, 70, &right), (&right, 71, &left)] {
            for own in [format!("10.{number}.0.2"), format!("fd{number}::2")] {
                arrives(from, own.parse()?, to)?;
            }
        }
        Ok(())
    })
}

/// A daemon needs a moment to read its file: what is sent before is lost.
fn arrives(from: &Namespace, own: IpAddr, to: &Namespace) -> Result<()> {
    let start = Instant::now();
    loop {
        match traffic::multicast(from, own, to, LAN) {
            Err(_) if start.elapsed() < SOON => {}
            outcome => return outcome,
        }
    }
}

/// A network behind a client's host, with one host in it.
fn lan(site: &mut Site, host: usize, number: u8) -> Result<Namespace> {
    let inside = site.lab.namespace(&format!("l{host}"))?;
    let router = site.hosts[host].clone();
    wire(&inside, LAN, &router, LAN)?;
    for (namespace, last) in [(&router, 1), (&inside, 2)] {
        namespace.ip(&format!("addr add 10.{number}.0.{last}/24 dev {LAN}"))?;
        namespace.ip(&format!("addr add fd{number}::{last}/64 dev {LAN} nodad"))?;
    }
    inside.ip(&format!("route add default via 10.{number}.0.1"))?;
    router.run("sysctl", &["-qw", "net.ipv4.ip_forward=1"])?;
    router.run("sysctl", &["-qw", "net.ipv6.conf.all.forwarding=1"])?;
    Ok(inside)
}

/// `smcrouted` on a client's host: from the network to the tunnel and back.
fn router(site: &Site, host: usize) -> Result<Router> {
    let mut rules = String::new();
    for interface in [LAN, DEVICE] {
        rules += &format!("phyint {interface} enable\n");
    }
    for group in ["239.9.9.9", "ff05::9:9"] {
        for (from, to) in [(LAN, DEVICE), (DEVICE, LAN)] {
            rules += &format!("mgroup from {from} group {group}\n");
            rules += &format!("mroute from {from} group {group} to {to}\n");
        }
    }
    let path = |name: &str| -> Result<String> {
        let path = site.file(&format!("smcroute-{host}.{name}"), "")?;
        Ok(path.display().to_string())
    };
    let file = site.file(&format!("smcroute-{host}.conf"), &rules)?;
    let (pid, socket) = (
        path("pid")?,
        format!("{}/s{host}.sock", site.lab.folder().display()),
    );
    let child = site.hosts[host]
        .command("smcrouted")
        .args(["-n", "-N", "-f"])
        .arg(&file)
        .args(["-P", &pid, "-u", &socket])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut router = Router(child);
    std::thread::sleep(Duration::from_millis(300));
    ensure!(
        matches!(router.0.try_wait(), Ok(None)),
        "smcrouted has ended"
    );
    Ok(router)
}

/// A running `smcrouted`; dropping it ends it.
struct Router(Child);

impl Drop for Router {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = command::wait(&mut self.0, Duration::from_secs(5));
    }
}
