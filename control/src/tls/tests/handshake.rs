//! What is agreed on, and that any cutting of the bytes carries it.

use proptest::prelude::*;
use rcgen::RsaKeySize;
use zeroize::Zeroizing;

use crate::proto::TlsRole::{Client, Server};
use crate::tls::testing::*;
use crate::tls::{TlsContext, TlsError, TlsSettings, TlsVersion, VerifyClientCert};

fn rsa_key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
}

/// Both sides have the same keying material and carry data both ways.
fn check_connected(link: &mut Link) {
    for label in ["EXPORTER-OpenVPN-datakeys", "EXPORTER-OpenVPN-p2p-peerid"] {
        let (mut a, mut b) = ([0; 256], [0; 256]);
        link.client.export(label, &mut a).unwrap();
        link.server.export(label, &mut b).unwrap();
        assert_eq!(a, b);
        assert_ne!(a, [0; 256]);
    }
    link.client.write_plaintext(b"from the client").unwrap();
    link.server.write_plaintext(b"from the server").unwrap();
    assert_eq!(link.run(7), (Ok(()), Ok(())));
    let mut got = Vec::new();
    assert_eq!(link.server.read_plaintext(&mut got), Ok(15));
    assert_eq!(got, b"from the client");
    assert_eq!(link.server.read_plaintext(&mut got), Ok(0));
    got.clear();
    assert_eq!(link.client.read_plaintext(&mut got), Ok(15));
    assert_eq!(got, b"from the server");
}

#[test]
fn every_key_kind_and_version() {
    type Kind = (&'static str, fn() -> rcgen::KeyPair, &'static str);
    let kinds: [Kind; 5] = [
        ("RSA", rsa_key, "2048 bits RSA, signature: RSA-SHA256"),
        (
            "P-256",
            ec_key,
            "256 bits ECsecp256r1, signature: ecdsa-with-SHA256",
        ),
        (
            "P-384",
            || key(&rcgen::PKCS_ECDSA_P384_SHA384),
            "384 bits ECsecp384r1, signature: ecdsa-with-SHA384",
        ),
        (
            "P-521",
            || key(&rcgen::PKCS_ECDSA_P521_SHA512),
            "521 bits ECsecp521r1, signature: ecdsa-with-SHA512",
        ),
        (
            "Ed25519",
            || key(&rcgen::PKCS_ED25519),
            "253 bits ED25519, signature: ED25519",
        ),
    ];
    for (name, key, described) in kinds {
        let pki = Pki::with_keys(key);
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            let mut client = pki.settings(Client);
            client.tls_version_max = Some(version);
            let mut link = Link::new(&client, &pki.settings(Server));
            link.connect();
            check_connected(&mut link);
            let text = link.client.description();
            let start = match version {
                TlsVersion::V1_3 => "TLSv1.3, cipher TLSv1.3 TLS_AES_256_GCM_SHA384, peer",
                _ if name == "RSA" => "TLSv1.2, cipher TLSv1.2 ECDHE-RSA-AES256-GCM-SHA384, peer",
                _ => "TLSv1.2, cipher TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384, peer",
            };
            assert!(text.starts_with(start), "{text}");
            assert!(text.contains(described), "{text}");
            let peer = link.server.peer().unwrap();
            assert_eq!(peer.common_name, "alice");
            assert_eq!(peer.subject, "C=DE, O=Example, CN=alice");
            assert_eq!(peer.serial, pki.client.serial());
            assert_eq!(peer.sha256, pki.client.sha256());
            assert_eq!(peer.chain.len(), 2);
            assert_eq!(link.client.peer().unwrap().common_name, "gw1");
            assert_eq!(
                link.client.take_log(),
                [
                    "VERIFY OK: depth=1, C=DE, O=Example, CN=Test CA",
                    "VERIFY OK: depth=0, C=DE, O=Example, CN=gw1"
                ]
            );
        }
    }
}

#[test]
fn single_bytes_and_whole_flights() {
    let pki = Pki::new();
    for piece in [1, 2, 100, 1100] {
        let mut link = Link::new(&pki.settings(Client), &pki.settings(Server));
        assert_eq!(link.run(piece), (Ok(()), Ok(())));
        check_connected(&mut link);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_cutting(pieces in prop::collection::vec(1usize..600, 1..40)) {
        let pki = Pki::new();
        let mut link = Link::new(&pki.settings(Client), &pki.settings(Server));
        let next = std::cell::Cell::new(0);
        let results = link.run_with(|| {
            next.set(next.get() + 1);
            pieces[next.get() % pieces.len()]
        });
        prop_assert_eq!(results, (Ok(()), Ok(())));
        check_connected(&mut link);
    }

    #[test]
    fn noise_is_an_error_and_no_panic(noise in prop::collection::vec(any::<u8>(), 1..300)) {
        let pki = Pki::new();
        for settings in [pki.settings(Client), pki.settings(Server)] {
            let mut session = session(&settings);
            let first = session.write_ciphertext(&noise);
            if first.is_err() {
                prop_assert_eq!(session.write_ciphertext(&noise), first.clone());
                let mut out = Vec::new();
                prop_assert_eq!(session.read_plaintext(&mut out).err(), first.err());
            }
            prop_assert!(session.is_handshaking());
            prop_assert!(session.peer().is_none());
        }
    }
}

#[test]
fn post_quantum_by_default_and_groups_by_choice() {
    let pki = Pki::new();
    let mut link = Link::new(&pki.settings(Client), &pki.settings(Server));
    link.connect();
    let text = link.client.description();
    assert!(text.ends_with("key agreement: X25519MLKEM768"), "{text}");

    for (groups, name) in [
        ("X25519", "X25519"),
        ("prime256v1", "secp256r1"),
        ("secp384r1", "secp384r1"),
        ("secp521r1", "secp521r1"),
        ("SecP256r1MLKEM768", "secp256r1MLKEM768"),
    ] {
        for max in [TlsVersion::V1_2, TlsVersion::V1_3] {
            if groups.contains("MLKEM") && max == TlsVersion::V1_2 {
                continue;
            }
            let mut client = pki.settings(Client);
            client.tls_groups = Some(groups.to_owned());
            client.tls_version_max = Some(max);
            let mut server = pki.settings(Server);
            server.tls_groups = Some(format!("X25519:{groups}"));
            let mut link = Link::new(&client, &server);
            link.connect();
            check_connected(&mut link);
            let text = link.server.description();
            assert!(text.ends_with(&format!("key agreement: {name}")), "{text}");
        }
    }
}

#[test]
fn chosen_suites_are_used() {
    let pki = Pki::new();
    let mut client = pki.settings(Client);
    client.tls_ciphersuites = Some("TLS_CHACHA20_POLY1305_SHA256".to_owned());
    client.tls_cipher = Some("TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256".to_owned());
    let mut link = Link::new(&client, &pki.settings(Server));
    link.connect();
    assert!(
        link.client
            .description()
            .contains("TLS_CHACHA20_POLY1305_SHA256")
    );
    client.tls_version_max = Some(TlsVersion::V1_2);
    let mut link = Link::new(&client, &pki.settings(Server));
    link.connect();
    assert!(
        link.client
            .description()
            .contains("ECDHE-ECDSA-AES128-GCM-SHA256")
    );
}

#[test]
fn nothing_in_common_is_explained() {
    let pki = Pki::new();
    let mut client = pki.settings(Client);
    client.tls_version_max = Some(TlsVersion::V1_2);
    let mut server = pki.settings(Server);
    server.tls_version_min = Some(TlsVersion::V1_3);
    let results = Link::new(&client, &server).run(usize::MAX);
    let text = results.1.unwrap_err().to_string();
    assert!(text.starts_with("TLS Error: "), "{text}");
    let text = results.0.unwrap_err().to_string();
    assert_eq!(
        text,
        "TLS Error: the peer refused with alert ProtocolVersion"
    );

    let mut client = pki.settings(Client);
    client.tls_groups = Some("secp384r1".to_owned());
    let mut server = pki.settings(Server);
    server.tls_groups = Some("X25519".to_owned());
    let results = Link::new(&client, &server).run(usize::MAX);
    let text = results.1.unwrap_err().to_string();
    assert!(text.contains("tls-groups"), "{text}");
}

#[test]
fn no_name_is_sent_and_no_ticket() {
    let pki = Pki::new();
    let mut link = Link::new(&pki.settings(Client), &pki.settings(Server));
    let mut hello = Vec::new();
    link.client.read_ciphertext(&mut hello);
    // The extension list is long; an SNI extension would carry the name's bytes or a type of 0
    // right behind the length, which is looked for by a real parser here.
    let mut acceptor = rustls::server::Acceptor::default();
    acceptor.read_tls(&mut hello.as_slice()).unwrap();
    let accepted = acceptor.accept().unwrap().unwrap();
    assert_eq!(accepted.client_hello().server_name(), None);
    assert!(accepted.client_hello().alpn().is_none());

    link.server.write_ciphertext(&hello).unwrap();
    link.connect();
    // After the handshake the server has nothing more to say.
    let mut rest = Vec::new();
    link.server.read_ciphertext(&mut rest);
    assert!(rest.is_empty());
}

#[test]
fn out_of_turn_calls_are_refused() {
    let pki = Pki::new();
    let mut link = Link::new(&pki.settings(Client), &pki.settings(Server));
    assert!(matches!(
        link.client.write_plaintext(b"x"),
        Err(TlsError::Misuse(_))
    ));
    assert!(matches!(
        link.client.export("label", &mut [0; 8]),
        Err(TlsError::Misuse(_))
    ));
    assert!(link.client.peer().is_none());
    link.connect();
    assert!(matches!(
        link.client.write_plaintext(&vec![0; 16385]),
        Err(TlsError::Misuse(_))
    ));
    // One full record goes out as one record.
    link.client.write_plaintext(&vec![7; 16384]).unwrap();
    let mut wire = Vec::new();
    link.client.read_ciphertext(&mut wire);
    let length = usize::from(u16::from_be_bytes([wire[3], wire[4]]));
    assert_eq!(wire.len(), 5 + length);
    link.server.write_ciphertext(&wire).unwrap();
    let mut got = Vec::new();
    assert_eq!(link.server.read_plaintext(&mut got), Ok(16384));
}

#[test]
fn what_nobody_reads_or_fetches_is_bounded() {
    let pki = Pki::new();
    let mut link = Link::new(&pki.settings(Client), &pki.settings(Server));
    link.connect();
    let mut results = Vec::new();
    for _ in 0..32 {
        link.client.write_plaintext(&vec![7; 16384]).unwrap();
        results.push(link.run(1000).1);
    }
    assert!(results[0].is_ok());
    let last = results.last().unwrap().clone().unwrap_err().to_string();
    assert!(last.contains("too much data"), "{last}");

    let mut link = Link::new(&pki.settings(Client), &pki.settings(Server));
    link.connect();
    let result = (0..100).try_for_each(|_| link.client.write_plaintext(&vec![7; 16384]));
    assert!(matches!(result, Err(TlsError::Misuse(_))));
}

#[test]
fn damaged_record_ends_the_session_with_an_alert() {
    let pki = Pki::new();
    let mut link = Link::new(&pki.settings(Client), &pki.settings(Server));
    link.connect();
    link.client.write_plaintext(b"good").unwrap();
    assert_eq!(link.run(3), (Ok(()), Ok(())));
    link.client.write_plaintext(b"bad").unwrap();
    let mut wire = Vec::new();
    link.client.read_ciphertext(&mut wire);
    *wire.last_mut().unwrap() ^= 1;
    let err = link.server.write_ciphertext(&wire).unwrap_err();
    assert!(matches!(err, TlsError::Peer(_)));
    // What came before is still there; then the error.
    let mut got = Vec::new();
    assert_eq!(link.server.read_plaintext(&mut got), Ok(4));
    assert_eq!(link.server.read_plaintext(&mut got), Err(err));
    let mut alert = Vec::new();
    link.server.read_ciphertext(&mut alert);
    assert!(!alert.is_empty());
    assert!(link.client.write_ciphertext(&alert).is_err());
}

#[test]
fn client_certificates_by_choice() {
    let pki = Pki::new();
    let mut bare = TlsSettings::new(Client);
    bare.ca = pki.ca.pem.clone().into_bytes();
    for (choice, accepted) in [
        (VerifyClientCert::Require, false),
        (VerifyClientCert::Optional, true),
        (VerifyClientCert::None, true),
    ] {
        for max in [TlsVersion::V1_2, TlsVersion::V1_3] {
            let mut server = pki.settings(Server);
            server.verify_client_cert = choice;
            server.tls_version_max = Some(max);
            let mut link = Link::new(&bare, &server);
            let results = link.run(usize::MAX);
            assert_eq!(results.1.is_ok(), accepted, "{choice:?}");
            assert!(link.server.peer().is_none());
            if !accepted {
                let text = results.1.unwrap_err().to_string();
                assert_eq!(text, "TLS Error: the peer showed no certificate");
            }
        }
    }
}

#[test]
fn encrypted_key_needs_its_password() {
    let mut settings = TlsSettings::new(Client);
    let ec = include_bytes!("../testdata/ec_pkcs8.pem");
    let pair = rcgen::KeyPair::from_pem(std::str::from_utf8(ec).unwrap()).unwrap();
    let ca = self_signed(ca_params("CA"), ec_key());
    let own = ca.issue(leaf_params("alice", Client), pair);
    settings.ca = ca.pem.clone().into_bytes();
    settings.cert = Some(own.pem.into_bytes());
    settings.key = Some(include_bytes!("../testdata/ec_legacy_aes256.pem").to_vec());
    assert_eq!(
        TlsContext::new(&settings).unwrap_err(),
        TlsError::KeyPasswordMissing
    );
    settings.key_password = Some(Zeroizing::new("wrong".to_owned()));
    assert_eq!(
        TlsContext::new(&settings).unwrap_err(),
        TlsError::KeyPasswordWrong
    );
    settings.key_password = Some(Zeroizing::new("correct horse".to_owned()));
    let (_, warnings) = TlsContext::new(&settings).unwrap();
    assert!(warnings.is_empty());
}

#[test]
fn bad_settings_are_named() {
    let pki = Pki::new();
    let good = pki.settings(Server);
    type Change = Box<dyn Fn(&mut TlsSettings)>;
    let cases: [(&str, Change); 11] = [
        (
            "ca: no certificate",
            Box::new(|s| s.ca = b"nothing".to_vec()),
        ),
        ("no way to know the peer", Box::new(|s| s.ca.clear())),
        ("none of the certificates", {
            let pem = pki.server.pem.clone();
            Box::new(move |s| s.ca = pem.clone().into_bytes())
        }),
        (
            "needs a certificate",
            Box::new(|s| (s.cert, s.key) = (None, None)),
        ),
        ("cert is given without key", Box::new(|s| s.key = None)),
        ("key is given without cert", Box::new(|s| s.cert = None)),
        (
            "cert: no certificate",
            Box::new(|s| s.cert = Some(b"x".to_vec())),
        ),
        (
            "key: no private key",
            Box::new(|s| s.key = Some(b"x".to_vec())),
        ),
        ("pkcs12: not supported", Box::new(|s| s.pkcs12 = true)),
        ("does not belong to the certificate", {
            let pem = pki.client.key_pem();
            Box::new(move |s| s.key = Some(pem.clone()))
        }),
        ("capath: cannot read", {
            Box::new(|s| s.ca_path = Some("/nonexistent/dir".into()))
        }),
    ];
    for (text, change) in cases {
        let mut settings = good.clone();
        change(&mut settings);
        let err = TlsContext::new(&settings).unwrap_err().to_string();
        assert!(err.contains(text), "{text}: {err}");
        assert!(!err.contains('\n'));
    }
}
