//! A server in a namespace, and clients for it in another.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ringway::proto::TlsRole;
use ringway::proto::wrap::WrapConfig;
use ringway::tls::{TlsContext, TlsSettings};
use ringway_bench::clients::{Settings, Swarm};
use ringway_lab::certs::{KeyKind, Pki};
use ringway_lab::command;
use ringway_lab::netns::{Lab, Namespace};
use ringway_lab::peer::Vpn;
use ringway_lab::traffic;

use crate::program::{Kind, Program};
use crate::tunnel::mib;

/// The server's address inside.
pub(super) const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
/// The server's address and port outside.
pub(super) const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 2), 1194);
/// Room for all peers of any row.
const NETWORK: &str = "10.9.0.0 255.255.224.0";

/// A running server. Dropping it ends the process and removes the namespaces.
pub(super) struct Rig {
    /// The server's process.
    pub(super) server: Vpn,
    /// Where the server is.
    pub(super) inside: Namespace,
    /// Where its peers are.
    pub(super) peers: Namespace,
    tls: Arc<TlsContext>,
    pki: Pki,
    program: Program,
    // Processes end before their namespaces.
    pub(super) lab: Lab,
}

impl Rig {
    /// Starts `program` as a server, with `lines` added to its file.
    ///
    /// # Errors
    /// When it does not come up within 30 seconds.
    pub(super) fn start(program: &Program, kind: KeyKind, lines: &[&str]) -> Result<Self> {
        let Kind::OpenVpn(peer, extra) = &program.kind else {
            anyhow::bail!("{} is no OpenVPN server", program.key);
        };
        let mut lab = Lab::new()?;
        let path = lab.direct()?;
        let pki = Pki::new(lab.folder(), kind)?;
        let file = |name: &str| pki.file(name).display().to_string();
        let mut config = vec![
            "port 1194".to_owned(),
            "proto udp".to_owned(),
            "dev tun0".to_owned(),
            "topology subnet".to_owned(),
            format!("server {NETWORK}"),
            format!("ca {}", file("ca.crt")),
            format!("cert {}", file("server.crt")),
            format!("key {}", file("server.key")),
            "dh none".to_owned(),
            "data-ciphers AES-256-GCM".to_owned(),
            "keepalive 10 60".to_owned(),
            "duplicate-cn".to_owned(),
            "max-clients 8000".to_owned(),
            // Its default is for the Internet: 100 new addresses in 10 seconds.
            "connect-freq-initial 1000000 1".to_owned(),
            "verb 1".to_owned(),
        ];
        config.extend(lines.iter().map(|line| (*line).to_owned()));
        config.extend(extra.iter().cloned());
        let folder = lab.folder().to_owned();
        let mut server = Vpn::start(*peer, &path.server, &folder, "server", &config)?;
        server.wait_up(Duration::from_secs(30))?;
        Ok(Self {
            server,
            inside: path.server,
            peers: path.client,
            tls: Arc::new(client_tls(&pki)?),
            pki,
            program: program.clone(),
            lab,
        })
    }

    /// Light clients in the peers' namespace, none connected yet.
    ///
    /// # Errors
    /// As [`Swarm::start`].
    pub(super) fn swarm(&self, nice: u8) -> Result<Swarm> {
        let settings = Settings {
            server: SERVER.into(),
            tls: self.tls.clone(),
            wrap: WrapConfig::None,
            credentials: None,
            hand_window: Duration::from_secs(60),
        };
        Swarm::start(settings, Some(&self.peers), nice)
    }

    /// A real client of the same program, with a device, in the peers' namespace.
    ///
    /// # Errors
    /// When the server does not answer through it within 30 seconds.
    pub(super) fn client(&self) -> Result<Vpn> {
        let Kind::OpenVpn(peer, _) = &self.program.kind else {
            anyhow::bail!("{} is no OpenVPN client", self.program.key);
        };
        let file = |name: &str| self.pki.file(name).display().to_string();
        let (address, port) = SERVER;
        let config = [
            "client".to_owned(),
            "dev tun0".to_owned(),
            format!("remote {address} {port} udp"),
            "nobind".to_owned(),
            format!("ca {}", file("ca.crt")),
            format!("cert {}", file("client.crt")),
            format!("key {}", file("client.key")),
            "verb 1".to_owned(),
        ];
        let mut client = Vpn::start(*peer, &self.peers, self.lab.folder(), "client", &config)?;
        client.wait_up(Duration::from_secs(30))?;
        traffic::ping_until(&self.peers, GATEWAY, Duration::from_secs(10))?;
        Ok(client)
    }

    /// Resident size of the server's process in KiB.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn resident_kib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.pid()))?;
        Ok(mib(&status, "VmRSS")? * 1024.0)
    }

    /// Adds what the server said to an error.
    ///
    /// # Errors
    /// The outcome's.
    pub(super) fn explain<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.server.tail()))
    }

    /// UDP datagrams that full receive buffers of both namespaces have dropped so far: what the links
    /// lost.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub(super) fn dropped_by_sockets(&self) -> Result<u64> {
        let mut sum = 0;
        for namespace in [&self.inside, &self.peers] {
            let text = command::succeed(
                namespace.command("cat").arg("/proc/net/snmp"),
                Duration::from_secs(10),
            )?;
            sum += udp_counter(&text, "RcvbufErrors").context("no counters of UDP")?;
        }
        Ok(sum)
    }
}

/// A counter in the `Udp:` lines of `/proc/net/snmp` (proc(5)): names first, then values.
fn udp_counter(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let names = lines.next()?.split_whitespace();
    let values = lines.next()?.split_whitespace();
    names
        .zip(values)
        .find(|(known, _)| *known == name)
        .and_then(|(_, value)| value.parse().ok())
}

fn client_tls(pki: &Pki) -> Result<TlsContext> {
    let read = |name: &str| fs::read(pki.file(name));
    let settings = TlsSettings {
        ca: read("ca.crt")?,
        cert: Some(read("client.crt")?),
        key: Some(read("client.key")?),
        // Which both servers have; one that could do more has no more to do.
        tls_groups: Some("X25519".to_owned()),
        ..TlsSettings::new(TlsRole::Client)
    };
    Ok(TlsContext::new(&settings)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let text = "Ip: A\nIp: 1\nUdp: InDatagrams NoPorts RcvbufErrors\nUdp: 10 2 7\n";
        assert_eq!(udp_counter(text, "RcvbufErrors"), Some(7));
        assert_eq!(udp_counter(text, "SndbufErrors"), None);
        assert_eq!(udp_counter("", "NoPorts"), None);
    }
}
