//! Certificates and static keys for one lab.
//!
//! A certificate authority, one server and one client certificate with the extended key usages
//! that `remote-cert-tls` wants, an expired and a foreign one for trying refusals, and the key files of the three control channel wraps (protocol
//! document §4).

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rand::RngCore as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
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
        fs::create_dir_all(folder)?;
        let pki = Self {
            folder: folder.to_owned(),
        };
        let authority = authority("Ringway lab authority", kind)?;
        pki.write("ca.crt", &authority.pem())?;
        for (name, usage) in [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
            ("expired", ExtendedKeyUsagePurpose::ServerAuth),
        ] {
            let key = key(kind)?;
            let mut params = CertificateParams::new(vec![format!("{name}.lab.invalid")])?;
            params.distinguished_name.push(DnType::CommonName, name);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            if kind == KeyKind::Rsa2048 {
                params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
            }
            params.extended_key_usages = vec![usage];
            if name == "expired" {
                params.not_before = rcgen::date_time_ymd(2019, 1, 1);
                params.not_after = rcgen::date_time_ymd(2020, 1, 1);
            }
            let certificate = params.signed_by(&key, &authority)?;
            pki.write(&format!("{name}.crt"), &certificate.pem())?;
            pki.write(&format!("{name}.key"), &key.serialize_pem())?;
        }
        // A certificate for trying what happens with the wrong authority.
        let stranger = self_signed_client("stranger", kind)?;
        pki.write("stranger.crt", &stranger.0)?;
        pki.write("stranger.key", &stranger.1)?;
        pki.write("tls-auth.key", &static_key())?;
        pki.write("tls-crypt.key", &static_key())?;
        Ok(pki)
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
