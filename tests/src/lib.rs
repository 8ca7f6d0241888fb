//! Labs in network namespaces: Ringway against real OpenVPN.
//!
//! ```text
//!   namespace "cl"                            namespace "sv"
//!   +--------------------------+              +--------------------------+
//!   | traffic helper           |              |           traffic helper |
//!   |   10.9.0.2  fd00:9::2    |              |    10.9.0.1  fd00:9::1   |
//!   | tun0 <- VPN under test   |  out0  out0  |   VPN under test -> tun0 |
//!   |   192.0.2.1 -------------+----- veth ---+------------- 198.51...   |
//!   +--------------------------+  (or relay)  +--------------------------+
//! ```
//!
//! * [`netns`] makes and removes the namespaces and the wires between them,
//! * [`certs`] makes certificates and static keys,
//! * [`peer`] writes configurations, starts a VPN process and watches its log,
//! * [`link`] puts the three together: two ends, started and checked,
//! * [`site`] does so for one server and several clients,
//! * [`traffic`] drives the helper program (its inside is [`helper`]),
//! * [`proxy`] is what some only get out through, [`relay`] is the bad link, [`inject`] the one who
//!   adds to a stream, [`iperf`] and [`measure`] the stop watch.
//!
//! A lab needs root and the tools named in [`ready`]. Labs of one machine run one at a time: each
//! holds a file lock, because two of them on a small machine would disturb each other's timing.

pub mod certs;
pub mod command;
pub mod helper;
pub mod inject;
pub mod iperf;
pub mod link;
pub mod measure;
pub mod netns;
pub mod peer;
pub mod proxy;
pub mod relay;
pub mod site;
pub mod traffic;

use std::io::Write as _;
use std::path::Path;

/// Says whether labs can run here: root, `/dev/net/tun`, and the programs `ip`, `ethtool`,
/// `setpriv`, `ping`, `openvpn` and `iperf3`.
///
/// Without them it prints one line beginning `SKIP` to standard error (past the test harness's
/// capture) and returns false, so that a test can return early.
///
/// # Panics
/// With `CI=true` in the environment a missing piece is a failure, not a reason to skip.
#[must_use]
pub fn ready(test: &str) -> bool {
    let missing = missing();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test}: cannot run a lab here, missing: {missing}"
    );
    note(&format!("SKIP {test}: missing {missing}"));
    false
}

/// What a lab needs and this machine lacks; empty when labs can run.
#[must_use]
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        missing.push("/dev/net/tun".to_owned());
    }
    for tool in [
        "ip",
        "ethtool",
        "setpriv",
        "ping",
        "openvpn",
        "iperf3",
        "smcrouted",
    ] {
        if command::find(tool).is_none() {
            missing.push(tool.to_owned());
        }
    }
    missing
}

/// Whether the long forms of the labs were asked for (`RINGWAY_LAB_FULL=1`).
#[must_use]
pub fn full() -> bool {
    std::env::var("RINGWAY_LAB_FULL").is_ok_and(|value| value == "1")
}

/// Whether this case of a lab runs: every one in the long form, else those in `short`.
#[must_use]
pub fn chosen(test: &str, short: &[&str]) -> bool {
    let runs = full() || short.contains(&test);
    if !runs {
        note(&format!("SKIP {test}: RINGWAY_LAB_FULL=1 runs it"));
    }
    runs
}

/// Makes a test of each line of a table: its name, and what `$run` is called with. Those whose names
/// `$short` lists run by default, the others in the long form only.
///
/// ```no_run
/// fn link(roles: &str, workers: u16) -> anyhow::Result<()> {
///     Ok(())
/// }
/// ringway_lab::cases! { link, ["a_client"],
///     a_client: "client", 1;
///     a_server: "server", 2;
/// }
/// ```
#[macro_export]
macro_rules! cases {
    ($run:path, $short:expr, $($name:ident: $($value:expr),+;)*) => {
        $(#[test]
        fn $name() -> anyhow::Result<()> {
            let name = stringify!($name);
            match $crate::ready(name) && $crate::chosen(name, &$short) {
                true => $run($($value),+),
                false => Ok(()),
            }
        })*
    };
}

/// Prints a line to standard error even when the test harness captures output: labs report what
/// they measured, and a person waiting wants to see them move.
pub fn note(line: &str) {
    let mut stderr = std::io::stderr().lock();
    // A closed standard error is no reason to fail a lab.
    let _ = writeln!(stderr, "    {line}");
}
