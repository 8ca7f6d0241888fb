//! `ringway doctor`: what this host costs the tunnel, and how to change that.
//!
//! The looking and judging is in `ringway_tuning`; here are the command line, what a configuration
//! uses, and what only the packet path can try.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use ringway_dataplane::key_slot::Cipher;
use ringway_dataplane::probe;
use ringway_tuning::cpu::Cores;
use ringway_tuning::cpu_list::CpuList;
use ringway_tuning::doctor::report::Applied;
use ringway_tuning::doctor::{
    Change, Finding, Mss, Offer, Offers, Plan, Report, TunFeatures, UdpFeatures, Use, Wishes,
    apply, judge, look,
};

use crate::config::options::{Connection, Family, IoEngine, MssFix};
use crate::config::{Options, load};

/// Exit status when nothing could be judged.
const CANNOT_LOOK: u8 = 2;

/// Runs `ringway doctor` with these arguments and returns the exit status: 0 when there is nothing
/// worth doing, 1 when there is (or a change failed), 2 when it could not look.
pub fn run(args: &[String]) -> u8 {
    let request = match Request::parse(args) {
        Ok(Some(request)) => request,
        Ok(None) => {
            print!("{}", help());
            return 0;
        }
        Err(error) => return fail(&error),
    };
    match examine(&request) {
        Ok(report) => {
            let text = match request.json {
                true => report.json(),
                false => report.text(),
            };
            print!("{text}");
            report.exit_code()
        }
        Err(error) => fail(&error),
    }
}

fn fail(error: &str) -> u8 {
    eprintln!("ringway: doctor: {error}");
    CANNOT_LOOK
}

/// The text of `ringway doctor --help`.
fn help() -> String {
    format!(
        "ringway doctor: what this host costs the tunnel, and how to change that\n\
         \n\
         \x20 --json               for programs\n\
         \x20 --apply              make the changes marked so, to the running kernel only (root)\n\
         \x20 --undo FILE          where the script goes that takes them back;\n\
         \x20                      {} by default\n\
         \x20 --only ID[,ID...]    nothing but these findings (their names: see --json)\n\
         \x20 --config FILE        what this configuration uses, and the way to its remote\n\
         \x20 --dev NAME           the tunnel's device; its queue may be changed\n\
         \x20 --interface NAME     the interface outside; by default those with a default route\n\
         \n\
         Exit status: 0 nothing worth doing, 1 something worth doing or a change failed,\n\
         2 it could not look. Without --apply nothing is changed.\n",
        apply::UNDO_FILE
    )
}

/// The command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Request {
    json: bool,
    apply: bool,
    undo: Option<PathBuf>,
    only: Vec<String>,
    config: Option<String>,
    devices: Vec<String>,
    interfaces: Vec<String>,
}

impl Request {
    /// `None` asks for help.
    fn parse(args: &[String]) -> Result<Option<Self>, String> {
        let mut request = Request::default();
        let mut rest = args.iter();
        while let Some(option) = rest.next() {
            let mut value = || {
                rest.next()
                    .filter(|value| !value.is_empty() && !value.starts_with("--"))
                    .cloned()
                    .ok_or(format!("{option} needs a value"))
            };
            match option.as_str() {
                "--help" | "-h" => return Ok(None),
                "--json" => request.json = true,
                "--apply" => request.apply = true,
                "--undo" => request.undo = Some(value()?.into()),
                "--only" => request.only.extend(value()?.split(',').map(str::to_owned)),
                "--config" => request.config = Some(value()?),
                "--dev" => request.devices.push(value()?),
                "--interface" => request.interfaces.push(value()?),
                _ => {
                    return Err(format!(
                        "\"{option}\" is no option; try ringway doctor --help"
                    ));
                }
            }
        }
        match request.undo.is_some() && !request.apply {
            true => Err("--undo needs --apply".to_owned()),
            false => Ok(Some(request)),
        }
    }
}

fn examine(request: &Request) -> Result<Report, String> {
    if request.apply && !nix::unistd::geteuid().is_root() {
        return Err("--apply needs root; nothing was changed".to_owned());
    }
    let options = match &request.config {
        Some(file) => Some(
            load(std::slice::from_ref(file))
                .map_err(|error| error.to_string())?
                .options,
        ),
        None => None,
    };
    let wishes = wishes(request, options.as_ref());
    let offers = offers(options.as_ref());
    let (findings, plan) = judged(request, &wishes, &offers)?;
    if !request.apply {
        return Ok(Report {
            findings,
            plan,
            applied: None,
        });
    }
    let changes: Vec<Change> = findings.into_iter().flat_map(|f| f.changes).collect();
    let undo = (request.undo.as_deref()).unwrap_or(Path::new(apply::UNDO_FILE));
    let (changes, to_undo) = apply::apply(&changes, &mut apply::Host, undo)?;
    let (findings, plan) = judged(request, &wishes, &offers)?;
    Ok(Report {
        findings,
        plan,
        applied: Some(Applied {
            changes,
            undo: to_undo.then(|| undo.display().to_string()),
        }),
    })
}

/// Looks and judges, and keeps what was asked for.
fn judged(
    request: &Request,
    wishes: &Wishes,
    offers: &Offers,
) -> Result<(Vec<Finding>, Plan), String> {
    let facts = look(wishes, offers.clone());
    let named = request.devices.iter().chain(&request.interfaces);
    if let Some(missing) = { named }.find(|name| facts.missing.contains(name)) {
        return Err(format!("there is no interface {missing}"));
    }
    let (mut findings, plan) = judge(&facts, wishes);
    if request.only.is_empty() {
        return Ok((findings, plan));
    }
    let known = |id: &&String| findings.iter().any(|finding| finding.id == id.as_str());
    if let Some(id) = request.only.iter().find(|id| !known(id)) {
        return Err(format!("--only: there is no finding \"{id}\" here"));
    }
    findings.retain(|finding| request.only.iter().any(|id| id == finding.id));
    Ok((findings, plan))
}

fn wishes(request: &Request, options: Option<&Options>) -> Wishes {
    let connection = options.and_then(|options| options.connections.first());
    let remote = connection.and_then(address);
    let mut devices = request.devices.clone();
    if let (true, Some(options)) = (devices.is_empty(), options) {
        // `tun` and `tap` stand for the next free one, which is not known before.
        devices.extend(
            Some(options.dev.clone()).filter(|dev| dev.ends_with(|c: char| c.is_ascii_digit())),
        );
    }
    let v6 = remote.is_some_and(|remote| remote.is_ipv6());
    Wishes {
        devices,
        interfaces: request.interfaces.clone(),
        remote,
        config: options.zip(connection).map(|(o, c)| used(o, c, v6)),
    }
}

/// The peer's address; a name is looked up as the tunnel would.
fn address(connection: &Connection) -> Option<IpAddr> {
    let name = connection.remote.as_deref()?;
    let fits = |ip: &IpAddr| match connection.family {
        Family::Any => true,
        Family::V4 => ip.is_ipv4(),
        Family::V6 => ip.is_ipv6(),
    };
    let addresses = (name, connection.rport).to_socket_addrs().ok()?;
    addresses.map(|address| address.ip()).find(fits)
}

fn used(options: &Options, connection: &Connection, v6: bool) -> Use {
    let outer = if v6 { 40 + 8 } else { 20 + 8 };
    let ciphers = options.data_ciphers.iter().copied().map(Cipher::name);
    Use {
        tun_mtu: connection.tun_mtu.into(),
        mssfix: match connection.mssfix {
            MssFix::Off => Mss::Off,
            MssFix::Payload(size) => Mss::Outer(u32::from(size) + outer),
            MssFix::Mtu(size) => Mss::Outer(size.into()),
            MssFix::Fixed(size) => Mss::Inner(size.into()),
        },
        txqueuelen: options.txqueuelen,
        sndbuf: options.sndbuf.map(|bytes| bytes as usize),
        rcvbuf: options.rcvbuf.map(|bytes| bytes as usize),
        workers: options.ringway_workers.map_or_else(
            || ringway_tuning::cpu::workers(Cores::count(), options.server.is_some()),
            usize::from,
        ),
        cpus: options.ringway_cpus.iter().copied().collect::<CpuList>(),
        uring: options.ringway_io != IoEngine::Syscalls,
        ciphers: ciphers.map(str::to_owned).collect(),
        mlock: options.mlock,
        server: options.server.is_some(),
    }
}

/// Tries what the packet path builds on.
fn offers(options: Option<&Options>) -> Offers {
    let node = options.and_then(|options| options.dev_node.clone());
    let shown = node.clone().unwrap_or_else(|| "/dev/net/tun".into());
    let tun = match probe::tun(node) {
        Ok(Ok(tun)) => Offer::Works(TunFeatures {
            tso: tun.tso,
            uso: tun.uso,
            multi_queue: tun.multi_queue,
        }),
        Ok(Err(error)) => Offer::Refused(error.to_string()),
        Err(_) if !shown.exists() => Offer::Refused(format!("{} does not exist", shown.display())),
        Err(error) => Offer::Untried(format!(
            "that needs a network namespace of its own, as root has ({error})"
        )),
    };
    Offers {
        uring: match probe::uring() {
            Ok(()) => Offer::Works(()),
            Err(error) => Offer::Refused(error.to_string()),
        },
        tun,
        udp: match probe::udp() {
            Ok(udp) => Offer::Works(UdpFeatures {
                segmentation: udp.segmentation,
                receive_offload: udp.receive_offload,
            }),
            Err(error) => Offer::Refused(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_text;

    fn parsed(text: &str) -> Result<Option<Request>, String> {
        let args: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        Request::parse(&args)
    }

    #[test]
    fn command_lines() {
        let request = parsed("--apply --undo /tmp/u --only a,b --dev tun0 --interface e --json");
        assert_eq!(
            request,
            Ok(Some(Request {
                json: true,
                apply: true,
                undo: Some("/tmp/u".into()),
                only: vec!["a".into(), "b".into()],
                config: None,
                devices: vec!["tun0".into()],
                interfaces: vec!["e".into()],
            }))
        );
        assert_eq!(parsed("--json --help"), Ok(None));
        for bad in [
            "eth0",
            "--undo /tmp/u",
            "--dev",
            "--dev --json",
            "--verbose",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        assert!(help().lines().all(|line| line.len() <= 100));
    }

    #[test]
    fn a_configuration_says_what_is_used() {
        let text = "client\ndev tun3\nremote 192.0.2.9\nca x\ncert x\nkey x\nproto udp\n\
                    tun-mtu 1400\nmssfix 1300\nrcvbuf 70000\ntxqueuelen 2000\nmlock\n\
                    data-ciphers AES-128-CBC\nringway-cpus 1\nringway-io syscalls\n";
        let options = parse_text("t", text.as_bytes()).unwrap().options;
        let wishes = wishes(&Request::default(), Some(&options));
        assert_eq!(wishes.devices, ["tun3"]);
        assert_eq!(wishes.remote, "192.0.2.9".parse().ok());
        let used = wishes.config.unwrap();
        assert_eq!((used.tun_mtu, used.mssfix), (1400, Mss::Outer(1328)));
        assert_eq!((used.rcvbuf, used.txqueuelen), (Some(70_000), Some(2000)));
        assert_eq!(used.ciphers, ["AES-128-CBC"]);
        assert!(used.mlock && !used.uring);
        assert_eq!(used.cpus.to_string(), "1");
    }

    #[test]
    fn only_known_findings_can_be_asked_for() {
        let request = Request {
            only: vec!["kernel".into()],
            ..Request::default()
        };
        let (wishes, offers) = (Wishes::default(), Offers::default());
        let (findings, _) = judged(&request, &wishes, &offers).unwrap();
        assert_eq!(findings.len(), 1);
        let request = Request {
            only: vec!["kernel".into(), "weather".into()],
            ..request
        };
        let error = judged(&request, &wishes, &offers).unwrap_err();
        assert!(error.contains("weather"), "{error}");
        let request = Request {
            interfaces: vec!["no-such-link".into()],
            ..Request::default()
        };
        let wishes = super::wishes(&request, None);
        assert!(judged(&request, &wishes, &offers).is_err());
    }
}
