//! `ringway doctor`: what it says is well formed, what it changes can be taken back.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ringway_lab::command::{self, Finished};
use ringway_lab::netns::{Lab, Namespace, OUTSIDE};
use ringway_lab::peer::Peer;
use ringway_lab::ready;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);
const SEGMENTATION: &str = "tx-udp-segmentation";

#[test]
fn the_report_for_programs_is_json() -> Result<()> {
    // Needs no lab: looking works without root too.
    let mut command = Command::new(Peer::Ringway.binary()?);
    let finished = command::finish(command.args(["doctor", "--json"]), SOON)?;
    let report: Value = serde_json::from_str(&finished.stdout).context(finished.stdout)?;
    let findings = report["findings"].as_array().context("no findings")?;
    for finding in findings {
        for key in ["id", "area", "severity", "seen"] {
            ensure!(finding[key].is_string(), "{key}: {finding}");
        }
    }
    let good = report["problems"] == 0 && report["worth"] == 0;
    ensure!(report["ok"] == good, "{report}");
    ensure!(finished.status.code() == Some(i32::from(!good)));
    ensure!(report["plan"]["workers"].as_u64().is_some_and(|n| n > 0));
    Ok(())
}

#[test]
fn changes_are_made_and_taken_back() -> Result<()> {
    if !ready("changes_are_made_and_taken_back") {
        return Ok(());
    }
    let mut lab = Lab::new()?;
    let path = lab.direct()?;
    let namespace = &path.client;
    let undo = lab.folder().join("undo.sh");
    namespace.set_offload(OUTSIDE, SEGMENTATION, false)?;
    namespace.ip("tuntap add dev tun7 mode tun")?;
    namespace.ip("link set dev tun7 txqueuelen 77")?;

    let look = doctor(namespace, &undo, &["--json"])?;
    ensure!(look.status.code() == Some(1), "{look:?}");
    ensure!(
        !is_on(namespace)? && queue(namespace)? == "77",
        "looking changed something"
    );

    let applied = doctor(namespace, &undo, &["--json", "--apply"])?;
    ensure!(applied.status.code() == Some(0), "{applied:?}");
    ensure!(
        is_on(namespace)? && queue(namespace)? != "77",
        "{applied:?}"
    );
    let report: Value = serde_json::from_str(&applied.stdout)?;
    let changes = report["applied"]["changes"]
        .as_array()
        .context("no changes")?;
    ensure!(changes.len() == 2, "{report}");
    ensure!(
        changes.iter().all(|change| change["error"].is_null()),
        "{report}"
    );

    let again = doctor(namespace, &undo, &["--apply"])?;
    ensure!(again.stdout.contains("nothing to change"), "{again:?}");

    namespace.run("sh", &[&undo.display().to_string()])?;
    ensure!(
        !is_on(namespace)? && queue(namespace)? == "77",
        "not taken back"
    );
    ensure!(!undo.exists(), "the script is still there");
    Ok(())
}

#[test]
fn one_line_when_it_cannot_look() -> Result<()> {
    let program = Peer::Ringway.binary()?;
    for args in [
        &["doctor", "--interface", "no-such-link"][..],
        &["doctor", "--config", "/nonexistent.conf"],
        &["doctor", "--weather"],
    ] {
        let finished = command::finish(Command::new(&program).args(args), SOON)?;
        ensure!(finished.status.code() == Some(2), "{args:?}: {finished:?}");
        ensure!(
            finished.stderr.lines().count() == 1,
            "{args:?}: {finished:?}"
        );
    }
    Ok(())
}

/// Only findings that belong to the namespace: the others are the machine's.
fn doctor(namespace: &Namespace, undo: &Path, args: &[&str]) -> Result<Finished> {
    let mut command = namespace.command(Peer::Ringway.binary()?);
    command
        .args(["doctor", "--interface", OUTSIDE, "--dev", "tun7"])
        .args(["--only", "udp-segmentation,device-queue"])
        .args(args);
    if args.contains(&"--apply") {
        command.arg("--undo").arg(undo);
    }
    command::finish(&mut command, SOON)
}

fn is_on(namespace: &Namespace) -> Result<bool> {
    let features = namespace.run("ethtool", &["-k", OUTSIDE])?;
    Ok(features.contains(&format!("{SEGMENTATION}: on")))
}

fn queue(namespace: &Namespace) -> Result<String> {
    let shown = namespace.ip("-o link show dev tun7")?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "qlen");
    // With -o a backslash stands for the end of a line.
    let length = words.nth(1).context("no qlen")?;
    Ok(length.trim_end_matches('\\').to_owned())
}
