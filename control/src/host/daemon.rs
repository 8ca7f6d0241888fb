//! Chores around the process: `daemon`, `writepid`, `nice`, `mlock`, `cd`, room for open files.
//!
//! Errors are one line that names the option.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

/// Continues in a new process and session without a controlling terminal; the calling process ends
/// with status 0. Working directory and standard streams stay as they are (see [`silence`] and
/// [`leave_directory`]).
///
/// Only the calling thread lives on, so this comes before any other thread is started; the process
/// id changes, so it comes before [`write_pid`].
pub fn daemonize() -> Result<(), String> {
    nix::unistd::daemon(true, true).map_err(|error| failed("daemon", error))
}

/// Points standard input to `/dev/null`, and standard output and error too unless they already lead
/// to the log file.
pub fn silence(keep_output: bool) -> Result<(), String> {
    let describe = |error: io::Error| format!("daemon: /dev/null: {error}");
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(describe)?;
    dup2_stdin(&null).map_err(|error| failed("daemon", error))?;
    if !keep_output {
        dup2_stdout(&null).map_err(|error| failed("daemon", error))?;
        dup2_stderr(&null).map_err(|error| failed("daemon", error))?;
    }
    Ok(())
}

/// Moves a daemon without `cd` to the root directory, so that it pins no file system.
pub fn leave_directory() -> Result<(), String> {
    change_directory(Path::new("/"))
}

/// Changes the working directory (`cd`).
pub fn change_directory(directory: &Path) -> Result<(), String> {
    std::env::set_current_dir(directory)
        .map_err(|error| format!("cd '{}': {error}", directory.display()))
}

/// Writes the process id and a newline to a file (`writepid`).
pub fn write_pid(path: &Path) -> Result<(), String> {
    fs::write(path, format!("{}\n", std::process::id()))
        .map_err(|error| format!("writepid '{}': {error}", path.display()))
}

/// Sets the scheduling priority of this process (`nice`, -20 to 19).
pub fn set_nice(nice: i32) -> Result<(), String> {
    rustix::process::setpriority_process(None, nice)
        .map_err(|error| format!("nice {nice}: {error}"))
}

/// Keeps all memory, now and later, out of swap (`mlock`). The limit on locked memory is lifted
/// where that is allowed, or allocations would start to fail after a drop of privileges.
pub fn lock_memory() -> Result<(), String> {
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
        .map_err(|error| failed("mlock", error))
}

/// Makes room for this many open files where less is allowed and the hard limit lets it. Scripts
/// inherit it. Who then finds no room says so.
pub fn allow_open_files(count: u64) {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < count
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, count.min(hard), hard);
    }
}

fn failed(option: &str, error: Errno) -> String {
    format!("{option}: {}", error.desc())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    const CHILD: &str = "RINGWAY_TEST_DAEMON";

    #[test]
    fn a_daemon_leaves_its_session() {
        let file = std::env::temp_dir().join(format!("ringway-daemon-{}", std::process::id()));
        let _ = fs::remove_file(&file);
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "host::daemon::tests::child_daemonizes",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(CHILD, &file)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let deadline = Instant::now() + Duration::from_secs(20);
        let text = loop {
            match fs::read_to_string(&file) {
                Ok(text) if text.ends_with("end\n") => break text,
                _ => assert!(Instant::now() < deadline, "the daemon did not report"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        fs::remove_file(&file).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        // Leader of its own session, in the root directory, streams on /dev/null, nice 3.
        assert_eq!(words[0], words[1], "{text}");
        assert_eq!(words[2..], ["/", "/dev/null", "/dev/null", "3", "end"]);
    }

    #[test]
    #[ignore = "started by a_daemon_leaves_its_session"]
    fn child_daemonizes() {
        let Some(file) = std::env::var_os(CHILD) else {
            return;
        };
        daemonize().unwrap();
        silence(false).unwrap();
        leave_directory().unwrap();
        set_nice(3).unwrap();
        let files = || getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 64, 200).unwrap();
        for (wanted, soft) in [(100, 100), (50, 100), (300, 200)] {
            allow_open_files(wanted);
            assert_eq!(files(), (soft, 200));
        }
        let pid_file = Path::new(&file).with_extension("pid");
        write_pid(&pid_file).unwrap();
        let pid = fs::read_to_string(&pid_file).unwrap();
        fs::remove_file(&pid_file).unwrap();
        let link = |name: &str| fs::read_link(format!("/proc/self/{name}")).unwrap();
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let nice = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .nth(16)
            .unwrap()
            .to_owned();
        let report = format!(
            "{} {} {} {} {} {} end\n",
            pid.trim(),
            nix::unistd::getsid(None).unwrap(),
            link("cwd").display(),
            link("fd/0").display(),
            link("fd/1").display(),
            nice
        );
        fs::write(&file, report).unwrap();
        std::process::exit(0);
    }

    #[test]
    fn errors_name_the_option() {
        let missing = Path::new("/nonexistent/x");
        assert!(write_pid(missing).unwrap_err().starts_with("writepid '"));
        assert!(change_directory(missing).unwrap_err().starts_with("cd '"));
    }
}
