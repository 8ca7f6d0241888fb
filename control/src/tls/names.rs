//! Distinguished names as OpenVPN users know them.
//!
//! A subject becomes one line such as `C=DE, O=Example, CN=gw1`; single attributes become script
//! variables and the common name. Control characters never survive: these strings go into logs,
//! environments and file names.
//!
//! ```text
//!   RDNSequence -> attributes (short name, value) -> one line   "C=DE, O=Example, CN=gw1"
//!                                                 -> common name "gw1"
//!                                                 -> X509_0_CN=gw1
//! ```

use x509_parser::der_parser::asn1_rs::{Any, Oid};
use x509_parser::x509::X509Name;

/// One attribute of a distinguished name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameAttribute {
    /// The attribute type in dotted form, such as `2.5.4.3`.
    pub oid: String,
    /// Short and long name of the type, such as `("CN", "commonName")`, when it is a known one.
    pub known: Option<(&'static str, &'static str)>,
    /// The value as UTF-8, otherwise unchanged: it may hold control characters.
    pub value: String,
    /// Whether this attribute belongs to the same (multi-valued) RDN as the one before.
    pub joined: bool,
}

impl NameAttribute {
    /// Whether `name` (short name, long name or dotted object identifier) means this attribute.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        self.oid == name || self.known.is_some_and(|(s, l)| s == name || l == name)
    }
}

/// The longest common name that is taken, in bytes (protocol document §12).
pub const MAX_COMMON_NAME: usize = 64;

/// The attributes of `name` in the order of the certificate.
#[must_use]
pub fn attributes(name: &X509Name<'_>) -> Vec<NameAttribute> {
    let mut out = Vec::new();
    for rdn in name.iter_rdn() {
        for (index, attribute) in rdn.iter().enumerate() {
            let oid = oid_text(attribute.attr_type());
            let known = KNOWN_TYPES
                .iter()
                .find(|(dotted, _, _)| *dotted == oid)
                .map(|(_, short, long)| (*short, *long));
            out.push(NameAttribute {
                oid,
                known,
                value: value_text(attribute.attr_value()),
                joined: index > 0,
            });
        }
    }
    out
}

/// The attributes as one line: `, ` between RDNs, ` + ` inside one, control characters as `\XX`
/// and a backslash doubled.
#[must_use]
pub fn one_line(attributes: &[NameAttribute]) -> String {
    let mut out = String::new();
    for attribute in attributes {
        if !out.is_empty() {
            out.push_str(if attribute.joined { " + " } else { ", " });
        }
        out.push_str(
            attribute
                .known
                .map_or(attribute.oid.as_str(), |(short, _)| short),
        );
        out.push('=');
        for c in attribute.value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                    out.push_str(&format!("\\{:02X}", c as u32));
                }
                c => out.push(c),
            }
        }
    }
    out
}

/// A subject as it is compared, logged and exported: [`one_line`] made printable, with leading
/// dashes replaced, since the line is handed to scripts as an argument.
#[must_use]
pub fn subject_line(attributes: &[NameAttribute]) -> String {
    let text = printable(&one_line(attributes));
    let dashes = text.len() - text.trim_start_matches('-').len();
    format!("{}{}", "_".repeat(dashes), &text[dashes..])
}

/// Replaces every ASCII control character by `_`.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_control() { '_' } else { c })
        .collect()
}

/// A dotted object identifier.
#[must_use]
pub fn oid_text(oid: &Oid<'_>) -> String {
    oid.to_id_string()
}

/// The long name under which `remote-cert-eku` knows an extended key usage.
#[must_use]
pub fn eku_long_name(oid: &str) -> Option<&'static str> {
    EKU_NAMES
        .iter()
        .find(|(dotted, _)| *dotted == oid)
        .map(|(_, long)| *long)
}

/// Any string type as UTF-8. Types of one byte per character are read as Latin-1, so that no input
/// is an error.
fn value_text(value: &Any<'_>) -> String {
    let data = value.data;
    match value.header.tag().0 {
        TAG_UTF8 => String::from_utf8_lossy(data).into_owned(),
        TAG_BMP => char::decode_utf16(
            data.chunks_exact(2)
                .map(|pair| u16::from_be_bytes([pair[0], pair[1]])),
        )
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect(),
        TAG_UNIVERSAL => data
            .chunks_exact(4)
            .map(|quad| u32::from_be_bytes([quad[0], quad[1], quad[2], quad[3]]))
            .map(|c| char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect(),
        _ => data.iter().map(|byte| char::from(*byte)).collect(),
    }
}

const TAG_UTF8: u32 = 12;
const TAG_UNIVERSAL: u32 = 28;
const TAG_BMP: u32 = 30;

/// Attribute types with the short and long names of OpenSSL's object table, which is what
/// OpenVPN prints and accepts.
const KNOWN_TYPES: &[(&str, &str, &str)] = &[
    ("2.5.4.3", "CN", "commonName"),
    ("2.5.4.4", "SN", "surname"),
    ("2.5.4.5", "serialNumber", "serialNumber"),
    ("2.5.4.6", "C", "countryName"),
    ("2.5.4.7", "L", "localityName"),
    ("2.5.4.8", "ST", "stateOrProvinceName"),
    ("2.5.4.9", "street", "streetAddress"),
    ("2.5.4.10", "O", "organizationName"),
    ("2.5.4.11", "OU", "organizationalUnitName"),
    ("2.5.4.12", "title", "title"),
    ("2.5.4.13", "description", "description"),
    ("2.5.4.14", "searchGuide", "searchGuide"),
    ("2.5.4.15", "businessCategory", "businessCategory"),
    ("2.5.4.16", "postalAddress", "postalAddress"),
    ("2.5.4.17", "postalCode", "postalCode"),
    ("2.5.4.18", "postOfficeBox", "postOfficeBox"),
    (
        "2.5.4.19",
        "physicalDeliveryOfficeName",
        "physicalDeliveryOfficeName",
    ),
    ("2.5.4.20", "telephoneNumber", "telephoneNumber"),
    ("2.5.4.31", "member", "member"),
    ("2.5.4.32", "owner", "owner"),
    ("2.5.4.41", "name", "name"),
    ("2.5.4.42", "GN", "givenName"),
    ("2.5.4.43", "initials", "initials"),
    ("2.5.4.44", "generationQualifier", "generationQualifier"),
    ("2.5.4.45", "x500UniqueIdentifier", "x500UniqueIdentifier"),
    ("2.5.4.46", "dnQualifier", "dnQualifier"),
    ("2.5.4.65", "pseudonym", "pseudonym"),
    ("2.5.4.72", "role", "role"),
    (
        "2.5.4.97",
        "organizationIdentifier",
        "organizationIdentifier",
    ),
    ("1.2.840.113549.1.9.1", "emailAddress", "emailAddress"),
    (
        "1.2.840.113549.1.9.2",
        "unstructuredName",
        "unstructuredName",
    ),
    (
        "1.2.840.113549.1.9.8",
        "unstructuredAddress",
        "unstructuredAddress",
    ),
    ("0.9.2342.19200300.100.1.1", "UID", "userId"),
    ("0.9.2342.19200300.100.1.3", "mail", "rfc822Mailbox"),
    ("0.9.2342.19200300.100.1.9", "host", "host"),
    ("0.9.2342.19200300.100.1.25", "DC", "domainComponent"),
    (
        "1.3.6.1.4.1.311.60.2.1.1",
        "jurisdictionL",
        "jurisdictionLocalityName",
    ),
    (
        "1.3.6.1.4.1.311.60.2.1.2",
        "jurisdictionST",
        "jurisdictionStateOrProvinceName",
    ),
    (
        "1.3.6.1.4.1.311.60.2.1.3",
        "jurisdictionC",
        "jurisdictionCountryName",
    ),
];

const EKU_NAMES: &[(&str, &str)] = &[
    ("1.3.6.1.5.5.7.3.1", "TLS Web Server Authentication"),
    ("1.3.6.1.5.5.7.3.2", "TLS Web Client Authentication"),
    ("1.3.6.1.5.5.7.3.3", "Code Signing"),
    ("1.3.6.1.5.5.7.3.4", "E-mail Protection"),
    ("1.3.6.1.5.5.7.3.5", "IPSec End System"),
    ("1.3.6.1.5.5.7.3.6", "IPSec Tunnel"),
    ("1.3.6.1.5.5.7.3.7", "IPSec User"),
    ("1.3.6.1.5.5.7.3.8", "Time Stamping"),
    ("1.3.6.1.5.5.7.3.9", "OCSP Signing"),
    ("1.3.6.1.5.5.7.3.17", "ipsec Internet Key Exchange"),
    ("1.3.6.1.4.1.311.20.2.2", "Microsoft Smartcard Login"),
    ("2.5.29.37.0", "Any Extended Key Usage"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::certs::{Certificate, certificates_from_pem};

    fn attribute(known: (&'static str, &'static str), value: &str, joined: bool) -> NameAttribute {
        NameAttribute {
            oid: String::new(),
            known: Some(known),
            value: value.to_owned(),
            joined,
        }
    }

    #[test]
    fn line_joins_and_escapes() {
        let name = [
            attribute(("C", ""), "DE", false),
            attribute(("O", ""), "A, \"B\" \\ C\n\u{7f}", false),
            attribute(("CN", ""), "gw1", false),
            attribute(("UID", ""), "é", true),
        ];
        assert_eq!(
            one_line(&name),
            "C=DE, O=A, \"B\" \\\\ C\\0A\\7F, CN=gw1 + UID=é"
        );
    }

    #[test]
    fn subject_has_no_leading_dash_or_control() {
        let name = [NameAttribute {
            oid: "--1".to_owned(),
            known: None,
            value: "x".to_owned(),
            joined: false,
        }];
        assert_eq!(subject_line(&name), "__1=x");
        assert_eq!(printable("a\r\nb\u{0}c é"), "a__b_c é");
    }

    /// The expected line is what `openssl x509 -subject -nameopt
    /// sep_comma_plus_space,sname,utf8,esc_ctrl` prints for the same file.
    #[test]
    fn subject_matches_openssl_output() {
        let certs: Vec<Certificate> =
            certificates_from_pem(include_bytes!("testdata/odd_subject.pem")).unwrap();
        assert_eq!(
            one_line(&certs[0].attributes),
            include_str!("testdata/odd_subject.txt").trim_end_matches('\n')
        );
    }
}
