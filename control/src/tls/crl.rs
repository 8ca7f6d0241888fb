//! Certificate revocation lists, checked the way OpenVPN's TLS library does.
//!
//! Every certificate of a verified chain is looked up in the list of its issuer. No list from that
//! issuer is only worth a warning; a list that is expired, not yet valid or wrongly signed refuses
//! the peer, and so does an entry. Lists without extensions (CRL v1) are as good as others, which
//! is why this is not left to webpki.
//!
//! ```text
//!   chain:  leaf <- intermediate <- root
//!             |          |            |        look-up by issuer name, signature by issuer key
//!           CRL of    CRL of       CRL of
//!           interm.   root         root
//! ```
//! A changed file is read again; a bad one keeps the old lists.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::crypto::WebPkiSupportedAlgorithms;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::certs::{Certificate, KEY_USAGE_CRL_SIGN, pem_blocks, public_key_parts, signed_parts};
use super::names;

/// Where revocation lists come from (`crl-verify`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrlSource {
    /// A PEM file, read again when it changes.
    File(PathBuf),
    /// An inline PEM block.
    Inline(Vec<u8>),
    /// A directory: a certificate is revoked when a file is named like its decimal serial number.
    Dir(PathBuf),
}

/// What the lists say about one certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrlVerdict {
    /// Listed nowhere.
    Good,
    /// There is no list from its issuer.
    NoList,
    /// Refused, with OpenSSL's words for the reason.
    Refused(&'static str),
}

/// The revocation lists in use, and how to read them again.
#[derive(Debug)]
pub(crate) struct CrlState {
    source: Option<CrlSource>,
    /// Lists that come from `capath` and are read once.
    fixed: Vec<Crl>,
    current: RwLock<Arc<Vec<Crl>>>,
    stamp: Mutex<Option<Stamp>>,
}

impl CrlState {
    /// Reads the lists for the first time.
    ///
    /// # Errors
    /// A sentence naming the file and what is wrong with it.
    pub(crate) fn load(source: Option<CrlSource>, fixed: Vec<Crl>) -> Result<Self, String> {
        let mut stamp = None;
        let lists = match &source {
            None => Vec::new(),
            Some(CrlSource::Inline(pem)) => {
                lists_from_pem(pem).map_err(|err| format!("crl-verify: {err}"))?
            }
            Some(CrlSource::File(path)) => {
                stamp = stamp_of(path);
                read_file(path)?
            }
            Some(CrlSource::Dir(path)) => {
                let meta = fs::metadata(path).map_err(|err| cannot_read(path, &err))?;
                if !meta.is_dir() {
                    return Err(format!("crl-verify: {} is no directory", path.display()));
                }
                Vec::new()
            }
        };
        Ok(Self {
            source,
            fixed,
            current: RwLock::new(Arc::new(lists)),
            stamp: Mutex::new(stamp),
        })
    }

    /// Reads a changed file again. `None`: nothing changed. Otherwise one line for the log; after
    /// an error the old lists stay in use, and the error is reported once per change.
    pub(crate) fn reload_if_changed(&self) -> Option<Result<String, String>> {
        let Some(CrlSource::File(path)) = &self.source else {
            return None;
        };
        let found = stamp_of(path);
        let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        if *stamp == found {
            return None;
        }
        *stamp = found;
        Some(match read_file(path) {
            Ok(lists) => {
                let line = format!(
                    "CRL: loaded {} CRLs from file {}",
                    lists.len(),
                    path.display()
                );
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(lists);
                Ok(line)
            }
            Err(err) => Err(format!("{err}; the lists read before stay in use")),
        })
    }

    /// Whether there is anything to check against.
    pub(crate) fn has_lists(&self) -> bool {
        !self.fixed.is_empty()
            || matches!(self.source, Some(CrlSource::File(_) | CrlSource::Inline(_)))
    }

    /// Looks `cert` up in the lists of `issuer`. `now` in seconds since 1970.
    pub(crate) fn check(
        &self,
        cert: &Certificate,
        issuer: &Certificate,
        now: i64,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> CrlVerdict {
        if let Some(CrlSource::Dir(dir)) = &self.source
            && named_in(dir, &cert.serial)
        {
            return CrlVerdict::Refused("certificate revoked");
        }
        let current = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        let mut verdict = CrlVerdict::NoList;
        for list in current.iter().chain(&self.fixed) {
            if list.issuer_der != cert.issuer_der {
                continue;
            }
            match list.check(cert, issuer, now, algorithms) {
                refused @ CrlVerdict::Refused("certificate revoked") => return refused,
                CrlVerdict::Good => verdict = CrlVerdict::Good,
                other if verdict == CrlVerdict::NoList => verdict = other,
                CrlVerdict::NoList | CrlVerdict::Refused(_) => {}
            }
        }
        verdict
    }

    /// Whether the serial number of `cert` is named in a `crl-verify` directory. For certificates
    /// whose issuer is not known (fingerprint mode).
    pub(crate) fn check_serial_only(&self, cert: &Certificate) -> CrlVerdict {
        match &self.source {
            Some(CrlSource::Dir(dir)) if named_in(dir, &cert.serial) => {
                CrlVerdict::Refused("certificate revoked")
            }
            _ => CrlVerdict::Good,
        }
    }
}

/// One revocation list.
#[derive(Clone, Debug)]
pub(crate) struct Crl {
    /// The issuer as one line.
    pub(crate) issuer: String,
    /// When the next list is due, in seconds since 1970.
    pub(crate) next_update: Option<i64>,
    this_update: i64,
    issuer_der: Vec<u8>,
    revoked: HashSet<Vec<u8>>,
    der: Vec<u8>,
}

impl Crl {
    fn from_der(der: &[u8]) -> Result<Self, String> {
        let (rest, crl) = CertificateRevocationList::from_der(der)
            .map_err(|err| format!("not a valid CRL ({err})"))?;
        if !rest.is_empty() || signed_parts(der).is_none() {
            return Err("not a valid CRL".to_owned());
        }
        let entries = crl.iter_revoked_certificates();
        let critical = entries
            .flat_map(|entry| entry.extensions())
            .chain(crl.extensions())
            .find(|extension| extension.critical);
        if let Some(extension) = critical {
            // Indirect, delta and partitioned lists would be misread without understanding this.
            return Err(format!(
                "the CRL of {} has a critical extension {}, which is not supported",
                names::subject_line(&names::attributes(crl.issuer())),
                names::oid_text(&extension.oid)
            ));
        }
        Ok(Self {
            issuer: names::subject_line(&names::attributes(crl.issuer())),
            this_update: crl.last_update().timestamp(),
            next_update: crl.next_update().map(|time| time.timestamp()),
            issuer_der: crl.issuer().as_raw().to_vec(),
            revoked: crl
                .iter_revoked_certificates()
                .map(|entry| without_zeros(entry.raw_serial()))
                .collect(),
            der: der.to_vec(),
        })
    }

    fn check(
        &self,
        cert: &Certificate,
        issuer: &Certificate,
        now: i64,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> CrlVerdict {
        if issuer
            .key_usage
            .is_some_and(|bits| bits & KEY_USAGE_CRL_SIGN == 0)
        {
            return CrlVerdict::Refused("key usage does not include CRL signing");
        }
        if !is_signed_by(&self.der, &issuer.spki_der, algorithms) {
            return CrlVerdict::Refused("CRL signature failure");
        }
        if self.revoked.contains(&without_zeros(&cert.serial_bytes)) {
            return CrlVerdict::Refused("certificate revoked");
        }
        if now < self.this_update {
            return CrlVerdict::Refused("CRL is not yet valid");
        }
        if self.next_update.is_some_and(|next| now > next) {
            return CrlVerdict::Refused("CRL has expired");
        }
        CrlVerdict::Good
    }
}

/// All revocation lists in a PEM text.
pub(crate) fn lists_from_pem(pem: &[u8]) -> Result<Vec<Crl>, String> {
    let mut out = Vec::new();
    for block in pem_blocks(pem)? {
        if block.label == "X509 CRL" {
            out.push(Crl::from_der(&block.data)?);
        }
    }
    if out.is_empty() {
        return Err("no CRL found in it".to_owned());
    }
    Ok(out)
}

/// Whether the signed structure `der` carries a valid signature by the key `spki`.
fn is_signed_by(der: &[u8], spki: &[u8], algorithms: &WebPkiSupportedAlgorithms) -> bool {
    let (Some((signed, algorithm, signature)), Some((key_algorithm, key))) =
        (signed_parts(der), public_key_parts(spki))
    else {
        return false;
    };
    algorithms.all.iter().any(|candidate| {
        candidate.signature_alg_id().as_ref() == algorithm
            && candidate.public_key_alg_id().as_ref() == key_algorithm
            && candidate.verify_signature(key, signed, signature).is_ok()
    })
}

/// What tells one state of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some(Stamp {
        inode: meta.ino(),
        size: meta.size(),
        seconds: meta.mtime(),
        nanoseconds: meta.mtime_nsec(),
    })
}

fn read_file(path: &Path) -> Result<Vec<Crl>, String> {
    let pem = fs::read(path).map_err(|err| cannot_read(path, &err))?;
    lists_from_pem(&pem).map_err(|err| format!("crl-verify: {}: {err}", path.display()))
}

fn cannot_read(path: &Path, err: &std::io::Error) -> String {
    format!("crl-verify: cannot read {}: {err}", path.display())
}

/// A file that exists but cannot be looked at counts as there.
fn named_in(dir: &Path, serial: &str) -> bool {
    match fs::symlink_metadata(dir.join(serial)) {
        Ok(_) => true,
        Err(err) => err.kind() != std::io::ErrorKind::NotFound,
    }
}

fn without_zeros(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes[zeros..].to_vec()
}
