//! Clients that move, leave, idle or are sent away, a server that starts again, and its status
//! files.

use std::fs;

use anyhow::{Result, ensure};
use ringway_lab::command::POLL;
use ringway_lab::netns::OUTSIDE;
use ringway_lab::peer::{Peer, UP};
use ringway_lab::relay::Relay;
use ringway_lab::site::{ClientSpec, SOON, Site, SiteSpec, TinyDisk, each_server, programs};
use ringway_lab::{note, ready};

#[test]
fn clients_move_and_leave() -> Result<()> {
    each_server("clients_move_and_leave", |server| {
        let mut site = SiteSpec::new(server)
            // Nobody could notice by silence alone.
            .line("keepalive 60 600")
            .line("explicit-exit-notify 1")
            .line("client-config-dir %F/ccd")
            .prepare()?;
        site.file("ccd/berta", "session-timeout 6\n")?;
        site.file("ccd/clara", "inactive 6\n")?;
        site.start_server()?;
        site.check(|site| moves_and_leaves(site, programs(server)))
    })
}

fn moves_and_leaves(site: &mut Site, programs: [Peer; 3]) -> Result<()> {
    let names = ["anna", "berta", "clara"];
    let clients =
        [0, 1, 2].map(|n| ClientSpec::new(programs[n], n, names[n]).line("explicit-exit-notify 2"));
    // The third one's port is changed on the way.
    let host = &site.hosts[2];
    let mut relay = Relay::beside(host, "127.0.0.1:1194", "192.0.2.12:7000", "192.0.2.1:1194")?;
    let [anna, berta, clara] = clients;
    site.join_all(&[anna, berta, clara.remote("127.0.0.1")])?;
    site.carries(0)?;
    relay.change_port()?;
    site.carries(2)?;
    site.server_says("", "clara/192.0.2.12:7000 floated to 192.0.2.12:")?;
    ensure!(site.clients[2].count(UP) == 1, "a new session, no float");
    // A new address for the client: its next packets tell the server.
    let host = site.clients[0].namespace().clone();
    let before = site.inside(0)?;
    host.ip(&format!("addr del 192.0.2.10/24 dev {OUTSIDE}"))?;
    host.ip(&format!("addr add 192.0.2.110/24 dev {OUTSIDE}"))?;
    site.carries(0)?;
    site.server_says("", "floated to 192.0.2.110")?;
    ensure!(
        site.clients[0].count(UP) == 1 && site.inside(0)? == before,
        "a new session, no float"
    );
    // Those whose time is over.
    site.server()?.wait_for("soft,session-timeout", SOON)?;
    site.server()?.wait_for("soft,inactive", SOON)?;
    for client in [1, 2] {
        site.clients[client].kill();
    }
    // A restart that is announced, long before anybody could notice.
    site.clients[0].mark();
    let server = site.server()?;
    server.stop()?;
    server.start_again()?;
    server.wait_up(SOON)?;
    site.clients[0].wait_up(SOON)?;
    site.carries(0)?;
    // A client that says goodbye.
    site.clients[0].stop()?;
    site.server_says("CC-EEN exit message received", "remote-exit")
}

#[test]
fn status_files_are_those_of_openvpn() -> Result<()> {
    if !ready("status_files_are_those_of_openvpn") {
        return Ok(());
    }
    for version in 1..=3 {
        let stock = status_under(Peer::OpenVpn, version)?;
        let ours = status_under(Peer::subject(), version)?;
        ensure!(
            stock == ours,
            "status-version {version}:\n{}\nis not\n{}",
            ours.join("\n"),
            stock.join("\n")
        );
    }
    Ok(())
}

/// The file with two clients, without what differs between two runs; lines in order of the
/// alphabet, because a stock server's order is that of its hash table.
fn status_under(server: Peer, version: u8) -> Result<Vec<String>> {
    let mut site = SiteSpec::new(server)
        .line("status %F/status 1")
        .line(&format!("status-version {version}"))
        .line("client-config-dir %F/ccd")
        .line("route 10.77.0.0 255.255.0.0")
        .prepare()?;
    site.file("ccd/anna", "iroute 10.77.0.0 255.255.0.0\n")?;
    site.start_server()?;
    site.check(|site| {
        for (host, name) in ["anna", "berta"].into_iter().enumerate() {
            site.join(&ClientSpec::new(Peer::OpenVpn, host, name).line("lport 7000"))?;
            site.carries(host)?;
        }
        let text = site.wait_text("status", |text| {
            text.contains("berta") && text.contains("fd00:9::1001")
        })?;
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with("TITLE"))
            .map(steady)
            .collect();
        lines.sort();
        Ok(lines)
    })
}

/// A line without counters and times.
fn steady(line: &str) -> String {
    let separator = if line.contains('\t') { '\t' } else { ',' };
    let field = |field: &str| {
        let number = field.len() > 3 && field.parse::<u64>().is_ok();
        let time = field.len() == 19 && field.as_bytes()[4] == b'-';
        if number || time {
            "N".to_owned()
        } else {
            field.to_owned()
        }
    };
    let fields: Vec<String> = line.split(separator).map(field).collect();
    fields.join(&separator.to_string())
}

#[test]
fn a_full_disk_loses_nothing() -> Result<()> {
    each_server("a_full_disk_loses_nothing", |server| {
        let mut site = SiteSpec::new(server)
            .line("status %F/disk/status 1")
            .line("ifconfig-pool-persist %F/disk/pool 1")
            .line("keepalive 1 10")
            .prepare()?;
        let folder = site.lab.folder().join("disk");
        let _disk = TinyDisk::mount(&folder, 64)?;
        site.start_server()?;
        site.check(|site| full_disk(site, programs(server)))
    })
}

fn full_disk(site: &mut Site, programs: [Peer; 3]) -> Result<()> {
    site.join(&ClientSpec::new(programs[0], 0, "anna"))?;
    site.wait_text("disk/pool", |text| text.contains("anna,"))?;
    site.wait_text("disk/status", |text| text.contains("anna,"))?;
    let filler = site.lab.folder().join("disk/filler");
    // The kernel stops this one when the disk is full.
    let filled = fs::write(&filler, vec![0u8; 128 << 10]);
    ensure!(filled.is_err(), "the disk is larger than that");
    site.join(&ClientSpec::new(programs[1], 1, "berta"))?;
    site.carries(0)?;
    site.carries(1)?;
    if site.spec.server == Peer::Ringway {
        for name in ["disk/pool", "disk/status"] {
            let server = site.server()?;
            while !server
                .log()
                .lines()
                .any(|line| line.contains(name) && line.contains("No space left on device"))
            {
                ensure!(server.is_running(), "the server has ended");
                server.wait_for("No space left on device", SOON)?;
                std::thread::sleep(POLL);
            }
            let text = site.text(name);
            ensure!(
                text.contains("anna,"),
                "{name} has lost what it held: {text:?}"
            );
        }
    }
    fs::remove_file(&filler)?;
    for name in ["disk/pool", "disk/status"] {
        site.wait_text(name, |text| {
            text.contains("anna,") && text.contains("berta,")
        })?;
    }
    site.carries(0)
}

#[test]
fn packets_nobody_asked_for() -> Result<()> {
    each_server("packets_nobody_asked_for", |server| {
        SiteSpec::new(server)
            .line("keepalive 1 10")
            .start()?
            .check(|site| strange_packets(site, programs(server)))
    })?;
    each_server("packets_nobody_asked_for", |server| {
        let spec = SiteSpec {
            proto: "tcp4",
            ..SiteSpec::new(server)
        };
        spec.line("keepalive 1 10")
            .start()?
            .check(strange_connections)
    })
}

/// Noise, resets, and data for peers that exist and peers that do not, from a third host.
fn strange_packets(site: &mut Site, programs: [Peer; 3]) -> Result<()> {
    let clients =
        [(0, "anna"), (1, "berta")].map(|(n, name)| ClientSpec::new(programs[n], n, name));
    site.join_all(&clients)?;
    let noise = "for round in 1 2 3 4 5 6 7 8 9 10; do
        for peer in 00 01 02 63 ff; do
            printf \"\\\\x48\\\\x00\\\\x00\\\\x$peer\\\\x00\\\\x00\\\\x00\\\\x07garbage of some length, enough for a tag\"
            printf \"\\\\x38$peer$peer$peer$peer$peer$peer\"
            printf \"\\\\x$peer\"
        done > /dev/udp/192.0.2.1/1194
    done";
    site.hosts[2].run("bash", &["-c", noise])?;
    site.carries(0)?;
    site.carries(1)?;
    ensure!(
        site.server()?.count("floated") == 0,
        "somebody took a peer's place"
    );
    if site.spec.server == Peer::Ringway {
        // Every one is counted.
        site.server()?.signal(nix::sys::signal::Signal::SIGUSR2)?;
        site.server()?.wait_for("END", SOON)?;
        let log = site.server()?.log();
        let counted = log.lines().any(|line| {
            let count = line
                .split_once("drop ")
                .and_then(|(_, text)| text.split_once(','));
            count.is_some_and(|(_, count)| count.parse::<u64>().is_ok_and(|count| count >= 10))
        });
        ensure!(counted, "not counted:\n{log}");
    }
    Ok(())
}

/// Connections that announce too much, say nothing, or end in the middle.
fn strange_connections(site: &mut Site) -> Result<()> {
    let first = site.join(&ClientSpec::new(Peer::OpenVpn, 0, "anna"))?;
    let silent = "exec 3<>/dev/tcp/192.0.2.1/1194; sleep 1000";
    let mut silent = site.hosts[2].command("bash").args(["-c", silent]).spawn()?;
    for bytes in [
        "\\xff\\xff\\x38more",
        "\\x00\\x00",
        "\\x00\\x20half",
        "GET / HTTP/1.0\\r\\n\\r\\n",
    ] {
        let connection = format!("printf '{bytes}' > /dev/tcp/192.0.2.1/1194");
        site.hosts[2].run("bash", &["-c", &connection])?;
    }
    site.carries(first)?;
    let second = site.join(&ClientSpec::new(Peer::OpenVpn, 1, "berta"))?;
    site.carries(second)?;
    silent.kill()?;
    silent.wait()?;
    note(&format!("{}: strange connections", site.spec.server.name()));
    Ok(())
}
