//! Cipher suites, key-exchange groups and protocol versions by the names configurations use.
//!
//! OpenVPN takes two spellings for a TLS 1.2 suite; both are known here:
//! ```text
//!   TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384   (tls-cipher, IANA with dashes)
//!   ECDHE-RSA-AES256-GCM-SHA384             (OpenSSL)
//! ```
//! A name that is not known is worth a warning; that nothing is left is an error.

use std::str::FromStr;

use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion};

use super::TlsError;
use super::kx::SECP521R1;

/// A TLS version as `tls-version-min` and `tls-version-max` name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.0: never spoken, accepted as a lower limit.
    V1_0,
    /// TLS 1.1: likewise.
    V1_1,
    /// TLS 1.2
    V1_2,
    /// TLS 1.3
    V1_3,
}

impl FromStr for TlsVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "1.0" => Ok(Self::V1_0),
            "1.1" => Ok(Self::V1_1),
            "1.2" => Ok(Self::V1_2),
            "1.3" => Ok(Self::V1_3),
            _ => Err(format!("unknown TLS version {text:?}")),
        }
    }
}

/// The protocol versions between two limits.
pub(crate) fn versions(
    min: Option<TlsVersion>,
    max: Option<TlsVersion>,
    warnings: &mut Vec<String>,
) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
    let low = min.unwrap_or(TlsVersion::V1_2);
    let high = max.unwrap_or(TlsVersion::V1_3);
    if low < TlsVersion::V1_2 {
        warnings.push(
            "tls-version-min: TLS 1.0 and 1.1 are not supported, 1.2 is the lowest".to_owned(),
        );
    }
    if high < TlsVersion::V1_2 {
        return Err(TlsError::Settings(
            "tls-version-max: TLS 1.0 and 1.1 are not supported, 1.2 is the lowest".to_owned(),
        ));
    }
    if low > high {
        return Err(TlsError::Settings(
            "tls-version-min is above tls-version-max".to_owned(),
        ));
    }
    let mut out = Vec::new();
    if high >= TlsVersion::V1_3 {
        out.push(&rustls::version::TLS13);
    }
    if low <= TlsVersion::V1_2 {
        out.push(&rustls::version::TLS12);
    }
    Ok(out)
}

/// The cipher suites for `tls-ciphersuites` (TLS 1.3) and `tls-cipher` (TLS 1.2), in their order.
pub(crate) fn cipher_suites(
    tls12: Option<&str>,
    tls13: Option<&str>,
    warnings: &mut Vec<String>,
) -> Result<Vec<SupportedCipherSuite>, TlsError> {
    let mut out = match tls13 {
        Some(list) => select("tls-ciphersuites", list, true, warnings)?,
        None => defaults(true),
    };
    out.extend(match tls12 {
        Some(list) => select("tls-cipher", list, false, warnings)?,
        None => defaults(false),
    });
    Ok(out)
}

/// The key-exchange groups for `tls-groups`; without it the hybrid post-quantum group first.
pub(crate) fn groups(
    list: Option<&str>,
    warnings: &mut Vec<String>,
) -> Result<Vec<&'static dyn SupportedKxGroup>, TlsError> {
    let Some(list) = list else {
        let mut out = aws_lc_rs::DEFAULT_KX_GROUPS.to_vec();
        out.push(SECP521R1);
        return Ok(out);
    };
    let mut out: Vec<&'static dyn SupportedKxGroup> = Vec::new();
    for word in list.split([':', '/', ',']) {
        let name = word.trim().trim_start_matches(['?', '*']);
        if name.is_empty() {
            continue;
        }
        match GROUPS
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
        {
            Some((_, group)) if out.iter().any(|taken| taken.name() == group.name()) => {}
            Some((_, group)) => out.push(*group),
            None => warnings.push(format!("tls-groups: {name} is not supported, ignored")),
        }
    }
    if out.is_empty() {
        return Err(TlsError::Settings(format!(
            "tls-groups: no supported group in {list:?}; known are {}",
            known_groups()
        )));
    }
    Ok(out)
}

/// A suite's name as OpenVPN logs it: IANA for TLS 1.3, OpenSSL's for TLS 1.2.
pub(crate) fn suite_name(suite: CipherSuite) -> String {
    SUITES
        .iter()
        .find(|known| known.suite.suite() == suite)
        .map_or_else(|| format!("{suite:?}"), |known| known.openssl.to_owned())
}

/// The names of all groups, for messages and `--show-groups`.
#[must_use]
pub fn known_groups() -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut seen = Vec::new();
    for (name, group) in GROUPS {
        if !seen.contains(&group.name()) {
            seen.push(group.name());
            names.push(name);
        }
    }
    names.join(", ")
}

fn select(
    option: &str,
    list: &str,
    want_tls13: bool,
    warnings: &mut Vec<String>,
) -> Result<Vec<SupportedCipherSuite>, TlsError> {
    let mut out: Vec<SupportedCipherSuite> = Vec::new();
    for word in list.split([':', ',', ' ']) {
        let word = word.trim();
        if word.is_empty() {
            continue;
        }
        if word.starts_with(['!', '-', '+', '@']) {
            // Everything these can exclude is not offered here in the first place.
            if word.starts_with('@') {
                warnings.push(format!("{option}: {word} changes nothing here, ignored"));
            }
            continue;
        }
        if matches!(word, "DEFAULT" | "ALL" | "HIGH" | "COMPLEMENTOFDEFAULT") {
            add_all(&mut out, defaults(want_tls13));
            continue;
        }
        let canonical = word.replace('_', "-");
        let found = SUITES.iter().find(|known| {
            known.iana.eq_ignore_ascii_case(&canonical)
                || known.openssl.eq_ignore_ascii_case(word)
                || known
                    .openssl
                    .replace('_', "-")
                    .eq_ignore_ascii_case(&canonical)
        });
        match found {
            Some(known) if is_tls13(known.suite) == want_tls13 => {
                add_all(&mut out, vec![known.suite]);
            }
            Some(_) => warnings.push(format!(
                "{option}: {word} belongs into {}, ignored",
                if want_tls13 {
                    "tls-cipher"
                } else {
                    "tls-ciphersuites"
                }
            )),
            None => warnings.push(format!("{option}: {word} is not supported, ignored")),
        }
    }
    if out.is_empty() {
        let known: Vec<&str> = SUITES
            .iter()
            .filter(|known| is_tls13(known.suite) == want_tls13)
            .map(|known| known.iana)
            .collect();
        return Err(TlsError::Settings(format!(
            "{option}: no supported cipher suite in {list:?}; supported are {}",
            known.join(":")
        )));
    }
    Ok(out)
}

fn add_all(out: &mut Vec<SupportedCipherSuite>, more: Vec<SupportedCipherSuite>) {
    for suite in more {
        if !out.contains(&suite) {
            out.push(suite);
        }
    }
}

fn defaults(want_tls13: bool) -> Vec<SupportedCipherSuite> {
    aws_lc_rs::DEFAULT_CIPHER_SUITES
        .iter()
        .copied()
        .filter(|suite| is_tls13(*suite) == want_tls13)
        .collect()
}

fn is_tls13(suite: SupportedCipherSuite) -> bool {
    suite.tls13().is_some()
}

struct KnownSuite {
    suite: SupportedCipherSuite,
    iana: &'static str,
    openssl: &'static str,
}

static SUITES: &[KnownSuite] = &[
    KnownSuite {
        suite: cipher_suite::TLS13_AES_256_GCM_SHA384,
        iana: "TLS-AES-256-GCM-SHA384",
        openssl: "TLS_AES_256_GCM_SHA384",
    },
    KnownSuite {
        suite: cipher_suite::TLS13_AES_128_GCM_SHA256,
        iana: "TLS-AES-128-GCM-SHA256",
        openssl: "TLS_AES_128_GCM_SHA256",
    },
    KnownSuite {
        suite: cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        iana: "TLS-CHACHA20-POLY1305-SHA256",
        openssl: "TLS_CHACHA20_POLY1305_SHA256",
    },
    KnownSuite {
        suite: cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        iana: "TLS-ECDHE-ECDSA-WITH-AES-256-GCM-SHA384",
        openssl: "ECDHE-ECDSA-AES256-GCM-SHA384",
    },
    KnownSuite {
        suite: cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        iana: "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256",
        openssl: "ECDHE-ECDSA-AES128-GCM-SHA256",
    },
    KnownSuite {
        suite: cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        iana: "TLS-ECDHE-ECDSA-WITH-CHACHA20-POLY1305-SHA256",
        openssl: "ECDHE-ECDSA-CHACHA20-POLY1305",
    },
    KnownSuite {
        suite: cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        iana: "TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384",
        openssl: "ECDHE-RSA-AES256-GCM-SHA384",
    },
    KnownSuite {
        suite: cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        iana: "TLS-ECDHE-RSA-WITH-AES-128-GCM-SHA256",
        openssl: "ECDHE-RSA-AES128-GCM-SHA256",
    },
    KnownSuite {
        suite: cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        iana: "TLS-ECDHE-RSA-WITH-CHACHA20-POLY1305-SHA256",
        openssl: "ECDHE-RSA-CHACHA20-POLY1305",
    },
];

/// The first name of each group is the one shown.
static GROUPS: &[(&str, &dyn SupportedKxGroup)] = &[
    ("X25519MLKEM768", kx_group::X25519MLKEM768),
    ("SecP256r1MLKEM768", kx_group::SECP256R1MLKEM768),
    ("X25519", kx_group::X25519),
    ("secp256r1", kx_group::SECP256R1),
    ("prime256v1", kx_group::SECP256R1),
    ("P-256", kx_group::SECP256R1),
    ("secp384r1", kx_group::SECP384R1),
    ("P-384", kx_group::SECP384R1),
    ("secp521r1", SECP521R1),
    ("P-521", SECP521R1),
    ("MLKEM768", kx_group::MLKEM768),
    ("MLKEM1024", kx_group::MLKEM1024),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[SupportedCipherSuite]) -> Vec<String> {
        list.iter().map(|suite| suite_name(suite.suite())).collect()
    }

    #[test]
    fn both_spellings_mean_the_same_suite() {
        let mut warnings = Vec::new();
        for known in SUITES {
            let tls13 = is_tls13(known.suite);
            for name in [known.iana, known.openssl, &known.iana.replace('-', "_")] {
                let got = select("x", name, tls13, &mut warnings).unwrap();
                assert_eq!(got, [known.suite], "{name}");
            }
        }
        assert!(warnings.is_empty());
    }

    #[test]
    fn order_is_kept_and_unknown_names_warn() {
        let mut warnings = Vec::new();
        let list = "ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-SHA:!aNULL:\
                    TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384:TLS_AES_128_GCM_SHA256";
        let got = cipher_suites(
            Some(list),
            Some("TLS_CHACHA20_POLY1305_SHA256"),
            &mut warnings,
        );
        assert_eq!(
            names(&got.unwrap()),
            [
                "TLS_CHACHA20_POLY1305_SHA256",
                "ECDHE-RSA-AES128-GCM-SHA256",
                "ECDHE-RSA-AES256-GCM-SHA384"
            ]
        );
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("DHE-RSA-AES256-SHA"));
        assert!(warnings[1].contains("tls-ciphersuites"));
    }

    #[test]
    fn default_keyword_keeps_all() {
        let mut warnings = Vec::new();
        let got = cipher_suites(Some("DEFAULT:@SECLEVEL=0"), None, &mut warnings).unwrap();
        assert_eq!(got, aws_lc_rs::DEFAULT_CIPHER_SUITES);
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn nothing_left_is_an_error() {
        let mut warnings = Vec::new();
        for (tls12, tls13) in [(Some("AES256-SHA"), None), (None, Some("nonsense"))] {
            let err = cipher_suites(tls12, tls13, &mut warnings).unwrap_err();
            assert!(
                err.to_string().contains("no supported cipher suite"),
                "{err}"
            );
        }
        assert!(groups(Some("brainpoolP256r1"), &mut warnings).is_err());
    }

    #[test]
    fn groups_by_any_name() {
        let mut warnings = Vec::new();
        let got = groups(
            Some("prime256v1:P-256:x25519:ffdhe2048:secp521r1"),
            &mut warnings,
        );
        let got: Vec<_> = got.unwrap().iter().map(|group| group.name()).collect();
        assert_eq!(
            got,
            [
                rustls::NamedGroup::secp256r1,
                rustls::NamedGroup::X25519,
                rustls::NamedGroup::secp521r1
            ]
        );
        assert_eq!(warnings.len(), 1);
        let default = groups(None, &mut warnings).unwrap();
        assert_eq!(default[0].name(), rustls::NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn version_limits() {
        let mut warnings = Vec::new();
        let v = |min, max, warnings: &mut Vec<String>| {
            versions(min, max, warnings).map(|list| list.len())
        };
        assert_eq!(v(None, None, &mut warnings), Ok(2));
        assert_eq!(v(Some(TlsVersion::V1_3), None, &mut warnings), Ok(1));
        assert_eq!(v(None, Some(TlsVersion::V1_2), &mut warnings), Ok(1));
        assert!(warnings.is_empty());
        assert_eq!(v(Some(TlsVersion::V1_0), None, &mut warnings), Ok(2));
        assert_eq!(warnings.len(), 1);
        assert!(v(None, Some(TlsVersion::V1_1), &mut warnings).is_err());
        assert!(
            v(
                Some(TlsVersion::V1_3),
                Some(TlsVersion::V1_2),
                &mut warnings
            )
            .is_err()
        );
        assert_eq!("1.3".parse(), Ok(TlsVersion::V1_3));
        assert!("2".parse::<TlsVersion>().is_err());
    }
}
