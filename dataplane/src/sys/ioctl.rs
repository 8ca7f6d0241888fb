//! TUN/TAP control calls and the number of a network interface's flags.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Longest interface name, without the terminating zero.
pub(crate) const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// Attaches the descriptor to the interface `name` (which may hold `%d`) with these `IFF_*` flags,
/// creating it when it does not exist. Returns the interface's real name.
pub(crate) fn tun_set_iff(fd: BorrowedFd<'_>, name: &str, flags: i32) -> io::Result<String> {
    let mut request = ifreq(name)?;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives until after the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let name: Vec<u8> = request
        .ifr_name
        .iter()
        .map(|&c| c as u8)
        .take_while(|&c| c != 0)
        .collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// Takes a queue of a multi-queue device out of the kernel's choice: nothing is read from it any
/// more, and what is written to it does not draw its flow's packets there.
pub(crate) fn tun_detach_queue(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut request = ifreq("")?;
    request.ifr_ifru.ifru_flags = libc::IFF_DETACH_QUEUE as libc::c_short;
    // SAFETY: TUNSETQUEUE reads one `ifreq`, which lives until after the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETQUEUE, &raw const request) })
}

/// Sets the offloads (`TUN_F_*`) the device may use in packets it hands to us.
pub(crate) fn tun_set_offload(fd: BorrowedFd<'_>, offload: u32) -> io::Result<()> {
    tun_value(fd, libc::TUNSETOFFLOAD, offload)
}

/// Keeps the device when the last descriptor closes, or not.
pub(crate) fn tun_set_persist(fd: BorrowedFd<'_>, persist: bool) -> io::Result<()> {
    tun_value(fd, libc::TUNSETPERSIST, u32::from(persist))
}

/// Lets this user attach to the device without privileges.
pub(crate) fn tun_set_owner(fd: BorrowedFd<'_>, uid: u32) -> io::Result<()> {
    tun_value(fd, libc::TUNSETOWNER, uid)
}

/// Lets this group attach to the device without privileges.
pub(crate) fn tun_set_group(fd: BorrowedFd<'_>, gid: u32) -> io::Result<()> {
    tun_value(fd, libc::TUNSETGROUP, gid)
}

/// Sets the length of the virtio-net header in front of every packet.
pub(crate) fn tun_set_vnet_hdr_len(fd: BorrowedFd<'_>, len: i32) -> io::Result<()> {
    let value: libc::c_int = len;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives until after the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const value) })
}

fn tun_value(fd: BorrowedFd<'_>, request: libc::Ioctl, value: u32) -> io::Result<()> {
    // SAFETY: these requests take their argument by value and touch no memory of ours.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, libc::c_ulong::from(value)) })
}

fn ifreq(name: &str) -> io::Result<libc::ifreq> {
    if name.len() > NAME_MAX || name.bytes().any(|b| b == 0) {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    // SAFETY: `ifreq` is plain old data for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
