//! `ringway check`: says what would be wrong with a run, without running.
//!
//! Beyond reading the configuration it looks at everything named there: files exist, can be read
//! and hold what they should, scripts can be run, users exist, directories can be written to. It
//! changes nothing and asks no name server.

mod server;

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use crate::config::options::{Connection, Credentials, CrlVerify, Wrap};
use crate::config::proxy::Proxy;
use crate::config::{Diagnostic, FileOrInline, Options, Severity, Source, load_all, script_list};
use crate::proto::wrap::StaticKey;
use crate::proto::wrap::tls_crypt_v2::{ClientKey, ServerKey};

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Findings in the order of the configuration, as far as they have a place there.
    pub findings: Vec<Diagnostic>,
}

impl Report {
    /// True if the configuration can be used.
    pub fn is_good(&self) -> bool {
        self.count(Severity::Error) == 0
    }

    /// 0 or 1, for the end of the program.
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.is_good())
    }

    /// One line per finding, and one that sums up.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}: {finding}", word(finding.severity));
        }
        let verdict = match self.is_good() {
            true => "the configuration can be used",
            false => "the configuration cannot be used",
        };
        let errors = counted(self.count(Severity::Error), "error");
        let warnings = counted(self.count(Severity::Warning), "warning");
        let _ = writeln!(text, "{verdict}: {errors}, {warnings}");
        text
    }

    /// The same for programs: an object with `ok`, `errors`, `warnings` and `findings`, each of
    /// these with `severity`, `file`, `line`, `option` and `message`.
    pub fn json(&self) -> String {
        let mut text = format!(
            "{{\n  \"ok\": {},\n  \"errors\": {},\n  \"warnings\": {},\n  \"findings\": [",
            self.is_good(),
            self.count(Severity::Error),
            self.count(Severity::Warning),
        );
        for (index, finding) in self.findings.iter().enumerate() {
            let line = match finding.line {
                0 => "null".to_owned(),
                line => line.to_string(),
            };
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "{}\n    {{\"severity\": {}, \"file\": {}, \"line\": {line}, \"option\": {}, \
                 \"message\": {}}}",
                if index == 0 { "" } else { "," },
                json_string(word(finding.severity)),
                json_string(&finding.file),
                json_string(&finding.option),
                json_string(&finding.message),
            );
        }
        text.push_str(if self.findings.is_empty() {
            "]\n}\n"
        } else {
            "\n  ]\n}\n"
        });
        text
    }

    fn count(&self, severity: Severity) -> usize {
        let alike = |finding: &&Diagnostic| finding.severity == severity;
        self.findings.iter().filter(alike).count()
    }
}

/// Checks the configuration that `args` name (see [`crate::config::load`]). `cert_check` looks into certificates,
/// keys and revocation lists; files it would find unreadable are already reported.
pub fn check(args: &[String], cert_check: &dyn Fn(&Options) -> Vec<Diagnostic>) -> Report {
    let findings = match load_all(args) {
        Ok(loaded) => {
            let mut findings = loaded.warnings;
            findings.extend(check_options(&loaded.options, cert_check));
            findings
        }
        Err(findings) => findings,
    };
    Report { findings }
}

/// Checks everything a configuration names.
pub fn check_options(
    options: &Options,
    cert_check: &dyn Fn(&Options) -> Vec<Diagnostic>,
) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    tls_files(options, &mut findings);
    for connection in &options.connections {
        wrap_key(&connection.wrap, &mut findings);
        proxy_login(connection, &mut findings);
    }
    logins(options, &mut findings);
    scripts(options, &mut findings);
    process(options, &mut findings);
    if let Some(server) = &options.server {
        server::check(options, server, &mut findings);
    }
    for finding in cert_check(options) {
        let same = |known: &Diagnostic| {
            known.severity == Severity::Error
                && known.option == finding.option
                && known.line == finding.line
        };
        if finding.line == 0 || !findings.iter().any(same) {
            findings.push(finding);
        }
    }
    findings.dedup();
    findings
}

fn tls_files(options: &Options, findings: &mut Vec<Diagnostic>) {
    let public = [&options.ca, &options.cert, &options.extra_certs];
    for source in public.into_iter().flatten() {
        let _ = text_of(source, findings);
    }
    if let Some(source) = &options.key {
        let _ = secret_of(source, findings);
    }
    if let Some(source) = &options.capath {
        directory_of(source, findings);
    }
    match &options.crl_verify {
        Some(CrlVerify::List(source)) => {
            let _ = text_of(source, findings);
        }
        Some(CrlVerify::Directory(source)) => directory_of(source, findings),
        None => {}
    }
}

fn wrap_key(wrap: &Wrap, findings: &mut Vec<Diagnostic>) {
    let (source, result) = match wrap {
        Wrap::None => return,
        Wrap::TlsAuth { key, direction } => {
            let Some(text) = secret_of(key, findings) else {
                return;
            };
            let parsed = match direction {
                Some(_) => StaticKey::parse(&text),
                None => StaticKey::parse_bidirectional(&text),
            };
            (key, parsed.map(drop))
        }
        Wrap::TlsCrypt(key) => match secret_of(key, findings) {
            Some(text) => (key, StaticKey::parse(&text).map(drop)),
            None => return,
        },
        Wrap::TlsCryptV2(key) => match secret_of(key, findings) {
            Some(text) => (key, ClientKey::parse(&text).map(drop)),
            None => return,
        },
        Wrap::TlsCryptV2Server { key, beside, .. } => {
            wrap_key(beside, findings);
            match secret_of(key, findings) {
                Some(text) => (key, ServerKey::parse(&text).map(drop)),
                None => return,
            }
        }
    };
    if let Err(error) = result {
        fault(source, &error.to_string(), findings);
    }
}

/// A file with a user name on its first line.
fn login(credentials: &Credentials, findings: &mut Vec<Diagnostic>) {
    if let Credentials::From(source) = credentials
        && let Some(text) = secret_of(source, findings)
        && text
            .lines()
            .next()
            .is_none_or(|line| line.trim().is_empty())
    {
        fault(source, "the first line must hold the user name", findings);
    }
}

fn proxy_login(connection: &Connection, findings: &mut Vec<Diagnostic>) {
    let credentials = match &connection.proxy {
        Some(Proxy::Http(proxy)) => proxy.credentials.as_ref(),
        Some(Proxy::Socks(proxy)) => proxy.credentials.as_ref(),
        None => None,
    };
    if let Some(credentials) = credentials {
        login(credentials, findings);
    }
}

fn logins(options: &Options, findings: &mut Vec<Diagnostic>) {
    if let Some(credentials) = &options.auth_user_pass {
        login(credentials, findings);
    }
    if let Some(Credentials::From(source)) = &options.askpass
        && let Some(text) = secret_of(source, findings)
        && text.lines().next().is_none_or(str::is_empty)
    {
        fault(source, "the first line must hold the passphrase", findings);
    }
}

fn scripts(options: &Options, findings: &mut Vec<Diagnostic>) {
    for (option, script) in script_list(options) {
        let program = Path::new(&script.argv[0]);
        let message = if !program.exists() {
            format!("{} does not exist", program.display())
        } else if program.is_dir() || access(program, AccessFlags::X_OK).is_err() {
            format!("{} cannot be run", program.display())
        } else {
            continue;
        };
        findings.push(Diagnostic::error(&script.position, option, message));
    }
}

/// Users, directories and files of the process; these have no place in the options.
fn process(options: &Options, findings: &mut Vec<Diagnostic>) {
    let mut error = |option: &str, message: String| {
        findings.push(Diagnostic {
            option: option.to_owned(),
            ..Diagnostic::general(message)
        });
    };
    if let Some(user) = &options.user
        && !matches!(nix::unistd::User::from_name(user), Ok(Some(_)))
    {
        error("user", format!("there is no user \"{user}\""));
    }
    if let Some(group) = &options.group
        && !matches!(nix::unistd::Group::from_name(group), Ok(Some(_)))
    {
        error("group", format!("there is no group \"{group}\""));
    }
    for (option, directory) in [("cd", &options.cd), ("chroot", &options.chroot)] {
        if let Some(directory) = directory
            && !directory.is_dir()
        {
            error(
                option,
                format!("{} is not a directory", directory.display()),
            );
        }
    }
    if let Some(node) = &options.dev_node
        && !node.exists()
    {
        error("dev-node", format!("{} does not exist", node.display()));
    }
    let written = [
        ("writepid", options.writepid.as_deref()),
        ("log", options.log.as_ref().map(|log| log.path.as_path())),
        (
            "status",
            options.status.as_ref().map(|status| status.path.as_path()),
        ),
    ];
    for (option, path) in written {
        if let Some(path) = path
            && let Err(reason) = writable(path)
        {
            error(option, format!("cannot write {}: {reason}", path.display()));
        }
    }
}

/// Whether a file could be made or written to; nothing is touched.
fn writable(path: &Path) -> Result<(), String> {
    if path.is_dir() {
        return Err("it is a directory".to_owned());
    }
    let target = match path.parent() {
        _ if path.exists() => path,
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    access(target, AccessFlags::W_OK).map_err(|error| error.desc().to_owned())
}

/// The content of a file that others may read, if it can be read.
fn text_of(source: &Source, findings: &mut Vec<Diagnostic>) -> Option<String> {
    if let Some(path) = source.path()
        && path.is_dir()
    {
        let message = format!("{} is a directory, a file is wanted", path.display());
        fault(source, &message, findings);
        return None;
    }
    match source.read() {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            let message = format!("cannot read {}: {error}", source.name());
            fault(source, &message, findings);
            None
        }
    }
}

/// The content of a file that only its owner should read.
fn secret_of(source: &Source, findings: &mut Vec<Diagnostic>) -> Option<String> {
    let text = text_of(source, findings)?;
    if let FileOrInline::Path(path) = &source.data
        && let Ok(metadata) = path.metadata()
        && metadata.is_file()
        && metadata.permissions().mode() & 0o077 != 0
    {
        let message = format!(
            "{} can be read by others; chmod 600 {}",
            path.display(),
            path.display()
        );
        findings.push(Diagnostic::warning(
            &source.position,
            source.option,
            message,
        ));
    }
    Some(text)
}

fn directory_of(source: &Source, findings: &mut Vec<Diagnostic>) {
    if let Some(path) = source.path()
        && let Err(error) = std::fs::read_dir(path)
    {
        fault(
            source,
            &format!("cannot read {}: {error}", path.display()),
            findings,
        );
    }
}

fn fault(source: &Source, message: &str, findings: &mut Vec<Diagnostic>) {
    findings.push(Diagnostic::error(&source.position, source.option, message));
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

/// A JSON string; `null` for an empty one.
fn json_string(text: &str) -> String {
    if text.is_empty() {
        return "null".to_owned();
    }
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            // Writing to a string cannot fail.
            c if c.is_control() => drop(write!(json, "\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Position, parse_text};

    pub(super) struct Directory(pub(super) std::path::PathBuf);

    impl Directory {
        pub(super) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Directory(path)
        }

        pub(super) fn file(&self, name: &str, content: &str, mode: u32) -> String {
            let path = self.0.join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path.display().to_string()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    pub(super) fn none(_: &Options) -> Vec<Diagnostic> {
        Vec::new()
    }

    #[test]
    fn good_files_pass_and_each_bad_one_is_named() {
        let dir = Directory::new("check");
        let pem = dir.file("a.pem", "x", 0o644);
        let key = dir.file("a.key", "x", 0o600);
        let secret = StaticKey::new([7; 256]);
        let wrap = dir.file("ta.key", &secret.to_text(), 0o600);
        let base = format!("dev tun\ntls-server\nca {pem}\ncert {pem}\nkey {key}\n");
        let found = |extra: &str| {
            let text = format!("{base}{extra}\n");
            let loaded = parse_text("t", text.as_bytes()).unwrap();
            let findings = check_options(&loaded.options, &none);
            findings
                .iter()
                .map(Diagnostic::to_string)
                .collect::<Vec<_>>()
        };
        for extra in [
            format!("tls-crypt {wrap}"),
            format!("tls-auth {wrap} 0\nstatus {}/s", dir.0.display()),
        ] {
            assert!(found(&extra).is_empty(), "{extra}: {:?}", found(&extra));
        }
        for (extra, expected) in [
            (format!("tls-crypt {pem}"), "t:6: tls-crypt: "),
            (
                format!("tls-auth {}/none", dir.0.display()),
                "t:6: tls-auth: cannot read ",
            ),
            (
                format!("extra-certs {}", dir.0.display()),
                "t:6: extra-certs: ",
            ),
            (
                format!("crl-verify {pem} dir"),
                "t:6: crl-verify: cannot read ",
            ),
            (format!("script-security 2\nup {pem}"), "t:7: up: "),
            (
                "user no-such-user-here".to_owned(),
                "user: there is no user",
            ),
            (
                "group no-such-group-here".to_owned(),
                "group: there is no group",
            ),
            (
                "chroot /nonexistent".to_owned(),
                "chroot: /nonexistent is not a directory",
            ),
            (
                "status /nonexistent/s".to_owned(),
                "status: cannot write /nonexistent/s: ",
            ),
            ("log /".to_owned(), "log: cannot write /: it is a directory"),
            (
                "dev-node /dev/nonexistent".to_owned(),
                "dev-node: /dev/nonexistent does not exist",
            ),
        ] {
            let found = found(&extra);
            assert!(
                found.iter().any(|line| line.starts_with(expected)),
                "{extra}: {found:?}"
            );
        }
        let open = dir.file("open.key", &secret.to_text(), 0o644);
        let found = found(&format!("tls-crypt {open}"));
        assert!(
            found.len() == 1 && found[0].contains("can be read by others"),
            "{found:?}"
        );
    }

    #[test]
    fn reports_for_people_and_programs() {
        let at = Position::new("a.conf", 3);
        let report = Report {
            findings: vec![
                Diagnostic::warning(&at, "dh", "no effect: \"old\""),
                Diagnostic::general("no dev"),
            ],
        };
        assert_eq!(report.exit_code(), 1);
        assert_eq!(
            report.text(),
            "warning: a.conf:3: dh: no effect: \"old\"\nerror: no dev\n\
             the configuration cannot be used: 1 error, 1 warning\n"
        );
        assert_eq!(
            report.json(),
            r#"{
  "ok": false,
  "errors": 1,
  "warnings": 1,
  "findings": [
    {"severity": "warning", "file": "a.conf", "line": 3, "option": "dh", "message": "no effect: \"old\""},
    {"severity": "error", "file": null, "line": null, "option": null, "message": "no dev"}
  ]
}
"#
        );
        assert_eq!(json_string("a\\b\n\u{7f}é"), r#""a\\b\u000a\u007fé""#);
        assert!(
            Report::default()
                .text()
                .ends_with("can be used: no errors, no warnings\n")
        );
    }

    #[test]
    fn what_cannot_be_loaded_is_one_finding() {
        let report = check(&["/nonexistent/a.conf".to_owned()], &none);
        assert_eq!(report.findings.len(), 1);
        assert_eq!(report.exit_code(), 1);
    }

    #[test]
    fn certificate_findings_join_without_repeating() {
        let loaded = parse_text(
            "t",
            b"dev tun\ntls-server\nca /nonexistent\ncert /nonexistent\nkey /nonexistent\n",
        );
        let options = loaded.unwrap().options;
        let also = |options: &Options| {
            let ca = options.ca.as_ref().unwrap();
            vec![
                Diagnostic::error(&ca.position, "ca", "unreadable"),
                Diagnostic::general("expired"),
            ]
        };
        let findings = check_options(&options, &also);
        assert_eq!(findings.len(), 4, "{findings:?}");
    }
}
