//! Proxies between this end and the peer: `http-proxy` and `socks-proxy`.

use super::options::Credentials;
use super::position::Position;

/// What a connection goes through.
#[derive(Clone, Debug, PartialEq)]
pub enum Proxy {
    /// `http-proxy`; only with `proto tcp-client`.
    Http(HttpProxy),
    /// `socks-proxy`; with TCP by CONNECT, with UDP by UDP ASSOCIATE (RFC 1928).
    Socks(SocksProxy),
}

/// `http-proxy` with what `http-proxy-option` and `http-proxy-user-pass` add: the peer is reached
/// by CONNECT (RFC 9110 §9.3.6).
#[derive(Clone, Debug, PartialEq)]
pub struct HttpProxy {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// How to log in.
    pub auth: HttpProxyAuth,
    /// User name and password; with an `auth` that logs in and none given, they are asked for.
    pub credentials: Option<Credentials>,
    /// Protocol version of the request, `1.0` unless given.
    pub version: String,
    /// `User-Agent` of the request.
    pub agent: Option<String>,
    /// Further headers: the name and the value, or a whole line and nothing.
    pub headers: Vec<(String, Option<String>)>,
    /// Where it is named.
    pub position: Position,
}

/// How to log in at an HTTP proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpProxyAuth {
    /// Not at all.
    None,
    /// The password in the clear (RFC 7617).
    Basic,
    /// A digest of it (RFC 7616).
    Digest,
    /// Whatever the proxy asks for.
    Auto,
    /// Whatever it asks for, but never the password in the clear (`auto-nct`).
    AutoNoClear,
}

/// `socks-proxy`, version 5.
#[derive(Clone, Debug, PartialEq)]
pub struct SocksProxy {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User name and password (RFC 1929); `None` logs in without.
    pub credentials: Option<Credentials>,
    /// Where it is named.
    pub position: Position,
}
