//! `auth-gen-token`: a token takes the place of the password after the first authentication, so
//! that renegotiations and reconnects ask nobody for a one-time password (protocol §8.4).
//!
//! ```text
//!  SESS_ID_AT_ | base64( session 12 | first time 8 | this token's time 8 | HMAC-SHA256 32 )
//!                        '------------ the HMAC covers user name, then these -'
//! ```
//! The server keeps no list: any server with the same key knows a token again. A token holds for
//! twice the renewal time from when it was made, and all tokens of a session for the lifetime from
//! the first one on.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::config::server::AuthGenToken;
use crate::proto::error::KeyFileError;
use crate::proto::wrap::tls_crypt_v2::base64_body;

const LABEL: &str = "OpenVPN auth-token server key";
const PREFIX: &str = "SESS_ID_AT_";
const MAC_LEN: usize = 32;
const SIGNED_LEN: usize = 12 + 8 + 8;
const TOKEN_LEN: usize = SIGNED_LEN + MAC_LEN;
/// 60 bytes are 80 characters of base64, without padding.
const TEXT_LEN: usize = PREFIX.len() + TOKEN_LEN / 3 * 4;

/// What tokens are signed with.
#[derive(Clone, ZeroizeOnDrop)]
pub struct TokenKey([u8; 32]);

impl TokenKey {
    /// A new key, for a server whose tokens need not outlive it.
    pub fn generate(rng: &mut impl rand::CryptoRng) -> Self {
        let mut key = TokenKey([0; 32]);
        rng.fill_bytes(&mut key.0);
        key
    }

    /// Parses a key file (`auth-gen-token-secret`), as made by `--genkey auth-token`.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let bytes = base64_body(text, LABEL)?;
        match (bytes.len(), bytes.get(64..96).map(<[u8; 32]>::try_from)) {
            (128, Some(Ok(key))) => Ok(TokenKey(key)),
            (found, _) => Err(KeyFileError::BadLength {
                found,
                expected: 128,
            }),
        }
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

/// Makes and judges tokens.
#[derive(Debug)]
pub struct Tokens {
    key: TokenKey,
    options: AuthGenToken,
}

/// What a client's tokens have in common. It begins with the first token of a connection, or with
/// the one the client came with, and must not change inside a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Session {
    id: [u8; 12],
    first: u64,
    /// The user name could not be verified with the token it came with.
    empty_user: bool,
}

/// What a password turned out to be: `session_state` in the environment of scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// No token.
    Initial,
    /// A token that holds.
    Authenticated,
    /// A token whose time is over.
    Expired,
    /// No token of this server for this user, or of another session.
    Invalid,
    /// A token that holds, for an empty user name.
    AuthenticatedEmptyUser,
    /// A token for an empty user name whose time is over.
    ExpiredEmptyUser,
}

impl SessionState {
    /// The value of `session_state`.
    pub fn name(self) -> &'static str {
        match self {
            SessionState::Initial => "Initial",
            SessionState::Authenticated => "Authenticated",
            SessionState::Expired => "Expired",
            SessionState::Invalid => "Invalid",
            SessionState::AuthenticatedEmptyUser => "AuthenticatedEmptyUser",
            SessionState::ExpiredEmptyUser => "ExpiredEmptyUser",
        }
    }
}

/// Who decides about a client with this password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The token does: the client is in.
    Accept,
    /// The token does: the client is refused, with this text for its AUTH_FAILED.
    Refuse(Option<&'static str>),
    /// Whoever decides about passwords. If it refuses and says nothing, the text stands for it.
    Ask(Option<&'static str>),
}

/// What a password means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// For the environment of scripts.
    pub state: SessionState,
    /// What follows.
    pub decision: Decision,
    /// The session to go on with: pass it to the next [`Tokens::judge`] of this connection and to
    /// [`Tokens::issue`]. `None`: there is none yet, or the client has lost it.
    pub session: Option<Session>,
}

impl Judgement {
    /// Whether the client has to go by the empty user name from now on.
    pub fn drops_username(&self) -> bool {
        matches!(
            self.state,
            SessionState::AuthenticatedEmptyUser | SessionState::ExpiredEmptyUser
        )
    }
}

const EXPIRED: &str = "SESSION: token expired";

impl Tokens {
    /// Tokens signed with this key.
    pub fn new(key: TokenKey, options: AuthGenToken) -> Self {
        Tokens { key, options }
    }

    /// Seconds after which a token is renewed.
    pub fn renewal(&self) -> u64 {
        self.options.renewal
    }

    /// Judges what a client gave as its password at `now`, in seconds since 1970. `held` is the
    /// connection's session so far.
    pub fn judge(
        &self,
        held: Option<Session>,
        username: &str,
        password: &str,
        now: u64,
    ) -> Judgement {
        if !is_token(password) {
            return Judgement {
                state: SessionState::Initial,
                decision: Decision::Ask(None),
                session: held.map(|held| Session {
                    empty_user: false,
                    ..held
                }),
            };
        }
        let (state, found) = self.verify(held, username, password, now);
        let expired = matches!(
            state,
            SessionState::Expired | SessionState::ExpiredEmptyUser
        );
        let reason = expired.then_some(EXPIRED);
        let decision = match state {
            _ if self.options.external_auth => Decision::Ask(reason),
            SessionState::Authenticated => Decision::Accept,
            _ => Decision::Refuse(reason),
        };
        let session = match decision {
            Decision::Refuse(_) => None,
            Decision::Accept | Decision::Ask(_) => found.or(held),
        };
        Judgement {
            state,
            decision,
            session,
        }
    }

    /// A token for a client that is authenticated. A connection's next tokens are made from the
    /// same session: one that came with no token needs [`Session::start`] first.
    pub fn issue(&self, session: &Session, username: &str, now: u64) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0u8; TOKEN_LEN]);
        bytes[..12].copy_from_slice(&session.id);
        bytes[12..20].copy_from_slice(&session.first.to_be_bytes());
        bytes[20..28].copy_from_slice(&now.to_be_bytes());
        // A name that is not verified must not be so by the next token.
        let username = if session.empty_user { "" } else { username };
        let mut mac = hmac::Context::with_key(&self.hmac_key());
        mac.update(username.as_bytes());
        mac.update(&bytes[..SIGNED_LEN]);
        bytes[SIGNED_LEN..].copy_from_slice(mac.sign().as_ref());
        let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN));
        text.push_str(PREFIX);
        STANDARD.encode_string(*bytes, &mut text);
        text
    }

    fn hmac_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.key.0)
    }

    fn verify(
        &self,
        held: Option<Session>,
        username: &str,
        password: &str,
        now: u64,
    ) -> (SessionState, Option<Session>) {
        let invalid = (SessionState::Invalid, None);
        let Some(token) = Token::decode(password) else {
            return invalid;
        };
        let key = self.hmac_key();
        let signed_for = |name: &str| {
            let mut message = Zeroizing::new(name.as_bytes().to_vec());
            message.extend_from_slice(&token.bytes[..SIGNED_LEN]);
            hmac::verify(&key, &message, &token.bytes[SIGNED_LEN..]).is_ok()
        };
        let empty_user = match (signed_for(username), signed_for("")) {
            (true, _) => false,
            (false, true) => true,
            (false, false) => return invalid,
        };
        let session = Session {
            id: token.id,
            first: token.first,
            empty_user,
        };
        if held.is_some_and(|held| held.id != session.id) {
            return invalid;
        }
        let in_time = now >= token.time
            && now
                < token
                    .time
                    .saturating_add(self.options.renewal.saturating_mul(2))
            && token.time >= token.first;
        let lifetime = self.options.lifetime;
        let alive = lifetime == 0 || now <= token.first.saturating_add(lifetime);
        let state = match (in_time && alive, empty_user) {
            (true, false) => SessionState::Authenticated,
            (true, true) => SessionState::AuthenticatedEmptyUser,
            (false, false) => SessionState::Expired,
            (false, true) => SessionState::ExpiredEmptyUser,
        };
        // Clocks may differ between servers; a connection's session keeps its first time.
        let session = Session {
            first: held.map_or(session.first, |held| held.first),
            ..session
        };
        (state, Some(session))
    }
}

impl Session {
    /// A new session for a client that has no token.
    pub fn start(rng: &mut impl rand::CryptoRng, now: u64) -> Self {
        let mut id = [0; 12];
        rng.fill_bytes(&mut id);
        Session {
            id,
            first: now,
            empty_user: false,
        }
    }

    /// `session_id` in the environment of scripts: 16 characters of base64.
    pub fn name(&self) -> String {
        STANDARD.encode(self.id)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("first", &self.first)
            .finish_non_exhaustive()
    }
}

/// Whether a password has a token's form.
pub fn is_token(password: &str) -> bool {
    password.len() == TEXT_LEN && password.starts_with(PREFIX)
}

struct Token {
    bytes: Zeroizing<[u8; TOKEN_LEN]>,
    id: [u8; 12],
    first: u64,
    time: u64,
}

impl Token {
    fn decode(password: &str) -> Option<Self> {
        let packed = password.strip_prefix(PREFIX)?;
        let decoded = Zeroizing::new(STANDARD.decode(packed).ok()?);
        let bytes = Zeroizing::new(<[u8; TOKEN_LEN]>::try_from(decoded.as_slice()).ok()?);
        let (id, rest) = bytes.split_first_chunk::<12>()?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let (time, _) = rest.split_first_chunk::<8>()?;
        Some(Token {
            id: *id,
            first: u64::from_be_bytes(*first),
            time: u64::from_be_bytes(*time),
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;

    use super::*;

    const NOW: u64 = 1_700_000_000;
    const RENEWAL: u64 = 600;

    fn tokens(lifetime: u64, external_auth: bool) -> Tokens {
        let options = AuthGenToken {
            lifetime,
            renewal: RENEWAL,
            external_auth,
        };
        Tokens::new(TokenKey([7; 32]), options)
    }

    fn session(seed: u64) -> Session {
        Session::start(&mut rand::rngs::StdRng::seed_from_u64(seed), NOW)
    }

    #[test]
    fn published_vector() {
        // Protocol §16.7.
        let vector = "SESS_ID_AT_0123456789abcdefAAAAAAAAAAAAAAAAAAAAAE5JsQJOVfo8jnI3RL3tBaR5NkE4\
                      yPfcylFUHmHSc5Bu";
        let tokens = Tokens::new(TokenKey([0; 32]), tokens(0, false).options);
        let got = tokens.judge(None, "test user name", vector, 0);
        assert_eq!(got.state, SessionState::Authenticated);
        assert_eq!(got.decision, Decision::Accept);
        let session = got.session.unwrap();
        assert_eq!(session.name(), "0123456789abcdef");
        assert_eq!(*tokens.issue(&session, "test user name", 0), vector);
    }

    #[test]
    fn times() {
        let tokens = tokens(3000, false);
        let first = session(1);
        let state = |made: u64, now: u64| {
            let token = tokens.issue(&first, "u", made);
            tokens.judge(None, "u", &token, now).state
        };
        let good = SessionState::Authenticated;
        let old = SessionState::Expired;
        assert_eq!(state(NOW, NOW), good);
        assert_eq!(state(NOW, NOW + 2 * RENEWAL - 1), good);
        assert_eq!(state(NOW, NOW + 2 * RENEWAL), old, "not renewed");
        assert_eq!(state(NOW + 10, NOW), old, "from the future");
        assert_eq!(state(NOW - 1, NOW), old, "older than its session");
        assert_eq!(state(NOW + 2900, NOW + 3000), good);
        assert_eq!(state(NOW + 2900, NOW + 3001), old, "the lifetime is over");
        let token = tokens.issue(&first, "u", NOW);
        let got = tokens.judge(None, "u", &token, NOW + 9999);
        assert_eq!(got.decision, Decision::Refuse(Some(EXPIRED)));
        assert_eq!(got.session, None);
    }

    #[test]
    fn passwords_are_for_others() {
        let held = Some(session(1));
        for password in ["", "secret", "SESS_ID_AT_short", &"x".repeat(TEXT_LEN)] {
            let got = tokens(0, false).judge(held, "u", password, NOW);
            assert_eq!(got.state, SessionState::Initial);
            assert_eq!(got.decision, Decision::Ask(None));
            assert_eq!(got.session, held);
        }
    }

    #[test]
    fn forged_and_foreign_tokens() {
        let tokens = tokens(0, false);
        let token = tokens.issue(&session(1), "u", NOW);
        let refused = |held, username: &str, token: &str| {
            let got = tokens.judge(held, username, token, NOW);
            assert_eq!(got.state, SessionState::Invalid);
            assert_eq!(got.decision, Decision::Refuse(None));
            assert_eq!(got.session, None);
        };
        refused(None, "other", &token);
        refused(Some(session(2)), "u", &token);
        let other = Tokens::new(TokenKey([8; 32]), tokens.options).issue(&session(1), "u", NOW);
        refused(None, "u", &other);
        refused(None, "u", &format!("{PREFIX}{}", "!".repeat(80)));
        refused(None, "u", &format!("{PREFIX}{}", "=".repeat(80)));
        for at in PREFIX.len()..TEXT_LEN {
            let mut forged = token.as_bytes().to_vec();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            refused(None, "u", &String::from_utf8(forged).unwrap());
        }
    }

    #[test]
    fn renewed_tokens_stay_in_their_session() {
        let tokens = tokens(3000, false);
        let mut held = Some(session(1));
        for step in 1..5 {
            let now = NOW + step * RENEWAL;
            let token = tokens.issue(&held.unwrap(), "u", now - RENEWAL);
            let got = tokens.judge(held, "u", &token, now);
            assert_eq!(got.state, SessionState::Authenticated, "{step}");
            assert_eq!(got.session, held);
            held = got.session;
        }
    }

    #[test]
    fn empty_user_names_stay_empty() {
        let tokens = tokens(0, true);
        let token = tokens.issue(&session(1), "", NOW);
        let got = tokens.judge(None, "claimed", &token, NOW);
        assert_eq!(got.state, SessionState::AuthenticatedEmptyUser);
        assert!(got.drops_username());
        let next = tokens.issue(&got.session.unwrap(), "claimed", NOW);
        assert_eq!(
            tokens.judge(None, "claimed", &next, NOW).state,
            SessionState::AuthenticatedEmptyUser
        );
        let late = tokens.judge(got.session, "claimed", &token, NOW + 9999);
        assert_eq!(late.state, SessionState::ExpiredEmptyUser);
        assert_eq!(
            tokens.judge(None, "", &token, NOW).state.name(),
            "Authenticated"
        );
        let again = tokens.judge(got.session, "claimed", "password", NOW);
        let named = tokens.issue(&again.session.unwrap(), "claimed", NOW);
        assert_eq!(
            tokens.judge(got.session, "claimed", &named, NOW).state,
            SessionState::Authenticated,
            "a password verifies the name"
        );
        let strict = Tokens::new(TokenKey([7; 32]), super::tests::tokens(0, false).options);
        let got = strict.judge(None, "claimed", &token, NOW);
        assert_eq!(got.decision, Decision::Refuse(None));
    }

    #[test]
    fn others_may_decide_about_tokens_too() {
        let tokens = tokens(0, true);
        let token = tokens.issue(&session(1), "u", NOW);
        let ask = |username: &str, now| tokens.judge(None, username, &token, now);
        assert_eq!(ask("u", NOW).decision, Decision::Ask(None));
        let old = ask("u", NOW + 9999);
        assert_eq!(old.decision, Decision::Ask(Some(EXPIRED)));
        assert_eq!(old.session, Some(session(1)), "it goes on if they accept");
        let bad = ask("other", NOW);
        assert_eq!((bad.state, bad.session), (SessionState::Invalid, None));
        assert_eq!(bad.decision, Decision::Ask(None));
    }

    #[test]
    fn key_files() {
        let mut bytes = [0u8; 128];
        bytes[64..96].fill(7);
        let pem = |bytes: &[u8]| {
            let body = STANDARD.encode(bytes);
            format!("-----BEGIN {LABEL}-----\n{body}\n-----END {LABEL}-----\n")
        };
        let key = TokenKey::parse(&pem(&bytes)).unwrap();
        assert_eq!(key.0, [7; 32]);
        assert_eq!(format!("{key:?}"), "TokenKey");
        assert_eq!(
            TokenKey::parse(&pem(&bytes[..127])).unwrap_err(),
            KeyFileError::BadLength {
                found: 127,
                expected: 128
            }
        );
        assert_eq!(
            TokenKey::parse("").unwrap_err(),
            KeyFileError::NoBegin(LABEL)
        );
    }

    proptest! {
        #[test]
        fn tokens_hold_for_their_user(user: String, other: String, made in 0u64..1200) {
            let tokens = tokens(0, false);
            let token = tokens.issue(&session(1), &user, NOW);
            prop_assert!(is_token(&token));
            let got = tokens.judge(Some(session(1)), &user, &token, NOW + made);
            prop_assert_eq!(got.decision, Decision::Accept);
            if other != user && !user.is_empty() {
                let got = tokens.judge(None, &other, &token, NOW);
                prop_assert_eq!(got.state, SessionState::Invalid);
            }
        }

        #[test]
        fn arbitrary_passwords_never_panic(tail: String, now: u64) {
            let tokens = tokens(1, false);
            tokens.judge(None, "u", &format!("{PREFIX}{tail}"), now);
        }
    }
}
