//! What is measured: Ringway and its variants, OpenVPN, other VPNs whose binary was given, and the
//! bare wire.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use ringway_lab::command;
use ringway_lab::peer::Peer;

/// Key of Ringway as it is: the program every target is about.
pub(crate) const RINGWAY: &str = "ringway";
/// Key of OpenVPN.
pub(crate) const OPENVPN: &str = "openvpn";
/// Key of the bare wire.
pub(crate) const VETH: &str = "veth";
/// Key of the library Ringway's own ciphers are compared with.
pub(crate) const LIBRARY: &str = "aws-lc-rs";

/// Key of Ringway without encryption.
pub(crate) const NULL: &str = "ringway-null";

/// Name for people of a program that always takes part; another one's key is its name.
pub(crate) fn title(key: &str) -> &str {
    match key {
        RINGWAY => "Ringway",
        NULL => "Ringway, null cipher",
        OPENVPN => "OpenVPN",
        VETH => "bare veth",
        LIBRARY => "aws-lc-rs, one by one",
        other => other,
    }
}

/// Something that takes its turn in every round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Short name, unique in a run; results are filed under it.
    pub(crate) key: String,
    /// Name for people.
    pub(crate) title: String,
    /// How it is started.
    pub(crate) kind: Kind,
}

/// How a program is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No tunnel: the load runs over the veth pair itself.
    Veth,
    /// An OpenVPN peer with lines added to both ends' files.
    OpenVpn(Peer, Vec<String>),
    /// A user-space WireGuard, configured over its control socket.
    WireGuard(Binary),
    /// Nebula, with certificates and a file.
    Nebula(Binary),
    /// Not a program: a cipher library called for one packet at a time.
    Library,
}

/// A program file, and words it is given before its own arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binary {
    pub(crate) path: PathBuf,
    pub(crate) words: Vec<String>,
}

impl Program {
    /// The bare wire.
    pub(crate) fn veth() -> Self {
        Self::new(VETH, title(VETH), Kind::Veth)
    }

    /// Debian's OpenVPN.
    pub(crate) fn openvpn() -> Self {
        let kind = Kind::OpenVpn(Peer::OpenVpn, Vec::new());
        Self::new(OPENVPN, title(OPENVPN), kind)
    }

    /// Ringway as it is.
    pub(crate) fn ringway() -> Self {
        Self::variant(RINGWAY, title(RINGWAY), &[])
    }

    /// Ringway with lines added to both ends' files.
    pub(crate) fn variant(key: &str, title: &str, lines: &[&str]) -> Self {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        Self::new(key, title, Kind::OpenVpn(Peer::Ringway, lines))
    }

    /// AWS-LC's ciphers, called as its documentation shows.
    pub(crate) fn library() -> Self {
        Self::new(LIBRARY, title(LIBRARY), Kind::Library)
    }

    /// What the program says of its version; empty where there is nothing to ask.
    pub(crate) fn version(&self) -> Result<String> {
        match &self.kind {
            Kind::Veth | Kind::Library => Ok(String::new()),
            Kind::OpenVpn(peer, _) => peer.version(),
            Kind::WireGuard(binary) | Kind::Nebula(binary) => version(&binary.path),
        }
    }

    fn new(key: &str, title: &str, kind: Kind) -> Self {
        Self {
            key: key.to_owned(),
            title: title.to_owned(),
            kind,
        }
    }
}

/// `--peer NAME=FILE [WORD ...]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct External {
    name: String,
    binary: Binary,
}

impl External {
    /// The program it stands for: Nebula by its name, or else some WireGuard.
    pub(crate) fn program(&self) -> Program {
        let kind = match self.name.starts_with("nebula") {
            true => Kind::Nebula(self.binary.clone()),
            false => Kind::WireGuard(self.binary.clone()),
        };
        Program::new(&self.name, &self.name, kind)
    }
}

impl FromStr for External {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, rest)) = text.split_once('=') else {
            return Err("expected NAME=FILE, e.g. wireguard-go=/usr/bin/wireguard-go".to_owned());
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(format!("{name:?} is no name: letters, digits and -_. only"));
        }
        if name.starts_with(RINGWAY) || [OPENVPN, VETH, LIBRARY].contains(&name) {
            return Err(format!("{name} takes part in any case; give another name"));
        }
        let mut words = rest.split_whitespace().map(str::to_owned);
        let file = words.next().unwrap_or_default();
        match Path::new(&file).canonicalize() {
            Ok(path) if path.is_file() => Ok(Self {
                name: name.to_owned(),
                binary: Binary {
                    path,
                    words: words.collect(),
                },
            }),
            Ok(_) => Err(format!("{file} is no program file")),
            Err(error) => Err(format!("{file:?}: {error}")),
        }
    }
}

/// The first line a program says to `--version`.
fn version(path: &Path) -> Result<String> {
    let finished = command::finish(Command::new(path).arg("--version"), Duration::from_secs(10))?;
    let said = finished.stdout + &finished.stderr;
    Ok(said.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_name_and_a_file() {
        let me = std::env::current_exe().unwrap();
        let given = format!("wireguard-go={}", me.display());
        let program = given.parse::<External>().unwrap().program();
        assert_eq!(program.key, "wireguard-go");
        assert!(matches!(program.kind, Kind::WireGuard(_)));
        let given = format!("nebula={} -x 1", me.display());
        match given.parse::<External>().unwrap().program().kind {
            Kind::Nebula(binary) => assert_eq!(binary.words, ["-x", "1"]),
            other => panic!("{other:?}"),
        }
        for wrong in [
            "wireguard-go",
            "=x",
            "a b=/bin/sh",
            "x=/no/such/file",
            "x=/",
        ] {
            assert!(wrong.parse::<External>().is_err(), "{wrong}");
        }
        let taken = format!("openvpn={}", me.display());
        assert!(taken.parse::<External>().unwrap_err().contains("any case"));
    }
}
