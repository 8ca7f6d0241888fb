//! One program at work between two fresh namespaces, ready to carry a load.
//!
//! ```text
//!   client ns            outer veth            server ns
//!   load -> tun -> VPN ---------------- VPN -> tun -> load
//!   load ------------------------------------> load          (bare veth)
//!   load -> tun -> VPN ------ VPN ----- VPN -> tun -> load   (a hub: two clients of a server)
//! ```

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ringway_lab::link::{Cipher, Link, LinkSpec};
use ringway_lab::netns::{Lab, Namespace, OUTSIDE, Path2};
use ringway_lab::peer::{Peer, Vpn};
use ringway_lab::site::{ClientSpec, Site, SiteSpec};
use ringway_lab::traffic;

use crate::process::{FAR, Pair};
use crate::program::{Kind, Program};
use crate::{nebula, wireguard};

/// What is below and inside a tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Condition {
    /// Data channel cipher, where the program has a choice.
    pub(crate) cipher: Cipher,
    /// What the outer wire can do.
    pub(crate) underlay: Underlay,
    /// MTU of the outer wire.
    pub(crate) outer_mtu: u32,
    /// MTU of the tunnel device; `None` leaves each program its default for the outer MTU.
    pub(crate) tun_mtu: Option<u32>,
    /// TCP outside, for OpenVPN peers.
    pub(crate) tcp: bool,
    /// Ethernet frames inside, for OpenVPN peers.
    pub(crate) tap: bool,
    /// OpenVPN peers are two clients of one server, which hands from one to the other; the wires of
    /// all three are as they come.
    pub(crate) hub: bool,
    /// Lines added to OpenVPN files.
    pub(crate) lines: &'static [&'static str],
}

/// What the outer wire leaves to the sender's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Underlay {
    /// A veth pair as it comes: super-packets cross it whole.
    Whole,
    /// `tx-udp-segmentation off`: UDP super-packets are cut before the wire.
    UdpCut,
    /// No transmit segmentation at all; the receiver's wire gathers (GRO on).
    AllCut,
}

impl Underlay {
    /// Sets one end of the wire up.
    fn prepare(self, end: &Namespace) -> Result<()> {
        let off: &[&str] = match self {
            Self::Whole => &[],
            Self::UdpCut => &["tx-udp-segmentation"],
            Self::AllCut => &[
                "tx-udp-segmentation",
                "tx-tcp-segmentation",
                "tx-tcp6-segmentation",
                "tx-tcp-ecn-segmentation",
                "tx-tcp-mangleid-segmentation",
                "generic-segmentation-offload",
            ],
        };
        for feature in off {
            end.set_offload(OUTSIDE, feature, false)?;
        }
        if self == Self::AllCut {
            end.set_offload(OUTSIDE, "generic-receive-offload", true)?;
        }
        Ok(())
    }
}

impl Condition {
    /// AES-256-GCM over a plain veth pair of MTU 1500.
    pub(crate) const PLAIN: Self = Self {
        cipher: Cipher::Aes256Gcm,
        underlay: Underlay::Whole,
        outer_mtu: 1500,
        tun_mtu: None,
        tcp: false,
        tap: false,
        hub: false,
        lines: &[],
    };

    /// MTU of the tunnel device for programs without a choice of their own: 80 bytes less for outer
    /// IPv6, UDP and WireGuard headers, as wg-quick reckons.
    fn inner_mtu(&self) -> u32 {
        self.tun_mtu.unwrap_or(self.outer_mtu - 80)
    }
}

/// A started program. Dropping it ends its processes and removes its namespaces.
#[derive(Debug)]
pub(crate) struct Tunnel {
    /// Namespace that connects and sends.
    pub(crate) client: Namespace,
    /// Namespace that listens and receives.
    pub(crate) server: Namespace,
    /// The server's addresses inside: IPv4, IPv6.
    pub(crate) far: [IpAddr; 2],
    // Processes end before their namespaces go; a link holds its own lab.
    ends: Ends,
    _lab: Option<Lab>,
}

/// The processes.
#[derive(Debug)]
enum Ends {
    Veth,
    OpenVpn(Box<Link>),
    Hub(Box<Site>),
    Pair(Box<Pair>),
}

impl Tunnel {
    /// Starts `program` on a fresh path and waits until the far end answers.
    ///
    /// # Errors
    /// When it does not come up within 30 seconds.
    pub(crate) fn start(program: &Program, condition: &Condition) -> Result<Self> {
        let tunnel = match condition.hub {
            true => Self::hub(program, condition)?,
            false => Self::direct(program, condition)?,
        };
        let answer = traffic::ping_until(&tunnel.client, tunnel.far[0], Duration::from_secs(10));
        tunnel.explain(answer)?;
        Ok(tunnel)
    }

    /// Two ends on one wire.
    fn direct(program: &Program, condition: &Condition) -> Result<Self> {
        let mut lab = Lab::new()?;
        let path = lab.direct()?;
        for end in [&path.client, &path.server] {
            end.set_mtu(OUTSIDE, condition.outer_mtu)?;
            condition.underlay.prepare(end)?;
        }
        let (client, server) = (path.client.clone(), path.server.clone());
        let (ends, far, lab) = match &program.kind {
            Kind::Library => anyhow::bail!("{} is no tunnel", program.key),
            Kind::Veth => (Ends::Veth, path.server_addresses, Some(lab)),
            Kind::OpenVpn(..) => {
                let link = openvpn(program, condition, lab, path)?;
                let far = link.server_addresses();
                (Ends::OpenVpn(Box::new(link)), far, None)
            }
            Kind::WireGuard(binary) => {
                let mtu = condition.inner_mtu();
                let pair = wireguard::start(binary, lab.folder(), &path, mtu)?;
                (Ends::Pair(Box::new(pair)), FAR, Some(lab))
            }
            Kind::Nebula(binary) => {
                let (mtu, cipher) = (condition.inner_mtu(), condition.cipher);
                let pair = nebula::start(binary, lab.folder(), &path, mtu, cipher)?;
                (Ends::Pair(Box::new(pair)), FAR, Some(lab))
            }
        };
        Ok(Self {
            client,
            server,
            far,
            ends,
            _lab: lab,
        })
    }

    /// Two clients of one server: the first sends, the second receives.
    fn hub(program: &Program, condition: &Condition) -> Result<Self> {
        let (peer, lines) = lines(program, condition)?;
        let mut spec = SiteSpec {
            tap: condition.tap,
            proto: if condition.tcp { "tcp4" } else { "udp4" },
            hosts: 2,
            ..SiteSpec::new(peer)
        }
        .line("client-to-client");
        let mut clients =
            [(0, "anna"), (1, "berta")].map(|(n, name)| ClientSpec::new(peer, n, name));
        let cipher = format!("data-ciphers {}", condition.cipher.name());
        for line in [cipher].iter().chain(&lines) {
            spec = spec.line(line);
            clients = clients.map(|client| client.line(line));
        }
        let mut site = spec.start()?;
        site.check(|site| site.join_all(&clients))?;
        Ok(Self {
            client: site.hosts[0].clone(),
            server: site.hosts[1].clone(),
            far: site.inside(1)?,
            ends: Ends::Hub(Box::new(site)),
            _lab: None,
        })
    }

    /// User plus system time of all VPN processes so far, in seconds; 0 without any.
    ///
    /// # Errors
    /// When one has ended.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        match &self.ends {
            Ends::Veth => Ok(0.0),
            Ends::OpenVpn(link) => Ok(link.client.cpu_seconds()? + link.server.cpu_seconds()?),
            Ends::Hub(site) => processes(site).map(Vpn::cpu_seconds).sum(),
            Ends::Pair(pair) => pair.cpu_seconds(),
        }
    }

    /// Resident size of the receiving end's process in MiB: now, and the most it has been.
    ///
    /// # Errors
    /// When there is no process or it has ended.
    pub(crate) fn memory_mib(&self) -> Result<[f64; 2]> {
        let pid = match &self.ends {
            Ends::Veth => anyhow::bail!("the bare wire has no process"),
            Ends::OpenVpn(link) => link.server.pid(),
            Ends::Hub(site) => site.clients[1].pid(),
            Ends::Pair(pair) => pair.server.pid(),
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        Ok([mib(&status, "VmRSS")?, mib(&status, "VmHWM")?])
    }

    /// The two ends as the lab knows them, when they are OpenVPN peers on one wire.
    pub(crate) fn link(&self) -> Option<&Link> {
        match &self.ends {
            Ends::OpenVpn(link) => Some(link),
            Ends::Veth | Ends::Hub(_) | Ends::Pair(_) => None,
        }
    }

    /// Adds what the processes said to an error.
    ///
    /// # Errors
    /// The outcome's.
    pub(crate) fn explain<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| match &self.ends {
            Ends::Veth => error,
            Ends::OpenVpn(link) => {
                anyhow::anyhow!("{error:#}\n{}\n{}", link.server.tail(), link.client.tail())
            }
            Ends::Hub(site) => {
                let tails: Vec<String> = processes(site).map(Vpn::tail).collect();
                anyhow::anyhow!("{error:#}\n{}", tails.join("\n"))
            }
            Ends::Pair(pair) => anyhow::anyhow!("{error:#}\n{}", pair.tail()),
        })
    }
}

fn openvpn(program: &Program, condition: &Condition, lab: Lab, path: Path2) -> Result<Link> {
    let (peer, lines) = lines(program, condition)?;
    let mut spec = LinkSpec {
        cipher: condition.cipher,
        tcp: condition.tcp,
        tap: condition.tap,
        ..LinkSpec::new(peer, peer)
    };
    for line in &lines {
        spec = spec.line(line);
    }
    let mut link = spec.launch(lab, path)?;
    link.wait_up(Duration::from_secs(30))?;
    Ok(link)
}

/// The program for all ends, and what their files have beyond keys, addresses and cipher.
fn lines(program: &Program, condition: &Condition) -> Result<(Peer, Vec<String>)> {
    let Kind::OpenVpn(peer, extra) = &program.kind else {
        anyhow::bail!("{} takes no OpenVPN file", program.key);
    };
    let mtu = condition.tun_mtu.map(|mtu| format!("tun-mtu {mtu}"));
    let asked = condition.lines.iter().map(|line| (*line).to_owned());
    // Later lines override: what a variant asks for comes last.
    let lines = mtu.into_iter().chain(asked).chain(extra.iter().cloned());
    Ok((*peer, lines.collect()))
}

/// A server and its clients.
fn processes(site: &Site) -> impl Iterator<Item = &Vpn> {
    site.server.iter().chain(&site.clients)
}

/// A size in MiB from the text of `/proc/PID/status` (proc(5)), which counts in KiB.
///
/// # Errors
/// When there is no such field.
pub(crate) fn mib(status: &str, field: &str) -> Result<f64> {
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next())
        .with_context(|| format!("no {field}"))?
        .parse()?;
    Ok(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_mib() {
        let status = "Name:\tx\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\n";
        assert_eq!(mib(status, "VmRSS").unwrap(), 10.0);
        assert_eq!(mib(status, "VmHWM").unwrap(), 20.0);
        assert!(mib(status, "VmSwap").is_err());
    }
}
