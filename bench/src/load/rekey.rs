//! What a rekey costs a link under full load.
//!
//! One TCP stream fills the link while its keys change every few seconds; the sink counts what
//! arrives in every 100 ms. The logs of both ends are watched for the moments of each rekey, by the
//! same clock (both namespaces are on one machine).
//!
//! ```text
//!   rate  ----.__.----------------.__.---------------------   one slice = 100 ms
//!             |  |                |  |
//!             window of handshake  window of the new key's first use
//!                      |__|  |__|        quiet windows, just as long, everywhere else
//! ```
//!
//! A dip is how far the worst slice of a window stays below the median of the quiet slices around
//! it. On a busy machine the worst of a few slices is always below the median, rekey or not: so the
//! same is done with every window in which no key changes, and only both together say something.
//!
//! A second run sends numbered datagrams at a rate the link carries easily, because a full queue
//! loses datagrams by itself: there, none may be missing.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ringway_lab::link::Link;
use ringway_lab::measure::Series;
use serde::{Deserialize, Serialize};

use super::flow::unix_now;
use super::lab::Sink;
use super::outcome::{Flow, Outcome};

/// Length of a slice, in seconds.
pub const SLICE: f64 = 0.1;
/// Left out at the start, in seconds: TCP looks for its rate.
const WARM_UP: f64 = 1.5;
/// Quiet slices this near to a window are its yardstick, in seconds.
const NEIGHBOURHOOD: f64 = 2.0;
/// Both programs use a new key this long after its negotiation began, or after half of `reneg-sec`
/// if that is sooner, in seconds (`hand-window`).
const HAND_WINDOW: f64 = 60.0;
/// Datagrams per second and their size in the second run.
const DATAGRAMS: &str = "--udp --rate 5kpps --size 1200";

/// What a rekey costs. Rates are payload bits per second, dips are shares (0.05 = 5 %), moments are
/// seconds since 1970.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RekeyDip {
    /// What arrived in each slice, without the first seconds.
    pub series: Vec<Slice>,
    /// The rekeys during the series.
    pub rekeys: Vec<Rekey>,
    /// Median rate of the slices in which no key changed.
    pub typical: f64,
    /// The dip of each window in which a key was negotiated or came into use.
    pub dips: Vec<f64>,
    /// The dips of windows in which nothing happened: the machine's own noise.
    pub quiet_dips: Vec<f64>,
    /// Median of `dips`.
    pub median_dip: f64,
    /// Largest of `dips`.
    pub worst_dip: f64,
    /// Median of `quiet_dips`.
    pub quiet_median_dip: f64,
    /// Largest of `quiet_dips`.
    pub quiet_worst_dip: f64,
    /// Datagrams sent in the second run.
    pub datagrams: u64,
    /// How many of them were lost.
    pub lost: u64,
    /// Rekeys during the second run.
    pub datagram_rekeys: usize,
}

impl RekeyDip {
    /// By how much the median dip of a rekey exceeds that of a quiet window; not below 0.
    #[must_use]
    pub fn excess(&self) -> f64 {
        (self.median_dip - self.quiet_median_dip).max(0.0)
    }
}

/// One slice.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Its start.
    pub from: f64,
    /// Its end.
    pub to: f64,
    /// What arrived in it.
    pub bits_per_second: f64,
}

/// One rekey, as the logs of the two ends show it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rekey {
    /// When an end said that it begins.
    pub begun: f64,
    /// When both had said that it is done.
    pub done: f64,
}

/// Measures a running link, `seconds` under TCP load and half of that with datagrams. Both ends
/// were started with `reneg-sec` of `reneg_seconds`.
///
/// # Errors
/// When the link breaks, or when no key changes in that time.
pub fn rekey_dip(link: &Link, reneg_seconds: f64, seconds: f64) -> Result<RekeyDip> {
    let sink = Sink::start(link.server_namespace(), link.server_addresses()[0])?;
    let words = format!("--tcp --interval {SLICE} --seconds {seconds}");
    let (flow, rekeys) = watched(link, &sink, &words, seconds)?;
    ensure!(!rekeys.is_empty(), "no key changed in {seconds} s");
    let words = format!("{DATAGRAMS} --seconds {}", seconds / 2.0);
    let (datagrams, datagram_rekeys) = watched(link, &sink, &words, seconds)?;
    let mut dip = analyse(&slices(&flow), rekeys, reneg_seconds);
    dip.datagrams = datagrams.sent.packets;
    dip.lost = datagrams.lost;
    dip.datagram_rekeys = datagram_rekeys.len();
    Ok(dip)
}

/// Runs a source and watches the logs meanwhile.
fn watched(link: &Link, sink: &Sink, words: &str, seconds: f64) -> Result<(Flow, Vec<Rekey>)> {
    let mut watch = Watch::new(Said::by(link));
    let source = sink.source(link.client_namespace(), words)?;
    let patience = Duration::from_secs_f64(seconds + 60.0);
    let outcome: Outcome = source.finish(patience, || watch.look(Said::by(link), unix_now()))?;
    Ok((outcome.up.context("the source sent nothing")?, watch.rekeys))
}

/// How often the ends have said what, since their start.
#[derive(Clone, Copy, Debug)]
struct Said {
    /// That a rekey begins, either end.
    begun: usize,
    /// That one is done, the end that has said it less often.
    done: usize,
}

impl Said {
    fn by(link: &Link) -> Self {
        let count = |log: &str, words: [&str; 2]| {
            log.lines()
                .filter(|line| words.iter().any(|word| line.contains(word)))
                .count()
        };
        let logs = [link.client.log(), link.server.log()];
        // OpenVPN only names the cipher again when a rekey is done.
        let done = ["TLS: renegotiated", "Control Channel: TLS"];
        let begun = ["soft reset", "soft reset"];
        Self {
            begun: logs.iter().map(|log| count(log, begun)).sum(),
            done: logs.iter().map(|log| count(log, done)).min().unwrap_or(0),
        }
    }
}

/// Turns growing counts into moments.
#[derive(Debug)]
struct Watch {
    before: Said,
    begun: Option<f64>,
    rekeys: Vec<Rekey>,
}

impl Watch {
    fn new(before: Said) -> Self {
        Self {
            before,
            begun: None,
            rekeys: Vec::new(),
        }
    }

    fn look(&mut self, said: Said, now: f64) {
        if said.begun > self.before.begun {
            self.begun.get_or_insert(now);
        }
        if said.done > self.before.done {
            let begun = self.begun.take().unwrap_or(now);
            self.rekeys.push(Rekey { begun, done: now });
        }
        self.before = said;
    }
}

fn slices(flow: &Flow) -> Vec<Slice> {
    flow.samples
        .iter()
        .filter(|sample| sample.at > WARM_UP && sample.at <= flow.received.seconds)
        .map(|sample| Slice {
            from: sample.unix - sample.seconds,
            to: sample.unix,
            bits_per_second: sample.bits_per_second(),
        })
        .collect()
}

/// Compares the slices in which keys changed with the others.
fn analyse(series: &[Slice], rekeys: Vec<Rekey>, reneg_seconds: f64) -> RekeyDip {
    // Each moment with a slice's length on both sides: a log line may be late.
    let windows: Vec<(f64, f64)> = rekeys
        .iter()
        .flat_map(|rekey| {
            let used = rekey.begun + (reneg_seconds / 2.0).min(HAND_WINDOW);
            [(rekey.begun, rekey.done), (used, used)]
        })
        .map(|(from, to)| (from - SLICE, to + SLICE))
        .collect();
    let within = |slice: &Slice, &(from, to): &(f64, f64)| slice.to > from && slice.from < to;
    let is_quiet = |slice: &&Slice| !windows.iter().any(|window| within(slice, window));
    let quiet: Vec<&Slice> = series.iter().filter(is_quiet).collect();

    let dips: Vec<f64> = windows
        .iter()
        .filter_map(|window| {
            let inside: Vec<&Slice> = series.iter().filter(|s| within(s, window)).collect();
            dip(&inside, &quiet)
        })
        .collect();
    // As many slices as the typical window has, without a gap between them.
    let mut sizes: Vec<usize> = windows
        .iter()
        .map(|window| series.iter().filter(|s| within(s, window)).count())
        .filter(|&size| size > 0)
        .collect();
    sizes.sort_unstable();
    let size = sizes.get(sizes.len() / 2).copied().unwrap_or(3);
    let quiet_dips: Vec<f64> = quiet
        .chunks_exact(size)
        .filter(|chunk| chunk[size - 1].to - chunk[0].from < SLICE * (size as f64 + 1.0))
        .filter_map(|chunk| dip(chunk, &quiet))
        .collect();

    let rates: Vec<f64> = quiet.iter().map(|slice| slice.bits_per_second).collect();
    let largest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    RekeyDip {
        series: series.to_vec(),
        typical: median(&rates),
        median_dip: median(&dips),
        worst_dip: largest(&dips),
        quiet_median_dip: median(&quiet_dips),
        quiet_worst_dip: largest(&quiet_dips),
        rekeys,
        dips,
        quiet_dips,
        datagrams: 0,
        lost: 0,
        datagram_rekeys: 0,
    }
}

/// How far the worst of some slices stays below the median of the quiet ones around them; `None`
/// without slices or neighbours.
fn dip(inside: &[&Slice], quiet: &[&Slice]) -> Option<f64> {
    let (first, last) = (inside.first()?, inside.last()?);
    let around: Vec<f64> = quiet
        .iter()
        .filter(|s| s.to > first.from - NEIGHBOURHOOD && s.from < last.to + NEIGHBOURHOOD)
        .map(|s| s.bits_per_second)
        .collect();
    let typical = median(&around);
    let worst = inside
        .iter()
        .map(|slice| slice.bits_per_second)
        .fold(f64::INFINITY, f64::min);
    (typical > 0.0).then(|| (1.0 - worst / typical).max(0.0))
}

/// The median; 0 of nothing.
fn median(values: &[f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let mut series = Series::default();
    values.iter().for_each(|&value| series.push(value));
    series.median()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten seconds of a hundred, with every fourth slice of the noise at 98.
    fn series(change: impl Fn(usize) -> Option<f64>) -> Vec<Slice> {
        (0..100)
            .map(|i| Slice {
                from: i as f64 * SLICE,
                to: (i + 1) as f64 * SLICE,
                bits_per_second: change(i).unwrap_or(if i % 4 == 0 { 98.0 } else { 100.0 }),
            })
            .collect()
    }

    const REKEYS: [Rekey; 2] = [
        Rekey {
            begun: 3.05,
            done: 3.15,
        },
        Rekey {
            begun: 7.05,
            done: 7.15,
        },
    ];

    #[test]
    fn a_link_that_does_not_care_shows_only_its_noise() {
        let dip = analyse(&series(|_| None), REKEYS.to_vec(), 4.0);
        assert_eq!((dip.typical, dip.dips.len()), (100.0, 4));
        assert!(
            dip.worst_dip <= 0.021 && dip.quiet_worst_dip <= 0.021,
            "{dip:?}"
        );
        assert!(dip.quiet_dips.len() > 10 && dip.excess() <= 0.021);
    }

    #[test]
    fn a_dip_at_the_handshake_or_at_the_new_keys_first_use_is_seen() {
        // Slice 30 covers 3.0 to 3.1; the new key is used at 5.05.
        for at in [30, 50] {
            let dip = analyse(&series(|i| (i == at).then_some(60.0)), REKEYS.to_vec(), 4.0);
            assert!(
                (dip.worst_dip - 0.4).abs() < 1e-9,
                "{at}: {}",
                dip.worst_dip
            );
            assert!(dip.quiet_worst_dip <= 0.021);
        }
    }

    #[test]
    fn a_dip_elsewhere_is_noise() {
        let dip = analyse(&series(|i| (i == 41).then_some(50.0)), REKEYS.to_vec(), 4.0);
        assert!(dip.worst_dip <= 0.021 && (dip.quiet_worst_dip - 0.5).abs() < 1e-9);
    }

    #[test]
    fn nothing_measured_is_no_dip() {
        let dip = analyse(&[], REKEYS.to_vec(), 4.0);
        assert_eq!((dip.dips.len(), dip.worst_dip, dip.typical), (0, 0.0, 0.0));
    }

    #[test]
    fn counts_become_moments() {
        let mut watch = Watch::new(Said { begun: 1, done: 2 });
        for (begun, done, now) in [
            (1, 2, 1.0),
            (2, 2, 2.0),
            (3, 2, 2.1),
            (3, 3, 2.2),
            (3, 4, 5.0),
        ] {
            watch.look(Said { begun, done }, now);
        }
        let want = [
            Rekey {
                begun: 2.0,
                done: 2.2,
            },
            Rekey {
                begun: 5.0,
                done: 5.0,
            },
        ];
        assert_eq!(watch.rekeys, want);
    }
}
