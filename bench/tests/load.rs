//! Source and sink as they are started by hand: over loopback, and across a veth pair between two
//! namespaces (needs root, as every lab).

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ringway_bench::load::lab::{Sink, use_program};
use ringway_bench::load::latency::round_trips;
use ringway_bench::load::outcome::{Flow, Outcome};
use ringway_lab::command;
use ringway_lab::link::LinkSpec;
use ringway_lab::netns::{Lab, Namespace};
use ringway_lab::peer::Peer;
use ringway_lab::{full, note, ready};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringway-bench");

#[test]
fn between_namespaces() -> Result<()> {
    if !ready("between_namespaces") {
        return Ok(());
    }
    use_program(PathBuf::from(PROGRAM));
    let mut lab = Lab::new()?;
    let path = lab.direct()?;
    for far in path.server_addresses {
        let sink = settled(&path.client, &path.server, far)?;
        let run = |words: &str| -> Result<Outcome> {
            let source = sink.source(&path.client, words)?;
            let outcome = source.finish(Duration::from_secs(60), || ())?;
            note(&format!("source {far} {words}"));
            Ok(outcome)
        };

        let udp = run("--udp --rate 2kpps --size 300 --streams 3 --seconds 0.6 --interval 0.1")?;
        ensure!(udp.down.is_none(), "{udp:?}");
        whole(udp.up.as_ref(), 300)?;

        let both =
            run("--udp --rate 8M --size 1000 --seconds 0.5 --bidir --latency --interval 0.1")?;
        whole(both.up.as_ref(), 1000)?;
        whole(both.down.as_ref(), 1000)?;
        let latency = both.latency.context("no round trips")?;
        ensure!(
            latency.sent > 10 && latency.lost() == 0,
            "{}",
            latency.line()
        );

        let tcp = run("--tcp --streams 2 --seconds 0.5 --bidir --interval 0.1")?;
        for flow in [tcp.up, tcp.down] {
            let flow = flow.context("a direction is missing")?;
            ensure!(
                flow.sent.bytes > 0 && flow.sent.bytes == flow.received.bytes,
                "{flow:?}"
            );
        }
    }
    let far = path.server_addresses[0];
    let latency = round_trips(&path.client, &path.server, far, 0.5, false)?;
    ensure!(
        latency.sent > 100 && latency.lost() == 0,
        "{}",
        latency.line()
    );
    note(&format!("veth, idle: {}", latency.line()));
    Ok(())
}

/// The rekey meter on a real link. That really nothing is lost is shown by the labs, which can tell
/// a busy machine from a rekey.
#[test]
fn a_rekey_under_load_is_measured() -> Result<()> {
    if !ready("a_rekey_under_load_is_measured") {
        return Ok(());
    }
    use_program(PathBuf::from(PROGRAM));
    let seconds = if full() { 40.0 } else { 12.0 };
    let peer = Peer::subject();
    let mut link = LinkSpec::new(peer, peer).line("reneg-sec 4").start()?;
    link.check(|link| {
        let dip = ringway_bench::load::rekey::rekey_dip(link, 4.0, seconds)?;
        ensure!(!dip.rekeys.is_empty() && !dip.dips.is_empty(), "{dip:?}");
        ensure!(dip.typical > 0.0 && dip.datagrams > 1000, "{dip:?}");
        ensure!(
            dip.lost * 100 <= dip.datagrams,
            "{} of {} datagrams lost",
            dip.lost,
            dip.datagrams
        );
        note(&format!(
            "{} rekeys, typical {:.2} Gbit/s, dip median {:.3} worst {:.3}, quiet median {:.3} \
             worst {:.3}",
            dip.rekeys.len(),
            dip.typical / 1e9,
            dip.median_dip,
            dip.worst_dip,
            dip.quiet_median_dip,
            dip.quiet_worst_dip
        ));
        Ok(())
    })
}

#[test]
fn what_goes_wrong_is_one_line() -> Result<()> {
    let run = |words: &[&str]| -> Result<String> {
        let mut source = Command::new(PROGRAM);
        let finished = command::finish(source.args(words), Duration::from_secs(30))?;
        ensure!(!finished.status.success(), "{words:?} succeeded");
        ensure!(finished.stdout.is_empty(), "{words:?}: {}", finished.stdout);
        Ok(finished.stderr)
    };
    // Nothing listens on port 1 of loopback.
    let refused = run(&["source", "127.0.0.1:1"])?;
    ensure!(
        refused.contains("127.0.0.1:1") && refused.lines().count() == 1,
        "{refused}"
    );
    let small = run(&["source", "127.0.0.1:1", "--udp", "--size", "3"])?;
    ensure!(
        small.contains("size") && small.lines().count() == 1,
        "{small}"
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let busy = run(&["sink", "--bind", "127.0.0.1", "--port", &port])?;
    ensure!(
        busy.contains("cannot listen") && busy.lines().count() == 1,
        "{busy}"
    );
    Ok(())
}

#[test]
fn a_person_reads_a_summary() -> Result<()> {
    use std::io::{BufRead as _, BufReader};
    let mut sink = Command::new(PROGRAM)
        .args(["sink", "--bind", "127.0.0.1", "--port", "0"])
        .stdout(Stdio::piped())
        .spawn()?;
    let outcome = (|| -> Result<()> {
        let mut first = String::new();
        BufReader::new(sink.stdout.take().context("no output")?).read_line(&mut first)?;
        let address = first
            .trim()
            .strip_prefix("listening on ")
            .context("not listening")?;
        let mut source = Command::new(PROGRAM);
        source.args([
            "source",
            address,
            "--tcp",
            "--seconds",
            "0.3",
            "--interval",
            "0.1",
        ]);
        let finished = command::finish(&mut source, Duration::from_secs(30))?;
        ensure!(finished.status.success(), "{}", finished.stderr);
        ensure!(
            finished.stdout.contains("1 stream of TCP"),
            "{}",
            finished.stdout
        );
        ensure!(finished.stdout.contains("bit/s"), "{}", finished.stdout);
        ensure!(finished.stderr.contains("of 0.3 s"), "{}", finished.stderr);
        Ok(())
    })();
    sink.kill()?;
    sink.wait()?;
    outcome
}

/// A sink that can be reached: a new IPv6 address takes a moment.
fn settled(client: &Namespace, server: &Namespace, far: IpAddr) -> Result<Sink> {
    ringway_lab::traffic::ping_until(client, far, Duration::from_secs(10))?;
    Sink::start(server, far)
}

/// Everything arrived once and in order, and the counts of both ends and of the samples agree.
fn whole(flow: Option<&Flow>, size: u64) -> Result<()> {
    let flow = flow.context("a direction is missing")?;
    let (sent, received) = (flow.sent, flow.received);
    ensure!(sent.packets > 100, "only {} datagrams", sent.packets);
    ensure!(flow.lost == 0 && flow.loss == 0.0, "{} lost", flow.lost);
    ensure!(received.packets == sent.packets, "{sent:?} {received:?}");
    ensure!(received.bytes == sent.bytes, "{sent:?} {received:?}");
    ensure!(sent.bytes == sent.packets * size, "{sent:?}");
    ensure!(
        received.duplicates + received.reordered == 0,
        "{received:?}"
    );
    // The samples end with the test, a moment before the last datagrams are waited for or after.
    let sampled: u64 = flow.samples.iter().map(|sample| sample.packets).sum();
    ensure!(
        flow.samples.len() > 2 && sampled <= received.packets,
        "{sampled}"
    );
    ensure!(
        sampled * 2 > received.packets,
        "{sampled} of {}",
        received.packets
    );
    Ok(())
}
