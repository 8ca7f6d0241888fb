//! Every hook with real scripts.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

use super::*;
use crate::config::server::AuthVia;
use crate::host::env::IfconfigEnd;
use crate::host::jobs::{JobLimits, Jobs};
use crate::host::script::ScriptError;

struct Fixture {
    /// What scripts write on their own, as variable `out`.
    out: TempDir,
    tmp: TempDir,
    env: ScriptEnv,
    jobs: Jobs,
}

impl Fixture {
    fn new() -> Self {
        let out = TempDir::new().unwrap();
        let mut env = ScriptEnv::new();
        env.set("out", out.path().display());
        env.set("common_name", "branch1");
        Fixture {
            out,
            tmp: TempDir::new().unwrap(),
            env,
            jobs: Jobs::new(JobLimits::default(), 3).unwrap(),
        }
    }

    fn call(&self) -> ClientCall<'_> {
        ClientCall {
            client: "branch1/192.0.2.2:1194",
            env: &self.env,
            lane: Some("branch1"),
            deadline: None,
            tmp_dir: self.tmp.path(),
        }
    }

    /// Runs a job to its end.
    fn run(&mut self, job: JobSpec) -> Result<(), ScriptError> {
        let now = Instant::now();
        let id = self.jobs.spawn(now, job).unwrap();
        loop {
            if let Some((ended, result)) = self.jobs.next_finished() {
                assert_eq!(ended, id);
                return result;
            }
            if self.jobs.is_idle() {
                return Ok(()); // a notice
            }
            let mut fds = [PollFd::new(self.jobs.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, PollTimeout::from(60_000u16)), Ok(1));
            self.jobs.handle_ready(now);
        }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.out.path().join(name)).unwrap()
    }

    /// Whether no file is left for a script.
    fn is_clean(&self) -> bool {
        fs::read_dir(self.tmp.path()).unwrap().next().is_none()
    }

    fn auth(&mut self, text: &str) -> AuthVerdict {
        let prepared = AuthUserPassVerify::prepare(
            &self.call(),
            &script(text),
            AuthVia::File,
            2,
            "jane",
            "secret",
        )
        .unwrap();
        assert!(!self.is_clean());
        let result = self.run(prepared.job);
        prepared.hook.finish(result)
    }

    fn deferred_auth(&mut self, text: &str) -> DeferredAuth {
        match self.auth(text) {
            AuthVerdict::Deferred(deferred) => deferred,
            other => panic!("{other:?}"),
        }
    }

    fn connect(&mut self, text: &str) -> ConnectVerdict {
        let prepared = ClientConnect::prepare(&self.call(), &script(text)).unwrap();
        let result = self.run(prepared.job);
        prepared.hook.finish(result)
    }
}

/// A shell script, with its arguments from `$1` on.
fn script(text: &str) -> ScriptCommand {
    ScriptCommand::from_words(["/bin/sh", "-c", text, "script"].map(str::to_owned).into())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn credentials_by_file() {
    let mut f = Fixture::new();
    let prepared = AuthUserPassVerify::prepare(
        &f.call(),
        &script("cat \"$1\" > $out/file; env > $out/env"),
        AuthVia::File,
        2,
        "ja\nne",
        "se\r\ncret\u{e9}",
    )
    .unwrap();
    let path = Path::new(&prepared.job.arguments[0]).to_owned();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let shown = format!("{prepared:?}");
    assert!(!shown.contains("cret") && !shown.contains("ja"), "{shown}");
    let result = f.run(prepared.job);
    assert!(matches!(
        prepared.hook.finish(result),
        AuthVerdict::Accepted
    ));
    assert_eq!(f.read("file"), "ja_ne\nse__cret\u{e9}\n");
    let env = f.read("env");
    assert!(env.contains("username=ja_ne\n") && env.contains("common_name=branch1\n"));
    assert!(env.contains("script_type=user-pass-verify\n"));
    assert!(!env.contains("password"), "{env}");
    assert!(f.is_clean());
}

#[test]
fn credentials_by_variables_need_level_3() {
    let mut f = Fixture::new();
    let command = script("[ \"$username/$password/$#\" = \"jane/sec\"'ret/0' ]");
    let prepare = |f: &Fixture, security| {
        AuthUserPassVerify::prepare(
            &f.call(),
            &command,
            AuthVia::Env,
            security,
            "jane",
            "secret",
        )
    };
    assert_eq!(
        prepare(&f, 2).unwrap_err().to_string(),
        "branch1/192.0.2.2:1194: auth-user-pass-verify: not run: via-env needs script-security 3"
    );
    assert!(f.is_clean());
    let prepared = prepare(&f, 3).unwrap();
    assert!(!format!("{prepared:?}").contains("secret"));
    let result = f.run(prepared.job);
    assert!(matches!(
        prepared.hook.finish(result),
        AuthVerdict::Accepted
    ));
}

#[test]
fn refused_credentials() {
    let mut f = Fixture::new();
    let mut refused = |text: &str| match f.auth(text) {
        AuthVerdict::Refused { failure, reason } => {
            assert!(f.is_clean());
            (failure.to_string(), reason)
        }
        other => panic!("{other:?}"),
    };
    let who = "branch1/192.0.2.2:1194: auth-user-pass-verify";
    assert_eq!(
        refused("exit 1"),
        (format!("{who}: failed with exit status 1"), None)
    );
    assert_eq!(
        refused("printf 'TEMP[backoff 42]: go\\taway\\nx' > $auth_failed_reason_file; exit 3"),
        (
            format!("{who}: failed with exit status 3"),
            Some("TEMP[backoff 42]: go_away".into())
        )
    );
    let (_, reason) =
        refused("head -c 5000 /dev/zero | tr '\\0' x > $auth_failed_reason_file; false");
    assert_eq!(reason.unwrap().len(), 900);
    let (line, _) = refused("kill -9 $$");
    assert_eq!(line, format!("{who}: was ended by signal 9"));
    // A pipe instead of the file stops nobody.
    let (_, reason) =
        refused("rm $auth_failed_reason_file; mkfifo $auth_failed_reason_file; exit 1");
    assert_eq!(reason, None);
}

#[test]
fn missing_scripts_and_folders() {
    let mut f = Fixture::new();
    let missing = ScriptCommand::from_words(vec!["/nonexistent/script".into()]);
    let prepared = ClientConnect::prepare(&f.call(), &missing).unwrap();
    let result = f.run(prepared.job);
    let ConnectVerdict::Refused(failure) = prepared.hook.finish(result) else {
        panic!("accepted");
    };
    assert_eq!(
        failure.to_string(),
        "branch1/192.0.2.2:1194: client-connect: cannot be started: No such file or directory \
         (os error 2)"
    );
    assert_eq!(failure.hook(), Hook::ClientConnect);
    let call = ClientCall {
        tmp_dir: Path::new("/nonexistent"),
        ..f.call()
    };
    let line = ClientConnect::prepare(&call, &missing)
        .unwrap_err()
        .to_string();
    assert!(
        line.starts_with("branch1/192.0.2.2:1194: client-connect: no file in '/nonexistent': "),
        "{line}"
    );
    let full = HookFailure::not_run("x", Hook::TlsVerify, &ScriptError::QueueFull);
    assert_eq!(
        full.to_string(),
        "x: tls-verify: not run: too many scripts are waiting"
    );
    assert!(f.is_clean());
}

#[test]
fn deferred_credentials() {
    let mut f = Fixture::new();
    let defer = "echo \"$auth_control_file $auth_failed_reason_file $1\" > $out/paths; exit 2";
    for (text, expected) in [("1\n", true), ("0", false)] {
        let mut deferred = f.deferred_auth(defer);
        let paths = f.read("paths");
        let paths: Vec<&str> = paths.split_whitespace().collect();
        assert!(!Path::new(paths[2]).exists(), "the password is gone");
        assert_eq!(deferred.check(), AuthState::Pending);
        assert!(deferred.pause() > Duration::from_millis(50));
        for _ in 0..20 {
            assert_eq!(deferred.check(), AuthState::Pending);
        }
        assert_eq!(deferred.pause(), Duration::from_secs(1));
        fs::write(paths[1], "no more\n").unwrap();
        fs::write(paths[0], text).unwrap();
        match deferred.check() {
            AuthState::Accepted => assert!(expected),
            AuthState::Refused { failure, reason } => {
                assert!(!expected);
                let line = "branch1/192.0.2.2:1194: auth-user-pass-verify: refused";
                assert_eq!(failure.to_string(), line);
                assert_eq!(reason.as_deref(), Some("no more"));
            }
            other => panic!("{other:?}"),
        }
        drop(deferred);
        assert!(f.is_clean());
        fs::write(paths[0], "1").unwrap_err();
    }
    let line = f.deferred_auth(defer).expired().to_string();
    assert!(line.ends_with(": no decision in time"), "{line}");
    assert!(f.is_clean());
}

#[test]
fn questions_and_answers() {
    let mut f = Fixture::new();
    let mut deferred = f.deferred_auth(
        "printf '300\\ncrtext\\nCR_TEXT:E,R:enter the code\\n' > $auth_pending_file
         echo $auth_pending_file > $out/path; exit 2",
    );
    let AuthState::Message(message) = deferred.check() else {
        panic!("no message");
    };
    let expected = AuthPending {
        timeout: 300,
        method: "crtext".into(),
        message: "CR_TEXT:E,R:enter the code".into(),
    };
    assert_eq!(message, expected);
    message.check_method(Some("openurl,crtext")).unwrap();
    for unable in [None, Some(""), Some("crtextx,webauth")] {
        assert_eq!(
            message.check_method(unable).unwrap_err(),
            "Authentication failed, required pending auth method 'crtext' not supported"
        );
    }
    assert_eq!(deferred.check(), AuthState::Pending, "told once");

    let answer = ClientCrresponse::prepare(
        &f.call(),
        &script("[ \"$(cat \"$1\")\" = MTIzNDU2 ] && printf 1 > $auth_control_file"),
        Some(&deferred),
        "MTIzNDU2",
    )
    .unwrap();
    let result = f.run(answer.job);
    answer.hook.finish(result).unwrap();
    assert_eq!(deferred.check(), AuthState::Accepted);
    drop(deferred);
    assert!(f.is_clean());

    let wrong = ClientCrresponse::prepare(&f.call(), &script("exit 1"), None, "x").unwrap();
    let result = f.run(wrong.job);
    assert_eq!(
        wrong.hook.finish(result).unwrap_err().to_string(),
        "branch1/192.0.2.2:1194: client-crresponse: failed with exit status 1"
    );

    // An incomplete question may be completed, but not for ever.
    let mut deferred =
        f.deferred_auth("echo 5 > $auth_pending_file; echo $auth_pending_file > $out/path; exit 2");
    assert_eq!(deferred.check(), AuthState::Pending);
    fs::write(f.read("path").trim(), "5\nopenurl\nOPEN_URL:x").unwrap();
    assert!(matches!(deferred.check(), AuthState::Message(_)));
    fs::write(f.read("path").trim(), "never\nopenurl\nx").unwrap();
    assert_eq!(deferred.check(), AuthState::Pending);
    let AuthState::Refused { failure, .. } = deferred.check() else {
        panic!("accepted");
    };
    assert_eq!(
        failure.to_string(),
        "branch1/192.0.2.2:1194: auth-user-pass-verify: auth_pending_file: 'never' is not a number \
         of seconds"
    );
}

#[test]
fn options_of_a_client() {
    let mut f = Fixture::new();
    f.env.set_connected_at(1_795_374_376);
    f.env.set_virtual_address(
        Some(VirtualAddress {
            client: "10.8.0.6".parse().unwrap(),
            end: IfconfigEnd::Netmask("255.255.255.0".parse().unwrap()),
        }),
        None,
    );
    let ConnectVerdict::Accepted(options) = f.connect(
        "[ \"$1\" = \"$client_connect_config_file\" ] || exit 7
         printf 'push \"route 10.9.0.0 255.255.0.0\"\\niroute 10.20.0.0' > \"$1\"
         env > $out/env",
    ) else {
        panic!("refused");
    };
    assert_eq!(
        options,
        "push \"route 10.9.0.0 255.255.0.0\"\niroute 10.20.0.0"
    );
    let env = f.read("env");
    for expected in [
        "ifconfig_pool_remote_ip=10.8.0.6\n",
        "ifconfig_pool_netmask=255.255.255.0\n",
        "time_unix=1795374376\n",
        "time_ascii=2026-11-2",
        "client_connect_deferred_file=",
        "script_type=client-connect\n",
    ] {
        assert!(env.contains(expected), "{expected}: {env}");
    }
    assert!(
        matches!(f.connect("echo 1 > $client_connect_deferred_file"), ConnectVerdict::Accepted(o) if o.is_empty())
    );
    let mut refused = |text: &str| match f.connect(text) {
        ConnectVerdict::Refused(failure) => {
            let line = failure.to_string();
            line.strip_prefix("branch1/192.0.2.2:1194: client-connect: ")
                .unwrap()
                .to_owned()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(refused("exit 1"), "failed with exit status 1");
    assert_eq!(refused("echo 0 > $client_connect_deferred_file"), "refused");
    assert_eq!(
        refused("printf '\\t' > $client_connect_deferred_file"),
        "client_connect_deferred_file: '\\t' is none of 0, 1 and 2"
    );
    assert_eq!(
        refused("head -c 70000 /dev/zero > \"$1\""),
        "its options are longer than 65536 bytes"
    );
    assert_eq!(
        refused("printf '\\377' > \"$1\""),
        "its options are not UTF-8"
    );
    assert!(f.is_clean());
}

#[test]
fn deferred_options() {
    let mut f = Fixture::new();
    let defer = "echo 2 > $client_connect_deferred_file
                 echo \"$1 $client_connect_deferred_file\" > $out/paths";
    let begin = |f: &mut Fixture| match f.connect(defer) {
        ConnectVerdict::Deferred(deferred) => {
            let paths = f.read("paths");
            let (config, decision) = paths.trim().split_once(' ').unwrap();
            (deferred, config.to_owned(), decision.to_owned())
        }
        other => panic!("{other:?}"),
    };
    let (mut deferred, config, decision) = begin(&mut f);
    assert_eq!(deferred.check(), ConnectState::Pending);
    fs::write(&decision, "").unwrap();
    assert_eq!(deferred.check(), ConnectState::Pending, "being written");
    fs::write(config, "disable\n").unwrap();
    fs::write(decision, "1").unwrap();
    assert_eq!(deferred.check(), ConnectState::Accepted("disable\n".into()));
    let (mut deferred, _, decision) = begin(&mut f);
    fs::write(decision, "0").unwrap();
    assert!(matches!(deferred.check(), ConnectState::Refused(_)));
    let (deferred, ..) = begin(&mut f);
    let line = deferred.expired().to_string();
    assert!(
        line.ends_with("client-connect: no decision in time"),
        "{line}"
    );
}

#[test]
fn the_end_of_a_session() {
    let mut f = Fixture::new();
    let totals = SessionTotals {
        bytes_received: 5_000_000_000,
        bytes_sent: 7,
        duration: 3600,
    };
    let job = client_disconnect(
        &f.call(),
        &script("env > $out/env; echo $# >> $out/env"),
        totals,
    );
    assert_eq!(job.lane.as_deref(), Some("branch1"));
    f.run(job).unwrap();
    let env = f.read("env");
    for expected in [
        "bytes_received=5000000000\n",
        "bytes_sent=7\n",
        "time_duration=3600\n",
        "common_name=branch1\n",
        "script_type=client-disconnect\n",
    ] {
        assert!(env.contains(expected), "{expected}: {env}");
    }
    assert!(env.ends_with("\n0\n"));
}

#[test]
fn addresses_learned_and_forgotten() {
    let mut f = Fixture::new();
    let command = script("echo \"$*\" >> $out/calls; [ $1$2 != update10.9.0.0/24 ]");
    let learn = |f: &mut Fixture, operation, address: &str, name| {
        let prepared = LearnAddress::prepare(&f.call(), &command, operation, address, name);
        assert_eq!(prepared.job.lane, Some(format!("learn-address {address}")));
        let result = f.run(prepared.job);
        prepared.hook.finish(result)
    };
    learn(&mut f, LearnOperation::Add, "10.8.0.6", Some("branch1")).unwrap();
    let failure = learn(&mut f, LearnOperation::Update, "10.9.0.0/24", None).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "branch1/192.0.2.2:1194: learn-address: 10.9.0.0/24 not learned: failed with exit status 1"
    );
    let job = learn_address_delete(&f.call(), &command, "10.8.0.6");
    f.run(job).unwrap();
    assert_eq!(
        f.read("calls"),
        "add 10.8.0.6 branch1\nupdate 10.9.0.0/24 UNDEF\ndelete 10.8.0.6\n"
    );
}

#[test]
fn certificates_one_by_one() {
    let mut f = Fixture::new();
    let command = script("echo \"$#|$1|$2\" > $out/seen; cat \"$peer_cert\" > $out/pem; exit $1");
    let ask = |f: &mut Fixture, depth| {
        let export = f.tmp.path().to_owned();
        let prepared = TlsVerify::prepare(
            &f.call(),
            &command,
            depth,
            "C=DE, CN=gw 1",
            Some((&export, b"der")),
        )
        .unwrap();
        let result = f.run(prepared.job);
        prepared.hook.finish(result)
    };
    ask(&mut f, 0).unwrap();
    assert_eq!(f.read("seen"), "2|0|C=DE, CN=gw 1\n");
    assert_eq!(
        f.read("pem"),
        "-----BEGIN CERTIFICATE-----\nZGVy\n-----END CERTIFICATE-----\n"
    );
    assert_eq!(
        ask(&mut f, 1).unwrap_err().to_string(),
        "branch1/192.0.2.2:1194: tls-verify: depth=1, C=DE, CN=gw 1: failed with exit status 1"
    );
    assert!(f.is_clean());
    let plain = TlsVerify::prepare(&f.call(), &command, 0, "CN=x", None).unwrap();
    assert!(f.is_clean() && plain.job.env.value("peer_cert").is_none());
}

#[test]
fn metadata_of_a_key() {
    let mut f = Fixture::new();
    let out = f.out.path().display().to_string();
    let command = script(&format!("env > {out}/env; cat $metadata_file > {out}/data"));
    let prepared = TlsCryptV2Verify::prepare(&f.call(), &command, 1, &[0, 0, 1, 0xff]).unwrap();
    let result = f.run(prepared.job);
    prepared.hook.finish(result).unwrap();
    assert_eq!(
        fs::read(f.out.path().join("data")).unwrap(),
        [0, 0, 1, 0xff]
    );
    let env = f.read("env");
    let mut names: Vec<&str> = env
        .lines()
        .filter_map(|line| line.split('=').next())
        .filter(|name| !["PWD", "_", "SHLVL"].contains(name))
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["metadata_file", "metadata_type", "script_type"]);
    assert!(env.contains("metadata_type=1\n"));
    assert!(f.is_clean());
}

#[test]
fn variables_of_a_client() {
    let mut env = ScriptEnv::new();
    env.set_auth_session("abc", "Initial");
    let v4 = VirtualAddress {
        client: "10.8.0.6".parse().unwrap(),
        end: IfconfigEnd::Netmask("255.255.255.0".parse().unwrap()),
    };
    env.set_virtual_address(Some(v4), None);
    let v4 = VirtualAddress {
        end: IfconfigEnd::Remote("10.8.0.5".parse().unwrap()),
        ..v4
    };
    let v6 = VirtualAddress6 {
        client: "fd00::1000".parse().unwrap(),
        netbits: 64,
        server: "fd00::1".parse().unwrap(),
    };
    env.set_virtual_address(Some(v4), Some(v6));
    let shown: Vec<String> = env.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(
        shown,
        [
            "ifconfig_pool_ip6_netbits=64",
            "ifconfig_pool_local_ip=10.8.0.5",
            "ifconfig_pool_local_ip6=fd00::1",
            "ifconfig_pool_remote_ip=10.8.0.6",
            "ifconfig_pool_remote_ip6=fd00::1000",
            "session_id=abc",
            "session_state=Initial",
        ]
    );
    env.set_virtual_address(None, None);
    assert_eq!(env.iter().count(), 2);
}

proptest::proptest! {
    #[test]
    fn pending_files_never_hold_more_than_lines(text in proptest::prelude::any::<Vec<u8>>()) {
        if let Ok(pending) = AuthPending::parse(&text) {
            proptest::prop_assert!(pending.timeout > 0 && !pending.method.is_empty());
            let lines = pending.method + &pending.message;
            proptest::prop_assert!(!lines.chars().any(char::is_control));
        }
    }

    #[test]
    fn pending_files_round_trip(
        timeout in 1u32..,
        method in "[a-z]{1,10}",
        message in "[ -~]{1,200}",
        more in "(\r?\n[ -~]{0,20}){0,2}",
    ) {
        let text = format!("{timeout}\r\n{method}\n{message}{more}");
        let parsed = AuthPending::parse(text.as_bytes()).unwrap();
        proptest::prop_assert_eq!(parsed, AuthPending { timeout, method, message });
    }
}
