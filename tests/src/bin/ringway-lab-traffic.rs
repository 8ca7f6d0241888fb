//! Sends and checks traffic inside a lab's namespace; see [`ringway_lab::helper`].

use clap::Parser;

#[derive(Parser)]
#[command(about = "Sends and checks traffic inside a lab's namespace")]
struct Cli {
    #[command(subcommand)]
    task: ringway_lab::helper::Task,
}

fn main() -> anyhow::Result<()> {
    ringway_lab::helper::main(&Cli::parse().task)
}
