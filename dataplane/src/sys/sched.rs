//! The scheduler's settings of a thread.

use std::io;

/// Asks the scheduler for turns of this many nanoseconds for the calling thread (sched_setattr(2),
/// since Linux 6.12 for ordinary threads too). A thread with short turns gets its next one sooner when
/// processors are busy; its share of their time stays the same. Older kernels take no notice.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn set_turn(nanoseconds: u64) -> io::Result<()> {
    const THIS_THREAD: libc::pid_t = 0;
    const NO_FLAGS: libc::c_uint = 0;
    // SAFETY: the structure consists of integers only, for which zero is a value.
    let mut attr: libc::sched_attr = unsafe { std::mem::zeroed() };
    attr.size = size_of::<libc::sched_attr>() as u32;
    attr.sched_policy = libc::SCHED_OTHER as u32;
    attr.sched_nice = nice();
    attr.sched_runtime = nanoseconds;
    // SAFETY: the pointer is to a live structure that names its own size; the kernel only reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setattr,
            THIS_THREAD,
            &raw const attr,
            NO_FLAGS,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How nice the calling thread is, which is to stay so.
fn nice() -> i32 {
    // SAFETY: no pointers; zero means the calling thread. What looks like an error is a value.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_ask_for_short_turns_and_stays_as_nice() {
        let before = nice();
        set_turn(100_000).unwrap();
        assert_eq!(nice(), before);
    }
}
