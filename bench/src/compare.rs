//! Ringway against OpenVPN, interleaved: in every round each program gets its turn with fresh
//! processes on the same kind of path, so that a busy minute of the machine hits both.
//!
//! ```text
//!   round 1: ringway on, openvpn on, ringway off, openvpn off      (tx-udp-segmentation)
//!   round 2: openvpn on, ringway on, ...
//! ```
//! `off` makes the sender's kernel cut every UDP super-packet before the wire, as a network card
//! without segmentation would.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use ringway_lab::link::{Cipher, Link, LinkSpec};
use ringway_lab::measure::{Series, machine};
use ringway_lab::netns::{Lab, OUTSIDE};
use ringway_lab::peer::Peer;
use ringway_lab::{iperf, traffic};
use serde::Serialize;

/// What is measured and where the results go.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rounds; each gives one value per program and form.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Length of one measurement, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Folder for RESULTS.md and results.json.
    #[arg(long, default_value = "bench")]
    output: PathBuf,
    /// Also measure ChaCha20-Poly1305 and AES-256-CBC.
    #[arg(long)]
    ciphers: bool,
}

const TCP: &str = "one TCP stream, Gbit/s";
const CPU: &str = "CPU seconds per gigabyte, both ends, TCP";
const SMALL: &str = "64-byte UDP received, thousand per second";
const SMALL_CPU: &str = "CPU microseconds per 64-byte packet received, both ends";

/// One cell of the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    cipher: &'static str,
    /// The sender's kernel cuts super-packets (`tx-udp-segmentation off`).
    cut_early: bool,
    measure: &'static str,
    peer: &'static str,
}

#[derive(Debug, Serialize)]
struct Record<'a> {
    cipher: &'a str,
    tx_udp_segmentation: bool,
    measure: &'a str,
    peer: &'a str,
    median: f64,
    min: f64,
    max: f64,
    values: &'a [f64],
}

type Results = BTreeMap<Cell, Series>;

/// Measures and writes the results.
///
/// # Errors
/// When a link does not come up or a file cannot be written.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut ciphers = vec![Cipher::Aes256Gcm];
    if options.ciphers {
        ciphers.extend([Cipher::ChaCha20Poly1305, Cipher::Aes256CbcSha256]);
    }
    let mut results = Results::new();
    for round in 0..options.rounds {
        for &cipher in &ciphers {
            for segmentation in [true, false] {
                let mut peers = [Peer::Ringway, Peer::OpenVpn];
                if round % 2 == 1 {
                    peers.reverse();
                }
                for peer in peers {
                    one(peer, cipher, segmentation, options.seconds, &mut results)
                        .with_context(|| format!("round {}, {}", round + 1, peer.name()))?;
                }
            }
        }
        println!("round {} of {} done", round + 1, options.rounds);
    }
    let text = table(&results, options)?;
    println!("\n{text}");
    write(&options.output, "RESULTS.md", &text)?;
    write(&options.output, "results.json", &(json(&results)? + "\n"))
}

fn one(
    peer: Peer,
    cipher: Cipher,
    segmentation: bool,
    seconds: u32,
    results: &mut Results,
) -> Result<()> {
    let spec = LinkSpec {
        cipher,
        ..LinkSpec::new(peer, peer)
    };
    let mut lab = Lab::new()?;
    let path = lab.direct()?;
    for end in [&path.client, &path.server] {
        end.set_offload(OUTSIDE, "tx-udp-segmentation", segmentation)?;
    }
    let mut link = spec.launch(lab, path)?;
    link.wait_up(Duration::from_secs(30))?;
    let (client, server) = (
        link.client_namespace().clone(),
        link.server_namespace().clone(),
    );
    let far = link.server_addresses()[0];
    traffic::ping_until(&client, far, Duration::from_secs(10))?;
    let mut add = |measure, value: f64| {
        let cell = Cell {
            cipher: cipher.name(),
            cut_early: !segmentation,
            measure,
            peer: peer.name(),
        };
        results.entry(cell).or_default().push(value);
        println!(
            "  {:8} {}, tx-udp-segmentation {}, {measure}: {value:.2}",
            peer.name(),
            cipher.name(),
            if segmentation { "on" } else { "off" }
        );
    };
    link.check(|link| {
        let iperf = iperf::Server::start(&server, far)?;
        // Congestion window and caches are warm after a second.
        iperf.tcp(&client, 1, false)?;
        let before = cpu(link)?;
        let result = iperf.tcp(&client, seconds, false)?;
        let spent = cpu(link)? - before;
        add(TCP, result.bits_per_second / 1e9);
        add(CPU, spent / (result.bytes as f64 / 1e9));
        let before = cpu(link)?;
        let outcome = traffic::udp(&client, &server, far, 0, 64, f64::from(seconds))?;
        let spent = cpu(link)? - before;
        let received = outcome.report.received as f64;
        add(SMALL, received / outcome.report.seconds.max(0.001) / 1e3);
        add(SMALL_CPU, spent * 1e6 / received.max(1.0));
        Ok(())
    })
}

fn cpu(link: &Link) -> Result<f64> {
    Ok(link.client.cpu_seconds()? + link.server.cpu_seconds()?)
}

fn table(results: &Results, options: &Options) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "# Ringway against OpenVPN\n")?;
    writeln!(
        text,
        "Made by `cargo run --release -p ringway-bench -- compare`; the values are in results.json.\n"
    )?;
    writeln!(text, "- {}", machine())?;
    writeln!(
        text,
        "- {}; {}",
        Peer::Ringway.version()?,
        Peer::OpenVpn.version()?
    )?;
    writeln!(
        text,
        "- {} rounds, interleaved, {} s each; both tunnel ends and both ends of the traffic share \
         the machine; MTU 1500 inside and outside, over veth",
        options.rounds, options.seconds
    )?;
    writeln!(
        text,
        "- `tx-udp-segmentation off` is nearer to a card that cannot segment UDP; veth hands \
         super-packets over whole and flatters the `on` form\n"
    )?;
    writeln!(
        text,
        "| cipher | segmentation | measure | ringway (min-max) | openvpn (min-max) | ratio |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|")?;
    let ours = |cell: &&Cell| cell.peer == "ringway";
    for cell in results.keys().filter(ours) {
        let ours = &results[cell];
        let Some(theirs) = results.get(&Cell {
            peer: "openvpn",
            ..cell.clone()
        }) else {
            continue;
        };
        let (a, b) = (ours.median(), theirs.median());
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            cell.cipher,
            if !cell.cut_early { "on" } else { "off" },
            cell.measure,
            range(ours),
            range(theirs),
            ratio(a, b)
        )?;
    }
    Ok(text)
}

/// `a` in terms of `b`: "12.3" or, below one, "1/4.5".
fn ratio(a: f64, b: f64) -> String {
    if a >= b {
        format!("{:.1}", a / b)
    } else {
        format!("1/{:.1}", b / a)
    }
}

fn range(series: &Series) -> String {
    format!(
        "**{:.2}** ({:.2}-{:.2})",
        series.median(),
        series.min(),
        series.max()
    )
}

fn json(results: &Results) -> Result<String> {
    let records: Vec<Record<'_>> = results
        .iter()
        .map(|(cell, series)| Record {
            cipher: cell.cipher,
            tx_udp_segmentation: !cell.cut_early,
            measure: cell.measure,
            peer: cell.peer,
            median: series.median(),
            min: series.min(),
            max: series.max(),
            values: series.values(),
        })
        .collect();
    Ok(serde_json::to_string_pretty(&serde_json::json!({
        "machine": machine(),
        "ringway": Peer::Ringway.version()?,
        "openvpn": Peer::OpenVpn.version()?,
        "results": records,
    }))?)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_shows_the_middle_and_both_ends() {
        let mut series = Series::default();
        for value in [1.0, 3.0, 2.0] {
            series.push(value);
        }
        assert_eq!(range(&series), "**2.00** (1.00-3.00)");
        assert_eq!(
            (ratio(3.0, 2.0), ratio(1.0, 4.0)),
            ("1.5".to_owned(), "1/4.0".to_owned())
        );
    }
}
