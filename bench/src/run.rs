//! The rounds: every program gets its turn in every setting, in an order that rotates from round
//! to round, each time with fresh processes on a fresh path. A busy minute of the machine hits
//! them all.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ringway_dataplane::key_slot::Digest;

use crate::machine::Machine;
use crate::measure::Measure;
use crate::probe::{Probe, Values};
use crate::program::{External, Kind, Program, RINGWAY};
use crate::results::{Participant, Results};
use crate::server::Scale;
use crate::suite::{self, Setting};
use crate::tunnel::Tunnel;
use crate::{cbc_cost, report, table};

/// What is measured and where the results go.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Rounds; each gives one value per program and measure.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Length of one measurement, in seconds.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Peers of a full server; 2000 for `server`, 500 for the short form in `all`.
    #[arg(long, value_parser = clap::value_parser!(u32).range(100..=7000))]
    peers: Option<u32>,
    /// Only settings whose key or title holds one of these words.
    #[arg(long, value_delimiter = ',', value_name = "WORD,...")]
    rows: Vec<String>,
    /// Another VPN to take part: a user-space WireGuard, e.g. wireguard-go=/usr/bin/wireguard-go,
    /// or nebula=FILE with nebula-cert beside it. Words after the file are handed on. May be given
    /// several times.
    #[arg(long, value_name = "NAME=FILE")]
    peer: Vec<External>,
    /// Only Ringway and these programs, e.g. openvpn.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    against: Vec<String>,
    /// Folder for RESULTS.md, results.json and report.html.
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

/// One turn: a program in a setting in a round.
#[derive(Debug)]
struct Turn {
    round: u32,
    setting: &'static Setting,
    program: Program,
}

/// Peers of a server where none were asked for.
const SHORT_PEERS: u32 = 500;

/// Starting two ends, and ending them.
const START_SECONDS: f64 = 1.5;

/// Measures every setting that `chosen` takes and prints the tables; writes files when a folder is
/// given, here or in the options.
///
/// # Errors
/// When nothing is left to measure or a file cannot be written. A program that does not work is
/// noted in the results instead.
pub(crate) fn run(
    options: &Options,
    output: Option<&Path>,
    chosen: impl Fn(&Setting) -> bool,
) -> Result<()> {
    let output = options.output.as_deref().or(output);
    let others: Vec<Program> = options.peer.iter().map(External::program).collect();
    let settings: Vec<&Setting> = suite::SETTINGS
        .iter()
        .filter(|setting| chosen(setting) && options.takes(setting))
        .collect();
    let turns = plan(&settings, &others, options);
    ensure!(
        !turns.is_empty(),
        "nothing is left to measure; known rows: {}",
        keys().join(", ")
    );
    let mut results = Results {
        machine: Machine::here(),
        command: command(),
        rounds: options.rounds,
        seconds: options.seconds,
        programs: participants(&turns, &others)?,
        ..Results::default()
    };
    let whole: f64 = turns.iter().map(|turn| turn.estimate(options)).sum();
    println!(
        "{} turns of {} programs in {} settings, {} rounds: about {}",
        turns.len(),
        results.programs.len(),
        settings.len(),
        options.rounds,
        duration(whole)
    );
    let (begin, mut done) = (Instant::now(), 0.0);
    for (number, turn) in turns.iter().enumerate() {
        print!(
            "[{:3}/{}] round {}, {}, {}: ",
            number + 1,
            turns.len(),
            turn.round + 1,
            turn.setting.key,
            turn.program.title
        );
        std::io::stdout().flush()?;
        let said = match turn.take(options.scale()) {
            Ok(values) => turn.file(&values, &mut results),
            Err(error) => {
                let error = format!("{error:#}");
                let (key, program) = (turn.setting.key, &turn.program.key);
                results.fail(key, program, &error);
                let reason = results.failure(key, program).unwrap_or_default();
                format!("failed: {reason}")
            }
        };
        done += turn.estimate(options);
        // What is left, at the pace so far.
        let left = (whole - done) * begin.elapsed().as_secs_f64() / done;
        println!("{said}; {} left", duration(left));
        if let Some(folder) = output {
            // After every turn, so that an interrupted run is not lost.
            results.made = now();
            write(folder, "results.json", &results.json()?)?;
        }
    }
    results.made = now();
    println!("\n{}", table::summary(&results));
    match output {
        Some(folder) => write_all(folder, &results),
        None => Ok(()),
    }
}

/// Draws table and page again from `results.json` in `folder`.
///
/// # Errors
/// When there is none or the files cannot be written.
pub(crate) fn again(folder: &Path) -> Result<()> {
    let results = Results::read(&folder.join("results.json"))?;
    println!("{}", table::summary(&results));
    write_all(folder, &results)
}

fn write_all(folder: &Path, results: &Results) -> Result<()> {
    write(folder, "results.json", &results.json()?)?;
    write(folder, "RESULTS.md", &table::page(results))?;
    write(folder, "report.html", &report::page(results))?;
    println!(
        "wrote RESULTS.md, results.json and report.html in {}",
        folder.display()
    );
    Ok(())
}

impl Options {
    /// The same, with this many peers of a server unless another number was given.
    pub(crate) fn with_peers(mut self, peers: u32) -> Self {
        self.peers.get_or_insert(peers);
        self
    }

    fn scale(&self) -> Scale {
        Scale {
            peers: self.peers.unwrap_or(SHORT_PEERS),
            seconds: self.seconds,
        }
    }

    fn takes(&self, setting: &Setting) -> bool {
        self.rows.is_empty()
            || self.rows.iter().any(|word| {
                let word = word.to_lowercase();
                setting.key.contains(&word) || setting.title.to_lowercase().contains(&word)
            })
    }
}

/// All turns, round by round.
fn plan(settings: &[&'static Setting], others: &[Program], options: &Options) -> Vec<Turn> {
    let mut turns = Vec::new();
    for round in 0..options.rounds {
        for &setting in settings {
            if round >= setting.rounds {
                continue;
            }
            let mut programs: Vec<Program> = setting
                .entrants
                .iter()
                .flat_map(|entrant| entrant.programs(others))
                .filter(|program| {
                    options.against.is_empty()
                        || program.key.starts_with(RINGWAY)
                        || options.against.contains(&program.key)
                })
                .collect();
            if !programs.is_empty() {
                let first = round as usize % programs.len();
                programs.rotate_left(first);
            }
            turns.extend(programs.into_iter().map(|program| Turn {
                round,
                setting,
                program,
            }));
        }
    }
    turns
}

impl Turn {
    fn estimate(&self, options: &Options) -> f64 {
        let probes: f64 = self
            .setting
            .probes
            .iter()
            .map(|probe| probe.estimate(options.scale()))
            .sum();
        START_SECONDS + probes
    }

    fn take(&self, scale: Scale) -> Result<Values> {
        let mut values = Values::new();
        let mut tunnel = None;
        for &probe in self.setting.probes {
            if let Probe::Server(row) = probe {
                values.extend(row.run(&self.program, scale)?);
                continue;
            }
            let digest = match probe {
                Probe::CbcSha256 => Some(Digest::Sha256),
                Probe::CbcSha1 => Some(Digest::Sha1),
                Probe::Tcp(_)
                | Probe::Small
                | Probe::Bulk
                | Probe::Latency
                | Probe::Rekey
                | Probe::Memory
                | Probe::Server(_) => None,
            };
            if let Some(digest) = digest {
                let cost = match self.program.kind {
                    Kind::Library => cbc_cost::library(digest)?,
                    Kind::OpenVpn(..) | Kind::WireGuard(_) | Kind::Nebula(_) | Kind::Veth => {
                        cbc_cost::ringway(digest)?
                    }
                };
                values.extend([
                    (Measure::SealTime, cost.seal),
                    (Measure::OpenTime, cost.open),
                ]);
                continue;
            }
            let running = match &tunnel {
                Some(running) => running,
                None => tunnel.insert(Tunnel::start(&self.program, &self.setting.condition)?),
            };
            let outcome = probe.run(running, scale.seconds);
            values.extend(running.explain(outcome)?);
        }
        Ok(values)
    }

    /// Files the values and says what they are.
    fn file(&self, values: &Values, results: &mut Results) -> String {
        let mut said = Vec::new();
        for &(measure, value) in values {
            results.push(self.setting.key, &self.program.key, measure, value);
            said.push(format!("{} {}", measure.show(value), measure.unit()));
        }
        said.join(", ")
    }
}

fn participants(turns: &[Turn], others: &[Program]) -> Result<Vec<Participant>> {
    let mut list: Vec<Participant> = Vec::new();
    for turn in turns {
        let program = &turn.program;
        if list.iter().any(|known| known.key == program.key) {
            continue;
        }
        list.push(Participant {
            key: program.key.clone(),
            title: program.title.clone(),
            version: program
                .version()
                .with_context(|| format!("asking {} for its version", program.title))?,
            other: others.contains(program),
        });
    }
    Ok(list)
}

fn keys() -> Vec<&'static str> {
    suite::SETTINGS.iter().map(|setting| setting.key).collect()
}

/// The command line as somebody else would type it.
fn command() -> String {
    let words: Vec<String> = std::env::args().skip(1).map(|word| public(&word)).collect();
    format!(
        "cargo run --release -p ringway-bench -- {}",
        words.join(" ")
    )
}

/// A word of the command line without the paths of this machine, quoted where a shell asks for it.
fn public(word: &str) -> String {
    let parts: Vec<String> = word
        .split(' ')
        .map(|part| match part.split_once('=') {
            Some((name, value)) if value.contains('/') => format!("{name}=FILE"),
            _ if part.starts_with('/') => "FOLDER".to_owned(),
            _ => part.to_owned(),
        })
        .collect();
    let plain = parts.join(" ");
    match parts.len() {
        1 => plain,
        _ => format!("'{plain}'"),
    }
}

/// Date and time, UTC, to the minute.
fn now() -> String {
    let now = time::OffsetDateTime::now_utc();
    format!("{} {:02}:{:02} UTC", now.date(), now.hour(), now.minute())
}

/// A time for people waiting.
fn duration(seconds: f64) -> String {
    let whole = Duration::from_secs_f64(seconds.max(0.0)).as_secs();
    match whole {
        0..=99 => format!("{whole} s"),
        _ => format!("{} min", whole.div_ceil(60)),
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Options {
        Options {
            rounds: 3,
            seconds: 2,
            peers: None,
            rows: words.iter().map(|&word| word.to_owned()).collect(),
            peer: Vec::new(),
            against: Vec::new(),
            output: None,
        }
    }

    #[test]
    fn the_order_rotates_and_costly_settings_take_fewer_rounds() {
        let options = options(&[]);
        let settings: Vec<&Setting> = ["gcm", "memory"]
            .into_iter()
            .filter_map(suite::setting)
            .collect();
        let turns = plan(&settings, &[], &options);
        let order = |key: &str, round| -> Vec<&str> {
            turns
                .iter()
                .filter(|turn| turn.setting.key == key && turn.round == round)
                .map(|turn| turn.program.key.as_str())
                .collect()
        };
        assert_eq!(order("gcm", 0)[0], RINGWAY);
        assert_eq!(order("gcm", 1)[0], "openvpn");
        assert_eq!(order("gcm", 0).len(), order("gcm", 2).len());
        assert_eq!(order("memory", 1).len(), 0);
    }

    #[test]
    fn rivals_can_be_chosen() {
        let mut options = options(&[]);
        options.against = vec!["openvpn".to_owned()];
        let settings: Vec<&Setting> = suite::setting("gcm").into_iter().collect();
        let turns = plan(&settings, &[Program::library()], &options);
        assert!(turns.iter().all(|turn| turn.program.key != "veth"));
        assert!(turns.iter().any(|turn| turn.program.key == "openvpn"));
    }

    #[test]
    fn the_command_names_no_path() {
        let word = public("boringtun=/opt/x/boringtun-cli -t 1");
        assert_eq!(word, "'boringtun=FILE -t 1'");
        assert_eq!(
            (public("--rounds"), public("/tmp/x")),
            ("--rounds".into(), "FOLDER".into())
        );
    }

    #[test]
    fn rows_are_found_by_key_and_title() {
        let setting = suite::setting("chacha").unwrap();
        assert!(options(&[]).takes(setting));
        assert!(options(&["POLY1305"]).takes(setting));
        assert!(!options(&["jumbo"]).takes(setting));
        assert_eq!(
            (duration(61.4), duration(600.0)),
            ("61 s".into(), "10 min".into())
        );
    }
}
