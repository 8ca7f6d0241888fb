//! What peers cost that are connected and say nothing.

use std::time::Duration;

use anyhow::Result;
use ringway_lab::certs::KeyKind;

use super::Scale;
use super::rig::Rig;
use crate::measure::Measure;
use crate::probe::Values;
use crate::program::Program;

const AT_ONCE: usize = 64;
/// After the last login, until nothing of it is left: acknowledgements, resends.
const SETTLE: Duration = Duration::from_secs(4);

/// Memory at a quarter, half and all of the peers, as the slope of a straight line; then the
/// processor time of their keepalives.
pub(super) fn run(program: &Program, scale: Scale) -> Result<Values> {
    let rig = Rig::start(program, KeyKind::EcdsaP256, &[])?;
    let swarm = rig.swarm(0)?;
    let mut points = vec![(0.0, rig.resident_kib()?)];
    for part in [4, 2, 1] {
        let peers = scale.peers / part;
        swarm.connect(peers, AT_ONCE);
        rig.explain(swarm.wait_up(peers as usize, Duration::from_secs(180)))?;
        std::thread::sleep(SETTLE);
        points.push((f64::from(peers), rig.resident_kib()?));
    }
    // What the first peers bring about once is not theirs.
    let slope = slope(&points[1..]);
    let watched = 15 * u64::from(scale.seconds);
    let before = rig.server.cpu_seconds()?;
    std::thread::sleep(Duration::from_secs(watched));
    let spent = rig.server.cpu_seconds()? - before;
    rig.explain(swarm.wait_up(scale.peers as usize, Duration::ZERO))?;
    Ok(vec![
        (Measure::PeerMemory, slope),
        (Measure::KeepaliveLoad, spent / watched as f64 * 100.0),
    ])
}

/// Of the straight line through the points with the least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (x, y) = points
        .iter()
        .fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    let (x, y) = (x / count, y / count);
    let (mut both, mut square) = (0.0, 0.0);
    for point in points {
        both += (point.0 - x) * (point.1 - y);
        square += (point.0 - x).powi(2);
    }
    both / square
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_what_one_more_costs() {
        let exact = [(500.0, 10_500.0), (1000.0, 11_000.0), (2000.0, 12_000.0)];
        assert!((slope(&exact) - 1.0).abs() < 1e-9);
        let flat = [(1.0, 7.0), (2.0, 7.0)];
        assert!(slope(&flat).abs() < 1e-9);
    }
}
