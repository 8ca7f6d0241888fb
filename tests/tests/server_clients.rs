//! What a server tells one client and not another: files in `client-config-dir`, addresses from the
//! pool and their end, several clients of one name.

use anyhow::{Context as _, Result, ensure};
use ringway_lab::peer::{Peer, UP};
use ringway_lab::site::{ClientSpec, SOON, Site, SiteSpec, answers, each_server, programs};
use ringway_lab::traffic;

/// Files of the clients of `client_files`.
const FILES: [(&str, &str); 5] = [
    (
        "anna",
        "ifconfig-push 10.9.0.77 255.255.255.0\n\
         ifconfig-ipv6-push fd00:9::77/64 fd00:9::1\n\
         push \"route 10.51.0.0 255.255.0.0\"\n\
         push-remove \"route 10.50\"\n",
    ),
    (
        "berta",
        "iroute 10.77.0.0 255.255.0.0\niroute-ipv6 fd77::/64\n",
    ),
    (
        "clara",
        "push-reset\n\
         push \"topology subnet\"\n\
         push \"route 10.52.0.0 255.255.0.0 10.9.0.1\"\n\
         ifconfig-push 10.9.0.78 255.255.255.0\n\
         ifconfig-ipv6-push fd00:9::78/64 fd00:9::1\n",
    ),
    ("dora", "disable\n"),
    // Stock servers go on without the wrong line, Ringway refuses the client.
    (
        "frieda",
        "ifconfig-push nonsense\npush \"route 10.53.0.0 255.255.0.0\"\n",
    ),
];

#[test]
fn client_files() -> Result<()> {
    each_server("client_files", |server| {
        let spec = SiteSpec {
            names: vec!["anna", "berta", "clara", "dora", "emil", "frieda"],
            hosts: 4,
            ..SiteSpec::new(server)
        }
        .line("client-config-dir %F/ccd")
        .line("ccd-exclusive")
        .line("client-to-client")
        .line("route 10.77.0.0 255.255.0.0")
        .line("route-ipv6 fd77::/64")
        .line("push \"route 10.50.0.0 255.255.0.0\"")
        .line("push \"route 10.77.0.0 255.255.0.0\"")
        .line("push \"route-ipv6 fd77::/64\"");
        let mut site = spec.prepare()?;
        for (name, text) in FILES {
            site.file(&format!("ccd/{name}"), text)?;
        }
        site.start_server()?;
        site.check(|site| files_apply(site, programs(server)))
    })
}

fn files_apply(site: &mut Site, programs: [Peer; 3]) -> Result<()> {
    let clients = ["anna", "berta", "clara"];
    let clients = [0, 1, 2].map(|n| ClientSpec::new(programs[n], n, clients[n]));
    site.join_all(&clients)?;
    for client in 0..clients.len() {
        site.carries(client)?;
    }
    addresses_and_routes(site)?;
    networks_behind(site)?;
    for (name, peer) in [("dora", programs[0]), ("emil", programs[1])] {
        let refused = site.launch(&ClientSpec::new(peer, 3, name))?;
        site.clients[refused].wait_for("AUTH_FAILED", SOON)?;
        site.clients[refused].kill();
    }
    let frieda = site.launch(&ClientSpec::new(programs[2], 3, "frieda"))?;
    site.server_says("ifconfig-push parms", "ccd/frieda:1: ifconfig-push")?;
    let outcome = match site.spec.server {
        Peer::OpenVpn => UP,
        Peer::Ringway => "AUTH_FAILED",
    };
    site.clients[frieda].wait_for(outcome, SOON)?;
    site.carries(0)
}

/// What the files say is what the clients' kernels have.
fn addresses_and_routes(site: &Site) -> Result<()> {
    for (client, own) in [
        (0, ["10.9.0.77", "fd00:9::77"]),
        (2, ["10.9.0.78", "fd00:9::78"]),
    ] {
        let have = site.inside(client)?.map(|address| address.to_string());
        ensure!(have == own, "client {client} has {have:?}");
    }
    let expected: [(usize, &[&str], &[&str]); 3] = [
        (
            0,
            &["10.51.0.0/16", "10.77.0.0/16", "fd77::/64"],
            &["10.50.0.0/16"],
        ),
        // What is behind itself is not pushed.
        (1, &["10.50.0.0/16"], &["10.77.0.0/16", "fd77::/64"]),
        (2, &["10.52.0.0/16"], &["10.50.0.0/16", "10.77.0.0/16"]),
    ];
    for (client, present, absent) in expected {
        let routes = site.clients[client].namespace().routes()?;
        for route in present {
            ensure!(
                routes.contains(route),
                "client {client} lacks {route}:\n{routes}"
            );
        }
        for route in absent {
            ensure!(
                !routes.contains(route),
                "client {client} has {route}:\n{routes}"
            );
        }
    }
    Ok(())
}

/// The network behind the second client is reached by server and clients, and may send.
fn networks_behind(site: &Site) -> Result<()> {
    let behind = site.clients[1].namespace();
    behind.ip("addr add 10.77.0.1/32 dev lo")?;
    behind.ip("addr add fd77::1/128 dev lo nodad")?;
    let inside = site.inside(0)?;
    for (family, (address, far)) in [("10.77.0.1", "10.9.0.1"), ("fd77::1", "fd00:9::1")]
        .into_iter()
        .enumerate()
    {
        let to = address.parse()?;
        traffic::ping_until(&site.server_namespace, to, SOON)?;
        traffic::ping_until(site.clients[0].namespace(), to, SOON)?;
        behind.run("ping", &["-n", "-c1", "-W5", "-I", address, far])?;
        let other = inside[family].to_string();
        behind.run("ping", &["-n", "-c1", "-W5", "-I", address, &other])?;
        // The third client has no such network: what claims to be from there is dropped.
        let stranger = site.clients[2].namespace();
        stranger.ip(&format!("addr add {address} dev lo"))?;
        let forged = ["-n", "-c2", "-i0.2", "-W1", "-I", address, far];
        ensure!(
            stranger.run("ping", &forged).is_err(),
            "a forged source got through"
        );
        let prefix = if family == 0 { 32 } else { 128 };
        stranger.ip(&format!("addr del {address}/{prefix} dev lo"))?;
    }
    Ok(())
}

#[test]
fn addresses_last_and_run_out() -> Result<()> {
    each_server("addresses_last_and_run_out", |server| {
        SiteSpec {
            network: TWO_ADDRESSES,
            ..SiteSpec::new(server)
        }
        .line("ifconfig-pool-persist %F/pool.txt 1")
        .line("keepalive 1 5")
        .start()?
        .check(|site| addresses(site, programs(server)))
    })
}

/// What `server` stands for, with a pool of two.
const TWO_ADDRESSES: &str = "mode server\n\
    tls-server\n\
    ifconfig 10.9.0.1 255.255.255.0\n\
    ifconfig-pool 10.9.0.40 10.9.0.41 255.255.255.0\n\
    push \"topology subnet\"\n\
    push \"route-gateway 10.9.0.1\"";

fn addresses(site: &mut Site, programs: [Peer; 3]) -> Result<()> {
    let anna = ClientSpec::new(programs[0], 0, "anna");
    let berta = ClientSpec::new(programs[1], 1, "berta");
    site.join(&anna)?;
    site.join(&berta)?;
    let before = [site.inside(0)?, site.inside(1)?];
    let stored = site.wait_text("pool.txt", |text| text.lines().count() >= 2)?;
    for (name, [v4, v6]) in ["anna", "berta"].iter().zip(before) {
        // OpenVPN writes the network of the IPv6 address as it is.
        let line = format!("{name},{v4},{v6}");
        ensure!(
            stored.lines().any(|have| have == line),
            "no {line} in\n{stored}"
        );
    }
    // A pool without a free address: a clear line, and nothing for those who have one.
    let late = site.launch(&ClientSpec::new(programs[2], 2, "clara"))?;
    site.server()?.wait_for("no free", SOON)?;
    site.carries(0)?;
    site.clients[late].kill();
    // The other order after a restart gives the same addresses.
    for client in &mut site.clients[..2] {
        client.stop()?;
    }
    site.server()?.stop()?;
    let server = site.server()?;
    server.start_again()?;
    server.wait_up(SOON)?;
    let berta = site.join(&berta)?;
    let anna = site.join(&anna)?;
    let after = [site.inside(anna)?, site.inside(berta)?];
    ensure!(before == after, "{before:?} became {after:?}");
    site.carries(anna)
}

#[test]
fn one_name_one_client() -> Result<()> {
    each_server("one_name_one_client", |server| {
        SiteSpec::new(server)
            .line("keepalive 1 10")
            .start()?
            .check(|site| {
                let programs = programs(server);
                let first = ClientSpec::new(programs[0], 0, "anna");
                let first = site.join(&first)?;
                site.carries(first)?;
                site.clients[first].signal(nix_stop())?;
                let second = site.join(&ClientSpec::new(programs[1], 1, "anna"))?;
                site.carries(second)?;
                let [v4, _] = site.inside(first)?;
                site.clients[first].kill();
                let left = answers(&site.server_namespace, v4)?;
                let own = site.inside(second)?[0];
                ensure!(own == v4 || !left, "{v4} still answers");
                Ok(())
            })
    })
}

/// A client that is stopped keeps its session and does not connect again.
fn nix_stop() -> nix::sys::signal::Signal {
    nix::sys::signal::Signal::SIGSTOP
}

#[test]
fn one_name_many_clients_up_to_the_limit() -> Result<()> {
    each_server("one_name_many_clients_up_to_the_limit", |server| {
        SiteSpec::new(server)
            .line("duplicate-cn")
            .line("max-clients 2")
            .line("keepalive 1 10")
            .start()?
            .check(|site| {
                let programs = programs(server);
                let clients = [0, 1].map(|n| ClientSpec::new(programs[n], n, "anna"));
                site.join_all(&clients)?;
                let [one, other] = [site.inside(0)?, site.inside(1)?];
                ensure!(one != other, "both have {one:?}");
                site.carries(0)?;
                site.carries(1)?;
                let late =
                    site.launch(&ClientSpec::new(programs[2], 2, "anna").line("hand-window 5"))?;
                site.server_says("maximum number of clients", "max-clients")?;
                site.carries(0)?;
                site.carries(1)?;
                ensure!(site.clients[late].count(UP) == 0, "one too many");
                // A place that gets free is taken.
                site.clients[0].kill();
                site.clients[late]
                    .wait_up(SOON)
                    .context("after a place got free")?;
                site.carries(late)
            })
    })
}
