//! The key-method-2 message, the first plaintext in every TLS session (protocol document §5).
//!
//! ```text
//!  | 0 u32 | method 2 u8 | pre-master 48 (client only) | random1 32 | random2 32 |
//!  | options S | username S | password S | peer info S |      S = u16 n, n bytes, the last one NUL
//! ```

use std::fmt;

use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::TlsRole;
use super::error::KeyMessageError;
use super::key_derivation::KeySource;

/// Longest message, which must also be one TLS record.
pub const MAX_LEN: usize = 2048;
/// Longest options string with its NUL.
pub const MAX_OPTIONS: usize = 512;
/// Longest username or password, with its NUL, that every stock server takes.
pub const MAX_CREDENTIAL: usize = 128;

const METHOD: u8 = 2;

/// A key-method-2 message.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct KeyMessage {
    /// Only in a client's message.
    pub pre_master: Option<[u8; 48]>,
    /// For the master secret.
    pub random1: [u8; 32],
    /// For the key expansion.
    pub random2: [u8; 32],
    /// The options string (see [`super::occ`]).
    pub options: String,
    /// `None` when unused.
    pub username: Option<String>,
    /// `None` when unused.
    pub password: Option<String>,
    /// The lines of peer info (see [`super::peer_info`]).
    pub peer_info: Option<String>,
}

impl KeyMessage {
    /// A message with randomness and options only; a client's has a pre-master.
    pub fn new(source: &KeySource, role: TlsRole, options: String) -> Self {
        KeyMessage {
            pre_master: (role == TlsRole::Client).then_some(source.pre_master),
            random1: source.random1,
            random2: source.random2,
            options,
            username: None,
            password: None,
            peer_info: None,
        }
    }

    /// What the sender contributes to the legacy key derivation.
    pub fn key_source(&self) -> KeySource {
        KeySource {
            pre_master: self.pre_master.unwrap_or([0; 48]),
            random1: self.random1,
            random2: self.random2,
        }
    }

    /// The message as `role` sends it, to be written as one TLS record.
    ///
    /// A client's message without pre-master gets zeros. Options are cut after 511 bytes; peer info
    /// loses its last lines where the message would exceed [`MAX_LEN`]. Credentials are never cut:
    /// keep them below [`MAX_CREDENTIAL`].
    pub fn encode(&self, role: TlsRole) -> Vec<u8> {
        // The full length at once: growing would leave copies of the secrets behind.
        let mut out = Vec::with_capacity(
            MAX_LEN
                + self.username.as_ref().map_or(0, String::len)
                + self.password.as_ref().map_or(0, String::len),
        );
        out.extend_from_slice(&[0, 0, 0, 0, METHOD]);
        if role == TlsRole::Client {
            out.extend_from_slice(self.pre_master.as_ref().unwrap_or(&[0; 48]));
        }
        out.extend_from_slice(&self.random1);
        out.extend_from_slice(&self.random2);
        put(&mut out, Some(clip(&self.options, MAX_OPTIONS - 1)));
        put(&mut out, self.username.as_deref());
        put(&mut out, self.password.as_deref());
        let room = MAX_LEN.saturating_sub(out.len() + 3);
        let peer_info = self
            .peer_info
            .as_deref()
            .map(|info| whole_lines(info, room));
        put(&mut out, peer_info);
        out
    }

    /// Parses a message sent by `role_of_sender`; bytes after it are ignored. Old peers may leave out
    /// the peer info, or the credentials too.
    ///
    /// # Errors
    /// [`KeyMessageError::Truncated`] when more bytes are needed, others when the peer is unusable.
    pub fn parse(role_of_sender: TlsRole, bytes: &[u8]) -> Result<Self, KeyMessageError> {
        Self::parse_prefix(role_of_sender, bytes).map(|(message, _)| message)
    }

    /// As [`KeyMessage::parse`], also returning the message's length in `bytes`.
    ///
    /// # Errors
    /// As [`KeyMessage::parse`].
    pub fn parse_prefix(
        role_of_sender: TlsRole,
        bytes: &[u8],
    ) -> Result<(Self, usize), KeyMessageError> {
        // Looking no further than the longest message bounds what a peer can make us copy.
        let bounded = &bytes[..bytes.len().min(MAX_LEN)];
        let mut rest = bounded;
        let parsed = Self::parse_fields(role_of_sender, &mut rest);
        let used = bounded.len() - rest.len();
        match parsed {
            Ok(message) => Ok((message, used)),
            Err(KeyMessageError::Truncated) if bytes.len() >= MAX_LEN => {
                Err(KeyMessageError::TooLong)
            }
            Err(error) => Err(error),
        }
    }

    fn parse_fields(role: TlsRole, rest: &mut &[u8]) -> Result<Self, KeyMessageError> {
        if take::<4>(rest)? != [0; 4] {
            return Err(KeyMessageError::BadPrefix);
        }
        let method = take::<1>(rest)?[0] & 0x0f;
        if method != METHOD {
            return Err(KeyMessageError::BadMethod(method));
        }
        let mut message = KeyMessage {
            pre_master: match role {
                TlsRole::Client => Some(take(rest)?),
                TlsRole::Server => None,
            },
            random1: take(rest)?,
            random2: take(rest)?,
            options: String::new(),
            username: None,
            password: None,
            peer_info: None,
        };
        if let Some(options) = take_string(rest)? {
            message.options = String::from_utf8_lossy(options).into_owned();
        }
        if !rest.is_empty() {
            message.username = credential(take_string(rest)?)?;
            message.password = credential(take_string(rest)?)?;
        }
        if !rest.is_empty() {
            let info = take_string(rest)?;
            message.peer_info = info.map(|info| String::from_utf8_lossy(info).into_owned());
        }
        Ok(message)
    }
}

impl fmt::Debug for KeyMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyMessage")
            .field("options", &self.options)
            .field("username", &self.username)
            .field("peer_info", &self.peer_info)
            .finish_non_exhaustive()
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], KeyMessageError> {
    let (head, after) = rest.split_first_chunk().ok_or(KeyMessageError::Truncated)?;
    *rest = after;
    Ok(*head)
}

/// The next string up to its first NUL; `None` for length 0.
fn take_string<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, KeyMessageError> {
    let len = usize::from(u16::from_be_bytes(take(rest)?));
    let (bytes, after) = rest
        .split_at_checked(len)
        .ok_or(KeyMessageError::Truncated)?;
    *rest = after;
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok((len > 0).then_some(text))
}

fn credential(bytes: Option<&[u8]>) -> Result<Option<String>, KeyMessageError> {
    let Some(bytes) = bytes else {
        return Ok(None);
    };
    let text = Zeroizing::new(bytes.to_vec());
    match std::str::from_utf8(&text) {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(KeyMessageError::BadText),
    }
}

fn put(out: &mut Vec<u8>, text: Option<&str>) {
    let Some(text) = text else {
        out.extend_from_slice(&[0, 0]);
        return;
    };
    let text = clip(text, usize::from(u16::MAX) - 1);
    let len = text.len() as u16 + 1;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// At most `max` bytes of `text`, cut between characters.
fn clip(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// As many whole lines of `text` as fit into `max` bytes.
fn whole_lines(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let fits = clip(text, max);
    fits.rfind('\n').map_or("", |end| &fits[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(role: TlsRole) -> KeyMessage {
        KeyMessage {
            pre_master: (role == TlsRole::Client).then_some([1; 48]),
            random1: [2; 32],
            random2: [3; 32],
            options: "V4,dev-type tun".into(),
            username: None,
            password: None,
            peer_info: None,
        }
    }

    #[test]
    fn fixed_parts_have_the_known_sizes() {
        let client = message(TlsRole::Client).encode(TlsRole::Client);
        let server = message(TlsRole::Server).encode(TlsRole::Server);
        let strings = 2 + 16 + 3 * 2;
        assert_eq!(client.len(), 117 + strings);
        assert_eq!(server.len(), 69 + strings);
        assert_eq!(client[..5], [0, 0, 0, 0, 2]);
        assert_eq!(client[117..119], [0, 16], "the length includes the NUL");
        assert_eq!(&client[119..135], b"V4,dev-type tun\0");
        assert_eq!(client[135..], [0; 6]);
    }

    #[test]
    fn old_peers_leave_the_end_out() {
        let wire = message(TlsRole::Client).encode(TlsRole::Client);
        for missing in [2, 6] {
            let parsed = KeyMessage::parse(TlsRole::Client, &wire[..wire.len() - missing]);
            assert_eq!(parsed, Ok(message(TlsRole::Client)), "{missing}");
        }
        let parsed = KeyMessage::parse(TlsRole::Client, &wire[..wire.len() - 4]);
        assert_eq!(parsed, Err(KeyMessageError::Truncated), "password missing");
    }

    #[test]
    fn what_follows_is_left_alone() {
        let mut wire = message(TlsRole::Server).encode(TlsRole::Server);
        let len = wire.len();
        wire.extend_from_slice(b"PUSH_REPLY\0");
        let (parsed, used) = KeyMessage::parse_prefix(TlsRole::Server, &wire).expect("complete");
        assert_eq!((parsed, used), (message(TlsRole::Server), len));
    }

    #[test]
    fn only_method_2() {
        let mut wire = message(TlsRole::Server).encode(TlsRole::Server);
        wire[4] = 0xf2;
        assert!(
            KeyMessage::parse(TlsRole::Server, &wire).is_ok(),
            "only the lower four bits count"
        );
        wire[4] = 1;
        let parsed = KeyMessage::parse(TlsRole::Server, &wire);
        assert_eq!(parsed, Err(KeyMessageError::BadMethod(1)));
        wire[0] = 1;
        let parsed = KeyMessage::parse(TlsRole::Server, &wire);
        assert_eq!(parsed, Err(KeyMessageError::BadPrefix));
    }

    #[test]
    fn strings_end_at_their_first_nul() {
        let mut wire = message(TlsRole::Server).encode(TlsRole::Server);
        wire[69 + 2 + 2] = 0;
        let parsed = KeyMessage::parse(TlsRole::Server, &wire).expect("well formed");
        assert_eq!(parsed.options, "V4");
    }

    #[test]
    fn incomplete_is_told_from_too_long() {
        let mut wire = message(TlsRole::Server).encode(TlsRole::Server);
        let at = wire.len() - 2;
        wire[at..].copy_from_slice(&3000u16.to_be_bytes());
        wire.push(b'x');
        let parsed = KeyMessage::parse(TlsRole::Server, &wire);
        assert_eq!(parsed, Err(KeyMessageError::Truncated));
        wire.resize(4000, b'x');
        let parsed = KeyMessage::parse(TlsRole::Server, &wire);
        assert_eq!(parsed, Err(KeyMessageError::TooLong));
    }

    #[test]
    fn too_much_peer_info_loses_its_last_lines() {
        let mut long = message(TlsRole::Client);
        long.peer_info = Some("UV_X=0123456789\n".repeat(200));
        let wire = long.encode(TlsRole::Client);
        assert!(wire.len() <= MAX_LEN && wire.len() > MAX_LEN - 20);
        let parsed = KeyMessage::parse(TlsRole::Client, &wire).expect("well formed");
        let info = parsed.peer_info.clone().expect("some is left");
        assert!(info.ends_with("9\n") && info.len().is_multiple_of(16));
    }

    #[test]
    fn debug_shows_no_secrets() {
        let mut secret = message(TlsRole::Client);
        secret.password = Some("hunter2".into());
        let text = format!("{secret:?}");
        assert!(!text.contains("hunter2") && !text.contains("[1, 1"));
    }

    proptest! {
        #[test]
        fn round_trip(
            client: bool,
            pre: [u8; 32],
            options in "[ -~]{0,500}",
            username in proptest::option::of("[^\0]{0,30}"),
            password in proptest::option::of("[^\0]{0,30}"),
            peer_info in proptest::option::of("([A-Z_]{1,9}=[ -~]{0,20}\n){0,20}"),
        ) {
            let role = if client { TlsRole::Client } else { TlsRole::Server };
            let full = KeyMessage {
                random1: pre,
                options,
                username,
                password,
                peer_info,
                ..message(role)
            };
            let wire = full.encode(role);
            prop_assert!(wire.len() <= MAX_LEN);
            prop_assert_eq!(KeyMessage::parse(role, &wire), Ok(full));
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            prefix: bool,
        ) {
            if prefix && bytes.len() > 5 {
                bytes[..5].copy_from_slice(&[0, 0, 0, 0, 2]);
            }
            let _ = KeyMessage::parse(TlsRole::Client, &bytes);
            let _ = KeyMessage::parse(TlsRole::Server, &bytes);
        }
    }
}
