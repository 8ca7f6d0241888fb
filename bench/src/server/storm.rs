//! All peers come back at once: how long it takes, and what an established peer feels.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringway_bench::clients::{Flow, Goal, Swarm};
use ringway_lab::certs::KeyKind;

use super::Scale;
use super::rig::Rig;
use crate::measure::Measure;
use crate::probe::Values;
use crate::program::Program;

/// Peers that are there before.
const ESTABLISHED: u32 = 10;
/// How much nicer the storm's thread is than the server and the established peers: its cryptography
/// stands for that of many machines.
const NICE: u8 = 10;
const PATIENCE: Duration = Duration::from_secs(180);

/// First beside some established peers, whose round trips are compared with quiet ones; then the
/// server is killed and started again, and all come back.
pub(super) fn run(program: &Program, scale: Scale) -> Result<Values> {
    let mut rig = Rig::start(program, KeyKind::EcdsaP256, &[])?;
    let established = rig.swarm(0)?;
    established.connect(ESTABLISHED, 10);
    rig.explain(established.wait_up(ESTABLISHED as usize, PATIENCE))?;
    established.flows(
        (0..ESTABLISHED)
            .map(|from| Flow {
                from,
                goal: Goal::Server,
                every: Duration::from_millis(10),
                len: 100,
            })
            .collect(),
    );
    std::thread::sleep(Duration::from_millis(500));
    established.forget();
    std::thread::sleep(Duration::from_secs((2 * scale.seconds).into()));
    let quiet = p99(&established)?;
    established.forget();
    let storm = rig.swarm(NICE)?;
    storm.connect(scale.peers, usize::MAX);
    rig.explain(storm.wait_up(scale.peers as usize, PATIENCE))?;
    let during = p99(&established)?;
    drop(established);
    rig.server.kill();
    rig.server.start_again()?;
    rig.server.wait_up(Duration::from_secs(30))?;
    storm.reconnect(usize::MAX);
    // The order is done before this one.
    storm.report()?;
    let back = rig.explain(storm.wait_up(scale.peers as usize, PATIENCE))?;
    Ok(vec![
        (Measure::StormTime, back.as_secs_f64()),
        (Measure::StormP99, during),
        (Measure::StormDelay, during / quiet),
    ])
}

fn p99(swarm: &Swarm) -> Result<f64> {
    let report = swarm.report()?;
    ensure!(!report.round_trips.is_empty(), "no echo: {}", report.line());
    Ok(report.round_trips.value_at_quantile(0.99) as f64)
}
