//! Statistics: what SIGUSR2 logs and the status file holds (protocol §13).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use ringway_dataplane::error::DropReason;
use ringway_dataplane::stats::{PeerStats, WorkerStats};
use ringway_dataplane::worker::GroupStats;

use crate::host::output_file::OutputFile;
use crate::log;
use crate::proto::tunnel::Counters;

/// Byte totals of a run, over restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bytes {
    tun_read: u64,
    tun_write: u64,
    link_read: u64,
    link_write: u64,
}

/// Counters of the run: those of ended attempts plus the live ones.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Ended attempts, and the control packets of all.
    ended: Bytes,
    live: Option<(Arc<PeerStats>, GroupStats)>,
}

impl Totals {
    pub(super) fn attach(&mut self, peer: Arc<PeerStats>, workers: GroupStats) {
        self.live = Some((peer, workers));
    }

    pub(super) fn detach(&mut self) {
        self.ended = self.bytes();
        self.live = None;
    }

    /// A control packet of this many bytes arrived.
    pub(super) fn add_control_read(&mut self, bytes: usize) {
        self.ended.link_read += bytes as u64;
    }

    /// A control packet of this many bytes was sent.
    pub(super) fn add_control_write(&mut self, bytes: usize) {
        self.ended.link_write += bytes as u64;
    }

    fn bytes(&self) -> Bytes {
        let mut sum = self.ended;
        if let Some((peer, _)) = &self.live {
            sum.tun_read += peer.tun_rx_bytes.load(Relaxed);
            sum.tun_write += peer.tun_tx_bytes.load(Relaxed);
            sum.link_read += peer.wire_rx_bytes.load(Relaxed);
            sum.link_write += peer.wire_tx_bytes.load(Relaxed);
        }
        sum
    }

    /// The lines of OpenVPN's client statistics, between title and `END`.
    fn rows(&self) -> [(&'static str, u64); 5] {
        let b = self.bytes();
        [
            ("TUN/TAP read bytes", b.tun_read),
            ("TUN/TAP write bytes", b.tun_write),
            ("TCP/UDP read bytes", b.link_read),
            ("TCP/UDP write bytes", b.link_write),
            ("Auth read bytes", b.link_read),
        ]
    }
}

/// SIGUSR2: OpenVPN's statistics, then every drop counter.
pub(super) fn log_statistics(totals: &Totals, control: &Counters) {
    log::notice!("OpenVPN STATISTICS");
    log::notice!("Updated,{}", log::timestamp());
    for (name, value) in totals.rows() {
        log::notice!("{name},{value}");
    }
    if let Some((peer, workers)) = &totals.live {
        log::notice!("data packets read,{}", peer.wire_rx_packets.load(Relaxed));
        log::notice!(
            "data packets written,{}",
            peer.wire_tx_packets.load(Relaxed)
        );
        log_workers(workers);
    }
    for (name, value) in control.rows() {
        log::notice!("{name},{value}");
    }
    log::notice!("END");
}

/// Every counter of the workers, for SIGUSR2.
pub(super) fn log_workers(workers: &GroupStats) {
    type Counter = fn(&WorkerStats) -> &AtomicU64;
    let counters: [(&str, Counter); 8] = [
        ("udp receive calls", |worker| &worker.udp_rx_calls),
        ("udp send calls", |worker| &worker.udp_tx_calls),
        ("tcp read calls", |worker| &worker.stream_rx_calls),
        ("tcp write calls", |worker| &worker.stream_tx_calls),
        ("tun read calls", |worker| &worker.tun_rx_calls),
        ("tun write calls", |worker| &worker.tun_tx_calls),
        ("batches", |worker| &worker.batches),
        ("fallbacks", |worker| &worker.fallbacks),
    ];
    for (name, counter) in counters {
        log::notice!("{name},{}", workers.sum(counter));
    }
    for reason in DropReason::ALL {
        log::notice!("drop {},{}", reason.name(), workers.drops(reason));
    }
}

/// The status file of a client or a point-to-point peer.
#[derive(Debug)]
pub(super) struct StatusFile(OutputFile);

impl StatusFile {
    /// Opens the file, keeping what is in it until the first write.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        OutputFile::open(path, false).map(StatusFile)
    }

    /// Writes the statistics.
    pub(super) fn write(&mut self, totals: &Totals) -> io::Result<()> {
        let mut text = format!("OpenVPN STATISTICS\nUpdated,{}\n", log::timestamp());
        for (name, value) in totals.rows() {
            text.push_str(&format!("{name},{value}\n"));
        }
        text.push_str("END\n");
        self.0.write(&text)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn totals_survive_a_restart() {
        let mut totals = Totals::default();
        let peer = Arc::new(PeerStats::default());
        peer.tun_rx_bytes.store(5, Relaxed);
        totals.attach(peer.clone(), GroupStats::default());
        totals.detach();
        totals.attach(peer, GroupStats::default());
        assert_eq!(totals.rows()[0], ("TUN/TAP read bytes", 10));
        totals.add_control_write(7);
        assert_eq!(totals.rows()[3], ("TCP/UDP write bytes", 7));
    }

    #[test]
    fn the_status_file_has_openvpns_lines() {
        let path = std::env::temp_dir().join(format!("ringway-status-{}", std::process::id()));
        let mut status = StatusFile::open(&path).unwrap();
        status.write(&Totals::default()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let names: Vec<&str> = text.lines().map(|l| l.split(',').next().unwrap()).collect();
        assert_eq!(
            names,
            [
                "OpenVPN STATISTICS",
                "Updated",
                "TUN/TAP read bytes",
                "TUN/TAP write bytes",
                "TCP/UDP read bytes",
                "TCP/UDP write bytes",
                "Auth read bytes",
                "END",
            ]
        );
    }
}
