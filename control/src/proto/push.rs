//! Control messages: the text both ends exchange once TLS is up (protocol document §8.3, §8.4).
//!
//! ```text
//!  TLS plaintext -> split_messages -> ControlMessage::parse -> PushAssembler -> all pushed options
//!  options -> push_replies -> to_wire -> one TLS record each
//! ```
//! Parsing here is about form; whether a peer may send a message, and whether an option may be
//! pushed, is decided by who receives it.

use std::fmt;

use super::error::PushError;

/// Longest control message sent, without its NUL.
pub const MAX_MESSAGE: usize = 1023;
/// Longest option in a push list.
pub const MAX_OPTION: usize = 256;

/// A part of a push list ends when it would become longer than this.
const SPLIT_AT: usize = 940;
/// Most bytes of options collected over continuation parts.
const MAX_PUSHED: usize = 64 * 1024;
/// Most parts: even empty ones end.
const MAX_PARTS: usize = 256;

const CONTINUATION: &str = "push-continuation";

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlMessage {
    /// `PUSH_REQUEST`
    PushRequest,
    /// `PUSH_REPLY,…`: a list of options, possibly one part of several; give it to a
    /// [`PushAssembler`].
    PushReply(Vec<String>),
    /// `PUSH_UPDATE,…`: as `PushReply`, `-name` removes and `?name` is optional.
    PushUpdate(Vec<String>),
    /// `AUTH_FAILED…`
    AuthFailed(AuthFailed),
    /// `AUTH_PENDING[,timeout N]`
    AuthPending {
        /// Seconds the server wants the client to wait.
        timeout: Option<u32>,
    },
    /// `INFO_PRE,…`: text for the user interface.
    InfoPre(String),
    /// `INFO,…`: text for the user interface.
    Info(String),
    /// `RESTART[,[flags]text]`: reconnect.
    Restart {
        /// Flag N: try the next remote.
        next_remote: bool,
        /// Flag P: keep the credentials.
        keep_credentials: bool,
        /// For a person.
        text: String,
    },
    /// `HALT[,[flags]text]`: stop and do not reconnect.
    Halt {
        /// For a person.
        text: String,
    },
    /// `EXIT`: the peer leaves.
    Exit,
    /// `CR_RESPONSE,base64`: the answer to a text challenge.
    CrResponse(String),
    /// Anything else: to be logged and ignored.
    Unknown(String),
}

/// Why a server refused to authenticate a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthFailed {
    /// For good, with a reason for a person (may be empty).
    Plain {
        /// For a person.
        reason: String,
    },
    /// `TEMP`: for now.
    Temporary {
        /// Seconds to wait before the next try.
        backoff: Option<u32>,
        /// Where to try next.
        advance: Option<Advance>,
        /// For a person.
        reason: String,
    },
    /// `SESSION`: the auth-token has expired.
    Session {
        /// For a person.
        reason: String,
    },
    /// `CRV1`: a dynamic challenge.
    Challenge {
        /// Comma separated: `R` a response is required, `E` echo what is typed.
        flags: String,
        /// Goes back as `CRV1::state::response`.
        state: String,
        /// The username, in base64.
        username_base64: String,
        /// The question.
        text: String,
    },
}

/// The `advance` flag of a temporary authentication failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// The same address again.
    No,
    /// The next address of the same remote.
    Address,
    /// The next remote.
    Remote,
}

impl ControlMessage {
    /// The message in this text, as cut by [`split_messages`].
    pub fn parse(text: &str) -> Self {
        let (name, rest) = match text.split_once(',') {
            Some((name, rest)) => (name, Some(rest)),
            None => (text, None),
        };
        let rest_or_empty = rest.unwrap_or_default();
        match (name, rest) {
            ("PUSH_REQUEST", None) => ControlMessage::PushRequest,
            ("PUSH_REPLY", _) => ControlMessage::PushReply(split_options(rest_or_empty)),
            ("PUSH_UPDATE", _) => ControlMessage::PushUpdate(split_options(rest_or_empty)),
            ("AUTH_FAILED", _) => ControlMessage::AuthFailed(AuthFailed::parse(rest_or_empty)),
            ("AUTH_PENDING", _) => ControlMessage::AuthPending {
                timeout: keyword(rest_or_empty, "timeout").and_then(|n| n.parse().ok()),
            },
            ("INFO_PRE", Some(text)) => ControlMessage::InfoPre(text.to_owned()),
            ("INFO", Some(text)) => ControlMessage::Info(text.to_owned()),
            ("RESTART", _) => {
                let (flags, text) = bracketed(rest_or_empty);
                ControlMessage::Restart {
                    next_remote: flags.contains('N'),
                    keep_credentials: flags.contains('P'),
                    text: text.to_owned(),
                }
            }
            ("HALT", _) => ControlMessage::Halt {
                text: bracketed(rest_or_empty).1.to_owned(),
            },
            ("EXIT", None) => ControlMessage::Exit,
            ("CR_RESPONSE", Some(response)) => ControlMessage::CrResponse(response.to_owned()),
            _ => ControlMessage::Unknown(text.to_owned()),
        }
    }

    /// The message as plaintext for one TLS record, its NUL included.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut bytes = self.to_string().into_bytes();
        bytes.push(0);
        bytes
    }
}

/// The message's text without NUL.
impl fmt::Display for ControlMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlMessage::PushRequest => f.write_str("PUSH_REQUEST"),
            ControlMessage::PushReply(options) => write_list(f, "PUSH_REPLY", options),
            ControlMessage::PushUpdate(options) => write_list(f, "PUSH_UPDATE", options),
            ControlMessage::AuthFailed(failed) => failed.fmt(f),
            ControlMessage::AuthPending { timeout: None } => f.write_str("AUTH_PENDING"),
            ControlMessage::AuthPending { timeout: Some(n) } => {
                write!(f, "AUTH_PENDING,timeout {n}")
            }
            ControlMessage::InfoPre(text) => write!(f, "INFO_PRE,{text}"),
            ControlMessage::Info(text) => write!(f, "INFO,{text}"),
            ControlMessage::Restart {
                next_remote,
                keep_credentials,
                text,
            } => {
                let flags = match (keep_credentials, next_remote) {
                    (false, false) => "",
                    (false, true) => "[N]",
                    (true, false) => "[P]",
                    (true, true) => "[PN]",
                };
                write_text(f, "RESTART", flags, text)
            }
            ControlMessage::Halt { text } => write_text(f, "HALT", "", text),
            ControlMessage::Exit => f.write_str("EXIT"),
            ControlMessage::CrResponse(response) => write!(f, "CR_RESPONSE,{response}"),
            ControlMessage::Unknown(text) => f.write_str(text),
        }
    }
}

impl AuthFailed {
    /// Parses what follows `AUTH_FAILED,`.
    fn parse(text: &str) -> Self {
        let plain = || AuthFailed::Plain {
            reason: text.to_owned(),
        };
        if let Some(after) = text.strip_prefix("TEMP") {
            let (flags, after) = bracketed(after);
            let reason = match after.strip_prefix(':') {
                Some(reason) => reason,
                None if after.is_empty() => "",
                None => return plain(),
            };
            let backoff = flags
                .split(',')
                .find_map(|flag| keyword(flag.trim(), "backoff"))
                .and_then(|n| n.parse().ok());
            let advance = flags
                .split(',')
                .find_map(|flag| keyword(flag.trim(), "advance"))
                .and_then(|to| match to {
                    "no" => Some(Advance::No),
                    "addr" => Some(Advance::Address),
                    "remote" => Some(Advance::Remote),
                    _ => None,
                });
            return AuthFailed::Temporary {
                backoff,
                advance,
                reason: reason.to_owned(),
            };
        }
        if let Some(reason) = text.strip_prefix("SESSION") {
            return match reason.strip_prefix(':') {
                Some(reason) => AuthFailed::Session {
                    reason: reason.to_owned(),
                },
                None if reason.is_empty() => AuthFailed::Session {
                    reason: String::new(),
                },
                None => plain(),
            };
        }
        let mut parts = text.splitn(5, ':');
        match std::array::from_fn(|_| parts.next()) {
            [
                Some("CRV1"),
                Some(flags),
                Some(state),
                Some(user),
                Some(text),
            ] => AuthFailed::Challenge {
                flags: flags.to_owned(),
                state: state.to_owned(),
                username_base64: user.to_owned(),
                text: text.to_owned(),
            },
            _ => plain(),
        }
    }
}

impl fmt::Display for AuthFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuthFailed::Plain { reason } if reason.is_empty() => f.write_str("AUTH_FAILED"),
            AuthFailed::Plain { reason } => write!(f, "AUTH_FAILED,{reason}"),
            AuthFailed::Temporary {
                backoff,
                advance,
                reason,
            } => {
                let advance = advance.map(|to| match to {
                    Advance::No => "advance no",
                    Advance::Address => "advance addr",
                    Advance::Remote => "advance remote",
                });
                f.write_str("AUTH_FAILED,TEMP")?;
                match (backoff, advance) {
                    (None, None) => {}
                    (Some(n), None) => write!(f, "[backoff {n}]")?,
                    (None, Some(advance)) => write!(f, "[{advance}]")?,
                    (Some(n), Some(advance)) => write!(f, "[backoff {n},{advance}]")?,
                }
                write!(f, ":{reason}")
            }
            AuthFailed::Session { reason } => write!(f, "AUTH_FAILED,SESSION:{reason}"),
            AuthFailed::Challenge {
                flags,
                state,
                username_base64,
                text,
            } => write!(
                f,
                "AUTH_FAILED,CRV1:{flags}:{state}:{username_base64}:{text}"
            ),
        }
    }
}

/// A pushed option as it may be logged: tokens are as good as passwords.
pub fn loggable(option: &str) -> &str {
    match option.starts_with("auth-token ") {
        true => "auth-token [hidden]",
        false => option,
    }
}

/// Cuts decrypted plaintext into messages: each ends with a NUL or with the plaintext. Control
/// characters become `?`, bytes that are not UTF-8 the replacement character, trailing line ends and
/// empty messages are dropped.
///
/// A message never spans two TLS records, so give it whole records only (any read of at least 16 KiB
/// is).
pub fn split_messages(plaintext: &[u8]) -> impl Iterator<Item = String> {
    plaintext.split(|byte| *byte == 0).filter_map(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end_matches(['\r', '\n']);
        let clean = |ch: char| if ch.is_control() { '?' } else { ch };
        (!text.is_empty()).then(|| text.chars().map(clean).collect())
    })
}

/// Collects the parts of a pushed list of options.
#[derive(Debug, Default)]
pub struct PushAssembler {
    options: Vec<String>,
    bytes: usize,
    parts: usize,
}

impl PushAssembler {
    /// Nothing collected.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the options of one message. Returns all options, without `push-continuation`, when this
    /// was the last part, and then begins anew.
    ///
    /// # Errors
    /// [`PushError`]; what was collected is forgotten.
    pub fn add(&mut self, options: Vec<String>) -> Result<Option<Vec<String>>, PushError> {
        let result = self.add_part(options);
        match result {
            Ok(true) => Ok(Some(std::mem::take(self).options)),
            Ok(false) => Ok(None),
            Err(error) => {
                *self = Self::default();
                Err(error)
            }
        }
    }

    /// Returns whether the list is complete.
    fn add_part(&mut self, options: Vec<String>) -> Result<bool, PushError> {
        self.parts += 1;
        let mut complete = true;
        for option in options {
            match keyword(&option, CONTINUATION) {
                Some("1") => complete = true,
                Some("2") => complete = false,
                Some(_) => return Err(PushError::BadContinuation),
                None => {
                    self.bytes += option.len() + 1;
                    if self.bytes > MAX_PUSHED {
                        return Err(PushError::TooLong);
                    }
                    self.options.push(option);
                }
            }
        }
        if !complete && self.parts >= MAX_PARTS {
            return Err(PushError::TooLong);
        }
        Ok(complete)
    }
}

/// The `PUSH_REPLY` messages for these options, in as many parts as needed.
///
/// # Errors
/// [`PushError::BadOption`] for an option longer than [`MAX_OPTION`], with a comma (there is no
/// escaping) or with a control character.
pub fn push_replies(options: &[String]) -> Result<Vec<ControlMessage>, PushError> {
    let parts = split_parts("PUSH_REPLY".len(), options)?;
    Ok(parts.into_iter().map(ControlMessage::PushReply).collect())
}

/// As [`push_replies`], for `PUSH_UPDATE`.
///
/// # Errors
/// As [`push_replies`].
pub fn push_updates(options: &[String]) -> Result<Vec<ControlMessage>, PushError> {
    let parts = split_parts("PUSH_UPDATE".len(), options)?;
    Ok(parts.into_iter().map(ControlMessage::PushUpdate).collect())
}

fn split_parts(name_len: usize, options: &[String]) -> Result<Vec<Vec<String>>, PushError> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut len = name_len;
    for option in options {
        let bad = |ch: char| ch == ',' || ch.is_control();
        if option.is_empty() || option.len() > MAX_OPTION || option.contains(bad) {
            return Err(PushError::BadOption);
        }
        if len + 1 + option.len() > SPLIT_AT {
            part.push(format!("{CONTINUATION} 2"));
            parts.push(std::mem::take(&mut part));
            len = name_len;
        }
        len += 1 + option.len();
        part.push(option.clone());
    }
    if !parts.is_empty() {
        part.push(format!("{CONTINUATION} 1"));
    }
    parts.push(part);
    Ok(parts)
}

fn split_options(list: &str) -> Vec<String> {
    list.split(',')
        .filter(|option| !option.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The argument of `name` if `text` is `name argument`.
fn keyword<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let after = text.strip_prefix(name)?;
    let argument = after.trim_start_matches(' ');
    (argument.len() < after.len()).then_some(argument)
}

/// `[flags]text` in its two parts; flags may be missing.
fn bracketed(text: &str) -> (&str, &str) {
    text.strip_prefix('[')
        .and_then(|after| after.split_once(']'))
        .unwrap_or(("", text))
}

fn write_list(f: &mut fmt::Formatter<'_>, name: &str, options: &[String]) -> fmt::Result {
    f.write_str(name)?;
    options.iter().try_for_each(|option| write!(f, ",{option}"))
}

/// For messages whose text may follow bracketed flags.
fn write_text(f: &mut fmt::Formatter<'_>, name: &str, flags: &str, text: &str) -> fmt::Result {
    match (flags, text) {
        ("", "") => f.write_str(name),
        // Or the text would be taken for flags.
        ("", text) if text.starts_with('[') => write!(f, "{name},[]{text}"),
        _ => write!(f, "{name},{flags}{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options(list: &[&str]) -> Vec<String> {
        list.iter().map(|option| (*option).to_owned()).collect()
    }

    fn plain(reason: &str) -> ControlMessage {
        ControlMessage::AuthFailed(AuthFailed::Plain {
            reason: reason.into(),
        })
    }

    #[test]
    fn every_message_both_ways() {
        let restart = |next_remote, keep_credentials, text: &str| ControlMessage::Restart {
            next_remote,
            keep_credentials,
            text: text.into(),
        };
        let temporary = |backoff, advance, reason: &str| {
            ControlMessage::AuthFailed(AuthFailed::Temporary {
                backoff,
                advance,
                reason: reason.into(),
            })
        };
        let cases = [
            ("PUSH_REQUEST", ControlMessage::PushRequest),
            ("PUSH_REPLY", ControlMessage::PushReply(vec![])),
            (
                "PUSH_REPLY,route-gateway 10.8.0.1,topology subnet",
                ControlMessage::PushReply(options(&["route-gateway 10.8.0.1", "topology subnet"])),
            ),
            (
                "PUSH_UPDATE,-route,?dns server 1",
                ControlMessage::PushUpdate(options(&["-route", "?dns server 1"])),
            ),
            ("AUTH_FAILED", plain("")),
            ("AUTH_FAILED,go away, please", plain("go away, please")),
            ("AUTH_FAILED,TEMPORARY", plain("TEMPORARY")),
            ("AUTH_FAILED,TEMP:busy", temporary(None, None, "busy")),
            (
                "AUTH_FAILED,TEMP[backoff 42,advance addr]:busy: wait",
                temporary(Some(42), Some(Advance::Address), "busy: wait"),
            ),
            (
                "AUTH_FAILED,TEMP[advance remote]:",
                temporary(None, Some(Advance::Remote), ""),
            ),
            (
                "AUTH_FAILED,SESSION:token expired",
                ControlMessage::AuthFailed(AuthFailed::Session {
                    reason: "token expired".into(),
                }),
            ),
            (
                "AUTH_FAILED,CRV1:R,E:st/ate+:dXNlcg==:Code: six, digits",
                ControlMessage::AuthFailed(AuthFailed::Challenge {
                    flags: "R,E".into(),
                    state: "st/ate+".into(),
                    username_base64: "dXNlcg==".into(),
                    text: "Code: six, digits".into(),
                }),
            ),
            ("AUTH_FAILED,CRV1:R:x", plain("CRV1:R:x")),
            (
                "AUTH_PENDING",
                ControlMessage::AuthPending { timeout: None },
            ),
            (
                "AUTH_PENDING,timeout 60",
                ControlMessage::AuthPending { timeout: Some(60) },
            ),
            (
                "INFO_PRE,WEB_AUTH::https://x/?a,b",
                ControlMessage::InfoPre("WEB_AUTH::https://x/?a,b".into()),
            ),
            ("INFO,hello", ControlMessage::Info("hello".into())),
            ("RESTART", restart(false, false, "")),
            ("RESTART,[N]", restart(true, false, "")),
            ("RESTART,[PN]back soon", restart(true, true, "back soon")),
            ("RESTART,back soon", restart(false, false, "back soon")),
            ("RESTART,[][x]y", restart(false, false, "[x]y")),
            ("HALT,bye", ControlMessage::Halt { text: "bye".into() }),
            ("EXIT", ControlMessage::Exit),
            (
                "CR_RESPONSE,eA==",
                ControlMessage::CrResponse("eA==".into()),
            ),
            ("EXITS", ControlMessage::Unknown("EXITS".into())),
            ("ACC,x", ControlMessage::Unknown("ACC,x".into())),
        ];
        for (text, message) in cases {
            assert_eq!(ControlMessage::parse(text), message, "{text}");
            assert_eq!(message.to_string(), text);
        }
        assert_eq!(
            ControlMessage::parse("AUTH_FAILED,TEMP"),
            temporary(None, None, "")
        );
        assert_eq!(ControlMessage::Exit.to_wire(), b"EXIT\0");
    }

    #[test]
    fn messages_are_cut_at_nuls() {
        let cut = |bytes: &[u8]| split_messages(bytes).collect::<Vec<_>>();
        assert_eq!(cut(b"PUSH_REQUEST\0EXIT\0"), ["PUSH_REQUEST", "EXIT"]);
        assert_eq!(cut(b"EXIT"), ["EXIT"], "a missing NUL is tolerated");
        assert_eq!(cut(b"\0\0EXIT\r\n\0\n\0"), ["EXIT"]);
        assert_eq!(cut(b"INFO,a\x1b[1m\0"), ["INFO,a?[1m"]);
        assert_eq!(cut(b""), [""; 0]);
    }

    #[test]
    fn continuation() {
        let mut push = PushAssembler::new();
        let first = options(&["a", "b", "push-continuation 2"]);
        assert_eq!(push.add(first.clone()), Ok(None));
        assert_eq!(push.add(first), Ok(None));
        let last = push.add(options(&["c", "push-continuation 1"]));
        assert_eq!(last, Ok(Some(options(&["a", "b", "a", "b", "c"]))));
        let lone = push.add(options(&["auth-token x"]));
        assert_eq!(lone, Ok(Some(options(&["auth-token x"]))));
        assert_eq!(push.add(vec![]), Ok(Some(vec![])));
    }

    #[test]
    fn a_hostile_server_cannot_fill_memory() {
        let mut push = PushAssembler::new();
        let part = options(&[&"x".repeat(1000), "push-continuation 2"]);
        let error = (0..1000).find_map(|_| push.add(part.clone()).err());
        assert_eq!(error, Some(PushError::TooLong));
        assert!(push.options.is_empty());
        let part = options(&["push-continuation 2"]);
        let error = (0..1000).find_map(|_| push.add(part.clone()).err());
        assert_eq!(error, Some(PushError::TooLong));
        assert_eq!(
            push.add(options(&["push-continuation 3"])),
            Err(PushError::BadContinuation)
        );
    }

    #[test]
    fn a_short_list_is_one_message() {
        let replies = push_replies(&options(&["ping 10", "peer-id 0"])).expect("fine");
        let texts: Vec<String> = replies.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["PUSH_REPLY,ping 10,peer-id 0"]);
        let empty = push_replies(&[]).expect("fine");
        assert_eq!(empty, [ControlMessage::PushReply(vec![])]);
    }

    #[test]
    fn options_that_cannot_be_pushed() {
        for bad in ["a,b", "a\nb", "", &"x".repeat(257)] {
            assert_eq!(push_replies(&options(&[bad])), Err(PushError::BadOption));
        }
        assert!(push_replies(&options(&[&"x".repeat(256)])).is_ok());
    }

    proptest! {
        #[test]
        fn long_lists_survive_the_wire(
            list in proptest::collection::vec("[a-z][ -+./-~]{0,200}", 0..60),
        ) {
            let replies = push_replies(&list).expect("well formed");
            let mut push = PushAssembler::new();
            let mut complete = None;
            for reply in &replies {
                prop_assert_eq!(&complete, &None);
                let wire = reply.to_wire();
                prop_assert!(wire.len() <= MAX_MESSAGE + 1);
                let text = split_messages(&wire).next().expect("one message");
                let ControlMessage::PushReply(part) = ControlMessage::parse(&text) else {
                    panic!("not a PUSH_REPLY: {text}");
                };
                complete = push.add(part).expect("bounded");
            }
            prop_assert_eq!(complete, Some(list));
        }

        #[test]
        fn arbitrary_plaintext_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            name in proptest::sample::select(vec![
                "", "AUTH_FAILED,", "AUTH_FAILED,TEMP[", "PUSH_REPLY,", "RESTART,[", "AUTH_PENDING,",
            ]),
        ) {
            let plaintext = [name.as_bytes(), &bytes].concat();
            for text in split_messages(&plaintext) {
                let message = ControlMessage::parse(&text);
                prop_assert_eq!(ControlMessage::parse(&message.to_string()), message);
            }
        }
    }
}
