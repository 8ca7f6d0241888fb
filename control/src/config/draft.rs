//! A configuration while it is read: values as given, before defaults and cross checks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ringway_dataplane::tun::DeviceKind;

use super::diagnostic::Diagnostic;
use super::options::{Family, Options};
use super::position::{FileOrInline, Position, Source};

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
    pub(super) family: Option<Family>,
    pub(super) local: Option<String>,
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
    pub(super) tls_auth: Option<Source>,
    pub(super) tls_crypt: Option<Source>,
    pub(super) tls_crypt_v2: Option<Source>,
    pub(super) key_direction: Option<u8>,
    pub(super) position: Option<Position>,
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
        let data = match self.inline.take() {
            Some(content) => FileOrInline::Inline(content),
            None => FileOrInline::Path(self.path(self.arg(0))?),
        };
        Ok(Source {
            data,
            option: self.name,
            position: self.position.clone(),
        })
    }
}
