//! Bad links: loss, reordering and duplication in both directions. The handshake always
//! completes, and what is transferred arrives unchanged.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ringway_lab::link::{LinkSpec, Outside, Wrap};
use ringway_lab::netns::Lab;
use ringway_lab::peer::Peer;
use ringway_lab::relay::Relay;
use ringway_lab::{chosen, full, note, ready, traffic};

/// What runs by default; loss alone in other measures and copies alone take a minute more.
const SHORT: [&str; 3] = [
    "five_percent_loss",
    "thirty_percent_reordered",
    "everything_at_once",
];

#[test]
fn one_percent_loss() -> Result<()> {
    bad_link("one_percent_loss", &["--loss", "1"], 8 << 20)
}

#[test]
fn five_percent_loss() -> Result<()> {
    bad_link("five_percent_loss", &["--loss", "5"], 2 << 20)
}

#[test]
fn twenty_percent_loss() -> Result<()> {
    bad_link("twenty_percent_loss", &["--loss", "20"], 128 << 10)
}

#[test]
fn thirty_percent_reordered() -> Result<()> {
    bad_link("thirty_percent_reordered", &["--reorder", "30"], 2 << 20)
}

#[test]
fn duplicated() -> Result<()> {
    bad_link("duplicated", &["--duplicate", "30"], 4 << 20)
}

#[test]
fn everything_at_once() -> Result<()> {
    let faults = [
        "--loss",
        "3",
        "--reorder",
        "20",
        "--duplicate",
        "10",
        "--delay-ms",
        "20",
    ];
    bad_link("everything_at_once", &faults, 256 << 10)
}

fn bad_link(name: &str, faults: &[&str], bytes: u64) -> Result<()> {
    if !ready(name) || !chosen(name, &SHORT) {
        return Ok(());
    }
    let subject = Peer::subject();
    // Both roles against OpenVPN with different wraps and families; the long run adds seeds.
    let seeds: &[&str] = if full() {
        &["1", "2", "3", "4"]
    } else {
        &["1"]
    };
    for seed in seeds {
        for (client, server, wrap, outside) in [
            (subject, Peer::OpenVpn, Wrap::TlsCrypt, Outside::V4),
            (Peer::OpenVpn, subject, Wrap::Plain, Outside::V6),
        ] {
            let spec = LinkSpec {
                wrap,
                outside,
                ..LinkSpec::new(client, server)
            };
            one(&spec, faults, seed, bytes).with_context(|| format!("{faults:?}, seed {seed}"))?;
        }
    }
    Ok(())
}

fn one(spec: &LinkSpec, faults: &[&str], seed: &str, bytes: u64) -> Result<()> {
    let mut lab = Lab::new()?;
    let path = lab.relayed()?;
    let mut arguments = vec!["--seed", seed];
    arguments.extend(faults);
    let relay = Relay::start(&path, spec.outside, &arguments)?;
    let start = Instant::now();
    let mut link = spec.launch(lab, path)?;
    // Lost resets are sent again after 2, 4, 8 ... seconds, and a handshake that ran out of its
    // 60 seconds starts anew.
    link.wait_up(Duration::from_secs(150))?;
    let up = start.elapsed();
    link.check(|link| {
        let (client, server) = (link.client_namespace(), link.server_namespace());
        traffic::tcp(
            client,
            server,
            link.server_addresses()[0],
            bytes,
            Duration::from_secs(150),
        )
    })?;
    let total = start.elapsed();
    drop(link);
    note(&format!(
        "{}, {}: up after {:.1} s, {} KiB each way unchanged in {:.1} s",
        spec.title(),
        faults.join(" "),
        up.as_secs_f64(),
        bytes >> 10,
        (total - up).as_secs_f64(),
    ));
    // Its namespace is gone with the link, and the relay with it: no report to wait for.
    drop(relay);
    Ok(())
}

/// The relay does what it says: without this the labs above could pass on a perfect link.
#[test]
fn the_relay_loses_what_it_should() -> Result<()> {
    if !ready("the_relay_loses_what_it_should") {
        return Ok(());
    }
    let spec = LinkSpec::new(Peer::OpenVpn, Peer::OpenVpn);
    let mut lab = Lab::new()?;
    let path = lab.relayed()?;
    let relay = Relay::start(&path, Outside::V4, &["--loss", "10", "--seed", "7"])?;
    let mut link = spec.launch(lab, path)?;
    link.wait_up(Duration::from_secs(120))?;
    let (client, server) = (link.client_namespace(), link.server_namespace());
    let outcome = traffic::udp(client, server, link.server_addresses()[0], 1000, 200, 2.0)?;
    let share = 100.0 * outcome.lost() as f64 / outcome.sent as f64;
    let report = relay.finish()?;
    ensure!(
        (6.0..14.0).contains(&share),
        "{share:.1} % lost, {report:?}"
    );
    ensure!(report.lost >= outcome.lost(), "{report:?} {outcome:?}");
    Ok(())
}
