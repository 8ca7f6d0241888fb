//! `ringway-bench clients`: a crowd for a server that is already there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ringway::proto::TlsRole;
use ringway::proto::wrap::WrapConfig;
use ringway::tls::{TlsContext, TlsSettings};

use super::{Flow, Goal, Settings, Swarm};

/// Which clients, and what they do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address and port of the server, UDP.
    server: SocketAddr,
    /// Certificates that the server's is checked with.
    #[arg(long)]
    ca: PathBuf,
    /// Certificate of all clients; the server needs `duplicate-cn`, or names by `username-as-common-name`.
    #[arg(long)]
    cert: PathBuf,
    /// Its key.
    #[arg(long)]
    key: PathBuf,
    /// User name; each % becomes the number of the client.
    #[arg(long, requires = "password")]
    username: Option<String>,
    /// Password.
    #[arg(long)]
    password: Option<String>,
    /// How many.
    #[arg(long, default_value_t = 100)]
    count: u32,
    /// Logins under way at once.
    #[arg(long, default_value_t = 64)]
    at_once: usize,
    /// How long they stay, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Echoes of each client to the server's address inside, in a second.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    echoes: u32,
    /// Send the packets to the next client instead.
    #[arg(long)]
    mesh: bool,
}

/// Connects them, says once a second how they fare, and lets them leave.
///
/// # Errors
/// When a file is wrong, or not all have connected in a minute.
pub fn run(options: &Options) -> Result<()> {
    let read = |path: &PathBuf| {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let tls = TlsSettings {
        ca: read(&options.ca)?,
        cert: Some(read(&options.cert)?),
        key: Some(read(&options.key)?),
        ..TlsSettings::new(TlsRole::Client)
    };
    let settings = Settings {
        server: options.server,
        tls: Arc::new(TlsContext::new(&tls)?.0),
        wrap: WrapConfig::None,
        credentials: options.username.clone().zip(options.password.clone()),
        hand_window: Duration::from_secs(60),
    };
    let swarm = Swarm::start(settings, None, 0)?;
    swarm.connect(options.count, options.at_once);
    let took = swarm.wait_up(options.count as usize, Duration::from_secs(60))?;
    let tls = swarm.report()?.tls;
    println!("all connected after {:.2} s, {tls}", took.as_secs_f64());
    if options.echoes > 0 {
        let goal = |from| match options.mesh {
            true => Goal::Client((from + 1) % options.count),
            false => Goal::Server,
        };
        let flow = |from| Flow {
            from,
            goal: goal(from),
            every: Duration::from_secs(1) / options.echoes,
            len: 200,
        };
        swarm.flows((0..options.count).map(flow).collect());
    }
    for _ in 0..options.seconds {
        std::thread::sleep(Duration::from_secs(1));
        println!("{}", swarm.report()?.line());
    }
    swarm.flows(Vec::new());
    std::thread::sleep(Duration::from_millis(500));
    let report = swarm.report()?;
    println!("{}", report.line());
    if !report.round_trips.is_empty() {
        let at = |quantile| report.round_trips.value_at_quantile(quantile);
        println!("round trips p50 {} µs, p99 {} µs", at(0.5), at(0.99));
    }
    swarm.leave();
    // The order is done before this one.
    swarm.report().map(drop)
}
