//! What a person sees: a bar with the current rate while a test runs, a summary at its end.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::drive::Progress;
use super::meter::Sample;
use super::outcome::{Flow, Found, Outcome};
use super::protocol::{Load, Request};
use super::rate;

/// Shows a running test on standard error.
#[derive(Debug)]
pub struct Display {
    form: Form,
    load: Load,
    begun: Instant,
    seconds: f64,
    latest: [Option<Sample>; 2],
}

#[derive(Debug)]
enum Form {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

impl Display {
    /// A display for one test: a bar on a terminal, plain lines elsewhere, nothing when `quiet`.
    #[must_use]
    pub fn new(request: &Request, quiet: bool) -> Self {
        let form = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Form::Nothing,
            (false, false) => Form::Lines,
            (false, true) => Form::Bar(bar(request.seconds)),
        };
        Self {
            form,
            load: request.load,
            begun: Instant::now(),
            seconds: request.seconds,
            latest: [None, None],
        }
    }

    /// Takes a sample.
    pub fn show(&mut self, progress: &Progress) {
        self.latest[usize::from(progress.up)] = Some(progress.sample);
        match &self.form {
            Form::Bar(bar) => {
                bar.set_position((self.begun.elapsed().as_secs_f64() * 1000.0) as u64);
                bar.set_message(self.message());
            }
            Form::Lines => eprintln!(
                "{:6.1} of {:.1} s  {}",
                progress.sample.at,
                self.seconds,
                half(self.load, progress.up, &progress.sample)
            ),
            Form::Nothing => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Form::Bar(bar) = &self.form {
            bar.finish_and_clear();
        }
    }

    fn message(&self) -> String {
        let halves = [true, false].map(|up| {
            let sample = self.latest[usize::from(up)]?;
            Some(half(self.load, up, &sample))
        });
        halves.into_iter().flatten().collect::<Vec<_>>().join("   ")
    }
}

fn bar(seconds: f64) -> ProgressBar {
    let bar = ProgressBar::new((seconds * 1000.0) as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {eta:>4} left  {msg}") {
        bar.set_style(style);
    }
    // Moves on between two samples too, and where there are none.
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn half(load: Load, up: bool, sample: &Sample) -> String {
    let direction = if up { "up" } else { "down" };
    let mut text = format!("{direction} {}", rate::bits(sample.bits_per_second()));
    if load == Load::Udp {
        let packets = sample.packets as f64 / sample.seconds.max(1e-6);
        let missing = sample.missing.max(0) as f64;
        let share = missing / (missing + sample.packets as f64).max(1.0);
        text += &format!(" ({}, {:.2} % lost)", rate::count(packets), share * 100.0);
    }
    text
}

/// The summary of a test, several lines.
#[must_use]
pub fn summary(outcome: &Outcome) -> String {
    let request = &outcome.request;
    let mut text = match request.load {
        Load::Idle => format!("no load, {} s, sink {}\n", request.seconds, outcome.sink),
        load => format!(
            "{} stream{} of {}, {} bytes {}, {} s, sink {}\n",
            request.streams,
            if request.streams == 1 { "" } else { "s" },
            format!("{load:?}").to_uppercase(),
            request.size,
            if load == Load::Udp {
                "each"
            } else {
                "per write"
            },
            request.seconds,
            outcome.sink
        ),
    };
    for (name, flow) in [("up  ", &outcome.up), ("down", &outcome.down)] {
        if let Some(flow) = flow {
            text += &format!("{name}  {}\n", flow_line(request.load, flow));
        }
    }
    if let Some(latency) = &outcome.latency {
        text += &format!("round trips  {}\n", latency.line());
    }
    text
}

fn flow_line(load: Load, flow: &Flow) -> String {
    let mut text = rate::bits(flow.bits_per_second);
    let (low, high) = flow
        .samples
        .iter()
        .map(Sample::bits_per_second)
        .fold((f64::INFINITY, 0.0f64), |(low, high), rate| {
            (low.min(rate), high.max(rate))
        });
    if flow.samples.len() > 1 {
        text += &format!(" ({} to {})", rate::bits(low), rate::bits(high));
    }
    text += &format!(
        ", {} bytes in {:.2} s",
        flow.received.bytes, flow.received.seconds
    );
    if load == Load::Udp {
        text += &format!(
            "\n      {} of {} datagrams, {}; {} lost ({:.3} %), {} reordered, {} twice",
            flow.received.packets,
            flow.sent.packets,
            rate::count(flow.packets_per_second),
            flow.lost,
            flow.loss * 100.0,
            flow.received.reordered,
            flow.received.duplicates
        );
    }
    text
}

/// The summary of a search, several lines.
#[must_use]
pub fn found(found: &Found) -> String {
    let mut text = String::new();
    match &found.best {
        Some(best) => {
            text += &format!(
                "highest rate with at most {} % lost: {}, {}\n\n",
                found.allowed_loss * 100.0,
                rate::bits(found.bits_per_second),
                rate::count(found.packets_per_second)
            );
            text += &summary(best);
        }
        None => text += "every rate lost datagrams\n",
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::protocol::{Received, Sent};

    #[test]
    fn a_summary_names_rate_and_loss() {
        let sent = Sent {
            bytes: 12_000,
            packets: 10,
        };
        let received = Received {
            bytes: 10_800,
            packets: 9,
            seconds: 1.0,
            ..Received::default()
        };
        let outcome = Outcome {
            sink: "192.0.2.1:5210".into(),
            request: Request {
                load: Load::Udp,
                streams: 1,
                size: 1200,
                per_second: None,
                single: false,
                seconds: 1.0,
                up: true,
                down: false,
                probes: false,
                interval: 1.0,
            },
            up: Some(Flow::new(Load::Udp, sent, received, Vec::new())),
            down: None,
            latency: None,
        };
        let text = summary(&outcome);
        for part in [
            "1 stream of UDP",
            "86.40 kbit/s",
            "9 of 10",
            "1 lost (10.000 %)",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
