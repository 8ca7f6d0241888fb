//! What a login costs the server.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringway_lab::certs::KeyKind;

use super::Scale;
use super::rig::Rig;
use crate::measure::Measure;
use crate::probe::Values;
use crate::program::Program;

/// Logins under way at once.
const AT_ONCE: usize = 32;
/// Logins before anything is counted: caches and allocators settle.
const WARM_UP: u32 = 50;

/// Fewer take too few ticks of the kernel's clock for processor time, 10 ms each.
const MIN_LOGINS: u32 = 1000;

/// Logins that are counted.
pub(super) fn count(scale: Scale) -> u32 {
    (scale.peers / 2).max(MIN_LOGINS)
}

/// Logins until so many are done; logins for each second of the server's processor time.
pub(super) fn run(program: &Program, kind: KeyKind, scale: Scale) -> Result<Values> {
    let rig = Rig::start(program, kind, &[])?;
    let swarm = rig.swarm(0)?;
    let patience = Duration::from_secs(120);
    swarm.connect(WARM_UP, AT_ONCE);
    rig.explain(swarm.wait_up(WARM_UP as usize, patience))?;
    let before = rig.server.cpu_seconds()?;
    let all = WARM_UP + count(scale);
    swarm.connect(all, AT_ONCE);
    rig.explain(swarm.wait_up(all as usize, patience))?;
    let spent = rig.server.cpu_seconds()? - before;
    let report = swarm.report()?;
    ensure!(report.failures == 0, "{}", report.line());
    ensure!(spent > 0.0, "too few logins for a clock of 10 ms");
    Ok(vec![(Measure::LoginRate, f64::from(count(scale)) / spent)])
}
