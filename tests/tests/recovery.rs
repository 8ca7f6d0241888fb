//! Recovery from what happens to real links: a far end that dies, an address that changes, a path
//! that narrows. Each prints the time it took.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ringway_lab::link::{Link, LinkSpec, Mode};
use ringway_lab::netns::OUTSIDE;
use ringway_lab::peer::Peer;
use ringway_lab::traffic::UdpStream;
use ringway_lab::{chosen, note, ready, traffic};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn the_server_end_is_killed_and_restarted() -> Result<()> {
    if !ready("the_server_end_is_killed_and_restarted") {
        return Ok(());
    }
    for (client, server) in pairs() {
        let spec = LinkSpec::new(client, server)
            .line("keepalive 1 4")
            .line("hand-window 10");
        let mut link = spec.start()?;
        link.check(|link| {
            link.server.kill();
            // At once, as a service manager would: the port is still held for a moment.
            link.server.start_again()?;
            recovered(link, "server end killed and restarted")
        })?;
    }
    Ok(())
}

#[test]
fn the_client_end_is_killed_and_restarted() -> Result<()> {
    if !ready("the_client_end_is_killed_and_restarted")
        || !chosen("the_client_end_is_killed_and_restarted", &[])
    {
        return Ok(());
    }
    for (client, server) in pairs() {
        let spec = LinkSpec::new(client, server)
            .line("keepalive 1 4")
            .line("hand-window 10");
        let mut link = spec.start()?;
        link.check(|link| {
            link.client.kill();
            // At once, as a service manager would: the port is still held for a moment.
            link.client.start_again()?;
            recovered(link, "client end killed and restarted")
        })?;
    }
    Ok(())
}

/// The address of the point-to-point client changes; `float` lets its new session in.
#[test]
fn the_client_address_changes_point_to_point() -> Result<()> {
    if !ready("the_client_address_changes_point_to_point")
        || !chosen("the_client_address_changes_point_to_point", &[])
    {
        return Ok(());
    }
    for (client, server) in pairs() {
        let spec = LinkSpec::new(client, server)
            .line("keepalive 1 4")
            .line("hand-window 10")
            .line("float");
        let mut link = spec.start()?;
        link.check(|link| {
            change_client_address(link)?;
            recovered(link, "client address changed")
        })?;
    }
    Ok(())
}

/// The address of a pulling client changes; the server follows the next data packet.
#[test]
fn the_client_address_changes_under_a_server() -> Result<()> {
    if !ready("the_client_address_changes_under_a_server") {
        return Ok(());
    }
    let spec = LinkSpec {
        mode: Mode::Pull,
        ..LinkSpec::new(Peer::subject(), Peer::OpenVpn)
    };
    let mut link = spec.line("keepalive 2 20").start()?;
    link.check(|link| {
        link.client.mark();
        change_client_address(link)?;
        let took = recovered(link, "client address changed under a server")?;
        ensure!(
            took < Duration::from_secs(10),
            "took {took:?}: no float, a new session"
        );
        Ok(())
    })
}

/// The outer path narrows under a running transfer: nothing sticks, nothing is damaged.
#[test]
fn the_outer_mtu_is_lowered() -> Result<()> {
    if !ready("the_outer_mtu_is_lowered") {
        return Ok(());
    }
    for (client, server) in pairs() {
        let mut link = LinkSpec::new(client, server).start()?;
        link.check(|link| {
            let far = link.server_addresses()[0];
            let target = SocketAddr::new(far, 5301);
            let (from, to) = (link.client_namespace(), link.server_namespace());
            let stream = UdpStream::start(from, to, target, 500, 1300, 4.0)?;
            std::thread::sleep(Duration::from_secs(1));
            let start = Instant::now();
            link.path.client.set_mtu(OUTSIDE, 1300)?;
            link.path.server.set_mtu(OUTSIDE, 1300)?;
            traffic::tcp(from, to, far, 2 << 20, PATIENCE)?;
            traffic::tcp(to, from, link.client_addresses()[0], 2 << 20, PATIENCE)?;
            let took = start.elapsed();
            let outcome = stream.finish()?;
            note(&format!(
                "{}: outer MTU 1500 to 1300: 4 x 2 MiB over TCP in {:.1} s, UDP lost {} of {}",
                link.spec.title(),
                took.as_secs_f64(),
                outcome.lost(),
                outcome.sent
            ));
            ensure!(
                outcome.lost() * 5 < outcome.sent,
                "UDP did not recover: {outcome:?}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// Ringway as client and as server of OpenVPN.
fn pairs() -> [(Peer, Peer); 2] {
    [
        (Peer::subject(), Peer::OpenVpn),
        (Peer::OpenVpn, Peer::subject()),
    ]
}

fn change_client_address(link: &Link) -> Result<()> {
    let client = link.client_namespace();
    client.ip(&format!("addr add 192.0.2.77/24 dev {OUTSIDE}"))?;
    client.ip(&format!("addr del 192.0.2.1/24 dev {OUTSIDE}"))?;
    // Removing a primary address may have taken its neighbours along.
    if !client
        .ip(&format!("-4 addr show dev {OUTSIDE}"))?
        .contains("192.0.2.77")
    {
        client.ip(&format!("addr add 192.0.2.77/24 dev {OUTSIDE}"))?;
    }
    Ok(())
}

/// Waits until traffic passes again both ways, and reports how long it took.
fn recovered(link: &mut Link, what: &str) -> Result<Duration> {
    let start = Instant::now();
    traffic::ping_until(
        link.client_namespace(),
        link.server_addresses()[0],
        PATIENCE,
    )?;
    traffic::ping_until(
        link.server_namespace(),
        link.client_addresses()[1],
        PATIENCE,
    )?;
    let took = start.elapsed();
    let (client, server) = (link.client_namespace(), link.server_namespace());
    traffic::tcp(
        client,
        server,
        link.server_addresses()[1],
        1 << 20,
        PATIENCE,
    )?;
    note(&format!(
        "{}: {what}: {:.1} s",
        link.spec.title(),
        took.as_secs_f64()
    ));
    Ok(took)
}
