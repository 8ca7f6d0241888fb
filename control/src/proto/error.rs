//! What can be wrong with bytes from the network or from a file of the control channel.
//!
//! Errors about packets ([`PacketError`], [`WrapError`]) mean "count and drop" on UDP and "close the
//! connection" on TCP (protocol document §2.8). Errors about authenticated messages
//! ([`KeyMessageError`], [`PushError`]) end the negotiation. [`KeyFileError`] is for a person.

/// A control packet that is not well formed (protocol document §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// The packet ends inside a field.
    #[error("control packet is too short")]
    Truncated,
    /// An opcode that does not exist, is dead (key method 1), or is not a control opcode.
    #[error("not a control opcode")]
    BadOpcode,
    /// More than 8 acks in one packet.
    #[error("more than 8 acks in a control packet")]
    TooManyAcks,
    /// The sender's session id is all zero.
    #[error("session id is zero")]
    ZeroSessionId,
    /// The TLVs in a server's hard reset are cut or of the wrong size (protocol document §3).
    #[error("malformed early negotiation")]
    BadEarlyNegotiation,
}

/// A datagram that could not be unwrapped (protocol document §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// The datagram is shorter than its wrapping.
    #[error("control packet is shorter than its wrapping")]
    Truncated,
    /// The HMAC (tls-auth) or tag (tls-crypt) does not match.
    #[error("control packet authentication failed")]
    AuthFailed,
    /// The replay id was seen before, is too old, or is zero.
    #[error("replayed control packet")]
    Replay,
    /// The client key appended to the packet is not well formed (tls-crypt-v2).
    #[error("malformed tls-crypt-v2 client key in packet")]
    BadClientKey,
    /// The packet inside the wrapping is not well formed.
    #[error(transparent)]
    Packet(#[from] PacketError),
}

/// A key-method-2 message that cannot be used (protocol document §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyMessageError {
    /// The message ends inside a field; more TLS plaintext may still come.
    #[error("key message is incomplete")]
    Truncated,
    /// The message is longer than any peer may send.
    #[error("key message is longer than 2048 bytes")]
    TooLong,
    /// The first four bytes are not zero.
    #[error("key message does not begin with zero")]
    BadPrefix,
    /// A key method other than 2.
    #[error("peer uses key method {0}, only 2 is supported")]
    BadMethod(u8),
    /// A username or password that is not UTF-8.
    #[error("username or password is not UTF-8")]
    BadText,
}

/// A pushed list of options that cannot be used (protocol document §8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// More continuation parts or more bytes than any server has reason to push.
    #[error("pushed options are too long")]
    TooLong,
    /// `push-continuation` with something other than 1 or 2.
    #[error("bad push-continuation")]
    BadContinuation,
    /// One option alone does not fit into a message.
    #[error("an option to push is too long or contains a comma or control character")]
    BadOption,
}

/// A static key, tls-crypt-v2 client key or server key file that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// There is no line that begins the key.
    #[error("no '-----BEGIN {0}-----' line found")]
    NoBegin(&'static str),
    /// There is no line that ends the key.
    #[error("no '-----END {0}-----' line found")]
    NoEnd(&'static str),
    /// A character that is neither part of the encoding nor white space.
    #[error("the key contains a character that is not {0}")]
    BadCharacter(&'static str),
    /// The wrong amount of key material, in bytes.
    #[error("the key has {found} bytes, {expected} are needed")]
    BadLength {
        /// Bytes found.
        found: usize,
        /// Bytes needed (the least possible number where several are allowed).
        expected: usize,
    },
    /// The wrapped client key inside a tls-crypt-v2 client key has a length field that is wrong.
    #[error("the wrapped client key in the file is damaged")]
    BadWrappedKey,
}
