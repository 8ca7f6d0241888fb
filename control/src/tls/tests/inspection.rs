//! What `ringway check` finds.

use time::{Duration, OffsetDateTime};

use crate::proto::TlsRole::{Client, Server};
use crate::tls::CrlSource;
use crate::tls::inspect::{Finding, Severity, inspect};
use crate::tls::testing::*;

fn has(findings: &[Finding], severity: Severity, what: &str, text: &str) -> bool {
    findings.iter().any(|finding| {
        finding.severity == severity && finding.what == what && finding.message.contains(text)
    })
}

fn worst(findings: &[Finding]) -> Severity {
    findings
        .iter()
        .map(|finding| finding.severity)
        .max()
        .unwrap()
}

#[test]
fn good_settings_have_only_facts() {
    let pki = Pki::new();
    for role in [Client, Server] {
        let findings = inspect(&pki.settings(role));
        assert_eq!(worst(&findings), Severity::Info, "{findings:?}");
        assert!(has(
            &findings,
            Severity::Info,
            "ca",
            "CN=Test CA: valid from 20"
        ));
        assert!(has(
            &findings,
            Severity::Info,
            "cert",
            "verifies against ca"
        ));
        assert!(has(
            &findings,
            Severity::Info,
            "key",
            "belongs to the certificate"
        ));
    }
}

#[test]
fn dates() {
    let pki = Pki::new();
    let now = OffsetDateTime::now_utc();
    let with_end = |days: i64| {
        let mut params = leaf_params("gw1", Server);
        params.not_after = now + Duration::days(days) + Duration::hours(1);
        let own = pki.ca.issue(params, ec_key());
        let mut settings = settings_for(Server, &own);
        settings.ca = pki.ca.pem.clone().into_bytes();
        inspect(&settings)
    };
    let findings = with_end(12);
    assert_eq!(worst(&findings), Severity::Warning);
    assert!(has(
        &findings,
        Severity::Warning,
        "cert",
        "CN=gw1 expires in 12 days, on "
    ));
    let findings = with_end(-3);
    assert!(has(
        &findings,
        Severity::Error,
        "cert",
        "CN=gw1 has expired on "
    ));
    assert!(has(
        &findings,
        Severity::Warning,
        "cert",
        "would refuse this certificate"
    ));
    assert!(!has(&with_end(100), Severity::Warning, "cert", ""));
}

#[test]
fn every_fault_is_reported_in_one_run() {
    let pki = Pki::new();
    let mut settings = pki.settings(Server);
    settings
        .ca
        .extend(include_bytes!("../testdata/leaf_sha1.pem"));
    settings.cert = Some(include_bytes!("../testdata/leaf_v1.pem").to_vec());
    settings.tls_cipher = Some("DHE-RSA-AES256-SHA:ECDHE-RSA-AES256-GCM-SHA384".to_owned());
    settings.crl = Some(CrlSource::Inline(pki.ca.crl(&[], -1)));
    let findings = inspect(&settings);
    assert!(has(
        &findings,
        Severity::Warning,
        "ca",
        "CN=sha1 is signed with ecdsa-with-SHA1"
    ));
    assert!(has(
        &findings,
        Severity::Warning,
        "cert",
        "CN=old is X.509 v1"
    ));
    assert!(has(
        &findings,
        Severity::Error,
        "crl-verify",
        "has expired on"
    ));
    assert!(
        has(&findings, Severity::Error, "key", "does not belong"),
        "{findings:#?}"
    );
    assert!(
        !findings
            .iter()
            .any(|finding| finding.message.contains('\n'))
    );

    settings = pki.settings(Server);
    settings.tls_cipher = Some("DHE-RSA-AES256-SHA:ECDHE-RSA-AES256-GCM-SHA384".to_owned());
    let findings = inspect(&settings);
    assert!(has(
        &findings,
        Severity::Warning,
        "tls",
        "DHE-RSA-AES256-SHA is not supported"
    ));
}

#[test]
fn a_certificate_of_another_ca_is_noticed() {
    let pki = Pki::new();
    let mut settings = pki.settings(Client);
    settings.ca = self_signed(ca_params("Other"), ec_key()).pem.into_bytes();
    let findings = inspect(&settings);
    assert!(has(
        &findings,
        Severity::Warning,
        "cert",
        "unable to get local issuer"
    ));
}

#[test]
fn encrypted_key_without_password_is_no_error() {
    let pki = Pki::new();
    let mut settings = pki.settings(Client);
    settings.key = Some(include_bytes!("../testdata/ec_pkcs8_aes256.pem").to_vec());
    let findings = inspect(&settings);
    assert_eq!(worst(&findings), Severity::Info, "{findings:#?}");
    assert!(has(&findings, Severity::Info, "key", "encrypted"));
    settings.key = Some(b"nothing".to_vec());
    assert!(has(
        &inspect(&settings),
        Severity::Error,
        "key",
        "no private key"
    ));
}

#[test]
fn an_old_root_is_harmless_beside_its_successor() {
    let pki = Pki::new();
    let mut old = ca_params("Old CA");
    old.not_after = OffsetDateTime::now_utc() - Duration::days(3);
    let old = self_signed(old, ec_key());
    let mut settings = pki.settings(Client);
    settings.ca.extend(old.pem.as_bytes());
    let findings = inspect(&settings);
    assert_eq!(worst(&findings), Severity::Warning, "{findings:#?}");
    assert!(has(
        &findings,
        Severity::Warning,
        "ca",
        "CN=Old CA has expired on "
    ));
    settings.ca = old.pem.into_bytes();
    assert!(has(
        &inspect(&settings),
        Severity::Error,
        "ca",
        "CN=Old CA has expired on "
    ));
}
