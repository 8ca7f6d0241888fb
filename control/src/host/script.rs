//! Running scripts: command lines as in config files, OpenVPN's arguments, a bounded wait.
//!
//! A script is executed directly, not by a shell, with the variables of its [`ScriptEnv`] and no
//! others, standard input at its end, and output going where the log goes. A command without a slash
//! is looked for in the working directory, not in a search path, as in OpenVPN.
//!
//! What starts a process is here and nowhere else: [`ScriptCommand::run`] waits for it, while
//! [`Job`](super::jobs::Job) does not.

use std::fmt;
use std::io::{self, PipeReader, PipeWriter};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg};
use nix::unistd::{AccessFlags, Pid, access};

use super::env::ScriptEnv;
use crate::log;

/// The occasion a script runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `up`
    Up,
    /// `down`
    Down,
    /// `route-up`
    RouteUp,
    /// `route-pre-down`
    RoutePreDown,
    /// `ipchange`
    IpChange,
    /// `tls-verify`
    TlsVerify,
    /// `auth-user-pass-verify`
    AuthUserPassVerify,
    /// `client-connect`
    ClientConnect,
    /// `client-disconnect`
    ClientDisconnect,
    /// `learn-address`
    LearnAddress,
    /// `tls-crypt-v2-verify`
    TlsCryptV2Verify,
    /// `client-crresponse`
    ClientCrresponse,
}

/// A command line, split into words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptCommand {
    words: Vec<String>,
}

/// What is allowed, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScriptPolicy {
    /// `script-security`: scripts run from 2 on, and see passwords from 3 on.
    pub security: u8,
    /// The script and all it started in its process group are killed after this time; `None`
    /// waits for ever, as OpenVPN does.
    pub limit: Option<Duration>,
}

/// Why a script did not succeed.
#[derive(Debug)]
pub enum ScriptError {
    /// `script-security` is below 2.
    Forbidden,
    /// It could not be started.
    Start(io::Error),
    /// It ended with another status than 0.
    Failed(ExitStatus),
    /// It ran too long and was killed.
    TimedOut(Duration),
    /// Too many scripts are waiting for their turn.
    QueueFull,
    /// Its turn did not come in time.
    Expired,
}

/// Where a script's output goes, and whether it leads a process group.
#[derive(Debug)]
pub(super) enum Output {
    /// Where this process's output goes.
    Inherited {
        /// In a process group of its own, so that its children can be killed with it.
        own_group: bool,
    },
    /// To a pipe, both output and errors; in a process group of its own.
    Pipe(PipeWriter),
}

impl Hook {
    /// The option's name.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Up => "up",
            Hook::Down => "down",
            Hook::RouteUp => "route-up",
            Hook::RoutePreDown => "route-pre-down",
            Hook::IpChange => "ipchange",
            Hook::TlsVerify => "tls-verify",
            Hook::AuthUserPassVerify => "auth-user-pass-verify",
            Hook::ClientConnect => "client-connect",
            Hook::ClientDisconnect => "client-disconnect",
            Hook::LearnAddress => "learn-address",
            Hook::TlsCryptV2Verify => "tls-crypt-v2-verify",
            Hook::ClientCrresponse => "client-crresponse",
        }
    }

    /// The value of `script_type`: the option's name, but for one script that OpenVPN calls by
    /// another.
    pub fn script_type(self) -> &'static str {
        if self == Hook::AuthUserPassVerify {
            "user-pass-verify"
        } else {
            self.name()
        }
    }
}

impl ScriptCommand {
    /// Splits a command line with the quoting rules of config files: single quotes take everything
    /// literally, double quotes keep spaces, a backslash outside single quotes takes the next
    /// backslash, double quote or space literally; a `#` or `;` at the start of a word begins a
    /// comment.
    pub fn parse(line: &str) -> Result<Self, String> {
        let words = split(line)?;
        if words.first().is_none_or(String::is_empty) {
            return Err("the command is empty".into());
        }
        Ok(ScriptCommand { words })
    }

    /// A command whose words are split already; the first is the program.
    pub fn from_words(words: Vec<String>) -> Self {
        ScriptCommand { words }
    }

    /// The program.
    pub fn program(&self) -> &Path {
        Path::new(&self.words[0])
    }

    /// Checks that the program is there and executable now.
    pub fn check(&self) -> Result<(), String> {
        access(&self.path(), AccessFlags::X_OK)
            .map_err(|error| format!("'{}': {}", self.words[0], error.desc()))
    }

    /// Runs the command with `arguments` appended and waits for its end. `script_type` is set in a
    /// copy of `env`.
    pub fn run(
        &self,
        hook: Hook,
        arguments: &[String],
        env: &ScriptEnv,
        policy: ScriptPolicy,
    ) -> Result<(), ScriptError> {
        let output = Output::Inherited {
            own_group: policy.limit.is_some(),
        };
        let child = self.start(hook, arguments, env, policy.security, output)?;
        outcome(wait(child, policy.limit)?)
    }

    /// Starts the command with `arguments` appended, and logs that. `script_type` is set in a copy
    /// of `env`, which lacks `password` below `script-security` 3.
    pub(super) fn start(
        &self,
        hook: Hook,
        arguments: &[String],
        env: &ScriptEnv,
        security: u8,
        output: Output,
    ) -> Result<Child, ScriptError> {
        if security < 2 {
            return Err(ScriptError::Forbidden);
        }
        let mut env = env.clone();
        env.set("script_type", hook.script_type());
        if security < 3 {
            env.unset("password");
        }
        let shown: Vec<&str> = self
            .words
            .iter()
            .chain(arguments)
            .map(String::as_str)
            .collect();
        log::notice!(in Script, "{}", shown.join(" "));

        let mut command = Command::new(self.path());
        command
            .args(&self.words[1..])
            .args(arguments)
            .env_clear()
            .envs(env.iter())
            .stdin(at_its_end().map_err(ScriptError::Start)?);
        match output {
            Output::Inherited { own_group: false } => {}
            Output::Inherited { own_group: true } => {
                command.process_group(0);
            }
            Output::Pipe(pipe) => {
                let errors = pipe.try_clone().map_err(ScriptError::Start)?;
                command.stdout(pipe).stderr(errors).process_group(0);
            }
        }
        // Signals this thread does not want are none that the script could do without.
        let mask = SigSet::empty()
            .thread_swap_mask(SigmaskHow::SIG_SETMASK)
            .map_err(|error| ScriptError::Start(error.into()))?;
        let child = command.spawn().map_err(ScriptError::Start);
        let _ = mask.thread_set_mask();
        child
    }

    fn path(&self) -> PathBuf {
        let program = self.program();
        if self.words[0].contains('/') {
            program.to_owned()
        } else {
            Path::new(".").join(program)
        }
    }
}

/// The arguments of `up`, `down` and `route-pre-down`: device, MTU, 0 (once the link MTU), local
/// address, remote address or netmask, and `init` or `restart`. Unset addresses are empty.
pub fn device_arguments(
    device: &str,
    tun_mtu: u32,
    local: Option<Ipv4Addr>,
    remote_or_netmask: Option<Ipv4Addr>,
    restart: bool,
) -> Vec<String> {
    let shown = |address: Option<Ipv4Addr>| address.map_or(String::new(), |a| a.to_string());
    vec![
        device.to_owned(),
        tun_mtu.to_string(),
        "0".to_owned(),
        shown(local),
        shown(remote_or_netmask),
        context(restart).to_owned(),
    ]
}

/// The argument of `ipchange`: family, address and port of the peer in one word with a space.
pub fn ipchange_arguments(peer: SocketAddr) -> Vec<String> {
    let family = match peer {
        SocketAddr::V4(_) => "AF_INET",
        SocketAddr::V6(_) => "AF_INET6",
    };
    vec![format!("[{family}]{} {}", peer.ip(), peer.port())]
}

/// The value of `script_context`.
pub fn context(restart: bool) -> &'static str {
    if restart { "restart" } else { "init" }
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScriptError::Forbidden => {
                f.write_str("not run: script-security 2 is needed to call scripts")
            }
            ScriptError::Start(error) => write!(f, "cannot be started: {error}"),
            ScriptError::Failed(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "failed with exit status {code}"),
                (None, Some(signal)) => write!(f, "was ended by signal {signal}"),
                (None, None) => f.write_str("failed"),
            },
            ScriptError::TimedOut(limit) => {
                write!(f, "was killed after {:.0} seconds", limit.as_secs_f32())
            }
            ScriptError::Expired => f.write_str("not run: its turn did not come in time"),
            ScriptError::QueueFull => f.write_str("not run: too many scripts are waiting"),
        }
    }
}

impl std::error::Error for ScriptError {}

/// What an exit status means where every status but 0 is a failure.
pub(super) fn outcome(status: ExitStatus) -> Result<(), ScriptError> {
    if status.success() {
        Ok(())
    } else {
        Err(ScriptError::Failed(status))
    }
}

/// A pipe nobody writes to: like `/dev/null`, but also where there is no such file.
fn at_its_end() -> io::Result<PipeReader> {
    io::pipe().map(|(reader, _)| reader)
}

fn wait(mut child: Child, limit: Option<Duration>) -> Result<ExitStatus, ScriptError> {
    const LONGEST_NAP: Duration = Duration::from_millis(50);
    let Some(limit) = limit else {
        return child.wait().map_err(ScriptError::Start);
    };
    let started = Instant::now();
    let mut nap = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().map_err(ScriptError::Start)? {
            return Ok(status);
        }
        let elapsed = started.elapsed();
        if elapsed >= limit {
            if let Ok(group) = i32::try_from(child.id()) {
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            }
            let _ = child.kill();
            let _ = child.wait();
            return Err(ScriptError::TimedOut(limit));
        }
        thread::sleep(nap.min(limit - elapsed));
        nap = (nap * 2).min(LONGEST_NAP);
    }
}

fn split(line: &str) -> Result<Vec<String>, String> {
    #[derive(PartialEq)]
    enum State {
        Between,
        Plain,
        Single,
        Double,
    }
    let mut words = Vec::new();
    let mut word = String::new();
    let mut state = State::Between;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\\' && state != State::Single {
            match chars.next() {
                Some(next) if next == '\\' || next == '"' || next.is_whitespace() => {
                    word.push(next);
                }
                _ => return Err("a backslash may only stand before \\, \" or a space".into()),
            }
            if state == State::Between {
                state = State::Plain;
            }
            continue;
        }
        match state {
            State::Between => match c {
                '#' | ';' => break,
                '\'' => state = State::Single,
                '"' => state = State::Double,
                c if c.is_whitespace() => {}
                c => {
                    word.push(c);
                    state = State::Plain;
                }
            },
            State::Plain if c.is_whitespace() => {
                words.push(std::mem::take(&mut word));
                state = State::Between;
            }
            State::Single if c == '\'' => {
                words.push(std::mem::take(&mut word));
                state = State::Between;
            }
            State::Double if c == '"' => {
                words.push(std::mem::take(&mut word));
                state = State::Between;
            }
            State::Plain | State::Single | State::Double => word.push(c),
        }
    }
    match state {
        State::Between => {}
        State::Plain => words.push(word),
        State::Single => return Err("a single quote is not closed".into()),
        State::Double => return Err("a double quote is not closed".into()),
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const ALLOWED: ScriptPolicy = ScriptPolicy {
        security: 2,
        limit: Some(Duration::from_secs(20)),
    };

    #[test]
    fn splitting() {
        let words = |line| split(line).unwrap();
        assert_eq!(words("/bin/a  b\tc"), ["/bin/a", "b", "c"]);
        assert_eq!(
            words(r#"a 'b c' "d \"e" f\ g"#),
            ["a", "b c", "d \"e", "f g"]
        );
        assert_eq!(words(r"a '\n' ''"), ["a", r"\n", ""]);
        assert_eq!(words("./hook.sh '' a#b #x y"), ["./hook.sh", "", "a#b"]);
        for bad in ["a 'b", "a \"b", r"a \n", "a \\"] {
            assert!(split(bad).is_err(), "{bad}");
        }
        for empty in ["", "  ", "# x", "''"] {
            assert!(ScriptCommand::parse(empty).is_err(), "{empty}");
        }
    }

    #[test]
    fn arguments() {
        let local = Some("10.9.0.1".parse().unwrap());
        let mask = Some("255.255.255.0".parse().unwrap());
        assert_eq!(
            device_arguments("tun0", 1500, local, mask, false),
            ["tun0", "1500", "0", "10.9.0.1", "255.255.255.0", "init"]
        );
        assert_eq!(
            device_arguments("tun0", 1500, None, None, true),
            ["tun0", "1500", "0", "", "", "restart"]
        );
        assert_eq!(
            ipchange_arguments("192.0.2.2:1194".parse().unwrap()),
            ["[AF_INET]192.0.2.2 1194"]
        );
        assert_eq!(
            ipchange_arguments("[2001:db8::1]:1".parse().unwrap()),
            ["[AF_INET6]2001:db8::1 1"]
        );
    }

    #[test]
    fn a_script_sees_its_arguments_and_only_its_environment() {
        let output = std::env::temp_dir().join(format!("ringway-script-{}", std::process::id()));
        let command = ScriptCommand::parse(&format!(
            "/bin/sh -c 'echo \"$0|$1|$2\" > {0}; env >> {0}; read x || echo no input >> {0}' first",
            output.display()
        ))
        .unwrap();
        let mut env = ScriptEnv::new();
        env.set("dev", "tun0");
        env.set("password", "secret");
        env.set_safe("FOO", "a b");
        command
            .run(Hook::Up, &["tun0".into(), "".into()], &env, ALLOWED)
            .unwrap();
        let text = fs::read_to_string(&output).unwrap();
        fs::remove_file(&output).unwrap();
        let mut lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("PWD=") && !line.starts_with("_="))
            .collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "OPENVPN_FOO=a b",
                "dev=tun0",
                "first|tun0|",
                "no input",
                "script_type=up"
            ]
        );
    }

    #[test]
    fn outcomes() {
        let run = |line: &str, policy| {
            ScriptCommand::parse(line)
                .unwrap()
                .run(Hook::Down, &[], &ScriptEnv::new(), policy)
        };
        let forbidden = ScriptPolicy {
            security: 1,
            limit: None,
        };
        assert!(matches!(
            run("/bin/true", forbidden),
            Err(ScriptError::Forbidden)
        ));
        run("/bin/true", ALLOWED).unwrap();
        let unlimited = ScriptPolicy {
            security: 2,
            limit: None,
        };
        run("/bin/true", unlimited).unwrap();
        let failed = run("/bin/sh -c 'exit 3'", ALLOWED).unwrap_err();
        assert_eq!(failed.to_string(), "failed with exit status 3");
        let killed = run("/bin/sh -c 'kill -9 $$'", ALLOWED).unwrap_err();
        assert_eq!(killed.to_string(), "was ended by signal 9");
        // Without a slash the working directory is meant, not a search path.
        assert!(matches!(run("true", ALLOWED), Err(ScriptError::Start(_))));
        assert!(ScriptCommand::parse("true").unwrap().check().is_err());
        assert!(ScriptCommand::parse("/bin/true x").unwrap().check().is_ok());
    }

    #[test]
    fn a_slow_script_is_killed_with_its_children() {
        let started = Instant::now();
        let policy = ScriptPolicy {
            security: 2,
            limit: Some(Duration::from_millis(200)),
        };
        let result = ScriptCommand::parse("/bin/sh -c 'sleep 30 & sleep 30'")
            .unwrap()
            .run(Hook::Up, &[], &ScriptEnv::new(), policy);
        assert!(matches!(result, Err(ScriptError::TimedOut(_))));
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    proptest! {
        #[test]
        fn splitting_never_panics_and_quoting_round_trips(word in any::<String>()) {
            let _ = split(&word);
            if !word.contains('\'') {
                prop_assert_eq!(split(&format!("x '{word}'")).unwrap(), ["x".to_owned(), word]);
            }
        }
    }
}
