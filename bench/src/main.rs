//! Measures Ringway beside its peers, and shows it at work.
//!
//! * `demo`: one link from nothing, with real traffic and what it carried.
//! * `compare`: Ringway against OpenVPN, interleaved in one run; writes a table and JSON.
//! * `source` and `sink`: load a real link between two hosts, through a tunnel or around it.
//!
//! The first two make their own network namespaces and remove them, and need root.

#![forbid(unsafe_code)]

mod compare;
mod demo;

use clap::{Parser, Subcommand};
use ringway_bench::load;

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
    /// Measure Ringway against OpenVPN, interleaved in one run.
    Compare(compare::Options),
    /// Wait for a source on another host and count what it sends.
    Sink(load::sink::Options),
    /// Load the path to a sink on another host and say what it carried.
    Source(load::source::Options),
    /// The inside of a measurement: runs in a namespace, not meant for people.
    #[command(subcommand, hide = true)]
    Traffic(ringway_lab::helper::Task),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Command::Traffic(task) = &cli.command {
        return ringway_lab::helper::main(task);
    }
    let loaded = match &cli.command {
        Command::Sink(options) => Some(load::sink::run(options)),
        Command::Source(options) => Some(load::source::run(options)),
        Command::Demo(_) | Command::Compare(_) | Command::Traffic(_) => None,
    };
    if let Some(outcome) = loaded {
        // Tools for people and scripts: what went wrong is one line.
        if let Err(error) = outcome {
            eprintln!("ringway-bench: {error:#}");
            std::process::exit(1);
        }
        return Ok(());
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
        Command::Compare(options) => compare::run(&options),
        Command::Sink(_) | Command::Source(_) | Command::Traffic(_) => Ok(()),
    }
}
