//! The command line: what is wanted of this run, and the texts for people.
//!
//! ```text
//!   ringway FILE | --config FILE [--option value ...]     run
//!   ringway check FILE [--json]                            look, do not run
//!   ringway doctor [--json] [--apply] ...                  look at the host, and tune it
//!   ringway --genkey ... | --mktun ... | --show-... | --help | --version
//! ```
//! Everything but `check`, `doctor` and `--json` is spelled as in OpenVPN, so that scripts and service files
//! need no change.

mod keys;

use std::fmt::Write as _;
use std::path::PathBuf;

use ringway_dataplane::key_slot::{Cipher, Digest};
use ringway_dataplane::tun::DeviceKind;

pub use keys::{KeyKind, KeyRequest, generate_key};

/// What a run is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Run with these arguments; they are for [`crate::config::load`].
    Run(Vec<String>),
    /// Check a configuration.
    Check {
        /// For [`crate::config::load`].
        args: Vec<String>,
        /// Answer in JSON.
        json: bool,
    },
    /// Look at the host; the arguments are for [`crate::doctor::run`].
    Doctor(Vec<String>),
    /// `--mktun`: make a persistent device.
    MakeTun(TunRequest),
    /// `--rmtun`: remove a persistent device.
    RemoveTun(TunRequest),
    /// `--genkey`
    GenerateKey(KeyRequest),
    /// Print [`help`].
    Help,
    /// Print [`version`].
    Version,
    /// Print [`show_ciphers`].
    ShowCiphers,
    /// Print [`show_digests`].
    ShowDigests,
    /// Print [`show_tls`].
    ShowTls,
}

/// `--mktun` and `--rmtun`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunRequest {
    /// Name of the device.
    pub dev: String,
    /// `--dev-type`, or how the name begins.
    pub kind: DeviceKind,
    /// Device node, `/dev/net/tun` by default.
    pub dev_node: Option<PathBuf>,
    /// Owner.
    pub user: Option<String>,
    /// Group of owners.
    pub group: Option<String>,
}

/// Reads the arguments, the program's name not among them.
///
/// # Errors
/// One line on what is wrong. Whether a configuration is good shows only later.
pub fn parse(args: &[String]) -> Result<Invocation, String> {
    match args.first().map(String::as_str) {
        None => return Err("no configuration given; try ringway --help".to_owned()),
        Some("check") if args[1..] == ["--help"] => return Ok(Invocation::Help),
        Some("check") => return check(&args[1..]),
        Some("doctor") => return Ok(Invocation::Doctor(args[1..].to_vec())),
        Some("-h" | "-?" | "--help" | "help") => return Ok(Invocation::Help),
        Some("-V" | "--version" | "version") => return Ok(Invocation::Version),
        Some(_) => {}
    }
    // An action may stand among other options, but never as the value of one.
    for word in args {
        match word.as_str() {
            "--help" => return Ok(Invocation::Help),
            "--version" => return Ok(Invocation::Version),
            "--show-ciphers" => return Ok(Invocation::ShowCiphers),
            "--show-digests" => return Ok(Invocation::ShowDigests),
            "--show-tls" => return Ok(Invocation::ShowTls),
            "--mktun" => return Ok(Invocation::MakeTun(tun_request(args)?)),
            "--rmtun" => return Ok(Invocation::RemoveTun(tun_request(args)?)),
            "--genkey" => return Ok(Invocation::GenerateKey(keys::request(args)?)),
            _ => {}
        }
    }
    Ok(Invocation::Run(args.to_vec()))
}

/// The text of `--help`.
pub fn help() -> String {
    let mut text = format!("Ringway {}: ", env!("CARGO_PKG_VERSION"));
    text.push_str(
        "an OpenVPN peer for Linux. The same configuration files, another engine.\n\
         \n\
         Run:\n  \
           ringway FILE                           with a configuration file\n  \
           ringway --config FILE --verb 4 ...     the same, with further options; any option of a\n  \
         \x20                                      file may follow with -- in front\n\
         \n\
         Look:\n  \
           ringway check FILE [--json]            what would be wrong; exit 0 if nothing, else 1\n  \
           ringway doctor [--json] [--apply]      what this host costs the tunnel; --help for more\n  \
           ringway --version | --help\n  \
           ringway --show-ciphers | --show-digests | --show-tls\n\
         \n\
         Prepare:\n  \
           ringway --genkey secret FILE           for tls-crypt and tls-auth, same file on both ends\n  \
           ringway --genkey tls-crypt-v2-server FILE\n  \
           ringway --tls-crypt-v2 SERVER_KEY --genkey tls-crypt-v2-client FILE [METADATA]\n  \
           ringway --genkey auth-token FILE\n  \
           ringway --mktun --dev NAME [--user U] [--group G]     make a lasting device\n  \
           ringway --rmtun --dev NAME                            remove it\n\
         \n\
         Often used options (in a file without the dashes):\n  \
           --client --remote HOST [PORT [PROTO]]  connect to a server and take its settings\n  \
           --server NET MASK, --server-ipv6 NET   serve many clients with addresses from there\n  \
           --server-bridge GATEWAY MASK FIRST LAST  the same, with --dev tap in a bridge\n  \
           --push \"route NET MASK\", --client-config-dir D, --client-to-client\n  \
         \x20                                      what clients are told, and may do\n  \
           --tls-client, --tls-server             one end each of a link between two peers\n  \
           --dev tun --ifconfig LOCAL REMOTE      the tunnel's device and addresses\n  \
           --proto udp|tcp, --port N              how and where outside; several\n  \
         \x20                                      --local HOST PORT PROTO for a server of both\n  \
           --ca F --cert F --key F                certificates, PEM\n  \
           --peer-fingerprint HASH                instead of --ca: the peer's own certificate\n  \
           --tls-crypt F                          hide and protect the handshake\n  \
           --route NET MASK, --keepalive 10 60, --persist-tun, --user U, --group G\n  \
           --verb N, --log F, --status F          what is said, and where\n\
         \n\
         Ringway's own:\n  \
           --ringway-io auto|uring|syscalls       how packets are moved\n  \
           --ringway-workers N|auto               threads that move them\n  \
           --ringway-cpus 2,4-7                   CPUs for these threads\n  \
           --ringway-busy-poll MICROSECONDS       how long they look before they sleep\n  \
           --ringway-push-update [SECONDS]        a server tells connected clients what has changed in\n  \
         \x20                                      client-config-dir\n\
         \n\
         Signals: TERM and INT end, HUP reads the configuration again, USR1 reconnects,\n\
         USR2 logs statistics.\n\
         \n\
         Every option, honoured or not and why: docs/options.md; what a server does otherwise:\n\
         docs/server.md. What options mean: the manual of OpenVPN, openvpn(8).\n",
    );
    text
}

/// The text of `--version`. Its beginning is what scripts look for.
pub fn version() -> String {
    format!(
        "{}\n\
         library versions: rustls (TLS 1.2, TLS 1.3), AWS-LC\n\
         Ringway speaks the protocol of OpenVPN 2.4 to 2.7 and shares no code with OpenVPN.\n",
        first_line()
    )
}

/// The ciphers that `data-ciphers` may name.
pub fn show_ciphers() -> String {
    let mut text = String::from("Ciphers for data-ciphers, data-ciphers-fallback and cipher:\n\n");
    for cipher in Cipher::ALL {
        let name = cipher.name();
        let kind = match cipher {
            Cipher::Aes128Gcm | Cipher::Aes192Gcm | Cipher::Aes256Gcm => "AEAD",
            Cipher::ChaCha20Poly1305 => "AEAD",
            Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc => "with the digest of auth",
            Cipher::None => "no encryption",
        };
        line(&mut text, name, kind);
    }
    text
}

/// The digests that `auth` may name.
pub fn show_digests() -> String {
    let mut text = String::from("Digests for auth (CBC ciphers and tls-auth):\n\n");
    for digest in Digest::ALL {
        let name = digest.name();
        let kind = match digest {
            Digest::Sha1 => "160 bit, the default",
            Digest::Sha224 => "224 bit",
            Digest::Sha256 => "256 bit",
            Digest::Sha384 => "384 bit",
            Digest::Sha512 => "512 bit",
            Digest::None => "no authentication",
        };
        line(&mut text, name, kind);
    }
    text
}

/// The suites and groups that `tls-ciphersuites`, `tls-cipher` and `tls-groups` may name.
pub fn show_tls() -> String {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut tls13 = String::new();
    let mut tls12 = String::new();
    for suite in &provider.cipher_suites {
        let name = format!("{:?}", suite.suite());
        match name.strip_prefix("TLS13_") {
            Some(name) => line(&mut tls13, &format!("TLS_{name}"), ""),
            None => line(&mut tls12, &name.replace('_', "-"), ""),
        }
    }
    let mut groups = String::new();
    for group in &provider.kx_groups {
        line(&mut groups, &format!("{:?}", group.name()), "");
    }
    format!(
        "TLS 1.3 (tls-ciphersuites), preferred first:\n\n{tls13}\n\
         TLS 1.2 (tls-cipher), preferred first:\n\n{tls12}\n\
         Key exchange (tls-groups), preferred first:\n\n{groups}"
    )
}

/// `OpenVPN 2.x.y` for the scripts that look for it, then what it really is.
pub fn first_line() -> String {
    format!(
        "OpenVPN {EMULATED} ringway/{} {}-pc-linux-gnu [SSL (rustls, AWS-LC)] [EPOLL] [io_uring] \
         [MH/PKTINFO] [AEAD]",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
    )
}

/// The release of OpenVPN whose options and protocol are followed.
pub const EMULATED: &str = "2.7.6";

fn check(args: &[String]) -> Result<Invocation, String> {
    let json = args.iter().any(|word| word == "--json");
    let args: Vec<_> = args
        .iter()
        .filter(|word| *word != "--json")
        .cloned()
        .collect();
    match args.is_empty() {
        true => Err("ringway check needs a configuration file".to_owned()),
        false => Ok(Invocation::Check { args, json }),
    }
}

fn tun_request(args: &[String]) -> Result<TunRequest, String> {
    let mut request = TunRequest::default();
    let mut kind = None;
    for (option, values) in options(args)? {
        let one = || match values {
            [value] => Ok(value.clone()),
            _ => Err(format!("--{option} needs one value")),
        };
        match option {
            "mktun" | "rmtun" if values.is_empty() => {}
            "verb" => {}
            "dev" => request.dev = one()?,
            "dev-type" => {
                kind = Some(match one()?.as_str() {
                    "tun" => DeviceKind::Tun,
                    "tap" => DeviceKind::Tap,
                    other => {
                        return Err(format!("--dev-type: \"{other}\" is not one of: tun, tap"));
                    }
                });
            }
            "dev-node" => request.dev_node = Some(PathBuf::from(one()?)),
            "user" => request.user = Some(one()?),
            "group" => request.group = Some(one()?),
            _ => {
                return Err(format!(
                    "--{option} cannot be used with --mktun and --rmtun"
                ));
            }
        }
    }
    let good = (1..=15).contains(&request.dev.len())
        && request
            .dev
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/');
    match good {
        true => {
            request.kind = kind.unwrap_or(match request.dev.starts_with("tap") {
                true => DeviceKind::Tap,
                false => DeviceKind::Tun,
            });
            Ok(request)
        }
        false => Err("--dev needs the name of a device, e.g. --dev tun0".to_owned()),
    }
}

/// Options with their values.
fn options(args: &[String]) -> Result<Vec<(&str, &[String])>, String> {
    let mut found = Vec::new();
    let mut rest = args;
    while let Some((first, after)) = rest.split_first() {
        let Some(option) = first.strip_prefix("--") else {
            return Err(format!(
                "\"{first}\" is not an option; options begin with --"
            ));
        };
        let count = after
            .iter()
            .take_while(|word| !word.starts_with("--"))
            .count();
        let (values, next) = after.split_at(count);
        found.push((option, values));
        rest = next;
    }
    Ok(found)
}

fn line(text: &mut String, name: &str, note: &str) {
    // Writing to a string cannot fail.
    let _ = match note {
        "" => writeln!(text, "  {name}"),
        _ => writeln!(text, "  {name:<18} {note}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Invocation, String> {
        let args: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        parse(&args)
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn verbs() {
        let run = "--config a.conf --verb 4";
        assert_eq!(parsed(run), Ok(Invocation::Run(words(run))));
        assert_eq!(parsed("a.conf"), Ok(Invocation::Run(words("a.conf"))));
        assert_eq!(
            parsed("check a.conf --json"),
            Ok(Invocation::Check {
                args: words("a.conf"),
                json: true
            })
        );
        assert_eq!(parsed("--help"), Ok(Invocation::Help));
        assert_eq!(parsed("--version"), Ok(Invocation::Version));
        assert_eq!(parsed("--verb 3 --show-tls"), Ok(Invocation::ShowTls));
        assert!(parsed("").is_err());
        assert!(parsed("check --json").is_err());
        assert_eq!(
            parsed("doctor --json"),
            Ok(Invocation::Doctor(words("--json")))
        );
    }

    #[test]
    fn devices() {
        let request = TunRequest {
            dev: "vtun1".into(),
            user: Some("nobody".into()),
            ..TunRequest::default()
        };
        assert_eq!(
            parsed("--mktun --dev vtun1 --dev-type tun --user nobody"),
            Ok(Invocation::MakeTun(request))
        );
        assert!(matches!(
            parsed("--dev tun3 --rmtun"),
            Ok(Invocation::RemoveTun(_))
        ));
        for (text, expected) in [
            ("--mktun --dev tap3", DeviceKind::Tap),
            ("--mktun --dev lan --dev-type tap", DeviceKind::Tap),
            ("--mktun --dev tap3 --dev-type tun", DeviceKind::Tun),
        ] {
            let Ok(Invocation::MakeTun(request)) = parsed(text) else {
                panic!("{text}");
            };
            assert_eq!(request.kind, expected, "{text}");
        }
        for bad in [
            "--mktun",
            "--mktun --dev",
            "--mktun --dev a/b",
            "--mktun --dev tun0 --port 3",
            "--mktun --dev tun0 --dev-type lan",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn version_begins_as_scripts_want_it() {
        let text = version();
        let mut first = text.lines().next().unwrap().split(' ');
        assert_eq!(first.next(), Some("OpenVPN"));
        let numbers: Vec<u32> = first
            .next()
            .unwrap()
            .split('.')
            .map(|n| n.parse().unwrap())
            .collect();
        assert_eq!((numbers.len(), numbers[0]), (3, 2));
        assert!(text.lines().next().unwrap().contains("ringway/0.1.0"));
    }

    #[test]
    fn lists_name_what_can_be_configured() {
        assert!(show_ciphers().contains("CHACHA20-POLY1305"));
        assert!(show_digests().contains("SHA512"));
        let tls = show_tls();
        assert!(tls.contains("TLS_AES_256_GCM_SHA384"), "{tls}");
        assert!(
            tls.contains("TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384"),
            "{tls}"
        );
        assert!(tls.contains("X25519MLKEM768"), "{tls}");
        assert!(help().lines().all(|line| line.len() <= 100));
    }
}
