//! TLS for the control channel, by rustls, and the rules for certificates.
//!
//! [`TlsContext`] is made once from the options: trust, own certificate, cipher suites, revocation
//! lists. [`TlsSession`] is one handshake and what follows it, a pump for bytes that never meets a
//! socket. Who the peer may be is decided in `verify`, on top of webpki, by OpenVPN's rules.
//!
//! ```text
//!   reliable layer --write_ciphertext--> +---------+ --read_plaintext--> key exchange, push
//!                                        | rustls  |
//!   reliable layer <--read_ciphertext--- +---------+ <-write_plaintext-- messages
//!                                             | export -> data keys, dynamic tls-crypt
//! ```
//!
//! Nothing here sends SNI, resumes a session, hands out a ticket or waits for a close.

pub mod certs;
pub mod crl;
pub mod inspect;
pub mod keys;
mod kx;
pub mod names;
mod pump;
mod rules;
pub mod suites;
mod trust;
mod verify;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::proto::TlsRole;
use certs::{Certificate, certificates_from_pem, public_key_parts};
use rules::Rules;
use verify::PeerVerifier;

pub use certs::{PeerCertificate, cert_env};
pub use crl::CrlSource;
pub use pump::TlsSession;
pub use suites::TlsVersion;

/// Everything the configuration says about TLS, with files already read.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// `tls-client` or `tls-server`.
    pub role: TlsRole,
    /// `ca`: PEM, may be empty.
    pub ca: Vec<u8>,
    /// `capath`: a directory with `HASH.N` certificates and `HASH.rN` revocation lists.
    pub ca_path: Option<PathBuf>,
    /// `cert`: PEM, the own certificate first, intermediates after it.
    pub cert: Option<Vec<u8>>,
    /// `key`: PEM.
    pub key: Option<Vec<u8>>,
    /// The password for an encrypted `key`.
    pub key_password: Option<Zeroizing<String>>,
    /// `extra-certs`: PEM, sent after `cert`.
    pub extra_certs: Option<Vec<u8>>,
    /// `pkcs12`: refused with a hint.
    pub pkcs12: bool,
    /// `remote-cert-tls`
    pub remote_cert_tls: Option<RemoteCertTls>,
    /// `remote-cert-ku`: masks, one of which must be contained in the peer's key usage.
    pub remote_cert_ku: Vec<u16>,
    /// `remote-cert-eku`: long name or object identifier.
    pub remote_cert_eku: Option<String>,
    /// `ns-cert-type`
    pub ns_cert_type: Option<RemoteCertTls>,
    /// `verify-x509-name`
    pub verify_x509_name: Option<(String, X509NameType)>,
    /// `x509-username-field`: fields whose values are joined by `_`; empty means `CN`.
    pub x509_username_field: Vec<String>,
    /// `peer-fingerprint`: SHA-256 digests of certificates the peer may show.
    pub peer_fingerprint: Vec<[u8; 32]>,
    /// `verify-hash`: digests of certificates that may sign the peer's.
    pub verify_hash: Vec<CertHash>,
    /// `crl-verify`
    pub crl: Option<CrlSource>,
    /// `tls-version-min`; TLS 1.2 by default. `or-highest` changes nothing, 1.3 always being there.
    pub tls_version_min: Option<TlsVersion>,
    /// `tls-version-max`
    pub tls_version_max: Option<TlsVersion>,
    /// `tls-cipher`: suites for TLS 1.2.
    pub tls_cipher: Option<String>,
    /// `tls-ciphersuites`: suites for TLS 1.3.
    pub tls_ciphersuites: Option<String>,
    /// `tls-groups`
    pub tls_groups: Option<String>,
    /// `tls-cert-profile`
    pub tls_cert_profile: CertProfile,
    /// `verify-client-cert`, servers only.
    pub verify_client_cert: VerifyClientCert,
}

impl TlsSettings {
    /// Settings where no option is given.
    #[must_use]
    pub fn new(role: TlsRole) -> Self {
        Self {
            role,
            ca: Vec::new(),
            ca_path: None,
            cert: None,
            key: None,
            key_password: None,
            extra_certs: None,
            pkcs12: false,
            remote_cert_tls: None,
            remote_cert_ku: Vec::new(),
            remote_cert_eku: None,
            ns_cert_type: None,
            verify_x509_name: None,
            x509_username_field: Vec::new(),
            peer_fingerprint: Vec::new(),
            verify_hash: Vec::new(),
            crl: None,
            tls_version_min: None,
            tls_version_max: None,
            tls_cipher: None,
            tls_ciphersuites: None,
            tls_groups: None,
            tls_cert_profile: CertProfile::Legacy,
            verify_client_cert: VerifyClientCert::Require,
        }
    }
}

/// The side a peer's certificate must be made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteCertTls {
    /// A TLS server certificate.
    Server,
    /// A TLS client certificate.
    Client,
}

impl FromStr for RemoteCertTls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "server" => Ok(Self::Server),
            "client" => Ok(Self::Client),
            _ => Err(format!("{text:?} is neither \"server\" nor \"client\"")),
        }
    }
}

/// What `verify-x509-name` compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum X509NameType {
    /// The whole subject, such as `C=DE, O=Example, CN=gw1`.
    Subject,
    /// The common name, exactly.
    Name,
    /// The beginning of the common name.
    NamePrefix,
}

impl FromStr for X509NameType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "subject" => Ok(Self::Subject),
            "name" => Ok(Self::Name),
            "name-prefix" => Ok(Self::NamePrefix),
            _ => Err(format!(
                "{text:?} is none of \"subject\", \"name\", \"name-prefix\""
            )),
        }
    }
}

/// A certificate digest of `verify-hash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertHash {
    /// SHA-1
    Sha1([u8; 20]),
    /// SHA-256
    Sha256([u8; 32]),
}

/// `tls-cert-profile`: how strong keys and signatures of a chain must be. RSA below 2048 bits and
/// SHA-1 are refused by all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertProfile {
    /// As strong as anything that works here.
    Insecure,
    /// Likewise; the default.
    Legacy,
    /// 112 bits: RSA from 2048 bits.
    Preferred,
    /// 128 bits: RSA from 3072 bits, curves from 256.
    SuiteB,
}

impl FromStr for CertProfile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "insecure" => Ok(Self::Insecure),
            "legacy" => Ok(Self::Legacy),
            "preferred" => Ok(Self::Preferred),
            "suiteb" => Ok(Self::SuiteB),
            _ => Err(format!("unknown certificate profile {text:?}")),
        }
    }
}

impl CertProfile {
    /// The strength that every key and signature must have, in bits.
    #[must_use]
    pub fn min_bits(self) -> usize {
        match self {
            Self::Insecure => 0,
            Self::Legacy => 80,
            Self::Preferred => 112,
            Self::SuiteB => 128,
        }
    }
}

/// `verify-client-cert`: whether a server wants certificates from its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyClientCert {
    /// A client without a certificate is refused.
    Require,
    /// A client may come without; a certificate it shows must be good.
    Optional,
    /// No certificate is asked for.
    None,
}

impl FromStr for VerifyClientCert {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "require" => Ok(Self::Require),
            "optional" => Ok(Self::Optional),
            "none" => Ok(Self::None),
            _ => Err(format!(
                "{text:?} is none of \"require\", \"optional\", \"none\""
            )),
        }
    }
}

/// Why TLS failed, by whose fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// Options or files: nothing can be started with them.
    #[error("{0}")]
    Settings(String),
    /// The private key is encrypted and there is no password.
    #[error("key: the private key is encrypted and needs a password (askpass)")]
    KeyPasswordMissing,
    /// The password does not open the private key.
    #[error("key: the password for the private key is wrong")]
    KeyPasswordWrong,
    /// The peer's certificate was refused. The text is a whole log line.
    #[error("{0}")]
    Verify(String),
    /// The peer broke the protocol, speaks none we do, or refused us.
    #[error("TLS Error: {0}")]
    Peer(String),
    /// Called out of turn.
    #[error("TLS misuse: {0}")]
    Misuse(&'static str),
}

/// Trust, own identity and preferences, made once and shared by all sessions.
#[derive(Debug)]
pub struct TlsContext {
    config: Config,
    rules: Arc<Rules>,
}

/// What the TLS library makes of the settings; one serves all sessions.
#[derive(Debug)]
enum Config {
    Client(Arc<ClientConfig>),
    Server(Arc<ServerConfig>),
}

impl TlsContext {
    /// Checks and prepares everything. The strings are warnings for the log, one line each.
    ///
    /// # Errors
    /// One line naming the option and what is wrong with it.
    pub fn new(settings: &TlsSettings) -> Result<(Self, Vec<String>), TlsError> {
        let mut warnings = Vec::new();
        if settings.pkcs12 {
            return Err(TlsError::Settings(
                "pkcs12: not supported; extract its parts with \"openssl pkcs12\" and name them \
                 in ca, cert and key"
                    .to_owned(),
            ));
        }
        let versions = suites::versions(
            settings.tls_version_min,
            settings.tls_version_max,
            &mut warnings,
        )?;
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites = suites::cipher_suites(
            settings.tls_cipher.as_deref(),
            settings.tls_ciphersuites.as_deref(),
            &mut warnings,
        )?;
        provider.kx_groups = suites::groups(settings.tls_groups.as_deref(), &mut warnings)?;

        let (rules, more) = Rules::new(settings)?;
        warnings.extend(more);
        let rules = Arc::new(rules);
        let identity = own_identity(settings, &provider, &mut warnings)?;
        let config = match settings.role {
            TlsRole::Client => Config::client(provider, &versions, &rules, identity)?,
            TlsRole::Server => Config::server(provider, &versions, &rules, identity)?,
        };
        let context = Self { config, rules };
        // Whatever a handshake could fail with from the start shows now, not at the first peer.
        context.session()?;
        Ok((context, warnings))
    }

    /// A new session, for one handshake.
    ///
    /// # Errors
    /// None in practice: the same settings passed [`TlsContext::new`].
    pub fn session(&self) -> Result<TlsSession, TlsError> {
        match &self.config {
            Config::Client(config) => TlsSession::client(Arc::clone(config)),
            Config::Server(config) => TlsSession::server(Arc::clone(config)),
        }
        .map_err(unusable)
    }

    /// Reads the `crl-verify` file again when it changed. `None`: it did not. Otherwise a line for
    /// the log; after an error the old lists stay in use.
    pub fn reload_crl_if_changed(&self) -> Option<Result<String, String>> {
        self.rules.crl().reload_if_changed()
    }
}

impl Config {
    fn client(
        provider: CryptoProvider,
        versions: &[&'static SupportedProtocolVersion],
        rules: &Arc<Rules>,
        identity: Option<CertifiedKey>,
    ) -> Result<Self, TlsError> {
        let verifier = verifier(rules, &provider);
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
            }
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(Self::Client(Arc::new(config)))
    }

    fn server(
        provider: CryptoProvider,
        versions: &[&'static SupportedProtocolVersion],
        rules: &Arc<Rules>,
        identity: Option<CertifiedKey>,
    ) -> Result<Self, TlsError> {
        let Some(identity) = identity else {
            return Err(TlsError::Settings(
                "cert: a TLS server needs a certificate and a key".to_owned(),
            ));
        };
        let verifier = verifier(rules, &provider);
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self::Server(Arc::new(config)))
    }
}

fn verifier(rules: &Arc<Rules>, provider: &CryptoProvider) -> Arc<PeerVerifier> {
    Arc::new(PeerVerifier::new(
        Arc::clone(rules),
        provider.signature_verification_algorithms,
    ))
}

fn unusable(err: rustls::Error) -> TlsError {
    TlsError::Settings(format!("TLS: {err}"))
}

/// Certificate chain and key as they are shown to the peer.
fn own_identity(
    settings: &TlsSettings,
    provider: &CryptoProvider,
    warnings: &mut Vec<String>,
) -> Result<Option<CertifiedKey>, TlsError> {
    let (cert, key) = match (&settings.cert, &settings.key) {
        (Some(cert), Some(key)) => (cert, key),
        (None, None) => return Ok(None),
        (Some(_), None) => {
            return Err(TlsError::Settings("cert is given without key".to_owned()));
        }
        (None, Some(_)) => {
            return Err(TlsError::Settings("key is given without cert".to_owned()));
        }
    };
    let mut chain =
        certificates_from_pem(cert).map_err(|err| TlsError::Settings(format!("cert: {err}")))?;
    if chain.is_empty() {
        return Err(TlsError::Settings(
            "cert: no certificate found in it".to_owned(),
        ));
    }
    if let Some(extra) = &settings.extra_certs {
        chain.extend(
            certificates_from_pem(extra)
                .map_err(|err| TlsError::Settings(format!("extra-certs: {err}")))?,
        );
    }
    let leaf = &chain[0];
    // An unusable key cannot sign; other faults (v1, SHA-1) are for the peer to judge.
    if let Some(fault) = leaf.unsupported(true).first() {
        return Err(TlsError::Settings(format!(
            "cert: the certificate {} {fault}",
            leaf.subject
        )));
    }
    for fault in leaf.unsupported(false) {
        warnings.push(format!("WARNING: cert: {} {fault}", leaf.subject));
    }
    let profile = settings.tls_cert_profile;
    let mut bits = leaf.key_bits();
    if profile > CertProfile::Legacy {
        bits = bits.min(leaf.signature_bits());
    }
    if bits < profile.min_bits() {
        return Err(TlsError::Settings(format!(
            "cert: {} is too weak for the tls-cert-profile ({}, {})",
            leaf.subject,
            leaf.key,
            leaf.signature_name()
        )));
    }
    warnings.extend(own_time_warning(leaf, now_unix()));

    let der = keys::private_key(key, settings.key_password.as_deref().map(String::as_str))?;
    let signing = provider
        .key_provider
        .load_private_key(der)
        .map_err(|err| TlsError::Settings(format!("key: cannot use this private key ({err})")))?;
    if let Some(public) = signing.public_key()
        && public_key_parts(&public).map(|parts| parts.1)
            != public_key_parts(&leaf.spki_der).map(|parts| parts.1)
    {
        return Err(TlsError::Settings(format!(
            "key: the private key does not belong to the certificate {}",
            leaf.subject
        )));
    }
    let ders: Vec<CertificateDer<'static>> = chain.into_iter().map(|cert| cert.der).collect();
    Ok(Some(CertifiedKey::new(ders, signing)))
}

fn own_time_warning(leaf: &Certificate, now: i64) -> Option<String> {
    if now > leaf.not_after {
        Some(format!("Your certificate has expired! ({})", leaf.subject))
    } else if now < leaf.not_before {
        Some(format!(
            "Your certificate is not yet valid! ({})",
            leaf.subject
        ))
    } else {
        None
    }
}

/// Says when our own certificate has expired: no peer that verifies it will talk to us. `None` with
/// `peer-fingerprint`, whose users go by the certificate alone and take no notice of dates.
pub fn own_expired(settings: &TlsSettings) -> Option<String> {
    if !settings.peer_fingerprint.is_empty() {
        return None;
    }
    let leaf = certificates_from_pem(settings.cert.as_deref()?).ok()?;
    let leaf = leaf.first()?;
    (now_unix() > leaf.not_after).then(|| {
        format!(
            "cert: the certificate {} has expired; renew it",
            leaf.subject
        )
    })
}

/// Seconds since 1970.
fn now_unix() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
