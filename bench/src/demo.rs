//! One link from nothing: namespaces, keys, configurations, two processes, traffic, figures.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use ringway_lab::link::{Cipher, Link, LinkSpec};
use ringway_lab::netns::Lab;
use ringway_lab::peer::Peer;
use ringway_lab::{iperf, traffic};

/// How the demo is run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Program at the client end; the server end is always ringway.
    #[arg(long, value_enum, default_value_t = Against::Ringway)]
    against: Against,
    /// Cipher of the data channel.
    #[arg(long, value_enum, default_value_t = CipherName::Gcm)]
    cipher: CipherName,
    /// Length of each TCP measurement, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Keep configurations, keys and logs, and leave the link up until Enter is pressed.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Against {
    Ringway,
    Openvpn,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CipherName {
    /// AES-256-GCM
    Gcm,
    /// CHACHA20-POLY1305
    Chacha,
    /// AES-256-CBC with HMAC-SHA256
    Cbc,
}

/// Runs the demo and prints each step.
///
/// # Errors
/// When a step fails; both ends' logs are in the message.
pub(crate) fn run(options: &Options) -> Result<()> {
    // Trying the demo itself with OpenVPN on both ends goes by the labs' switch.
    let server = Peer::subject();
    let client = match options.against {
        Against::Ringway => server,
        Against::Openvpn => Peer::OpenVpn,
    };
    let cipher = match options.cipher {
        CipherName::Gcm => Cipher::Aes256Gcm,
        CipherName::Chacha => Cipher::ChaCha20Poly1305,
        CipherName::Cbc => Cipher::Aes256CbcSha256,
    };
    println!("server end: {}", server.version()?);
    println!("client end: {}", client.version()?);
    let spec = LinkSpec {
        cipher,
        ..LinkSpec::new(client, server)
    };
    let mut lab = Lab::new()?;
    if options.keep {
        lab.keep_files();
    }
    let path = lab.direct()?;
    println!();
    println!("made    two namespaces joined by a veth pair:");
    println!("          {}  192.0.2.1", path.client.name());
    println!("          {}  192.0.2.2", path.server.name());
    let mut link = spec.launch(lab, path)?;
    println!(
        "wrote   keys, certificates, {}",
        link.server.config().display()
    );
    println!("          and {}", link.client.config().display());
    println!(
        "started {} (pid {}) and {} (pid {})",
        server.name(),
        link.server.pid(),
        client.name(),
        link.client.pid()
    );
    let took = link.wait_up(Duration::from_secs(30))?;
    println!(
        "link up after {:.2} s: {}",
        took.as_secs_f64(),
        spec.title()
    );
    println!();
    link.check(|link| measure(link, options.seconds))?;
    if options.keep {
        println!();
        println!(
            "The link stays up. Try: ip netns exec {} ping 10.9.0.1",
            link.path.client.name()
        );
        println!("Press Enter to end it.");
        std::io::stdin().read_line(&mut String::new())?;
    }
    link.check(|link| link.stop())?;
    drop(link);
    println!();
    println!("ended   both processes on SIGTERM; interfaces and namespaces are gone");
    Ok(())
}

fn measure(link: &Link, seconds: u32) -> Result<()> {
    let (client, server) = (link.client_namespace(), link.server_namespace());
    let [far4, far6] = link.server_addresses();
    for (far, name) in [(far4, "IPv4"), (far6, "IPv6")] {
        traffic::ping_until(client, far, Duration::from_secs(10))?;
        for size in [0, 56, 1400, 4000] {
            traffic::ping(client, far, size, 3)?;
        }
        println!("ping    {name}, 0 to 4000 bytes: all answered");
    }
    let sum = traffic::tcp(client, server, far4, 64 << 20, Duration::from_secs(120))?;
    println!(
        "TCP     64 MiB each way at once, every byte compared: {:.1} s",
        sum.seconds
    );
    let iperf = iperf::Server::start(server, far4)?;
    for (reverse, name) in [(false, "client to server"), (true, "server to client")] {
        let before = link.client.cpu_seconds()? + link.server.cpu_seconds()?;
        let result = iperf.tcp(client, seconds, reverse).context(name)?;
        let cpu = link.client.cpu_seconds()? + link.server.cpu_seconds()? - before;
        println!(
            "TCP     one stream, {name}: {:.2} Gbit/s, {:.2} CPU seconds per gigabyte (both ends)",
            result.bits_per_second / 1e9,
            cpu / (result.bytes as f64 / 1e9)
        );
    }
    let outcome = traffic::udp(client, server, far4, 5000, 1200, 2.0)?;
    println!(
        "UDP     5000 datagrams of 1200 bytes per second for 2 s: {} sent, {} lost, {} reordered",
        outcome.sent,
        outcome.lost(),
        outcome.report.reordered
    );
    let outcome = traffic::udp(client, server, far4, 0, 64, 2.0)?;
    println!(
        "UDP     64-byte datagrams as fast as they go: {:.0} thousand per second received",
        outcome.report.received as f64 / outcome.report.seconds.max(0.001) / 1e3
    );
    Ok(())
}
