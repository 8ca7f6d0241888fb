//! Fifty peers that talk to each other through the server, every packet checked.

use std::time::Duration;

use anyhow::Result;
use ringway_bench::clients::{Flow, Goal};
use ringway_lab::certs::KeyKind;

use super::Scale;
use super::rig::Rig;
use crate::measure::Measure;
use crate::probe::Values;
use crate::program::Program;

const PEERS: u32 = 50;
/// Of each peer: 400 packets in a second.
const EVERY: Duration = Duration::from_micros(2500);
const LEN: u16 = 600;

/// Each sends to the one 17 places on: over both workers, and to every peer from exactly one other.
pub(super) fn run(program: &Program, scale: Scale) -> Result<Values> {
    let rig = Rig::start(program, KeyKind::EcdsaP256, &["client-to-client"])?;
    let swarm = rig.swarm(0)?;
    swarm.connect(PEERS, PEERS as usize);
    rig.explain(swarm.wait_up(PEERS as usize, Duration::from_secs(60)))?;
    let dropped = rig.dropped_by_sockets()?;
    swarm.forget();
    swarm.flows(
        (0..PEERS)
            .map(|from| Flow {
                from,
                goal: Goal::Client((from + 17) % PEERS),
                every: EVERY,
                len: LEN,
            })
            .collect(),
    );
    let seconds = 3 * scale.seconds;
    std::thread::sleep(Duration::from_secs(seconds.into()));
    swarm.flows(Vec::new());
    std::thread::sleep(Duration::from_secs(1));
    let report = swarm.report()?;
    let by_links = rig.dropped_by_sockets()? - dropped;
    let rate = report.received as f64 / f64::from(seconds) / 1000.0;
    Ok(vec![
        (Measure::MeshRate, rate),
        (
            Measure::MeshLost,
            report.lost().saturating_sub(by_links) as f64,
        ),
        (Measure::MeshAstray, (report.astray + report.damaged) as f64),
        (Measure::MeshLate, report.late as f64),
    ])
}
