//! What `ringway check` says about certificates and keys, one finding per fact.
//!
//! Unlike [`TlsContext::new`], which stops at the first fault, this looks at everything, so that a
//! migration can be planned from one run.

use super::certs::{Certificate, certificates_from_pem};
use super::crl::{CrlSource, lists_from_pem};
use super::rules::Rules;
use super::trust::TrustStore;
use super::{TlsContext, TlsError, TlsSettings, VerifyClientCert, keys, now_unix};
use crate::proto::TlsRole;
use rustls_pki_types::UnixTime;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Works, but will or may not for long.
    Warning,
    /// Ringway does not start, or no peer can connect.
    Error,
}

/// One fact about the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: `ca`, `cert`, `key`, `crl-verify` or `tls`.
    pub what: &'static str,
    /// One line.
    pub message: String,
}

/// Looks at every certificate, key and list of the settings.
#[must_use]
pub fn inspect(settings: &TlsSettings) -> Vec<Finding> {
    let now = now_unix();
    let mut report = Report::default();
    report.authorities(settings, now);
    report.own_chain(settings, now);
    report.key(settings);
    report.revocation_lists(settings, now);
    report.the_rest(settings);
    report.findings
}

/// A certificate is worth a warning so many days before it ends.
const SOON_DAYS: i64 = 30;
const DAY: i64 = 86400;

#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, severity: Severity, what: &'static str, message: impl Into<String>) {
        let message = message.into();
        let known = self.findings.iter().any(|finding| {
            finding.severity == severity && finding.message.contains(message.as_str())
        });
        if !known {
            self.findings.push(Finding {
                severity,
                what,
                message,
            });
        }
    }

    fn authorities(&mut self, settings: &TlsSettings, now: i64) {
        let store = match TrustStore::load(settings, &mut Vec::new()) {
            Ok((store, _)) => store,
            Err(err) => return self.add(Severity::Error, "ca", without_prefix(&err, "ca")),
        };
        let is_usable = |cert: &Certificate| {
            let in_dates = (cert.not_before..=cert.not_after).contains(&now);
            cert.is_self_issued() && in_dates && cert.unsupported(true).is_empty()
        };
        // A renewed root beside an old one makes the old one harmless.
        let fault = if store.certs.iter().any(is_usable) {
            Severity::Warning
        } else {
            Severity::Error
        };
        for cert in &store.certs {
            let is_root = cert.is_self_issued();
            self.certificate("ca", cert, now, fault);
            for text in cert.unsupported(is_root) {
                self.add(fault, "ca", format!("certificate {} {text}", cert.subject));
            }
            if is_root && !cert.may_sign() {
                self.add(
                    Severity::Warning,
                    "ca",
                    format!(
                        "certificate {} is no CA: it is accepted only from the peer that shows \
                         this very certificate",
                        cert.subject
                    ),
                );
            }
        }
    }

    fn own_chain(&mut self, settings: &TlsSettings, now: i64) {
        let Some(pem) = &settings.cert else {
            return;
        };
        let mut chain = match certificates_from_pem(pem) {
            Ok(chain) => chain,
            Err(err) => return self.add(Severity::Error, "cert", err),
        };
        if let Some(extra) = &settings.extra_certs {
            match certificates_from_pem(extra) {
                Ok(more) => chain.extend(more),
                Err(err) => self.add(Severity::Error, "cert", format!("extra-certs: {err}")),
            }
        }
        for (index, cert) in chain.iter().enumerate() {
            self.certificate("cert", cert, now, Severity::Error);
            // Peers other than this program may take what this one refuses, but nobody can sign
            // with a key that is not supported.
            let unusable = cert.unsupported(true);
            for text in cert.unsupported(false) {
                let fault = if index == 0 && unusable.contains(&text) {
                    Severity::Error
                } else {
                    Severity::Warning
                };
                self.add(
                    fault,
                    "cert",
                    format!("certificate {} {text}", cert.subject),
                );
            }
        }
        let Some((leaf, rest)) = chain.split_first() else {
            return self.add(Severity::Error, "cert", "no certificate found in it");
        };
        if settings.ca.is_empty() && settings.ca_path.is_none() {
            return;
        }
        // How a peer with the same `ca` would judge it.
        let mut mirrored = TlsSettings::new(match settings.role {
            TlsRole::Client => TlsRole::Server,
            TlsRole::Server => TlsRole::Client,
        });
        mirrored.ca.clone_from(&settings.ca);
        mirrored.ca_path.clone_from(&settings.ca_path);
        mirrored.crl.clone_from(&settings.crl);
        mirrored.tls_cert_profile = settings.tls_cert_profile;
        mirrored.verify_client_cert = VerifyClientCert::Require;
        let Ok((rules, _)) = Rules::new(&mirrored) else {
            return;
        };
        let intermediates: Vec<_> = rest.iter().map(|cert| cert.der.clone()).collect();
        let algorithms =
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let verdict = rules.judge(
            &leaf.der,
            &intermediates,
            unix_time(now),
            &algorithms,
            &mut Vec::new(),
        );
        match verdict {
            Ok(_) => self.add(
                Severity::Info,
                "cert",
                format!("{} verifies against ca", leaf.subject),
            ),
            Err(refusal) => self.add(
                Severity::Warning,
                "cert",
                format!(
                    "a peer with the same ca would refuse this certificate: {}",
                    refusal.line
                ),
            ),
        }
    }

    fn certificate(&mut self, what: &'static str, cert: &Certificate, now: i64, fault: Severity) {
        let name = format!("certificate {}", cert.subject);
        let from = date(cert.not_before);
        let until = date(cert.not_after);
        let days = (cert.not_after - now) / DAY;
        self.add(
            Severity::Info,
            what,
            format!(
                "{name}: valid from {from} until {until}, {}, {}, serial {}",
                cert.key,
                cert.signature_name(),
                cert.serial
            ),
        );
        if now > cert.not_after {
            self.add(fault, what, format!("{name} has expired on {until}"));
        } else if now < cert.not_before {
            self.add(fault, what, format!("{name} is not valid before {from}"));
        } else if days < SOON_DAYS {
            self.add(
                Severity::Warning,
                what,
                format!("{name} expires in {days} days, on {until}"),
            );
        }
    }

    fn key(&mut self, settings: &TlsSettings) {
        let Some(pem) = &settings.key else {
            return;
        };
        let password = settings.key_password.as_deref().map(String::as_str);
        match keys::private_key(pem, password) {
            Ok(_) => {}
            Err(TlsError::KeyPasswordMissing) => self.add(
                Severity::Info,
                "key",
                "the private key is encrypted; without its password it cannot be checked",
            ),
            Err(err) => self.add(Severity::Error, "key", without_prefix(&err, "key")),
        }
    }

    fn revocation_lists(&mut self, settings: &TlsSettings, now: i64) {
        let pem = match &settings.crl {
            None | Some(CrlSource::Dir(_)) => return,
            Some(CrlSource::Inline(pem)) => pem.clone(),
            // A file that cannot be read is reported by the last step.
            Some(CrlSource::File(path)) => match std::fs::read(path) {
                Ok(pem) => pem,
                Err(_) => return,
            },
        };
        let Ok(lists) = lists_from_pem(&pem) else {
            return;
        };
        for list in lists {
            let Some(next) = list.next_update else {
                continue;
            };
            let until = date(next);
            if now > next {
                self.add(
                    Severity::Error,
                    "crl-verify",
                    format!(
                        "the CRL of {} has expired on {until}: every peer is refused",
                        list.issuer
                    ),
                );
            } else if (next - now) / DAY < SOON_DAYS {
                self.add(
                    Severity::Warning,
                    "crl-verify",
                    format!(
                        "the CRL of {} expires in {} days, on {until}",
                        list.issuer,
                        (next - now) / DAY
                    ),
                );
            }
        }
    }

    /// What only comes up when everything is put together.
    fn the_rest(&mut self, settings: &TlsSettings) {
        match TlsContext::new(settings) {
            Ok((_, warnings)) => {
                for warning in warnings {
                    let (what, text) = split_what(warning.trim_start_matches("WARNING: "));
                    let text = text.trim_start_matches("the ");
                    let known = self.findings.iter().any(|finding| {
                        finding.severity > Severity::Info && finding.message.contains(text)
                    });
                    if !known && !text.starts_with("Your certificate") {
                        self.add(Severity::Warning, what, text);
                    }
                }
                if settings.key.is_some() {
                    self.add(
                        Severity::Info,
                        "key",
                        "the private key belongs to the certificate",
                    );
                }
            }
            Err(TlsError::KeyPasswordMissing) => {}
            Err(err) => {
                let line = err.to_string();
                let (what, text) = split_what(&line);
                self.add(Severity::Error, what, text);
            }
        }
    }
}

/// Cuts the option off the front of a message that begins with one.
fn split_what(line: &str) -> (&'static str, &str) {
    for what in ["ca", "cert", "key", "crl-verify"] {
        if let Some(text) = line
            .strip_prefix(what)
            .and_then(|rest| rest.strip_prefix(": "))
        {
            return (what, text);
        }
    }
    ("tls", line)
}

fn without_prefix(err: &TlsError, what: &str) -> String {
    let line = err.to_string();
    match line
        .strip_prefix(what)
        .and_then(|rest| rest.strip_prefix(": "))
    {
        Some(text) => text.to_owned(),
        None => line,
    }
}

fn unix_time(seconds: i64) -> UnixTime {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

/// The day of a point in time, UTC.
fn date(seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .map_or_else(|_| seconds.to_string(), |time| time.date().to_string())
}
