//! The rules for peers, as rustls asks for them.
//!
//! [`PeerVerifier`] serves all sessions of a configuration. rustls calls it while the session
//! processes what has arrived, on the same thread, and only carries an error code through; so it
//! leaves what it found for [`take_findings`], which the session calls right after.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use webpki::RawPublicKeyEntity;

use super::VerifyClientCert;
use super::certs::{Certificate, PeerCertificate};
use super::rules::Rules;

thread_local! {
    static FINDINGS: RefCell<Findings> = RefCell::default();
}

/// What came out of looking at the peer's certificate, for the session.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The peer, once accepted.
    pub(super) peer: Option<PeerCertificate>,
    /// Why it was refused, as a log line.
    pub(super) refusal: Option<String>,
    /// Lines for the log.
    pub(super) log: Vec<String>,
}

/// What was found on this thread since the last call.
pub(super) fn take_findings() -> Findings {
    FINDINGS.take()
}

/// The rules, as rustls asks them.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    rules: Arc<Rules>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerVerifier {
    pub(super) fn new(rules: Arc<Rules>, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { rules, algorithms }
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        FINDINGS.with_borrow_mut(|findings| {
            let log = &mut findings.log;
            let judged = self
                .rules
                .judge(end_entity, intermediates, now, &self.algorithms, log);
            match judged {
                Ok(peer) => {
                    findings.peer = Some(peer);
                    Ok(())
                }
                Err(refusal) => {
                    findings.refusal = Some(refusal.line);
                    Err(Error::InvalidCertificate(refusal.kind))
                }
            }
        })
    }

    /// Like rustls' own, but by the public key alone, so that a certificate webpki cannot read
    /// (X.509 v1, known by its fingerprint) can prove itself too.
    fn tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let unadvertised = || Error::from(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme);
        if !SCHEMES_TLS12.contains(&dss.scheme) {
            return Err(unadvertised());
        }
        let candidates = self
            .algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == dss.scheme)
            .map(|(_, candidates)| *candidates)
            .ok_or_else(unadvertised)?;
        let spki = public_key_of(cert)?;
        let key = RawPublicKeyEntity::try_from(&spki).map_err(|_| bad_encoding())?;
        for candidate in candidates {
            match key.verify_signature(*candidate, message, dss.signature()) {
                Ok(()) => return Ok(HandshakeSignatureValid::assertion()),
                Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
                Err(_) => break,
            }
        }
        Err(Error::InvalidCertificate(CertificateError::BadSignature))
    }

    fn tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = public_key_of(cert)?;
        verify_tls13_signature_with_raw_key(message, &spki, dss, &self.algorithms)
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn offer_client_auth(&self) -> bool {
        self.rules.client_cert() != VerifyClientCert::None
    }

    fn client_auth_mandatory(&self) -> bool {
        self.rules.client_cert() == VerifyClientCert::Require
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.rules.hints()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What may sign a TLS 1.2 handshake; ML-DSA may not.
const SCHEMES_TLS12: [SignatureScheme; 10] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

fn public_key_of(cert: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
    let cert = Certificate::from_der(cert).map_err(|_| bad_encoding())?;
    Ok(SubjectPublicKeyInfoDer::from(cert.spki_der))
}

fn bad_encoding() -> Error {
    Error::InvalidCertificate(CertificateError::BadEncoding)
}
