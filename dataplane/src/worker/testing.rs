//! Helpers of this crate's tests.

use nix::sched::{CloneFlags, unshare};

/// Runs `body` on a thread in a network namespace of its own with the loopback device up. Where that
/// is not permitted, says so and does nothing.
pub(crate) fn in_network_namespace(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: no network namespace of our own ({errno})");
            return;
        }
        ip("link set lo up");
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs the `ip` command with these arguments in the current namespace.
pub(crate) fn ip(arguments: &str) {
    let status = std::process::Command::new("ip")
        .args(arguments.split_whitespace())
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}
