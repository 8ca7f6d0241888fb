//! Rekeying under load loses nothing: UDP at a fixed rate in both directions while the keys change
//! every few seconds.
//!
//! 20 seconds each; two minutes with `RINGWAY_LAB_FULL=1`.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use ringway_lab::link::{Cipher, Link, LinkSpec, Mode};
use ringway_lab::peer::{Peer, Vpn};
use ringway_lab::traffic::{UdpOutcome, UdpStream};
use ringway_lab::{chosen, full, note, ready};

/// Seconds between two rekeys.
const INTERVAL: u32 = 4;
/// What runs by default of the cases that look for losses.
const SHORT: [&str; 2] = ["towards_openvpn_as_client", "pulling_from_openvpn"];
/// Datagrams per second and direction.
const RATE: u64 = 1000;

#[test]
fn towards_openvpn_as_server() -> Result<()> {
    lossless(
        "towards_openvpn_as_server",
        Peer::subject(),
        Peer::OpenVpn,
        Mode::PointToPoint,
    )
}

#[test]
fn towards_openvpn_as_client() -> Result<()> {
    lossless(
        "towards_openvpn_as_client",
        Peer::OpenVpn,
        Peer::subject(),
        Mode::PointToPoint,
    )
}

#[test]
fn pulling_from_openvpn() -> Result<()> {
    lossless(
        "pulling_from_openvpn",
        Peer::subject(),
        Peer::OpenVpn,
        Mode::Pull,
    )
}

#[test]
fn between_two_of_us() -> Result<()> {
    lossless(
        "between_two_of_us",
        Peer::subject(),
        Peer::subject(),
        Mode::PointToPoint,
    )
}

/// `reneg-bytes` and `reneg-pkts` start a rekey too.
#[test]
fn by_bytes_and_by_packets() -> Result<()> {
    if !ready("by_bytes_and_by_packets") {
        return Ok(());
    }
    for line in ["reneg-bytes 1000000", "reneg-pkts 2000"] {
        if Peer::subject() == Peer::OpenVpn && line.starts_with("reneg-pkts") {
            // OpenVPN 2.6.14 takes the option and never acts on it.
            continue;
        }
        let spec = LinkSpec::new(Peer::subject(), Peer::OpenVpn)
            .client_line(line)
            .line("reneg-sec 0")
            .line("hand-window 6");
        let mut link = spec.start()?;
        link.check(|link| {
            let [there, back] = streams(link, 6.0)?;
            let rekeys = rekeys(link);
            ensure!(rekeys >= 1, "{line}: no rekey in 6 s, {there:?}");
            ensure!(
                there.lost() + back.lost() == 0,
                "{line}: {there:?} {back:?}"
            );
            note(&format!("{line}: {rekeys} rekeys, nothing lost"));
            Ok(())
        })?;
    }
    Ok(())
}

fn lossless(name: &str, client: Peer, server: Peer, mode: Mode) -> Result<()> {
    if !ready(name) || !chosen(name, &SHORT) {
        return Ok(());
    }
    let seconds = if full() { 120.0 } else { 12.0 };
    let spec = LinkSpec {
        mode,
        cipher: Cipher::Aes256Gcm,
        ..LinkSpec::new(client, server)
    };
    let rekeying = spec.clone().line(&format!("reneg-sec {INTERVAL}"));
    let (lost, rekeys, gap) = run(&rekeying, seconds)?;
    ensure!(
        rekeys as f64 >= seconds / f64::from(INTERVAL) * 0.5,
        "only {rekeys} rekeys in {seconds} s"
    );
    note(&format!(
        "{}: {rekeys} rekeys in {seconds} s, {lost} of {} datagrams lost, longest gap {gap} ms",
        spec.title(),
        2.0 * RATE as f64 * seconds,
    ));
    if lost > 0 {
        // A busy machine may drop a datagram by itself: then the same run without rekeys does so
        // too.
        let (baseline, _, _) = run(&spec.line("reneg-sec 0"), seconds)?;
        ensure!(
            lost <= baseline,
            "{lost} datagrams lost; {baseline} without rekeys"
        );
    }
    Ok(())
}

fn run(spec: &LinkSpec, seconds: f64) -> Result<(u64, usize, u64)> {
    let mut link = spec.start()?;
    link.check(|link| {
        let [there, back] = streams(link, seconds)?;
        ensure!(there.sent > 0 && back.sent > 0, "nothing was sent");
        let gap = there.report.longest_gap_ms.max(back.report.longest_gap_ms);
        Ok((there.lost() + back.lost(), rekeys(link), gap))
    })
}

fn streams(link: &Link, seconds: f64) -> Result<[UdpOutcome; 2]> {
    let (client, server) = (link.client_namespace(), link.server_namespace());
    let there = SocketAddr::new(link.server_addresses()[0], 5301);
    let back = SocketAddr::new(link.client_addresses()[0], 5302);
    let there = UdpStream::start(client, server, there, RATE, 600, seconds)?;
    let back = UdpStream::start(server, client, back, RATE, 600, seconds)?;
    Ok([there.finish()?, back.finish()?])
}

/// Rekeys since the start, in each program's own words: OpenVPN names the TLS session's cipher each
/// time, the first handshake included, Ringway says that it renegotiated.
fn rekeys(link: &Link) -> usize {
    let count = |end: &Vpn| match end.peer() {
        Peer::OpenVpn | Peer::OpenVpn27 => end.count("Control Channel: TLS").saturating_sub(1),
        Peer::Ringway => end.count("TLS: renegotiated"),
    };
    count(&link.client).max(count(&link.server))
}
