//! The transport of a connection: which end of TCP, and proxies.

use super::conflict;
use crate::config::diagnostic::{ConfigError, Diagnostic};
use crate::config::draft::{ConnectionDraft, Draft, HttpProxyDraft, ProtoDraft, ProtoKind};
use crate::config::options::{Connection, Credentials, Proto};
use crate::config::proxy::{HttpProxy, HttpProxyAuth, Proxy};
use crate::proto::TlsRole;

/// What `proto` means for this role.
pub(super) fn proto(draft: &Draft, given: Option<ProtoDraft>) -> Proto {
    match given.map(|given| given.kind) {
        None | Some(ProtoKind::Udp) => Proto::Udp,
        Some(ProtoKind::TcpClient) => Proto::TcpClient,
        Some(ProtoKind::TcpServer) => Proto::TcpServer,
        Some(ProtoKind::Tcp) => match draft.options.tls_role {
            TlsRole::Client => Proto::TcpClient,
            TlsRole::Server => Proto::TcpServer,
        },
    }
}

/// `proto-force` leaves out what uses the other protocol.
pub(super) fn forced(draft: &Draft, list: &mut Vec<ConnectionDraft>) -> Result<(), ConfigError> {
    let Some(tcp) = draft.proto_force_tcp else {
        return Ok(());
    };
    list.retain(|given| proto(draft, given.proto).is_tcp() == tcp);
    match list.is_empty() {
        true => Err(conflict(draft, "proto-force", "no remote uses it")),
        false => Ok(()),
    }
}

/// What lies between this end and the peer.
pub(super) fn proxy(given: &ConnectionDraft, proto: Proto) -> Result<Option<Proxy>, ConfigError> {
    let http = http_proxy(&given.http_proxy)?;
    let fail =
        |position, option, message: &str| Err(Diagnostic::error(position, option, message).into());
    match (http, &given.socks_proxy) {
        (None, None) => Ok(None),
        (Some(http), Some(_)) => fail(
            &http.position,
            "http-proxy",
            "cannot be used together with socks-proxy; delete one",
        ),
        (Some(http), None) if proto != Proto::TcpClient => fail(
            &http.position,
            "http-proxy",
            "needs TCP towards the peer: proto tcp-client",
        ),
        (Some(http), None) => Ok(Some(Proxy::Http(http))),
        (None, Some(socks)) if proto == Proto::TcpServer => fail(
            &socks.position,
            "socks-proxy",
            "cannot be used with proto tcp-server, which waits for the peer",
        ),
        (None, Some(socks)) if proto == Proto::Udp && given.remote.is_none() => {
            fail(&socks.position, "socks-proxy", "needs a remote to send to")
        }
        (None, Some(socks)) => Ok(Some(Proxy::Socks(socks.clone()))),
    }
}

fn http_proxy(given: &HttpProxyDraft) -> Result<Option<HttpProxy>, ConfigError> {
    let Some(position) = &given.position else {
        return Ok(None);
    };
    let Some((host, port, auth)) = given.proxy.clone() else {
        let message = "no http-proxy is named that this could belong to";
        return Err(Diagnostic::error(position, "http-proxy-option", message).into());
    };
    // A login without a method is for whatever the proxy asks.
    let auth = match (auth, &given.credentials) {
        (HttpProxyAuth::None, Some(Credentials::From(source)))
            if source.option == "http-proxy-user-pass" =>
        {
            HttpProxyAuth::Auto
        }
        (auth, _) => auth,
    };
    Ok(Some(HttpProxy {
        host,
        port,
        auth,
        credentials: given.credentials.clone(),
        version: given.version.clone().unwrap_or_else(|| "1.0".to_owned()),
        agent: given.agent.clone(),
        headers: given.headers.clone(),
        position: position.clone(),
    }))
}

/// What the two ends of TCP need of the rest; a server of many has rules of its own.
pub(super) fn check(draft: &Draft, list: &[Connection]) -> Result<(), ConfigError> {
    if list
        .iter()
        .any(|c| c.fragment.is_some() && c.proto.is_tcp())
    {
        let message = "is for UDP; delete it, TCP cuts by itself";
        return Err(conflict(draft, "fragment", message));
    }
    if draft.server.is_on() {
        return Ok(());
    }
    for connection in list {
        let option = match &connection.position {
            Some(_) if draft.at("proto").is_none() => "remote",
            _ => "proto",
        };
        match connection.proto {
            Proto::TcpClient if connection.remote.is_none() => {
                let message = "tcp-client needs a remote to connect to";
                return Err(conflict(draft, "proto", message));
            }
            Proto::TcpServer if draft.options.pull => {
                let message = "a client connects; use tcp-client instead of tcp-server";
                return Err(conflict(draft, option, message));
            }
            Proto::TcpServer if list.len() > 1 => {
                let message = "tcp-server waits for one peer; name at most one remote";
                return Err(conflict(draft, option, message));
            }
            Proto::TcpServer if !connection.bind => {
                let message = "cannot be used with proto tcp-server, which waits at a port";
                return Err(conflict(draft, "nobind", message));
            }
            Proto::Udp | Proto::TcpClient | Proto::TcpServer => {}
        }
    }
    Ok(())
}
