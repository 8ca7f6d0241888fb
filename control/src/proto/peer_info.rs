//! Peer info: lines `NAME=value` in which an end tells what it can do (protocol document §5.2).

/// Bits of `IV_PROTO`.
pub mod iv_proto {
    /// DATA_V2 packets, that is, peer-ids (2.4).
    pub const DATA_V2: u32 = 1 << 1;
    /// Wants PUSH_REPLY without asking for it (2.5); only when pulling.
    pub const REQUEST_PUSH: u32 = 1 << 2;
    /// Data keys by TLS exporter (2.6).
    pub const TLS_KEY_EXPORT: u32 = 1 << 3;
    /// Keywords in AUTH_PENDING (2.6); only when pulling.
    pub const AUTH_PENDING_KW: u32 = 1 << 4;
    /// Negotiates in point-to-point mode (2.6); never when pulling.
    pub const NCP_P2P: u32 = 1 << 5;
    /// First `dns` option (2.6 only).
    pub const DNS_OPTION: u32 = 1 << 6;
    /// EXIT over the control channel, `protocol-flags` (2.6).
    pub const CC_EXIT: u32 = 1 << 7;
    /// AUTH_FAILED,TEMP (2.6); only when pulling.
    pub const AUTH_FAIL_TEMP: u32 = 1 << 8;
    /// Dynamic tls-crypt (2.6.1).
    pub const DYN_TLS_CRYPT: u32 = 1 << 9;
    /// Epoch data format (2.7).
    pub const DATA_EPOCH: u32 = 1 << 10;
    /// Final `dns` option (2.7).
    pub const DNS_OPTION_V2: u32 = 1 << 11;
    /// PUSH_UPDATE (2.7).
    pub const PUSH_UPDATE: u32 = 1 << 12;

    /// What a pull client with everything above announces, less the first `dns` option.
    pub const PULL: u32 = DATA_V2
        | REQUEST_PUSH
        | TLS_KEY_EXPORT
        | AUTH_PENDING_KW
        | CC_EXIT
        | AUTH_FAIL_TEMP
        | DYN_TLS_CRYPT
        | DATA_EPOCH
        | DNS_OPTION_V2
        | PUSH_UPDATE;
    /// What a server uses with a client that announces it.
    pub const SERVER: u32 = DATA_V2
        | TLS_KEY_EXPORT
        | AUTH_PENDING_KW
        | CC_EXIT
        | AUTH_FAIL_TEMP
        | DYN_TLS_CRYPT
        | DATA_EPOCH
        | PUSH_UPDATE;
    /// What a point-to-point peer with everything above announces: no bits that need pushing.
    pub const P2P: u32 = DATA_V2 | TLS_KEY_EXPORT | NCP_P2P | CC_EXIT | DYN_TLS_CRYPT | DATA_EPOCH;
}

/// Bits of `IV_RINGWAY`. An extension is used only where both ends announce it, so that towards a
/// stock peer nothing differs but this line.
pub mod extensions {
    /// Joins TCP segments into large packets before they reach its interface, so it is best served
    /// with segments that fit the path.
    pub const JOINS_SEGMENTS: u32 = 1;

    /// All that this end knows.
    pub const OWN: u32 = JOINS_SEGMENTS;
}

/// Longest peer info built, as in 2.x.
pub const MAX_LEN: usize = 1536;

/// Most lines taken from a peer.
const MAX_LINES: usize = 128;

/// How much an end tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// `IV_CIPHERS` and `IV_PROTO` only: point-to-point.
    Negotiation,
    /// What a pull client tells every server.
    Pull,
    /// All of it: `push-peer-info`.
    Full,
}

/// What this end tells about itself.
#[derive(Clone, Debug)]
pub struct OwnPeerInfo {
    /// `IV_VER`: the OpenVPN version whose features are spoken.
    pub version: String,
    /// `IV_PLAT`, e.g. `linux`.
    pub platform: String,
    /// `IV_PROTO`
    pub iv_proto: u32,
    /// `IV_CIPHERS`, in order of preference.
    pub ciphers: Vec<String>,
    /// `IV_MTU`: the largest pushed `tun-mtu` taken.
    pub mtu: Option<u32>,
    /// `IV_RINGWAY`: [`extensions`] of Ringway's own that this end knows; 0 leaves the line out.
    pub extensions: u32,
    /// The stub framings are allowed: `IV_LZO_STUB`, `IV_COMP_STUB`, `IV_COMP_STUBv2`.
    pub stub_framings: bool,
    /// Further lines told to every server, e.g. `IV_GUI_VER`, `IV_SSO`: name and value.
    pub extra: Vec<(String, String)>,
    /// Lines told only with [`Detail::Full`], e.g. `IV_PLAT_VER`, `IV_SSL`, `IV_HWADDR`, `UV_*`.
    pub private: Vec<(String, String)>,
}

impl OwnPeerInfo {
    /// The lines. Names and values lose control characters; lines beyond [`MAX_LEN`] are left out.
    pub fn to_lines(&self, detail: Detail) -> String {
        let mut out = String::new();
        let mut add = |name: &str, value: &str| {
            let clean = |ch: &char| !ch.is_control();
            let name: String = name.chars().filter(clean).filter(|ch| *ch != '=').collect();
            let value: String = value.chars().filter(clean).collect();
            if out.len() + name.len() + value.len() + 2 < MAX_LEN {
                out.extend([&name, "=", &value, "\n"]);
            }
        };
        if detail != Detail::Negotiation {
            add("IV_VER", &self.version);
            add("IV_PLAT", &self.platform);
            add("IV_TCPNL", "1");
            if let Some(mtu) = self.mtu {
                add("IV_MTU", &mtu.to_string());
            }
        }
        let has = |name: &str| self.ciphers.iter().any(|c| c.eq_ignore_ascii_case(name));
        if detail != Detail::Negotiation && has("AES-128-GCM") && has("AES-256-GCM") {
            add("IV_NCP", "2");
        }
        add("IV_CIPHERS", &self.ciphers.join(":"));
        add("IV_PROTO", &self.iv_proto.to_string());
        if self.extensions != 0 {
            add("IV_RINGWAY", &self.extensions.to_string());
        }
        if detail != Detail::Negotiation {
            if self.stub_framings {
                add("IV_LZO_STUB", "1");
                add("IV_COMP_STUB", "1");
                add("IV_COMP_STUBv2", "1");
            }
            for (name, value) in &self.extra {
                add(name, value);
            }
        }
        if detail == Detail::Full {
            for (name, value) in &self.private {
                add(name, value);
            }
        }
        out
    }
}

/// What a peer tells about itself. Nothing in it is authenticated beyond "the peer says so".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// `IV_PROTO`; 0 if absent or not a number.
    pub iv_proto: u32,
    /// `IV_CIPHERS`; `None` if absent.
    pub iv_ciphers: Option<Vec<String>>,
    /// `IV_NCP`; 0 if absent.
    pub iv_ncp: u32,
    /// `IV_MTU`
    pub iv_mtu: Option<u32>,
    /// `IV_RINGWAY`; 0 if absent.
    pub extensions: u32,
    /// `IV_VER`
    pub iv_ver: Option<String>,
    /// `IV_PLAT`
    pub iv_plat: Option<String>,
    /// `IV_SSO`, split at commas.
    pub iv_sso: Vec<String>,
    /// All well-formed lines, in order: name and value.
    pub lines: Vec<(String, String)>,
}

impl PeerInfo {
    /// Parses peer info. Lines that are not `NAME=value` with a plain name are skipped, so are
    /// control characters, and lines beyond a bound.
    pub fn parse(text: &str) -> Self {
        let mut info = PeerInfo::default();
        for line in text.split('\n').take(MAX_LINES) {
            let Some((name, value)) = line.trim_end_matches('\r').split_once('=') else {
                continue;
            };
            let plain = |ch: char| ch.is_ascii_alphanumeric() || "_-.".contains(ch);
            if name.is_empty() || !name.chars().all(plain) {
                continue;
            }
            let value: String = value.chars().filter(|ch| !ch.is_control()).collect();
            match name {
                "IV_PROTO" => info.iv_proto = value.parse().unwrap_or(0),
                "IV_NCP" => info.iv_ncp = value.parse().unwrap_or(0),
                "IV_MTU" => info.iv_mtu = value.parse().ok(),
                "IV_RINGWAY" => info.extensions = value.parse().unwrap_or(0),
                "IV_CIPHERS" => info.iv_ciphers = Some(split(&value, ':')),
                "IV_SSO" => info.iv_sso = split(&value, ','),
                "IV_VER" => info.iv_ver = Some(value.clone()),
                "IV_PLAT" => info.iv_plat = Some(value.clone()),
                _ => {}
            }
            info.lines.push((name.to_owned(), value));
        }
        info
    }

    /// Whether all of these [`iv_proto`] bits are set.
    pub fn has(&self, bits: u32) -> bool {
        self.iv_proto & bits == bits
    }

    /// The value of the first line with this name.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.lines
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The ciphers the peer can negotiate: `IV_CIPHERS`, or what `IV_NCP=2` stands for, or none.
    pub fn ciphers(&self) -> Vec<&str> {
        match &self.iv_ciphers {
            Some(ciphers) => ciphers.iter().map(String::as_str).collect(),
            None if self.iv_ncp >= 2 => vec!["AES-256-GCM", "AES-128-GCM"],
            None => Vec::new(),
        }
    }

    /// Whether the peer is 2.6 or later and so has the larger windows: the bits came with 2.6.
    pub fn is_2_6_or_later(&self) -> bool {
        self.iv_proto & !(iv_proto::DATA_V2 | iv_proto::REQUEST_PUSH | 1) != 0
    }
}

fn split(list: &str, separator: char) -> Vec<String> {
    list.split(separator)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn own() -> OwnPeerInfo {
        OwnPeerInfo {
            version: "2.7.0".into(),
            platform: "linux".into(),
            iv_proto: iv_proto::PULL,
            ciphers: vec!["AES-256-GCM".into(), "AES-128-GCM".into()],
            mtu: Some(1600),
            extensions: 0,
            stub_framings: true,
            extra: vec![("IV_GUI_VER".into(), "none".into())],
            private: vec![("UV_NAME".into(), "x\ny".into())],
        }
    }

    #[test]
    fn announced_bits_are_those_of_stock_peers() {
        assert_eq!(iv_proto::PULL, 8094);
        // Stock 2.7 also announces DNS and PUSH_UPDATE in point-to-point mode, where nothing is
        // pushed.
        let pushed = iv_proto::DNS_OPTION_V2 | iv_proto::PUSH_UPDATE;
        assert_eq!(iv_proto::P2P | pushed, 7850);
    }

    #[test]
    fn detail_decides_what_is_told() {
        assert_eq!(
            own().to_lines(Detail::Negotiation),
            "IV_CIPHERS=AES-256-GCM:AES-128-GCM\nIV_PROTO=8094\n"
        );
        let pull = own().to_lines(Detail::Pull);
        assert_eq!(
            pull,
            "IV_VER=2.7.0\nIV_PLAT=linux\nIV_TCPNL=1\nIV_MTU=1600\nIV_NCP=2\n\
             IV_CIPHERS=AES-256-GCM:AES-128-GCM\nIV_PROTO=8094\nIV_LZO_STUB=1\nIV_COMP_STUB=1\n\
             IV_COMP_STUBv2=1\nIV_GUI_VER=none\n"
        );
        let full = own().to_lines(Detail::Full);
        assert_eq!(full, pull + "UV_NAME=xy\n");
    }

    #[test]
    fn length_is_bounded() {
        let mut much = own();
        much.private = (0..500)
            .map(|n| (format!("UV_{n}"), "v".repeat(9)))
            .collect();
        let lines = much.to_lines(Detail::Full);
        assert!(lines.len() <= MAX_LEN && lines.len() > MAX_LEN - 30);
    }

    #[test]
    fn parses_what_it_builds() {
        let info = PeerInfo::parse(&own().to_lines(Detail::Pull));
        assert_eq!(info.iv_proto, 8094);
        assert_eq!(info.iv_ncp, 2);
        assert_eq!(info.iv_mtu, Some(1600));
        assert_eq!(info.ciphers(), ["AES-256-GCM", "AES-128-GCM"]);
        assert_eq!(info.value("IV_GUI_VER"), Some("none"));
        assert!(info.has(iv_proto::CC_EXIT | iv_proto::DATA_V2));
        assert!(!info.has(iv_proto::NCP_P2P));
        assert!(info.is_2_6_or_later());
    }

    #[test]
    fn old_peers() {
        let info = PeerInfo::parse("IV_VER=2.4.12\nIV_PROTO=2\nIV_NCP=2\n");
        assert_eq!(info.ciphers(), ["AES-256-GCM", "AES-128-GCM"]);
        assert!(!info.is_2_6_or_later());
        assert!(!PeerInfo::parse("IV_PROTO=6\n").is_2_6_or_later());
        let empty = PeerInfo::parse("IV_CIPHERS=\nIV_NCP=2\n");
        assert_eq!(empty.ciphers(), [""; 0], "an empty list is a list");
        assert_eq!(PeerInfo::parse(""), PeerInfo::default());
        assert_eq!(PeerInfo::parse("IV_PROTO=-1\nIV_PROTO").iv_proto, 0);
    }

    #[test]
    fn hostile_lines_are_skipped() {
        let info = PeerInfo::parse("A;rm=1\n=x\nno value\nUV_A=b\x07c\r\nX=1=2\n");
        let lines = [("UV_A", "bc"), ("X", "1=2")];
        let lines: Vec<_> = lines
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        assert_eq!(info.lines, lines);
        let many = PeerInfo::parse(&"A=1\n".repeat(10_000));
        assert_eq!(many.lines.len(), MAX_LINES);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String) {
            for (name, value) in PeerInfo::parse(&text).lines {
                prop_assert!(!name.is_empty() && !value.chars().any(char::is_control));
            }
        }
    }
}
