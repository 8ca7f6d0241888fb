//! Round trips between the two ends of a lab's link, idle and beside a full TCP stream.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ringway_lab::netns::Namespace;

use super::lab::Sink;
use super::outcome::Outcome;
pub use super::probe::Latency;

/// A thousand round trips per second for `seconds` from `client` to `far`, an address of `server`;
/// with `load` beside one TCP stream that sends as fast as it goes (the probes begin half a second
/// after it).
///
/// # Errors
/// When the far end cannot be reached.
pub fn round_trips(
    client: &Namespace,
    server: &Namespace,
    far: IpAddr,
    seconds: f64,
    load: bool,
) -> Result<Latency> {
    let sink = Sink::start(server, far)?;
    let kind = if load { "--tcp" } else { "--idle" };
    let source = sink.source(client, &format!("{kind} --latency --seconds {seconds}"))?;
    let patience = Duration::from_secs_f64(seconds + 60.0);
    let outcome: Outcome = source.finish(patience, || ())?;
    outcome
        .latency
        .context("the source measured no round trips")
}
