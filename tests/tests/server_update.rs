//! `PUSH_UPDATE`: a server changes its clients' routes and name servers while they are connected.

use anyhow::{Result, ensure};
use ringway_lab::peer::Peer;
use ringway_lab::site::{ClientSpec, SOON, Site, SiteSpec};
use ringway_lab::{note, ready};

/// What the clients of `client_files_change` have of all: one kind stays while others change.
const REDIRECTED: &str = "0.0.0.0/1";

#[test]
fn client_files_change() -> Result<()> {
    let test = "client_files_change";
    if !ready(test) {
        return Ok(());
    }
    if Peer::subject() != Peer::Ringway {
        note(&format!("SKIP {test}: the option is Ringway's own"));
        return Ok(());
    }
    let spec = SiteSpec::new(Peer::Ringway)
        .line("client-config-dir %F/ccd")
        .line("ringway-push-update 1")
        .line("script-security 2")
        .line("client-connect %F/connect")
        .line("push \"redirect-gateway def1 local\"");
    let mut site = spec.prepare()?;
    let connect = "#!/bin/sh\necho 'push \"route 10.63.0.0 255.255.0.0\"' > $1\n";
    site.script("connect", connect)?;
    site.file("ccd/DEFAULT", "push \"route 10.60.0.0 255.255.0.0\"\n")?;
    site.start_server()?;
    site.check(files_change)
}

fn files_change(site: &mut Site) -> Result<()> {
    let up = site.script("up", "#!/bin/sh\necho \"name server: $foreign_option_1\"\n")?;
    let up = format!("up {}", up.display());
    let mut clients = vec![
        ClientSpec::new(Peer::Ringway, 0, "anna")
            .line("script-security 2")
            .line(&up),
        ClientSpec::new(Peer::OpenVpn, 1, "berta"),
    ];
    if Peer::OpenVpn27.binary().is_ok() {
        let clara = ClientSpec::new(Peer::OpenVpn27, 2, "clara").line("script-security 2");
        clients.push(clara.line(&up));
    }
    site.join_all(&clients)?;
    // Those that take updates: all but that of 2.6.
    let takers: Vec<usize> = (0..clients.len()).filter(|n| *n != 1).collect();
    for &client in &takers {
        wait_routes(site, client, "10.60.0.0/16", "10.61.0.0/16")?;
    }
    // A file that appears, for each its own.
    let own = "push \"route 10.61.0.0 255.255.0.0\"\npush \"dhcp-option DNS 10.9.0.53\"\n";
    for name in ["anna", "berta", "clara"] {
        site.file(&format!("ccd/{name}"), own)?;
    }
    for &client in &takers {
        wait_routes(site, client, "10.61.0.0/16", "10.60.0.0/16")?;
        site.clients[client].wait_for("name server: dhcp-option DNS 10.9.0.53", SOON)?;
    }
    site.server()?
        .wait_for("(it takes no PUSH_UPDATE): route, dhcp-option", SOON)?;
    // A fault, and what belongs to a connection: nobody loses anything.
    site.file("ccd/berta", "ifconfig-push nonsense\n")?;
    let address = "ifconfig-push 10.9.0.77 255.255.255.0\n";
    site.file("ccd/anna", &format!("{own}{address}"))?;
    let server = site.server()?;
    server.wait_for("ccd/berta:1: ifconfig-push", SOON)?;
    server.wait_for("the client keeps what it has", SOON)?;
    server.wait_for("next connection on: ifconfig-push", SOON)?;
    for client in [0, 1] {
        wait_routes(site, client, REDIRECTED, "10.9.0.77")?;
    }
    // Files that go: that for all holds again, which is another one now. One client is to go too.
    let all = "push \"route-ipv6 fd62::/64\"\npush \"route 10.62.0.0 255.255.0.0\"\n";
    site.file("ccd/DEFAULT", all)?;
    site.file("ccd/berta", "disable\n")?;
    for name in ["anna", "clara"] {
        std::fs::remove_file(site.lab.folder().join("ccd").join(name))?;
    }
    for &client in &takers {
        wait_routes(site, client, "fd62::/64", "10.61.0.0/16")?;
        wait_routes(site, client, "10.62.0.0/16", "10.60.0.0/16")?;
        // What stays: another kind, and what the script has said.
        for route in [REDIRECTED, "10.63.0.0/16"] {
            wait_routes(site, client, route, "10.60.0.0/16")?;
        }
        site.carries(client)?;
    }
    site.server()?
        .wait_for("client is sent away: 'disable'", SOON)?;
    site.clients[1].wait_for("AUTH_FAILED", SOON).map(drop)
}

#[test]
fn a_server_changes_its_clients_routes() -> Result<()> {
    let test = "a_server_changes_its_clients_routes";
    if !ready(test) {
        return Ok(());
    }
    if Peer::OpenVpn27.binary().is_err() {
        note(&format!("SKIP {test}: RINGWAY_OPENVPN_27 names no program"));
        return Ok(());
    }
    SiteSpec::new(Peer::OpenVpn27)
        .line("management 127.0.0.1 7505")
        .line("push \"route 10.60.0.0 255.255.0.0\"")
        .start()?
        .check(changes)
}

fn changes(site: &mut Site) -> Result<()> {
    let first = match Peer::subject() {
        Peer::Ringway => Peer::Ringway,
        Peer::OpenVpn | Peer::OpenVpn27 => Peer::OpenVpn27,
    };
    let peers = [first, Peer::OpenVpn27];
    for (host, name) in ["anna", "berta"].into_iter().enumerate() {
        site.join(&ClientSpec::new(peers[host], host, name))?;
    }
    update(site, "route 10.61.0.0 255.255.0.0")?;
    for client in [0, 1] {
        let vpn = &mut site.clients[client];
        vpn.wait_for("PUSH_UPDATE,route 10.61", SOON)?;
        wait_routes(site, client, "10.61.0.0/16", "10.60.0.0/16")?;
        site.carries(client)?;
    }
    update(site, "-route")?;
    for client in [0, 1] {
        site.clients[client].wait_for("PUSH_UPDATE,-route", SOON)?;
        wait_routes(site, client, "10.9.0.0/24", "10.61.0.0/16")?;
        site.carries(client)?;
    }
    Ok(())
}

/// Tells the server to tell everybody.
fn update(site: &Site, options: &str) -> Result<()> {
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/7505
        printf 'push-update-broad \"{options}\"\\n' >&3
        while read -r line <&3; do
            case $line in SUCCESS*) exit 0 ;; ERROR*) echo \"$line\" >&2; exit 1 ;; esac
        done
        exit 1"
    );
    site.server_namespace.run("bash", &["-c", &script])?;
    Ok(())
}

/// Until a client has one route and not the other.
fn wait_routes(site: &Site, client: usize, present: &str, absent: &str) -> Result<()> {
    let start = std::time::Instant::now();
    loop {
        let routes = site.clients[client].namespace().routes()?;
        if routes.contains(present) && !routes.contains(absent) {
            return Ok(());
        }
        ensure!(start.elapsed() < SOON, "client {client} has\n{routes}");
        std::thread::sleep(ringway_lab::command::POLL);
    }
}
