//! One TLS session as a pump for bytes.
//!
//! Ciphertext may come in any pieces, down to single bytes; what it decrypts to is kept here until
//! it is read, up to a limit. After an error the session only still gives out what it has to send,
//! an alert for the peer.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Connection, InvalidMessage, PeerIncompatible,
    ProtocolVersion, ServerConfig, ServerConnection,
};
use rustls_pki_types::ServerName;
use zeroize::{Zeroize as _, Zeroizing};

use super::certs::PeerCertificate;
use super::suites::suite_name;
use super::verify::{Findings, take_findings};
use super::{TlsError, certs};

/// The longest plaintext of one record (RFC 8446 §5.1).
pub(super) const MAX_RECORD: usize = 16384;

/// How much decrypted data may wait to be read.
const MAX_WAITING: usize = 256 * 1024;

/// One handshake and what follows it.
#[derive(Debug)]
pub struct TlsSession {
    connection: Connection,
    /// About the peer's certificate, until it is asked for.
    findings: Findings,
    waiting: Zeroizing<Vec<u8>>,
    peer: Option<PeerCertificate>,
    /// The peer closed its side.
    closed: bool,
    failed: Option<TlsError>,
}

impl TlsSession {
    pub(super) fn client(config: Arc<ClientConfig>) -> Result<Self, rustls::Error> {
        // No name is sent or compared, but the library asks for one.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let connection = ClientConnection::new(config, name)?;
        Ok(Self::new(connection.into()))
    }

    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let connection = ServerConnection::new(config)?;
        Ok(Self::new(connection.into()))
    }

    fn new(connection: Connection) -> Self {
        Self {
            connection,
            findings: Findings::default(),
            waiting: Zeroizing::default(),
            peer: None,
            closed: false,
            failed: None,
        }
    }

    /// Takes bytes from the peer and acts on them.
    ///
    /// # Errors
    /// The session is over: [`TlsError::Verify`] when the peer's certificate was refused,
    /// [`TlsError::Peer`] for everything else. What is then still to be sent is given out by
    /// [`TlsSession::read_ciphertext`]. Every later call returns the same error.
    pub fn write_ciphertext(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        if let Some(err) = &self.failed {
            return Err(err.clone());
        }
        let result = self.take(bytes);
        if let Err(err) = &result {
            self.failed = Some(err.clone());
        }
        result
    }

    /// Appends what is to be sent to the peer. Also after an error: then it is an alert.
    pub fn read_ciphertext(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            // Writing to a vector does not fail; zero means there was nothing after all.
            if !matches!(self.connection.write_tls(out), Ok(count) if count > 0) {
                break;
            }
        }
    }

    /// Appends decrypted data and says how many bytes that were.
    ///
    /// # Errors
    /// The error the session ended with, once everything received before it has been read.
    pub fn read_plaintext(&mut self, out: &mut Vec<u8>) -> Result<usize, TlsError> {
        let count = self.waiting.len();
        if count == 0
            && let Some(err) = &self.failed
        {
            return Err(err.clone());
        }
        out.extend_from_slice(&self.waiting);
        self.waiting.zeroize();
        Ok(count)
    }

    /// Encrypts `bytes` as one record.
    ///
    /// # Errors
    /// [`TlsError::Misuse`] during the handshake, with more than 16384 bytes, or when
    /// nobody fetches what was written before; otherwise the error the session ended with.
    pub fn write_plaintext(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        if let Some(err) = &self.failed {
            return Err(err.clone());
        }
        if self.connection.is_handshaking() {
            return Err(TlsError::Misuse("write before the handshake is complete"));
        }
        if bytes.len() > MAX_RECORD {
            return Err(TlsError::Misuse("more than one record holds"));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        match self.connection.writer().write(bytes) {
            Ok(count) if count == bytes.len() => Ok(()),
            // Part of a message must not go out: what follows would be read as its end.
            Ok(0) => Err(TlsError::Misuse("too much waits to be sent")),
            Ok(_) | Err(_) => {
                let err = TlsError::Misuse("too much waits to be sent");
                self.failed = Some(err.clone());
                Err(err)
            }
        }
    }

    /// Whether the handshake is still going on.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether the peer said that nothing more will come.
    #[must_use]
    pub fn peer_has_closed(&self) -> bool {
        self.failed.is_none() && self.closed
    }

    /// Keying material of this session (RFC 5705, RFC 8446 §7.5) without a context.
    ///
    /// # Errors
    /// [`TlsError::Misuse`] before the handshake is complete, or when `out` is empty.
    pub fn export(&self, label: &str, out: &mut [u8]) -> Result<(), TlsError> {
        self.connection
            .export_keying_material(out, label.as_bytes(), None)
            .map(|_| ())
            .map_err(|_| TlsError::Misuse("keying material before the handshake is complete"))
    }

    /// Who the peer is. `None` until its certificate was accepted and the handshake is complete,
    /// and for a peer that did not have to show one.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerCertificate> {
        self.peer.as_ref()
    }

    /// Log lines about the peer's certificate that came up since the last call, such as
    /// `VERIFY OK: depth=0, CN=gw1`.
    pub fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.findings.log)
    }

    /// What was agreed on, as a log line: version, cipher suite, the peer's key, key agreement.
    #[must_use]
    pub fn description(&self) -> String {
        let version = match self.connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => return "TLS handshake not complete".to_owned(),
        };
        let mut out = version.to_owned();
        if let Some(suite) = self.connection.negotiated_cipher_suite() {
            out.push_str(&format!(", cipher {version} {}", suite_name(suite.suite())));
        }
        if let Some(leaf) = self.peer.as_ref().and_then(|peer| peer.chain.first()) {
            let certs::Certificate { key, .. } = leaf;
            out.push_str(&format!(
                ", peer certificate: {key}, signature: {}",
                leaf.signature_name()
            ));
        }
        if let Some(group) = self.connection.negotiated_key_exchange_group() {
            out.push_str(&format!(", key agreement: {:?}", group.name()));
        }
        out
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), TlsError> {
        while !bytes.is_empty() {
            match self.connection.read_tls(&mut bytes) {
                // After the peer's closure alert nothing more is taken, and nothing more counts.
                Ok(0) => break,
                Ok(_) => {}
                Err(err) => return Err(TlsError::Peer(err.to_string())),
            }
            let processed = self.connection.process_new_packets();
            self.note(take_findings());
            let state = processed.map_err(|err| self.explain(&err))?;
            self.closed |= state.peer_has_closed();
            self.drain(state.plaintext_bytes_to_read())?;
            if self.peer.is_none() && !self.connection.is_handshaking() {
                self.peer = self.findings.peer.take();
            }
        }
        Ok(())
    }

    fn note(&mut self, found: Findings) {
        let Findings { peer, refusal, log } = found;
        self.findings.peer = peer.or(self.findings.peer.take());
        self.findings.refusal = refusal.or(self.findings.refusal.take());
        self.findings.log.extend(log);
    }

    fn drain(&mut self, count: usize) -> Result<(), TlsError> {
        if count == 0 {
            return Ok(());
        }
        if self.waiting.len() + count > MAX_WAITING {
            return Err(TlsError::Peer("too much data at once".to_owned()));
        }
        let start = self.waiting.len();
        self.waiting.resize(start + count, 0);
        self.connection
            .reader()
            .read_exact(&mut self.waiting[start..])
            .map_err(|err| TlsError::Peer(err.to_string()))
    }

    fn explain(&mut self, err: &rustls::Error) -> TlsError {
        if let Some(line) = self.findings.refusal.take() {
            return TlsError::Verify(line);
        }
        TlsError::Peer(match err {
            rustls::Error::AlertReceived(alert) => {
                format!("the peer refused with alert {}", alert_text(*alert))
            }
            rustls::Error::NoCertificatesPresented => "the peer showed no certificate".to_owned(),
            rustls::Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon) => {
                "no key exchange group in common with the peer (tls-groups)".to_owned()
            }
            rustls::Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
                "no cipher suite in common with the peer (tls-cipher, tls-ciphersuites)".to_owned()
            }
            rustls::Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => {
                "the peer does not speak TLS 1.2 or 1.3".to_owned()
            }
            other => other.to_string(),
        })
    }
}

fn alert_text(alert: AlertDescription) -> &'static str {
    alert.as_str().unwrap_or("of a kind that is not known")
}
