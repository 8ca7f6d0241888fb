//! A process's life: signals, scripts, dropped privileges, persistent devices, and refusals that
//! leave nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use ringway_lab::certs::{KeyKind, Pki};
use ringway_lab::command::{self, Finished};
use ringway_lab::link::{Link, LinkSpec};
use ringway_lab::netns::{Lab, Namespace, Path2};
use ringway_lab::peer::{Peer, run_config};
use ringway_lab::{note, ready, traffic};

const SOON: Duration = Duration::from_secs(30);

/// The peer under test as client of OpenVPN.
fn spec() -> LinkSpec {
    LinkSpec::new(Peer::subject(), Peer::OpenVpn).line("keepalive 2 20")
}

#[test]
fn sigterm_leaves_nothing() -> Result<()> {
    if !ready("sigterm_leaves_nothing") {
        return Ok(());
    }
    let mut lab = Lab::new()?;
    let path = lab.direct()?;
    let namespace = path.client.clone();
    let before = (namespace.interfaces()?, namespace.routes()?);
    let spec = spec()
        .client_line("route 10.77.0.0 255.255.0.0")
        .client_line("route-ipv6 fd77::/64")
        // A route outside the interface: only the program itself can take it back.
        .client_line("route 10.78.0.1 255.255.255.255 192.0.2.2");
    let mut link = spec.launch(lab, path)?;
    link.wait_up(SOON)?;
    link.check(|link| {
        let routes = namespace.routes()?;
        for route in ["10.77.0.0/16", "fd77::/64", "10.78.0.1"] {
            ensure!(routes.contains(route), "no route {route}:\n{routes}");
        }
        link.stop()?;
        let after = (namespace.interfaces()?, namespace.routes()?);
        ensure!(before == after, "left behind: {before:?} became {after:?}");
        Ok(())
    })
}

#[test]
fn sigusr1_restarts_softly() -> Result<()> {
    restart(
        "sigusr1_restarts_softly",
        Signal::SIGUSR1,
        &["persist-tun", "persist-key"],
    )
}

#[test]
fn sigusr1_restarts_without_persist() -> Result<()> {
    restart("sigusr1_restarts_without_persist", Signal::SIGUSR1, &[])
}

#[test]
fn sighup_restarts_fully() -> Result<()> {
    restart("sighup_restarts_fully", Signal::SIGHUP, &["persist-tun"])
}

fn restart(name: &str, signal: Signal, lines: &[&str]) -> Result<()> {
    if !ready(name) {
        return Ok(());
    }
    let spec = lines
        .iter()
        .fold(spec(), |spec, line| spec.client_line(line));
    let mut link = spec.start()?;
    link.check(|link| {
        works(link)?;
        for _ in 0..2 {
            restart_client(link, signal)?;
        }
        Ok(())
    })
}

#[test]
fn sigusr2_prints_statistics() -> Result<()> {
    if !ready("sigusr2_prints_statistics") {
        return Ok(());
    }
    let mut link = spec().start()?;
    link.check(|link| {
        works(link)?;
        link.client.signal(Signal::SIGUSR2)?;
        link.client.wait_for("TUN/TAP read bytes,", SOON)?;
        link.client.wait_for("TCP/UDP write bytes,", SOON)?;
        works(link)
    })
}

#[test]
fn dropped_privileges_survive_a_restart() -> Result<()> {
    if !ready("dropped_privileges_survive_a_restart") {
        return Ok(());
    }
    let mut lab = Lab::new()?;
    let path = lab.direct()?;
    let jail = lab.folder().join("jail");
    fs::create_dir_all(jail.join("tmp"))?;
    fs::set_permissions(jail.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    let spec = spec()
        .client_line("user nobody")
        .client_line("group nogroup")
        .client_line(&format!("chroot {}", jail.display()))
        .client_line("persist-tun")
        .client_line("persist-key");
    let mut link = spec.launch(lab, path)?;
    link.wait_up(SOON)?;
    link.check(|link| {
        works(link)?;
        let status = fs::read_to_string(format!("/proc/{}/status", link.client.pid()))?;
        for field in ["Uid:", "Gid:"] {
            let line = status
                .lines()
                .find(|line| line.starts_with(field))
                .context("no field")?;
            let zero = line.split_whitespace().skip(1).any(|id| id == "0");
            ensure!(!zero, "still root: {line}");
        }
        let root = fs::read_link(format!("/proc/{}/root", link.client.pid()))?;
        ensure!(root == jail, "root folder is {}", root.display());
        restart_client(link, Signal::SIGUSR1)?;
        link.client.stop()?;
        let left = link.client_namespace().interfaces()?;
        ensure!(left == ["out0"], "left behind: {left:?}");
        Ok(())
    })
}

#[test]
fn an_exit_is_announced() -> Result<()> {
    if !ready("an_exit_is_announced") {
        return Ok(());
    }
    let subject = Peer::subject();
    for (client, server) in [(subject, Peer::OpenVpn), (Peer::OpenVpn, subject)] {
        let spec = LinkSpec::new(client, server).line("keepalive 10 60");
        let mut link = spec.client_line("explicit-exit-notify 2").start()?;
        link.check(|link| {
            works(link)?;
            link.client.stop()?;
            // Far sooner than the ping timer could know.
            let took = link
                .server
                .wait_for("SIGUSR1[soft,", Duration::from_secs(8))?;
            note(&format!(
                "{}: exit seen after {:.1} s",
                link.spec.title(),
                took.as_secs_f64()
            ));
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn scripts_get_their_arguments_and_environment() -> Result<()> {
    if !ready("scripts_get_their_arguments_and_environment") {
        return Ok(());
    }
    let mut lab = Lab::new()?;
    let path = lab.direct()?;
    let folder = lab.folder().to_owned();
    let script = folder.join("note.sh");
    let notes = folder.join("notes");
    // One file per kind of script: the arguments on the first line, then the environment.
    fs::write(
        &script,
        format!(
            "#!/bin/sh\n{{ echo \"$@\"; env; }} > {}.$script_type\n",
            notes.display()
        ),
    )?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let mut spec = spec()
        .client_line("script-security 2")
        .client_line("route 10.77.0.0 255.255.0.0")
        .client_line("setenv SITE north");
    for option in ["up", "down", "route-up", "route-pre-down", "ipchange"] {
        spec = spec.client_line(&format!("{option} {}", script.display()));
    }
    let mut link = spec.launch(lab, path)?;
    link.wait_up(SOON)?;
    link.check(|link| {
        works(link)?;
        link.client.stop()?;
        let read = |kind: &str| {
            let file = format!("{}.{kind}", notes.display());
            fs::read_to_string(&file).with_context(|| format!("script {kind} did not run"))
        };
        let up = read("up")?;
        ensure!(
            up.starts_with("tun0 1500 0 10.9.0.2 10.9.0.1 init\n"),
            "arguments of up: {:?}",
            up.lines().next()
        );
        for line in [
            "script_type=up",
            "script_context=init",
            "dev=tun0",
            "dev_type=tun",
            "tun_mtu=1500",
            "ifconfig_local=10.9.0.2",
            "ifconfig_remote=10.9.0.1",
            "ifconfig_ipv6_local=fd00:9::2",
            "ifconfig_ipv6_netbits=64",
            "ifconfig_ipv6_remote=fd00:9::1",
            "route_network_1=10.77.0.0",
            "route_netmask_1=255.255.0.0",
            "route_gateway_1=10.9.0.1",
            "remote_1=192.0.2.2",
            "remote_port_1=1194",
            "proto_1=udp4",
            "daemon=0",
            "verb=3",
            "SITE=north",
        ] {
            ensure!(
                up.lines().any(|have| have == line),
                "up lacks {line}:\n{up}"
            );
        }
        for (kind, line) in [
            ("route-up", "route_vpn_gateway=10.9.0.1"),
            ("route-pre-down", "script_type=route-pre-down"),
            ("ipchange", "trusted_port=1194"),
            ("down", "signal=sigterm"),
        ] {
            let text = read(kind)?;
            ensure!(
                text.lines().any(|have| have == line),
                "{kind} lacks {line}:\n{text}"
            );
        }
        let down = read("down")?;
        ensure!(
            down.starts_with("tun0 1500 0 10.9.0.2 10.9.0.1 init\n"),
            "arguments of down: {:?}",
            down.lines().next()
        );
        Ok(())
    })
}

#[test]
fn a_persistent_device_is_made_and_removed() -> Result<()> {
    if !ready("a_persistent_device_is_made_and_removed") {
        return Ok(());
    }
    let mut lab = Lab::new()?;
    let namespace = lab.namespace("one")?;
    let program = Peer::subject().binary()?;
    for (verb, want) in [
        ("--mktun", vec!["tun9".to_owned()]),
        ("--rmtun", Vec::new()),
    ] {
        let mut command = namespace.command(&program);
        command::succeed(command.args([verb, "--dev", "tun9"]), SOON)?;
        ensure!(
            namespace.interfaces()? == want,
            "after {verb}: {:?}",
            namespace.interfaces()?
        );
    }
    Ok(())
}

/// What is wrong with a file, and a word the refusal has to contain.
struct Bad {
    what: &'static str,
    word: &'static str,
    /// Whether OpenVPN refuses it too (it takes the port modulo 65536, for one).
    openvpn_refuses: bool,
    change: fn(&mut Vec<String>, &Pki),
}

const BAD: &[Bad] = &[
    Bad {
        what: "unreadable authority file",
        word: "/nonexistent/ca.crt",
        openvpn_refuses: true,
        change: |lines, _| replace(lines, "ca ", "ca /nonexistent/ca.crt"),
    },
    Bad {
        what: "key of another certificate",
        word: "key",
        openvpn_refuses: true,
        change: |lines, pki| {
            replace(
                lines,
                "key ",
                &format!("key {}", pki.file("client.key").display()),
            );
        },
    },
    Bad {
        what: "certificate that is none",
        word: "cert",
        openvpn_refuses: true,
        change: |lines, pki| {
            replace(
                lines,
                "cert ",
                &format!("cert {}", pki.file("tls-auth.key").display()),
            );
        },
    },
    Bad {
        what: "static key that is none",
        word: "ca.crt",
        openvpn_refuses: true,
        change: |lines, pki| {
            replace(
                lines,
                "tls-crypt ",
                &format!("tls-crypt {}", pki.file("ca.crt").display()),
            );
        },
    },
    Bad {
        what: "bad inside address",
        word: "10.9.0.300",
        openvpn_refuses: true,
        change: |lines, _| replace(lines, "ifconfig ", "ifconfig 10.9.0.300 10.9.0.2"),
    },
    Bad {
        what: "bad port",
        word: "99999",
        openvpn_refuses: false,
        change: |lines, _| replace(lines, "port ", "port 99999"),
    },
    Bad {
        what: "unknown option",
        word: "frobnicate",
        openvpn_refuses: true,
        change: |lines, _| lines.push("frobnicate yes".to_owned()),
    },
    Bad {
        what: "unknown cipher",
        word: "NO-SUCH-CIPHER",
        openvpn_refuses: true,
        change: |lines, _| replace(lines, "data-ciphers ", "data-ciphers NO-SUCH-CIPHER"),
    },
    Bad {
        what: "unclosed quote",
        word: "quot",
        openvpn_refuses: true,
        change: |lines, _| lines.push("setenv A \"never closed".to_owned()),
    },
    Bad {
        what: "missing authority",
        word: "ca",
        openvpn_refuses: true,
        change: |lines, _| lines.retain(|line| !line.starts_with("ca ")),
    },
    Bad {
        what: "missing TUN device",
        word: "/nonexistent/tun",
        openvpn_refuses: true,
        change: |lines, _| lines.push("dev-node /nonexistent/tun".to_owned()),
    },
    Bad {
        what: "outside address that is not ours",
        word: "203.0.113.9",
        openvpn_refuses: true,
        change: |lines, _| lines.push("local 203.0.113.9".to_owned()),
    },
    Bad {
        what: "unknown user",
        word: "no-such-user",
        openvpn_refuses: true,
        change: |lines, _| lines.push("user no-such-user".to_owned()),
    },
];

#[test]
fn bad_files_are_refused() -> Result<()> {
    if !ready("bad_files_are_refused") {
        return Ok(());
    }
    let (lab, path, pki) = refusal_lab()?;
    let good = LinkSpec::new(Peer::OpenVpn, Peer::subject()).server_config(&pki);
    let before = path.server.routes()?;
    let mut wrong = Vec::new();
    for bad in BAD {
        if Peer::subject() == Peer::OpenVpn && !bad.openvpn_refuses {
            continue;
        }
        let mut lines = good.clone();
        (bad.change)(&mut lines, &pki);
        let outcome = run_file(&lab, &path.server, &lines);
        if let Err(error) = outcome.and_then(|finished| refused(&finished, bad.word)) {
            wrong.push(format!("{}: {error:#}", bad.what));
        }
        ensure!(
            path.server.interfaces()? == ["out0"],
            "{}: interface left",
            bad.what
        );
        ensure!(path.server.routes()? == before, "{}: route left", bad.what);
    }
    if Peer::subject() == Peer::Ringway {
        let mut lines = good.clone();
        replace(
            &mut lines,
            "cert ",
            &format!("cert {}", pki.file("expired.crt").display()),
        );
        replace(
            &mut lines,
            "key ",
            &format!("key {}", pki.file("expired.key").display()),
        );
        // OpenVPN only warns of an own certificate past its time and then never comes up.
        let outcome = run_file(&lab, &path.server, &lines);
        if let Err(error) = outcome.and_then(|finished| refused(&finished, "expired")) {
            wrong.push(format!("expired certificate: {error:#}"));
        }
    }
    let mut command = run_config(
        Peer::subject(),
        &path.server,
        Path::new("/nonexistent/file"),
    )?;
    if let Err(error) = refused(&command::finish(&mut command, SOON)?, "/nonexistent/file") {
        wrong.push(format!("missing file: {error:#}"));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}

#[test]
fn missing_privilege_is_refused() -> Result<()> {
    if !ready("missing_privilege_is_refused") {
        return Ok(());
    }
    let (lab, path, pki) = refusal_lab()?;
    for file in ["ca.crt", "server.crt", "server.key", "tls-crypt.key"] {
        fs::set_permissions(pki.file(file), fs::Permissions::from_mode(0o644))?;
    }
    let lines = LinkSpec::new(Peer::OpenVpn, Peer::subject()).server_config(&pki);
    let config = lab.folder().join("plain.conf");
    fs::write(&config, lines.join("\n") + "\n")?;
    // A copy anybody may run: build folders are often private.
    let program = lab.folder().join("program");
    fs::copy(Peer::subject().binary()?, &program)?;
    let mut command = path.server.command("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args(["--bounding-set=-all", "--inh-caps=-all", "--"])
        .arg(&program)
        .arg("--config")
        .arg(&config);
    refused(&command::finish(&mut command, SOON)?, "permi")?;
    ensure!(path.server.interfaces()? == ["out0"], "interface left");
    Ok(())
}

fn refusal_lab() -> Result<(Lab, Path2, Pki)> {
    let mut lab = Lab::new()?;
    let path = lab.direct()?;
    let pki = Pki::new(&lab.folder().join("pki"), KeyKind::EcdsaP256)?;
    Ok((lab, path, pki))
}

fn run_file(lab: &Lab, namespace: &Namespace, lines: &[String]) -> Result<Finished> {
    let config = lab.folder().join("bad.conf");
    fs::write(&config, lines.join("\n") + "\n")?;
    command::finish(
        &mut run_config(Peer::subject(), namespace, &config)?,
        Duration::from_secs(10),
    )
}

/// Exit status 1 and a line holding `word`; from Ringway, little else and no backtrace.
fn refused(finished: &Finished, word: &str) -> Result<()> {
    let said = format!("{}{}", finished.stdout, finished.stderr);
    ensure!(
        finished.status.code() == Some(1),
        "ended with {}:\n{said}",
        finished.status
    );
    let word = word.to_lowercase();
    let clear = said.lines().any(|line| line.to_lowercase().contains(&word));
    ensure!(clear, "no line says {word:?}:\n{said}");
    ensure!(!said.contains("panicked"), "a panic:\n{said}");
    if Peer::subject() == Peer::Ringway {
        let lines = said.lines().filter(|line| !line.trim().is_empty()).count();
        ensure!(lines <= 6, "{lines} lines are not one clear line:\n{said}");
    }
    Ok(())
}

fn replace(lines: &mut [String], start: &str, with: &str) {
    for line in lines.iter_mut().filter(|line| line.starts_with(start)) {
        *line = with.to_owned();
    }
}

fn restart_client(link: &mut Link, signal: Signal) -> Result<()> {
    let pid = link.client.pid();
    link.client.mark();
    link.client.signal(signal)?;
    let took = link.client.wait_up(SOON)?;
    ensure!(
        link.client.is_running() && link.client.pid() == pid,
        "another process"
    );
    works(link)?;
    note(&format!(
        "{}: {signal}: up again after {:.1} s",
        link.spec.title(),
        took.as_secs_f64()
    ));
    Ok(())
}

/// Traffic passes both ways.
fn works(link: &Link) -> Result<()> {
    traffic::ping_until(link.client_namespace(), link.server_addresses()[0], SOON)?;
    traffic::ping_until(link.server_namespace(), link.client_addresses()[1], SOON)?;
    traffic::ping(link.client_namespace(), link.server_addresses()[1], 1400, 3)
}
