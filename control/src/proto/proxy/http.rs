//! HTTP CONNECT (RFC 9110 §9.3.6), with basic (RFC 7617) and digest (RFC 7616, MD5) logins.
//!
//! After a challenge the login goes over a connection of its own: whether a proxy keeps the first one
//! open cannot be relied on, and its page about the refusal need not be read.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};

use super::{Handshake, Login, ProxyError, Received, Step, authority, printable};

/// Longest header of an answer, in bytes.
const LONGEST: usize = 16 * 1024;
/// Interim answers (1xx) before the final one.
const MOST_INTERIM: usize = 8;

/// How to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Basic, without waiting for a challenge.
    Basic,
    /// Digest.
    Digest,
    /// What the proxy asks for, digest if it has the choice. The password in the clear only with
    /// `basic`.
    Auto {
        /// Basic may be used.
        basic: bool,
    },
}

/// What is asked for.
#[derive(Clone)]
pub struct HttpRequest {
    /// Name or address of the peer.
    pub host: String,
    /// Port of the peer.
    pub port: u16,
    /// `1.0` or `1.1`.
    pub version: String,
    /// `User-Agent`.
    pub agent: Option<String>,
    /// Further headers: name and value, or a whole line.
    pub headers: Vec<(String, Option<String>)>,
    /// How to log in, and as whom; `None` without.
    pub login: Option<(Method, Login)>,
}

/// A challenge that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Digest(Box<DigestChallenge>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct DigestChallenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    /// `MD5-sess`.
    session: bool,
    /// `qop` has `auth`.
    qop: bool,
    /// Only the nonce was too old.
    stale: bool,
}

/// Asks an HTTP proxy for a connection to one place.
pub struct HttpConnect {
    request: HttpRequest,
    /// Client nonce of the digest.
    cnonce: String,
    challenge: Option<Challenge>,
    /// The running request carries a login.
    logged_in: bool,
    /// A stale nonce has been replaced.
    renewed: bool,
    header: Vec<u8>,
    interim: usize,
}

impl HttpConnect {
    /// `cnonce` must be random.
    pub fn new(request: HttpRequest, cnonce: [u8; 16]) -> Self {
        let mut text = String::with_capacity(32);
        for byte in cnonce {
            let _ = write!(text, "{byte:02x}");
        }
        HttpConnect {
            challenge: match &request.login {
                Some((Method::Basic, _)) => Some(Challenge::Basic),
                _ => None,
            },
            request,
            cnonce: text,
            logged_in: false,
            renewed: false,
            header: Vec::new(),
            interim: 0,
        }
    }

    fn request(&mut self) -> String {
        let request = &self.request;
        let place = authority(&request.host, request.port);
        let mut text = format!("CONNECT {place} HTTP/{}\r\n", request.version);
        let is_host = |(name, _): &(String, Option<String>)| {
            let name = name.split(':').next().unwrap_or_default();
            name.trim().eq_ignore_ascii_case("host")
        };
        if !request.headers.iter().any(is_host) {
            let _ = write!(text, "Host: {place}\r\n");
        }
        if let Some(agent) = &request.agent {
            let _ = write!(text, "User-Agent: {agent}\r\n");
        }
        for (name, value) in &request.headers {
            let _ = match value {
                Some(value) => write!(text, "{name}: {value}\r\n"),
                None => write!(text, "{name}\r\n"),
            };
        }
        self.logged_in = false;
        if let (Some(challenge), Some((_, login))) = (&self.challenge, &request.login) {
            let answer = match challenge {
                Challenge::Basic => {
                    let pair = format!("{}:{}", login.username, login.password.as_str());
                    format!("Basic {}", STANDARD.encode(pair))
                }
                Challenge::Digest(digest) => digest.answer(login, &place, &self.cnonce),
            };
            let _ = write!(text, "Proxy-Authorization: {answer}\r\n");
            self.logged_in = true;
        }
        text.push_str("\r\n");
        text
    }

    fn judge(&mut self) -> Result<(Step, String), ProxyError> {
        let header = std::mem::take(&mut self.header);
        let mut lines = header
            .split(|&byte| byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let status = printable(lines.next().unwrap_or_default());
        let code = status_code(&status).ok_or(ProxyError::Malformed("an HTTP proxy"))?;
        match code {
            100..=199 => {
                self.interim += 1;
                match self.interim <= MOST_INTERIM {
                    true => Ok((Step::More, status)),
                    false => Err(ProxyError::TooLong),
                }
            }
            200..=299 => Ok((Step::Done, status)),
            407 => {
                let fields: Vec<String> = lines.filter_map(challenge_field).collect();
                self.challenged(&fields)?;
                Ok((Step::Reconnect, status))
            }
            _ => Err(ProxyError::Refused(status)),
        }
    }

    /// Chooses what to answer.
    fn challenged(&mut self, fields: &[String]) -> Result<(), ProxyError> {
        let Some((method, _)) = &self.request.login else {
            return Err(ProxyError::LoginMissing);
        };
        let (basic, digest) = match method {
            Method::Basic => (true, false),
            Method::Digest => (false, true),
            Method::Auto { basic } => (*basic, true),
        };
        let offered: Vec<Offer> = fields.iter().flat_map(|field| offers(field)).collect();
        let digest = offered
            .iter()
            .filter(|_| digest)
            .find_map(DigestChallenge::from_offer);
        let basic = basic && offered.iter().any(|offer| offer.is("basic"));
        let chosen = match (digest, basic) {
            (Some(digest), _) => Challenge::Digest(Box::new(digest)),
            (None, true) => Challenge::Basic,
            (None, false) => {
                let names: Vec<_> = offered.iter().map(|o| o.scheme.as_str()).collect();
                return Err(ProxyError::LoginUnknown(names.join(", ")));
            }
        };
        if self.logged_in {
            let stale = matches!(&chosen, Challenge::Digest(digest) if digest.stale);
            if !stale || std::mem::replace(&mut self.renewed, true) {
                return Err(ProxyError::LoginRefused);
            }
        }
        self.challenge = Some(chosen);
        Ok(())
    }
}

impl Handshake for HttpConnect {
    fn start(&mut self) -> Vec<u8> {
        self.header.clear();
        self.interim = 0;
        self.request().into_bytes()
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<Received, ProxyError> {
        let mut note = None;
        for (index, &byte) in bytes.iter().enumerate() {
            if self.header.len() == LONGEST {
                return Err(ProxyError::TooLong);
            }
            self.header.push(byte);
            let beginning = &self.header[..self.header.len().min(5)];
            if !b"HTTP/".starts_with(beginning) {
                return Err(ProxyError::Malformed("an HTTP proxy"));
            }
            let whole = self.header.ends_with(b"\n\r\n") || self.header.ends_with(b"\n\n");
            if byte == b'\n' && whole {
                let (step, status) = self.judge()?;
                note = Some(status);
                if step != Step::More {
                    return Ok(Received {
                        consumed: index + 1,
                        step,
                        note,
                    });
                }
            }
        }
        Ok(Received {
            consumed: bytes.len(),
            step: Step::More,
            note,
        })
    }
}

/// `HTTP/1.1 407 Proxy Authentication Required` -> 407.
fn status_code(line: &str) -> Option<u16> {
    let mut words = line.strip_prefix("HTTP/")?.split_ascii_whitespace();
    words.next()?;
    let code = words.next().filter(|word| word.len() == 3)?;
    code.parse().ok().filter(|code| (100..600).contains(code))
}

/// The value of a `Proxy-Authenticate` line.
fn challenge_field(line: &[u8]) -> Option<String> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    name.eq_ignore_ascii_case(b"proxy-authenticate")
        .then(|| String::from_utf8_lossy(value).into_owned())
}

/// One scheme with its parameters.
#[derive(Debug, Default)]
struct Offer {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Offer {
    fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut all = self.parameters.iter();
        all.find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// The schemes in the value of a `Proxy-Authenticate` field: `Digest realm="a, b", nonce=c, Basic`.
fn offers(field: &str) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    for item in split_outside_quotes(field) {
        let item = item.trim();
        let equals = item.find('=').unwrap_or(item.len());
        // A blank before the first `=` ends the name of a scheme.
        let parameter = match item[..equals].trim_end().split_once(' ') {
            Some((scheme, _)) => {
                offers.push(Offer::named(scheme));
                item[scheme.len()..].trim_start()
            }
            None if equals == item.len() => {
                if !item.is_empty() {
                    offers.push(Offer::named(item));
                }
                continue;
            }
            None => item,
        };
        if let (Some((name, value)), Some(offer)) = (parameter.split_once('='), offers.last_mut()) {
            let name = name.trim().to_owned();
            offer.parameters.push((name, unquoted(value.trim())));
        }
    }
    offers
}

impl Offer {
    fn named(scheme: &str) -> Self {
        Offer {
            scheme: printable(scheme.as_bytes()),
            parameters: Vec::new(),
        }
    }
}

fn split_outside_quotes(field: &str) -> Vec<&str> {
    let (mut items, mut from, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (index, character) in field.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                items.push(&field[from..index]);
                from = index + 1;
            }
            _ => {}
        }
    }
    items.push(&field[from..]);
    items
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"') else {
        return value.to_owned();
    };
    let (mut text, mut escaped) = (String::new(), false);
    for character in inner.chars() {
        match character {
            _ if escaped => {
                escaped = false;
                text.push(character);
            }
            '\\' => escaped = true,
            '"' => break,
            _ => text.push(character),
        }
    }
    text
}

fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
    text
}

impl DigestChallenge {
    /// `None` for another scheme, and for one we cannot compute.
    fn from_offer(offer: &Offer) -> Option<Self> {
        if !offer.is("digest") {
            return None;
        }
        let algorithm = offer.get("algorithm").unwrap_or("MD5");
        let session = algorithm.eq_ignore_ascii_case("MD5-sess");
        if !session && !algorithm.eq_ignore_ascii_case("MD5") {
            return None;
        }
        let qop = match offer.get("qop") {
            None => false,
            Some(list) => {
                let mut kinds = list.split(',');
                if !kinds.any(|kind| kind.trim().eq_ignore_ascii_case("auth")) {
                    return None;
                }
                true
            }
        };
        Some(DigestChallenge {
            realm: offer.get("realm").unwrap_or_default().to_owned(),
            nonce: offer.get("nonce")?.to_owned(),
            opaque: offer.get("opaque").map(str::to_owned),
            session,
            qop,
            stale: offer
                .get("stale")
                .is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
        })
    }

    /// The value of `Proxy-Authorization` (RFC 7616 §3.4). Every connection has a nonce of its own, so
    /// the count is always 1.
    fn answer(&self, login: &Login, uri: &str, cnonce: &str) -> String {
        let user = &login.username;
        let mut a1 = md5(&[user, &self.realm, login.password.as_str()]);
        if self.session {
            a1 = md5(&[&a1, &self.nonce, cnonce]);
        }
        let a2 = md5(&["CONNECT", uri]);
        let response = match self.qop {
            true => md5(&[&a1, &self.nonce, "00000001", cnonce, "auth", &a2]),
            false => md5(&[&a1, &self.nonce, &a2]),
        };
        let mut text = format!(
            "Digest username={}, realm={}, nonce={}, uri={}, response=\"{response}\"",
            quoted(user),
            quoted(&self.realm),
            quoted(&self.nonce),
            quoted(uri),
        );
        if self.session {
            text.push_str(", algorithm=MD5-sess");
        }
        if self.qop {
            let _ = write!(text, ", qop=auth, nc=00000001, cnonce=\"{cnonce}\"");
        } else if self.session {
            let _ = write!(text, ", cnonce=\"{cnonce}\"");
        }
        if let Some(opaque) = &self.opaque {
            let _ = write!(text, ", opaque={}", quoted(opaque));
        }
        text
    }
}

/// Lower-case hex of the MD5 of the parts with colons between them.
fn md5(parts: &[&str]) -> String {
    let mut hash = Md5::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            hash.update(b":");
        }
        hash.update(part.as_bytes());
    }
    let mut text = String::with_capacity(32);
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;
    use crate::proto::proxy::testing::feed;

    const CNONCE: [u8; 16] = [0xab; 16];

    fn connect(method: Option<Method>) -> HttpConnect {
        let login = Login {
            username: "Mufasa".to_owned(),
            password: Zeroizing::new("Circle Of Life".to_owned()),
        };
        let request = HttpRequest {
            host: "vpn.example".to_owned(),
            port: 1194,
            version: "1.0".to_owned(),
            agent: Some("me/1".to_owned()),
            headers: vec![("X-A".to_owned(), Some("b".to_owned()))],
            login: method.map(|method| (method, login)),
        };
        HttpConnect::new(request, CNONCE)
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn a_request_and_its_answer() {
        let mut http = connect(None);
        assert_eq!(
            text(&http.start()),
            "CONNECT vpn.example:1194 HTTP/1.0\r\nHost: vpn.example:1194\r\n\
             User-Agent: me/1\r\nX-A: b\r\n\r\n"
        );
        let answer = b"HTTP/1.1 100 Wait\r\n\r\nHTTP/1.0 200 OK\r\nVia: x\r\n\r\nrest";
        let (steps, taken) = feed(&mut http, answer, &[1]);
        assert_eq!(steps.unwrap(), [Step::Done]);
        assert_eq!(&answer[taken..], b"rest");
    }

    #[test]
    fn own_host_header_and_an_ipv6_peer() {
        let mut http = connect(None);
        http.request.host = "2001:db8::1".to_owned();
        http.request.agent = None;
        http.request.headers = vec![("host: front.example".to_owned(), None)];
        assert_eq!(
            text(&http.start()),
            "CONNECT [2001:db8::1]:1194 HTTP/1.0\r\nhost: front.example\r\n\r\n"
        );
    }

    #[test]
    fn basic_comes_unasked_and_only_once() {
        let mut http = connect(Some(Method::Basic));
        let login = "\r\nProxy-Authorization: Basic TXVmYXNhOkNpcmNsZSBPZiBMaWZl\r\n";
        assert!(text(&http.start()).contains(login));
        let again = b"HTTP/1.1 407 no\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n";
        let result = feed(&mut http, again, &[7]).0;
        assert_eq!(result, Err(ProxyError::LoginRefused));
    }

    #[test]
    fn automatic_prefers_digest_and_may_refuse_basic() {
        let both = b"HTTP/1.1 407 no\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\
            proxy-authenticate: Digest realm=\"y, z\", qop=\"auth-int,auth\", nonce=\"n\"\r\n\r\n<html>";
        let basic = b"HTTP/1.1 407 no\r\nProxy-Authenticate: NTLM, Basic realm=\"x\"\r\n\r\n";
        let offered = |method, answer: &[u8]| {
            let mut http = connect(Some(method));
            assert!(!text(&http.start()).contains("Authorization"));
            let steps = feed(&mut http, answer, &[3]).0?;
            assert_eq!(steps, [Step::Reconnect]);
            Ok(text(&http.start()))
        };
        let auto = Method::Auto { basic: true };
        let careful = Method::Auto { basic: false };
        assert!(
            offered(auto, both)
                .unwrap()
                .contains("ization: Digest username=\"Mufasa\", realm=\"y, z\"")
        );
        assert!(offered(auto, basic).unwrap().contains("ization: Basic "));
        let unknown = ProxyError::LoginUnknown("NTLM, Basic".to_owned());
        assert_eq!(offered(careful, basic), Err(unknown.clone()));
        assert_eq!(offered(Method::Digest, basic), Err(unknown));
    }

    /// The inputs of RFC 7616 §3.9.1 with MD5, but for the method and the URI.
    #[test]
    fn digest_answers() {
        let challenge = |line: &str| {
            let offer = &offers(line)[0];
            DigestChallenge::from_offer(offer).unwrap()
        };
        let login = connect(Some(Method::Digest)).request.login.unwrap().1;
        let all = challenge(
            "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm=MD5, \
             nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", opaque=\"FQhe\"",
        );
        let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        let answer = all.answer(&login, "h:1", cnonce);
        let a1 = "3d78807defe7de2157e2b0b6573a855f";
        assert_eq!(
            md5(&["Mufasa", "http-auth@example.org", "Circle of Life"]),
            a1
        );
        let own = md5(&["Mufasa", "http-auth@example.org", "Circle Of Life"]);
        let a2 = md5(&["CONNECT", "h:1"]);
        let response = md5(&[&own, &all.nonce, "00000001", cnonce, "auth", &a2]);
        assert!(
            answer.contains(&format!("uri=\"h:1\", response=\"{response}\"")),
            "{answer}"
        );
        assert!(answer.ends_with("opaque=\"FQhe\""));
        let old = challenge("Digest nonce=a");
        let answer = old.answer(&login, "h:1", cnonce);
        assert!(
            !answer.contains("qop") && !answer.contains("cnonce"),
            "{answer}"
        );
        assert!(challenge("Digest nonce=a, algorithm=md5-SESS").session);
        let foreign = &offers("Digest nonce=a, algorithm=SHA-256")[0];
        assert_eq!(DigestChallenge::from_offer(foreign), None);
    }

    #[test]
    fn a_stale_nonce_is_replaced_once() {
        let mut http = connect(Some(Method::Digest));
        let answer = b"HTTP/1.1 407 no\r\nProxy-Authenticate: Digest nonce=a, stale=TRUE\r\n\r\n";
        for _ in 0..2 {
            let _ = http.start();
            assert_eq!(feed(&mut http, answer, &[9]).0, Ok(vec![Step::Reconnect]));
        }
        let _ = http.start();
        assert_eq!(
            feed(&mut http, answer, &[9]).0,
            Err(ProxyError::LoginRefused)
        );
    }

    #[test]
    fn refusals() {
        let refused = |answer: &[u8]| {
            let mut http = connect(None);
            let _ = http.start();
            feed(&mut http, answer, &[1]).0.unwrap_err()
        };
        let forbidden = ProxyError::Refused("HTTP/1.1 403 For?bidden".to_owned());
        assert_eq!(refused(b"HTTP/1.1 403 For\x1bbidden\r\n\r\n"), forbidden);
        assert_eq!(refused(b"HTTP/1.1 407 x\r\n\r\n"), ProxyError::LoginMissing);
        for noise in [
            &b"SSH-2.0-x\r\n"[..],
            b"HTTP/1.1 2000 x\n\n",
            b"HTTP/1.1\n\n",
            b"\n\n",
        ] {
            assert!(
                matches!(refused(noise), ProxyError::Malformed(_)),
                "{noise:?}"
            );
        }
        assert_eq!(refused(&b"HTTP/".repeat(LONGEST)), ProxyError::TooLong);
        assert_eq!(
            refused(&b"HTTP/1.0 100 \n\n".repeat(9)),
            ProxyError::TooLong
        );
    }

    proptest! {
        /// Portions make no difference, and nothing makes it panic.
        #[test]
        fn portions(
            lines in prop::collection::vec(
                prop_oneof![
                    Just("HTTP/1.1 407 no".to_owned()),
                    Just("HTTP/1.0 200 yes".to_owned()),
                    Just(String::new()),
                    "Proxy-Authenticate: (Digest|Basic|[a-z]{0,3})[ ,=\"a-z\\\\é]{0,30}",
                    "[ -~]{0,20}",
                ],
                0..8,
            ),
            sizes in prop::collection::vec(1usize..20, 1..20),
            auto: bool,
        ) {
            let bytes = format!("HTTP/1.1 407 no\r\n{}\r\n\r\nrest", lines.join("\r\n"));
            let run = |sizes: &[usize]| {
                let mut http = connect(auto.then_some(Method::Auto { basic: true }));
                let _ = http.start();
                let (result, taken) = feed(&mut http, bytes.as_bytes(), sizes);
                let taken = result.is_ok().then_some(taken);
                (result, taken, http.challenge.clone())
            };
            prop_assert_eq!(run(&[usize::MAX]), run(&sizes));
        }

        /// What is quoted comes back.
        #[test]
        fn quoting(value in "[ -~]{0,20}") {
            prop_assert_eq!(unquoted(&quoted(&value)), value.clone());
            let field = format!("Digest realm={}, nonce=n", quoted(&value));
            let offered = offers(&field);
            prop_assert_eq!(offered[0].get("realm"), Some(value.as_str()));
        }
    }
}
