//! What a server is told of one client: its file in `client-config-dir`, and the output of
//! `client-connect` (protocol §11).
//!
//! ```text
//!   common name --file_name--> file --load--> ClientConfig --apply(client-connect's)--> what holds
//! ```
//! The grammar is that of configuration files; the table of options says what may stand there. A
//! fault concerns the one client: its text must never stop the server.

use std::fs::Metadata;
use std::io::Read as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::Diagnostic;
use super::directives::{self, CLIENT, Class};
use super::finish::push_problem;
use super::lexer::{self, Line};
use super::options::Inactive;
pub use super::server::ClientConfig;
use super::values::{
    Value, choice, cipher, cipher_list, framing, inactive, ipv4, ipv6, ipv6_prefix, netmask,
    number_u16, number_u32, push_line, seconds,
};

/// Name of the file for clients that have none of their own.
pub const DEFAULT: &str = "DEFAULT";

/// Deepest nesting of `config`, as in the configuration itself.
const MAX_DEPTH: usize = 10;
/// Most bytes read for one client, nested files included.
const MAX_TEXT: usize = 1 << 20;
/// `inactive 0`
const NEVER_INACTIVE: Inactive = Inactive {
    seconds: 0,
    bytes: 0,
};
/// Longest `override-username` in bytes.
const MAX_USERNAME: usize = 128;

/// What was read, and what is worth knowing about it.
pub type Read = (ClientConfig, Vec<Diagnostic>);

/// Where a text comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file of `client-config-dir`.
    File,
    /// The output of `client-connect`.
    Connect,
    /// A text on its own: it must not name files.
    Text,
}

/// The file name that belongs to a common name: `/` and control characters become `_`. `None` for
/// names that no file can have.
pub fn file_name(common_name: &str) -> Option<String> {
    let safe = |c: char| match c {
        '\0'..=' ' if c != ' ' => '_',
        '\x7f' | '/' => '_',
        c => c,
    };
    let name: String = common_name.chars().map(safe).collect();
    (!matches!(name.as_str(), "" | "." | "..")).then_some(name)
}

/// Reads the file of a client, or [`DEFAULT`]'s. `None` if there is neither, or with `exclusive`
/// (`ccd-exclusive`, for which `DEFAULT` does not count) if the client has no file of its own.
///
/// # Errors
/// The first thing that is wrong in the file, with its place.
pub fn for_client(
    directory: &Path,
    common_name: &str,
    exclusive: bool,
) -> Result<Option<Read>, Diagnostic> {
    match find(directory, common_name, exclusive) {
        Some((path, _)) => load(&path).map(Some),
        None => Ok(None),
    }
}

/// The file that [`for_client`] reads, without reading it.
pub fn find(directory: &Path, common_name: &str, exclusive: bool) -> Option<(PathBuf, Metadata)> {
    let own = file_name(common_name).map(|name| directory.join(name));
    let default = (!exclusive).then(|| directory.join(DEFAULT));
    let file = |path: PathBuf| {
        let metadata = path.metadata().ok().filter(Metadata::is_file)?;
        Some((path, metadata))
    };
    [own, default].into_iter().flatten().find_map(file)
}

/// Reads one file of `client-config-dir`.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn load(path: &Path) -> Result<Read, Diagnostic> {
    let name = path.display().to_string();
    let text = read(path).map_err(|error| Diagnostic::general(format!("cannot read {error}")))?;
    parse(&name, &text, Kind::File)
}

/// Reads a text. `name` is what to call it in messages.
///
/// # Errors
/// The first thing that is wrong, with its place: an unknown option, one that may not stand there,
/// or a bad value.
pub fn parse(name: &str, text: &[u8], kind: Kind) -> Result<Read, Diagnostic> {
    let mut parser = Parser {
        config: ClientConfig::default(),
        warnings: Vec::new(),
        ignore_unknown: Vec::new(),
        kind,
        depth: 1,
        left: MAX_TEXT,
    };
    parser.text(&Arc::from(name), text)?;
    Ok((parser.config, parser.warnings))
}

impl ClientConfig {
    /// Takes over what was told later: single values replace, lists grow. A later `push-reset` or
    /// `push-remove` also concerns what was pushed before.
    pub fn apply(&mut self, later: ClientConfig) {
        fn set<T>(to: &mut Option<T>, from: Option<T>) {
            if from.is_some() {
                *to = from;
            }
        }
        if later.push_reset {
            self.reset_push();
        }
        for beginning in later.push_remove {
            self.remove_push(beginning);
        }
        self.push.extend(later.push);
        self.iroute.extend(later.iroute);
        self.iroute_ipv6.extend(later.iroute_ipv6);
        if later.ifconfig_push.is_some() {
            self.ifconfig_push_alias = None;
        }
        set(&mut self.ifconfig_push, later.ifconfig_push);
        set(&mut self.ifconfig_push_alias, later.ifconfig_push_alias);
        set(&mut self.ifconfig_ipv6_push, later.ifconfig_ipv6_push);
        self.disable |= later.disable;
        set(&mut self.data_ciphers, later.data_ciphers);
        set(&mut self.data_ciphers_fallback, later.data_ciphers_fallback);
        set(&mut self.ping, later.ping);
        if later.ping_restart.is_some() || later.ping_exit.is_some() {
            self.ping_restart = later.ping_restart;
            self.ping_exit = later.ping_exit;
        }
        set(&mut self.inactive, later.inactive);
        set(&mut self.session_timeout, later.session_timeout);
        set(&mut self.max_routes_per_client, later.max_routes_per_client);
        set(&mut self.compress, later.compress);
        set(&mut self.vlan_pvid, later.vlan_pvid);
        set(&mut self.override_username, later.override_username);
    }

    fn reset_push(&mut self) {
        self.push.clear();
        self.push_reset = true;
    }

    /// What is pushed later is not concerned.
    fn remove_push(&mut self, beginning: String) {
        self.push.retain(|line| !line.starts_with(&beginning));
        self.push_remove.push(beginning);
    }
}

struct Parser {
    config: ClientConfig,
    warnings: Vec<Diagnostic>,
    ignore_unknown: Vec<String>,
    kind: Kind,
    /// How many texts are open.
    depth: usize,
    /// Bytes that may still be read.
    left: usize,
}

impl Parser {
    fn text(&mut self, name: &Arc<str>, text: &[u8]) -> Result<(), Diagnostic> {
        let Some(left) = self.left.checked_sub(text.len()) else {
            let message = format!("{name}: more than {MAX_TEXT} bytes for one client");
            return Err(Diagnostic::general(message));
        };
        self.left = left;
        for line in lexer::lex(name, text, 1).map_err(|error| error.0)? {
            self.line(&line)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &Line) -> Result<(), Diagnostic> {
        let (name, args) = (line.words[0].as_str(), &line.words[1..]);
        let error = |message: String| Err(Diagnostic::error(&line.position, name, message));
        let Some(directive) = directives::find(name) else {
            if self.ignore_unknown.iter().any(|known| known == name) {
                return Ok(());
            }
            return error(match directives::similar(name) {
                Some(known) => format!("unknown option; did you mean {known}?"),
                None => "unknown option".to_owned(),
            });
        };
        if name == "keepalive" {
            return error("cannot be set for one client; use ping and ping-restart".to_owned());
        }
        if !directive.places.has(CLIENT) || line.inline.is_some() {
            return error(match self.kind {
                Kind::File | Kind::Text => "cannot be set for one client".to_owned(),
                Kind::Connect => "client-connect cannot set it".to_owned(),
            });
        }
        if let Class::Refused(reason) = directive.class {
            return error(reason.to_owned());
        }
        let wanted = usize::from(directive.min)..=usize::from(directive.max);
        if !wanted.contains(&args.len()) {
            return error(format!(
                "{} to {} parameter(s) are possible, {} given",
                directive.min,
                directive.max,
                args.len()
            ));
        }
        if name == "config" {
            return self.nested(line);
        }
        if name == "push"
            && let Some(problem) = args.first().and_then(|option| push_problem(option))
        {
            let warning = Diagnostic::warning(&line.position, name, problem);
            self.warnings.push(warning);
        }
        self.set(name, args).or_else(error)
    }

    fn nested(&mut self, line: &Line) -> Result<(), Diagnostic> {
        let error = |message: String| Err(Diagnostic::error(&line.position, "config", message));
        if self.kind == Kind::Text || self.depth >= MAX_DEPTH {
            return error(format!("files are nested more than {MAX_DEPTH} deep"));
        }
        let path = Path::new(&line.words[1]);
        let text = match read(path) {
            Ok(text) => text,
            Err(reason) => return error(format!("cannot read {reason}")),
        };
        self.depth += 1;
        let result = self.text(&Arc::from(path.display().to_string()), &text);
        self.depth -= 1;
        result
    }

    /// Takes over one option; the table has counted its parameters.
    fn set(&mut self, name: &str, args: &[String]) -> Value<()> {
        let config = &mut self.config;
        let first = super::values::arg(args, 0);
        match name {
            "push" => config.push.push(push_line(first)?),
            "push-reset" => config.reset_push(),
            "push-remove" if first.is_empty() => {
                return Err("the beginning of an option is needed".to_owned());
            }
            "push-remove" => config.remove_push(first.to_owned()),
            "iroute" => {
                let mask = match args.get(1) {
                    Some(text) => netmask(text)?,
                    None => Ipv4Addr::BROADCAST,
                };
                config.iroute.push((ipv4(first)? & mask, prefix_of(mask)));
            }
            "iroute-ipv6" => {
                let (network, prefix) = ipv6_prefix(first, 128)?;
                let host = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
                config
                    .iroute_ipv6
                    .push((network & !Ipv6Addr::from(host), prefix));
            }
            "ifconfig-push" => {
                let addresses = (ipv4(first)?, ipv4(&args[1])?);
                config.ifconfig_push_alias = args.get(2).map(|text| ipv4(text)).transpose()?;
                config.ifconfig_push = Some(addresses);
            }
            "ifconfig-ipv6-push" => {
                let (address, prefix) = ipv6_prefix(first, 64)?;
                let remote = args.get(1).map(|text| ipv6(text)).transpose()?;
                config.ifconfig_ipv6_push = Some((address, prefix, remote));
            }
            "disable" => config.disable = true,
            "override-username" => {
                let good = (1..=MAX_USERNAME).contains(&first.len())
                    && !first.chars().any(char::is_control);
                if !good {
                    return Err(format!(
                        "a name of 1 to {MAX_USERNAME} printable bytes is needed"
                    ));
                }
                config.override_username = Some(first.to_owned());
            }
            "ignore-unknown-option" => self.ignore_unknown.extend(args.iter().cloned()),
            _ => return self.set_session(name, args),
        }
        Ok(())
    }

    /// Options that hold for the server's end of the session.
    fn set_session(&mut self, name: &str, args: &[String]) -> Value<()> {
        let config = &mut self.config;
        let first = super::values::arg(args, 0);
        match name {
            "cipher" | "data-ciphers-fallback" => {
                config.data_ciphers_fallback = Some(cipher(first)?);
            }
            "data-ciphers" => config.data_ciphers = Some(cipher_list(first)?),
            "max-routes-per-client" => {
                let routes = number_u32(first, 1..=i32::MAX as u32)?;
                config.max_routes_per_client = Some(routes);
            }
            "ping" => config.ping = Some(seconds(first)?),
            "ping-restart" => {
                config.ping_restart = Some(seconds(first)?);
                config.ping_exit = None;
            }
            "ping-exit" => {
                config.ping_exit = Some(seconds(first)?);
                config.ping_restart = None;
            }
            "inactive" => config.inactive = Some(inactive(args)?.unwrap_or(NEVER_INACTIVE)),
            "session-timeout" => config.session_timeout = Some(seconds(first)?),
            "compress" | "comp-lzo" => config.compress = Some(framing(name, args.first())?.0),
            "vlan-pvid" => config.vlan_pvid = Some(number_u16(first, 1..=4094)?),
            "socket-flags" => {
                for word in args {
                    choice(word, &[("TCP_NODELAY", ())])?;
                }
            }
            // A server knows its clients' addresses, and repeats words only in its own log.
            "ping-timer-rem" | "echo" | "parameter" => {}
            _ => return Err("cannot be set for one client".to_owned()),
        }
        Ok(())
    }
}

/// The prefix length of a netmask without holes.
fn prefix_of(mask: Ipv4Addr) -> u8 {
    mask.octets()
        .iter()
        .map(|octet| octet.count_ones() as u8)
        .sum()
}

/// The content of a file, or the file's name with what is wrong with it. Waits for nothing: it is
/// read while other clients are served.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(format!("{}: not a regular file", path.display()));
    }
    let mut text = Vec::new();
    let limit = MAX_TEXT as u64 + 1;
    std::fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut text))
        .map(|_| text)
        .map_err(|error| format!("{}: {error}", path.display()))
}
