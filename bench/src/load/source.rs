//! `ringway-bench source`: loads the path to a sink and says what it carried.

use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};

use super::display::{self, Display};
use super::drive;
use super::outcome::{Found, Outcome, Step};
use super::protocol::{self, Load, Request};
use super::rate::Rate;
use super::search::Search;
use super::{tcp, udp};

/// What to send, and how to show it.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The host where `ringway-bench sink` runs: ADDRESS, NAME, or either with :PORT. Its address
    /// inside a tunnel measures the tunnel, its address outside the path around it.
    sink: String,
    #[command(flatten)]
    load: LoadOptions,
    /// Streams in each direction.
    #[arg(long, default_value_t = 1)]
    streams: u16,
    /// Bytes per datagram (UDP, default 1200) or per write (TCP, default 131072).
    #[arg(long)]
    size: Option<u32>,
    /// Send no more than this, all streams together: 500M or 1.2G (bits of payload per second),
    /// 20kpps (datagrams). As much as goes when not given.
    #[arg(long)]
    rate: Option<Rate>,
    /// Send UDP datagrams one by one, as most programs do, instead of many per system call.
    #[arg(long)]
    single: bool,
    /// How long to send [default: 10, with --find 2 per step].
    #[arg(long)]
    seconds: Option<f64>,
    /// The sink sends instead of the source.
    #[arg(long, conflicts_with = "bidir")]
    reverse: bool,
    /// Both send.
    #[arg(long)]
    bidir: bool,
    /// Measure round trips beside the load.
    #[arg(long)]
    latency: bool,
    /// Round trips per second for --latency and --idle.
    #[arg(long, default_value_t = 1000.0)]
    probes: f64,
    /// Search the highest UDP rate without loss; by bisection.
    #[arg(long, conflicts_with_all = ["rate", "bidir", "tcp", "idle"])]
    find: bool,
    /// Loss in percent that --find still counts as none.
    #[arg(long, default_value_t = 0.1)]
    loss: f64,
    /// Write the outcome as one JSON object to standard output, and nothing else.
    #[arg(long)]
    json: bool,
    /// Seconds between two samples.
    #[arg(long, default_value_t = 1.0)]
    interval: f64,
}

#[derive(Clone, Copy, Debug, clap::Args)]
#[group(multiple = false)]
struct LoadOptions {
    /// TCP streams (the default).
    #[arg(long)]
    tcp: bool,
    /// Numbered UDP datagrams: shows loss, reordering and duplicates.
    #[arg(long)]
    udp: bool,
    /// No load: only round trips.
    #[arg(long)]
    idle: bool,
}

/// Searches stop when they know the rate this exactly.
const PRECISION: f64 = 0.02;
/// A rate counts as too high when it lost datagrams this many times: once may be the machine.
const ATTEMPTS: usize = 2;

/// Does what was asked and prints the outcome.
///
/// # Errors
/// When a number makes no sense, the sink cannot be reached or the test breaks.
pub fn run(options: &Options) -> Result<()> {
    let request = request(options);
    request.check()?;
    ensure!(
        options.probes >= 1.0 && options.probes <= 100_000.0,
        "--probes must be 1 to 100000 per second"
    );
    ensure!(
        (0.0..100.0).contains(&options.loss),
        "--loss is a share in percent"
    );
    let addresses = drive::resolve(&options.sink, protocol::PORT)?;
    if options.find {
        let found = find(&addresses, &request, options)?;
        return print(options.json, &found, display::found);
    }
    let outcome = test(&addresses, &request, options)?;
    print(options.json, &outcome, display::summary)
}

fn print<T: serde::Serialize>(json: bool, what: &T, text: fn(&T) -> String) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(what)?);
    } else {
        print!("{}", text(what));
    }
    Ok(())
}

fn request(options: &Options) -> Request {
    let load = match options.load {
        LoadOptions { idle: true, .. } => Load::Idle,
        LoadOptions { udp: true, .. } => Load::Udp,
        _ if options.find => Load::Udp,
        _ => Load::Tcp,
    };
    let default = match load {
        Load::Udp => udp::DEFAULT_SIZE,
        Load::Tcp | Load::Idle => tcp::WRITE,
    };
    let size = options.size.unwrap_or(default as u32);
    let loaded = load != Load::Idle;
    Request {
        load,
        streams: options.streams,
        size,
        per_second: options.rate.map(|rate| rate.per_second(size)),
        single: options.single,
        seconds: options
            .seconds
            .unwrap_or(if options.find { 2.0 } else { 10.0 }),
        up: loaded && !options.reverse,
        down: loaded && (options.reverse || options.bidir),
        probes: options.latency || !loaded,
        interval: options.interval,
    }
}

/// One test with the first address of the sink that can be reached.
fn test(addresses: &[SocketAddr], request: &Request, options: &Options) -> Result<Outcome> {
    let mut display = Display::new(request, options.json);
    let mut failure = None;
    for &to in addresses {
        let outcome = drive::run(to, request, options.probes, |p| display.show(&p));
        match outcome {
            Ok(outcome) => {
                display.finish();
                return Ok(outcome);
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    display.finish();
    match failure {
        Some(error) => Err(error),
        None => bail!("no address to try"),
    }
}

/// Full speed first, then bisection between what was lost and what went through.
fn find(addresses: &[SocketAddr], request: &Request, options: &Options) -> Result<Found> {
    let allowed = options.loss / 100.0;
    let mut found = Found {
        packets_per_second: 0.0,
        bits_per_second: 0.0,
        allowed_loss: allowed,
        steps: Vec::new(),
        best: None,
    };
    let first = attempt(addresses, request, options, &mut found)?;
    if first.loss <= allowed {
        return Ok(found);
    }
    let mut search = Search::new(first.offered, first.received, PRECISION);
    while let Some(rate) = search.next() {
        let request = Request {
            per_second: Some(rate),
            ..request.clone()
        };
        let mut passed = false;
        for _ in 0..ATTEMPTS {
            let step = attempt(addresses, &request, options, &mut found)?;
            passed = step.loss <= allowed;
            if passed {
                break;
            }
        }
        search.record(rate, passed);
    }
    Ok(found)
}

/// One step: kept as the best when it is the fastest that lost nothing.
fn attempt(
    addresses: &[SocketAddr],
    request: &Request,
    options: &Options,
    found: &mut Found,
) -> Result<Step> {
    let outcome = test(addresses, request, options)?;
    let Some(flow) = outcome.up.as_ref().or(outcome.down.as_ref()) else {
        bail!("the test has no direction");
    };
    let step = Step {
        offered: flow.sent.packets as f64 / request.seconds,
        received: flow.received.packets as f64 / request.seconds,
        loss: flow.loss,
    };
    found.steps.push(step);
    if !options.json {
        eprintln!(
            "step {}: {} sent, {:.3} % lost",
            found.steps.len(),
            super::rate::count(step.offered),
            step.loss * 100.0
        );
    }
    if step.loss <= found.allowed_loss && step.offered > found.packets_per_second {
        found.packets_per_second = step.offered;
        found.bits_per_second = step.offered * f64::from(request.size) * 8.0;
        found.best = Some(outcome);
    }
    Ok(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn parse(words: &str) -> Result<Request, clap::Error> {
        let words = std::iter::once("source").chain(words.split_whitespace());
        Cli::try_parse_from(words).map(|cli| request(&cli.options))
    }

    #[test]
    fn options_become_a_request() {
        let tcp = parse("host").unwrap();
        assert_eq!(
            (tcp.load, tcp.up, tcp.down, tcp.probes),
            (Load::Tcp, true, false, false)
        );
        let udp = parse("host --udp --size 1000 --rate 8M --reverse --latency").unwrap();
        assert_eq!(
            (udp.load, udp.up, udp.down, udp.probes),
            (Load::Udp, false, true, true)
        );
        assert_eq!(udp.per_second, Some(1000.0));
        let idle = parse("host --idle --bidir").unwrap();
        assert_eq!(
            (idle.load, idle.up, idle.down, idle.probes),
            (Load::Idle, false, false, true)
        );
        let find = parse("host --find").unwrap();
        assert_eq!((find.load, find.seconds), (Load::Udp, 2.0));
        for wrong in [
            "",
            "host --tcp --udp",
            "host --find --rate 1M",
            "host --rate much",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
