//! What is said to a proxy before a TCP connection leads to the peer, or datagrams do.
//!
//! ```text
//!   driver: connect -> start() -> send -> bytes -> receive() -> Send | Reconnect | Done
//! ```
//!
//! Both kinds are state machines without I/O: bytes in any portions go in, and what they leave over
//! is the peer's. Datagrams through a SOCKS proxy have a header each ([`datagram`]).

pub mod datagram;
pub mod http;
pub mod socks;

use std::net::IpAddr;

use thiserror::Error;
use zeroize::Zeroizing;

/// A user name and its password.
#[derive(Clone)]
pub struct Login {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Zeroizing<String>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// More bytes are needed.
    More,
    /// Send this, then go on.
    Send(Vec<u8>),
    /// Connect to the proxy anew, and begin with [`Handshake::start`].
    Reconnect,
    /// The connection leads to the peer from the next byte on.
    Done,
}

/// What became of some received bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// How many of them belong to the proxy's answer; with [`Step::More`] all of them.
    pub consumed: usize,
    /// What to do next.
    pub step: Step,
    /// What the proxy said, for the log.
    pub note: Option<String>,
}

/// One conversation with a proxy.
pub trait Handshake {
    /// The first bytes to send over a new connection.
    fn start(&mut self) -> Vec<u8>;

    /// Takes bytes that came from the proxy.
    ///
    /// # Errors
    /// The proxy refuses, or is none; the connection is of no use then.
    fn receive(&mut self, bytes: &[u8]) -> Result<Received, ProxyError>;
}

/// Why a proxy did not let us through; one line for a person, without what came unprinted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProxyError {
    /// The answer is in no way one of such a proxy.
    #[error("the answer is not that of {0}")]
    Malformed(&'static str),
    /// The answer is longer than any sensible one.
    #[error("the answer does not end")]
    TooLong,
    /// The proxy cannot or will not reach the peer.
    #[error("it does not connect: {0}")]
    Refused(String),
    /// User name and password are wrong.
    #[error("it does not accept user name and password")]
    LoginRefused,
    /// The proxy wants a login that is not configured.
    #[error("it asks for a user name and a password, and none are configured")]
    LoginMissing,
    /// The proxy knows no way to log in that we know, or may use.
    #[error("it offers no way to log in that may be used: {0}")]
    LoginUnknown(String),
    /// Something configured does not fit the protocol.
    #[error("{0}")]
    Configuration(&'static str),
}

/// Text from a stranger for a log: what cannot be printed becomes `?`, at most 200 characters.
fn printable(text: &[u8]) -> String {
    let shown = text.iter().take(200).map(|&byte| match byte {
        b' '..=b'~' => char::from(byte),
        _ => '?',
    });
    shown.collect()
}

/// `host:port`, an IPv6 address in brackets (RFC 9110 §9.3.6).
fn authority(host: &str, port: u16) -> String {
    match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::{Handshake, ProxyError, Step};

    /// Feeds `bytes` in portions of these lengths, the last for ever; what came of it, and how many
    /// bytes were taken.
    pub(crate) fn feed(
        handshake: &mut dyn Handshake,
        bytes: &[u8],
        portions: &[usize],
    ) -> (Result<Vec<Step>, ProxyError>, usize) {
        let mut portions = portions.iter().copied();
        let (mut at, mut steps, mut portion) = (0, Vec::new(), bytes.len().max(1));
        while at < bytes.len() {
            portion = portions.next().unwrap_or(portion).max(1);
            let end = at.saturating_add(portion).min(bytes.len());
            let received = match handshake.receive(&bytes[at..end]) {
                Ok(received) => received,
                Err(error) => return (Err(error), at),
            };
            assert!(received.consumed <= end - at);
            at += received.consumed;
            match received.step {
                Step::More => assert_eq!(at, end),
                Step::Send(_) => steps.push(received.step),
                Step::Done | Step::Reconnect => {
                    steps.push(received.step);
                    break;
                }
            }
        }
        (Ok(steps), at)
    }
}
