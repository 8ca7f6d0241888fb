//! `crl-verify`: files, inline blocks, directories, and reading them again.

use std::fs;
use std::path::PathBuf;

use crate::proto::TlsRole::{Client, Server};
use crate::tls::testing::*;
use crate::tls::{CrlSource, TlsContext, TlsSettings};

/// A directory of its own for a test, removed at the end.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn verdict(context: &TlsContext, server: &TlsSettings) -> (Result<(), String>, Vec<String>) {
    let mut link = Link {
        client: context.session().unwrap(),
        server: session(server),
    };
    let result = link.run(usize::MAX).0.map_err(|err| err.to_string());
    (result, link.client.take_log())
}

fn client_with(pki: &Pki, crl: CrlSource) -> TlsContext {
    let mut client = pki.settings(Client);
    client.crl = Some(crl);
    TlsContext::new(&client).unwrap().0
}

#[test]
fn listed_and_not_listed() {
    let pki = Pki::new();
    let server = pki.settings(Server);
    let good = client_with(&pki, CrlSource::Inline(pki.ca.crl(&[&pki.client], 5)));
    let (result, log) = verdict(&good, &server);
    assert_eq!(result, Ok(()));
    assert!(!log.iter().any(|line| line.contains("WARNING")), "{log:?}");

    let bad = client_with(
        &pki,
        CrlSource::Inline(pki.ca.crl(&[&pki.client, &pki.server], 5)),
    );
    assert_eq!(
        verdict(&bad, &server).0.unwrap_err(),
        format!(
            "VERIFY ERROR: depth=0, error=certificate revoked: C=DE, O=Example, CN=gw1, serial={}",
            pki.server.serial()
        )
    );
}

#[test]
fn missing_list_only_warns() {
    let (pki, other) = (Pki::new(), self_signed(ca_params("Other CA"), ec_key()));
    let context = client_with(&pki, CrlSource::Inline(other.crl(&[], 5)));
    let (result, log) = verdict(&context, &pki.settings(Server));
    assert_eq!(result, Ok(()));
    let warnings = log
        .iter()
        .filter(|line| line.contains("unable to get certificate CRL"));
    assert_eq!(warnings.count(), 2, "{log:?}");
}

#[test]
fn bad_lists_refuse() {
    let pki = Pki::new();
    let expired = client_with(&pki, CrlSource::Inline(pki.ca.crl(&[], -1)));
    let line = verdict(&expired, &pki.settings(Server)).0.unwrap_err();
    assert!(line.contains("error=CRL has expired"), "{line}");
    // Another CA of the same name.
    let impostor = self_signed(ca_params("Test CA"), ec_key());
    let forged = client_with(&pki, CrlSource::Inline(impostor.crl(&[], 5)));
    let line = verdict(&forged, &pki.settings(Server)).0.unwrap_err();
    assert!(line.contains("error=CRL signature failure"), "{line}");
    // A good list beside the forged one settles it.
    let mut both = impostor.crl(&[], 5);
    both.extend(pki.ca.crl(&[], 5));
    let both = client_with(&pki, CrlSource::Inline(both));
    assert_eq!(verdict(&both, &pki.settings(Server)).0, Ok(()));
}

#[test]
fn list_of_an_intermediate() {
    let root = self_signed(ca_params("Root"), ec_key());
    let middle = root.issue(ca_params("Middle"), ec_key());
    let own = middle.issue(leaf_params("gw1", Server), ec_key());
    let pki = Pki::new();
    let mut client = pki.settings(Client);
    client.ca = root.pem.clone().into_bytes();
    let mut server = settings_for(Server, &own);
    server.ca = pki.ca.pem.clone().into_bytes();
    server.extra_certs = Some(middle.pem.clone().into_bytes());
    for (list, text) in [
        ([root.crl(&[], 5), middle.crl(&[], 5)].concat(), None),
        (
            [root.crl(&[&middle], 5), middle.crl(&[], 5)].concat(),
            Some("depth=1, error=certificate revoked"),
        ),
        (
            [root.crl(&[], 5), middle.crl(&[&own], 5)].concat(),
            Some("depth=0, error=certificate revoked"),
        ),
        (
            middle.crl(&[&own], 5),
            Some("depth=0, error=certificate revoked"),
        ),
    ] {
        client.crl = Some(CrlSource::Inline(list));
        let context = TlsContext::new(&client).unwrap().0;
        match (verdict(&context, &server).0, text) {
            (Ok(()), None) => {}
            (Err(line), Some(text)) => assert!(line.contains(text), "{line}"),
            (result, text) => panic!("{result:?} {text:?}"),
        }
    }
}

#[test]
fn lists_without_extensions_work() {
    let pki = Pki::new();
    let mut server = pki.settings(Server);
    server.cert = Some(include_bytes!("../testdata/leaf_nstype.pem").to_vec());
    server.key = Some(include_bytes!("../testdata/leaf_nstype.key.pem").to_vec());
    let mut client = pki.settings(Client);
    client.ca = include_bytes!("../testdata/fixture_ca.pem").to_vec();
    client.crl = Some(CrlSource::Inline(
        include_bytes!("../testdata/crl_v1_empty.pem").to_vec(),
    ));
    let context = TlsContext::new(&client).unwrap().0;
    assert_eq!(verdict(&context, &server).0, Ok(()));
    client.crl = Some(CrlSource::Inline(
        include_bytes!("../testdata/crl_v1.pem").to_vec(),
    ));
    let context = TlsContext::new(&client).unwrap().0;
    let line = verdict(&context, &server).0.unwrap_err();
    assert!(
        line.contains("certificate revoked: CN=ns, serial=4100"),
        "{line}"
    );
}

#[test]
fn changed_file_is_read_again_and_a_bad_one_keeps_the_old() {
    let pki = Pki::new();
    let server = pki.settings(Server);
    let dir = TempDir::new("crl-reload");
    let path = dir.0.join("crl.pem");
    // Written beside and renamed, as tools do it: the inode tells the versions apart even when
    // size and time do not.
    let write = |bytes: &[u8]| {
        fs::write(dir.0.join("new"), bytes).unwrap();
        fs::rename(dir.0.join("new"), &path).unwrap();
    };
    write(&pki.ca.crl(&[&pki.server], 5));
    let context = client_with(&pki, CrlSource::File(path.clone()));
    assert_eq!(context.reload_crl_if_changed(), None);
    assert!(verdict(&context, &server).0.is_err());

    write(b"garbage");
    let line = context.reload_crl_if_changed().unwrap().unwrap_err();
    assert!(
        line.contains("no CRL found") && line.contains("stay in use"),
        "{line}"
    );
    assert_eq!(context.reload_crl_if_changed(), None);
    assert!(verdict(&context, &server).0.is_err());

    fs::remove_file(&path).unwrap();
    let line = context.reload_crl_if_changed().unwrap().unwrap_err();
    assert!(line.contains("cannot read"), "{line}");
    assert_eq!(context.reload_crl_if_changed(), None);
    assert!(verdict(&context, &server).0.is_err());

    write(&pki.ca.crl(&[], 5));
    let line = context.reload_crl_if_changed().unwrap().unwrap();
    assert!(line.starts_with("CRL: loaded 1 CRLs from file "), "{line}");
    assert_eq!(verdict(&context, &server).0, Ok(()));
}

#[test]
fn directory_by_serial_number() {
    let pki = Pki::new();
    let dir = TempDir::new("crl-dir");
    let context = client_with(&pki, CrlSource::Dir(dir.0.clone()));
    let (result, log) = verdict(&context, &pki.settings(Server));
    assert_eq!(result, Ok(()));
    assert!(!log.iter().any(|line| line.contains("CRL")), "{log:?}");
    fs::write(dir.0.join(pki.server.serial()), "").unwrap();
    let line = verdict(&context, &pki.settings(Server)).0.unwrap_err();
    assert!(
        line.contains("depth=0, error=certificate revoked"),
        "{line}"
    );

    // Without a CA too.
    let mut client = pki.settings(Client);
    client.ca.clear();
    client.peer_fingerprint = vec![pki.server.sha256()];
    client.crl = Some(CrlSource::Dir(dir.0.clone()));
    let context = TlsContext::new(&client).unwrap().0;
    let line = verdict(&context, &pki.settings(Server)).0.unwrap_err();
    assert!(line.contains("certificate revoked"), "{line}");
}

#[test]
fn bad_sources_are_named_at_start() {
    let pki = Pki::new();
    for (source, text) in [
        (
            CrlSource::File("/nonexistent/crl.pem".into()),
            "cannot read /nonexistent/crl.pem",
        ),
        (
            CrlSource::Dir("/nonexistent".into()),
            "cannot read /nonexistent",
        ),
        (CrlSource::Inline(b"x".to_vec()), "crl-verify: no CRL found"),
    ] {
        let mut client = pki.settings(Client);
        client.crl = Some(source);
        let err = TlsContext::new(&client).unwrap_err().to_string();
        assert!(err.contains(text), "{err}");
    }
}

#[test]
fn lists_do_not_matter_to_fingerprints_alone() {
    // There is no issuer whose list could be believed.
    let own = self_signed(ca_params("gw1"), ec_key());
    let mut client = settings_for(Client, &self_signed(ca_params("alice"), ec_key()));
    client.peer_fingerprint = vec![own.sha256()];
    client.crl = Some(CrlSource::Inline(
        self_signed(ca_params("gw1"), ec_key()).crl(&[], -1),
    ));
    let mut server = settings_for(Server, &own);
    server.peer_fingerprint = vec![[0; 32]];
    server.verify_client_cert = crate::tls::VerifyClientCert::None;
    let context = TlsContext::new(&client).unwrap().0;
    let (result, log) = verdict(&context, &server);
    assert_eq!(result, Ok(()));
    assert_eq!(log, ["VERIFY OK: depth=0, C=DE, O=Example, CN=gw1"]);
}
