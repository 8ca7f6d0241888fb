//! SOCKS version 5: CONNECT and UDP ASSOCIATE (RFC 1928), with user name and password (RFC 1929).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Handshake, Login, ProxyError, Received, Step};

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const USER_PASSWORD: u8 = 2;
const NONE_ACCEPTABLE: u8 = 0xff;
/// Version of the login's own negotiation.
const LOGIN_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const UDP_ASSOCIATE: u8 = 3;
pub(super) const IPV4: u8 = 1;
pub(super) const NAME: u8 = 3;
pub(super) const IPV6: u8 = 4;
/// Longest answer: a reply with the longest name.
const LONGEST: usize = 4 + 1 + 255 + 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Method,
    Login,
    Reply,
    Done,
}

/// Asks a SOCKS proxy for one thing.
pub struct Socks {
    login: Option<Login>,
    request: Vec<u8>,
    state: State,
    answer: Vec<u8>,
    bound: Option<SocketAddr>,
}

impl Socks {
    /// A connection to one place. `host` is a name, which the proxy resolves, or an address.
    ///
    /// # Errors
    /// A host name, user name or password that the protocol has no room for: 1 to 255 bytes.
    pub fn connect(host: &str, port: u16, login: Option<Login>) -> Result<Self, ProxyError> {
        let mut request = vec![VERSION, CONNECT, 0];
        push_place(&mut request, host, port)?;
        Self::new(request, login)
    }

    /// Passing datagrams on, as long as the connection to the proxy lasts. Where they are to be sent
    /// is [`Socks::bound`] then.
    ///
    /// # Errors
    /// A user name or password that the protocol has no room for.
    pub fn associate(login: Option<Login>) -> Result<Self, ProxyError> {
        let mut request = vec![VERSION, UDP_ASSOCIATE, 0];
        // Where datagrams will come from is not known: there may be address translation between.
        push_address(&mut request, (Ipv4Addr::UNSPECIFIED, 0).into());
        Self::new(request, login)
    }

    fn new(request: Vec<u8>, login: Option<Login>) -> Result<Self, ProxyError> {
        if let Some(login) = &login
            && !(fits(&login.username) && fits(&login.password))
        {
            let reason = "user name and password must have 1 to 255 bytes for SOCKS";
            return Err(ProxyError::Configuration(reason));
        }
        Ok(Socks {
            login,
            request,
            state: State::Method,
            answer: Vec::new(),
            bound: None,
        })
    }

    /// The address of a granted request; `None` before, and when it is a name. An unspecified one is
    /// that of the proxy.
    pub fn bound(&self) -> Option<SocketAddr> {
        self.bound
    }

    /// How many bytes the answer has, as far as that is known from its beginning.
    fn wanted(&self) -> usize {
        match (self.state, self.answer.get(3), self.answer.get(4)) {
            (State::Method | State::Login, ..) => 2,
            (State::Reply, Some(&IPV4), _) => 10,
            (State::Reply, Some(&IPV6), _) => 22,
            (State::Reply, Some(&NAME), Some(&len)) => 5 + usize::from(len) + 2,
            (State::Reply, Some(&NAME), None) => 5,
            (State::Reply, ..) => 4,
            (State::Done, ..) => 0,
        }
    }

    /// The answer is whole.
    fn judge(&mut self) -> Result<Step, ProxyError> {
        let answer = std::mem::take(&mut self.answer);
        let malformed = ProxyError::Malformed("a SOCKS5 proxy");
        match (self.state, answer[0]) {
            (State::Method, VERSION) => match (answer[1], &self.login) {
                (NO_LOGIN, _) => Ok(self.ask()),
                (USER_PASSWORD, Some(login)) => {
                    let mut message = vec![LOGIN_VERSION, login.username.len() as u8];
                    message.extend(login.username.as_bytes());
                    message.push(login.password.len() as u8);
                    message.extend(login.password.as_bytes());
                    self.state = State::Login;
                    Ok(Step::Send(message))
                }
                (NONE_ACCEPTABLE, None) => Err(ProxyError::LoginMissing),
                (NONE_ACCEPTABLE, Some(_)) => Err(ProxyError::LoginUnknown(
                    "neither none nor a password".to_owned(),
                )),
                _ => Err(malformed),
            },
            (State::Login, LOGIN_VERSION) => match answer[1] {
                0 => Ok(self.ask()),
                _ => Err(ProxyError::LoginRefused),
            },
            (State::Reply, VERSION) => match answer[1] {
                0 => {
                    self.state = State::Done;
                    self.bound = read_address(&answer[3..]).and_then(|(address, _)| address);
                    Ok(Step::Done)
                }
                code => Err(ProxyError::Refused(reason(code))),
            },
            _ => Err(malformed),
        }
    }

    fn ask(&mut self) -> Step {
        self.state = State::Reply;
        Step::Send(self.request.clone())
    }
}

/// Kind, address and port, as in requests and in front of datagrams (RFC 1928 §5).
pub(super) fn push_address(out: &mut Vec<u8>, place: SocketAddr) {
    match place.ip() {
        IpAddr::V4(address) => {
            out.push(IPV4);
            out.extend(address.octets());
        }
        IpAddr::V6(address) => {
            out.push(IPV6);
            out.extend(address.octets());
        }
    }
    out.extend(place.port().to_be_bytes());
}

/// The same for a name or an address.
///
/// # Errors
/// There is no room for a host name of this length.
pub(super) fn push_place(out: &mut Vec<u8>, host: &str, port: u16) -> Result<(), ProxyError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        push_address(out, (address, port).into());
        return Ok(());
    }
    if !fits(host) {
        return Err(ProxyError::Configuration("a host name of 1 to 255 bytes"));
    }
    out.extend([NAME, host.len() as u8]);
    out.extend(host.as_bytes());
    out.extend(port.to_be_bytes());
    Ok(())
}

/// What [`push_address`] and [`push_place`] write: the address, `None` for a name, and how long it is.
/// `None` when it is not whole, or of an unknown kind.
pub(super) fn read_address(bytes: &[u8]) -> Option<(Option<SocketAddr>, usize)> {
    let (&kind, rest) = bytes.split_first()?;
    let port = |at: usize| {
        let bytes = rest.get(at..at + 2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    match kind {
        IPV4 => {
            let ip: [u8; 4] = rest.get(..4)?.try_into().ok()?;
            Some((Some((ip, port(4)?).into()), 7))
        }
        IPV6 => {
            let ip: [u8; 16] = rest.get(..16)?.try_into().ok()?;
            Some((Some((ip, port(16)?).into()), 19))
        }
        NAME => {
            let len = usize::from(*rest.first()?);
            port(1 + len)?;
            Some((None, 1 + 1 + len + 2))
        }
        _ => None,
    }
}

fn fits(text: &str) -> bool {
    (1..=255).contains(&text.len())
}

impl Handshake for Socks {
    fn start(&mut self) -> Vec<u8> {
        self.state = State::Method;
        self.answer.clear();
        match self.login {
            None => vec![VERSION, 1, NO_LOGIN],
            Some(_) => vec![VERSION, 2, NO_LOGIN, USER_PASSWORD],
        }
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<Received, ProxyError> {
        let mut consumed = 0;
        let mut step = Step::More;
        while step == Step::More && consumed < bytes.len() && self.state != State::Done {
            self.answer.push(bytes[consumed]);
            consumed += 1;
            if self.answer[0] != VERSION && self.state == State::Reply {
                return Err(ProxyError::Malformed("a SOCKS5 proxy"));
            }
            if self.answer.len() == 4
                && self.state == State::Reply
                && ![IPV4, NAME, IPV6].contains(&self.answer[3])
            {
                // Some proxies refuse with an address of no kind.
                return Err(match self.answer[1] {
                    0 => ProxyError::Malformed("a SOCKS5 proxy"),
                    code => ProxyError::Refused(reason(code)),
                });
            }
            debug_assert!(self.answer.len() <= LONGEST);
            if self.answer.len() == self.wanted() {
                step = self.judge()?;
            }
        }
        Ok(Received {
            consumed,
            step,
            note: None,
        })
    }
}

/// RFC 1928 §6.
fn reason(code: u8) -> String {
    let text = match code {
        1 => "general failure",
        2 => "not allowed by its rules",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => return format!("error {code}"),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;
    use crate::proto::proxy::testing::feed;

    fn login() -> Login {
        Login {
            username: "jo".to_owned(),
            password: Zeroizing::new("pw".to_owned()),
        }
    }

    #[test]
    fn without_login() {
        let mut socks = Socks::connect("vpn.example", 1194, None).unwrap();
        assert_eq!(socks.start(), [5, 1, 0]);
        let request = [&[5, 1, 0, 3, 11][..], b"vpn.example", &[4, 0xaa]].concat();
        let answer = [5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0, 99];
        let (steps, taken) = feed(&mut socks, &answer, &[1]);
        assert_eq!(steps.unwrap(), [Step::Send(request), Step::Done]);
        assert_eq!(taken, answer.len() - 1);
    }

    #[test]
    fn with_login_towards_an_address() {
        let mut socks = Socks::connect("2001:db8::1", 1, Some(login())).unwrap();
        assert_eq!(socks.start(), [5, 2, 0, 2]);
        let answer = [&[5, 2, 1, 0, 5, 0, 0, 3, 2][..], b"ab", &[0, 1]].concat();
        let (steps, taken) = feed(&mut socks, &answer, &[2, 2, 5]);
        let steps = steps.unwrap();
        assert_eq!(steps[0], Step::Send(b"\x01\x02jo\x02pw".to_vec()));
        assert!(
            matches!(&steps[1], Step::Send(m) if m[..5] == [5, 1, 0, 4, 0x20] && m.len() == 22)
        );
        assert_eq!((steps.len(), taken), (3, answer.len()));
    }

    #[test]
    fn refusals() {
        let refused = |answer: &[u8], login: Option<Login>| {
            let mut socks = Socks::connect("h", 1, login).unwrap();
            let _ = socks.start();
            feed(&mut socks, answer, &[1]).0.unwrap_err()
        };
        let connection = ProxyError::Refused("connection refused".to_owned());
        assert_eq!(
            refused(&[5, 0, 5, 5, 0, 1, 0, 0, 0, 0, 0, 0], None),
            connection
        );
        assert_eq!(refused(&[5, 0, 5, 5, 0, 0], None), connection);
        assert_eq!(refused(&[5, 255], None), ProxyError::LoginMissing);
        assert_eq!(
            refused(&[5, 2, 1, 1], Some(login())),
            ProxyError::LoginRefused
        );
        assert!(matches!(
            refused(&[5, 255], Some(login())),
            ProxyError::LoginUnknown(_)
        ));
        // A method that was not offered, and something that is no SOCKS at all.
        assert!(matches!(refused(&[5, 2], None), ProxyError::Malformed(_)));
        assert!(matches!(
            refused(b"HTTP/1.1 400", None),
            ProxyError::Malformed(_)
        ));
        assert!(Socks::connect("", 1, None).is_err());
        assert!(Socks::connect(&"h".repeat(256), 1, None).is_err());
    }

    #[test]
    fn datagrams() {
        let ask = |answer: &[u8]| {
            let mut socks = Socks::associate(None).unwrap();
            assert_eq!(socks.start(), [5, 1, 0]);
            let (steps, _) = feed(&mut socks, answer, &[3]);
            let request = vec![5, 3, 0, 1, 0, 0, 0, 0, 0, 0];
            assert_eq!(steps.unwrap(), [Step::Send(request), Step::Done]);
            socks.bound()
        };
        let four = [5, 0, 5, 0, 0, 1, 192, 0, 2, 7, 4, 0xaa];
        assert_eq!(ask(&four), Some(([192, 0, 2, 7], 1194).into()));
        let mut six = [0; 24];
        six[..6].copy_from_slice(&[5, 0, 5, 0, 0, 4]);
        six[21..].copy_from_slice(&[1, 0, 9]);
        assert_eq!(ask(&six), Some("[::1]:9".parse().unwrap()));
        assert_eq!(ask(&[5, 0, 5, 0, 0, 3, 1, b'h', 0, 9]), None);
    }

    proptest! {
        #[test]
        fn places(host in "[a-z.]{1,255}", ip: IpAddr, port: u16, more in 0usize..3) {
            for (host, address) in [(host, None), (ip.to_string(), Some(SocketAddr::new(ip, port)))] {
                let mut bytes = Vec::new();
                push_place(&mut bytes, &host, port).unwrap();
                let len = bytes.len();
                prop_assert_eq!(read_address(&bytes[..len - 1]), None);
                bytes.resize(len + more, 0);
                prop_assert_eq!(read_address(&bytes), Some((address, len)));
            }
        }

        /// Portions make no difference, and nothing makes it panic or keep more than an answer.
        #[test]
        fn portions(
            tail in prop::collection::vec(prop_oneof![0u8..6, any::<u8>()], 0..40),
            ready in 0usize..3,
            sizes in prop::collection::vec(1usize..9, 1..20),
            has_login: bool,
        ) {
            let prefix: &[u8] = [&[][..], &[5, 0], &[5, 0, 5, 0, 0]][ready];
            let bytes = [prefix, &tail].concat();
            let run = |sizes: &[usize]| {
                let mut socks = Socks::connect("h", 1, has_login.then(login)).unwrap();
                let _ = socks.start();
                let (result, taken) = feed(&mut socks, &bytes, sizes);
                // Where an error is found depends on the portions.
                let taken = result.is_ok().then_some(taken);
                (result, taken, socks.answer.len() <= LONGEST)
            };
            let whole = run(&[usize::MAX]);
            prop_assert_eq!(&whole, &run(&sizes));
            prop_assert!(whole.2);
        }
    }
}
