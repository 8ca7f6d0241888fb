//! What a server for thousands of peers does, and what it costs: `ringway-bench server`.
//!
//! ```text
//!   peers ns                        server ns                     flood ns
//!   light clients (a thread)  ----  server, tun0 10.9.0.1  ----  spoofed resets, noise
//!   one real client                 iperf3
//! ```
//!
//! The clients are those of [`ringway_bench::clients`]; the servers are started from the same file. All
//! clients share one certificate (`duplicate-cn`), each has a port of its own.

mod crowd;
mod flood;
mod handshakes;
mod idle;
mod mesh;
mod rig;
mod storm;

use anyhow::Result;
use ringway_lab::certs::KeyKind;

use crate::measure::Measure;
use crate::probe::Values;
use crate::program::Program;

/// A row about servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// Processor time of logins.
    Handshakes(KeyKind),
    /// What peers cost that say nothing.
    Idle,
    /// Throughput of one peer beside all the others.
    Crowd,
    /// All peers at once after a restart.
    Storm,
    /// Spoofed resets and noise at full rate.
    Flood,
    /// Fifty peers that talk to each other.
    Mesh,
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Peers of a full server.
    pub(crate) peers: u32,
    /// Length of one measurement, in seconds.
    pub(crate) seconds: u32,
}

impl Row {
    /// What it measures.
    pub(crate) fn measures(self) -> &'static [Measure] {
        match self {
            Self::Handshakes(_) => &[Measure::LoginRate],
            Self::Idle => &[Measure::PeerMemory, Measure::KeepaliveLoad],
            Self::Crowd => &[Measure::AloneRate, Measure::CrowdRate, Measure::CrowdKept],
            Self::Storm => &[Measure::StormTime, Measure::StormP99, Measure::StormDelay],
            Self::Flood => &[
                Measure::FloodKept,
                Measure::FloodKeptIdle,
                Measure::FloodRate,
                Measure::FloodMemory,
            ],
            Self::Mesh => &[
                Measure::MeshRate,
                Measure::MeshLost,
                Measure::MeshAstray,
                Measure::MeshLate,
            ],
        }
    }

    /// About how long it takes, in seconds.
    pub(crate) fn estimate(self, scale: Scale) -> f64 {
        let seconds = f64::from(scale.seconds);
        // A few milliseconds of both processors for each login.
        let all = f64::from(scale.peers) * 0.005;
        match self {
            Self::Handshakes(_) => f64::from(handshakes::count(scale)) * 0.006 + 2.0,
            Self::Idle => all + 15.0 * seconds + 15.0,
            Self::Crowd => all + 2.0 * seconds + 10.0,
            Self::Storm => 2.0 * all + 3.0 * seconds + 5.0,
            Self::Flood => 15.0 * seconds + 10.0,
            Self::Mesh => 3.0 * seconds + 8.0,
        }
    }

    /// Takes the values.
    ///
    /// # Errors
    /// When the server does not do its work in the time it is given.
    pub(crate) fn run(self, program: &Program, scale: Scale) -> Result<Values> {
        match self {
            Self::Handshakes(kind) => handshakes::run(program, kind, scale),
            Self::Idle => idle::run(program, scale),
            Self::Crowd => crowd::run(program, scale),
            Self::Storm => storm::run(program, scale),
            Self::Flood => flood::run(program, scale),
            Self::Mesh => mesh::run(program, scale),
        }
    }
}
