//! What a server takes from those who got in and misbehave, and from those who never say anything:
//! counted, ended where that is right, and nobody else notices.

use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use ringway_lab::command::{run, wait};
use ringway_lab::inject::Injector;
use ringway_lab::peer::{Peer, UP};
use ringway_lab::site::{ClientSpec, SOON, Site, SiteSpec};
use ringway_lab::{ready, traffic};

/// OpenVPN's server drops the same and ends the same connections, but counts nothing.
#[test]
fn a_client_that_misbehaves() -> Result<()> {
    if !ready("a_client_that_misbehaves") || Peer::subject() == Peer::OpenVpn {
        return Ok(());
    }
    let spec = SiteSpec {
        proto: "tcp4",
        ..SiteSpec::new(Peer::subject())
    };
    let mut site = spec.line("hand-window 6").line("keepalive 2 20").start()?;
    site.check(|site| {
        let host = &site.hosts[0];
        let (near, server) = ("127.0.0.1:1194".parse()?, "192.0.2.1:1194".parse()?);
        let mut injector = Injector::start(host, near, server)?;
        site.join(&ClientSpec::new(Peer::OpenVpn, 0, "anna").remote("127.0.0.1"))?;
        // The second one: its peer-id is 1.
        site.join(&ClientSpec::new(Peer::subject(), 1, "berta"))?;
        let silent = [half_open(site, "")?, half_open(site, "\\x00\\x20half")?];
        site.carries(1)?;
        nobodys_packets(site, &mut injector)?;
        forged_sources(site)?;
        broken_streams(site, &mut injector)?;
        for mut connection in silent {
            let ended = wait(&mut connection, SOON);
            ended.context("a connection that says nothing stays")?;
        }
        too_many_connections(site)?;
        ensure!(site.clients[1].count(UP) == 1, "somebody else noticed");
        site.carries(1)
    })
}

/// A connection that says `bytes` at most; the process ends when the server closes it.
fn half_open(site: &Site, bytes: &str) -> Result<Child> {
    let script = format!("exec 3<>/dev/tcp/192.0.2.1/1194; printf '{bytes}' >&3; cat <&3");
    let mut command = site.hosts[2].command("bash");
    Ok(command
        .args(["-c", &script])
        .stdout(Stdio::null())
        .spawn()?)
}

/// A data packet under a key and a peer-id, with nothing genuine in it.
fn garbage(key_id: u8, peer_id: u8) -> Vec<u8> {
    let header = [0x48 | key_id, 0, 0, peer_id];
    // A packet id that was not there yet.
    [&header[..], b"\0\x07\0\0long enough for a tag, and more"].concat()
}

/// What may be for a key that is gone is counted and no more.
fn nobodys_packets(site: &mut Site, injector: &mut Injector) -> Result<()> {
    let before = site.counter("drop no-key")?;
    injector.packet(&garbage(5, 0))?;
    grows(site, "drop no-key", before)?;
    ensure!(site.clients[0].count(UP) == 1, "the connection has ended");
    site.carries(0)
}

/// Packets that claim to be from another client's address.
fn forged_sources(site: &mut Site) -> Result<()> {
    let forger = site.clients[0].namespace().clone();
    for (family, prefix) in [(0, 32), (1, 128)] {
        let (other, far) = (site.inside(1)?[family], site.server_inside()[family]);
        let before = site.counter("drop inner-source")?;
        forger.ip(&format!("addr add {other}/{prefix} dev lo"))?;
        let (other, far) = (other.to_string(), far.to_string());
        let ping = ["-n", "-c2", "-i0.1", "-W1", "-I", &other, &far];
        ensure!(forger.run("ping", &ping).is_err(), "{other} was forged");
        grows(site, "drop inner-source", before)?;
        forger.ip(&format!("addr del {other}/{prefix} dev lo"))?;
    }
    site.carries(1)
}

/// What cannot be the client's, or leaves no way to find the next packet, ends its connection, which
/// it makes anew (protocol §2.8).
fn broken_streams(site: &mut Site, injector: &mut Injector) -> Result<()> {
    type Break = fn(&mut Injector) -> Result<()>;
    let breaks: [(&str, &str, Break); 3] = [
        (
            "drop auth-failed",
            "a packet that is not the peer's",
            |stream| stream.packet(&garbage(0, 1)),
        ),
        ("drop replay", "a packet that is not the peer's", |stream| {
            stream.repeat()
        }),
        (
            "drop malformed",
            "a packet with an impossible length",
            |stream| stream.raw(b"\xff\xffmore"),
        ),
    ];
    for (name, says, break_it) in breaks {
        let before = site.counter(name)?;
        let far = site.server_inside()[0];
        traffic::ping_until(site.clients[0].namespace(), far, SOON)?;
        site.clients[0].mark();
        break_it(injector)?;
        site.server()?.wait_for(says, SOON)?;
        grows(site, name, before)?;
        site.clients[0].wait_up(SOON)?;
    }
    site.carries(0)
}

/// More connections than the server may have open files: it says so, does not spin over those that
/// wait, and takes them when there is room.
fn too_many_connections(site: &mut Site) -> Result<()> {
    let server = site.server()?;
    let pid = server.pid().to_string();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let limit = format!("--nofile={}:", open + 5);
    run("prlimit", &["--pid", &pid, &limit])?;
    server.mark();
    let script = "for n in {1..20}; do exec {fd}<>/dev/tcp/192.0.2.1/1194; done; sleep 1000";
    let mut command = site.hosts[2].command("bash");
    let mut crowd = command.args(["-c", script]).spawn()?;
    let refusal = "TCP: accept: Too many open files";
    let start = Instant::now();
    site.server()?.wait_for(refusal, SOON)?;
    site.carries(1)?;
    // Once a second, and what the log lets through of a server that spins is more.
    let said = site.server()?.count(refusal) as u64;
    let seconds = start.elapsed().as_secs();
    ensure!(said <= seconds + 2, "{said} times in {seconds} s");
    crowd.kill()?;
    crowd.wait()?;
    site.join(&ClientSpec::new(Peer::OpenVpn, 2, "clara"))?;
    Ok(())
}

/// Waits until a counter is above what it was.
fn grows(site: &mut Site, name: &str, before: u64) -> Result<()> {
    let start = Instant::now();
    while site.counter(name)? <= before {
        ensure!(start.elapsed() < SOON, "{name} stays {before}");
    }
    Ok(())
}
