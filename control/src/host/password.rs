//! Passwords from files and people: `askpass`, `auth-user-pass`.
//!
//! A question goes to the controlling terminal, and to the system's password agents when there is no
//! terminal but systemd. Everything secret is wiped from memory when dropped and never shown by
//! `Debug`.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::log;

/// Longest file with credentials and longest answer, in bytes.
const LONGEST: usize = 8192;

/// A secret text, wiped when dropped.
pub type Secret = Zeroizing<String>;

/// Where user name and password come from (`auth-user-pass`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialSource<'a> {
    /// Ask for both.
    Ask,
    /// A file with the user name in the first line and, optionally, the password in the second.
    File(&'a Path),
    /// The same, from an inline block.
    Inline(&'a str),
}

/// A user name and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// User name and password from `source`; what it does not hold is asked for.
pub fn auth_user_pass(source: CredentialSource<'_>) -> Result<Credentials, String> {
    login("auth-user-pass", "Auth", source)
}

/// The same for something else than the peer: `option` is named in errors, `what` in questions.
pub fn login(
    option: &str,
    what: &str,
    source: CredentialSource<'_>,
) -> Result<Credentials, String> {
    let (username, password) = match source {
        CredentialSource::Ask => (None, None),
        CredentialSource::File(path) => two_lines(&read_file(option, path)?),
        CredentialSource::Inline(text) => two_lines(text),
    };
    let username = match username {
        Some(username) => username,
        None if source == CredentialSource::Ask => ask(&format!("Enter {what} Username:"), true)?,
        None => return Err(format!("{option}: the user name is empty")),
    };
    let password = match password {
        Some(password) => password,
        None => ask(&format!("Enter {what} Password:"), false)?,
    };
    Ok(Credentials {
        username: String::clone(&username),
        password,
    })
}

/// The passphrase of the private key, from the first line of `file` or asked for (`askpass`).
pub fn key_passphrase(file: Option<&Path>) -> Result<Secret, String> {
    match file {
        None => ask("Enter Private Key Password:", false),
        Some(path) => {
            let (passphrase, _) = two_lines(&read_file("askpass", path)?);
            passphrase.ok_or_else(|| format!("askpass '{}': the file is empty", path.display()))
        }
    }
}

/// Asks a person. `echo` shows what is typed.
pub fn ask(question: &str, echo: bool) -> Result<Secret, String> {
    if let Ok(terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty") {
        return ask_terminal(terminal, question, echo);
    }
    if Path::new("/run/systemd/system").is_dir() {
        return ask_agent(question, echo);
    }
    Err(format!("cannot ask '{question}': there is no terminal"))
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

fn read_file(option: &str, path: &Path) -> Result<Secret, String> {
    let describe = |error: std::io::Error| format!("{option} '{}': {error}", path.display());
    let mut file = File::open(path).map_err(describe)?;
    let mode = file.metadata().map_err(describe)?.permissions().mode();
    if mode & 0o077 != 0 {
        log::warn!(
            "{option} '{}': group or others may read this file",
            path.display()
        );
    }
    read_text(&mut file).map_err(|problem| format!("{option} '{}': {problem}", path.display()))
}

/// Reads to the end, at most [`LONGEST`] bytes, without leaving copies behind.
fn read_text(reader: &mut impl Read) -> Result<Secret, String> {
    let mut bytes = Zeroizing::new(vec![0; LONGEST]);
    let mut length = 0;
    while length < LONGEST {
        match reader.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    if length == LONGEST {
        return Err("too long".into());
    }
    text_of(&bytes[..length])
}

fn text_of(bytes: &[u8]) -> Result<Secret, String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err("not valid UTF-8".into()),
    }
}

/// The first two lines without line ends, `None` for those that are missing or empty.
fn two_lines(text: &str) -> (Option<Secret>, Option<Secret>) {
    let mut lines = text.lines().map(|line| {
        let line = line.trim_end_matches('\r');
        (!line.is_empty()).then(|| Zeroizing::new(line.to_owned()))
    });
    (lines.next().flatten(), lines.next().flatten())
}

fn ask_terminal(mut terminal: File, question: &str, echo: bool) -> Result<Secret, String> {
    let describe = |error: std::io::Error| format!("cannot ask '{question}': {error}");
    terminal
        .write_all(format!("{question} ").as_bytes())
        .map_err(describe)?;
    let silenced = if echo {
        None
    } else {
        Some(Silenced::new(&terminal).map_err(|error| describe(error.into()))?)
    };
    let answer = read_line(&mut terminal);
    if let Some(silenced) = silenced {
        drop(silenced);
        let _ = terminal.write_all(b"\n");
    }
    answer.map_err(|problem| format!("cannot ask '{question}': {problem}"))
}

/// Reads one line; a signal (the user gave up) is an error.
fn read_line(reader: &mut impl Read) -> Result<Secret, String> {
    let mut bytes = Zeroizing::new(vec![0; LONGEST]);
    let mut length = 0;
    while length < LONGEST {
        match reader.read(&mut bytes[length..]) {
            Ok(0) if length == 0 => return Err("no answer".into()),
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) => return Err(error.to_string()),
        }
        if let Some(end) = bytes[..length].iter().position(|byte| *byte == b'\n') {
            return text_of(&bytes[..end]);
        }
    }
    text_of(&bytes[..length])
}

/// Switches echo off until dropped.
struct Silenced {
    terminal: File,
    before: Termios,
}

impl Silenced {
    fn new(terminal: &File) -> nix::Result<Self> {
        let terminal = terminal
            .try_clone()
            .map_err(|_| nix::errno::Errno::EMFILE)?;
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &silent)?;
        Ok(Silenced { terminal, before })
    }
}

impl Drop for Silenced {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
    }
}

fn ask_agent(question: &str, echo: bool) -> Result<Secret, String> {
    let mut command = Command::new("systemd-ask-password");
    command.args(["--icon=network-vpn", "--timeout=0"]);
    if echo {
        command.arg("--echo");
    }
    let mut child = command
        .arg(question)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot ask '{question}': systemd-ask-password: {error}"))?;
    let answer = match child.stdout.take() {
        Some(mut output) => read_text(&mut output),
        None => Err("no output".into()),
    };
    let status = child.wait();
    if !status.is_ok_and(|status| status.success()) {
        return Err(format!("cannot ask '{question}': nobody answered"));
    }
    let (first, _) = two_lines(&answer?);
    first.ok_or_else(|| format!("cannot ask '{question}': the answer is empty"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn with_file<T>(name: &str, contents: &[u8], body: impl FnOnce(&Path) -> T) -> T {
        let path = std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let result = body(&path);
        fs::remove_file(&path).unwrap();
        result
    }

    #[test]
    fn credentials_from_a_file_and_inline() {
        let expected = Credentials {
            username: "user".into(),
            password: Zeroizing::new(" pass word ".into()),
        };
        let text = "user\r\n pass word \r\nmore\n";
        let found = with_file("userpass", text.as_bytes(), |path| {
            auth_user_pass(CredentialSource::File(path))
        });
        assert_eq!(found.unwrap(), expected);
        let found = auth_user_pass(CredentialSource::Inline(text)).unwrap();
        assert_eq!(found, expected);
        assert!(!format!("{found:?}").contains("pass word"));
    }

    #[test]
    fn passphrase_from_a_file() {
        let found = with_file("askpass", b"secret", |path| key_passphrase(Some(path)));
        assert_eq!(found.unwrap().as_str(), "secret");
    }

    #[test]
    fn bad_files_are_named() {
        let missing = Path::new("/nonexistent/pass");
        let error = key_passphrase(Some(missing)).unwrap_err();
        assert!(error.contains("askpass '/nonexistent/pass'"), "{error}");
        for (name, contents) in [
            ("empty", b"".to_vec()),
            ("long", vec![b'a'; LONGEST + 1]),
            ("binary", vec![0xff, 0xfe, b'\n']),
        ] {
            let error = with_file(name, &contents, |path| key_passphrase(Some(path)));
            assert!(error.unwrap_err().starts_with("askpass '"), "{name}");
        }
        assert!(auth_user_pass(CredentialSource::Inline("\npass\n")).is_err());
    }

    #[test]
    fn answers_are_one_line() {
        let answer = |text: &str| read_line(&mut text.as_bytes()).map(|text| text.to_string());
        assert_eq!(answer("yes\nno\n").unwrap(), "yes");
        assert_eq!(answer("yes").unwrap(), "yes");
        assert_eq!(answer("\n").unwrap(), "");
        assert!(answer("").is_err());
    }
}
