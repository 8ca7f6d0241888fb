//! Throughput of one peer while the server has one, and while it has them all.

use std::time::Duration;

use anyhow::Result;
use ringway_lab::certs::KeyKind;
use ringway_lab::iperf;

use super::Scale;
use super::rig::{GATEWAY, Rig};
use crate::measure::Measure;
use crate::probe::Values;
use crate::program::Program;

/// Taken alternately, so that a busy minute of the machine hits both.
const TURNS: usize = 2;

/// One TCP stream from a real client to the server, alone and among light clients.
pub(super) fn run(program: &Program, scale: Scale) -> Result<Values> {
    let rig = Rig::start(program, KeyKind::EcdsaP256, &[])?;
    let client = rig.client()?;
    let sink = iperf::Server::start(&rig.inside, GATEWAY)?;
    let rate = || -> Result<f64> {
        // A second of warm-up.
        sink.tcp(&rig.peers, 1, false)?;
        let result = sink.tcp(&rig.peers, scale.seconds, false)?;
        Ok(result.bits_per_second / 1e9)
    };
    let (mut alone, mut among) = (0.0, 0.0);
    for _ in 0..TURNS {
        alone += rate()? / TURNS as f64;
        let swarm = rig.swarm(0)?;
        swarm.connect(scale.peers - 1, 64);
        rig.explain(swarm.wait_up(scale.peers as usize - 1, Duration::from_secs(180)))?;
        std::thread::sleep(Duration::from_secs(2));
        among += rate()? / TURNS as f64;
        swarm.leave();
        // The order is done before this one.
        swarm.report()?;
        // Until the server has let them go: it keeps a client that leaves for five seconds.
        std::thread::sleep(Duration::from_secs(7));
    }
    drop(client);
    Ok(vec![
        (Measure::AloneRate, alone),
        (Measure::CrowdRate, among),
        (Measure::CrowdKept, among / alone * 100.0),
    ])
}
