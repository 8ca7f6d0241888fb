//! Certificates: reading PEM, an owned description of what a certificate says, and the variables
//! scripts get about it.
//!
//! Nothing here decides about trust; see `verify`. A certificate that cannot be used at all is
//! still described, so that the reason can be named.

use std::fmt;

use aws_lc_rs::digest;
use base64::Engine as _;
use rustls_pki_types::CertificateDer;
use sha1::Digest as _;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use super::names::{self, NameAttribute};

/// One certificate, parsed once and owned.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The encoded certificate.
    pub der: CertificateDer<'static>,
    /// The subject as one line, safe to print (see [`names::subject_line`]).
    pub subject: String,
    /// The issuer, likewise.
    pub issuer: String,
    /// The attributes of the subject, in order.
    pub attributes: Vec<NameAttribute>,
    /// Serial number in decimal.
    pub serial: String,
    /// Serial number as bytes, without leading zero.
    pub serial_bytes: Vec<u8>,
    /// Start of validity, in seconds since 1970.
    pub not_before: i64,
    /// End of validity, in seconds since 1970.
    pub not_after: i64,
    /// X.509 version, 1 to 3.
    pub version: u32,
    /// What kind of key the certificate is for.
    pub key: KeyKind,
    /// Object identifier of the signature algorithm.
    pub signature_oid: String,
    /// Basic constraints: is a CA, and how many CAs may follow.
    pub basic_constraints: Option<(bool, Option<u32>)>,
    /// Key usage as OpenVPN counts it: `digitalSignature` is 0x80, `keyCertSign` 0x04.
    pub key_usage: Option<u16>,
    /// Extended key usages in dotted form.
    pub extended_key_usage: Option<Vec<String>>,
    /// Netscape certificate type: client 0x80, server 0x40.
    pub ns_cert_type: Option<u8>,
    /// E-mail addresses among the subject alternative names.
    pub emails: Vec<String>,
    /// Encoded subject, issuer and public key, for comparison.
    pub(crate) subject_der: Vec<u8>,
    pub(crate) issuer_der: Vec<u8>,
    pub(crate) spki_der: Vec<u8>,
}

/// The kind and size of a public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA with a modulus of so many bits.
    Rsa(usize),
    /// RSA restricted to PSS signatures (`id-RSASSA-PSS`).
    RsaPss,
    /// An elliptic curve by name, with its bits.
    Ec(&'static str, usize),
    /// Ed25519.
    Ed25519,
    /// Ed448.
    Ed448,
    /// DSA.
    Dsa,
    /// ML-DSA with its parameter set.
    MlDsa(u16),
    /// Anything else, by object identifier.
    Other(String),
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "{bits} bits RSA"),
            Self::RsaPss => f.write_str("RSA-PSS"),
            Self::Ec(name, bits) => write!(f, "{bits} bits EC{name}"),
            Self::Ed25519 => f.write_str("253 bits ED25519"),
            Self::Ed448 => f.write_str("456 bits ED448"),
            Self::Dsa => f.write_str("DSA"),
            Self::MlDsa(set) => write!(f, "ML-DSA-{set}"),
            Self::Other(oid) => write!(f, "unknown key type {oid}"),
        }
    }
}

impl Certificate {
    /// Describes one encoded certificate.
    ///
    /// # Errors
    /// A sentence when the bytes are no certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        let (rest, cert) = X509Certificate::from_der(der)
            .map_err(|err| format!("not a valid X.509 certificate ({err})"))?;
        if !rest.is_empty() {
            return Err("not a valid X.509 certificate (data follows it)".to_owned());
        }
        let attributes = names::attributes(cert.subject());
        let serial_bytes = strip_zeros(cert.raw_serial());
        let mut out = Self {
            der: CertificateDer::from(der.to_vec()),
            subject: names::subject_line(&attributes),
            issuer: names::subject_line(&names::attributes(cert.issuer())),
            attributes,
            serial: cert.tbs_certificate.serial.to_string(),
            serial_bytes,
            not_before: cert.validity().not_before.timestamp(),
            not_after: cert.validity().not_after.timestamp(),
            version: cert.version().0 + 1,
            key: key_kind(cert.public_key()),
            signature_oid: names::oid_text(cert.signature_algorithm.oid()),
            basic_constraints: None,
            key_usage: None,
            extended_key_usage: None,
            ns_cert_type: None,
            emails: Vec::new(),
            subject_der: cert.subject().as_raw().to_vec(),
            issuer_der: cert.issuer().as_raw().to_vec(),
            spki_der: cert.public_key().raw.to_vec(),
        };
        for extension in cert.extensions() {
            let oid = names::oid_text(&extension.oid);
            match extension.parsed_extension() {
                // What decides about trust must be understood; the rest may be odd.
                ParsedExtension::ParseError { error } if DECISIVE_EXTENSIONS.contains(&&*oid) => {
                    return Err(format!("its extension {oid} cannot be read ({error})"));
                }
                parsed => out.take_extension(parsed),
            }
        }
        Ok(out)
    }

    /// Whether subject and issuer are the same name.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.subject_der == self.issuer_der
    }

    /// Whether this certificate may sign others: a CA by its basic constraints, or a self-issued
    /// certificate of the time before there were extensions.
    #[must_use]
    pub fn may_sign(&self) -> bool {
        let usage = self
            .key_usage
            .is_none_or(|bits| bits & KEY_USAGE_CERT_SIGN != 0);
        match self.basic_constraints {
            Some((ca, _)) => ca && usage,
            None => {
                (self.version == 1 && self.is_self_issued()) || self.key_usage.is_some() && usage
            }
        }
    }

    /// SHA-256 over the encoded certificate.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, &self.der).as_ref());
        out
    }

    /// SHA-1 over the encoded certificate, for scripts and old configurations.
    #[must_use]
    pub fn sha1(&self) -> [u8; 20] {
        sha1::Sha1::digest(&self.der).into()
    }

    /// The last subject attribute called `name` (short, long or dotted), printable.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<String> {
        self.attributes
            .iter()
            .rev()
            .find(|attribute| attribute.is_named(name))
            .map(|attribute| names::printable(&attribute.value))
    }

    /// The common name of the subject.
    #[must_use]
    pub fn common_name(&self) -> Option<String> {
        self.attribute("CN")
    }

    /// The name of the signature algorithm.
    #[must_use]
    pub fn signature_name(&self) -> &str {
        signature_algorithm(&self.signature_oid).map_or(&self.signature_oid, |(name, _)| name)
    }

    /// Strength of the signature's digest in bits, as security levels count it.
    #[must_use]
    pub fn signature_bits(&self) -> usize {
        signature_algorithm(&self.signature_oid).map_or(0, |(_, bits)| bits)
    }

    /// Strength of the key in bits, as security levels count it.
    #[must_use]
    pub fn key_bits(&self) -> usize {
        match &self.key {
            KeyKind::Rsa(bits) => match bits {
                0..1024 => 0,
                1024..2048 => 80,
                2048..3072 => 112,
                3072..7680 => 128,
                7680..15360 => 192,
                _ => 256,
            },
            KeyKind::Ec(_, bits) => bits / 2,
            KeyKind::Ed25519 | KeyKind::MlDsa(44) => 128,
            KeyKind::MlDsa(65) => 192,
            KeyKind::Ed448 => 224,
            KeyKind::MlDsa(_) => 256,
            KeyKind::RsaPss | KeyKind::Dsa | KeyKind::Other(_) => 0,
        }
    }

    /// What about this certificate cannot be used here, each as the end of the sentence
    /// "certificate CN=… …". A trust anchor is only judged by its key: its signature and version
    /// are not looked at.
    #[must_use]
    pub fn unsupported(&self, is_anchor: bool) -> Vec<String> {
        let mut out = Vec::new();
        if !is_anchor && self.version < 3 {
            out.push(format!(
                "is X.509 v{}, which cannot say what it may be used for and is refused; \
                 reissue it as v3",
                self.version
            ));
        }
        match &self.key {
            KeyKind::Rsa(bits) if *bits < 2048 => out.push(format!(
                "has an RSA key of {bits} bits, which is too weak and refused; reissue it with \
                 at least 2048 bits"
            )),
            KeyKind::Rsa(bits) if *bits > 8192 => out.push(format!(
                "has an RSA key of {bits} bits, more than the 8192 that can be verified; reissue \
                 it with a smaller key"
            )),
            KeyKind::Ec("secp256r1" | "secp384r1" | "secp521r1", _)
            | KeyKind::Rsa(_)
            | KeyKind::Ed25519
            | KeyKind::MlDsa(_) => {}
            other @ (KeyKind::RsaPss
            | KeyKind::Ec(..)
            | KeyKind::Ed448
            | KeyKind::Dsa
            | KeyKind::Other(_)) => out.push(format!(
                "has a key of a kind that is not supported ({other}); reissue it with RSA, \
                 ECDSA on P-256, P-384 or P-521, or Ed25519"
            )),
        }
        if !is_anchor && !is_supported_signature(&self.signature_oid) {
            out.push(format!(
                "is signed with {}, which is {}; reissue it with SHA-256",
                self.signature_name(),
                if self.signature_bits() > 0 && self.signature_bits() < 112 {
                    "too weak and refused"
                } else {
                    "not supported"
                }
            ));
        }
        out
    }

    fn take_extension(&mut self, extension: &ParsedExtension<'_>) {
        match extension {
            ParsedExtension::BasicConstraints(value) => {
                self.basic_constraints = Some((value.ca, value.path_len_constraint));
            }
            ParsedExtension::KeyUsage(value) => {
                self.key_usage = Some(openvpn_key_usage(value.flags));
            }
            ParsedExtension::ExtendedKeyUsage(value) => {
                let flags = [
                    (value.server_auth, EKU_SERVER),
                    (value.client_auth, EKU_CLIENT),
                    (value.code_signing, "1.3.6.1.5.5.7.3.3"),
                    (value.email_protection, "1.3.6.1.5.5.7.3.4"),
                    (value.time_stamping, "1.3.6.1.5.5.7.3.8"),
                    (value.ocsp_signing, "1.3.6.1.5.5.7.3.9"),
                    (value.any, "2.5.29.37.0"),
                ];
                let mut list: Vec<String> = flags
                    .iter()
                    .filter(|(set, _)| *set)
                    .map(|(_, oid)| (*oid).to_owned())
                    .collect();
                list.extend(value.other.iter().map(names::oid_text));
                self.extended_key_usage = Some(list);
            }
            ParsedExtension::NSCertType(value) => {
                let client = if value.ssl_client() {
                    NS_TYPE_CLIENT
                } else {
                    0
                };
                let server = if value.ssl_server() {
                    NS_TYPE_SERVER
                } else {
                    0
                };
                self.ns_cert_type = Some(client | server);
            }
            ParsedExtension::SubjectAlternativeName(value) => {
                self.emails = value
                    .general_names
                    .iter()
                    .filter_map(|name| match name {
                        GeneralName::RFC822Name(email) => Some(names::printable(email)),
                        _ => None,
                    })
                    .collect();
            }
            _ => {}
        }
    }
}

/// Basic constraints, key usage, extended key usage, Netscape certificate type.
const DECISIVE_EXTENSIONS: [&str; 4] = [
    "2.5.29.19",
    "2.5.29.15",
    "2.5.29.37",
    "2.16.840.1.113730.1.1",
];

/// Extended key usage "TLS server", dotted.
pub const EKU_SERVER: &str = "1.3.6.1.5.5.7.3.1";
/// Extended key usage "TLS client", dotted.
pub const EKU_CLIENT: &str = "1.3.6.1.5.5.7.3.2";

/// Key usage bit `digitalSignature`, as in [`Certificate::key_usage`].
pub const KEY_USAGE_SIGN: u16 = 0x80;
/// Key usage bit `keyEncipherment`.
pub const KEY_USAGE_ENCIPHER: u16 = 0x20;
/// Key usage bit `keyAgreement`.
pub const KEY_USAGE_AGREE: u16 = 0x08;
/// Key usage bit `keyCertSign`.
pub const KEY_USAGE_CERT_SIGN: u16 = 0x04;
/// Key usage bit `cRLSign`.
pub const KEY_USAGE_CRL_SIGN: u16 = 0x02;

/// Netscape certificate type "SSL client", as in [`Certificate::ns_cert_type`].
pub const NS_TYPE_CLIENT: u8 = 0x80;
/// Netscape certificate type "SSL server".
pub const NS_TYPE_SERVER: u8 = 0x40;

/// The far end as its certificates describe it.
#[derive(Clone, Debug)]
pub struct PeerCertificate {
    /// The common name, or what `x509-username-field` chose instead; printable, at most
    /// [`names::MAX_COMMON_NAME`] bytes.
    pub common_name: String,
    /// The subject as one line.
    pub subject: String,
    /// Serial number in decimal.
    pub serial: String,
    /// SHA-256 over the encoded certificate.
    pub sha256: [u8; 32],
    /// The verified chain: the peer's own certificate first (depth 0), the trust anchor last.
    pub chain: Vec<Certificate>,
}

/// The variables scripts get about a verified chain, depth 0 first: `X509_{depth}_{field}` (a
/// repeated field gets `_1`, `_2`, ... appended), `tls_id_{depth}`, `tls_serial_{depth}`,
/// `tls_serial_hex_{depth}`, `tls_digest_{depth}` and `tls_digest_sha256_{depth}`.
#[must_use]
pub fn cert_env(chain: &[Certificate]) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    for (depth, cert) in chain.iter().enumerate() {
        for attribute in &cert.attributes {
            let Some((short, _)) = attribute.known else {
                continue;
            };
            let base = format!("X509_{depth}_{short}");
            let mut name = base.clone();
            let mut counter = 0;
            while out.iter().any(|(taken, _)| *taken == name) {
                counter += 1;
                name = format!("{base}_{counter}");
            }
            out.push((name, names::printable(&attribute.value)));
        }
        let digest = colon_hex(&cert.sha256());
        out.push((format!("tls_id_{depth}"), cert.subject.clone()));
        out.push((format!("tls_serial_{depth}"), cert.serial.clone()));
        out.push((
            format!("tls_serial_hex_{depth}"),
            colon_hex(&cert.serial_bytes),
        ));
        out.push((format!("tls_digest_{depth}"), colon_hex(&cert.sha1())));
        out.push((format!("tls_digest_sha256_{depth}"), digest));
    }
    out
}

/// Lower-case hexadecimal with colons, `0a:1b`.
#[must_use]
pub fn colon_hex(bytes: &[u8]) -> String {
    let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

/// All certificates in a PEM text, which may hold other things too. Not an error when there are
/// none.
///
/// # Errors
/// A sentence naming what is wrong with the PEM or with which certificate.
pub fn certificates_from_pem(text: &[u8]) -> Result<Vec<Certificate>, String> {
    let mut out = Vec::new();
    for block in pem_blocks(text)? {
        let der: &[u8] = match block.label.as_str() {
            "CERTIFICATE" | "X509 CERTIFICATE" => &block.data,
            "TRUSTED CERTIFICATE" => first_element(&block.data),
            _ => continue,
        };
        let number = out.len() + 1;
        out.push(Certificate::from_der(der).map_err(|err| format!("certificate {number}: {err}"))?);
    }
    Ok(out)
}

/// One block of a PEM file.
pub(crate) struct PemBlock {
    /// What stands after `BEGIN`.
    pub(crate) label: String,
    /// RFC 1421 headers, such as `Proc-Type`.
    pub(crate) headers: Vec<(String, String)>,
    /// The decoded body: it may be a private key.
    pub(crate) data: Zeroizing<Vec<u8>>,
}

/// Cuts a PEM text into blocks; text around them is ignored.
pub(crate) fn pem_blocks(text: &[u8]) -> Result<Vec<PemBlock>, String> {
    let mut out = Vec::new();
    let mut open: Option<PemBlock> = None;
    for raw in text.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let line = raw.trim_ascii();
        if let Some(label) = marker(line, b"-----BEGIN ") {
            open = Some(PemBlock {
                label,
                headers: Vec::new(),
                data: Zeroizing::default(),
            });
        } else if let Some(label) = marker(line, b"-----END ") {
            let Some(begun) = open.take() else {
                return Err(format!("PEM: \"END {label}\" without its beginning"));
            };
            if begun.label != label {
                return Err(format!(
                    "PEM: \"BEGIN {}\" is closed by \"END {label}\"",
                    begun.label
                ));
            }
            let data = base64::engine::general_purpose::STANDARD
                .decode(begun.data.as_slice())
                .map_err(|err| format!("PEM block \"{label}\" is not valid base64 ({err})"))?;
            out.push(PemBlock {
                label,
                headers: begun.headers,
                data: Zeroizing::new(data),
            });
        } else if let Some(PemBlock { headers, data, .. }) = &mut open {
            match line.iter().position(|byte| *byte == b':') {
                Some(colon) => headers.push((
                    String::from_utf8_lossy(&line[..colon]).trim().to_owned(),
                    String::from_utf8_lossy(&line[colon + 1..])
                        .trim()
                        .to_owned(),
                )),
                None => data.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace())),
            }
        }
    }
    match open {
        Some(block) => Err(format!("PEM block \"{}\" has no end", block.label)),
        None => Ok(out),
    }
}

/// The parts of a signed structure (certificate, CRL): what is signed, the algorithm identifier's
/// contents, and the signature.
pub(crate) fn signed_parts(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (outer, rest) = element(der, 0x30)?;
    if !rest.is_empty() {
        return None;
    }
    let (_, after_signed) = element(outer, 0x30)?;
    let signed = &outer[..outer.len() - after_signed.len()];
    let (algorithm, after_algorithm) = element(after_signed, 0x30)?;
    let (bits, rest) = element(after_algorithm, 0x03)?;
    match bits.split_first() {
        Some((0, signature)) if rest.is_empty() => Some((signed, algorithm, signature)),
        _ => None,
    }
}

/// The parts of a `SubjectPublicKeyInfo`: the algorithm identifier's contents and the key.
pub(crate) fn public_key_parts(spki: &[u8]) -> Option<(&[u8], &[u8])> {
    let (inner, _) = element(spki, 0x30)?;
    let (algorithm, rest) = element(inner, 0x30)?;
    let (bits, _) = element(rest, 0x03)?;
    match bits.split_first() {
        Some((0, key)) => Some((algorithm, key)),
        _ => None,
    }
}

/// One DER element with this tag: contents, and what follows.
fn element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 || rest.len() < count {
            return None;
        }
        let (bytes, rest) = rest.split_at(count);
        let length = bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        (length, rest)
    };
    (rest.len() >= length).then(|| rest.split_at(length))
}

fn first_element(der: &[u8]) -> &[u8] {
    match element(der, 0x30) {
        Some((_, rest)) => &der[..der.len() - rest.len()],
        None => der,
    }
}

fn marker(line: &[u8], start: &[u8]) -> Option<String> {
    let label = line.strip_prefix(start)?.strip_suffix(b"-----")?;
    Some(String::from_utf8_lossy(label).into_owned())
}

fn strip_zeros(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes[zeros.min(bytes.len().saturating_sub(1))..].to_vec()
}

/// Bits 0 to 7 of the extension from the top of a byte, bit 8 (`decipherOnly`) when it is alone.
fn openvpn_key_usage(flags: u16) -> u16 {
    let low = (0..8)
        .filter(|bit| flags & (1 << bit) != 0)
        .fold(0, |sum, bit| sum | 0x80 >> bit);
    if low == 0 && flags & 0x100 != 0 {
        0x8000
    } else {
        low
    }
}

fn key_kind(spki: &SubjectPublicKeyInfo<'_>) -> KeyKind {
    let oid = names::oid_text(spki.algorithm.oid());
    match oid.as_str() {
        "1.2.840.113549.1.1.1" => match spki.parsed() {
            Ok(PublicKey::RSA(key)) => {
                let modulus = strip_zeros(key.modulus);
                let top = modulus
                    .first()
                    .map_or(0, |byte| byte.leading_zeros() as usize);
                KeyKind::Rsa((modulus.len() * 8).saturating_sub(top))
            }
            _ => KeyKind::Other(oid),
        },
        "1.2.840.113549.1.1.10" => KeyKind::RsaPss,
        "1.2.840.10045.2.1" => {
            let curve = spki
                .algorithm
                .parameters()
                .and_then(|value| value.as_oid().ok())
                .map(|value| names::oid_text(&value));
            match curve.as_deref() {
                Some("1.2.840.10045.3.1.7") => KeyKind::Ec("secp256r1", 256),
                Some("1.3.132.0.34") => KeyKind::Ec("secp384r1", 384),
                Some("1.3.132.0.35") => KeyKind::Ec("secp521r1", 521),
                Some("1.3.132.0.10") => KeyKind::Ec("secp256k1", 256),
                Some("1.3.132.0.33") => KeyKind::Ec("secp224r1", 224),
                Some("1.3.36.3.3.2.8.1.1.7") => KeyKind::Ec("brainpoolP256r1", 256),
                Some("1.3.36.3.3.2.8.1.1.11") => KeyKind::Ec("brainpoolP384r1", 384),
                Some("1.3.36.3.3.2.8.1.1.13") => KeyKind::Ec("brainpoolP512r1", 512),
                Some(other) => KeyKind::Other(format!("EC curve {other}")),
                None => KeyKind::Other("EC with explicit parameters".to_owned()),
            }
        }
        "1.3.101.112" => KeyKind::Ed25519,
        "1.3.101.113" => KeyKind::Ed448,
        "1.2.840.10040.4.1" => KeyKind::Dsa,
        "2.16.840.1.101.3.4.3.17" => KeyKind::MlDsa(44),
        "2.16.840.1.101.3.4.3.18" => KeyKind::MlDsa(65),
        "2.16.840.1.101.3.4.3.19" => KeyKind::MlDsa(87),
        _ => KeyKind::Other(oid),
    }
}

fn signature_algorithm(oid: &str) -> Option<(&'static str, usize)> {
    SIGNATURES
        .iter()
        .find(|(dotted, ..)| *dotted == oid)
        .map(|(_, name, bits)| (*name, *bits))
}

fn is_supported_signature(oid: &str) -> bool {
    signature_algorithm(oid).is_some_and(|(name, bits)| {
        bits >= 128 && !name.starts_with("ED448") && !name.starts_with("dsa")
    })
}

/// Signature algorithms by their OpenSSL names, with the strength of the digest in bits.
const SIGNATURES: &[(&str, &str, usize)] = &[
    ("1.2.840.113549.1.1.2", "RSA-MD2", 39),
    ("1.2.840.113549.1.1.4", "RSA-MD5", 39),
    ("1.2.840.113549.1.1.5", "RSA-SHA1", 63),
    ("1.3.14.3.2.29", "RSA-SHA1-2", 63),
    ("1.2.840.113549.1.1.14", "RSA-SHA224", 112),
    ("1.2.840.113549.1.1.11", "RSA-SHA256", 128),
    ("1.2.840.113549.1.1.12", "RSA-SHA384", 192),
    ("1.2.840.113549.1.1.13", "RSA-SHA512", 256),
    ("1.2.840.113549.1.1.10", "RSASSA-PSS", 128),
    ("1.2.840.10045.4.1", "ecdsa-with-SHA1", 63),
    ("1.2.840.10045.4.3.1", "ecdsa-with-SHA224", 112),
    ("1.2.840.10045.4.3.2", "ecdsa-with-SHA256", 128),
    ("1.2.840.10045.4.3.3", "ecdsa-with-SHA384", 192),
    ("1.2.840.10045.4.3.4", "ecdsa-with-SHA512", 256),
    ("1.2.840.10040.4.3", "dsaWithSHA1", 63),
    ("2.16.840.1.101.3.4.3.2", "dsa_with_SHA256", 128),
    ("1.3.101.112", "ED25519", 128),
    ("1.3.101.113", "ED448", 224),
    ("2.16.840.1.101.3.4.3.17", "ML-DSA-44", 128),
    ("2.16.840.1.101.3.4.3.18", "ML-DSA-65", 192),
    ("2.16.840.1.101.3.4.3.19", "ML-DSA-87", 256),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CERT: &[u8] = include_bytes!("testdata/odd_subject.pem");

    #[test]
    fn pem_with_text_around_and_odd_line_ends() {
        let plain = certificates_from_pem(CERT).unwrap();
        let text = std::str::from_utf8(CERT).unwrap();
        let odd = format!(
            "Certificate:\n  Version: 3\r\n  {}\n# trailing: words",
            text.replace('\n', " \r\n\t")
        );
        let again = certificates_from_pem(odd.as_bytes()).unwrap();
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].der, plain[0].der);
        // OpenSSL's trusted form has more behind the certificate.
        let mut trusted = plain[0].der.to_vec();
        trusted.extend([0x30, 0x02, 0x05, 0x00]);
        let trusted = format!(
            "-----BEGIN TRUSTED CERTIFICATE-----\n{}\n-----END TRUSTED CERTIFICATE-----\n",
            base64::engine::general_purpose::STANDARD.encode(trusted)
        );
        let again = certificates_from_pem(trusted.as_bytes()).unwrap();
        assert_eq!(again[0].der, plain[0].der);
    }

    #[test]
    fn broken_pem_is_named() {
        for (text, message) in [
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", "has no end"),
            ("-----END CERTIFICATE-----\n", "without its beginning"),
            (
                "-----BEGIN CERTIFICATE-----\n-----END PRIVATE KEY-----\n",
                "is closed by",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nA*==\n-----END CERTIFICATE-----\n",
                "not valid base64",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "certificate 1: not a valid X.509",
            ),
        ] {
            let err = certificates_from_pem(text.as_bytes()).unwrap_err();
            assert!(err.contains(message), "{err}");
        }
        assert_eq!(certificates_from_pem(b"").unwrap().len(), 0);
    }

    #[test]
    fn signed_parts_cover_the_whole() {
        let cert = &certificates_from_pem(CERT).unwrap()[0];
        let (signed, algorithm, signature) = signed_parts(&cert.der).unwrap();
        assert_eq!(signed, &cert.der[4..4 + signed.len()]);
        assert!(!algorithm.is_empty() && !signature.is_empty());
        assert!(public_key_parts(&cert.spki_der).is_some());
        let mut longer = cert.der.to_vec();
        longer.push(0);
        assert!(signed_parts(&longer).is_none());
        assert!(Certificate::from_der(&longer).is_err());
    }

    proptest! {
        #[test]
        fn damaged_certificates_do_not_panic(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut der = certificates_from_pem(CERT).unwrap()[0].der.to_vec();
            for (at, value) in flips {
                let at = at.index(der.len());
                der[at] = value;
            }
            if let Ok(cert) = Certificate::from_der(&der) {
                prop_assert!(!cert.subject.chars().any(|c| c.is_ascii_control()));
                let env = cert_env(&[cert]);
                prop_assert!(!env.iter().any(|(_, value)| value.contains('\n')));
            }
            let _ = signed_parts(&der[..cut.index(der.len())]);
            let _ = Certificate::from_der(&der[..cut.index(der.len())]);
        }

        #[test]
        fn any_bytes_as_pem(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = pem_blocks(&text);
            let _ = signed_parts(&text);
            let _ = public_key_parts(&text);
        }
    }
}
