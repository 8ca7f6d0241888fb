//! Several datagrams by one call (`recvmmsg`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::cmsg::{CONTROL_LEN, NAME_LEN};
use super::socket::empty_header;

/// Most datagrams of one call.
pub(crate) const MESSAGES: usize = 32;

/// One received datagram: where its sender's address, its control data and its payload ended up.
#[repr(align(8))]
pub(crate) struct Slot {
    control: [u8; CONTROL_LEN],
    name: [u8; NAME_LEN],
    control_len: usize,
    name_len: usize,
    len: usize,
    cut: bool,
}

impl Slot {
    pub(crate) const fn new() -> Self {
        Slot {
            control: [0; CONTROL_LEN],
            name: [0; NAME_LEN],
            control_len: 0,
            name_len: 0,
            len: 0,
            cut: false,
        }
    }

    /// The sender's address.
    pub(crate) fn name(&self) -> &[u8] {
        &self.name[..self.name_len]
    }

    /// The control data.
    pub(crate) fn control(&self) -> &[u8] {
        &self.control[..self.control_len]
    }

    /// Bytes of payload received.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The datagram was longer than its room, and its end is lost.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }
}

/// Receives what is waiting, without waiting for more: the `n`th datagram into the `n`th slot and the
/// `n`th chunk of `payload` of `room` bytes, at least one. Returns how many there were.
pub(crate) fn receive(
    fd: BorrowedFd<'_>,
    slots: &mut [Slot],
    payload: &mut [u8],
    room: usize,
) -> io::Result<usize> {
    let mut iovs = [libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    }; MESSAGES];
    let mut headers = [libc::mmsghdr {
        msg_hdr: empty_header(),
        msg_len: 0,
    }; MESSAGES];
    let mut count = 0;
    for (((slot, chunk), iov), header) in slots
        .iter_mut()
        .zip(payload.chunks_exact_mut(room.max(1)))
        .zip(&mut iovs)
        .zip(&mut headers)
    {
        iov.iov_base = chunk.as_mut_ptr().cast();
        iov.iov_len = chunk.len();
        let header = &mut header.msg_hdr;
        header.msg_name = slot.name.as_mut_ptr().cast();
        header.msg_namelen = NAME_LEN as libc::socklen_t;
        header.msg_iov = iov;
        header.msg_iovlen = 1;
        header.msg_control = slot.control.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_LEN as _;
        count += 1;
    }
    // SAFETY: the first `count` headers are complete, and every pointer in them is to a buffer that is
    // exclusively borrowed until after the call, with the length given beside it.
    let received = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT as _,
            std::ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    for (slot, header) in slots.iter_mut().zip(&headers[..received]) {
        slot.len = (header.msg_len as usize).min(room);
        slot.name_len = (header.msg_hdr.msg_namelen as usize).min(NAME_LEN);
        slot.control_len = control_len(&header.msg_hdr).min(CONTROL_LEN);
        slot.cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
    }
    Ok(received)
}

#[allow(
    clippy::unnecessary_cast,
    reason = "the control length's type differs between C libraries"
)]
fn control_len(header: &libc::msghdr) -> usize {
    header.msg_controllen as usize
}
