//! Logins at proxies, and the conversation with the proxy of one place to connect to.

use crate::config::options::{Connection, Credentials, Options};
use crate::config::position::FileOrInline;
use crate::config::proxy::{HttpProxyAuth, Proxy};
use crate::host::password::{self, CredentialSource};
use crate::proto::proxy::datagram::Peer;
use crate::proto::proxy::http::{HttpConnect, HttpRequest, Method};
use crate::proto::proxy::socks::Socks;
use crate::proto::proxy::{Handshake, Login, ProxyError};

/// User names and passwords for proxies, read at start: later files may be out of reach, and nobody
/// is there to ask.
pub(super) struct ProxyLogins(Vec<(Proxy, Login)>);

impl ProxyLogins {
    /// Reads or asks for what the proxies of all places need.
    ///
    /// # Errors
    /// One line: which file, and why not.
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let mut logins = ProxyLogins(Vec::new());
        for proxy in options.connections.iter().filter_map(|c| c.proxy.as_ref()) {
            if logins.get(proxy).is_some() {
                continue;
            }
            let (option, what, credentials) = match proxy {
                Proxy::Http(http) if http.auth == HttpProxyAuth::None => continue,
                Proxy::Http(http) => {
                    let credentials = http.credentials.clone().unwrap_or(Credentials::Ask);
                    ("http-proxy", "HTTP Proxy", credentials)
                }
                Proxy::Socks(socks) => match &socks.credentials {
                    Some(credentials) => ("socks-proxy", "SOCKS Proxy", credentials.clone()),
                    None => continue,
                },
            };
            let source = match &credentials {
                Credentials::Ask => CredentialSource::Ask,
                Credentials::From(source) => match &source.data {
                    FileOrInline::Path(path) => CredentialSource::File(path),
                    FileOrInline::Inline(text) => CredentialSource::Inline(text),
                },
            };
            let read = password::login(option, what, source)?;
            let login = Login {
                username: read.username,
                password: read.password,
            };
            logins.0.push((proxy.clone(), login));
        }
        Ok(logins)
    }

    fn get(&self, proxy: &Proxy) -> Option<&Login> {
        let known = self.0.iter().find(|(known, _)| known == proxy);
        known.map(|(_, login)| login)
    }

    /// What is to be said to the proxy of this place; `None` when there is none.
    ///
    /// # Errors
    /// One line: a host name or a login that the proxy's protocol has no room for.
    pub(super) fn handshake(
        &self,
        connection: &Connection,
    ) -> Result<Option<Box<dyn Handshake>>, String> {
        let (Some(proxy), Some(host)) = (&connection.proxy, &connection.remote) else {
            return Ok(None);
        };
        let login = self.get(proxy).cloned();
        let http = match proxy {
            Proxy::Http(http) => http,
            Proxy::Socks(socks) => {
                let handshake = Socks::connect(host, connection.rport, login)
                    .map_err(|error| format!("{}: socks-proxy: {error}", socks.position))?;
                return Ok(Some(Box::new(handshake)));
            }
        };
        let method = match http.auth {
            HttpProxyAuth::None => None,
            HttpProxyAuth::Basic => Some(Method::Basic),
            HttpProxyAuth::Digest => Some(Method::Digest),
            HttpProxyAuth::Auto => Some(Method::Auto { basic: true }),
            HttpProxyAuth::AutoNoClear => Some(Method::Auto { basic: false }),
        };
        let request = HttpRequest {
            host: host.clone(),
            port: connection.rport,
            version: http.version.clone(),
            agent: http.agent.clone(),
            headers: http.headers.clone(),
            login: method.zip(login),
        };
        Ok(Some(Box::new(HttpConnect::new(request, rand::random()))))
    }

    /// What is to be said to the SOCKS proxy of this place so that it passes datagrams on to the peer,
    /// and how each of them begins.
    ///
    /// # Errors
    /// One line: a host name or a login that the protocol has no room for.
    pub(super) fn association(&self, connection: &Connection) -> Result<(Socks, Peer), String> {
        let (Some(proxy @ Proxy::Socks(socks)), Some(host)) =
            (&connection.proxy, &connection.remote)
        else {
            return Err("socks-proxy: needs a remote to send to".to_owned());
        };
        let fail = |error: ProxyError| format!("{}: socks-proxy: {error}", socks.position);
        let login = self.get(proxy).cloned();
        let peer = Peer::new(host, connection.rport, connection.float).map_err(fail)?;
        Ok((Socks::associate(login).map_err(fail)?, peer))
    }
}
