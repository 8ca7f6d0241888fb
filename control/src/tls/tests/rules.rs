//! Each rule about certificates, accepted and refused, with the line the log gets.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use time::{Duration, OffsetDateTime};

use crate::proto::TlsRole::{Client, Server};
use crate::tls::certs::{Certificate, certificates_from_pem};
use crate::tls::testing::*;
use crate::tls::{
    CertHash, CertProfile, RemoteCertTls, TlsContext, TlsError, TlsSettings, TlsVersion,
    X509NameType, cert_env,
};

/// What the client says to a server with these settings; the server must notice too.
fn client_verdict(client: &TlsSettings, server: &TlsSettings) -> Result<(), String> {
    let mut verdicts = Vec::new();
    for max in [TlsVersion::V1_2, TlsVersion::V1_3] {
        let mut client = client.clone();
        client.tls_version_max = Some(max);
        let mut link = Link {
            client: TlsContext::new(&client).unwrap().0.session().unwrap(),
            server: TlsContext::new(server).unwrap().0.session().unwrap(),
        };
        let results = link.run(usize::MAX);
        assert_eq!(results.0.is_ok(), link.client.peer().is_some());
        if let Err(err) = &results.0 {
            assert!(matches!(err, TlsError::Verify(_)), "{err:?}");
            assert!(
                matches!(&results.1, Err(TlsError::Peer(_))),
                "{:?}",
                results.1
            );
            assert!(link.client.export("x", &mut [0; 8]).is_err());
        }
        verdicts.push(results.0.map_err(|err| err.to_string()));
    }
    assert_eq!(verdicts[0], verdicts[1]);
    verdicts.remove(0)
}

fn accepts(client: &TlsSettings, server: &TlsSettings) {
    assert_eq!(client_verdict(client, server), Ok(()));
}

fn refuses(client: &TlsSettings, server: &TlsSettings, text: &str) {
    let line = client_verdict(client, server).unwrap_err();
    assert!(line.contains(text), "wanted {text:?}, got {line:?}");
    assert!(!line.contains('\n'));
}

/// A server with a certificate of these parameters under a CA, and a client that knows the CA.
fn pair(change: impl FnOnce(&mut CertificateParams)) -> (TlsSettings, TlsSettings, Identity) {
    let pki = Pki::new();
    let mut params = leaf_params("gw1", Server);
    change(&mut params);
    let own = pki.ca.issue(params, ec_key());
    let mut server = settings_for(Server, &own);
    server.ca = pki.ca.pem.clone().into_bytes();
    (pki.settings(Client), server, own)
}

#[test]
fn unknown_issuer() {
    let (pki, other) = (Pki::new(), Pki::new());
    let mut client = pki.settings(Client);
    client.ca = self_signed(ca_params("Other CA"), ec_key())
        .pem
        .into_bytes();
    refuses(
        &client,
        &pki.settings(Server),
        &format!(
            "VERIFY ERROR: depth=0, error=unable to get local issuer certificate: \
             C=DE, O=Example, CN=gw1, serial={}",
            pki.server.serial()
        ),
    );
    // Same name, other key: only the signature tells.
    client.ca = other.ca.pem.into_bytes();
    refuses(
        &client,
        &pki.settings(Server),
        "certificate signature failure",
    );
    // A server that sends its unknown root along.
    let mut server = pki.settings(Server);
    server.extra_certs = Some(pki.ca.pem.clone().into_bytes());
    client.ca = self_signed(ca_params("Other CA"), ec_key())
        .pem
        .into_bytes();
    refuses(
        &client,
        &server,
        "depth=1, error=self-signed certificate in certificate chain",
    );
}

#[test]
fn a_server_refuses_a_strange_client() {
    let (pki, other) = (Pki::new(), Pki::new());
    let mut client = pki.settings(Client);
    client.cert = Some(other.client.pem.clone().into_bytes());
    client.key = Some(other.client.key_pem());
    for max in [TlsVersion::V1_2, TlsVersion::V1_3] {
        client.tls_version_max = Some(max);
        let mut link = Link::new(&client, &pki.settings(Server));
        let results = link.run(usize::MAX);
        let line = results.1.unwrap_err().to_string();
        assert!(
            line.starts_with("VERIFY ERROR: depth=0, error=certificate signature"),
            "{line}"
        );
        let line = results.0.unwrap_err().to_string();
        assert!(
            line.starts_with("TLS Error: the peer refused with alert"),
            "{line}"
        );
        assert!(link.server.peer().is_none());
    }
}

#[test]
fn dates() {
    let now = OffsetDateTime::now_utc();
    let (client, server, own) = pair(|params| params.not_after = now - Duration::days(1));
    let line = client_verdict(&client, &server).unwrap_err();
    assert_eq!(
        line,
        format!(
            "VERIFY ERROR: depth=0, error=certificate has expired: \
             C=DE, O=Example, CN=gw1, serial={}",
            own.serial()
        )
    );
    // The other side is told why.
    let mut link = Link {
        client: TlsContext::new(&client).unwrap().0.session().unwrap(),
        server: TlsContext::new(&server).unwrap().0.session().unwrap(),
    };
    let told = link.run(usize::MAX).1.unwrap_err().to_string();
    assert!(told.ends_with("CertificateExpired"), "{told}");
    let (_, warnings) = TlsContext::new(&server).unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("Your certificate has expired"));

    let (client, server, _) = pair(|params| params.not_before = now + Duration::days(1));
    refuses(
        &client,
        &server,
        "depth=0, error=certificate is not yet valid: ",
    );
    let (_, warnings) = TlsContext::new(&server).unwrap();
    assert!(warnings[0].contains("Your certificate is not yet valid"));
}

#[test]
fn expired_root_is_refused_unless_renewed() {
    let now = OffsetDateTime::now_utc();
    let mut old = ca_params("Root");
    old.not_after = now - Duration::days(2);
    let old = self_signed(old, ec_key());
    let own = old.issue(leaf_params("gw1", Server), ec_key());
    let mut server = settings_for(Server, &own);
    server.ca = Pki::new().ca.pem.into_bytes();
    let mut client = TlsSettings::new(Client);
    client.ca = old.pem.clone().into_bytes();
    let (_, warnings) = TlsContext::new(&client).unwrap();
    assert!(warnings[0].contains("has expired"), "{warnings:?}");
    server.verify_client_cert = crate::tls::VerifyClientCert::None;
    refuses(
        &client,
        &server,
        "depth=1, error=certificate has expired: C=DE, O=Example, CN=Root",
    );

    // The same key in a root with new dates, behind the old one in the file.
    let renewed = rcgen::KeyPair::from_pem(&old.key.serialize_pem()).unwrap();
    let renewed = self_signed(ca_params("Root"), renewed);
    client.ca.extend(renewed.pem.as_bytes());
    accepts(&client, &server);
}

#[test]
fn purpose() {
    let (client, server, _) =
        pair(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    refuses(
        &client,
        &server,
        "depth=0, error=unsuitable certificate purpose",
    );
    let (client, server, _) =
        pair(|params| params.key_usages = vec![KeyUsagePurpose::ContentCommitment]);
    refuses(
        &client,
        &server,
        "depth=0, error=unsuitable certificate purpose",
    );
    // Saying nothing allows everything.
    let (client, server, _) = pair(|params| {
        params.extended_key_usages.clear();
        params.key_usages.clear();
    });
    accepts(&client, &server);
}

#[test]
fn intermediates_from_either_side() {
    let root = self_signed(ca_params("Root"), ec_key());
    let middle = root.issue(ca_params("Middle"), ec_key());
    let own = middle.issue(leaf_params("gw1", Server), ec_key());
    let other = Pki::new();
    let mut client = other.settings(Client);
    client.ca = root.pem.clone().into_bytes();
    let mut server = settings_for(Server, &own);
    server.ca = other.ca.pem.clone().into_bytes();
    refuses(
        &client,
        &server,
        "depth=0, error=unable to get local issuer certificate",
    );
    // In the certificate file, as extra-certs, and in the other side's ca.
    let mut by_cert = server.clone();
    by_cert.cert = Some(format!("{}{}", own.pem, middle.pem).into_bytes());
    accepts(&client, &by_cert);
    let mut by_extra = server.clone();
    by_extra.extra_certs = Some(middle.pem.clone().into_bytes());
    accepts(&client, &by_extra);
    let mut by_ca = client.clone();
    by_ca.ca.extend(middle.pem.as_bytes());
    accepts(&by_ca, &server);

    let mut link = Link::new(&client, &by_extra);
    link.connect();
    let names: Vec<_> = link
        .client
        .peer()
        .unwrap()
        .chain
        .iter()
        .map(|cert| cert.common_name().unwrap())
        .collect();
    assert_eq!(names, ["gw1", "Middle", "Root"]);
}

#[test]
fn cross_signed_root_finds_the_known_one() {
    // The server sends a cross-certificate to a root nobody knows; its own root is known.
    let known = self_signed(ca_params("New Root"), ec_key());
    let strange = self_signed(ca_params("Strange Root"), ec_key());
    let same_key = rcgen::KeyPair::from_pem(&known.key.serialize_pem()).unwrap();
    let mut cross = ca_params("New Root");
    cross.distinguished_name = known.params.distinguished_name.clone();
    let cross = strange.issue(cross, same_key);
    let own = known.issue(leaf_params("gw1", Server), ec_key());
    let pki = Pki::new();
    let mut client = pki.settings(Client);
    client.ca = known.pem.clone().into_bytes();
    let mut server = settings_for(Server, &own);
    server.ca = pki.ca.pem.clone().into_bytes();
    server.extra_certs = Some(cross.pem.into_bytes());
    accepts(&client, &server);
    client.ca = strange.pem.into_bytes();
    accepts(&client, &server);
}

#[test]
fn only_a_ca_signs() {
    // The peer's own self-signed certificate is in `ca`: it may come itself, but not sign others.
    let pki = Pki::new();
    let mut plain = leaf_params("gw1", Server);
    plain.key_usages.clear();
    let plain = self_signed(plain, ec_key());
    let mut client = pki.settings(Client);
    client.ca = plain.pem.clone().into_bytes();
    let mut server = settings_for(Server, &plain);
    server.ca = pki.ca.pem.clone().into_bytes();
    accepts(&client, &server);

    let impostor = plain.issue(leaf_params("gw2", Server), ec_key());
    let mut server = settings_for(Server, &impostor);
    server.ca = pki.ca.pem.clone().into_bytes();
    refuses(&client, &server, "depth=1, error=invalid CA certificate");

    // An end-entity certificate of a good CA cannot sign either.
    let impostor = pki.server.issue(leaf_params("gw3", Server), ec_key());
    let mut server = settings_for(Server, &impostor);
    server.ca = pki.ca.pem.clone().into_bytes();
    server.extra_certs = Some(pki.server.pem.clone().into_bytes());
    refuses(
        &pki.settings(Client),
        &server,
        "depth=1, error=invalid CA certificate",
    );
}

#[test]
fn path_length_of_the_root_counts() {
    let mut root = ca_params("Root");
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let root = self_signed(root, ec_key());
    let middle = root.issue(ca_params("Middle"), ec_key());
    let own = middle.issue(leaf_params("gw1", Server), ec_key());
    let pki = Pki::new();
    let mut client = pki.settings(Client);
    client.ca = root.pem.clone().into_bytes();
    let mut server = settings_for(Server, &own);
    server.ca = pki.ca.pem.clone().into_bytes();
    server.extra_certs = Some(middle.pem.into_bytes());
    refuses(&client, &server, "path length constraint exceeded");
    let own = root.issue(leaf_params("gw1", Server), ec_key());
    let mut server = settings_for(Server, &own);
    server.ca = pki.ca.pem.into_bytes();
    accepts(&client, &server);
}

#[test]
fn fingerprint_without_ca() {
    // Self-signed with CA:TRUE, as the recipe for fingerprint mode makes them, even expired.
    let now = OffsetDateTime::now_utc();
    let one = self_signed(ca_params("gw1"), ec_key());
    let mut two = ca_params("gw2");
    two.not_after = now - Duration::days(1);
    let two = self_signed(two, ec_key());
    let mut client = settings_for(Client, &one);
    client.peer_fingerprint = vec![[7; 32], two.sha256()];
    let mut server = settings_for(Server, &two);
    server.peer_fingerprint = vec![one.sha256()];
    accepts(&client, &server);
    client.peer_fingerprint = vec![one.sha256()];
    refuses(
        &client,
        &server,
        "is not among those of peer-fingerprint: C=DE, O=Example, CN=gw2",
    );
}

#[test]
fn fingerprint_still_needs_the_private_key() {
    // A thief has the certificate but another key.
    let victim = self_signed(ca_params("gw1"), ec_key());
    let one = self_signed(ca_params("one"), ec_key());
    let mut client = settings_for(Client, &one);
    client.peer_fingerprint = vec![victim.sha256()];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(ec_key().serialize_der());
        let signing = provider.key_provider.load_private_key(key.into()).unwrap();
        let stolen = vec![rustls_pki_types::CertificateDer::from(victim.der.clone())];
        let stolen = rustls::sign::CertifiedKey::new(stolen, signing);
        let config = rustls::ServerConfig::builder_with_protocol_versions(&[version])
            .with_no_client_auth()
            .with_cert_resolver(std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(
                stolen,
            )));
        let mut thief = rustls::ServerConnection::new(std::sync::Arc::new(config)).unwrap();
        let mut client = session(&client);
        let mut result = Ok(());
        for _ in 0..4 {
            let mut wire = Vec::new();
            client.read_ciphertext(&mut wire);
            let mut bytes = wire.as_slice();
            while !bytes.is_empty() && thief.read_tls(&mut bytes).unwrap() > 0 {
                let _ = thief.process_new_packets();
            }
            let mut wire = Vec::new();
            while thief.wants_write() {
                thief.write_tls(&mut wire).unwrap();
            }
            result = result.and(client.write_ciphertext(&wire));
        }
        assert!(matches!(result, Err(TlsError::Peer(_))), "{result:?}");
        assert!(client.peer().is_none() && client.is_handshaking());
    }
}

#[test]
fn fingerprint_with_ca_needs_both() {
    let pki = Pki::new();
    let mut client = pki.settings(Client);
    client.peer_fingerprint = vec![pki.server.sha256()];
    accepts(&client, &pki.settings(Server));
    client.peer_fingerprint = vec![pki.client.sha256()];
    refuses(&client, &pki.settings(Server), "peer-fingerprint");
    client.peer_fingerprint = vec![pki.server.sha256()];
    client.ca = Pki::new().ca.pem.into_bytes();
    refuses(
        &client,
        &pki.settings(Server),
        "certificate signature failure",
    );
}

#[test]
fn hash_of_the_issuer() {
    let pki = Pki::new();
    let ca = Certificate::from_der(&pki.ca.der).unwrap();
    for hash in [CertHash::Sha256(ca.sha256()), CertHash::Sha1(ca.sha1())] {
        let mut client = pki.settings(Client);
        client.verify_hash = vec![CertHash::Sha256([0; 32]), hash];
        accepts(&client, &pki.settings(Server));
    }
    let mut client = pki.settings(Client);
    client.verify_hash = vec![CertHash::Sha256(pki.server.sha256())];
    refuses(
        &client,
        &pki.settings(Server),
        "depth=1, the issuer's SHA-256 fingerprint",
    );
}

#[test]
fn remote_cert_tls_and_usages() {
    let pki = Pki::new();
    let mut client = pki.settings(Client);
    client.remote_cert_tls = Some(RemoteCertTls::Server);
    accepts(&client, &pki.settings(Server));
    let mut link = Link::new(&client, &pki.settings(Server));
    link.connect();
    assert_eq!(
        link.client.take_log(),
        [
            "VERIFY OK: depth=1, C=DE, O=Example, CN=Test CA",
            "VERIFY KU OK",
            "VERIFY EKU OK",
            "VERIFY OK: depth=0, C=DE, O=Example, CN=gw1"
        ]
    );

    client.remote_cert_tls = Some(RemoteCertTls::Client);
    refuses(
        &client,
        &pki.settings(Server),
        "VERIFY EKU ERROR: C=DE, O=Example, CN=gw1 has ext",
    );
    client.remote_cert_tls = Some(RemoteCertTls::Server);
    let strict = |change: fn(&mut CertificateParams)| {
        let (mut client, server, _) = pair(change);
        client.remote_cert_tls = Some(RemoteCertTls::Server);
        (client, server)
    };
    let (client, server) = strict(|params| params.extended_key_usages.clear());
    refuses(
        &client,
        &server,
        "VERIFY EKU ERROR: C=DE, O=Example, CN=gw1 has no extended",
    );
    let (client, server) = strict(|params| params.key_usages.clear());
    refuses(
        &client,
        &server,
        "VERIFY KU ERROR: C=DE, O=Example, CN=gw1 has no key usage",
    );

    let mut client = pki.settings(Client);
    for (masks, accepted) in [
        (vec![0xa0], true),
        (vec![0x80], true),
        (vec![0x88, 0x20], true),
        (vec![0x88, 0xa8], false),
        (vec![0x08], false),
    ] {
        client.remote_cert_ku = masks;
        let verdict = client_verdict(&client, &pki.settings(Server));
        assert_eq!(
            verdict.is_ok(),
            accepted,
            "{:?} {verdict:?}",
            client.remote_cert_ku
        );
    }
    client.remote_cert_ku.clear();
    for (eku, accepted) in [
        ("TLS Web Server Authentication", true),
        ("1.3.6.1.5.5.7.3.1", true),
        ("TLS Web Client Authentication", false),
        ("1.3.6.1.5.5.7.3.9", false),
    ] {
        // Both options count when both are given.
        client.remote_cert_tls = Some(RemoteCertTls::Server);
        client.remote_cert_eku = Some(eku.to_owned());
        let verdict = client_verdict(&client, &pki.settings(Server));
        assert_eq!(verdict.is_ok(), accepted, "{eku} {verdict:?}");
    }
}

#[test]
fn x509_name() {
    let pki = Pki::new();
    let mut client = pki.settings(Client);
    for (name, kind, accepted) in [
        ("C=DE, O=Example, CN=gw1", X509NameType::Subject, true),
        ("CN=gw1", X509NameType::Subject, false),
        ("gw1", X509NameType::Name, true),
        ("gw", X509NameType::Name, false),
        ("gw11", X509NameType::Name, false),
        ("gw", X509NameType::NamePrefix, true),
        ("gw2", X509NameType::NamePrefix, false),
    ] {
        client.verify_x509_name = Some((name.to_owned(), kind));
        let verdict = client_verdict(&client, &pki.settings(Server));
        assert_eq!(verdict.is_ok(), accepted, "{name} {verdict:?}");
        if let Err(line) = verdict {
            let start = "VERIFY X509NAME ERROR: C=DE, O=Example, CN=gw1, must b";
            assert!(line.starts_with(start), "{line}");
            assert!(line.ends_with(name), "{line}");
        }
    }
}

#[test]
fn username_fields() {
    let cases: [(&[&str], &str); 5] = [
        (&["CN"], "gw1"),
        (&["commonName", "O"], "gw1_Example"),
        (&["2.5.4.6"], "DE"),
        (&["cn", "o"], "gw1_Example"),
        (&["ext:subjectAltName"], "gw@example.org"),
    ];
    let (client, server, own) = pair(|params| {
        params.subject_alt_names = ["first@example.org", "gw@example.org"]
            .map(|email| rcgen::SanType::Rfc822Name(email.try_into().unwrap()))
            .to_vec();
    });
    for (fields, name) in cases {
        let mut client = client.clone();
        client.x509_username_field = fields.iter().map(|text| (*text).to_owned()).collect();
        let mut link = Link::new(&client, &server);
        link.connect();
        assert_eq!(link.client.peer().unwrap().common_name, name);
    }
    let mut by_serial = client.clone();
    by_serial.x509_username_field = vec!["serialNumber".to_owned()];
    let mut link = Link::new(&by_serial, &server);
    link.connect();
    let serial: u64 = own.serial().parse().unwrap();
    assert_eq!(
        link.client.peer().unwrap().common_name,
        format!("0x{serial:06X}")
    );

    let mut missing = client;
    missing.x509_username_field = vec!["UID".to_owned()];
    refuses(&missing, &server, "has no UID in its subject");
}

#[test]
fn common_name_is_needed_bounded_and_printable() {
    let (client, server, _) = pair(|params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, "nobody");
    });
    refuses(&client, &server, "has no CN in its subject: O=nobody");
    for (length, accepted) in [(64, true), (65, false)] {
        let name = "x".repeat(length);
        let (client, server, _) = pair(|params| {
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name.clone());
        });
        assert_eq!(client_verdict(&client, &server).is_ok(), accepted);
    }
    let (client, server, _) = pair(|params| {
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "a\nb\u{7f}c");
    });
    let mut link = Link::new(&client, &server);
    link.connect();
    let peer = link.client.peer().unwrap();
    assert_eq!(peer.common_name, "a_b_c");
    assert_eq!(peer.subject, "C=DE, O=Example, CN=a\\0Ab\\7Fc");
}

#[test]
fn profile() {
    let pki = Pki::new();
    let mut client = pki.settings(Client);
    client.tls_cert_profile = CertProfile::SuiteB;
    accepts(&client, &pki.settings(Server));
    let rsa = || {
        rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap()
    };
    let own = pki.ca.issue(leaf_params("gw1", Server), rsa());
    let mut server = settings_for(Server, &own);
    server.ca = pki.ca.pem.clone().into_bytes();
    refuses(
        &client,
        &server,
        "certificate too weak for the tls-cert-profile (2048 bits RSA",
    );
    client.tls_cert_profile = CertProfile::Preferred;
    accepts(&client, &server);
    server.tls_cert_profile = CertProfile::SuiteB;
    let err = TlsContext::new(&server).unwrap_err().to_string();
    assert!(err.contains("too weak for the tls-cert-profile"), "{err}");
}

#[test]
fn what_cannot_be_used_is_named() {
    let pki = Pki::new();
    let mut client = pki.settings(Client);
    client.ca = include_bytes!("../testdata/fixture_ca.pem").to_vec();
    let server = |cert: &[u8], key: &[u8]| {
        let mut server = pki.settings(Server);
        server.cert = Some(cert.to_vec());
        server.key = Some(key.to_vec());
        server
    };
    let v1 = server(
        include_bytes!("../testdata/leaf_v1.pem"),
        include_bytes!("../testdata/leaf_v1.key.pem"),
    );
    let line = client_verdict(&client, &v1).unwrap_err();
    assert!(
        line.starts_with(
            "VERIFY ERROR: depth=0, error=unsupported certificate: CN=old, serial=4097: \
             it is X.509 v1"
        ),
        "{line}"
    );
    assert!(line.contains("reissue it as v3"));
    let (_, warnings) = TlsContext::new(&v1).unwrap();
    assert!(warnings[0].contains("CN=old is X.509 v1"), "{warnings:?}");

    let sha1 = server(
        include_bytes!("../testdata/leaf_sha1.pem"),
        include_bytes!("../testdata/leaf_sha1.key.pem"),
    );
    refuses(
        &client,
        &sha1,
        "CN=sha1, serial=4098: it is signed with ecdsa-with-SHA1",
    );

    let small = server(
        include_bytes!("../testdata/leaf_rsa1024.pem"),
        include_bytes!("../testdata/leaf_rsa1024.key.pem"),
    );
    let err = TlsContext::new(&small).unwrap_err().to_string();
    assert!(
        err.contains("CN=small has an RSA key of 1024 bits"),
        "{err}"
    );

    // Known by its fingerprint, even an X.509 v1 certificate can prove itself.
    let cert = &certificates_from_pem(v1.cert.as_ref().unwrap()).unwrap()[0];
    client.ca.clear();
    client.peer_fingerprint = vec![cert.sha256()];
    accepts(&client, &v1);
}

#[test]
fn old_root_still_signs() {
    let pki = Pki::new();
    let mut client = pki.settings(Client);
    client.ca = include_bytes!("../testdata/root_v1.pem").to_vec();
    let mut server = pki.settings(Server);
    server.cert = Some(include_bytes!("../testdata/leaf_of_root_v1.pem").to_vec());
    server.key = Some(include_bytes!("../testdata/leaf_of_root_v1.key.pem").to_vec());
    accepts(&client, &server);
}

#[test]
fn netscape_type() {
    let pki = Pki::new();
    let mut client = pki.settings(Client);
    client.ca = include_bytes!("../testdata/fixture_ca.pem").to_vec();
    let mut server = pki.settings(Server);
    server.cert = Some(include_bytes!("../testdata/leaf_nstype.pem").to_vec());
    server.key = Some(include_bytes!("../testdata/leaf_nstype.key.pem").to_vec());
    client.ns_cert_type = Some(RemoteCertTls::Server);
    accepts(&client, &server);
    client.ns_cert_type = Some(RemoteCertTls::Client);
    refuses(
        &client,
        &server,
        "VERIFY nsCertType ERROR: CN=ns, require nsCertType=CLIENT",
    );
    // A certificate without the extension must say the same in the modern way.
    let mut client = pki.settings(Client);
    client.ns_cert_type = Some(RemoteCertTls::Server);
    accepts(&client, &pki.settings(Server));
    let (mut client, server, _) = pair(|params| params.extended_key_usages.clear());
    client.ns_cert_type = Some(RemoteCertTls::Server);
    refuses(&client, &server, "VERIFY nsCertType ERROR");
}

#[test]
fn script_environment() {
    let odd = &certificates_from_pem(include_bytes!("../testdata/odd_subject.pem")).unwrap()[0];
    let env = cert_env(&[odd.clone(), odd.clone()]);
    let get = |name: &str| {
        let found: Vec<_> = env.iter().filter(|(key, _)| key == name).collect();
        assert!(found.len() <= 1, "{name} twice");
        found.first().map(|(_, value)| value.as_str())
    };
    assert_eq!(get("X509_0_CN"), Some("gw1"));
    assert_eq!(get("X509_1_CN"), Some("gw1"));
    assert_eq!(get("X509_0_OU"), Some("Büro München"));
    assert_eq!(get("X509_0_OU_1"), Some("zwei"));
    assert_eq!(get("X509_0_emailAddress"), Some("root@example.org"));
    assert_eq!(get("X509_0_O"), Some("Ex, \"a\" \\ GmbH"));
    assert!(!env.iter().any(|(key, _)| key.contains("99999")));
    assert_eq!(
        get("tls_id_0").unwrap(),
        include_str!("../testdata/odd_subject.txt").trim_end()
    );
    for (name, file) in [
        ("tls_serial_0", include_str!("../testdata/odd_serial.txt")),
        (
            "tls_serial_hex_0",
            include_str!("../testdata/odd_serial_hex.txt"),
        ),
        ("tls_digest_0", include_str!("../testdata/odd_sha1.txt")),
        (
            "tls_digest_sha256_1",
            include_str!("../testdata/odd_sha256.txt"),
        ),
    ] {
        assert_eq!(get(name).unwrap(), file.trim_end(), "{name}");
    }
}

#[test]
fn ca_directory() {
    let pki = Pki::new();
    let dir = std::env::temp_dir().join(format!("ringway-capath-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("0a1b2c3d.0"), &pki.ca.pem).unwrap();
    std::fs::write(dir.join("readme.txt"), "not a certificate").unwrap();
    let mut client = pki.settings(Client);
    client.ca.clear();
    client.ca_path = Some(dir.clone());
    let accepted = client_verdict(&client, &pki.settings(Server));
    std::fs::write(dir.join("0a1b2c3d.r0"), pki.ca.crl(&[&pki.server], 5)).unwrap();
    let revoked = client_verdict(&client, &pki.settings(Server));
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(accepted, Ok(()));
    assert!(revoked.unwrap_err().contains("certificate revoked"));
}
