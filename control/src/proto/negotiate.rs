//! What two ends agree on for the data channel: cipher, key derivation, packet format, peer-id
//! (protocol §8.1, §8.2).

use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{Cipher, DataFormat, Digest};

use super::TlsRole;
use super::peer_info::{PeerInfo, extensions, iv_proto};

/// Peer-id used point to point when no exporter is at hand (protocol §8.2).
const P2P_PEER_ID: u32 = 0x76_706E;

/// Our side's wishes, from the configuration.
#[derive(Clone, Debug)]
pub struct Preferences {
    /// `data-ciphers`, best first.
    pub data_ciphers: Vec<Cipher>,
    /// `data-ciphers-fallback`, or an explicit `cipher`.
    pub fallback: Option<Cipher>,
    /// `auth`: the HMAC digest of CBC ciphers.
    pub digest: Digest,
    /// Framing from our own `comp-lzo`/`compress`.
    pub framing: Framing,
}

/// What both ends do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Data cipher.
    pub cipher: Cipher,
    /// HMAC digest for CBC and `none`.
    pub digest: Digest,
    /// Packet format.
    pub format: DataFormat,
    /// Data keys come from the TLS exporter instead of the legacy PRF.
    pub ekm: bool,
    /// Peer-id for DATA_V2, `None` for DATA_V1.
    pub peer_id: Option<u32>,
    /// `EXIT` may be sent over the control channel.
    pub cc_exit: bool,
    /// Control packets of key_id ≥ 1 use dynamic tls-crypt.
    pub dyn_tls_crypt: bool,
    /// Compression framing.
    pub framing: Framing,
    /// Ringway's own [`extensions`] that both ends know.
    pub extensions: u32,
}

/// What a server pushed that concerns the data channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// `cipher X`
    pub cipher: Option<Cipher>,
    /// `peer-id n`
    pub peer_id: Option<u32>,
    /// `key-derivation tls-ekm` or the same flag in `protocol-flags`.
    pub ekm: bool,
    /// `protocol-flags cc-exit`
    pub cc_exit: bool,
    /// `protocol-flags dyn-tls-crypt`
    pub dyn_tls_crypt: bool,
    /// `protocol-flags aead-epoch`
    pub aead_epoch: bool,
    /// `compress`/`comp-lzo`
    pub framing: Option<Framing>,
}

/// Point-to-point negotiation. `exported_peer_id` is the 3-byte exporter value, when the TLS session
/// can export. The error says what to change.
pub fn point_to_point(
    own: &Preferences,
    role: TlsRole,
    peer: &PeerInfo,
    exported_peer_id: Option<u32>,
) -> Result<Negotiated, String> {
    let negotiates = peer.iv_proto & iv_proto::NCP_P2P != 0;
    let common = if negotiates {
        peer.iv_proto & iv_proto::P2P
    } else {
        0
    };
    let cipher = point_to_point_cipher(own, role, peer)?;
    let ekm = common & iv_proto::TLS_KEY_EXPORT != 0;
    let peer_id = (common & iv_proto::DATA_V2 != 0)
        .then(|| exported_peer_id.filter(|_| ekm).unwrap_or(P2P_PEER_ID));
    let epoch = common & iv_proto::DATA_EPOCH != 0 && cipher.is_aead() && peer_id.is_some();
    Ok(Negotiated {
        cipher,
        digest: own.digest,
        format: if epoch {
            DataFormat::Epoch
        } else {
            DataFormat::Classic
        },
        ekm,
        peer_id,
        cc_exit: common & iv_proto::CC_EXIT != 0,
        dyn_tls_crypt: common & iv_proto::DYN_TLS_CRYPT != 0,
        framing: own.framing,
        extensions: peer.extensions & extensions::OWN,
    })
}

/// What a pulling client uses after PUSH_REPLY. `occ_cipher` is the cipher in the server's options
/// string.
pub fn pulled(
    own: &Preferences,
    pushed: &Pushed,
    occ_cipher: Option<&str>,
) -> Result<Negotiated, String> {
    let cipher = match pushed.cipher {
        Some(cipher) if own.data_ciphers.contains(&cipher) || own.fallback == Some(cipher) => {
            cipher
        }
        Some(cipher) => {
            return Err(format!(
                "the server pushed cipher {}, which data-ciphers does not allow; add it there",
                cipher.name()
            ));
        }
        None => unpushed_cipher(own, occ_cipher)?,
    };
    let epoch = pushed.aead_epoch && cipher.is_aead();
    if pushed.aead_epoch && pushed.peer_id.is_none() {
        return Err("the server pushed aead-epoch without a peer-id".into());
    }
    Ok(Negotiated {
        cipher,
        digest: own.digest,
        format: if epoch {
            DataFormat::Epoch
        } else {
            DataFormat::Classic
        },
        ekm: pushed.ekm,
        peer_id: pushed.peer_id,
        cc_exit: pushed.cc_exit,
        dyn_tls_crypt: pushed.dyn_tls_crypt,
        framing: pushed.framing.unwrap_or(own.framing),
        extensions: 0,
    })
}

/// What a server and its client use. `features` are the bits of [`iv_proto`] the server would use,
/// `occ_cipher` is the cipher in the client's options string; the peer-id is still to be set with
/// [`Negotiated::for_client`]. The error is for the log.
///
/// A `compat-mode` below 2.5 shows in `own`: its `cipher` is one of the data ciphers then, and below
/// 2.4 the fallback.
pub fn served(
    own: &Preferences,
    features: u32,
    peer: &PeerInfo,
    occ_cipher: Option<&str>,
) -> Result<Negotiated, String> {
    let cipher = served_cipher(own, peer, occ_cipher)?;
    let common = peer.iv_proto & features;
    // Both are told in `protocol-flags`, which came with this bit.
    let flags = common & iv_proto::CC_EXIT != 0;
    let data_v2 = common & iv_proto::DATA_V2 != 0;
    let epoch = common & iv_proto::DATA_EPOCH != 0 && flags && data_v2 && cipher.is_aead();
    Ok(Negotiated {
        cipher,
        digest: own.digest,
        format: if epoch {
            DataFormat::Epoch
        } else {
            DataFormat::Classic
        },
        ekm: common & iv_proto::TLS_KEY_EXPORT != 0,
        peer_id: data_v2.then_some(0),
        cc_exit: flags,
        dyn_tls_crypt: flags && common & iv_proto::DYN_TLS_CRYPT != 0,
        framing: own.framing,
        extensions: peer.extensions & extensions::OWN,
    })
}

impl Negotiated {
    /// With the client's own number, where both ends can use one, and no more than these
    /// [`extensions`].
    #[must_use]
    pub fn for_client(mut self, peer_id: Option<u32>, extensions: u32) -> Self {
        self.peer_id = self.peer_id.and(peer_id);
        if self.peer_id.is_none() {
            self.format = DataFormat::Classic;
        }
        self.extensions &= extensions;
        self
    }
}

/// What a server pushes of what was [`served`], in the order of stock servers; the peer-id comes
/// earlier in the list (protocol §8.3).
pub fn served_options(negotiated: &Negotiated, peer: &PeerInfo) -> Vec<String> {
    let mut options = Vec::new();
    if peer.iv_ciphers.is_some() || peer.iv_ncp >= 2 {
        options.push(format!("cipher {}", negotiated.cipher.name()));
    }
    let flags = [
        ("cc-exit", negotiated.cc_exit),
        ("tls-ekm", negotiated.ekm),
        ("dyn-tls-crypt", negotiated.dyn_tls_crypt),
        ("aead-epoch", negotiated.format == DataFormat::Epoch),
    ];
    if negotiated.cc_exit {
        let set = flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name);
        let names: Vec<_> = set.collect();
        options.push(format!("protocol-flags {}", names.join(" ")));
    } else if negotiated.ekm {
        options.push("key-derivation tls-ekm".to_owned());
    }
    options
}

/// The first of our ciphers that the client offers, or, where it cannot offer, is configured for.
fn served_cipher(
    own: &Preferences,
    peer: &PeerInfo,
    occ_cipher: Option<&str>,
) -> Result<Cipher, String> {
    let names = peer.ciphers();
    let configured = occ_cipher.filter(|_| peer.iv_ciphers.is_none());
    let known = names.iter().copied().chain(configured);
    let theirs: Vec<Cipher> = known.filter_map(Cipher::from_name).collect();
    if let Some(cipher) = own.data_ciphers.iter().find(|c| theirs.contains(c)) {
        return Ok(*cipher);
    }
    let silent = names.is_empty() && configured.is_none();
    own.fallback.filter(|_| silent).ok_or_else(|| {
        if silent {
            "no shared data cipher: the client says nothing of its ciphers; set \
             data-ciphers-fallback to the one it uses"
                .to_owned()
        } else {
            let offered: Vec<_> = names.into_iter().chain(configured).collect();
            format!(
                "no shared data cipher: the client offers {}; add one of them to data-ciphers",
                offered.join(":")
            )
        }
    })
}

fn point_to_point_cipher(
    own: &Preferences,
    role: TlsRole,
    peer: &PeerInfo,
) -> Result<Cipher, String> {
    let names = peer.ciphers();
    let theirs: Vec<Cipher> = names.iter().filter_map(|n| Cipher::from_name(n)).collect();
    let (server, client) = match role {
        TlsRole::Server => (&own.data_ciphers, &theirs),
        TlsRole::Client => (&theirs, &own.data_ciphers),
    };
    if let Some(cipher) = server.iter().find(|c| client.contains(c)) {
        return Ok(*cipher);
    }
    own.fallback.ok_or_else(|| {
        if names.is_empty() {
            "the peer does not negotiate ciphers; set data-ciphers-fallback to the cipher it uses"
                .to_owned()
        } else {
            format!(
                "no shared data cipher: the peer offers {}; add one of them to data-ciphers",
                names.join(":")
            )
        }
    })
}

fn unpushed_cipher(own: &Preferences, occ_cipher: Option<&str>) -> Result<Cipher, String> {
    match occ_cipher {
        None => own.fallback.ok_or_else(|| {
            "the server neither pushed nor announced a cipher; set data-ciphers-fallback".to_owned()
        }),
        Some(name) => Cipher::from_name(name)
            .filter(|c| own.data_ciphers.contains(c) || own.fallback == Some(*c))
            .or(own.fallback)
            .ok_or_else(|| {
                format!(
                    "the server uses cipher {name}, which data-ciphers does not allow; add it there"
                )
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(ciphers: &[Cipher]) -> Preferences {
        Preferences {
            data_ciphers: ciphers.to_vec(),
            fallback: None,
            digest: Digest::Sha1,
            framing: Framing::None,
        }
    }

    fn peer(proto: u32, ciphers: &str) -> PeerInfo {
        PeerInfo::parse(&format!("IV_CIPHERS={ciphers}\nIV_PROTO={proto}\n"))
    }

    #[test]
    fn the_tls_servers_order_decides() {
        let mine = own(&[Cipher::Aes128Gcm, Cipher::Aes256Gcm]);
        let theirs = peer(746, "AES-256-GCM:AES-128-GCM");
        let as_server = point_to_point(&mine, TlsRole::Server, &theirs, None).unwrap();
        let as_client = point_to_point(&mine, TlsRole::Client, &theirs, None).unwrap();
        assert_eq!(as_server.cipher, Cipher::Aes128Gcm);
        assert_eq!(as_client.cipher, Cipher::Aes256Gcm);
    }

    #[test]
    fn a_2_6_peer_gets_exporter_keys_and_no_epochs() {
        let n = point_to_point(
            &own(&[Cipher::Aes256Gcm]),
            TlsRole::Client,
            &peer(746, "AES-256-GCM"),
            Some(0x010203),
        )
        .unwrap();
        assert!(n.ekm && n.cc_exit && n.dyn_tls_crypt);
        assert_eq!((n.peer_id, n.format), (Some(0x010203), DataFormat::Classic));
    }

    #[test]
    fn a_2_7_peer_gets_epochs_only_with_aead() {
        let both = own(&[Cipher::Aes256Gcm, Cipher::Aes256Cbc]);
        let aead = point_to_point(&both, TlsRole::Client, &peer(7850, "AES-256-GCM"), Some(1));
        let cbc = point_to_point(&both, TlsRole::Client, &peer(7850, "AES-256-CBC"), Some(1));
        assert_eq!(aead.unwrap().format, DataFormat::Epoch);
        assert_eq!(cbc.unwrap().format, DataFormat::Classic);
    }

    #[test]
    fn an_old_peer_gets_data_v1_and_the_configured_cipher() {
        let mut mine = own(&[Cipher::Aes256Gcm]);
        let silent = PeerInfo::parse("");
        let error = point_to_point(&mine, TlsRole::Client, &silent, None).unwrap_err();
        assert!(error.contains("data-ciphers-fallback"), "{error}");
        mine.fallback = Some(Cipher::Aes256Cbc);
        let n = point_to_point(&mine, TlsRole::Client, &silent, None).unwrap();
        assert_eq!(
            (n.cipher, n.peer_id, n.ekm),
            (Cipher::Aes256Cbc, None, false)
        );
    }

    fn serve(
        own: &Preferences,
        info: &str,
        occ: Option<&str>,
    ) -> Result<(Negotiated, Vec<String>), String> {
        let peer = PeerInfo::parse(info);
        let negotiated = served(own, iv_proto::PULL, &peer, occ)?.for_client(Some(7), 0);
        let options = served_options(&negotiated, &peer);
        Ok((negotiated, options))
    }

    #[test]
    fn each_version_of_client_gets_what_it_understands() {
        let mine = own(&[Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::Aes256Cbc]);
        let cases = [
            // 2.7, 2.6, OpenVPN 3 with exporter and no protocol-flags, 2.5, 2.4
            (
                "IV_CIPHERS=AES-128-GCM:AES-256-GCM\nIV_PROTO=8094\n",
                "cipher AES-256-GCM|protocol-flags cc-exit tls-ekm dyn-tls-crypt aead-epoch",
            ),
            (
                "IV_CIPHERS=AES-128-GCM\nIV_PROTO=990\n",
                "cipher AES-128-GCM|protocol-flags cc-exit tls-ekm dyn-tls-crypt",
            ),
            (
                "IV_CIPHERS=AES-256-GCM\nIV_PROTO=1546\n",
                "cipher AES-256-GCM|key-derivation tls-ekm",
            ),
            ("IV_CIPHERS=AES-256-GCM\nIV_PROTO=6\n", "cipher AES-256-GCM"),
            ("IV_NCP=2\nIV_PROTO=2\n", "cipher AES-256-GCM"),
        ];
        for (info, pushed) in cases {
            let (negotiated, options) = serve(&mine, info, None).unwrap();
            assert_eq!(options.join("|"), pushed, "{info}");
            assert_eq!(negotiated.peer_id, Some(7), "{info}");
        }
        let cbc = "IV_CIPHERS=AES-256-CBC\nIV_PROTO=8094\n";
        let (negotiated, options) = serve(&mine, cbc, None).unwrap();
        assert_eq!(negotiated.format, DataFormat::Classic);
        assert!(!options.join("|").contains("aead-epoch"));
    }

    #[test]
    fn a_client_that_cannot_negotiate_is_taken_at_its_options_string() {
        let mut mine = own(&[Cipher::Aes256Gcm, Cipher::Aes256Cbc]);
        let (negotiated, options) = serve(&mine, "", Some("AES-256-CBC")).unwrap();
        assert_eq!(
            (negotiated.cipher, negotiated.peer_id),
            (Cipher::Aes256Cbc, None)
        );
        assert!(options.is_empty(), "{options:?}");
        // What it can negotiate counts more than what it is configured for.
        let cbc_only = "IV_CIPHERS=CHACHA20-POLY1305\n";
        let error = serve(&mine, cbc_only, Some("AES-256-CBC")).unwrap_err();
        assert!(error.contains("CHACHA20-POLY1305"), "{error}");
        // The fallback is for clients that say nothing at all.
        assert!(serve(&mine, "", None).unwrap_err().contains("fallback"));
        mine.fallback = Some(Cipher::Aes128Cbc);
        assert_eq!(serve(&mine, "", None).unwrap().0.cipher, Cipher::Aes128Cbc);
        assert!(serve(&mine, "", Some("BF-CBC")).is_err());
    }

    #[test]
    fn without_a_number_there_are_no_epochs() {
        let mine = own(&[Cipher::Aes256Gcm]);
        let peer = PeerInfo::parse("IV_CIPHERS=AES-256-GCM\nIV_PROTO=8094\n");
        let negotiated = served(&mine, iv_proto::PULL, &peer, None).unwrap();
        let negotiated = negotiated.for_client(None, 0);
        assert_eq!(
            (negotiated.peer_id, negotiated.format),
            (None, DataFormat::Classic)
        );
    }

    #[test]
    fn a_pushed_cipher_must_be_allowed() {
        let mine = own(&[Cipher::Aes256Gcm]);
        let pushed = Pushed {
            cipher: Some(Cipher::Aes256Cbc),
            ..Pushed::default()
        };
        assert!(
            pulled(&mine, &pushed, None)
                .unwrap_err()
                .contains("AES-256-CBC")
        );
        let n = pulled(&mine, &Pushed::default(), Some("AES-256-GCM")).unwrap();
        assert_eq!(n.cipher, Cipher::Aes256Gcm);
    }
}
