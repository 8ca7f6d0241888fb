//! Single calls on sockets: options, one message out, one message in.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::cmsg::{CONTROL_LEN, NAME_LEN};

/// Sets an integer option.
pub(crate) fn set_option(
    fd: BorrowedFd<'_>,
    level: i32,
    option: i32,
    value: i32,
) -> io::Result<()> {
    let value: libc::c_int = value;
    // SAFETY: the kernel reads exactly the given length from `value`, which lives until after the
    // call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    check(result as isize).map(drop)
}

/// Chooses among the sockets of a SO_REUSEPORT group with a classic BPF program over the UDP payload;
/// its result is the index of a socket in the order of binding.
pub(crate) fn set_reuseport_filter(
    fd: BorrowedFd<'_>,
    program: &mut [libc::sock_filter],
) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel reads the `sock_fprog` and the `len` instructions behind its pointer, both
    // of which live until after the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    check(result as isize).map(drop)
}

/// Reads an integer option.
pub(crate) fn option(fd: BorrowedFd<'_>, level: i32, option: i32) -> io::Result<i32> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`; both live until after the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    check(result as isize)?;
    Ok(value)
}

/// Datagrams the kernel dropped at this socket, modulo 2^32 (`SO_MEMINFO`).
pub(crate) fn dropped(fd: BorrowedFd<'_>) -> io::Result<u32> {
    /// `SK_MEMINFO_VARS` and `SK_MEMINFO_DROPS` of `linux/sock_diag.h`.
    const VARS: usize = 9;
    const DROPS: usize = 8;
    let mut values = [0u32; VARS];
    let mut len = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `values`; both live until after the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    check(result as isize)?;
    Ok(values[DROPS])
}

/// Sends one message.
pub(crate) fn send(
    fd: BorrowedFd<'_>,
    name: &[u8],
    control: &[u8],
    payload: &[u8],
    flags: i32,
) -> io::Result<usize> {
    let mut iov = libc::iovec {
        iov_base: payload.as_ptr().cast_mut().cast(),
        iov_len: payload.len(),
    };
    let mut header = empty_header();
    header.msg_name = name.as_ptr().cast_mut().cast();
    header.msg_namelen = name.len() as libc::socklen_t;
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    if !control.is_empty() {
        header.msg_control = control.as_ptr().cast_mut().cast();
        header.msg_controllen = control.len() as _;
    }
    // SAFETY: every pointer in `header` is to a live slice with the length given beside it, and
    // sending only reads them.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) };
    check(sent)
}

/// What one receive call filled in.
pub(crate) struct Received {
    pub(crate) len: usize,
    pub(crate) name_len: usize,
    pub(crate) control_len: usize,
}

/// Receives one message.
#[allow(
    clippy::unnecessary_cast,
    reason = "the control length's type differs between C libraries"
)]
pub(crate) fn receive(
    fd: BorrowedFd<'_>,
    name: &mut [u8; NAME_LEN],
    control: &mut [u8; CONTROL_LEN],
    payload: &mut [u8],
    flags: i32,
) -> io::Result<Received> {
    let mut iov = libc::iovec {
        iov_base: payload.as_mut_ptr().cast(),
        iov_len: payload.len(),
    };
    let mut header = empty_header();
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = NAME_LEN as libc::socklen_t;
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_LEN as _;
    // SAFETY: every pointer in `header` is to an exclusively borrowed buffer with the length given
    // beside it.
    let received = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) };
    Ok(Received {
        len: check(received)?,
        name_len: (header.msg_namelen as usize).min(NAME_LEN),
        control_len: (header.msg_controllen as usize).min(CONTROL_LEN),
    })
}

/// A message header with everything empty.
pub(crate) fn empty_header() -> libc::msghdr {
    // SAFETY: `msghdr` is plain old data for which all zeros (null pointers, zero lengths) is valid.
    unsafe { std::mem::zeroed() }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
