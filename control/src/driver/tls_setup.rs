//! From checked options to TLS settings: reads the files that options name.

use crate::config::diagnostic::{Diagnostic, Severity};
use crate::config::options::{
    CertProfile, Credentials, CrlVerify, Options, TlsVersion, VerifyX509Kind,
};
use crate::config::position::{FileOrInline, Source};
use crate::host::password;
use crate::proto::TlsRole;
use crate::tls::{self, CrlSource, RemoteCertTls, TlsContext, TlsError, TlsSettings, X509NameType};

/// The TLS context of these options, with warnings for the log. An encrypted key without `askpass`
/// asks for its password.
pub(super) fn context(options: &Options) -> Result<(TlsContext, Vec<String>), String> {
    let mut settings = settings(options)?;
    if let Some(text) = tls::own_expired(&settings) {
        return Err(text);
    }
    match TlsContext::new(&settings) {
        Err(TlsError::KeyPasswordMissing) => {
            settings.key_password = Some(password::key_passphrase(None)?);
            TlsContext::new(&settings)
        }
        other => other,
    }
    .map_err(|error| at_its_option(options, error.to_string()))
}

/// A fault that begins with the option it is about, with the place of that option in front.
fn at_its_option(options: &Options, text: String) -> String {
    let option = text.split(':').next().unwrap_or_default();
    match source_of(options, option) {
        Some(source) => format!("{}: {text}", source.position),
        None => text,
    }
}

/// Findings about every certificate, key and list, placed at the option that names it.
pub(super) fn findings(options: &Options) -> Vec<Diagnostic> {
    // A check never asks for a password; unreadable files are reported by the check itself.
    let mut quiet = options.clone();
    if matches!(quiet.askpass, Some(Credentials::Ask)) {
        quiet.askpass = None;
    }
    let Ok(settings) = settings(&quiet) else {
        return Vec::new();
    };
    let findings = tls::inspect::inspect(&settings);
    let worth_a_line = |f: &tls::inspect::Finding| f.severity > tls::inspect::Severity::Info;
    findings
        .into_iter()
        .filter(worth_a_line)
        .map(|f| placed(options, f))
        .collect()
}

/// Where one of the options stands that bring certificates, keys and lists.
fn source_of<'a>(options: &'a Options, option: &str) -> Option<&'a Source> {
    match option {
        "ca" => options.ca.as_ref().or(options.capath.as_ref()),
        "cert" => options.cert.as_ref(),
        "key" => options.key.as_ref(),
        "crl-verify" => match &options.crl_verify {
            Some(CrlVerify::List(source) | CrlVerify::Directory(source)) => Some(source),
            None => None,
        },
        _ => None,
    }
}

fn placed(options: &Options, finding: tls::inspect::Finding) -> Diagnostic {
    let source = source_of(options, finding.what);
    let severity = match finding.severity {
        tls::inspect::Severity::Error => Severity::Error,
        _ => Severity::Warning,
    };
    Diagnostic {
        severity,
        file: source.map_or_else(String::new, |s| s.position.file.to_string()),
        line: source.map_or(0, |s| s.position.line),
        option: finding.what.to_owned(),
        message: finding.message,
    }
}

/// The settings with every file read.
pub(crate) fn settings(options: &Options) -> Result<TlsSettings, String> {
    let mut s = TlsSettings::new(options.tls_role);
    s.ca = read(options.ca.as_ref())?.unwrap_or_default();
    s.ca_path = options
        .capath
        .as_ref()
        .and_then(|c| c.path())
        .map(Into::into);
    s.cert = read(options.cert.as_ref())?;
    s.key = read(options.key.as_ref())?;
    s.extra_certs = read(options.extra_certs.as_ref())?;
    s.key_password = match &options.askpass {
        None => None,
        Some(Credentials::Ask) => Some(password::key_passphrase(None)?),
        Some(Credentials::From(source)) => Some(password::key_passphrase(source.path())?),
    };
    s.remote_cert_tls = options.remote_cert_tls.map(|role| match role {
        TlsRole::Server => RemoteCertTls::Server,
        TlsRole::Client => RemoteCertTls::Client,
    });
    s.remote_cert_ku.clone_from(&options.remote_cert_ku);
    s.remote_cert_eku.clone_from(&options.remote_cert_eku);
    s.verify_x509_name = options.verify_x509_name.as_ref().map(|v| {
        let kind = match v.kind {
            VerifyX509Kind::Subject => X509NameType::Subject,
            VerifyX509Kind::Name => X509NameType::Name,
            VerifyX509Kind::NamePrefix => X509NameType::NamePrefix,
        };
        (v.name.clone(), kind)
    });
    s.x509_username_field
        .clone_from(&options.x509_username_field);
    s.peer_fingerprint.clone_from(&options.peer_fingerprint);
    if let Some(server) = &options.server {
        s.verify_client_cert = server.verify_client_cert;
    }
    s.crl = match &options.crl_verify {
        None => None,
        Some(CrlVerify::Directory(source)) => source.path().map(|p| CrlSource::Dir(p.into())),
        Some(CrlVerify::List(source)) => Some(match &source.data {
            FileOrInline::Path(path) => CrlSource::File(path.clone()),
            FileOrInline::Inline(text) => CrlSource::Inline(text.clone().into_bytes()),
        }),
    };
    s.tls_version_min = Some(version(options.tls_version_min));
    s.tls_version_max = Some(version(options.tls_version_max));
    s.tls_cipher = joined(&options.tls_cipher);
    s.tls_ciphersuites = joined(&options.tls_ciphersuites);
    s.tls_groups = joined(&options.tls_groups);
    s.tls_cert_profile = match options.tls_cert_profile {
        CertProfile::Insecure => tls::CertProfile::Insecure,
        CertProfile::Legacy => tls::CertProfile::Legacy,
        CertProfile::Preferred => tls::CertProfile::Preferred,
        CertProfile::SuiteB => tls::CertProfile::SuiteB,
    };
    Ok(s)
}

fn version(version: TlsVersion) -> tls::TlsVersion {
    match version {
        TlsVersion::V1_2 => tls::TlsVersion::V1_2,
        TlsVersion::V1_3 => tls::TlsVersion::V1_3,
    }
}

fn joined(names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| names.join(":"))
}

fn read(source: Option<&Source>) -> Result<Option<Vec<u8>>, String> {
    let Some(source) = source else {
        return Ok(None);
    };
    source.read().map(Some).map_err(|e| {
        format!(
            "{}: {}: cannot read {}: {e}",
            source.position,
            source.option,
            source.name()
        )
    })
}
