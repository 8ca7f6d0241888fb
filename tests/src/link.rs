//! Two VPN ends, configured to match, started and checked.
//!
//! The client end is always 10.9.0.2 / fd00:9::2 inside (fd00:9::1000 behind a pulling client,
//! as the server's pool gives it), the server end 10.9.0.1 / fd00:9::1.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::certs::{KeyKind, Pki};
use crate::netns::{Lab, Namespace, Path2};
use crate::peer::{Peer, UP, Vpn};

/// How the two ends find their roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `tls-server` and `tls-client` with fixed addresses.
    PointToPoint,
    /// `server` and `client`: the client pulls its addresses.
    Pull,
}

/// Control channel wrap (protocol document §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrap {
    /// None.
    Plain,
    /// `tls-auth` with directions.
    TlsAuth,
    /// `tls-crypt`.
    TlsCrypt,
    /// `tls-crypt-v2`; needs [`Mode::Pull`].
    TlsCryptV2,
}

/// Data channel cipher with its `auth` digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-256-GCM.
    Aes256Gcm,
    /// CHACHA20-POLY1305.
    ChaCha20Poly1305,
    /// AES-256-CBC with HMAC-SHA256.
    Aes256CbcSha256,
    /// AES-128-CBC with HMAC-SHA1.
    Aes128CbcSha1,
}

impl Cipher {
    /// Name in configuration files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "CHACHA20-POLY1305",
            Self::Aes256CbcSha256 => "AES-256-CBC",
            Self::Aes128CbcSha1 => "AES-128-CBC",
        }
    }

    fn digest(self) -> &'static str {
        match self {
            Self::Aes128CbcSha1 => "SHA1",
            Self::Aes256Gcm | Self::ChaCha20Poly1305 | Self::Aes256CbcSha256 => "SHA256",
        }
    }
}

/// Address family of the outside path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a link is to be.
#[derive(Clone, Debug)]
pub struct LinkSpec {
    /// Program at the client end.
    pub client: Peer,
    /// Program at the server end.
    pub server: Peer,
    /// Roles.
    pub mode: Mode,
    /// Control channel wrap.
    pub wrap: Wrap,
    /// Data channel cipher.
    pub cipher: Cipher,
    /// Outside family.
    pub outside: Outside,
    /// TCP outside: the client end is the `tcp-client`.
    pub tcp: bool,
    /// Ethernet frames on `tap0` instead of IP packets on `tun0`.
    pub tap: bool,
    /// Kind of certificate keys.
    pub keys: KeyKind,
    /// Lines added to both ends' files.
    pub both: Vec<String>,
    /// Lines added to the client's file.
    pub client_lines: Vec<String>,
    /// Lines added to the server's file.
    pub server_lines: Vec<String>,
}

impl LinkSpec {
    /// A point-to-point link with AES-256-GCM and tls-crypt over IPv4.
    #[must_use]
    pub fn new(client: Peer, server: Peer) -> Self {
        Self {
            client,
            server,
            mode: Mode::PointToPoint,
            wrap: Wrap::TlsCrypt,
            cipher: Cipher::Aes256Gcm,
            outside: Outside::V4,
            tcp: false,
            tap: false,
            keys: KeyKind::EcdsaP256,
            both: Vec::new(),
            client_lines: Vec::new(),
            server_lines: Vec::new(),
        }
    }

    /// Adds one line to both files.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.both.push(line.to_owned());
        self
    }

    /// Adds one line to the client's file.
    #[must_use]
    pub fn client_line(mut self, line: &str) -> Self {
        self.client_lines.push(line.to_owned());
        self
    }

    /// Adds one line to the server's file.
    #[must_use]
    pub fn server_line(mut self, line: &str) -> Self {
        self.server_lines.push(line.to_owned());
        self
    }

    /// Adds one line to the file of each end that is Ringway.
    #[must_use]
    pub fn ringway_line(mut self, line: &str) -> Self {
        if self.client == Peer::Ringway {
            self.client_lines.push(line.to_owned());
        }
        if self.server == Peer::Ringway {
            self.server_lines.push(line.to_owned());
        }
        self
    }

    /// The inside interface.
    #[must_use]
    pub fn device(&self) -> &'static str {
        match self.tap {
            true => "tap0",
            false => "tun0",
        }
    }

    /// One line naming every choice.
    #[must_use]
    pub fn title(&self) -> String {
        let (client, server) = match self.mode {
            Mode::PointToPoint => ("tls-client", "tls-server"),
            Mode::Pull => ("client", "server"),
        };
        format!(
            "{} {client} - {} {server}, {}, {:?}, {}, {}{:?}",
            self.client.name(),
            self.server.name(),
            self.device(),
            self.wrap,
            self.cipher.name(),
            if self.tcp { "TCP " } else { "" },
            self.outside
        )
    }

    /// Starts the link on a fresh direct path and waits until it is up.
    ///
    /// # Errors
    /// When it does not come up within 30 seconds.
    pub fn start(&self) -> Result<Link> {
        let mut lab = Lab::new()?;
        let path = lab.direct()?;
        let mut link = self.launch(lab, path)?;
        link.wait_up(Duration::from_secs(30))?;
        Ok(link)
    }

    /// Starts both processes on `path` without waiting.
    ///
    /// # Errors
    /// When files cannot be made or programs cannot start.
    pub fn launch(&self, lab: Lab, path: Path2) -> Result<Link> {
        let folder = lab.folder().to_owned();
        let pki = Pki::new(&folder.join("pki"), self.keys)?;
        if self.wrap == Wrap::TlsCryptV2 {
            pki.add_tls_crypt_v2()?;
        }
        let server_config = self.server_config(&pki);
        let client_config = self.client_config(&pki, &path);
        let server = Vpn::start(self.server, &path.server, &folder, "server", &server_config)?;
        let client = Vpn::start(self.client, &path.client, &folder, "client", &client_config)?;
        Ok(Link {
            client,
            server,
            spec: self.clone(),
            pki,
            path,
            lab,
        })
    }

    /// The server end's file.
    #[must_use]
    pub fn server_config(&self, pki: &Pki) -> Vec<String> {
        let mut lines = self.common(pki, "server");
        lines.push("port 1194".to_owned());
        match self.mode {
            Mode::PointToPoint => {
                lines.push("tls-server".to_owned());
                lines.push(format!("ifconfig 10.9.0.1 {}", self.far_end("10.9.0.2")));
                lines.push("ifconfig-ipv6 fd00:9::1/64 fd00:9::2".to_owned());
            }
            Mode::Pull => {
                lines.push("server 10.9.0.0 255.255.255.0".to_owned());
                lines.push("topology subnet".to_owned());
                lines.push("server-ipv6 fd00:9::/64".to_owned());
            }
        }
        lines.push("dh none".to_owned());
        lines.extend(self.server_lines.iter().cloned());
        lines
    }

    /// The client end's file.
    #[must_use]
    pub fn client_config(&self, pki: &Pki, path: &Path2) -> Vec<String> {
        let mut lines = self.common(pki, "client");
        let address = match self.outside {
            Outside::V4 => path.server_addresses[0],
            Outside::V6 => path.server_addresses[1],
        };
        lines.push(format!("remote {address} 1194"));
        lines.push("nobind".to_owned());
        lines.push("remote-cert-tls server".to_owned());
        match self.mode {
            Mode::PointToPoint => {
                lines.push("tls-client".to_owned());
                lines.push(format!("ifconfig 10.9.0.2 {}", self.far_end("10.9.0.1")));
                lines.push("ifconfig-ipv6 fd00:9::2/64 fd00:9::1".to_owned());
            }
            Mode::Pull => lines.push("client".to_owned()),
        }
        lines.extend(self.client_lines.iter().cloned());
        lines
    }

    /// The second value of `ifconfig`.
    fn far_end<'a>(&self, address: &'a str) -> &'a str {
        match self.tap {
            true => "255.255.255.0",
            false => address,
        }
    }

    fn common(&self, pki: &Pki, end: &str) -> Vec<String> {
        let file = |name: &str| pki.file(name).display().to_string();
        let proto = match self.outside {
            Outside::V4 => "4",
            Outside::V6 => "6",
        };
        let proto = match self.tcp {
            false => format!("udp{proto}"),
            true => format!("tcp{proto}-{end}"),
        };
        let mut lines = vec![
            format!("dev {}", self.device()),
            format!("proto {proto}"),
            format!("ca {}", file("ca.crt")),
            format!("cert {}", file(&format!("{end}.crt"))),
            format!("key {}", file(&format!("{end}.key"))),
            format!("data-ciphers {}", self.cipher.name()),
            format!("data-ciphers-fallback {}", self.cipher.name()),
            format!("auth {}", self.cipher.digest()),
            "verb 3".to_owned(),
        ];
        match self.wrap {
            Wrap::Plain => {}
            Wrap::TlsAuth => {
                let direction = if end == "server" { 0 } else { 1 };
                lines.push(format!("tls-auth {} {direction}", file("tls-auth.key")));
            }
            Wrap::TlsCrypt => lines.push(format!("tls-crypt {}", file("tls-crypt.key"))),
            Wrap::TlsCryptV2 => {
                lines.push(format!("tls-crypt-v2 {}", file(&format!("v2-{end}.key"))));
            }
        }
        lines.extend(self.both.iter().cloned());
        lines
    }
}

/// A started link. Dropping it kills both ends and removes the lab.
#[derive(Debug)]
pub struct Link {
    /// The client end.
    pub client: Vpn,
    /// The server end.
    pub server: Vpn,
    /// What it was made from.
    pub spec: LinkSpec,
    /// Its keys.
    pub pki: Pki,
    /// The path below.
    pub path: Path2,
    /// Namespaces and files; declared last, so that it goes last.
    pub lab: Lab,
}

impl Link {
    /// Waits until both ends are up and their inside addresses answer.
    ///
    /// # Errors
    /// When that takes longer than `timeout`.
    pub fn wait_up(&mut self, timeout: Duration) -> Result<Duration> {
        let start = std::time::Instant::now();
        let outcome = self.client.wait_for(UP, timeout).and_then(|_| {
            self.server
                .wait_for(UP, timeout.saturating_sub(start.elapsed()))
        });
        outcome.map_err(|error| self.with_logs(error))?;
        Ok(start.elapsed())
    }

    /// Inside addresses of the client end, IPv4 and IPv6.
    #[must_use]
    pub fn client_addresses(&self) -> [IpAddr; 2] {
        let v6 = match self.spec.mode {
            Mode::PointToPoint => [0xfd00, 9, 0, 0, 0, 0, 0, 2],
            Mode::Pull => [0xfd00, 9, 0, 0, 0, 0, 0, 0x1000],
        };
        [IpAddr::from([10, 9, 0, 2]), IpAddr::from(v6)]
    }

    /// Inside addresses of the server end, IPv4 and IPv6.
    #[must_use]
    pub fn server_addresses(&self) -> [IpAddr; 2] {
        [
            IpAddr::from([10, 9, 0, 1]),
            IpAddr::from([0xfd00u16, 9, 0, 0, 0, 0, 0, 1]),
        ]
    }

    /// Namespace of the client end.
    #[must_use]
    pub fn client_namespace(&self) -> &Namespace {
        &self.path.client
    }

    /// Namespace of the server end.
    #[must_use]
    pub fn server_namespace(&self) -> &Namespace {
        &self.path.server
    }

    /// Runs a check and adds the ends of both logs to its error.
    ///
    /// # Errors
    /// The check's.
    pub fn check<T>(&mut self, check: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let outcome = check(self);
        outcome.map_err(|error| self.with_logs(error))
    }

    /// Both ends end on SIGTERM, by themselves.
    ///
    /// # Errors
    /// When one does not.
    pub fn stop(&mut self) -> Result<()> {
        self.client.stop().context("stopping the client")?;
        self.server.stop().context("stopping the server")
    }

    fn with_logs(&self, error: anyhow::Error) -> anyhow::Error {
        anyhow::anyhow!(
            "{}\n{error:#}\n{}\n{}",
            self.spec.title(),
            self.server.tail(),
            self.client.tail()
        )
    }
}
