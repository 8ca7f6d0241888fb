//! Running programs with a deadline.
//!
//! Nothing here waits for ever: a lab that hangs tells nobody what went wrong.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How often a waiting loop looks again.
pub const POLL: Duration = Duration::from_millis(20);

/// What a finished program left behind.
#[derive(Debug)]
pub struct Finished {
    /// Exit status.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: String,
    /// Everything it wrote to standard error.
    pub stderr: String,
}

/// Runs `program` with `args` and returns its standard output.
///
/// # Errors
/// When it cannot start, fails, or takes longer than 30 seconds; the message holds the command
/// line and what the program said.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    succeed(&mut command, Duration::from_secs(30))
}

/// Runs a command that has to succeed and returns its standard output.
///
/// # Errors
/// As [`run`].
pub fn succeed(command: &mut Command, timeout: Duration) -> Result<String> {
    let finished = finish(command, timeout)?;
    if !finished.status.success() {
        bail!(
            "{command:?} ended with {}: {}{}",
            finished.status,
            finished.stdout.trim_end(),
            finished.stderr.trim_end()
        );
    }
    Ok(finished.stdout)
}

/// Runs a command to its end, whatever its exit status.
///
/// # Errors
/// When it cannot start or is still running after `timeout` (it is then killed).
pub fn finish(command: &mut Command, timeout: Duration) -> Result<Finished> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait(&mut child, timeout);
    if status.is_none() {
        // Both fail only when the child has just ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    match status {
        Some(status) => Ok(Finished {
            status,
            stdout,
            stderr,
        }),
        None => bail!(
            "{command:?} was still running after {:.0} s: {stdout}{stderr}",
            timeout.as_secs_f64()
        ),
    }
}

/// Waits for a child until `timeout`; `None` when it still runs.
pub fn wait(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// User plus system time of all threads of a process, in seconds (`/proc/PID/stat`, proc(5)).
///
/// # Errors
/// When the process is gone.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let end = text.rfind(')').context("no name in stat")?;
    let mut fields = text[end + 1..].split_whitespace().skip(11);
    let user: u64 = fields.next().context("no utime")?.parse()?;
    let system: u64 = fields.next().context("no stime")?.parse()?;
    // Linux counts in 1/100 s for user space on every architecture Rust runs on.
    Ok((user + system) as f64 / 100.0)
}

/// Looks `program` up in `PATH` and in the system directories a plain user's `PATH` lacks.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A broken pipe ends the text early, which the exit status explains.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_failure_are_reported() {
        assert_eq!(run("echo", &["hello"]).unwrap(), "hello\n");
        let error = run("sh", &["-c", "echo why >&2; exit 3"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("why") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_hanging_program_is_killed() {
        let start = Instant::now();
        let mut command = Command::new("sleep");
        command.arg("30");
        assert!(finish(&mut command, Duration::from_millis(100)).is_err());
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn programs_are_found() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }
}
