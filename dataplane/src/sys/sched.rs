//! The scheduler's view of a thread.

use std::io;
use std::time::Duration;

/// `struct sched_attr` in its first version (sched_setattr(2)).
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for shorter turns on the CPU than the default for the calling thread, so that it gets its
/// next one sooner. Policy and nice value stay. Kernels before 6.12 take the request and ignore it.
///
/// # Errors
/// The kernel or a filter of system calls refuses it.
pub(crate) fn set_slice(slice: Duration) -> io::Result<()> {
    let size = size_of::<SchedAttr>() as u32;
    let mut attr = SchedAttr {
        size,
        policy: 0,
        flags: 0,
        nice: 0,
        priority: 0,
        runtime: 0,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the kernel writes at most `size` bytes to `attr`, which lives until after the call.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    attr.size = size;
    attr.runtime = slice.as_nanos() as u64;
    // SAFETY: the kernel reads `attr.size` bytes of `attr`, which lives until after the call.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_ask_for_short_turns() {
        let result = std::thread::spawn(|| set_slice(Duration::from_micros(200)));
        if let Err(error) = result.join().unwrap() {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        }
    }
}
