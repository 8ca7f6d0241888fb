//! `PUSH_UPDATE`: a server of OpenVPN 2.7 changes its clients' routes while they are connected.

use anyhow::{Result, ensure};
use ringway_lab::peer::Peer;
use ringway_lab::site::{ClientSpec, SOON, Site, SiteSpec};
use ringway_lab::{note, ready};

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
