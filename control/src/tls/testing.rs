//! Certificates and in-memory links for tests.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, SignatureAlgorithm,
};
use time::{Duration, OffsetDateTime};

use super::{TlsContext, TlsError, TlsSession, TlsSettings};
use crate::proto::TlsRole;

/// A certificate, its key, and what is needed to sign others with it.
pub(crate) struct Identity {
    pub(crate) params: CertificateParams,
    pub(crate) key: KeyPair,
    pub(crate) pem: String,
    pub(crate) der: Vec<u8>,
}

impl Identity {
    pub(crate) fn key_pem(&self) -> Vec<u8> {
        self.key.serialize_pem().into_bytes()
    }

    pub(crate) fn serial(&self) -> String {
        super::certs::Certificate::from_der(&self.der)
            .unwrap()
            .serial
    }

    pub(crate) fn sha256(&self) -> [u8; 32] {
        super::certs::Certificate::from_der(&self.der)
            .unwrap()
            .sha256()
    }

    /// A certificate signed by this one.
    pub(crate) fn issue(&self, params: CertificateParams, key: KeyPair) -> Identity {
        let issuer = Issuer::from_params(&self.params, &self.key);
        let cert = params.signed_by(&key, &issuer).unwrap();
        Identity {
            params,
            key,
            pem: cert.pem(),
            der: cert.der().to_vec(),
        }
    }

    /// A revocation list by this CA, due in so many days.
    pub(crate) fn crl(&self, revoked: &[&Identity], due_days: i64) -> Vec<u8> {
        let now = OffsetDateTime::now_utc();
        let params = CertificateRevocationListParams {
            this_update: now - Duration::days(10),
            next_update: now + Duration::days(due_days),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|identity| RevokedCertParams {
                    serial_number: identity.params.serial_number.clone().unwrap(),
                    revocation_time: now - Duration::days(10),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.params, &self.key);
        params
            .signed_by(&issuer)
            .unwrap()
            .pem()
            .unwrap()
            .into_bytes()
    }
}

/// Parameters of a certificate that is valid now.
pub(crate) fn params(name: &str) -> CertificateParams {
    static SERIAL: AtomicU64 = AtomicU64::new(0x80_0001);
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    let mut dn = DistinguishedName::new();
    dn.push(DnType::CountryName, "DE");
    dn.push(DnType::OrganizationName, "Example");
    dn.push(DnType::CommonName, name);
    params.distinguished_name = dn;
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(20);
    params.not_after = now + Duration::days(1000);
    params.serial_number = Some(SerialNumber::from(SERIAL.fetch_add(1, Ordering::Relaxed)));
    params
}

/// Parameters of a CA.
pub(crate) fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Parameters of a peer's certificate as easy-rsa makes it.
pub(crate) fn leaf_params(name: &str, role: TlsRole) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match role {
        TlsRole::Client => ExtendedKeyUsagePurpose::ClientAuth,
        TlsRole::Server => ExtendedKeyUsagePurpose::ServerAuth,
    }];
    if role == TlsRole::Server {
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    }
    params
}

pub(crate) fn ec_key() -> KeyPair {
    key(&rcgen::PKCS_ECDSA_P256_SHA256)
}

pub(crate) fn key(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

pub(crate) fn self_signed(params: CertificateParams, key: KeyPair) -> Identity {
    let cert = params.self_signed(&key).unwrap();
    Identity {
        params,
        key,
        pem: cert.pem(),
        der: cert.der().to_vec(),
    }
}

/// A CA with one server and one client.
pub(crate) struct Pki {
    pub(crate) ca: Identity,
    pub(crate) server: Identity,
    pub(crate) client: Identity,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self::with_keys(ec_key)
    }

    pub(crate) fn with_keys(key: impl Fn() -> KeyPair) -> Self {
        let ca = self_signed(ca_params("Test CA"), key());
        let server = ca.issue(leaf_params("gw1", TlsRole::Server), key());
        let client = ca.issue(leaf_params("alice", TlsRole::Client), key());
        Self { ca, server, client }
    }

    /// Settings for one side, with the other side checked by `ca` alone.
    pub(crate) fn settings(&self, role: TlsRole) -> TlsSettings {
        let own = match role {
            TlsRole::Client => &self.client,
            TlsRole::Server => &self.server,
        };
        let mut settings = settings_for(role, own);
        settings.ca = self.ca.pem.clone().into_bytes();
        settings
    }
}

pub(crate) fn settings_for(role: TlsRole, own: &Identity) -> TlsSettings {
    let mut settings = TlsSettings::new(role);
    settings.cert = Some(own.pem.clone().into_bytes());
    settings.key = Some(own.key_pem());
    settings
}

/// Two sessions and the wire between them.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) client: TlsSession,
    pub(crate) server: TlsSession,
}

impl Link {
    pub(crate) fn new(client: &TlsSettings, server: &TlsSettings) -> Self {
        Self {
            client: session(client),
            server: session(server),
        }
    }

    /// Carries everything both ways in pieces of at most `piece` bytes until nothing moves. The
    /// errors are those of client and server.
    pub(crate) fn run(&mut self, piece: usize) -> (Result<(), TlsError>, Result<(), TlsError>) {
        self.run_with(|| piece)
    }

    pub(crate) fn run_with(
        &mut self,
        piece: impl Fn() -> usize,
    ) -> (Result<(), TlsError>, Result<(), TlsError>) {
        let mut results = (Ok(()), Ok(()));
        let rounds = Cell::new(0);
        loop {
            rounds.set(rounds.get() + 1);
            assert!(rounds.get() < 50, "the handshake does not end");
            let mut to_server = Vec::new();
            let mut to_client = Vec::new();
            self.client.read_ciphertext(&mut to_server);
            self.server.read_ciphertext(&mut to_client);
            if to_server.is_empty() && to_client.is_empty() {
                return results;
            }
            for (bytes, session, result) in [
                (to_server, &mut self.server, &mut results.1),
                (to_client, &mut self.client, &mut results.0),
            ] {
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
                    rest = later;
                    if let Err(err) = session.write_ciphertext(now) {
                        *result = Err(err);
                        break;
                    }
                }
            }
        }
    }

    /// The handshake, which must succeed on both sides.
    pub(crate) fn connect(&mut self) {
        let results = self.run(usize::MAX);
        assert_eq!(results, (Ok(()), Ok(())));
        assert!(!self.client.is_handshaking() && !self.server.is_handshaking());
    }
}

pub(crate) fn session(settings: &TlsSettings) -> TlsSession {
    let (context, warnings) = TlsContext::new(settings).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    context.session().unwrap()
}
