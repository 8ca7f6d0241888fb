//! A server and three clients of both programs in each topology, wrap and transport, on TUN and
//! TAP, with and without client-to-client.

use anyhow::{Result, ensure};
use ringway_lab::link::Wrap;
use ringway_lab::peer::Peer;
use ringway_lab::site::{ClientSpec, DEVICE, Site, SiteSpec, both_servers, each_server, programs};
use ringway_lab::{chosen, full, traffic};

/// One kind of server.
struct Case {
    topology: &'static str,
    wrap: Wrap,
    proto: &'static str,
    tap: bool,
    client_to_client: bool,
}

const fn case(
    topology: &'static str,
    wrap: Wrap,
    proto: &'static str,
    tap: bool,
    client_to_client: bool,
) -> Case {
    Case {
        topology,
        wrap,
        proto,
        tap,
        client_to_client,
    }
}

#[test]
fn tun_subnet_crypt_v2_udp4() -> Result<()> {
    let case = case("subnet", Wrap::TlsCryptV2, "udp4", false, true);
    run("tun_subnet_crypt_v2_udp4", &case)
}

#[test]
fn tun_net30_auth_udp6() -> Result<()> {
    let case = case("net30", Wrap::TlsAuth, "udp6", false, false);
    run("tun_net30_auth_udp6", &case)
}

#[test]
fn tun_p2p_plain_tcp4() -> Result<()> {
    let case = case("p2p", Wrap::Plain, "tcp4", false, true);
    run("tun_p2p_plain_tcp4", &case)
}

#[test]
fn tap_crypt_udp4() -> Result<()> {
    let case = case("subnet", Wrap::TlsCrypt, "udp4", true, true);
    run("tap_crypt_udp4", &case)
}

#[test]
fn tap_crypt_v2_tcp6() -> Result<()> {
    let case = case("subnet", Wrap::TlsCryptV2, "tcp6", true, false);
    run("tap_crypt_v2_tcp6", &case)
}

#[test]
fn every_combination() -> Result<()> {
    if !full() {
        return Ok(());
    }
    let mut failed = Vec::new();
    let mut client_to_client = false;
    for (topology, tap) in [
        ("subnet", false),
        ("net30", false),
        ("p2p", false),
        ("subnet", true),
    ] {
        for wrap in [Wrap::Plain, Wrap::TlsAuth, Wrap::TlsCrypt, Wrap::TlsCryptV2] {
            for proto in ["udp4", "udp6", "tcp4", "tcp6"] {
                client_to_client = !client_to_client;
                let case = case(topology, wrap, proto, tap, client_to_client);
                if let Err(error) = run("every_combination", &case) {
                    ringway_lab::note(&format!("FAILED: {error:#}"));
                    failed.push(format!("{topology} {wrap:?} {proto} tap={tap}"));
                }
            }
        }
    }
    ensure!(failed.is_empty(), "{failed:#?}");
    Ok(())
}

/// What runs by default: each topology, kind of device, wrapping but one, and transport.
const SHORT: [&str; 4] = [
    "tun_subnet_crypt_v2_udp4",
    "tun_net30_auth_udp6",
    "tun_p2p_plain_tcp4",
    "tap_crypt_udp4",
];

fn run(test: &str, case: &Case) -> Result<()> {
    if !chosen(test, &SHORT) {
        return Ok(());
    }
    let serve = |server: Peer| {
        let mut spec = SiteSpec {
            topology: case.topology,
            wrap: case.wrap,
            proto: case.proto,
            tap: case.tap,
            ..SiteSpec::new(server)
        };
        if case.client_to_client {
            spec = spec.line("client-to-client");
        }
        spec.start()?.check(|site| serves(site, server, case))
    };
    // What clients ask of a server differs by device and transport, less by topology.
    match case.client_to_client {
        true => both_servers(test, serve),
        false => each_server(test, serve),
    }
}

fn serves(site: &mut Site, server: Peer, case: &Case) -> Result<()> {
    let names = ["anna", "berta", "clara"];
    let clients = [0, 1, 2].map(|n| ClientSpec::new(programs(server)[n], n, names[n]));
    site.join_all(&clients)?;
    for client in 0..clients.len() {
        site.carries(client)?;
    }
    between_clients(site, case)?;
    multicast(site, case)?;
    let mut all: Vec<_> = site.clients.iter_mut().chain(&mut site.server).collect();
    all.iter_mut().try_for_each(|vpn| vpn.stop())
}

/// Clients reach each other exactly when they may.
fn between_clients(site: &Site, case: &Case) -> Result<()> {
    for address in site.inside(1)? {
        let reached = site.reaches(0, address)?;
        ensure!(
            reached == case.client_to_client,
            "the first client to the second at {address}: reached is {reached}"
        );
    }
    if case.client_to_client {
        let (from, to) = (site.clients[0].namespace(), site.clients[1].namespace());
        for address in site.inside(1)? {
            for size in [0, 1472, 4000] {
                traffic::ping(from, address, size, 1)?;
            }
            traffic::tcp(from, to, address, 256 << 10, ringway_lab::site::SOON)?;
        }
    }
    Ok(())
}

/// From the server to every client, from a client to the server, and to other clients when they
/// may.
fn multicast(site: &Site, case: &Case) -> Result<()> {
    let server = &site.server_namespace;
    for family in [0, 1] {
        let far = site.server_inside()[family];
        for client in &site.clients {
            traffic::multicast(server, far, client.namespace(), DEVICE)?;
        }
        let own = site.inside(0)?[family];
        let from = site.clients[0].namespace();
        traffic::multicast(from, own, server, DEVICE)?;
        if case.client_to_client {
            traffic::multicast(from, own, site.clients[1].namespace(), DEVICE)?;
        }
    }
    Ok(())
}
