//! Who the peer may be.
//!
//! webpki builds and checks the chain; around it are OpenVPN's rules (protocol document §12), in
//! the order a user sees them in the log, from the root down to the peer:
//! ```text
//!   chain to `ca`, dates, purpose -> profile -> crl-verify -> verify-hash        every depth
//!   peer-fingerprint -> remote-cert-* -> ns-cert-type -> verify-x509-name         depth 0
//! ```
//! No host name is compared: a VPN peer is known by its issuer and its subject. With
//! `peer-fingerprint` and no `ca` the chain does not matter, only which certificate it is. The
//! handshake's signature is verified in every case.
//!
//! Trust anchors are the self-signed certificates of `ca`; its other certificates help to build a
//! chain. Unlike in webpki alone, an anchor must be in its dates and be allowed to sign.

use std::cell::RefCell;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, DistinguishedName};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, VerifiedPath};

use super::certs::{
    Certificate, EKU_CLIENT, EKU_SERVER, KEY_USAGE_AGREE, KEY_USAGE_ENCIPHER, KEY_USAGE_SIGN,
    NS_TYPE_CLIENT, NS_TYPE_SERVER, PeerCertificate, colon_hex,
};
use super::crl::{CrlState, CrlVerdict};
use super::trust::TrustStore;
use super::{
    CertHash, CertProfile, RemoteCertTls, TlsError, TlsSettings, VerifyClientCert, X509NameType,
    names,
};
use crate::proto::TlsRole;

/// The longest chain a peer may send.
const MAX_CHAIN: usize = 16;

/// The rules of one configuration.
#[derive(Debug)]
pub(super) struct Rules {
    role: TlsRole,
    store: TrustStore,
    crl: CrlState,
    hints: Vec<DistinguishedName>,
    /// The extension must be there, and one of the masks contained in it, if there are any.
    key_usage: Option<Vec<u16>>,
    /// All of these must be there.
    extended_key_usage: Vec<String>,
    ns_cert_type: Option<RemoteCertTls>,
    x509_name: Option<(String, X509NameType)>,
    username_field: Vec<String>,
    fingerprints: Vec<[u8; 32]>,
    hashes: Vec<CertHash>,
    profile: CertProfile,
    client_cert: VerifyClientCert,
}

impl Rules {
    /// Reads trust anchors and revocation lists. The strings are warnings.
    pub(super) fn new(settings: &TlsSettings) -> Result<(Self, Vec<String>), TlsError> {
        let mut warnings = Vec::new();
        let (store, fixed_lists) = TrustStore::load(settings, &mut warnings)?;
        let asks_nobody = settings.role == TlsRole::Server
            && settings.verify_client_cert == VerifyClientCert::None;
        if store.certs.is_empty() && settings.peer_fingerprint.is_empty() && !asks_nobody {
            return Err(TlsError::Settings(
                "no way to know the peer: give ca, capath or peer-fingerprint".to_owned(),
            ));
        }
        if !store.certs.is_empty() && store.anchors.is_empty() {
            return Err(TlsError::Settings(
                "ca: none of the certificates in it is a self-signed root; add the root that \
                 issued them"
                    .to_owned(),
            ));
        }
        let crl = CrlState::load(settings.crl.clone(), fixed_lists).map_err(TlsError::Settings)?;

        let mut key_usage = None;
        if settings.remote_cert_tls.is_some() || !settings.remote_cert_ku.is_empty() {
            key_usage = Some(settings.remote_cert_ku.clone());
        }
        let by_side = settings.remote_cert_tls.map(|side| match side {
            RemoteCertTls::Server => EKU_SERVER.to_owned(),
            RemoteCertTls::Client => EKU_CLIENT.to_owned(),
        });
        let extended_key_usage = settings
            .remote_cert_eku
            .clone()
            .into_iter()
            .chain(by_side)
            .collect();
        let username_field = if settings.x509_username_field.is_empty() {
            vec!["CN".to_owned()]
        } else {
            settings.x509_username_field.clone()
        };
        let rules = Self {
            role: settings.role,
            hints: store
                .anchors
                .iter()
                .map(|(anchor, _)| DistinguishedName::in_sequence(&anchor.subject))
                .collect(),
            store,
            crl,
            key_usage,
            extended_key_usage,
            ns_cert_type: settings.ns_cert_type,
            x509_name: settings.verify_x509_name.clone(),
            username_field,
            fingerprints: settings.peer_fingerprint.clone(),
            hashes: settings.verify_hash.clone(),
            profile: settings.tls_cert_profile,
            client_cert: settings.verify_client_cert,
        };
        Ok((rules, warnings))
    }

    /// The revocation lists.
    pub(super) fn crl(&self) -> &CrlState {
        &self.crl
    }

    /// Whether clients are asked for certificates.
    pub(super) fn client_cert(&self) -> VerifyClientCert {
        self.client_cert
    }

    /// The names of the trust anchors, for a server to send.
    pub(super) fn hints(&self) -> &[DistinguishedName] {
        &self.hints
    }

    /// Judges a chain. Lines for the log are added to `log`, also when it is refused.
    pub(super) fn judge(
        &self,
        end_entity: &[u8],
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
        log: &mut Vec<String>,
    ) -> Result<PeerCertificate, Refusal> {
        let leaf = Certificate::from_der(end_entity).map_err(|err| Refusal {
            line: format!("VERIFY ERROR: depth=0, error={err}"),
            kind: CertificateError::BadEncoding,
        })?;
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let chain = if self.ignores_chain() {
            vec![leaf]
        } else {
            self.chain(leaf, intermediates, now, algorithms)?
        };
        let mut common_name = String::new();
        for (depth, cert) in chain.iter().enumerate().rev() {
            self.check_cert(&chain, depth, seconds, algorithms, log)?;
            if depth == 0 {
                common_name = self.username(cert)?;
                self.check_leaf(cert, &common_name, log)?;
            }
            log.push(format!("VERIFY OK: depth={depth}, {}", cert.subject));
        }
        let leaf = &chain[0];
        Ok(PeerCertificate {
            common_name,
            subject: leaf.subject.clone(),
            serial: leaf.serial.clone(),
            sha256: leaf.sha256(),
            chain,
        })
    }

    /// Fingerprints without a CA: any certificate will do as long as it is that one.
    fn ignores_chain(&self) -> bool {
        self.store.certs.is_empty() && !self.fingerprints.is_empty()
    }

    fn chain(
        &self,
        leaf: Certificate,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<Vec<Certificate>, Refusal> {
        if intermediates.len() > MAX_CHAIN {
            return Err(refuse(
                0,
                &leaf,
                "certificate chain too long",
                CertificateError::BadEncoding,
            ));
        }
        let sent: Vec<Certificate> = intermediates
            .iter()
            .filter_map(|der| Certificate::from_der(der).ok())
            .collect();
        if leaf.is_self_issued() && self.store.certs.iter().any(|known| known.der == leaf.der) {
            // The peer's own certificate is what is trusted: there is nothing to build.
            let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            check_dates(&leaf, 0, seconds)?;
            self.check_purpose(&leaf, 0)?;
            return Ok(vec![leaf]);
        }
        let helpers: Vec<&Certificate> = sent.iter().chain(&self.store.certs).collect();
        match self.webpki_chain(&leaf, &helpers, now, algorithms) {
            Ok(chain) => Ok(chain),
            Err(ChainFault::Ours(refusal)) => Err(refusal),
            Err(ChainFault::Webpki(err)) => Err(self.explain(&leaf, &helpers, &err)),
        }
    }

    fn webpki_chain(
        &self,
        leaf: &Certificate,
        helpers: &[&Certificate],
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<Vec<Certificate>, ChainFault> {
        let der = leaf.der.clone();
        let end_entity = EndEntityCert::try_from(&der).map_err(ChainFault::Webpki)?;
        let usage = match self.role {
            TlsRole::Client => webpki::KeyUsage::server_auth(),
            TlsRole::Server => webpki::KeyUsage::client_auth(),
        };
        let anchors: Vec<TrustAnchor<'_>> = self
            .store
            .anchors
            .iter()
            .map(|(anchor, _)| anchor.clone())
            .collect();
        let ders: Vec<CertificateDer<'_>> = helpers
            .iter()
            .map(|cert| CertificateDer::from(cert.der.as_ref()))
            .collect();
        // A path that our rules refuse must not hide another that they accept: each candidate is
        // judged here, and the last refusal is what is reported when none is left.
        let accepted = RefCell::new(None);
        let refused = RefCell::new(None);
        let judge = |path: &VerifiedPath<'_>| match self.candidate(leaf, helpers, path, now) {
            Ok(chain) => {
                accepted.replace(Some(chain));
                Ok(())
            }
            Err(refusal) => {
                refused.replace(Some(refusal));
                Err(webpki::Error::UnknownIssuer)
            }
        };
        let result = end_entity.verify_for_usage(
            algorithms.all,
            &anchors,
            &ders,
            now,
            usage,
            None,
            Some(&judge),
        );
        match (result.map(|_| ()), accepted.take(), refused.take()) {
            (Ok(()), Some(chain), _) => Ok(chain),
            (Err(_), _, Some(refusal)) => Err(ChainFault::Ours(refusal)),
            (Err(err), ..) => Err(ChainFault::Webpki(err)),
            (Ok(()), None, _) => Err(ChainFault::Webpki(webpki::Error::UnknownIssuer)),
        }
    }

    /// The certificates of a path webpki found, with what webpki does not check.
    fn candidate(
        &self,
        leaf: &Certificate,
        helpers: &[&Certificate],
        path: &VerifiedPath<'_>,
        now: UnixTime,
    ) -> Result<Vec<Certificate>, Refusal> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let mut chain = vec![leaf.clone()];
        for link in path.intermediate_certificates() {
            let spki = link.subject_public_key_info();
            let found = helpers.iter().find(|cert| {
                cert.spki_der == spki.as_ref()
                    && strip(&cert.serial_bytes) == strip(link.serial())
                    && cert.issuer_der.ends_with(link.issuer())
            });
            let Some(cert) = found else {
                return Err(no_issuer(leaf));
            };
            chain.push((*cert).clone());
        }
        let depth = chain.len();
        for (index, cert) in chain.iter().enumerate().skip(1) {
            if !cert.may_sign() {
                return Err(invalid_ca(index, cert));
            }
        }
        self.check_purpose(leaf, 0)?;

        // The same root may be there several times, for instance renewed with the same key.
        let same = |anchor: &TrustAnchor<'_>| {
            anchor.subject == path.anchor().subject
                && anchor.subject_public_key_info == path.anchor().subject_public_key_info
        };
        let mut refusal = None;
        for (anchor, index) in &self.store.anchors {
            if !same(anchor) {
                continue;
            }
            let root = &self.store.certs[*index];
            match self.check_root(root, depth, seconds) {
                Ok(()) => {
                    chain.push(root.clone());
                    return Ok(chain);
                }
                Err(err) => refusal = Some(err),
            }
        }
        Err(refusal.unwrap_or_else(|| no_issuer(leaf)))
    }

    fn check_root(&self, root: &Certificate, depth: usize, now: i64) -> Result<(), Refusal> {
        if !root.may_sign() {
            return Err(invalid_ca(depth, root));
        }
        check_dates(root, depth, now)?;
        let limit = root.basic_constraints.and_then(|(_, limit)| limit);
        if limit.is_some_and(|limit| depth - 1 > usize::try_from(limit).unwrap_or(usize::MAX)) {
            return Err(refuse(
                depth,
                root,
                "path length constraint exceeded",
                CertificateError::BadEncoding,
            ));
        }
        let wanted = self.wanted_eku();
        if root
            .extended_key_usage
            .as_ref()
            .is_some_and(|list| !list.iter().any(|oid| oid == wanted))
        {
            return Err(wrong_purpose(depth, root));
        }
        Ok(())
    }

    /// The purpose a certificate must allow where it says anything about it at all.
    fn check_purpose(&self, leaf: &Certificate, depth: usize) -> Result<(), Refusal> {
        let wanted = self.wanted_eku();
        let usage = match self.role {
            TlsRole::Client => KEY_USAGE_SIGN | KEY_USAGE_ENCIPHER | KEY_USAGE_AGREE,
            TlsRole::Server => KEY_USAGE_SIGN | KEY_USAGE_AGREE,
        };
        let by_eku = leaf
            .extended_key_usage
            .as_ref()
            .is_none_or(|list| list.iter().any(|oid| oid == wanted));
        let by_usage = leaf.key_usage.is_none_or(|bits| bits & usage != 0);
        let ns_type = match self.role {
            TlsRole::Client => NS_TYPE_SERVER,
            TlsRole::Server => NS_TYPE_CLIENT,
        };
        let by_type = leaf.ns_cert_type.is_none_or(|bits| bits & ns_type != 0);
        if by_eku && by_usage && by_type {
            Ok(())
        } else {
            Err(wrong_purpose(depth, leaf))
        }
    }

    fn wanted_eku(&self) -> &'static str {
        match self.role {
            TlsRole::Client => EKU_SERVER,
            TlsRole::Server => EKU_CLIENT,
        }
    }

    /// The checks that are made for every certificate of the chain.
    fn check_cert(
        &self,
        chain: &[Certificate],
        depth: usize,
        now: i64,
        algorithms: &WebPkiSupportedAlgorithms,
        log: &mut Vec<String>,
    ) -> Result<(), Refusal> {
        let cert = &chain[depth];
        let is_anchor = depth + 1 == chain.len();
        if !self.ignores_chain() {
            let mut bits = cert.key_bits();
            if !is_anchor {
                bits = bits.min(cert.signature_bits());
            }
            if bits < self.profile.min_bits() {
                let text = format!(
                    "certificate too weak for the tls-cert-profile ({}, {})",
                    cert.key,
                    cert.signature_name()
                );
                return Err(refuse(depth, cert, &text, CertificateError::BadSignature));
            }
        }

        let verdict = if self.ignores_chain() {
            self.crl.check_serial_only(cert)
        } else {
            let issuer = chain.get(depth + 1).unwrap_or(cert);
            self.crl.check(cert, issuer, now, algorithms)
        };
        match verdict {
            CrlVerdict::Good => {}
            CrlVerdict::NoList if self.crl.has_lists() => log.push(format!(
                "VERIFY WARNING: depth={depth}, unable to get certificate CRL: {}, serial={}",
                cert.subject, cert.serial
            )),
            CrlVerdict::NoList => {}
            CrlVerdict::Refused(text) => {
                let kind = if text == "certificate revoked" {
                    CertificateError::Revoked
                } else {
                    CertificateError::UnknownRevocationStatus
                };
                return Err(refuse(depth, cert, text, kind));
            }
        }

        if depth == 0 && !self.fingerprints.is_empty() {
            let digest = cert.sha256();
            if !self.fingerprints.contains(&digest) {
                return Err(own_refusal(format!(
                    "VERIFY ERROR: depth=0, the certificate's SHA-256 fingerprint {} is not among \
                     those of peer-fingerprint: {}, serial={}",
                    colon_hex(&digest),
                    cert.subject,
                    cert.serial
                )));
            }
        }
        // The certificate that signed the peer's; a chain of one has no such, and passes not.
        let is_hashed = depth == 1 || chain.len() == 1;
        if is_hashed && !self.hashes.is_empty() {
            let matches = depth == 1
                && self.hashes.iter().any(|hash| match hash {
                    CertHash::Sha1(digest) => *digest == cert.sha1(),
                    CertHash::Sha256(digest) => *digest == cert.sha256(),
                });
            if !matches {
                return Err(own_refusal(format!(
                    "VERIFY ERROR: depth={depth}, the issuer's SHA-256 fingerprint {} is not \
                     among those of verify-hash: {}, serial={}",
                    colon_hex(&cert.sha256()),
                    cert.subject,
                    cert.serial
                )));
            }
        }
        Ok(())
    }

    /// The checks that are made for the peer's own certificate.
    fn check_leaf(
        &self,
        leaf: &Certificate,
        common_name: &str,
        log: &mut Vec<String>,
    ) -> Result<(), Refusal> {
        if let Some(side) = self.ns_cert_type {
            let (bit, oid, word) = match side {
                RemoteCertTls::Server => (NS_TYPE_SERVER, EKU_SERVER, "SERVER"),
                RemoteCertTls::Client => (NS_TYPE_CLIENT, EKU_CLIENT, "CLIENT"),
            };
            let by_type = leaf.ns_cert_type.is_some_and(|bits| bits & bit != 0);
            let by_eku = leaf.ns_cert_type.is_none()
                && leaf
                    .extended_key_usage
                    .as_ref()
                    .is_some_and(|list| list.iter().any(|found| found == oid));
            if !by_type && !by_eku {
                return Err(own_refusal(format!(
                    "VERIFY nsCertType ERROR: {}, require nsCertType={word}",
                    leaf.subject
                )));
            }
            log.push(format!("VERIFY OK: nsCertType={word}"));
        }
        if let Some(masks) = &self.key_usage {
            let matches = match leaf.key_usage {
                None => false,
                Some(bits) => masks.is_empty() || masks.iter().any(|mask| bits & mask == *mask),
            };
            if !matches {
                let found = match leaf.key_usage {
                    None => "has no key usage extension".to_owned(),
                    Some(bits) => format!("has key usage {bits:04x}, none of the wanted ones"),
                };
                return Err(own_refusal(format!(
                    "VERIFY KU ERROR: {} {found}",
                    leaf.subject
                )));
            }
            log.push("VERIFY KU OK".to_owned());
        }
        for wanted in &self.extended_key_usage {
            let list = leaf.extended_key_usage.as_deref().unwrap_or_default();
            let matches = list
                .iter()
                .any(|oid| oid == wanted || names::eku_long_name(oid) == Some(wanted));
            if !matches {
                let found = match &leaf.extended_key_usage {
                    None => "has no extended key usage extension".to_owned(),
                    Some(list) => format!("has extended key usage {}", list.join(" ")),
                };
                return Err(own_refusal(format!(
                    "VERIFY EKU ERROR: {} {found}, must have {wanted}{}",
                    leaf.subject,
                    names::eku_long_name(wanted)
                        .map_or_else(String::new, |name| format!(" ({name})"))
                )));
            }
            log.push("VERIFY EKU OK".to_owned());
        }
        if let Some((name, kind)) = &self.x509_name {
            let matches = match kind {
                X509NameType::Subject => leaf.subject == *name,
                X509NameType::Name => common_name == name,
                X509NameType::NamePrefix => common_name.starts_with(name.as_str()),
            };
            if !matches {
                let must = match kind {
                    X509NameType::Subject | X509NameType::Name => "must be",
                    X509NameType::NamePrefix => "must begin with",
                };
                return Err(own_refusal(format!(
                    "VERIFY X509NAME ERROR: {}, {must} {name}",
                    leaf.subject
                )));
            }
            log.push(format!("VERIFY X509NAME OK: {}", leaf.subject));
        }
        Ok(())
    }

    /// What the peer is called: the fields of `x509-username-field`, joined by `_`.
    fn username(&self, leaf: &Certificate) -> Result<String, Refusal> {
        let mut parts = Vec::new();
        for field in &self.username_field {
            let part = match field.strip_prefix("ext:") {
                Some("subjectAltName") => leaf.emails.last().cloned(),
                Some(_) => None,
                None if field == "serialNumber" => Some(format!(
                    "0x{}",
                    colon_hex(&leaf.serial_bytes)
                        .replace(':', "")
                        .to_uppercase()
                )),
                // `cn` was good for `CN` in old configurations.
                None => leaf
                    .attribute(field)
                    .or_else(|| leaf.attribute(&field.to_uppercase())),
            };
            let Some(part) = part.filter(|text| !text.is_empty()) else {
                return Err(own_refusal(format!(
                    "VERIFY ERROR: depth=0, the certificate has no {field} in its subject: {}, \
                     serial={}",
                    leaf.subject, leaf.serial
                )));
            };
            parts.push(part);
        }
        let name = parts.join("_");
        if name.len() > names::MAX_COMMON_NAME {
            return Err(own_refusal(format!(
                "VERIFY ERROR: depth=0, {} is longer than {} bytes: {}, serial={}",
                self.username_field.join("_"),
                names::MAX_COMMON_NAME,
                leaf.subject,
                leaf.serial
            )));
        }
        Ok(name)
    }

    /// Puts webpki's error into the words and to the depth users know from OpenVPN.
    fn explain(
        &self,
        leaf: &Certificate,
        helpers: &[&Certificate],
        err: &webpki::Error,
    ) -> Refusal {
        let chain = naive_chain(leaf, helpers);
        let at = |test: &dyn Fn(&Certificate) -> bool| {
            let found = chain.iter().enumerate().find(|(_, cert)| test(cert));
            found.map_or((0, leaf), |(depth, cert)| (depth, *cert))
        };
        // What cannot be used at all is the best explanation for any other error.
        for (depth, cert) in chain.iter().enumerate() {
            let is_anchor =
                self.store.certs.iter().any(|known| known.der == cert.der) && cert.is_self_issued();
            if let Some(fault) = cert.unsupported(is_anchor && depth > 0).first() {
                return Refusal {
                    line: format!(
                        "VERIFY ERROR: depth={depth}, error=unsupported certificate: {}, \
                         serial={}: it {fault}",
                        cert.subject, cert.serial
                    ),
                    kind: CertificateError::BadEncoding,
                };
            }
        }
        match err {
            webpki::Error::CertExpired { not_after, .. } => {
                let (depth, cert) = at(&|cert| {
                    u64::try_from(cert.not_after).is_ok_and(|end| end == not_after.as_secs())
                });
                refuse(
                    depth,
                    cert,
                    "certificate has expired",
                    CertificateError::Expired,
                )
            }
            webpki::Error::CertNotValidYet { not_before, .. } => {
                let (depth, cert) = at(&|cert| {
                    u64::try_from(cert.not_before).is_ok_and(|start| start == not_before.as_secs())
                });
                refuse(
                    depth,
                    cert,
                    "certificate is not yet valid",
                    CertificateError::NotValidYet,
                )
            }
            webpki::Error::UnknownIssuer => {
                let depth = chain.len() - 1;
                let last = chain[depth];
                let text = match (last.is_self_issued(), depth) {
                    (true, 0) => "self-signed certificate",
                    (true, _) => "self-signed certificate in certificate chain",
                    (false, _) => "unable to get local issuer certificate",
                };
                refuse(depth, last, text, CertificateError::UnknownIssuer)
            }
            webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => {
                let wanted = self.wanted_eku();
                let (depth, cert) = at(&|cert| {
                    cert.extended_key_usage
                        .as_ref()
                        .is_some_and(|list| !list.iter().any(|oid| oid == wanted))
                });
                wrong_purpose(depth, cert)
            }
            webpki::Error::CaUsedAsEndEntity => refuse(
                0,
                leaf,
                "a CA certificate cannot be used as the peer's own here; issue one with CA:FALSE, \
                 or use peer-fingerprint without ca",
                CertificateError::InvalidPurpose,
            ),
            webpki::Error::EndEntityUsedAsCa => {
                let found = chain.iter().enumerate().skip(1);
                let (depth, cert) = found
                    .filter(|(_, cert)| !cert.may_sign())
                    .map(|(depth, cert)| (depth, *cert))
                    .next()
                    .unwrap_or((0, leaf));
                invalid_ca(depth, cert)
            }
            webpki::Error::InvalidSignatureForPublicKey => refuse(
                0,
                leaf,
                "certificate signature failure",
                CertificateError::BadSignature,
            ),
            webpki::Error::PathLenConstraintViolated => refuse(
                0,
                leaf,
                "path length constraint exceeded",
                CertificateError::BadEncoding,
            ),
            webpki::Error::MaximumPathDepthExceeded => refuse(
                0,
                leaf,
                "certificate chain too long",
                CertificateError::BadEncoding,
            ),
            webpki::Error::NameConstraintViolation => refuse(
                0,
                leaf,
                "permitted subtree violation",
                CertificateError::BadEncoding,
            ),
            webpki::Error::UnsupportedCriticalExtension => refuse(
                0,
                leaf,
                "unhandled critical extension",
                CertificateError::UnhandledCriticalExtension,
            ),
            other => refuse(0, leaf, &other.to_string(), CertificateError::BadEncoding),
        }
    }
}

/// A peer's certificate was refused.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// A whole line for the log.
    pub(super) line: String,
    /// Decides about the alert.
    pub(super) kind: CertificateError,
}

/// Why there is no chain: by a rule of ours, or by webpki.
enum ChainFault {
    Ours(Refusal),
    Webpki(webpki::Error),
}

/// The chain by names alone, to find the certificate an error is about.
fn naive_chain<'a>(leaf: &'a Certificate, helpers: &[&'a Certificate]) -> Vec<&'a Certificate> {
    let mut chain = vec![leaf];
    let mut last = leaf;
    while chain.len() <= MAX_CHAIN && !last.is_self_issued() {
        let Some(next) = helpers
            .iter()
            .find(|cert| cert.subject_der == last.issuer_der)
        else {
            break;
        };
        chain.push(next);
        last = next;
    }
    chain
}

fn check_dates(cert: &Certificate, depth: usize, now: i64) -> Result<(), Refusal> {
    if now > cert.not_after {
        return Err(refuse(
            depth,
            cert,
            "certificate has expired",
            CertificateError::Expired,
        ));
    }
    if now < cert.not_before {
        return Err(refuse(
            depth,
            cert,
            "certificate is not yet valid",
            CertificateError::NotValidYet,
        ));
    }
    Ok(())
}

fn no_issuer(leaf: &Certificate) -> Refusal {
    refuse(
        0,
        leaf,
        "unable to get local issuer certificate",
        CertificateError::UnknownIssuer,
    )
}

fn invalid_ca(depth: usize, cert: &Certificate) -> Refusal {
    refuse(
        depth,
        cert,
        "invalid CA certificate",
        CertificateError::UnknownIssuer,
    )
}

fn wrong_purpose(depth: usize, cert: &Certificate) -> Refusal {
    refuse(
        depth,
        cert,
        "unsuitable certificate purpose",
        CertificateError::InvalidPurpose,
    )
}

fn refuse(depth: usize, cert: &Certificate, text: &str, kind: CertificateError) -> Refusal {
    Refusal {
        line: format!(
            "VERIFY ERROR: depth={depth}, error={text}: {}, serial={}",
            cert.subject, cert.serial
        ),
        kind,
    }
}

/// A refusal by a rule of the configuration.
fn own_refusal(line: String) -> Refusal {
    Refusal {
        line,
        kind: CertificateError::ApplicationVerificationFailure,
    }
}

fn strip(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}
