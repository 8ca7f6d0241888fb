//! A configuration while it is read: values as given, before defaults and cross checks.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ringway_dataplane::tun::DeviceKind;

use super::diagnostic::Diagnostic;
use super::options::{Credentials, Family, Fragment, Options};
use super::position::{FileOrInline, Position, Source};
use super::proxy::{HttpProxyAuth, SocksProxy};
use super::server::ServerOptions;

/// What has been read so far.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Options that need no second look.
    pub(super) options: Options,
    /// Connection options outside any `<connection>`.
    pub(super) connection: ConnectionDraft,
    /// `remote` lines outside any `<connection>`.
    pub(super) remotes: Vec<ConnectionDraft>,
    /// `<connection>` blocks.
    pub(super) blocks: Vec<ConnectionDraft>,
    /// The last place of each option.
    pub(super) seen: BTreeMap<&'static str, Position>,
    /// `data-ciphers` as written.
    pub(super) data_ciphers: Option<String>,
    /// `keepalive`.
    pub(super) keepalive: Option<(u64, u64)>,
    /// `compat-mode` as major and minor version.
    pub(super) compat_mode: Option<(u32, u32)>,
    /// `dev-type`.
    pub(super) dev_type: Option<DeviceKind>,
    /// `proto-force`: true is TCP.
    pub(super) proto_force_tcp: Option<bool>,
    /// Every `local` outside any `<connection>`.
    pub(super) locals: Vec<LocalDraft>,
    /// Options of a server.
    pub(super) server: ServerDraft,
    /// Findings that do not stop.
    pub(super) warnings: Vec<Diagnostic>,
}

impl Draft {
    /// Where an option was given last.
    pub(super) fn at(&self, option: &str) -> Option<&Position> {
        self.seen.get(option)
    }
}

/// Connection options as given.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionDraft {
    pub(super) remote: Option<String>,
    pub(super) rport: Option<u16>,
    pub(super) proto: Option<ProtoDraft>,
    pub(super) local: Option<LocalDraft>,
    pub(super) http_proxy: HttpProxyDraft,
    pub(super) socks_proxy: Option<SocksProxy>,
    pub(super) lport: Option<u16>,
    /// `bind` true, `nobind` false.
    pub(super) bind: Option<bool>,
    pub(super) bind_ipv6only: bool,
    pub(super) float: bool,
    pub(super) connect_timeout: Option<u64>,
    pub(super) explicit_exit_notify: Option<u32>,
    pub(super) tun_mtu: Option<u16>,
    pub(super) occ_mtu: Option<u16>,
    pub(super) tun_mtu_max: Option<u16>,
    pub(super) mssfix: Option<MssFixDraft>,
    pub(super) fragment: Option<Fragment>,
    pub(super) tls_auth: Option<Source>,
    pub(super) tls_crypt: Option<Source>,
    pub(super) tls_crypt_v2: Option<Source>,
    /// `force-cookie` true, `allow-noncookie` false.
    pub(super) tls_crypt_v2_cookie: Option<bool>,
    pub(super) key_direction: Option<u8>,
    pub(super) position: Option<Position>,
}

/// `proto` as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProtoDraft {
    pub(super) kind: ProtoKind,
    pub(super) family: Family,
}

/// What `proto` says besides the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProtoKind {
    Udp,
    /// By the role.
    Tcp,
    TcpClient,
    TcpServer,
}

/// `local host [port [proto]]`.
#[derive(Clone, Debug)]
pub(super) struct LocalDraft {
    /// `None` is `*`.
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) proto: Option<ProtoDraft>,
    pub(super) position: Position,
}

/// `http-proxy` and what belongs to it.
#[derive(Clone, Debug, Default)]
pub(super) struct HttpProxyDraft {
    /// Host, port, how to log in.
    pub(super) proxy: Option<(String, u16, HttpProxyAuth)>,
    /// From `http-proxy` itself, or `http-proxy-user-pass`.
    pub(super) credentials: Option<Credentials>,
    pub(super) version: Option<String>,
    pub(super) agent: Option<String>,
    pub(super) headers: Vec<(String, Option<String>)>,
    /// Where the first of them stands.
    pub(super) position: Option<Position>,
}

/// Options of a server as given; those in `options` need no second look.
#[derive(Debug, Default)]
pub(super) struct ServerDraft {
    pub(super) options: ServerOptions,
    /// `mode server`.
    pub(super) mode: bool,
    /// `server network netmask`.
    pub(super) network: Option<(Ipv4Addr, Ipv4Addr)>,
    /// `server ... nopool`.
    pub(super) nopool: bool,
    /// `server-ipv6`.
    pub(super) network_ipv6: Option<(Ipv6Addr, u8)>,
    /// `server-bridge`.
    pub(super) bridge: Option<BridgeDraft>,
    /// Second time of `auth-gen-token`.
    pub(super) token_renewal: Option<u64>,
    /// `tcp-nodelay`.
    pub(super) tcp_nodelay: bool,
}

impl ServerDraft {
    /// The configuration is one of a server.
    pub(super) fn is_on(&self) -> bool {
        self.mode || self.network.is_some() || self.network_ipv6.is_some() || self.bridge.is_some()
    }
}

/// `server-bridge` as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BridgeDraft {
    /// Without arguments.
    Dhcp,
    /// `nogw`
    DhcpNoGateway,
    /// Gateway, netmask, first and last address.
    Pool([Ipv4Addr; 4]),
}

/// `mssfix` as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MssFixDraft {
    /// Without argument.
    Default,
    Off,
    Payload(u16),
    Mtu(u16),
    Fixed(u16),
}

/// One option to be taken over.
pub(super) struct Given<'a> {
    pub(super) name: &'static str,
    /// Parameters, as many as the table allows.
    pub(super) args: &'a [String],
    pub(super) inline: Option<String>,
    pub(super) position: &'a Position,
    /// Directory that relative files are in, after `cd`.
    pub(super) base: Option<&'a Path>,
}

impl Given<'_> {
    /// A parameter that the table guarantees.
    pub(super) fn arg(&self, index: usize) -> &str {
        super::values::arg(self.args, index)
    }

    /// A file name, resolved against `cd`.
    pub(super) fn path(&self, text: &str) -> Result<PathBuf, String> {
        if text.is_empty() {
            return Err("a file name is needed".to_owned());
        }
        Ok(match self.base {
            Some(base) => base.join(text),
            None => PathBuf::from(text),
        })
    }

    /// The inline content, or the file that the first parameter names.
    pub(super) fn source(&mut self) -> Result<Source, String> {
        self.source_at(0)
    }

    /// The inline content, or the file that a parameter names.
    pub(super) fn source_at(&mut self, index: usize) -> Result<Source, String> {
        let data = match self.inline.take() {
            Some(content) => FileOrInline::Inline(content),
            None => FileOrInline::Path(self.path(self.arg(index))?),
        };
        Ok(Source {
            data,
            option: self.name,
            position: self.position.clone(),
        })
    }
}
