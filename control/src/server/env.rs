//! What a client says of itself, made fit for the environment of scripts.
//!
//! Peer info comes from whoever got through TLS, and scripts are often careless with what they
//! find. As in OpenVPN only `IV_*` and `UV_*` get there, and what a shell would act upon does not.

use crate::proto::peer_info::PeerInfo;

/// Longest variable, name and value with the `=` between them, in bytes.
const MAX_VARIABLE: usize = 255;

/// The variables a client's peer info stands for, in its order: `IV_*`, and `UV_*` as its
/// `push-peer-info` and `setenv` gave them. Names have letters, digits and `_` only; in values white
/// space, `$`, `(`, `` ` `` and all that is not printable ASCII become `_`.
pub fn peer_variables(info: &PeerInfo) -> impl Iterator<Item = (&str, String)> {
    let plain = |ch: char| ch.is_ascii_alphanumeric() || ch == '_';
    let wanted = move |name: &str| {
        (name.starts_with("IV_") || name.starts_with("UV_"))
            && name.len() < MAX_VARIABLE
            && name.chars().all(plain)
    };
    let lines = info.lines.iter().filter(move |(name, _)| wanted(name));
    lines.map(|(name, value)| {
        let harmless = |ch: char| match ch {
            '$' | '(' | '`' => '_',
            ch if ch.is_ascii_graphic() => ch,
            _ => '_',
        };
        let room = MAX_VARIABLE - name.len() - 1;
        let value = value.chars().take(room).map(harmless).collect();
        (name.as_str(), value)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variables(text: &str) -> Vec<String> {
        peer_variables(&PeerInfo::parse(text))
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    #[test]
    fn only_what_clients_may_say() {
        assert_eq!(
            variables(
                "IV_VER=2.6.14\nUV_SITE=north pole\nPATH=/evil\nIV-X=1\nUV_A.B=2\nIV_\nID=7\n\
                 UV_RUN=$(x)`y`;\"z\"\tü\n"
            ),
            [
                "IV_VER=2.6.14",
                "UV_SITE=north_pole",
                "UV_RUN=__x)_y_;\"z\"_"
            ],
            "a TAB is gone already"
        );
        let long = variables(&format!("UV_A={}\n", "v".repeat(1000)));
        assert_eq!(long[0].len(), MAX_VARIABLE);
    }

    proptest! {
        #[test]
        fn values_are_harmless(text: String) {
            for (name, value) in peer_variables(&PeerInfo::parse(&format!("UV_X={text}\n{text}"))) {
                prop_assert!(name.len() + value.len() < MAX_VARIABLE);
                prop_assert!(value.bytes().all(|b| b.is_ascii_graphic() && !b"$(`".contains(&b)));
            }
        }
    }
}
