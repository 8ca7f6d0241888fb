//! Measures Ringway beside its peers, and shows it at work.
//!
//! * `demo`: one link from nothing, with real traffic and what it carried.
//! * `all`: every row of the target table, written as RESULTS.md, results.json and report.html;
//!   `throughput`, `pps`, `latency`, `rekey`, `memory`, `peers`, `server` measure parts of it,
//!   `report` draws the files again.
//! * `clients`: thousands of light clients for one server.
//! * `source` and `sink`: load a real link between two hosts, through a tunnel or around it.
//!
//! ```text
//!   suite     settings (condition, probes, programs) and targets
//!     |
//!   run       rounds, order, progress --- tunnel   program at work in two namespaces
//!     |                                     |      (program, process, wireguard, nebula)
//!     |                                   probe    values of one turn (cbc_cost, server)
//!   results   values, JSON
//!     |
//!   target    verdicts --- table  RESULTS.md --- report  report.html (chart)
//! ```
//!
//! Measurements make their own network namespaces and remove them; they need root.

#![forbid(unsafe_code)]

mod cbc_cost;
mod chart;
mod demo;
mod machine;
mod measure;
mod nebula;
mod probe;
mod process;
mod program;
mod report;
mod results;
mod run;
mod server;
mod suite;
mod table;
mod target;
mod tunnel;
mod wireguard;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ringway_bench::{clients, load};

use crate::measure::Measure;
use crate::suite::Setting;

#[derive(Parser)]
#[command(about = "Measures Ringway beside its peers, and shows it at work")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build one link from nothing, send traffic through it, print what it carried.
    Demo(demo::Options),
    /// Measure every row of the target table; writes RESULTS.md, results.json and report.html.
    #[command(alias = "results")]
    All(run::Options),
    /// TCP throughput and CPU time per gigabyte.
    #[command(alias = "cpu")]
    Throughput(run::Options),
    /// 64-byte datagrams per second.
    Pps(run::Options),
    /// Round trips, idle and beside one TCP stream.
    Latency(run::Options),
    /// What a change of keys costs under full load.
    Rekey(run::Options),
    /// Resident size, by workers.
    Memory(run::Options),
    /// All programs side by side: one TCP stream, 64-byte datagrams, round trips.
    Peers(run::Options),
    /// A server with thousands of peers: logins, memory, keepalive, a storm, a flood.
    Server(run::Options),
    /// Connect many light clients to a server and say how they fare.
    Clients(clients::command::Options),
    /// Draw RESULTS.md and report.html again from results.json.
    Report {
        /// The folder they are in.
        #[arg(default_value = FOLDER)]
        folder: PathBuf,
    },
    /// Wait for a source on another host and count what it sends.
    Sink(load::sink::Options),
    /// Load the path to a sink on another host and say what it carried.
    Source(load::source::Options),
    /// The inside of a measurement: runs in a namespace, not meant for people.
    #[command(subcommand, hide = true)]
    Traffic(ringway_lab::helper::Task),
}

/// Peers of a full server.
const FULL_PEERS: u32 = 2000;

/// Where the project keeps its results.
const FOLDER: &str = "bench";

fn main() -> ExitCode {
    match begin() {
        Ok(()) => ExitCode::SUCCESS,
        // For people and scripts: what went wrong is one line (of a lab, with its logs).
        Err(error) => {
            eprintln!("ringway-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn begin() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match &cli.command {
        Command::Traffic(task) => return ringway_lab::helper::main(task),
        Command::Report { folder } => return run::again(folder),
        Command::Sink(options) => return load::sink::run(options),
        Command::Source(options) => return load::source::run(options),
        Command::Clients(options) => return clients::command::run(options),
        _ => {}
    }
    let missing = ringway_lab::missing();
    anyhow::ensure!(
        missing.is_empty(),
        "this needs {} (see ./demo.sh)",
        missing.join(", ")
    );
    let me = std::env::current_exe()?;
    ringway_lab::traffic::use_helper(vec![me.into(), "traffic".into()]);
    match cli.command {
        Command::Demo(options) => demo::run(&options),
        Command::All(options) => run::run(&options, Some(Path::new(FOLDER)), |_| true),
        Command::Throughput(options) => run::run(&options, None, takes(Measure::TcpRate)),
        Command::Pps(options) => run::run(&options, None, takes(Measure::SmallRate)),
        Command::Latency(options) => run::run(&options, None, takes(Measure::LoadedP99)),
        Command::Rekey(options) => run::run(&options, None, takes(Measure::RekeyDip)),
        Command::Memory(options) => run::run(&options, None, takes(Measure::Memory)),
        Command::Peers(options) => run::run(&options, None, |setting| {
            ["gcm", "udp-cut", "small", "latency"].contains(&setting.key)
        }),
        Command::Server(options) => run::run(&options.with_peers(FULL_PEERS), None, |setting| {
            let mut probes = setting.probes.iter();
            probes.any(|probe| matches!(probe, probe::Probe::Server(_)))
        }),
        Command::Report { .. }
        | Command::Clients(_)
        | Command::Sink(_)
        | Command::Source(_)
        | Command::Traffic(_) => Ok(()),
    }
}

/// The settings in which a measure is taken.
fn takes(measure: Measure) -> impl Fn(&Setting) -> bool {
    move |setting| {
        let mut probes = setting.probes.iter();
        probes.any(|probe| probe.measures().contains(&measure))
    }
}
