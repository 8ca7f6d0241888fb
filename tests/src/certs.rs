//! Certificates and static keys for one lab.
//!
//! A certificate authority, certificates with the extended key usages that `remote-cert-tls`
//! wants, an expired and a foreign one for trying refusals, revocation lists, and the key files of
//! the three control channel wraps (protocol document §4).

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SerialNumber,
};

use crate::command;

/// What the certificates' keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    EcdsaP256,
    /// RSA with 2048 bits.
    Rsa2048,
}

/// A folder with certificates and keys.
#[derive(Clone, Debug)]
pub struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// Makes everything but the tls-crypt-v2 keys in `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn new(folder: &Path, kind: KeyKind) -> Result<Self> {
        Ok(Authority::new(folder, kind)?.pki)
    }

    /// Adds `v2-server.key` and `v2-client.key`, made by `openvpn --genkey`.
    ///
    /// # Errors
    /// When `openvpn` is missing or refuses.
    pub fn add_tls_crypt_v2(&self) -> Result<()> {
        let server = self.file("v2-server.key");
        let client = self.file("v2-client.key");
        let (server, client) = (text(&server)?, text(&client)?);
        command::run("openvpn", &["--genkey", "tls-crypt-v2-server", server])?;
        command::run(
            "openvpn",
            &[
                "--tls-crypt-v2",
                server,
                "--genkey",
                "tls-crypt-v2-client",
                client,
            ],
        )?;
        Ok(())
    }

    /// Adds `v2-NAME.key`, a client's key that says `metadata` of itself; after
    /// [`Pki::add_tls_crypt_v2`].
    ///
    /// # Errors
    /// As there.
    pub fn add_client_key(&self, name: &str, metadata: &str) -> Result<()> {
        let (server, client) = (
            self.file("v2-server.key"),
            self.file(&format!("v2-{name}.key")),
        );
        let metadata = STANDARD.encode(metadata);
        let args = [
            "--tls-crypt-v2",
            text(&server)?,
            "--genkey",
            "tls-crypt-v2-client",
            text(&client)?,
            &metadata,
        ];
        command::run("openvpn", &args).map(drop)
    }

    /// Path of one of the files.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, content: &str) -> Result<()> {
        use std::io::Write as _;
        let path = self.file(name);
        let mut file = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        file.write_all(content.as_bytes())?;
        Ok(())
    }
}

/// A certificate authority that goes on issuing and revoking while a lab runs.
pub struct Authority {
    pki: Pki,
    kind: KeyKind,
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Names in the order their certificates were made; a serial number is the place plus one.
    issued: Vec<String>,
    revocations: u64,
}

impl Authority {
    /// Makes everything but the tls-crypt-v2 keys in `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn new(folder: &Path, kind: KeyKind) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut authority = Self {
            pki: Pki {
                folder: folder.to_owned(),
            },
            kind,
            issuer: authority("Ringway lab authority", kind)?,
            issued: Vec::new(),
            revocations: 0,
        };
        let pki = authority.pki.clone();
        pki.write("ca.crt", &authority.issuer.pem())?;
        authority.issue("server", ExtendedKeyUsagePurpose::ServerAuth)?;
        authority.issue_client("client")?;
        authority.issue("expired", ExtendedKeyUsagePurpose::ServerAuth)?;
        // A certificate for trying what happens with the wrong authority.
        let stranger = self_signed_client("stranger", kind)?;
        pki.write("stranger.crt", &stranger.0)?;
        pki.write("stranger.key", &stranger.1)?;
        pki.write("tls-auth.key", &static_key())?;
        pki.write("tls-crypt.key", &static_key())?;
        Ok(authority)
    }

    /// The files made up to now.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Makes `name.crt` and `name.key` for a client with that common name.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn issue_client(&mut self, name: &str) -> Result<()> {
        self.issue(name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Writes `crl.pem`, a list that revokes the certificates with these names; an empty list
    /// revokes nobody. The file is replaced in one step.
    ///
    /// # Errors
    /// When a name was never issued or the file cannot be written.
    pub fn revoke(&mut self, names: &[&str]) -> Result<()> {
        self.revocations += 1;
        let mut revoked_certs = Vec::new();
        for name in names {
            revoked_certs.push(RevokedCertParams {
                serial_number: SerialNumber::from(self.serial(name)?),
                revocation_time: rcgen::date_time_ymd(2024, 1, 1),
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            });
        }
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2124, 1, 1),
            crl_number: SerialNumber::from(self.revocations),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.pki
            .write("crl.new", &list.signed_by(&self.issuer)?.pem()?)?;
        let (from, to) = (self.pki.file("crl.new"), self.pki.file("crl.pem"));
        fs::rename(&from, &to).with_context(|| format!("cannot write {}", to.display()))
    }

    fn serial(&self, name: &str) -> Result<u64> {
        let place = self.issued.iter().position(|issued| issued == name);
        Ok(place.with_context(|| format!("{name} has no certificate"))? as u64 + 1)
    }

    fn issue(&mut self, name: &str, usage: ExtendedKeyUsagePurpose) -> Result<()> {
        let key = key(self.kind)?;
        let mut params = CertificateParams::new(vec![format!("{name}.lab.invalid")])?;
        self.issued.push(name.to_owned());
        params.serial_number = Some(SerialNumber::from(self.serial(name)?));
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if self.kind == KeyKind::Rsa2048 {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        params.extended_key_usages = vec![usage];
        if name == "expired" {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer)?;
        self.pki.write(&format!("{name}.crt"), &certificate.pem())?;
        self.pki.write(&format!("{name}.key"), &key.serialize_pem())
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("pki", &self.pki)
            .field("issued", &self.issued)
            .finish_non_exhaustive()
    }
}

/// A fresh 2048-bit static key in the text form of protocol document §4.1.
#[must_use]
pub fn static_key() -> String {
    let mut bytes = [0u8; 256];
    rand::rng().fill_bytes(&mut bytes);
    let mut text = String::from("-----BEGIN OpenVPN Static key V1-----\n");
    for row in bytes.chunks(16) {
        for byte in row {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text.push_str("-----END OpenVPN Static key V1-----\n");
    text
}

fn authority(name: &str, kind: KeyKind) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(params, key(kind)?)?)
}

fn self_signed_client(name: &str, kind: KeyKind) -> Result<(String, String)> {
    let key = key(kind)?;
    let mut params = CertificateParams::new(vec![format!("{name}.lab.invalid")])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn key(kind: KeyKind) -> Result<KeyPair> {
    Ok(match kind {
        KeyKind::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?,
        KeyKind::Rsa2048 => {
            KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?
        }
    })
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_key_has_the_documented_form() {
        let key = static_key();
        let lines: Vec<&str> = key.lines().collect();
        assert_eq!(lines.len(), 18);
        assert!(lines[1..17].iter().all(|line| line.len() == 32));
        assert_ne!(key, static_key());
    }

    #[test]
    fn both_kinds_of_certificates_are_made() {
        let folder = std::env::temp_dir().join(format!("ringway-pki-{}", std::process::id()));
        for kind in [KeyKind::EcdsaP256, KeyKind::Rsa2048] {
            let pki = Pki::new(&folder, kind).unwrap();
            let text = fs::read_to_string(pki.file("server.crt")).unwrap();
            assert!(text.starts_with("-----BEGIN CERTIFICATE-----"));
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
