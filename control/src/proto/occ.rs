//! The options string: each end tells how it is configured, so that a mismatch can be warned about
//! (protocol document §5.1).
//!
//! It decides nothing, with two exceptions the negotiation makes use of: the `cipher` of a peer that
//! cannot negotiate, and whether a peer has a compression framing. `link-mtu` in it is arithmetic of
//! another age and agrees with no packet on the wire today.

use std::net::Ipv4Addr;

use ringway_dataplane::key_slot::{Cipher, Digest};

use super::TlsRole;

/// The cipher the string is computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OccCipher {
    /// No `cipher` configured: counts as BF-CBC, which is never used.
    BfCbc,
    /// The configured `cipher`.
    Configured(Cipher),
}

/// The outer transport, as an end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OccProto {
    /// UDP
    Udp,
    /// TCP, listening.
    TcpServer,
    /// TCP, connecting.
    TcpClient,
}

/// What the options string is made of.
#[derive(Clone, Debug)]
pub struct OccInput {
    /// `dev-type tap`
    pub tap: bool,
    /// `tun-mtu`
    pub tun_mtu: u32,
    /// `proto`
    pub proto: OccProto,
    /// Point-to-point with `ifconfig-ipv6`.
    pub tun_ipv6: bool,
    /// Point-to-point `ifconfig` as the peer should see it: (remote, local), or (network, mask) with
    /// topology subnet or tap.
    pub ifconfig: Option<(String, String)>,
    /// Any compression framing.
    pub comp: bool,
    /// `fragment`
    pub fragment: bool,
    /// `key-direction` of tls-auth.
    pub keydir: Option<u8>,
    /// `cipher`
    pub cipher: OccCipher,
    /// Whether to name the cipher: in point-to-point mode, or when it is one of `data-ciphers`.
    pub show_cipher: bool,
    /// `auth`
    pub digest: Digest,
    /// `tls-auth` is used.
    pub tls_auth: bool,
    /// `tls-client` or `tls-server`
    pub role: TlsRole,
}

impl OccInput {
    /// The options string.
    pub fn to_options(&self) -> String {
        let (cipher, bits, null_digest) = match self.cipher {
            OccCipher::BfCbc => ("BF-CBC", 128, false),
            OccCipher::Configured(Cipher::None) => ("[null-cipher]", 0, false),
            OccCipher::Configured(cipher) => {
                (cipher.name(), (8 * cipher.key_len()), cipher.is_aead())
            }
        };
        let digest = match self.digest {
            Digest::None => "[null-digest]",
            _ if null_digest => "[null-digest]",
            digest => digest.name(),
        };
        let proto = match self.proto {
            OccProto::Udp => "UDPv4",
            OccProto::TcpServer => "TCPv4_SERVER",
            OccProto::TcpClient => "TCPv4_CLIENT",
        };
        let mut items = vec![
            "V4".to_owned(),
            format!("dev-type {}", if self.tap { "tap" } else { "tun" }),
            format!("link-mtu {}", self.link_mtu()),
            format!("tun-mtu {}", self.tun_mtu),
            format!("proto {proto}"),
        ];
        let mut add_if = |condition: bool, item: String| {
            if condition {
                items.push(item);
            }
        };
        add_if(self.tun_ipv6, "tun-ipv6".into());
        if let Some((first, second)) = &self.ifconfig {
            add_if(true, format!("ifconfig {first} {second}"));
        }
        add_if(self.comp, "comp-lzo".into());
        add_if(self.fragment, "mtu-dynamic".into());
        if let Some(direction) = self.keydir {
            add_if(true, format!("keydir {direction}"));
        }
        add_if(self.show_cipher, format!("cipher {cipher}"));
        add_if(true, format!("auth {digest}"));
        add_if(true, format!("keysize {bits}"));
        add_if(self.tls_auth, "tls-auth".into());
        add_if(true, "key-method 2".into());
        add_if(
            true,
            match self.role {
                TlsRole::Client => "tls-client".into(),
                TlsRole::Server => "tls-server".into(),
            },
        );
        items.join(",")
    }

    /// The `link-mtu` of the string, in bytes.
    pub fn link_mtu(&self) -> u32 {
        let digest = self.digest.len() as u32;
        let crypto = match self.cipher {
            OccCipher::BfCbc => 4 + 8 + 8 + digest,
            OccCipher::Configured(Cipher::None) => 4 + digest,
            OccCipher::Configured(cipher) if cipher.is_aead() => 4 + 16 + 12 + 16,
            OccCipher::Configured(_) => 4 + 16 + 16 + digest,
        };
        let tcp = if self.proto == OccProto::Udp { 0 } else { 2 };
        let comp = u32::from(self.comp);
        let fragment = if self.fragment { 4 } else { 0 };
        let tap = if self.tap { 32 } else { 0 };
        self.tun_mtu
            .saturating_add(1 + tcp + comp + fragment + tap + crypto)
    }
}

/// What the peer's string says that matters beyond warnings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// The peer's `cipher`, as it spells it.
    pub cipher: Option<String>,
    /// The peer has some compression framing.
    pub comp_lzo: bool,
}

/// Takes from the peer's string what negotiation uses.
pub fn extract(remote: &str) -> Extracted {
    let mut found = Extracted::default();
    for item in items(remote) {
        match item.split_once(' ') {
            Some(("cipher", name)) => found.cipher = Some(name.to_owned()),
            None if item == "comp-lzo" => found.comp_lzo = true,
            _ => {}
        }
    }
    found
}

/// Compares the string sent with the one received and returns one line for a person per option that
/// does not fit. Options that are negotiated, or that 2.6 does not compare, are not looked at.
pub fn compare(local: &str, remote: &str) -> Vec<String> {
    if remote.is_empty() {
        return Vec::new();
    }
    let ours: Vec<String> = items(local).map(as_seen_by_peer).collect();
    let theirs: Vec<&str> = items(remote).collect();
    let mut warnings = Vec::new();
    for our in ours.iter().filter(|item| is_compared(name(item))) {
        match theirs.iter().find(|item| name(item) == name(our)) {
            Some(their) if their == our => {}
            Some(their) => warnings.push(format!(
                "'{}' differs: '{our}' is expected here, the peer has '{their}'",
                name(our)
            )),
            None => warnings.push(format!(
                "'{}' is set here ('{our}') but not at the peer",
                name(our)
            )),
        }
    }
    for their in theirs.iter().filter(|item| is_compared(name(item))) {
        if !ours.iter().any(|item| name(item) == name(their)) {
            warnings.push(format!(
                "'{}' is set at the peer ('{}') but not here",
                name(their),
                printable(their)
            ));
        }
    }
    for warning in &mut warnings {
        *warning = printable(warning);
    }
    // A hostile peer can name 250 options; a person reads a few.
    warnings.truncate(MAX_WARNINGS);
    warnings
}

const MAX_WARNINGS: usize = 16;

fn items(options: &str) -> impl Iterator<Item = &str> {
    options.split(',').filter(|item| !item.is_empty())
}

/// The option an item is about. Roles share one name, so that one is compared with the other.
fn name(item: &str) -> &str {
    match item.split(' ').next().unwrap_or(item) {
        "tls-client" | "tls-server" => "tls-role",
        name => name,
    }
}

fn is_compared(name: &str) -> bool {
    !matches!(
        name,
        "key-method" | "keydir" | "tls-auth" | "cipher" | "proto" | "tun-ipv6"
    )
}

/// Our item turned into the one a fitting peer sends.
fn as_seen_by_peer(item: &str) -> String {
    let words: Vec<&str> = item.split(' ').collect();
    match words.as_slice() {
        ["tls-client"] => "tls-server".into(),
        ["tls-server"] => "tls-client".into(),
        ["ifconfig", first, second] if !is_netmask(second) => {
            format!("ifconfig {second} {first}")
        }
        _ => item.to_owned(),
    }
}

fn is_netmask(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok_and(|address| {
        let bits = address.to_bits();
        bits != 0 && bits.leading_ones() + bits.trailing_zeros() == 32
    })
}

fn printable(text: &str) -> String {
    let clean = |ch: char| if ch.is_control() { '?' } else { ch };
    text.chars().map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn default_input() -> OccInput {
        OccInput {
            tap: false,
            tun_mtu: 1500,
            proto: OccProto::Udp,
            tun_ipv6: false,
            ifconfig: None,
            comp: false,
            fragment: false,
            keydir: None,
            cipher: OccCipher::BfCbc,
            show_cipher: false,
            digest: Digest::Sha1,
            tls_auth: false,
            role: TlsRole::Client,
        }
    }

    #[test]
    fn known_strings() {
        // protocol document §5.1
        assert_eq!(
            default_input().to_options(),
            "V4,dev-type tun,link-mtu 1541,tun-mtu 1500,proto UDPv4,auth SHA1,keysize 128,\
             key-method 2,tls-client"
        );
        let p2p = OccInput {
            ifconfig: Some(("10.9.0.1".into(), "10.9.0.2".into())),
            show_cipher: true,
            ..default_input()
        };
        assert_eq!(
            p2p.to_options(),
            "V4,dev-type tun,link-mtu 1541,tun-mtu 1500,proto UDPv4,ifconfig 10.9.0.1 10.9.0.2,\
             cipher BF-CBC,auth SHA1,keysize 128,key-method 2,tls-client"
        );
        let gcm = OccInput {
            cipher: OccCipher::Configured(Cipher::Aes256Gcm),
            show_cipher: true,
            role: TlsRole::Server,
            ..default_input()
        };
        assert_eq!(
            gcm.to_options(),
            "V4,dev-type tun,link-mtu 1549,tun-mtu 1500,proto UDPv4,cipher AES-256-GCM,\
             auth [null-digest],keysize 256,key-method 2,tls-server"
        );
        let all = OccInput {
            tap: true,
            tun_ipv6: true,
            proto: OccProto::TcpServer,
            comp: true,
            fragment: true,
            keydir: Some(0),
            cipher: OccCipher::Configured(Cipher::None),
            show_cipher: true,
            digest: Digest::None,
            tls_auth: true,
            ..default_input()
        };
        assert_eq!(
            all.to_options(),
            "V4,dev-type tap,link-mtu 1544,tun-mtu 1500,proto TCPv4_SERVER,tun-ipv6,comp-lzo,\
             mtu-dynamic,keydir 0,cipher [null-cipher],auth [null-digest],keysize 0,tls-auth,\
             key-method 2,tls-client"
        );
    }

    #[test]
    fn published_link_mtus() {
        // protocol document §16.8
        let mtu = |cipher, digest, extras| {
            OccInput {
                tun_mtu: 1400,
                cipher: OccCipher::Configured(cipher),
                digest,
                fragment: extras,
                comp: extras,
                ..default_input()
            }
            .link_mtu()
        };
        assert_eq!(mtu(Cipher::None, Digest::None, false), 1405);
        assert_eq!(mtu(Cipher::Aes128Cbc, Digest::Sha1, false), 1457);
        assert_eq!(mtu(Cipher::Aes256Gcm, Digest::Sha1, false), 1449);
        assert_eq!(mtu(Cipher::Aes256Gcm, Digest::Sha1, true), 1454);
    }

    #[test]
    fn extraction_needs_whole_items() {
        let found = extract("V4,cipher AES-128-CBC,comp-lzo,keysize 128");
        assert_eq!(found.cipher.as_deref(), Some("AES-128-CBC"));
        assert!(found.comp_lzo);
        let nothing = extract("V4,comp-lzo2,xcomp-lzo,ciphers AES-128-CBC");
        assert_eq!(nothing, Extracted::default());
        assert_eq!(extract(""), Extracted::default());
    }

    #[test]
    fn fitting_peers_cause_no_warning() {
        let client = OccInput {
            ifconfig: Some(("10.9.0.1".into(), "10.9.0.2".into())),
            keydir: Some(1),
            proto: OccProto::TcpClient,
            ..default_input()
        };
        let server = OccInput {
            ifconfig: Some(("10.9.0.2".into(), "10.9.0.1".into())),
            keydir: Some(0),
            proto: OccProto::TcpServer,
            tun_ipv6: true,
            show_cipher: true,
            role: TlsRole::Server,
            ..default_input()
        };
        let (client, server) = (client.to_options(), server.to_options());
        assert_eq!(compare(&client, &server), [""; 0]);
        assert_eq!(compare(&server, &client), [""; 0]);
        let subnet = "V4,ifconfig 10.8.0.0 255.255.255.0";
        assert_eq!(compare(subnet, subnet), [""; 0]);
        assert_eq!(
            compare(&client, ""),
            [""; 0],
            "an empty string says nothing"
        );
    }

    #[test]
    fn each_mismatch_is_one_line() {
        let local = "V4,dev-type tun,tun-mtu 1500,comp-lzo,tls-client";
        let remote = "V4,dev-type tun,tun-mtu 1400,mtu-dynamic,tls-client";
        let warnings = compare(local, remote);
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        for part in ["tun-mtu 1400", "comp-lzo", "mtu-dynamic", "tls-client"] {
            assert!(warnings.iter().any(|line| line.contains(part)), "{part}");
        }
        let twice = "V4,ifconfig 10.9.0.1 10.9.0.2";
        assert_eq!(compare(twice, twice).len(), 1, "both ends the same end");
    }

    proptest! {
        #[test]
        fn arbitrary_strings_never_panic_nor_flood(local: String, remote in "[,a-z\\n ]{0,600}") {
            for line in compare(&local, &remote) {
                prop_assert!(!line.contains('\n'));
            }
            prop_assert!(compare(&local, &remote).len() <= MAX_WARNINGS);
            let _ = extract(&remote);
        }
    }
}
