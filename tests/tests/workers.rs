//! Several workers carry everything one does, in the same order.
//!
//! Flows of numbered datagrams run both ways at once: none may be overtaken inside its flow, and a stock
//! peer whose replay window is 64 packets must find nothing to complain about.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use ringway_lab::link::{LinkSpec, Mode};
use ringway_lab::peer::{Peer, Vpn};
use ringway_lab::traffic::{self, UdpStream};
use ringway_lab::{chosen, full, note, ready};

/// Flows in each direction.
const FLOWS: u16 = 3;
/// Datagrams per second in each of them.
const RATE: u64 = 3000;

#[test]
fn two_towards_openvpn() -> Result<()> {
    ordered("two_towards_openvpn", Peer::OpenVpn, Mode::Pull, 2, "uring")
}

#[test]
fn three_towards_openvpn() -> Result<()> {
    ordered(
        "three_towards_openvpn",
        Peer::OpenVpn,
        Mode::PointToPoint,
        3,
        "syscalls",
    )
}

#[test]
fn two_towards_two() -> Result<()> {
    ordered(
        "two_towards_two",
        Peer::Ringway,
        Mode::PointToPoint,
        2,
        "syscalls",
    )
}

#[test]
fn four_towards_four() -> Result<()> {
    ordered(
        "four_towards_four",
        Peer::Ringway,
        Mode::PointToPoint,
        4,
        "uring",
    )
}

fn ordered(name: &str, far: Peer, mode: Mode, workers: u16, engine: &str) -> Result<()> {
    if !ready(name) || !chosen(name, &["two_towards_openvpn", "four_towards_four"]) {
        return Ok(());
    }
    if Peer::subject() == Peer::OpenVpn {
        note(&format!("SKIP {name}: openvpn has one thread"));
        return Ok(());
    }
    let spec = LinkSpec {
        mode,
        ..LinkSpec::new(Peer::Ringway, far)
    }
    .ringway_line(&format!("ringway-workers {workers}"))
    .ringway_line(&format!("ringway-io {engine}"))
    .line("replay-window 64 15")
    .line("reneg-sec 3");
    let mut link = spec.start()?;
    link.check(|link| {
        traffic::everything(link, 4 << 20)?;
        let (client, server) = (link.client_namespace(), link.server_namespace());
        let seconds = if full() { 30.0 } else { 4.0 };
        let mut streams = Vec::new();
        for flow in 0..FLOWS {
            let there = SocketAddr::new(link.server_addresses()[0], 5400 + flow);
            let back = SocketAddr::new(link.client_addresses()[0], 5500 + flow);
            streams.push(UdpStream::start(client, server, there, RATE, 300, seconds)?);
            streams.push(UdpStream::start(server, client, back, RATE, 300, seconds)?);
        }
        let (mut received, mut lost) = (0, 0);
        for stream in streams {
            let outcome = stream.finish()?;
            ensure!(outcome.report.reordered == 0, "reordered: {outcome:?}");
            received += outcome.report.received;
            lost += outcome.lost();
        }
        ensure!(received > 0, "nothing was received");
        for end in [&link.client, &link.server] {
            ensure!(replays(end) == 0, "replays:\n{}", end.tail());
        }
        note(&format!(
            "{} with {workers} workers ({engine}): {received} datagrams in {} flows, {lost} lost, none \
             overtaken",
            spec.title(),
            2 * FLOWS
        ));
        Ok(())
    })
}

/// What both programs say of packets outside the replay window.
fn replays(end: &Vpn) -> usize {
    end.count("bad packet ID")
}
