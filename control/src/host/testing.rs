//! A network namespace for one test, or a process.
//!
//! The test's body runs on a thread of its own that has left for a new namespace; the namespace has
//! no name and no process besides, so the kernel removes it with all that was made in it when the
//! thread ends, also after a panic.

use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

/// Hands out commands that run inside the test's namespace.
#[derive(Debug)]
pub(crate) struct Namespace(());

/// Runs `body` in a fresh network namespace; says so and returns when that is not allowed.
pub(crate) fn in_namespace(test: &str, body: impl FnOnce(&Namespace) + Send) {
    if !nix::unistd::geteuid().is_root() {
        println!("{test}: skipped, needs root");
        return;
    }
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                println!("{test}: skipped, no network namespace: {error}");
                return;
            }
            let namespace = Namespace(());
            namespace.ip("link set lo up");
            body(&namespace);
        });
        if let Err(panic) = runner.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

const ALONE: &str = "RINGWAY_TEST_ALONE";

/// Runs an ignored test, named with its modules, in a process of its own, which may give its rights
/// away; says so and returns when this process has none. Its temporary files are removed here, as
/// it may be shut out from them at its end.
pub(crate) fn run_alone(test: &str) {
    if !nix::unistd::geteuid().is_root() {
        println!("{test}: skipped, needs root");
        return;
    }
    let tmp_dir = tempfile::TempDir::new().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(ALONE, "1")
        .env("TMPDIR", tmp_dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{output:?}");
    assert!(text.contains("1 passed"), "{text}");
}

/// Whether this process is one of [`run_alone`].
pub(crate) fn alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

impl Namespace {
    /// Runs `ip` with space-separated arguments and returns what it printed.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let output = Command::new("ip")
            .args(arguments.split_whitespace())
            .output()
            .expect("the ip tool is installed");
        assert!(output.status.success(), "ip {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Adds a device that swallows packets, like a TUN without a reader.
    pub(crate) fn dummy(&self, name: &str) {
        let added = Command::new("ip")
            .args(["link", "add", name, "type", "dummy"])
            .stderr(Stdio::null())
            .status()
            .expect("the ip tool is installed");
        if !added.success() {
            // Kernels without the dummy driver have TUN in any case.
            self.ip(&format!("tuntap add dev {name} mode tun"));
        }
    }
}
