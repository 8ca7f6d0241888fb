//! Peers of other versions, as their peer info tells.

use super::pair::{BAD, CLEAN, Pair, S, peer_info, seeds, wrap_of};
use ringway::proto::TlsRole;
use ringway_dataplane::key_slot::{Cipher, DataFormat};

/// 2.6 and 2.7 point to point (protocol §5.2).
pub(crate) const V2_6: u32 = 746;
const V2_7: u32 = 7850;

#[test]
fn both_ends_agree_with_every_pair_of_versions() {
    let versions = [None, Some(V2_6), Some(V2_7)];
    for server in versions {
        for client in versions {
            let mut pair = Pair::new(20, CLEAN, wrap_of(2), |role, c| {
                let version = match role {
                    TlsRole::Server => server,
                    TlsRole::Client => client,
                };
                // Up to 2.5 nothing is said, and the configured cipher is used.
                c.peer_info = version.and_then(peer_info);
                c.preferences.fallback = Some(Cipher::Aes256Gcm);
                c.reneg_sec = 30 * S;
            });
            pair.run(100 * S);
            let what = format!("{server:?} and {client:?}");
            pair.expect_up(&what);
            assert_eq!(pair.data_lost, 0, "{what}");
            let [a, b] = pair.ends.each_ref().map(|e| e.negotiated.clone().unwrap());
            assert_eq!(a, b, "{what}");
            let old = server.is_none() || client.is_none();
            assert_eq!(a.ekm, !old, "{what}");
            assert_eq!(a.peer_id.is_none(), old, "{what}");
            assert_eq!(a.dyn_tls_crypt, !old, "{what}");
            assert_eq!(a.cc_exit, !old, "{what}");
            let epoch = server == Some(V2_7) && client == Some(V2_7);
            assert_eq!(a.format == DataFormat::Epoch, epoch, "{what}");
            assert!(pair.ends[0].generations >= 3, "{what}");
        }
    }
}

#[test]
fn a_peer_that_comes_back_with_another_version_is_negotiated_with_anew() {
    for restarted in [0, 1] {
        let mut pair = Pair::new(23, CLEAN, wrap_of(2), |_, c| c.peer_info = peer_info(V2_7));
        pair.run(30 * S);
        pair.change_config(restarted, |c| c.peer_info = peer_info(V2_6));
        pair.restart(restarted);
        pair.run(60 * S);
        pair.expect_up("after");
        let [a, b] = pair.ends.each_ref().map(|e| e.negotiated.clone().unwrap());
        assert_eq!(a, b);
        assert_eq!(a.format, DataFormat::Classic);
    }
}

#[test]
fn legacy_keys_survive_loss_and_rekeys() {
    for seed in seeds(20) {
        let mut pair = Pair::new(seed, BAD, wrap_of(seed), |_, c| {
            c.peer_info = None;
            c.preferences.fallback = Some(Cipher::Aes256Cbc);
            c.reneg_sec = 60 * S;
        });
        pair.run(400 * S);
        pair.expect_up(&format!("seed {seed}"));
        assert!(pair.data_lost <= 3, "seed {seed}: {}", pair.data_lost);
        assert!(pair.ends[0].generations >= 5);
    }
}

#[test]
fn no_common_cipher_says_what_to_change() {
    let mut pair = Pair::new(21, CLEAN, wrap_of(2), |role, c| {
        if role == TlsRole::Client {
            c.peer_info = Some("IV_CIPHERS=CHACHA20-POLY1305\nIV_PROTO=746\n".into());
            c.preferences.data_ciphers = vec![Cipher::ChaCha20Poly1305];
        }
    });
    pair.run(5 * S);
    let text = pair.ends[0].failed.clone().unwrap();
    assert!(text.contains("CHACHA20-POLY1305"), "{text}");
}

#[test]
fn differing_options_are_told_to_those_who_cannot_negotiate() {
    for (info, verb) in [(None, 1), (peer_info(V2_6), 7)] {
        let mut pair = Pair::new(22, CLEAN, wrap_of(0), |role, c| {
            c.peer_info.clone_from(&info);
            c.preferences.fallback = Some(Cipher::Aes256Gcm);
            c.options = match role {
                TlsRole::Server => "V4,dev-type tun,auth SHA1".into(),
                TlsRole::Client => "V4,dev-type tun,auth SHA256".into(),
            };
        });
        pair.run(5 * S);
        for end in &pair.ends {
            let line = end.log.iter().find(|(_, text)| text.contains("'auth'"));
            assert_eq!(line.unwrap().0, verb);
        }
    }
}
