//! Options of TLS, logins, key negotiation and rekeying.

use ringway_dataplane::key_slot::Digest;

use crate::config::diagnostic::Diagnostic;
use crate::config::draft::{Draft, Given};
use crate::config::options::{
    AuthRetry, CertHash, CertProfile, Credentials, CrlVerify, ReplayWindow, StaticChallenge,
    TlsVersion, VerifyX509Kind, VerifyX509Name,
};
use crate::config::position::Secret;
use crate::config::values::{
    choice, cipher, framing, number, number_u16, number_u32, seconds, some_seconds,
};
use crate::proto::TlsRole;

/// Takes over an option of this group.
pub(super) fn set(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    Ok(set_tls(draft, given)? || set_login(draft, given)? || set_keys(draft, given)?)
}

fn set_tls(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    let options = &mut draft.options;
    match given.name {
        "mode" => {
            draft.server.mode = choice(given.arg(0), &[("p2p", false), ("server", true)])?;
        }
        "client" => options.client = true,
        "pull" => options.pull = true,
        // Taken from where they stand, by `finish`.
        "tls-client" | "tls-server" => {}
        "ca" => options.ca = Some(given.source()?),
        "capath" => options.capath = Some(given.source()?),
        "cert" => options.cert = Some(given.source()?),
        "key" => options.key = Some(given.source()?),
        "extra-certs" => options.extra_certs = Some(given.source()?),
        "crl-verify" => {
            let directory = match given.args.get(1) {
                Some(word) => choice(word, &[("dir", true)])?,
                None => false,
            };
            let source = given.source()?;
            options.crl_verify = Some(match directory {
                true => CrlVerify::Directory(source),
                false => CrlVerify::List(source),
            });
        }
        "peer-fingerprint" => match given.inline.take() {
            Some(content) => {
                for line in fingerprint_lines(&content) {
                    options.peer_fingerprint.push(fingerprint(line)?);
                }
            }
            None => {
                for text in given.args {
                    options.peer_fingerprint.push(fingerprint(text)?);
                }
            }
        },
        "verify-hash" => {
            let sha1 = match given.args.get(1) {
                Some(word) => choice(word, &[("SHA256", false), ("SHA1", true)])?,
                None => false,
            };
            let read = |text: &str| match sha1 {
                true => fingerprint(text).map(CertHash::Sha1),
                false => fingerprint(text).map(CertHash::Sha256),
            };
            match given.inline.take() {
                Some(content) => {
                    for line in fingerprint_lines(&content) {
                        options.verify_hash.push(read(line)?);
                    }
                }
                None => options.verify_hash.push(read(given.arg(0))?),
            }
        }
        "ns-cert-type" => {
            let words = [("server", TlsRole::Server), ("client", TlsRole::Client)];
            options.ns_cert_type = Some(choice(given.arg(0), &words)?);
        }
        "remote-cert-tls" => {
            let words = [("server", TlsRole::Server), ("client", TlsRole::Client)];
            options.remote_cert_tls = Some(choice(given.arg(0), &words)?);
        }
        "remote-cert-ku" => {
            options.remote_cert_ku = match given.args {
                // Without values: key usage must be present at all.
                [] => vec![0],
                masks => masks
                    .iter()
                    .map(|text| {
                        let digits = text.trim_start_matches("0x");
                        u16::from_str_radix(digits, 16)
                            .map_err(|_| format!("\"{text}\" is not a mask of 16 bits in hex"))
                    })
                    .collect::<Result<_, _>>()?,
            };
        }
        "remote-cert-eku" => options.remote_cert_eku = Some(given.arg(0).to_owned()),
        "verify-x509-name" => {
            let kind = match given.args.get(1) {
                Some(word) => choice(
                    word,
                    &[
                        ("subject", VerifyX509Kind::Subject),
                        ("name", VerifyX509Kind::Name),
                        ("name-prefix", VerifyX509Kind::NamePrefix),
                    ],
                )?,
                None => VerifyX509Kind::Subject,
            };
            if given.arg(0).is_empty() {
                return Err("a name is needed".to_owned());
            }
            options.verify_x509_name = Some(VerifyX509Name {
                name: given.arg(0).to_owned(),
                kind,
            });
        }
        "x509-username-field" => options.x509_username_field = given.args.to_vec(),
        "tls-version-min" => {
            if let Some(word) = given.args.get(1) {
                choice(word, &[("or-highest", ())])?;
            }
            options.tls_version_min = match given.arg(0) {
                old @ ("1.0" | "1.1") => {
                    let message = format!("TLS {old} cannot be spoken; the lowest is 1.2");
                    draft
                        .warnings
                        .push(Diagnostic::warning(given.position, given.name, message));
                    TlsVersion::V1_2
                }
                other => match tls_version(other) {
                    Err(_) if given.args.len() > 1 => TlsVersion::V1_3,
                    result => result?,
                },
            };
        }
        "tls-version-max" => {
            options.tls_version_max = tls_version(given.arg(0))?;
        }
        "tls-cipher" => options.tls_cipher = colon_list(given)?,
        "tls-ciphersuites" => options.tls_ciphersuites = colon_list(given)?,
        "tls-groups" => options.tls_groups = colon_list(given)?,
        "tls-cert-profile" => {
            let words = [
                ("insecure", CertProfile::Insecure),
                ("legacy", CertProfile::Legacy),
                ("preferred", CertProfile::Preferred),
                ("suiteb", CertProfile::SuiteB),
            ];
            options.tls_cert_profile = choice(given.arg(0), &words)?;
        }
        "max-packet-size" => options.max_packet_size = number_u16(given.arg(0), 154..=2048)?,
        "single-session" => options.single_session = true,
        "tls-exit" => options.tls_exit = true,
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_login(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    let options = &mut draft.options;
    match given.name {
        "askpass" => options.askpass = Some(credentials(given, 0)?),
        "auth-user-pass" => {
            if given.inline.is_none() && given.args.first().is_some_and(|w| w == "username-only") {
                return Err("\"username-only\" is not supported yet".to_owned());
            }
            options.auth_user_pass = Some(credentials(given, 0)?);
        }
        "auth-nocache" => options.auth_nocache = true,
        "auth-retry" => {
            let words = [
                ("none", AuthRetry::None),
                ("nointeract", AuthRetry::NoInteract),
                ("interact", AuthRetry::Interact),
            ];
            options.auth_retry = choice(given.arg(0), &words)?;
        }
        "static-challenge" => {
            options.static_challenge = Some(StaticChallenge {
                text: given.arg(0).to_owned(),
                echo: choice(given.arg(1), &[("0", false), ("1", true)])?,
                concat: match given.args.get(2) {
                    Some(word) => choice(word, &[("scrv1", false), ("concat", true)])?,
                    None => false,
                },
            });
        }
        "auth-token" => options.auth_token = Some(Secret::new(given.arg(0))),
        "auth-token-user" => options.auth_token_user = Some(given.arg(0).to_owned()),
        "push-peer-info" => options.push_peer_info = true,
        "disable-occ" => options.disable_occ = true,
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_keys(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    let options = &mut draft.options;
    match given.name {
        "data-ciphers" | "ncp-ciphers" => draft.data_ciphers = Some(given.arg(0).to_owned()),
        "data-ciphers-fallback" => {
            options.data_ciphers_fallback = Some(cipher(given.arg(0))?);
        }
        "cipher" => options.cipher = Some(cipher(given.arg(0))?),
        "auth" => {
            options.auth = Digest::from_name(given.arg(0)).ok_or_else(|| {
                format!(
                    "\"{}\" is not supported; use SHA1, SHA224, SHA256, SHA384, SHA512 or none",
                    given.arg(0)
                )
            })?;
        }
        "compat-mode" => draft.compat_mode = Some(version(given.arg(0))?),
        "compress" if given.args == ["migrate"] => draft.server.options.compress_migrate = true,
        "compress" | "comp-lzo" => {
            let (framing, compressed) = framing(given.name, given.args.first())?;
            options.compress = framing;
            if compressed {
                let message = "packets are sent uncompressed, and compressed ones of the peer are \
                               dropped; remove it on both ends";
                draft
                    .warnings
                    .push(Diagnostic::warning(given.position, given.name, message));
            }
        }
        "replay-window" => {
            let defaults = ReplayWindow::default();
            options.replay_window = ReplayWindow {
                packets: match given.args.first() {
                    Some(text) => number_u32(text, 0..=65536)?,
                    None => defaults.packets,
                },
                seconds: match given.args.get(1) {
                    Some(text) => number_u32(text, 0..=600)?,
                    None => defaults.seconds,
                },
            };
        }
        "mute-replay-warnings" => options.mute_replay_warnings = true,
        "key-method" => {
            if given.arg(0) != "2" {
                return Err("only key method 2 exists; delete it".to_owned());
            }
        }
        "reneg-sec" => {
            options.reneg_sec = seconds(given.arg(0))?;
            options.reneg_sec_min = match given.args.get(1) {
                Some(text) => Some(seconds(text)?),
                None => None,
            };
            if options.reneg_sec_min > Some(options.reneg_sec) {
                return Err("the second time must not be longer than the first".to_owned());
            }
        }
        "reneg-bytes" => options.reneg_bytes = number(given.arg(0), 0..=u64::MAX)?,
        "reneg-pkts" => options.reneg_pkts = number(given.arg(0), 0..=u64::MAX)?,
        "tran-window" => options.tran_window = seconds(given.arg(0))?,
        "hand-window" => options.hand_window = some_seconds(given.arg(0))?,
        "tls-timeout" => options.tls_timeout = some_seconds(given.arg(0))?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// The inline content, the file that a parameter names, or the terminal.
pub(super) fn credentials(given: &mut Given<'_>, index: usize) -> Result<Credentials, String> {
    match (&given.inline, given.args.get(index).map(String::as_str)) {
        (None, None | Some("stdin")) => Ok(Credentials::Ask),
        _ => Ok(Credentials::From(given.source_at(index)?)),
    }
}

/// A SHA-256 fingerprint, or with another length that of another digest: bytes in hex, colons
/// between them.
fn fingerprint<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let error = || format!("\"{text}\" is not a fingerprint ({N} bytes in hex with colons)");
    let mut bytes = [0; N];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().ok_or_else(error)?;
        if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(error());
        }
        *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
    }
    match parts.next() {
        None => Ok(bytes),
        Some(_) => Err(error()),
    }
}

/// The lines of an inline block of fingerprints, without comments.
fn fingerprint_lines(content: &str) -> impl Iterator<Item = &str> {
    content
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
}

fn tls_version(text: &str) -> Result<TlsVersion, String> {
    match text {
        "1.2" => Ok(TlsVersion::V1_2),
        "1.3" => Ok(TlsVersion::V1_3),
        "1.0" | "1.1" => Err(format!("TLS {text} cannot be spoken; the lowest is 1.2")),
        _ => Err(format!("\"{text}\" is not one of: 1.2, 1.3")),
    }
}

fn colon_list(given: &Given<'_>) -> Result<Vec<String>, String> {
    let list: Vec<_> = given.arg(0).split(':').map(str::to_owned).collect();
    match list.iter().any(String::is_empty) {
        true => Err("an empty name in the list".to_owned()),
        false => Ok(list),
    }
}

fn version(text: &str) -> Result<(u32, u32), String> {
    let error = || format!("\"{text}\" is not a version such as 2.4.0");
    let mut parts = text.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(error()),
    }
}
