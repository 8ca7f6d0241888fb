//! The certificates of `ca` and `capath`.
//!
//! Self-issued ones are trust anchors; the others help to build a chain, as if the peer had sent
//! them. A directory is read by OpenSSL's naming, `HASH.N` for certificates and `HASH.rN` for
//! revocation lists, without relying on the hash.

use std::fs;
use std::path::Path;

use rustls_pki_types::TrustAnchor;

use super::certs::{Certificate, certificates_from_pem};
use super::crl::{Crl, lists_from_pem};
use super::{TlsError, TlsSettings, now_unix};

/// The certificates of `ca` and `capath`.
#[derive(Debug)]
pub(super) struct TrustStore {
    /// All of them, in order.
    pub(super) certs: Vec<Certificate>,
    /// Self-issued ones, with their place in `certs`.
    pub(super) anchors: Vec<(TrustAnchor<'static>, usize)>,
}

impl TrustStore {
    /// Reads `ca` and `capath`; also gives the revocation lists found in `capath`.
    pub(super) fn load(
        settings: &TlsSettings,
        warnings: &mut Vec<String>,
    ) -> Result<(Self, Vec<Crl>), TlsError> {
        let mut certs = certificates_from_pem(&settings.ca)
            .map_err(|err| TlsError::Settings(format!("ca: {err}")))?;
        if certs.is_empty() && !settings.ca.trim_ascii().is_empty() {
            return Err(TlsError::Settings(
                "ca: no certificate found in it".to_owned(),
            ));
        }
        let mut lists = Vec::new();
        if let Some(path) = &settings.ca_path {
            read_ca_path(path, &mut certs, &mut lists, warnings)?;
        }
        let mut anchors = Vec::new();
        for (index, cert) in certs.iter().enumerate() {
            for fault in cert.unsupported(cert.is_self_issued()) {
                warnings.push(format!(
                    "WARNING: ca: the certificate {} {fault}",
                    cert.subject
                ));
            }
            let now = now_unix();
            if now > cert.not_after || now < cert.not_before {
                warnings.push(format!(
                    "WARNING: ca: the certificate {} {}",
                    cert.subject,
                    if now > cert.not_after {
                        "has expired"
                    } else {
                        "is not yet valid"
                    }
                ));
            }
            if !cert.is_self_issued() {
                continue;
            }
            match webpki::anchor_from_trusted_cert(&cert.der) {
                Ok(anchor) => anchors.push((anchor.to_owned(), index)),
                Err(err) => warnings.push(format!(
                    "WARNING: ca: the certificate {} cannot be used ({err})",
                    cert.subject
                )),
            }
        }
        Ok((Self { certs, anchors }, lists))
    }
}

fn read_ca_path(
    path: &Path,
    certs: &mut Vec<Certificate>,
    lists: &mut Vec<Crl>,
    warnings: &mut Vec<String>,
) -> Result<(), TlsError> {
    let fail = |err: std::io::Error| {
        TlsError::Settings(format!("capath: cannot read {}: {err}", path.display()))
    };
    let mut files: Vec<_> = fs::read_dir(path)
        .map_err(fail)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    files.sort();
    for file in files {
        let name = file.file_name().map(|name| name.to_string_lossy());
        let Some((hash, number)) = name.as_deref().and_then(|name| name.split_once('.')) else {
            continue;
        };
        if hash.len() != 8 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            continue;
        }
        let is_list = number.starts_with('r');
        let digits = number.trim_start_matches('r');
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let result = fs::read(&file)
            .map_err(|err| err.to_string())
            .and_then(|pem| {
                if is_list {
                    lists_from_pem(&pem).map(|found| lists.extend(found))
                } else {
                    certificates_from_pem(&pem).map(|found| certs.extend(found))
                }
            });
        if let Err(err) = result {
            warnings.push(format!("WARNING: capath: {}: {err}", file.display()));
        }
    }
    Ok(())
}
