//! Every role, wrap, cipher and outside family, each carrying everything an interface carries.
//!
//! A plain run covers each value at least once; `RINGWAY_LAB_FULL=1` runs every combination. Engine
//! and number of workers go round.

use anyhow::{Context as _, Result};
use ringway_lab::certs::KeyKind;
use ringway_lab::link::{Cipher, LinkSpec, Mode, Outside, Wrap};
use ringway_lab::peer::Peer;
use ringway_lab::{cases, full, note, ready, traffic};

use Cipher::{Aes128CbcSha1, Aes256CbcSha256, Aes256Gcm, ChaCha20Poly1305};
use Outside::{V4, V6};
use Wrap::{Plain, TlsAuth, TlsCrypt, TlsCryptV2};

/// Who plays which part.
#[derive(Clone, Copy, Debug)]
enum Roles {
    /// Ringway is the point-to-point `tls-server`, OpenVPN the `tls-client`.
    TlsServer,
    /// Ringway is the point-to-point `tls-client`, OpenVPN the `tls-server`.
    TlsClient,
    /// Ringway pulls from OpenVPN's `server`.
    PullClient,
    /// Ringway on both ends, point-to-point.
    Both,
}

/// How Ringway moves packets: engine and number of workers.
const VARIANTS: [(&str, u16); 4] = [("uring", 1), ("syscalls", 2), ("uring", 2), ("syscalls", 1)];

/// What runs by default: each role, wrapping, cipher, address family and engine.
const SHORT: [&str; 7] = [
    "tls_server_plain_gcm_v4",
    "tls_server_auth_chacha_v6",
    "tls_client_auth_gcm_v6",
    "tls_client_plain_cbc256_v4",
    "pull_crypt_v2_gcm_v4",
    "pull_crypt_cbc256_v6",
    "both_crypt_gcm_v6",
];

cases! { case, SHORT,
    tls_server_plain_gcm_v4: Roles::TlsServer, Plain, Aes256Gcm, V4, KeyKind::EcdsaP256, ("uring", 1);
    tls_server_auth_chacha_v6: Roles::TlsServer, TlsAuth, ChaCha20Poly1305, V6, KeyKind::Rsa2048, ("syscalls", 2);
    tls_server_crypt_cbc128_v4: Roles::TlsServer, TlsCrypt, Aes128CbcSha1, V4, KeyKind::EcdsaP256, ("uring", 2);
    tls_client_auth_gcm_v6: Roles::TlsClient, TlsAuth, Aes256Gcm, V6, KeyKind::EcdsaP256, ("uring", 2);
    tls_client_plain_cbc256_v4: Roles::TlsClient, Plain, Aes256CbcSha256, V4, KeyKind::Rsa2048, ("syscalls", 1);
    tls_client_crypt_chacha_v4: Roles::TlsClient, TlsCrypt, ChaCha20Poly1305, V4, KeyKind::EcdsaP256, ("syscalls", 2);
    pull_crypt_v2_gcm_v4: Roles::PullClient, TlsCryptV2, Aes256Gcm, V4, KeyKind::Rsa2048, ("uring", 2);
    pull_crypt_cbc256_v6: Roles::PullClient, TlsCrypt, Aes256CbcSha256, V6, KeyKind::EcdsaP256, ("syscalls", 2);
    pull_plain_cbc128_v4: Roles::PullClient, Plain, Aes128CbcSha1, V4, KeyKind::EcdsaP256, ("uring", 1);
    both_crypt_gcm_v6: Roles::Both, TlsCrypt, Aes256Gcm, V6, KeyKind::EcdsaP256, ("uring", 3);
    both_auth_cbc256_v4: Roles::Both, TlsAuth, Aes256CbcSha256, V4, KeyKind::EcdsaP256, ("uring", 2);
}

#[test]
fn every_combination() -> Result<()> {
    if !full() || !ready("every_combination") {
        return Ok(());
    }
    let mut failed = Vec::new();
    let mut count = 0;
    for roles in [
        Roles::TlsServer,
        Roles::TlsClient,
        Roles::PullClient,
        Roles::Both,
    ] {
        for wrap in [Plain, TlsAuth, TlsCrypt, TlsCryptV2] {
            if wrap == TlsCryptV2 && !matches!(roles, Roles::PullClient) {
                continue;
            }
            for cipher in [Aes256Gcm, ChaCha20Poly1305, Aes256CbcSha256, Aes128CbcSha1] {
                for outside in [V4, V6] {
                    // Every second round of four starts one further, so that all ciphers meet all.
                    let variant = VARIANTS[(count + count / 8) % VARIANTS.len()];
                    count += 1;
                    let keys = KeyKind::EcdsaP256;
                    if let Err(error) = case(roles, wrap, cipher, outside, keys, variant) {
                        note(&format!("FAILED: {error:#}"));
                        failed.push(format!("{roles:?} {wrap:?} {cipher:?} {outside:?}"));
                    }
                }
            }
        }
    }
    note(&format!("{count} combinations, {} failed", failed.len()));
    assert!(failed.is_empty(), "{failed:#?}");
    Ok(())
}

fn case(
    roles: Roles,
    wrap: Wrap,
    cipher: Cipher,
    outside: Outside,
    keys: KeyKind,
    variant: (&str, u16),
) -> Result<()> {
    let start = std::time::Instant::now();
    let subject = Peer::subject();
    let (client, server, mode) = match roles {
        Roles::TlsServer => (Peer::OpenVpn, subject, Mode::PointToPoint),
        Roles::TlsClient => (subject, Peer::OpenVpn, Mode::PointToPoint),
        Roles::PullClient => (subject, Peer::OpenVpn, Mode::Pull),
        Roles::Both => (subject, subject, Mode::PointToPoint),
    };
    let spec = LinkSpec {
        mode,
        wrap,
        cipher,
        outside,
        keys,
        ..LinkSpec::new(client, server)
    }
    .ringway_line(&format!("ringway-io {}", variant.0))
    .ringway_line(&format!("ringway-workers {}", variant.1));
    let mut link = spec.start()?;
    let up = start.elapsed();
    link.check(|link| traffic::everything(link, 4 << 20))?;
    link.check(|link| {
        // The cipher asked for is the one in use, in the words both programs share.
        let text = format!("Data Channel: cipher '{}'", cipher.name());
        anyhow::ensure!(
            link.client.count(&text) > 0,
            "the client does not use {text}"
        );
        anyhow::ensure!(
            link.server.count(&text) > 0,
            "the server does not use {text}"
        );
        link.stop().context("stopping")
    })?;
    note(&format!(
        "{}, {} with {} worker(s): up after {:.1} s, all in {:.1} s",
        spec.title(),
        variant.0,
        variant.1,
        up.as_secs_f64(),
        start.elapsed().as_secs_f64()
    ));
    Ok(())
}
